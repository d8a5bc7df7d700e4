"""How one turn is carried out: accepted, run, committed, or recorded as what became of it instead."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import trio
from agent_framework import AgentResponse, AgentResponseUpdate, Message

from afactors_channels import (
    BadRequest,
    ChannelContribution,
    ChannelResponseContext,
    HostedRunResult,
    HostError,
    NotFound,
    StorageFull,
    TargetFailed,
)
from afactors_store import Append, BadKey, Claim, Commit, Committed, Conflict, NewDelivery, Store, StoreFull

from . import commits
from .asking import Questions, read_questions
from .editing import edit, remembered
from .forgetting import beside, followed
from .history import Changes, NotStorable
from .hooks import hooked
from .host import Host
from .limits import FairSlots, Limits
from .naming import document_name
from .questions import Asked, check_answers, question_name
from .remembering import Memory, joined
from .reminders import GONE
from .retention import Keep, opened, retained
from .sending import Proactive, Sender, marked, no_destination, written
from .sessions import Sessions
from .target import Desk, Live, Outcome, Target, said_by
from .turn import Turn, ancestry, cancelled_error, state_of

logger = logging.getLogger("afactors.actor")


class Surroundings(Protocol):
    """What all actors of a runtime share."""

    store: Store
    target: Target
    limits: Limits
    slots: FairSlots
    deadlines: dict[Turn, float]
    """Turns that run the target, in the order in which their time is up."""
    channels: Mapping[str, ChannelContribution]

    def collect_soon(self, turn: Turn) -> None:
        """A turn was accepted by another one's commit: its actor is to take it up."""
        ...

    def posted(self, deliveries: Sequence[NewDelivery]) -> None:
        """Deliveries were committed."""
        ...

    host: Host | None
    """The runtime, for the target's own code."""
    suspects: FairSlots
    """One slot, for turns that run again after the process was cut off in the middle of them."""


class Performer:
    """Carries out the turns of one actor, for as long as its claim holds."""

    def __init__(self, key: str, around: Surroundings, claim: Claim, sessions: Sessions) -> None:
        self._key = key
        self._around = around
        self.claim = claim
        self._sessions = sessions
        self._questions = Questions(around.store, around.limits.question_timeout)
        self._sender = Sender(around.store, around.channels)

    # -- acceptance

    async def accept(self, turn: Turn) -> HostError | None:
        """Make a letter durable; what it interrupts has ended by then, for good. Returns why that was refused."""
        for interrupted in turn.interrupts:
            await interrupted.end()
        turn.interrupts = ()
        await self._sender.heard(self.claim, turn)
        news = self._sender.news(self.claim)
        try:
            await self._write(replace(commits.accepted(turn, self._around.limits), put=written(news)))
        except HostError as error:
            return error
        self._sender.learnt(news)
        return None

    # -- the turn

    async def perform(self, turn: Turn) -> HostedRunResult[Any] | HostError:
        """Run the turn and write its record, whatever its end. A turn that is put back has no record of it."""
        error: HostError
        try:
            with turn.scope:
                return await self._whole(turn)
            error = cancelled_error(turn.cancel_reason or "cancelled")
        except HostError as exc:  # whatever a cancelled target makes of it
            error = exc if turn.cancel_reason is None else cancelled_error(turn.cancel_reason)
        if not self.is_put_back(turn):
            await self.record_failure(turn, error)
        return error

    @staticmethod
    def is_put_back(turn: Turn) -> bool:
        """Whether a turn without a result leaves its letter where it is: to run again, mostly in the next process."""
        return turn.durable and (turn.cancel_reason == "draining" or turn.unrecorded is not None)

    async def _whole(self, turn: Turn) -> HostedRunResult[Any]:
        if turn.edit is not None:
            return await (self._send(turn) if isinstance(turn.edit, Proactive) else self._edit(turn))
        await self._sender.heard(self.claim, turn)
        try:
            outcome = await self._attempt(turn)
            shown = await self._shown(turn, HostedRunResult(outcome.result, self._key, turn.session_id, turn.run_id))
            return await self._complete(turn, outcome, shown)
        finally:
            self._questions.release(turn)

    async def _count(self, turn: Turn) -> None:
        """Note durably that a letter is run once more, before it is."""
        if turn.suspect:
            if turn.attempt >= self._around.limits.max_attempts:
                raise TargetFailed("The run was cut off too often.", code=commits.ATTEMPTS_EXHAUSTED)
            turn.attempt += 1
        if turn.suspect or turn.leftover is not None:
            await self._write(commits.begun_again(turn, self._around.limits))

    async def _attempt(self, turn: Turn) -> Outcome:
        """Run the target, within its time."""
        await self.take_slot(turn)
        try:
            await self._count(turn)
            if turn.journal is not None and not turn.attended:
                turn.journal.started()
            live = await self._sessions.wake(self.claim, turn) if turn.session_id is not None else None
            await self._hear(turn, live)
            self._around.deadlines[turn] = trio.current_time() + self._around.limits.turn_timeout
            with self._inside(turn, live):
                return await self._call_target(turn, live)
        finally:
            self._around.deadlines.pop(turn, None)
            self.give_slot(turn)

    @contextmanager
    def _inside(self, turn: Turn, live: Live | None) -> Iterator[None]:
        """What is called here knows that it runs in the turn, and may add to what the turn remembers."""
        ancestry.set((*ancestry.get(), turn))
        turn.host = self._around.host
        turn.memory = Memory(turn, live, self._read, self._around.target.in_trio)
        try:
            yield
        finally:
            turn.memory.close()

    async def take_slot(self, turn: Turn) -> None:
        """Wait until the turn may run the target; a suspect runs alone among its like."""
        if turn.suspect:
            await self._around.suspects.acquire(self._key)
        try:
            await self._around.slots.acquire(self._key)
            turn.has_slot = True
        finally:
            if turn.suspect and not turn.has_slot:
                self._around.suspects.release()

    def give_slot(self, turn: Turn) -> None:
        """Let another turn run the target."""
        if turn.has_slot:
            turn.has_slot = False
            self._around.slots.release()
            if turn.suspect:
                self._around.suspects.release()

    async def _hear(self, turn: Turn, live: Live | None) -> None:
        """Find out what a turn answers, and whether it should."""
        target, at = self._around.target, time.time()
        strict = not target.branches
        scope = target.scope(turn.session_id or "")
        turn.answers = await self._questions.answers(self.claim, turn, scope, strict=strict, at=at)
        if strict:
            waiting = await self._questions.open_in(self.claim, live.point, scope, at) if live is not None else ()
            check_answers(turn.request, turn.answers, [one.question_id for one in waiting])

    async def _call_target(self, turn: Turn, live: Live | None) -> Outcome:
        whole_only = self._around.channels.get(turn.request.channel, _NO_CHANNEL).response_hook is not None
        desk = Desk(_unseen if whole_only else turn.publish, self._write, self._read)
        try:
            return await self._around.target.perform(turn, live, desk)
        except HostError:
            raise
        except NotStorable as exc:
            logger.error("turn %s: %s", turn.run_id, exc)
            raise TargetFailed("The workflow's state cannot be stored.", code="session_not_storable") from exc
        except Exception as exc:  # the target is user code: whatever it raises is its failure, not ours
            logger.warning("turn %s of the target failed", turn.run_id, exc_info=exc)
            raise TargetFailed("The agent failed to answer.") from exc

    async def _read(self, log: int, start: int, stop: int) -> list[bytes]:
        return await self._around.store.read_log(self.claim, log, start, stop)

    async def _shown(self, turn: Turn, result: HostedRunResult[Any]) -> HostedRunResult[Any]:
        """What the channel's response hook makes of a result."""
        request = turn.request
        channel = self._around.channels.get(request.channel, _NO_CHANNEL)
        hook = channel.response_hook
        if hook is None or channel.replies_by_push:
            return result
        try:
            own = replace(result, result=copy.deepcopy(result.result))  # what is remembered is not the hook's to change
        except Exception as exc:  # a workflow's outputs may be anything
            logger.warning("turn %s: its result cannot be copied for the response hook", turn.run_id, exc_info=exc)
            raise TargetFailed("The result cannot be rewritten.", code="response_hook_failed") from exc
        context = ChannelResponseContext(request, request.channel)
        return await hooked(hook, own, what="response", code="response_hook_failed", context=context)

    # -- the commit

    async def _complete(self, turn: Turn, outcome: Outcome, shown: HostedRunResult[Any]) -> HostedRunResult[Any]:
        """The one commit of a completed turn."""
        session = self._sessions.of(turn)
        live = session.live if session is not None else None
        at = turn.completed_at = round(time.time(), 3)
        turn.said = outcome.response if shown.result is outcome.result else said_by(shown.result)
        wanted = await self._sender.aim(self.claim, turn.request, at)
        marked(outcome.response, wanted)
        try:
            changes = None
            if live is not None:
                changes = await self._kept(turn, live, partial(self._changes, turn, live, outcome.questions, at), at)
            if turn.journal is not None:
                await turn.journal.flushed()
            await trio.lowlevel.checkpoint_if_cancelled()
            news = self._sender.news(self.claim)
            sent = self._sender.sent(turn, wanted, news, outcome.response, at)
            commit = commits.completed(
                turn,
                self._around.limits,
                at=at,
                state=state_of(turn.said),
                changes=changes,
                result=turn.said,
                kept=turn.journal.completed(turn.said, at) if turn.journal is not None else None,
                sent=sent,
            )
        except NotStorable as exc:
            logger.error("turn %s: %s", turn.run_id, exc)
            raise TargetFailed("The agent's session cannot be stored.", code="session_not_storable") from exc
        turn.state = "committing"
        try:
            await self._write(commit)
        except Conflict as exc:
            if not turn.outgoing:
                raise
            logger.error("turn %s: what it submitted was refused: %s", turn.run_id, exc)
            raise TargetFailed("What the agent submitted was refused.", code="conflict") from exc
        if live is not None and changes is not None:
            live.committed(changes)
        self._sender.learnt(news)
        self._around.posted([delivery for _, delivery in sent.deliveries])
        for letter in turn.outgoing:
            self._around.collect_soon(letter)
        return HostedRunResult(shown.result, self._key, turn.session_id, turn.run_id)

    async def _kept(self, turn: Turn, live: Live, make: Callable[[], Awaitable[Changes]], at: float) -> Changes:
        """What the turn changes of its session, with what it remembered, and what leaves the session for that."""
        keep = Keep.of(self._around.limits)
        before = live.point = opened(live.point, keep, at)
        changes = joined(await make(), before, turn.remembered)
        left = await retained(changes, before, keep, at, self._read)
        left = followed(left, before, named=turn.head is not None or turn.request.name is not None)
        return await self._questions.lapsed(self.claim, changes, left, self._around.target.scope(before.session_id), at)

    async def _changes(self, turn: Turn, live: Live, new: Sequence[Asked], at: float) -> Changes:
        """What the turn changes of its session, with the questions that it answers and asks.

        One that expired stays noted until a workflow has given it up: until then it waits in the checkpoint.
        """
        scope = self._around.target.scope(turn.session_id or "")
        if not (live.point.questions or new or turn.answers):
            return await live.changes(head=turn.head, label=turn.run_id)
        asked = await read_questions(self._around.store, self.claim, live.point, scope)
        left = [one for one in asked if one.closed is None and one.question_id not in turn.answers]
        given_up = not self._around.target.branches and not turn.answers  # as a workflow gives up by a message
        questions = list(dict.fromkeys(one.question_id for one in [*(left if not given_up else ()), *new]))
        changes = await live.changes(head=turn.head, label=turn.run_id, questions=questions)
        put, delete = await self._questions.written(self.claim, scope, new, turn.answers, at)
        if given_up:  # of these nobody needs to know more than that they were asked
            bare = {question_name(scope, one.question_id): replace(one, name="", content={}).encode() for one in left}
            put = {**{name: document for name, document in bare.items() if name not in delete}, **put}
        return replace(changes, put={**changes.put, **put}, delete=delete)

    async def record_failure(self, turn: Turn, error: HostError) -> None:
        """Write what became of a turn that has no result."""
        if turn.edit is not None:
            return
        at = round(time.time(), 3)
        with trio.CancelScope(shield=True):
            kept = None
            if turn.journal is not None:
                await turn.journal.flushed()
                kept = turn.journal.failed(turn.failure, error.code, error.message)
            try:
                await self._end(turn, error, at, kept)
            except StorageFull as full:
                turn.unrecorded = full
                logger.error("turn %s: the store has no room for its record (see --map-size)", turn.run_id)

    async def _end(self, turn: Turn, error: HostError, at: float, kept: Any) -> None:
        """End a turn without a result; if that cannot be written down, with less, or its letter would run for ever."""
        limits = self._around.limits
        for concerned in (await self._sender.concerned(self.claim, turn, at), ()):
            try:
                told = self._sender.failure(turn, concerned, error, at)
                await self._ended(commits.failed(turn, limits, error, at=at, kept=kept, deliveries=told))
            except StorageFull:
                raise
            except (NotStorable, HostError) as exc:
                logger.error("turn %s: its failure is recorded without all of it: %s", turn.run_id, exc)
            else:
                return
        await self._ended(commits.unstorable(turn, limits, error, at=at))

    async def _ended(self, commit: Commit) -> None:
        news = self._sender.news(self.claim)
        await self._write(replace(commit, put=written(news)))
        self._sender.learnt(news)
        self._around.posted(commit.deliveries)

    async def flush(self, turn: Turn) -> None:
        """Log what is shown of a turn's transcript."""
        journal = turn.journal
        assert journal is not None  # noqa: S101 - it asked for this
        # Without a letter there is no record yet that would tell of the log, if the process ended now.
        lost_at = time.time() + self._around.limits.turn_timeout + self._around.limits.transcript_retention

        async def write(append: Append) -> None:
            await self._write(Commit(append=[append], expire_logs={} if turn.durable else {append.log: lost_at}))

        try:
            await journal.flush(write)
        except StorageFull:
            logger.error("turn %s: the store has no room for its transcript (see --map-size)", turn.run_id)
            journal.cut = True

    async def _write(self, commit: Commit) -> Committed:
        try:
            return await self._around.store.commit(self.claim, commit)
        except StoreFull as exc:
            raise StorageFull("The server has no room to store this turn.") from exc
        except Conflict as exc:
            if not commit.fire or await self._around.store.read(self.claim, commit.fire):
                raise
            raise NotFound("This reminder was cancelled.", code=GONE) from exc
        except BadKey as exc:
            raise BadRequest("The turn's name cannot be stored.", field="name") from exc

    # -- changes by others than turns

    async def _edit(self, turn: Turn) -> HostedRunResult[Any]:
        assert turn.edit is not None and turn.session_id is not None  # noqa: S101, PT018 - it was made so
        names = [document_name(turn.session_id), document_name(turn.session_id, "labels")]
        stored = await self._around.store.read(self.claim, names)
        live = await self._sessions.wake(self.claim, turn)
        try:
            with self._inside(turn, live):
                make = partial(live.changes, head=None, label=turn.run_id)
                kept = partial(self._kept, turn, live, make, time.time())
                others = partial(beside, self._around.store, self.claim, live.point, self._sessions.points)
                commit, changes = await edit(turn, live, stored, self._around.target, kept, others)
        except NotStorable as exc:
            logger.error("an edit of a session: %s", exc)
            raise BadRequest("The items cannot be stored.", code="not_storable") from exc
        turn.state = "committing"
        await self._write(commit)
        if turn.edit.delete:
            self._sessions.forget(turn.session_id)
        elif changes is not None:
            live.committed(changes)
        return HostedRunResult(None, self._key, turn.session_id, turn.run_id)

    async def _send(self, turn: Turn) -> HostedRunResult[Any]:
        """The one commit of a message that nobody asked for."""
        proactive, at = turn.edit, time.time()
        assert isinstance(proactive, Proactive)  # noqa: S101 - the caller has looked
        message = Message.from_dict(dict(proactive.message))
        said: AgentResponse[Any] = AgentResponse(messages=[message])
        wanted = await self._sender.aim(self.claim, turn.request, at)
        if not wanted.destinations and turn.timer is None:
            raise no_destination()
        marked(said, wanted)
        live, changes = None, None
        try:
            sent = self._sender.message(turn, wanted, said, at)
            if proactive.remember and turn.session_id is not None:
                live = await self._sessions.wake(self.claim, turn)
                with self._inside(turn, live):
                    await remembered(self._around.target, live, [message], turn.run_id)
                changes = await self._kept(turn, live, partial(live.changes, head=None, label=turn.run_id), at)
        except NotStorable as exc:
            logger.error("a message that nobody asked for: %s", exc)
            raise BadRequest("The message cannot be stored.", code="not_storable") from exc
        commit = replace(commits.edited(turn.session_id or "", changes, None), **commits.fired(turn))
        turn.state = "committing"
        turn.delivery_ids = (await self._write(replace(commit, deliveries=sent))).delivery_ids
        if live is not None and changes is not None:
            live.committed(changes)
        self._around.posted(sent)
        return HostedRunResult(None, self._key, turn.session_id, turn.run_id)


_NO_CHANNEL = ChannelContribution()


async def _unseen(_updates: Sequence[AgentResponseUpdate]) -> None:
    """Shown whole, at the end."""
