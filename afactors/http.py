"""The ASGI callable of a runtime: its channels' routes, `/healthz` and `/readyz`.

Everything else goes to the app that it is embedded in. No framework stands between a route of ours and the server.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

import trio

from afactors_channels import Endpoint, HostError, NotFound, Overloaded, Receive, Route, Scope, Send, TooLarge
from afactors_channels.asgi import Headers, has_body, request_id, send_whole
from afactors_channels.responses import error_body, error_headers

logger = logging.getLogger("afactors.http")

_DISCARD_SECONDS = 5.0
_HEALTH = ("/healthz", "/readyz")
_WEBSOCKET = "WEBSOCKET"
_CLOSE: Headers = ((b"connection", b"close"),)
_PARAMETER = re.compile(r"\{\w+\}")
_INTERNAL_ERROR, _MESSAGE_TOO_BIG = 1011, 1009  # RFC 6455, 7.4.1


class Host(Protocol):
    """What the dispatcher asks of its runtime."""

    def not_ready(self) -> list[str]:
        """Why it should get no traffic; empty if it should."""
        ...

    @property
    def serving(self) -> bool:
        """Whether it is open and nothing is beyond help."""
        ...

    @property
    def broken(self) -> str | None:
        """What is beyond help, if anything is."""
        ...


class Dispatcher:
    """Routes by method and path.

    Args:
        host: The runtime.
        routes: What its channels contribute.
        max_body: Longest request body, and longest message of a websocket, in bytes; on every path, also of the
            inner app.
        inner: The app that gets every other path; None answers 404.
    """

    def __init__(self, host: Host, routes: list[Route], max_body: int, inner: Endpoint | None = None) -> None:
        self._host = host
        self._inner = inner
        self._max_body = max_body
        self._requests = _Table()
        self._websockets = _Table()
        health = [Route(method, path, getattr(self, f"_{path[1:]}")) for path in _HEALTH for method in ("GET", "HEAD")]
        for route in [*routes, *health]:
            (self._websockets if route.method == _WEBSOCKET else self._requests).add(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request or one websocket, or hand the scope to the inner app."""
        if scope["type"] not in ("http", "websocket"):
            await self._other(scope, receive, send)
            return
        bounded = (_Bounded if scope["type"] == "http" else _BoundedSocket)(scope, receive, send, self._max_body)
        try:
            bounded.check_declared()
            endpoint, found = self._find(scope)
            if endpoint is self._inner:
                await endpoint(found, bounded.receive, bounded.send)
            else:
                await _own(endpoint, found, bounded)
        except HostError as error:
            await bounded.refuse(error)
        except BaseExceptionGroup as group:
            # An inner app may receive in a nursery of its own.
            too_large, rest = group.split(TooLarge)
            if rest is not None or too_large is None:
                raise
            await bounded.refuse(_first(too_large))

    def _find(self, scope: Scope) -> tuple[Endpoint, Scope]:
        """Who serves it, and the scope to serve."""
        if self._host.broken is not None and scope["path"] not in _HEALTH:
            raise _unavailable()
        websocket = scope["type"] == "websocket"
        methods, found = (self._websockets if websocket else self._requests).find(scope)
        method = _WEBSOCKET if websocket else scope["method"]
        if method in methods:
            if not self._host.serving and scope["path"] not in _HEALTH:
                raise _unavailable()
            return methods[method], found
        if self._inner is not None:
            return self._inner, scope
        if methods:
            raise _MethodNotAllowed(method, sorted(methods))
        if not websocket and self._websockets.find(scope)[0]:
            raise _UpgradeRequired("This path is a websocket's.")
        raise NotFound("There is nothing at this path.", code="not_found")

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._inner is not None:
            await self._inner(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _bare_lifespan(receive, send)

    async def _healthz(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send_health(scope, send, 200, {"status": "ok"})

    async def _readyz(self, scope: Scope, receive: Receive, send: Send) -> None:
        reasons = self._host.not_ready()
        body: Mapping[str, Any] = {"status": "not ready", "reasons": reasons} if reasons else {"status": "ready"}
        await _send_health(scope, send, 503 if reasons else 200, body)


async def _own(endpoint: Endpoint, scope: Scope, bounded: _Bounded) -> None:
    """Serve by an endpoint of ours; a defect of it is told in our envelope."""
    try:
        await endpoint(scope, bounded.receive, bounded.answer)
    except HostError:
        raise
    except Exception as exc:
        if bounded.started:
            raise  # the connection is cut: nobody must take what was sent for the whole
        logger.error("%s %s failed", scope.get("method", "websocket"), scope["path"], exc_info=exc)
        raise HostError("The server failed to process this request.", code="server_error") from exc


class _Template(NamedTuple):
    """A path with segments in braces."""

    path: str
    names: list[str]
    methods: dict[str, Endpoint]


class _Table:
    """The endpoints of every path, by method.

    An exact path wins over a template; of two templates that fit, the one whose fixed segments come first.
    """

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, Endpoint]] = {}
        self._templates: dict[tuple[str | None, ...], _Template] = {}  # by its segments, None for one in braces
        self._shapes: dict[int, list[tuple[bool, ...]]] = {}  # by number of segments: which of them are in braces

    def add(self, route: Route) -> None:
        segments = route.path.split("/")
        key = tuple(None if _PARAMETER.fullmatch(segment) else segment for segment in segments)
        names = [segment[1:-1] for segment, fixed in zip(segments, key, strict=True) if fixed is None]
        if len({*names}) < len(names) or any(fixed and ("{" in fixed or "}" in fixed) for fixed in key):
            raise ValueError(f"{route.path}: what is in braces is a whole segment with a name of its own")
        methods = self._template(route.path, key, names) if names else self._exact.setdefault(route.path, {})
        if route.method in methods:
            raise ValueError(f"two channels serve {route.method} {route.path}")
        methods[route.method] = route.endpoint

    def _template(self, path: str, key: tuple[str | None, ...], names: list[str]) -> dict[str, Endpoint]:
        template = self._templates.setdefault(key, _Template(path, names, {}))
        if template.path != path:
            raise ValueError(f"{path} and {template.path} are one path under two names")
        shape = tuple(fixed is None for fixed in key)
        self._shapes[len(key)] = sorted({*self._shapes.get(len(key), ()), shape})
        return template.methods

    def find(self, scope: Scope) -> tuple[Mapping[str, Endpoint], Scope]:
        """The path's endpoints, none if it is unknown, and the scope with its parameters."""
        exact = self._exact.get(scope["path"])
        if exact is not None:
            return exact, scope
        segments = _segments(scope)
        for shape in self._shapes.get(len(segments), ()):
            split = list(zip(segments, shape, strict=True))
            template = self._templates.get(tuple(None if braced else segment for segment, braced in split))
            values = [segment for segment, braced in split if braced]
            if template is not None and all(values):
                return template.methods, {**scope, "path_params": dict(zip(template.names, values, strict=True))}
        return {}, scope


def _segments(scope: Scope) -> list[str]:
    """The path's segments, decoded one by one, so that an encoded slash divides nothing; none if one is not UTF-8."""
    raw = scope.get("raw_path")
    if not raw:
        path: str = scope["path"]
        return path.split("/")
    try:
        return [unquote_to_bytes(segment).decode() for segment in raw.partition(b"?")[0].split(b"/")]
    except UnicodeDecodeError:
        return []


class _MethodNotAllowed(HostError):
    """The path is served, by other methods (RFC 9110, 15.5.6)."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, method: str, allowed: list[str]) -> None:
        super().__init__(f"{method} is not served at this path.")
        self.headers = [(b"allow", ", ".join(allowed).encode())]


class _UpgradeRequired(HostError):
    """The path is served to websockets only (RFC 9110, 15.5.22)."""

    status = 426
    code = "upgrade_required"
    headers = ((b"upgrade", b"websocket"), (b"connection", b"upgrade"))


class _Bounded:
    """One request's `receive` and `send`, with the body counted."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._limit = limit
        self._seen = 0
        self._more = True
        self.started = False
        """Whether a response is on its way."""

    def check_declared(self) -> None:
        for name, value in self._scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._limit:
                raise self._too_large()

    async def receive(self) -> Mapping[str, Any]:
        message = await self._receive()
        if message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            self._more = message.get("more_body", False)
            if self._seen > self._limit:
                raise self._too_large()
        else:
            self._more = False
        return message

    async def send(self, message: Mapping[str, Any]) -> None:
        self.started = True
        await self._send(message)

    async def answer(self, message: Mapping[str, Any]) -> None:
        """`send`, for endpoints of ours: what they did not read of the body is read before they are heard."""
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *await self._read_off()]}
        await self.send(message)

    async def refuse(self, error: HostError) -> None:
        if self.started:
            logger.error("a request failed after its response began: %s", error.message)
            return
        await _send_error(self.answer, error, self._scope)

    async def _read_off(self) -> Headers:
        """Read the rest of the body, and say so if that is too much: nothing can follow on this connection then."""
        if not (self._more and has_body(self._scope)):
            return ()
        await self._discard_rest()
        return _CLOSE if self._more and self._scope.get("http_version", "1.1") < "2" else ()

    async def _discard_rest(self) -> None:
        """Read on for a moment, so that a client that is still sending gets the answer and not a reset."""
        discarded = 0
        with trio.move_on_after(_DISCARD_SECONDS):
            while self._more and discarded < self._limit:
                message = await self._receive()
                self._more = message["type"] == "http.request" and message.get("more_body", False)
                discarded += len(message.get("body", b""))

    def _too_large(self, what: str = "request body") -> TooLarge:
        return TooLarge(f"The {what} is over the limit of {self._limit} bytes (max_body).")


class _BoundedSocket(_Bounded):
    """One websocket's `receive` and `send`, with each message measured."""

    _open = False

    async def receive(self) -> Mapping[str, Any]:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._open = False
        elif len(message.get("bytes") or (message.get("text") or "").encode()) > self._limit:
            raise self._too_large("message")
        return message

    async def send(self, message: Mapping[str, Any]) -> None:
        if message["type"] in ("websocket.accept", "websocket.close"):
            self._open = message["type"] == "websocket.accept"
        await super().send(message)

    async def refuse(self, error: HostError) -> None:
        if self.started:
            logger.error("a websocket failed: %s", error.message)
            if self._open:
                code = _MESSAGE_TOO_BIG if isinstance(error, TooLarge) else _INTERNAL_ERROR
                await self.send({"type": "websocket.close", "code": code})
        elif "websocket.http.response" in self._scope.get("extensions", {}):
            await _send_error(self._send_response, error, self._scope)
        else:
            await self.send({"type": "websocket.close"})

    async def answer(self, message: Mapping[str, Any]) -> None:
        await self.send(message)

    async def _send_response(self, message: Mapping[str, Any]) -> None:
        await self.send({**message, "type": f"websocket.{message['type']}"})


async def _send_error(send: Send, error: HostError, scope: Scope) -> None:
    headers = [(b"content-type", b"application/json"), (b"x-request-id", request_id(scope))]
    headers += [(name.encode(), value.encode()) for name, value in error_headers(error).items()]
    if isinstance(error, _MethodNotAllowed | _UpgradeRequired):
        headers += error.headers
    await send_whole(send, error.status, json.dumps(error_body(error)).encode(), headers)


async def _send_health(scope: Scope, send: Send, status: int, body: Mapping[str, Any]) -> None:
    await send_whole(send, status, b"" if scope["method"] == "HEAD" else json.dumps(body).encode())


def _unavailable() -> Overloaded:
    return Overloaded("The server is not serving.", code="unavailable", status=503, retry_after=5.0)


async def _bare_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _first(group: BaseExceptionGroup[HostError]) -> HostError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, HostError)  # noqa: S101 - it was split by that type
    return found
