"""What is stored of a run: its letter, its record, and what its names lead to. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

import msgspec

from afactors_channels import ChannelRequest, RunState
from afactors_store import FormatTooNew

from .history import Extent, NotStorable, Point, pack, unpack
from .squeezing import squeezed, whole

VERSION = 1

Stored: TypeAlias = Mapping[str, Any]
"""Messages, wherever they are: ``{"at": [extents]}`` in the session's logs, or ``{"is": [serialized messages]}``."""

ENDED: frozenset[RunState] = frozenset({"completed", "incomplete", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Reference:
    """What a global name leads to: a run, and the point that it made.

    Attributes:
        run_id: The run; "" for names of a time when they were points and nothing else.
        partition: Whose it is.
        point: Where the session stood after it, encoded, but for what is the same for all points that have a name;
            None if it made none (yet).
        token: For an idempotency key's name: the run's own name.
        fingerprint: For an idempotency key's name: what a repeat must be the same in.
    """

    run_id: str
    partition: str = ""
    point: bytes | None = None
    token: str | None = None
    fingerprint: str = ""

    def encode(self) -> bytes:
        """As a versioned msgpack map; absent fields have their defaults."""
        record: dict[str, Any] = {"v": VERSION, "r": self.run_id}
        optional = {"o": self.partition, "p": self.point, "t": self.token, "f": self.fingerprint}
        record.update((key, value) for key, value in optional.items() if value)
        return squeezed(pack(record, "name", short_ids=True))

    @classmethod
    def decode(cls, data: bytes) -> Reference:
        """Read what `encode` wrote."""
        record = _checked(unpack(whole(data)), "name")
        if "r" not in record:
            return cls("", point=data)
        return cls(record["r"], record.get("o", ""), record.get("p"), record.get("t"), record.get("f", ""))

    def reached(self, name: str) -> Point | None:
        """The point that `name`, whose value this is, leads to."""
        return replace(Point.decode(self.point), head=name, pinned=True) if self.point is not None else None


@dataclass(frozen=True, slots=True)
class Record:
    """The record of a run.

    What it said and what it was told is in its session's history, and the record says where. Where it is not (the run
    left nothing there, or the target keeps no history), the record has it.

    Attributes:
        state: Where it stands.
        channel: Name of the channel that it came by.
        session_id: Its session, or None.
        created: When it was accepted, in seconds since the epoch.
        ended: When it ended.
        attempt: Which attempt this is.
        durable: Whether it was accepted as a letter.
        suspect: Whether something crashed while it may have been running, and no attempt was counted since.
        token: Its global name.
        retrievable: As in the request.
        streamed: As in the request.
        metadata: As in the request.
        identity: Native id of who sent it.
        presentation: As in the request.
        transcript: (log, number of its first row, whether it was cut), or None.
        input: Extents of the input, or the messages themselves.
        output: Extents of the result's messages, or the messages themselves.
        outcome: The rest of the result: finish reason, usage.
        kept: What the transcript asked to be kept.
        settings: Options and tools of a run that did not complete, so that it can be run again.
        reason: Why it was cancelled.
        error: (code, message).
    """

    state: RunState
    channel: str
    session_id: str | None
    created: float
    ended: float | None = None
    attempt: int = 1
    durable: bool = False
    suspect: bool = False
    token: str | None = None
    retrievable: bool = True
    streamed: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    identity: str | None = None
    presentation: Mapping[str, Any] = field(default_factory=dict)
    transcript: tuple[int, int, bool] | None = None
    input: Stored | None = None
    output: Stored | None = None
    outcome: Mapping[str, Any] = field(default_factory=dict)
    kept: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    error: tuple[str, str] | None = None

    def encode(self) -> bytes:
        """As a versioned msgpack map; absent fields have their defaults.

        Raises:
            NotStorable: Something in it is not plain data.
        """
        record: dict[str, Any] = {"v": VERSION, "st": self.state, "ch": self.channel, "c": round(self.created, 3)}
        if self.ended is not None:
            record["d"] = round(self.ended, 3)
        if self.attempt != 1:
            record["a"] = self.attempt
        for key, name in _OPTIONAL.items():
            if value := getattr(self, name):
                record[key] = value
        if not self.retrievable:
            record["x"] = True
        return squeezed(pack(record, "run", short_ids=True))

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """Read what `encode` wrote.

        Raises:
            FormatTooNew: A newer afactors wrote it.
        """
        record = _checked(unpack(whole(data)), "run")
        optional = {name: record[key] for key, name in _OPTIONAL.items() if key in record}
        for name in ("transcript", "error"):
            if name in optional:
                optional[name] = tuple(optional[name])
        return cls(
            state=record["st"],
            channel=record["ch"],
            created=record["c"],
            ended=record.get("d"),
            attempt=record.get("a", 1),
            retrievable="x" not in record,
            **{"session_id": None, **optional},
        )


_OPTIONAL = {
    "s": "session_id",
    "dl": "durable",
    "su": "suspect",
    "n": "token",
    "sm": "streamed",
    "l": "metadata",
    "id": "identity",
    "pr": "presentation",
    "tr": "transcript",
    "in": "input",
    "out": "output",
    "oc": "outcome",
    "k": "kept",
    "set": "settings",
    "why": "reason",
    "e": "error",
}


def stored_at(extents: Sequence[Extent]) -> Stored:
    """Messages that are in the session's logs."""
    return {"at": [list(extent) for extent in extents]}


def stored_here(messages: Sequence[Mapping[str, Any]]) -> Stored:
    """Messages that are nowhere else."""
    return {"is": [dict(message) for message in messages]}


@dataclass(frozen=True, slots=True)
class LetterBody:
    """What a durable letter holds.

    Attributes:
        request: As `pack_request` made it.
        created: When it was accepted, in seconds since the epoch.
        session_id: Its session, or None.
        start: Where that begins if the store does not have it, encoded.
        run_id: The run that it is a part of, if others are or can be, too.
        token: Its global name, if it has no record of its own that says so.
        supersedes: The runs whose place it took.
    """

    request: bytes
    created: float
    session_id: str | None
    start: bytes | None
    run_id: str | None = None
    token: str | None = None
    supersedes: Sequence[str] = ()

    def encode(self) -> bytes:
        """As a versioned msgpack map; absent fields have their defaults."""
        record: dict[str, Any] = {"v": VERSION, "r": self.request, "c": self.created}
        record.update(s=self.session_id, p=self.start)
        optional = {"j": self.run_id, "n": self.token, "x": list(self.supersedes)}
        record.update((key, value) for key, value in optional.items() if value)
        return pack(record, "letter")

    @classmethod
    def decode(cls, data: bytes) -> LetterBody:
        """Read what `encode` wrote."""
        record = _checked(unpack(data), "letter")
        optional = record.get("j"), record.get("n"), record.get("x", ())
        return cls(record["r"], record["c"], record["s"], record["p"], *optional)

    @property
    def point(self) -> Point | None:
        """Where the session begins if the store does not have it."""
        return Point.decode(self.start) if self.start is not None else None


def pack_request(request: ChannelRequest) -> bytes:
    """A request as plain data, packed.

    Raises:
        NotStorable: It is not plain data, or could not be read back.
    """
    try:
        plain = cast("dict[str, Any]", msgspec.to_builtins(request, builtin_types=(bytes,)))
        msgspec.convert(plain, ChannelRequest)
    except (TypeError, ValueError, RecursionError) as exc:
        raise NotStorable(f"request holds a value that cannot be stored: {exc}") from exc
    return pack({name: value for name, value in plain.items() if value not in (None, {}, [])}, "request")


def unpack_request(data: bytes) -> ChannelRequest:
    """What `pack_request` made."""
    return msgspec.convert(unpack(data), ChannelRequest)


def idempotency_name(secret: bytes, request: ChannelRequest) -> str | None:
    """The global name of a request's idempotency key: the same for every repeat, and nobody else can guess it."""
    if request.idempotency_key is None:
        return None
    scope = pack([request.channel, request.partition, request.idempotency_key], "idempotency_key")
    return f"idem_{hmac.new(secret, scope, hashlib.sha256).hexdigest()[:48]}"


def _checked(record: Any, what: str) -> dict[str, Any]:
    if record["v"] > VERSION:
        raise FormatTooNew(f"a {what} was written by a newer afactors (format {record['v']})")
    return cast("dict[str, Any]", record)
