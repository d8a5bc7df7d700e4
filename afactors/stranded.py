"""Deliveries that nobody sends: of a channel that is not ready, or not configured any more. They wait, and expire."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import trio

from afactors_store import Dead, Delivery, Postponed, Settlement, Store

from .outbox import Parcel, UnknownVersion
from .room import once_there_is_room

EVERY = 3600.0  # seconds between two looks

_SLICE = 100
_VISIBILITY = 60.0
_BEHIND = 0.001  # seconds by which what is left alone comes after what was not looked at yet


async def expire_stranded(store: Store, channel: str, died: Callable[[str, str], Dead]) -> None:
    """Bury what has expired, until cancelled. What has not is as it was.

    Args:
        store: Where they are.
        channel: Whose.
        died: Makes an end of a reason and an error.
    """
    while True:
        now, more = time.time(), True
        while more:
            taken = await once_there_is_room(partial(store.due, now, _SLICE, _VISIBILITY, channel))
            outcomes = [(one, _outcome(one, now, died)) for one in taken]
            await once_there_is_room(partial(store.settle_all, outcomes), shield=True)  # what was taken is put back
            more = bool(taken)
            await trio.lowlevel.checkpoint()
        await trio.sleep(EVERY)


def _outcome(delivery: Delivery, now: float, died: Callable[[str, str], Dead]) -> Settlement:
    try:
        expires = Parcel.decode(delivery.body).expires
    except UnknownVersion as exc:
        return died("unknown_version", str(exc))
    return died("expired", "") if expires <= now else Postponed(now + _BEHIND)
