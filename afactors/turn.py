"""One turn: a letter, its run of the target, and whoever waits for what becomes of it."""

from __future__ import annotations

import contextvars
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, Protocol, Self, TypeAlias

import trio
from agent_framework import AgentResponse, AgentResponseUpdate

from afactors_channels import ChannelRequest, HostedRunResult, HostError, TargetFailed

from .history import Point

TurnState: TypeAlias = Literal["queued", "running", "committing", "completed", "failed", "cancelled"]
"""queued → running → committing → completed; queued or running → cancelled; running or committing → failed.

From `committing` on, a turn can no longer be cancelled: the commit is with the writer.
"""

ancestry: contextvars.ContextVar[tuple[Turn, ...]] = contextvars.ContextVar("afactors_ancestry", default=())
"""Every turn that the present code runs inside of, the outermost first."""

_BUFFERED_BATCHES = 16  # a reader that is further behind holds its own turn up


class TurnOwner(Protocol):
    """What a turn asks of its actor."""

    def stand_aside(self, turn: Turn) -> None:
        """The turn does not run for a while."""
        ...

    async def step_back(self, turn: Turn) -> None:
        """The turn goes on; waits for a slot."""
        ...


class Turn:
    """A letter on its way through an actor. Made by the runtime only."""

    def __init__(self, request: ChannelRequest, run_id: str, key: str) -> None:
        self.request = request
        self.key = key
        self.run_id = run_id
        self.session_id: str | None = None
        self.start: Point | None = None
        self.state: TurnState = "queued"
        self.created = time.time()
        self.scope = trio.CancelScope()
        self.cancel_reason: str | None = None
        self.withdraw: Callable[[Turn], None] = _nowhere  # its actor takes it out of the mailbox
        # The turn runs in its caller's context, so that trace spans nest and a call to one's own session is seen.
        self.context = contextvars.copy_context()
        self.owner: TurnOwner | None = None
        self.has_slot = False
        self.waits_for: set[Turn] = set()  # turns that its own code waits for
        self._ended = trio.Event()
        self._at_end: list[Callable[[], object]] = []
        self._result: HostedRunResult[AgentResponse[Any]] | None = None
        self._error: HostError | None = None
        self._publisher: trio.MemorySendChannel[Sequence[AgentResponseUpdate]] | None = None
        self._reader: trio.MemoryReceiveChannel[Sequence[AgentResponseUpdate]] | None = None
        if request.stream:
            self._publisher, self._reader = trio.open_memory_channel[Sequence[AgentResponseUpdate]](_BUFFERED_BATCHES)

    @property
    def ended(self) -> bool:
        """Whether it has a result or an error."""
        return self._ended.is_set()

    @property
    def failure(self) -> Literal["failed", "cancelled"]:
        """What it is called when it ends without a result: whoever takes too long has failed."""
        return "cancelled" if self.cancel_reason not in (None, "timeout") else "failed"

    def cancel(self, reason: str) -> bool:
        """Ask the turn to stop; False if it is too late for that."""
        if self.state not in ("queued", "running"):
            return False
        if self.cancel_reason is None:
            self.cancel_reason = reason
            self.scope.cancel(reason=reason)
            if self.state == "queued":
                self.withdraw(self)
        return True

    async def publish(self, updates: Sequence[AgentResponseUpdate]) -> None:
        """Hand updates to the reader, if there is one; waits for a reader that is far behind."""
        if self._publisher is None:
            return
        try:
            await self._publisher.send(updates)
        except trio.BrokenResourceError:
            self._publisher = None  # the reader left, and the turn is to finish all the same

    def settle(self, outcome: HostedRunResult[AgentResponse[Any]] | HostError) -> None:
        """End the turn, once its record is durable."""
        if isinstance(outcome, HostedRunResult):
            self._result, self.state = outcome, "completed"
        else:
            self._error = outcome
            self.state = self.failure
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

    async def outcome(self) -> HostedRunResult[AgentResponse[Any]]:
        """Wait for the end.

        Raises:
            HostError: The turn failed, was cancelled, or was refused after all.
        """
        await self._ended.wait()
        return self.result

    @property
    def result(self) -> HostedRunResult[AgentResponse[Any]]:
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
        if not self.ended and self.request.on_disconnect == "cancel":
            self.cancel("disconnected")


def _nowhere(_turn: Turn) -> None:
    """A turn that no mailbox holds yet."""


def cancelled_error(reason: str) -> HostError:
    """What the caller of a cancelled turn gets, if it is still there."""
    if reason == "draining":
        return TargetFailed("The server is stopping; the turn was not completed.", code="draining", status=503)
    if reason == "timeout":
        return TargetFailed("The agent did not answer in time.", code="timeout", status=504)
    return TargetFailed("The turn was cancelled.", code="cancelled", status=409)
