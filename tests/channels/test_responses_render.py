"""The response object of a finished run, and its wire forms."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from agent_framework import AgentResponse, Content, Message

from afactors_channels.errors import (
    BadRequest,
    Conflicting,
    HostError,
    NotAllowed,
    NotFound,
    Overloaded,
    StorageFull,
    TargetFailed,
)
from afactors_channels.responses import (
    DONE,
    encode_event,
    encode_json,
    error_body,
    error_headers,
    item_id,
    new_response_id,
    parse_create,
    render_response,
    sse_data,
)
from afactors_channels.responses.presentation import presentation, skeleton

Checked = Callable[[dict[str, Any]], dict[str, Any]]


def render(result: AgentResponse, **fields: Any) -> dict[str, Any]:
    request = parse_create({"input": "x", **fields})
    begun = skeleton(presentation(request, model="target"), response_id="resp_1", created_at=5)
    return render_response(begun, result, completed_at=6, client_tools=request.client_tools)


def test_a_minimal_response(checked: Checked) -> None:
    response = checked(render(AgentResponse(messages=[Message("assistant", ["hello"])])))
    assert response["model"] == "target"
    assert response["usage"] is None
    assert response["output"][0]["id"] == "msg_10000"
    assert (response["store"], response["background"], response["tool_choice"]) == (True, False, "auto")


def test_a_response_repeats_the_request(checked: Checked) -> None:
    asked = {
        "model": "gpt", "temperature": 0.5, "top_p": 0.25, "max_output_tokens": 7, "max_tool_calls": 2,
        "metadata": {"a": "b"}, "instructions": "i", "parallel_tool_calls": False, "user": "u",
        "safety_identifier": "s", "prompt_cache_key": "k", "truncation": "auto", "top_logprobs": 3,
        "presence_penalty": 1, "frequency_penalty": -1, "store": False, "previous_response_id": "resp_0",
        "tools": [{"type": "function", "name": "f", "description": "d", "parameters": {}, "strict": True}],
        "tool_choice": {"type": "function", "name": "f"},
    }  # fmt: skip
    response = checked(render(AgentResponse(), **asked))
    assert {name: response[name] for name in asked} == asked
    shaped = checked(render(
        AgentResponse(), conversation="c", reasoning={"effort": "low"}, service_tier="flex",
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
        tools=asked["tools"],
        tool_choice={"type": "allowed_tools", "tools": [{"type": "function", "name": "f"}]},
    ))  # fmt: skip
    assert shaped["conversation"] == {"id": "c"}
    assert shaped["reasoning"] == {"effort": "low", "summary": None}
    assert shaped["service_tier"] == "default"
    assert shaped["tool_choice"]["mode"] == "auto"
    assert shaped["text"]["format"]["name"] == "n"


def test_executed_calls_are_left_out_and_messages_stay_apart(checked: Checked) -> None:
    result = AgentResponse(
        messages=[
            Message("assistant", ["a", Content.from_function_call("c1", "search", arguments="{}")]),
            Message("tool", [Content.from_function_result("c1", result="r")]),
            Message("assistant", ["b"]),
            Message("assistant", ["c", Content.from_function_call("c2", "get", arguments={"x": 1})]),
        ]
    )
    response = checked(render(result, tools=[{"type": "function", "name": "get"}]))
    assert [item["type"] for item in response["output"]] == ["message"] * 3 + ["function_call"]
    assert response["output"][3]["arguments"] == '{"x": 1}'


@pytest.mark.parametrize(
    ("reason", "status", "details"),
    [
        ("stop", "completed", None),
        (None, "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_finish_reasons(checked: Checked, reason: Any, status: str, details: Any) -> None:
    response = checked(render(AgentResponse(messages=[Message("assistant", ["a"])], finish_reason=reason)))
    assert (response["status"], response["incomplete_details"]) == (status, details)
    assert (response["completed_at"] is None) == (status == "incomplete")


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        (None, None),
        ({}, None),
        ({"total_token_count": 3}, None),
        ({"input_token_count": 1}, (1, 0, 1)),
        ({"input_token_count": 1, "output_token_count": 2, "total_token_count": 4}, (1, 2, 4)),
    ],
)
def test_usage(checked: Checked, details: Any, expected: Any) -> None:
    usage = checked(render(AgentResponse(usage_details=details)))["usage"]
    assert (usage and (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"])) == expected


def test_ids() -> None:
    name = new_response_id(bytes(range(24)))
    assert name == "resp_" + bytes(range(24)).hex()
    assert item_id("msg", name, 10) == "msg_" + bytes(range(24)).hex() + "000a"
    assert len(item_id("msg", name, 65535)) <= 64
    for wrong in (b"", bytes(16), bytes(32)):
        with pytest.raises(ValueError, match="24 random bytes"):
            new_response_id(wrong)


def test_events_are_whole() -> None:
    encoded = encode_event({"type": "a", "x": "line\nline\u2028", "y": math.nan})
    assert encoded == 'event: a\ndata: {"type":"a","x":"line\\nline\u2028","y":null}\n\n'.encode()
    assert sse_data(encoded) == '{"type":"a","x":"line\\nline\u2028","y":null}'.encode()
    assert DONE == b"data: [DONE]\n\n"


def test_text_that_utf8_cannot_express() -> None:
    assert json.loads(encode_json({"a\udc00": ["\ud800", "ok", ("\ud83d\ude00",), 1]})) == {
        "a\ufffd": ["\ufffd", "ok", ["😀"], 1]
    }


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadRequest("m", field="f"), "invalid_request_error"),
        (NotFound("m"), "invalid_request_error"),
        (NotAllowed("m"), "authentication_error"),
        (NotAllowed("m", status=403), "permission_error"),
        (Overloaded("m"), "rate_limit_error"),
        (TargetFailed("m"), "server_error"),
        (StorageFull("m"), "server_error"),
    ],
)
def test_errors_have_openais_form(error: HostError, kind: str) -> None:
    assert error_body(error) == {"error": {"message": "m", "type": kind, "param": error.field, "code": error.code}}


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (BadRequest("m"), {}),
        (Overloaded("m"), {}),
        (Overloaded("m", retry_after=1.25), {"retry-after": "2", "retry-after-ms": "1250"}),
        (Conflicting("m"), {"x-should-retry": "false"}),
        (TargetFailed("m"), {"x-should-retry": "false"}),
    ],
)
def test_sdks_are_told_whether_to_send_it_again(error: HostError, headers: dict[str, str]) -> None:
    assert error_headers(error) == headers
