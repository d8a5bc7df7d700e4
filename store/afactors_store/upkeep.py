"""Retention and erasing, in bounded slices.

An erase begins by taking the key off the directory, in one transaction: from then on nobody sees the actor, a
claim on it is fenced, and a new letter begins a new actor. Its rows go in slices after that. A crash or a
cancellation in the middle leaves an entry in the index of unfinished erasures, and `expire` finishes what is
listed there. A key that is being restored stands there, too, with a token that says so: while its restoring is
under way (`restoring` has the token), its rows are spared.
"""

from __future__ import annotations

from collections.abc import Container
from itertools import islice

from . import actors, apply, dead, deliveries, keys
from .kv import Reader, Transaction, take

SLICE_ROWS = 512
SLICE_BYTES = 4 * 1024 * 1024


def any_expired(kv: Reader, now: float, restoring: Container[bytes] = ()) -> bool:
    """Whether `expire` has anything to do: asked first, for it would be a write transaction for nothing."""
    for _ in kv.scan(keys.EXPIRY, keys.up_to(keys.EXPIRY, now)):
        return True
    return _unfinished(kv, restoring) is not None


def expire(kv: Transaction, now: float, limit: int, restoring: Container[bytes] = ()) -> int:
    """Delete at most `limit` rows whose time is over, and rows of erasures that were cut short; how many."""
    expired = [key for key, _ in islice(kv.scan(keys.EXPIRY, keys.up_to(keys.EXPIRY, now)), max(0, limit))]
    deleted = 0
    for key in expired:
        if deleted < limit:
            deleted += _expire(kv, key, limit - deleted)
    number = _unfinished(kv, restoring)
    if number is None or deleted >= limit:
        return deleted
    return deleted + erase_slice(kv, number, limit - deleted)


def _expire(kv: Transaction, entry: bytes, limit: int) -> int:
    number, what = entry[9:17], entry[17:]
    kind, name = what[:2], what[2:]
    if kind == keys.EXPIRING_LOG:
        return _expire_log(kv, number, name, limit)
    if kind == keys.EXPIRING_NAME:
        apply.drop_name(kv, number, name)
    elif kind == keys.EXPIRING_DEAD:
        dead.drop(kv, number, name)
    else:
        apply.drop_run(kv, number, what)
    kv.delete(entry)
    return 1


def _expire_log(kv: Transaction, number: bytes, log: bytes, limit: int) -> int:
    """Delete a log's last rows, and its expiry with its first one: what is left is a log, only shorter."""
    prefix = keys.row(number, keys.LOG, log)
    rows = list(islice(kv.scan(prefix, prefix + keys.END * 9, reverse=True), limit))
    for key, _ in rows:
        kv.delete(key)
    if not apply.log_length(kv, number, log):
        apply.set_instant(kv, number, keys.EXPIRES, keys.EXPIRING_LOG + log, None)
    return len(rows)


def _unfinished(kv: Reader, restoring: Container[bytes]) -> bytes | None:
    for key, token in kv.scan(keys.ERASING, keys.ERASING + keys.END * 9):
        if token not in restoring:
            return key[1:]
    return None


def begin_erase(kv: Transaction, key: bytes) -> tuple[bool, bytes | None]:
    """Hide a key's actor; whether the key had anything, and the number whose rows are to go."""
    led = actors.leave(kv, key)
    found = actors.find(kv, key)
    if found is None:
        return led, None
    number, head = found
    kv.delete(keys.DIRECTORY + keys.inline(key))
    kv.delete(keys.WITH_LETTERS + keys.inline(key))
    kv.put(keys.ERASING + number, b"")
    actors.save(kv, number, head._replace(gone=True))
    counters = actors.read_counters(kv)
    actors.write_counters(kv, counters._replace(keys=counters.keys - 1))
    return True, number


def erase_slice(kv: Transaction, number: bytes, limit: int = SLICE_ROWS) -> int:
    """Delete some of a hidden actor's rows, with their index rows; 0 when the last of them is gone."""
    _, stop = keys.rows_of(number)
    first = keys.row(number, keys.HEAD) + b"\0"  # the head goes last
    rows, _ = take(kv.scan(first, stop), limit, SLICE_BYTES)
    for key, value in rows:
        _erase_row(kv, number, key, value)
    if not rows:
        kv.delete(keys.row(number, keys.HEAD))
        kv.delete(keys.ERASING + number)
    return len(rows)


def _erase_row(kv: Transaction, number: bytes, key: bytes, value: bytes) -> None:
    table, rest = key[9:10], key[10:]
    if table == keys.DELIVERY:
        deliveries.remove(kv, number, rest)
    elif table == keys.DEAD_LETTER:
        dead.drop(kv, number, rest)
    elif table == keys.NAME:
        apply.drop_name(kv, number, rest)
    elif table == keys.ALIAS:
        actors.drop_alias(kv, number, value)
    elif table == keys.RUN:
        apply.drop_run(kv, number, rest)
    elif table in (keys.TIMER, keys.EXPIRES):
        apply.set_instant(kv, number, table, rest, None)
    else:
        kv.delete(key)
