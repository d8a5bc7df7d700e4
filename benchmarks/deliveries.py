"""Deliveries: what the outbox costs beside the sending itself, on the way in, at the start, and on the way out.

What waits at a start has a process of its own (``python -m benchmarks.deliveries``), for the sake of its memory.
"""

from __future__ import annotations

import argparse
import base64
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import trio
from agent_framework import AgentResponse, Message

from afactors import Runtime
from afactors.outbox import posted
from afactors_channels import ChannelContribution, ChannelIdentity, ResponseTarget
from afactors_channels.pushes import Push, PushPolicy
from afactors_channels.webhook import WebhookChannel, WebhookEndpoint
from afactors_store import Commit, LmdbStore, MemoryStore

from .agents import WORDS, make_agent
from .hosted import Turn, converse, hosted, request_for
from .measure import paired_ratio, pin, pinned, rss_anon
from .plan import Plan
from .processes import Server, receiver, run_child
from .report import Figure, Progress, Target
from .rounds import interleaved, judged

HTTP_TARGET = Target(">=", 0.5)
IN_PROCESS_TARGET = Target(">=", 3000)  # /s
TURN_TARGET = Target("<=", 1.3)
READY_TARGET = Target("<=", 2)  # s
MEMORY_TARGET = Target("<=", 20)  # MB
PROMISED_FOR = 10_000  # deliveries
TURNS_PROMISED_FOR = 100  # conversations

_LANES = 100
_IN_A_COMMIT = 500
_ROUNDS = 3  # at the most
_MORE = 10  # times as many wait at a start
_CHILD_SECONDS = 600.0
_MB = 1_000_000
_SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
_POLICY = PushPolicy(concurrency=16, breaker=1_000_000)


@dataclass
class _Counting:
    """A channel that takes everything at once, in this process."""

    name: str = "taker"
    ready: Callable[[], Awaitable[None]] | None = None
    taken: int = 0

    async def push(self, _push: Push) -> None:
        await trio.lowlevel.checkpoint()
        self.taken += 1

    def contribute(self, _context: Any) -> ChannelContribution:
        """The way out."""
        return ChannelContribution(push=self.push, push_ready=self.ready, push_policy=_POLICY)


async def deliveries(scenario: str, plan: Plan, progress: Progress) -> Sequence[Figure]:
    """To an HTTP receiver, to a destination in this process, out of turns, and after a start."""
    rounds = min(plan.rounds, _ROUNDS)
    progress.begin(scenario, 3 * rounds + 2)
    sent = _Rates()
    with pinned(plan.cores.server, back_to=plan.cores.load):
        async with receiver(plan) as server:
            for _ in range(rounds):
                with trio.fail_after(plan.patience):
                    sent.alone.append(await _client_alone(server, plan))
                progress.step("the client alone")
                with trio.fail_after(plan.patience):
                    sent.outbox.append(await _from_outbox(plan, _webhook(server), "webhook", "site"))
                progress.step("from the outbox")
        for _ in range(rounds):
            taker = _Counting()
            with trio.fail_after(plan.patience):
                sent.in_process.append(await _from_outbox(plan, taker, taker.name, "user"))
            progress.step("in process")
        turns = await _turns(scenario, plan, progress)
    waiting = plan.deliveries * _MORE
    started = [await _started(plan, count) for count in (0, waiting)]
    return [*sent.figures(scenario, plan), *turns, *_start_figures(scenario, plan, waiting, *started)]


@dataclass(slots=True)
class _Rates:
    """Deliveries in a second, round by round."""

    alone: list[float] = field(default_factory=list)
    outbox: list[float] = field(default_factory=list)
    in_process: list[float] = field(default_factory=list)

    def figures(self, scenario: str, plan: Plan) -> Iterator[Figure]:
        """What was promised, and what it is made of."""
        ratios = tuple(one / other for one, other in zip(self.outbox, self.alone, strict=True))
        promised = [one.promised_from(PROMISED_FOR, plan.deliveries) for one in (HTTP_TARGET, IN_PROCESS_TARGET)]
        ratio = paired_ratio(self.outbox, self.alone)
        yield Figure(scenario, "HTTP: from the outbox ÷ client alone", ratio, target=promised[0], rounds=ratios)
        for name, values in (("HTTP: from the outbox", self.outbox), ("HTTP: client alone", self.alone)):
            yield Figure(scenario, name, median(values), "/s", rounds=tuple(values))
        rates = tuple(self.in_process)
        yield Figure(scenario, "in process", median(rates), "/s", target=promised[1], rounds=rates)


# -- one after the other


def _webhook(server: Server) -> WebhookChannel:
    url = f"http://127.0.0.1:{server.port}/hook"
    endpoint = WebhookEndpoint("site", url, _SECRET, allow_private=True, allow_http=True)
    return WebhookChannel([endpoint], push_policy=_POLICY)


def _identity(channel: str, name: str, lane: int) -> ChannelIdentity:
    return ChannelIdentity(channel, name, conversation=f"lane-{lane}", verified=True)


def _said(number: int) -> AgentResponse[Any]:
    return AgentResponse(messages=[Message("assistant", [f"{number} {WORDS}"])])


async def _client_alone(server: Server, plan: Plan) -> float:
    """The channel's own client, as many at once, without a store and without lanes."""
    contribution = _webhook(server).contribute(None)  # type: ignore[arg-type] # it has no sources
    push, task, numbers = contribution.push, contribution.task, iter(range(plan.deliveries))
    assert push is not None and task is not None  # noqa: S101, PT018

    async def worker() -> None:
        for number in numbers:  # shared: each takes the next one
            identity = _identity("webhook", "site", number % _LANES)
            await push(Push(f"delivery-{number:025}", identity, "message", _said(number), time.time()))

    async with trio.open_nursery() as around:
        around.start_soon(task)
        if contribution.push_ready is not None:
            await contribution.push_ready()
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(_POLICY.concurrency):
                nursery.start_soon(worker)
        seconds = time.perf_counter() - began
        around.cancel_scope.cancel(reason="all is sent")
    return plan.deliveries / seconds


async def _from_outbox(plan: Plan, channel: Any, name: str, user: str) -> float:
    """A runtime that starts with all of them, and sends them, with fsync."""
    with TemporaryDirectory(prefix="afactors-bench-", dir=plan.state_dir) as folder:
        await _fill(folder, plan.deliveries, name, user)
        store = LmdbStore(folder)
        began = time.perf_counter()
        async with Runtime(make_agent(), store=store, channels=[channel]) as runtime:
            while runtime.deliveries.statistics().pending:  # noqa: ASYNC110 - figures are all there is to read
                await trio.sleep(0.01)
            seconds = time.perf_counter() - began
            assert runtime.deliveries.statistics().dead == 0  # noqa: S101
    return plan.deliveries / seconds


async def _fill(folder: str, count: int, channel: str, user: str) -> None:
    """Commit so many deliveries that nobody sends, in turn over the lanes."""
    store = LmdbStore(folder, sync=False)
    contributions = {channel: ChannelContribution(push_policy=_POLICY)}
    async with store.open():
        claim = await store.claim("user")
        for first in range(0, count, _IN_A_COMMIT):
            made = []
            for number in range(first, min(count, first + _IN_A_COMMIT)):
                to = [_identity(channel, user, number % _LANES)]
                made += posted("message", to, _said(number), contributions, at=time.time())
            await store.commit(claim, Commit(deliveries=made))


# -- out of turns


async def _turns(scenario: str, plan: Plan, progress: Progress) -> list[Figure]:
    """Turns with three destinations against turns with none; nothing of it is sent meanwhile."""
    names = ["one", "two", "three"]
    channels = [_Counting(name, trio.sleep_forever) for name in names]
    async with hosted(make_agent(), plan.state_dir, sync=True, channels=channels) as (runtime, _):
        some = partial(converse, conversations=plan.conversations, turns=plan.turns)
        subjects = {
            "three targets": partial(some, _targeted(runtime, names)),
            "no target": partial(some, _plain(runtime)),
        }
        figures = await interleaved(scenario, plan, progress, subjects, pace="turns")
    target = TURN_TARGET.promised_from(TURNS_PROMISED_FOR, plan.conversations)
    told = [judged(figures, metric, "three targets", "no target", target) for metric in ("p50", "CPU/turn")]
    return [*told, *figures]


def _targeted(runtime: Runtime, names: Sequence[str]) -> Turn:
    async def turn(conversation: str) -> str:
        to = [ChannelIdentity(name, conversation, verified=True) for name in names]
        request = request_for(conversation).replace(response_target=ResponseTarget.identities(to))
        answer: AgentResponse[Any] = (await runtime.ask(request)).result
        return answer.text

    return turn


def _plain(runtime: Runtime) -> Turn:
    async def turn(conversation: str) -> str:
        answer: AgentResponse[Any] = (await runtime.ask(request_for(conversation))).result
        return answer.text

    return turn


# -- at the start


async def _started(plan: Plan, waiting: int) -> dict[str, float]:
    arguments = ["--waiting", str(waiting), "--sent", str(min(waiting, plan.deliveries))]
    if plan.state_dir is not None:
        arguments += ["--state-dir", plan.state_dir]
    if plan.cores.server is not None:
        arguments += ["--core", str(plan.cores.server)]
    found: dict[str, float] = json.loads(await run_child("benchmarks.deliveries", arguments, seconds=_CHILD_SECONDS))
    return found


def _start_figures(
    scenario: str, plan: Plan, waiting: int, without: dict[str, float], with_: dict[str, float]
) -> list[Figure]:
    ready, memory = (one.promised_from(PROMISED_FOR, plan.deliveries) for one in (READY_TARGET, MEMORY_TARGET))
    growth = (with_["ready_memory"] - without["ready_memory"]) / _MB
    later = (with_["sent_memory"] - without["sent_memory"]) / _MB
    return [
        Figure(scenario, f"start with {waiting:,} that wait: ready after", with_["ready"], "s", target=ready),
        Figure(scenario, "start with none: ready after", without["ready"], "s"),
        Figure(scenario, f"memory for {waiting:,} that wait, at the start", growth, "MB", target=memory),
        Figure(scenario, f"the same after {plan.deliveries:,} of them", later, "MB", target=memory),
    ]


async def measure(waiting: int, sent: int, state_dir: str | None) -> dict[str, float]:
    """Start a runtime for which so many deliveries wait, and send some of them."""
    with TemporaryDirectory(prefix="afactors-bench-", dir=state_dir) as folder:
        await _warmed_up()
        await _fill(folder, waiting, "taker", "user")
        taker = _Counting()
        began = time.perf_counter()
        async with Runtime(make_agent(), store=LmdbStore(folder), channels=[taker], drain_timeout=0.1) as runtime:
            ready = time.perf_counter() - began
            ready_memory = rss_anon()
            await runtime.ask(request_for("somebody"))
            while taker.taken < sent:  # noqa: ASYNC110 - it counts, and nothing else
                await trio.sleep(0.01)
            return {"ready": ready, "ready_memory": ready_memory, "sent_memory": rss_anon()}


async def _warmed_up() -> None:
    """What whatever is imported, made and committed once takes is not what waiting deliveries take."""
    async with Runtime(make_agent(), store=MemoryStore(), channels=[_Counting()]) as runtime:
        await runtime.ask(request_for("warm-up"))
    with TemporaryDirectory(prefix="afactors-bench-") as folder:
        await _fill(folder, 2 * _IN_A_COMMIT, "taker", "user")


def main() -> None:
    """Start once in this process, and tell in JSON how that went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--sent", type=int, default=10_000)
    parser.add_argument("--state-dir")
    parser.add_argument("--core", type=int)
    given = parser.parse_args()
    pin(given.core)
    print(json.dumps(trio.run(measure, given.waiting, given.sent, given.state_dir)))


if __name__ == "__main__":
    main()
