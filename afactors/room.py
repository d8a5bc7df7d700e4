"""What is to be written while a store has no room: it waits. Full is a state, which passes; nothing ends of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from afactors_store import StoreFull

logger = logging.getLogger("afactors.deliveries")

T = TypeVar("T")

_PAUSE = 5.0  # seconds until it is tried again


async def once_there_is_room(call: Callable[[], Awaitable[T]], *, shield: bool = False) -> T:
    """Make a call of a store, again and again until there is room for it.

    Args:
        call: It.
        shield: It is not cancelled, because of what it would leave behind; to wait for room is.
    """
    told = False
    while True:
        try:
            with trio.CancelScope(shield=shield):
                return await call()
        except StoreFull as exc:
            if not told:
                logger.error("deliveries wait for room in the store: %s", exc)
            told = True
        await trio.sleep(_PAUSE)
