"""Signed webhooks as a process: in and out over real HTTP, signed and verified by the reference library."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from tests.e2e.sites import Receiver


def new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


THEIRS, OURS = new_secret(), new_secret()


@pytest.fixture
def shop() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def config(shop: Receiver, secret: Any = OURS, name: str = "shop", **source: Any) -> dict[str, Any]:
    """One source, whose replies go to one endpoint."""
    endpoint = {"name": name, "url": f"{shop.url}/hook", "secrets": secret}
    given = {"name": "shop", "secrets": THEIRS, "conversation": "data.order", "reply_to": name, **source}
    return {"endpoints": [endpoint], "sources": [given]}


def send(server: Any, event: Any, name: str, *, secret: str = THEIRS, at: float | None = None) -> httpx.Response:
    """An event of the shop's, signed as the reference library does it."""
    body, now = json.dumps(event), datetime.fromtimestamp(int(at or time.time()), UTC)
    signature = Webhook(secret).sign(name, now, body)
    stamp = {"webhook-id": name, "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}
    answer: httpx.Response = server.http().post("/webhooks/shop", content=body, headers=stamp)
    return answer


def asked(text: str, order: int = 7, *, reply: bool = True) -> dict[str, Any]:
    return {"type": "order.asked", "data": {"text": text, "order": order, "reply": reply}}


def verified(post: tuple[str, Any, bytes], *keys: str) -> Any:
    """An event that the shop got, if each of the keys opens it."""
    _, headers, body = post
    found = [Webhook(key).verify(body, dict(headers)) for key in keys]
    return found[0]


def test_in_signed_and_out_signed(servers: Any, shop: Receiver, tmp_path: Path, until: Any) -> None:
    server = servers.channelled(tmp_path / "state", webhook=config(shop))
    first = send(server, asked("hello"), "msg_1")
    assert first.status_code == 202
    until(lambda: len(shop.posts) == 1, "the reply")
    event = verified(shop.posts[0], OURS)
    assert (event["type"], event["data"]["text"]) == ("afactors.reply", "1: hello")
    assert (event["data"]["id"], event["data"]["conversation"]) != (None, None)
    assert (event["data"]["conversation"], event["data"]["error"]) == ("7", None)

    # The same again is answered as the first was, and nothing else comes of it; the same name with other words is not.
    assert send(server, asked("hello"), "msg_1").json() == first.json()
    assert send(server, asked("something else"), "msg_1").json()["error"]["code"] == "idempotency_key_reused"

    # Another event goes on with the order's conversation; one that wants no reply gets none.
    send(server, asked("quietly", reply=False), "msg_2")
    send(server, asked("and now"), "msg_3")
    send(server, asked("another order", 8), "msg_4")
    until(lambda: len(shop.posts) == 3, "the replies")
    assert {event["data"]["text"] for event in shop.events[1:]} == {"3: and now", "1: another order"}
    assert len({headers["webhook-id"] for _, headers, _ in shop.posts}) == 3
    assert server.stop() == 0


def test_who_cannot_sign_is_refused(servers: Any, shop: Receiver, tmp_path: Path) -> None:
    server = servers.channelled(tmp_path / "state", webhook=config(shop))
    forged = send(server, asked("forged"), "msg_1", secret=new_secret())
    stale = send(server, asked("stale"), "msg_2", at=time.time() - 600)
    bare = server.http().post("/webhooks/shop", json=asked("bare"))
    for answer in (forged, stale, bare):
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unverified")
    assert server.http().post("/webhooks/nobody", json={}).status_code == 404
    assert server.journal() == []
    assert server.stop() == 0


def test_a_failed_run_is_told(servers: Any, shop: Receiver, tmp_path: Path, until: Any) -> None:
    server = servers.channelled(tmp_path / "state", webhook=config(shop))
    send(server, asked("fail pssst"), "msg_1")
    until(lambda: shop.posts, "the news")
    (event,) = shop.events
    assert event["data"]["error"] == "server_error"
    assert "pssst" not in json.dumps(event)


def test_keys_are_exchanged_and_repeats_stay_the_same(servers: Any, shop: Receiver, tmp_path: Path, until: Any) -> None:
    newer, state = new_secret(), tmp_path / "state"
    shop.always = 500
    server = servers.channelled(state, webhook=config(shop))
    send(server, asked("before"), "msg_1")
    until(lambda: shop.posts, "an attempt")
    server.kill()

    # While keys are exchanged both sign; what was under way when it was killed comes again, under the same name.
    shop.always = None
    server = servers.channelled(state, webhook=config(shop, [newer, OURS], secrets=[new_secret(), THEIRS]))
    until(lambda: len(shop.posts) >= 2, "another attempt")
    before = verified(shop.posts[-1], newer, OURS)
    assert before["data"]["text"] == "1: before"
    assert len({(headers["webhook-id"], body) for _, headers, body in shop.posts}) == 1
    assert send(server, asked("after"), "msg_2").status_code == 202
    until(lambda: shop.events[-1]["data"]["text"] == "2: after", "the reply")
    assert server.stop() == 0

    server = servers.channelled(state, webhook=config(shop, newer))
    assert send(server, asked("before"), "msg_1").status_code == 202  # still known as a repeat
    send(server, asked("at last"), "msg_3")
    until(lambda: shop.events[-1]["data"]["text"] == "3: at last", "the reply")
    assert verified(shop.posts[-1], newer)
    with pytest.raises(Exception, match="No matching signature"):
        verified(shop.posts[-1], OURS)
    assert [event["data"]["text"] for event in shop.events].count("1: before") == len(shop.posts) - 2


def test_endpoints_that_are_down_hold_up_nobody_else(servers: Any, shop: Receiver, tmp_path: Path, until: Any) -> None:
    with Receiver() as down:
        down.always = 503
        made = config(shop)
        for name in ("one", "two"):
            made["endpoints"].append({"name": name, "url": f"{down.url}/{name}", "secrets": OURS})
            source = {"name": name, "secrets": THEIRS, "conversation": "data.order", "reply_to": name}
            made["sources"].append(source)
        server = servers.channelled(tmp_path / "state", webhook=made)
        for number in range(6):
            for name in ("one", "two"):
                body, at = json.dumps(asked("hello", number)), datetime.now(UTC)
                stamp = {"webhook-id": f"m{number}", "webhook-timestamp": str(int(at.timestamp()))}
                stamp["webhook-signature"] = Webhook(THEIRS).sign(stamp["webhook-id"], at, body)
                answer = server.http().post(f"/webhooks/{name}", content=body, headers=stamp)
                assert answer.status_code == 202
        until(lambda: len(down.posts) >= 12, "they fail")
        began = time.monotonic()
        send(server, asked("hello"), "msg_1")
        until(lambda: shop.posts, "the reply to the third")
        assert time.monotonic() - began < 3
