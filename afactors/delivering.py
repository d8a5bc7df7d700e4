"""The supervisor of deliveries: an outlet for each channel that pushes, and what the operator sees of them all."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from afactors_channels import ChannelContribution
from afactors_store import NewDelivery, Store, StoreError

from .outbox import channel_of
from .outlets import Outlet, OutletStatistics, died
from .steady import SteadyClock
from .stranded import expire_stranded

logger = logging.getLogger("afactors.deliveries")


@dataclass(frozen=True, slots=True)
class DeliveriesStatistics:
    """All deliveries in figures.

    Attributes:
        pending: Deliveries that are neither taken nor dead.
        dead: Dead letters.
        outlets: Each channel's, since the start.
    """

    pending: int
    dead: int
    outlets: Sequence[OutletStatistics]


class Deliverer:
    """Owner of all outlets. Made by the runtime only."""

    def __init__(self, store: Store, channels: Mapping[str, ChannelContribution], *, retention: float) -> None:
        self._store = store
        self._retention = retention
        clock = SteadyClock()
        self._outlets = {
            name: Outlet(name, channel, store, clock=clock, retention=retention)
            for name, channel in channels.items()
            if channel.push is not None
        }
        self._scope, self._over = trio.CancelScope(shield=True), trio.Event()

    def statistics(self) -> DeliveriesStatistics:
        """All deliveries in figures, now."""
        counts = self._store.statistics()
        return DeliveriesStatistics(
            counts.pending, counts.dead, tuple(outlet.statistics() for outlet in self._outlets.values())
        )

    def notice(self, deliveries: Sequence[NewDelivery]) -> None:
        """A commit has added these."""
        for name in {channel_of(one.lane) for one in deliveries}:
            if (outlet := self._outlets.get(name)) is not None:
                outlet.notice()

    def look(self) -> None:
        """There may be others than those of a commit."""
        for outlet in self._outlets.values():
            outlet.notice()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send what is due, until `end`. No other cancellation reaches it: deliveries are given the time of a drain."""
        try:
            if found := await self._store.reclaim(time.time()):
                logger.warning("%d deliveries were under way when the last process ended; they are sent again", found)
            nobodys = set(await self._store.groups()) - self._outlets.keys()
            task_status.started()
            await trio.lowlevel.checkpoint_if_cancelled()  # then nobody would end it
            with self._scope:
                await self._live(nobodys)
        finally:
            self._over.set()

    async def _live(self, nobodys: Iterable[str]) -> None:
        async with trio.open_nursery() as outlets:
            for outlet in self._outlets.values():
                outlets.start_soon(outlet.run)
            for channel in nobodys:
                logger.warning("deliveries wait for channel %r, which is not configured", channel)
                outlets.start_soon(expire_stranded, self._store, channel, partial(died, channel, self._retention))

    @property
    def pending(self) -> int:
        """Deliveries that are left; none that could be told of, if the store is gone."""
        try:
            return self._store.statistics().pending
        except StoreError:
            return 0

    async def drain(self) -> None:
        """Wait until nothing is due and nothing under way; what is not due yet stays for the next process."""
        for outlet in self._outlets.values():
            await outlet.drained()

    async def stop(self) -> None:
        """Begin nothing more, and cut off what is under way: the next process sends it again, as unsure."""
        self.end()
        await self._over.wait()

    def end(self) -> None:
        """The same, without waiting for it."""
        self._scope.cancel(reason="the runtime stops")

    @property
    def cut_off(self) -> int:
        """Deliveries that were cut off."""
        return sum(outlet.counts["cut off"] for outlet in self._outlets.values())

    @property
    def delivered(self) -> int:
        """Deliveries that were taken since the start."""
        return sum(outlet.counts["delivered"] for outlet in self._outlets.values())
