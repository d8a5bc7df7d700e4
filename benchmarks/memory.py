"""Memory: what remains of conversations that were visited once and passivated, and what an idle one takes until then.

Each question has a process of its own (``python -m benchmarks.memory``), because memory that something else freed
before would be counted as room.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Sequence
from typing import Any

import trio

from afactors import Runtime

from .agents import make_agent
from .hosted import asking, hosted
from .measure import pin, rss_anon
from .plan import Plan
from .processes import run_child
from .report import Figure, Progress, Target

TARGET = Target("<=", 20)  # MB
PROMISED_FOR = 20_000  # conversations

_AT_ONCE = 50
_COLLECT_EVERY = 100  # visits
_WARM_UP = 1000
_SHORT_SECONDS = 0.5
_LONG_SECONDS = 3600.0
_SETTLE_SECONDS = 60.0
_HELD = 5000
_CHILD_SECONDS = 600.0
_MB = 1_000_000


async def memory(scenario: str, plan: Plan, progress: Progress) -> Sequence[Figure]:
    """Both questions, each in a process of its own."""
    progress.begin(scenario, 2)
    gone = await _child(plan, "gone", plan.visited)
    progress.step("passivated")
    held = await _child(plan, "held", min(_HELD, plan.visited))
    progress.step("idle")
    count, target = f"{plan.visited:,}", TARGET.promised_from(PROMISED_FOR, plan.visited)
    return [
        Figure(scenario, f"growth after {count} visited and passivated", gone["growth"] / _MB, "MB", target=target),
        Figure(scenario, "the same after a full garbage collection", gone["growth_collected"] / _MB, "MB"),
        Figure(scenario, "memory before", gone["before"] / _MB, "MB"),
        Figure(scenario, "visits per second", gone["visits_per_second"], "/s"),
        Figure(scenario, "bytes of an idle live conversation", held["growth_collected"] / held["stayed"], "B"),
    ]


async def _child(plan: Plan, question: str, visits: int) -> dict[str, float]:
    arguments = [question, str(visits)]
    if plan.state_dir is not None:
        arguments += ["--state-dir", plan.state_dir]
    if plan.cores.server is not None:
        arguments += ["--core", str(plan.cores.server)]
    found: dict[str, float] = json.loads(await run_child("benchmarks.memory", arguments, seconds=_CHILD_SECONDS))
    return found


async def measure(question: str, visits: int, state_dir: str | None) -> dict[str, float]:
    """Visit new conversations once each, and compare the memory before and after.

    Args:
        question: `gone` passivates them before the second look, `held` keeps them.
        visits: How many.
        state_dir: Folder for the store.
    """
    room = visits + _WARM_UP + _AT_ONCE
    limits: dict[str, Any] = {"idle_timeout": _SHORT_SECONDS}
    if question == "held":
        limits = {"idle_timeout": _LONG_SECONDS, "max_idle_actors": room, "max_live_actors": room}
    # Without fsync: this is about memory, and the disk would only make it slower.
    async with hosted(make_agent(), state_dir, sync=False, **limits) as (runtime, _):
        await _visit(runtime, "warm", min(_WARM_UP, visits), tidy=question == "held")
        await _settle(runtime, question)
        gc.collect()
        live_before = runtime.statistics().actors.live
        before, began = rss_anon(), trio.current_time()
        await _visit(runtime, "visit", visits, tidy=question == "held")
        seconds = trio.current_time() - began
        await _settle(runtime, question)
        stayed = runtime.statistics().actors.live - live_before
        after = rss_anon()
        gc.collect()
        collected = rss_anon()
    return {
        "visited": visits,
        "stayed": stayed,
        "before": before,
        "growth": after - before,
        "growth_collected": collected - before,
        "visits_per_second": visits / seconds,
    }


async def _visit(runtime: Runtime, name: str, visits: int, *, tidy: bool) -> None:
    """Visit conversations once each.

    Args:
        runtime: Who hosts them.
        name: How their names begin.
        visits: How many.
        tidy: Whether to collect garbage all the time: what a collection frees is room for more, and those who live
            there would seem to take nothing.
    """
    turn = asking(runtime)
    numbers = iter(range(visits))

    async def visitor() -> None:
        for number in numbers:  # shared: each takes the next one
            await turn(f"{name}-{number}")
            if tidy and number % _COLLECT_EVERY == 0:
                gc.collect()

    async with trio.open_nursery() as nursery:
        for _ in range(_AT_ONCE):
            nursery.start_soon(visitor)


async def _settle(runtime: Runtime, question: str) -> None:
    if question == "held":
        return
    with trio.fail_after(_SETTLE_SECONDS):
        while runtime.statistics().actors.live:  # noqa: ASYNC110 - figures are all there is to read
            await trio.sleep(_SHORT_SECONDS / 5)
    await trio.sleep(_SHORT_SECONDS)


def main() -> None:
    """Answer one question in this process, in JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["gone", "held"])
    parser.add_argument("visits", type=int)
    parser.add_argument("--state-dir")
    parser.add_argument("--core", type=int)
    given = parser.parse_args()
    pin(given.core)
    print(json.dumps(trio.run(measure, given.question, given.visits, given.state_dir)))


if __name__ == "__main__":
    main()
