"""Letters: accepted messages, in order of acceptance, until a commit consumes them."""

from __future__ import annotations

from collections.abc import Container

from . import actors, keys
from .errors import Conflict
from .kv import Reader, Transaction
from .records import Head


def enqueue(kv: Transaction, key: bytes, message_id: bytes, record: bytes) -> bool:
    """Accept a letter for the actor that the key leads to; False if one of that id waits already."""
    key = actors.resolve(kv, key)
    found = actors.find(kv, key)
    if found is not None and kv.get(keys.row(found[0], keys.LETTER_ID, message_id)) is not None:
        return False
    number, head = found if found is not None else actors.create(kv, key)
    actors.save(kv, number, accept(kv, number, head, message_id, record))
    return True


def accept(kv: Transaction, number: bytes, head: Head, message_id: bytes, record: bytes) -> Head:
    """Add a letter behind those that wait; the head with it, which the caller saves."""
    sequence = keys.u64(head.sequence)
    kv.put(keys.row(number, keys.LETTER, sequence), record)
    kv.put(keys.row(number, keys.LETTER_ID, message_id), sequence)
    if head.letters == 0:
        kv.put(keys.WITH_LETTERS + keys.inline(head.key), number)
    return head._replace(letters=head.letters + 1, sequence=head.sequence + 1)


def check_new(kv: Reader, number: bytes | None, new: list[tuple[bytes, bytes]], consumed: Container[bytes]) -> None:
    """Refuse letters of which one waits already, and is not consumed, or comes twice."""
    seen: set[bytes] = set()
    for message_id, _ in new:
        waits = number is not None and kv.get(keys.row(number, keys.LETTER_ID, message_id)) is not None
        if message_id in seen or (waits and message_id not in consumed):
            raise Conflict("a letter of this commit waits already, or comes twice")
        seen.add(message_id)


def locate(kv: Reader, number: bytes | None, ids: list[bytes]) -> dict[bytes, bytes]:
    """The sequences of waiting letters by id.

    Raises:
        Conflict: One of them does not wait, or is named twice.
    """
    found: dict[bytes, bytes] = {}
    for letter_id in ids:
        sequence = None if number is None else kv.get(keys.row(number, keys.LETTER_ID, letter_id))
        if sequence is None or letter_id in found:
            raise Conflict("a letter of this commit does not wait (any longer)")
        found[letter_id] = sequence
    return found


def consume(kv: Transaction, number: bytes, head: Head, located: dict[bytes, bytes]) -> Head:
    """Delete letters that were located; the head with what is left, which the caller saves."""
    for letter_id, sequence in located.items():
        kv.delete(keys.row(number, keys.LETTER, sequence))
        kv.delete(keys.row(number, keys.LETTER_ID, letter_id))
    left = head.letters - len(located)
    if left == 0:
        kv.delete(keys.WITH_LETTERS + keys.inline(head.key))
    return head._replace(letters=left)
