"""What becomes of a request: a result, a run, a transcript; and what a hook makes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NewType, Protocol, TypeAlias, TypeVar

from agent_framework import AgentResponse, AgentResponseUpdate

from .requests import ChannelIdentity, ChannelRequest

RunState: TypeAlias = Literal["queued", "running", "completed", "incomplete", "failed", "cancelled"]
"""queued → running → one of the others. incomplete: committed like completed, and the model was cut off."""

QuestionKind: TypeAlias = Literal["input", "approval", "call"]

ContinuationToken = NewType("ContinuationToken", str)
"""Opaque, URL-safe name of a run, for polling, cancelling and following it."""

ResultT = TypeVar("ResultT", covariant=True)


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
"""``hook(result, *, context)``, sync or async (on trio): the `HostedRunResult` that is shown instead. It runs before
the commit, on what is shown and not on what is remembered. A stream is then shown whole, at its end. For a delivery it
runs before each attempt instead, each time on a copy of what was committed: let it make the same of the same, or a
repeat is not what it repeats."""


class Repeated(Exception):
    """The request repeats an earlier one, by its idempotency key.

    Attributes:
        token: The first one's run.
    """

    def __init__(self, token: ContinuationToken) -> None:
        super().__init__(token)
        self.token = token


@dataclass(frozen=True, slots=True)
class Question:
    """What a target asked and nobody has answered yet: an executor's request for information, or a tool's approval.

    Attributes:
        question_id: By which it is answered.
        kind: ``input`` for a request for information, ``approval`` for a tool that may run only if it is approved,
            ``call`` for a client's tool that a workflow's agent called.
        name: What is asked for: the tool's name, or ``request_info``.
        arguments: What it is asked with: plain data.
        asked: When, in seconds since the epoch.
        expires: When it will be too late to answer.
    """

    question_id: str
    kind: QuestionKind
    name: str
    arguments: Any
    asked: float
    expires: float


@dataclass(frozen=True, slots=True)
class HostedSession:
    """A named session as it stands.

    Attributes:
        session_id: Its name.
        created: When it began, in seconds since the epoch.
        labels: The caller's own.
        messages: Its history, each message in the framework's serialized form, the oldest first.
        questions: What it waits for.
        current: Whether its key is in it unless a request says otherwise; told by a listing.
    """

    session_id: str
    created: float
    labels: Mapping[str, str] = field(default_factory=dict)
    messages: Sequence[Mapping[str, Any]] = ()
    questions: Sequence[Question] = ()
    current: bool = False

    @property
    def waiting(self) -> bool:
        """Whether it waits for an answer."""
        return bool(self.questions)


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
