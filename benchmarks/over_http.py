"""Conversations over HTTP: the runtime with and without fsync, and bare quart-trio, each in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

from .load import Check, HttpLoad, anything
from .plan import Plan
from .processes import Server, bare_server, runtime_server
from .report import Figure, Progress, Target
from .rounds import Subject, interleaved, judged

PROMISED_FOR = 100  # conversations at once
RATE_TARGET = Target(">=", 0.6)


async def json_turns(scenario: str, plan: Plan, progress: Progress) -> Sequence[Figure]:
    """Replies in one piece."""
    figures = await _compare(scenario, plan, progress, stream=False, spacing=0.0)
    target = RATE_TARGET.promised_from(PROMISED_FOR, plan.conversations)
    return [judged(figures, "turns/s", "fsync", "bare quart-trio", target), *figures]


async def sse_turns(scenario: str, plan: Plan, progress: Progress) -> Sequence[Figure]:
    """Replies as events, all chunks at once."""
    return await _compare(scenario, plan, progress, stream=True, spacing=0.0)


async def spaced_sse_turns(scenario: str, plan: Plan, progress: Progress) -> Sequence[Figure]:
    """Replies as events, with time between the chunks, as a model's come."""
    return await _compare(scenario, plan, progress, stream=True, spacing=plan.spacing)


async def _compare(scenario: str, plan: Plan, progress: Progress, *, stream: bool, spacing: float) -> Sequence[Figure]:
    def load(server: Server, check: Check | None = None) -> Subject:
        return HttpLoad(server, conversations=plan.conversations, turns=plan.turns, stream=stream, check=check).round

    async with AsyncExitStack() as servers:
        synced = await servers.enter_async_context(runtime_server(plan, sync=True, spacing=spacing))
        unsynced = await servers.enter_async_context(runtime_server(plan, sync=False, spacing=spacing))
        bare = await servers.enter_async_context(bare_server(plan, spacing=spacing))
        subjects = {"fsync": load(synced), "no fsync": load(unsynced), "bare quart-trio": load(bare, anything)}
        return await interleaved(scenario, plan, progress, subjects)
