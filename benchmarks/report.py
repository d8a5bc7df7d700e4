"""Figures, what they should be, and how they are told: a table, JSON, and a progress bar on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TextIO

_BAR_WIDTH = 24


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should be."""

    sign: Literal["<=", ">="]
    limit: float

    def promised_from(self, least: int, size: int) -> Target | None:
        """The target, if what was measured is as large as what the target was promised for."""
        return self if size >= least else None

    def met(self, value: float) -> bool:
        """Whether the value is as it should be."""
        return value <= self.limit if self.sign == "<=" else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.sign == '<=' else '≥'} {_number(self.limit)}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    Attributes:
        scenario: Which scenario measured it.
        name: What it is of.
        value: The median of the rounds; where failures are counted, the worst round.
        unit: "" for a ratio.
        ratio: How many times the comparison's figure it is: the median of the rounds' own ratios.
        target: What it should be, if anything was promised.
        rounds: The value of each round, so that a reader sees how far they spread.
    """

    scenario: str
    name: str
    value: float
    unit: str = ""
    ratio: float | None = None
    target: Target | None = None
    rounds: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        """`ok`, `miss`, or nothing where nothing was promised."""
        if self.target is None:
            return ""
        return "ok" if self.target.met(self.value) else "miss"

    def plain(self) -> dict[str, Any]:
        """The figure for JSON."""
        return {
            "scenario": self.scenario,
            "figure": self.name,
            "value": self.value,
            "unit": self.unit,
            "ratio": self.ratio,
            "target": str(self.target) if self.target else None,
            "verdict": self.verdict or None,
            "rounds": list(self.rounds),
        }


def as_json(figures: Sequence[Figure], notes: Sequence[str], setting: Mapping[str, Any]) -> str:
    """The whole report for a machine."""
    report = {
        "setting": dict(setting),
        "figures": [figure.plain() for figure in figures],
        "notes": list(notes),
        "missed": sum(figure.verdict == "miss" for figure in figures),
    }
    return json.dumps(report, indent=2, ensure_ascii=False)


def as_table(figures: Sequence[Figure], notes: Sequence[str], setting: Mapping[str, Any]) -> str:
    """The whole report for a reader."""
    lines = [", ".join(f"{name} {value}" for name, value in setting.items()), ""]
    rows = [("figure", "value", "ratio", "spread", "target", ""), *map(_row, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    previous = ""
    for figure, row in zip([None, *figures], rows, strict=True):
        if figure is not None and figure.scenario != previous:
            previous = figure.scenario
            lines.append("")
            lines.append(previous)
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
        lines.append(("  " + "  ".join(cells)).rstrip())
    lines.extend(["", *(f"note: {note}" for note in notes)] if notes else [])
    return "\n".join(lines)


def _row(figure: Figure) -> tuple[str, ...]:
    ratio = f"{figure.ratio:.2f} ×" if figure.ratio is not None else ""
    spread = f"{_number(min(figure.rounds))}…{_number(max(figure.rounds))}" if len(figure.rounds) > 1 else ""
    target = str(figure.target) if figure.target else ""
    return figure.name, f"{_number(figure.value)} {figure.unit}".rstrip(), ratio, spread, target, figure.verdict


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


class Progress:
    """Where a run stands: a bar on a terminal, a line for each scenario anywhere else."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._bar = self._stream.isatty()
        self._scenario, self._steps, self._done = "", 1, 0
        self.notes: list[str] = []

    def begin(self, scenario: str, steps: int) -> None:
        """A scenario begins, with so many steps."""
        self._scenario, self._steps, self._done = scenario, max(1, steps), 0
        if not self._bar:
            print(scenario, file=self._stream, flush=True)

    def step(self, what: str = "") -> None:
        """One step is done."""
        self._done += 1
        if self._bar:
            filled = round(_BAR_WIDTH * min(1.0, self._done / self._steps))
            bar = "█" * filled + "·" * (_BAR_WIDTH - filled)
            print(f"\r\x1b[K{bar} {self._scenario} {what}", end="", file=self._stream, flush=True)

    def note(self, text: str) -> None:
        """Something that a reader of the figures must know."""
        if text not in self.notes:
            self.notes.append(text)

    def end(self) -> None:
        """Nothing is under way any more."""
        if self._bar:
            print("\r\x1b[K", end="", file=self._stream, flush=True)
