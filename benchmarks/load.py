"""A lean HTTP/1.1 client, and conversations over it.

It reads exactly what hypercorn writes (a length, or chunks) and nothing else, because whatever the client costs is
missing from the figures where there is but one core.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Self

import msgspec
import trio

from .agents import WORDS, mark
from .measure import cpu_seconds, quantile
from .processes import Server

_RECEIVE_BYTES = 65536
_WARM_UP = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


class WrongAnswer(Exception):
    """A server answered something else than it should; the message has the beginning of it."""


class Connection:
    """One persistent connection to 127.0.0.1; it is opened again when the server closes it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: trio.socket.SocketType | None = None
        self._received = bytearray()
        self._closing = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; the next request opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._received.clear()

    async def open(self) -> None:
        """Connect."""
        made = trio.socket.socket()
        try:
            made.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
            await made.connect(("127.0.0.1", self._port))
        except BaseException:
            made.close()
            raise
        self._socket = made

    async def request(self, raw: bytes) -> tuple[int, bytes]:
        """Send a whole request; returns the status and the whole body.

        Raises:
            OSError: The connection broke.
        """
        if self._socket is None:
            await self.open()
        assert self._socket is not None  # noqa: S101 - it was opened
        while raw:
            raw = raw[await self._socket.send(raw) :]
        head = await self._until(b"\r\n\r\n")
        status = int(head[9:12])
        fields = head.lower()
        if b"\r\ntransfer-encoding: chunked" in fields:
            body = await self._chunked()
        else:
            _, _, rest = fields.partition(b"\r\ncontent-length:")
            body = await self._exactly(int(rest.partition(b"\r\n")[0] or 0))
        if b"\r\nconnection: close" in fields:
            self.close()
        return status, body

    async def _chunked(self) -> bytes:
        parts: list[bytes] = []
        while True:
            size = int(await self._until(b"\r\n"), 16)
            part = await self._exactly(size + 2)
            if not size:
                return b"".join(parts)
            parts.append(part[:size])

    async def _until(self, end: bytes) -> bytes:
        while (found := self._received.find(end)) < 0:
            await self._receive()
        return self._take(found + len(end))[:found]

    async def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            await self._receive()
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    async def _receive(self) -> None:
        assert self._socket is not None  # noqa: S101 - only called within a request
        data = await self._socket.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("the server closed the connection in the middle of an answer")
        self._received += data


def turn_request(conversation: str, *, stream: bool) -> bytes:
    """One turn of a conversation, as bytes to send."""
    body = msgspec.json.encode({"conversation": conversation, "input": WORDS, "stream": stream})
    head = "POST /v1/responses HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json"
    return f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@dataclass(slots=True)
class Round:
    """What one round of load came to.

    Attributes:
        turns_per_second: Over all conversations, from the first request to the last answer.
        cpu_ms: CPU of the server (or, in process, of this process) for one turn.
        latencies_ms: Of each turn.
        load_busy: Share of its core that the load generator used; near 1 it, not the server, is measured.
    """

    turns_per_second: float
    cpu_ms: float
    latencies_ms: list[float] = field(repr=False)
    load_busy: float = 0.0

    @property
    def p50_ms(self) -> float:
        """The latency that half of the turns stay within."""
        return quantile(self.latencies_ms, 0.50)

    @property
    def p99_ms(self) -> float:
        """The latency that 99 of 100 turns stay within."""
        return quantile(self.latencies_ms, 0.99)


class HttpLoad:
    """Conversations at once, each over a persistent connection of its own.

    Args:
        server: Whom to talk to.
        conversations: How many at once.
        turns: Turns of each.
        stream: Whether to ask for events.
        bare: Whether the server only pretends, so that its answers have no turn's mark.
    """

    def __init__(self, server: Server, *, conversations: int, turns: int, stream: bool, bare: bool) -> None:
        self._server = server
        self._conversations = conversations
        self._turns = turns
        self._stream = stream
        self._bare = bare

    async def round(self, name: str) -> Round:
        """One round with new conversations. Connecting is not part of what is measured.

        Raises:
            WrongAnswer: A turn failed; then no figure of the round would mean anything.
        """
        connections = [Connection(self._server.port) for _ in range(self._conversations)]
        latencies: list[float] = []
        try:
            async with trio.open_nursery() as nursery:
                for connection in connections:
                    nursery.start_soon(connection.request, _WARM_UP)
            own, cpu, began = time.process_time(), cpu_seconds(self._server.pid), time.perf_counter()
            async with trio.open_nursery() as nursery:
                for number, connection in enumerate(connections):
                    nursery.start_soon(self._talk, connection, f"{name}-{number}", latencies)
            seconds = time.perf_counter() - began
        finally:
            for connection in connections:
                connection.close()
        return Round(
            turns_per_second=len(latencies) / seconds,
            cpu_ms=(cpu_seconds(self._server.pid) - cpu) * 1000 / len(latencies),
            latencies_ms=latencies,
            load_busy=(time.process_time() - own) / seconds,
        )

    async def _talk(self, connection: Connection, conversation: str, latencies: list[float]) -> None:
        raw = turn_request(conversation, stream=self._stream)
        for turn in range(1, self._turns + 1):
            began = time.perf_counter()
            status, body = await connection.request(raw)
            latencies.append((time.perf_counter() - began) * 1000)
            self._check(status, body, turn)

    def _check(self, status: int, body: bytes, turn: int) -> None:
        right = status == 200
        if right and not self._bare:
            right = mark(turn).encode() in body
            right = right and (body.endswith(b"data: [DONE]\n\n") if self._stream else b'"completed"' in body)
        if not right:
            raise WrongAnswer(f"turn {turn} was answered {status}: {body[:300]!r}")
