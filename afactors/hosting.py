"""Opening what is hosted: a target from an agent, a workflow, a builder, or a factory of any of these."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias

from agent_framework import Executor, SupportsAgentRun, Workflow, WorkflowAgent

from .agents import AgentTarget
from .bridge import Bridge
from .instances import Instances, NotCopyable, call, instances, is_workflow, undeclared
from .target import Target
from .workflows import WorkflowTarget

logger = logging.getLogger("afactors.target")

TargetSource: TypeAlias = Any
"""An agent, a workflow, a builder of one (anything with ``build()``), or a factory of any of these (sync or async)."""


class TargetUnusable(Exception):
    """What was to be hosted is neither an agent nor a workflow, nor makes one. The message says what it is instead."""


@asynccontextmanager
async def open_target(
    bridge: Bridge, source: TargetSource, *, checkpoint_types: frozenset[str] = frozenset(), keep: int = 5
) -> AsyncIterator[Target]:
    """Make the target (if `source` is a factory), enter it if it can be entered, and hold it.

    Args:
        bridge: In whose thread it lives.
        source: What is hosted.
        checkpoint_types: What a workflow's checkpoints may hold beside the framework's own types.
        keep: How many checkpoints of a workflow's session are kept.

    Raises:
        TargetUnusable: It is nothing that can be hosted.
    """
    async with bridge.hold(lambda: _entered(source)) as made:
        if isinstance(made, Instances):
            for name in undeclared(made.prototype, checkpoint_types):
                logger.warning("the workflow's checkpoints may not hold a %s: give it as a checkpoint type", name)
            yield WorkflowTarget(bridge, made, allowed=checkpoint_types, keep=keep)
        else:
            yield AgentTarget(bridge, made)


@asynccontextmanager
async def _entered(source: TargetSource) -> AsyncIterator[SupportsAgentRun | Instances]:
    # Runs in the asyncio thread, all of it in one task: what an agent enters, it must leave there.
    async with AsyncExitStack() as stack:
        try:
            made = await _made(source)
            if is_workflow(made):
                made = await instances(source, made)
            elif hasattr(made, "__aenter__"):
                made = await stack.enter_async_context(made)
        except NotCopyable as exc:
            raise TargetUnusable(str(exc)) from exc
        except Exception as exc:
            logger.info("the target did not start", exc_info=exc)
            what = "workflow" if is_workflow(source) else "agent"
            raise TargetUnusable(f"the {what} did not start: {one_line(exc)}") from exc
        if not (isinstance(made, Instances) or _is_agent(made)):
            raise TargetUnusable(_complaint(made))
        yield made


async def _made(source: TargetSource) -> Any:
    if _is_agent(source) or is_workflow(source) or not callable(source):
        return source
    return await call(source)


def one_line(exc: BaseException) -> str:
    """An exception in one line, for the operator."""
    first = next(iter(str(exc).splitlines()), "")
    return f"{type(exc).__name__}: {first}" if first else type(exc).__name__


def _is_agent(value: Any) -> bool:
    # A workflow as an agent has one state for everybody, and would tell one conversation what another said.
    return isinstance(value, SupportsAgentRun) and not isinstance(value, (type, Workflow, WorkflowAgent))


def _complaint(value: Any) -> str:
    if isinstance(value, WorkflowAgent):
        return "a workflow as an agent has one state for all conversations; give the workflow itself"
    if isinstance(value, Executor) or (isinstance(value, type) and issubclass(value, Executor)):
        return "an executor is a part of a workflow; give WorkflowBuilder(start_executor=…).build()"
    return f"expected an agent (something with run() and create_session()) or a workflow, got {type(value).__name__}"
