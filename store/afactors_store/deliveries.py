"""Deliveries: ordered lanes of outgoing messages, of which only the head is ever due.

A lane is ordered by the order of commits, across keys. Its head, the oldest delivery that is not settled,
stands in the index of heads under its due time; no other delivery does. A take counts an attempt and moves
the due time forward, so one field is both visibility timeout and retry timer.

To be fair, a delivery that becomes head is due no earlier than its lane was last served: the lanes that have
waited longer come before it, however long its own lane is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TypeAlias

from . import actors, dead, keys, records
from .errors import StoreBroken
from .kv import Reader, Transaction, delete_range
from .prepare import PreparedDelivery
from .records import Attempt, Head, StoredDeadLetter, StoredDelivery
from .values import Dead, Delivered, Delivery, NewDelivery, Postponed, Retry, Settlement, TakeNext

Settling: TypeAlias = tuple[bytes, Delivery, Settlement]
"""An attempt that is to end: its lane, the delivery as it was taken, and what became of it."""

# -- coming


def append(kv: Transaction, number: bytes, head: Head, new: list[PreparedDelivery], store_id: bytes) -> tuple[str, ...]:
    """Add deliveries at the ends of their lanes; their ids, in their order."""
    counters = actors.read_counters(kv)
    pending = counters.pending + sum(delivery.dead is None for delivery in new)
    actors.write_counters(kv, counters._replace(delivery=counters.delivery + len(new), pending=pending))
    ids = tuple(keys.delivery_id(store_id, head.incarnation, head.version, n) for n in range(len(new)))
    for n, delivery in enumerate(new):
        serial = keys.u64(counters.delivery + n)
        lane, body, due, attempts, end, unsure = delivery
        if end is None:
            _append(kv, number, serial, StoredDelivery(ids[n], lane, body, due, attempts, unsure))
        else:
            dead.bury(kv, number, serial, _dead_letter(ids[n], lane, body, attempts, end))
    return ids


def _append(kv: Transaction, number: bytes, serial: bytes, stored: StoredDelivery) -> None:
    if lane_head(kv, stored.lane) is None:
        kv.put(keys.head_entry(stored.lane, stored.due, serial), number)
    kv.put(keys.row(number, keys.DELIVERY, serial), records.encode_delivery(stored))
    kv.put(keys.lane_prefix(stored.lane) + serial, number)


def _dead_letter(delivery_id: str, lane: bytes, body: bytes, attempts: int, end: Dead) -> StoredDeadLetter:
    return StoredDeadLetter(delivery_id, lane, body, attempts, end.reason, end.error, end.died, end.expires_at)


def revive(kv: Transaction, serial: bytes, due: float, body: bytes | None, store_id: bytes) -> str | None:
    """Make a dead letter the last delivery of its lane; its new id, or None if there is no such dead letter."""
    found = dead.find(kv, serial)
    if found is None:
        return None
    number, head, letter = found
    dead.drop(kv, number, serial)
    head = actors.advance(kv, number, head)  # ids are made of the version, so each needs one of its own
    again = PreparedDelivery(letter.lane, letter.body if body is None else body, due, 0, None, False)
    return append(kv, number, head, [again], store_id)[0]


# -- looking


def lane_head(kv: Reader, lane: bytes) -> tuple[bytes, bytes] | None:
    """The serial and the actor number of a lane's oldest delivery."""
    prefix = keys.lane_prefix(lane)
    for key, number in kv.scan(prefix, prefix + keys.END * 9):
        return key[-8:], number
    return None


def any_due(kv: Reader, now: float, group: bytes | None) -> bool:
    """Whether a head is due: asked before a take, which would be a write transaction for nothing."""
    earliest = next_due(kv, group)
    return earliest is not None and earliest <= now


def any_running(kv: Reader) -> bool:
    """Whether an attempt runs: asked before they are given up, for the same reason."""
    return any(True for _ in kv.scan(keys.RUNNING, keys.RUNNING + keys.END * 9))


def next_due(kv: Reader, group: bytes | None) -> float | None:
    """The earliest instant at which a head is due, of a group or of all."""
    wanted = [group] if group is not None else groups(kv)
    return min((keys.to_instant(key[-16:-8]) for one in wanted for key in _heads(kv, one, 1)), default=None)


def groups(kv: Reader) -> list[bytes]:
    """The groups that have lanes; there are few."""
    found: list[bytes] = []
    start = keys.HEADS
    while (first := next((key for key, _ in kv.scan(start, keys.HEADS + keys.END * 300)), None)) is not None:
        group = first[1 : first.index(b"\0")]
        found.append(group)
        start = keys.HEADS + group + b"\1"
    return found


def _heads(kv: Reader, group: bytes, limit: int, now: float | None = None) -> list[bytes]:
    """A group's heads, the earliest due first; up to an instant."""
    prefix = keys.heads_of(group)
    stop = prefix + keys.END * 17 if now is None else keys.up_to(prefix, now)
    return [key for key, _ in islice(kv.scan(prefix, stop), max(0, limit))]


def waiting(kv: Reader, number: bytes, serial: bytes) -> NewDelivery:
    """A delivery that is not settled, as it would be handed over anew; one that runs is due, for it runs here only."""
    stored, attempt = load(kv, number, serial)
    due, unsure = attempt.taken if attempt.running else attempt.due, attempt.running or attempt.unsure
    attempts = attempt.attempt - attempt.deferred
    return NewDelivery(stored.lane.decode(), stored.body, due, attempts, unsure=unsure)


def load(kv: Reader, number: bytes, serial: bytes) -> tuple[StoredDelivery, Attempt]:
    """A delivery, and how it goes."""
    delivery = kv.get(keys.row(number, keys.DELIVERY, serial))
    if delivery is None:
        raise StoreBroken("a lane leads to a delivery that is not there")
    stored = records.decode_delivery(delivery)
    attempt = kv.get(keys.row(number, keys.ATTEMPT, serial))
    if attempt is None:
        return stored, Attempt(stored.due, stored.attempts, unsure=stored.unsure)
    return stored, records.decode_attempt(attempt)


# -- attempts


def take_due(kv: Transaction, now: float, limit: int, visibility: float, group: bytes | None) -> list[Delivery]:
    """Take heads that are due, those that waited longest first."""
    wanted = [group] if group is not None else groups(kv)
    heads = sorted((key for one in wanted for key in _heads(kv, one, limit, now)), key=_due)[: max(0, limit)]
    taken = (_take(kv, key[-8:], kv.get(key) or b"", now, visibility) for key in heads)
    return [delivery for delivery in taken if delivery is not None]


def _due(head: bytes) -> bytes:
    return head[-16:]


def _take(kv: Transaction, serial: bytes, number: bytes, now: float, visibility: float) -> Delivery | None:
    head = actors.head_of(kv, number)
    if head is None:  # its key is being erased
        remove(kv, number, serial)
        return None
    stored, old = load(kv, number, serial)
    unsure = old.running or old.unsure
    new = Attempt(now + visibility, old.attempt + 1, now, True, unsure, old.take + 1, old.deferred)
    _go_on(kv, number, serial, stored.lane, old, new)
    key, lane = head.key.decode(), stored.lane.decode()
    return Delivery(stored.delivery_id, key, lane, stored.body, new.attempt, unsure, new.take, new.deferred)


def settle_all(kv: Transaction, settling: Sequence[Settling]) -> None:
    """End attempts."""
    for one in settling:
        settle(kv, *one)


def settle(
    kv: Transaction, lane: bytes, delivery: Delivery, outcome: Settlement, then: TakeNext | None = None
) -> Delivery | None:
    """End an attempt, if it is the one that runs (only a lane's head can have one); the next head, if it was taken."""
    found = lane_head(kv, lane)
    if found is None:
        return None
    serial, number = found
    stored, attempt = load(kv, number, serial)
    runs = (stored.delivery_id, attempt.take, attempt.running)
    if runs != (delivery.delivery_id, delivery.take, True):
        return None
    _end(kv, number, serial, stored, attempt, outcome)
    if then is None or isinstance(outcome, Retry | Postponed):
        return None
    return _take_next(kv, lane, then)


def _end(
    kv: Transaction, number: bytes, serial: bytes, stored: StoredDelivery, attempt: Attempt, outcome: Settlement
) -> None:
    match outcome:
        case Delivered():
            _remove(kv, number, serial, stored.lane, attempt, True)
        case Retry(at, deferred):
            later = attempt._replace(due=at, running=False, deferred=attempt.deferred + deferred)
            _go_on(kv, number, serial, stored.lane, attempt, later)
        case Postponed(at):
            uncounted = attempt._replace(due=at, running=False, attempt=attempt.attempt - 1)
            _go_on(kv, number, serial, stored.lane, attempt, uncounted)
        case Dead():
            _die(kv, number, serial, stored, attempt, outcome)


def _die(kv: Transaction, number: bytes, serial: bytes, stored: StoredDelivery, attempt: Attempt, end: Dead) -> None:
    """Make a delivery a dead letter. It moves within its actor, which whoever copies that one must notice."""
    _remove(kv, number, serial, stored.lane, attempt, True)
    letter = _dead_letter(stored.delivery_id, stored.lane, stored.body, attempt.attempt, end)
    dead.bury(kv, number, serial, letter)
    if (head := actors.head_of(kv, number)) is not None:
        actors.advance(kv, number, head)


def _take_next(kv: Transaction, lane: bytes, then: TakeNext) -> Delivery | None:
    found = lane_head(kv, lane)
    if found is None:
        return None
    serial, number = found
    _, attempt = load(kv, number, serial)
    return None if attempt.due > then.now else _take(kv, serial, number, then.now, then.visibility)


def reclaim(kv: Transaction, now: float) -> int:
    """Give up every attempt that runs, and let its delivery be due; how many there were."""
    running = list(kv.scan(keys.RUNNING, keys.RUNNING + keys.END * 9))
    for entry, number in running:
        serial = entry[1:]
        stored, attempt = load(kv, number, serial)
        _go_on(kv, number, serial, stored.lane, attempt, attempt._replace(due=now, running=False, unsure=True))
    return len(running)


def remove(kv: Transaction, number: bytes, serial: bytes) -> None:
    """Delete a delivery, wherever it stands in its lane."""
    stored, attempt = load(kv, number, serial)
    head = lane_head(kv, stored.lane)
    _remove(kv, number, serial, stored.lane, attempt, head is not None and head[0] == serial)


def _remove(kv: Transaction, number: bytes, serial: bytes, lane: bytes, attempt: Attempt, is_head: bool) -> None:
    """Delete a delivery; if it was its lane's head, the next one becomes it."""
    kv.delete(keys.row(number, keys.DELIVERY, serial))
    kv.delete(keys.row(number, keys.ATTEMPT, serial))
    kv.delete(keys.lane_prefix(lane) + serial)
    if attempt.running:
        kv.delete(keys.RUNNING + serial)
    if is_head:
        kv.delete(keys.head_entry(lane, attempt.due, serial))
        _promote(kv, lane, attempt.taken)
    actors.count(kv, pending=-1)


def _promote(kv: Transaction, lane: bytes, served: float) -> None:
    found = lane_head(kv, lane)
    if found is None:
        return
    serial, number = found
    _, attempt = load(kv, number, serial)
    _go_on(kv, number, serial, lane, attempt, attempt._replace(due=max(attempt.due, served)))


def _go_on(kv: Transaction, number: bytes, serial: bytes, lane: bytes, old: Attempt, new: Attempt) -> None:
    """Let a lane's head go on otherwise; what follows from it goes with it."""
    kv.delete(keys.head_entry(lane, old.due, serial))
    kv.put(keys.head_entry(lane, new.due, serial), number)
    if new.running:
        kv.put(keys.RUNNING + serial, number)
    elif old.running:
        kv.delete(keys.RUNNING + serial)
    if new != old:
        kv.put(keys.row(number, keys.ATTEMPT, serial), records.encode_attempt(new))


# -- older stores


def renew_index(kv: Transaction) -> None:
    """Make the index of heads and the counts anew, in a store from before lanes had groups and were counted."""
    delete_range(kv, keys.HEADS, keys.HEADS + keys.END * 17)
    heads: dict[bytes, tuple[bytes, bytes]] = {}
    pending = 0
    for entry, number in kv.scan(keys.LANES, keys.LANES + keys.END):
        heads.setdefault(entry[1:-9], (entry[-8:], number))
        pending += 1
    for lane, (serial, number) in heads.items():
        kv.put(keys.head_entry(lane, load(kv, number, serial)[1].due, serial), number)
    buried = sum(1 for _ in kv.scan(keys.DEAD, keys.DEAD + keys.END * 9))
    actors.write_counters(kv, actors.read_counters(kv)._replace(pending=pending, dead=buried))
