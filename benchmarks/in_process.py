"""Conversations without HTTP: the runtime with and without fsync, and the agent alone, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from afactors import Runtime

from .agents import make_agent
from .hosted import Turn, alone, asking, converse, hosted, streaming
from .measure import pinned
from .plan import Plan
from .report import Figure, Progress
from .rounds import interleaved


async def asked_turns(scenario: str, plan: Plan, progress: Progress) -> Sequence[Figure]:
    """`Runtime.ask`."""
    return await _compare(scenario, plan, progress, asking, stream=False, spacing=0.0)


async def streamed_turns(scenario: str, plan: Plan, progress: Progress) -> Sequence[Figure]:
    """`Runtime.stream`, all chunks at once."""
    return await _compare(scenario, plan, progress, streaming, stream=True, spacing=0.0)


async def spaced_turns(scenario: str, plan: Plan, progress: Progress) -> Sequence[Figure]:
    """`Runtime.stream`, with time between the chunks."""
    return await _compare(scenario, plan, progress, streaming, stream=True, spacing=plan.spacing)


async def _compare(
    scenario: str,
    plan: Plan,
    progress: Progress,
    way: Callable[[Runtime], Turn],
    *,
    stream: bool,
    spacing: float,
) -> Sequence[Figure]:
    make = partial(make_agent, chunks=plan.chunks, spacing=spacing)
    some = partial(converse, conversations=plan.conversations, turns=plan.turns)
    with pinned(plan.cores.server, back_to=plan.cores.load):
        async with (
            hosted(make(), plan.state_dir, sync=True) as (synced, _),
            hosted(make(), plan.state_dir, sync=False) as (unsynced, _),
        ):
            subjects = {
                "fsync": partial(some, way(synced)),
                "no fsync": partial(some, way(unsynced)),
                "agent alone": partial(some, alone(make(), stream=stream)),
            }
            return await interleaved(scenario, plan, progress, subjects)
