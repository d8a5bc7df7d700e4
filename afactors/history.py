"""A session between memory and store: positions in append-only logs, and the framework's `AgentSession`.

What is stored of a session is a *point*: where each of its histories ends. A history is a list of extents
(log, start, stop), so a branch shares what came before it instead of copying it, and a history that was rewritten
(compaction) keeps the part before the change and continues in a new log. The rest of the session's state is a log
too, with a row for each time it changed. A session's document and the value of a response id are both just points.

Any list of framework messages at `session.state[source]["messages"]` is such a history: that is where the framework's
own default history lives.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from agent_framework import AgentSession, Message

from afactors_store import Append

from .encoding import NotStorable as NotStorable
from .encoding import decode_messages as decode_messages
from .encoding import encode_messages as encode_messages
from .encoding import encode_state, histories_of
from .encoding import identify as identify
from .encoding import pack as pack
from .encoding import unpack as unpack
from .points import POINT_VERSION as POINT_VERSION
from .points import Extent as Extent
from .points import Point as Point
from .points import aside as aside
from .points import cut as cut
from .points import length as length
from .points import new_log as new_log
from .points import section as section
from .sealing import Seal

ReadLog: TypeAlias = Callable[[int, int, int], Awaitable[list[bytes]]]


_NOTHING = Seal()


@dataclass(frozen=True, slots=True)
class Changes:
    """What one turn adds to the store for its session."""

    point: Point
    append: Sequence[Append]
    drop: Sequence[int]
    """Logs that nothing refers to any more."""
    span: Mapping[str, tuple[int, int]]
    """For each source, the positions in the history that this turn added or rewrote."""
    state: bytes | None
    """The rest of the session's state, encoded."""
    rewritten: frozenset[str]
    """Sources whose older messages are not the objects that were committed."""
    added: Mapping[str, Sequence[Message]]
    """For each source, the messages that `span` tells the positions of."""
    put: Mapping[str, bytes] = field(default_factory=dict)
    """Documents beside the session's own."""
    delete: Sequence[str] = ()
    """Documents that are needed no more."""
    adopted: frozenset[int] = frozenset()
    """Logs that were provisional, and are the session's from now on."""
    past: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    """For each source that was rewritten, the ids of the messages that were committed."""
    gone: Mapping[str, int] = field(default_factory=dict)
    """For each source, how many of its oldest messages leave it: `span` counts them, the point does not."""
    trim: Mapping[int, int] = field(default_factory=dict)
    """First rows to keep of logs that lose some."""
    expire: Mapping[int, float] = field(default_factory=dict)
    """When logs that were left behind may go."""

    def extents_of(self, messages: Sequence[Message]) -> Sequence[Extent] | None:
        """Where in the logs these very messages are, if they follow each other in what this turn added."""
        if not messages:
            return ()
        for source, added in self.added.items():
            at = next((at for at, one in enumerate(added) if one is messages[0]), len(added))
            if len(added) - at >= len(messages) and all(map(operator.is_, added[at:], messages)):
                first = self.span[source][0] - self.gone.get(source, 0) + at
                return section(self.point.histories[source], first, first + len(messages))
        return None


class LiveSession:
    """A session in memory, as it was committed.

    The turn works on `session` directly. When the turn fails, the whole live session is dropped and read again: there
    is one way back to the last committed state, and it is the store.
    """

    __slots__ = ("_read", "_seals", "_state", "point", "session")

    def __init__(self, point: Point, session: AgentSession, read: ReadLog) -> None:
        self.point = point
        self.session = session
        self._read = read
        self._seals: dict[str, Seal] = {source: Seal(found) for source, found in histories_of(session).items()}
        self._state = encode_state(session)

    async def changes(self, *, head: str | None, label: str, questions: Sequence[str] | None = None) -> Changes:
        """Compare the session with what is stored of it.

        Args:
            head: Name of the point that this makes, if it has one.
            label: A name that no other turn of the session has; new messages without an id get theirs from it.
            questions: Ids of the questions that are open now; None if that did not change.

        Raises:
            NotStorable: The session holds something that cannot be written down.
        """
        histories: dict[str, Sequence[Extent]] = {name: at for name, at in self.point.histories.items() if aside(name)}
        tails: dict[str, int] = {name: log for name, log in self.point.tails.items() if aside(name)}
        span: dict[str, tuple[int, int]] = {}
        append: list[Append] = []
        past: dict[str, Sequence[str | None]] = {}
        added_messages: dict[str, Sequence[Message]] = {}
        for source, messages in histories_of(self.session).items():
            seal = self._seals.get(source, _NOTHING)
            if seal.intact(messages):
                kept = len(seal.messages)
                identify(messages[kept:], f"{label}.")
                rows = encode_messages(messages[kept:], source)
            else:
                past[source] = [message.message_id for message in seal.messages]
                kept, rows = await self._difference(source, messages)
            extents, tail, added = placed(self.point, source, kept, rows)
            histories[source], span[source] = extents, (kept, len(messages))
            added_messages[source] = messages[kept:]
            append.extend(added)
            if tail is not None:
                tails[source] = tail
        encoded = encode_state(self.session)
        state, state_rows = self._state_changes(encoded)
        append.extend(state_rows)
        point = replace(
            self.point,
            histories=histories,
            tails=tails,
            state=state,
            service=self.session.service_session_id,
            turns=self.point.turns + 1,
            pinned=self.point.pinned or head is not None,
            head=head,
            created=self.point.created if self.point.turns or self.point.created else int(time.time()),
            questions=self.point.questions if questions is None else questions,
        )
        drop = () if self.point.pinned else tuple(self.point.logs() - point.logs())
        return Changes(point, append, drop, span, encoded, frozenset(past), added_messages, past=past)

    def committed(self, changes: Changes) -> None:
        """The changes are durable: what the session holds now is the committed state."""
        self.point = changes.point
        self._state = changes.state
        seals = {}
        for source, messages in histories_of(self.session).items():
            seal = Seal() if source in changes.rewritten else self._seals.get(source) or Seal()
            gone = changes.gone.get(source, 0)
            del messages[:gone]
            seal.forget(gone)
            seal.extend(messages[len(seal.messages) :])
            seals[source] = seal
        self._seals = seals

    def own_logs(self) -> set[int]:
        """None: what the head needs, its point tells."""
        return set()

    async def _difference(self, source: str, messages: list[Message]) -> tuple[int, list[bytes]]:
        """How many messages at the front are as stored, and the encoded rest; the rows themselves tell."""
        stored = await read_extents(self._read, self.point.histories.get(source, ()))
        rows = encode_messages(messages, source)
        kept = next((i for i, (old, new) in enumerate(zip(stored, rows, strict=False)) if old != new), None)
        if kept is None:
            kept = min(len(stored), len(rows))
        return kept, rows[kept:]

    def _state_changes(self, encoded: bytes | None) -> tuple[tuple[int, int] | None, Sequence[Append]]:
        if encoded == self._state:
            return self.point.state, ()
        if encoded is None:
            return None, ()
        # A log for each version of the state: there is seldom more than one, and a branch can never collide.
        log = new_log()
        return (log, 0), (Append(log, 0, (encoded,)),)


def placed(
    point: Point, source: str, kept: int, rows: Sequence[bytes]
) -> tuple[Sequence[Extent], int | None, Sequence[Append]]:
    """Where a history is once `rows` follow its first `kept` messages: extents, tail, what is appended."""
    extents = list(point.histories.get(source, ()))
    tail = point.tails.get(source)
    whole = kept == length(extents)
    if not rows and whole:
        return extents, tail, ()
    if not whole or tail is None or not extents:
        extents, tail = cut(extents, kept), new_log()
        if not rows:
            return extents, None, ()
        extents.append((tail, 0, 0))
    log, start, stop = extents[-1]
    extents[-1] = (log, start, stop + len(rows))
    return extents, tail, (Append(log, stop, rows),)


async def load(
    point: Point,
    read: ReadLog,
    *,
    make: Callable[[str], Awaitable[AgentSession]],
    decode: Callable[[list[bytes]], Awaitable[list[Message]]] | None = None,
) -> LiveSession:
    """Bring a session back from where it stands.

    Args:
        point: Where it stands; a point without histories is a new session.
        read: Reads rows of a log of this session's key.
        make: Makes an empty session with an id (the target's own `create_session`).
        decode: Decodes rows somewhere else, where that would take long; by default it is done here.

    Raises:
        LookupError: There were messages, and none of them is left; or the rest of the state is gone.
    """
    session = await make(point.session_id)
    session.service_session_id = point.service
    if point.state is not None:
        log, position = point.state
        rows = await read(log, position, position + 1)
        if not rows:
            raise LookupError(f"log {log:x} has no row {position}")
        record = {"session_id": point.session_id, "state": unpack(rows[0])}
        session.state.update(AgentSession.from_dict(record).state)
    histories = dict(point.histories)
    for source, extents in point.histories.items():
        if not aside(source):
            histories[source], rows = await read_left(read, extents)
            session.state.setdefault(source, {})["messages"] = await decode(rows) if decode else decode_messages(rows)
    return LiveSession(replace(point, histories=histories), session, read)


async def read_extents(read: ReadLog, extents: Iterable[Extent]) -> list[bytes]:
    """All rows of a history."""
    rows: list[bytes] = []
    for log, start, stop in extents:
        found = await read(log, start, stop)
        if len(found) != stop - start:
            raise LookupError(f"log {log:x} has {len(found)} of the rows {start} to {stop}")
        rows.extend(found)
    return rows


async def read_left(read: ReadLog, extents: Sequence[Extent]) -> tuple[Sequence[Extent], list[bytes]]:
    """What is left of a history that an age limit took the oldest rows of: where it is, and its rows.

    Raises:
        LookupError: Nothing is left of it.
    """
    left: list[Extent] = []
    rows: list[bytes] = []
    for log, start, stop in extents:
        found = await read(log, start, stop)
        if len(found) != stop - start:
            left.clear()
            rows.clear()
            start = await _first(read, log, start, stop)
            found = await read(log, start, stop) if start < stop else []
        if found:
            left.append((log, start, stop))
            rows.extend(found)
    if extents and not rows:
        raise LookupError("nothing is left of a history")
    return left, rows


async def _first(read: ReadLog, log: int, start: int, stop: int) -> int:
    """The first row that is there, of a log whose last one before `stop` is; else `stop`."""
    low, high = start, stop
    if not await read(log, stop - 1, stop):
        return stop
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if await read(log, middle, middle + 1) else (middle + 1, high)
    return high
