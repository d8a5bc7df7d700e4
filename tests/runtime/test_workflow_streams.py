"""What was said, and what was remembered, when a workflow is cut off between two supersteps and goes on.

A transcript belongs to an attempt: who follows the old one is told that it is over, and the new one tells the whole
story once, also what was said before the cut. A history in the store is part of a turn's progress: what was remembered
in a superstep that is durable is remembered once, and what was not is remembered by the superstep's repetition.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.lowlevel
from agent_framework import (
    Agent,
    AgentSession,
    Executor,
    Message,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    handler,
    response_handler,
    step,
    workflow,
)

from afactors import Runtime, StoreHistoryProvider
from afactors_channels import ChannelContribution, ChannelRequest, HostError, NotFound, Restarted
from afactors_store import Claim, Commit, Committed
from tests.runtime.flows import (
    CutStore,
    Scripted,
    answering,
    debris,
    hosting,
    request,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*is experimental")  # functional workflows, histories

ATTEMPTS = 20  # is never used up here


class Rows:
    """A transcript that can be read: a row is its number and what it says."""

    def __init__(self, request: ChannelRequest, *, created: float = 0.0, first: int = 0) -> None:
        self.number = first
        self.begun = False

    def row(self, text: str) -> bytes:
        self.number += 1
        return f"{self.number - 1} {text}".encode()

    def accepted(self) -> Sequence[bytes]:
        self.begun = True
        return [self.row("created")]

    def started(self) -> Sequence[bytes]:
        return [self.row("started")] if self.begun else [self.row("created"), self.row("started")]

    def fed(self, updates: Sequence[Any]) -> Sequence[bytes]:
        return [self.row(update.text or "?") for update in updates]

    def completed(self, result: Any, at: float) -> tuple[Sequence[bytes], Any]:
        return [self.row(f"completed: {'|'.join(message.text for message in result.messages)}")], None

    def failed(self, state: str, code: str, message: str) -> tuple[Sequence[bytes], None]:
        return [self.row(f"{state}: {code}")], None


class Written:
    """A channel whose streams are written down."""

    name = "test"

    def contribute(self, _context: Any) -> ChannelContribution:
        return ChannelContribution(transcriber=Rows)


def open_one(make: Any, store: CutStore, **options: Any) -> Any:
    return hosting(make, store, channels=[Written()], max_attempts=ATTEMPTS, **options)


@dataclass
class Reader:
    """Follows a run; `error` is what it was told instead of an end."""

    rows: list[str] = field(default_factory=list)
    ended: bool = False
    error: HostError | None = None
    more: trio.Event = field(default_factory=trio.Event)

    async def run(self, runtime: Runtime, after: int | None = None) -> None:
        try:
            async with runtime.subscribe("t", after=after) as batches:
                async for batch in batches:
                    self.rows += [row.decode() for row in batch]
                    self.more.set()
            self.ended = True
        except HostError as error:
            self.error = error
        self.more.set()

    async def is_told(self) -> None:
        while self.error is None:
            self.more = trio.Event()
            await self.more.wait()

    async def reads(self, text: str) -> None:
        while not any(text in row for row in self.rows):
            self.more = trio.Event()
            await self.more.wait()


async def follow(runtime: Runtime, after: int | None = None) -> Reader:
    reader = Reader()
    await reader.run(runtime, after)
    return reader


def story(rows: Sequence[str]) -> list[str]:
    """What rows say, whose numbers follow each other."""
    numbers = [int(row.partition(" ")[0]) for row in rows]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return [row.partition(" ")[2] for row in rows]


# --- workflows that can be held


@dataclass
class Gates:
    """Where executors wait, for as long as it takes; and which ran."""

    closed: set[str] = field(default_factory=set)
    ran: list[str] = field(default_factory=list)

    def __deepcopy__(self, _memo: object) -> Gates:
        return self

    def free(self) -> None:
        self.closed = set()

    async def passes(self, executor: str) -> None:
        self.ran.append(executor)
        while executor in self.closed:  # noqa: ASYNC110 - another thread opens it
            await asyncio.sleep(0.002)

    async def reached(self, executor: str) -> None:
        while executor not in self.ran:  # noqa: ASYNC110 - it runs in another thread
            await trio.sleep(0.001)


class Speaker(Executor):
    """Says something when it begins, and something when it may go on."""

    def __init__(self, gates: Gates, name: str, following: bool) -> None:
        super().__init__(id=name)
        self.gates = gates
        self.following = following

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"{self.id} begins")
        await self.gates.passes(self.id)
        await ctx.yield_output(f"{self.id} of {text}")
        if self.following:
            await ctx.send_message(f"{text}.{self.id}")


def chain(gates: Gates) -> Workflow:
    a, b, c = (Speaker(gates, name, name != "c") for name in "abc")
    return WorkflowBuilder(start_executor=a, name="chain").add_chain([a, b, c]).build()


SAID = ["a begins", "a of x", "b begins", "b of x.a", "c begins", "c of x.a.b"]
WHOLE = ["created", "started", *SAID, f"completed: {'|'.join(SAID)}"]


@pytest.mark.parametrize("executor", ["a", "b", "c"])
@pytest.mark.parametrize("how", ["crash", "stop"])
async def test_a_resumed_run_tells_the_whole_story_once_and_its_old_numbers_are_over(how: str, executor: str):
    gates, store = Gates(), CutStore()
    gates.closed = {executor}
    async with open_one(lambda: chain(gates), store, drain_timeout=0.05) as runtime:
        await runtime.submit(request("x", name="t", stream=True))
        async with trio.open_nursery() as nursery:
            reader = Reader()
            nursery.start_soon(reader.run, runtime)
            await reader.reads(f"{executor} begins")
            if how == "crash":
                nursery.cancel_scope.cancel()  # nothing of a process is left to tell anybody anything
                store.crash()
            else:
                await runtime.drain()
    seen = len(reader.rows)
    assert story(reader.rows) == WHOLE[:seen]
    assert "completed" not in reader.rows[-1]
    assert reader.error is None, "there is no more for now"
    gates.free()
    gates.ran.clear()
    store.process()
    async with open_one(lambda: chain(gates), store) as runtime:
        for after in range(seen):
            late = await follow(runtime, after)
            assert isinstance(late.error, Restarted), after
            assert late.rows == []
        anew = await follow(runtime)
        first = int(anew.rows[0].partition(" ")[0])
        assert first >= seen, "no number is used twice"
        assert story(anew.rows) == WHOLE
        assert anew.ended
        for number in range(len(anew.rows)):
            assert (await follow(runtime, first + number)).rows == anew.rows[number + 1 :]
        assert gates.ran == ["a", "b", "c"]["abc".index(executor) :]
        assert (await runtime.get_continuation("t")).attempt == 1 + (how == "crash")
        assert await debris(store) == (set(), [])


class Crashing(CutStore):
    """A store at which one turn's last commit makes the actor crash."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = ["a defect"]

    async def commit(self, claim: Claim, commit: Commit) -> Committed:
        if self.failures and commit.consume:
            raise RuntimeError(self.failures.pop())
        return await super().commit(claim, commit)


async def test_who_follows_live_when_the_actor_crashes_is_told_that_it_began_again():
    """Within one process: the reader is there all the time."""
    gates, store, reader = Gates(closed={"c"}), Crashing(), Reader()
    async with open_one(lambda: chain(gates), store, restart_backoff=0.001) as runtime, trio.open_nursery() as nursery:
        await runtime.submit(request("x", name="t", stream=True))
        nursery.start_soon(reader.run, runtime)
        await reader.reads("c begins")
        gates.free()
        run = await runtime.get_continuation("t", wait=True)
        assert (run.state, run.attempt) == ("completed", 2)
        await reader.is_told()
        assert isinstance(reader.error, Restarted)
        assert story(reader.rows) == WHOLE[:-1][: len(reader.rows)]
        assert len(reader.rows) >= WHOLE.index("c begins")
        anew = await follow(runtime)
        assert int(anew.rows[0].split()[0]) >= len(reader.rows)
        assert story(anew.rows) == WHOLE
        late = await follow(runtime, int(reader.rows[-1].split()[0]))
        assert isinstance(late.error, Restarted)
        assert gates.ran == ["a", "b", "c", "c"]


async def test_a_run_that_is_cut_twice_tells_the_story_of_its_last_attempt():
    gates, store, seen = Gates(), CutStore(), 0
    for executor in ("b", "c"):
        gates.closed = {executor}
        async with open_one(lambda: chain(gates), store, drain_timeout=0.05) as runtime:
            if executor == "b":
                await runtime.submit(request("x", name="t", stream=True))
            async with trio.open_nursery() as nursery:
                reader = Reader()
                nursery.start_soon(reader.run, runtime)
                await reader.reads(f"{executor} begins")
                nursery.cancel_scope.cancel()
                store.crash()
        numbers = [int(row.split()[0]) for row in reader.rows]
        assert numbers[0] >= seen
        seen = numbers[-1] + 1
        told = [row for row in story(reader.rows) if row in SAID]
        assert told == SAID[: SAID.index(f"{executor} begins") + 1]
        store.process()
    gates.free()
    async with open_one(lambda: chain(gates), store) as runtime:
        anew = await follow(runtime)
        assert int(anew.rows[0].split()[0]) >= seen
        assert [row for row in story(anew.rows) if row in SAID] == SAID
        assert anew.ended


# --- cut at any commit


class Asker(Executor):
    def __init__(self) -> None:
        super().__init__(id="asker")

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"asked for {text}")
        await ctx.request_info("Shall I?", str)

    @response_handler
    async def told(self, _question: str, answer: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"told {answer}")
        await ctx.send_message(answer)


def asking() -> Workflow:
    asker, gates = Asker(), Gates()
    b, c = Speaker(gates, "b", True), Speaker(gates, "c", False)
    return WorkflowBuilder(start_executor=asker, name="asking").add_chain([asker, b, c]).build()


def functional() -> Any:
    @step
    async def one(text: str) -> str:
        return f"one of {text}"

    @step
    async def two(text: str) -> str:
        return f"two of {text}"

    @workflow
    async def both(text: str) -> str:
        return await two(await one(text))

    return both


@asynccontextmanager
async def process(make: Any, store: CutStore, **options: Any) -> AsyncIterator[Runtime]:
    """A process; it ends when it is cut."""
    loop = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as alive:
        store.on_cut = lambda: loop.run_sync_soon(alive.cancel)
        async with open_one(make, store, **options) as runtime:
            yield runtime


async def one_turn(make: Any, cut: tuple[int, bool] | None, *, answer: bool) -> tuple[bool, list[str], list[Reader]]:
    """A turn that is cut at a commit, and what its followers were told, before and after; whether it was cut."""
    store = CutStore()
    if answer:
        async with open_one(make, store) as runtime:
            await runtime.ask(request("it", stream=True))
    readers: list[Reader] = []
    for one in [cut, None]:
        store.process(one)
        async with process(make, store) as runtime:
            if not await is_known(runtime, "t"):
                session = await runtime.get_session(request("")) if answer else None
                said = answering({session.questions[0].question_id: "yes"}) if session is not None else request("x")
                await runtime.submit(said.replace(name="t", stream=True))
            readers.append(Reader())
            await readers[-1].run(runtime)
            if store.alive:
                assert await debris(store) == (set(), [])
                return one is None and cut is not None, story(readers[-1].rows), readers
    raise AssertionError("it did not end")


async def is_known(runtime: Runtime, name: str) -> bool:
    try:
        await runtime.get_continuation(name)
    except NotFound:
        return False
    return True


@pytest.mark.parametrize("make", [lambda: chain(Gates()), asking, functional], ids=["chain", "asking", "functional"])
@pytest.mark.parametrize("after", [False, True])
async def test_wherever_a_run_is_cut_its_story_is_told_once(make: Any, after: bool):
    _, whole, _ = await one_turn(make, None, answer=make is asking)
    assert whole[:2] == ["created", "started"]
    assert whole[-1].startswith("completed: ")
    for place in itertools.count():
        cut, told, readers = await one_turn(make, (place, after), answer=make is asking)
        assert told == whole, place
        if not cut:
            break
        before, anew = ([int(row.split()[0]) for row in reader.rows] for reader in (readers[0], readers[-1]))
        if before and anew[0] != 0:
            assert anew[0] > before[-1], place
        elif before:  # it only waited, or had ended: the same attempt
            assert readers[0].rows == readers[-1].rows[: len(before)], place
    assert place > 2


# --- what agents inside of it remember


def counting(messages: Sequence[Message]) -> str:
    """Says how many messages it was shown, and the last of them."""
    return f"{len(messages)}: {messages[-1].text}"


class Diarist(Executor):
    """Has an agent of its own, with a history in the store, and runs it once in each superstep."""

    def __init__(self, world: Diaries, name: str, following: str | None) -> None:
        super().__init__(id=name)
        self.world = world
        self.following = following

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(await self.world.remembers(self.id, text))
        await self.world.gates.passes(self.id)
        if self.following is not None:
            await ctx.send_message(f"{text}.{self.id}")


@dataclass
class Diaries:
    """A workflow whose executors write into one history in the store; and what their model saw of it.

    Attributes:
        shared: Whether they do so in one session of that history, or in one each.
    """

    shared: bool = True
    gates: Gates = field(default_factory=Gates)
    seen: dict[str, list[list[str]]] = field(default_factory=dict)

    def __deepcopy__(self, _memo: object) -> Diaries:
        return self

    def make(self) -> Workflow:
        a, b, c = (Diarist(self, name, None if name == "c" else "on") for name in "abc")
        return WorkflowBuilder(start_executor=a, name="diaries").add_chain([a, b, c]).build()

    async def remembers(self, name: str, text: str) -> str:
        model = Scripted(counting)
        agent = Agent(model, name=name, context_providers=[StoreHistoryProvider()])
        session = AgentSession(session_id="diary" if self.shared else f"diary of {name}")
        said = await agent.run(f"{name} {text}", session=session)
        self.seen.setdefault(name, []).append(model.seen[-1])
        return str(said.text)


async def said_of(runtime: Runtime, asked: Any, name: str = "t") -> list[str]:
    """What a turn says, by its name; it is asked for only if nobody did."""
    if not await is_known(runtime, name):
        await runtime.submit(asked.replace(name=name))
    run = await runtime.get_continuation(name, wait=True)
    assert run.result is not None, run.error
    return [message.text for message in run.result.messages]


async def two_turns(make: Any, cut: tuple[int, bool] | None, *, stream: bool) -> tuple[bool, list[list[str]]]:
    """Two turns, of which one is cut at a commit, and what they said; whether it was cut."""
    store = CutStore()
    async with open_one(make, store) as runtime:
        await runtime.ask(request("zero"))
    for one in [cut, None]:
        store.process(one)
        async with process(make, store) as runtime:
            said = [await said_of(runtime, request(text, stream=stream), text) for text in ("x", "y")]
            if store.alive:
                assert await debris(store) == (set(), [])
                return one is None and cut is not None, said
    raise AssertionError("it did not end")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("after", [False, True])
async def test_what_a_durable_superstep_remembered_is_remembered_once(stream: bool, shared: bool, after: bool):
    """Cut at each commit in turn; what is remembered in the end is what an uninterrupted run remembers."""
    world = Diaries(shared)
    _, whole = await two_turns(world.make, None, stream=stream)
    assert whole[0] == (["7: a x", "9: b x.a", "11: c x.a.b"] if shared else ["3: a x", "3: b x.a", "3: c x.a.b"])
    remembered = {name: seen[-1] for name, seen in world.seen.items()}
    for place in itertools.count():
        world = Diaries(shared)
        cut, found = await two_turns(world.make, (place, after), stream=stream)
        assert found == whole, place
        if not cut:
            break
        if "c" in world.seen:
            assert world.seen["c"][-1] == remembered["c"], place
    assert place > 6


@pytest.mark.parametrize("how", ["crash", "stop", "actor"])
@pytest.mark.parametrize("executor", ["a", "b", "c"])
async def test_what_a_superstep_remembered_that_was_cut_off_is_remembered_by_its_repetition(how: str, executor: str):
    """The executor had its answer, which was remembered, when it was cut off."""
    store, world = Crashing() if how == "actor" else CutStore(), Diaries()
    world.gates.closed = set() if how == "actor" else {executor}
    told: list[str] = []
    async with open_one(world.make, store, drain_timeout=0.05, restart_backoff=0.001) as runtime:
        if how != "actor":
            await runtime.submit(request("x", name="t", stream=True))
            await world.gates.reached(executor)
            if how == "crash":
                store.crash()
            else:
                await runtime.drain()
        else:
            told = await said_of(runtime, request("x", stream=True))
            world.seen.clear()
            last = (await runtime.ask(request("y"))).result.get_outputs()
    if how != "actor":
        world.gates.free()
        store.process()
        async with open_one(world.make, store) as runtime:
            told = await said_of(runtime, request("x"))
            world.seen.clear()
            last = (await runtime.ask(request("y"))).result.get_outputs()
            assert await debris(store) == (set(), [])
    assert told == ["1: a x", "3: b x.a", "5: c x.a.b"]
    assert last == ["7: a y", "9: b y.a", "11: c y.a.b"]
    own = ["a x", "1: a x", "b x.a", "3: b x.a", "c x.a.b", "5: c x.a.b"]
    assert world.seen["a"] == [[*own, "a y"]]


def fan(world: Diaries) -> Workflow:
    """Two at once, behind one and before another."""
    first, last = Diarist(world, "a", "on"), Diarist(world, "d", None)
    both = [Diarist(world, name, "on") for name in "bc"]
    builder = WorkflowBuilder(start_executor=first, name="fan").add_fan_out_edges(first, both)
    return builder.add_edge(both[0], last).build()


def steps(world: Diaries) -> Any:
    """Three steps of a functional workflow."""

    @step(replay_key=lambda text: text)
    async def one(text: str) -> str:
        return await world.remembers("a", text)

    @step(replay_key=lambda text: text)
    async def two(text: str) -> str:
        return await world.remembers("b", text)

    @workflow
    async def diary(text: str) -> str:
        await one(text)
        await two(text)
        return await one(f"{text} again")

    return diary


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (fan, [["3: a x", "3: b x.a", "3: c x.a", "3: d x.a.b"], ["5: a y", "5: b y.a", "5: c y.a", "5: d y.a.b"]]),
        (steps, [["11: a x again"], ["17: a y again"]]),
    ],
)
async def test_wherever_it_is_cut_each_is_remembered_once(make: Any, told: list[list[str]]):
    shared = make is steps
    for place in itertools.count():
        for after in (False, True):
            world = Diaries(shared)
            cut, found = await two_turns(lambda world=world: make(world), (place, after), stream=bool(place % 2))
            assert [sorted(said, key=lambda text: text[3:]) for said in found] == told, (place, after)
        if not cut:
            break
    assert place > 6


async def test_of_two_at_once_none_is_remembered_before_both_are_done():
    """One of them had its answer when the other was cut off: both run again."""
    store, world = CutStore(), Diaries(shared=False)
    world.gates.closed = {"c"}
    async with open_one(lambda: fan(world), store, drain_timeout=0.01) as runtime:
        await runtime.submit(request("x", name="t"))
        await world.gates.reached("b")
        await world.gates.reached("c")
        store.crash()
    store.process()
    world.gates.free()
    async with open_one(lambda: fan(world), store) as runtime:
        assert sorted(await said_of(runtime, request("x"))) == ["1: a x", "1: b x.a", "1: c x.a", "1: d x.a.b"]
        assert sorted(await said_of(runtime, request("y"), "y")) == ["3: a y", "3: b y.a", "3: c y.a", "3: d y.a.b"]
    assert world.gates.ran.count("b") == 3


@pytest.mark.parametrize("how", ["cancel", "timeout"])
async def test_what_a_turn_remembered_is_forgotten_with_it(how: str):
    """Also what its durable supersteps remembered, and also after it went on elsewhere."""
    store, world = CutStore(), Diaries()
    for executor in ("b", "c"):
        world.gates.closed = {executor}
        limits = {"turn_timeout": 0.3} if how == "timeout" and executor == "c" else {}
        async with open_one(world.make, store, drain_timeout=0.01, **limits) as runtime:
            if executor == "b":
                await runtime.submit(request("x", name="t"))
            else:
                world.gates.ran.clear()
                await runtime.get_continuation("t")
            await world.gates.reached(executor)
            if executor == "b":
                store.crash()
            elif how == "cancel":
                assert (await runtime.cancel("t")).state == "cancelled"
            else:
                assert (await runtime.get_continuation("t", wait=True)).state == "failed"
            if executor == "c":
                assert await debris(store) == (set(), [])
        store.process()
    world.gates.free()
    async with open_one(world.make, store) as runtime:
        assert (await runtime.ask(request("y"))).result.get_outputs() == ["1: a y", "3: b y.a", "5: c y.a.b"]


async def test_agents_that_are_executors_remember_once():
    """The framework's own executors for agents, whose sessions have ids that each instance makes up."""
    models: dict[str, Scripted] = {}

    def make() -> Workflow:
        for name in ("one", "two", "three"):
            models[name] = Scripted(counting)
        agents = [
            Agent(models[name], name=name, id=name, context_providers=[StoreHistoryProvider()]) for name in models
        ]
        return WorkflowBuilder(start_executor=agents[0], name="agents").add_chain(agents).build()

    _, whole = await two_turns(make, None, stream=False)
    assert models["one"].seen[-1][::2] == ["zero", "x", "y"]
    for place in itertools.count():
        cut, found = await two_turns(make, (place, bool(place % 2)), stream=bool(place % 3))
        assert found == whole, place
        if not cut:
            break
    assert place > 6
