"""The real framework over the bridge: agents, tools, sessions, workflows. Real clock: see ``test_bridge``."""

import asyncio
import json
import threading
import time
from typing import Any

import pytest
import trio
from agent_framework import (
    Agent,
    BaseChatClient,
    ChatMiddlewareLayer,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    Executor,
    FunctionInvocationLayer,
    InMemoryCheckpointStorage,
    Message,
    WorkflowBuilder,
    WorkflowContext,
    handler,
    tool,
)
from agent_framework.observability import ChatTelemetryLayer

from afactors.bridge import Bridge

Steps = list[Content]


class ScriptedClient(FunctionInvocationLayer, ChatMiddlewareLayer, ChatTelemetryLayer, BaseChatClient):
    """A chat client that answers from a script: a string is text, a tuple a call of a tool."""

    def __init__(self, *script: Any, pause: float = 0.0) -> None:
        super().__init__()
        self.script = list(script)
        self.pause = pause
        self.seen: list[list[Message]] = []
        self.threads: set[int] = set()
        self.tasks: set[Any] = set()
        self.closed = 0

    def _next(self, messages: list[Message]) -> list[Content]:
        self.seen.append(list(messages))
        self.threads.add(threading.get_ident())
        self.tasks.add(asyncio.current_task())
        step = self.script.pop(0)
        if isinstance(step, str):
            return [Content.from_text(text=word) for word in step.split(" ")]
        name, arguments = step
        call = Content.from_function_call(call_id="call", name=name, arguments=json.dumps(arguments))
        return [call]

    def _inner_get_response(self, *, messages, stream, options, **kwargs):
        if stream:
            return self._build_response_stream(self._stream(messages))

        async def respond():
            await asyncio.sleep(self.pause)
            return ChatResponse(messages=[Message("assistant", self._next(messages))])

        return respond()

    async def _stream(self, messages):
        try:
            for content in self._next(messages):
                await asyncio.sleep(self.pause)
                yield ChatResponseUpdate(contents=[content], role="assistant")
        finally:
            self.closed += 1


@pytest.fixture
async def bridge():
    async with Bridge(cancel_grace=0.5, close_timeout=1.0) as bridge:
        yield bridge


class Tools:
    def __init__(self):
        self.threads = []

    def add(self, a: int, b: int) -> str:
        """Add two numbers."""
        self.threads.append(threading.current_thread().name)
        return str(a + b)

    async def multiply(self, a: int, b: int) -> str:
        """Multiply two numbers."""
        self.threads.append(threading.current_thread().name)
        await asyncio.sleep(0)
        return str(a * b)


def texts(messages):
    return [content.result for message in messages for content in message.contents if content.type == "function_result"]


async def test_an_agent_runs_in_the_bridge_thread(bridge):
    client = ScriptedClient("hello there")
    response = await bridge.run(Agent(client).run, "hi")
    assert response.text == "hello there"
    assert client.threads.isdisjoint({threading.get_ident()})


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_run_asynchronous_in_the_loop_and_synchronous_in_a_thread(bridge, stream):
    tools = Tools()
    client = ScriptedClient(("add", {"a": 2, "b": 3}), ("multiply", {"a": 2, "b": 3}), "done")
    agent = Agent(client, tools=[tools.add, tools.multiply])
    if stream:
        async with bridge.stream(agent.run, "compute", stream=True) as updates:
            async for batch in updates:
                assert batch
            response = updates.final
    else:
        response = await bridge.run(agent.run, "compute")
    assert response.text == "done"
    assert texts(client.seen[-1]) == ["5", "6"]
    first, second = tools.threads
    assert first.startswith("afactors-tool")
    assert second == "afactors-bridge"


async def test_a_streamed_turn_gives_updates_and_a_final_response_from_one_task(bridge):
    client = ScriptedClient("one two three four", pause=0.002)
    words = []
    async with bridge.stream(Agent(client).run, "count", stream=True) as updates:
        async for batch in updates:
            words += [update.text for update in batch]
        assert updates.final.text == "onetwothreefour"
    assert words == ["one", "two", "three", "four"]
    assert len(client.tasks) == 1
    assert client.closed == 1


async def test_leaving_a_streamed_turn_early_closes_the_provider_stream(bridge):
    client = ScriptedClient("a " * 500 + "z", pause=0.001)
    async with bridge.stream(Agent(client).run, "talk", stream=True) as updates:
        async for _ in updates:
            break
    assert client.closed == 1
    assert await bridge.run(Agent(ScriptedClient("next")).run, "hi") is not None


@pytest.mark.parametrize("stream", [False, True])
async def test_a_session_remembers_across_turns(bridge, stream):
    client = ScriptedClient("Nice to meet you", "You are Ada")
    agent = Agent(client)
    session = await bridge.run(agent.create_session)
    for text in ("I am Ada", "Who am I?"):
        if stream:
            async with bridge.stream(agent.run, text, session=session, stream=True) as updates:
                async for _ in updates:
                    pass
        else:
            await bridge.run(agent.run, text, session=session)
    assert [message.role for message in client.seen[1]] == ["user", "assistant", "user"]
    assert client.seen[1][0].text == "I am Ada"


async def test_cancelling_a_turn_reaches_an_asynchronous_tool(bridge):
    events = []

    async def slow() -> str:
        """Take long."""
        events.append("started")
        try:
            await asyncio.sleep(30)
        finally:
            events.append("ended")
        return "never"

    client = ScriptedClient(("slow", {}), "done")
    with trio.move_on_after(0.2) as scope:
        await bridge.run(Agent(client, tools=[slow]).run, "go")
    assert scope.cancelled_caught
    assert events == ["started", "ended"]


async def test_a_cancelled_synchronous_tool_keeps_its_thread_and_not_its_caller(bridge):
    released = threading.Event()

    def block() -> str:
        """Block."""
        released.wait(5)
        return "late"

    started = time.monotonic()
    with trio.move_on_after(0.2) as scope:
        await bridge.run(Agent(ScriptedClient(("block", {}), "done"), tools=[block]).run, "go")
    assert scope.cancelled_caught
    assert time.monotonic() - started < 0.45
    assert bridge.statistics().tools_running == 1
    assert bridge.statistics().abandoned == 0
    released.set()


async def test_many_turns_with_tools_at_once(bridge):
    answers = []

    async def turn(n):
        tools = Tools()
        client = ScriptedClient(("add", {"a": n, "b": 1}), "done")
        await bridge.run(Agent(client, tools=[tools.add]).run, "go")
        answers.append(int(texts(client.seen[-1])[0]) - n)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for n in range(100):
                nursery.start_soon(turn, n)
    assert answers == [1] * 100


async def test_a_tool_can_call_back_into_trio(bridge):
    async def read_store(key):
        await trio.lowlevel.checkpoint()
        return f"{key}=1"

    @tool
    async def lookup(key: str) -> str:
        """Look a key up."""
        return await bridge.call_trio(read_store, key)

    client = ScriptedClient(("lookup", {"key": "colour"}), "done")
    await bridge.run(Agent(client, tools=[lookup]).run, "go")
    assert texts(client.seen[-1]) == ["colour=1"]


class Upper(Executor):
    @handler
    async def shout(self, text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text.upper())


class Last(Executor):
    @handler
    async def end(self, text: str, ctx: WorkflowContext[None, str]) -> None:
        await ctx.yield_output(text + "!")


class TrioStorage(InMemoryCheckpointStorage):
    """A checkpoint storage that lives on the trio side, as a store does."""

    def __init__(self, bridge):
        super().__init__()
        self.bridge = bridge
        self.saved_from = set()

    async def save(self, checkpoint):
        async def in_trio():
            trio.lowlevel.current_task()
            await trio.lowlevel.checkpoint()
            self.saved_from.add(threading.get_ident())
            return await InMemoryCheckpointStorage.save(self, checkpoint)

        return await self.bridge.call_trio(in_trio)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_workflow_runs_and_checkpoints_through_trio(bridge, stream):
    def build():
        upper, last = Upper(id="upper"), Last(id="last")
        builder = WorkflowBuilder(start_executor=upper, output_from=[last])
        return builder.add_edge(upper, last).build()

    workflow = await bridge.run(build)
    storage = TrioStorage(bridge)
    if stream:
        async with bridge.stream(workflow.run, "hello", stream=True, checkpoint_storage=storage) as events:
            async for batch in events:
                assert batch
            result = events.final
    else:
        result = await bridge.run(workflow.run, "hello", checkpoint_storage=storage)
    assert result.get_outputs() == ["HELLO!"]
    assert storage.saved_from == {threading.get_ident()}
