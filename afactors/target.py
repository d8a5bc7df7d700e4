"""The hosted target: opened, run and closed in the bridge's asyncio thread."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias, cast

from agent_framework import (
    AgentResponse,
    AgentResponseUpdate,
    AgentSession,
    BaseAgent,
    FunctionTool,
    HistoryProvider,
    InMemoryHistoryProvider,
    Message,
    SupportsAgentRun,
    Workflow,
    WorkflowAgent,
)

from afactors_channels import BadRequest, ChannelRequest

from .bridge import Bridge, BridgeStream
from .history import identify
from .turn import Turn

logger = logging.getLogger("afactors.target")

TargetSource: TypeAlias = SupportsAgentRun | Callable[[], Any]
"""An agent, or a factory of one (sync or async)."""


class TargetUnusable(Exception):
    """What was to be hosted is neither an agent nor makes one. The message says what it is instead."""


class Target:
    """An agent at work behind the bridge."""

    def __init__(self, bridge: Bridge, agent: SupportsAgentRun) -> None:
        self._bridge = bridge
        self._agent = agent
        self._accepted = _accepted_arguments(agent)
        self._own_tools = _tool_names(agent)
        self._plain_sessions = getattr(type(agent), "create_session", None) is BaseAgent.create_session

    @property
    def agent(self) -> SupportsAgentRun:
        """The agent itself, for hooks that look at it; it runs in the bridge's thread only."""
        return self._agent

    @property
    def name(self) -> str:
        """The agent's name, or its id where it has none."""
        return self._agent.name or self._agent.id

    def check(self, request: ChannelRequest) -> None:
        """Refuse what the agent cannot take.

        Raises:
            BadRequest: A client's tool has the name of one of the agent's own.
        """
        for index, tool in enumerate(request.tools):
            if tool["name"] in self._own_tools:
                raise BadRequest(
                    f"The hosted agent has a tool named {tool['name']!r} of its own; give yours another name.",
                    field=f"tools[{index}].name",
                )

    async def make_session(self, session_id: str) -> AgentSession:
        """An empty session."""
        if self._plain_sessions:
            return AgentSession(session_id=session_id)
        return await self._bridge.run(self._agent.create_session, session_id=session_id)

    async def run(self, turn: Turn, session: AgentSession | None) -> AgentResponse[Any]:
        """One run, awaited."""
        run = cast("Callable[..., Awaitable[AgentResponse[Any]]]", self._agent.run)
        return await self._bridge.run(run, input_messages(turn), session=session, **self._arguments(turn.request))

    def stream(
        self, turn: Turn, session: AgentSession | None
    ) -> AbstractAsyncContextManager[BridgeStream[AgentResponseUpdate, AgentResponse[Any]]]:
        """One run, update by update."""
        return self._bridge.stream(
            self._agent.run, input_messages(turn), stream=True, session=session, **self._arguments(turn.request)
        )

    async def remember(self, session: AgentSession, messages: Sequence[Message]) -> None:
        """Add messages to a session's history as if they had been said: where the agent itself would keep them."""
        await self._bridge.run(_remember, getattr(self._agent, "context_providers", ()), session, messages)

    def _arguments(self, request: ChannelRequest) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "options": dict(request.options),
            "tools": [_declaration(tool) for tool in request.tools],
        }
        return {name: value for name, value in arguments.items() if value and self._accepted(name)}


@asynccontextmanager
async def open_target(bridge: Bridge, source: TargetSource) -> AsyncIterator[Target]:
    """Make the target (if `source` is a factory), enter it if it can be entered, and hold it.

    Raises:
        TargetUnusable: It is not an agent.
    """
    async with bridge.hold(lambda: _entered(source)) as agent:
        yield Target(bridge, agent)


@asynccontextmanager
async def _entered(source: TargetSource) -> AsyncIterator[SupportsAgentRun]:
    # Runs in the asyncio thread, all of it in one task: what an agent enters, it must leave there.
    async with AsyncExitStack() as stack:
        try:
            made: Any = source if _is_agent(source) or not callable(source) else source()
            if inspect.isawaitable(made):
                made = await made
            if hasattr(made, "__aenter__"):
                made = await stack.enter_async_context(made)
        except Exception as exc:
            logger.info("the target did not start", exc_info=exc)
            raise TargetUnusable(f"the agent did not start: {one_line(exc)}") from exc
        if not _is_agent(made):
            raise TargetUnusable(_complaint(made))
        yield made


def one_line(exc: BaseException) -> str:
    """An exception in one line, for the operator."""
    first = next(iter(str(exc).splitlines()), "")
    return f"{type(exc).__name__}: {first}" if first else type(exc).__name__


def _is_agent(value: Any) -> bool:
    # A workflow as an agent has one state for everybody, and would tell one conversation what another said.
    return isinstance(value, SupportsAgentRun) and not isinstance(value, (type, Workflow, WorkflowAgent))


def _complaint(value: Any) -> str:
    if isinstance(value, (Workflow, WorkflowAgent)):
        return "workflows cannot be hosted by this version: one instance would be shared by all conversations"
    return f"expected an agent (something with run() and create_session()), got {type(value).__name__}"


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


def input_messages(turn: Turn) -> list[Message]:
    """The turn's input, each message with an id; noted in the turn, so that they are found again in the history.

    The framework's history drops input that looks like a replay of what it holds. Without ids that is decided by
    contents, and a user who says the same thing twice (and is answered the same) would lose a turn.
    """
    messages = [Message.from_dict(dict(message)) for message in turn.request.input]
    identify(messages, f"{turn.run_id}:")
    turn.messages = messages
    return messages


async def _remember(providers: Sequence[Any], session: AgentSession, messages: Sequence[Message]) -> None:
    # Runs in the asyncio thread, where the agent's providers live.
    loading = [one for one in providers if isinstance(one, HistoryProvider) and one.load_messages]
    for provider in loading or [InMemoryHistoryProvider()]:
        state = session.state.setdefault(provider.source_id, {})
        await provider.save_messages(session.session_id, messages, state=state)


def _declaration(tool: Mapping[str, Any]) -> FunctionTool:
    # Without a function behind it, the framework returns the call instead of executing it.
    return FunctionTool(
        name=tool["name"],
        description=tool.get("description") or "",
        input_model=dict(tool.get("parameters") or {"type": "object", "properties": {}}),
        func=None,
    )
