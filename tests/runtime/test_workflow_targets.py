"""Workflows as targets: whatever makes one, an instance for each conversation, its result and its input as they are."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio
import trio.testing
from agent_framework import (
    Agent,
    AgentExecutor,
    AgentResponse,
    Executor,
    Message,
    RunContext,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowExecutor,
    WorkflowRunResult,
    WorkflowRunState,
    handler,
)
from pydantic import BaseModel, Field

from afactors import Runtime, TargetUnusable
from afactors_channels import ChannelContribution, HostedRunResult
from afactors_store import LmdbStore, MemoryStore
from tests.runtime.flows import (
    Pipe,
    Scripted,
    complaint,
    debris,
    documents_of,
    hosting,
    logs_of,
    maybe,
    refused,
    request,
    told,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*is experimental")  # functional workflows


def chained() -> Workflow:
    return builder().build()


def builder() -> WorkflowBuilder:
    pipes = [Pipe(name, last=name == "c") for name in "abc"]
    return WorkflowBuilder(start_executor=pipes[0], name="chained").add_chain(pipes)


async def later() -> Workflow:
    await asyncio.sleep(0)
    return chained()


class Same:
    """A factory that gives what it gave before."""

    def __init__(self) -> None:
        self.made = chained()

    def __call__(self) -> Workflow:
        return self.made


class SharedExecutors:
    """A factory whose workflows have their executors in common."""

    def __init__(self) -> None:
        self.pipes = [Pipe(name, last=name == "c") for name in "abc"]

    def __call__(self) -> Workflow:
        return WorkflowBuilder(start_executor=self.pipes[0], name="chained").add_chain(self.pipes).build()


SOURCES: dict[str, Callable[[], Any]] = {
    "workflow": chained,
    "builder": builder,
    "factory": lambda: chained,
    "factory of builders": lambda: builder,
    "async factory": lambda: later,
    "the same again": Same,
    "shared executors": SharedExecutors,
}


# --- instances


@pytest.mark.parametrize("source", SOURCES)
async def test_each_conversation_has_an_instance_of_its_own(source: str):
    store = MemoryStore()
    hosted = SOURCES[source]()
    for round_ in (1, 2, 3):
        async with hosting(hosted if round_ < 3 else SOURCES[source](), store) as runtime:
            for key, session in (("ada", "s"), ("ada", "t"), ("bob", "s")):
                done = await runtime.ask(request("x", session, key=key))
                assert done.result.get_outputs() == [f"a#{round_}<x", f"b#{round_}<x.a", f"c#{round_}<x.a.b"]
            assert await debris(store) == (set(), [])


@pytest.mark.parametrize("source", ["workflow", "factory", "the same again"])
async def test_fifty_conversations_at_once_share_nothing_and_run_side_by_side(source: str):
    inside: list[int] = []
    most = 0

    class Meeting(Executor):
        def __init__(self) -> None:
            super().__init__(id="meeting")
            self.heard: list[str] = []

        @handler
        async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            nonlocal most
            self.heard.append(text)
            inside.append(1)
            most = max(most, len(inside))
            while most < 50:  # noqa: ASYNC110 - nobody goes before all are here
                await asyncio.sleep(0)
            inside.pop()
            ctx.set_state("heard", [*(ctx.get_state("heard") or []), text])
            await ctx.yield_output((list(self.heard), ctx.get_state("heard")))

    one = WorkflowBuilder(start_executor=Meeting(), name="meeting").build()
    target = {
        "workflow": one,
        "factory": lambda: WorkflowBuilder(start_executor=Meeting(), name="meeting").build(),
        "the same again": lambda: one,
    }[source]
    outputs: dict[int, list[Any]] = {number: [] for number in range(50)}
    async with hosting(target, max_parallel_sessions=50) as runtime:

        async def talk(number: int, text: str) -> None:
            key, session = f"key{number % 10}", f"s{number}"
            done = await runtime.ask(request(f"{text} {number}", session, key=key))
            outputs[number] += done.result.get_outputs()

        for text in ("one", "two"):
            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(talk, number, text)
    assert most == 50
    for number, said in outputs.items():
        first, both = [f"one {number}"], [f"one {number}", f"two {number}"]
        assert said == [(first, first), (both, both)]


class Locked(Executor):
    def __init__(self) -> None:
        super().__init__(id="locked")
        self.lock = threading.Lock()

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(text)


async def test_a_workflow_that_cannot_be_copied_is_refused_at_the_start_with_what_to_do():
    one = WorkflowBuilder(start_executor=Locked()).build()
    for source in (one, lambda: one):
        with pytest.raises(TargetUnusable, match="give a function that builds a new one"):
            async with hosting(source):
                raise AssertionError("it is not to open")
    async with hosting(lambda: WorkflowBuilder(start_executor=Locked()).build()) as runtime:
        assert (await runtime.ask(request("x"))).result.get_outputs() == ["x"]


async def test_a_workflow_as_an_agent_is_refused():
    with pytest.raises(TargetUnusable, match="give the workflow itself"):
        async with hosting(simple(AgentExecutor(agent("x"))).as_agent()):
            raise AssertionError("it is not to open")


async def test_a_factory_that_raises_later_fails_the_turn_only():
    made = 0

    def factory() -> Any:
        nonlocal made
        made += 1
        if made == 4:
            raise RuntimeError("not now")
        return chained() if made != 5 else "something else"

    async with hosting(factory) as runtime:
        await runtime.ask(request("x", "s1"))
        for session in ("s2", "s3"):
            assert (await refused(runtime.ask(request("x", session))))[0] == 500
        await runtime.ask(request("x", "s2"))


async def test_the_prototype_is_never_run():
    prototype = chained()
    async with hosting(prototype) as runtime:
        await runtime.ask(request("x"))
        assert [executor.runs for executor in prototype.executors.values()] == [0, 0, 0]  # type: ignore[attr-defined]


# --- functional ones, nested ones, agents


def functional(*, build: bool) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is experimental")
        from agent_framework import step, workflow

        @step
        async def double(text: str) -> str:
            return text * 2

        @workflow
        async def doubling(text: str, ctx: RunContext) -> str:
            ctx.set_state("text", text)
            return await double(text)

        return doubling.build() if build else doubling


@pytest.mark.parametrize("build", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_functional_workflow_is_hosted(build: bool, stream: bool):
    store = MemoryStore()
    async with hosting(functional(build=build), store) as runtime:
        for text in ("a", "b"):
            async with runtime.turn(request(text, stream=stream)) as turn:
                done = await turn.outcome()
            assert done.result.get_outputs() == [text * 2]
            assert done.result.get_final_state() == WorkflowRunState.IDLE
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(runtime.ask, request(str(number), f"s{number}"))
        assert await debris(store) == (set(), [])


@pytest.mark.parametrize("direct", [False, True])
async def test_workflows_inside_of_workflows_keep_their_state_apart(direct: bool):
    def made() -> Workflow:
        inner = WorkflowExecutor(chained(), id="inner", allow_direct_output=direct)
        last = Pipe("last", last=True)
        outer = WorkflowExecutor(WorkflowBuilder(start_executor=inner, name="middle").build(), id="outer")
        return WorkflowBuilder(start_executor=outer, name="outer").add_edge(outer, last).build()

    for source in (made(), made):
        store = MemoryStore()
        for round_ in (1, 2):
            async with hosting(source, store) as runtime:
                for session in ("s", "t"):
                    done = await runtime.ask(request("x", session))
                    if direct:
                        assert len(done.result.get_outputs()) == 3
                        assert f"a#{round_}<x" in done.result.get_outputs()[0]
        assert await _debris(store) == (set(), [])


async def _debris(store: MemoryStore) -> Any:
    async with store.open():
        return await debris(store)


def agent(name: str, script: Callable[[Sequence[Message]], Any] | None = None) -> Agent:
    heard = script or (lambda messages: f"{name} heard {len(messages)}: {messages[-1].text}")
    return Agent(Scripted(heard), name=name, id=name)


def simple(start: Any) -> Workflow:
    return WorkflowBuilder(start_executor=start, name="simple").build()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("factory", [False, True])
async def test_agents_in_a_workflow_remember_their_conversation_and_no_other(stream: bool, factory: bool):
    def made() -> Workflow:
        one, two = agent("one"), agent("two")
        return WorkflowBuilder(start_executor=one, name="agents").add_edge(one, two).build()

    store = MemoryStore()
    source = made if factory else made()
    for round_ in range(3):
        async with hosting(source, store) as runtime:
            for session in ("s", "t"):
                async with runtime.turn(request(f"{session}{round_}", session, stream=stream)) as turn:
                    shown = [update async for batch in turn for update in batch] if stream else []
                    done = await turn.outcome()
                said = told([message.to_dict() for message in (await _session(runtime, session))[-2:]])
                assert said[0] == [f"one heard {2 * round_ + 1}: {session}{round_}"]
                assert said[1][0].startswith("two heard ")
                if stream:
                    assert "".join(update.text or "" for update in shown) == "".join(text for (text,) in said)
                assert isinstance(done.result, WorkflowRunResult)


async def _session(runtime: Runtime, session: str) -> list[Message]:
    found = await runtime.get_session(request("", session))
    return [Message.from_dict(dict(message)) for message in found.messages]


# --- the orchestrations


def orchestration(kind: str) -> Any:
    built = pytest.importorskip("agent_framework_orchestrations")
    one, two = agent("one"), agent("two")
    if kind == "sequential":
        return built.SequentialBuilder(participants=[one, two])
    if kind == "concurrent":
        return built.ConcurrentBuilder(participants=[one, two])
    if kind == "group chat":
        return built.GroupChatBuilder(
            participants=[one, two],
            selection_func=lambda state: "one" if state.current_round % 2 == 0 else "two",
            max_rounds=2,
        )
    handing = [Agent(Scripted(lambda messages: "done"), name=name, require_per_service_call_history_persistence=True)
               for name in ("one", "two")]  # fmt: skip
    return built.HandoffBuilder(participants=handing, termination_condition=lambda _said: True).with_start_agent(
        handing[0]
    )


KINDS = ["sequential", "concurrent", "group chat", "handoff"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_orchestration_is_hosted(kind: str, stream: bool):
    for source in (orchestration(kind), orchestration(kind).build(), lambda: orchestration(kind)):
        store = MemoryStore()
        for _ in range(2):
            async with hosting(source, store) as runtime:
                for session in ("s", "t"):
                    async with runtime.turn(request("hello", session, stream=stream)) as turn:
                        done = await turn.outcome()
                    assert isinstance(done.result, WorkflowRunResult)
                    assert (await _session(runtime, session))[-1].text
                assert await debris(store) == (set(), [])


# --- results


async def test_results_are_the_frameworks_own():
    one, two = Pipe("one"), Pipe("two", last=True)
    made = (
        WorkflowBuilder(start_executor=one, name="r", output_from=[two], intermediate_output_from=[one])
        .add_edge(one, two)
        .build()
    )
    async with hosting(made) as runtime:
        for stream in (False, True):
            async with runtime.turn(request("x", f"s{stream}", stream=stream, name=f"t{stream}")) as turn:
                done = await turn.outcome()
            assert isinstance(done, HostedRunResult)
            found = done.result
            assert isinstance(found, WorkflowRunResult)
            assert found.get_outputs() == ["two#1<x.one"]
            assert found.get_intermediate_outputs() == ["one#1<x"]
            assert found.get_request_info_events() == []
            assert found.get_final_state() == WorkflowRunState.IDLE
            assert [event.state for event in found.status_timeline()] == [
                WorkflowRunState.IN_PROGRESS,
                WorkflowRunState.IDLE,
            ]
            run = await runtime.get_continuation(f"t{stream}")
            assert isinstance(run.result, AgentResponse)
            assert [message.text for message in run.result.messages] == ["one#1<x", "two#1<x.one"]


# --- inputs


@dataclass
class Order:
    item: str
    count: int = 1
    tags: list[str] = field(default_factory=list)


class Form(BaseModel):
    name: str = Field(min_length=2)
    age: int


def _shown(given: Any) -> str:
    if isinstance(given, list):
        return " ".join(map(_shown, given))
    return given.text if isinstance(given, Message) else repr(given)


class TakesOrder(Executor):
    @handler
    async def take(self, given: Order, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(repr(given))


class TakesForm(Executor):
    @handler
    async def take(self, given: Form, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(repr(given))


class TakesDict(Executor):
    @handler
    async def take(self, given: dict, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(repr(given))


class TakesInt(Executor):
    @handler
    async def take(self, given: int, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(repr(given))


class TakesText(Executor):
    @handler
    async def take(self, given: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(repr(given))


class TakesMessage(Executor):
    @handler
    async def take(self, given: Message, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"message {given.text}")


class TakesMessages(Executor):
    @handler
    async def take(self, given: list[Message], ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"messages {_shown(given)}")


class TakesOrderOrText(Executor):
    @handler
    async def order(self, given: Order, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(repr(given))

    @handler
    async def text(self, given: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"text {given}")


PAYLOADS: list[tuple[type[Executor], Any, str]] = [
    (TakesOrder, Order("tea", 2, ["hot"]), "Order(item='tea', count=2, tags=['hot'])"),
    (TakesOrder, {"item": "tea"}, "Order(item='tea', count=1, tags=[])"),
    (TakesForm, Form(name="Ada", age=36), "Form(name='Ada', age=36)"),
    (TakesForm, {"name": "Ada", "age": "36"}, "Form(name='Ada', age=36)"),
    (TakesDict, {"a": [1, {"b": None}]}, "{'a': [1, {'b': None}]}"),
    (TakesInt, 7, "7"),
    (TakesInt, 0, "0"),
    (TakesText, "words", "'words'"),
    (TakesText, "", "''"),
    (TakesOrderOrText, Order("tea"), "Order(item='tea', count=1, tags=[])"),
    (TakesOrderOrText, "words", "text words"),
]


@pytest.mark.parametrize(("kind", "payload", "heard"), PAYLOADS)
@pytest.mark.parametrize("background", [False, True])
async def test_a_run_hook_gives_the_workflow_what_it_takes(
    channel: Any, kind: type[Executor], payload: Any, heard: str, background: bool
):
    spoken = channel(run_hook=lambda asked, **_told: asked.replace(payload=payload))
    async with hosting(lambda: simple(kind(id="x")), channels=[spoken], checkpoint_types=[Order, Form]) as runtime:
        if background:
            run = await runtime.get_continuation(await runtime.submit(request("whatever")), wait=True)
            assert run.result is not None, run.error
            assert run.result.text == heard
        else:
            assert (await runtime.ask(request("whatever"))).result.get_outputs() == [heard]


WRONG: list[tuple[type[Executor], Any, str]] = [
    (TakesOrder, {"count": 2}, "item"),
    (TakesOrder, {"item": "tea", "count": "many"}, "count"),
    (TakesOrder, "tea", "Order"),
    (TakesForm, {"name": "A", "age": 1}, "name"),
    (TakesForm, {"name": "Ada"}, "age"),
    (TakesDict, [1], "dict"),
    (TakesInt, "seven", "int"),
    (TakesInt, 1.5, "int"),
    (TakesText, {"a": 1}, "str"),
]


@pytest.mark.parametrize(("kind", "payload", "named"), WRONG)
async def test_a_payload_that_does_not_fit_is_refused_with_the_field_named(
    channel: Any, kind: type[Executor], payload: Any, named: str
):
    store = MemoryStore()
    spoken = channel(run_hook=lambda asked, **_told: asked.replace(payload=payload))
    async with hosting(lambda: simple(kind(id="x")), store, channels=[spoken]) as runtime:
        for call in (runtime.ask, runtime.submit):
            error = await complaint(call(request("whatever")))  # type: ignore[operator]
            assert (error.status, error.code, error.field) == (422, "invalid_payload", "payload")
            assert named in str(error)
        assert await store.keys() == [], "nothing was accepted"


async def test_an_agent_takes_no_payload():
    async with hosting(agent("one")) as runtime:
        assert await refused(runtime.ask(request("x", payload={"a": 1}))) == (422, "invalid_payload")


async def test_a_payload_survives_the_process_that_accepted_it():
    store = MemoryStore()
    gate = True

    class Slow(TakesOrder):
        @handler
        async def take(self, given: Order, ctx: WorkflowContext[str, str]) -> None:
            while gate:  # noqa: ASYNC110 - it is another thread that opens it
                await asyncio.sleep(0.001)
            await ctx.yield_output(repr(given))

    types = [Order]  # what a workflow was run with is in its first checkpoint
    async with hosting(lambda: simple(Slow(id="x")), store, drain_timeout=0.01, checkpoint_types=types) as runtime:
        for number in range(2):
            await runtime.submit(request("x", payload=Order("tea", number), name=f"t{number}"))
    gate = False
    async with hosting(lambda: simple(Slow(id="x")), store, checkpoint_types=types) as runtime:
        for number in range(2):
            run = await runtime.get_continuation(f"t{number}", wait=True)
            assert run.result is not None, run.error
            assert run.result.text == repr(Order("tea", number))


TEXTS: list[tuple[type[Executor], str, str | None]] = [
    (TakesText, "hello", "'hello'"),
    (TakesMessage, "hello", "message hello"),
    (TakesMessages, "hello", "messages hello"),
    (TakesOrder, '{"item": "tea", "count": 2}', "Order(item='tea', count=2, tags=[])"),
    (TakesOrder, "tea", None),
    (TakesOrder, '{"count": 2}', None),
    (TakesForm, '{"name": "Ada", "age": 36}', "Form(name='Ada', age=36)"),
    (TakesDict, '{"a": 1}', "{'a': 1}"),
    (TakesDict, "[1]", None),
    (TakesInt, "7", "7"),
    (TakesInt, "seven", None),
    (TakesOrderOrText, "words", "text words"),
]


@pytest.mark.parametrize(("kind", "text", "heard"), TEXTS)
async def test_what_a_message_says_is_made_what_the_workflow_takes(kind: type[Executor], text: str, heard: str | None):
    async with hosting(lambda: simple(kind(id="x")), checkpoint_types=[Order, Form]) as runtime:
        if heard is None:
            assert await refused(runtime.ask(request(text))) == (422, "invalid_payload")
        else:
            assert (await runtime.ask(request(text))).result.get_outputs() == [heard]


async def test_an_empty_input_is_refused_or_taken_but_never_a_crash():
    for kind in (TakesText, TakesMessage, TakesMessages, TakesOrder):
        async with hosting(lambda kind=kind: simple(kind(id="x"))) as runtime:
            for asked in (request("x").replace(input=[]), request([{"type": "text", "text": ""}])):
                error = await maybe(runtime.ask(asked))
                assert error is None or error.status in (400, 422), (kind, error)
            assert runtime.statistics().actors.restarts == 0


# --- hooks of what is shown


class Stubborn:
    """Nobody copies it."""

    def __deepcopy__(self, _memo: object) -> Any:
        raise TypeError("no")


@pytest.mark.parametrize("last", [False, True])
async def test_a_response_hook_gets_the_workflows_result(channel: Any, last: bool):
    seen: list[Any] = []

    def hook(shown: Any, **_told: Any) -> Any:
        seen.append(shown.result)
        return shown

    async with hosting(chained, channels=[channel(response_hook=hook)]) as runtime:
        done = await runtime.ask(request("x", stream=last))
        assert isinstance(seen[0], WorkflowRunResult)
        assert seen[0].get_outputs() == done.result.get_outputs() == ["a#1<x", "b#1<x.a", "c#1<x.a.b"]


async def test_a_response_hook_may_give_an_answer_of_its_own(channel: Any):
    def hook(shown: Any, **_told: Any) -> Any:
        return replace(shown, result=AgentResponse(messages=[Message("assistant", ["in short"])]))

    async with hosting(chained, channels=[channel(response_hook=hook)]) as runtime:
        done = await runtime.ask(request("x", name="t"))
        assert done.result.text == "in short"
        run = await runtime.get_continuation("t")
        assert run.result is not None
        assert run.result.text == "in short"
        assert (await runtime.ask(request("y"))).result.text == "in short"


async def test_what_cannot_be_copied_for_a_hook_fails_the_turn_at_most(channel: Any):
    class Says(Executor):
        @handler
        async def take(self, text: str, ctx: WorkflowContext[str, Any]) -> None:
            await ctx.yield_output(Stubborn() if text == "x" else text)

    spoken = channel(response_hook=lambda shown, **_told: shown)
    async with hosting(lambda: simple(Says(id="says")), channels=[spoken]) as runtime:
        error = await maybe(runtime.ask(request("x")))
        assert error is None or error.code in ("response_hook_failed", "server_error"), error
        assert (await runtime.ask(request("y"))).result.get_outputs() == ["y"]
        assert runtime.statistics().actors.restarts == 0


async def test_a_response_hook_that_fails_fails_the_turn(channel: Any):
    def hook(_shown: Any, **_told: Any) -> Any:
        raise RuntimeError("no")

    store = MemoryStore()
    async with hosting(chained, store, channels=[channel(response_hook=hook)]) as runtime:
        assert (await refused(runtime.ask(request("x"))))[1] == "response_hook_failed"
        assert await debris(store) == (set(), [])


# --- without sessions, and in each other's way


@pytest.mark.parametrize("stream", [False, True])
async def test_without_a_session_nothing_is_kept(stream: bool):
    store = MemoryStore()
    async with hosting(chained, store) as runtime:
        for _ in range(2):
            async with runtime.turn(request("x", None, session_mode="disabled", stream=stream)) as turn:
                done = await turn.outcome()
            assert done.result.get_outputs() == ["a#1<x", "b#1<x.a", "c#1<x.a.b"]
        assert await debris(store) == (set(), [])
        assert await documents_of(store) == {}
        assert logs_of(store) == {}


@dataclass
class Room:
    """A workflow whose executor waits in it until it may go."""

    inside: threading.Event = field(default_factory=threading.Event)
    free: bool = False

    def made(self) -> Workflow:
        room = self

        class Waiting(Executor):
            @handler
            async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
                room.inside.set()
                while text.startswith("wait") and not room.free:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.001)
                await ctx.yield_output(text)

        return simple(Waiting(id="waiting"))

    async def entered(self) -> None:
        assert await trio.to_thread.run_sync(self.inside.wait, 20, abandon_on_cancel=True)


@pytest.mark.parametrize("after", [False, True])
async def test_a_busy_workflow_may_refuse_or_be_interrupted(after: bool):
    room = Room()
    async with hosting(room.made) as runtime, trio.open_nursery() as nursery:
        where: dict[str, Any] = {"session": "s"}
        if after:
            await runtime.ask(request("first", None, name="r1"))
            where = {"session": None, "after": "r1"}
        outcomes: list[Any] = []

        async def wait() -> None:
            outcomes.append((await refused(runtime.ask(request("wait", **where))))[1])

        nursery.start_soon(wait)
        room.inside.clear()
        await room.entered()
        assert (await refused(runtime.ask(request("no", overlap="reject", **where))))[0] == 409
        done = await runtime.ask(request("now", overlap="interrupt", **where))
        assert done.result.get_outputs() == ["now"]
        room.free = True
    assert outcomes == ["interrupted"]


async def test_messages_to_a_busy_workflow_wait_in_line():
    room = Room()
    said: list[str] = []
    async with hosting(room.made) as runtime:
        async with trio.open_nursery() as nursery:

            async def say(text: str) -> None:
                said.extend((await runtime.ask(request(text))).result.get_outputs())

            nursery.start_soon(say, "wait")
            await room.entered()
            for number in range(3):
                nursery.start_soon(say, str(number))
            await trio.testing.wait_all_tasks_blocked()
            room.free = True
        assert said[0] == "wait"
        assert sorted(said[1:]) == ["0", "1", "2"]


@pytest.fixture
def channel() -> Callable[..., Any]:
    """Makes a channel called "test" that contributes what it is given."""

    @dataclass
    class Speaking:
        contribution: ChannelContribution
        name: str = "test"

        def contribute(self, _context: Any) -> ChannelContribution:
            return self.contribution

    return lambda **more: Speaking(ChannelContribution(**more))


# --- LMDB, once, with all of it


async def test_a_workflow_lives_in_a_store_on_disk(tmp_path: Any):
    for round_ in (1, 2):
        async with hosting(chained, LmdbStore(tmp_path / "state")) as runtime:
            for stream in (False, True):
                async with runtime.turn(request("x", f"s{stream}", stream=stream)) as turn:
                    done = await turn.outcome()
                assert done.result.get_outputs()[0] == f"a#{round_}<x"


@pytest.mark.parametrize("depth", [1, 2, 3])
async def test_agents_deep_inside_a_workflow_are_not_copied_with_it(depth: int):
    """They hold connections, and nothing of a conversation."""
    deep = agent("deep")
    inner = simple(deep)
    for number in range(depth):
        inner = simple(WorkflowExecutor(inner, id=f"level{number}", allow_direct_output=True))
    async with hosting(inner) as runtime:
        for session in ("s", "t"):
            await runtime.ask(request(session, session))
        assert deep.client.seen == [["s"], ["t"]]  # type: ignore[attr-defined]


async def test_a_stream_that_its_reader_leaves_may_go_on():
    room = Room()
    async with hosting(room.made) as runtime:
        async with runtime.stream(request("wait", on_disconnect="finish", name="t")):
            await room.entered()
        room.free = True
        run = await runtime.get_continuation("t", wait=True)
        assert run.result is not None
        assert run.result.text == "wait"


async def test_erasing_takes_a_workflow_in_the_middle_of_its_work():
    room = Room()
    store = MemoryStore()
    async with hosting(room.made, store) as runtime:
        await runtime.ask(request("before"))
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                assert (await refused(runtime.ask(request("wait"))))[0] in (409, 503)

            room.inside.clear()
            nursery.start_soon(wait)
            await room.entered()
            await runtime.erase_actor("ada")
        assert logs_of(store) == {}
        assert await documents_of(store) == {}
        assert (await runtime.ask(request("after"))).result.get_outputs() == ["after"]
