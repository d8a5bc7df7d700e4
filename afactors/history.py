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
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

import msgpack
from agent_framework import AgentSession, Message

from afactors_store import Append, FormatTooNew

from .sealing import Seal

POINT_VERSION = 1

_LONG_INTEGER = 1  # a msgpack extension type

Extent: TypeAlias = tuple[int, int, int]
"""(log, start, stop): rows `start` ≤ position < `stop` of a log."""

ReadLog: TypeAlias = Callable[[int, int, int], Awaitable[list[bytes]]]


_NOTHING = Seal()


class NotStorable(Exception):
    """The session holds something that cannot be written down; the message names its place and type."""


@dataclass(frozen=True, slots=True)
class Point:
    """An immutable place in a session.

    Attributes:
        session_id: The session it is in.
        named: Whether the session is a conversation with a name of its own, which only that name continues.
        histories: For each history's source, its extents.
        tails: For each source, the log that this session may append to: it alone writes there, and the history's
            last extent ends where it ends.
        state: (log, position) of the row that holds the rest of the session's state; None if there is none.
        service: The model service's own session id.
        turns: Completed turns.
        pinned: Whether a name ever pointed here, so that what a rewrite leaves behind must be kept.
        head: Name of the point that the session's last turn was given.
        created: When the session began, in whole seconds since the epoch; None if that was not noted.
        questions: Ids of the questions that the target asked here and that nobody had answered by then.
    """

    session_id: str
    named: bool = False
    histories: Mapping[str, Sequence[Extent]] = field(default_factory=dict)
    tails: Mapping[str, int] = field(default_factory=dict)
    state: tuple[int, int] | None = None
    service: Any = None
    turns: int = 0
    pinned: bool = False
    head: str | None = None
    created: int | None = None
    questions: Sequence[str] = ()

    def encode(self) -> bytes:
        """The point as a versioned msgpack map; absent fields have their defaults."""
        record: dict[str, Any] = {"v": POINT_VERSION, "s": self.session_id, "t": self.turns}
        optional = {
            "m": self.named,
            "h": {source: [list(extent) for extent in extents] for source, extents in self.histories.items()},
            "a": dict(self.tails),
            "x": list(self.state) if self.state else None,
            "i": self.service,
            "k": self.pinned,
            "p": self.head,
            "c": self.created,
            "q": list(self.questions),
        }
        record.update((key, value) for key, value in optional.items() if value)
        return pack(record, "session.service_session_id")

    @classmethod
    def decode(cls, data: bytes) -> Point:
        """Read what `encode` wrote.

        Raises:
            FormatTooNew: A newer afactors wrote it.
        """
        record = unpack(data)
        if record["v"] > POINT_VERSION:
            raise FormatTooNew(f"a session was written by a newer afactors (format {record['v']})")
        histories = record.get("h", {})
        state = record.get("x")
        return cls(
            session_id=record["s"],
            named=record.get("m", False),
            histories={source: [(e[0], e[1], e[2]) for e in extents] for source, extents in histories.items()},
            tails=record.get("a", {}),
            state=(state[0], state[1]) if state else None,
            service=record.get("i"),
            turns=record["t"],
            pinned=record.get("k", False),
            head=record.get("p"),
            created=record.get("c"),
            questions=record.get("q", ()),
        )

    def logs(self) -> set[int]:
        """Every log that the point needs."""
        logs = {log for extents in self.histories.values() for log, _, _ in extents}
        return logs | {self.state[0]} if self.state else logs

    def branch(self, session_id: str) -> Point:
        """A new session that begins here: it shares everything and may append to nothing."""
        return replace(self, session_id=session_id, named=False, tails={}, pinned=True, created=int(time.time()))


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

    def extents_of(self, messages: Sequence[Message]) -> Sequence[Extent] | None:
        """Where in the logs these very messages are, if they follow each other in what this turn added."""
        if not messages:
            return ()
        for source, added in self.added.items():
            at = next((at for at, one in enumerate(added) if one is messages[0]), len(added))
            if len(added) - at >= len(messages) and all(map(operator.is_, added[at:], messages)):
                first = self.span[source][0] + at
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
        self._state = _encode_state(session)

    async def changes(self, *, head: str | None, label: str) -> Changes:
        """Compare the session with what is stored of it.

        Args:
            head: Name of the point that this makes, if it has one.
            label: A name that no other turn of the session has; new messages without an id get theirs from it.

        Raises:
            NotStorable: The session holds something that cannot be written down.
        """
        histories: dict[str, Sequence[Extent]] = {}
        tails: dict[str, int] = {}
        span: dict[str, tuple[int, int]] = {}
        append: list[Append] = []
        rewritten: set[str] = set()
        added_messages: dict[str, Sequence[Message]] = {}
        for source, messages in histories_of(self.session).items():
            seal = self._seals.get(source, _NOTHING)
            if seal.intact(messages):
                kept = len(seal.messages)
                identify(messages[kept:], f"{label}.")
                rows = encode_messages(messages[kept:], source)
            else:
                rewritten.add(source)
                kept, rows = await self._difference(source, messages)
            extents, tail, added = placed(self.point, source, kept, rows)
            histories[source], span[source] = extents, (kept, len(messages))
            added_messages[source] = messages[kept:]
            append.extend(added)
            if tail is not None:
                tails[source] = tail
        encoded = _encode_state(self.session)
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
            created=self.point.created if self.point.turns else int(time.time()),
        )
        drop = () if self.point.pinned else tuple(self.point.logs() - point.logs())
        return Changes(point, append, drop, span, encoded, frozenset(rewritten), added_messages)

    def committed(self, changes: Changes) -> None:
        """The changes are durable: what the session holds now is the committed state."""
        self.point = changes.point
        self._state = changes.state
        seals = {}
        for source, messages in histories_of(self.session).items():
            seal = Seal() if source in changes.rewritten else self._seals.get(source) or Seal()
            seal.extend(messages[len(seal.messages) :])
            seals[source] = seal
        self._seals = seals

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
    """
    session = await make(point.session_id)
    session.service_session_id = point.service
    if point.state is not None:
        log, position = point.state
        (row,) = await read(log, position, position + 1)
        record = {"session_id": point.session_id, "state": unpack(row)}
        session.state.update(AgentSession.from_dict(record).state)
    for source, extents in point.histories.items():
        rows = await read_extents(read, extents)
        session.state.setdefault(source, {})["messages"] = await decode(rows) if decode else decode_messages(rows)
    return LiveSession(point, session, read)


async def read_extents(read: ReadLog, extents: Iterable[Extent]) -> list[bytes]:
    """All rows of a history."""
    rows: list[bytes] = []
    for log, start, stop in extents:
        found = await read(log, start, stop)
        if len(found) != stop - start:
            raise LookupError(f"log {log:x} has {len(found)} of the rows {start} to {stop}")
        rows.extend(found)
    return rows


def length(extents: Iterable[Extent]) -> int:
    """Rows in a history."""
    return sum(stop - start for _, start, stop in extents)


def section(extents: Iterable[Extent], start: int, stop: int) -> list[Extent]:
    """The rows `start` ≤ position < `stop` of a history."""
    found: list[Extent] = []
    at = 0
    for log, first, last in extents:
        low, high = first + max(0, start - at), min(last, first + stop - at)
        if low < high:
            found.append((log, low, high))
        at += last - first
    return found


def cut(extents: Iterable[Extent], rows: int) -> list[Extent]:
    """The first `rows` rows of a history."""
    return section(extents, 0, rows)


def new_log() -> int:
    """A log id that no other log of the key has."""
    return secrets.randbits(64)


def identify(messages: Iterable[Message], prefix: str) -> None:
    """Give every message an id that has none: the prefix and its place.

    The framework compares each turn's messages with the whole history: by id where there is one, else by contents,
    at ten times the cost.
    """
    for index, message in enumerate(messages):
        if isinstance(message, Message) and message.message_id is None:
            message.message_id = f"{prefix}{index}"


def encode_messages(messages: Iterable[Message], source: str = "history") -> list[bytes]:
    """One row a message: msgpack of the framework's own serialized form."""
    place = f"state.{source}.messages"
    rows = []
    for message in messages:
        if not isinstance(message, Message):
            raise NotStorable(f"{place} holds a {type(message).__name__} among its messages")
        rows.append(pack(_serialized(message, place), place))
    return rows


def decode_messages(rows: Iterable[bytes]) -> list[Message]:
    """What `encode_messages` wrote."""
    return [Message.from_dict(unpack(row)) for row in rows]


def pack(value: Any, place: str) -> bytes:
    """Msgpack, with lone surrogates kept.

    Raises:
        NotStorable: Something in it is not plain data; `place` names where.
    """
    try:
        try:
            return cast("bytes", msgpack.packb(value, unicode_errors="surrogatepass"))
        except OverflowError:
            return cast("bytes", msgpack.packb(_with_long_integers(value), unicode_errors="surrogatepass"))
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise NotStorable(f"{place} holds a value that cannot be stored: {exc}") from exc


def _with_long_integers(value: Any) -> Any:
    """A copy in which integers that msgpack has no form for are extensions: JSON has no limit, so they come in."""
    if isinstance(value, dict):
        return {key: _with_long_integers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_long_integers(item) for item in value]
    if isinstance(value, int) and value.bit_length() > 63:
        return msgpack.ExtType(_LONG_INTEGER, b"%x" % value)
    return value


def _extension(code: int, data: bytes) -> Any:
    return int(data, 16) if code == _LONG_INTEGER else msgpack.ExtType(code, data)


def unpack(data: bytes) -> Any:
    """What `pack` wrote."""
    return msgpack.unpackb(data, unicode_errors="surrogatepass", strict_map_key=False, ext_hook=_extension)


def histories_of(session: AgentSession) -> dict[str, list[Message]]:
    """A session's histories, by source."""
    return {
        source: state["messages"]
        for source, state in session.state.items()
        if isinstance(state, dict) and _is_history(state.get("messages"))
    }


def _is_history(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Message)


def _encode_state(session: AgentSession) -> bytes | None:
    """The session's state without its histories; None if nothing is left."""
    found = histories_of(session)
    rest = {
        source: {key: value for key, value in state.items() if key != "messages"} if source in found else state
        for source, state in session.state.items()
    }
    rest = {source: state for source, state in rest.items() if state != {}}
    if not rest:
        return None
    plain = AgentSession(session_id=session.session_id)
    plain.state = rest
    return pack(_serialized(plain, "state")["state"], "state")


def _serialized(value: Message | AgentSession, place: str) -> dict[str, Any]:
    try:
        return value.to_dict()
    except Exception as exc:  # codecs of the user's own types may raise anything
        raise NotStorable(f"{place} holds a value that cannot be stored: {type(exc).__name__}") from exc
