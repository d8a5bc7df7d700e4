"""What is sent to us, as a server meets it: ASGI in, 202 out once it is durable."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import trio
import trio.testing

from afactors_channels import (
    ChannelIdentity,
    ChannelSession,
    HostError,
    Overloaded,
    StorageFull,
    Unprocessable,
)
from afactors_channels.requests import ResponseTarget
from afactors_channels.webhook import WebhookChannel, WebhookEndpoint, WebhookSource
from afactors_channels.webhook.signatures import key_of, sign

SECRET, OTHER = ("whsec_" + base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
ENDPOINT = WebhookEndpoint("crm", "https://hook.example/", SECRET)
EVENT = {"type": "message", "data": {"text": "Hi"}}


def source(**changes: Any) -> WebhookSource:
    return WebhookSource(**{"name": "shop", "secrets": SECRET, **changes})


def signed(body: bytes, secret: str = SECRET, message_id: str = "msg_1", late: float = 0) -> dict[str, str]:
    timestamp = str(int(time.time() - late))
    return {
        "Webhook-Id": message_id,
        "Webhook-Timestamp": timestamp,
        "Webhook-Signature": sign([key_of(secret)], message_id, timestamp, body),
    }


class Sender:
    """Sends events to a channel."""

    def __init__(self, door: Any) -> None:
        self.door = door
        self.context = door.context
        self.open()

    def open(self, *sources: WebhookSource, **more: Any) -> None:
        self.door.open(WebhookChannel([ENDPOINT], sources or [source()]), **more)

    async def raw(self, body: bytes, headers: Mapping[str, str] | None = None, path: str = "/webhooks/shop") -> Any:
        return await self.door.post(path, body, signed(body) if headers is None else headers)

    async def send(self, event: Any, **stamp: Any) -> Any:
        body = json.dumps(event).encode()
        return await self.raw(body, signed(body, **stamp))

    @property
    def request(self) -> Any:
        return self.context.submitted[-1]


@pytest.fixture
def sender(door: Any) -> Sender:
    return Sender(door)


# --- what the runtime is asked


async def test_a_message(sender: Sender):
    body = json.dumps(EVENT).encode()
    reply = await sender.raw(body)
    assert (reply.status, reply.json) == (202, {"id": "run_1"})
    (request,) = sender.context.submitted
    (message,) = request.input
    assert (message["role"], message["contents"][0]["text"]) == ("user", "Hi")
    assert (request.channel, request.partition, request.session) == ("webhook", "webhook/shop", ChannelSession())
    assert request.attributes == {"source": "shop", "webhook_id": "msg_1", "event": EVENT}
    assert request.idempotency_key == "webhook:msg_1"
    assert request.fingerprint == hashlib.sha256(body).hexdigest()
    assert (request.identity, request.response_target) == (None, ResponseTarget.none)
    assert sender.context.protocol_requests == [EVENT]


async def test_an_event_that_is_no_message_is_told_as_it_came(sender: Sender):
    body = b'{"type": "order.paid",  "amount": 1.10, "to": "Ann \xc3\xa9"}'
    assert (await sender.raw(body)).status == 202
    assert sender.request.input[0]["contents"][0]["text"] == body.decode()


async def test_the_partition_is_the_channels_own(sender: Sender):
    sender.door.open(WebhookChannel([ENDPOINT], [source()], name="mine"))
    await sender.send(EVENT)
    assert (sender.request.channel, sender.request.partition) == ("mine", "mine/shop")


@pytest.mark.parametrize(
    ("changes", "data", "session"),
    [
        ({}, {"thread": "t"}, ChannelSession()),
        ({"conversation": "data.thread"}, {"thread": "t"}, ChannelSession(None, "t")),
        ({"conversation": "data.thread"}, {"thread": 7}, ChannelSession(None, "7")),
        ({"conversation": "data.thread"}, {"thread": None}, ChannelSession()),
        ({"conversation": "data.thread"}, {}, ChannelSession()),
        ({"isolation_key": "telegram:42"}, {}, ChannelSession("telegram:42")),
        (
            {"isolation_key": "telegram:42", "conversation": "data.thread"},
            {"thread": "t"},
            ChannelSession("telegram:42", "t"),
        ),
        ({"isolation_key": lambda event: event["data"]["to"]}, {"to": "ann"}, ChannelSession("webhook/shop:ann")),
        (
            {"isolation_key": lambda event: event["data"]["to"]},
            {"to": "telegram:42"},
            ChannelSession("webhook/shop:telegram:42"),
        ),
    ],
)
async def test_whom_it_is_for(sender: Sender, changes: Any, data: Any, session: ChannelSession):
    sender.open(source(**changes))
    assert (await sender.send({"data": data})).status == 202
    assert sender.request.session == session


@pytest.mark.parametrize("data", [{}, {"to": None}, {"to": 5}, {"to": ""}, 5, None, []])
async def test_who_is_not_said(sender: Sender, data: Any):
    sender.open(source(isolation_key=lambda event: event["data"]["to"]))
    reply = await sender.send({"data": data})
    assert (reply.status, reply.json["error"]["code"]) == (422, "unroutable")
    assert sender.context.submitted == []


async def test_an_isolation_key_may_refuse_in_its_own_words(sender: Sender):
    def nobody(event: Any) -> str:
        raise Unprocessable("Not today.", code="closed")

    sender.open(source(isolation_key=nobody))
    reply = await sender.send(EVENT)
    assert (reply.status, reply.json) == (422, {"error": {"code": "closed", "message": "Not today."}})


async def test_a_defect_of_an_isolation_key_is_told_to_nobody(sender: Sender):
    def broken(event: Any) -> str:
        raise RuntimeError("hidden")

    sender.open(source(isolation_key=broken))
    reply = await sender.send(EVENT)
    assert reply.status == 500
    assert "hidden" not in json.dumps(reply.json)


@pytest.mark.parametrize("name", ["x" * 257, "a\0b", "a\nb"])
async def test_a_conversation_that_cannot_be(sender: Sender, name: str):
    sender.open(source(conversation="data.thread"))
    reply = await sender.send({"data": {"thread": name}})
    assert (reply.status, reply.json["error"]["code"]) == (422, "unroutable")
    assert "data.thread" in reply.json["error"]["message"]


@pytest.mark.parametrize(
    ("reply_to", "reply", "target"),
    [
        ("crm", True, ResponseTarget.originating),
        ("crm", False, ResponseTarget.none),
        ("crm", "yes", ResponseTarget.none),
        (None, True, ResponseTarget.none),
    ],
)
async def test_where_the_reply_goes(sender: Sender, reply_to: str | None, reply: Any, target: ResponseTarget):
    sender.open(source(reply_to=reply_to, conversation="data.thread"))
    await sender.send({"data": {"text": "Hi", "reply": reply, "thread": "t"}})
    assert sender.request.response_target == target
    identity = ChannelIdentity("webhook", "crm", conversation="t", verified=True)
    assert sender.request.identity == (identity if reply_to else None)


# --- durable first


async def test_it_is_acknowledged_when_it_is_durable(sender: Sender):
    sender.context.durable = trio.Event()
    replies = []

    async def send() -> None:
        replies.append(await sender.send(EVENT))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        assert replies == []
        sender.context.durable.set()
    assert [reply.status for reply in replies] == [202]


async def test_a_repeat_is_answered_as_the_first_one(sender: Sender):
    first = await sender.send(EVENT)
    again = await sender.send(EVENT, late=100)
    assert (again.status, again.json) == (202, first.json)
    assert len(sender.context.submitted) == 1
    assert (await sender.send(EVENT, message_id="msg_2")).json == {"id": "run_2"}


async def test_a_repeat_with_another_body(sender: Sender):
    await sender.send(EVENT)
    reply = await sender.send({"type": "other"})
    assert (reply.status, reply.json["error"]["code"]) == (422, "idempotency_key_reused")


async def test_ids_are_a_sources_own(sender: Sender):
    sender.open(source(), source(name="bank"))
    for path in ("/webhooks/shop", "/webhooks/bank"):
        assert (await sender.raw(json.dumps(EVENT).encode(), path=path)).status == 202
    assert [request.partition for request in sender.context.submitted] == ["webhook/shop", "webhook/bank"]


# --- who is let in


BODY = json.dumps(EVENT).encode()


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in signed(BODY).items() if key != name}


@pytest.mark.parametrize(
    "made",
    [
        dict,
        lambda: without("Webhook-Id"),
        lambda: without("Webhook-Timestamp"),
        lambda: without("Webhook-Signature"),
        lambda: signed(BODY, OTHER),
        lambda: signed(BODY + b" "),
        lambda: {**signed(BODY), "Webhook-Id": "msg_2"},
        lambda: {**signed(BODY), "Webhook-Timestamp": str(int(time.time()) + 1)},
        lambda: {**signed(BODY), "Webhook-Signature": "v1,\xff"},
        lambda: {**signed(BODY), "Webhook-Signature": signed(BODY)["Webhook-Signature"].replace("v1,", "v2,")},
        lambda: signed(BODY, late=302),
        lambda: signed(BODY, late=-310),
    ],
)
async def test_what_is_not_verified(
    sender: Sender, made: Callable[[], dict[str, str]], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    reply = await sender.raw(BODY, made())
    assert reply.status == 401
    assert reply.json == {"error": {"code": "unverified", "message": "The message could not be verified."}}
    assert sender.context.submitted == []
    assert "source 'shop': refused" in caplog.text
    for hidden in (SECRET, SECRET.removeprefix("whsec_"), "\\x01\\x01", "v1,", "Hi"):
        assert hidden not in caplog.text


async def test_who_is_not_verified_is_not_told_what_is_wrong_with_the_body(sender: Sender):
    assert (await sender.raw(b"nonsense", signed(b"nonsense", OTHER))).status == 401


@pytest.mark.parametrize("late", [-290, 290])
async def test_clocks_may_be_off(sender: Sender, late: float):
    assert (await sender.send(EVENT, late=late)).status == 202


async def test_any_of_a_sources_secrets_will_do(sender: Sender):
    sender.open(source(secrets=[OTHER, SECRET]))
    for number, secret in enumerate((SECRET, OTHER)):
        assert (await sender.send(EVENT, secret=secret, message_id=f"m{number}")).status == 202
    both = signed(BODY, OTHER, "m3")
    both["Webhook-Signature"] = (
        f"v1a,x {signed(BODY, 'whsec_' + 'A' * 40, 'm3')['Webhook-Signature']} " + (both["Webhook-Signature"])
    )
    assert (await sender.raw(BODY, both)).status == 202


async def test_a_source_does_not_sign_for_another(sender: Sender):
    sender.open(source(), source(name="bank", secrets=OTHER))
    assert (await sender.raw(BODY, signed(BODY), "/webhooks/bank")).status == 401


@pytest.mark.parametrize("path", ["/webhooks/nobody", "/webhooks/%2e%2e", "/webhooks/shop%20"])
async def test_a_source_that_is_not_there(sender: Sender, path: str):
    reply = await sender.raw(BODY, path=path)
    assert (reply.status, reply.json) == (404, {"error": {"code": "not_found", "message": "Nothing is received here."}})


# --- what is refused


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b'"text"', b"null", b'{"a": "\xff"}', b"[" * 5000, b"{" * 9])
async def test_a_body_that_is_no_object(sender: Sender, body: bytes):
    reply = await sender.raw(body)
    assert reply.status == 400
    assert set(reply.json["error"]) == {"code", "message"}
    assert sender.context.submitted == []


async def test_a_body_that_is_too_long(sender: Sender):
    sender.open(max_body=100)
    reply = await sender.raw(b'{"a": "' + b"x" * 100 + b'"}')
    assert (reply.status, reply.json["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("refusal", "status", "wait"),
    [
        (Overloaded("Busy.", retry_after=2.5), 429, b"3"),
        (Overloaded("Stopping.", code="unavailable", status=503, retry_after=5.0), 503, b"5"),
        (Overloaded("Busy."), 429, None),
        (StorageFull("Full."), 507, None),
        (Unprocessable("No."), 422, None),
    ],
)
async def test_what_the_runtime_refuses(sender: Sender, refusal: HostError, status: int, wait: bytes | None):
    sender.context.refusal = refusal
    reply = await sender.send(EVENT)
    assert (reply.status, reply.headers.get(b"retry-after")) == (status, wait)
    assert reply.json == {"error": {"code": refusal.code, "message": refusal.message}}
    assert reply.headers[b"content-type"] == b"application/json"


async def test_a_client_that_leaves_before_its_body_is_whole(sender: Sender):
    headers = [(name.lower().encode(), value.encode()) for name, value in signed(BODY).items()]
    scope = {"type": "http", "method": "POST", "path": "/webhooks/shop", "raw_path": b"/webhooks/shop"}
    sent = []

    async def receive() -> Mapping[str, Any]:
        await trio.lowlevel.checkpoint()
        return {"type": "http.disconnect"}

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    await sender.door.app({**scope, "headers": headers}, receive, send)
    assert (sent, sender.context.submitted) == ([], [])
