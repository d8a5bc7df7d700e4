"""What a channel is, what it hands over, and what the runtime gives it.

A channel speaks one outside protocol. It turns wire messages into `ChannelRequest`s and results back into wire
messages; it never sees an actor or a store.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from agent_framework import AgentResponse, AgentResponseUpdate, CompactionStrategy, Message

from .outcomes import (
    ChannelResponseHook,
    ChannelRunHook,
    ContinuationToken,
    HostedRun,
    HostedRunResult,
    HostedSession,
    SessionEdit,
    Transcriber,
)
from .pushes import ChannelCommand, ChannelPush, ChannelPushCodec, PushPolicy
from .requests import ChannelIdentity, ChannelRequest, OverlapPolicy


class HostedTurn(Protocol):
    """A running turn, update by update. What it yields is provisional until `result` is there.

    Only a request with `stream` yields updates.
    """

    def rows(self) -> AsyncGenerator[Sequence[bytes], None]:
        """Batches of transcript rows, instead of updates. The last batch comes after the turn's end is durable.

        Unlike the updates' iterator this raises nothing for a turn that failed: its last rows say so.
        """
        ...

    def __aiter__(self) -> AsyncIterator[Sequence[AgentResponseUpdate]]:
        """Batches of updates: all that were ready at once, at least one.

        Raises:
            TargetFailed: After the last batch, if the turn failed; its record is already written.
        """
        ...

    @property
    def ended(self) -> bool:
        """Whether it has a result or an error."""
        ...

    @property
    def run(self) -> HostedRun:
        """Its run, as a later look at its record would find it; only after the turn has ended.

        Raises:
            HostError: The turn failed, was cancelled, or was refused after all.
        """
        ...

    def on_end(self, call: Callable[[], object]) -> None:
        """Have `call` called when the turn ends; at once if it has."""
        ...

    @property
    def result(self) -> HostedRunResult[AgentResponse]:
        """The committed result; only after the turn has ended.

        Raises:
            HostError: The turn failed, was cancelled, or was refused after all.
        """
        ...


class ChannelContext(Protocol):
    """What the runtime gives a channel.

    Where a method takes a `token`, `partition` is the caller's: runs of others are as unknown as those that never
    were (`NotFound`). None is code that may see everything.
    """

    async def ask(self, request: ChannelRequest, *, protocol_request: Any = None) -> HostedRunResult[AgentResponse]:
        """Run one turn and wait for its commit. A caller that is cancelled cancels the turn, by `on_disconnect`."""
        ...

    def turn(self, request: ChannelRequest, *, protocol_request: Any = None) -> AbstractAsyncContextManager[HostedTurn]:
        """Run one turn and follow it. Leaving the block early cancels it, by `on_disconnect`.

        Entering the block raises what would refuse the request (`BadRequest`, `Overloaded`), so that an HTTP channel
        can still choose its status.

        Raises:
            Repeated: The request repeats an earlier one, whose answer is this one's.
        """
        ...

    async def submit(self, request: ChannelRequest, *, protocol_request: Any = None) -> ContinuationToken:
        """Accept a request as a durable letter; a repeat gets the first one's token."""
        ...

    async def admit(self, request: ChannelRequest) -> bool:
        """Let in what the channel does by itself (a command), by the same door as a turn.

        Returns:
            Whether it is new; False if it repeats, by its idempotency key, what was accepted or `dealt` with.

        Raises:
            NotAllowed: The policy refused it.
        """
        ...

    async def dealt(self, request: ChannelRequest) -> None:
        """Remember that the channel dealt with a request by itself (a command, a refusal), durable when it returns.

        For platforms that send again until they hear of the acceptance: a repeat is not run, and `submit` gives it an
        empty token. What was accepted is left alone.
        """
        ...

    async def get_continuation(self, token: str, *, partition: str | None = None, wait: bool = False) -> HostedRun:
        """A run as it stands; with `wait`, once it has ended.

        Raises:
            NotFound: There is no such run. Its code is ``result_expired`` if there was one, and it completed.
        """
        ...

    async def get_input(self, token: str, *, partition: str | None = None) -> Sequence[Mapping[str, Any]]:
        """The messages that a run was given, in the framework's serialized form."""
        ...

    async def cancel(self, token: str, *, partition: str | None = None) -> HostedRun:
        """Cancel a run wherever it is; returns it as it ended. One that has ended stays as it is."""
        ...

    async def forget(self, token: str, *, partition: str | None = None) -> None:
        """Remove a run's record, transcript and point; cancels it first if it has not ended."""
        ...

    def subscribe(
        self, token: str, *, after: int | None = None, partition: str | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[bytes]]]:
        """Follow a run's transcript: batches of rows, those numbered above `after` (None: all), then live ones.

        A row is given only once it is durable. Entering raises what would refuse the request. The iterator ends
        after the last row.

        Raises:
            Restarted: While iterating: the run began again, and nothing that follows belongs to what came before.
            Conflicting: While iterating: `transcript_too_long`; the rest was not kept, the result will be.
        """
        ...

    async def get_session(self, request: ChannelRequest) -> HostedSession:
        """The session that a request names.

        Raises:
            NotFound: There is none.
        """
        ...

    async def edit_session(self, request: ChannelRequest, edit: SessionEdit) -> HostedSession:
        """Change the session that a request names; returns it as it is then."""
        ...

    async def compact(self, request: ChannelRequest, strategy: CompactionStrategy) -> Sequence[Message]:
        """What a request would tell the target, history first, as a strategy of the framework's shortens it.

        Nothing is changed by it.
        """
        ...

    async def resolve(self, identity: ChannelIdentity) -> str:
        """The isolation key of an identity that its platform vouches for."""
        ...

    async def reset_session(self, isolation_key: str) -> str:
        """Have a key's next message begin a new session; returns that session's id. The old one is kept."""
        ...

    async def cancel_running(self, isolation_key: str) -> int:
        """Cancel what runs in a key's present session; returns how many turns that were."""
        ...

    async def stopping(self) -> None:
        """Wait until the host begins to stop: a connection that is idle then should be closed."""
        ...

    @property
    def target_name(self) -> str:
        """The hosted target's name."""
        ...


Scope: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
Send: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[None]]
Endpoint: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint: an ASGI callable; nothing of ours is between it and the server.

    Attributes:
        method: An HTTP method in upper case, or ``WEBSOCKET``.
        path: Its path. A segment in braces (``/responses/{id}``) takes any one segment, which the endpoint finds,
            percent-decoded, in ``scope["path_params"]``.
        endpoint: The callable.
    """

    method: str
    path: str
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class ChannelContribution:
    """What a channel adds to the host.

    Attributes:
        routes: Its endpoints.
        task: Runs for as long as the host does.
        run_hook: Rewrites or refuses its requests.
        response_hook: Rewrites what it shows.
        overlap: What it does with a message to a busy session; None leaves it to the runtime.
        transcriber: Writes its streamed runs down, so that they can be followed.
        push: Sends one delivery; None for a channel that only answers.
        push_policy: How it takes deliveries.
        push_codec: Makes payloads of its own.
        push_ready: Returns once deliveries can be sent; until then they wait, and nothing is counted. If it raises, it
            is asked again after a pause. None for at once.
        push_place: ``push_place(identity)``: the name of the place where an identity is spoken to, such as a chat that
            several are in: its deliveries come in their order, and what is for several of them comes once. None if
            everybody has places of their own.
        replies_by_push: Whether replies to its own requests are deliveries, too.
        commands: What it understands by itself.
    """

    routes: Sequence[Route] = ()
    task: Callable[[], Awaitable[None]] | None = None
    run_hook: ChannelRunHook | None = None
    response_hook: ChannelResponseHook | None = None
    overlap: OverlapPolicy | None = None
    transcriber: Transcriber | None = None
    push: ChannelPush | None = None
    push_policy: PushPolicy = field(default_factory=PushPolicy)
    push_codec: ChannelPushCodec | None = None
    push_ready: Callable[[], Awaitable[None]] | None = None
    push_place: Callable[[ChannelIdentity], str] | None = None
    replies_by_push: bool = False
    commands: Sequence[ChannelCommand] = ()


class Channel(Protocol):
    """An adapter for one outside protocol."""

    @property
    def name(self) -> str:
        """Unique among a runtime's channels."""
        ...

    def contribute(self, context: ChannelContext) -> ChannelContribution:
        """Called once, before the host starts."""
        ...
