"""Runs by their ids: what it takes to get one of 10,000, beside a request that looks nothing up."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

import msgspec
import trio

from .load import Connection, WrongAnswer, connected, get_request, turn_request
from .measure import cpu_seconds, quantile
from .plan import Plan
from .processes import Server, runtime_server
from .report import Figure, Progress, Target

TARGET = Target("<=", 2)
PROMISED_FOR = 10_000  # runs

_IN_ONE_CONVERSATION = 10  # runs
_REQUESTS = 1000  # of each kind, in a round
_SLICES = 10  # in which the two kinds take turns, in a round
_SEED = 20_26


class _Response(msgspec.Struct):
    """What is of interest of a response."""

    id: str
    status: str


@dataclass(slots=True)
class _Kind:
    """What came of one kind of request."""

    latencies_ms: list[float] = field(default_factory=list)  # of the present round
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    cpu: float = 0.0

    def end_round(self) -> None:
        """Note the round's figures and begin the next one."""
        self.p50.append(quantile(self.latencies_ms, 0.50))
        self.p99.append(quantile(self.latencies_ms, 0.99))
        self.cpu_ms.append(self.cpu * 1000 / len(self.latencies_ms))
        self.latencies_ms, self.cpu = [], 0.0


async def fetched_runs(scenario: str, plan: Plan, progress: Progress) -> Sequence[Figure]:
    """One request at a time, and as many as there are conversations."""
    progress.begin(scenario, 1 + 2 * (plan.rounds + 1))
    figures: list[Figure] = []
    async with runtime_server(plan, sync=True) as server:
        with trio.fail_after(plan.patience):
            names = await _made(server, plan)
        progress.step(f"{len(names):,} runs")
        for at_once in (1, plan.conversations):
            fetched, empty = await _compared(server, names, at_once, plan, progress)
            figures += _figures(scenario, f"{at_once} at once", len(names), fetched, empty)
    return figures


async def _made(server: Server, plan: Plan) -> list[str]:
    """The ids of so many new responses, made by those who would make them: clients."""
    names: list[str] = []
    conversations = iter(range(0, plan.runs, _IN_ONE_CONVERSATION))

    async def talk(connection: Connection) -> None:
        for first in conversations:  # shared: each takes the next one
            raw = turn_request(f"runs-{first}", stream=False)
            count = min(_IN_ONE_CONVERSATION, plan.runs - first)
            names.extend([_checked(*await connection.request(raw)).id for _ in range(count)])

    async with connected(server, plan.conversations) as connections, trio.open_nursery() as nursery:
        for connection in connections:
            nursery.start_soon(talk, connection)
    return names


def _checked(status: int, body: bytes) -> _Response:
    if status == 200:
        response = msgspec.json.decode(body, type=_Response)
        if response.status == "completed":
            return response
    raise WrongAnswer(f"a response was answered {status}: {body[:300]!r}")


async def _compared(
    server: Server, names: Sequence[str], at_once: int, plan: Plan, progress: Progress
) -> tuple[_Kind, _Kind]:
    """Both kinds of requests over the same connections, by turns."""
    fetched, empty = _Kind(), _Kind()
    chosen = random.Random(_SEED)
    each = max(1, min(_REQUESTS, plan.runs) // _SLICES // at_once)
    async with connected(server, at_once) as connections:
        for number in range(plan.rounds + 1):
            with trio.fail_after(plan.patience):
                for _ in range(_SLICES):
                    await _slice(server, connections, fetched, [chosen.choices(names, k=each) for _ in connections])
                    await _slice(server, connections, empty, [[""] * each for _ in connections])
            for kind in (fetched, empty):
                kind.end_round()
                if not number:  # the first is the warm-up
                    del kind.p50[:], kind.p99[:], kind.cpu_ms[:]
            progress.step(f"{at_once} at once")
    return fetched, empty


async def _slice(
    server: Server, connections: Sequence[Connection], kind: _Kind, names: Sequence[Sequence[str]]
) -> None:
    cpu = cpu_seconds(server.pid)
    async with trio.open_nursery() as nursery:
        for connection, own in zip(connections, names, strict=True):
            nursery.start_soon(_ask, connection, own, kind.latencies_ms)
    kind.cpu += cpu_seconds(server.pid) - cpu


async def _ask(connection: Connection, names: Sequence[str], latencies_ms: list[float]) -> None:
    """Get responses by id; "" is the request that looks nothing up."""
    for name in names:
        raw = get_request(f"/v1/responses/{name}" if name else "/healthz")
        began = time.perf_counter()
        status, body = await connection.request(raw)
        latencies_ms.append((time.perf_counter() - began) * 1000)
        if status != 200 or (name and _checked(status, body).id != name):
            raise WrongAnswer(f"{name or '/healthz'} was answered {status}: {body[:300]!r}")


def _figures(scenario: str, pace: str, runs: int, fetched: _Kind, empty: _Kind) -> Iterator[Figure]:
    target = TARGET.promised_from(PROMISED_FOR, runs)
    ratios = tuple(one / other for one, other in zip(fetched.p99, empty.p99, strict=True))
    yield Figure(scenario, f"{pace}: p99 of GET ÷ /healthz", median(ratios), target=target, rounds=ratios)
    for label, kind in ((f"GET, one of {runs:,}", fetched), ("/healthz", empty)):
        for name, values, others in (("p50", kind.p50, empty.p50), ("p99", kind.p99, empty.p99)):
            ratio = median(one / other for one, other in zip(values, others, strict=True))
            told = ratio if kind is fetched else None
            yield Figure(scenario, f"{pace}: {label}: {name}", median(values), "ms", told, rounds=tuple(values))
        yield Figure(scenario, f"{pace}: {label}: CPU", median(kind.cpu_ms), "ms", rounds=tuple(kind.cpu_ms))
