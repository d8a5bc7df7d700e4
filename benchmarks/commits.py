"""Group commit: how much more the store, and a whole turn, get done for 100 callers at once than for one alone."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import TypeAlias

import trio

from afactors import Runtime
from afactors_store import Append, Commit, RunRecord, Store

from .agents import make_agent
from .hosted import asking, converse, hosted, payload_bytes
from .measure import paired_ratio, pinned
from .plan import Plan
from .report import Figure, Progress, Target

COMMITS_TARGET = Target(">=", 6)
TURNS_TARGET = Target(">=", 2)
PROMISED_FOR = 100  # callers at once

_ALONE = 200  # commits of one round
_EACH_OF_MANY = 20

Work: TypeAlias = Callable[[str, int], Awaitable[float]]
"""Does a round with that many callers, under that name; returns how much it did in a second."""


@dataclass(slots=True)
class _Rates:
    """What one kind of work reached, round by round."""

    alone: list[float] = field(default_factory=list)
    many: list[float] = field(default_factory=list)
    in_one_fsync: list[float] = field(default_factory=list)

    def figures(self, scenario: str, what: str, callers: int, target: Target) -> list[Figure]:
        """The ratio, and what it is made of."""
        promised = target.promised_from(PROMISED_FOR, callers)
        ratio = paired_ratio(self.many, self.alone)
        ratios = tuple(many / alone for many, alone in zip(self.many, self.alone, strict=True))
        parts = [
            (f"{what}/s, 1 alone", self.alone, "/s"),
            (f"{what}/s, {callers} at once", self.many, "/s"),
            (f"{what} in one fsync, {callers} at once", self.in_one_fsync, ""),
        ]
        return [
            Figure(scenario, f"{what}/s, {callers} at once ÷ 1 alone", ratio, target=promised, rounds=ratios),
            *(Figure(scenario, name, median(values), unit, rounds=tuple(values)) for name, values, unit in parts),
        ]


async def group_commit(scenario: str, plan: Plan, progress: Progress) -> Sequence[Figure]:
    """One alone and many at once, in interleaved rounds, with fsync."""
    progress.begin(scenario, (plan.rounds + 1) * 4)
    with pinned(plan.cores.server, back_to=plan.cores.load):
        async with hosted(make_agent(), plan.state_dir, sync=True) as (runtime, store):
            turns = await _rounds(partial(_turns, runtime, plan), store, plan, progress)
            model = store.last
            assert model is not None  # noqa: S101 - turns were committed
            commits = await _rounds(partial(_commits, store, model), store, plan, progress)
    return [
        *commits.figures(scenario, "commits", plan.conversations, COMMITS_TARGET),
        Figure(scenario, "payload of such a commit", payload_bytes(model), "B"),
        *turns.figures(scenario, "turns", plan.conversations, TURNS_TARGET),
    ]


async def _rounds(work: Work, store: Store, plan: Plan, progress: Progress) -> _Rates:
    rates = _Rates()
    for number in range(plan.rounds + 1):
        alone = await _patiently(work, plan, f"alone-{number}", 1)
        progress.step("1 alone")
        before = store.statistics()
        many = await _patiently(work, plan, f"many-{number}", plan.conversations)
        after = store.statistics()
        progress.step(f"{plan.conversations} at once")
        if number:  # the first is the warm-up
            rates.alone.append(alone)
            rates.many.append(many)
            rates.in_one_fsync.append((after.commits - before.commits) / (after.batches - before.batches))
    return rates


async def _patiently(work: Work, plan: Plan, name: str, callers: int) -> float:
    with trio.fail_after(plan.patience):
        return await work(name, callers)


async def _turns(runtime: Runtime, plan: Plan, name: str, callers: int) -> float:
    """Whole turns; one alone has as many conversations as it takes, one after the other."""
    if callers > 1:
        done = await converse(asking(runtime), name, conversations=callers, turns=plan.turns)
        return done.turns_per_second
    began = time.perf_counter()
    count = max(1, plan.conversations // 4)
    for number in range(count):
        await converse(asking(runtime), f"{name}-{number}", conversations=1, turns=plan.turns)
    return count * plan.turns / (time.perf_counter() - began)


async def _commits(store: Store, model: Commit, name: str, callers: int) -> float:
    """Commits like one that a turn made, and nothing else."""
    each = _ALONE if callers == 1 else _EACH_OF_MANY
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(callers):
            nursery.start_soon(_commit_often, store, model, f"{name}-{number}", each)
    return callers * each / (time.perf_counter() - began)


async def _commit_often(store: Store, model: Commit, key: str, times: int) -> None:
    claim = await store.claim(key)
    log = secrets.randbits(64)
    rows = [row for append in model.append for row in append.rows]
    body = b"".join(run.body for run in model.runs)
    for number in range(times):
        run = RunRecord(f"run_{number:08}{secrets.token_hex(10)}", body, time.time() + 86_400)
        append = [Append(log, number * len(rows), rows)]
        fresh = replace(model, append=append, runs=[run], drop_logs=(), names={}, consume=(), letters=())
        await store.commit(claim, fresh)
