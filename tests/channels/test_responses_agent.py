"""With a real `Agent` over a scripted chat client, and read by openai-python's own stream helper."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import openai
from agent_framework import (
    Agent,
    BaseChatClient,
    ChatMiddlewareLayer,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    FunctionInvocationLayer,
    FunctionTool,
    Message,
)
from agent_framework.observability import ChatTelemetryLayer
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from afactors_channels.responses import EventStream, parse_create, render_response
from afactors_channels.responses.presentation import presentation, skeleton

Read = Callable[[list[dict[str, Any]]], dict[str, Any]]
INCLUDE = ["reasoning.encrypted_content"]
TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}


class Scripted(FunctionInvocationLayer, ChatMiddlewareLayer, ChatTelemetryLayer, BaseChatClient):  # type: ignore[misc, type-arg]
    """Says what it is told to, and remembers what it was asked."""

    def __init__(self, updates: Sequence[ChatResponseUpdate]) -> None:
        super().__init__()
        self.updates = updates
        self.asked: list[Any] = []

    def _inner_get_response(self, *, messages: Any, stream: bool, options: Any, **_: Any) -> Any:
        self.asked.append((messages, options))
        if stream:
            return self._build_response_stream(self._pieces())
        return self._whole()

    async def _pieces(self) -> AsyncIterator[ChatResponseUpdate]:
        for update in self.updates:
            yield update

    async def _whole(self) -> ChatResponse:
        return ChatResponse.from_updates(self.updates)


def says(*contents: Content, **fields: Any) -> ChatResponseUpdate:
    return ChatResponseUpdate(contents=list(contents), role="assistant", message_id="m1", **fields)


SCRIPT = [
    says(Content.from_text_reasoning(id="rs_1", text="hm")),
    says(Content.from_text_reasoning(id="rs_1", text="", protected_data="sealed")),
    says(Content.from_text("It ")),
    says(Content.from_text("depends.")),
    says(Content.from_text("It depends.", merge_mode="replace")),
    says(Content.from_function_call("c1", "get_weather", arguments='{"city":')),
    says(Content.from_function_call("c1", "get_weather", arguments='"Oslo"}')),
    says(Content.from_usage({"input_token_count": 3, "output_token_count": 5}), finish_reason="tool_calls"),
]


def ask(**fields: Any) -> tuple[Any, dict[str, Any], list[Message], list[FunctionTool]]:
    request = parse_create({"model": "m", "input": [{"role": "user", "content": "?"}], "tools": [TOOL], **fields})
    begun = skeleton(presentation(request, model="m"), response_id="resp_" + "0" * 48, created_at=1)
    messages = [Message.from_dict(dict(message)) for message in request.input]
    # Without a function the framework hands the call to its caller.
    tools = [
        FunctionTool(name=t["name"], description=t["description"], func=None, input_model=t["parameters"])
        for t in request.tools
    ]
    return request, begun, messages, tools


async def streamed(client: Scripted) -> list[dict[str, Any]]:
    request, begun, messages, tools = ask()
    stream = EventStream(begun, client_tools=request.client_tools, include=INCLUDE)
    events = stream.begin()
    run = Agent(client).run(messages, stream=True, tools=tools, options=dict(request.options))
    async for update in run:
        events += stream.feed([update])
    return events + stream.complete(await run.get_final_response(), completed_at=2)


async def test_streaming_and_not_streaming_agree(read: Read, checked: Read) -> None:
    response = read(await streamed(Scripted(SCRIPT)))
    assert [item["type"] for item in response["output"]] == ["reasoning", "message", "function_call"]
    assert response["output"][0]["encrypted_content"] == "sealed"
    assert response["output"][1]["content"][0]["text"] == "It depends."
    assert response["output"][2]["arguments"] == '{"city":"Oslo"}'
    assert response["usage"]["total_tokens"] == 8

    request, begun, messages, tools = ask()
    result = await Agent(Scripted(SCRIPT)).run(messages, tools=tools)
    rendered = checked(
        render_response(begun, result, completed_at=2, client_tools=request.client_tools, include=INCLUDE)  # type: ignore[arg-type]
    )
    assert rendered == response


async def test_openais_own_helper_reads_it() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    state: Any = ResponseStreamState(input_tools=openai.omit, text_format=openai.omit)
    seen = []
    for event in await streamed(Scripted(SCRIPT)):
        seen += state.handle_event(adapter.validate_python(event))
    assert seen[-1].type == "response.completed"
    assert seen[-1].response.output_text == "It depends."
    assert [event.snapshot for event in seen if event.type == "response.output_text.delta"] == ["It ", "It depends."]


async def test_options_reach_the_chat_client() -> None:
    client = Scripted([says(Content.from_text("ok"))])
    request, _, messages, _ = ask(
        instructions="be brief", temperature=0.5, max_output_tokens=9, store=False, parallel_tool_calls=False,
        text={"format": {"type": "json_object"}},
    )  # fmt: skip
    await Agent(client, "You are kind.").run(messages, options=dict(request.options))
    [(_, options)] = client.asked
    assert options["instructions"] == "You are kind.\nbe brief"
    assert (options["temperature"], options["max_tokens"], options["store"]) == (0.5, 9, False)
    assert options["allow_multiple_tool_calls"] is False
    assert options["response_format"] == {"type": "json_object"}


async def test_answers_to_calls_reach_the_chat_client() -> None:
    client = Scripted([says(Content.from_text("sunny"))])
    request = parse_create(
        {
            "input": [
                {"role": "user", "content": "?"},
                {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "sun"},
            ]
        }
    )
    await Agent(client).run([Message.from_dict(dict(message)) for message in request.input])
    [(messages, _)] = client.asked
    assert [(m.role, m.contents[0].type) for m in messages] == [
        ("user", "text"), ("assistant", "function_call"), ("tool", "function_result"),
    ]  # fmt: skip
