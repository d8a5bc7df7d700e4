"""Fresh instances of a hosted workflow: one runs one message at a time and keeps state, so no two sessions share one.

A factory that gives a new workflow each time is called for each. Anything else (a workflow, a builder, whose executors
all that it builds have in common) is a prototype: each instance is a deep copy of it. Agents and chat clients are not
copied: they keep nothing of a conversation, and hold connections.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, TypeAlias

from agent_framework import (
    FunctionalWorkflow,
    FunctionalWorkflowDefinition,
    SupportsAgentRun,
    SupportsChatGetResponse,
    Workflow,
    WorkflowAgent,
)
from agent_framework._workflows._checkpoint_encoding import _REGISTERED_CHECKPOINT_TYPE_KEYS  # no other way to know

_STANDARD = frozenset(sys.stdlib_module_names)

AnyWorkflow: TypeAlias = Workflow | FunctionalWorkflow

_DEPTH = 16  # how far from an executor its agents are looked for


class NotCopyable(Exception):
    """A workflow of which there is no second instance to be had; the message says what to do."""


def is_workflow(value: Any) -> bool:
    """Whether a value is a workflow, or builds one."""
    if isinstance(value, (Workflow, FunctionalWorkflow, FunctionalWorkflowDefinition)):
        return True
    return not isinstance(value, type) and callable(getattr(value, "build", None))


def built(value: Any) -> AnyWorkflow | None:
    """The workflow that a value is or builds; None if it is something else."""
    if is_workflow(value) and not isinstance(value, (Workflow, FunctionalWorkflow)):
        value = value.build()
    return value if isinstance(value, (Workflow, FunctionalWorkflow)) else None


class Instances:
    """Makes instances. For the asyncio thread."""

    def __init__(self, prototype: AnyWorkflow, factory: Callable[[], Any] | None) -> None:
        self.prototype = prototype
        self._factory = factory

    async def make(self) -> AnyWorkflow:
        """A fresh instance.

        Raises:
            NotCopyable: There is none to be had.
        """
        if self._factory is None:
            return _copied(self.prototype)
        made = built(await call(self._factory))
        if made is None:
            raise NotCopyable("the factory gave a workflow at first, and now something else")
        return made


async def instances(source: Any, first: Any) -> Instances:
    """How to make instances of what `source` is, or gives.

    Args:
        source: What is hosted.
        first: What it gave when it was asked; itself, if it is no factory.

    Raises:
        NotCopyable: There would be only one instance.
    """
    prototype = built(first)
    assert prototype is not None  # noqa: S101 - the caller has looked
    if first is not source:
        second = built(await call(source))
        if second is not None and not _alike(prototype, second):
            return Instances(prototype, source)
    found = Instances(prototype, None)
    await found.make()  # what cannot be copied is to be known at the start
    return found


async def call(factory: Callable[[], Any]) -> Any:
    """What a factory gives, sync or async."""
    made = factory()
    return await made if inspect.isawaitable(made) else made


def _alike(one: AnyWorkflow, other: AnyWorkflow) -> bool:
    """Whether two workflows have state in common."""
    if one is other:
        return True
    executors = {id(executor) for executor in getattr(one, "executors", {}).values()}
    return any(id(executor) in executors for executor in getattr(other, "executors", {}).values())


def _copied(prototype: AnyWorkflow) -> AnyWorkflow:
    shared = {id(one): one for one in _shared(getattr(prototype, "executors", {}).values())}
    try:
        return copy.deepcopy(prototype, shared)
    except Exception as exc:  # copying runs whatever the executors' classes define
        raise NotCopyable(
            "this workflow cannot be copied, and each conversation needs one of its own; give a function that builds "
            f"a new one ({type(exc).__name__}: {exc})"
        ) from exc


def _shared(roots: Iterable[Any]) -> list[Any]:
    """The agents and chat clients that executors hold."""
    found: list[Any] = []
    seen: set[int] = set()
    level = list(roots)
    for _ in range(_DEPTH):
        following: list[Any] = []
        for value in level:
            if id(value) in seen or isinstance(value, (str, bytes, int, float, type, ModuleType)):
                continue
            seen.add(id(value))
            if isinstance(value, (SupportsAgentRun, SupportsChatGetResponse)) and not isinstance(value, WorkflowAgent):
                found.append(value)
            else:
                following += _held(value)
        level = following
    return found


def _held(value: Any) -> list[Any]:
    if isinstance(value, Workflow):
        return list(value.executors.values())
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    return list(getattr(value, "__dict__", {}).values())


def undeclared(workflow: AnyWorkflow, allowed: frozenset[str]) -> list[str]:
    """Names of the types that a workflow's executors take, and its checkpoints may not hold."""
    types = [one for executor in getattr(workflow, "executors", {}).values() for one in executor.input_types]
    names = {f"{one.__module__}:{one.__qualname__}" for one in types if isinstance(one, type) and _is_users(one)}
    return sorted(names - allowed - _REGISTERED_CHECKPOINT_TYPE_KEYS)


def _is_users(kind: type) -> bool:
    return kind.__module__.partition(".")[0] not in ("agent_framework", "agent_framework_orchestrations", *_STANDARD)
