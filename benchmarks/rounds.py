"""Interleaved rounds: A B C, A B C, and so on, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import median
from typing import TypeAlias

import trio

from .load import Round
from .measure import paired_ratio
from .plan import Plan
from .report import Figure, Progress, Target

Subject: TypeAlias = Callable[[str], Awaitable[Round]]
"""Runs one round, with conversations whose names begin as told."""

Metric: TypeAlias = tuple[str, str, Callable[[Round], float]]
"""Name, unit, and where to find it."""

METRICS: Sequence[Metric] = (
    ("turns/s", "", lambda one: one.turns_per_second),
    ("p50", "ms", lambda one: one.p50_ms),
    ("p99", "ms", lambda one: one.p99_ms),
    ("CPU/turn", "ms", lambda one: one.cpu_ms),
)

_BUSY = 0.9


class TookTooLong(Exception):
    """A round did not end within the plan's patience."""


async def interleaved(
    scenario: str,
    plan: Plan,
    progress: Progress,
    subjects: Mapping[str, Subject],
    metrics: Sequence[Metric] = METRICS,
    pace: str = "",
) -> list[Figure]:
    """Measure the subjects in turn, after a warm-up of each.

    Args:
        scenario: Its name.
        plan: For the number of rounds.
        progress: Told of each round.
        subjects: By label. The last one is the comparison: the others' ratios are to it.
        metrics: What to tell of each.
        pace: What tells these rounds from others of the scenario; the figures' names begin with it.

    Returns:
        The metrics of each subject, in order.
    """
    name = f"{scenario}-{pace.replace(' ', '-')}" if pace else scenario
    progress.begin(name, (plan.rounds + 1) * len(subjects))
    rounds: dict[str, list[Round]] = {label: [] for label in subjects}
    for number in range(plan.rounds + 1):
        for place, (label, subject) in enumerate(subjects.items()):
            done = await within(plan, subject, f"{name}-{number}-{place}")
            if number:  # the first is the warm-up
                rounds[label].append(done)
            if done.load_busy > _BUSY:
                progress.note(f"{name}: the load generator was busy ({label}): its core is part of the figure")
            progress.step(label)
    comparison = list(rounds)[-1]
    return [figure for label in rounds for figure in _figures(scenario, pace, label, rounds, comparison, metrics)]


def judged(figures: Sequence[Figure], metric: str, ours: str, other: str, target: Target | None) -> Figure:
    """What was promised of two subjects: one's metric over the other's, round by round."""
    one, two = (
        next(figure for figure in figures if figure.name.endswith(f"{label}: {metric}")) for label in (ours, other)
    )
    ratios = tuple(first / second for first, second in zip(one.rounds, two.rounds, strict=True))
    return Figure(one.scenario, f"{one.name} ÷ {other}", median(ratios), target=target, rounds=ratios)


async def within(plan: Plan, subject: Subject, name: str) -> Round:
    """One round, within the plan's patience.

    Raises:
        TookTooLong: It did not end.
    """
    with trio.move_on_after(plan.patience):
        return await subject(name)
    raise TookTooLong(f"a round of {name} took longer than {plan.patience:.0f} s")


def _figures(
    scenario: str,
    pace: str,
    label: str,
    rounds: Mapping[str, Sequence[Round]],
    comparison: str,
    metrics: Sequence[Metric],
) -> list[Figure]:
    figures, prefix = [], f"{pace}: {label}" if pace else label
    for name, unit, of in metrics:
        values = [of(one) for one in rounds[label]]
        others = [of(one) for one in rounds[comparison]]
        ratio = paired_ratio(values, others) if label != comparison and all(others) else None
        figures.append(Figure(scenario, f"{prefix}: {name}", median(values), unit, ratio, rounds=tuple(values)))
    return figures
