"""What every kind of target is to the actors: what it does for a turn, and with what.

An agent is one target (`agents`), a workflow the other (`workflows`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from agent_framework import AgentResponse, AgentResponseUpdate, AgentSession, FunctionTool, Message, WorkflowRunResult

from afactors_channels import ChannelRequest
from afactors_channels.pushes import HOSTING
from afactors_channels.workflows import response_of
from afactors_store import Commit

from .history import Changes, Point, ReadLog, identify
from .questions import Answer, Asked, approval_response
from .turn import Turn

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Desk:
    """What a target may use while it carries out a turn.

    Attributes:
        publish: Shows what it says while it says it.
        write: Makes a change of the turn's key durable.
        read: Reads rows of its logs.
    """

    publish: Callable[[Sequence[AgentResponseUpdate]], Awaitable[None]]
    write: Callable[[Commit], Awaitable[object]]
    read: ReadLog


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a target made of a turn.

    Attributes:
        result: Its own result, unchanged.
        response: What it says, as the framework's messages.
        questions: What it asks its user.
    """

    result: Any
    response: AgentResponse[Any]
    questions: Sequence[Asked] = ()


class Live(Protocol):
    """A session in memory."""

    point: Point

    async def changes(self, *, head: str | None, label: str, questions: Sequence[str] | None = None) -> Changes:
        """What a turn adds; see `LiveSession.changes`."""
        ...

    def committed(self, changes: Changes) -> None:
        """The changes are durable."""
        ...

    def own_logs(self) -> set[int]:
        """Logs that nothing but the session's head needs."""
        ...


class Target(Protocol):
    """An agent or a workflow, as actors use it.

    Attributes:
        durable: Whether each of its turns is a durable letter.
        branches: Whether a session can go on from points that are not its head.
    """

    @property
    def durable(self) -> bool: ...  # noqa: D102 - see above

    @property
    def branches(self) -> bool: ...  # noqa: D102 - see above

    @property
    def hosted(self) -> Any:
        """What is hosted, for hooks that look at it; it runs in the bridge's thread only."""
        ...

    @property
    def name(self) -> str:
        """Its name."""
        ...

    def scope(self, session_id: str, /) -> str:
        """What the ids of a session's questions are unique in."""
        ...

    def check(self, request: ChannelRequest, /) -> ChannelRequest:
        """A request that it can take; raises BadRequest for any other."""
        ...

    def documents(self, session_id: str, /) -> list[str]:
        """Names of what is read of a session beside its point."""
        ...

    async def wake(self, point: Point, documents: Mapping[str, bytes], read: ReadLog, /) -> Any:
        """Bring a session into memory."""
        ...

    async def perform(self, turn: Turn, live: Any, desk: Desk) -> Outcome:
        """Carry out a turn."""
        ...

    async def in_trio(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Make a call in trio, from wherever the target runs."""
        ...

    async def remember(self, session: AgentSession, messages: Sequence[Message], /) -> None:
        """Add messages to a session's history as if they had been said."""
        ...


def said_by(result: Any) -> AgentResponse[Any]:
    """What a result says, as the framework's messages."""
    return response_of(result) if isinstance(result, WorkflowRunResult) else result


def input_messages(turn: Turn) -> list[Message]:
    """The turn's input, each message with an id; noted in the turn, so that they are found again in the history.

    The framework's history drops input that looks like a replay of what it holds. Without ids that is decided by
    contents, and a user who says the same thing twice (and is answered the same) would lose a turn.

    Raises:
        Unprocessable: An approval says neither yes nor no.
    """
    messages = [Message.from_dict(dict(message)) for message in turn.request.input]
    approving = {name: answer for name, answer in turn.answers.items() if answer.question.kind == "approval"}
    if approving:
        messages = [_approving(message, approving) for message in messages]
    identify(messages, f"{turn.run_id}:")
    _tell_origin(messages, turn.request)
    turn.messages = messages
    return messages


def _tell_origin(messages: Sequence[Message], request: ChannelRequest) -> None:
    """Have what a user said tell who that is, if a platform vouches for it. What a request claims of this goes."""
    identity = request.identity
    for message in messages:
        message.additional_properties.pop(HOSTING, None)
        if message.role == "user" and identity is not None and identity.verified:
            message.additional_properties[HOSTING] = {"channel": identity.channel, "identity": identity.native_id}


def _approving(message: Message, answers: Mapping[str, Answer]) -> Message:
    """A message whose approvals have the calls that they approve, as we remember them."""
    ids = [(one.call_id if one.type == "function_result" else one.id) or "" for one in message.contents]
    if answers.keys().isdisjoint(ids):
        return message
    pairs = zip(ids, message.contents, strict=True)
    contents = [approval_response(answers[name]) if name in answers else one for name, one in pairs]
    return Message("user", contents, author_name=message.author_name, message_id=message.message_id)


def declaration(tool: Mapping[str, Any]) -> FunctionTool:
    """A client's tool, as agents are given it."""
    # Without a function behind it, the framework returns the call instead of executing it.
    return FunctionTool(
        name=tool["name"],
        description=tool.get("description") or "",
        input_model=dict(tool.get("parameters") or {"type": "object", "properties": {}}),
        func=None,
    )
