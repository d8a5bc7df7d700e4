"""Messages as items again: the input of a response, and the history of a conversation."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from agent_framework import Annotation, Content, Message
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.conversations import ConversationItem
from openai.types.responses import CompactedResponse, ResponseItem
from pydantic import TypeAdapter

from afactors_channels.errors import BadRequest
from afactors_channels.responses import item_id, parse_create
from afactors_channels.responses.compaction import parse_compact, render_compaction
from afactors_channels.responses.ids import input_item_id
from afactors_channels.responses.items import parse_input
from afactors_channels.responses.settings import ENCRYPTED, INCLUDABLE, LOGPROBS
from afactors_channels.responses.stored_items import history_items, input_items, item_place

RESPONSE_ID = "resp_" + "ab" * 24
PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
RESPONSE_ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)
CONVERSATION_ITEM: TypeAdapter[Any] = TypeAdapter(ConversationItem)


def again(value: Any, **fields: Any) -> list[dict[str, Any]]:
    """What comes out of what went in, without the ids that the client did not give."""
    shown = input_items(parse_create({"input": value}).input, RESPONSE_ID, **fields)
    names = [item["id"] for item in shown]
    assert len(set(names)) == len(names)
    return [without_derived_id(item) for item in shown]


def without_derived_id(item: dict[str, Any]) -> dict[str, Any]:
    derived = f"_{'ab' * 24}in" in item["id"]
    return {name: value for name, value in item.items() if name != "id"} if derived else item


# --- the input of a response ---------------------------------------------------------------------------------


def test_a_string_is_one_message() -> None:
    assert input_items(parse_create({"input": "hello"}).input, RESPONSE_ID) == [
        {
            "type": "message",
            "id": "msg_" + "ab" * 24 + "in0000",
            "role": "user",
            "status": "completed",
            "content": [{"type": "input_text", "text": "hello"}],
        }
    ]


def test_derived_ids_are_not_those_of_the_output() -> None:
    names = {input_item_id("msg", RESPONSE_ID, index) for index in range(300)}
    assert not names & {item_id("msg", RESPONSE_ID, index) for index in range(0x20000)}
    assert len(input_item_id("fco", RESPONSE_ID, 65535)) <= 64


ITEMS: list[dict[str, Any]] = [
    {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "be kind"}]},
    {"type": "message", "role": "system", "id": "msg_s", "content": [{"type": "input_text", "text": "be brief"}]},
    {"type": "message", "role": "user", "name": "me", "content": [
        {"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}},
        {"type": "input_image", "image_url": "https://x.test/a.png", "detail": "low"},
        {"type": "input_image", "image_url": PNG, "detail": "auto"},
        {"type": "input_image", "file_id": "file_1", "detail": "auto"},
        {"type": "input_file", "file_url": "https://x.test/b.csv"},
        {"type": "input_file", "file_id": "file_2", "filename": "c.txt", "detail": "high"},
        {"type": "input_file", "file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"},
    ]},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "s"}],
     "content": [{"type": "reasoning_text", "text": "t"}], "encrypted_content": "xyz"},
    {"type": "reasoning", "id": "rs_2", "summary": [], "content": [], "encrypted_content": "sealed"},
    {"type": "message", "role": "assistant", "id": "msg_1", "content": [
        {"type": "output_text", "text": "let me", "annotations": [], "logprobs": []},
        {"type": "refusal", "refusal": "or not"},
    ]},
    {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "get", "arguments": "{}"},
    {"type": "function_call", "call_id": "c2", "name": "get", "arguments": "", "namespace": "n"},
    {"type": "function_call_output", "id": "fco_1", "call_id": "c1", "output": "sun"},
    {"type": "function_call_output", "call_id": "c2", "output": [
        {"type": "input_text", "text": "rain"}, {"type": "input_image", "file_id": "f", "detail": "auto"},
    ]},
    {"type": "message", "role": "assistant", "phase": "final_answer", "content": [
        {"type": "output_text", "text": "x", "annotations": [{"type": "file_path", "file_id": "f", "index": 0}],
         "logprobs": []},
    ]},
    {"type": "image_generation_call", "id": "ig_1", "result": "AAAA", "output_format": "webp"},
    {"type": "message", "role": "user", "content": []},
]  # fmt: skip


def test_what_was_joined_comes_apart() -> None:
    assert again(ITEMS, include=INCLUDABLE) == [{**item, "status": "completed"} for item in ITEMS]
    for item in input_items(parse_input(ITEMS), RESPONSE_ID):
        RESPONSE_ITEM.validate_python(item)
        CONVERSATION_ITEM.validate_python(item)


def test_what_is_sealed_is_shown_to_those_who_ask() -> None:
    shown = {item["id"]: item for item in input_items(parse_input(ITEMS), RESPONSE_ID)}
    assert "encrypted_content" not in shown["rs_1"]


def test_an_id_that_was_given_twice_is_shown_once() -> None:
    hello = {"type": "message", "role": "user", "id": "msg_1", "content": "hello"}
    shown = input_items(parse_input([hello, hello]), RESPONSE_ID)
    assert [item["id"] for item in shown] == ["msg_1", input_item_id("msg", RESPONSE_ID, 1)]


def test_raw_file_data_comes_back_with_its_type() -> None:
    part = {"type": "input_file", "file_data": "AAAA", "filename": "a.pdf"}
    [shown] = again([{"role": "user", "content": [part]}])
    assert shown["content"] == [{**part, "file_data": "data:application/pdf;base64,AAAA"}]


# --- any input ---------------------------------------------------------------------------------------------------

words = st.sampled_from(["", "a", "bc\n", "ü"])
extra = st.dictionaries(st.sampled_from(["x", "phase", "created_by"]), st.sampled_from([1, "y", [0], {}]), max_size=1)
detail = st.sampled_from([{}, {"detail": None}, {"detail": "auto"}, {"detail": "low"}])
filename = st.sampled_from([{}, {"filename": "a.pdf"}, {"filename": "b"}])


def built(kind: str, given: dict[str, Any], *more: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[Any]:
    return st.tuples(*more).map(
        lambda found: {"type": kind, **given, **{k: v for each in found for k, v in each.items()}}
    )


def member(name: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return values.map(lambda value: {name: value})


texts = st.sampled_from(["input_text", "output_text", "text"]).flatmap(
    lambda kind: built(kind, {}, member("text", words), extra)
)
images = st.sampled_from([{"image_url": "https://x.test/a.png"}, {"image_url": PNG}, {"file_id": "f"}]).flatmap(
    lambda source: built("input_image", source, detail, extra)
)
files = st.sampled_from(
    [
        {"file_url": "https://x.test/a"},
        {"file_data": "AAAA"},
        {"file_data": "DATA:Text/Plain;base64,AA=="},
        {"file_id": "f"},
    ]
).flatmap(lambda source: built("input_file", source, detail, filename, extra))
parts = st.lists(texts | images | files, max_size=3) | words
answers = st.lists(texts | images | built("refusal", {}, member("refusal", words), extra), max_size=3) | words
thoughts = st.fixed_dictionaries(
    {},
    optional={
        "summary": st.lists(built("summary_text", {}, member("text", words)), max_size=2),
        "content": st.lists(built("reasoning_text", {}, member("text", words)), max_size=2),
        "encrypted_content": words,
    },
)
call_ids = member("call_id", st.sampled_from(["c1", "c2"]))
roles = member("role", st.sampled_from(["user", "system", "developer"]))
items = st.one_of(
    built("message", {}, roles, member("content", parts), extra),
    built("message", {"role": "assistant"}, member("content", answers), extra),
    built("message", {"role": "assistant"}, member("content", answers)),
    built("function_call", {"name": "get"}, call_ids, member("arguments", words), extra),
    built("function_call_output", {}, call_ids, member("output", parts), extra),
    built("reasoning", {}, thoughts, extra),
    built("reasoning", {}, thoughts),
    built("image_generation_call", {"result": "AAAA"}, extra | st.just({"output_format": "webp"})),
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(items, min_size=1, max_size=7), st.data())
def test_any_input_is_shown_as_it_came(given_items: list[dict[str, Any]], data: st.DataObject) -> None:
    named = data.draw(st.sets(st.integers(0, 6)))
    sent = [{**item, "id": f"rs_{at}"} if at in named else item for at, item in enumerate(given_items)]
    messages = parse_input(sent)
    shown = again(sent, include=INCLUDABLE)
    assert parse_input(shown) == messages
    for message in messages:
        assert Message.from_dict(dict(message)).to_dict() == message


# --- the history of a conversation ---------------------------------------------------------------------------------

SEEN = Annotation(type="citation", url="https://x.test", title="t")
LIKELY = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}


def history() -> list[dict[str, Any]]:
    call = Content.from_function_call("c1", "search", arguments={"q": "x"})
    hosted = Content.from_function_call("h1", "inside", arguments="{}", hosted=True)
    made = Content.from_image_generation_tool_result(
        image_id="i",
        outputs=[
            Content.from_uri("data:image/png;base64,BBBB", additional_properties={"is_partial_image": True}),
            Content.from_uri("data:image/png;base64,AAAA"),
        ],
    )
    said = Content.from_text("a", annotations=[SEEN], additional_properties={"openai": {"logprobs": [LIKELY]}})
    refused = Content.from_text("no", additional_properties={"core": {"model_output_kind": "refusal"}})
    messages = [
        Message("system", ["be kind"], message_id="m0"),
        Message("user", ["hello", Content.from_uri("https://x.test/a.png", media_type="image/png")], message_id="m1"),
        Message(
            "assistant",
            [Content.from_text_reasoning(id="rs_p", text="hm", protected_data="sealed"), "let me", call, hosted],
            message_id="m2",
        ),
        Message(
            "tool",
            [Content.from_function_result("c1", result="found"), Content.from_function_result("h1", result="in")],
            message_id="m3",
        ),
        Message("assistant", [said, refused, made, Content.from_usage({"input_token_count": 1})], message_id="m4"),
        Message("assistant", ["again", Content.from_text_reasoning(id="x", text=None)], message_id="m5"),
        Message("assistant", ["again"], message_id="m6"),
    ]
    return [message.to_dict() for message in messages]


def test_a_history() -> None:
    shown = history_items(history(), include=[ENCRYPTED, LOGPROBS])
    for item in shown:
        CONVERSATION_ITEM.validate_python(item)
    assert [item["id"].split("_")[0] for item in shown] == [
        "msg", "msg", "rs", "msg", "fc", "fco", "msg", "ig", "msg", "rs", "msg",
    ]  # fmt: skip
    system, user, thought, _, call, output, answer, image, _, empty, _ = shown
    assert (system["role"], user["role"]) == ("system", "user")
    assert [part["type"] for part in user["content"]] == ["input_text", "input_image"]
    assert (thought["id"], thought["encrypted_content"], empty["summary"]) == ("rs_p", "sealed", [])
    assert (call["name"], call["arguments"], output["output"]) == ("search", '{"q": "x"}', "found")
    text, refusal = answer["content"]
    assert (text["annotations"][0]["url"], text["logprobs"]) == ("https://x.test", [LIKELY])
    assert refusal == {"type": "refusal", "refusal": "no"}
    assert image["result"] == "AAAA"
    bare = history_items(history())
    assert "encrypted_content" not in bare[2]
    assert bare[6]["content"][0]["logprobs"] == []
    assert [item["id"] for item in bare] == [item["id"] for item in shown]


def remove(messages: list[dict[str, Any]], place: tuple[str, list[int]]) -> list[dict[str, Any]]:
    name, indexes = place
    left = []
    for message in messages:
        contents = [c for at, c in enumerate(message["contents"]) if message["message_id"] != name or at not in indexes]
        if contents or (message["message_id"] != name):
            left.append({**message, "contents": contents})
    return left


@pytest.mark.parametrize("index", range(11))
def test_taking_an_item_out_leaves_the_others_as_they_were(index: int) -> None:
    messages = history()
    before = history_items(messages)
    place = item_place(messages, before[index]["id"])
    assert place is not None
    after = history_items(remove(messages, place))
    assert [item["id"] for item in after] == [item["id"] for at, item in enumerate(before) if at != index]
    assert item_place(remove(messages, place), before[index]["id"]) is None


def test_places() -> None:
    messages = history()
    names = [item["id"] for item in history_items(messages)]
    assert item_place(messages, names[1]) == ("m1", [0, 1])
    assert item_place(messages, names[3]) == ("m2", [1])
    assert item_place(messages, names[6]) == ("m4", [0, 1])
    assert item_place(messages, "msg_none") is None
    assert item_place([{**messages[0], "message_id": None}], names[0]) is None
    empty = {"type": "message", "role": "user", "contents": [], "message_id": "e", "additional_properties": {}}
    assert item_place([empty], history_items([empty])[0]["id"]) == ("e", [])


@settings(max_examples=200, deadline=None)
@given(st.lists(items, min_size=1, max_size=7))
def test_any_history_has_items_of_different_names(given_items: list[dict[str, Any]]) -> None:
    messages = [{**message, "message_id": f"m{at // 2}"} for at, message in enumerate(parse_input(given_items))]
    shown = history_items(messages)
    names = [item["id"] for item in shown]
    assert len(set(names)) == len(names)
    for name in names:
        assert item_place(messages, name) is not None


def test_what_the_protocol_has_no_word_for_is_left_out() -> None:
    odd = [
        Content.from_error(message="x"),
        Content.from_mcp_server_tool_call(call_id="m", tool_name="t"),
        Content.from_hosted_file("f"),
        Content.from_uri("data:text/plain;base64,AAAA"),
    ]
    [item] = history_items([Message("assistant", odd, message_id="m").to_dict()])
    assert item["content"][0]["text"] == "data:text/plain;base64,AAAA"
    assert history_items([Message("assistant", odd[:3], message_id="m").to_dict()]) == []
    results = [
        {"type": "function_result", "call_id": "c", "result": {"a": 1}},
        {"type": "function_result", "call_id": "c"},
        {"type": "function_result", "call_id": "c", "items": []},
    ]
    shown = history_items([{"type": "message", "role": "tool", "contents": results, "message_id": "m"}])
    assert [item["output"] for item in shown] == ['{"a": 1}', "", []]
    [strange] = history_items([Message("narrator", ["once"], message_id="m").to_dict()])
    assert strange["role"] == "unknown"


# --- compaction -----------------------------------------------------------------------------------------------------


def test_what_was_compacted_can_be_sent() -> None:
    messages = [Message.from_dict(message) for message in history()]
    shown = render_compaction(messages, response_id=RESPONSE_ID, created_at=5)
    assert (shown["id"], shown["object"], shown["created_at"]) == (RESPONSE_ID, "response.compaction", 5)
    assert shown["usage"]["total_tokens"] == 0
    assert shown["output"][2]["encrypted_content"] == "sealed"
    CompactedResponse.model_validate({**shown, "output": shown["output"][2:5]})  # OpenAI's own has no user messages
    sent = [message["role"] for message in parse_input(shown["output"])]
    assert sent == ["system", "user", "assistant", "tool", "assistant"]
    used = render_compaction(
        messages, response_id=RESPONSE_ID, created_at=5, usage={"input_token_count": 3, "output_token_count": 1}
    )
    assert used["usage"]["total_tokens"] == 4


def test_what_is_to_be_compacted() -> None:
    asked = parse_compact({"model": "m", "input": "x", "instructions": "i", "previous_response_id": "r", "other": 1})
    assert (asked.model, asked.instructions, asked.previous_response_id) == ("m", "i", "r")
    assert asked.input == parse_input("x")
    assert parse_compact({"model": "m", "input": None}).input == ()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "model"),
        ({"model": ""}, "model"),
        ({"model": "m", "input": []}, "input"),
        ({"model": "m", "instructions": 1}, "instructions"),
        ({"model": "m", "previous_response_id": ""}, "previous_response_id"),
    ],
)
def test_bad_compactions_are_refused(body: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_compact(body)
    assert caught.value.field == field
