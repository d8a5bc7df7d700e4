"""One key as a whole: told slice by slice as commits that would write it, and made of such slices again.

A key that is being made is a hidden actor, as one that is being erased is: its number stands in the index of
unfinished erasures, with a token for as long as somebody is at it. So whatever cuts it short leaves an erasure that
`expire` finishes. With its last change, in one transaction, it gets the key, and is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from . import actors, apply, deliveries, keys, records
from .errors import Conflict, StoreBroken
from .kv import Reader, Transaction, take
from .prepare import Prepared
from .records import Head
from .values import Append, Commit, Committed, Dead, NewDelivery, NewLetter, RunRecord, Slice

ADDING = (
    "put",
    "append",
    "trim",
    "expire_logs",
    "letters",
    "names",
    "expire_names",
    "runs",
    "timers",
    "deliveries",
    "aliases",
)
"""The fields of a commit that a slice may have: those that add."""

_MANY = 1 << 30  # rows: it is the budget that ends a slice


# -- telling


def snapshot(kv: Reader, key: bytes, position: bytes, budget: int) -> Slice:
    """What a key's rows after `position` hold, up to about `budget` bytes."""
    found = actors.find(kv, key)
    if found is None:
        return Slice(Commit(), None)
    number = found[0]
    prefix, stop = keys.rows_of(number)
    rows, more = take(kv.scan(keys.after(prefix, position), stop), _MANY, budget)
    told: dict[str, Any] = {}
    for row, value in rows:
        tell = _TOLD.get(row[9:10])
        if tell is not None:
            for name, part in tell(kv, number, row[10:], value).items():
                _add(told, name, part)
    return Slice(Commit(**told), rows[-1][0][9:] if more else None)


def _add(told: dict[str, Any], name: str, part: Any) -> None:
    """Add to one field of a commit: a map takes entries, any other takes one value more."""
    if isinstance(part, dict):
        told.setdefault(name, {}).update(part)
    else:
        told.setdefault(name, []).append(part)


def _document(_kv: Reader, _number: bytes, rest: bytes, value: bytes) -> Mapping[str, Any]:
    return {"put": {rest.decode(): value}}


def _log(kv: Reader, number: bytes, rest: bytes, value: bytes) -> Mapping[str, Any]:
    log, start = keys.to_u64(rest[:8]), keys.to_u64(rest[8:])
    told: dict[str, Any] = {"append": Append(log, start, records.decode_rows(value))}
    if start == apply.log_start(kv, number, rest[:8]):
        if start:
            told["trim"] = {log: start}
        if (expiry := kv.get(keys.row(number, keys.EXPIRES, keys.EXPIRING_LOG + rest[:8]))) is not None:
            told["expire_logs"] = {log: keys.to_instant(expiry)}
    return told


def _letter(_kv: Reader, _number: bytes, _rest: bytes, value: bytes) -> Mapping[str, Any]:
    return {"letters": NewLetter(*records.decode_letter(value))}


def _name(kv: Reader, number: bytes, rest: bytes, _value: bytes) -> Mapping[str, Any]:
    name, raw = rest.decode(), kv.get(keys.NAMES + rest)
    if raw is None:
        raise StoreBroken("a key holds a name that is not there")
    told = {"names": {name: records.decode_name(raw).value}}
    expiry = kv.get(keys.row(number, keys.EXPIRES, keys.EXPIRING_NAME + rest))
    return told if expiry is None else {**told, "expire_names": {name: keys.to_instant(expiry)}}


def _run(_kv: Reader, _number: bytes, rest: bytes, value: bytes) -> Mapping[str, Any]:
    return {"runs": RunRecord(rest.decode(), *records.decode_run(value))}


def _timer(_kv: Reader, _number: bytes, rest: bytes, value: bytes) -> Mapping[str, Any]:
    return {"timers": {rest.decode(): keys.to_instant(value)}}


def _alias(_kv: Reader, _number: bytes, _rest: bytes, value: bytes) -> Mapping[str, Any]:
    return {"aliases": {value.decode(): True}}


def _delivery(kv: Reader, number: bytes, rest: bytes, _value: bytes) -> Mapping[str, Any]:
    return {"deliveries": deliveries.waiting(kv, number, rest)}


def _dead_letter(_kv: Reader, _number: bytes, _rest: bytes, value: bytes) -> Mapping[str, Any]:
    letter = records.decode_dead_letter(value)
    end = Dead(letter.reason, letter.error, letter.died, letter.expires_at)
    return {"deliveries": NewDelivery(letter.lane.decode(), letter.body, 0.0, letter.attempt, end)}


_TOLD: Mapping[bytes, Callable[[Reader, bytes, bytes, bytes], Mapping[str, Any]]] = {
    keys.ALIAS: _alias,
    keys.DOCUMENT: _document,
    keys.LOG: _log,
    keys.LETTER: _letter,
    keys.NAME: _name,
    keys.DELIVERY: _delivery,
    keys.RUN: _run,
    keys.TIMER: _timer,
    keys.DEAD_LETTER: _dead_letter,
}
"""What each kind of row adds to a commit. The others (the head, expiries, ids, attempts) belong to one of these."""


# -- making


def parted(commit: Commit) -> tuple[Commit, Commit]:
    """What of a slice is written at once, and what is kept for the end.

    Raises:
        Conflict: It does more than add.
    """
    given = {field.name: getattr(commit, field.name) for field in fields(Commit)}
    for name, value in given.items():
        if value and name not in ADDING:
            raise Conflict(f"a slice only adds to a key, and this one has {name}")
    if not all(commit.aliases.values()):
        raise Conflict("a slice only adds to a key, and this one takes an alias away")
    kept = Commit(letters=commit.letters, deliveries=commit.deliveries, aliases=commit.aliases)
    return replace(commit, letters=(), deliveries=(), aliases={}), kept


def joined(kept: Sequence[Commit]) -> Commit:
    """What is kept of all slices."""
    return Commit(
        letters=[letter for one in kept for letter in one.letters],
        deliveries=[delivery for one in kept for delivery in one.deliveries],
        aliases={alias: leads for one in kept for alias, leads in one.aliases.items()},
    )


def begin(kv: Transaction, key: bytes, token: bytes) -> bytes:
    """A hidden actor for a key that has none; its number."""
    _check_free(kv, key)
    number, head = actors.create_hidden(kv, key)
    actors.save(kv, number, head)
    kv.put(keys.ERASING + number, token)
    return number


def add(kv: Transaction, number: bytes, prepared: Prepared, store_id: bytes) -> None:
    """Write a slice of a hidden actor."""
    head = _hidden(kv, number)
    apply.write(kv, number, head, prepared, apply.check(kv, number, prepared), store_id)


def finish(kv: Transaction, number: bytes, kept: Prepared, store_id: bytes) -> Committed:
    """Write what was kept, and show the actor: from here on it has the key."""
    head = _hidden(kv, number)
    _check_free(kv, head.key)
    _check_names(kv, number)
    apply.check(kv, number, kept)
    kv.delete(keys.ERASING + number)
    actors.show(kv, number, head)
    return apply.write(kv, number, head._replace(gone=False), kept, {}, store_id)


def _check_free(kv: Reader, key: bytes) -> None:
    if actors.find(kv, key) is not None:
        raise Conflict("this key has state")
    if actors.resolve(kv, key) != key:
        raise Conflict("this key leads to another one")


def _check_names(kv: Reader, number: bytes) -> None:
    """Refuse to go on if a name of a hidden actor was taken: it was free for all."""
    table = keys.row(number, keys.NAME)
    for row, _ in kv.scan(table, table + keys.END):
        raw = kv.get(keys.NAMES + row[len(table) :])
        if raw is None or records.decode_name(raw).owner != number:
            raise Conflict("a name of this key is held by another key")


def _hidden(kv: Reader, number: bytes) -> Head:
    raw = kv.get(keys.row(number, keys.HEAD))
    if raw is None:
        raise Conflict("the key was removed while it was being restored")
    return records.decode_head(raw)
