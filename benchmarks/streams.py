"""What the store costs a stream: its first text against the same agent's without a store, and its log of events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

from .load import HttpLoad, first_turn_again
from .plan import Plan
from .processes import agent_server, runtime_server
from .report import Figure, Progress, Target
from .rounds import METRICS, Metric, interleaved, judged

PROMISED_FOR = 100  # conversations at once
FIRST_TARGET = Target("<=", 1.5)
RATE_TARGET = Target(">=", 0.8)

_AT_EASE = "at ease"
_LONGER = 10  # times the usual spacing, so that the server has time to spare
_TURNS_AT_EASE = 2

_FIRST_METRICS: Sequence[Metric] = (
    ("first text p50", "ms", lambda one: one.first_p50_ms),
    ("first text p99", "ms", lambda one: one.first_p99_ms),
    *METRICS,
)


async def first_token(scenario: str, plan: Plan, progress: Progress) -> Sequence[Figure]:
    """The runtime as it serves, and the agent alone on bare quart-trio."""
    figures: list[Figure] = []
    target = FIRST_TARGET.promised_from(PROMISED_FOR, plan.conversations)
    for pace, spacing in {**_paces(plan), _AT_EASE: plan.spacing * _LONGER}.items():
        async with AsyncExitStack() as servers:
            stored = await servers.enter_async_context(runtime_server(plan, sync=True, spacing=spacing))
            alone = await servers.enter_async_context(agent_server(plan, spacing=spacing))
            some = partial(HttpLoad, conversations=plan.conversations, turns=plan.turns, stream=True)
            if pace == _AT_EASE:
                some = partial(some, turns=min(_TURNS_AT_EASE, plan.turns), over=plan.chunks * spacing)
            subjects = {"store": some(stored).round, "agent alone": some(alone, check=first_turn_again).round}
            found = await interleaved(scenario, plan, progress, subjects, _FIRST_METRICS, pace)
        figures += [judged(found, "first text p50", "store", "agent alone", target), *found]
    return figures


async def event_log(scenario: str, plan: Plan, progress: Progress) -> Sequence[Figure]:
    """Streams that are logged, streams in the background that are logged before they are shown, and unlogged ones."""
    figures: list[Figure] = []
    target = RATE_TARGET.promised_from(PROMISED_FOR, plan.conversations)
    for pace, spacing in _paces(plan).items():
        async with runtime_server(plan, sync=True, spacing=spacing) as server:
            some = partial(HttpLoad, server, conversations=plan.conversations, turns=plan.turns, stream=True)
            subjects = {
                "log on": some(fields={"store": True}).round,
                "log on, followed": some(fields={"store": True, "background": True}).round,
                "log off": some(fields={"store": False}).round,
            }
            found = await interleaved(scenario, plan, progress, subjects, _FIRST_METRICS, pace)
        figures += [judged(found, "turns/s", ours, "log off", target) for ours in ("log on", "log on, followed")]
        figures += found
    return figures


def _paces(plan: Plan) -> Mapping[str, float]:
    """Seconds before each chunk, by name."""
    return {"at once": 0.0, "spaced": plan.spacing}
