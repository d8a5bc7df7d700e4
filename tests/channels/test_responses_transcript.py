"""Transcripts: rows, their numbers, what is kept of a run, and how a record is shown again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import pytest
from agent_framework import AgentResponse, AgentResponseUpdate, Annotation, Content, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from afactors_channels.outcomes import ContinuationToken, HostedRun, RunState, Transcriber, Transcript
from afactors_channels.requests import ChannelRequest
from afactors_channels.responses import ResponseTranscript, encode_json, parse_create, render_run, sse_data
from afactors_channels.responses.presentation import client_tools, included, presentation, skeleton

RESPONSE_ID = "resp_" + "ab" * 24
TOOLS = [{"type": "function", "name": name} for name in ("get", "put")]
ASKED = {
    "input": "x", "background": True, "tools": TOOLS, "metadata": {"a": "b"}, "temperature": 1,
    "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
}  # fmt: skip
Read = Callable[[list[dict[str, Any]]], dict[str, Any]]


def shown(**fields: Any) -> dict[str, Any]:
    plain = presentation(parse_create({**ASKED, **fields}), model="target")
    kept: dict[str, Any] = msgpack.unpackb(msgpack.packb(plain))
    assert kept == plain
    return kept


def transcript(first: int = 0, **fields: Any) -> ResponseTranscript:
    request = ChannelRequest(channel="responses", input=[], name=RESPONSE_ID, presentation=shown(**fields))
    return ResponseTranscript(request, created=100.75, first=first)


def says(*contents: Content | str, **fields: Any) -> AgentResponseUpdate:
    return AgentResponseUpdate(
        contents=[Content.from_text(each) if isinstance(each, str) else each for each in contents],
        role="assistant", **fields,
    )  # fmt: skip


def answer(*contents: Any, **fields: Any) -> AgentResponse:
    return AgentResponse(messages=[Message("assistant", list(contents))], **fields)


def events_of(rows: Sequence[bytes], first: int = 0) -> list[dict[str, Any]]:
    events = []
    for number, row in enumerate(rows, first):
        kind, data, *rest = row.decode().split("\n")
        assert rest == ["", ""]
        event = json.loads(sse_data(row))
        assert f"event: {event['type']}" == kind
        assert json.loads(data.removeprefix("data: ")) == event
        assert event["sequence_number"] == number
        events.append(event)
    return events


def names(rows: Sequence[bytes]) -> list[str]:
    return [json.loads(sse_data(row))["type"].removeprefix("response.") for row in rows]


def record(state: RunState, result: AgentResponse | None = None, **fields: Any) -> HostedRun:
    """A run as its record has it: its messages have been written and read."""
    if result is not None:
        messages = [Message.from_dict(message.to_dict()) for message in result.messages]
        result = AgentResponse(
            messages=messages, finish_reason=result.finish_reason, usage_details=result.usage_details
        )
    return HostedRun(
        token=ContinuationToken("t"), run_id="r", isolation_key="k", session_id=None, state=state, created=100.75,
        **{"ended": 105.5, "presentation": shown(), "result": result, **fields},
    )  # fmt: skip


def test_the_presentation_is_what_differs_from_the_defaults() -> None:
    assert presentation(parse_create({"input": "x"}), model="target") == {"echo": {"model": "target"}}
    found = shown(model="gpt", conversation="c", store=True, top_p=0.5)
    assert found["echo"].keys() == {"model", "conversation", "top_p", "background", "tools", "metadata"}
    assert found["echo"]["model"] == "gpt"
    assert client_tools(found) == {"get", "put"}
    assert included(found) == set(ASKED["include"])
    assert (client_tools({}), included({})) == (set(), set())


@pytest.mark.parametrize("status", ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"])
def test_the_skeleton_has_all_keys(checked: Read, status: Any) -> None:
    response = checked(skeleton(shown(), response_id="resp_1", created_at=5, status=status))
    assert (response["status"], response["background"], response["temperature"]) == (status, True, 1.0)


def test_the_class_is_a_transcriber() -> None:
    make: Transcriber = ResponseTranscript
    written: Transcript = make(ChannelRequest(channel="c", input=[], name="resp_1"), created=1, first=0)
    assert names(written.started()) == ["created", "in_progress"]
    with pytest.raises(ValueError, match="name"):
        make(ChannelRequest(channel="c", input=[]), created=1, first=0)


def test_a_run_that_did_not_wait(read: Read) -> None:
    written = transcript()
    rows = [*written.started(), *written.fed([says("Hel"), says("lo")]), *written.fed([])]
    last, kept = written.completed(answer("Hello"), 105.5)
    response = read(events_of([*rows, *last]))
    assert (response["created_at"], response["completed_at"], response["background"]) == (100, 105, True)
    assert kept is None


@pytest.mark.parametrize("first", [0, 7])
def test_a_run_that_waited(checked: Read, first: int) -> None:
    written = transcript(first)
    rows = [*written.accepted(), *written.started(), *written.fed([says("x")])]
    last, _ = written.completed(answer("x"), 105.5)
    events = events_of([*rows, *last], first)
    assert names(rows)[:4] == ["created", "queued", "in_progress", "output_item.added"]
    statuses = [checked(event["response"])["status"] for event in events if "response" in event]
    assert statuses == ["queued", "queued", "in_progress", "completed"]


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (lambda written: [], ["created", "failed"]),
        (lambda written: written.accepted(), ["created", "queued", "failed"]),
        (lambda written: written.started(), ["created", "in_progress", "failed"]),
    ],
)
@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_an_end_without_output(checked: Read, before: Any, expected: list[str], state: Any) -> None:
    written = transcript()
    rows = [*before(written), *written.failed(state, "server_error", "It was not to be.")[0]]
    assert names(rows) == expected
    response = checked(events_of(rows)[-1]["response"])
    assert (response["status"], response["output"]) == (state, [])
    assert response["error"] == {"code": "server_error", "message": "It was not to be."}


def test_a_failure_in_the_middle_closes_what_is_open() -> None:
    written = transcript()
    rows = [*written.started(), *written.fed([says("half a sen")]), *written.failed("failed", "server_error", "x")[0]]
    assert names(rows)[-4:] == ["output_text.done", "content_part.done", "output_item.done", "failed"]
    assert events_of(rows)[-1]["response"]["output"][0]["status"] == "incomplete"


def test_a_failure_after_the_end_takes_its_place(read: Read) -> None:
    written = transcript()
    rows = [*written.started(), *written.fed([says("whole", finish_reason="stop")])]
    last, _ = written.completed(answer("whole", finish_reason="stop"), 105.5)
    instead, _ = written.failed("failed", "server_error", "The commit failed.")
    assert names(instead) == ["failed"]
    response = read(events_of([*rows, *last[:-1], *instead]))
    assert (response["status"], response["completed_at"]) == ("failed", None)
    assert response["output"][0]["status"] == "completed"
    with pytest.raises(RuntimeError):
        written.failed("failed", "server_error", "Again.")


def test_what_was_taken_back_is_kept() -> None:
    written = transcript()
    written.started()
    written.fed([says("a dra"), says(Content.from_text("The answer", merge_mode="replace"))])
    result = answer("The answer")
    _, kept = written.completed(result, 105.5)
    assert [item["content"][0]["text"] for item in kept] == ["a dra", "The answer"]
    again = render_run(record("completed", result, kept=msgpack.unpackb(msgpack.packb(kept))), RESPONSE_ID)
    assert again["output"] == kept
    assert again["completed_at"] == 105


def test_a_result_without_a_stream_is_shown_whole(read: Read) -> None:
    written = transcript()
    rows = [*written.started()]
    last, kept = written.completed(answer("from a middleware"), 105.5)
    assert read(events_of([*rows, *last]))["output"][0]["content"][0]["text"] == "from a middleware"
    assert kept is None


# --- a record, shown again ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "status"), [("queued", "queued"), ("running", "in_progress")])
def test_a_run_that_has_not_ended(checked: Read, state: RunState, status: str) -> None:
    response = checked(render_run(record(state, ended=None), RESPONSE_ID))
    assert (response["status"], response["output"], response["completed_at"]) == (status, [], None)
    assert (response["id"], response["created_at"], response["background"]) == (RESPONSE_ID, 100, True)
    assert response["metadata"] == {"a": "b"}


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_run_that_failed(checked: Read, state: RunState) -> None:
    response = checked(render_run(record(state, error=("server_error", "It failed.")), RESPONSE_ID))
    assert (response["status"], response["error"]["message"]) == (state, "It failed.")
    assert response["completed_at"] is None


def test_a_run_that_was_cut_off(checked: Read) -> None:
    response = checked(render_run(record("incomplete", answer("x", finish_reason="length")), RESPONSE_ID))
    assert (response["status"], response["completed_at"]) == ("incomplete", None)
    assert response["output"][0]["status"] == "incomplete"


LOGPROB = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
SEALED = Content.from_text_reasoning(id="rs_1", text="hm", protected_data="sealed")
LIKELY = Content.from_text("a", additional_properties={"openai": {"logprobs": [LOGPROB]}})


def test_what_is_included_only_if_asked_for(checked: Read) -> None:
    result = answer(SEALED, LIKELY)
    reasoning, message = checked(render_run(record("completed", result), RESPONSE_ID))["output"]
    assert reasoning["encrypted_content"] == "sealed"
    assert message["content"][0]["logprobs"] == [LOGPROB]
    unasked = record("completed", result, presentation=shown(include=[]))
    reasoning, message = checked(render_run(unasked, RESPONSE_ID))["output"]
    assert "encrypted_content" not in reasoning
    assert message["content"][0]["logprobs"] == []
    later = checked(render_run(unasked, RESPONSE_ID, include=["reasoning.encrypted_content"]))["output"]
    assert later[0]["encrypted_content"] == "sealed"


def test_log_probabilities_are_streamed_once(read: Read) -> None:
    other = {**LOGPROB, "token": "b"}
    more = Content.from_text("b", additional_properties={"openai": {"logprobs": [other]}})
    whole = Content.from_text(
        "ab", merge_mode="replace", additional_properties={"openai": {"logprobs": [LOGPROB, other]}}
    )
    written = transcript()
    rows = [*written.started(), *written.fed([says(LIKELY), says(more), says(whole)])]
    last, kept = written.completed(AgentResponse.from_updates([says(LIKELY), says(more), says(whole)]), 105.5)
    events = events_of([*rows, *last])
    assert read(events)["output"][0]["content"][0]["logprobs"] == [LOGPROB, other]
    deltas = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    assert deltas == [[LOGPROB], [other]]
    done = [event["logprobs"] for event in events if event["type"] == "response.output_text.done"]
    assert done == [[LOGPROB, other]]
    assert kept is not None  # the framework's own sum of the updates has those of the first only


# --- any run, streamed and shown again -----------------------------------------------------------------------

words = st.sampled_from(["", "a", "bc", "ü\n", "\n\n", "{}", "\ud800"])
contents = st.one_of(
    st.builds(
        Content.from_text, words, merge_mode=st.sampled_from([None, None, "append", "replace"]),
        annotations=st.sampled_from([None, [Annotation(type="citation", url="https://x.test")]]),
    ),
    st.builds(
        Content.from_text_reasoning, text=words, id=st.sampled_from([None, "rs_1"]),
        protected_data=st.sampled_from([None, "p"]),
    ),
    st.builds(
        Content.from_function_call, st.sampled_from(["c1", "c2"]), st.sampled_from(["get", "search"]),
        arguments=st.sampled_from([None, "{}", '{"a']),
    ),
    st.builds(
        Content.from_function_call, st.sampled_from(["c3", "c4"]), st.just("get"), arguments=st.just({"k": 1})
    ),
    st.builds(Content.from_function_result, st.sampled_from(["c1", "c2"]), result=words),
    st.builds(Content.from_uri, st.just("data:image/png;base64,AA=="), media_type=st.just("image/png")),
    st.builds(Content.from_usage, st.just({"input_token_count": 1})),
)  # fmt: skip
some_updates = st.builds(
    says,
    contents,
    message_id=st.sampled_from([None, "1", "2"]),
    finish_reason=st.sampled_from([None, "stop", "length"]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(some_updates, max_size=8), st.integers(0, 3))
def test_what_is_shown_again_is_what_was_streamed(
    checked: Read, updates: list[AgentResponseUpdate], first: int
) -> None:
    written = transcript(first)
    rows = [*written.accepted(), *written.started(), *written.fed(updates)]
    result = AgentResponse.from_updates(updates)
    last, kept = written.completed(result, 105.5)
    streamed = events_of([*rows, *last], first)[-1]["response"]
    run = record(streamed["status"], result, kept=kept)
    # As JSON, because a lone surrogate is mended on the way out.
    assert json.loads(encode_json(checked(render_run(run, RESPONSE_ID)))) == streamed
