"""The few ASGI shells that HTTP channels share: read a body, send JSON, notice that the client left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import trio

from .contract import Receive, Scope, Send

Headers = Iterable[tuple[bytes, bytes]]

JSON: Headers = ((b"content-type", b"application/json"),)


class ClientGone(Exception):
    """The client closed the connection before its request was whole."""


def header(scope: Scope, name: bytes) -> str | None:
    """A request header's value; `name` in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


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
async def until_disconnect(receive: Receive) -> AsyncIterator[trio.CancelScope]:
    """Cancel the block when the client leaves; `scope.cancelled_caught` tells afterwards."""
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await disconnected(receive)
            nursery.cancel_scope.cancel(reason="the client left")

        nursery.start_soon(watch)
        yield nursery.cancel_scope
        nursery.cancel_scope.cancel()
