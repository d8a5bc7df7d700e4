"""Reading: small points in one go, listings in slices of a budget of bytes.

A listing function takes where to begin, how many to give and how many bytes to read; it returns what it found
and where to go on, or None at the end. Whoever calls it reads the first slice in place and the rest
elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import merge

from . import actors, apply, dead, keys, records
from .deliveries import load
from .errors import StoreBroken
from .kv import Reader, take
from .records import Attempt, Head, StoredDeadLetter, StoredDelivery
from .values import Claim, DeadLetter, Found, Letter, Pending, RunRecord, Timer, Work

LISTED_BYTES = 256
"""What it costs to look at a delivery beside its body, roughly; for bounding a slice."""


def claim(kv: Reader, key: bytes, documents: Sequence[tuple[str, bytes]]) -> Claim:
    """A claim on the key that this one leads to, with documents."""
    key = actors.resolve(kv, key)
    found = actors.find(kv, key)
    if found is None:
        return Claim(key.decode(), actors.EPOCH, 0, b"", {}, 0)
    number, head = found
    present = _documents(kv, number, documents)
    return Claim(key.decode(), head.epoch, head.version, head.incarnation, present, head.letters)


def read(kv: Reader, key: bytes, documents: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
    """Those of the documents that exist."""
    found = actors.find(kv, key)
    return {} if found is None else _documents(kv, found[0], documents)


def _documents(kv: Reader, number: bytes, documents: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    present = {}
    for name, encoded in documents:
        body = kv.get(keys.row(number, keys.DOCUMENT, encoded))
        if body is not None:
            present[name] = body
    return present


def names(
    kv: Reader, key: bytes, of: bytes, prefix: bytes, position: bytes, limit: int, budget: int
) -> tuple[list[str], bytes | None]:
    """Names in an actor's table (`of`) with a prefix, after `position`."""
    found = actors.find(kv, key)
    if found is None:
        return [], None
    table = keys.row(found[0], of)
    start = max(table + prefix, keys.after(table, position))
    rows, more = take(kv.scan(start, table + prefix + keys.END), limit, budget)
    present = [row[len(table) :] for row, _ in rows]
    return [name.decode() for name in present], present[-1] if more else None


def log_rows(
    kv: Reader, key: bytes, log: bytes, position: int, limit: int, budget: int
) -> tuple[list[bytes], int | None]:
    """Rows of a log from `position` on."""
    found = actors.find(kv, key)
    if found is None or limit <= 0:
        return [], None
    prefix = keys.row(found[0], keys.LOG, log)
    stop = position + limit
    first = _value_with(kv, prefix, position)
    if first is None:
        return [], None
    rows: list[bytes] = []
    for row, value in kv.scan(first, prefix + keys.u64(min(stop, keys.MAX_U64))):
        start = keys.to_u64(row[-8:])
        rows += records.decode_rows(value)[max(0, position - start) : stop - start]
        budget -= len(value)
        if budget <= 0 and 0 < len(rows) < limit:
            return rows, position + len(rows)
    return rows, None


def log_length(kv: Reader, key: bytes, log: bytes) -> int:
    """The position behind a log's last row."""
    found = actors.find(kv, key)
    return 0 if found is None else apply.log_length(kv, found[0], log)


def _value_with(kv: Reader, prefix: bytes, position: int) -> bytes | None:
    """The row that holds a log's position: the last one that begins there or before."""
    for row, _ in kv.scan(prefix, prefix + keys.u64(position) + b"\0", reverse=True):
        return row
    return None


def find(kv: Reader, name: bytes) -> Found | None:
    """A global name's owner and value."""
    raw = kv.get(keys.NAMES + name)
    if raw is None:
        return None
    record = records.decode_name(raw)
    head = actors.head_of(kv, record.owner)
    return None if head is None else Found(head.key.decode(), record.value)


def run(kv: Reader, key: bytes, run_id: bytes) -> bytes | None:
    """A run's body."""
    found = actors.find(kv, actors.resolve(kv, key))
    if found is None:
        return None
    raw = kv.get(keys.row(found[0], keys.RUN, run_id))
    return None if raw is None else records.decode_run(raw).body


def runs(kv: Reader, key: bytes, position: bytes, limit: int, budget: int) -> tuple[list[RunRecord], bytes | None]:
    """A key's runs, after `position`."""
    found = actors.find(kv, actors.resolve(kv, key))
    if found is None:
        return [], None
    table = keys.row(found[0], keys.RUN)
    rows, more = take(kv.scan(keys.after(table, position), table + keys.END), limit, budget)
    result = [RunRecord(row[len(table) :].decode(), *records.decode_run(value)) for row, value in rows]
    return result, rows[-1][0][len(table) :] if more else None


def letters(kv: Reader, key: bytes, position: int, limit: int, budget: int) -> tuple[list[Letter], int | None]:
    """Waiting letters, from sequence `position` on."""
    found = actors.find(kv, key)
    if found is None:
        return [], None
    table = keys.row(found[0], keys.LETTER)
    rows, more = take(kv.scan(table + keys.u64(position), table + keys.END * 9), limit, budget)
    result = []
    for row, value in rows:
        message_id, body = records.decode_letter(value)
        result.append(Letter(message_id, keys.to_u64(row[-8:]), body))
    return result, result[-1].sequence + 1 if more else None


def deliveries(kv: Reader, position: bytes, limit: int, budget: int) -> tuple[list[Pending], bytes | None]:
    """Deliveries that are not settled, after `position` (lane, NUL, serial), lane by lane; not those being erased."""
    result: list[Pending] = []
    heads: dict[bytes, Head | None] = {}
    if limit <= 0:
        return result, None
    for entry, number in kv.scan(keys.after(keys.LANES, position), keys.LANES + keys.END):
        if number not in heads:
            heads[number] = actors.head_of(kv, number)
        head, position = heads[number], entry[1:]
        budget -= LISTED_BYTES
        if head is not None:
            result.append(_pending(position, head.key, *load(kv, number, entry[-8:])))
            budget -= len(result[-1].body)
        if len(result) == limit:
            break
        if budget <= 0:
            return result, position
    return result, None


def _pending(position: bytes, key: bytes, stored: StoredDelivery, attempt: Attempt) -> Pending:
    return Pending(
        position,
        stored.delivery_id,
        key.decode(),
        stored.lane.decode(),
        stored.body,
        attempt.attempt,
        attempt.due,
        attempt.running,
        attempt.unsure,
    )


def dead_letters(kv: Reader, position: int, limit: int, budget: int) -> tuple[list[DeadLetter], int | None]:
    """Dead letters, from `position` on; those of a key that is being erased are left out."""
    result: list[DeadLetter] = []
    if limit <= 0:
        return result, None
    for entry, number in kv.scan(keys.DEAD + keys.u64(position), keys.DEAD + keys.END * 9):
        found = dead.letter(kv, number, entry[1:])
        budget -= LISTED_BYTES
        position = keys.to_u64(entry[1:])
        if found is not None:
            result.append(_dead_letter(position, *found))
            budget -= len(result[-1].body)
        if len(result) == limit:
            break
        if budget <= 0:
            return result, position + 1
    return result, None


def dead_letter(kv: Reader, position: int) -> DeadLetter | None:
    """One dead letter."""
    found = dead.find(kv, keys.u64(position))
    return None if found is None else _dead_letter(position, *found[1:])


def _dead_letter(position: int, head: Head, letter: StoredDeadLetter) -> DeadLetter:
    return DeadLetter(
        position,
        letter.delivery_id,
        head.key.decode(),
        letter.lane.decode(),
        letter.body,
        letter.attempt,
        letter.reason,
        letter.error,
        letter.died,
        letter.expires_at,
    )


def all_keys(kv: Reader, position: bytes, limit: int, budget: int) -> tuple[list[str], bytes | None]:
    """Keys that have state, after `position` (a key as it stands in the directory)."""
    start = keys.after(keys.DIRECTORY, position)
    rows, more = take(kv.scan(start, keys.DIRECTORY + keys.END * 34), limit, budget)
    heads = (actors.head_of(kv, number) if keys.is_digest(row[1:]) else None for row, number in rows)
    result = [(head.key if head else row[1:]).decode() for head, (row, _) in zip(heads, rows, strict=True)]
    return result, rows[-1][0][1:] if more else None


def work(kv: Reader, now: float, position: bytes, limit: int) -> list[Work]:
    """Keys with letters or with a timer that is due, after `position`, in the directory's order.

    The timers that are due are few or about to be served, so they are all looked at; keys with letters come
    from their index, and no others are touched.
    """
    with_timers = sorted(_timers_due(kv, now, position).items())
    entries = kv.scan(keys.after(keys.WITH_LETTERS, position), keys.WITH_LETTERS + keys.END * 34)
    with_letters = ((row[1:], number) for row, number in entries)
    numbers: dict[bytes, bytes] = {}
    for part, number in merge(with_letters, with_timers):
        if part not in numbers and len(numbers) >= limit:
            break
        numbers[part] = number
    return [_work(kv, number) for number in numbers.values()]


def _timers_due(kv: Reader, now: float, position: bytes) -> dict[bytes, bytes]:
    due: dict[bytes, bytes] = {}
    for number in {row[9:17] for row, _ in kv.scan(keys.TIMERS, keys.up_to(keys.TIMERS, now))}:
        head = actors.head_of(kv, number)
        if head is not None and keys.inline(head.key) > position:
            due[keys.inline(head.key)] = number
    return due


def timers(kv: Reader, position: bytes, limit: int, budget: int, now: float) -> tuple[list[Timer], bytes | None]:
    """Timers that are due at `now`, after `position` (instant, actor's number, name); not those being erased."""
    result: list[Timer] = []
    if limit <= 0:
        return result, None
    for entry, _ in kv.scan(keys.after(keys.TIMERS, position), keys.up_to(keys.TIMERS, now)):
        at, number, name = keys.timer_of(entry)
        head, position = actors.head_of(kv, number), entry[1:]
        if head is not None:
            result.append(Timer(position, head.key.decode(), name.decode(), at))
        budget -= LISTED_BYTES
        if len(result) == limit:
            break
        if budget <= 0:
            return result, position
    return result, None


def next_timer(kv: Reader, start: bytes) -> float | None:
    """The earliest instant of a timer whose row is at `start` or behind it; not of a key that is being erased."""
    for entry, _ in kv.scan(start, keys.TIMERS + keys.END * 9):
        at, number, _ = keys.timer_of(entry)
        if actors.head_of(kv, number) is not None:
            return at
    return None


def _work(kv: Reader, number: bytes) -> Work:
    head = actors.head_of(kv, number)
    if head is None:
        raise StoreBroken("the index of work leads to an actor that is not there")
    table = keys.row(number, keys.TIMER)
    timers = [keys.to_instant(value) for _, value in kv.scan(table, table + keys.END)]
    return Work(head.key.decode(), head.letters, min(timers, default=None))
