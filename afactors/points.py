"""Where a session stands: positions in append-only logs. Pure."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from afactors_store import FormatTooNew

from .encoding import pack, unpack

POINT_VERSION = 1

Extent: TypeAlias = tuple[int, int, int]
"""(log, start, stop): rows `start` ≤ position < `stop` of a log."""


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
        checkpoint: A workflow's checkpoint here.
        shared: Logs that it has in common with the session that it branched off, which alone may let them go.
        free: Of a session that is pinned, the logs that no name leads to: what is left behind of them may go.
        since: When the first row of each log was committed, in whole seconds since the epoch; only where there is an
            age limit.
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
    checkpoint: str | None = None
    shared: Sequence[int] = ()
    free: Sequence[int] = ()
    since: Mapping[int, int] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The point as a versioned msgpack map; absent fields have their defaults."""
        return pack(self._record(), "session.service_session_id")

    def encode_for_name(self) -> bytes:
        """The same, as short as can be: without what every point has that has a name."""
        bare = replace(self, head=None, tails={}, pinned=False, free=())
        return pack(bare._record(), "session.service_session_id", short_ids=True)

    def _record(self) -> dict[str, Any]:
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
            "w": self.checkpoint,
            "f": list(self.shared),
            "u": list(self.free),
            "y": dict(self.since),
        }
        record.update((key, value) for key, value in optional.items() if value)
        return record

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
            checkpoint=record.get("w"),
            shared=tuple(record.get("f", ())),
            free=tuple(record.get("u", ())),
            since=record.get("y", {}),
        )

    def logs(self) -> set[int]:
        """Every log that the point needs."""
        logs = {log for extents in self.histories.values() for log, _, _ in extents}
        return logs | {self.state[0]} if self.state else logs

    def branch(self, session_id: str) -> Point:
        """A new session that begins here: it shares everything and may append to nothing."""
        begun = replace(self, session_id=session_id, named=False, tails={}, pinned=True, created=int(time.time()))
        return replace(begun, shared=tuple(sorted(self.logs())))


def aside(name: str) -> bool:
    """Whether a history stays in the store, and is read in parts: see `remembering`."""
    return name.startswith("\0")


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
