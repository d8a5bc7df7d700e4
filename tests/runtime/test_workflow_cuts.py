"""Workflows cut off anywhere: the outcome is that of an uninterrupted run, and what was durable does not run again.

A process is cut at one of its commits, just before it becomes durable or just after, or in the middle of an executor.
What it does after that is lost, and what its clients are told after that they do not hear. A client asks again: for
the run, if there is one by its name, and otherwise it sends its message once more.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing
from agent_framework import (
    Agent,
    Content,
    Executor,
    Message,
    RunContext,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowEvent,
    WorkflowExecutor,
    handler,
    response_handler,
    step,
    tool,
    workflow,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from afactors import Runtime
from afactors_channels import HostError, NotFound
from afactors_store import Claim, Commit, Committed
from tests.runtime.flows import (
    PATIENCE,
    CutStore,
    Scripted,
    answering,
    approving,
    debris,
    documents_of,
    hosting,
    maybe,
    refused,
    request,
    state_of_session,
    told,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*is experimental")  # functional workflows

ATTEMPTS = 20  # is never used up here

Ran = tuple[str, str]
"""An executor's id and what it was given: no two of its runs in one conversation have the same."""


@dataclass
class World:
    """One process after the other over one store."""

    store: CutStore = field(default_factory=CutStore)
    ran: list[list[tuple[Ran, int]]] = field(default_factory=list)
    """For each process: what its executors did, and how many commits were durable by then."""
    durable: list[int] = field(default_factory=list)
    """For each process: how many of its commits were durable at its end."""
    cuts: int = 0
    cut_at_run: int | None = None
    """The process is cut when so many executors have run."""

    def __deepcopy__(self, _memo: object) -> World:
        return self

    def begin(self, cut: tuple[int, bool] | None = None, cut_at_run: int | None = None) -> None:
        self.cuts += not self.store.alive
        self.store.process(cut)
        self.cut_at_run = cut_at_run
        self.ran.append([])

    def end(self) -> None:
        self.durable.append(self.store.durable)

    def runs(self, executor: str, given: str) -> None:
        """An executor runs."""
        if not self.store.alive:
            raise RuntimeError("there is no process any more")
        self.ran[-1].append(((executor, given), self.store.durable))
        if len(self.ran[-1]) == self.cut_at_run:
            self.store.crash()
            raise RuntimeError("cut off")

    def repeated(self) -> list[Ran]:
        """What ran again although it was durable: a commit came after it."""
        again: list[Ran] = []
        for process, (runs, durable) in enumerate(zip(self.ran, self.durable, strict=True)):
            kept = {ran for ran, at in runs if at < durable}
            again += [ran for later in self.ran[process + 1 :] for ran, _ in later if ran in kept]
        return again


class Piece(Executor):
    """Something that runs in a world, and remembers across checkpoints what it was given."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(id=name)
        self.world = world
        self.had: list[str] = []

    def begin(self, given: str) -> None:
        self.world.runs(self.id, given)
        self.had.append(given)

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"had": list(self.had)}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.had = list(state["had"])


class Step(Piece):
    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.begin(text)
        ctx.set_state(self.id, [*(ctx.get_state(self.id) or []), text])
        ctx.set_state("all", (ctx.get_state("all") or 0) + 1)
        await ctx.yield_output(f"{self.id}:{len(self.had)}:{text}")
        await ctx.send_message(f"{text}.{self.id}")


class Silent(Piece):
    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.begin(text)
        await ctx.send_message(f"{text}.{self.id}")


class Loop(Piece):
    """Sends to itself a few times, then on."""

    def __init__(self, world: World, name: str, rounds: int, following: str) -> None:
        super().__init__(world, name)
        self.rounds = rounds
        self.following = following

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.begin(text)
        await ctx.yield_output(f"{self.id} goes round with {text}")
        turns = text.rpartition(".")[2].count("~")
        goes_on = turns < self.rounds
        await ctx.send_message(
            text + ("~" if turns else ".~") if goes_on else f"{text}.{self.id}",
            target_id=self.id if goes_on else self.following,
        )


class Join(Piece):
    @handler
    async def take(self, texts: list[str], ctx: WorkflowContext[str, str]) -> None:
        joined = "+".join(sorted(one.rpartition(".")[2] for one in texts))
        self.begin(f"{texts[0].rpartition('.')[0]}.({joined})")
        await ctx.send_message(self.had[-1])


class Ask(Piece):
    """Asks one question, or two at once, and goes on when all are answered."""

    def __init__(self, world: World, name: str, questions: int, *, named: bool = False) -> None:
        super().__init__(world, name)
        self.questions = questions
        self.named = named
        self.answers: dict[str, str] = {}
        self.about = ""

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.begin(text)
        self.about, self.answers = text, {}
        await ctx.yield_output(f"{self.id} asks about {text}")
        for number in range(self.questions):
            name = f"q-{self.id}-{number}" if self.named else None
            await ctx.request_info(f"{number} of {text}", str, request_id=name)

    @response_handler
    async def answered(self, question: str, answer: str, ctx: WorkflowContext[str, str]) -> None:
        self.begin(f"{question}={answer}")
        self.answers[question.partition(" ")[0]] = answer
        await ctx.yield_output(f"{self.id} heard {answer}")
        if len(self.answers) == self.questions:
            heard = ",".join(self.answers[name] for name in sorted(self.answers))
            await ctx.send_message(f"{self.about}.({heard})")

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"had": list(self.had), "answers": dict(self.answers), "about": self.about}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.had, self.answers, self.about = list(state["had"]), dict(state["answers"]), state["about"]


class Finish(Piece):
    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.begin(text)
        await ctx.yield_output(f"the end of {text} ({ctx.get_state('all')} steps)")


Stage = tuple[str, int]
STAGES = [("step", 1), ("silent", 1), ("loop", 1), ("loop", 3), ("fan", 2), ("fan", 3)]
STAGES += [
    ("ask", 1),
    ("ask", 2),
    ("named", 1),
    ("named", 2),
    ("sub", 1),
    ("sub", 2),
    ("subask", 1),
    ("fanask", 1),
    ("fanask", 2),
]


def build(world: World, stages: Sequence[Stage]) -> Workflow:
    """A workflow of these stages, one after the other, and a last one."""
    made: list[tuple[Executor, Executor, Any]] = []
    names = [f"{kind}{number}" for number, (kind, _) in enumerate(stages)] + ["end"]
    for name, following, (kind, size) in zip(names, names[1:], stages, strict=False):
        made.append(_stage(world, name, following, kind, size))
    end = Finish(world, "end")
    builder = WorkflowBuilder(start_executor=made[0][0] if made else end, name="flow")
    for (_, last, inside), first in zip(made, [*(first for first, _, _ in made[1:]), end], strict=True):
        if inside is not None:
            inside(builder)
        builder.add_edge(last, first)
    return builder.build()


def _stage(world: World, name: str, following: str, kind: str, size: int) -> tuple[Executor, Executor, Any]:
    one: Executor
    if kind == "step":
        one = Step(world, name)
    elif kind == "silent":
        one = Silent(world, name)
    elif kind == "loop":
        one = Loop(world, name, size, following)
        return one, one, lambda builder: builder.add_edge(one, one)
    elif kind in ("ask", "named"):
        one = Ask(world, name, size, named=kind == "named")
    elif kind in ("sub", "subask"):
        inner = build_inner(world, name, kind, size)
        one = WorkflowExecutor(inner, id=name, propagate_request=True)
    else:
        first, last = Silent(world, name), Join(world, f"{name}j")
        workers: list[Executor] = [Step(world, f"{name}w{number}") for number in range(size)]
        if kind == "fanask":
            workers += [Ask(world, f"{name}q", size), Silent(world, f"{name}x")]
        inside = lambda builder: builder.add_fan_out_edges(first, workers).add_fan_in_edges(workers, last)  # noqa: E731
        return first, last, inside
    return one, one, None


def build_inner(world: World, name: str, kind: str, size: int) -> Workflow:
    parts: list[Executor] = [Silent(world, f"{name}-{number}") for number in range(size)]
    if kind == "subask":
        parts.append(Ask(world, f"{name}-ask", 1))
    last = Last(world, f"{name}-last")
    builder = WorkflowBuilder(start_executor=parts[0], name=f"inner-{name}")
    for one, other in zip(parts, [*parts[1:], last], strict=True):
        builder.add_edge(one, other)
    return builder.build()


class Last(Piece):
    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.begin(text)
        await ctx.yield_output(f"{text}.{self.id}")


# --- a client that goes on until its conversation is over


@dataclass
class Client:
    """Says two things to one workflow, and answers whatever it asks.

    Attributes:
        said: What it was told, turn by turn.
        together: Whether it answers all questions at once.
    """

    world: World
    stream: bool
    together: bool
    background: bool
    texts: Sequence[str]
    said: list[Any] = field(default_factory=list)
    turns: int = 0
    waiting: list[str] = field(default_factory=list)
    asked: int = 0

    @property
    def done(self) -> bool:
        return not self.texts and not self.waiting

    async def go_on(self, runtime: Runtime) -> None:
        """Until the end, or until the process is gone."""
        while not self.done:
            name = f"turn-{self.turns}"
            asked = self.request().replace(name=name, stream=self.stream)
            run = await self.run_of(runtime, name, asked)
            if not self.world.store.alive:
                return
            assert run.state == "completed", run.error
            assert run.result is not None
            self.said.append(told([message.to_dict() for message in run.result.messages]))
            self.turns += 1
            if self.waiting:
                del self.waiting[: None if self.together else 1]
                self.asked += 1
            else:
                self.texts = self.texts[1:]
            session = await runtime.get_session(request("", "s"))
            self.waiting = [question.question_id for question in session.questions]

    def request(self) -> Any:
        if self.waiting:
            now = self.waiting if self.together else self.waiting[:1]
            return answering({name: f"a{self.asked}{number}" for number, name in enumerate(now)})
        return request(self.texts[0])

    async def run_of(self, runtime: Runtime, name: str, asked: Any) -> Any:
        try:
            return await runtime.get_continuation(name, wait=True)
        except NotFound:
            pass
        if self.background:
            await runtime.submit(asked)
        elif self.stream:
            async with runtime.stream(asked) as turn:
                async for _ in turn:
                    pass
        else:
            await runtime.ask(asked)
        return await runtime.get_continuation(name, wait=True)


@asynccontextmanager
async def process(world: World, stages: Sequence[Stage], **options: Any) -> AsyncIterator[Runtime]:
    """A process; it ends when it is cut."""
    options = {"max_attempts": ATTEMPTS, **options}
    async with cut_off(world), hosting(lambda: build(world, stages), world.store, **options) as runtime:
        yield runtime


@asynccontextmanager
async def cut_off(world: World) -> AsyncIterator[None]:
    """A process that ends when it is cut."""
    loop = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as alive:
        world.store.on_cut = lambda: loop.run_sync_soon(alive.cancel)
        yield
    world.end()


Cut = tuple[str, int, bool]
"""At which commit ("commit", and whether it still became durable), or when so many executors have begun ("run")."""


async def conversation(
    stages: Sequence[Stage],
    cuts: Sequence[Cut] = (),
    *,
    stream: bool = False,
    together: bool = True,
    background: bool = True,
    texts: Sequence[str] = ("one", "two"),
    **options: Any,
) -> tuple[World, dict[str, Any]]:
    """A whole conversation, whose first processes are cut; and what came of it."""
    world = World()
    client = Client(world, stream, together, background, texts)
    for cut in [*cuts, None]:
        kind, number, after = cut or ("", 0, False)
        world.begin((number, after) if kind == "commit" else None, number + 1 if kind == "run" else None)
        async with process(world, stages, **options) as runtime:
            try:
                await client.go_on(runtime)
            except HostError:
                if world.store.alive:
                    raise
    assert client.done
    return world, await outcome(world, client)


async def outcome(world: World, client: Client) -> dict[str, Any]:
    """Everything that is to be the same, whatever happened."""
    world.begin()
    async with process(world, [("step", 1)]) as runtime:
        store = world.store
        session = await runtime.get_session(request("", "s"))
        documents = await documents_of(store)
        runs = [await runtime.get_continuation(f"turn-{number}") for number in range(client.turns)]
        assert await debris(store) == (set(), []), "something was left behind"
        assert (await store.claim("ada")).letters == 0
        return {
            "said": client.said,
            "history": told(session.messages),
            "checkpoint": await state_of_session(store),
            "documents": sorted(name.partition("/")[0] for name in documents),
            "runs": [run.state for run in runs],
        }


# --- each place of two workflows that have everything

PLAIN: Sequence[Stage] = [("step", 1), ("loop", 2), ("ask", 2), ("fan", 2)]
NESTED: Sequence[Stage] = [("named", 1), ("sub", 2), ("subask", 1), ("silent", 1)]


@pytest.mark.parametrize(
    ("kind", "stream"),
    [("before a commit", False), ("after a commit", False), ("after a commit", True), ("in an executor", True)],
)
@pytest.mark.parametrize("stages", [PLAIN, NESTED], ids=["plain", "nested"])
async def test_a_workflow_that_is_cut_anywhere_ends_as_if_it_was_not(stages: Sequence[Stage], kind: str, stream: bool):
    how: dict[str, Any] = {"stream": stream, "texts": ["one"], "together": not stream, "background": not stream}
    _, whole = await conversation(stages, **how)
    place = 0
    while True:
        cut = ("run" if kind == "in an executor" else "commit", place, kind == "after a commit")
        world, found = await conversation(stages, [cut], **how)
        assert found == whole, cut
        assert world.repeated() == [], cut
        if not world.cuts:
            break
        place += 1
    assert place > 9, "there were not that many places"


# --- any workflow


cuts = st.lists(
    st.tuples(st.sampled_from(["commit", "commit", "run"]), st.integers(0, 25), st.booleans()), min_size=1, max_size=3
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    stages=st.lists(st.sampled_from(STAGES), min_size=1, max_size=4),
    cuts=cuts,
    stream=st.booleans(),
    together=st.booleans(),
    background=st.booleans(),
    keep=st.sampled_from([1, 2, 5]),
)
@example([("loop", 3)], [("commit", 3, True), ("commit", 3, True)], False, True, True, 1)
@example([("fanask", 2)], [("commit", 4, True), ("commit", 5, False), ("run", 1, False)], False, False, True, 2)
@example([("ask", 2)], [("commit", 6, False), ("run", 2, False)], True, False, False, 1)
def test_any_workflow_that_is_cut_ends_as_if_it_was_not(
    stages: list[Stage], cuts: list[Cut], stream: bool, together: bool, background: bool, keep: int
):
    how: dict[str, Any] = {"stream": stream, "together": together, "background": background, "max_checkpoints": keep}

    async def main() -> None:
        _, whole = await conversation(stages, **how)
        world, found = await conversation(stages, cuts, **how)
        assert found == whole
        assert world.repeated() == []

    trio.run(main)


# --- functional workflows

FUNCTIONS: list[World] = []
"""The world of the functional workflow below; its steps are plain functions."""


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", ".*is experimental")

    @step
    async def first(text: str) -> str:
        FUNCTIONS[-1].runs("first", text)
        return f"{text}.first"

    @step
    async def second(text: str) -> str:
        FUNCTIONS[-1].runs("second", text)
        return f"{text}.second"

    @workflow
    async def functional(text: str, ctx: RunContext) -> str:
        text = await first(text)
        await ctx.add_event(WorkflowEvent("data", executor_id="functional", data=f"half of {text}"))
        text = await second(text)
        if "ask" in text:
            text += await ctx.request_info(f"what of {text}?", str)
            text = await first(text)
        return text


async def talk(cut: Cut | None, *, stream: bool) -> tuple[World, Any]:
    """One turn of the functional workflow, and what came of it."""
    world = World()
    FUNCTIONS.append(world)
    client = Client(world, stream, True, True, ["ask"])
    for one in [cut, None]:
        kind, number, after = one or ("", 0, False)
        world.begin((number, after) if kind == "commit" else None, number + 1 if kind == "run" else None)
        async with cut_off(world), hosting(functional, world.store, max_attempts=ATTEMPTS) as runtime:
            await client.go_on(runtime)
            history = told((await runtime.get_session(request("", "s"))).messages)
            assert await debris(world.store) == (set(), [])
    assert client.done
    return world, (client.said, history)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_functional_workflow_that_is_cut_anywhere_ends_as_if_it_was_not(stream: bool):
    _, whole = await talk(None, stream=stream)
    assert whole[0][1] == [["half of ask.first"], ["ask.first.seconda00.first"]]
    wrong = []
    for kind in ("commit", "run"):
        for place in range(12):
            for after in (False, True) if kind == "commit" else (False,):
                world, found = await talk((kind, place, after), stream=stream)
                if found != whole or world.repeated():
                    wrong.append(((kind, place, after), found[0], world.repeated()))
    assert wrong == []


# --- what else can come in the middle


def held(world: World, gates: dict[str, Any], ran: list[str]) -> Workflow:
    """Three executors; where there is a gate, the executor waits there, for as long as it takes."""

    class Gate(Executor):
        @handler
        async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            ran.append(self.id)
            if self.id in gates:
                gates[self.id].set()
                await asyncio.sleep(PATIENCE)
            ctx.set_state("seen", [*(ctx.get_state("seen") or []), self.id])
            await ctx.yield_output(f"{self.id} of {text}: {len(ctx.get_state('seen'))}")
            if self.id != "c":
                await ctx.send_message(text)

    a, b, c = Gate("a"), Gate("b"), Gate("c")
    return WorkflowBuilder(start_executor=a, name="held").add_edge(a, b).add_edge(b, c).build()


@dataclass
class Held:
    """A workflow whose executors can be held."""

    world: World = field(default_factory=World)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    def make(self) -> Workflow:
        return held(self.world, self.gates, self.ran)

    def hold(self, executor: str) -> None:
        self.gates[executor] = threading.Event()

    async def reached(self, executor: str) -> None:
        assert await trio.to_thread.run_sync(self.gates[executor].wait, PATIENCE, abandon_on_cancel=True)

    def free(self) -> None:
        self.gates.clear()
        self.ran.clear()


async def answer(runtime: Runtime, name: str) -> list[Any]:
    run = await runtime.get_continuation(name, wait=True)
    assert run.result is not None, run.error
    return told([message.to_dict() for message in run.result.messages])


WHOLE = [["a of x: 1"], ["b of x: 2"], ["c of x: 3"]]


@pytest.mark.parametrize("foreground", [False, True])
async def test_a_clean_stop_in_the_middle_puts_the_turn_back_and_the_next_process_goes_on(foreground: bool):
    one = Held()
    one.hold("c")
    told_to: list[Any] = []
    async with hosting(one.make, one.world.store, drain_timeout=0.05) as runtime, trio.open_nursery() as nursery:

        async def ask() -> None:
            told_to.append(await refused(runtime.ask(request("x", name="t"))))

        if foreground:
            nursery.start_soon(ask)
        else:
            await runtime.submit(request("x", name="t"))
        await one.reached("c")
        await runtime.drain()
    assert [code for _, code in told_to] == (["run_goes_on"] if foreground else [])
    assert one.ran == ["a", "b", "c"]
    one.free()
    async with hosting(one.make, one.world.store) as runtime:
        assert await answer(runtime, "t") == WHOLE
        assert (await runtime.get_continuation("t")).attempt == 1, "a clean stop uses up none"
        assert one.ran == ["c"]
        assert await debris(one.world.store) == (set(), [])


async def test_an_actor_that_crashes_goes_on_from_the_last_superstep():
    one = Held()
    failures = ["a defect"]

    class Crashing(CutStore):
        async def commit(self, claim: Claim, commit: Commit) -> Committed:
            if failures and commit.consume:
                raise RuntimeError(failures.pop())
            return await super().commit(claim, commit)

    store = Crashing()
    async with hosting(one.make, store, restart_backoff=0.001) as runtime:
        await runtime.submit(request("x", name="t"))
        assert await answer(runtime, "t") == WHOLE
        assert (await runtime.get_continuation("t")).attempt == 2
        assert one.ran == ["a", "b", "c", "c"]
        assert await debris(store) == (set(), [])


async def test_a_workflow_that_is_cut_off_too_often_fails_and_its_session_is_as_it_was():
    one = Held()
    store = one.world.store
    async with hosting(one.make, store) as runtime:
        await runtime.ask(request("before"))
    before = await _documents(store)
    one.hold("b")
    for attempt in range(3):
        one.gates["b"].clear()
        async with hosting(one.make, store, drain_timeout=0.01) as runtime:
            if not attempt:
                await runtime.submit(request("x", name="t"))
            await one.reached("b")
            store.crash()
        store.process()
    assert one.ran == ["a", "b", "c", "a", "b", "b", "b"]
    one.free()
    async with hosting(one.make, store) as runtime:
        run = await runtime.get_continuation("t", wait=True)
        assert run.error is not None
        assert (run.state, run.error[0]) == ("failed", "attempts_exhausted")
        assert one.ran == []
        assert await debris(store) == (set(), [])
        assert await documents_of(store) == before
        said = await runtime.ask(request("after"))
        assert said.result.get_outputs() == ["a of after: 4", "b of after: 5", "c of after: 6"]


async def _documents(store: CutStore) -> dict[str, bytes]:
    async with hosting(Held().make, store):
        return await documents_of(store)


@pytest.mark.parametrize("how", ["cancel", "timeout", "disconnect", "interrupt"])
async def test_a_turn_that_ends_in_the_middle_leaves_nothing_and_the_next_begins_where_the_last_one_ended(how: str):
    one = Held()
    store = one.world.store
    limits = {"turn_timeout": 0.3} if how == "timeout" else {}
    async with hosting(one.make, store) as runtime:
        await runtime.ask(request("before"))
    one.hold("b")
    async with hosting(one.make, store, **limits) as runtime, trio.open_nursery() as nursery:
        caller = trio.CancelScope()

        async def ask() -> None:
            with caller:
                assert (await refused(runtime.ask(request("x", name="t"))))[1] in (
                    {"cancel": "cancelled", "interrupt": "interrupted"}.get(how, how),
                )

        nursery.start_soon(ask)
        await one.reached("b")
        one.free()
        if how == "cancel":
            await runtime.cancel("t")
        elif how == "disconnect":
            caller.cancel()
            await trio.testing.wait_all_tasks_blocked()  # or who waits for the run holds it
        elif how == "interrupt":
            said = await runtime.ask(request("after", overlap="interrupt"))
        run = await runtime.get_continuation("t", wait=True)
        assert run.state == ("failed" if how == "timeout" else "cancelled")
        if how != "interrupt":
            said = await runtime.ask(request("after"))
        assert said.result.get_outputs() == ["a of after: 4", "b of after: 5", "c of after: 6"]
        assert await debris(store) == (set(), [])


async def test_a_turn_that_was_resumed_can_be_cancelled_and_leaves_nothing():
    one = Held()
    store = one.world.store
    for executor in ("b", "c"):
        one.free()
        one.hold(executor)
        async with hosting(one.make, store, drain_timeout=0.01) as runtime:
            if executor == "b":
                await runtime.submit(request("x", name="t"))
            await one.reached(executor)
            if executor == "b":
                store.crash()
            else:
                assert (await runtime.cancel("t")).state == "cancelled"
                assert await debris(store) == (set(), [])
        store.process()
    assert one.ran == ["b", "c"]


async def test_a_question_that_expires_before_its_answer_goes_on_after_a_crash_was_answered_in_time(monkeypatch: Any):
    """The answer was accepted, durably, while it could be given."""
    world = World()
    store = world.store
    async with hosting(lambda: build(world, [("ask", 1)]), store, question_timeout=100.0) as runtime:
        world.begin()
        await runtime.ask(request("x"))
        (question,) = (await runtime.get_session(request(""))).questions
        store.cut = (store.begun + 1, True)
        with trio.move_on_after(5) as alive:
            store.on_cut = alive.cancel
            await runtime.ask(answering({question.question_id: "yes"}, name="t"))
    now = time.time()
    store.process()
    monkeypatch.setattr(time, "time", lambda: now + 101)
    async with hosting(lambda: build(world, [("ask", 1)]), store, question_timeout=100.0) as runtime:
        assert (await answer(runtime, "t"))[-1] == ["the end of x.(yes) (None steps)"]


@pytest.mark.parametrize("kind", ["graph", "functional"])
async def test_what_asks_by_the_name_of_an_expired_question_asks_wherever_it_is_cut(kind: str, monkeypatch: Any):
    now = time.time()
    found: list[Any] = []
    for place, after in [(99, False), *itertools.product(range(5), (False, True))]:
        world = World()
        FUNCTIONS.append(world)
        target = functional if kind == "functional" else partial(build, world, [("step", 1), ("named", 1)])
        for number in range(2):
            world.begin((place, after) if number == 1 else None)
            monkeypatch.setattr(time, "time", lambda late=101 * number: now + late)
            async with cut_off(world), hosting(target, world.store, question_timeout=100.0) as runtime:
                await runtime.submit(request(f"ask {number}", name=f"turn-{number}"))
                await answer(runtime, f"turn-{number}")
        world.begin()
        async with hosting(target, world.store, question_timeout=100.0) as runtime:
            if await maybe(runtime.get_continuation("turn-1")) is not None:
                await runtime.submit(request("ask 1", name="turn-1"))
            said = await answer(runtime, "turn-1")
            questions = (await runtime.get_session(request(""))).questions
            found.append((said, [question.question_id for question in questions]))
            assert await debris(world.store) == (set(), [])
    assert len(found[0][1]) == 1
    assert all(one == found[0] for one in found), found


# --- agents


def talking(messages: Sequence[Message]) -> Any:
    """Wipes what it is told to wipe, once it may; says how much it remembers otherwise."""
    last = messages[-1]
    results = [str(one.result) for one in last.contents if one.type == "function_result"]
    if results:
        return "done: " + ", ".join(results)
    if (last.text or "").startswith("wipe"):
        calls = len([one for message in messages for one in message.contents if one.type == "function_call"])
        return [Content.from_function_call(f"call_{calls}", "wipe", arguments={"what": "disk"})]
    return f"the {len(messages)}th: {last.text}"


@tool(approval_mode="always_require")
def wipe(what: str) -> str:
    """Wipe something."""
    return f"wiped {what}"


def agents() -> Workflow:
    one = Agent(Scripted(talking), name="one", id="one", tools=[wipe])
    two, three = (Agent(Scripted(talking), name=name, id=name) for name in ("two", "three"))
    return WorkflowBuilder(start_executor=one, name="agents").add_chain([one, two, three]).build()


def in_turn() -> Any:
    built = pytest.importorskip("agent_framework_orchestrations")
    named = [Agent(Scripted(talking), name=name, id=name) for name in ("one", "two")]
    return built.SequentialBuilder(participants=named, output_from="all").build()


def at_once() -> Any:
    built = pytest.importorskip("agent_framework_orchestrations")
    named = [Agent(Scripted(talking), name=name, id=name) for name in ("one", "two")]
    return built.ConcurrentBuilder(participants=named).build()


async def dialogue(
    make: Any, turns: Sequence[Any], cut: Cut | None, *, stream: bool, wait: Any = None
) -> tuple[bool, list[Any]]:
    """Turns with agents, and what was said; a True among the turns approves what waits, a float is time that passes."""
    store = CutStore()
    said: list[Any] = []
    history: list[Any] = []
    done = cuts = 0
    for one in [cut, None]:
        store.process((one[1], one[2]) if one else None)
        loop = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as alive:
            store.on_cut = lambda scope=alive, loop=loop: loop.run_sync_soon(scope.cancel)
            async with hosting(make, store, max_attempts=ATTEMPTS, question_timeout=100.0) as runtime:
                client = Client(World(store), stream, True, False, ())
                while done < len(turns):
                    turn, name = turns[done], f"turn-{done}"
                    if isinstance(turn, float):
                        wait(turn)
                    else:
                        asked = request(turn) if isinstance(turn, str) else None
                        if asked is None:
                            (question,) = (await runtime.get_session(request(""))).questions or [None]
                            asked = approving(question.question_id if question else "", turn)
                        run = await client.run_of(runtime, name, asked.replace(name=name, stream=stream))
                        if not store.alive:
                            break
                        assert run.result is not None, run.error
                        said.append(told([message.to_dict() for message in run.result.messages]))
                    done += 1
                else:
                    assert await debris(store) == (set(), [])
                    session = await runtime.get_session(request(""))
                    history = told(session.messages)
        cuts += not store.alive
    return bool(cuts), [*said, history]


CASES = {
    "a chain": (agents, ["hello", "again"]),
    "an approval": (agents, ["wipe", True, "again"]),
    "an approval that expires": (agents, ["wipe", 101.0, "again", "and again"]),
    "one after the other": (in_turn, ["hello", "again"]),
    "at once": (at_once, ["hello", "again"]),
}


@pytest.mark.parametrize(("case", "stream"), [(case, bool(number % 2)) for number, case in enumerate(CASES)])
async def test_agents_in_a_workflow_that_is_cut_end_as_if_it_was_not(
    monkeypatch: pytest.MonkeyPatch, case: str, stream: bool
):
    make, turns = CASES[case]
    late, real = [0.0], time.time

    def wait(seconds: float) -> None:
        late[0] = seconds

    monkeypatch.setattr(time, "time", lambda: real() + late[0])
    _, whole = await dialogue(make, turns, None, stream=stream, wait=wait)
    for place in itertools.count():
        late[0] = 0.0
        cut, found = await dialogue(make, turns, ("commit", place, bool(place % 2)), stream=stream, wait=wait)
        assert found == whole, place
        if not cut:
            break
    assert place > 4


# --- a cancel at any moment


class Watched(CutStore):
    """Tells of each commit before it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: Any = None

    async def commit(self, claim: Claim, commit: Commit) -> Committed:
        if self.heard is not None:
            await self.heard()
        return await super().commit(claim, commit)


@pytest.mark.parametrize("place", range(2, 10))
async def test_a_cancel_at_any_commit_leaves_nothing(place: int):
    store = Watched()
    left = place

    async def heard() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            nursery.start_soon(runtime.cancel, "t")
            await trio.lowlevel.checkpoint()

    async with hosting(lambda: build(World(store, ran=[[]]), [("loop", 3)]), store) as runtime:
        await runtime.ask(request("before"))
        async with trio.open_nursery() as nursery:
            store.heard = heard
            await runtime.submit(request("x", name="t"))
            run = await runtime.get_continuation("t", wait=True)
            store.heard = None
        assert run.state in ("cancelled", "completed")
        assert await debris(store) == (set(), [])
        assert (await runtime.ask(request("after"))).result.get_final_state() == "IDLE"
