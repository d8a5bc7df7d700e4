"""Requests: what is understood, what is refused, and by which name."""

from __future__ import annotations

import base64
import json
from typing import Any, get_args

import pytest
from agent_framework import Content, Message, validate_tool_mode
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseIncludable

from afactors_channels import ChannelIdentity, ResponseTarget
from afactors_channels.errors import BadRequest
from afactors_channels.responses import CreateRequest, decode_body, parse_create
from afactors_channels.responses.parse import fingerprint, idempotency_key
from afactors_channels.responses.settings import INCLUDABLE

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


def ask(value: Any = "hi", **fields: Any) -> CreateRequest:
    return parse_create({"model": "m", "input": value, **fields})


def one(item: Any) -> Message:
    [message] = ask([item]).input
    rebuilt = Message.from_dict(dict(message))
    assert rebuilt.to_dict() == message  # the serialized form is the framework's own
    return rebuilt


def part(content: dict[str, Any], role: str = "user") -> Content:
    [found] = one({"role": role, "content": [content]}).contents
    return found


def test_a_string_is_a_user_message() -> None:
    request = ask("hello")
    assert request.input == [Message("user", ["hello"]).to_dict()]
    assert (request.model, request.stream, request.store, request.background) == ("m", False, True, False)
    assert request.options == {}
    assert request.unknown == {}


@pytest.mark.parametrize("kind", [{}, {"type": "message"}])
@pytest.mark.parametrize(
    ("role", "framework"),
    [("user", "user"), ("assistant", "assistant"), ("system", "system"), ("developer", "system")],
)
def test_messages_with_and_without_a_type(kind: dict[str, str], role: str, framework: str) -> None:
    message = one({**kind, "role": role, "content": "x", "id": "msg_1", "status": "completed"})
    assert (message.role, message.text, message.message_id) == (framework, "x", "msg_1")
    assert message.additional_properties == ({"responses": {"role": role}} if role == "developer" else {})


def test_texts_and_refusals() -> None:
    assert part({"type": "input_text", "text": "a"}).text == "a"
    assert part({"type": "output_text", "text": "b", "annotations": [], "logprobs": []}, "assistant").text == "b"
    refused = part({"type": "refusal", "refusal": "no"}, "assistant")
    assert refused.text == "no"
    assert refused.additional_properties == {"core": {"model_output_kind": "refusal"}}
    noted = part({"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}})
    assert noted.additional_properties == {"responses": {"prompt_cache_breakpoint": {"mode": "explicit"}}}


def test_images() -> None:
    by_url = part({"type": "input_image", "image_url": "https://x.test/a.png?s=1", "detail": "low"})
    assert (by_url.type, by_url.uri, by_url.media_type) == ("uri", "https://x.test/a.png?s=1", "image/png")
    assert by_url.additional_properties["detail"] == "low"
    assert by_url.additional_properties["openai"] == {"content_type": "input_image", "image_detail": "low"}
    inline = part({"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "file_id": None})
    assert inline == Content.from_uri(
        f"data:image/png;base64,{PNG}", additional_properties={"openai": {"content_type": "input_image"}}
    )
    stored = part({"type": "input_image", "file_id": "file_1"})
    assert (stored.type, stored.file_id, stored.media_type) == ("hosted_file", "file_1", "image/*")


def test_files() -> None:
    raw = part({"type": "input_file", "file_data": PNG, "filename": "a.pdf"})
    assert (raw.type, raw.uri) == ("data", f"data:application/pdf;base64,{PNG}")
    assert (raw.name, raw.additional_properties["filename"]) == ("a.pdf", "a.pdf")
    uri = f"data:text/plain;charset=utf-8;base64,{PNG}"
    assert part({"type": "input_file", "file_data": uri}).media_type == "text/plain"
    assert part({"type": "input_file", "file_url": "https://x.test/b.csv"}).media_type == "text/csv"
    assert part({"type": "input_file", "file_id": "file_2"}).file_id == "file_2"


def test_a_model_turn_becomes_one_message_and_its_answers_another() -> None:
    request = ask([
        {"role": "user", "content": "weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "s"}],
         "content": [{"type": "reasoning_text", "text": "t"}], "encrypted_content": "xyz"},
        {"type": "message", "role": "assistant", "id": "msg_1", "content": [{"type": "output_text", "text": "let me"}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "get", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "get", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
        {"type": "function_call_output", "call_id": "c2",
         "output": [{"type": "input_text", "text": "rain"}, {"type": "input_image", "file_id": "f"}]},
    ])  # fmt: skip
    user, assistant, tool = (Message.from_dict(dict(message)) for message in request.input)
    assert [message.to_dict() for message in (user, assistant, tool)] == request.input
    summary, full, text, first, second = assistant.contents
    assert (summary.id, summary.text, summary.protected_data) == ("rs_1", "s", "xyz")
    assert full.additional_properties == {"openai": {"reasoning_text": True}}
    assert (text.text, assistant.message_id) == ("let me", "msg_1")
    assert (first.call_id, first.name, first.additional_properties) == ("c1", "get", {"responses": {"id": "fc_1"}})
    assert (second.call_id, second.arguments) == ("c2", '{"a":1}')
    assert tool.role == "tool"
    assert tool.contents[0] == Content.from_function_result("c1", result="sun")
    assert [item.type for item in tool.contents[1].items or ()] == ["text", "hosted_file"]
    assert tool.contents[1].result == "rain"


def test_messages_of_different_turns_stay_apart() -> None:
    roles = [message["role"] for message in ask([{"role": "assistant", "content": "a"}] * 2).input]
    assert roles == ["assistant", "assistant"]


def test_encrypted_reasoning_without_text() -> None:
    [content] = one({"type": "reasoning", "summary": [], "encrypted_content": "e"}).contents
    assert (content.text, content.protected_data) == ("", "e")


def test_an_image_that_a_response_made_can_be_sent_again() -> None:
    message = one({"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "AAAA"})
    [content] = message.contents
    assert (message.role, content.type, content.outputs.uri) == (
        "assistant", "image_generation_tool_result", "data:image/png;base64,AAAA",
    )  # fmt: skip


def test_options_have_the_frameworks_names() -> None:
    request = ask(
        temperature=1, top_p=0.5, max_output_tokens=5, presence_penalty=-2, frequency_penalty=2, user="u", seed=3,
        stop=["a"], parallel_tool_calls=False, instructions="be brief", reasoning={"effort": "low"},
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"},
        metadata={"k": "v"}, model="gpt", safety_identifier="s", truncation="auto", service_tier="flex",
    )  # fmt: skip
    assert request.options == {
        "temperature": 1.0, "top_p": 0.5, "max_tokens": 5, "presence_penalty": -2.0, "frequency_penalty": 2.0,
        "user": "u", "seed": 3, "stop": ["a"], "allow_multiple_tool_calls": False, "instructions": "be brief",
        "reasoning": {"effort": "low"}, "verbosity": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": False},
        },
    }  # fmt: skip
    assert request.metadata == {"k": "v"}


@pytest.mark.parametrize(
    ("fields", "expected"), [({}, {}), ({"store": True}, {}), ({"store": False}, {"store": False})]
)
def test_only_a_refusal_to_store_is_passed_on(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert ask(**fields).options == expected


TOOL = {"type": "function", "name": "get", "description": None, "parameters": None, "strict": None}


def test_tools() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    request = ask(tools=[TOOL, {"type": "function", "name": "b", "parameters": schema, "strict": True}])
    assert request.client_tools == {"get", "b"}
    assert request.tools == [
        {"type": "function", "name": "get", "description": "", "parameters": {"type": "object", "properties": {}}},
        {"type": "function", "name": "b", "description": "", "parameters": schema, "strict": True},
    ]
    assert request.echo["tools"][0] == TOOL


@pytest.mark.parametrize(
    ("choice", "mode"),
    [
        ("auto", {"mode": "auto"}),
        ("none", {"mode": "none"}),
        ("required", {"mode": "required"}),
        ({"type": "function", "name": "get"}, {"mode": "required", "required_function_name": "get"}),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get"}]},
            {"mode": "required", "allowed_tools": ["get"]},
        ),
        ({"type": "allowed_tools", "tools": []}, {"mode": "auto", "allowed_tools": []}),
        ({"type": "allowed_tools", "mode": "none", "tools": []}, {"mode": "none"}),
    ],
)
def test_tool_choices_are_the_frameworks(choice: Any, mode: Any) -> None:
    assert validate_tool_mode(ask(tools=[TOOL], tool_choice=choice).options["tool_choice"]) == mode


def test_null_is_not_given_and_unknown_fields_are_kept() -> None:
    request = ask(temperature=None, tools=None, metadata=None, prompt={"id": "p"}, extra=None)
    assert request.options == {}
    assert request.unknown == {"prompt": {"id": "p"}, "extra": None}


def test_a_response_in_the_background_is_stored() -> None:
    for stored in ({}, {"store": True}, {"store": None}):
        request = ask(background=True, **stored)
        assert (request.background, request.echo["background"]) == (True, True)
    assert ask(background=False, store=False).background is False


def test_what_may_be_included_is_what_openai_knows() -> None:
    known = list(get_args(ResponseIncludable))
    assert sorted(known) == sorted(INCLUDABLE)
    assert ask(include=known).include == known
    with pytest.raises(BadRequest, match=r"'everything'.*reasoning\.encrypted_content"):
        ask(include=["everything"])


def test_conversations() -> None:
    assert ask(conversation="conv_1").conversation_id == "conv_1"
    request = ask(conversation={"id": "conv_1"})
    assert (request.conversation_id, request.echo["conversation"]) == ("conv_1", {"id": "conv_1"})


CALL = {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": 3}, "input"),
    ({"input": "\ud800"}, "input"),
    ({"input": ["x"]}, "input[0]"),
    ({"input": [{}]}, "input[0].role"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": ["user"], "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": ["x"]}]}, "input[0].content[0]"),
    ({"input": [{"role": "user", "content": [{"type": "x"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": [{"type": ["x"]}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
    ({"input": [{"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": "x", "id": "a\0b"}]}, "input[0].id"),
    ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ({"input": [{"id": "x"}]}, "input[0].type"),
    ({"input": [CALL, {**CALL, "call_id": None}]}, "input[1].call_id"),
    ({"input": [{**CALL, "name": "a b"}]}, "input[0].name"),
    ({"input": [{**CALL, "name": "a\n"}]}, "input[0].name"),
    ({"input": [{**CALL, "arguments": {}}]}, "input[0].arguments"),
    ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
    (
        {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image"}]}]},
        "input[0].output[0]",
    ),
    ({"input": [{"type": "reasoning", "summary": [{"type": "x"}]}]}, "input[0].summary[0].type"),
    ({"input": [{"type": "reasoning", "summary": [], "encrypted_content": 1}]}, "input[0].encrypted_content"),
    ({"input": [{"type": "image_generation_call", "id": "ig_1", "result": None}]}, "input[0].result"),
    ({"input": [{"type": "image_generation_call", "result": "?"}]}, "input[0].result"),
    (
        {"input": [{"type": "image_generation_call", "result": "AA==", "output_format": "bmp"}]},
        "input[0].output_format",
    ),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": 10**400}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": 1.5}, "max_output_tokens"),
    ({"max_output_tokens": 2**63}, "max_output_tokens"),
    ({"max_tool_calls": 0}, "max_tool_calls"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"stream": 1}, "stream"),
    ({"store": "yes"}, "store"),
    ({"background": 1}, "background"),
    ({"background": True, "store": False}, "background"),
    ({"model": ""}, "model"),
    ({"model": {}}, "model"),
    ({"instructions": ["x"]}, "instructions"),
    ({"truncation": "some"}, "truncation"),
    ({"metadata": []}, "metadata"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"metadata": {"a" * 65: "b"}}, "metadata"),
    ({"metadata": {"a": "b" * 513}}, "metadata"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ({"include": "x"}, "include"),
    ({"include": [1]}, "include[0]"),
    ({"include": ["reasoning.encrypted_content", "everything"]}, "include[1]"),
    ({"safety_identifier": "s" * 65}, "safety_identifier"),
    ({"prompt_cache_key": 1}, "prompt_cache_key"),
    ({"previous_response_id": ""}, "previous_response_id"),
    ({"previous_response_id": "a\0"}, "previous_response_id"),
    ({"previous_response_id": "\ud800"}, "previous_response_id"),
    ({"previous_response_id": "r" * 257}, "previous_response_id"),
    ({"previous_response_id": "r", "conversation": "c"}, "previous_response_id"),
    ({"conversation": {}}, "conversation.id"),
    ({"conversation": {"id": 1}}, "conversation.id"),
    ({"reasoning": {"effort": "lots"}}, "reasoning.effort"),
    ({"reasoning": "low"}, "reasoning"),
    ({"text": {"format": {}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
    ({"text": {"verbosity": 1}}, "text.verbosity"),
    ({"stream_options": {"include_obfuscation": 1}}, "stream_options.include_obfuscation"),
    ({"tools": {}}, "tools"),
    ({"tools": [TOOL, {"type": "web_search"}]}, "tools[1].type"),
    ({"tools": [{**TOOL, "name": "a" * 65}]}, "tools[0].name"),
    ({"tools": [{**TOOL, "parameters": []}]}, "tools[0].parameters"),
    ({"tools": [{**TOOL, "strict": 1}]}, "tools[0].strict"),
    ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    ({"tools": [TOOL] * 129}, "tools"),
    ({"tool_choice": "maybe"}, "tool_choice"),
    ({"tool_choice": 1}, "tool_choice"),
    ({"tool_choice": {"type": "mcp"}}, "tool_choice.type"),
    ({"tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "x"}]}},
        "tool_choice.tools[0].name",
    ),
    ({"stop": ["a"] * 5}, "stop"),
    ({"response_target": "everybody"}, "response_target"),
    ({"response_target": 7}, "response_target"),
    ({"response_target": {}}, "response_target"),
    ({"response_target": "none"}, "response_target"),
    ({"response_target": {"kind": "none"}, "background": False}, "response_target"),
    ({"response_target": {"channel": "a", "channels": ["b"]}}, "response_target"),
    ({"response_target": {"channel": 7}}, "response_target.channel"),
    ({"response_target": {"channel": "a", "echo_input": 1}}, "response_target.echo_input"),
    ({"response_target": {"channel": "a", "echo": True}}, "response_target.echo"),
    ({"response_target": {"channels": []}}, "response_target.channels"),
    ({"response_target": {"channels": ["a"] * 17}}, "response_target.channels"),
    ({"response_target": {"channels": ["a", ""]}}, "response_target.channels[1]"),
    ({"response_target": {"identities": [{"channel": "a"}]}}, "response_target.identities[0].native_id"),
    (
        {"response_target": {"identities": [{"channel": "a", "native_id": "b", "verified": True}]}},
        "response_target.identities[0].verified",
    ),
    (
        {"response_target": {"identities": [{"channel": "a", "native_id": "b", "conversation": 7}]}},
        "response_target.identities[0].conversation",
    ),
    ({"seed": "x"}, "seed"),
]


TARGETS: list[tuple[Any, ResponseTarget]] = [
    (None, ResponseTarget.originating),
    ("active", ResponseTarget.active),
    ("none", ResponseTarget.none),
    ({"kind": "all_linked", "echo_input": True}, ResponseTarget("all_linked", echo_input=True)),
    ({"channel": "telegram", "channels": None}, ResponseTarget.channel("telegram")),
    ({"channels": ["a", "b"], "echo_input": True}, ResponseTarget("channels", ["a", "b"], echo_input=True)),
    (
        {"identities": [{"channel": "telegram", "native_id": "7", "conversation": "-100:5"}]},
        ResponseTarget.identity(ChannelIdentity("telegram", "7", conversation="-100:5")),
    ),
]


@pytest.mark.parametrize(("wanted", "target"), TARGETS)
def test_response_targets(wanted: Any, target: ResponseTarget) -> None:
    made = parse_create({"input": "x", "background": True, "response_target": wanted})
    found = made.response_target
    assert (found.kind, list(found.names), list(found.to), found.echo_input) == (
        target.kind, list(target.names), list(target.to), target.echo_input
    )  # fmt: skip
    assert not any(identity.verified for identity in found.to)
    assert made.unknown == {}


@pytest.mark.parametrize(("fields", "path"), REFUSED)
def test_refusals_name_the_field(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_create({"model": "m", "input": "x", **fields})
    assert caught.value.field == path
    assert path in caught.value.message
    assert caught.value.status == 400


def image(url: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [{"type": "input_text", "text": ""},
                                                   {"type": "input_image", "image_url": url}]}]}  # fmt: skip


@pytest.mark.parametrize(
    "url",
    ["", "x", "file:///etc/passwd", "http://a b", "https://a\nb", "data:", "data:image/png,a", "data:image/a;base64,?",
     f"data:text/plain;base64,{PNG}", f"data:image/png;odd;base64,{PNG}", 7, "https://" + "x" * 9000],
)  # fmt: skip
def test_bad_addresses_are_refused(url: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_create(image(url))
    assert caught.value.field == "input[0].content[1].image_url"


def test_exactly_one_source() -> None:
    with pytest.raises(BadRequest, match=r"input\[0\].content\[0\]"):
        ask([{"role": "user", "content": [{"type": "input_file", "file_id": "f", "file_url": "https://x.test"}]}])


@pytest.mark.parametrize("body", [None, [], "x", 1])
def test_a_body_is_an_object(body: Any) -> None:
    with pytest.raises(BadRequest):
        parse_create(body)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"\xff", b'{"a":"\\ud800"}', b'{"a":NaN}', b"[" * 100_000, b"1" * 5000, b'{"a":1e999}']
)
def test_bodies_that_are_not_json_objects(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        decode_body(raw)


def test_a_good_body() -> None:
    assert decode_body('{"input": "ü", "n": 1}'.encode()) == {"input": "ü", "n": 1}


@pytest.mark.parametrize("key", [None, "a", "!~", "k" * 256])
def test_idempotency_keys(key: str | None) -> None:
    assert idempotency_key(key) == key


@pytest.mark.parametrize("key", ["", " ", "a b", "k" * 257, "caf\xe9", "a\n", "\x7f"])
def test_bad_idempotency_keys_are_refused(key: str) -> None:
    with pytest.raises(BadRequest, match="256") as caught:
        idempotency_key(key)
    assert (caught.value.field, caught.value.status) == ("Idempotency-Key", 400)


def test_a_fingerprint_is_of_what_is_said() -> None:
    body = {"input": [{"role": "user", "content": "ü"}], "temperature": 1, "n": 10**30}
    turned = dict(reversed(body.items())) | {"input": [{"content": "ü", "role": "user"}]}
    assert fingerprint(turned) == fingerprint(body)
    for other in ({"stream": True}, {"input": "ü"}, {"temperature": 2}, {"n": None}):
        assert fingerprint({**body, **other}) != fingerprint(body)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = [
    "type",
    "role",
    "content",
    "id",
    "status",
    "text",
    "refusal",
    "image_url",
    "file_id",
    "file_data",
    "file_url",
    "filename",
    "detail",
    "call_id",
    "name",
    "arguments",
    "output",
    "summary",
    "encrypted_content",
    "effort",
    "format",
    "verbosity",
    "schema",
    "strict",
    "parameters",
    "mode",
    "tools",
]
WORDS = [
    "message",
    "function_call",
    "function_call_output",
    "reasoning",
    "item_reference",
    "input_text",
    "output_text",
    "input_image",
    "input_file",
    "refusal",
    "summary_text",
    "reasoning_text",
    "user",
    "assistant",
    "system",
    "developer",
    "function",
    "allowed_tools",
    "json_schema",
    "text",
    "low",
]
likely = st.recursive(
    st.sampled_from(WORDS) | anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=20,
)
FIELDS = [
    "background",
    "conversation",
    "frequency_penalty",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "metadata",
    "model",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "reasoning",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
    "whatever",
]


def understood(body: dict[str, Any]) -> CreateRequest | BadRequest:
    try:
        return parse_create(body)
    except BadRequest as error:
        return error


@settings(max_examples=600, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), likely, max_size=5), likely)
def test_any_body_is_understood_or_refused(body: dict[str, Any], value: Any) -> None:
    for attempt in ({"input": "x", **body}, {**body, "input": value}, {**body, "input": [value]}):
        found = understood(attempt)
        if isinstance(found, BadRequest):
            assert found.status == 400
            assert found.field
            found.message.encode()
        else:
            for message in found.input:
                assert Message.from_dict(dict(message)).to_dict() == message
                json.dumps(message).encode()
