"""Telling an agent's context providers which request they work for.

A provider that keeps things for a service by response ids has `bind_request_context(...)`, a context manager. It is
entered around the whole of a run, in the asyncio thread and in the run's own task. Only the agent's own providers are
asked: one that is made of others tells them itself.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from afactors_channels import ChannelRequest

Bind = Callable[..., Any]


def binds(agent: Any) -> list[Bind]:
    """What the agent's context providers want to be told by."""
    found = (getattr(one, "bind_request_context", None) for one in getattr(agent, "context_providers", None) or ())
    return [one for one in found if callable(one)]


def bound(run: Callable[..., Any], binds: Sequence[Bind], request: ChannelRequest) -> Callable[..., Any]:
    """An awaited run, with everything told."""
    if not binds:
        return run

    async def run_bound(*args: Any, **kwargs: Any) -> Any:
        async with AsyncExitStack() as stack:
            await _enter(stack, binds, request)
            return await run(*args, **kwargs)

    return run_bound


def bound_stream(run: Callable[..., Any], binds: Sequence[Bind], request: ChannelRequest) -> Callable[..., Any]:
    """A run that streams, with everything told until its final response is there."""
    if not binds:
        return run
    return lambda *args, **kwargs: _BoundStream(lambda: run(*args, **kwargs), binds, request)


class _BoundStream:
    """A stream of an agent's, opened, read and closed with everything told."""

    def __init__(self, make: Callable[[], Any], binds: Sequence[Bind], request: ChannelRequest) -> None:
        self._make = make
        self._binds = binds
        self._request = request
        self._final: Any = None

    async def __aiter__(self) -> AsyncGenerator[Any, None]:
        async with AsyncExitStack() as stack:
            await _enter(stack, self._binds, self._request)
            stream = self._make()
            if not hasattr(stream, "__aiter__"):  # a stream may be awaitable, too: iterating comes first
                stream = await stream
            if (close := getattr(stream, "close", None) or getattr(stream, "aclose", None)) is not None:
                stack.push_async_callback(_settled, close)
            async for update in stream:
                yield update
            if (compute := getattr(stream, "get_final_response", None)) is not None:
                self._final = await compute()

    async def get_final_response(self) -> Any:
        """What the stream's own said; None if it has none."""
        return self._final


async def _settled(call: Callable[[], Any]) -> Any:
    """What a function gives, or what that gives if it is a coroutine."""
    made = call()
    return await made if inspect.isawaitable(made) and not hasattr(made, "__aenter__") else made


async def _enter(stack: AsyncExitStack, binds: Sequence[Bind], request: ChannelRequest) -> None:
    told = {"response_id": request.name, "previous_response_id": request.session.after}
    isolation = request.isolation
    optional = {
        "isolation": isolation,
        "user_isolation_key": isolation.user_key if isolation is not None else None,
        "chat_isolation_key": isolation.chat_key if isolation is not None else None,
    }
    for bind in binds:
        made: Any = await _settled(partial(bind, **told, **_taken(bind, optional)))
        if hasattr(made, "__aenter__"):
            await stack.enter_async_context(made)
        elif made is not None:
            stack.enter_context(made)


def _taken(bind: Bind, optional: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that a provider takes."""
    try:
        parameters = inspect.signature(bind).parameters
    except (TypeError, ValueError):
        return {}
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return dict(optional)
    return {name: value for name, value in optional.items() if name in parameters}
