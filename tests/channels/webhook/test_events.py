"""What is sent, and how what is received is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from agent_framework import AgentResponse, Content, Message

from afactors_channels import BadRequest, ChannelIdentity
from afactors_channels.pushes import Push
from afactors_channels.webhook.events import encode_event, event_of, named, read_event, text_of, wants_reply


def push(*messages: Message, **changes: Any) -> Push:
    given: dict[str, Any] = {
        "delivery_id": "d_1",
        "identity": ChannelIdentity("webhook", "crm", conversation="talk"),
        "kind": "reply",
        "response": AgentResponse(messages=list(messages)),
        "created": 1_700_000_000.5,
        "run_id": "run_1",
    }
    return Push(**{**given, **changes})


def test_a_reply():
    event = event_of(push(Message("assistant", ["Hello"], author_name="Ann")))
    assert event == {
        "type": "afactors.reply",
        "version": 1,
        "timestamp": "2023-11-14T22:13:20.500Z",
        "data": {
            "id": "run_1",
            "error": None,
            "conversation": "talk",
            "text": "Hello",
            "messages": [
                {"role": "assistant", "author": "Ann", "contents": [{"type": "text", "text": "Hello"}]},
            ],
        },
    }
    assert json.loads(encode_event(push(Message("assistant", ["Hello"], author_name="Ann")))) == event


def test_a_failed_run_tells_its_code():
    told = Message("assistant", ["It took too long."], additional_properties={"hosting": {"error": "timeout"}})
    data = event_of(push(told))["data"]
    assert (data["error"], data["text"]) == ("timeout", "It took too long.")


def test_what_no_run_caused_and_no_conversation_has():
    event = event_of(push(kind="message", run_id="", identity=ChannelIdentity("webhook", "crm")))
    assert (event["type"], event["data"]["id"], event["data"]["conversation"]) == ("afactors.message", None, None)
    assert (event["data"]["text"], event["data"]["messages"]) == ("", [])


def test_contents_for_a_reader_only():
    call = Content.from_function_call("c1", "pay", arguments={"to": "Bob"})
    said = [
        Message("assistant", [Content.from_text_reasoning(text="hm"), Content.from_function_call("c0", "look")]),
        Message("tool", [Content.from_function_result("c0", result="secret of the tool")]),
        Message(
            "assistant",
            [
                Content.from_text("See"),
                Content.from_data(b"x", "image/png"),
                Content.from_uri("https://e.org/a.pdf", media_type="application/pdf"),
                Content.from_function_approval_request("q1", call),
            ],
        ),
    ]
    (message,) = event_of(push(*said))["data"]["messages"]
    assert message["contents"] == [
        {"type": "text", "text": "See"},
        {"type": "data", "uri": "data:image/png;base64,eA==", "media_type": "image/png"},
        {"type": "uri", "uri": "https://e.org/a.pdf", "media_type": "application/pdf"},
        {
            "type": "function_approval_request",
            "id": "q1",
            "function_call": {"type": "function_call", "call_id": "c1", "name": "pay", "arguments": {"to": "Bob"}},
        },
    ]
    assert b"secret of the tool" not in encode_event(push(*said))


def test_messages_for_a_reader_only():
    question = Content.from_function_approval_request("q1", Content.from_function_call("c1", "pay"))
    said = [
        Message("system", ["Be kind."]),
        Message("tool", ["what a tool wrote"]),
        Message("assistant", ["a draft"], additional_properties={"intermediate": True}),
        Message("assistant", [question], additional_properties={"intermediate": True}),
        Message("assistant", ["the answer"]),
    ]
    data = event_of(push(*said))["data"]
    assert data["text"] == "the answer"
    assert [[one["type"] for one in message["contents"]] for message in data["messages"]] == [
        ["function_approval_request"],
        ["text"],
    ]
    assert event_of(push(Message("user", ["asked elsewhere"]), kind="echo"))["data"]["text"] == "asked elsewhere"


def test_nothing_depends_on_the_attempt():
    first = push(Message("assistant", ["Hello"]))
    later = replace(first, attempt=7, unsure=True, response=deepcopy(first.response))
    assert encode_event(first) == encode_event(later)


def test_nothing_depends_on_the_order_of_members():
    def asked(arguments: Mapping[str, Any]) -> bytes:
        call = Content.from_function_call("c", "f", arguments=arguments)
        return encode_event(push(Message("assistant", [Content.from_function_approval_request("q", call)])))

    assert asked({"a": 1, "b": {"c": 2, "d": 3}}) == asked({"b": {"d": 3, "c": 2}, "a": 1})


def test_text_that_utf8_cannot_express():
    assert json.loads(encode_event(push(Message("assistant", ["\ud800!"]))))["data"]["text"] == "\ufffd!"


def test_what_json_cannot_express():
    call = Content.from_function_call("c", "f", arguments={"a": object()})
    with pytest.raises(TypeError):
        encode_event(push(Message("assistant", [Content.from_function_approval_request("q", call)])))


# --- received


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"type":"message","data":{"text":"Hi"}}', "Hi"),
        ('{"data":{"text":""}}', None),
        ('{"data":{"text":5}}', None),
        ('{"data":["text"]}', None),
        ('{"data":"text"}', None),
        ('{"type": "paid",  "amount": 1.10, "to": "Ann é"}', None),
        ("{}", None),
    ],
)
def test_what_the_target_is_told(body: str, text: str | None):
    raw = body.encode()
    assert text_of(read_event(raw), raw) == (body if text is None else text)


def test_what_we_send_can_be_read_by_us():
    body = encode_event(push(Message("assistant", ["Hello"])))
    event = read_event(body)
    assert text_of(event, body) == "Hello"
    assert not wants_reply(event), "two hosts that send to each other would never stop"


@pytest.mark.parametrize("body", [b"", b"[]", b"5", b"nonsense", b'{"a": NaN}', b'{"a": "\xff"}', b"[" * 100_000])
def test_what_is_no_event(body: bytes):
    with pytest.raises(BadRequest):
        read_event(body)


@pytest.mark.parametrize(
    ("event", "wanted"),
    [
        ({"data": {"reply": True}}, True),
        ({"data": {"reply": False}}, False),
        ({"data": {"reply": 1}}, False),
        ({"data": {"reply": "true"}}, False),
        ({"reply": True}, False),
        ({}, False),
    ],
)
def test_whether_a_reply_is_wanted(event: Mapping[str, Any], wanted: bool):
    assert wants_reply(event) is wanted


@pytest.mark.parametrize(
    ("value", "name"),
    [("a", "a"), (7, "7"), (-7, "-7"), (True, None), (1.5, None), ("", None), ({}, None), (10**30, None)],
)
def test_names(value: Any, name: str | None):
    assert named({"data": {"thread": value}}, "data.thread") == name
    assert named({"data": {"thread": value}}, "data.other") is None
    assert named({"data": {"thread": value}}, None) is None
