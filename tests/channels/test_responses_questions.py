"""Approvals and other questions on the wire: asked in the output, answered in the input, and listed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from agent_framework import (
    Agent,
    AgentResponse,
    AgentResponseUpdate,
    ChatResponseUpdate,
    Content,
    FunctionTool,
    Message,
)
from openai.types.conversations import Conversation, ConversationItem
from openai.types.responses import ResponseItem, ResponseOutputItem
from pydantic import TypeAdapter

from afactors_channels import Question
from afactors_channels.errors import BadRequest
from afactors_channels.responses import EventStream, parse_create, render_response
from afactors_channels.responses.conversations import render_conversation
from afactors_channels.responses.presentation import presentation, skeleton
from afactors_channels.responses.stored_items import history_items, input_items, item_place

from .test_responses_agent import Scripted

Read = Callable[[list[dict[str, Any]]], dict[str, Any]]
RESPONSE_ID = "resp_" + "ef" * 24
OUTPUT_ITEM: TypeAdapter[Any] = TypeAdapter(ResponseOutputItem)
RESPONSE_ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)
CONVERSATION_ITEM: TypeAdapter[Any] = TypeAdapter(ConversationItem)


def call(name: str = "wipe", call_id: str = "c1", **fields: Any) -> Content:
    return Content.from_function_call(call_id, name, arguments='{"disk": 1}', **fields)


def approval(call: Content, request_id: str = "a1") -> Content:
    call.id = None if call.hosted else request_id
    return Content.from_function_approval_request(request_id, call)


def says(*contents: Content, **fields: Any) -> AgentResponseUpdate:
    return AgentResponseUpdate(contents=list(contents), role="assistant", **fields)


def begun() -> dict[str, Any]:
    return skeleton(presentation(parse_create({"input": "x"}), model="m"), response_id=RESPONSE_ID, created_at=1)


def run(*updates: AgentResponseUpdate, tools: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    stream = EventStream(begun(), client_tools=tools)
    return stream.begin() + stream.feed(updates) + stream.complete(completed_at=2)


def rendered(*messages: Message) -> list[dict[str, Any]]:
    output: list[dict[str, Any]] = render_response(begun(), AgentResponse(messages=list(messages)), completed_at=2)[
        "output"
    ]
    return output


# --- asked


def test_an_approval_takes_the_place_of_its_call(read: Read) -> None:
    events = run(says(Content.from_text("Hm.")), says(call()), says(approval(call())), says(approval(call())))
    message, request = read(events)["output"]
    assert message["type"] == "message"
    assert request == {
        "type": "mcp_approval_request",
        "id": "a1",
        "server_label": "agent",
        "name": "wipe",
        "arguments": '{"disk": 1}',
    }
    OUTPUT_ITEM.validate_python(request)
    assert [event["type"] for event in events if event.get("item", {}).get("id") == "a1"] == [
        "response.output_item.added",
        "response.output_item.done",
    ]
    assert rendered(Message("assistant", [Content.from_text("Hm."), call(), approval(call())])) == [message, request]


def test_a_call_beside_its_approval_is_hidden_whatever_its_name(read: Read) -> None:
    output = read(run(says(call("mine"), approval(call("mine"))), tools=("mine",)))["output"]
    assert [item["type"] for item in output] == ["mcp_approval_request"]


def test_a_clients_call_beside_an_approval_is_shown(read: Read) -> None:
    output = read(run(says(call("mine", "c2"), call(), approval(call())), tools=("mine",)))["output"]
    assert [item["type"] for item in output] == ["function_call", "mcp_approval_request"]


@pytest.mark.parametrize(
    ("asked", "author", "label"),
    [
        (call(), None, "agent"),
        (call(), "Ada", "Ada"),
        (call(hosted=True, server_name="files"), "Ada", "files"),
    ],
)
def test_whose_tool_it_is(asked: Content, author: str | None, label: str, read: Read) -> None:
    request = approval(asked)
    [streamed] = read(run(says(request, author_name=author)))["output"]
    [whole] = rendered(Message("assistant", [request], author_name=author))
    [listed] = history_items([Message("assistant", [request], author_name=author, message_id="m").to_dict()])
    assert streamed == whole == listed
    assert streamed["server_label"] == label


def test_an_approval_of_nothing_is_nothing(read: Read) -> None:
    assert read(run(says(Content("function_approval_request", id="a1"))))["output"] == []


def test_an_approval_without_an_id_gets_one(read: Read) -> None:
    requests = [Content("function_approval_request", function_call=call(call_id=each)) for each in ("c1", "c2")]
    output = read(run(says(*requests)))["output"]
    assert [item["id"] for item in output] == [f"mcpr_{'ef' * 24}000{index}" for index in (0, 1)]


def test_arguments_that_are_values(read: Read) -> None:
    waiting = Content.from_function_call("r1", "request_info", arguments={"request_id": "r1", "data": ["ü"]})
    waiting.user_input_request = True
    [item] = read(run(says(waiting)))["output"]
    assert json.loads(item["arguments"]) == {"request_id": "r1", "data": ["ü"]}
    for arguments in (None, {}):
        [item] = read(run(says(approval(Content.from_function_call("c", "f", arguments=arguments)))))["output"]
        assert item["arguments"] == "{}"


def piece(*contents: Content) -> ChatResponseUpdate:
    return ChatResponseUpdate(contents=list(contents), role="assistant", message_id="m1")


async def test_a_real_agent_asks(read: Read) -> None:
    ran: list[int] = []
    tool = FunctionTool(
        name="wipe",
        description="",
        func=ran.append,
        approval_mode="always_require",
        input_model={"type": "object", "properties": {"disk": {"type": "integer"}}},
    )
    script = [
        piece(Content.from_text("Careful.")),
        piece(Content.from_function_call("c1", "wipe", arguments='{"disk"')),
        piece(Content.from_function_call("c1", "wipe", arguments=": 1}")),
    ]
    stream = EventStream(begun())
    events = stream.begin()
    answer = Agent(Scripted(script), name="Ada", tools=[tool]).run("x", stream=True)
    async for update in answer:
        events += stream.feed([update])
    whole = await answer.get_final_response()
    response = read(events + stream.complete(whole, completed_at=2))
    message, request = response["output"]
    assert message["content"][0]["text"] == "Careful."
    assert (request["type"], request["name"], request["server_label"]) == ("mcp_approval_request", "wipe", "Ada")
    assert json.loads(request["arguments"]) == {"disk": 1}
    assert render_response(begun(), whole, completed_at=2)["output"] == response["output"]
    at_once = await Agent(Scripted(script), name="Ada", tools=[tool]).run("x")
    kinds = [item["type"] for item in render_response(begun(), at_once, completed_at=2)["output"]]
    assert kinds == ["message", "mcp_approval_request"]
    assert ran == []


# --- answered

RESPONSE = {"type": "mcp_approval_response", "approval_request_id": "a1", "approve": True}
REQUEST = {"type": "mcp_approval_request", "id": "a1", "name": "wipe", "arguments": "{}", "server_label": "agent"}


def parsed(*items: Any) -> list[dict[str, Any]]:
    return [dict(message) for message in parse_create({"input": list(items)}).input]


def test_an_answer_is_a_content_of_the_users() -> None:
    [message] = parsed({**RESPONSE, "id": "i", "reason": "trust"})
    assert message["role"] == "user"
    assert message["contents"] == [
        {
            "type": "function_approval_response",
            "id": "a1",
            "approved": True,
            "additional_properties": {"responses": {"reason": "trust", "id": "i"}},
        }
    ]
    [content] = Message.from_dict(message).contents
    assert (content.type, content.id, content.approved) == ("function_approval_response", "a1", True)


def test_a_no_is_no() -> None:
    assert parsed({**RESPONSE, "approve": False})[0]["contents"][0]["approved"] is False


def test_answers_stand_beside_each_other() -> None:
    output = {"type": "function_call_output", "call_id": "r1", "output": "yes"}
    messages = parsed(RESPONSE, {**RESPONSE, "approval_request_id": "a2"}, output, {"role": "user", "content": "and?"})
    assert [(each["role"], each["contents"][0]["type"]) for each in messages] == [
        ("user", "function_approval_response"),
        ("user", "function_approval_response"),
        ("tool", "function_result"),
        ("user", "text"),
    ]


def test_a_repeated_request_is_the_assistants() -> None:
    [message] = parsed({"role": "assistant", "content": "Careful."}, REQUEST)
    _, content = Message.from_dict(message).contents
    assert message["role"] == "assistant"
    assert (content.type, content.id, content.user_input_request) == ("function_approval_request", "a1", True)
    assert content.function_call is not None
    assert (content.function_call.name, content.function_call.arguments) == ("wipe", "{}")
    assert content.function_call.hosted is False


@pytest.mark.parametrize(
    ("item", "path", "code"),
    [
        ({**RESPONSE, "approval_request_id": None}, "approval_request_id", "missing_required_parameter"),
        ({**RESPONSE, "approval_request_id": ""}, "approval_request_id", "invalid_value"),
        ({**RESPONSE, "approval_request_id": 1}, "approval_request_id", "invalid_type"),
        ({**RESPONSE, "approve": None}, "approve", "missing_required_parameter"),
        ({**RESPONSE, "approve": "yes"}, "approve", "invalid_type"),
        ({**RESPONSE, "approve": 1}, "approve", "invalid_type"),
        ({**RESPONSE, "reason": 1}, "reason", "invalid_type"),
        ({**RESPONSE, "id": "a\n"}, "id", "invalid_value"),
        ({**REQUEST, "id": None}, "id", "missing_required_parameter"),
        ({**REQUEST, "name": ""}, "name", "invalid_value"),
        ({**REQUEST, "arguments": {}}, "arguments", "invalid_type"),
        ({**REQUEST, "server_label": ""}, "server_label", "string_below_min_length"),
    ],
)
def test_what_is_refused(item: dict[str, Any], path: str, code: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parsed({"role": "user", "content": "x"}, item)
    assert (refused.value.field, refused.value.code) == (f"input[1].{path}", code)


# --- listed


def named(number: int, role: str, *contents: Content, **fields: Any) -> dict[str, Any]:
    return Message(role, list(contents), message_id=f"m{number}", **fields).to_dict()


def test_what_came_in_goes_out() -> None:
    given = [{**RESPONSE, "id": "i", "reason": "trust"}, {**RESPONSE, "approve": False}, REQUEST]
    items = input_items(parsed(*given), RESPONSE_ID)
    assert items == [given[0], {"id": f"mcpa_{'ef' * 24}in0001", **given[1]}, REQUEST]
    for item in items:
        RESPONSE_ITEM.validate_python(item)


def test_a_history_with_questions() -> None:
    info = Content.from_function_call("r1", "request_info", arguments={"data": 1})
    messages = [
        named(1, "user", Content.from_text("x")),
        named(2, "assistant", Content.from_text("hm"), additional_properties={"intermediate": True}),
        named(3, "assistant", call(), approval(call())),
        named(4, "user", Content("function_approval_response", id="a1", approved=True)),
        named(5, "assistant", info),
        named(6, "tool", Content.from_function_result("r1", result="yes")),
    ]
    items = history_items(messages)
    assert [item["type"] for item in items] == [
        "message", "message", "mcp_approval_request", "mcp_approval_response", "function_call", "function_call_output",
    ]  # fmt: skip
    for item in items:
        CONVERSATION_ITEM.validate_python(item)
    assert (items[1]["phase"], "phase" in items[0]) == ("commentary", False)
    assert items[2]["id"] == items[3]["approval_request_id"] == "a1"
    assert items[3]["id"] not in ("a1", "m4")
    assert json.loads(items[4]["arguments"]) == {"data": 1}
    assert history_items(messages, begin=3) == items[3:]


def test_a_call_that_was_approved_and_executed_is_shown_with_its_output() -> None:
    asked = [named(1, "assistant", call(), approval(call()))]
    done = [*asked, named(2, "tool", Content.from_function_result("c1", result="gone"))]
    assert [item["type"] for item in history_items(asked)] == ["mcp_approval_request"]
    assert [item["type"] for item in history_items(done)] == [
        "function_call",
        "mcp_approval_request",
        "function_call_output",
    ]


def test_a_request_is_taken_out_with_the_call_that_it_hides() -> None:
    message = named(1, "assistant", Content.from_text("x"), call(), approval(call()))
    assert item_place([message], "a1") == ("m1", [1, 2])
    alone = named(1, "assistant", call(), approval(call()))
    assert item_place([alone], "a1") == ("m1", [0, 1])
    done = named(2, "tool", Content.from_function_result("c1", result="gone"))
    assert item_place([alone, done], "a1") == ("m1", [1])


def test_the_same_request_twice_has_two_ids() -> None:
    messages = [named(number, "assistant", approval(call())) for number in (1, 2)]
    first, second = history_items(messages)
    assert first["id"] == "a1"
    assert second["id"] != "a1"


def test_a_phase_that_a_client_gave_stays() -> None:
    given = {"type": "message", "role": "assistant", "content": "x", "phase": "final_answer"}
    [item] = input_items(parsed(given), RESPONSE_ID)
    assert item["phase"] == "final_answer"


def test_a_conversation_says_what_it_waits_for() -> None:
    questions = [
        Question("a1", "approval", "wipe", '{"disk": 1}', 5.5, 10.5),
        Question("r1", "input", "request_info", {"data": 1}, 5.5, float("inf")),
        Question("c1", "call", "get", None, 5.5, 10.5),
    ]
    shown = render_conversation("c", created_at=1, metadata={}, questions=questions)
    names = ("type", "id", "name", "arguments", "asked_at", "expires_at")
    assert [tuple(each[name] for name in names) for each in shown["waiting"]] == [
        ("mcp_approval_request", "a1", "wipe", '{"disk": 1}', 5, 10),
        ("function_call", "r1", "request_info", '{"data": 1}', 5, None),
        ("function_call", "c1", "get", "{}", 5, 10),
    ]
    conversation = Conversation.model_validate(shown)
    assert conversation.model_extra is not None
    assert [each["id"] for each in conversation.model_extra["waiting"]] == ["a1", "r1", "c1"]
    assert "waiting" not in render_conversation("c", created_at=1, metadata={})
