"""Applying a commit: first everything is checked, by reading alone; then everything is written.

So a commit that is refused has changed nothing, and the batch that it is in goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from . import actors, deliveries, keys, letters, records
from .errors import Conflict, Fenced
from .kv import Reader, Transaction, delete_range
from .prepare import Prepared
from .records import Head, NameRecord
from .values import Committed

_ENTRIES = {keys.TIMER: keys.timer_entry, keys.EXPIRES: keys.expiry_entry}


def commit(kv: Transaction, prepared: Prepared, store_id: bytes) -> Committed:
    """Apply a commit.

    Raises:
        Fenced: The claim is stale.
        Conflict: The commit contradicts what is stored.
    """
    found = actors.find(kv, prepared.key)
    number = found[0] if found is not None else None
    _check_claim(found[1] if found is not None else None, prepared)
    consumed = check(kv, number, prepared)

    number, head = found if found is not None else actors.create(kv, prepared.key)
    done = write(kv, number, head, prepared, consumed, store_id)
    for other in prepared.others:
        commit(kv, replace(other, key=actors.resolve(kv, other.key)), store_id)
    return done


def check(kv: Reader, number: bytes | None, prepared: Prepared) -> dict[bytes, bytes]:
    """Refuse what contradicts what is stored of an actor; the sequences of the letters that are consumed.

    Raises:
        Conflict: Something does.
    """
    _check_logs(kv, number, prepared)
    _check_names(kv, number, prepared)
    _check_timers(kv, number, prepared.fire)
    actors.check_aliases(kv, prepared.key, number, prepared.aliases)
    consumed = letters.locate(kv, number, prepared.consume)
    letters.check_new(kv, number, prepared.letters, consumed)
    return consumed


def write(
    kv: Transaction, number: bytes, head: Head, prepared: Prepared, consumed: dict[bytes, bytes], store_id: bytes
) -> Committed:
    """Write what was checked: everything but what is for other keys."""
    head = head._replace(version=head.version + 1)
    _write_documents(kv, number, prepared)
    _write_logs(kv, number, prepared)
    _write_names(kv, number, prepared)
    _write_expiries(kv, number, prepared)
    _write_runs(kv, number, prepared)
    for name in prepared.fire:
        set_instant(kv, number, keys.TIMER, name, None)
    for name, at in prepared.timers:
        set_instant(kv, number, keys.TIMER, name, at)
    if consumed:
        head = letters.consume(kv, number, head, consumed)
    for message_id, record in prepared.letters:
        head = letters.accept(kv, number, head, message_id, record)
    ids = deliveries.append(kv, number, head, prepared.deliveries, store_id) if prepared.deliveries else ()
    actors.set_aliases(kv, number, prepared.aliases)
    actors.save(kv, number, head)
    return Committed(head.version, ids)


def log_length(kv: Reader, number: bytes, log: bytes) -> int:
    """How many rows a log has; 0 if there is none."""
    prefix = keys.row(number, keys.LOG, log)
    for key, value in kv.scan(prefix, prefix + keys.END * 9, reverse=True):
        return keys.to_u64(key[-8:]) + records.count_rows(value)
    return 0


def log_start(kv: Reader, number: bytes, log: bytes) -> int:
    """The position of a log's first row; 0 if there is none."""
    prefix = keys.row(number, keys.LOG, log)
    for key, _ in kv.scan(prefix, prefix + keys.END * 9):
        return keys.to_u64(key[-8:])
    return 0


def _check_claim(head: Head | None, prepared: Prepared) -> None:
    epoch = actors.EPOCH if head is None else head.epoch
    if prepared.epoch != epoch:
        raise Fenced(f"the claim has epoch {prepared.epoch}, the key has {epoch}")
    # A claim on a key that was never written has no incarnation, and stays good for its first commits.
    if prepared.incarnation and (head is None or head.incarnation != prepared.incarnation):
        raise Fenced("the key was erased since it was claimed")


def _check_logs(kv: Reader, number: bytes | None, prepared: Prepared) -> None:
    lengths = dict.fromkeys(prepared.drop_logs, 0)
    firsts = dict(prepared.trim)
    if any(append.log == log for append in prepared.append for log, _ in prepared.truncate):
        raise Conflict("a log that is truncated and appended to at once")
    for append in prepared.append:
        length = lengths.get(append.log)
        if length is None:
            length = 0 if number is None else log_length(kv, number, append.log)
        if append.start != length and (length or append.start != firsts.get(append.log)):
            raise Conflict(f"rows for position {append.start} of a log that has {length}")
        lengths[append.log] = append.stop


def _check_names(kv: Reader, number: bytes | None, prepared: Prepared) -> None:
    for name, _ in prepared.names:
        raw = kv.get(keys.NAMES + name)
        if raw is None:
            continue
        owner = records.decode_name(raw).owner
        if owner != number and actors.head_of(kv, owner) is not None:
            raise Conflict("a name of this commit is held by another key")


def _check_timers(kv: Reader, number: bytes | None, fired: Sequence[bytes]) -> None:
    for name in fired:
        if number is None or kv.get(keys.row(number, keys.TIMER, name)) is None:
            raise Conflict("a timer of this commit is not set (any longer)")


def _write_documents(kv: Transaction, number: bytes, prepared: Prepared) -> None:
    for name in prepared.delete:
        kv.delete(keys.row(number, keys.DOCUMENT, name))
    for name, body in prepared.put:
        kv.put(keys.row(number, keys.DOCUMENT, name), body)


def _write_logs(kv: Transaction, number: bytes, prepared: Prepared) -> None:
    for log in prepared.drop_logs:
        prefix = keys.row(number, keys.LOG, log)
        delete_range(kv, prefix, prefix + keys.END * 9)
        set_instant(kv, number, keys.EXPIRES, keys.EXPIRING_LOG + log, None)
    for log, length in prepared.truncate:
        _truncate(kv, keys.row(number, keys.LOG, log), length)
    for append in prepared.append:
        for start, value in append.values:
            kv.put(keys.row(number, keys.LOG, append.log, keys.u64(start)), value)
    for log, first in prepared.trim:
        _trim(kv, number, log, first)


def _truncate(kv: Transaction, prefix: bytes, length: int) -> None:
    """Leave the first `length` rows of a log; a value that holds more of them is written anew."""
    end = prefix + keys.u64(length)
    for key, value in kv.scan(prefix, end, reverse=True):
        start = keys.to_u64(key[-8:])
        if start + records.count_rows(value) > length:
            for at, kept in records.encode_rows(start, records.decode_rows(value)[: length - start]):
                kv.put(prefix + keys.u64(at), kept)
        break
    delete_range(kv, end, prefix + keys.END * 9)


def _trim(kv: Transaction, number: bytes, log: bytes, first: int) -> None:
    """Leave a log's rows from `first` on; a value that holds earlier ones, too, is written anew."""
    prefix = keys.row(number, keys.LOG, log)
    for key, value in kv.scan(prefix, prefix + keys.u64(first), reverse=True):
        start = keys.to_u64(key[-8:])
        for at, kept in records.encode_rows(first, records.decode_rows(value)[first - start :]):
            kv.put(prefix + keys.u64(at), kept)
        break
    delete_range(kv, prefix, prefix + keys.u64(first))
    if not log_length(kv, number, log):
        set_instant(kv, number, keys.EXPIRES, keys.EXPIRING_LOG + log, None)


def _write_names(kv: Transaction, number: bytes, prepared: Prepared) -> None:
    for name in prepared.drop_names:
        drop_name(kv, number, name)
    for name, value in prepared.names:
        kv.put(keys.NAMES + name, records.encode_name(NameRecord(number, value)))
        kv.put(keys.row(number, keys.NAME, name), b"")
        set_instant(kv, number, keys.EXPIRES, keys.EXPIRING_NAME + name, None)


def drop_name(kv: Transaction, number: bytes, name: bytes) -> None:
    """Remove a global name of this actor; one that another holds is left alone."""
    if kv.delete(keys.row(number, keys.NAME, name)):
        set_instant(kv, number, keys.EXPIRES, keys.EXPIRING_NAME + name, None)
        raw = kv.get(keys.NAMES + name)
        if raw is not None and records.decode_name(raw).owner == number:
            kv.delete(keys.NAMES + name)


def _write_expiries(kv: Transaction, number: bytes, prepared: Prepared) -> None:
    for log, at in prepared.expire_logs:
        if log_length(kv, number, log):
            set_instant(kv, number, keys.EXPIRES, keys.EXPIRING_LOG + log, at)
    for name, at in prepared.expire_names:
        if kv.get(keys.row(number, keys.NAME, name)) is not None:
            set_instant(kv, number, keys.EXPIRES, keys.EXPIRING_NAME + name, at)


def _write_runs(kv: Transaction, number: bytes, prepared: Prepared) -> None:
    for run_id in prepared.drop_runs:
        drop_run(kv, number, run_id)
    for run in prepared.runs:
        drop_run(kv, number, run.run_id)
        kv.put(keys.row(number, keys.RUN, run.run_id), run.record)
        if run.expires_at is not None:
            kv.put(keys.expiry_entry(run.expires_at, number, run.run_id), b"")


def drop_run(kv: Transaction, number: bytes, run_id: bytes) -> None:
    """Remove a run and its place in the index of expiry."""
    row = keys.row(number, keys.RUN, run_id)
    raw = kv.get(row)
    if raw is None:
        return
    expires_at = records.decode_run(raw).expires_at
    if expires_at is not None:
        kv.delete(keys.expiry_entry(expires_at, number, run_id))
    kv.delete(row)


def set_instant(kv: Transaction, number: bytes, table: bytes, name: bytes, at: float | None) -> None:
    """Put a timer or an expiry (`table`) at an instant, or nowhere, in the actor's row and in the index."""
    row, entry = keys.row(number, table, name), _ENTRIES[table]
    raw = kv.get(row)
    if raw is not None:
        kv.delete(entry(keys.to_instant(raw), number, name))
        kv.delete(row)
    if at is not None:
        kv.put(row, keys.instant(at))
        kv.put(entry(at, number, name), b"")
