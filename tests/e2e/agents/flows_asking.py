"""A workflow that asks, and takes its time with the answer: until there is a file by the name that it was given."""

import asyncio
import time
from pathlib import Path
from typing import Never

from agent_framework import Executor, Workflow, WorkflowBuilder, WorkflowContext, handler, response_handler
from lab import note


class Slow(Executor):
    """Asks whether it shall."""

    @handler
    async def take(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        """``wait for PATH``."""
        ctx.set_state("path", text.removeprefix("wait for "))
        await ctx.request_info("Shall I?", bool)

    @response_handler
    async def told(self, _asked: str, answer: bool, ctx: WorkflowContext[Never, str]) -> None:
        """Wait, and say what was answered."""
        note("told", str(answer))
        await asyncio.to_thread(_wait, Path(ctx.get_state("path")))
        await ctx.yield_output(f"It was {answer}.")


def _wait(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def make_slow() -> Workflow:
    """A workflow of one's own for each conversation."""
    return WorkflowBuilder(start_executor=Slow(id="slow"), name="slow").build()
