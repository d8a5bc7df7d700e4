"""Deliveries to a real server on this machine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio
from agent_framework import AgentResponse, Content, Message

from afactors_channels import ChannelIdentity, PushDeferred, PushRejected
from afactors_channels.pushes import PushPolicy, RetryPolicy, Stop
from afactors_channels.webhook import PUSH_POLICY, delivering
from afactors_channels.webhook.delivering import MAX_ANSWER, DeliveryFailed
from afactors_channels.webhook.signatures import key_of, read_stamp, verify

QUICK = replace(PUSH_POLICY, timeout=0.3)


def checked(post: Any, *secrets: str) -> None:
    headers = post.headers
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    stamp = read_stamp(*(headers[name] for name in names), now=float(headers["webhook-timestamp"]))
    for secret in secrets:
        verify([key_of(secret)], stamp, post.body)


# --- what is sent


async def test_a_delivery(site: Any, sending: Any):
    async with sending.to() as deliverer:
        await deliverer.push(sending.push())
    (post,) = site.posts
    assert post.target == "/hook?token=hidden-in-the-url"
    assert post.json["data"]["text"] == "Hello"
    assert post.headers["host"] == f"127.0.0.1:{site.port}"
    assert post.headers["content-type"] == "application/json"
    assert post.headers["content-length"] == str(len(post.body))
    assert post.headers["user-agent"].startswith("afactors/")
    assert (post.headers["webhook-id"], post.headers["webhook-timestamp"]) == ("d_1", "1700000000")
    checked(post, sending.secret())


async def test_only_the_timestamp_changes_between_attempts(site: Any, sending: Any):
    async with sending.to() as deliverer:
        for attempt in (1, 2, 3):
            await deliverer.push(sending.push(attempt=attempt, unsure=attempt > 1))
            sending.now += 1000
    assert len({post.body for post in site.posts}) == 1
    assert {post.headers["webhook-id"] for post in site.posts} == {"d_1"}
    assert [post.headers["webhook-timestamp"] for post in site.posts] == ["1700000000", "1700001000", "1700002000"]
    assert len({post.headers["webhook-signature"] for post in site.posts}) == 3


async def test_while_secrets_are_exchanged_all_of_them_sign(site: Any, sending: Any):
    both = [sending.secret(1), sending.secret(0)]
    async with sending.to(sending.endpoint(site, secrets=both)) as deliverer:
        await deliverer.push(sending.push())
    checked(site.posts[0], *both)


async def test_headers_of_an_endpoints_own(site: Any, sending: Any):
    headers = {"Authorization": "Bearer hidden-in-a-header", "User-Agent": "mine"}
    async with sending.to(sending.endpoint(site, headers=headers)) as deliverer:
        await deliverer.push(sending.push())
    assert site.posts[0].headers["authorization"] == "Bearer hidden-in-a-header"
    assert site.posts[0].headers["user-agent"] == "mine"


async def test_types_that_an_endpoint_does_not_take(site: Any, sending: Any):
    async with sending.to(sending.endpoint(site, events={"afactors.reply"})) as deliverer:
        await deliverer.push(sending.push(kind="echo"))
        await deliverer.push(sending.push(kind="reply"))
    assert [post.json["type"] for post in site.posts] == ["afactors.reply"]


async def test_connections_are_used_again(site: Any, sending: Any):
    site.answer(sending.response(200, body=b"thanks"))
    async with sending.to() as deliverer:
        for _ in range(3):
            await deliverer.push(sending.push())
    assert [post.connection for post in site.posts] == [1, 1, 1]


async def test_it_can_run_again(site: Any, sending: Any):
    known = {"crm": sending.endpoint(site)}
    deliverer = delivering.Deliverer(known, PUSH_POLICY)
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliverer.run)
            await deliverer.ready()
            await deliverer.push(sending.push())
            nursery.cancel_scope.cancel()
        with trio.move_on_after(0.01) as scope:
            await deliverer.ready()
        assert scope.cancelled_caught
    assert len(site.posts) == 2


# --- answers


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 404, 429, 500, 503])
async def test_an_answer_that_is_tried_again(site: Any, sending: Any, status: int):
    site.answer(sending.response(status, "location: /elsewhere"))
    async with sending.to() as deliverer:
        with pytest.raises(DeliveryFailed, match=f"'crm' answered {status}"):
            await deliverer.push(sending.push())
    assert len(site.posts) == 1, "nobody follows"


async def test_an_endpoint_that_is_gone(site: Any, sending: Any, caplog: pytest.LogCaptureFixture):
    site.answer(sending.response(410), sending.response(200))
    async with sending.to() as deliverer:
        for _ in range(3):
            with pytest.raises(PushRejected, match="endpoint_gone"):
                await deliverer.push(sending.push())
        assert len(site.posts) == 1
        assert deliverer.disabled == {"crm"}
        assert "'crm' is gone" in caplog.text
        deliverer.enable("crm")
        await deliverer.push(sending.push())
        assert deliverer.disabled == frozenset()
        with pytest.raises(KeyError):
            deliverer.enable("nobody")
    assert len(site.posts) == 2


async def test_an_endpoint_that_is_not_configured(site: Any, sending: Any):
    async with sending.to() as deliverer:
        for name in ("nobody", "", f"http://127.0.0.1:{site.port}/"):
            with pytest.raises(PushRejected, match=r"^unknown_endpoint$"):
                await deliverer.push(sending.push(identity=ChannelIdentity("webhook", name)))
    assert site.posts == []


async def test_what_cannot_be_sent(site: Any, sending: Any):
    call = Content.from_function_call("c", "f", arguments={"a": object()})
    said = AgentResponse(messages=[Message("assistant", [Content.from_function_approval_request("q", call)])])
    async with sending.to() as deliverer:
        with pytest.raises(PushRejected, match="not_json"):
            await deliverer.push(sending.push(response=said))


@pytest.mark.parametrize(
    ("attempt", "asked", "wait"),
    [
        (1, "60", 60.0),
        (1, "Tue, 14 Nov 2023 22:14:20 GMT", 59.75),
        (1, "1", 5.0),  # never less than without being asked
        (4, "1", 135.0),
        (1, "86400", 86_400.0),
        (1, "999999999", 3 * 86_400 - 60 - PUSH_POLICY.timeout),  # in time for a last try
        (30, "60", 60.0),  # the last attempt: the policy has no more to say
    ],
)
async def test_how_long_an_endpoint_asks_to_wait(site: Any, sending: Any, attempt: int, asked: str, wait: float):
    site.answer(sending.response(503, f"retry-after: {asked}"))
    async with sending.to() as deliverer:
        with pytest.raises(PushDeferred) as caught:
            await deliverer.push(sending.push(attempt=attempt))
    assert caught.value.retry_after == pytest.approx(wait)


def test_the_policy_goes_on_for_days():
    retry: RetryPolicy = PUSH_POLICY.retry
    waits: list[float] = []
    while True:
        step = retry.after(len(waits) + 1, DeliveryFailed(), age=sum(waits), chance=0.5)
        if isinstance(step, Stop):
            break
        waits.append(step.seconds)
    assert waits[:3] == [5, 15, 45]
    assert 2 * 86_400 < sum(waits) <= 3 * 86_400
    assert (len(waits), step.reason) == (16, "expired")
    assert 15 <= PUSH_POLICY.timeout <= 30


# --- receivers that misbehave


async def test_a_body_without_end(site: Any, sending: Any):
    sent = 0

    async def flood(stream: trio.abc.Stream) -> None:
        nonlocal sent
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 65_536)
            sent += 65_536

    site.answer(flood)
    async with sending.to() as deliverer:
        with trio.fail_after(5):
            await deliverer.push(sending.push())
    assert sent < 50_000_000, f"{MAX_ANSWER} are read; the rest is in the system's buffers"


async def test_a_body_that_drips_does_not_hold_a_delivery_up(site: Any, sending: Any, monkeypatch: pytest.MonkeyPatch):
    async def drip(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")
        while True:
            await stream.send_all(b"x")
            await trio.sleep(0.02)

    monkeypatch.setattr(delivering, "_SKIM_SECONDS", 0.1)
    site.answer(drip)
    async with sending.to() as deliverer:
        with trio.fail_after(1):
            await deliverer.push(sending.push())


async def test_a_body_that_breaks_off_changes_nothing(site: Any, sending: Any):
    async def short(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nx")

    site.answer(short, sending.response(200))
    async with sending.to() as deliverer:
        await deliverer.push(sending.push())
        await deliverer.push(sending.push())
    assert [post.connection for post in site.posts] == [1, 2]


@pytest.mark.parametrize("pieces", [[], [b"HTTP/1.1 200 OK\r\nx: "]])
async def test_no_answer(site: Any, sending: Any, pieces: Sequence[bytes]):
    async def silent(stream: trio.abc.Stream) -> None:
        for piece in pieces:
            await stream.send_all(piece)
        await trio.sleep_forever()

    site.answer(silent)
    async with sending.to(policy=QUICK) as deliverer:
        with pytest.raises(DeliveryFailed, match="in time"):
            await deliverer.push(sending.push())


async def test_headers_that_drip_are_no_answer(site: Any, sending: Any):
    async def drip(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n")
        while True:
            await stream.send_all(b"x: y\r\n")
            await trio.sleep(0.02)

    site.answer(drip)
    async with sending.to(policy=QUICK) as deliverer:
        with pytest.raises(DeliveryFailed, match="in time"):
            await deliverer.push(sending.push())


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9\r\n", b"", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000])
async def test_what_is_no_http(site: Any, sending: Any, answer: bytes):
    async def garbage(stream: trio.abc.Stream) -> None:
        await stream.send_all(answer)

    site.answer(garbage)
    async with sending.to() as deliverer:
        with pytest.raises(DeliveryFailed) as caught:
            await deliverer.push(sending.push())
    assert "SSH" not in str(caught.value)


async def test_nobody_there(site: Any, sending: Any):
    with trio.socket.socket() as taken:
        await taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        async with sending.to(sending.endpoint(site, url=url)) as deliverer:
            with pytest.raises(DeliveryFailed, match="'crm': no connection"):
                await deliverer.push(sending.push())


async def test_one_that_is_slow_holds_no_other_up(site: Any, sending: Any):
    asked = trio.Event()

    async def silent(stream: trio.abc.Stream) -> None:
        asked.set()
        await trio.sleep_forever()

    site.answer(silent, sending.response(200))
    policy = PushPolicy(timeout=2.0, concurrency=4)
    async with sending.to(policy=policy) as deliverer, trio.open_nursery() as nursery:
        nursery.start_soon(deliverer.push, sending.push())
        await asked.wait()
        with trio.fail_after(1):
            await deliverer.push(sending.push())
        nursery.cancel_scope.cancel()


# --- what must not be told


async def test_no_secret_is_told(site: Any, sending: Any, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": "Bearer hidden-in-a-header"}
    one = sending.endpoint(site, headers=headers)
    site.answer(*(sending.response(status) for status in (200, 500, 410)))
    told = [repr(one), str(one)]
    async with sending.to(one) as deliverer:
        for _ in range(3):
            try:
                await deliverer.push(sending.push())
            except (DeliveryFailed, PushRejected) as exc:
                told += [repr(exc), repr(exc.__context__), repr(exc.__cause__)]
    told += [caplog.text, *(repr(record.args) for record in caplog.records)]
    assert len(site.posts) == 3
    for hidden in ("hidden", sending.secret(), sending.secret().removeprefix("whsec_"), "\\x00\\x00", "v1,"):
        assert [one for one in told if hidden in one] == []
