"""Interleaved rounds: A B C, A B C, and so on, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import median
from typing import TypeAlias

import trio

from .load import Round
from .measure import paired_ratio
from .plan import Plan
from .report import Figure, Progress

Subject: TypeAlias = Callable[[str], Awaitable[Round]]
"""Runs one round, with conversations whose names begin as told."""

_BUSY = 0.9
_METRICS: Sequence[tuple[str, str, Callable[[Round], float]]] = (
    ("turns/s", "", lambda one: one.turns_per_second),
    ("p50", "ms", lambda one: one.p50_ms),
    ("p99", "ms", lambda one: one.p99_ms),
    ("CPU/turn", "ms", lambda one: one.cpu_ms),
)


class TookTooLong(Exception):
    """A round did not end within the plan's patience."""


async def interleaved(scenario: str, plan: Plan, progress: Progress, subjects: Mapping[str, Subject]) -> list[Figure]:
    """Measure the subjects in turn, after a warm-up of each.

    Args:
        scenario: Its name.
        plan: For the number of rounds.
        progress: Told of each round.
        subjects: By label. The last one is the comparison: the others' ratios are to it.

    Returns:
        For each subject its turns/s, p50, p99 and CPU per turn.
    """
    progress.begin(scenario, (plan.rounds + 1) * len(subjects))
    rounds: dict[str, list[Round]] = {label: [] for label in subjects}
    for number in range(plan.rounds + 1):
        for label, subject in subjects.items():
            done = await within(plan, subject, f"{scenario}-{number}")
            if number:  # the first is the warm-up
                rounds[label].append(done)
            if done.load_busy > _BUSY:
                progress.note(f"{scenario}: the load generator was busy ({label}): its core is part of the figure")
            progress.step(label)
    comparison = list(rounds)[-1]
    return [figure for label in rounds for figure in _figures(scenario, label, rounds, comparison)]


async def within(plan: Plan, subject: Subject, name: str) -> Round:
    """One round, within the plan's patience.

    Raises:
        TookTooLong: It did not end.
    """
    with trio.move_on_after(plan.patience):
        return await subject(name)
    raise TookTooLong(f"a round of {name} took longer than {plan.patience:.0f} s")


def _figures(scenario: str, label: str, rounds: Mapping[str, Sequence[Round]], comparison: str) -> list[Figure]:
    figures = []
    for name, unit, of in _METRICS:
        values = [of(one) for one in rounds[label]]
        others = [of(one) for one in rounds[comparison]]
        ratio = paired_ratio(values, others) if label != comparison and all(others) else None
        figures.append(Figure(scenario, f"{label}: {name}", median(values), unit, ratio, rounds=tuple(values)))
    return figures
