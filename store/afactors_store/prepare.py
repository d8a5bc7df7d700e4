"""A commit, checked and encoded by whoever hands it over, so that the writer only writes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from . import keys, records
from .protocol import Append, Claim, Commit, NewDelivery, RunRecord
from .records import StoredRun

ROW_BYTES = 64
"""What a row costs beside its value, roughly; for bounding a batch."""


class PreparedAppend(NamedTuple):
    """Rows for one log, as the values that will hold them."""

    log: bytes
    start: int
    stop: int
    values: list[tuple[int, bytes]]


class PreparedRun(NamedTuple):
    """A run's record."""

    run_id: bytes
    record: bytes
    expires_at: float | None


class PreparedDelivery(NamedTuple):
    """A delivery that has no id yet."""

    lane: bytes
    body: bytes
    due: float


@dataclass(slots=True)
class Prepared:
    """A commit in bytes. `size` is about how many it will write."""

    key: bytes
    epoch: int
    incarnation: bytes
    put: list[tuple[bytes, bytes]]
    delete: list[bytes]
    append: list[PreparedAppend]
    drop_logs: list[bytes]
    consume: list[bytes]
    names: list[tuple[bytes, bytes]]
    drop_names: list[bytes]
    run: PreparedRun | None
    timers: list[tuple[bytes, float | None]]
    deliveries: list[PreparedDelivery]
    aliases: list[tuple[bytes, bool]]
    size: int = 0


def prepare(claim: Claim, commit: Commit) -> Prepared:
    """Check every name, number and instant of a commit and encode what can be encoded.

    Raises:
        BadKey: A key, name, id or log id is one that no store may hold.
        ValueError: An instant is not a number.
    """
    prepared = Prepared(
        key=keys.encode_key(claim.key),
        epoch=claim.epoch,
        incarnation=claim.incarnation,
        put=[(keys.encode_name(name, "a document name"), body) for name, body in commit.put.items()],
        delete=[keys.encode_name(name, "a document name") for name in commit.delete],
        append=[_append(append) for append in commit.append],
        drop_logs=[_log(log) for log in commit.drop_logs],
        consume=[keys.encode_name(letter, "a letter id") for letter in commit.consume],
        names=[(keys.encode_name(name), value) for name, value in commit.names.items()],
        drop_names=[keys.encode_name(name) for name in commit.drop_names],
        run=None if commit.run is None else _run(commit.run),
        timers=[_timer(name, at) for name, at in commit.timers.items()],
        deliveries=[_delivery(delivery) for delivery in commit.deliveries],
        aliases=[(keys.encode_key(alias), leads) for alias, leads in commit.aliases.items()],
    )
    prepared.size = _size(prepared)
    return prepared


def _log(log: int) -> bytes:
    return keys.u64(keys.check_u64(log, "a log id"))


def _append(append: Append) -> PreparedAppend:
    stop = keys.check_u64(append.start, "a log position") + len(append.rows)
    return PreparedAppend(_log(append.log), append.start, stop, records.encode_rows(append.start, append.rows))


def _run(run: RunRecord) -> PreparedRun:
    if run.expires_at is not None:
        keys.instant(run.expires_at)
    record = records.encode_run(StoredRun(run.body, run.expires_at))
    return PreparedRun(keys.encode_name(run.run_id, "a run id"), record, run.expires_at)


def _timer(name: str, at: float | None) -> tuple[bytes, float | None]:
    if at is not None:
        keys.instant(at)
    return keys.encode_name(name, "a timer name"), at


def _delivery(delivery: NewDelivery) -> PreparedDelivery:
    keys.instant(delivery.due)
    return PreparedDelivery(keys.encode_name(delivery.lane, "a lane"), delivery.body, delivery.due)


def _size(prepared: Prepared) -> int:
    values: Sequence[bytes] = (
        *(body for _, body in prepared.put),
        *(value for append in prepared.append for _, value in append.values),
        *(value for _, value in prepared.names),
        *(delivery.body for delivery in prepared.deliveries),
    )
    run = len(prepared.run.record) if prepared.run is not None else 0
    return sum(map(len, values)) + run + ROW_BYTES * (len(values) + 2)
