"""Deliveries: ordered lanes of outgoing messages, of which only the head is ever due.

A lane is ordered by the order of commits, across keys. Its head, the oldest delivery that is not settled,
stands in the index of heads under its due time; no other delivery does. A take counts an attempt and moves
the due time forward, so one field is both visibility timeout and retry timer.

To be fair, a delivery that becomes head is due no earlier than its lane was last served: the lanes that have
waited longer come before it, however long its own lane is.
"""

from __future__ import annotations

from itertools import islice

from . import actors, keys, records
from .errors import StoreBroken
from .kv import Reader, Transaction
from .prepare import PreparedDelivery
from .protocol import Dead, Delivered, Delivery, NewDelivery, Retry, Settlement
from .records import Attempt, Head, StoredDeadLetter, StoredDelivery


def append(kv: Transaction, number: bytes, head: Head, new: list[PreparedDelivery], store_id: bytes) -> tuple[str, ...]:
    """Add deliveries at the ends of their lanes; their ids, in their order."""
    counters = actors.read_counters(kv)
    ids = tuple(keys.delivery_id(store_id, head.incarnation, head.version, n) for n in range(len(new)))
    for n, delivery in enumerate(new):
        serial = keys.u64(counters.delivery + n)
        if delivery.dead is None:
            _append(kv, number, serial, ids[n], delivery)
        else:
            dead = StoredDeadLetter(ids[n], delivery.lane, delivery.body, delivery.attempts, delivery.dead)
            _bury(kv, number, serial, dead)
    actors.write_counters(kv, counters._replace(delivery=counters.delivery + len(new)))
    return ids


def _append(kv: Transaction, number: bytes, serial: bytes, delivery_id: str, delivery: PreparedDelivery) -> None:
    if lane_head(kv, delivery.lane) is None:
        kv.put(keys.head_entry(delivery.due, serial), number)
    stored = StoredDelivery(delivery_id, delivery.lane, delivery.body)
    kv.put(keys.row(number, keys.DELIVERY, serial), records.encode_delivery(stored))
    kv.put(keys.row(number, keys.ATTEMPT, serial), records.encode_attempt(Attempt(delivery.due, delivery.attempts)))
    kv.put(keys.lane_prefix(delivery.lane) + serial, number)


def _bury(kv: Transaction, number: bytes, serial: bytes, dead: StoredDeadLetter) -> None:
    kv.put(keys.row(number, keys.DEAD_LETTER, serial), records.encode_dead_letter(dead))
    kv.put(keys.DEAD + serial, number)


def lane_head(kv: Reader, lane: bytes) -> tuple[bytes, bytes] | None:
    """The serial and the actor number of a lane's oldest delivery."""
    prefix = keys.lane_prefix(lane)
    for key, number in kv.scan(prefix, prefix + keys.END * 9):
        return key[-8:], number
    return None


def any_due(kv: Reader, now: float) -> bool:
    """Whether a head is due: asked before a take, which would be a write transaction for nothing."""
    earliest = next_due(kv)
    return earliest is not None and earliest <= now


def next_due(kv: Reader) -> float | None:
    """The earliest instant at which a head is due."""
    for key, _ in kv.scan(keys.HEADS, keys.HEADS + keys.END * 17):
        return keys.to_instant(key[1:9])
    return None


def take_due(kv: Transaction, now: float, limit: int, visibility: float) -> list[Delivery]:
    """Take heads that are due, those that waited longest first."""
    heads = list(islice(kv.scan(keys.HEADS, keys.up_to(keys.HEADS, now)), max(0, limit)))
    taken = (_take(kv, key[-8:], number, now, visibility) for key, number in heads)
    return [delivery for delivery in taken if delivery is not None]


def _take(kv: Transaction, serial: bytes, number: bytes, now: float, visibility: float) -> Delivery | None:
    head = actors.head_of(kv, number)
    if head is None:  # its key is being erased
        remove(kv, number, serial)
        return None
    stored, attempt = _load(kv, number, serial)
    taken = Attempt(now + visibility, attempt.attempt + 1, now, True)
    _reschedule(kv, number, serial, attempt, taken)
    return Delivery(stored.delivery_id, head.key.decode(), stored.lane.decode(), stored.body, taken.attempt)


def settle(kv: Transaction, lane: bytes, delivery_id: str, attempt_number: int, outcome: Settlement) -> None:
    """End an attempt, if it is the one that runs; only a lane's head can have one."""
    found = lane_head(kv, lane)
    if found is None:
        return
    serial, number = found
    stored, attempt = _load(kv, number, serial)
    if stored.delivery_id != delivery_id or attempt.attempt != attempt_number or not attempt.running:
        return
    match outcome:
        case Delivered():
            remove(kv, number, serial)
        case Retry(at):
            _reschedule(kv, number, serial, attempt, attempt._replace(due=at, running=False))
        case Dead(reason):
            remove(kv, number, serial)
            dead = StoredDeadLetter(stored.delivery_id, lane, stored.body, attempt.attempt, reason)
            _bury(kv, number, serial, dead)


def remove(kv: Transaction, number: bytes, serial: bytes) -> None:
    """Delete a delivery; if it was its lane's head, the next one becomes it."""
    stored, attempt = _load(kv, number, serial)
    head = lane_head(kv, stored.lane)
    kv.delete(keys.row(number, keys.DELIVERY, serial))
    kv.delete(keys.row(number, keys.ATTEMPT, serial))
    kv.delete(keys.lane_prefix(stored.lane) + serial)
    if head is not None and head[0] == serial:
        kv.delete(keys.head_entry(attempt.due, serial))
        _promote(kv, stored.lane, attempt.taken)


def _promote(kv: Transaction, lane: bytes, served: float) -> None:
    found = lane_head(kv, lane)
    if found is None:
        return
    serial, number = found
    _, attempt = _load(kv, number, serial)
    _reschedule(kv, number, serial, attempt, attempt._replace(due=max(attempt.due, served)))


def _reschedule(kv: Transaction, number: bytes, serial: bytes, old: Attempt, new: Attempt) -> None:
    kv.delete(keys.head_entry(old.due, serial))
    kv.put(keys.head_entry(new.due, serial), number)
    kv.put(keys.row(number, keys.ATTEMPT, serial), records.encode_attempt(new))


def waiting(kv: Reader, number: bytes, serial: bytes) -> NewDelivery:
    """A delivery that is not settled, as it would be handed over anew; one that runs is due when it is given up."""
    stored, attempt = _load(kv, number, serial)
    return NewDelivery(stored.lane.decode(), stored.body, attempt.due, attempt.attempt)


def _load(kv: Reader, number: bytes, serial: bytes) -> tuple[StoredDelivery, Attempt]:
    delivery = kv.get(keys.row(number, keys.DELIVERY, serial))
    attempt = kv.get(keys.row(number, keys.ATTEMPT, serial))
    if delivery is None or attempt is None:
        raise StoreBroken("a lane leads to a delivery that is not there")
    return records.decode_delivery(delivery), records.decode_attempt(attempt)
