"""A workflow's events as the framework's messages, and as what the Responses channel shows of them."""

from __future__ import annotations

import asyncio
import json
import threading
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from agent_framework import (
    AgentExecutorResponse,
    AgentResponse,
    AgentResponseUpdate,
    Content,
    Executor,
    Message,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowEvent,
    WorkflowRunResult,
    WorkflowRunState,
    handler,
    response_handler,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from afactors_channels.responses import EventStream, parse_create, render_response
from afactors_channels.responses.presentation import presentation, skeleton
from afactors_channels.workflows import plain, question_content, question_id, response_of, updates_of

Read = Callable[[list[dict[str, Any]]], dict[str, Any]]
RESPONSE_ID = "resp_" + "cd" * 24
TOOLS = {"get"}


class Count(BaseModel):
    number: int
    day: date


@dataclass
class Ask:
    prompt: str
    about: Any = None


class Wordless:
    def __str__(self) -> str:
        raise ValueError("no words")


class Undictable:
    def to_dict(self) -> dict[str, Any]:
        raise RuntimeError("no")


def output(data: Any, executor: str | None = "writer", kind: Any = "output") -> WorkflowEvent[Any]:
    return WorkflowEvent(kind, data=data, executor_id=executor)


def aside(data: Any, executor: str = "thinker") -> WorkflowEvent[Any]:
    return output(data, executor, "intermediate")


def piece(text: str, **fields: Any) -> AgentResponseUpdate:
    return AgentResponseUpdate(contents=[Content.from_text(text)], role="assistant", **fields)


def usage(tokens: int, **fields: Any) -> Content:
    return Content.from_usage({"input_token_count": tokens, "output_token_count": 1}, **fields)


def call(call_id: str, name: str, arguments: Any = "{}", *, waits: bool = False, **fields: Any) -> Content:
    content = Content.from_function_call(call_id, name, arguments=arguments, **fields)
    content.user_input_request = waits or None
    return content


def approval(name: str = "wipe", call_id: str = "c1", **fields: Any) -> Content:
    return Content.from_function_approval_request("a1", call(call_id, name, '{"disk": 1}', id="a1", **fields))


def asks(data: Any, request_id: str = "r1", answer: Any = str) -> WorkflowEvent[Any]:
    return WorkflowEvent.request_info(request_id, "asker", data, answer)


def said(event: WorkflowEvent[Any]) -> list[tuple[str | None, str | None, str]]:
    return [(each.role, each.author_name, each.text) for each in updates_of(event)]


def texts(response: AgentResponse) -> list[str]:
    return [message.text for message in response.messages]


# --- what an event says


@pytest.mark.parametrize(
    "event",
    [
        WorkflowEvent.started(),
        WorkflowEvent.status(WorkflowRunState.IDLE),
        WorkflowEvent.warning("x"),
        WorkflowEvent.superstep_started(1),
        WorkflowEvent.executor_completed("writer", "x"),
        output("x", kind="group_chat"),
        output(None),
        output(""),
        output([]),
        output(AgentResponse(messages=[])),
    ],
)
def test_what_says_nothing(event: WorkflowEvent[Any]) -> None:
    assert updates_of(event) == []
    assert response_of([event]).messages == []


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("hello", "hello"),
        (7, "7"),
        (True, "true"),
        ({"a": [1, None]}, '{"a": [1, null]}'),
        (["a", "b"], '["a", "b"]'),
        (Count(number=1, day=date(2020, 1, 2)), '{"number": 1, "day": "2020-01-02"}'),
        (Ask("ü?", Count(number=2, day=date(2020, 1, 2))),
         '{"prompt": "ü?", "about": {"number": 2, "day": "2020-01-02"}}'),
        (date(2020, 1, 2), "2020-01-02"),
        (float("inf"), "null"),
        (b"\xff", "_w=="),
        (Wordless(), "<Wordless>"),
        (Undictable, str(Undictable)),
        (Ask("x", Wordless()), '{"prompt": "x", "about": "<Wordless>"}'),
        (Content.from_text("c"), "c"),
    ],
)  # fmt: skip
def test_any_payload_is_text(data: Any, expected: str) -> None:
    assert said(output(data)) == [("assistant", "writer", expected)]


def test_what_holds_itself_is_text_too() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    assert said(output(loop)) == [("assistant", "writer", "[1, [...]]")]
    assert [author for _, author, _ in said(output(deep))] == ["writer"]
    mixed = [Content.from_text("a"), "b", loop, Message("user", ["c"])]
    assert [text for _, _, text in said(output(mixed))] == ["ab", "[1, [...]]", "c"]


def test_what_cannot_even_be_made_a_dictionary() -> None:
    [(_, _, text)] = said(output(Undictable()))
    assert "Undictable" in text


def test_messages_keep_what_they_have() -> None:
    own = Message("assistant", ["b"], author_name="Bot", message_id="m1", additional_properties={"x": 1})
    updates = updates_of(output([Message("user", ["a"]), own]))
    assert [(each.role, each.author_name, each.text) for each in updates] == [
        ("user", "writer", "a"),
        ("assistant", "Bot", "b"),
    ]
    assert response_of([output(own)]).messages[0].additional_properties == {"x": 1}


def test_a_response_says_what_it_used_and_how_it_ended() -> None:
    inner = AgentResponse(
        messages=[Message("assistant", ["a"]), Message("assistant", ["b"])],
        response_id="r",
        agent_id="agent",
        finish_reason="length",
        usage_details={"input_token_count": 5},
    )
    first, last = updates_of(output(inner))
    assert (first.finish_reason, last.finish_reason) == (None, "length")
    assert (first.response_id, first.agent_id) == ("r", "agent")
    whole = response_of([output(inner), output(inner)], response_id="resp")
    assert (whole.response_id, whole.finish_reason) == ("resp", "length")
    assert whole.usage_details == {"input_token_count": 10}
    assert texts(whole) == ["a", "b", "a", "b"]


def test_a_response_of_nothing_but_its_end() -> None:
    whole = response_of([output(AgentResponse(messages=[], finish_reason="content_filter"))])
    assert (whole.messages, whole.finish_reason) == ([], "content_filter")


def test_an_executors_response_is_its_agents() -> None:
    inner = AgentExecutorResponse(
        "poet", AgentResponse(messages=[Message("assistant", ["a"])]), [Message("user", ["no"])]
    )
    assert said(output([inner, inner])) == [("assistant", "poet", "a")] * 2


def test_intermediate_is_marked_and_does_not_end_anything() -> None:
    inner = AgentResponse(messages=[Message("assistant", ["hm"])], finish_reason="length")
    for event in (aside(inner), output(inner, kind="data"), aside(piece("hm", finish_reason="length"))):
        [update] = updates_of(event)
        assert update.additional_properties == {"intermediate": True}
        whole = response_of([event])
        assert whole.finish_reason is None
        assert [message.additional_properties for message in whole.messages] == [{"intermediate": True}]
    assert "intermediate" not in response_of([aside("hm"), output("so")]).messages[1].additional_properties


def test_nothing_is_changed() -> None:
    nested = Content.from_function_approval_request("a1", call("c1", "wipe", id="a1", merge_mode="replace"))
    payloads: list[Any] = [
        AgentResponseUpdate(contents=[Content.from_text("a", merge_mode="replace"), usage(1)], role="assistant"),
        AgentResponse(messages=[Message("assistant", [Content.from_text("a", merge_mode="append"), nested])]),
        [Content.from_text("a"), nested],
        nested,
    ]
    before = deepcopy(payloads)
    events = [aside(payload) for payload in payloads] + [asks(nested)]
    response_of(events)
    updates = [update for event in events for update in updates_of(event)]
    updates[0].contents.clear()
    assert [_shape(payload) for payload in payloads] == [_shape(payload) for payload in before]


def _shape(payload: Any) -> Any:
    if isinstance(payload, list):
        return [_shape(each) for each in payload]
    modes = [each.merge_mode for each in getattr(payload, "contents", [])]
    return payload.to_dict(), modes, getattr(payload, "additional_properties", None)


def test_what_a_thread_holds_is_no_reason_to_fail() -> None:
    made = Content("code_interpreter_tool_result", outputs=[threading.Lock()])
    assert updates_of(output(made))[0].contents[0].type == "code_interpreter_tool_result"
    assert "lock" in said(output({"lock": threading.Lock()}))[0][2]


# --- questions


def test_a_request_for_information_is_a_call_that_waits() -> None:
    content = question_content(asks(Ask("how many?", Count(number=1, day=date(2020, 1, 2))), answer=int))
    assert (content.type, content.name, content.user_input_request) == ("function_call", "request_info", True)
    assert content.arguments == {
        "request_id": "r1",
        "source": "asker",
        "data": {"prompt": "how many?", "about": {"number": 1, "day": "2020-01-02"}},
        "response_schema": {"type": "integer"},
    }
    assert question_id(content) == content.call_id == "r1"
    json.dumps(content.to_dict())


@pytest.mark.parametrize("answer", [Content, Undictable, Callable[[int], int]])
def test_a_type_without_a_schema_has_none(answer: Any) -> None:
    content = question_content(asks("x", answer=answer))
    assert isinstance(content.arguments, dict)
    assert "response_schema" not in content.arguments


def test_an_event_that_lacks_everything() -> None:
    content = question_content(WorkflowEvent("request_info", data=Wordless()))
    assert content.arguments == {"request_id": "", "source": None, "data": "<Wordless>"}


def test_an_approval_is_itself() -> None:
    asked = approval()
    content = question_content(asks(asked, answer=Content))
    assert content is not asked
    assert content.to_dict() == asked.to_dict()
    assert question_id(content) == "a1"
    assert said(asks(asked)) == [("assistant", "asker", "")]


def test_a_clients_call_is_itself() -> None:
    content = question_content(asks(call("c1", "get", waits=True, id="o1"), answer=Content))
    assert (content.name, content.user_input_request, question_id(content)) == ("get", True, "c1")


@pytest.mark.parametrize("data", [Content.from_text("?"), call("c1", "get")])
def test_any_other_content_is_asked_like_anything_else(data: Content) -> None:
    content = question_content(asks(data))
    assert isinstance(content.arguments, dict)
    assert content.arguments["data"] == plain(data.to_dict())
    assert content.name == "request_info"


def test_a_call_is_there_once() -> None:
    streamed = AgentResponseUpdate(contents=[call("c1", "get", '{"a"')], role="assistant", message_id="m")
    rest = AgentResponseUpdate(contents=[call("c1", "get", ": 1}")], role="assistant", message_id="m")
    question = asks(call("c1", "get", '{"a": 1}', waits=True))
    [message] = response_of([output(streamed), output(rest), question]).messages
    assert [(each.call_id, each.arguments) for each in message.contents] == [("c1", '{"a": 1}')]
    assert message.author_name == "asker"


def test_an_answered_call_of_the_same_id_stays() -> None:
    done = [call("c1", "wipe"), Content.from_function_result("c1", result="x")]
    messages = response_of([output(Message("assistant", done)), asks(approval())]).messages
    assert [[each.type for each in message.contents] for message in messages] == [
        ["function_call", "function_result"],
        ["function_approval_request"],
    ]


# --- a whole run


def test_pieces_of_one_message_find_each_other() -> None:
    events = [
        output(piece("A1 ", message_id="m"), "a"),
        output(piece("B1 "), "b"),
        output(piece("A2", message_id="m"), "a"),
        output(piece("B2"), "b"),
        output(piece("A3", message_id="n"), "a"),
    ]
    whole = response_of(events)
    assert texts(whole) == ["A1 A2", "B1 B2", "A3"]
    assert [message.author_name for message in whole.messages] == ["a", "b", "a"]


def test_the_next_run_of_an_executor_is_another_message() -> None:
    events = [
        output(piece("1"), "a"),
        WorkflowEvent.executor_completed("a"),
        output(piece("2"), "b"),
        output(piece("3"), "a"),
        output(piece("4"), "a"),
    ]
    assert texts(response_of(events)) == ["1", "2", "34"]


def test_sums_of_usage_replace_each_other_for_one_executor_only() -> None:
    def used(executor: str, tokens: int) -> WorkflowEvent[Any]:
        update = AgentResponseUpdate(contents=[usage(tokens, merge_mode="replace")], role="assistant")
        return output(update, executor)

    events = [used("a", 1), used("b", 10), used("a", 3), WorkflowEvent.executor_completed("a"), used("a", 100)]
    assert response_of(events).usage_details == {"input_token_count": 113, "output_token_count": 3}


# --- as the channel shows it


def begun() -> dict[str, Any]:
    return skeleton(presentation(parse_create({"input": "x"}), model="m"), response_id=RESPONSE_ID, created_at=100)


def streamed(events: list[WorkflowEvent[Any]]) -> list[dict[str, Any]]:
    stream = EventStream(begun(), client_tools=TOOLS)
    shown = stream.begin()
    for event in events:
        shown += stream.feed(updates_of(event))
    return shown + stream.complete(response_of(events), completed_at=101)


def whole(events: list[WorkflowEvent[Any]]) -> dict[str, Any]:
    return render_response(begun(), response_of(events), completed_at=101, client_tools=TOOLS)


def test_commentary_and_the_final_answer(read: Read) -> None:
    thought = [aside(piece("let me ", message_id="m")), aside(piece("see", message_id="m"))]
    events = [output("early"), aside("hm"), *thought, output("so")]
    response = read(streamed(events))
    shown = [(item.get("phase"), item["content"][0]["text"]) for item in response["output"]]
    assert shown == [(None, "early"), ("commentary", "hm"), ("commentary", "let me see"), ("final_answer", "so")]
    assert response == whole(events)


def test_without_commentary_there_is_no_phase(read: Read) -> None:
    assert ["phase" in item for item in read(streamed([output("a"), output("b")]))["output"]] == [False, False]


def test_one_author_can_say_both(read: Read) -> None:
    same = {"author_name": "Bot", "message_id": "m"}
    response = read(streamed([aside(piece("a", **same), "x"), output(piece("b", **same), "x")]))
    assert [item["phase"] for item in response["output"]] == ["commentary", "final_answer"]


def test_questions_are_shown(read: Read) -> None:
    events = [
        output("wait"),
        asks(Ask("how?"), "r1"),
        asks(approval(), "a1"),
        asks(call("c2", "put", "{}", waits=True)),
    ]
    response = read(streamed(events))
    message, info, request, client = response["output"]
    assert message["type"] == "message"
    assert (info["type"], info["call_id"], info["name"]) == ("function_call", "r1", "request_info")
    assert json.loads(info["arguments"])["data"] == {"prompt": "how?", "about": None}
    assert request == {
        "type": "mcp_approval_request",
        "id": "a1",
        "server_label": "asker",
        "name": "wipe",
        "arguments": '{"disk": 1}',
    }
    assert (client["call_id"], client["name"], client["arguments"]) == ("c2", "put", "{}")
    assert response == whole(events)


def test_a_call_that_was_streamed_is_not_shown_twice(read: Read) -> None:
    for name, request in (("get", call("c1", "get", '{"a": 1}', waits=True)), ("wipe", approval())):
        update = AgentResponseUpdate(contents=[call("c1", name, '{"a": 1}')], role="assistant", message_id="m")
        events = [output(update), asks(request)]
        response = read(streamed(events))
        [item] = response["output"]
        assert item["type"] == ("function_call" if name == "get" else "mcp_approval_request")
        assert json.loads(item["arguments"]) in ({"a": 1}, {"disk": 1})
        assert response["output"] == whole(events)["output"]


# Executors whose pieces do not interleave: of others a stream cannot put together what is one message in the whole.
words = st.sampled_from(["", "a", "bc", "ü", "\n", "🙂"])
message_ids = st.sampled_from(["m1", "m2"])
pieces = st.builds(
    lambda words, message_id, end: [piece(each, message_id=message_id, finish_reason=end) for each in words],
    st.lists(words.filter(bool), min_size=1, max_size=3), message_ids, st.sampled_from([None, "stop", "length"]),
)  # fmt: skip
loose = st.one_of(
    words, st.none(), st.integers(), st.lists(st.integers()), st.builds(Ask, words), st.builds(Wordless),
    st.builds(Content.from_text, words), st.lists(st.builds(Content.from_text, words), max_size=3),
    st.builds(Content.from_text_reasoning, text=words.filter(bool), id=st.just("rs_1")),
    st.builds(lambda role, text: Message(role, [text]), st.sampled_from(["user", "assistant"]), words),
    st.builds(
        lambda texts, reason: AgentResponse(
            messages=[Message("assistant", [each]) for each in texts], finish_reason=reason,
            usage_details={"input_token_count": 1, "output_token_count": 2},
        ),
        st.lists(words, max_size=3), st.sampled_from([None, "stop", "length"]),
    ),
)  # fmt: skip
executors = st.sampled_from(["a", "b", "c"])
kinds = st.sampled_from(["output", "intermediate", "data"])
runs = st.one_of(
    st.builds(lambda data, executor, kind: [output(data, executor, kind)], loose, executors, kinds),
    st.builds(
        lambda parts, executor, kind: [
            *(output(each, executor, kind) for each in parts),
            WorkflowEvent.executor_completed(executor),
        ],
        pieces, executors, kinds,
    ),
    st.builds(lambda data, number: [asks(data, f"r{number}")], loose, st.integers(0, 10**9)),
    st.builds(
        lambda number, name: [
            output(AgentResponseUpdate(contents=[call(f"c{number}", name, '{"k": 1}')], role="assistant")),
            asks(call(f"c{number}", name, '{"k": 1}', waits=True)),
        ],
        st.integers(0, 10**9), st.sampled_from(["get", "put"]),
    ),
    st.just([WorkflowEvent.superstep_started(1)]),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(runs, max_size=8))
def test_stream_and_whole_agree(read: Read, groups: list[list[WorkflowEvent[Any]]]) -> None:
    events = [event for group in groups for event in group]
    response = read(streamed(events))
    assert response == whole(events)
    for item in response["output"]:
        assert item.get("phase") in ((None, "commentary", "final_answer") if item["type"] == "message" else (None,))


anything = st.one_of(
    st.builds(lambda data, executor, kind: output(data, executor, kind), loose, executors, kinds),
    st.builds(
        lambda text, executor, author, message_id, mode: output(
            AgentResponseUpdate(
                contents=[Content.from_text(text), usage(1, merge_mode=mode)], role="assistant", author_name=author,
                message_id=message_id, merge_mode=mode,
            ),
            executor,
        ),
        words, executors, st.none() | executors, st.none() | message_ids, st.sampled_from([None, "replace"]),
    ),
    st.builds(lambda name: asks(approval(name)), st.sampled_from(["get", "wipe"])),
    st.builds(WorkflowEvent.executor_completed, executors),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(anything, max_size=12))
def test_whatever_comes_nothing_fails_and_nothing_is_lost(read: Read, events: list[WorkflowEvent[Any]]) -> None:
    read(streamed(events))
    rendered = whole(events)
    assert (
        rendered["output"]
        == render_response(begun(), response_of(events), completed_at=101, client_tools=TOOLS)["output"]
    )
    replaced = any(getattr(event.data, "merge_mode", None) for event in events)
    if not replaced:
        updates = [update for event in events for update in updates_of(event)]
        said_by_updates = sorted("".join(update.text for update in updates))
        assert sorted("".join(texts(response_of(events))).replace(" ", "")) == [c for c in said_by_updates if c != " "]


# --- a real workflow


class Asker(Executor):
    @handler
    async def begin(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"You said {text}.")
        await ctx.request_info(Ask("Sure?"), bool)

    @response_handler
    async def end(self, question: Ask, answer: bool, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"{question.prompt} {answer}")


async def _run(flow: Workflow, message: str) -> WorkflowRunResult:
    return await flow.run(message)


def test_a_real_workflow(read: Read) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asker = Asker("asker")
        flow = WorkflowBuilder(start_executor=asker, output_from=[asker]).build()
        events = list(asyncio.run(_run(flow, "x")))
    response = read(streamed(events))
    message, question = response["output"]
    assert message["content"][0]["text"] == "You said x."
    assert json.loads(question["arguments"])["response_schema"] == {"type": "boolean"}
    assert response == whole(events)
