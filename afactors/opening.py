"""What exists only while a runtime is open, in the order in which it is opened and left."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count

import trio

from afactors_channels import ChannelContribution, ChannelIdentity, HostError, OverlapPolicy
from afactors_store import LmdbStore, Store, StoreBroken, StoreFull

from .alarms import Alarms
from .bridge import Bridge
from .collector import rare_collections
from .continuations import Continuations
from .control import serve_control
from .deliveries import Deliveries
from .delivering import Deliverer
from .errands import Actors
from .host import Host
from .hosting import TargetSource, open_target
from .limits import Limits
from .reception import AuthPolicy, Reception
from .reports import DrainReport
from .supervision import Supervisor
from .target import Target

logger = logging.getLogger("afactors.runtime")

_HOUSEKEEPING_SECONDS = 60.0
_EXPIRE_SLICE = 256
_WORK_SLICE = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """What a runtime is made of; see `Runtime`."""

    source: TargetSource
    checkpoint_types: frozenset[str]
    identity_resolver: Callable[[ChannelIdentity], str | Awaitable[str]] | None
    store: Store
    wait_lock: float
    channels: Mapping[str, ChannelContribution]
    authorize: AuthPolicy | None
    overlap: OverlapPolicy
    tune_gc: bool
    limits: Limits
    on_broken: Callable[[str], None]
    host: Host
    control: bool = True
    actors: Actors | None = None


@asynccontextmanager
async def opened(plan: Plan) -> AsyncIterator[Life]:
    """Store, bridge, target, actors, channels: each inside the one before, and left in the other order."""
    limits = plan.limits
    bridge = Bridge(
        cancel_grace=limits.cancel_grace,
        stall_warning=limits.stall_warning,
        stall_limit=limits.stall_limit,
        on_stall=plan.on_broken,
        close_timeout=limits.drain_timeout,
    )
    # The collector is set last: what start-up made is there by then.
    collector = rare_collections() if plan.tune_gc else nullcontext()
    async with _whole_store(plan), bridge, _target(plan, bridge) as target:
        with collector:
            async with _working(plan, bridge, target) as life:
                yield life


def _target(plan: Plan, bridge: Bridge) -> AbstractAsyncContextManager[Target]:
    types, keep = plan.checkpoint_types, plan.limits.max_checkpoints
    return open_target(bridge, plan.source, checkpoint_types=types, keep=keep)


@asynccontextmanager
async def _working(plan: Plan, bridge: Bridge, target: Target) -> AsyncIterator[Life]:
    """Actors, and inside them whatever brings them letters."""
    deliverer = Deliverer(plan.store, plan.channels, retention=plan.limits.dead_letter_retention)
    supervisor = Supervisor(plan.store, target, plan.limits, plan.channels, plan.on_broken, deliverer, plan.host)
    continuations = Continuations(plan.store, supervisor, plan.channels)
    reception = Reception(
        plan.store,
        target,
        supervisor,
        continuations,
        plan.channels,
        authorize=plan.authorize,
        overlap=plan.overlap,
        run_ids=run_ids(),
    )
    alarms = Alarms(plan.store, supervisor, reception, plan.channels)
    life = Life(plan, bridge, target, supervisor, continuations, reception, deliverer, alarms)
    async with trio.open_nursery() as outside, trio.open_nursery() as actors:
        await outside.start(deliverer.run)
        try:
            await actors.start(supervisor.run)
            async with trio.open_nursery() as services:
                services.start_soon(life.upkeep)
                services.start_soon(life.alarms.run)
                if plan.control and isinstance(plan.store, LmdbStore):
                    deliveries = Deliveries(plan.store, post=deliverer, collect=supervisor.collect_soon)
                    await services.start(serve_control, plan.store.path, deliveries, plan.actors)
                try:
                    yield life
                finally:
                    with trio.CancelScope(shield=True):
                        await life.drain()
                services.cancel_scope.cancel(reason="the runtime stops")
        finally:
            supervisor.end()
            deliverer.end()


@asynccontextmanager
async def _whole_store(plan: Plan) -> AsyncIterator[None]:
    try:
        async with plan.store.open(wait_lock=plan.wait_lock):
            yield
    except BaseExceptionGroup as group:
        if (broken := group.subgroup(StoreBroken)) is not None:
            plan.on_broken(f"the store failed: {_deepest(broken)}")
        raise
    except StoreBroken as exc:
        plan.on_broken(f"the store failed: {exc}")
        raise


@dataclass(slots=True)
class Life:
    """A runtime's parts while it is open."""

    plan: Plan
    bridge: Bridge
    target: Target
    supervisor: Supervisor
    continuations: Continuations
    reception: Reception
    deliverer: Deliverer
    alarms: Alarms
    report: DrainReport | None = None
    _hurry: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def drain(self) -> DrainReport:
        """Take no more work, let running turns finish, and cancel what still runs at the deadline.

        Again, the same report.
        """
        if self.report is not None:
            return self.report
        supervisor, limits = self.supervisor, self.plan.limits
        started, ended = trio.current_time(), supervisor.ended
        finished_before, delivered_before = ended["finished"], self.deliverer.delivered
        supervisor.drain()
        with trio.CancelScope(deadline=started + limits.drain_timeout) as self._hurry:
            await supervisor.quiet()
            await self.deliverer.drain()
        stopped = supervisor.cancel_all("draining")
        with trio.move_on_after(limits.cancel_grace + 1.0) as late:
            async with trio.open_nursery() as ends:
                ends.start_soon(self.deliverer.stop)
                ends.start_soon(supervisor.quiet)
        left = supervisor.statistics()
        deaf = [turn for turn in stopped if not turn.ended]
        durable = sum(turn.durable for turn in deaf)
        self.report = DrainReport(
            finished=ended["finished"] - finished_before,
            cancelled=ended["cancelled"] + len(deaf) - durable,
            put_back=ended["put back"] + durable,
            abandoned=left.running + left.waiting if late.cancelled_caught else 0,
            seconds=trio.current_time() - started,
            delivered=self.deliverer.delivered - delivered_before,
            pending=self.deliverer.pending,
            cut_off=self.deliverer.cut_off,
        )
        logger.info("%s", self.report)
        return self.report

    def hurry(self) -> None:
        """Shorten a drain that is under way."""
        self._hurry.cancel(reason="asked to hurry")

    async def upkeep(self) -> None:
        """Take up what the last process left behind, and then forget what has expired, every now and then."""
        store = self.plan.store
        try:
            await self._take_up()
            while True:
                await trio.sleep(_HOUSEKEEPING_SECONDS)
                try:
                    while await store.expire(time.time(), _EXPIRE_SLICE) == _EXPIRE_SLICE:
                        await trio.lowlevel.checkpoint()
                except StoreFull as exc:  # it passes
                    logger.error("what has expired stays until there is room to delete it: %s", exc)
        except StoreBroken as exc:
            self.supervisor.give_up(exc)
            raise

    async def _take_up(self) -> None:
        after = None
        while found := await self.plan.store.work(0.0, after, _WORK_SLICE):
            after = found[-1].key
            for work in found:
                await self.supervisor.room()
                try:
                    await self.supervisor.wake(work.key)
                except HostError as exc:
                    logger.error("letters of one key are left waiting: %s", exc.message)


def run_ids() -> Iterator[str]:
    """Ids of runs, in order: when the runtime was opened, 24 random bits, a number. They are unique, not secret."""
    prefix = f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(3)}"
    return (f"run_{prefix}{number:07x}" for number in count())


def _deepest(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
