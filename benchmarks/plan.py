"""How much of everything a run does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from .measure import Cores
from .report import Figure, Progress


@dataclass(frozen=True, slots=True)
class Plan:
    """The bounds of a run: every loop of every scenario ends by one of these, and every wait by `patience`.

    Attributes:
        conversations: Conversations at once.
        turns: Turns of each conversation in a round.
        rounds: Interleaved rounds.
        chunks: Chunks of a streamed reply.
        spacing: Seconds between two chunks, in the spaced scenarios.
        history: The turn that is compared with turn 10.
        visited: Conversations that the memory scenario visits.
        runs: Runs that the runs scenario stores.
        burst: Connections that are opened at once.
        deliveries: Deliveries that wait to be sent; to start with, ten times as many.
        state_dir: Folder for the stores, which are deleted afterwards; None takes the system's own.
        cores: Which core runs what.
        patience: Seconds that one round may take before the scenario is given up.
    """

    conversations: int = 100
    turns: int = 5
    rounds: int = 5
    chunks: int = 20
    spacing: float = 0.01
    history: int = 1000
    visited: int = 20_000
    runs: int = 10_000
    burst: int = 1000
    deliveries: int = 10_000
    state_dir: str | None = None
    cores: Cores = field(default_factory=Cores.found)
    patience: float = 120.0


Scenario: TypeAlias = Callable[[str, Plan, Progress], Awaitable[Sequence[Figure]]]
"""Measures something; it is told its own name, which its figures carry."""
