"""The HTTP worker against real sockets. The real clock: sockets are not trio's to speed up."""

from __future__ import annotations

import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import h11
import pytest
import trio
from hypercorn.config import Config

from afactors.serve import listen
from afactors.worker import serving

BIG = 4 * 1024 * 1024
UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


async def app(scope: Any, receive: Any, send: Any) -> None:
    path = scope["path"]
    while (await receive()).get("more_body"):
        pass
    if path == "/big":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % BIG)]})
        for _ in range(BIG // 65536):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    elif path == "/burst":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(20):
            await send({"type": "http.response.body", "body": b"<%d>" % number, "more_body": True})
        await trio.sleep(0.2)
        await send({"type": "http.response.body", "body": b"end"})
    elif path == "/slow":
        await trio.sleep(0.5)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"slow"})
    elif path == "/fails":
        raise ValueError("a defect of the app")
    else:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


async def early(scope: Any, receive: Any, send: Any) -> None:
    """It ends before it read what was sent."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await trio.sleep(0.5)
    else:
        await trio.sleep(0.5)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


async def late(scope: Any, receive: Any, send: Any) -> None:
    """A websocket that reads to the end."""
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def watchful(scope: Any, receive: Any, send: Any) -> None:
    """It leaves as soon as it hears that its client did: of its own response's end, too."""
    while (await receive()).get("more_body"):
        pass
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            assert (await receive())["type"] == "http.disconnect"
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"all"})


@asynccontextmanager
async def server(app: Any = app, **settings: Any) -> AsyncIterator[int]:
    config = Config()
    config.errorlog = None
    for name, value in settings.items():
        setattr(config, name, value)
    with listen("127.0.0.1", 0) as listener:
        async with serving(app, listener, config):
            yield listener.getsockname()[1]


class Client:
    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.h11 = h11.Connection(h11.CLIENT)
        self.reads: list[int] = []

    async def get(self, path: str) -> tuple[int, bytes]:
        request = h11.Request(method="GET", target=path, headers=[("host", "x")])
        await self.stream.send_all((self.h11.send(request) or b"") + (self.h11.send(h11.EndOfMessage()) or b""))
        status, body = 0, b""
        while True:
            event = self.h11.next_event()
            if event is h11.NEED_DATA:
                data = await self.stream.receive_some(65536)
                self.reads.append(len(data))
                self.h11.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                if self.h11.our_state is h11.DONE:
                    self.h11.start_next_cycle()
                return status, body
            else:
                raise AssertionError(event)


@asynccontextmanager
async def client(port: int) -> AsyncIterator[Client]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        yield Client(stream)


async def test_many_requests_on_one_connection() -> None:
    async with server() as port, client(port) as one:
        for _ in range(50):
            assert await one.get("/") == (200, b"ok")


async def test_a_small_response_leaves_in_one_piece() -> None:
    async with server() as port, client(port) as one:
        for _ in range(5):
            await one.get("/")
        assert len(one.reads) == 5


async def test_what_is_sent_in_one_tick_leaves_in_one_piece() -> None:
    async with server() as port, client(port) as one:
        status, body = await one.get("/burst")
        assert (status, body) == (200, b"".join(b"<%d>" % number for number in range(20)) + b"end")
        assert len(one.reads) <= 3  # the twenty, and the end


async def test_a_reader_that_is_slow_gets_everything() -> None:
    async with server() as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        async with stream:
            one = Client(stream)
            with trio.fail_after(30):
                status, body = await one.get("/big")
        assert (status, len(body), body.strip(b"x")) == (200, BIG, b"")


async def test_a_reader_that_leaves_in_the_middle_hurts_nobody() -> None:
    async with server() as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as gone:
            await gone.send_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n")
            await gone.receive_some(1000)
        async with client(port) as one:
            assert await one.get("/") == (200, b"ok")


async def test_a_request_under_way_is_finished_and_idle_connections_are_closed_at_the_end() -> None:
    answers: list[tuple[int, bytes]] = []
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, server(graceful_timeout=5.0) as port:
            idle = await trio.open_tcp_stream("127.0.0.1", port)

            async def slow(task_status: trio.TaskStatus[None]) -> None:
                async with client(port) as one:
                    task_status.started()
                    answers.append(await one.get("/slow"))

            await nursery.start(slow)
            await trio.sleep(0.2)
        assert answers == [(200, b"slow")]
        async with idle:
            assert await idle.receive_some(10) == b""


async def test_a_reader_that_never_reads_does_not_hold_up_the_end() -> None:
    stream = None
    async with trio.open_nursery() as nursery:
        async with server(graceful_timeout=0.2) as port:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n")
            await trio.sleep(0.5)
            stopped = trio.current_time()

            async def give_in() -> None:  # so that a defect fails here and does not hang
                await trio.sleep(8)
                await stream.aclose()

            nursery.start_soon(give_in)
        assert trio.current_time() - stopped < 4
        nursery.cancel_scope.cancel()
    await stream.aclose()


@pytest.mark.parametrize("request_", [b"HTTP/1.0\r\n\r\n", b"HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"])
async def test_a_response_after_which_the_connection_ends_ends_it(request_: bytes) -> None:
    async with server(watchful) as port:
        for _ in range(20):  # it is a matter of which task comes first
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"GET / " + request_)
                with trio.fail_after(5):
                    received = b"".join([chunk async for chunk in stream])
            assert b"all" in received


async def test_an_idle_connection_is_closed_after_a_while() -> None:
    async with server(keep_alive_timeout=0.2) as port, client(port) as one:
        assert await one.get("/") == (200, b"ok")
        with trio.fail_after(10):
            assert await one.stream.receive_some(10) == b""


async def test_an_app_that_raises_costs_its_request_only() -> None:
    async with server() as port:
        async with client(port) as one:
            assert (await one.get("/fails"))[0] == 500
        async with client(port) as two:
            assert await two.get("/") == (200, b"ok")


async def test_a_listener_is_not_closed_by_its_acceptors() -> None:
    config = Config()
    with listen("127.0.0.1", 0) as listener:
        async with serving(app, listener, config):
            pass
        assert listener.getsockname()[1] > 0


@pytest.mark.parametrize("junk", [b"\x00\x01\x02\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n"])
async def test_junk_is_refused(junk: bytes) -> None:
    async with server() as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(junk)
            with trio.fail_after(10):
                answer = b""
                while data := await stream.receive_some(1000):
                    answer += data
            assert answer.startswith(b"HTTP/1.1 400")
        async with client(port) as one:
            assert await one.get("/") == (200, b"ok")


@pytest.mark.parametrize("websocket", [False, True])
async def test_an_app_that_leaves_without_reading_leaves_nothing_behind(websocket: bool) -> None:
    """More than the app's queue holds is still on its way when it ends."""
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5000000\r\n\r\n"
    body = b"x" * 5_000_000
    if websocket:
        head, body = UPGRADE, (b"\x82\x81" + bytes(4) + b"x") * 100
    async with server(early) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(head)
        if websocket:
            assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 101")
        with trio.fail_after(10), suppress(trio.BrokenResourceError):
            await stream.send_all(body)
            while await stream.receive_some(1000):
                pass


async def test_of_a_message_that_is_too_big_no_more_is_kept() -> None:
    piece = bytes([0, 0xFF]) + (10**6).to_bytes(8, "big") + bytes(4 + 10**6)
    async with (
        server(late, websocket_max_message_size=1000) as port,
        await trio.open_tcp_stream("127.0.0.1", port) as stream,
    ):
        await stream.send_all(UPGRADE)
        assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 101")
        tracemalloc.start()
        await stream.send_all(b"\x02" + piece[1:] + piece * 20)
        assert await stream.receive_some(100) == b"\x88\x02\x03\xf1"  # 1009
        await trio.sleep(0.5)
        assert tracemalloc.get_traced_memory()[0] < 5 * 10**6
        tracemalloc.stop()
        await stream.send_all(b"\x80\x80" + bytes(4) + b"\x88\x82" + bytes(4) + b"\x03\xf1")
        with trio.fail_after(5):
            assert await stream.receive_some(100) == b"", "the closing handshake is complete"
