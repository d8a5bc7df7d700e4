"""Queries, pages, conversations, and WebSocket messages: what is asked, and what is answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from agent_framework import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.conversations import Conversation, ConversationDeletedResource
from openai.types.responses import ResponsesServerEvent
from pydantic import TypeAdapter

from afactors_channels.errors import BadRequest, Overloaded
from afactors_channels.responses import encode_event, new_conversation_id
from afactors_channels.responses.conversations import (
    parse_added,
    parse_new,
    parse_update,
    render_conversation,
    render_deleted,
)
from afactors_channels.responses.frames import error_frame, event_frame, parse_frame
from afactors_channels.responses.listing import (
    Page,
    StreamQuery,
    page_of,
    parse_include,
    parse_page,
    parse_stream_query,
)

SEALED = "reasoning.encrypted_content"


def refused(parse: Callable[..., Any], *given: Any) -> str | None:
    with pytest.raises(BadRequest) as caught:
        parse(*given)
    assert caught.value.status == 400
    return caught.value.field


# --- queries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "page"),
    [
        (b"", Page()),
        (b"limit=1&order=asc&after=msg_1&other=x&other=y", Page(limit=1, order="asc", after="msg_1")),
        (b"limit=100&order=desc", Page(limit=100)),
        (b"limit=1&limit=2", Page(limit=2)),
        (f"include[]={SEALED}&include%5B%5D=file_search_call.results".encode(),
         Page(include=(SEALED, "file_search_call.results"))),
        (f"include={SEALED}".encode(), Page(include=(SEALED,))),
    ],
)  # fmt: skip
def test_pages_are_asked_for(query: bytes, page: Page) -> None:
    assert parse_page(query) == page


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (b"limit=0", "limit"), (b"limit=101", "limit"), (b"limit=", "limit"), (b"limit=1.5", "limit"),
        (b"limit=-1", "limit"), ("limit=\u0663".encode(), "limit"), (b"limit=" + b"9" * 5000, "limit"),
        (b"order=up", "order"), (b"order=", "order"), (b"after=", "after"), (b"after=a%00", "after"),
        (b"include=x", "include[0]"), (f"include={SEALED}&include=".encode(), "include[1]"),
        (b"&".join([b"a=b"] * 101), None),
    ],
)  # fmt: skip
def test_wrong_parameters_are_refused_by_name(query: bytes, field: str | None) -> None:
    assert refused(parse_page, query) == field


@pytest.mark.parametrize(
    ("query", "fetch"),
    [
        (b"", StreamQuery()),
        (b"stream=true&starting_after=7&include_obfuscation=false", StreamQuery(stream=True, starting_after=7)),
        (b"stream=1&starting_after=0", StreamQuery(stream=True, starting_after=0)),
        (b"stream=false", StreamQuery()),
        (f"stream=0&include[]={SEALED}".encode(), StreamQuery(include=(SEALED,))),
    ],
)
def test_responses_are_fetched(query: bytes, fetch: StreamQuery) -> None:
    assert parse_stream_query(query) == fetch
    assert parse_include(query) == fetch.include


@pytest.mark.parametrize(
    ("query", "field"),
    [(b"stream=yes", "stream"), (b"stream=", "stream"), (b"starting_after=-1", "starting_after"),
     (b"starting_after=x", "starting_after"), (b"starting_after=9999999999999999999", "starting_after"),
     (b"include=x", "include[0]")],
)  # fmt: skip
def test_wrong_ways_to_fetch_are_refused_by_name(query: bytes, field: str) -> None:
    assert refused(parse_stream_query, query) == field


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: f"limit={text}&order={text}".encode()))
def test_any_query_is_understood_or_refused(query: bytes) -> None:
    for parse in (parse_page, parse_stream_query, parse_include):
        try:
            parse(query)
        except BadRequest as error:
            error.message.encode()


ITEMS = [{"id": f"msg_{number}"} for number in range(5)]


def ids(listed: dict[str, Any]) -> list[str]:
    return [item["id"].removeprefix("msg_") for item in listed["data"]]


@pytest.mark.parametrize(
    ("page", "expected", "more"),
    [
        (Page(), "43210", False),
        (Page(order="asc"), "01234", False),
        (Page(limit=2), "43", True),
        (Page(limit=2, after="msg_3"), "21", True),
        (Page(limit=2, after="msg_1"), "0", False),
        (Page(limit=3, after="msg_1", order="asc"), "234", False),
        (Page(after="msg_0"), "", False),
    ],
)
def test_pages(page: Page, expected: str, more: bool) -> None:
    listed = page_of(ITEMS, page)
    assert (ids(listed), listed["has_more"], listed["object"]) == (list(expected), more, "list")
    ends = [f"msg_{number}" for number in expected[:1] + expected[-1:]] or [None, None]
    assert [listed["first_id"], listed["last_id"]] == ends


def test_a_page_after_what_is_not_there() -> None:
    assert refused(page_of, ITEMS, Page(after="msg_9")) == "after"
    assert refused(page_of, [], Page(after="msg_0")) == "after"


@given(st.integers(1, 4), st.sampled_from(["asc", "desc"]))
def test_pages_together_are_the_list(limit: int, order: Any) -> None:
    found: list[str] = []
    after = None
    while True:
        listed = page_of(ITEMS, Page(limit, order, after))
        found += ids(listed)
        after = listed["last_id"]
        if not listed["has_more"]:
            break
    assert found == (list("01234") if order == "asc" else list("43210"))


# --- conversations -------------------------------------------------------------------------------------------

HELLO = {"type": "message", "role": "user", "content": "hello"}


def test_new_conversations() -> None:
    for body in ({}, {"items": None, "metadata": None}, {"items": []}):
        new = parse_new(body)
        assert (new.messages, new.metadata) == ([], {})
    new = parse_new({"items": [HELLO] * 20, "metadata": {"a": "b"}, "other": 1})
    assert [Message.from_dict(dict(message)).text for message in new.messages] == ["hello"] * 20
    assert new.metadata == {"a": "b"}
    assert parse_update({"metadata": {"a": "b"}}) == {"a": "b"}
    assert parse_update({"metadata": None}) == {}
    assert len(parse_added({"items": [HELLO]})) == 1


@pytest.mark.parametrize(
    ("parse", "body", "field"),
    [
        (parse_new, {"items": [HELLO] * 21}, "items"),
        (parse_new, {"items": {}}, "items"),
        (parse_new, {"items": "hello"}, "items"),
        (parse_new, {"items": [HELLO, {"role": "user"}]}, "items[1].content"),
        (parse_new, {"items": ["x"]}, "items[0]"),
        (parse_new, {"metadata": []}, "metadata"),
        (parse_update, {}, "metadata"),
        (parse_update, {"metadata": {"a": 1}}, "metadata"),
        (parse_added, {}, "items"),
        (parse_added, {"items": []}, "items"),
        (parse_added, {"items": [HELLO] * 21}, "items"),
        (parse_added, {"items": [{"type": "item_reference", "id": "x"}]}, "items[0].type"),
    ],
)
def test_bad_conversations_are_refused(parse: Callable[..., Any], body: dict[str, Any], field: str) -> None:
    assert refused(parse, body) == field


def test_conversations_are_shown() -> None:
    name = new_conversation_id(bytes(range(24)))
    assert name == "conv_" + bytes(range(24)).hex()
    with pytest.raises(ValueError, match="24 random bytes"):
        new_conversation_id(bytes(23))
    shown = render_conversation(name, created_at=5, metadata={"a": "b"})
    assert Conversation.model_validate(shown).to_dict() == shown
    deleted = render_deleted(name)
    assert ConversationDeletedResource.model_validate(deleted).to_dict() == deleted


# --- WebSocket messages ----------------------------------------------------------------------------------------

SERVER_EVENT: TypeAdapter[Any] = TypeAdapter(ResponsesServerEvent)


@pytest.mark.parametrize("given", [{}, {"stream": False, "background": False}, {"background": None, "generate": True}])
def test_a_frame_is_a_request(given: dict[str, Any]) -> None:
    sent = {"type": "response.create", "input": "x", "stream_id": "lane", **given}
    frame = parse_frame(json.dumps(sent))
    assert frame.body == {"input": "x", "stream": True}
    assert frame.stream_id == "lane"
    assert parse_frame(b'{"type": "response.create"}').stream_id is None


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ("{}", "type"), (b'{"type": "response.steer"}', "type"), ('{"type": ["response.create"]}', "type"),
        ("", None), ("[]", None), (b"\xff", None), ('{"a": "\ud800"}', None),
        ('{"type": "response.create", "background": true}', "background"),
        ('{"type": "response.create", "generate": false}', "generate"),
        ('{"type": "response.create", "stream_id": 1}', "stream_id"),
        ('{"type": "response.create", "stream_id": ""}', "stream_id"),
    ],
)  # fmt: skip
def test_other_frames_are_refused(data: str | bytes, field: str | None) -> None:
    assert refused(parse_frame, data) == field


@pytest.mark.parametrize("lane", [None, 'l"1'])
def test_what_is_sent(lane: str | None) -> None:
    event = {"type": "response.output_text.delta", "delta": "a\n", "sequence_number": 3, "item_id": "i",
             "output_index": 0, "content_index": 0, "logprobs": []}  # fmt: skip
    extra = {} if lane is None else {"stream_id": lane}
    sent = json.loads(event_frame(encode_event(event), lane))
    assert sent == {**event, **extra}
    SERVER_EVENT.validate_python(sent)
    error = json.loads(error_frame(Overloaded("Too much.", field="input"), lane))
    assert error == {
        "type": "error", "status": 429, **extra,
        "error": {"type": "rate_limit_error", "code": "overloaded", "message": "Too much.", "param": "input"},
    }  # fmt: skip
    SERVER_EVENT.validate_python(error)
