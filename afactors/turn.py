"""One turn: a letter, its run of the target, and whoever waits for what becomes of it."""

from __future__ import annotations

import contextvars
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Literal, Protocol, Self, TypeAlias

import trio
from agent_framework import AgentResponse, AgentResponseUpdate, Message

from afactors_channels import (
    ChannelRequest,
    ContinuationToken,
    HostedRun,
    HostedRunResult,
    HostError,
    IsolationKeys,
    OverlapPolicy,
    Overloaded,
    RunState,
    SessionEdit,
    TargetFailed,
)
from afactors_store import NewDelivery

from .checkpoints import Steps
from .history import Point
from .host import Host
from .journal import Journal
from .questions import Answer
from .remembering import Memory, Remembered
from .reminders import Reminder
from .runs import Record

TurnState: TypeAlias = Literal["accepting", "queued", "running", "committing"] | RunState
"""accepting → queued → running → committing → completed or incomplete; accepting, queued or running → cancelled;
running or committing → failed. Only a durable letter has to be accepted: it is being written.

From `committing` on, a turn can no longer be cancelled: the commit is with the writer.
"""

ancestry: contextvars.ContextVar[tuple[Turn, ...]] = contextvars.ContextVar("afactors_ancestry", default=())
"""Every turn that the present code runs inside of, the outermost first."""

_BUFFERED_BATCHES = 16  # a reader that is further behind holds its own turn up
_CUT_OFF = frozenset({"length", "content_filter"})  # finish reasons of a model that was not done


def get_current_request() -> ChannelRequest | None:
    """The request whose turn the calling code (an agent's, a tool's) runs in; None outside of turns."""
    inside = ancestry.get()
    return inside[-1].request if inside else None


def get_current_isolation_keys() -> IsolationKeys | None:
    """Who a trusted platform said that the present turn is for; None if it did not, and outside of turns."""
    request = get_current_request()
    return request.isolation if request is not None else None


class TurnOwner(Protocol):
    """What a turn asks of its actor."""

    def withdraw(self, turn: Turn) -> None:
        """The turn was cancelled before it began."""
        ...

    def stand_aside(self, turn: Turn) -> None:
        """The turn does not run for a while."""
        ...

    async def step_back(self, turn: Turn) -> None:
        """The turn goes on; waits for a slot."""
        ...

    def flush_soon(self, turn: Turn) -> None:
        """Somebody follows the turn: its transcript should be logged."""
        ...


class Turn:
    """A letter on its way through an actor. Made by the runtime only.

    Attributes:
        request: What was asked.
        key: The actor's isolation key.
        run_id: Name of its record, and of its letter.
        durable: Whether its letter is committed on acceptance.
        attended: Whether its caller waits for it. Of a workflow's turn, both may be.
        token: Its global name, if it has one.
        idempotency: The global name of its idempotency key, if it has one.
        created: When it was accepted, in seconds since the epoch.
        attempt: Which attempt at it this is.
        outgoing: Turns that its code submitted: they are accepted by its commit.
        posting: What its code sent, with the keys that it was sent for: its commit has that, too.
        reminding: Reminders that its code made, or (None) cancelled, by key and id: its commit has that, too.
        timer: The reminder that it is, by its document's name: settled when it is accepted, or sent.
        host: The runtime that its code may ask, while it runs.
        delivery_ids: Of a message that nobody asked for: its deliveries.
        packed: Its request, as its letter has it.
        suspect: Whether the attempt before may have ended the process: this one is counted before it runs.
        unmarked: Its record, if that does not say yet that it is a suspect.
        leftover: The log of an attempt that is over, to be dropped.
        edit: What it does to its session, instead of running the target.
        journal: Its transcript, if the channel writes one.
        overlap: What it does to those that wait before it.
        interrupts: Turns that it has cancelled; it is accepted after their end.
        supersedes: Turns that it will cancel once it is accepted.
        into: The turn that it joins, once it is accepted: their run is one.
        joined: Those that have joined it, in order; their messages are in its request.
        quiet_since: When its first message came, by trio's clock.
        quiet_until: Until when it waits for another one to join it.
        messages: Its input as the target got it.
        answers: What it answers, by the question's id.
        steps: What a workflow has written of its progress, if it has.
        said: What its result says, as the framework's messages.
        remembered: What it has added to histories in the store.
        memory: Its hand on those, while it runs.
        completed_at: When it completed, in seconds since the epoch.
        unrecorded: Why its end could not be written down, if it could not.
    """

    def __init__(
        self,
        request: ChannelRequest,
        run_id: str,
        key: str,
        *,
        durable: bool = False,
        attended: bool | None = None,
        created: float | None = None,
        edit: SessionEdit | None = None,
    ) -> None:
        self.request = request
        self.key = key
        self.run_id = run_id
        self.durable = durable
        self.attended = not durable if attended is None else attended
        self.token = request.name
        self.idempotency: str | None = None
        self.session_id: str | None = None
        self.start: Point | None = None
        self.state: TurnState = "accepting" if durable else "queued"
        # As precise as it is stored, or whoever looks later might see another second.
        self.created = round(time.time(), 3) if created is None else created
        self.attempt = 1
        self.outgoing: list[Turn] = []
        self.posting: list[tuple[str, NewDelivery]] = []
        self.reminding: dict[tuple[str, str], Reminder | None] = {}
        self.timer: str | None = None
        self.host: Host | None = None
        self.delivery_ids: Sequence[str] = ()
        self.packed = b""
        self.suspect = False
        self.unmarked: Record | None = None
        self.leftover: int | None = None
        self.edit = edit
        self.journal: Journal | None = None
        self.overlap: OverlapPolicy = "enqueue"
        self.interrupts: Sequence[Turn] = ()
        self.supersedes: Sequence[Turn] = ()
        self.into: Turn | None = None
        self.joined: list[Turn] = []
        self.quiet_since = self.quiet_until = -math.inf
        self.messages: Sequence[Message] = ()
        self.answers: Mapping[str, Answer] = {}
        self.steps: Steps | None = None
        self.said: AgentResponse[Any] | None = None
        self.remembered: list[Remembered] = []
        self.memory: Memory | None = None
        self.completed_at: float | None = None
        self.unrecorded: HostError | None = None
        self.scope = trio.CancelScope()
        self.cancel_reason: str | None = None
        # The turn runs in its caller's context, so that trace spans nest and a call to one's own session is seen.
        self.context = contextvars.copy_context()
        self.owner: TurnOwner | None = None
        self.has_slot = False
        self.waits_for: set[Turn] = set()  # turns that its own code waits for
        self._followers = 0
        self._abandoned = False
        self._accepted = trio.Event()
        if not durable:
            self._accepted.set()
        self._ended = trio.Event()
        self._at_end: list[Callable[[], object]] = []
        self._result: HostedRunResult[Any] | None = None
        self._error: HostError | None = None
        self._publisher: trio.MemorySendChannel[Sequence[AgentResponseUpdate]] | None = None
        self._reader: trio.MemoryReceiveChannel[Sequence[AgentResponseUpdate]] | None = None

    @property
    def ended(self) -> bool:
        """Whether it has a result or an error."""
        return self._ended.is_set()

    @property
    def begun(self) -> bool:
        """Whether it has left the mailbox."""
        return self.state not in ("accepting", "queued")

    @property
    def whole(self) -> Turn:
        """The turn whose run is its own."""
        return self.into or self

    @property
    def parts(self) -> Sequence[Turn]:
        """It, and those that have joined it."""
        return (self, *self.joined)

    @property
    def head(self) -> str | None:
        """The name of the point that its session is at afterwards: that of the last message."""
        return self.parts[-1].request.name

    def join(self, other: Turn) -> None:
        """Have another turn end with this one, which says what both say; while it waits."""
        other.into = self
        self.joined.append(other)
        self.request = self.request.replace(input=[*self.request.input, *other.request.input])

    @property
    def failure(self) -> Literal["failed", "cancelled"]:
        """What it is called when it ends without a result: whoever takes too long has failed."""
        return "cancelled" if self.cancel_reason not in (None, "timeout") else "failed"

    def watched(self) -> Turn:
        """Have it hand its updates to an iterator; before it is delivered."""
        if self.request.stream and self.attended and self.journal is None:
            self._publisher, self._reader = trio.open_memory_channel[Sequence[AgentResponseUpdate]](_BUFFERED_BATCHES)
        return self

    def cancel(self, reason: str) -> bool:
        """Ask the turn to stop, and those with it that are one with it; False if it is too late for that."""
        if self.into is not None:
            return self.into.cancel(reason)
        if self.state not in ("accepting", "queued", "running"):
            return False
        if self.cancel_reason is None:
            self.cancel_reason = reason
            self.scope.cancel(reason=reason)
            if self.state == "queued" and self.owner is not None:
                self.owner.withdraw(self)
        return True

    def begin(self) -> None:
        """It leaves the mailbox."""
        self.state = "running"

    async def publish(self, updates: Sequence[AgentResponseUpdate]) -> None:
        """Hand updates to the reader, if there is one; waits for a reader that is far behind."""
        if self.journal is not None:
            self.journal.fed(updates)
            await self.journal.room()
        elif self._publisher is not None:
            try:
                await self._publisher.send(updates)
            except trio.BrokenResourceError:
                self._publisher = None  # the reader left, and the turn is to finish all the same

    def accepted(self) -> None:
        """Its letter is durable."""
        self.state = "queued"
        self._accepted.set()

    async def acceptance(self) -> None:
        """Wait until its letter is durable.

        Raises:
            HostError: It was refused after all.
        """
        await self._accepted.wait()
        if self._error is not None and self.state == "accepting":
            raise self._error

    def refuse(self, error: HostError) -> None:
        """Its letter was not written: there is no such turn."""
        self._error = error
        self._accepted.set()
        self._end()

    def settle(self, outcome: HostedRunResult[Any] | HostError) -> None:
        """End the turn, once its record is durable."""
        if isinstance(outcome, HostedRunResult):
            self._result, self.state = outcome, state_of(self.said)
        else:
            self._error = outcome
            self.state = self.failure
            if self.journal is not None:
                self.journal.failed(self.state, outcome.code, outcome.message)
        if self.journal is not None:
            self.journal.settled()
        self._accepted.set()
        self._end()

    def put_back(self, why: HostError, followers: Exception | None) -> None:
        """The attempt is over, and its letter still there: it will be run again, as another turn."""
        self._error = why
        if self.journal is not None:
            self.journal.lost(followers)
        self._accepted.set()
        self._end()

    def _end(self) -> None:
        for one in self.joined:
            one.state, one._result, one._error = self.state, self._result, self._error
            one._end()
        self._ended.set()
        for call in self._at_end:
            call()
        if self._publisher is not None:
            self._publisher.close()

    def on_end(self, call: Callable[[], object]) -> None:
        """Have `call` called when the turn ends; at once if it has."""
        if self.ended:
            call()
        else:
            self._at_end.append(call)

    @asynccontextmanager
    async def standing_aside(self, wanted: Turn) -> AsyncIterator[None]:
        """While its own code waits for another turn: it holds no slot, or the two could wait for each other."""
        assert self.owner is not None  # noqa: S101 - it runs, so it was delivered
        self.waits_for.add(wanted)
        if len(self.waits_for) == 1:
            self.owner.stand_aside(self)
        try:
            yield
        finally:
            self.waits_for.remove(wanted)
            if not self.waits_for:
                await self.owner.step_back(self)

    async def end(self) -> None:
        """Wait for the end, whatever it is."""
        await self._ended.wait()

    async def outcome(self) -> HostedRunResult[Any]:
        """Wait for the end.

        Raises:
            HostError: The turn failed, was cancelled, or was refused after all.
        """
        await self._ended.wait()
        return self.result

    @property
    def result(self) -> HostedRunResult[Any]:
        """The committed result.

        Raises:
            HostError: There is none, and there will not be one.
            RuntimeError: There is none yet.
        """
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise RuntimeError("the turn has not ended")
        return self._result

    @property
    def run(self) -> HostedRun:
        """Its run, as its record has it; only after the turn has completed.

        Raises:
            HostError: It did not complete, and will not.
        """
        _, whole = self.result, self.whole
        return replace(self.standing, state=state_of(whole.said), ended=whole.completed_at, result=whole.said)

    @property
    def standing(self) -> HostedRun:
        """Its run, while it has not ended."""
        if self.into is not None:
            return replace(self.into.standing, token=ContinuationToken(self.token or ""))
        request = self.request
        return HostedRun(
            token=ContinuationToken(self.token or ""),
            run_id=self.run_id,
            isolation_key=self.key,
            session_id=self.session_id,
            state="running" if self.begun else "queued",
            created=self.created,
            attempt=self.attempt,
            durable=self.durable,
            retrievable=request.retrievable,
            streamed=self.journal is not None and self.journal.place is not None,
            presentation=request.presentation,
            metadata=request.metadata,
        )

    @property
    def error(self) -> HostError | None:
        """What became of it instead of a result."""
        return self._error

    def rows(self) -> AsyncGenerator[Sequence[bytes], None]:
        """Batches of transcript rows, as they come.

        Raises:
            RuntimeError: Its channel writes no transcript.
        """
        if self.journal is None:
            raise RuntimeError("this turn has no transcript")
        return self.journal.provisional()

    def __aiter__(self) -> Self:
        if self._reader is None:
            raise RuntimeError("this turn was not asked to stream")
        return self

    async def __anext__(self) -> Sequence[AgentResponseUpdate]:
        assert self._reader is not None  # noqa: S101 - `__aiter__` has looked
        try:
            return await self._reader.receive()
        except trio.EndOfChannel:
            _ = self.result  # the channel is closed after the end; a failure is raised here
            raise StopAsyncIteration from None

    def leave(self) -> None:
        """The caller goes away: by the request's `on_disconnect`, the turn is cancelled or goes on unseen."""
        if self._reader is not None:
            self._reader.close()
        if self.journal is not None:
            self.journal.leave()
        self._abandoned = self.attended and self.request.on_disconnect == "cancel"
        self._cancel_if_abandoned()

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """While somebody else waits for its end: its caller's leaving does not cancel it."""
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1
            self._cancel_if_abandoned()

    def _cancel_if_abandoned(self) -> None:
        if not self.ended and all(one._abandoned and not one._followers for one in self.whole.parts):
            self.cancel("disconnected")


def state_of(said: AgentResponse[Any] | None) -> RunState:
    """Whether a committed result is whole."""
    return "incomplete" if getattr(said, "finish_reason", None) in _CUT_OFF else "completed"


def stopping() -> Overloaded:
    """For whoever wants something of a runtime that is being drained."""
    return Overloaded("The server is stopping.", code="draining", status=503, retry_after=5.0)


def goes_on(turn: Turn) -> TargetFailed:
    """For whoever waits for a turn that the next process goes on with; asked again, it would run twice."""
    where = f" as {turn.token}" if turn.token is not None else ""
    return TargetFailed(f"The server is stopping; the run goes on{where} when it is back.", code="run_goes_on")


def cancelled_error(reason: str) -> HostError:
    """What the caller of a cancelled turn gets, if it is still there."""
    if reason == "draining":
        return TargetFailed("The server is stopping; the turn was not completed.", code="draining", status=503)
    if reason == "timeout":
        return TargetFailed("The agent did not answer in time.", code="timeout", status=504)
    if reason == "superseded":
        return TargetFailed("A newer message took this one's place.", code="superseded", status=409)
    if reason == "interrupted":
        return TargetFailed("Another message took this one's place.", code="interrupted", status=409)
    return TargetFailed("The turn was cancelled.", code="cancelled", status=409)
