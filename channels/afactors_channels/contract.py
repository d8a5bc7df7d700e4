"""What a channel is, what it hands over, and what the runtime gives it.

A channel speaks one outside protocol. It turns wire messages into `ChannelRequest`s and results back into wire
messages; it never sees an actor or a store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from agent_framework import AgentResponse, AgentResponseUpdate

SessionMode: TypeAlias = Literal["auto", "required", "disabled"]
"""auto: use the session that the request names, or begin one; required: refuse a request that names none;
disabled: run without any session, remember nothing."""

OnDisconnect: TypeAlias = Literal["cancel", "finish"]

ResultT = TypeVar("ResultT", covariant=True)


@dataclass(frozen=True, slots=True)
class ChannelIdentity:
    """Who sent a message, in the channel's own terms. An identity never chooses an isolation key by itself."""

    channel: str
    native_id: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChannelSession:
    """Which conversation a request belongs to.

    Attributes:
        isolation_key: The actor. None where nobody is known: then the thread itself is the key (`session_id`, the
            thread that `after` belongs to, or a new one).
        session_id: A mutable head (a conversation id): the turn continues from wherever it stands, one at a time.
        after: An immutable point (a response id): the turn continues from exactly there, on a branch of its own if
            that is no longer the head. Excludes `session_id`.
    """

    isolation_key: str | None = None
    session_id: str | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True)
class ChannelRequest:
    """One message to the target: plain data, encodable by its type.

    Attributes:
        channel: Name of the channel that it came by.
        input: Messages, each in the framework's serialized form (`Message.to_dict`).
        session: Which conversation.
        session_mode: What to do about the session.
        partition: Name of the credential that it came under ("" for none): a prefix of the key, never the key itself.
        identity: Who sent it, if the channel knows.
        options: Chat options by the framework's names (`temperature`, `max_tokens`, `tool_choice`, `instructions`, …).
        tools: Client-side function tools, each a mapping with `name`, `description` and `parameters` (a JSON schema).
            The target may call them; the calls are returned to the client, not executed.
        metadata: The client's own labels.
        attributes: Whatever else the protocol carried, for the run hook.
        name: The name that the turn's immutable point gets (a response id), or None for no point.
        retrievable: Whether the result may be fetched later (the Responses API's `store`).
        stream: Whether the caller wants updates as they come.
        on_disconnect: What a caller that leaves does to its turn.
    """

    channel: str
    input: Sequence[Mapping[str, Any]]
    session: ChannelSession = ChannelSession()
    session_mode: SessionMode = "auto"
    partition: str = ""
    identity: ChannelIdentity | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    retrievable: bool = True
    stream: bool = False
    on_disconnect: OnDisconnect = "cancel"

    def replace(self, **changes: Any) -> ChannelRequest:
        """A copy with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class HostedRunResult(Generic[ResultT]):
    """A committed turn.

    Attributes:
        result: The target's own result, unchanged.
        isolation_key: The actor that ran it.
        session_id: The session that it became part of, or None when sessions were disabled.
        run_id: Name of its record.
    """

    result: ResultT
    isolation_key: str
    session_id: str | None
    run_id: str


class HostedTurn(Protocol):
    """A running turn, update by update. What it yields is provisional until `result` is there.

    Only a request with `stream` yields updates.
    """

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
    """What the runtime gives a channel."""

    async def ask(self, request: ChannelRequest) -> HostedRunResult[AgentResponse]:
        """Run one turn and wait for its commit. A caller that is cancelled cancels the turn, by `on_disconnect`."""
        ...

    def turn(self, request: ChannelRequest) -> AbstractAsyncContextManager[HostedTurn]:
        """Run one turn and follow it. Leaving the block early cancels it, by `on_disconnect`.

        Entering the block raises what would refuse the request (`BadRequest`, `Overloaded`), so that an HTTP channel
        can still choose its status.
        """
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
    """One HTTP endpoint: an ASGI callable, or nothing of ours is between it and the server."""

    method: str
    path: str
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class ChannelContribution:
    """What a channel adds to the host: routes, and a task that runs for as long as the host does."""

    routes: Sequence[Route] = ()
    task: Callable[[], Awaitable[None]] | None = None


class Channel(Protocol):
    """An adapter for one outside protocol."""

    @property
    def name(self) -> str:
        """Unique among a runtime's channels."""
        ...

    def contribute(self, context: ChannelContext) -> ChannelContribution:
        """Called once, before the host starts."""
        ...
