"""Turn 1,000 against turn 10 of a conversation: what the host adds to a turn must not grow with the history.

A long conversation and short ones take turns, one turn each, so that both kinds are measured in the same moments. The
agent's own run is timed and taken out: an agent that reads its whole history does take longer, and that is not ours.

What cannot be taken out by subtraction is that the host's own code runs slower after an agent that was busy for long:
caches are cold. So there is a third kind of turn, of short conversations whose agent works through a copy of the long
history besides. Against those, what grows is the host's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import trio
from agent_framework import AgentSession

from afactors import Runtime

from .agents import TimedAgent, make_timed_agent
from .hosted import WatchedStore, asking, hosted
from .measure import pinned, written_bytes
from .plan import Plan
from .report import Figure, Progress, Target

TARGET = Target("<=", 1.3)
PROMISED_FOR = 1000  # turns

_EARLY = range(5, 16)  # the turns around turn 10
_SPREAD = 10  # the turns around the late one: so many before it and after it


@dataclass(slots=True)
class _Window:
    """Turns of about one age."""

    own_ms: list[float] = field(default_factory=list)
    agent_ms: list[float] = field(default_factory=list)
    handed_over: list[float] = field(default_factory=list)
    written: list[float] = field(default_factory=list)


class _Bench:
    """A runtime whose turns are taken apart."""

    def __init__(self, runtime: Runtime, store: WatchedStore, agent: TimedAgent) -> None:
        self._ask = asking(runtime)
        self._store = store
        self._agent = agent
        self.early = _Window()
        self.burdened = _Window()
        self.late = _Window()

    async def turn(self, conversation: str, window: _Window | None = None) -> None:
        """One turn; into a window if it is of interest."""
        handed_over, written = self._store.handed_over, written_bytes()
        began = time.perf_counter()
        await self._ask(conversation)
        seconds = time.perf_counter() - began
        if window is None:
            return
        window.own_ms.append((seconds - self._agent.last_seconds) * 1000)
        window.agent_ms.append(self._agent.last_seconds * 1000)
        window.handed_over.append(self._store.handed_over - handed_over)
        now = written_bytes()
        if written is not None and now is not None:
            window.written.append(now - written)

    async def compare(self, name: str, late: int) -> None:
        """Bring one conversation to the late turns, then let it and two kinds of short ones take turns."""
        first = max(1, late - _SPREAD)
        for _ in range(first - 1):
            await self.turn(f"{name}-long")
        burden: AgentSession | None = None
        for number in range(2 * _SPREAD + 1):
            await self.turn(f"{name}-long", self.late)
            burden = burden or self._agent.copy_of_last_session()
            short, place = divmod(number, len(_EARLY))
            await self._early_turn(f"{name}-short-{short}", place, self.early, None)
            await self._early_turn(f"{name}-burdened-{short}", place, self.burdened, burden)

    async def _early_turn(self, conversation: str, place: int, window: _Window, burden: AgentSession | None) -> None:
        if not place:
            for _ in range(_EARLY.start - 1):
                await self.turn(conversation)
        self._agent.burden = burden
        try:
            await self.turn(conversation, window)
        finally:
            self._agent.burden = None


async def late_turns(scenario: str, plan: Plan, progress: Progress) -> Sequence[Figure]:
    """With fsync and without: with it the disk's own time hides a part of any growth."""
    figures: list[Figure] = []
    rounds = min(3, plan.rounds)
    progress.begin(scenario, rounds * 2)
    with pinned(plan.cores.server, back_to=plan.cores.load):
        for sync in (True, False):
            agent = make_timed_agent()
            async with hosted(agent, plan.state_dir, sync=sync) as (runtime, store):
                benches = []
                for number in range(rounds):
                    bench = _Bench(runtime, store, agent)
                    with trio.fail_after(plan.patience):
                        await bench.compare(f"history-{number}", plan.history)
                    benches.append(bench)
                    progress.step("fsync" if sync else "no fsync")
            figures += _figures(scenario, "fsync" if sync else "no fsync", benches, plan.history)
    return figures


def _figures(scenario: str, label: str, benches: Sequence[_Bench], late: int) -> list[Figure]:
    target = TARGET.promised_from(PROMISED_FOR, late)
    figures = []
    for against, kind in (("turn 10", "early"), ("turn 10 of an agent as busy", "burdened")):
        ratios = tuple(median(bench.late.own_ms) / median(getattr(bench, kind).own_ms) for bench in benches)
        name = f"{label}: turn {late:,} ÷ {against}, without the agent"
        promised = target if kind == "early" else None
        figures.append(Figure(scenario, name, median(ratios), target=promised, rounds=ratios))
    for age, windows in ((10, [bench.early for bench in benches]), (late, [bench.late for bench in benches])):
        parts = [
            ("the host's own time", "ms", [median(window.own_ms) for window in windows]),
            ("the agent's time", "ms", [median(window.agent_ms) for window in windows]),
            ("bytes handed to the store", "B", [median(window.handed_over) for window in windows]),
            ("bytes written to files", "B", [median(window.written) for window in windows if window.written]),
        ]
        figures += [
            Figure(scenario, f"{label}: turn {age:,}: {part}", median(values), unit, rounds=tuple(values))
            for part, unit, values in parts
            if values
        ]
    return figures
