"""hypercorn's trio worker over one listening socket, with less work for each request.

The protocols are hypercorn's own (h11, keep-alive, HTTP/2 by prior knowledge, WebSocket). What differs is around them:
several acceptors share the socket; what is sent within one scheduler tick leaves in one system call; and one task
watches over all idle connections, where hypercorn starts and cancels one for each request.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.ws_stream import WebsocketBuffer, WSStream
from hypercorn.trio.task_group import TaskGroup, _handle
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from afactors_channels import Endpoint

logger = logging.getLogger("afactors.worker")

ACCEPTORS = 8
"""One acceptor takes about one connection per scheduler tick; this many take as many."""

_BUFFERED_BYTES = 64 * 1024  # a sender that is further ahead of the socket waits
_REAPER_SECONDS = 1.0


@asynccontextmanager
async def serving(app: Endpoint, listener: socket.socket, config: Config) -> AsyncIterator[None]:
    """Serve HTTP for as long as the block lasts, then let requests under way finish for `config.graceful_timeout`.

    Args:
        app: An ASGI callable; it gets no lifespan.
        listener: A listening, non-blocking socket. It is not closed.
        config: hypercorn's; its `keep_alive_timeout` and `graceful_timeout` count, its `bind` does not.
    """
    worker = _Worker(app, config)
    # Copies of one socket: each acceptor closes its own.
    copies = [trio.SocketListener(trio.socket.from_stdlib_socket(listener.dup())) for _ in range(ACCEPTORS)]
    handler = partial(_Connection, worker)
    async with trio.open_nursery() as helpers:
        helpers.start_soon(worker.flush_each_tick)
        helpers.start_soon(worker.reap)
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                await accepting.start(partial(trio.serve_listeners, handler, copies, handler_nursery=connections))
                try:
                    yield
                finally:
                    accepting.cancel_scope.cancel(reason="the server stops")
            connections.cancel_scope.deadline = trio.current_time() + config.graceful_timeout
            await worker.stop()
        helpers.cancel_scope.cancel(reason="no connection is left")


class _Worker:
    """What all connections share."""

    def __init__(self, app: Endpoint, config: Config) -> None:
        self.app = ASGIWrapper(app)  # type: ignore[arg-type]  # the same ASGI, in our own words
        self.config = config
        self.context = WorkerContext(None)
        self.idle: dict[_Connection, float] = {}  # since when, the longest first
        self._unsent: list[_Connection] = []
        self._wake = trio.Event()

    async def note(self, connection: _Connection) -> None:
        """Watch over a connection that may have become idle; there are none once the worker stops."""
        if connection.idle:
            self.idle[connection] = trio.current_time()
            if self.context.terminated.is_set():
                await self._close_longest_idle()

    def flush_soon(self, connection: _Connection) -> None:
        self._unsent.append(connection)
        self._wake.set()

    async def flush_each_tick(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            unsent, self._unsent = self._unsent, []
            for connection in unsent:
                connection.flush()

    async def reap(self) -> None:
        """Close what has been idle for longer than the keep-alive timeout."""
        while True:
            await trio.sleep(_REAPER_SECONDS)
            long_ago = trio.current_time() - self.config.keep_alive_timeout
            while self.idle and next(iter(self.idle.values())) <= long_ago:
                await self._close_longest_idle()

    async def stop(self) -> None:
        """Close what is idle, and have the rest close after their response."""
        await self.context.terminated.set()
        while self.idle:
            await self._close_longest_idle()

    async def _close_longest_idle(self) -> None:
        connection = next(iter(self.idle))
        del self.idle[connection]
        await connection.close_idle()


class _Connection(TCPServer):
    """One connection."""

    def __init__(self, worker: _Worker, stream: trio.SocketStream) -> None:
        super().__init__(worker.app, worker.config, worker.context, ConnectionState({}), stream)  # type: ignore[arg-type]
        self._worker = worker
        self._socket: Any = stream.socket
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._between_requests = True
        self._closing = False  # once everything is sent
        self._drained: trio.Event | None = None  # set while a task waits for the socket to take more

    async def run(self) -> None:
        try:
            client, server = _address(self._socket.getpeername()), _address(self._socket.getsockname())
        except OSError:
            await self.stream.aclose()
            return
        with _contained():
            await self._serve(client, server)

    async def _serve(self, client: tuple[str, int] | None, server: tuple[str, int] | None) -> None:
        try:
            async with _Tasks() as self._task_group:
                self.protocol = ProtocolWrapper(
                    self.app,
                    self.config,
                    self.context,
                    self._task_group,
                    self.state,  # type: ignore[arg-type]
                    False,
                    client,
                    server,
                    self.protocol_send,
                    "http/1.1",
                )
                await self.protocol.initiate()
                await self._worker.note(self)
                await self._read_data()
        finally:
            self._worker.idle.pop(self, None)
            await self._send_rest()
            await self._close()

    async def close_idle(self) -> None:
        await self._initiate_server_close()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            if not event.data:
                return
            self._pending.append(event.data)
            self._pending_bytes += len(event.data)
            if self._drained is None and len(self._pending) == 1:
                self._worker.flush_soon(self)
            while self._drained is not None and self._pending_bytes > _BUFFERED_BYTES:
                await self._drained.wait()
        elif isinstance(event, Updated):
            self._between_requests = event.idle
            if event.idle:
                self.flush()
                await self._worker.note(self)
            else:
                self._worker.idle.pop(self, None)
        elif isinstance(event, Closed):
            self.flush()
            # An app whose client is said to have left is cancelled: the rest is not for it to wait for.
            self._closing = self._drained is not None
            if not self._closing:
                with trio.CancelScope(shield=True):  # the app that is cancelled may be the task that closes
                    await super().protocol_send(event)

    def flush(self) -> None:
        """Send what is pending, as far as the socket takes it at once; a task sends the rest."""
        if not self._pending or self._drained is not None:
            return
        data = b"".join(self._pending)
        self._pending.clear()
        try:
            sent = os.write(self._socket.fileno(), data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._pending_bytes = 0
            return  # the reading side learns of it too, and closes
        self._pending_bytes -= sent
        if sent < len(data):
            self._drained = trio.Event()
            self._task_group.spawn(self._drain, data[sent:])

    async def _send_rest(self) -> None:
        """Send what is still pending when nobody is left who could."""
        with trio.move_on_after(self.config.graceful_timeout, shield=True):
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.stream.send_all(b"".join(self._pending))

    async def _drain(self, data: bytes) -> None:
        """Send what a slow reader left over. Only the end of the connection's time cancels this, in mid-data."""
        assert self._drained is not None  # noqa: S101 - set by whoever started this
        whole = False
        try:
            while data:
                await self.stream.send_all(data)
                data = b"".join(self._pending)
                self._pending.clear()
                self._pending_bytes = len(data)
            whole = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self.protocol.handle(Closed())
        finally:
            if not whole:  # what would follow is worth nothing without what is missing
                self._pending.clear()
                self._pending_bytes = 0
            drained, self._drained = self._drained, None
            drained.set()
        if self._closing:
            await super().protocol_send(Closed())
        await self._worker.note(self)

    @property
    def idle(self) -> bool:
        """Whether it waits for a request and owes nothing of a response."""
        return self._between_requests and self._drained is None

    async def _read_data(self) -> None:
        while True:
            try:
                data = await self.stream.receive_some(MAX_RECV)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                break
            await self.protocol.handle(RawData(bytes(data)))
            if not data:
                break
        await self.protocol.handle(Closed())


class _Tasks(TaskGroup):
    """One connection's tasks. An app that does not read holds up neither its connection's reader nor its end."""

    async def spawn_app(self, app: Any, config: Config, scope: Any, send: Any) -> Callable[[Any], Awaitable[None]]:
        """Start an app; returns what takes its events."""
        put_in, take_out = trio.open_memory_channel[Any](config.max_app_queue_size)
        disconnect: Any = None
        stream = getattr(send, "__self__", None)
        if isinstance(stream, WSStream):
            stream.buffer = _Buffer(config.websocket_max_message_size)
            stream.handshake.extensions = None  # what is compressed can only be measured once it is in memory

        async def put(event: Any) -> None:
            nonlocal disconnect
            if event["type"].endswith(".disconnect"):
                disconnect = event
                put_in.close()
                return
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await put_in.send(event)

        async def receive() -> Any:
            try:
                return await take_out.receive()
            except trio.EndOfChannel:
                return disconnect

        async def run(*arguments: Any) -> None:
            with take_out:
                await app(*arguments)

        assert self._nursery is not None  # noqa: S101 - it is open
        self._nursery.start_soon(
            _handle, cast(Any, run), config, scope, receive, send, trio.to_thread.run_sync, trio.from_thread.run
        )
        return put


class _Buffer(WebsocketBuffer):
    """A websocket's message as it comes in. Of one that is too big no more is kept, and the app is told of its end."""

    def extend(self, event: Any) -> None:
        if self.length <= self.max_length:
            super().extend(event)  # raises when it passes the limit: then the client is told, once

    def to_message(self) -> dict[str, Any]:
        if self.length > self.max_length:
            return {"type": "websocket.disconnect", "code": 1009}
        return dict(super().to_message())


@contextmanager
def _contained() -> Iterator[None]:
    """Whatever goes wrong in a connection ends that connection and nothing else."""
    try:
        yield
    except OSError:
        pass
    except Exception as exc:
        logger.error("a connection failed", exc_info=exc)
    except BaseExceptionGroup as group:
        failures, rest = group.split(Exception)
        if failures is not None:
            logger.error("a connection failed", exc_info=failures)
        if rest is not None:
            raise rest from None


def _address(name: Any) -> tuple[str, int] | None:
    return (name[0], name[1]) if isinstance(name, tuple) else None
