"""The few ASGI shells that HTTP channels share: read a body, send JSON, notice that the client left."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import trio

from .contract import Receive, Scope, Send

Headers = Iterable[tuple[bytes, bytes]]

JSON: Headers = ((b"content-type", b"application/json"),)


_MAX_REQUEST_ID = 512


class ClientGone(Exception):
    """The client closed the connection before its request was whole."""


def header(scope: Scope, name: bytes) -> str | None:
    """A request header's value; `name` in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


def request_id(scope: Scope) -> bytes:
    """The client's own id for this request, to be sent back; a new one if it sent none that a header can hold."""
    given = header(scope, b"x-request-id")
    if given and len(given) <= _MAX_REQUEST_ID and given.isascii() and given.isprintable():
        return given.encode()
    return b"req_" + secrets.token_hex(16).encode()


async def read_body(receive: Receive) -> bytes:
    """The whole request body. Its length is limited by whoever made `receive`.

    Raises:
        ClientGone: The client left first.
    """
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def has_body(scope: Scope) -> bool:
    """Whether a request's body is still to come, for all that its headers say."""
    length = header(scope, b"content-length")
    return header(scope, b"transfer-encoding") is not None or (length is not None and length != "0")


async def send_whole(send: Send, status: int, body: bytes, headers: Headers = JSON) -> None:
    """One response, whole."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def disconnected(receive: Receive) -> None:
    """Wait until the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def until_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Cancel the block when the client leaves. What the block raises leaves as it came, not in a group."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await disconnected(receive)
            nursery.cancel_scope.cancel(reason="the client left")

        nursery.start_soon(watch)
        try:
            yield
        except Exception as exc:  # noqa: BLE001 - it is raised again below
            failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
