"""The part of a store that whoever delivers works with: takes, settlements, listings, dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from . import dead, deliveries, keys, reads
from .prepare import ROW_BYTES
from .prepare import dead as checked
from .serving import Serving
from .values import Dead, DeadLetter, Delivery, Pending, Postponed, Retry, Settlement, TakeNext


class Outbox(Serving):
    """Deliveries and dead letters."""

    async def due(self, now: float, limit: int, visibility: float, group: str | None = None) -> list[Delivery]:
        """Take lane heads that are due: each counts an attempt and is due again at `now + visibility`."""
        _check_instants(now, visibility)
        name = _group(group)
        if not await self._point(lambda kv: deliveries.any_due(kv, now, name)):
            return []
        take = partial(deliveries.take_due, now=now, limit=limit, visibility=visibility, group=name)
        return await self._open_here().writer.submit(take, limit * ROW_BYTES)

    async def settle(self, delivery: Delivery, outcome: Settlement, then: TakeNext | None = None) -> Delivery | None:
        """End an attempt, and take the lane's next head if asked to. What is no longer this attempt's is left alone."""
        if then is not None:
            _check_instants(then.now, then.visibility)
        (settling,), size = _settling([(delivery, outcome)])
        return await self._open_here().writer.submit(lambda txn: deliveries.settle(txn, *settling, then), size)

    async def settle_all(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> None:
        """End attempts, in one transaction. Deliveries that are no longer these attempts' are left alone."""
        settling, size = _settling(settlements)
        if settling:
            await self._open_here().writer.submit(lambda txn: deliveries.settle_all(txn, settling), size)

    async def reclaim(self, now: float) -> int:
        """Give up every attempt that runs: its delivery is due at `now`, and the next attempt is `unsure`."""
        _check_instants(now)
        if not await self._point(deliveries.any_running):
            return 0
        return await self._open_here().writer.submit(lambda txn: deliveries.reclaim(txn, now), ROW_BYTES)

    async def next_due(self, group: str | None = None) -> float | None:
        """The earliest instant at which a lane head is due, or None."""
        name = _group(group)
        return await self._point(lambda kv: deliveries.next_due(kv, name))

    async def groups(self) -> list[str]:
        """The groups that have deliveries, in order; there are few."""
        return await self._point(lambda kv: [group.decode() for group in deliveries.groups(kv)])

    async def deliveries(self, after: bytes = b"", limit: int = 100) -> list[Pending]:
        """Deliveries that are not settled, lane by lane, each from its head on, after position `after`."""
        return await self._listing(reads.deliveries, after, limit)

    async def dead_letters(self, after: int = -1, limit: int = 100) -> list[DeadLetter]:
        """Deliveries that ended as `Dead`, in the order of their positions, after position `after`."""
        return await self._listing(reads.dead_letters, keys.check_u64(after + 1, "a position"), limit)

    async def dead_letter(self, position: int) -> DeadLetter | None:
        """One dead letter, if it is there."""
        keys.check_u64(position, "a position")
        return await self._point(lambda kv: reads.dead_letter(kv, position))

    async def revive(self, position: int, due: float = 0.0, body: bytes | None = None) -> str | None:
        """Deliver a dead letter after all, at the end of its lane; the new delivery's id, None if it is not there."""
        _check_instants(due)
        serial, store_id = keys.u64(keys.check_u64(position, "a position")), self.store_id
        revive = partial(deliveries.revive, serial=serial, due=due, body=body, store_id=store_id)
        return await self._write(revive, ROW_BYTES + len(body or b""))

    async def purge(self, positions: Sequence[int]) -> int:
        """Remove dead letters; how many of these were there."""
        serials = [keys.u64(keys.check_u64(position, "a position")) for position in positions]
        writer = self._open_here().writer
        return await writer.submit(lambda txn: dead.purge(txn, serials), len(serials) * ROW_BYTES)


def _check_instants(*instants: float) -> None:
    for at in instants:
        keys.instant(at)


def _settling(settlements: Sequence[tuple[Delivery, Settlement]]) -> tuple[list[deliveries.Settling], int]:
    """Settlements with their lanes, checked; and about how many bytes they will write."""
    settling = [
        (keys.encode_name(delivery.lane, "a lane"), delivery, _checked(outcome)) for delivery, outcome in settlements
    ]
    moved = sum(len(delivery.body) for delivery, outcome in settlements if isinstance(outcome, Dead))
    return settling, moved + ROW_BYTES * len(settling)


def _checked(outcome: Settlement) -> Settlement:
    if isinstance(outcome, Retry | Postponed):
        _check_instants(outcome.at)
    return checked(outcome) if isinstance(outcome, Dead) else outcome


def _group(group: str | None) -> bytes | None:
    return None if group is None else keys.encode_prefix(group, "a group")
