"""Reminders: what is stored of them, and what is written when one is made, called off, or due. Pure.

A reminder is a document of its actor, and a timer of the same name. Whatever settles it takes both away in one commit,
which is refused if they are gone: so it comes once, or is cancelled, and never both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from agent_framework import Message

from afactors_channels import BadRequest, ChannelRequest
from afactors_store import Commit, FormatTooNew

from .encoding import pack, unpack
from .runs import pack_request, unpack_request

VERSION = 1
CHANNEL = "reminder"
"""The channel that a reminder's request says it came by."""
GONE = "reminder_gone"
"""The code of what refuses a reminder that is over: only its alarm sees it."""
PREFIX = "timer/"
"""What the names of these documents, and of these timers, begin with."""

When: TypeAlias = float | datetime | timedelta
"""An instant, in seconds since the epoch or as an aware datetime; or how long from now."""

_LATEST = 253_402_300_800.0  # the end of the year 9999, which is where datetimes end


@dataclass(frozen=True, slots=True)
class Reminder:
    """A message that an actor gets later.

    Attributes:
        reminder_id: Its id.
        due: When it is due, in seconds since the epoch.
        created: When it was made.
        request: What the actor gets.
        as_turn: Whether the target answers it; otherwise it is the message that is sent.
        expires: How many seconds late it may be; None for any number.
        session_id: The session that it was made in, by its name inside; None for the one that its key is in by then.
        anywhere: Whether it goes to all of the user's channels if none is active.
    """

    reminder_id: str
    due: float
    created: float
    request: ChannelRequest
    as_turn: bool = True
    expires: float | None = None
    session_id: str | None = None
    anywhere: bool = True

    @property
    def name(self) -> str:
        """What its document and its timer are called."""
        return PREFIX + self.reminder_id

    @property
    def text(self) -> str:
        """What it says."""
        return "\n".join(Message.from_dict(dict(message)).text for message in self.request.input)

    def encode(self) -> bytes:
        """As a versioned msgpack map; absent fields have their defaults.

        Raises:
            NotStorable: Its message is not plain data.
        """
        record: dict[str, Any] = {"v": VERSION, "r": pack_request(self.request), "d": self.due, "c": self.created}
        optional = {"m": not self.as_turn, "x": self.expires, "s": self.session_id, "o": not self.anywhere}
        record.update((key, value) for key, value in optional.items() if value not in (None, False))
        return pack(record, "reminder")

    @classmethod
    def decode(cls, name: str, document: bytes) -> Reminder:
        """Read what `encode` wrote.

        Raises:
            FormatTooNew: A newer afactors wrote it.
        """
        record = unpack(document)
        if record["v"] > VERSION:
            raise FormatTooNew(f"a reminder was written by a newer afactors (format {record['v']})")
        return cls(
            name.removeprefix(PREFIX),
            record["d"],
            record["c"],
            unpack_request(record["r"]),
            as_turn=not record.get("m", False),
            expires=record.get("x"),
            session_id=record.get("s"),
            anywhere=not record.get("o", False),
        )

    def late_by(self, at: float) -> float:
        """How many seconds it is late."""
        return max(0.0, at - self.due)

    def expired(self, at: float) -> bool:
        """Whether it is too late for it."""
        return self.expires is not None and self.late_by(at) > self.expires


def due_at(when: When, now: float) -> float:
    """The instant that is meant, in seconds since the epoch.

    Raises:
        BadRequest: `invalid_time`: there is no such instant, or nobody knows in which time zone.
    """
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise _invalid("A reminder's time needs a time zone.")
        when = when.timestamp()
    at = now + when.total_seconds() if isinstance(when, timedelta) else float(when)
    if not math.isfinite(at) or not 0 <= at < _LATEST:
        raise _invalid("A reminder's time must be one that a calendar has.")
    return at


def _invalid(message: str) -> BadRequest:
    return BadRequest(message, field="when", code="invalid_time")


def changed(reminders: Mapping[str, Reminder | None]) -> Commit:
    """Reminders of one key, by id, are made, or (None) called off if they are still there."""
    made = [one for one in reminders.values() if one is not None]
    gone = [PREFIX + reminder_id for reminder_id, one in reminders.items() if one is None]
    timers = {**{one.name: one.due for one in made}, **dict.fromkeys(gone)}
    return Commit(put={one.name: one.encode() for one in made}, delete=gone, timers=timers)


def settled(name: str) -> Commit:
    """A reminder is over, for good; a `Conflict` if it was already."""
    return Commit(fire=[name], delete=[name])
