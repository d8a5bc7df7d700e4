"""The public face: open and close, drain, streams, authorization; and whole runtimes with real agents."""

import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from agent_framework import (
    Agent,
    AgentResponse,
    AgentResponseUpdate,
    AgentSession,
    BaseChatClient,
    ChatMiddlewareLayer,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    Executor,
    FunctionInvocationLayer,
    Message,
    ResponseStream,
    WorkflowBuilder,
    WorkflowContext,
    handler,
    tool,
)
from quart import request
from quart_trio import QuartTrio

from afactors import DrainReport, Runtime, TargetUnusable
from afactors_channels import (
    BadRequest,
    ChannelContext,
    ChannelContribution,
    ChannelIdentity,
    ChannelRequest,
    ChannelSession,
    Conflicting,
    NotAllowed,
    Overloaded,
    ResponsesChannel,
    Route,
    TargetFailed,
)
from afactors_store import LmdbStore, MemoryStore, StoreLocked
from tests.runtime.outcomes import caught

House = Any  # of conftest
Clock = trio.abc.Clock
blocked = trio.testing.wait_all_tasks_blocked


# --- open and close


async def test_what_is_not_open_says_so(autojump_clock: Clock, house: House):
    async with house.open() as runtime:
        pass
    for use in (runtime.ask(house.request("x")), house.post("x")):
        with pytest.raises(RuntimeError, match="not open"):
            await use
    with pytest.raises(RuntimeError, match="not open"):
        runtime.statistics()
    assert not runtime.serving
    assert "not open" in runtime.not_ready()


async def test_it_opens_again_with_its_conversations(autojump_clock: Clock, house: House):
    async with house.open() as runtime:
        await house.ask("one", "s")
        with pytest.raises(RuntimeError, match="open already"):
            await runtime.__aenter__()
        assert runtime.serving
        assert runtime.not_ready() == []
    for word in ("two", "three"):
        async with runtime:
            assert runtime.serving
            await house.ask(word, "s")
    async with runtime:
        assert await house.ask("four", "s") == "one two three four"


async def test_a_failed_opening_can_be_tried_again(autojump_clock: Clock, house: House):
    async with house.open() as first:
        second = Runtime(lambda: None, store=house.store, tune_gc=False)
        with pytest.raises(StoreLocked):
            await second.__aenter__()
        assert first.serving
    async with second:
        assert second.serving


async def test_the_blocks_own_exception_passes_as_it_is(autojump_clock: Clock, house: House):
    async def live() -> None:
        async with house.open():
            await house.ask("one", "s")
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine") as error:
        await live()
    assert type(error.value) is LookupError
    async with house.open():
        assert await house.ask("two", "s") == "one two"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
async def test_an_exit_passes_as_it_is(autojump_clock: Clock, house: House, kind: type[BaseException]):
    outcome: list[BaseException] = []
    try:
        async with house.open():
            raise kind(3)
    except BaseException as exc:  # noqa: BLE001 - that is the question
        outcome.append(exc)
    assert type(outcome[0]) is kind


async def test_a_channels_task_lives_as_long_as_the_runtime(autojump_clock: Clock, house: House):
    log: list[str] = []

    class Poller:
        name = "poller"

        def contribute(self, context: ChannelContext) -> ChannelContribution:
            async def poll() -> None:
                log.append("begin")
                try:
                    result = await context.ask(house.request("polled", "s"))
                    log.append(f"{context.target_name}: {result.result.text}")
                    await trio.sleep_forever()
                finally:
                    log.append("end")

            return ChannelContribution(task=poll)

    async with house.open(channels=[Poller()]):
        await trio.sleep(1)
        assert log == ["begin", "fake: polled"]
    assert log[-1] == "end"


def test_two_channels_of_one_name_are_refused():
    with pytest.raises(ValueError, match="same name"):
        Runtime(lambda: None, store=MemoryStore(), channels=[ResponsesChannel(), ResponsesChannel()])


def test_two_channels_on_one_route_are_refused():
    class Copy(ResponsesChannel):
        pass

    runtime = Runtime(lambda: None, store=MemoryStore(), channels=[ResponsesChannel(), Copy(name="other")])
    with pytest.raises(ValueError, match="two channels serve POST /v1/responses"):
        runtime.asgi()


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="unknown limit 'mailboxes'; did you mean 'mailbox'"):
        Runtime(lambda: None, store=MemoryStore(), mailboxes=5)  # type: ignore[call-arg]


# --- drain


async def test_a_drain_lets_running_turns_finish(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open(drain_timeout=10.0) as runtime:
        turns = [await house.post(text, "s") for text in ("slow", "queued")]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.drain)
            await blocked()
            error = await caught(house.ask("late", "s"))
            assert isinstance(error, Overloaded)
            assert (error.code, error.status) == ("draining", 503)
            assert error.retry_after
            assert runtime.not_ready() == ["stopping"]
            await trio.sleep(4)
            house.target.hold("slow").set()
        report = await runtime.drain()
        assert report == DrainReport(finished=2, cancelled=0, abandoned=0, seconds=pytest.approx(4.0, abs=0.1))
        assert [turn.state for turn in turns] == ["completed"] * 2
        assert isinstance(await caught(house.ask("late", "s")), Overloaded)
        with pytest.raises(Overloaded):
            async with runtime.stream(house.request("late", "s")):
                pass
    assert await runtime.drain() is report
    assert str(report) == "stopped in 4.0 s: 2 turns finished"


async def test_what_still_runs_at_the_deadline_is_cancelled(autojump_clock: Clock, house: House):
    for text in ("a", "b"):
        house.target.hold(text)
    async with house.open(drain_timeout=10.0) as runtime:
        turns = [await house.post(text, "s", key=key) for text, key in (("a", "x"), ("b", "y"), ("queued", "x"))]
        await blocked()
    report = await runtime.drain()
    assert (report.finished, report.cancelled, report.abandoned) == (0, 3, 0)
    assert report.seconds == pytest.approx(10.0, abs=0.1)
    for turn in turns:
        error = await caught(turn.outcome())
        assert isinstance(error, TargetFailed)
        assert (error.code, error.status) == ("draining", 503)
    async with house.open():
        records = [*await house.records("x"), *await house.records("y")]
        assert [(record.state, record.reason) for record in records] == [("cancelled", "draining")] * 3
        assert sorted(text for record in records for text in house.said(record.input["is"])) == ["a", "b", "queued"]


async def test_what_does_not_obey_is_abandoned(autojump_clock: Clock, house: House):
    async def stubborn(*_: object) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)
        return "at last"

    house.target.on["deaf"] = stubborn
    async with house.open(drain_timeout=1.0, cancel_grace=2.0) as runtime:
        await house.post("deaf", "s")
        await blocked()
        report = await runtime.drain()
        assert (report.finished, report.cancelled, report.abandoned) == (0, 1, 1)
        assert report.seconds == pytest.approx(4.0)
        assert "1 turn abandoned" in str(report)


async def test_hurry_shortens_a_drain(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open(drain_timeout=1000.0) as runtime:
        await house.post("slow", "s")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.drain)
            await trio.sleep(3)
            runtime.hurry()
        report = await runtime.drain()
        assert (report.finished, report.cancelled) == (0, 1)
        assert report.seconds == pytest.approx(3.0, abs=0.1)
    runtime.hurry()  # too late, and no harm


async def test_two_drains_at_once_give_one_report(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    reports = []
    async with house.open(drain_timeout=5.0) as runtime:
        await house.post("slow", "s")

        async def drain() -> None:
            reports.append(await runtime.drain())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            nursery.start_soon(drain)
    assert reports[0] == reports[1]


async def test_a_drain_that_was_given_up_is_taken_up_again(autojump_clock: Clock, house: House):
    """As `serve` does when it is cancelled in the middle of a drain."""
    house.target.hold("slow")
    async with house.open(drain_timeout=50.0) as runtime:
        await house.post("slow", "s")
        with trio.move_on_after(1):
            await runtime.drain()
    assert (await runtime.drain()).cancelled == 1


async def test_leaving_drains(autojump_clock: Clock, house: House):
    async def slow(*_: object) -> str:
        await trio.sleep(5)
        return "done"

    house.target.on["slow"] = slow
    async with house.open():
        turn = await house.post("slow", "s", name="p1")
    assert turn.state == "completed"
    async with house.open():
        assert await house.store.find("p1") is not None


async def test_a_cancelled_block_drains_too(autojump_clock: Clock, house: House):
    """To cancel the call is how `serve(signals=False)` is stopped."""

    async def slow(*_: object) -> str:
        await trio.sleep(5)
        return "done"

    house.target.on["slow"] = slow
    with trio.move_on_after(1):
        async with house.open(drain_timeout=50.0):
            turn = await house.post("slow", "s")
            await trio.sleep_forever()
    assert trio.current_time() < 10
    assert turn.state == "completed"


async def test_an_embedded_runtime_drains_before_the_server_is_told(autojump_clock: Clock, house: House):
    """A server may cancel the app as soon as that says that its shutdown is complete; hypercorn does."""

    async def slow(*_: object) -> str:
        await trio.sleep(5)
        return "done"

    house.target.on["slow"] = slow
    app = QuartTrio("inner")
    runtime = house.build()
    runtime.init_app(app)
    turns = []
    to_app, from_server = trio.open_memory_channel[dict[str, Any]](2)
    with trio.CancelScope() as scope:

        async def send(message: Any) -> None:
            if message["type"] == "lifespan.startup.complete":
                turns.append(await house.post("slow", "s"))
                await to_app.send({"type": "lifespan.shutdown"})
            else:
                scope.cancel()

        await to_app.send({"type": "lifespan.startup"})
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, from_server.receive, send)
    assert not runtime.serving
    assert turns[0].state == "completed"


# --- streams


async def test_a_stream_gives_updates_and_then_the_committed_result(autojump_clock: Clock, house: House):
    async with house.open() as runtime:
        async with runtime.stream(house.request("a b c", "s")) as turn:
            assert [update.text async for batch in turn for update in batch] == ["a", "b", "c"]
            assert turn.result.result.text == "a b c"
        assert await house.ask("d", "s") == "a b c d"


async def test_a_stream_that_fails_ends_with_its_error(autojump_clock: Clock, house: House):
    async def fail(*_: object) -> str:
        raise ValueError

    house.target.on["bad"] = fail
    async with house.open() as runtime, runtime.stream(house.request("bad", "s")) as turn:
        with pytest.raises(TargetFailed):
            async for _ in turn:
                pass
        with pytest.raises(TargetFailed):
            _ = turn.result


async def test_what_was_not_asked_to_stream_does_not(autojump_clock: Clock, house: House):
    async with house.open() as runtime, runtime.turn(house.request("one", "s")) as turn:
        with pytest.raises(RuntimeError, match="not asked to stream"):
            async for _ in turn:
                pass
        assert (await turn.outcome()).result.text == "one"


@pytest.mark.parametrize("on_disconnect", ["cancel", "finish"])
async def test_a_stream_left_early(autojump_clock: Clock, house: House, on_disconnect: Any):
    text = " ".join(str(number) for number in range(100))
    async with house.open() as runtime:
        async with runtime.stream(house.request(text, "s", on_disconnect=on_disconnect)) as turn:
            await blocked()
        await blocked()
        assert turn.state == ("completed" if on_disconnect == "finish" else "cancelled")
        assert await house.ask("next", "s") == (f"{text} next" if on_disconnect == "finish" else "next")
        record = await house.record(turn)
        assert record.reason == (None if on_disconnect == "finish" else "disconnected")


async def test_a_stream_that_is_not_read_to_its_end(autojump_clock: Clock, house: House):
    async with house.open() as runtime:
        async with runtime.stream(house.request("a b c", "s")) as turn:
            async for batch in turn:
                assert [update.text for update in batch] == ["a"]
                break
            await turn.outcome()
            assert [update.text async for batch in turn for update in batch] == ["b", "c"], "it can be taken up again"
        assert await house.ask("d", "s") == "a b c d"


async def test_on_end_calls_at_the_end_or_at_once(autojump_clock: Clock, house: House):
    calls: list[str] = []
    async with house.open() as runtime, runtime.turn(house.request("one", "s")) as turn:
        turn.on_end(lambda: calls.append("first"))
        assert calls == []
        await turn.outcome()
        assert calls == ["first"]
        turn.on_end(lambda: calls.append("second"))
    assert calls == ["first", "second"]


# --- sessions and authorization


async def test_a_required_session(autojump_clock: Clock, house: House):
    async with house.open():
        error = await caught(house.ask("x", key=None, session_mode="required"))
        assert isinstance(error, BadRequest)
        assert (error.code, error.field) == ("session_required", "session")
        assert await house.ask("x", "s", key=None, session_mode="required") == "x"
        assert await house.ask("x", session_mode="required") == "x"


async def test_a_session_and_a_point_exclude_each_other(autojump_clock: Clock, house: House):
    async with house.open():
        error = await caught(house.ask("x", "s", after="p1"))
        assert isinstance(error, BadRequest)
        assert error.field == "session"


@pytest.mark.parametrize("key", ["", "a\0b", "k" * 1025, "\ud800"])
async def test_keys_that_no_actor_can_have(autojump_clock: Clock, house: House, key: str):
    async with house.open():
        error = await caught(house.ask("x", "s", key=key))
        assert isinstance(error, BadRequest)
        assert (error.code, error.field, error.status) == ("invalid_session", "session", 400)
        assert house.actors.started == 0


async def test_partitions_keep_callers_apart(autojump_clock: Clock, house: House):
    async with house.open():
        for partition in ("", "a", "b"):
            await house.ask(f"of-{partition}", "talk", key=None, partition=partition)
        assert await house.ask("x", "talk", key=None, partition="a") == "of-a x"
        assert await house.ask("x", "talk", key=None) == "of- x"
        assert await house.ask("x", "talk", key=None, partition="b") == "of-b x"


async def test_what_the_target_refuses_is_refused_before_anything_happens(autojump_clock: Clock, house: House):
    def refuse(_request: ChannelRequest) -> None:
        raise BadRequest("no", field="tools[0].name")

    house.target.refuse = refuse
    async with house.open():
        assert isinstance(await caught(house.ask("x", "s")), BadRequest)
        assert house.actors.started == 0


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize(
    ("decision", "code"), [("allowed", None), ("denied", "forbidden"), ("link_required", "link_required")]
)
async def test_every_request_passes_the_policy(
    autojump_clock: Clock, house: House, caplog: pytest.LogCaptureFixture, decision: Any, code: str | None, sync: bool
):
    seen: list[ChannelIdentity | None] = []

    def decide(request: ChannelRequest) -> Any:
        seen.append(request.identity)
        return decision

    async def decide_later(request: ChannelRequest) -> Any:
        await trio.sleep(1)
        return decide(request)

    caplog.set_level(logging.INFO)
    who = ChannelIdentity("test", "ada")
    async with house.open(authorize=decide if sync else decide_later) as runtime:
        if code is None:
            assert await house.ask("x", "s", identity=who) == "x"
            return
        error = await caught(house.ask("x", "s", identity=who))
        assert isinstance(error, NotAllowed)
        assert (error.code, error.status) == (code, 403)
        with pytest.raises(NotAllowed):
            async with runtime.stream(house.request("x", "s", identity=who)):
                pass
        assert seen == [who, who]
        assert house.actors.started == 0
        assert house.target.started == []
    assert decision in caplog.text


# --- real agents, over the real bridge, by the real clock: nothing of what follows may last


class Scripted(FunctionInvocationLayer, ChatMiddlewareLayer, BaseChatClient):
    """Answers with what it was told, or calls the tool `call`, once."""

    calls_tool = False

    def _inner_get_response(self, *, messages: Any, stream: bool, options: Any, **_: Any) -> Any:
        said = " ".join(message.text for message in messages if message.role == "user")
        call = self.calls_tool and messages[-1].role == "user"
        content = (
            Content.from_function_call("c1", "call", arguments={"text": said}) if call else Content.from_text(said)
        )
        if messages[-1].role == "tool":
            content = Content.from_text(str(messages[-1].contents[0].result))

        async def respond() -> ChatResponse[Any]:
            return ChatResponse(messages=[Message("assistant", [content])])

        async def updates() -> AsyncIterator[ChatResponseUpdate]:
            yield ChatResponseUpdate(contents=[content], role="assistant")

        return self._build_response_stream(updates()) if stream else respond()


def ask(text: str, session: str = "s", **more: Any) -> ChannelRequest:
    return ChannelRequest(
        channel="test",
        input=[Message("user", [text]).to_dict()],
        session=ChannelSession(isolation_key="ada", session_id=session),
        **more,
    )


def make_agent() -> Agent[Any]:
    return Agent(Scripted(), name="scripted")


async def make_agent_async() -> Agent[Any]:
    return make_agent()


@pytest.mark.parametrize("source", [make_agent(), make_agent, make_agent_async], ids=["agent", "factory", "async"])
async def test_agents_and_their_factories(source: Any):
    async with Runtime(source, store=MemoryStore()) as runtime:
        assert runtime.target_name == "scripted"
        assert (await runtime.ask(ask("one"))).result.text == "one"
        async with runtime.stream(ask("two")) as turn:
            assert "".join([update.text async for batch in turn for update in batch]) == "one two"
        statistics = runtime.statistics()
        assert (statistics.actors.live, statistics.store.keys, statistics.bridge.completed) == (1, 1, 2)


async def test_a_conversation_survives_in_lmdb(tmp_path: Any):
    for word, expected in (("one", "one"), ("two", "one two"), ("two", "one two two")):
        async with Runtime(make_agent, store=LmdbStore(tmp_path, map_size=1 << 24)) as runtime:
            assert (await runtime.ask(ask(word))).result.text == expected


async def test_an_agent_that_is_entered_is_left_too():
    log: list[str] = []

    class Entered(Agent):  # type: ignore[type-arg]
        async def __aenter__(self) -> Any:
            log.append("entered")
            return self

        async def __aexit__(self, *_exc: object) -> None:
            log.append("left")

    for source in (Entered(Scripted()), lambda: Entered(Scripted())):
        log.clear()
        async with Runtime(source, store=MemoryStore()) as runtime:
            assert log == ["entered"]
            await runtime.ask(ask("one"))
        assert log == ["entered", "left"]


class Echo(Executor):
    """A workflow's only step."""

    @handler
    async def run(self, text: str, context: WorkflowContext[Any, str]) -> None:
        await context.yield_output(text)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (lambda: 42, "got int"),
        (lambda: None, "got NoneType"),
        ("an agent, by name", "got str"),
        (lambda: Agent, "did not start|got"),
        (lambda: WorkflowBuilder(start_executor=Agent(Scripted(), name="a")).build().as_agent(), "one state for all"),
    ],
    ids=["number", "nothing", "text", "class", "workflow"],
)
async def test_what_is_no_agent_is_refused(source: Any, told: str):
    store = MemoryStore()
    with pytest.raises(TargetUnusable, match=told):
        await Runtime(source, store=store).__aenter__()
    async with store.open():  # and nothing is left behind
        pass


async def test_a_factory_that_raises():
    def broken() -> Any:
        raise OSError("no model")

    with pytest.raises(TargetUnusable, match="the agent did not start: OSError: no model"):
        await Runtime(broken, store=MemoryStore()).__aenter__()


class Minimal:
    """An agent of somebody else's: no more than the protocol asks for, not even `**kwargs`."""

    id = "minimal-1"
    name: str | None = None
    description = None

    def create_session(self, *, session_id: str | None = None) -> AgentSession:
        session = AgentSession(session_id=session_id)
        session.state["born"] = {"by": "minimal"}
        return session

    def get_session(self, service_session_id: str, *, session_id: str | None = None) -> AgentSession:
        return AgentSession(session_id=session_id, service_session_id=service_session_id)

    def run(self, messages: Any = None, *, stream: bool = False, session: Any = None) -> Any:
        count = session.state.setdefault("count", {"turns": 0})
        count["turns"] += 1
        text = f"{session.state['born']['by']} {count['turns']}"

        async def updates() -> AsyncIterator[AgentResponseUpdate]:
            yield AgentResponseUpdate(contents=[Content.from_text(text)], role="assistant")

        async def respond() -> AgentResponse[Any]:
            return AgentResponse(messages=[Message("assistant", [text])])

        return ResponseStream(updates(), finalizer=AgentResponse.from_updates) if stream else respond()


async def test_a_minimal_agent_of_another_kind():
    store = MemoryStore()
    async with Runtime(Minimal, store=store) as runtime:
        assert runtime.target_name == "minimal-1"
        options: dict[str, Any] = {"options": {"temperature": 1.0}, "tools": [{"name": "t"}]}
        assert (await runtime.ask(ask("hi", **options))).result.text == "minimal 1"
        async with runtime.stream(ask("hi", **options)) as turn:
            assert [update.text async for batch in turn for update in batch] == ["minimal 2"]
    async with Runtime(Minimal(), store=store) as runtime:
        assert (await runtime.ask(ask("hi"))).result.text == "minimal 3"


async def test_an_agent_whose_stream_has_no_final_response():
    class Streaming(Minimal):
        def run(self, messages: Any = None, *, stream: bool = False, session: Any = None) -> Any:
            async def updates() -> AsyncIterator[AgentResponseUpdate]:
                for word in ("just ", "updates"):
                    yield AgentResponseUpdate(contents=[Content.from_text(word)], role="assistant", message_id="m")

            return updates()

    async with Runtime(Streaming, store=MemoryStore()) as runtime, runtime.stream(ask("hi")) as turn:
        assert "".join([update.text async for batch in turn for update in batch]) == "just updates"
        assert turn.result.result.text == "just updates"


async def test_a_clients_tool_may_not_have_the_name_of_the_agents_own():
    agent = Agent(Scripted(), tools=[tool(lambda text: text, name="call", description="calls")])
    async with Runtime(agent, store=MemoryStore()) as runtime:
        with pytest.raises(BadRequest, match="a tool named 'call' of its own") as error:
            await runtime.ask(ask("x", tools=[{"name": "other"}, {"name": "call"}]))
        assert error.value.field == "tools[1].name"


@pytest.mark.parametrize("session", ["mine", "other"])
async def test_a_tool_asks_the_runtime(session: str):
    """From the asyncio thread: another session answers, one's own is an error at once."""
    errors: list[Exception] = []
    runtime: Runtime

    async def call(text: str) -> str:
        try:
            return (await runtime.ask(ask(f"inner {text}", session))).result.text
        except Conflicting as exc:
            errors.append(exc)
            return exc.code

    client = Scripted()
    client.calls_tool = True
    outer = Agent(client, tools=[tool(call, name="call", description="calls")])
    runtime = Runtime(outer, store=MemoryStore(), max_running_turns=1)

    async with runtime:
        client.calls_tool = True
        with trio.fail_after(5):
            task = await runtime.ask(ask("x", "mine")) if session == "mine" else None
        if task is not None:
            assert task.result.text == "would_deadlock"
            assert len(errors) == 1
            return
        original = client._inner_get_response

        def once(**kwargs: Any) -> Any:
            """Only the outer turn calls the tool."""
            client.calls_tool = not any("inner" in message.text for message in kwargs["messages"])
            return original(**kwargs)

        client._inner_get_response = once  # type: ignore[method-assign]
        with trio.fail_after(5):
            assert (await runtime.ask(ask("x", "mine"))).result.text == "inner x"
    assert errors == []


async def test_an_agent_that_blocks_its_thread_makes_the_runtime_unready():
    def block(_text: str) -> None:
        time.sleep(0.6)

    class Blocking(Minimal):
        def run(self, messages: Any = None, *, stream: bool = False, session: Any = None) -> Any:
            block("")
            return super().run(messages, stream=stream, session=session)

    async with Runtime(Blocking, store=MemoryStore(), stall_warning=0.1) as runtime:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.ask, ask("x"))
            with trio.fail_after(5):
                while "the agent blocks its thread" not in runtime.not_ready():  # noqa: ASYNC110
                    await trio.sleep(0.02)
        await trio.sleep(0.3)
        assert runtime.not_ready() == []


# --- embedded


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[list[dict[str, Any]]]:
    """An ASGI server's part in an app's life; what the app sent so far."""
    sent: list[dict[str, Any]] = []
    to_app, from_server = trio.open_memory_channel[dict[str, Any]](2)
    answered = trio.Event()

    async def send(message: Any) -> None:
        nonlocal answered
        sent.append(dict(message))
        answered.set()
        answered = trio.Event()

    async with trio.open_nursery() as nursery:
        waiting = answered
        nursery.start_soon(
            app, {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, from_server.receive, send
        )
        await to_app.send({"type": "lifespan.startup"})
        await waiting.wait()
        yield sent
        if sent[-1]["type"] == "lifespan.startup.complete":
            await to_app.send({"type": "lifespan.shutdown"})


def quart_app() -> Any:
    app = QuartTrio("inner")

    @app.get("/hello")
    async def hello() -> str:
        return "hello from inside"

    @app.post("/count")
    async def count() -> str:
        return str(len(await request.get_data()))

    return app


async def call(app: Callable[..., Awaitable[None]], method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    sent: list[dict[str, Any]] = []
    gone = trio.Event()
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"x"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "extensions": {},
    }
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


async def test_embedded_in_an_app():
    runtime = Runtime(make_agent, store=MemoryStore(), channels=[ResponsesChannel()], max_body=1000)
    app = quart_app()
    runtime.init_app(app)
    async with lifespan(app) as sent:
        assert sent == [{"type": "lifespan.startup.complete"}]
        assert runtime.serving
        assert await call(app, "GET", "/hello") == (200, b"hello from inside")
        status, body = await call(app, "POST", "/v1/responses", b'{"input": "one"}')
        assert status == 200
        assert json.loads(body)["output"][0]["content"][0]["text"] == "one"
        assert (await call(app, "GET", "/readyz"))[0] == 200
        assert await call(app, "POST", "/count", b"x" * 1000) == (200, b"1000")
        assert (await call(app, "POST", "/count", b"x" * 1001))[0] == 413
        assert (await call(app, "GET", "/nothing"))[0] == 404
    assert sent[-1]["type"] == "lifespan.shutdown.complete"
    assert not runtime.serving
    assert (await call(app, "POST", "/v1/responses", b'{"input": "one"}'))[0] == 503


async def test_an_app_whose_runtime_cannot_open_tells_the_server_why():
    app = quart_app()
    Runtime(lambda: 42, store=MemoryStore()).init_app(app)
    async with lifespan(app) as sent:
        assert sent == [
            {
                "type": "lifespan.startup.failed",
                "message": "expected an agent (something with run() and create_session()) or a workflow, got int",
            }
        ]


async def test_a_locked_store_is_told_to_the_server():
    store = MemoryStore()
    app = quart_app()
    Runtime(make_agent, store=store).init_app(app)
    async with store.open(), lifespan(app) as sent:
        assert sent[0]["type"] == "lifespan.startup.failed"
        assert "open already" in sent[0]["message"]


async def test_routes_of_a_channel_are_the_runtimes_routes():
    class Plain:
        name = "plain"

        def contribute(self, _context: ChannelContext) -> ChannelContribution:
            async def endpoint(_scope: Any, _receive: Any, send: Any) -> None:
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body", "body": b""})

            return ChannelContribution([Route("PUT", "/plain", endpoint)])

    runtime = Runtime(make_agent, store=MemoryStore(), channels=[Plain()])
    assert (await call(runtime.asgi(), "PUT", "/plain"))[0] == 503
    async with runtime:
        assert (await call(runtime.asgi(), "PUT", "/plain"))[0] == 204
        assert (await call(runtime.asgi(), "GET", "/plain"))[0] == 405
