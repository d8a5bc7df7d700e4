"""The dispatcher as a plain ASGI callable: routes, health, and the limit of a body."""

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

import pytest
import trio

from afactors.http import Dispatcher
from afactors_channels import BadRequest, Endpoint, HostError, Overloaded, Route, TooLarge
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


# --- templates


async def show(scope: Any, _receive: Any, send: Any) -> None:
    """A route: it answers with the parameters that it got."""
    await send_whole(send, 200, json.dumps(scope.get("path_params")).encode())


def shows(label: str) -> Endpoint:
    """A route that answers with its name."""

    async def answer(_scope: Any, _receive: Any, send: Any) -> None:
        await send_whole(send, 200, label.encode())

    return answer


async def get(
    host: Host, routes: list[Route], raw_path: str, inner: Inner | None = None, method: str = "GET"
) -> Client:
    client = Client(method, unquote(raw_path.partition("?")[0]))
    client.scope["raw_path"] = raw_path.encode()
    await Dispatcher(host, routes, 100, inner)(client.scope, client.receive, client.send)
    return client


ITEMS = [
    Route("GET", "/items/{id}", show),
    Route("DELETE", "/items/{id}", show),
    Route("GET", "/items/{id}/parts/{part}", show),
]


@pytest.mark.parametrize(
    ("raw_path", "parameters"),
    [
        ("/items/abc", {"id": "abc"}),
        ("/items/abc?id=other", {"id": "abc"}),
        ("/items/a%2Fb", {"id": "a/b"}),
        ("/items/a%252Fb", {"id": "a%2Fb"}),
        ("/items/%2F", {"id": "/"}),
        ("/items/%C3%A4+%20{x}", {"id": "ä+ {x}"}),
        ("/items/..", {"id": ".."}),
        ("/it%65ms/abc", {"id": "abc"}),
        ("/items/%E2%82%AC/parts/2", {"id": "€", "part": "2"}),
    ],
)
async def test_a_segment_in_braces_takes_one_segment(host: Host, raw_path: str, parameters: dict[str, str]):
    client = await get(host, ITEMS, raw_path)
    assert (client.status, json.loads(client.body)) == (200, parameters)
    assert "path_params" not in client.scope, "the server's scope stays as it was"


@pytest.mark.parametrize(
    "raw_path",
    [
        "/items",
        "/items/",
        "/items//parts/2",
        "/items/a/parts/",
        "/items/a/b",
        "/items/a/",
        "/items/%FF",
        "/items%2Fabc",
    ],
)
async def test_what_no_template_takes(host: Host, raw_path: str):
    assert (await get(host, ITEMS, raw_path)).status == 404
    assert (await get(host, ITEMS, raw_path, inner)).body == b"inner:"


async def test_without_a_raw_path_the_decoded_one_counts(fetch: Fetch, host: Host):
    client = Client("GET", "/items/100%25")
    await Dispatcher(host, ITEMS, 100)(client.scope, client.receive, client.send)
    assert json.loads(client.body) == {"id": "100%25"}


async def test_what_is_fixed_goes_before_what_is_in_braces(host: Host):
    paths = ["/{a}/{b}", "/{a}/y", "/x/{b}", "/x/y", "/{a}/y/{c}", "/x/{b}/z"]
    routes = [Route("GET", path, shows(path)) for path in paths]
    for path, fits in [
        ("/x/y", "/x/y"),
        ("/x/1", "/x/{b}"),
        ("/1/y", "/{a}/y"),
        ("/1/1", "/{a}/{b}"),
        ("/x/y/z", "/x/{b}/z"),
        ("/x/y/1", "/{a}/y/{c}"),
    ]:
        assert (await get(host, routes, path)).body.decode() == fits


async def test_an_exact_path_hides_a_template_for_every_method(host: Host):
    client = await get(host, [*ITEMS, Route("POST", "/items/search", echo)], "/items/search")
    assert (client.status, client.headers[b"allow"]) == (405, b"POST")


@pytest.mark.parametrize("method", ["PUT", "OPTIONS", "HEAD"])
async def test_a_method_that_a_template_does_not_serve(host: Host, method: str):
    client = await get(host, ITEMS, "/items/abc", method=method)
    assert (client.status, client.headers[b"allow"]) == (405, b"DELETE, GET")


async def test_the_inner_app_gets_the_scope_without_our_parameters(host: Host):
    assert (await get(host, ITEMS, "/items/abc", show, method="PUT")).body == b"null"


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["/a/{x}", "/a/{x}"], "two channels serve GET /a/{x}"),
        (["/a/{x}", "/a/{y}"], "/a/{y} and /a/{x} are one path"),
        (["/a/{x}/{x}"], "name of its own"),
        (["/a/{x}:go"], "whole segment"),
        (["/a/{}"], "whole segment"),
        (["/a/x}"], "whole segment"),
    ],
)
def test_templates_that_are_refused(paths: list[str], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        Dispatcher(Host(), [Route("GET", path, echo) for path in paths], 100)


# --- errors


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
    await dispatcher({**client.scope, "type": kind}, client.receive, client.send)
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


# --- websockets


class Socket(Client):
    """One websocket; the messages that it sends, and then it leaves."""

    def __init__(self, path: str, *messages: str | bytes, extended: bool = True) -> None:
        super().__init__("GET", path)
        self.scope = {"type": "websocket", "path": path, "headers": []}
        if extended:
            self.scope["extensions"] = {"websocket.http.response": {}}
        self.messages: list[dict[str, Any]] = [{"type": "websocket.connect"}]
        for message in messages:
            kinds = {"text": None, "bytes": None, "text" if isinstance(message, str) else "bytes": message}
            self.messages.append({"type": "websocket.receive", **kinds})

    async def receive(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return self.messages.pop(0) if self.messages else {"type": "websocket.disconnect", "code": 1006}

    @property
    def kinds(self) -> list[str]:
        return [message["type"] for message in self.sent]


async def talk(scope: Any, receive: Any, send: Any) -> None:
    """A websocket route: it returns what it gets."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "parameters": scope.get("path_params")})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


TALK = [
    Route("WEBSOCKET", "/talk", talk),
    Route("WEBSOCKET", "/talk/{id}", talk),
    Route("POST", "/both", echo),
    Route("WEBSOCKET", "/both", talk),
    Route("GET", "/page", echo),
]


@pytest.fixture
def connect(host: Host) -> Callable[..., Awaitable[Socket]]:
    async def connect(
        path: str,
        *messages: str | bytes,
        inner: Inner | None = None,
        endpoint: Endpoint | None = None,
        extended: bool = True,
    ) -> Socket:
        routes = [Route("WEBSOCKET", path, endpoint)] if endpoint is not None else TALK
        socket = Socket(path, *messages, extended=extended)
        await Dispatcher(host, routes, 100, inner)(socket.scope, socket.receive, socket.send)
        return socket

    return connect


Connect = Callable[..., Awaitable[Socket]]


@pytest.mark.parametrize(
    ("path", "parameters"), [("/talk", None), ("/both", None), ("/talk/7", {"id": "7"}), ("/talk/ä", {"id": "ä"})]
)
async def test_a_websocket_route(connect: Connect, path: str, parameters: dict[str, str] | None):
    socket = await connect(path, "one", b"two", inner=inner)
    assert socket.kinds == ["websocket.accept", "websocket.send", "websocket.send"]
    assert socket.sent[0]["parameters"] == parameters
    assert (socket.sent[1]["text"], socket.sent[2]["bytes"]) == ("one", b"two")


@pytest.mark.parametrize("path", ["/", "/nothing", "/talk/", "/page", "/healthz"])
async def test_a_websocket_that_is_not_there(connect: Connect, path: str):
    socket = await connect(path)
    assert socket.kinds == ["websocket.http.response.start", "websocket.http.response.body"]
    assert (socket.status, socket.error["code"]) == (404, "not_found")
    assert (await connect(path, inner=inner)).kinds == ["websocket.inner"]


async def test_where_a_server_knows_no_refusal_the_websocket_is_closed(connect: Connect):
    assert (await connect("/nothing", extended=False)).sent == [{"type": "websocket.close"}]


async def test_websockets_are_unavailable_until_it_opens(connect: Connect, host: Host):
    host.serving = False
    socket = await connect("/talk", inner=inner)
    assert (socket.status, socket.error["code"], socket.headers[b"retry-after"]) == (503, "unavailable", b"5")
    assert (await connect("/nothing", inner=inner)).kinds == ["websocket.inner"]
    host.broken = "the disk is gone"
    assert (await connect("/nothing", inner=inner)).status == 503


@pytest.mark.parametrize("path", ["/talk", "/talk/7"])
@pytest.mark.parametrize("method", ["GET", "POST", "WEBSOCKET"])
async def test_a_plain_request_to_a_websocket(host: Host, path: str, method: str):
    client = await get(host, TALK, path, method=method)
    assert (client.status, client.error["code"]) == (426, "upgrade_required")
    assert (client.headers[b"upgrade"], client.headers[b"connection"]) == (b"websocket", b"upgrade")
    assert (await get(host, TALK, path, inner, method=method)).body == b"inner:"


@pytest.mark.parametrize("method", ["GET", "WEBSOCKET"])
async def test_a_websocket_is_not_among_the_allowed_methods(host: Host, method: str):
    client = await get(host, TALK, "/both", method=method)
    assert (client.status, client.headers[b"allow"]) == (405, b"POST")


def test_two_channels_on_one_websocket():
    with pytest.raises(ValueError, match="two channels serve WEBSOCKET /talk"):
        Dispatcher(Host(), [*TALK, Route("WEBSOCKET", "/talk", talk)], 100)


async def test_an_error_before_a_websocket_is_accepted(connect: Connect):
    async def refuse(_scope: Any, receive: Any, _send: Any) -> None:
        await receive()
        raise Overloaded("not now", retry_after=2.0)

    socket = await connect("/x", endpoint=refuse)
    assert socket.kinds == ["websocket.http.response.start", "websocket.http.response.body"]
    assert (socket.status, socket.headers[b"retry-after"], socket.error["message"]) == (429, b"2", "not now")


async def test_an_error_after_a_websocket_was_accepted(connect: Connect, caplog: pytest.LogCaptureFixture):
    async def stumble(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        raise HostError("too late")

    socket = await connect("/x", endpoint=stumble)
    assert socket.sent == [{"type": "websocket.accept"}, {"type": "websocket.close", "code": 1011}]
    assert "too late" in caplog.text


@pytest.mark.parametrize("closed_by", ["us", "the client"])
async def test_an_error_after_a_websocket_was_closed(
    connect: Connect, caplog: pytest.LogCaptureFixture, closed_by: str
):
    async def stumble(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        if closed_by == "us":
            await send({"type": "websocket.close"})
        assert (await receive())["type"] == "websocket.disconnect"
        raise HostError("too late")

    socket = await connect("/x", endpoint=stumble)
    assert socket.kinds == ["websocket.accept", "websocket.close"][: 2 if closed_by == "us" else 1]
    assert "too late" in caplog.text


@pytest.mark.parametrize("message", ["x" * 100, b"x" * 100, "€" * 33])
async def test_a_message_at_the_limit(connect: Connect, message: str | bytes):
    assert (await connect("/talk", message, message)).kinds == ["websocket.accept", "websocket.send", "websocket.send"]


@pytest.mark.parametrize("message", ["x" * 101, b"x" * 101, "€" * 34])
async def test_a_message_over_the_limit(connect: Connect, message: str | bytes):
    socket = await connect("/talk", "short", message)
    assert socket.kinds == ["websocket.accept", "websocket.send", "websocket.close"]
    assert socket.sent[-1]["code"] == 1009


async def test_an_endpoint_may_answer_a_message_over_the_limit_itself(connect: Connect):
    async def patient(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        with pytest.raises(TooLarge, match="message is over the limit of 100 bytes"):
            await receive()
        await send({"type": "websocket.send", "text": (await receive())["text"]})

    socket = await connect("/x", "x" * 101, "short", endpoint=patient)
    assert socket.sent[-1] == {"type": "websocket.send", "text": "short"}


async def test_an_inner_apps_messages_are_bounded_too(connect: Connect):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, scope, receive, send)

    socket = await connect("/elsewhere", "x" * 101, inner=app)
    assert socket.kinds == ["websocket.accept", "websocket.close"]


# -- what an endpoint does not read


async def deaf(_scope: Any, _receive: Any, send: Any) -> None:
    """A route that answers without looking at the body."""
    await send_whole(send, 200, b"done", [])


async def ask_deaf(host: Host, *chunks: bytes, version: str = "1.1", **headers: str) -> Client:
    client = Client("POST", "/deaf", *chunks, headers={name.replace("_", "-"): text for name, text in headers.items()})
    client.scope["http_version"] = version
    await Dispatcher(host, [Route("POST", "/deaf", deaf)], 100)(client.scope, client.receive, client.send)
    return client


@pytest.mark.parametrize("headers", [{"content_length": "9"}, {"transfer_encoding": "chunked"}])
async def test_a_body_that_nobody_reads_is_read_off(host: Host, headers: dict[str, str]):
    client = await ask_deaf(host, b"one", b"two", b"six", **headers)
    assert client.chunks == []
    assert b"connection" not in client.headers


@pytest.mark.parametrize(("version", "closes"), [("1.1", True), ("2", False)])
async def test_a_body_that_does_not_come_ends_the_connection(
    host: Host, autojump_clock: trio.abc.Clock, version: str, closes: bool
):
    client = Client("POST", "/deaf", headers={"content-length": "9"})
    client.scope["http_version"] = version

    async def receive() -> Any:
        await trio.sleep_forever()

    await Dispatcher(host, [Route("POST", "/deaf", deaf)], 100)(client.scope, receive, client.send)
    assert client.body == b"done"
    assert (client.headers.get(b"connection") == b"close") is closes
    assert trio.current_time() < 10


async def test_a_defect_of_an_endpoint_is_told_in_the_envelope(host: Host, caplog: pytest.LogCaptureFixture):
    async def broken(_scope: Any, _receive: Any, _send: Any) -> None:
        raise RuntimeError("s3cr3t")

    client = Client("GET", "/broken")
    await Dispatcher(host, [Route("GET", "/broken", broken)], 100)(client.scope, client.receive, client.send)
    assert (client.status, client.error["code"]) == (500, "server_error")
    assert b"s3cr3t" not in client.body
    assert "s3cr3t" in caplog.text


async def test_a_refusal_has_a_request_id(fetch: Fetch):
    assert (await fetch("GET", "/nowhere", x_request_id="mine")).headers[b"x-request-id"] == b"mine"
    assert (await fetch("PUT", "/echo")).headers[b"x-request-id"].startswith(b"req_")
