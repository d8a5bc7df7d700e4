"""The dispatcher as a plain ASGI callable: routes, health, and the limit of a body."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
import trio

from afactors.http import Dispatcher
from afactors_channels import BadRequest, HostError, Route
from afactors_channels.asgi import ClientGone, read_body, send_whole

Inner = Callable[[Any, Any, Any], Awaitable[None]]


class Host:
    """What a dispatcher asks of its runtime."""

    def __init__(self) -> None:
        self.serving = True
        self.broken: str | None = None
        self.reasons: list[str] = []

    def not_ready(self) -> list[str]:
        return self.reasons


class Client:
    """One request; the body leaves in chunks, and what was not read of them can be seen afterwards."""

    def __init__(self, method: str, path: str, *chunks: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        }
        self.chunks = list(chunks) or [b""]
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if not self.chunks:
            return {"type": "http.disconnect"}
        chunk = self.chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(self.chunks)}

    async def send(self, message: Mapping[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(dict(message))

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def error(self) -> dict[str, Any]:
        """The envelope of an error response."""
        assert self.headers[b"content-type"] == b"application/json"
        assert int(self.headers[b"content-length"]) == len(self.body)
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


async def echo(_scope: Any, receive: Any, send: Any) -> None:
    """A route: it answers with what it got."""
    await send_whole(send, 200, b"route:" + await read_body(receive), [(b"content-type", b"text/plain")])


async def inner(scope: Any, receive: Any, send: Any) -> None:
    """The app that it is embedded in."""
    if scope["type"] != "http":
        await send({"type": f"{scope['type']}.inner"})
        return
    await send_whole(send, 200, b"inner:" + await read_body(receive), [])


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def fetch(host: Host) -> Callable[..., Awaitable[Client]]:
    async def fetch(
        method: str, path: str, *chunks: bytes, inner: Inner | None = None, limit: int = 100, **headers: str
    ) -> Client:
        dispatcher = Dispatcher(host, [Route("POST", "/echo", echo), Route("GET", "/echo", echo)], limit, inner)
        client = Client(method, path, *chunks, headers={name.replace("_", "-"): text for name, text in headers.items()})
        await dispatcher(client.scope, client.receive, client.send)
        return client

    return fetch


Fetch = Callable[..., Awaitable[Client]]


# --- routes


async def test_a_route(fetch: Fetch):
    client = await fetch("POST", "/echo", b"ab", b"c")
    assert (client.status, client.body) == (200, b"route:abc")
    assert (await fetch("GET", "/echo")).status == 200


@pytest.mark.parametrize("path", ["/", "/nothing", "/echo/", "/ECHO", "/echo/more"])
async def test_a_path_that_is_not_there(fetch: Fetch, path: str):
    client = await fetch("POST", path)
    assert client.status == 404
    assert (client.error["type"], client.error["code"]) == ("invalid_request_error", "not_found")


async def test_a_method_that_is_not_served(fetch: Fetch):
    client = await fetch("DELETE", "/echo")
    assert client.status == 405
    assert client.error["code"] == "method_not_allowed"
    assert "DELETE" in client.error["message"]


async def test_a_405_names_the_methods_that_are(fetch: Fetch):
    client = await fetch("DELETE", "/echo")
    assert set(client.headers[b"allow"].split(b", ")) == {b"GET", b"POST"}


@pytest.mark.parametrize(("method", "path"), [("POST", "/nothing"), ("DELETE", "/echo")])
async def test_what_is_not_ours_is_the_inner_apps(fetch: Fetch, method: str, path: str):
    client = await fetch(method, path, b"abc", inner=inner)
    assert (client.status, client.body) == (200, b"inner:abc")


async def test_what_is_ours_never_reaches_the_inner_app(fetch: Fetch):
    assert (await fetch("POST", "/echo", inner=inner)).body == b"route:"
    assert json.loads((await fetch("GET", "/healthz", inner=inner)).body) == {"status": "ok"}


def test_two_channels_on_one_route():
    with pytest.raises(ValueError, match="two channels serve POST /echo"):
        Dispatcher(Host(), [Route("POST", "/echo", echo), Route("POST", "/echo", echo)], 100)


def test_a_channel_on_a_health_route():
    with pytest.raises(ValueError, match="GET /readyz"):
        Dispatcher(Host(), [Route("GET", "/readyz", echo)], 100)


async def test_an_error_that_escapes_a_route_gets_its_envelope(host: Host):
    async def refuse(_scope: Any, _receive: Any, _send: Any) -> None:
        raise BadRequest("not like this", field="input[0]", code="odd")

    client = Client("GET", "/x")
    await Dispatcher(host, [Route("GET", "/x", refuse)], 100)(client.scope, client.receive, client.send)
    assert client.status == 400
    assert client.error == {
        "message": "not like this",
        "type": "invalid_request_error",
        "param": "input[0]",
        "code": "odd",
    }


async def test_an_error_after_the_response_began_is_logged(host: Host, caplog: pytest.LogCaptureFixture):
    async def stumble(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise HostError("too late")

    client = Client("GET", "/x")
    with caplog.at_level(logging.ERROR):
        await Dispatcher(host, [Route("GET", "/x", stumble)], 100)(client.scope, client.receive, client.send)
    assert [message["type"] for message in client.sent] == ["http.response.start"]
    assert "too late" in caplog.text


async def test_a_defect_of_the_inner_app_is_its_own(fetch: Fetch):
    async def broken(_scope: Any, _receive: Any, _send: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fetch("GET", "/x", inner=broken)


# --- health


async def test_health(fetch: Fetch, host: Host):
    client = await fetch("GET", "/healthz")
    assert (client.status, json.loads(client.body)) == (200, {"status": "ok"})
    client = await fetch("GET", "/readyz")
    assert (client.status, json.loads(client.body)) == (200, {"status": "ready"})
    host.reasons = ["stopping", "storage full"]
    client = await fetch("GET", "/readyz")
    assert client.status == 503
    assert json.loads(client.body) == {"status": "not ready", "reasons": ["stopping", "storage full"]}
    assert (await fetch("GET", "/healthz")).status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_without_a_body(fetch: Fetch, path: str):
    client = await fetch("HEAD", path)
    assert (client.status, client.body) == (200, b"")


async def test_before_it_opens_our_routes_are_unavailable_and_the_inner_apps_are_not(fetch: Fetch, host: Host):
    host.serving = False
    client = await fetch("POST", "/echo", b"x", inner=inner)
    assert client.status == 503
    assert client.error["code"] == "unavailable"
    assert client.headers[b"retry-after"] == b"5"
    assert (await fetch("GET", "/page", inner=inner)).body == b"inner:"
    assert (await fetch("GET", "/healthz")).status == 200


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/echo"), ("DELETE", "/echo"), ("GET", "/page"), ("GET", "/nothing")]
)
async def test_when_it_is_broken_every_path_is_unavailable(fetch: Fetch, host: Host, method: str, path: str):
    host.broken, host.serving, host.reasons = "the disk is gone", False, ["broken"]
    for app in (inner, None):
        client = await fetch(method, path, b"x", inner=app)
        assert client.status == 503
        assert client.headers[b"retry-after"]
        assert "disk" not in client.body.decode(), "why is not for the wire"
        assert (await fetch("GET", "/healthz", inner=app)).status == 200
        assert (await fetch("GET", "/readyz", inner=app)).status == 503


# --- bodies


@pytest.mark.parametrize("path", ["/echo", "/page"])
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("chunks", [[b"x" * 100], [b"x"] * 100])
async def test_a_body_at_the_limit(fetch: Fetch, path: str, declared: bool, chunks: list[bytes]):
    headers = {"content_length": "100"} if declared else {}
    client = await fetch("POST", path, *chunks, inner=inner, **headers)
    assert client.status == 200
    assert client.body.endswith(b":" + b"x" * 100)


@pytest.mark.parametrize("path", ["/echo", "/page"])
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("chunks", [[b"x" * 101], [b"x"] * 101, [b"x" * 60] * 2])
async def test_a_body_over_the_limit(fetch: Fetch, path: str, declared: bool, chunks: list[bytes]):
    headers = {"content_length": str(len(b"".join(chunks)))} if declared else {}
    client = await fetch("POST", path, *chunks, inner=inner, **headers)
    assert client.status == 413
    assert client.error["code"] == "request_too_large"
    assert "100 bytes" in client.error["message"]
    assert len(client.chunks) <= 1, "the rest was read, so that the client gets the answer and not a reset"


async def test_a_declared_body_over_the_limit_never_reaches_an_app(fetch: Fetch):
    reached = False

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        nonlocal reached
        reached = True

    assert (await fetch("POST", "/page", b"x" * 101, inner=app, content_length="101")).status == 413
    assert not reached


async def test_an_endless_body_is_not_read_for_ever(fetch: Fetch):
    client = await fetch("POST", "/echo", *[b"x" * 50] * 1000)
    assert client.status == 413
    assert len(client.chunks) > 900


async def test_a_client_that_stops_sending_is_answered_all_the_same(autojump_clock: trio.abc.Clock, host: Host):
    client = Client("POST", "/echo", headers={"content-length": "101"})

    async def receive() -> Any:
        await trio.sleep_forever()

    await Dispatcher(host, [Route("POST", "/echo", echo)], 100)(client.scope, receive, client.send)
    assert client.status == 413
    assert trio.current_time() <= 5.1


async def test_an_inner_app_that_receives_in_a_nursery(fetch: Fetch):
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
            outer.start_soon(trio.sleep_forever)
            nursery.start_soon(read_body, receive)

    client = await fetch("POST", "/page", b"x" * 101, inner=app)
    assert client.status == 413
    assert client.error["code"] == "request_too_large"


async def test_other_failures_in_an_inner_apps_nursery_are_its_own(fetch: Fetch):
    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        async def fail() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ZeroDivisionError

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await trio.lowlevel.checkpoint()
            await read_body(receive)

    with pytest.raises(BaseExceptionGroup) as group:
        await fetch("POST", "/page", b"x" * 101, inner=app)
    assert group.group_contains(ZeroDivisionError)


async def test_an_app_that_answers_before_it_read_too_much(fetch: Fetch, caplog: pytest.LogCaptureFixture):
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await read_body(receive)

    client = await fetch("POST", "/page", b"x" * 101, inner=app)
    assert [message["type"] for message in client.sent] == ["http.response.start"]
    assert "over the limit" in caplog.text


@pytest.mark.parametrize("value", ["nonsense", "-5", "1e9", ""])
async def test_a_content_length_that_is_none_is_left_to_the_server(fetch: Fetch, value: str):
    assert (await fetch("POST", "/echo", b"abc", content_length=value)).body == b"route:abc"


async def test_a_client_that_leaves_is_no_error(host: Host):
    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientGone):
        await read_body(gone)


# --- other scopes


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_other_scopes_are_the_inner_apps(host: Host, kind: str):
    client = Client("GET", "/")
    dispatcher = Dispatcher(host, [], 100, inner)
    await dispatcher({"type": kind, "path": "/"}, client.receive, client.send)
    assert client.sent == [{"type": f"{kind}.inner"}]


async def test_alone_it_has_a_lifespan_of_its_own(host: Host):
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await Dispatcher(host, [], 100)({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_alone_it_closes_a_websocket(host: Host):
    client = Client("GET", "/")
    await Dispatcher(host, [], 100)({"type": "websocket", "path": "/"}, client.receive, client.send)
    assert client.sent == [{"type": "websocket.close", "code": 1000}]
