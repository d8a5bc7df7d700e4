"""What a channel is, what it hands over, and what the runtime gives it.

A channel speaks one outside protocol. It turns wire messages into `ChannelRequest`s and results back into wire
messages; it never sees an actor or a store.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, NewType, Protocol, TypeAlias, TypeVar

from agent_framework import AgentResponse, AgentResponseUpdate, CompactionStrategy, Message

SessionMode: TypeAlias = Literal["auto", "required", "disabled"]
"""auto: use the session that the request names, or begin one; required: refuse a request that names none;
disabled: run without any session, remember nothing."""

OnDisconnect: TypeAlias = Literal["cancel", "finish"]

OverlapPolicy: TypeAlias = Literal["enqueue", "reject", "interrupt"]
"""What becomes of a message to a session that is busy. enqueue: it waits in line; reject: it is refused as
`Conflicting`; interrupt: the turn that runs is cancelled, and nothing of it is kept."""

RunState: TypeAlias = Literal["queued", "running", "completed", "incomplete", "failed", "cancelled"]
"""queued → running → one of the others. incomplete: committed like completed, and the model was cut off."""

ContinuationToken = NewType("ContinuationToken", str)
"""Opaque, URL-safe name of a run, for polling, cancelling and following it."""

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
class IsolationKeys:
    """Who a trusted platform says that a request is for; it partitions state beside the credential.

    Attributes:
        user_key: Opaque name of the user (`x-agent-user-isolation-key`), or None.
        chat_key: Opaque name of the chat (`x-agent-chat-isolation-key`), or None.
    """

    user_key: str | None = None
    chat_key: str | None = None


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
        overlap: What to do if the session is busy; None leaves it to the channel, and then to the runtime.
        idempotency_key: By which a repeat of this request is known, within (channel, partition); None for no check.
        fingerprint: Digest of what a repeat must be the same in.
        isolation: What a trusted platform said of whom it is for.
        presentation: Whatever the channel needs to show the run again later; kept with its record.
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
    overlap: OverlapPolicy | None = None
    idempotency_key: str | None = None
    fingerprint: str = ""
    isolation: IsolationKeys | None = None
    presentation: Mapping[str, Any] = field(default_factory=dict)

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


@dataclass(frozen=True, slots=True)
class HostedRun:
    """A run as its record has it.

    Attributes:
        token: Its name.
        run_id: Name of its record.
        isolation_key: The actor that runs it.
        session_id: The session that it belongs to, or None when sessions were disabled.
        state: Where it stands.
        created: When it was accepted, in seconds since the epoch.
        ended: When it ended, or None.
        attempt: Which attempt this is; counts from 1.
        durable: Whether it was accepted as a durable letter.
        retrievable: As in the request.
        streamed: Whether it writes a transcript as it goes.
        presentation: As in the request.
        metadata: As in the request.
        error: (code, message) of a run that failed or was cancelled.
        result: The committed result, or None.
        kept: What the transcript asked to be kept of it (`Kept`), if its messages are not enough to show it again.
    """

    token: ContinuationToken
    run_id: str
    isolation_key: str
    session_id: str | None
    state: RunState
    created: float
    ended: float | None = None
    attempt: int = 1
    durable: bool = False
    retrievable: bool = True
    streamed: bool = False
    presentation: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    error: tuple[str, str] | None = None
    result: AgentResponse | None = None
    kept: Any = None


class Transcript(Protocol):
    """How a channel writes one run down, for whoever follows it: rows of bytes, numbered from `first` on.

    Pure and synchronous. The runtime calls it in this order: `accepted` (of a durable letter), `started`, `fed` any
    number of times, then one of `completed` and `failed`; `failed` may follow `completed`, if the commit failed, and
    then its last row takes the place of that one's last.
    """

    def accepted(self) -> Sequence[bytes]:
        """The run is queued."""
        ...

    def started(self) -> Sequence[bytes]:
        """The run begins."""
        ...

    def fed(self, updates: Sequence[AgentResponseUpdate]) -> Sequence[bytes]:
        """More of it."""
        ...

    def completed(self, result: AgentResponse, at: float) -> tuple[Sequence[bytes], Any]:
        """The end, and plain data to be kept with the record (None if the messages are enough to show it again)."""
        ...

    def failed(self, state: RunState, code: str, message: str) -> tuple[Sequence[bytes], Any]:
        """The end of a run that failed or was cancelled, and plain data to be kept with the record."""
        ...


class Transcriber(Protocol):
    """Makes transcripts; see `ChannelContribution`."""

    def __call__(self, request: ChannelRequest, *, created: float, first: int) -> Transcript:
        """A transcript of a run.

        Args:
            request: What was accepted.
            created: When, in seconds since the epoch.
            first: Number of its first row. Not 0 for a run that began again: no number is used twice.
        """
        ...


@dataclass(frozen=True, slots=True)
class ChannelResponseContext:
    """What a response hook is told beside the result.

    Attributes:
        request: What was accepted.
        channel_name: Where the result goes.
        destination_identity: To whom; None for the channel that the request came by.
        originating: Whether it goes back to where the request came from.
        is_echo: Whether it repeats the user's message.
    """

    request: ChannelRequest
    channel_name: str
    destination_identity: ChannelIdentity | None = None
    originating: bool = True
    is_echo: bool = False


ChannelRunHook: TypeAlias = Callable[..., ChannelRequest | Awaitable[ChannelRequest]]
"""``hook(request, *, target, protocol_request)``, sync or async (on trio): the request that is accepted instead. It
runs once, before acceptance. It may refuse by raising `Unprocessable` (422), or any other `HostError`."""

ChannelResponseHook: TypeAlias = Callable[..., Any]
"""``hook(result, *, context)``, sync or async (on trio): the `HostedRunResult` that is shown instead. It runs once,
before the commit, on what is shown and not on what is remembered. A stream is then shown whole, at its end."""


class Repeated(Exception):
    """The request repeats an earlier one, by its idempotency key.

    Attributes:
        token: The first one's run.
    """

    def __init__(self, token: ContinuationToken) -> None:
        super().__init__(token)
        self.token = token


@dataclass(frozen=True, slots=True)
class HostedSession:
    """A named session as it stands.

    Attributes:
        session_id: Its name.
        created: When it began, in seconds since the epoch.
        labels: The caller's own.
        messages: Its history, each message in the framework's serialized form, the oldest first.
    """

    session_id: str
    created: float
    labels: Mapping[str, str] = field(default_factory=dict)
    messages: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class SessionEdit:
    """A change to a session, other than by a turn. It waits in line like one.

    Attributes:
        create: Whether it begins the session. Otherwise the session must be there.
        labels: The session's new labels; None leaves them.
        append: Messages for the end of its history, in the framework's serialized form.
        remove: (message id, content indexes) of what to take out; without indexes, the whole message.
        delete: Remove the session with everything that it alone reaches.
    """

    create: bool = False
    labels: Mapping[str, str] | None = None
    append: Sequence[Mapping[str, Any]] = ()
    remove: Sequence[tuple[str, Sequence[int]]] = ()
    delete: bool = False


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
    """

    routes: Sequence[Route] = ()
    task: Callable[[], Awaitable[None]] | None = None
    run_hook: ChannelRunHook | None = None
    response_hook: ChannelResponseHook | None = None
    overlap: OverlapPolicy | None = None
    transcriber: Transcriber | None = None


class Channel(Protocol):
    """An adapter for one outside protocol."""

    @property
    def name(self) -> str:
        """Unique among a runtime's channels."""
        ...

    def contribute(self, context: ChannelContext) -> ChannelContribution:
        """Called once, before the host starts."""
        ...
