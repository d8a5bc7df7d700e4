"""The supervisor of actors.

It starts them, restarts those that crash, quarantines those that keep crashing, and passivates those that are idle.
"""

from __future__ import annotations

import contextvars
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import takewhile

import trio

from afactors_channels import ChannelContribution, OverlapPolicy, Overloaded, StorageFull, TargetFailed
from afactors_store import NewDelivery, Store, StoreBroken

from .actor import Actor
from .delivering import Deliverer
from .history import Point
from .host import Host
from .journal import restarted
from .limits import FairSlots, Limits
from .runs import Record, Reference, idempotency_name
from .target import Target
from .turn import Turn, stopping

logger = logging.getLogger("afactors.supervisor")

_LOOKS_PER_TIMEOUT = 20


@dataclass(frozen=True, slots=True)
class ActorsStatistics:
    """All actors in figures.

    Attributes:
        live: Actors in memory.
        idle: Of these, how many are idle.
        waiting: Letters in mailboxes.
        running: Turns that run.
        queued_for_slot: Of these, how many wait for a slot.
        started: Actors started since the runtime did.
        passivated: Actors passivated.
        restarts: Crashes that were followed by a restart.
        quarantined: Keys in quarantine.
    """

    live: int
    idle: int
    waiting: int
    running: int
    queued_for_slot: int
    started: int
    passivated: int
    restarts: int
    quarantined: tuple[str, ...]


class Supervisor:
    """Owner of all live actors. Made by the runtime only."""

    def __init__(
        self,
        store: Store,
        target: Target,
        limits: Limits,
        channels: Mapping[str, ChannelContribution],
        on_broken: Callable[[str], None],
        deliverer: Deliverer,
        host: Host | None = None,
    ) -> None:
        self.store = store
        self.host = host
        self.target = target
        self.limits = limits
        self.channels = channels
        self.deliverer = deliverer
        self.suspects = FairSlots(1)
        self.turns: dict[str, Turn] = {}
        """Turns that have not ended, by token."""
        self.repeatable: dict[str, Turn] = {}
        """Turns that have not ended, by the name of their idempotency key."""
        self.draining = False
        self.stopping = trio.Event()
        """Set once it is drained."""
        self._unclean = not store.left_cleanly
        self._here: set[str] = set()  # runs that this process accepted and that have not ended
        self._uncollected: dict[str, set[str]] = {}  # of these, by key, what other turns' commits accepted
        self._crashed: dict[str, str | None] = {}  # of these, what a crash took along; why it had been cancelled
        self._on_broken = on_broken
        self.slots = FairSlots(limits.max_running_turns)
        # Kept here and not as deadlines of trio's: those stay behind in its heap for long, and pin memory there.
        self.deadlines: dict[Turn, float] = {}
        self._actors: dict[str, Actor] = {}
        self._idle: OrderedDict[str, float] = OrderedDict()  # key → since when, the longest first
        self._quarantined: dict[str, float] = {}  # key → until when
        self._nursery: trio.Nursery | None = None
        self._life = trio.CancelScope(shield=True)
        self._quiet = trio.Event()
        self._quiet.set()
        self._room = trio.Event()
        self._started = self._passivated = self._restarts = 0
        self.ended: Counter[str] = Counter()
        """Turns that ended since the start: finished, cancelled by the stop, or put back by it."""

    def statistics(self) -> ActorsStatistics:
        """All actors in figures, now."""
        each = [actor.statistics() for actor in self._actors.values()]
        return ActorsStatistics(
            live=len(each),
            idle=len(self._idle),
            waiting=sum(one.waiting for one in each),
            running=sum(one.running for one in each),
            queued_for_slot=self.slots.waiting,
            started=self._started,
            passivated=self._passivated,
            restarts=self._restarts,
            quarantined=tuple(sorted(self._quarantined)),
        )

    def deliver(self, turn: Turn, start: Point | None, overlap: OverlapPolicy = "enqueue") -> None:
        """Put a letter into the mailbox of its actor, which is started if need be.

        Raises:
            Overloaded: The mailbox is full, there are too many actors, or the key is in quarantine; or the runtime
                is stopping.
            Conflicting: The session is busy, and the policy says that nobody waits.
        """
        if self.draining:
            raise stopping()
        actor = self._actors.get(turn.key) or self._start(turn.key)
        self._idle.pop(turn.key, None)
        try:
            actor.deliver(turn, start, overlap)
            self._here.add(turn.run_id)
            self._register(turn)
        finally:
            self.note(actor)

    @asynccontextmanager
    async def awake(self, key: str) -> AsyncIterator[Actor]:
        """An actor, started if need be, and not passivated meanwhile."""
        actor = self._actors.get(key) or self._start(key)
        self._idle.pop(key, None)
        actor.visitors += 1
        self.note(actor)
        try:
            yield actor
        finally:
            actor.visitors -= 1
            self.note(actor)

    async def wake(self, key: str) -> None:
        """Have an actor take up the letters that the store has for its key."""
        async with self.awake(key) as actor:
            await actor.ready()

    def collect_soon(self, turn: Turn) -> None:
        """A turn was accepted by another one's commit: its actor is to take it up."""
        self._here.add(turn.run_id)
        if self._nursery is not None and not self.draining:
            self._uncollected.setdefault(turn.key, set()).add(turn.run_id)
            contextvars.Context().run(self._nursery.start_soon, self._collect, turn)

    def posted(self, deliveries: Sequence[NewDelivery]) -> None:
        """Deliveries were committed."""
        if deliveries:
            self.deliverer.notice(deliveries)

    async def _collect(self, turn: Turn) -> None:
        try:
            await self.room()
            await self.collect(turn.key, turn.run_id)
        except (Overloaded, StorageFull) as exc:
            logger.error("a letter is left waiting until the next start: %s", exc.message)

    async def collect(self, key: str, run_id: str) -> None:
        """Have an actor take up a letter that the store has for its key, if it has not.

        Raises:
            Overloaded: The runtime is stopping, there are too many actors, or the key is in quarantine.
            StorageFull: Its end could not be written down.
        """
        if self.draining:
            raise stopping()
        if self.store.full:
            raise StorageFull("The server has no room to store this turn.")
        wanted = {*self._uncollected.get(key, ()), run_id}  # at once: in the order in which they were accepted
        async with self.awake(key) as actor:
            await actor.collect(wanted)
        if left := self._uncollected.pop(key, set()) - wanted:
            self._uncollected[key] = left

    async def forget(self, key: str, token: str, reference: Reference, stored: Record | None) -> None:
        """Have an actor delete a run."""
        async with self.awake(key) as actor:
            await actor.forget(token, reference, stored)

    async def erase(self, key: str) -> bool:
        """Have an actor end whatever it has, and erase its key. One that is in quarantine has nothing, and leaves it.

        Raises:
            Overloaded: There are too many actors, or the actor went into quarantine just now.
        """
        if key not in self._quarantined:
            async with self.awake(key) as actor:
                return await actor.erase()
        self._quarantined[key] = trio.current_time() + self.limits.quarantine
        try:
            return await self.store.erase(key)
        finally:
            self._quarantined.pop(key, None)

    async def room(self) -> None:
        """Wait until letters that were left behind can be taken up, and new ones still find room."""
        while len(self._actors) - len(self._idle) >= self.limits.max_live_actors // 2:
            if self._room.is_set():
                self._room = trio.Event()
            await self._room.wait()

    def _register(self, turn: Turn) -> None:
        if turn.token is not None:
            self.turns[turn.token] = turn
        if turn.idempotency is not None:
            self.repeatable[turn.idempotency] = turn

    def turn_recovered(self, turn: Turn) -> None:
        """A letter was found in the store; it can be followed like any other."""
        turn.idempotency = idempotency_name(self.store.secret, turn.request)
        self._here.add(turn.run_id)
        self._register(turn)

    def suspicious(self, run_id: str) -> bool:
        """Whether a letter may have been running when its actor, or the process before this one, crashed."""
        return run_id in self._crashed or (self._unclean and run_id not in self._here)

    def given_up(self, run_id: str) -> str | None:
        """Why a turn had been cancelled when its actor crashed; None if it had not."""
        return self._crashed.get(run_id)

    def waits_in_a_circle(self, key: str, session_id: str, inside: Collection[Turn]) -> bool:
        """Whether a turn of that session could begin only after one of those that would be waiting for it."""
        seen: set[Turn] = set()
        blocking = [self._running_in(key, session_id)]
        while blocking:
            turn = blocking.pop()
            if turn in inside:
                return True
            if turn is not None and turn not in seen:
                seen.add(turn)
                for wanted in turn.waits_for:
                    begun = wanted.state != "queued"
                    blocking.append(wanted if begun else self._running_in(wanted.key, wanted.session_id))
        return False

    def cancel_key(self, key: str, reason: str) -> int:
        """Cancel what runs and what waits of a key; how many turns that were."""
        actor = self._actors.get(key)
        return len(actor.cancel_all(reason)) if actor is not None else 0

    def busy(self, key: str, session_id: str) -> bool:
        """Whether a turn runs or waits in a session."""
        actor = self._actors.get(key)
        return actor is not None and actor.busy(session_id)

    def _running_in(self, key: str, session_id: str | None) -> Turn | None:
        actor = self._actors.get(key)
        return actor.running_in(session_id) if actor is not None else None

    def turn_ended(self, actor: Actor, turn: Turn) -> None:
        """Count an end, and note whether the actor has become idle."""
        self.ended[_fate(turn)] += 1
        self._crashed.pop(turn.run_id, None)
        for one in turn.parts:
            self._here.discard(one.run_id)
            for registry, name in ((self.turns, one.token), (self.repeatable, one.idempotency)):
                if name is not None and registry.get(name) is one:
                    del registry[name]
        turn.joined = []  # they lead to it, and it to them
        self._room.set()
        self.note(actor)

    def turn_crashed(self, turn: Turn) -> None:
        """An actor's crash took a durable turn along; its letter is still there."""
        self._crashed[turn.run_id] = turn.cancel_reason

    def drain(self) -> None:
        """Begin no durable letter any more, and leave those that wait to the next process."""
        self.draining = True
        self.stopping.set()
        for actor in list(self._actors.values()):
            actor.put_back_waiting()

    def note(self, actor: Actor) -> None:
        """Note whether an actor is idle."""
        if self._actors.get(actor.key) is actor and not actor.idle:
            self._idle.pop(actor.key, None)
        elif self._actors.get(actor.key) is actor:
            self._room.set()
            self._idle[actor.key] = trio.current_time()
            self._idle.move_to_end(actor.key)
            if len(self._idle) > self.limits.max_idle_actors:
                self._passivate_longest_idle()
        if len(self._idle) == len(self._actors):
            self._quiet.set()
        elif self._quiet.is_set():
            self._quiet = trio.Event()

    async def quiet(self) -> None:
        """Wait until no actor has anything to do."""
        while not self._quiet.is_set():
            await self._quiet.wait()

    def cancel_all(self, reason: str) -> list[Turn]:
        """Cancel every turn; returns those that were not past their commit."""
        return [turn for actor in list(self._actors.values()) for turn in actor.cancel_all(reason)]

    def end(self) -> None:
        """End the supervisor's life, and with it every actor's."""
        self._life.cancel(reason="the runtime stops")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The supervisor's life, until `end`. No other cancellation reaches it: turns must be let finish first."""
        task_status.started()
        await trio.lowlevel.checkpoint_if_cancelled()  # then nobody would end it
        with self._life:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._watch_deadlines)
                try:
                    await self._sweep()
                finally:
                    self._nursery = None

    def _start(self, key: str) -> Actor:
        if self._nursery is None:
            raise stopping()
        if (until := self._quarantined.get(key)) is not None:
            if until > trio.current_time():
                raise _out_of_order(until - trio.current_time())
            del self._quarantined[key]
        if len(self._actors) >= self.limits.max_live_actors and not self._passivate_longest_idle():
            raise Overloaded("Too many conversations are active; try again later.", retry_after=1.0)
        actor = self._actors[key] = Actor(key, self)
        self._started += 1
        # In a context of its own: an actor outlives the request that woke it.
        contextvars.Context().run(self._nursery.start_soon, self._supervise, actor)
        return actor

    async def _supervise(self, actor: Actor) -> None:
        """Run an actor, again after a crash, until it is passivated or crashes too often."""
        crashes: list[float] = []
        while True:
            try:
                await actor.run()
            except Exception as exc:  # an actor's defect must not reach its neighbours, whatever it is
                if (broken := _broken(exc)) is not None:
                    self.give_up(broken)
                    raise
                logger.exception("actor %s crashed", _label(actor.key))
            else:
                return
            actor.fail_running(TargetFailed("The server failed to process this turn."), restarted())
            now = trio.current_time()
            crashes.append(now)
            while now - crashes[0] > self.limits.restart_window:
                del crashes[0]
            if len(crashes) > self.limits.max_restarts:
                self._quarantine(actor)
                return
            self._restarts += 1
            self.note(actor)
            await trio.sleep(self.limits.restart_backoff * 2 ** (len(crashes) - 1))
            if self._actors.get(actor.key) is not actor:
                return  # passivated meanwhile

    def give_up(self, broken: StoreBroken) -> None:
        """The store is beyond help, and every actor with it."""
        self._on_broken(f"the store failed: {broken}")
        for actor in self._actors.values():
            actor.fail_all(Overloaded("The server cannot store any more.", code="broken", status=503))
        self._actors.clear()
        self._idle.clear()
        self._quiet.set()

    def _quarantine(self, actor: Actor) -> None:
        logger.error("actor %s is quarantined after %d restarts", _label(actor.key), self.limits.max_restarts)
        self._quarantined[actor.key] = trio.current_time() + self.limits.quarantine
        del self._actors[actor.key]
        self._idle.pop(actor.key, None)
        actor.fail_all(_out_of_order(self.limits.quarantine))
        self.note(actor)

    async def _watch_deadlines(self) -> None:
        """Cancel what has run for too long."""
        while True:
            await trio.sleep(min(1.0, self.limits.turn_timeout / _LOOKS_PER_TIMEOUT))
            now = trio.current_time()
            late = list(takewhile(lambda entry: entry[1] <= now, self.deadlines.items()))  # noqa: B023 - used at once
            for turn, _ in late:
                turn.cancel("timeout")

    async def _sweep(self) -> None:
        """Passivate what has been idle for long enough."""
        while True:
            await trio.sleep(self.limits.idle_timeout / _LOOKS_PER_TIMEOUT)
            long_ago = trio.current_time() - self.limits.idle_timeout
            while self._idle and next(iter(self._idle.values())) <= long_ago:
                self._passivate_longest_idle()

    def _passivate_longest_idle(self) -> bool:
        if not self._idle:
            return False
        key, _ = self._idle.popitem(last=False)
        self._actors.pop(key).stop()
        self._passivated += 1
        return True


def _fate(turn: Turn) -> str:
    if turn.cancel_reason != "draining" and turn.state != "queued":
        return "finished"
    return "put back" if turn.durable else "cancelled"


def _out_of_order(seconds: float) -> Overloaded:
    return Overloaded(
        "This conversation is out of order after repeated internal errors.",
        code="quarantined",
        status=503,
        retry_after=seconds,
    )


def _broken(exc: BaseException) -> StoreBroken | None:
    if isinstance(exc, BaseExceptionGroup):
        return next(filter(None, map(_broken, exc.exceptions)), None)
    return exc if isinstance(exc, StoreBroken) else None


def _label(key: str) -> str:
    """A key for the log: enough to find it, short enough to read. Keys name people, so only their beginning."""
    return repr(key if len(key) <= 24 else f"{key[:23]}…")
