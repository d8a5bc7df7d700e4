"""A runtime around the ASGI lifespan of an app that it is embedded in."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Protocol, Self

from afactors_channels import Endpoint, Receive, Scope, Send

from .hosting import one_line

logger = logging.getLogger("afactors.embedding")


class Opening(Protocol):
    """What is opened before the app's start-up, and closed after its shutdown."""

    async def __aenter__(self) -> Self:
        """Open it."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Close it."""
        ...


def around(opening: Opening, dispatcher: Endpoint, inner: Endpoint) -> Endpoint:
    """An ASGI callable: `dispatcher` serves the requests, and the lifespan is `inner`'s with `opening` around it.

    No nursery is held across the app's own `while_serving` yields: the whole lifespan is one call of this callable.
    """

    async def asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(opening, inner, scope, receive, send)
        else:
            await dispatcher(scope, receive, send)

    return asgi_app


async def _lifespan(opening: Opening, inner: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
    if (failure := await _open(opening)) is not None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": failure})
        return
    last: list[Mapping[str, Any]] = []

    async def hold_back(message: Mapping[str, Any]) -> None:
        # A server may end the lifespan as soon as it hears that the shutdown is complete.
        if message["type"] == "lifespan.shutdown.complete":
            last.append(message)
        else:
            await send(message)

    async with AsyncExitStack() as leaving:
        leaving.push_async_exit(opening)
        await inner(scope, receive, hold_back)
    for message in last:
        await send(message)


async def _open(opening: Opening) -> str | None:
    """Open it, or say in one line why that failed: without that, servers go on as if nothing had happened."""
    try:
        await opening.__aenter__()
    except Exception as exc:  # noqa: BLE001 - whatever it is, the server must hear of it in ASGI's own way
        failure: BaseException = exc
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        told = str(failure) or one_line(failure)
        logger.error("the runtime did not start: %s", told)
        return told
    return None
