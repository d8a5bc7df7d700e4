"""A delivery as it is shown to whoever looks after them: who it is for, how it goes, and why it died. Pure.

What cannot be read (a newer afactors wrote it) is shown by what the store knows of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from afactors_store import DeadLetter, FormatTooNew, Pending

from .encoding import unpack
from .outbox import LETTERS, Parcel, UnknownVersion, parts_of
from .runs import LetterBody, unpack_request

DeliveryState: TypeAlias = Literal["pending", "running", "dead"]
DeliveryKind: TypeAlias = Literal["reply", "echo", "message", "letter", "unknown"]
"""As of a `Push`; letter: a background run that used up its attempts; unknown: what this version cannot read."""


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """One delivery, or dead letter. All times are seconds since the epoch.

    Attributes:
        id: The delivery's id. A replay gets a new one.
        state: pending: it waits; running: an attempt is under way; dead: it is not tried again by itself.
        channel: Name of the channel that it goes by; of a letter, that it came by.
        native_id: To whom, in the channel's terms; of a letter, from whom.
        conversation: Where to, or "".
        kind: What it is.
        isolation_key: Whose.
        attempts: How many attempts it has had.
        created: When it was committed; None if that cannot be read.
        due: When it is tried next, once nothing stands before it; None of what is dead, or under way.
        expires: When nobody would welcome it any more; None if that is never, or cannot be read.
        died: When it died, or None.
        reason: Why it died: ``rejected``, ``attempts``, ``expired``, ``unknown_version``, ``attempts_exhausted``.
        error: What the destination said last, without secrets.
        kept_until: When the dead letter goes by itself; None if that is never, and of what is not dead.
        unsure: Whether nobody knows if an earlier attempt arrived.
        run_id: The run that caused it, or "".
        number: A dead letter's number, which means the same as its id and is short; None of what is not dead.
        text: What it says; only where one delivery is shown.
    """

    id: str
    state: DeliveryState
    channel: str
    native_id: str
    conversation: str
    kind: DeliveryKind
    isolation_key: str
    attempts: int
    created: float | None = None
    due: float | None = None
    expires: float | None = None
    died: float | None = None
    reason: str = ""
    error: str = ""
    kept_until: float | None = None
    unsure: bool = False
    run_id: str = ""
    number: int | None = None
    text: str | None = None


def shown(stored: Pending | DeadLetter, *, whole: bool = False) -> DeliveryView:
    """What there is to see of a delivery.

    Args:
        stored: As the store has it.
        whole: With what it says.
    """
    view = _pending(stored) if isinstance(stored, Pending) else _dead(stored)
    try:
        known = (_of_letter if stored.lane == LETTERS else _of_parcel)(stored.body, whole=whole)
    except (UnknownVersion, FormatTooNew, KeyError, TypeError, ValueError, AttributeError):
        return view
    return replace(view, **known)


def _pending(stored: Pending) -> DeliveryView:
    return DeliveryView(
        stored.delivery_id,
        "running" if stored.running else "pending",
        *parts_of(stored.lane),
        "unknown",
        stored.key,
        stored.attempts,
        due=None if stored.running else stored.due,
        unsure=stored.unsure,
    )


def _dead(stored: DeadLetter) -> DeliveryView:
    return DeliveryView(
        stored.delivery_id,
        "dead",
        *parts_of(stored.lane),
        "unknown",
        stored.key,
        stored.attempt,
        died=stored.died,
        reason=stored.reason,
        error=stored.error,
        kept_until=_at(stored.expires_at),
        number=stored.position,
    )


def _at(moment: float | None) -> float | None:
    """Never is no number that JSON has."""
    return moment if moment is not None and math.isfinite(moment) else None


def _of_parcel(body: bytes, *, whole: bool) -> Mapping[str, Any]:
    parcel = Parcel.decode(body)
    known = {
        "channel": parcel.identity.channel,
        "native_id": parcel.identity.native_id,
        "conversation": parcel.identity.conversation,
        "kind": parcel.kind,
        "created": parcel.created,
        "expires": _at(parcel.expires),
        "run_id": parcel.run_id,
    }
    return {**known, "text": text_of(map(unpack, parcel.rows))} if whole else known


def _of_letter(body: bytes, *, whole: bool) -> Mapping[str, Any]:
    letter = LetterBody.decode(body)
    request = unpack_request(letter.request)
    known = {
        "channel": request.channel,
        "native_id": request.identity.native_id if request.identity is not None else "",
        "conversation": request.identity.conversation if request.identity is not None else "",
        "kind": "letter",
        "created": letter.created,
        "run_id": letter.run_id or "",
    }
    return {**known, "text": text_of(request.input)} if whole else known


def text_of(messages: Iterable[Mapping[str, Any]]) -> str:
    """What serialized messages say; of contents that are no text, their type."""
    contents = [content for message in messages for content in message.get("contents", ())]
    told = [content.get("text") or f"[{content.get('type', 'unknown')}]" for content in contents]
    return "\n".join(map(str, told))
