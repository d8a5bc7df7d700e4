"""Deliveries as text for people: aligned columns, times relative and absolute. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

_COLOURS = {"dead": "\x1b[31m", "running": "\x1b[33m", "pending": "\x1b[36m"}
_PLAIN = "\x1b[0m"
_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))
_TIMES = ("created", "due", "expires", "died", "kept_until")
_HEADS = ("ID", "STATE", "CHANNEL", "TO", "KIND", "KEY", "TRIES", "WHEN", "WHY")
_WIDEST = 40


def table(deliveries: Sequence[Mapping[str, Any]], now: float, *, colours: bool = False) -> str:
    """A line for each, under headings.

    Args:
        deliveries: As the answers have them.
        now: The present instant.
        colours: Whether a terminal shows it.
    """
    rows = [_HEADS, *(_row(one, now) for one in deliveries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if colours and row[1] in _COLOURS:
            cells[1] = f"{_COLOURS[row[1]]}{cells[1]}{_PLAIN}"
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _row(one: Mapping[str, Any], now: float) -> tuple[str, ...]:
    number, why = one.get("number"), ": ".join(filter(None, (one["reason"], one["error"])))
    place = "/".join(filter(None, (one["native_id"], one["conversation"])))
    if one["state"] == "dead":
        at = f"died {moment(one['died'], now)}"
    else:
        at = "now" if one["due"] is None else f"due {moment(one['due'], now)}"
    cells = (one["channel"], place, one["kind"], one["isolation_key"])
    name = one["id"] if number is None else str(number)
    unsure = "?" if one["unsure"] else ""
    return (
        name,
        one["state"],
        *(_cut(printable(cell)) for cell in cells),
        f"{one['attempts']}{unsure}",
        at,
        printable(why),
    )


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


def details(one: Mapping[str, Any], now: float) -> str:
    """All of one delivery, a line for each thing that is known; what it says comes last."""
    told = {name: value for name, value in one.items() if value not in (None, "") and name != "text"}
    for name in _TIMES:
        if name in told:
            told[name] = moment(told[name], now)
    width = max(map(len, told))
    lines = [f"{name.replace('_', ' ').ljust(width)}  {printable(str(value))}" for name, value in told.items()]
    if one.get("text"):
        lines += ["", *map(printable, one["text"].splitlines())]
    return "\n".join(lines)


def moment(at: float, now: float) -> str:
    """An instant, as far away as it is, and by the clock on the wall."""
    if at <= 0:
        return "now"
    try:
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    except (OverflowError, OSError, ValueError):  # somebody meant "for ever"
        clock = "beyond the calendar"
    away = abs(at - now)
    told = next((f"{away / size:.0f} {unit}" for size, unit in _UNITS if away >= size), f"{away:.0f} s")
    return f"{told} ago ({clock})" if at <= now else f"in {told} ({clock})"


def printable(text: str) -> str:
    """A text without what could confuse a terminal."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
