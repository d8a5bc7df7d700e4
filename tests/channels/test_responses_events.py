"""Streams: the order of events, and what of a run appears in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from agent_framework import AgentResponse, AgentResponseUpdate, Annotation, Content, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from afactors_channels.responses import EventStream, encode_event, parse_create, render_response
from afactors_channels.responses.presentation import presentation, skeleton
from afactors_channels.responses.settings import INCLUDABLE

RESPONSE_ID = "resp_" + "ab" * 24
SUFFIX = "ab" * 24
TOOLS = [{"type": "function", "name": name} for name in ("get", "put")]
Read = Callable[[list[dict[str, Any]]], dict[str, Any]]


def begun() -> dict[str, Any]:
    request = parse_create({"input": "x", "model": "m", "tools": TOOLS, "metadata": {"a": "b"}})
    return skeleton(presentation(request, model="target"), response_id=RESPONSE_ID, created_at=100)


def open_stream() -> tuple[EventStream, list[dict[str, Any]]]:
    stream = EventStream(begun(), client_tools={"get", "put"}, include=INCLUDABLE)
    return stream, stream.begin()


def encoded(events: list[dict[str, Any]]) -> bytes:
    return b"".join(map(encode_event, events))


def says(*contents: Content, role: str | None = "assistant", **fields: Any) -> AgentResponseUpdate:
    return AgentResponseUpdate(contents=list(contents), role=role, **fields)


def text(value: str, **fields: Any) -> Content:
    return Content.from_text(value, **fields)


def thought(value: str | None, **fields: Any) -> Content:
    return Content.from_text_reasoning(text=value, **fields)


def call(call_id: str, name: str, arguments: Any = None, **fields: Any) -> Content:
    return Content.from_function_call(call_id, name, arguments=arguments, **fields)


def run(*updates: AgentResponseUpdate, result: AgentResponse | None = None) -> list[dict[str, Any]]:
    stream, events = open_stream()
    for update in updates:
        events += stream.feed([update])
    return events + stream.complete(result, completed_at=101)


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_the_order_of_a_plain_answer(read: Read) -> None:
    events = run(says(text("Hel")), says(text("lo")), says(text("")))
    assert types(events) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    response = read(events)
    assert (response["status"], response["completed_at"], response["created_at"]) == ("completed", 101, 100)
    assert response["output"] == [
        {
            "type": "message",
            "id": f"msg_{SUFFIX}0000",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}],
        }
    ]


def test_an_empty_run(read: Read) -> None:
    assert read(run())["output"] == []


def test_reasoning_then_text_then_calls(read: Read) -> None:
    full = {"additional_properties": {"openai": {"reasoning_text": True}}}
    response = read(
        run(
            says(thought("th", id="rs_p")),
            says(thought("ink", id="rs_p"), thought("deep", id="rs_p", **full)),
            says(thought("", id="rs_p", protected_data="enc")),
            says(text("let me see")),
            says(call("c1", "get", '{"a"')),
            says(call("c1", "get", ":1}")),
            says(call("c2", "put", "{}")),
            says(finish_reason="tool_calls"),
        )
    )
    reasoning, message, first, second = response["output"]
    assert reasoning["id"] == "rs_p"
    assert reasoning["summary"] == [{"type": "summary_text", "text": "think"}]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "deep"}]
    assert reasoning["encrypted_content"] == "enc"
    assert message["content"][0]["text"] == "let me see"
    assert (first["id"], first["call_id"], first["arguments"]) == (f"fc_{SUFFIX}0002", "c1", '{"a":1}')
    assert (second["id"], second["name"], second["arguments"]) == (f"fc_{SUFFIX}0003", "put", "{}")


def test_a_complete_call_ends_before_the_next_item_begins() -> None:
    events = run(says(call("c1", "get", "{}")), says(call("c2", "get", "{}")), says(text("x")))
    ends = [event["output_index"] for event in events if event["type"] == "response.output_item.done"]
    assert ends == [0, 1, 2]


def test_interleaved_calls(read: Read) -> None:
    fragments = [("c1", '{"a":'), ("c2", '{"b":'), ("c1", "1"), ("c2", "2}"), ("c1", "}")]
    events = run(*(says(call(call_id, "get", piece)) for call_id, piece in fragments))
    assert [item["arguments"] for item in read(events)["output"]] == ['{"a":1}', '{"b":2}']


def test_fragments_without_a_call_id_belong_to_the_last_call(read: Read) -> None:
    named = call("c1", "get", '{"a"')
    events = run(says(named), says(Content("function_call", arguments=":1}")))
    assert read(events)["output"][0]["arguments"] == '{"a":1}'


def test_a_name_may_come_late(read: Read) -> None:
    events = run(says(call("c1", "", "{")), says(call("c1", "get", "}")))
    assert [(item["name"], item["arguments"]) for item in read(events)["output"]] == [("get", "{}")]


@pytest.mark.parametrize(("arguments", "expected"), [(None, "{}"), ("", "{}"), ({"a": [1]}, '{"a": [1]}')])
def test_arguments_that_are_not_text(read: Read, arguments: Any, expected: str) -> None:
    assert read(run(says(call("c1", "get", arguments))))["output"][0]["arguments"] == expected


def test_calls_that_the_agent_executes_do_not_appear(read: Read) -> None:
    response = read(
        run(
            says(text("looking"), message_id="1"),
            says(call("c1", "search", "{}"), message_id="1"),
            says(Content.from_function_result("c1", result="secret"), role="tool"),
            says(text("found"), message_id="2"),
            says(call("c2", "get", "{}", hosted=True)),
            says(call("c3", "get", "{}", informational_only=True)),
        )
    )
    assert [item["content"][0]["text"] for item in response["output"]] == ["looking", "found"]
    assert "secret" not in json.dumps(response)


def test_a_call_id_that_is_used_again_is_another_call(read: Read) -> None:
    response = read(
        run(
            says(call("0", "search", "{}")),
            says(Content.from_function_result("0", result="x"), role="tool"),
            says(call("0", "search", "{}")),
            says(call("0", "get", '{"a":1}')),
        )
    )
    assert [(item["name"], item["arguments"]) for item in response["output"]] == [("get", '{"a":1}')]


def test_a_call_that_waits_for_the_caller_appears_whoever_declared_it(read: Read) -> None:
    pause = call("c1", "sign", None)
    pause.user_input_request = True
    response = read(run(says(call("c1", "sign", '{"a"')), says(call("c1", "sign", ":1}")), says(pause)))
    assert [(item["name"], item["arguments"]) for item in response["output"]] == [("sign", '{"a":1}')]


def test_a_pause_does_not_repeat_a_call(read: Read) -> None:
    pause = call("c1", "get", None)
    pause.user_input_request = True
    assert len(read(run(says(call("c1", "get", "{}")), says(text("x")), says(pause)))["output"]) == 2


def test_what_others_say_is_not_the_answer(read: Read) -> None:
    updates = [says(text(role), role=role) for role in ("user", "system", "tool", "assistant", "user")]
    [message] = read(run(*updates))["output"]
    assert message["content"][0]["text"] == "assistant"


@pytest.mark.parametrize(
    ("first", "second", "items"),
    [
        ({"message_id": "1"}, {"message_id": "2"}, 2),
        ({"message_id": "1"}, {"message_id": None}, 1),
        ({"author_name": "a"}, {"author_name": "b"}, 2),
        ({"role": None}, {"role": "assistant"}, 1),
    ],
)
def test_messages_are_told_apart_as_the_framework_does(
    read: Read, first: dict[str, Any], second: dict[str, Any], items: int
) -> None:
    assert len(read(run(says(text("a"), **first), says(text("b"), **second)))["output"]) == items
    merged = AgentResponse.from_updates([says(text("a"), **first), says(text("b"), **second)])
    assert len(merged.messages) == items


def test_refusals(read: Read) -> None:
    marked = {"additional_properties": {"core": {"model_output_kind": "refusal"}}}
    [message] = read(run(says(text("well")), says(text("no", **marked)), says(text("pe", **marked))))["output"]
    assert [part.get("refusal") for part in message["content"]] == [None, "nope"]


REPEATED = {"merge_mode": "replace"}


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([("a", None), ("b", None), ("ab", "replace")], ["ab"]),
        ([("ab", "replace")], ["ab"]),
        ([("a", None), ("ab", "replace"), ("ab", "replace")], ["ab"]),
        ([("a", None), ("abc", "replace")], ["abc"]),
        ([("a", None), ("a", "replace"), ("b", None), ("bc", "replace")], ["abc"]),
        ([("a", None), ("", "replace")], ["a"]),
        ([("a", None), ("x", "replace"), ("y", None)], ["a", "xy"]),
    ],
)
def test_repetitions_are_not_said_twice(read: Read, pieces: list[tuple[str, Any]], expected: list[str]) -> None:
    for make, found in (
        (text, lambda item: item["content"][0]["text"]),
        (lambda value, **mode: thought(value, id="rs_1", **mode), lambda item: item["summary"][0]["text"]),
    ):
        output = read(run(*(says(make(value, merge_mode=mode)) for value, mode in pieces)))["output"]
        assert [found(item) for item in output] == expected
        assert [item["status"] for item in output] == ["incomplete"] * (len(expected) - 1) + ["completed"]


def test_an_update_may_replace_its_message(read: Read) -> None:
    updates = [says(text("a")), says(text("ab"), merge_mode="replace")]
    assert read(run(*updates))["output"][0]["content"][0]["text"] == "ab"


@pytest.mark.parametrize(("whole", "expected"), [('{"a":1}', '{"a":1}'), ('{"b":2}', '{"a"')])
def test_repeated_arguments(read: Read, whole: str, expected: str) -> None:
    stream, events = open_stream()
    events += stream.feed([says(call("c1", "get", '{"a"')), says(call("c1", "get", whole, merge_mode="replace"))])
    events += stream.fail("server_error", "x")
    assert read(events)["output"][0]["arguments"] == expected


def test_annotations(read: Read) -> None:
    span = [{"type": "text_span", "start_index": 0, "end_index": 2}]
    url = Annotation(type="citation", url="https://x.test", title="t", annotated_regions=span)  # type: ignore[typeddict-item]
    file = Annotation(type="citation", file_id="f", url="a.pdf", additional_properties={"index": 3})
    path = Annotation(type="citation", file_id="g")
    boxed = Annotation(
        type="citation", file_id="h", url="b", annotated_regions=span, additional_properties={"container_id": "c"}  # type: ignore[typeddict-item]
    )  # fmt: skip
    useless = Annotation(type="citation", snippet="s")
    marks = [url, file, path, boxed, useless]
    response = read(run(says(text("hi", annotations=marks)), says(text("", annotations=marks))))
    found = response["output"][0]["content"][0]["annotations"]
    assert [annotation["type"] for annotation in found] == [
        "url_citation", "file_citation", "file_path", "container_file_citation",
    ]  # fmt: skip
    assert found[0] == {
        "type": "url_citation", "url": "https://x.test", "title": "t", "start_index": 0, "end_index": 2,
    }  # fmt: skip


def test_images_and_other_data(read: Read) -> None:
    png = Content.from_uri("data:image/png;base64,AAAA")
    partial = Content.from_uri("data:image/png;base64,BBBB", additional_properties={"is_partial_image": True})
    made = Content.from_image_generation_tool_result(image_id="i", outputs=[partial, png])
    link = Content.from_uri("https://x.test/a.pdf", media_type="application/pdf")
    output = read(run(says(text("see")), says(png), says(made), says(text("and")), says(link), says(text("!"))))[
        "output"
    ]
    assert [item["type"] for item in output] == ["message", "image_generation_call", "image_generation_call", "message"]
    assert [item["result"] for item in output[1:3]] == ["AAAA", "AAAA"]
    assert [part["text"] for part in output[3]["content"]] == ["and", "https://x.test/a.pdf", "!"]


def test_usage_and_finish_reason_from_the_updates(read: Read) -> None:
    usage = {"input_token_count": 3, "output_token_count": 4, "cache_read_input_token_count": 1}
    updates = [says(Content.from_usage(usage)), says(Content.from_usage(usage)), says(finish_reason="length")]
    response = read(run(says(text("cut"), finish_reason="stop"), *updates))
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["completed_at"] is None
    assert response["output"][0]["status"] == "incomplete"
    assert response["usage"] == {
        "input_tokens": 6, "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 8, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 14,
    }  # fmt: skip


def test_a_replaced_usage_replaces(read: Read) -> None:
    first, second = ({"input_token_count": n, "total_token_count": n} for n in (1, 5))
    events = run(says(Content.from_usage(first)), says(Content.from_usage(second, merge_mode="replace")))
    assert read(events)["usage"]["input_tokens"] == 5


def test_the_result_knows_better(read: Read) -> None:
    result = AgentResponse(
        messages=[Message("assistant", ["other"])],
        finish_reason="content_filter",
        usage_details={"input_token_count": 1, "output_token_count": 2, "total_token_count": 9},
    )
    response = read(run(says(text("streamed"), finish_reason="stop"), result=result))
    assert response["incomplete_details"] == {"reason": "content_filter"}
    assert response["usage"]["total_tokens"] == 9
    assert response["output"][0]["content"][0]["text"] == "streamed"


def test_a_result_that_was_never_streamed_is(read: Read) -> None:
    result = AgentResponse(messages=[Message("assistant", ["from a middleware"])])
    assert read(run(result=result))["output"][0]["content"][0]["text"] == "from a middleware"


def test_a_cut_call_is_incomplete_and_a_whole_one_is_not(read: Read) -> None:
    events = run(says(call("c1", "get", "{}")), says(call("c2", "get", '{"a')), says(finish_reason="length"))
    assert [item["status"] for item in read(events)["output"]] == ["completed", "incomplete"]


def test_failure_closes_what_is_open(read: Read) -> None:
    stream, events = open_stream()
    events += stream.feed([says(text("half a sen"))])
    events += stream.fail("server_error", "The run failed.")
    assert types(events)[-4:] == ["output_text.done", "content_part.done", "output_item.done", "failed"]
    response = read(events)
    assert response["error"] == {"code": "server_error", "message": "The run failed."}
    assert response["output"][0]["status"] == "incomplete"
    assert stream.response is response


@pytest.mark.parametrize(
    "misuse",
    [
        lambda stream: stream.feed([]),
        lambda stream: stream.complete(completed_at=1),
        lambda stream: [stream.begin(), stream.begin()],
        lambda stream: [stream.begin(), stream.fail("a", "b"), stream.complete(completed_at=1)],
    ],
)
def test_misuse_is_a_defect(misuse: Callable[[EventStream], Any]) -> None:
    with pytest.raises(RuntimeError):
        misuse(EventStream(begun()))


def test_events_are_not_changed_once_handed_out() -> None:
    stream, events = open_stream()
    before = encoded(events)
    later = stream.feed([says(text("a")), says(thought("b")), says(call("c", "get", "{"))])
    between = encoded(later)
    stream.complete(completed_at=1)
    assert encoded(events) == before
    assert encoded(later) == between


words = st.sampled_from(["", "a", "bc", "ü", "{", "}", '{"a":1}', "\n", "🙂"])
contents = st.one_of(
    st.builds(text, words, merge_mode=st.sampled_from([None, "append", "replace"])),
    st.builds(
        text, words, additional_properties=st.sampled_from([{}, {"model_output_kind": "refusal"}]),
        annotations=st.sampled_from([None, [Annotation(type="citation", url="https://x.test")]]),
    ),
    st.builds(
        thought, st.none() | words, id=st.sampled_from([None, "rs_1", "rs_2", "x"]),
        protected_data=st.sampled_from([None, "p"]), merge_mode=st.sampled_from([None, "replace"]),
        additional_properties=st.sampled_from([{}, {"reasoning_text": True}]),
    ),
    st.builds(
        call, st.sampled_from(["", "c1", "c2"]), st.sampled_from(["", "get", "put", "search"]),
        st.none() | words | st.just({"k": 1}), id=st.sampled_from([None, "o1", "o2"]),
        merge_mode=st.sampled_from([None, "replace"]), hosted=st.sampled_from([None, True]),
    ),
    st.builds(Content.from_function_result, st.sampled_from(["c1", "c2"]), result=words),
    st.builds(
        Content.from_uri, st.sampled_from(["data:image/png;base64,AA==", "data:text/plain,a", "https://x.test"]),
        media_type=st.just("image/png"),
    ),
    st.builds(Content.from_usage, st.just({"input_token_count": 1}), merge_mode=st.sampled_from([None, "replace"])),
    st.builds(Content.from_error, message=words),
    st.builds(Content.from_hosted_file, st.just("f")),
    st.builds(Content.from_mcp_server_tool_call, call_id=st.just("m"), tool_name=st.just("t")),
)  # fmt: skip
some_updates = st.builds(
    AgentResponseUpdate,
    contents=st.lists(contents, max_size=3),
    role=st.sampled_from([None, "assistant", "assistant", "assistant", "tool", "user"]),
    message_id=st.sampled_from([None, "1", "2"]),
    author_name=st.sampled_from([None, "a", "b"]),
    finish_reason=st.sampled_from([None, None, "stop", "length"]),
    merge_mode=st.sampled_from([None, None, "replace"]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(some_updates, max_size=14), st.booleans(), st.booleans())
def test_any_updates_give_a_stream_in_order(
    read: Read, updates: list[AgentResponseUpdate], fails: bool, pause: bool
) -> None:
    stream, events = open_stream()
    if pause:
        waiting = call("c1", "search")
        waiting.user_input_request = True
        updates = [*updates, says(waiting)]
    events += stream.feed(updates)
    events += stream.fail("server_error", "x") if fails else stream.complete(completed_at=1)
    assert read(events) is stream.response
    assert encoded(events).count(b"\n\n") == len(events)


plain_updates = st.builds(
    says,
    st.one_of(
        st.builds(text, words.filter(bool)),
        st.builds(thought, words.filter(bool), id=st.just("rs_1")),
        st.builds(call, st.sampled_from(["c1", "c2"]), st.just("get"), st.just("{}")),
        st.builds(call, st.just("c3"), st.just("search"), st.just("{}")),
        st.builds(Content.from_function_result, st.just("c3"), result=words),
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(plain_updates, max_size=10))
def test_a_finished_response_is_rendered_as_it_was_streamed(read: Read, updates: list[AgentResponseUpdate]) -> None:
    calls = [update for update in updates if update.contents[0].type == "function_call"]
    updates = [each for each in updates if each not in calls] + calls[:1]  # parts of one call are joined where it began
    for update in updates:
        if update.contents[0].type == "function_result":
            update.role = "tool"
    streamed = read(run(*updates))
    result = AgentResponse.from_updates(updates)
    rendered = render_response(begun(), result, completed_at=101, client_tools={"get", "put"}, include=INCLUDABLE)
    assert rendered == streamed
