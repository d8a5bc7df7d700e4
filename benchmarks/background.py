"""A turn in the background, from its submission to its end, against one that its caller waits for."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

from agent_framework import AgentResponse

from afactors import Runtime
from afactors_channels import ChannelRequest, ResponsesChannel

from .agents import make_agent
from .hosted import Turn, WatchedStore, asking, converse, hosted, request_for
from .load import Round
from .measure import pinned
from .plan import Plan
from .report import Figure, Progress
from .rounds import Subject, interleaved


@dataclass(slots=True)
class _Counted:
    """What each round of a subject had the store do, for one turn."""

    store: WatchedStore
    commits: list[float] = field(default_factory=list)
    fsyncs: list[float] = field(default_factory=list)
    handed_over: list[float] = field(default_factory=list)

    def round_of(self, subject: Subject) -> Subject:
        """The subject, with the store watched."""

        async def counted(name: str) -> Round:
            before, handed_over = self.store.statistics(), self.store.handed_over
            done = await subject(name)
            after, turns = self.store.statistics(), len(done.latencies_ms)
            self.commits.append((after.commits - before.commits) / turns)
            self.fsyncs.append((after.batches - before.batches) / turns)
            self.handed_over.append((self.store.handed_over - handed_over) / turns)
            return done

        return counted


async def background_turns(scenario: str, plan: Plan, progress: Progress) -> Sequence[Figure]:
    """One conversation alone, in which no two turns share an fsync; then all of them at once."""
    figures: list[Figure] = []
    with pinned(plan.cores.server, back_to=plan.cores.load):
        agent, channels = make_agent(chunks=plan.chunks), [ResponsesChannel()]
        async with hosted(agent, plan.state_dir, sync=True, channels=channels) as (runtime, store):
            for conversations in (1, plan.conversations):
                turns = plan.turns if conversations > 1 else plan.turns * max(1, plan.conversations // 10)
                some = partial(converse, conversations=conversations, turns=turns)
                ways = {
                    "background": submitting(runtime),
                    "background, streamed and followed": following(runtime),
                    "foreground, streamed": showing(runtime),
                    "foreground": asking(runtime),
                }
                counted = {label: _Counted(store) for label in ways}
                subjects = {label: counted[label].round_of(partial(some, way)) for label, way in ways.items()}
                pace = f"{conversations} at once"
                figures += await interleaved(scenario, plan, progress, subjects, pace=pace)
                figures += _store_figures(scenario, pace, counted)
    return figures


def _store_figures(scenario: str, pace: str, counts: Mapping[str, _Counted]) -> list[Figure]:
    figures = []
    for label, counted in counts.items():
        for name, unit, values in (
            ("commits/turn", "", counted.commits),
            ("fsyncs/turn", "", counted.fsyncs),
            ("handed to the store/turn", "B", counted.handed_over),
        ):
            measured = tuple(values[1:])  # the first is the warm-up
            figures.append(Figure(scenario, f"{pace}: {label}: {name}", median(measured), unit, rounds=measured))
    return figures


def submitting(runtime: Runtime) -> Turn:
    """Turns by `Runtime.submit`, each waited for by its token."""

    async def turn(conversation: str) -> str:
        token = await runtime.submit(request_for(conversation))
        run = await runtime.get_continuation(token, wait=True)
        return run.result.text if run.result is not None else ""

    return turn


def following(runtime: Runtime) -> Turn:
    """Streams in the background, each followed by one reader to its end, who then looks at the result."""

    async def turn(conversation: str) -> str:
        token = await runtime.submit(_streamed(conversation))
        async with runtime.subscribe(token) as batches:
            async for _rows in batches:
                pass
        run = await runtime.get_continuation(token)
        return run.result.text if run.result is not None else ""

    return turn


def showing(runtime: Runtime) -> Turn:
    """Streams whose caller reads them as they come."""

    async def turn(conversation: str) -> str:
        async with runtime.turn(_streamed(conversation)) as running:
            async for _rows in running.rows():
                pass
            answer: AgentResponse[Any] = running.result.result
            return answer.text

    return turn


def _streamed(conversation: str) -> ChannelRequest:
    """What the Responses channel asks of the runtime for a stream."""
    return request_for(conversation).replace(
        channel="responses",
        name=f"resp_{secrets.token_hex(24)}",
        stream=True,
        presentation={"echo": {"model": "scripted"}},
    )
