"""A burst: many connections opened at the same moment, each with one request, against both servers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from statistics import median

import trio

from .load import Connection, turn_request
from .measure import quantile
from .plan import Plan
from .processes import Server, bare_server, runtime_server
from .report import Figure, Progress, Target

NONE = Target("<=", 0)
PROMISED_FOR = 1000  # connections

_HUNG_SECONDS = 10.0
_ROUNDS = 3


@dataclass(slots=True)
class _Burst:
    """What became of the connections of one burst."""

    answered_ms: list[float] = field(default_factory=list)
    refused: int = 0
    hung: int = 0

    async def one(self, server: Server, raw: bytes) -> None:
        """Open a connection, send one request, and note what comes of it."""
        began = time.perf_counter()
        with trio.move_on_after(_HUNG_SECONDS) as late:
            try:
                async with Connection(server.port) as connection:
                    status, _ = await connection.request(raw)
            except OSError:
                self.refused += 1
                return
            if status != 200:
                self.refused += 1
                return
            self.answered_ms.append((time.perf_counter() - began) * 1000)
        if late.cancelled_caught:
            self.hung += 1


async def connection_burst(scenario: str, plan: Plan, progress: Progress) -> Sequence[Figure]:
    """The runtime as it serves, and the bare routes with hypercorn's own backlog and acceptor."""
    rounds = min(_ROUNDS, plan.rounds)
    progress.begin(scenario, rounds * 2)
    async with AsyncExitStack() as servers:
        ours = await servers.enter_async_context(runtime_server(plan, sync=True))
        bare = await servers.enter_async_context(bare_server(plan))
        bursts: dict[str, list[_Burst]] = {"fsync": [], "bare quart-trio": []}
        for number in range(rounds):
            for label, server in (("fsync", ours), ("bare quart-trio", bare)):
                bursts[label].append(await _burst(server, plan.burst, f"burst-{number}"))
                progress.step(label)
    return [figure for label, done in bursts.items() for figure in _figures(scenario, label, plan.burst, done)]


async def _burst(server: Server, connections: int, name: str) -> _Burst:
    burst = _Burst()
    requests = [turn_request(f"{name}-{number}", stream=False) for number in range(connections)]
    async with trio.open_nursery() as nursery:
        for raw in requests:
            nursery.start_soon(burst.one, server, raw)
    return burst


def _figures(scenario: str, label: str, connections: int, bursts: Sequence[_Burst]) -> list[Figure]:
    target = NONE.promised_from(PROMISED_FOR, connections) if label == "fsync" else None
    refused = tuple(float(burst.refused) for burst in bursts)
    hung = tuple(float(burst.hung) for burst in bursts)
    what = f"of {connections:,} connections"
    figures = [
        Figure(scenario, f"{label}: refused {what}", max(refused), target=target, rounds=refused),
        Figure(scenario, f"{label}: hung over {_HUNG_SECONDS:.0f} s {what}", max(hung), target=target, rounds=hung),
    ]
    answered = [burst.answered_ms for burst in bursts if burst.answered_ms]
    for share in (0.50, 0.99):
        values = tuple(quantile(latencies, share) for latencies in answered)
        if values:
            name = f"{label}: p{share * 100:.0f} of the answered"
            figures.append(Figure(scenario, name, median(values), "ms", rounds=values))
    return figures
