"""A commit, checked and encoded by whoever hands it over, so that the writer only writes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from . import keys, records
from .records import StoredRun
from .values import MAX_REASON, Append, Claim, Commit, Dead, NewDelivery, NewLetter, RunRecord

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
    attempts: int
    dead: Dead | None
    unsure: bool


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
    truncate: list[tuple[bytes, int]]
    trim: list[tuple[bytes, int]]
    expire_logs: list[tuple[bytes, float | None]]
    consume: list[bytes]
    letters: list[tuple[bytes, bytes]]
    others: list[Prepared]
    names: list[tuple[bytes, bytes]]
    drop_names: list[bytes]
    expire_names: list[tuple[bytes, float | None]]
    runs: list[PreparedRun]
    drop_runs: list[bytes]
    timers: list[tuple[bytes, float | None]]
    fire: list[bytes]
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
        truncate=[(_log(log), keys.check_u64(rows, "a log's length")) for log, rows in commit.truncate.items()],
        trim=[(_log(log), keys.check_u64(first, "a log position")) for log, first in commit.trim.items()],
        expire_logs=[(_log(log), _instant(at)) for log, at in commit.expire_logs.items()],
        consume=[keys.encode_name(letter, "a letter id") for letter in commit.consume],
        letters=[letter(new) for new in commit.letters],
        others=[prepare(Claim(key, claim.epoch, 0, b"", {}, 0), other) for key, other in commit.others],
        names=[(keys.encode_name(name), value) for name, value in commit.names.items()],
        drop_names=[keys.encode_name(name) for name in commit.drop_names],
        expire_names=[(keys.encode_name(name), _instant(at)) for name, at in commit.expire_names.items()],
        runs=[_run(run) for run in commit.runs],
        drop_runs=[keys.encode_name(run_id, "a run id") for run_id in commit.drop_runs],
        timers=[(keys.encode_name(name, "a timer name"), _instant(at)) for name, at in commit.timers.items()],
        fire=[keys.encode_name(name, "a timer name") for name in commit.fire],
        deliveries=[_delivery(delivery) for delivery in commit.deliveries],
        aliases=[(keys.encode_key(alias), leads) for alias, leads in commit.aliases.items()],
    )
    prepared.size = _size(prepared)
    return prepared


def letter(new: NewLetter) -> tuple[bytes, bytes]:
    """A letter's id and record."""
    return keys.encode_name(new.message_id, "a letter id"), records.encode_letter(new.message_id, new.body)


def _log(log: int) -> bytes:
    return keys.u64(keys.check_u64(log, "a log id"))


def _append(append: Append) -> PreparedAppend:
    stop = keys.check_u64(append.start, "a log position") + len(append.rows)
    return PreparedAppend(_log(append.log), append.start, stop, records.encode_rows(append.start, append.rows))


def _run(run: RunRecord) -> PreparedRun:
    record = records.encode_run(StoredRun(run.body, run.expires_at))
    return PreparedRun(keys.encode_name(run.run_id, "a run id"), record, _instant(run.expires_at))


def _instant(at: float | None) -> float | None:
    if at is not None:
        keys.instant(at)
    return at


def _delivery(delivery: NewDelivery) -> PreparedDelivery:
    keys.instant(delivery.due)
    attempts = keys.check_u64(delivery.attempts, "a number of attempts")
    end = dead(delivery.dead) if delivery.dead is not None else None
    lane = keys.encode_name(delivery.lane, "a lane")
    return PreparedDelivery(lane, delivery.body, delivery.due, attempts, end, delivery.unsure)


def dead(end: Dead) -> Dead:
    """An end whose texts are Unicode and not too long: they may quote a destination, and are not refused for that.

    Raises:
        ValueError: An instant is not a number.
    """
    keys.instant(end.died)
    return Dead(_readable(end.reason), _readable(end.error), end.died, _instant(end.expires_at))


def _readable(text: str) -> str:
    return text[:MAX_REASON].encode(errors="replace").decode()


def _size(prepared: Prepared) -> int:
    values: Sequence[bytes] = (
        *(body for _, body in prepared.put),
        *(value for append in prepared.append for _, value in append.values),
        *(record for _, record in prepared.letters),
        *(value for _, value in prepared.names),
        *(run.record for run in prepared.runs),
        *(delivery.body for delivery in prepared.deliveries),
    )
    others = sum(other.size for other in prepared.others)
    return sum(map(len, values)) + ROW_BYTES * (len(values) + 2) + others
