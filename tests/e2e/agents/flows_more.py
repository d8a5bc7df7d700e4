"""Other things to host: workflows of other makes, and what is no workflow."""

import asyncio
import threading
from dataclasses import dataclass
from typing import Any, Never

from agent_framework import (
    Executor,
    Message,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    executor,
    handler,
    register_checkpoint_type,
    response_handler,
    workflow,
)


@dataclass
class Order:
    """What a workflow takes that takes no text."""

    name: str
    pieces: int = 1


@dataclass
class Unregistered:
    """A type that checkpoints must not hold, unless somebody says so."""

    what: str


class Locked(Executor):
    """An executor of which there is no copy."""

    def __init__(self, executor_id: str) -> None:
        super().__init__(executor_id)
        self.lock = threading.Lock()

    @handler
    async def take(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        """Repeat."""
        await ctx.yield_output(text)


locked = WorkflowBuilder(start_executor=Locked("locked")).build()


def make_locked() -> Workflow:
    """A new one each time needs no copy."""
    return WorkflowBuilder(start_executor=Locked("locked")).build()


async def make_slowly() -> Workflow:
    """The same, from a factory that is async."""
    await asyncio.sleep(0)
    return make_locked()


def make_nothing() -> Workflow:
    """A factory that fails to build a workflow."""
    return WorkflowBuilder(start_executor="locked").build()  # type: ignore[arg-type]


def make_functional() -> Any:
    """A workflow that is a function."""

    @workflow
    async def functional(text: str) -> str:
        return f"heard: {text}"

    return functional


@executor(id="alone")
async def alone(text: str, ctx: WorkflowContext[Never, str]) -> None:
    """An executor is no workflow."""
    await ctx.yield_output(text)


class Typed(Executor):
    """Takes an order, and no text."""

    @handler
    async def take(self, order: Order, ctx: WorkflowContext[Never, str]) -> None:
        """Repeat."""
        await ctx.yield_output(f"{order.pieces} of {order.name}")


typed = WorkflowBuilder(start_executor=Typed(id="typed")).build()


class Forgetful(Executor):
    """Asks with a type that nobody registered."""

    @handler
    async def take(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        """Ask."""
        await ctx.request_info(Unregistered(text), bool)

    @response_handler
    async def told(self, asked: Unregistered, answer: bool, ctx: WorkflowContext[Never, str]) -> None:
        """Repeat."""
        await ctx.yield_output(f"{asked.what}: {answer}")


forgetful = WorkflowBuilder(start_executor=Forgetful(id="forgetful"), name="forgetful")  # a builder, not built


@dataclass
class Wanted:
    """What is asked for."""

    kind: str


register_checkpoint_type(Wanted)


class Wants(Executor):
    """Asks for an answer of the type that the message names, and repeats it."""

    @handler
    async def take(self, kind: str, ctx: WorkflowContext[Never, str]) -> None:
        """Ask."""
        await ctx.request_info(Wanted(kind), KINDS[kind])

    @response_handler
    async def messages(self, asked: Wanted, answer: list[Message], ctx: WorkflowContext[Never, str]) -> None:
        """Messages, as `HandoffBuilder` wants them of its user."""
        await ctx.yield_output(" ".join(f"{message.role}: {message.text}" for message in answer))

    @response_handler
    async def texts(self, asked: Wanted, answer: list[str], ctx: WorkflowContext[Never, str]) -> None:
        """Some texts."""
        await ctx.yield_output(repr(answer))

    @response_handler
    async def perhaps(self, asked: Wanted, answer: int | None, ctx: WorkflowContext[Never, str]) -> None:
        """A number, or none."""
        await ctx.yield_output(repr(answer))


KINDS: dict[str, Any] = {"messages": list[Message], "texts": list[str], "perhaps": int | None}

wants = WorkflowBuilder(start_executor=Wants(id="wants"), name="wants")


class Handmade:
    """What no message is."""

    def __init__(self, value: object) -> None:
        self.value = value


class Closed(Executor):
    """Takes what only a run hook makes."""

    @handler
    async def take(self, made: Handmade, ctx: WorkflowContext[Never, str]) -> None:
        """Repeat."""
        await ctx.yield_output(str(made.value))


closed = WorkflowBuilder(start_executor=Closed(id="closed")).build()
