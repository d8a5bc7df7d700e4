"""Histories that stay in the store: read in parts, and added to by the turn's one commit.

They are histories of the session like those in its memory: a point tells where they end, a branch shares them, limits
apply to them. Only they are never loaded. There is one for each source of the session itself, and for those of other
sessions that run inside its turns: a workflow's agents have sessions of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from agent_framework import Message
from agent_framework._sessions import filter_new_messages  # what the framework's own providers save by

from afactors_channels import ChannelRequest, NotFound

from .encoding import decode_messages, encode_messages, identify, pack, unpack
from .history import Changes, ReadLog, placed, read_left
from .points import Point, aside, length, section
from .questions import Answer, called

_MAX_OTHERS = 32  # sessions inside a session; those that were not used the longest are forgotten


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a turn has added to a history so far.

    Attributes:
        source: The provider's.
        session_id: Whose; "" for the turn's own session.
        rows: The encoded messages.
        messages: The messages themselves, where they are still at hand.
    """

    source: str
    session_id: str
    rows: Sequence[bytes]
    messages: Sequence[Message] = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """Its history's, in the point."""
        return _name(self.source, self.session_id)

    def encode(self) -> bytes:
        """As a row: a turn that is cut off and goes on takes it up again."""
        return pack([1, self.source, self.session_id, list(self.rows)], "what a turn remembered")

    @classmethod
    def decode(cls, data: bytes) -> Remembered:
        """Read what `encode` wrote."""
        _, source, session_id, rows = unpack(data)
        return cls(source, session_id, rows)


def _name(source: str, session_id: str) -> str:
    return f"\0{source}\0{session_id}" if session_id else f"\0{source}"


def joined(changes: Changes, before: Point, remembered: Sequence[Remembered]) -> Changes:
    """A turn's changes, and what it remembered."""
    asides = {name: extents for name, extents in before.histories.items() if aside(name)}
    if not asides and not remembered:
        return changes
    tails = {name: log for name, log in before.tails.items() if aside(name)}
    append, span, added = [*changes.append], {**changes.span}, {**changes.added}
    for name in dict.fromkeys(one.name for one in remembered):
        rows = [row for one in remembered if one.name == name for row in one.rows]
        first = length(asides.get(name, ()))
        extents, tail, new = placed(before, name, first, rows)
        asides.pop(name, None)
        asides[name] = extents  # the latest used last
        if tail is not None:
            tails[name] = tail
        append.extend(new)
        span[name] = first, first + len(rows)
        told = [one.messages or decode_messages(one.rows) for one in remembered if one.name == name]
        added[name] = [message for messages in told for message in messages]
    asides = _bounded(asides)
    histories = {name: extents for name, extents in changes.point.histories.items() if not aside(name)}
    own = {name: log for name, log in changes.point.tails.items() if not aside(name)}
    point = replace(
        changes.point,
        histories={**histories, **asides},
        tails={**own, **{name: log for name, log in tails.items() if name in asides}},
    )
    return replace(changes, point=point, append=append, span=span, added=added)


def _bounded(asides: dict[str, Any]) -> dict[str, Any]:
    others = [name for name in asides if "\0" in name[1:]]
    return {name: extents for name, extents in asides.items() if name not in others[:-_MAX_OTHERS]}


class Held(Protocol):
    """A session in memory."""

    point: Point


class Remembering(Protocol):
    """A turn, as far as its histories are concerned."""

    request: ChannelRequest
    run_id: str
    remembered: list[Remembered]
    answers: Mapping[str, Answer]


class Memory:
    """A turn's hand on its histories in the store. It refuses calls after the turn's run.

    Args:
        turn: The turn; what it remembers is noted there.
        live: Its session; None if it runs without one, and then nothing is remembered.
        read: Reads the actor's logs.
        in_trio: Makes a call in trio, from wherever the target runs.
    """

    def __init__(
        self,
        turn: Remembering,
        live: Held | None,
        read: ReadLog,
        in_trio: Callable[..., Awaitable[Any]],
    ) -> None:
        self._turn = turn
        self._point = live.point if live is not None else None
        known = getattr(live, "session", None)  # a target may make sessions with ids of its own
        self._own = {one for one in (known and known.session_id, self._point and self._point.session_id) if one}
        self._read = read
        self._in_trio = in_trio
        self._open = True

    @property
    def answered(self) -> frozenset[str]:
        """The calls that the turn answers, as histories name them."""
        return called(self._turn.answers)

    def close(self) -> None:
        """The run is over."""
        self._open = False

    async def newest(self, source: str, session_id: str, count: int | None) -> list[Message]:
        """The newest messages of a history; all of them for None.

        Raises:
            NotFound: The turn goes on from a point of which nothing is left.
            RuntimeError: The turn is over.
        """
        self._check_open()
        rows: list[bytes] = await self._in_trio(self._newest, source, self._whose(session_id), count)
        return decode_messages(rows)

    async def add(self, source: str, session_id: str, messages: Sequence[Message]) -> None:
        """Add messages to a history: durable with the turn, and forgotten with it. What is there already is left out.

        Raises:
            NotStorable: A message cannot be written down.
            RuntimeError: The turn is over.
        """
        self._check_open()
        await self._in_trio(self._add, source, self._whose(session_id), messages)

    def _whose(self, session_id: str) -> str:
        return "" if session_id in self._own else session_id

    async def _newest(self, source: str, session_id: str, count: int | None) -> list[bytes]:
        if self._point is None:
            return []
        name = _name(source, session_id)
        new = [row for one in self._turn.remembered if one.name == name for row in one.rows]
        extents = self._point.histories.get(name, ())
        if count is not None:
            stored = length(extents)
            extents = section(extents, stored - max(0, min(stored, count - len(new))), stored)
        try:
            rows = [*(await read_left(self._read, extents))[1], *new]
        except LookupError as exc:
            if self._turn.request.session.after is not None and not session_id:
                raise NotFound("This point is too old.", field="session.after", code="point_not_found") from exc
            rows = new
        return rows if count is None else rows[max(0, len(rows) - count) :]

    async def _add(self, source: str, session_id: str, messages: Sequence[Message]) -> None:
        if self._point is None:
            return
        # More than there are new ones decide nothing: either all of the past is repeated, or its end.
        past = decode_messages(await self._newest(source, session_id, len(messages) + 1))
        new = filter_new_messages(past, messages)
        identify(new, f"{self._turn.run_id}~{len(self._turn.remembered)}.")
        rows = encode_messages(new, source)
        self._check_open()
        self._turn.remembered.append(Remembered(source, session_id, rows, new))

    def _check_open(self) -> None:
        if not self._open:
            raise RuntimeError("the turn that this history was opened for has ended")
