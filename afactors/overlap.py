"""Overlap policies: what becomes of a message that reaches a busy session. Pure.

A policy looks at the turns ahead of a new one, in order, and returns those to cancel; or it refuses the new one. One
that has a turn join another, or take its place, would return that here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from afactors_channels import Conflicting, OverlapPolicy

from .turn import Turn

Policy: TypeAlias = Callable[[Sequence[Turn]], Sequence[Turn]]


def enqueue(ahead: Sequence[Turn]) -> Sequence[Turn]:
    """Wait in line."""
    return ()


def reject(ahead: Sequence[Turn]) -> Sequence[Turn]:
    """Nobody waits.

    Raises:
        Conflicting: There is a turn ahead.
    """
    if ahead:
        raise Conflicting("This conversation is busy with another message.", field="session", code="session_busy")
    return ()


def interrupt(ahead: Sequence[Turn]) -> Sequence[Turn]:
    """Whatever runs is cancelled; what waits keeps its place."""
    return [turn for turn in ahead if turn.state == "running"]


POLICIES: Mapping[OverlapPolicy, Policy] = {"enqueue": enqueue, "reject": reject, "interrupt": interrupt}
