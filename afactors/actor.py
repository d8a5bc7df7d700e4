"""One isolation key: a mailbox, its sessions, and the turns that run in them.

The actor is the only writer of its key. Its task owns the nursery that its turns run in; `deliver` and everything
else that changes its books is synchronous, so that between two awaits they are always right.

Its life begins with a claim, and with the durable letters that the store has for it and no mailbox knows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol

import trio

from afactors_channels import HostedRunResult, HostError, OverlapPolicy, Overloaded, StorageFull
from afactors_store import Claim, Commit, StoreFull

from .commits import suspected
from .forgetting import forgotten, held_without, released
from .history import Point
from .overlap import POLICIES, joins, policy_of, quiet_until, supersedes
from .performing import Performer, Surroundings
from .recovering import Recovery, collected, recovered
from .runs import Record, Reference
from .sessions import Sessions
from .turn import Turn, cancelled_error, goes_on, stopping


class Neighbourhood(Surroundings, Recovery, Protocol):
    """What an actor needs of its supervisor, beside what its turns need."""

    draining: bool

    def note(self, actor: Actor) -> None:
        """Called when the actor may have become idle, or busy, by itself."""
        ...

    def turn_ended(self, actor: Actor, turn: Turn) -> None:
        """Called after each turn; the actor may be idle now."""
        ...

    def turn_crashed(self, turn: Turn) -> None:
        """Called for each durable turn that a crash took along."""
        ...

    def turn_recovered(self, turn: Turn) -> None:
        """Called for each letter that was found in the store."""
        ...


@dataclass(frozen=True, slots=True)
class ActorStatistics:
    """An actor in figures."""

    key: str
    waiting: int
    running: int
    live_sessions: int


class Actor:
    """The only writer of one isolation key. Made by the supervisor only."""

    def __init__(self, key: str, around: Neighbourhood) -> None:
        self.key = key
        self._around = around
        self._waiting: list[Turn] = []
        self._running: set[Turn] = set()
        self._accepting: set[Turn] = set()  # their letters are being written; they wait, too
        self._listening: set[Turn] = set()  # for another message to join them
        self._sessions = Sessions(around.store, around.target)
        self._performer: Performer | None = None
        self._nursery: trio.Nursery | None = None
        self._stop = trio.Event()
        self._ready = trio.Event()
        self.visitors = 0
        """Tasks that are about to ask something of it."""
        self._collecting = trio.Lock()
        self._alone = trio.Lock()
        self._paused = False
        self._erasing = False
        self._left = False  # whether the store has letters that no mailbox knows
        self._failed: HostError | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not (self._waiting or self._running or self.visitors or self._left)

    def statistics(self) -> ActorStatistics:
        """The actor in figures, now."""
        return ActorStatistics(self.key, self._letters, len(self._running), self._sessions.live)

    @property
    def _letters(self) -> int:
        """How many wait, each of those that are one turn counted."""
        return sum(len(turn.parts) for turn in self._waiting)

    # -- the mailbox

    def deliver(self, turn: Turn, start: Point | None, overlap: OverlapPolicy = "enqueue") -> None:
        """Put a letter into the mailbox.

        Args:
            turn: The letter.
            start: Where its session begins if the store does not have it; None runs without any session.
            overlap: What to do if its session is busy. Any but "enqueue" knows only letters that the actor has in
                memory: the actor must be ready.

        Raises:
            Overloaded: The mailbox is full, or the key is being erased.
            Conflicting: The session is busy.
        """
        if self._erasing:
            raise Overloaded(
                "This conversation is being erased; try again in a moment.",
                code="being_erased",
                status=503,
                retry_after=1.0,
            )
        branches = self._around.target.branches and turn.request.session.after is not None
        turn.overlap = policy_of(turn, start, "enqueue" if branches else overlap)
        ahead = self._ahead(turn, start.session_id if start is not None else None)
        self._check_room(supersedes(turn, ahead))
        interrupted = POLICIES[turn.overlap](turn, ahead)
        if start is not None:
            self._sessions.join(turn, start)
        turn.owner, turn.quiet_since = self, trio.current_time()
        self._waiting.append(turn)
        if turn.durable:
            turn.interrupts = interrupted
        for other in interrupted:
            other.cancel("interrupted")
        if not turn.durable:
            self._settle(turn)
            self._settled(turn)
        self._dispatch()

    def _check_room(self, going: Sequence[Turn]) -> None:
        """Refuse a letter if too many wait, without those that go for it and have been accepted."""
        left = self._letters - sum(len(turn.parts) for turn in going if turn.state == "queued")
        if left >= self._around.limits.mailbox:
            raise Overloaded(
                f"This conversation has {self._around.limits.mailbox} messages waiting; try again later.",
                code="mailbox_full",
                retry_after=1.0,
            )

    def _ahead(self, turn: Turn, session_id: str | None) -> list[Turn]:
        """The turns of a session that are before one: all, if that has no place yet."""
        before = [*self._running, *takewhile(lambda other: other is not turn, self._waiting)]
        return [other for other in before if other.session_id == session_id is not None]

    def _settle(self, turn: Turn) -> None:
        """Settle what a letter does to those that wait before it; until it is accepted, none of them begins."""
        ahead = self._ahead(turn, turn.session_id)
        turn.supersedes, turn.into = supersedes(turn, ahead), joins(turn, ahead)

    def _settled(self, turn: Turn) -> None:
        """A letter is accepted: what was settled is done."""
        going, turn.supersedes = turn.supersedes, ()
        for other in going:
            other.cancel("superseded")
        if turn.into is not None:
            self._waiting.remove(turn)
            self._sessions.leave(turn, self._around.limits.max_live_sessions)
            turn.into.join(turn)
        if turn.overlap == "coalesce":
            quiet = self._around.limits.coalesce_quiet
            turn.whole.quiet_until = quiet_until(turn.whole, trio.current_time(), quiet)

    @property
    def _undecided(self) -> set[Turn | None]:
        """Turns that wait for what becomes of a letter that is being written."""
        return {other for turn in self._accepting for other in (turn.into, *turn.supersedes)}

    def busy(self, session_id: str) -> bool:
        """Whether a turn runs or waits in a session, or may: what the store has is not known yet."""
        return not self._ready.is_set() or any(
            turn.session_id == session_id for turn in [*self._running, *self._waiting]
        )

    def running_in(self, session_id: str | None) -> Turn | None:
        """The turn that runs in a session."""
        return next((turn for turn in self._running if turn.session_id == session_id is not None), None)

    def cancel_all(self, reason: str) -> list[Turn]:
        """Cancel whatever waits or runs; returns the turns that were not past their commit."""
        return [turn for turn in [*self._waiting, *self._running] if turn.cancel(reason)]

    def put_back_waiting(self) -> None:
        """Leave durable letters that have not begun to the next process. Nothing overtakes them in their sessions."""
        left, undecided = set[str | None](), self._undecided
        for turn in list(self._waiting):
            if turn in undecided:
                continue
            if turn.durable and turn.state == "queued" and turn.cancel_reason is None:
                self._waiting.remove(turn)
                self._put_back(turn)
                left.add(turn.session_id)
            elif turn.session_id is not None and turn.session_id in left:
                turn.cancel("draining")
        self._dispatch()  # nobody waits for another message any more

    def fail_running(self, error: HostError, followers: Exception | None) -> None:
        """After a crash: end the turns that it took along. What waits goes on waiting, and so do durable letters."""
        for turn in self._running:
            if turn.state == "accepting":
                turn.refuse(error)
            elif turn.durable and not turn.ended:
                self._left = True
                self._around.turn_crashed(turn)
                turn.put_back(error, followers)
                continue
            elif not turn.ended:
                turn.settle(error)
            self._around.turn_ended(self, turn)
        self._running.clear()

    def fail_all(self, error: HostError) -> None:
        """End every letter with an error, without a record: the actor cannot write one any more."""
        self._failed = error
        self._ready.set()
        self._running.update(self._waiting)
        self._waiting.clear()
        self.fail_running(error, None)

    def stop(self) -> None:
        """Passivate: the task ends, and the memory goes with it. Only when idle."""
        self._stop.set()

    def withdraw(self, turn: Turn) -> None:
        """A letter that was cancelled before it began leaves the mailbox; its record keeps what it said."""
        if self._open_nursery() is not None and not self._held and turn not in self._undecided:
            self._waiting.remove(turn)
            self._start(turn)

    def _dispatch(self) -> None:
        """Start every letter, in order of acceptance, whose session is free."""
        nursery = self._open_nursery()
        if nursery is None or self._held:
            return
        ahead, undecided = {turn.session_id for turn in self._running}, self._undecided
        for turn in list(self._waiting):
            if turn.state == "accepting" and self._may_be_accepted(turn):
                self._settle(turn)
                self._accepting.add(turn)
                nursery.start_soon(self._accept, turn)
            may_leave = turn.state == "queued" and turn not in undecided
            if may_leave and (turn.cancel_reason is not None or self._may_begin(turn, ahead)):
                self._waiting.remove(turn)
                self._start(turn)
            ahead.add(turn.session_id)

    def _may_be_accepted(self, turn: Turn) -> bool:
        """One after the other in each session: the store is to have them in the order in which they run."""
        if turn.session_id is None:
            return turn not in self._accepting
        return all(turn.session_id != other.session_id for other in self._accepting)

    def _may_begin(self, turn: Turn, ahead: set[str | None]) -> bool:
        if self._around.draining and turn.durable:
            return False
        if sum(not other.waits_for for other in self._running) >= self._around.limits.max_parallel_sessions:
            return False
        return turn.session_id is None or (turn.session_id not in ahead and not self._listens(turn))

    def _listens(self, turn: Turn) -> bool:
        """Whether a turn waits for another message; not if one stands behind it that has not joined it."""
        if trio.current_time() >= turn.quiet_until or self._around.draining:
            return False
        behind = self._waiting[self._waiting.index(turn) + 1 :]
        if any(other.session_id == turn.session_id and other.state == "queued" for other in behind):
            return False
        if turn not in self._listening and self._nursery is not None:
            self._listening.add(turn)
            self._nursery.start_soon(self._listen, turn)
        return True

    async def _listen(self, turn: Turn) -> None:
        while trio.current_time() < turn.quiet_until and not turn.ended:
            with trio.move_on_at(turn.quiet_until):
                await turn.end()
        self._listening.discard(turn)
        self._dispatch()

    def _open_nursery(self) -> trio.Nursery | None:
        """Where turns run; None between two lives."""
        nursery = self._nursery
        return None if nursery is None or nursery.cancel_scope.cancel_called else nursery

    def _start(self, turn: Turn) -> None:
        assert self._nursery is not None  # noqa: S101 - only called while the actor's task lives
        self._running.add(turn)
        if turn.cancel_reason is not None:
            self._nursery.start_soon(self._record_withdrawn, turn)
            return
        turn.begin()
        turn.context.run(self._nursery.start_soon, self._run_turn, turn)

    # -- the task

    async def run(self) -> None:
        """The actor's life: until it is stopped, or crashes with whatever its turns did not expect."""
        try:
            async with trio.open_nursery() as nursery:
                claim = await self._around.store.claim(self.key)
                self._performer = Performer(self.key, self._around, claim, self._sessions)
                if claim.letters:
                    self._left = True
                    await self._recover(claim)
                self._nursery, self._left = nursery, False
                self._ready.set()
                if self._around.draining:
                    self.put_back_waiting()
                self._dispatch()
                self._around.note(self)
                await self._stop.wait()
        finally:
            self._nursery = None
            if self._ready.is_set():
                self._ready = trio.Event()
            self._accepting.clear()
            self._listening.clear()
            self._sessions.go_cold(self._waiting)

    async def _recover(self, claim: Claim) -> None:
        """Take up the durable letters that no mailbox knows, ahead of what came since."""
        found, accepted = await recovered(self._around, claim, self._known())
        for turn in accepted:
            turn.accepted()
            self._settled(turn)
        again = {turn.run_id: turn for turn in found}
        for turn in self._waiting:
            turn.interrupts = [again.get(other.run_id, other) for other in turn.interrupts]
        self._waiting[:0] = [self._place(turn) for turn in found]
        marks = suspected(self._waiting)
        if marks.runs:
            with suppress(StoreFull):  # then they are marked at another start, if there has to be one
                await self._around.store.commit(claim, marks)
                for turn in self._waiting:
                    turn.unmarked = None

    def _known(self) -> dict[str, Turn]:
        """Letters that wait, by their ids."""
        return {one.run_id: one for turn in self._waiting for one in turn.parts}

    def _place(self, turn: Turn) -> Turn:
        turn.owner = self
        if turn.start is not None:
            self._sessions.rejoin(turn, turn.start)
        for one in turn.parts:
            self._around.turn_recovered(one)
        return turn

    async def collect(self, run_ids: AbstractSet[str]) -> None:
        """Take up letters that other turns' commits accepted, those of which that was not done yet."""
        performer = await self.ready()
        async with self._collecting:
            if wanted := run_ids - {one.run_id for turn in [*self._waiting, *self._running] for one in turn.parts}:
                found = await collected(self._around, performer.claim, wanted)
                self._waiting += [self._place(turn) for turn in found]
                self._dispatch()

    async def ready(self) -> Performer:
        """Wait until every letter of the key is in the mailbox.

        Raises:
            Overloaded: The key is in quarantine.
        """
        await self._ready.wait()
        if self._failed is not None:
            raise self._failed
        assert self._performer is not None  # noqa: S101 - it is ready
        return self._performer

    async def forget(self, token: str, reference: Reference, record: Record | None) -> None:
        """Delete a run, and what only its point reached; with the last that is reached, the whole key."""
        store, commit = self._around.store, forgotten(token, reference, record)
        async with self.alone() as performer:
            held = None if self._waiting or self._running else await held_without(store, performer.claim, token)
            with trio.CancelScope(shield=True):  # what was begun is to be known here
                if held is not None and held.nothing and not self._waiting:
                    await store.erase(self.key)
                    performer.claim = await store.claim(self.key)
                elif held is not None and (point := reference.reached(token)) is not None:
                    await store.commit(performer.claim, released(commit, point, held))
                else:
                    await store.commit(performer.claim, commit)
            if held is not None:
                self._sessions.go_cold(self._waiting)

    async def write(self, commit: Commit) -> None:
        """Write something of the key that no turn's session is.

        Raises:
            StorageFull: There is no room for it.
        """
        async with self.alone() as performer:
            try:
                await self._around.store.commit(performer.claim, commit)
            except StoreFull as exc:
                raise StorageFull("The server has no room to store this.") from exc

    # -- as a whole

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Performer]:
        """Within the block no letter begins, and nobody else has such a block. What runs goes on: see `still`."""
        performer = await self.ready()
        async with self._alone:
            self._paused = True
            try:
                yield performer
            finally:
                self._paused = False
                self._dispatch()

    @property
    def _held(self) -> bool:
        """Whether no letter may begin. If all that runs waits for other turns, one of these may be held back here."""
        return self._paused and not (self._running and all(turn.waits_for for turn in self._running))

    async def still(self) -> None:
        """Wait until nothing runs; within `alone`."""
        while self._running:
            await next(iter(self._running)).end()

    async def erase(self) -> bool:
        """Cancel what runs and what waits, and erase every row of the key. Who comes meanwhile is refused."""
        self.cancel_all("erased")  # also what others wait for who have it alone
        async with self._alone, self._collecting:
            self._erasing = True
            try:
                while await self.ready() and (left := [*self._waiting, *self._running]):
                    self.cancel_all("erased")
                    await left[0].end()
                try:
                    return await self._around.store.erase(self.key)
                finally:
                    await self.renewed()
            finally:
                self._erasing = False

    async def renewed(self) -> None:
        """The key was erased, or made: what was known of it is forgotten, and its letters are taken up."""
        with trio.CancelScope(shield=True):
            claim = await self._around.store.claim(self.key)
            self._sessions.go_cold(self._waiting)
            if self._performer is not None:
                self._performer.claim = claim
            found, _ = await recovered(self._around, claim, self._known())
            self._waiting[:0] = [self._place(turn) for turn in found]
        self._dispatch()

    async def _accept(self, turn: Turn) -> None:
        assert self._performer is not None  # noqa: S101 - it runs in the nursery
        error = await self._performer.accept(turn)
        self._accepting.discard(turn)
        if error is None:
            turn.accepted()
            self._settled(turn)
            if self._around.draining:
                self.put_back_waiting()
        else:
            turn.supersedes, turn.into = (), None
            self._waiting.remove(turn)
            self._sessions.leave(turn, self._around.limits.max_live_sessions)
            turn.refuse(error)
            self._around.turn_ended(self, turn)
        self._dispatch()

    async def _run_turn(self, turn: Turn) -> None:
        assert self._performer is not None  # noqa: S101 - it runs in the nursery
        outcome = await self._performer.perform(turn)
        session = self._sessions.of(turn)
        if session is not None and isinstance(outcome, HostError):
            session.live = None  # whatever the turn did to it: the store has the last committed state
        self._ended(turn, outcome)

    async def _record_withdrawn(self, turn: Turn) -> None:
        assert self._performer is not None  # noqa: S101 - it runs in the nursery
        error = cancelled_error(turn.cancel_reason or "cancelled")
        if not Performer.is_put_back(turn):
            await self._performer.record_failure(turn, error)
        self._ended(turn, error)

    def _ended(self, turn: Turn, outcome: HostedRunResult[Any] | HostError) -> None:
        self._running.discard(turn)
        if isinstance(outcome, HostError) and Performer.is_put_back(turn):
            self._put_back(turn)
            return
        self._sessions.leave(turn, self._around.limits.max_live_sessions)
        turn.settle(outcome)
        self._dispatch()
        self._around.turn_ended(self, turn)

    def _put_back(self, turn: Turn) -> None:
        self._sessions.leave(turn, self._around.limits.max_live_sessions)
        turn.put_back(turn.unrecorded or (goes_on(turn) if turn.attended else stopping()), None)
        self._around.turn_ended(self, turn)

    # -- what its turns ask

    def stand_aside(self, turn: Turn) -> None:
        """The turn waits for another one: neither its slot nor its place among the parallel sessions is used."""
        if self._performer is not None:
            self._performer.give_slot(turn)
        self._dispatch()

    async def step_back(self, turn: Turn) -> None:
        """The turn goes on, if it is still there."""
        if turn.state == "running" and not turn.scope.cancel_called and self._performer is not None:
            await self._performer.take_slot(turn)
            if turn.state != "running":
                self._performer.give_slot(turn)

    def flush_soon(self, turn: Turn) -> None:
        """Log the turn's transcript, beside it."""
        nursery = self._open_nursery()
        if nursery is not None and self._performer is not None:
            nursery.start_soon(self._performer.flush, turn)
