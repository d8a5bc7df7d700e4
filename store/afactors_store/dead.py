"""Dead letters: deliveries that will not be tried again by themselves, until they expire or somebody decides."""

from __future__ import annotations

from collections.abc import Sequence

from . import actors, keys, records
from .kv import Reader, Transaction
from .records import Head, StoredDeadLetter


def bury(kv: Transaction, number: bytes, serial: bytes, letter: StoredDeadLetter) -> None:
    """Add a dead letter."""
    kv.put(keys.row(number, keys.DEAD_LETTER, serial), records.encode_dead_letter(letter))
    kv.put(keys.DEAD + serial, number)
    if letter.expires_at is not None:
        kv.put(_expiry(letter.expires_at, number, serial), b"")
    actors.count(kv, dead=1)


def drop(kv: Transaction, number: bytes, serial: bytes) -> None:
    """Remove a dead letter."""
    row = keys.row(number, keys.DEAD_LETTER, serial)
    raw = kv.get(row)
    if raw is None:
        return
    expires_at = records.decode_dead_letter(raw).expires_at
    if expires_at is not None:
        kv.delete(_expiry(expires_at, number, serial))
    kv.delete(keys.DEAD + serial)
    kv.delete(row)
    actors.count(kv, dead=-1)


def purge(kv: Transaction, serials: Sequence[bytes]) -> int:
    """Remove dead letters; how many of these were there."""
    purged = 0
    for serial in serials:
        found = find(kv, serial)
        if found is not None:
            drop(kv, found[0], serial)
            purged += 1
    return purged


def find(kv: Reader, serial: bytes) -> tuple[bytes, Head, StoredDeadLetter] | None:
    """A dead letter, its actor's number and head."""
    number = kv.get(keys.DEAD + serial)
    found = None if number is None else letter(kv, number, serial)
    return None if number is None or found is None else (number, *found)


def letter(kv: Reader, number: bytes, serial: bytes) -> tuple[Head, StoredDeadLetter] | None:
    """A dead letter of this actor, and the actor's head; None once it is being erased."""
    head = actors.head_of(kv, number)
    raw = kv.get(keys.row(number, keys.DEAD_LETTER, serial))
    return None if head is None or raw is None else (head, records.decode_dead_letter(raw))


def _expiry(at: float, number: bytes, serial: bytes) -> bytes:
    return keys.expiry_entry(at, number, keys.EXPIRING_DEAD + serial)
