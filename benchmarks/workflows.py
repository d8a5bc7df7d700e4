"""A workflow's turns: ten supersteps, a question, and the answer to a workflow that nobody has in memory.

The workflow alone runs in an asyncio thread of the same kind, with the framework's own checkpoints in memory. What the
host adds is what is left: the way there and back, the letter, a durable checkpoint for each superstep, and the commit.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import trio
from agent_framework import Executor, InMemoryCheckpointStorage, Workflow, WorkflowBuilder, WorkflowContext
from agent_framework import handler as handles
from agent_framework import response_handler as hears

from afactors import ChannelRequest, Runtime
from afactors.bridge import Bridge

from .agents import WORDS
from .hosted import WatchedStore, request_for
from .measure import pinned
from .plan import Plan
from .report import Figure, Progress, Target

TARGET = Target("<=", 10.0)
PROMISED_FOR = 20  # conversations
STEPS = 10

_QUESTION = "go-on"

Request: TypeAlias = Callable[[str], ChannelRequest]


class _Step(Executor):
    """Hands on what it got; the last one asks."""

    def __init__(self, number: int) -> None:
        super().__init__(id=f"step-{number}")
        self._last = number == STEPS

    @handles
    async def run(self, text: str, context: WorkflowContext[str, str]) -> None:
        """One superstep."""
        context.set_state("so far", text)
        if self._last:
            await context.request_info("Go on?", str, request_id=_QUESTION)
        else:
            await context.send_message(text)

    @hears
    async def go_on(self, _question: str, answer: str, context: WorkflowContext[str, str]) -> None:
        """The answer, and the end."""
        await context.yield_output(answer)


def make_workflow() -> Workflow:
    """Ten executors in a row."""
    steps = [_Step(number + 1) for number in range(STEPS)]
    return WorkflowBuilder(start_executor=steps[0]).add_chain(steps).build()


async def workflow_turns(scenario: str, plan: Plan, progress: Progress) -> Sequence[Figure]:
    """One conversation at a time, so that no two share an fsync."""
    progress.begin(scenario, plan.rounds)
    asked: dict[str, list[float]] = {"hosted": [], "alone": []}
    answered: dict[str, list[float]] = {"hosted": [], "alone": []}
    commits: list[float] = []
    with pinned(plan.cores.server, back_to=plan.cores.load):
        for number in range(plan.rounds):
            with trio.fail_after(plan.patience), TemporaryDirectory(dir=plan.state_dir) as folder:
                names = [f"workflow-{number}-{one}" for one in range(plan.conversations)]
                commits.append(await _hosted(folder, names, _asking, asked["hosted"]))
                await _hosted(folder, names, _answering, answered["hosted"])
                await _alone(plan.conversations, asked["alone"], answered["alone"])
            progress.step("asked, restarted, answered")
    target = TARGET.promised_from(PROMISED_FOR, plan.conversations)
    return _figures(scenario, asked, answered, commits, target)


async def _hosted(folder: str, names: Sequence[str], request: Request, ms: list[float]) -> float:
    """One turn of each conversation in a process that knows none of them; commits for each."""
    store = WatchedStore(folder, sync=True)
    async with Runtime(make_workflow, store=store, max_checkpoints=STEPS) as runtime:
        before = store.statistics().commits
        ms.append(median([await _timed(runtime.ask, request(name)) for name in names]))
        return (store.statistics().commits - before) / len(names)


def _asking(name: str) -> ChannelRequest:
    return request_for(name)


def _answering(name: str) -> ChannelRequest:
    result = {"type": "function_result", "call_id": _QUESTION, "result": "yes"}
    return request_for(name).replace(input=[{"type": "message", "role": "tool", "contents": [result]}])


async def _alone(count: int, asked: list[float], answered: list[float]) -> None:
    async with Bridge() as bridge:
        times = [await bridge.run(_once) for _ in range(count)]
    asked.append(median(first for first, _ in times))
    answered.append(median(second for _, second in times))


async def _once() -> tuple[float, float]:
    # In the asyncio thread.
    storage, workflow = InMemoryCheckpointStorage(), make_workflow()
    first = await _timed(workflow.run, WORDS, checkpoint_storage=storage)
    latest = await storage.get_latest(workflow_name=workflow.name)
    assert latest is not None  # noqa: S101 - it was just saved

    async def resume() -> Any:
        again = make_workflow()
        checkpoint = latest.checkpoint_id
        return await again.run(checkpoint_id=checkpoint, checkpoint_storage=storage, responses={_QUESTION: "yes"})

    return first, await _timed(resume)


async def _timed(call: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> float:
    began = time.perf_counter()
    await call(*args, **options)
    return (time.perf_counter() - began) * 1000


def _figures(
    scenario: str,
    asked: dict[str, list[float]],
    answered: dict[str, list[float]],
    commits: Sequence[float],
    target: Target | None,
) -> list[Figure]:
    over = tuple(hosted - alone for hosted, alone in zip(answered["hosted"], answered["alone"], strict=True))
    figures = [
        Figure(scenario, "cold, answered: beyond its own time", median(over), "ms", target=target, rounds=over),
        Figure(scenario, f"{STEPS} supersteps: commits/turn", median(commits), rounds=tuple(commits)),
    ]
    for label, times in ((f"{STEPS} supersteps", asked), ("cold, answered", answered)):
        for side, values in times.items():
            figures.append(Figure(scenario, f"{label}: {side}", median(values), "ms", rounds=tuple(values)))
    return figures
