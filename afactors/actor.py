"""One isolation key: a mailbox, its sessions, and the turns that run in them.

The actor is the only writer of its key. Its task owns the nursery that its turns run in; `deliver` and everything
else that changes its books is synchronous, so that between two awaits they are always right.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol

import trio
from agent_framework import AgentResponse, AgentResponseUpdate, AgentSession, Message

from afactors_channels import BadRequest, HostedRunResult, HostError, Overloaded, StorageFull, TargetFailed
from afactors_store import MAX_NAME_BYTES, BadKey, Claim, Commit, RunRecord, Store, StoreFull

from .history import Changes, LiveSession, NotStorable, Point, decode_messages, load
from .limits import FairSlots, Limits
from .runs import run_body
from .target import Target
from .turn import Turn, ancestry, cancelled_error

logger = logging.getLogger("afactors.actor")

_DECODED_IN_PLACE = 64 * 1024  # bytes


@dataclass(slots=True)
class Session:
    """What an actor knows of one of its sessions.

    Attributes:
        start: Where it begins if the store does not have it: a new session, or a branch.
        live: What is in memory; None while it is cold.
        letters: Turns that wait for it or run in it.
        running: Whether a turn runs in it.
    """

    start: Point
    live: LiveSession | None = None
    letters: int = 0
    running: bool = False

    def taken_for(self, after: str) -> bool:
        """Whether a turn from that point would have to branch off, as far as can be told without the store."""
        return self.letters > 0 or (self.live is not None and self.live.point.head != after)


class Surroundings(Protocol):
    """What all actors of a runtime share."""

    store: Store
    target: Target
    limits: Limits
    slots: FairSlots
    deadlines: dict[Turn, float]
    """Turns that run the target, in the order in which their time is up."""

    def turn_ended(self, actor: Actor) -> None:
        """Called after each turn; the actor may be idle now."""
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

    def __init__(self, key: str, surroundings: Surroundings) -> None:
        self.key = key
        self._around = surroundings
        self._waiting: list[Turn] = []
        self._running: set[Turn] = set()
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._claim: Claim | None = None
        self._nursery: trio.Nursery | None = None
        self._stop = trio.Event()

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._waiting and not self._running

    def statistics(self) -> ActorStatistics:
        """The actor in figures, now."""
        return ActorStatistics(
            key=self.key,
            waiting=len(self._waiting),
            running=len(self._running),
            live_sessions=sum(session.live is not None for session in self._sessions.values()),
        )

    # -- the mailbox

    def deliver(self, turn: Turn, start: Point | None) -> None:
        """Put a letter into the mailbox.

        Args:
            turn: The letter.
            start: Where its session begins if the store does not have it; None runs without any session.

        Raises:
            Overloaded: The mailbox is full.
        """
        if len(self._waiting) >= self._around.limits.mailbox:
            raise Overloaded(
                f"This conversation has {self._around.limits.mailbox} messages waiting; try again later.",
                code="mailbox_full",
                retry_after=1.0,
            )
        if start is not None:
            turn.start, turn.session_id = start, self._session_for(turn, start)
        turn.withdraw, turn.owner = self._withdraw, self
        self._waiting.append(turn)
        self._dispatch()

    def running_in(self, session_id: str | None) -> Turn | None:
        """The turn that runs in a session."""
        return next((turn for turn in self._running if turn.session_id == session_id is not None), None)

    def cancel_all(self, reason: str) -> int:
        """Cancel whatever waits or runs; returns how many turns that were not past their commit."""
        return sum(turn.cancel(reason) for turn in [*self._waiting, *self._running])

    def fail_running(self, error: HostError) -> None:
        """After a crash: end the turns that it took along. What waits goes on waiting."""
        for turn in self._running:
            if not turn.ended:
                turn.settle(error)
        self._running.clear()

    def fail_all(self, error: HostError) -> None:
        """End every letter with an error, without a record: the actor cannot write one any more."""
        self._running.update(self._waiting)
        self._waiting.clear()
        self.fail_running(error)

    def stop(self) -> None:
        """Passivate: the task ends, and the memory goes with it. Only when idle."""
        self._stop.set()

    def _session_for(self, turn: Turn, start: Point) -> str:
        """The session that a letter joins: the one it names, or a branch if that one is taken or has moved on."""
        after = turn.request.session.after
        session = self._sessions.get(start.session_id)
        if after is not None and (start.named or (session is not None and session.taken_for(after))):
            start = start.branch(_branch_id(turn))
            session = None
        if session is None:
            session = self._sessions[start.session_id] = Session(start)
        session.letters += 1
        return start.session_id

    def _withdraw(self, turn: Turn) -> None:
        """A letter that was cancelled before it began leaves the mailbox; its record keeps what it said."""
        if self._nursery is None or self._nursery.cancel_scope.cancel_called:
            return  # between two lives; `_dispatch` finds it cancelled
        self._waiting.remove(turn)
        self._start(turn)

    def _dispatch(self) -> None:
        """Start every letter, in order of acceptance, whose session is free."""
        if self._nursery is None or self._nursery.cancel_scope.cancel_called:
            return  # between two lives
        for turn in list(self._waiting):
            if sum(not other.waits_for for other in self._running) >= self._around.limits.max_parallel_sessions:
                return
            session = self._sessions.get(turn.session_id) if turn.session_id is not None else None
            if session is None or not session.running:
                self._waiting.remove(turn)
                self._start(turn)

    def _start(self, turn: Turn) -> None:
        assert self._nursery is not None  # noqa: S101 - only called while the actor's task lives
        self._running.add(turn)
        if turn.cancel_reason is not None:
            self._nursery.start_soon(self._record_withdrawn, turn)
            return
        turn.state = "running"
        if turn.session_id is not None:
            self._sessions[turn.session_id].running = True
        turn.context.run(self._nursery.start_soon, self._run_turn, turn)

    # -- the task

    async def run(self) -> None:
        """The actor's life: until it is stopped, or crashes with whatever its turns did not expect."""
        try:
            async with trio.open_nursery() as nursery:
                self._claim = await self._around.store.claim(self.key)
                self._nursery = nursery
                self._dispatch()
                await self._stop.wait()
        finally:
            self._nursery = None
            self._go_cold()

    async def _run_turn(self, turn: Turn) -> None:
        outcome = await self._outcome(turn)
        if turn.session_id is not None:
            session = self._sessions[turn.session_id]
            session.running = False
            if isinstance(outcome, HostError):
                session.live = None  # whatever the turn did to it: the store has the last committed state
        self._ended(turn, outcome)

    async def _record_withdrawn(self, turn: Turn) -> None:
        error = cancelled_error(turn.cancel_reason or "cancelled")
        await self._record_failure(turn, error)
        self._ended(turn, error)

    def _ended(self, turn: Turn, outcome: HostedRunResult[AgentResponse[Any]] | HostError) -> None:
        self._running.discard(turn)
        if turn.session_id is not None:
            self._sessions[turn.session_id].letters -= 1
            self._sessions.move_to_end(turn.session_id)
            self._forget_cold()
        turn.settle(outcome)
        self._dispatch()
        self._around.turn_ended(self)

    async def _outcome(self, turn: Turn) -> HostedRunResult[AgentResponse[Any]] | HostError:
        """Run the turn and write its record, whatever its end."""
        error: HostError
        try:
            with turn.scope:
                return await self._complete(turn, await self._attempt(turn))
            error = cancelled_error(turn.cancel_reason or "cancelled")
        except HostError as exc:
            error = exc
        await self._record_failure(turn, error)
        return error

    async def _attempt(self, turn: Turn) -> AgentResponse[Any]:
        """Run the target, within its time."""
        await self._take_slot(turn)
        try:
            live = await self._wake(turn) if turn.session_id is not None else None
            ancestry.set((*ancestry.get(), turn))
            self._around.deadlines[turn] = trio.current_time() + self._around.limits.turn_timeout
            return await self._call_target(turn, live)
        finally:
            self._around.deadlines.pop(turn, None)
            self._give_slot(turn)

    async def _take_slot(self, turn: Turn) -> None:
        await self._around.slots.acquire(self.key)
        turn.has_slot = True

    def _give_slot(self, turn: Turn) -> None:
        if turn.has_slot:
            turn.has_slot = False
            self._around.slots.release()

    def stand_aside(self, turn: Turn) -> None:
        """The turn waits for another one: neither its slot nor its place among the parallel sessions is used."""
        self._give_slot(turn)
        self._dispatch()

    async def step_back(self, turn: Turn) -> None:
        """The turn goes on, if it is still there."""
        if turn.state == "running" and not turn.scope.cancel_called:
            await self._take_slot(turn)
            if turn.state != "running":
                self._give_slot(turn)

    async def _call_target(self, turn: Turn, live: LiveSession | None) -> AgentResponse[Any]:
        agent_session = live.session if live is not None else None
        try:
            if not turn.request.stream:
                return _checked(await self._around.target.run(turn, agent_session))
            seen: list[AgentResponseUpdate] = []
            async with self._around.target.stream(turn, agent_session) as stream:
                async for updates in stream:
                    seen.extend(updates)
                    await turn.publish(updates)
            # A stream of the agent's own making may have no final response to give.
            return _checked(stream.final or AgentResponse.from_updates(seen))
        except HostError:
            raise
        except Exception as exc:  # the target is user code: whatever it raises is its failure, not ours
            logger.warning("turn %s of the target failed", turn.run_id, exc_info=exc)
            raise TargetFailed("The agent failed to answer.") from exc

    async def _wake(self, turn: Turn) -> LiveSession:
        """Bring the turn's session into memory; a point that is no longer its head becomes a branch."""
        assert turn.session_id is not None  # noqa: S101 - the caller has looked
        session = self._sessions[turn.session_id]
        if session.live is None:
            name = document_name(turn.session_id)
            stored = (await self._around.store.read(self._claimed(), [name])).get(name)
            point = Point.decode(stored) if stored is not None else session.start
            if stored is not None and turn.request.session.after not in (None, point.head):
                session, point = self._branch(turn, session)
            session.live = await load(point, self._read_log, make=self._make_session, decode=_decode)
        return session.live

    def _branch(self, turn: Turn, left: Session) -> tuple[Session, Point]:
        """Move a turn that has begun to a session of its own, which begins at the turn's point."""
        assert turn.start is not None  # noqa: S101 - it has a point to begin at
        left.letters -= 1
        left.running = False
        point = turn.start.branch(_branch_id(turn))
        turn.session_id = point.session_id
        session = self._sessions[point.session_id] = Session(point, letters=1, running=True)
        return session, point

    async def _make_session(self, session_id: str) -> AgentSession:
        try:
            return await self._around.target.make_session(session_id)
        except Exception as exc:  # the target is user code: whatever it raises is its failure, not ours
            logger.warning("the target cannot make a session", exc_info=exc)
            raise TargetFailed("The agent failed to answer.") from exc

    async def _read_log(self, log: int, start: int, stop: int) -> list[bytes]:
        return await self._around.store.read_log(self._claimed(), log, start, stop)

    def _claimed(self) -> Claim:
        assert self._claim is not None  # noqa: S101 - turns run only after the claim
        return self._claim

    # -- the commit

    async def _complete(self, turn: Turn, response: AgentResponse[Any]) -> HostedRunResult[AgentResponse[Any]]:
        """The one commit of a completed turn."""
        live = self._sessions[turn.session_id].live if turn.session_id is not None else None
        try:
            changes = await live.changes(head=turn.request.name, label=turn.run_id) if live is not None else None
            commit = self._completed(turn, changes, response)
        except NotStorable as exc:
            logger.error("turn %s: %s", turn.run_id, exc)
            raise TargetFailed("The agent's session cannot be stored.", code="session_not_storable") from exc
        await trio.lowlevel.checkpoint_if_cancelled()
        turn.state = "committing"
        await self._commit(commit)
        if live is not None and changes is not None:
            live.committed(changes)
        return HostedRunResult(response, self.key, turn.session_id, turn.run_id)

    def _completed(self, turn: Turn, changes: Changes | None, response: AgentResponse[Any]) -> Commit:
        run = self._run_record(turn, "completed", span=changes.span if changes else {}, usage=response.usage_details)
        if changes is None:
            return Commit(run=run)
        point = changes.point.encode()
        name = turn.request.name
        return Commit(
            put={document_name(changes.point.session_id): point},
            append=changes.append,
            drop_logs=changes.drop,
            names={name: point} if name is not None else {},
            run=run,
        )

    async def _record_failure(self, turn: Turn, error: HostError) -> None:
        try:
            record = self._run_record(turn, turn.failure, error=error)
        except NotStorable as exc:
            logger.error("turn %s: its record is kept without its input: %s", turn.run_id, exc)
            record = self._run_record(turn, turn.failure, error=error, keep_request=False)
        try:
            with trio.CancelScope(shield=True):
                await self._commit(Commit(run=record))
        except StorageFull:
            logger.error("turn %s: the store has no room for its record (see --map-size)", turn.run_id)

    async def _commit(self, commit: Commit) -> None:
        try:
            await self._around.store.commit(self._claimed(), commit)
        except StoreFull as exc:
            raise StorageFull("The server has no room to store this turn.") from exc
        except BadKey as exc:
            raise BadRequest("The turn's name cannot be stored.", field="name") from exc

    def _run_record(self, turn: Turn, state: str, **more: Any) -> RunRecord:
        body = run_body(turn, state, completed=time.time(), **more)
        return RunRecord(turn.run_id, body, expires_at=turn.created + self._around.limits.run_retention)

    def _go_cold(self) -> None:
        """Keep of the sessions only what the waiting letters need to begin again."""
        waiting = [turn.session_id for turn in self._waiting]
        for session_id, session in list(self._sessions.items()):
            if session_id not in waiting:
                del self._sessions[session_id]
            else:
                session.live, session.running, session.letters = None, False, waiting.count(session_id)

    def _forget_cold(self) -> None:
        """Keep at most `max_live_sessions` sessions that nobody uses, the latest used."""
        for session_id in list(self._sessions):
            if len(self._sessions) <= self._around.limits.max_live_sessions:
                return
            if not self._sessions[session_id].letters:
                del self._sessions[session_id]


def document_name(session_id: str) -> str:
    """The document that holds a session's point; a session id of any length has one."""
    name = f"session/{session_id}"
    if len(name.encode(errors="surrogatepass")) <= MAX_NAME_BYTES:
        return name
    return f"session#{hashlib.sha256(session_id.encode(errors='surrogatepass')).hexdigest()}"


async def _decode(rows: list[bytes]) -> list[Message]:
    """A long history is decoded in a worker thread: trio goes on meanwhile."""
    if sum(map(len, rows)) <= _DECODED_IN_PLACE:
        return decode_messages(rows)
    return await trio.to_thread.run_sync(decode_messages, rows)


def _branch_id(turn: Turn) -> str:
    return turn.request.name or turn.run_id


def _checked(response: Any) -> AgentResponse[Any]:
    if not isinstance(response, AgentResponse):
        raise TypeError(f"the agent's run gave {type(response).__name__} instead of an AgentResponse")
    return response
