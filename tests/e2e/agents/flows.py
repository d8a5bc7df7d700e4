"""Workflows that the end-to-end tests talk to, and an agent whose tool wants to be approved.

`make_desk` builds a workflow that obeys its message:

    ask WHAT            ask whether, and repeat the answer: "WHAT: True, answer 1 of this conversation"
    choose WHAT         the same, for an answer with members
    both WHAT           ask two things at once; what is answered is repeated, one by one
    walk FILE           four more supersteps, each as soon as FILE has a dot for it, and each with a word
    fail SECRET         raise
    anything else       repeat it

`make_spoken` builds one that says something of a type that is not listed, and then takes a step as "walk FILE" does.

`guarded` is the lab's agent with a tool that wants to be approved: "call wipe {…}". `make_delegating` builds a workflow
with that agent in it.

What happens is written to the lab's journal.
"""

import asyncio
import os
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Never

from agent_framework import (
    Agent,
    Executor,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    handler,
    register_checkpoint_type,
    response_handler,
    tool,
)
from lab import Obedient, note

STEPS = 4


@dataclass
class Ask:
    """What is asked."""

    what: str


@dataclass
class Choice:
    """An answer with members."""

    approved: bool
    reason: str = ""


@dataclass
class Walk:
    """Where the next step waits."""

    path: str
    step: int = 1


for kind in (Ask, Choice, Walk):
    register_checkpoint_type(kind)


class Desk(Executor):
    """Takes messages, and asks."""

    @handler
    async def take(self, text: str, ctx: WorkflowContext[Walk, str]) -> None:
        """Obey."""
        note("start", text)
        command, _, rest = text.partition(" ")
        if command == "ask":
            await ctx.yield_output(f"thinking about {rest}")
            await ctx.request_info(Ask(rest), bool)
        elif command == "choose":
            await ctx.request_info(Ask(rest), Choice)
        elif command == "both":
            await ctx.request_info(Ask(f"first {rest}"), bool)
            await ctx.request_info(Ask(f"second {rest}"), bool)
        elif command == "walk":
            await ctx.send_message(Walk(rest))
        elif command == "fail":
            raise RuntimeError(f"the secret is {rest}")
        else:
            await ctx.yield_output(f"heard: {text}")

    @response_handler
    async def told(self, asked: Ask, answer: bool, ctx: WorkflowContext[Never, str]) -> None:
        """A yes or no."""
        note("told", asked.what)
        count = ctx.get_state("answers", 0) + 1
        ctx.set_state("answers", count)
        await ctx.yield_output(f"{asked.what}: {answer}, answer {count} of this conversation")

    @response_handler
    async def chosen(self, asked: Ask, choice: Choice, ctx: WorkflowContext[Never, str]) -> None:
        """An answer with members."""
        await ctx.yield_output(f"{asked.what}: {choice.approved} because {choice.reason}")


class Walker(Executor):
    """Goes one step."""

    @handler
    async def go(self, walk: Walk, ctx: WorkflowContext[Walk, str]) -> None:
        """Wait for it, and go."""
        note("begin", str(walk.step))
        await asyncio.to_thread(_wait, walk)
        note("done", str(walk.step))
        await ctx.yield_output(f"{os.getpid()}-{walk.step} ")
        await ctx.send_message(Walk(walk.path, walk.step + 1))


def _wait(walk: Walk) -> None:
    while not (os.path.exists(walk.path) and len(Path(walk.path).read_bytes()) >= walk.step):
        time.sleep(0.01)


def make_desk() -> Workflow:
    """A workflow of one's own for each conversation."""
    executors: list[Executor] = [Desk(id="desk"), *(Walker(id=f"walker-{number}") for number in range(STEPS))]
    builder = WorkflowBuilder(start_executor=executors[0], name="desk")
    for one, next_one in pairwise(executors):
        builder.add_edge(one, next_one)
    return builder.build()


@dataclass
class Unlisted:
    """An output of a type that nobody registered."""

    said: str


class Speaker(Executor):
    """Says something on its way."""

    @handler
    async def take(self, text: str, ctx: WorkflowContext[Walk, Unlisted]) -> None:
        """Say it, and go on."""
        await ctx.yield_output(Unlisted("going"))
        await ctx.send_message(Walk(text.partition(" ")[2]))


def make_spoken() -> Workflow:
    """A workflow that says what no checkpoint may hold."""
    speaker = Speaker(id="speaker")
    return WorkflowBuilder(start_executor=speaker, name="spoken").add_edge(speaker, Walker(id="walker")).build()


@tool(approval_mode="always_require")
def wipe(disk: str) -> str:
    """Wipe a disk."""
    note("wiped", disk)
    return f"{disk} is empty"


guarded = Agent(Obedient(), "You obey.", name="guarded", tools=[wipe])


def make_delegating() -> Workflow:
    """A workflow of one agent."""
    return WorkflowBuilder(start_executor=guarded, name="delegating").build()
