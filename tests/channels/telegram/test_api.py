"""Calls: what becomes of answers, and that the token is nowhere but in the address."""

from __future__ import annotations

import json
import logging
import traceback
from typing import Any

import httpx
import pytest
import trio

from afactors_channels.telegram.api import ApiFailed, ApiRefused, BotApi
from afactors_channels.telegram.messages import Upload
from tests.channels.telegram.fakes import TOKEN, Server, refused

HALF = TOKEN.partition(":")[2]


def api_of(server: Server) -> BotApi:
    return BotApi(TOKEN, "https://api.example", server.transport)


async def test_a_call(server: Server):
    api = api_of(server)
    async with api.opened():
        assert (await api.call("getMe", {}))["id"] == 4242
        await api.call("sendMessage", {"chat_id": 1, "text": "ü😀", "message_thread_id": None})
    assert server.calls[1] == ("sendMessage", {"chat_id": 1, "text": "ü😀"})
    assert server.urls[0] == f"https://api.example/bot{TOKEN}/getMe"


async def test_an_upload(server: Server):
    api = api_of(server)
    async with api.opened():
        await api.call(
            "sendPhoto", {"chat_id": 1, "reply_markup": {"a": 1}}, Upload("photo", "ü.png", "image/png", b"\0\1")
        )
    assert server.calls == [("sendPhoto", {"chat_id": "1", "reply_markup": '{"a": 1}'})]
    ((name, _, media_type, data),) = server.files
    assert (name, media_type, data) == ("photo", "image/png", b"\0\1")


@pytest.mark.parametrize(
    ("answer", "code", "retry_after", "migrated"),
    [
        (refused(429, "Too Many", retry_after=7), 429, 7.0, None),
        (httpx.Response(429, headers={"retry-after": "3"}), 429, 3.0, None),
        (httpx.Response(429, headers={"retry-after": "Wed, 21 Oct"}), 429, None, None),
        (refused(400, "upgraded", migrate_to_chat_id=-5), 400, None, -5),
        (refused(404, "Not Found"), 404, None, None),
        (httpx.Response(413, text="<html>"), 413, None, None),
        (httpx.Response(500, json={"message": "API method 'x' is not supported."}), 500, None, None),
        (httpx.Response(200, json={"ok": False, "error_code": 403, "description": "no"}), 403, None, None),
    ],
)
async def test_refusals(server: Server, answer: Any, code: int, retry_after: Any, migrated: Any):
    api = api_of(server)
    server.script["x"].append(answer)
    async with api.opened():
        with pytest.raises(ApiRefused) as caught:
            await api.call("x", {})
    found = caught.value
    assert (found.code, found.retry_after, found.migrated_to) == (code, retry_after, migrated)
    assert found.unknown_method is (code in (404, 500))


@pytest.mark.parametrize(
    "answer",
    [
        refused(502, "Bad Gateway"),
        httpx.Response(500, text="oops"),
        httpx.Response(200, text="oops"),
        httpx.Response(302, headers={"location": "https://elsewhere"}),
        httpx.Response(403, text="<html>blocked by the gateway"),
        httpx.Response(401, json={"message": "not by this gateway"}),
        httpx.Response(200, content=b"[" * 200_000),
        httpx.ConnectError("no"),
        httpx.ReadTimeout("late"),
    ],
)
async def test_failures(server: Server, answer: Any):
    api = api_of(server)
    server.script["x"].append(answer)
    async with api.opened():
        with pytest.raises(ApiFailed):
            await api.call("x", {})


async def test_a_page_instead_of_an_answer_may_pass_and_looks_like_an_unknown_method(server: Server):
    api = api_of(server)
    server.script["x"].append(httpx.Response(404, text="<html>"))
    async with api.opened():
        with pytest.raises(ApiFailed) as caught:
            await api.call("x", {})
    assert (caught.value.method, caught.value.unknown_method) == ("x", True)


async def test_a_result_may_be_null(server: Server):
    server.script["x"].append(httpx.Response(200, json={"ok": True, "result": None}))
    api = api_of(server)
    async with api.opened():
        assert await api.call("x", {}) is None


async def test_files(server: Server):
    api = api_of(server)
    server.stored = {"a b": b"12345"}
    async with api.opened():
        assert await api.fetch("files/a b", 5) == b"12345"
        assert await api.fetch("files/a b", 4) is None
        with pytest.raises(ApiRefused):
            await api.fetch("files/none", 4)


async def test_a_base_with_a_path_and_two_lives(server: Server):
    seen: list[str] = []

    def serve(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(200, json={"ok": True, "result": 1})

    api = BotApi(TOKEN, "http://h:8081/bot/proxy/", httpx.MockTransport(serve))
    for _ in range(2):
        async with api.opened():
            assert await api.call("getMe", {}) == 1
    assert seen == [f"http://h:8081/bot/proxy/bot{TOKEN}/getMe"] * 2


async def test_not_open():
    with pytest.raises(ApiFailed):
        await BotApi(TOKEN, "https://x").call("getMe", {})


async def _raw_server(task_status: Any) -> None:
    """One that answers whatever comes, over a real socket: what logs is below httpx, too."""

    async def serve(stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some(65536)
        body = json.dumps({"ok": False, "error_code": 400, "description": f"bad /bot{TOKEN}/x"}).encode()
        await stream.send_all(b"HTTP/1.1 400 Bad\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    await trio.serve_tcp(serve, 0, host="127.0.0.1", task_status=task_status)


async def test_the_token_is_in_no_log_and_no_error(nursery: trio.Nursery, caplog: pytest.LogCaptureFixture):
    # A real clock and a real socket: the libraries below are to say everything that they have to say.
    caplog.set_level(logging.DEBUG)
    (listener,) = await nursery.start(_raw_server)
    port = listener.socket.getsockname()[1]
    errors: list[BaseException] = []
    for base in (f"http://127.0.0.1:{port}", "http://127.0.0.1:1"):
        api = BotApi(TOKEN, base)
        async with api.opened():
            for work in (api.call("sendMessage", {"text": "x"}), api.fetch("files/x", 10)):
                with pytest.raises((ApiRefused, ApiFailed)) as caught:
                    await work
                errors.append(caught.value)
    nursery.cancel_scope.cancel()
    assert "HTTP Request" in caplog.text
    shown = caplog.text + repr(api) + "".join(_everything(error) for error in errors)
    assert HALF not in shown


def _everything(error: BaseException | None) -> str:
    """What an error, and those before it, and the requests that they carry, can tell."""
    text = ""
    while error is not None:
        text += "".join(traceback.format_exception_only(error)) + repr(vars(error))
        request = getattr(error, "_request", None)
        text += str(request.url) if request is not None else ""
        error = error.__context__
    return text
