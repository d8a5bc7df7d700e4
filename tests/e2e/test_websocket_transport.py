"""WebSockets through the dispatcher and the worker, with a client of their own. The real clock: so are the sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import pytest
import trio
from hypercorn.config import Config
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from afactors.http import Dispatcher
from afactors.serve import listen
from afactors.worker import serving
from afactors_channels import Route

T = TypeVar("T")
MAX_BODY = 2_000_000


class Host:
    serving = True
    broken = None

    def not_ready(self) -> list[str]:
        return []


class Server:
    """Where it is, and its endpoints."""

    def __init__(self, port: int) -> None:
        self.root = f"ws://127.0.0.1:{port}"
        self._ended, self._endings = trio.open_memory_channel[Any](10)
        self.cancelled = trio.Event()

    async def ending(self) -> Any:
        """The next event that ended one."""
        with trio.fail_after(30):
            return await self._endings.receive()

    def connect(self, path: str = "/talk/x") -> ClientConnection:
        return connect(self.root + path, max_size=None, ping_interval=None, proxy=None)

    async def talk(self, scope: Any, receive: Any, send: Any) -> None:
        """Say what it was called, then return what it gets."""
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": scope["path_params"]["name"]})
        try:
            while (event := await receive())["type"] == "websocket.receive":
                await send({**event, "type": "websocket.send"})
        except trio.Cancelled:
            self.cancelled.set()
            raise
        await self._ended.send(event)

    async def close(self, _scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
        await self._ended.send(await receive())


@asynccontextmanager
async def serve(**settings: Any) -> AsyncIterator[Server]:
    config = Config()
    config.errorlog = None
    for name, value in settings.items():
        setattr(config, name, value)
    with listen("127.0.0.1", 0) as listener:
        server = Server(listener.getsockname()[1])
        routes = [Route("WEBSOCKET", "/talk/{name}", server.talk), Route("WEBSOCKET", "/close", server.close)]
        async with serving(Dispatcher(Host(), routes, MAX_BODY), listener, config):
            yield server


async def in_thread(call: Callable[[], T]) -> T:
    with trio.fail_after(30):
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True)


async def test_a_thousand_messages() -> None:
    def talk() -> None:
        with server.connect("/talk/a%2Fb") as wire:
            assert wire.recv() == "a/b"
            for number in range(1000):
                wire.send(str(number))
                assert wire.recv() == str(number)

    async with serve() as server:
        await in_thread(talk)


@pytest.mark.parametrize("message", ["x" * 1_000_000, b"\0\xff" * 500_000], ids=["text", "bytes"])
async def test_a_megabyte_both_ways(message: str | bytes) -> None:
    def talk() -> None:
        with server.connect() as wire:
            wire.recv()
            for _ in range(3):
                wire.send(message)
                assert wire.recv() == message

    async with serve() as server:
        await in_thread(talk)


async def test_a_message_over_the_limit() -> None:
    def talk() -> int:
        with server.connect() as wire:
            wire.recv()
            wire.send(b"x" * (MAX_BODY + 1))
            with pytest.raises(ConnectionClosed) as closed:
                wire.recv()
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code

    async with serve() as server:
        assert await in_thread(talk) == 1009


async def test_a_client_that_disappears() -> None:
    def talk() -> None:
        wire = server.connect()
        wire.recv()
        wire.socket.shutdown(socket.SHUT_RDWR)

    async with serve() as server:
        await in_thread(talk)
        assert await server.ending() == {"type": "websocket.disconnect", "code": 1006}


async def test_the_server_closes() -> None:
    def talk() -> tuple[int, str]:
        with server.connect("/close") as wire, pytest.raises(ConnectionClosed) as closed:
            wire.recv()
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code, closed.value.rcvd.reason

    async with serve() as server:
        assert await in_thread(talk) == (4001, "enough")
        assert await server.ending() == {"type": "websocket.disconnect", "code": 1000}


async def test_a_refusal_is_an_http_response() -> None:
    def refused() -> Any:
        with pytest.raises(InvalidStatus) as refusal:
            server.connect("/nothing")
        return refusal.value.response

    async with serve() as server:
        response = await in_thread(refused)
        assert (response.status_code, response.headers["content-type"]) == (404, "application/json")
        assert b'"code": "not_found"' in response.body
        async with httpx.AsyncClient(trust_env=False) as client:
            plain = await client.get(server.root.replace("ws:", "http:") + "/close")
        assert (plain.status_code, plain.headers["upgrade"]) == (426, "websocket")


async def test_an_open_websocket_is_not_idle() -> None:
    def talk() -> None:
        with server.connect() as wire:
            wire.recv()
            time.sleep(1.5)  # the worker looks for idle connections once a second
            wire.send("still here")
            assert wire.recv() == "still here"

    async with serve(keep_alive_timeout=0.1) as server:
        await in_thread(talk)


async def test_stopping_ends_an_open_websocket() -> None:
    async with serve(graceful_timeout=0.5) as server:
        wire = await in_thread(server.connect)
        await in_thread(wire.recv)
        stopped = trio.current_time()
    assert trio.current_time() - stopped < 3
    assert server.cancelled.is_set()
    with pytest.raises(ConnectionClosed) as closed:
        await in_thread(wire.recv)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011
