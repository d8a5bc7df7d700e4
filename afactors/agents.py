"""The hosted agent, run in the bridge's asyncio thread."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from copy import copy
from typing import Any, cast

import trio
from agent_framework import (
    Agent,
    AgentResponse,
    AgentResponseUpdate,
    AgentSession,
    BaseAgent,
    ChatContext,
    ChatMiddleware,
    Content,
    HistoryProvider,
    InMemoryHistoryProvider,
    Message,
    RawAgent,
    SupportsAgentRun,
)

from afactors_channels import BadRequest, ChannelRequest, TargetFailed, Unprocessable

from .binding import binds, bound, bound_stream
from .bridge import Bridge, BridgeStream
from .history import LiveSession, Point, ReadLog, decode_messages, load
from .questions import approvals
from .target import Desk, Outcome, T, declaration, input_messages
from .turn import Turn

logger = logging.getLogger("afactors.actor")

_DECODED_IN_PLACE = 64 * 1024  # bytes


class AgentTarget:
    """An agent at work behind the bridge."""

    durable = False
    branches = True

    def __init__(self, bridge: Bridge, agent: SupportsAgentRun) -> None:
        self._bridge = bridge
        self._agent = agent
        self._accepted = _accepted_arguments(agent)
        self._own_tools = _tool_names(agent)
        self._binds = binds(agent)
        self._plain_sessions = getattr(type(agent), "create_session", None) is BaseAgent.create_session

    @property
    def hosted(self) -> SupportsAgentRun:
        """The agent itself, for hooks that look at it; it runs in the bridge's thread only."""
        return self._agent

    @property
    def name(self) -> str:
        """The agent's name, or its id where it has none."""
        return self._agent.name or self._agent.id

    def scope(self, _session_id: str) -> str:
        """The framework makes the ids of approvals: no two are the same, and every branch knows them."""
        return ""

    def check(self, request: ChannelRequest) -> ChannelRequest:
        """Refuse what the agent cannot take.

        Raises:
            BadRequest: A client's tool has the name of one of the agent's own, or there is a payload.
        """
        if request.payload is not None:
            raise Unprocessable("An agent takes messages, and no payload.", field="payload", code="invalid_payload")
        for index, tool in enumerate(request.tools):
            if tool["name"] in self._own_tools:
                raise BadRequest(
                    f"The hosted agent has a tool named {tool['name']!r} of its own; give yours another name.",
                    field=f"tools[{index}].name",
                )
        return request

    def documents(self, _session_id: str) -> list[str]:
        """All of a session is in its point."""
        return []

    async def wake(self, point: Point, _documents: Mapping[str, bytes], read: ReadLog) -> LiveSession:
        """Bring a session into memory."""
        return await load(point, read, make=self._made, decode=_decode)

    async def _made(self, session_id: str) -> AgentSession:
        try:
            return await self.make_session(session_id)
        except Exception as exc:  # the target is user code
            logger.warning("the target cannot make a session", exc_info=exc)
            raise TargetFailed("The agent failed to answer.") from exc

    async def perform(self, turn: Turn, live: LiveSession | None, desk: Desk) -> Outcome:
        """One run of the agent."""
        session = live.session if live is not None else None
        if session is not None and turn.answers and isinstance(self._agent, RawAgent):
            _pending_again(session, turn)
        if not turn.request.stream:
            response = _checked(await self.run(turn, session))
        else:
            seen: list[AgentResponseUpdate] = []
            async with self.stream(turn, session) as stream:
                async for updates in stream:
                    seen.extend(updates)
                    await desk.publish(updates)
            # A stream of the agent's own making may have no final response to give.
            response = _checked(stream.final or AgentResponse.from_updates(seen))
        return Outcome(response, response, approvals(response.messages))

    async def make_session(self, session_id: str) -> AgentSession:
        """An empty session."""
        if self._plain_sessions:
            return AgentSession(session_id=session_id)
        return await self._bridge.run(self._agent.create_session, session_id=session_id)

    async def run(self, turn: Turn, session: AgentSession | None) -> AgentResponse[Any]:
        """One run, awaited."""
        run = cast("Callable[..., Awaitable[AgentResponse[Any]]]", bound(self._agent.run, self._binds, turn.request))
        return await self._bridge.run(run, input_messages(turn), session=session, **self._arguments(turn))

    def stream(
        self, turn: Turn, session: AgentSession | None
    ) -> AbstractAsyncContextManager[BridgeStream[AgentResponseUpdate, AgentResponse[Any]]]:
        """One run, update by update."""
        run = bound_stream(self._agent.run, self._binds, turn.request)
        return self._bridge.stream(run, input_messages(turn), stream=True, session=session, **self._arguments(turn))

    async def in_trio(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Make a call in trio, from wherever the target runs."""
        return await (self._bridge.call_trio(call, *args) if self._bridge.inside else call(*args))

    async def remember(self, session: AgentSession, messages: Sequence[Message]) -> None:
        """Add messages to a session's history as if they had been said: where the agent itself would keep them."""
        await self._bridge.run(_remember, getattr(self._agent, "context_providers", ()), session, messages)

    def _arguments(self, turn: Turn) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "options": dict(turn.request.options),
            "tools": [declaration(tool) for tool in turn.request.tools],
        }
        if isinstance(self._agent, Agent) and turn.answers:
            arguments["middleware"] = [_Answered()]
        return {name: value for name, value in arguments.items() if value and self._accepted(name)}


def _accepted_arguments(agent: SupportsAgentRun) -> Callable[[str], bool]:
    """Which keyword arguments the agent's `run` takes."""
    try:
        parameters = inspect.signature(agent.run).parameters
    except (TypeError, ValueError):
        return lambda _name: True
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return lambda _name: True
    return parameters.__contains__


def _tool_names(agent: SupportsAgentRun) -> frozenset[str]:
    options = getattr(agent, "default_options", None)
    tools = options.get("tools") if isinstance(options, Mapping) else None
    if not isinstance(tools, Sequence):
        return frozenset()
    return frozenset(name for tool in tools if isinstance(name := getattr(tool, "name", None), str))


async def _remember(providers: Sequence[Any], session: AgentSession, messages: Sequence[Message]) -> None:
    # Runs in the asyncio thread, where the agent's providers live.
    loading = [one for one in providers if isinstance(one, HistoryProvider) and one.load_messages]
    for provider in loading or [InMemoryHistoryProvider()]:
        state = session.state.setdefault(provider.source_id, {})
        await provider.save_messages(session.session_id, messages, state=state)


class _Answered(ChatMiddleware):
    """Shows the model, once an approval was given, no call that waits for another: most refuse to see one."""

    async def process(self, context: ChatContext, call_next: Callable[[], Awaitable[None]]) -> None:
        """Without the calls that have no result."""
        still = {id(content) for content in _open_calls(context.messages)}
        context.messages = [found for message in context.messages if (found := _without(message, still)) is not None]
        await call_next()


def _open_calls(messages: Sequence[Message]) -> list[Content]:
    calls: list[Content] = []
    for content in (content for message in messages for content in message.contents):
        if content.type == "function_call":
            calls.append(content)
        elif content.type == "function_result":
            of = [one for one in calls if one.call_id == content.call_id]
            for one in sorted(of, key=lambda one: one.id != content.id)[:1]:  # some models use a call_id again
                calls = [other for other in calls if other is not one]
    return calls


def _without(message: Message, calls: set[int]) -> Message | None:
    left = [content for content in message.contents if id(content) not in calls]
    if len(left) == len(message.contents):
        return message
    if not any(content.type == "function_call" for content in left):
        left = [content for content in left if content.type != "text_reasoning"]  # it led to the call
    shown = copy(message)
    shown.contents = left
    return shown if left else None


def _pending_again(session: AgentSession, turn: Turn) -> None:
    """Put back what a turn answers: the framework forgets what it asked for when it asks for something else."""
    state = session.state.setdefault("tool_approval", {})
    if not isinstance(state, dict):
        return  # somebody else's
    pending = state.setdefault("pending_approval_requests", [])
    known = [one.id if isinstance(one, Content) else one.get("id") for one in pending]
    asked = [answer.question for answer in turn.answers.values() if answer.question.kind == "approval"]
    pending += [dict(one.content) for one in asked if one.question_id not in known]


def _checked(response: Any) -> AgentResponse[Any]:
    if not isinstance(response, AgentResponse):
        raise TypeError(f"the agent's run gave {type(response).__name__} instead of an AgentResponse")
    return response


async def _decode(rows: list[bytes]) -> list[Message]:
    """A long history is decoded in a worker thread: trio goes on meanwhile."""
    if sum(map(len, rows)) <= _DECODED_IN_PLACE:
        return decode_messages(rows)
    return await trio.to_thread.run_sync(decode_messages, rows)
