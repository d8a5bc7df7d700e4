"""The ASGI callable of a runtime: its channels' routes, `/healthz` and `/readyz`.

Everything else goes to the app that it is embedded in. No framework stands between a route of ours and the server.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, Protocol

import trio

from afactors_channels import Endpoint, HostError, NotFound, Overloaded, Receive, Route, Scope, Send, TooLarge
from afactors_channels.asgi import send_whole
from afactors_channels.responses import error_body, error_headers

logger = logging.getLogger("afactors.http")

_DISCARD_SECONDS = 5.0
_HEALTH = ("/healthz", "/readyz")


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
    """Routes by exact method and path.

    Args:
        host: The runtime.
        routes: What its channels contribute.
        max_body: Longest request body in bytes, on every path, also of the inner app.
        inner: The app that gets every other path; None answers 404.
    """

    def __init__(self, host: Host, routes: list[Route], max_body: int, inner: Endpoint | None = None) -> None:
        self._host = host
        self._inner = inner
        self._max_body = max_body
        self._table: dict[str, dict[str, Endpoint]] = {}
        health = [Route(method, path, getattr(self, f"_{path[1:]}")) for path in _HEALTH for method in ("GET", "HEAD")]
        for route in [*routes, *health]:
            methods = self._table.setdefault(route.path, {})
            if route.method in methods:
                raise ValueError(f"two channels serve {route.method} {route.path}")
            methods[route.method] = route.endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request, or hand the scope to the inner app."""
        methods = self._table.get(scope["path"]) if scope["type"] == "http" else None
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        bounded = _Bounded(receive, send, self._max_body)
        try:
            bounded.check_declared(scope)
            await self._endpoint(scope, methods)(scope, bounded.receive, bounded.send)
        except HostError as error:
            await bounded.refuse(error)
        except BaseExceptionGroup as group:
            # An inner app may receive in a nursery of its own.
            too_large, rest = group.split(TooLarge)
            if rest is not None or too_large is None:
                raise
            await bounded.refuse(_first(too_large))

    def _endpoint(self, scope: Scope, methods: Mapping[str, Endpoint] | None) -> Endpoint:
        if self._host.broken is not None and scope["path"] not in _HEALTH:
            raise _unavailable()
        if methods is None:
            if self._inner is None:
                raise NotFound("There is nothing at this path.", code="not_found")
            return self._inner
        method = scope["method"]
        endpoint = methods.get(method)
        if endpoint is None:
            if self._inner is not None:
                return self._inner
            raise _MethodNotAllowed(method, sorted(methods))
        if not self._host.serving and scope["path"] not in _HEALTH:
            raise _unavailable()
        return endpoint

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._inner is not None:
            await self._inner(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "lifespan":
            await _bare_lifespan(receive, send)

    async def _healthz(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send_health(scope, send, 200, {"status": "ok"})

    async def _readyz(self, scope: Scope, receive: Receive, send: Send) -> None:
        reasons = self._host.not_ready()
        body: Mapping[str, Any] = {"status": "not ready", "reasons": reasons} if reasons else {"status": "ready"}
        await _send_health(scope, send, 503 if reasons else 200, body)


class _MethodNotAllowed(HostError):
    """The path is served, by other methods (RFC 9110, 15.5.6)."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, method: str, allowed: list[str]) -> None:
        super().__init__(f"{method} is not served at this path.")
        self.allowed = allowed


class _Bounded:
    """One request's `receive` and `send`, with the body counted."""

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self._receive = receive
        self._send = send
        self._limit = limit
        self._seen = 0
        self._more = True
        self._started = False

    def check_declared(self, scope: Scope) -> None:
        for name, value in scope["headers"]:
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
        self._started = True
        await self._send(message)

    async def refuse(self, error: HostError) -> None:
        if self._started:
            logger.error("a request failed after its response began: %s", error.message)
            return
        await self._discard_rest()
        headers = [(b"content-type", b"application/json")]
        headers += [(name.encode(), value.encode()) for name, value in error_headers(error).items()]
        if isinstance(error, _MethodNotAllowed):
            headers.append((b"allow", ", ".join(error.allowed).encode()))
        await send_whole(self._send, error.status, json.dumps(error_body(error)).encode(), headers)

    async def _discard_rest(self) -> None:
        """Read on for a moment, so that a client that is still sending gets the answer and not a reset."""
        discarded = 0
        with trio.move_on_after(_DISCARD_SECONDS):
            while self._more and discarded < self._limit:
                message = await self._receive()
                self._more = message["type"] == "http.request" and message.get("more_body", False)
                discarded += len(message.get("body", b""))

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The request body is over the limit of {self._limit} bytes (max_body).")


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
