"""Actors by key: the directory, their heads, aliases, and the counters that number them."""

from __future__ import annotations

import os

from . import keys, records
from .errors import BadKey, Conflict
from .kv import Reader, Transaction
from .records import AliasRecord, Counters, Head

EPOCH = 1
"""One process owns all keys of such a store, so the fencing number never changes hands."""


def number_of(kv: Reader, key: bytes) -> bytes | None:
    """A key's actor number; aliases are not followed."""
    return kv.get(keys.DIRECTORY + keys.inline(key))


def head_of(kv: Reader, number: bytes) -> Head | None:
    """An actor's head; None once it is being erased."""
    raw = kv.get(keys.row(number, keys.HEAD))
    if raw is None:
        return None
    head = records.decode_head(raw)
    return None if head.gone else head


def find(kv: Reader, key: bytes) -> tuple[bytes, Head] | None:
    """A key's actor number and head; aliases are not followed."""
    number = number_of(kv, key)
    if number is None:
        return None
    head = head_of(kv, number)
    if head is None:
        return None
    if head.key != key:
        raise BadKey("this isolation key has the digest of another one that is stored already")
    return number, head


def resolve(kv: Reader, key: bytes) -> bytes:
    """The key that a key leads to, after all aliases; they cannot form a ring, see `check_aliases`."""
    while True:
        target = _alias_target(kv, key)
        if target is None:
            return key
        key = target[1].key


def _alias_target(kv: Reader, key: bytes) -> tuple[bytes, Head] | None:
    raw = kv.get(keys.ALIASES + keys.inline(key))
    if raw is None:
        return None
    alias = records.decode_alias(raw)
    head = head_of(kv, alias.target)
    return (alias.target, head) if head is not None and alias.key == key else None


def save(kv: Transaction, number: bytes, head: Head) -> None:
    """Write an actor's head."""
    kv.put(keys.row(number, keys.HEAD), records.encode_head(head))


def advance(kv: Transaction, number: bytes, head: Head) -> Head:
    """Count as a commit what changes an actor without being one."""
    head = head._replace(version=head.version + 1)
    save(kv, number, head)
    return head


def create(kv: Transaction, key: bytes) -> tuple[bytes, Head]:
    """A new actor for a key that has none: its number and its head, which the caller saves."""
    number, head = create_hidden(kv, key)
    show(kv, number, head)
    return number, head._replace(gone=False)


def create_hidden(kv: Transaction, key: bytes) -> tuple[bytes, Head]:
    """A new actor that nobody sees: its number and its head, which the caller saves."""
    counters = read_counters(kv)
    write_counters(kv, counters._replace(actor=counters.actor + 1))
    return keys.u64(counters.actor), Head(key, EPOCH, 0, os.urandom(16), gone=True)


def show(kv: Transaction, number: bytes, head: Head) -> None:
    """Put an actor into the directory; its caller saves the head, which says that it is there."""
    counters = read_counters(kv)
    write_counters(kv, counters._replace(keys=counters.keys + 1))
    kv.put(keys.DIRECTORY + keys.inline(head.key), number)


def read_counters(kv: Reader) -> Counters:
    """The store's counters."""
    return records.decode_counters(kv.get(keys.COUNTERS))


def write_counters(kv: Transaction, counters: Counters) -> None:
    """Write the store's counters."""
    kv.put(keys.COUNTERS, records.encode_counters(counters))


def count(kv: Transaction, *, pending: int = 0, dead: int = 0) -> None:
    """Count deliveries and dead letters that came (or went, if negative)."""
    counters = read_counters(kv)
    write_counters(kv, counters._replace(pending=counters.pending + pending, dead=counters.dead + dead))


def check_aliases(kv: Reader, key: bytes, number: bytes | None, aliases: list[tuple[bytes, bool]]) -> None:
    """Refuse an alias that another actor holds, and any that could close a ring.

    A ring needs an actor that both leads somewhere and is led to by a new alias; so one that leads somewhere
    gets none.
    """
    for alias, leads in aliases:
        if not leads:
            continue
        if alias == key:
            raise Conflict("a key cannot be an alias of itself")
        held = _alias_target(kv, alias)
        if held is not None and held[0] != number:
            raise Conflict("an alias of this commit already leads to another key")
        if _alias_target(kv, key) is not None:
            raise Conflict("this key leads to another one itself, so no alias can lead to it")


def set_aliases(kv: Transaction, number: bytes, aliases: list[tuple[bytes, bool]]) -> None:
    """Let other keys lead here, or no longer."""
    for alias, leads in aliases:
        if leads:
            kv.put(keys.ALIASES + keys.inline(alias), records.encode_alias(AliasRecord(alias, number)))
            kv.put(keys.row(number, keys.ALIAS, keys.inline(alias)), alias)
        else:
            drop_alias(kv, number, alias)


def drop_alias(kv: Transaction, number: bytes, alias: bytes) -> None:
    """Let a key no longer lead here; one that leads elsewhere is left alone."""
    if kv.delete(keys.row(number, keys.ALIAS, keys.inline(alias))):
        entry = keys.ALIASES + keys.inline(alias)
        raw = kv.get(entry)
        if raw is not None and records.decode_alias(raw).target == number:
            kv.delete(entry)


def leave(kv: Transaction, key: bytes) -> bool:
    """Take away the alias by which this key leads elsewhere; whether there was one."""
    raw = kv.get(keys.ALIASES + keys.inline(key))
    if raw is None:
        return False
    drop_alias(kv, records.decode_alias(raw).target, key)
    return True
