"""What the rows hold: versioned msgpack records. Pure.

Records are maps with a version `v`. Three kinds that are written most, and have little in them, are bare
arrays with the version as their first element: a log's rows, a letter, a delivery's attempts. Documents are
the caller's bytes, as they are. Rows that hold one number or one instant hold its 8 bytes. The format in the
meta row covers those that have no version of their own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import msgpack

from .errors import FormatTooNew, StoreBroken

FORMAT = 1
VERSION = 1
"""The version that this code writes in every record."""

CHUNK_BYTES = 128 * 1024
CHUNK_ROWS = 512

_COUNTERS = struct.Struct(">QQQQQ")
_pack = cast("Callable[[object], bytes]", msgpack.packb)
_unpack = cast("Callable[[bytes], Any]", msgpack.unpackb)

UPGRADES: dict[tuple[str, int], Callable[[Any], Any]] = {}
"""(kind, version) to what turns such a record into one of the next version."""


class Meta(NamedTuple):
    """The store itself."""

    format: int
    store_id: bytes
    secret: bytes
    created: float


class Counters(NamedTuple):
    """What must never be given out twice, and how many keys, deliveries and dead letters there are."""

    actor: int = 1
    delivery: int = 1
    keys: int = 0
    pending: int = 0
    dead: int = 0


class Head(NamedTuple):
    """An actor. `gone` says that it is being erased and nobody may see it."""

    key: bytes
    epoch: int
    version: int
    incarnation: bytes
    letters: int = 0
    sequence: int = 0
    gone: bool = False


class NameRecord(NamedTuple):
    """A global name's owner and value."""

    owner: bytes
    value: bytes


class AliasRecord(NamedTuple):
    """A whole key that leads to an actor."""

    key: bytes
    target: bytes


class StoredRun(NamedTuple):
    """A run's body and expiry."""

    body: bytes
    expires_at: float | None


class StoredDelivery(NamedTuple):
    """What to deliver, and how it came: that is how it goes, too, until an attempt record says otherwise."""

    delivery_id: str
    lane: bytes
    body: bytes
    due: float = 0.0
    attempts: int = 0
    unsure: bool = False


class Attempt(NamedTuple):
    """How a delivery goes.

    `taken` is when the last attempt began, `running` whether it can be settled, `unsure` whether one before it never
    was, `take` how often it was taken, `deferred` how many attempts were only deferred.
    """

    due: float
    attempt: int = 0
    taken: float = 0.0
    running: bool = False
    unsure: bool = False
    take: int = 0
    deferred: int = 0


class StoredDeadLetter(NamedTuple):
    """A delivery that will not be tried again by itself."""

    delivery_id: str
    lane: bytes
    body: bytes
    attempt: int
    reason: str
    error: str = ""
    died: float = 0.0
    expires_at: float | None = None


def encode_meta(meta: Meta) -> bytes:
    """The meta row."""
    return _pack({"v": VERSION, **meta._asdict()})


def decode_meta(raw: bytes) -> Meta:
    """The meta row back; a newer format is `FormatTooNew` before anything else is understood."""
    try:
        record = _unpack(raw)
        newer = record["format"] > FORMAT
    except (ValueError, TypeError, KeyError) as exc:
        raise StoreBroken(f"the store's first record cannot be read: {exc!r}") from exc
    if newer:
        raise FormatTooNew(f"its format is {record['format']}, and this afactors knows formats up to {FORMAT}")
    record = _decode("meta", raw)
    return Meta(record["format"], record["store_id"], record["secret"], record["created"])


def encode_counters(counters: Counters) -> bytes:
    """The counters row."""
    return _COUNTERS.pack(*counters)


def decode_counters(raw: bytes | None) -> Counters:
    """The counters row back; a store without one has given nothing out."""
    return Counters() if raw is None else Counters(*_COUNTERS.unpack(raw.ljust(_COUNTERS.size, b"\0")))


def lacks_counters(raw: bytes | None) -> bool:
    """Whether that row is from before deliveries and dead letters were counted."""
    return raw is not None and len(raw) < _COUNTERS.size


def encode_head(head: Head) -> bytes:
    """An actor's head."""
    record = {
        "v": VERSION,
        "key": head.key,
        "e": head.epoch,
        "n": head.version,
        "i": head.incarnation,
        "l": head.letters,
        "s": head.sequence,
    }
    if head.gone:
        record["gone"] = True
    return _pack(record)


def decode_head(raw: bytes) -> Head:
    """An actor's head back."""
    record = _decode("head", raw)
    return Head(
        record["key"],
        record["e"],
        record["n"],
        record["i"],
        record["l"],
        record["s"],
        record.get("gone", False),
    )


def encode_name(record: NameRecord) -> bytes:
    """A global name."""
    return _pack({"v": VERSION, "o": record.owner, "b": record.value})


def decode_name(raw: bytes) -> NameRecord:
    """A global name back."""
    record = _decode("name", raw)
    return NameRecord(record["o"], record["b"])


def encode_alias(record: AliasRecord) -> bytes:
    """An alias."""
    return _pack({"v": VERSION, "key": record.key, "to": record.target})


def decode_alias(raw: bytes) -> AliasRecord:
    """An alias back."""
    record = _decode("alias", raw)
    return AliasRecord(record["key"], record["to"])


def encode_run(run: StoredRun) -> bytes:
    """A run."""
    return _pack({"v": VERSION, "b": run.body, "x": run.expires_at})


def decode_run(raw: bytes) -> StoredRun:
    """A run back."""
    record = _decode("run", raw)
    return StoredRun(record["b"], record["x"])


def encode_delivery(delivery: StoredDelivery) -> bytes:
    """A delivery."""
    record = {"v": VERSION, "id": delivery.delivery_id, "l": delivery.lane, "b": delivery.body, "d": delivery.due}
    if delivery.attempts:
        record["n"] = delivery.attempts
    if delivery.unsure:
        record["u"] = True
    return _pack(record)


def decode_delivery(raw: bytes) -> StoredDelivery:
    """A delivery back."""
    record = _decode("delivery", raw)
    came = record.get("d", 0.0), record.get("n", 0), record.get("u", False)
    return StoredDelivery(record["id"], record["l"], record["b"], *came)


def encode_dead_letter(dead: StoredDeadLetter) -> bytes:
    """A dead letter."""
    return _pack(
        {
            "v": VERSION,
            "id": dead.delivery_id,
            "l": dead.lane,
            "b": dead.body,
            "n": dead.attempt,
            "r": dead.reason,
            "e": dead.error,
            "t": dead.died,
            "x": dead.expires_at,
        }
    )


def decode_dead_letter(raw: bytes) -> StoredDeadLetter:
    """A dead letter back."""
    record = _decode("dead letter", raw)
    end = record["r"], record.get("e", ""), record.get("t", 0.0), record.get("x")
    return StoredDeadLetter(record["id"], record["l"], record["b"], record["n"], *end)


def encode_attempt(attempt: Attempt) -> bytes:
    """A delivery's attempts."""
    return _pack((VERSION, *attempt))


def decode_attempt(raw: bytes) -> Attempt:
    """A delivery's attempts back."""
    return Attempt(*_decode("attempt", raw)[1:])


def encode_letter(message_id: str, body: bytes) -> bytes:
    """A letter."""
    return _pack((VERSION, message_id, body))


def decode_letter(raw: bytes) -> tuple[str, bytes]:
    """A letter's message id and body back."""
    _, message_id, body = _decode("letter", raw)
    return message_id, body


def encode_rows(start: int, rows: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Rows of a log as the values that hold them, each with the position of its first row.

    A value holds at most `CHUNK_ROWS` rows and about `CHUNK_BYTES` bytes, so that reading goes in bounded
    slices; a row that is larger than that is a value of its own.
    """
    values = []
    for chunk in _chunks(rows):
        values.append((start, _pack((VERSION, *chunk))))
        start += len(chunk)
    return values


def _chunks(rows: Sequence[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for row in rows:
        if chunk and (len(chunk) == CHUNK_ROWS or size + len(row) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += len(row)
    if chunk:
        yield chunk


def decode_rows(raw: bytes) -> list[bytes]:
    """The rows of a log's value."""
    rows: list[bytes] = _decode("log", raw)[1:]
    return rows


def count_rows(raw: bytes) -> int:
    """How many rows a log's value holds, from its first bytes: an append need not decode what it follows."""
    first = raw[0]
    if first == 0xDC:
        return int.from_bytes(raw[1:3], "big") - 1
    if first & 0xF0 == 0x90:
        return (first & 0x0F) - 1
    raise StoreBroken("a log's value is not an array of rows")


def _decode(kind: str, raw: bytes) -> Any:
    """A record at this code's version: upgraded if it is older, refused if it is newer."""
    try:
        record = _unpack(raw)
    except ValueError as exc:  # msgpack's own errors are ValueErrors, too
        raise StoreBroken(f"a {kind} record cannot be read: {exc}") from exc
    version = record["v"] if isinstance(record, dict) else record[0]
    if version > VERSION:
        raise FormatTooNew(f"a {kind} record has version {version}, and this afactors knows versions up to {VERSION}")
    while version < VERSION:
        record = UPGRADES[kind, version](record)
        version += 1
    return record
