"""A lean HTTP/1.1 client, and conversations over it.

It reads exactly what hypercorn writes (a length, or chunks) and nothing else, because whatever the client costs is
missing from the figures where there is but one core.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self, TypeAlias

import msgspec
import trio

from .agents import WORDS, mark
from .measure import cpu_seconds, quantile
from .processes import Server

FIRST_TEXT = b"response.output_text.delta"
"""What the first event with text in it has, and none before it."""

Check: TypeAlias = Callable[[int, bytes], bool]
"""Whether the body is what the answer to that turn of a conversation should be."""

_RECEIVE_BYTES = 65536


class WrongAnswer(Exception):
    """A server answered something else than it should; the message has the beginning of it."""


class Connection:
    """One persistent connection to 127.0.0.1; it is opened again when the server closes it.

    Attributes:
        first_text: When the last answer's first text came, by `time.perf_counter`; None if it was no stream.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: trio.socket.SocketType | None = None
        self._received = bytearray()
        self.first_text: float | None = None

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
        self.first_text = None
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
            if self.first_text is None and FIRST_TEXT in part:
                self.first_text = time.perf_counter()
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


def turn_request(conversation: str, *, stream: bool, **more: bool) -> bytes:
    """One turn of a conversation, as bytes to send.

    Args:
        conversation: Its name.
        stream: Whether to ask for events.
        **more: Other fields of the request.
    """
    body = msgspec.json.encode({"conversation": conversation, "input": WORDS, "stream": stream, **more})
    head = "POST /v1/responses HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json"
    return f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def get_request(path: str) -> bytes:
    """A request without a body, as bytes to send."""
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()


def whole_answer(turn: int, body: bytes) -> bool:
    """A reply in one piece, with the mark of its turn: the history was kept."""
    return mark(turn).encode() in body and b'"completed"' in body


def whole_stream(turn: int, body: bytes) -> bool:
    """The same as events."""
    return mark(turn).encode() in body and body.endswith(b"data: [DONE]\n\n")


def first_turn_again(_turn: int, body: bytes) -> bool:
    """Events of an agent that is told no history."""
    return whole_stream(1, body)


def anything(_turn: int, _body: bytes) -> bool:
    """The answer of a server that only pretends."""
    return True


@dataclass(slots=True)
class Round:
    """What one round of load came to.

    Attributes:
        turns_per_second: Over all conversations, from the first request to the last answer.
        cpu_ms: CPU of the server (or, in process, of this process) for one turn.
        latencies_ms: Of each turn.
        load_busy: Share of its core that the load generator used; near 1 it, not the server, is measured.
        firsts_ms: From each turn's request to its first text; only of streams over HTTP.
    """

    turns_per_second: float
    cpu_ms: float
    latencies_ms: list[float] = field(repr=False)
    load_busy: float = 0.0
    firsts_ms: list[float] = field(default_factory=list, repr=False)

    @property
    def p50_ms(self) -> float:
        """The latency that half of the turns stay within."""
        return quantile(self.latencies_ms, 0.50)

    @property
    def p99_ms(self) -> float:
        """The latency that 99 of 100 turns stay within."""
        return quantile(self.latencies_ms, 0.99)

    @property
    def first_p50_ms(self) -> float:
        """The time within which half of the turns have shown text."""
        return quantile(self.firsts_ms, 0.50)

    @property
    def first_p99_ms(self) -> float:
        """The time within which 99 of 100 turns have shown text."""
        return quantile(self.firsts_ms, 0.99)


class HttpLoad:
    """Conversations at once, each over a persistent connection of its own.

    Args:
        server: Whom to talk to.
        conversations: How many at once.
        turns: Turns of each.
        stream: Whether to ask for events.
        check: Whether an answer is right; by default, whether it has its turn's mark and came to its end.
        fields: Other fields of the requests.
        over: Seconds over which the conversations begin, evenly; 0 has all begin at the same moment.
    """

    def __init__(
        self,
        server: Server,
        *,
        conversations: int,
        turns: int,
        stream: bool,
        check: Check | None = None,
        fields: Mapping[str, bool] | None = None,
        over: float = 0.0,
    ) -> None:
        self._server = server
        self._conversations = conversations
        self._turns = turns
        self._stream = stream
        self._check = check or (whole_stream if stream else whole_answer)
        self._fields = fields or {}
        self._over = over

    async def round(self, name: str) -> Round:
        """One round with new conversations. Connecting is not part of what is measured.

        Raises:
            WrongAnswer: A turn failed; then no figure of the round would mean anything.
        """
        latencies: list[float] = []
        firsts: list[float] = []
        async with connected(self._server, self._conversations) as connections:
            started = trio.current_time()
            own, cpu, began = time.process_time(), cpu_seconds(self._server.pid), time.perf_counter()
            async with trio.open_nursery() as nursery:
                for number, connection in enumerate(connections):
                    nursery.start_soon(self._talk, connection, f"{name}-{number}", latencies, firsts)
                    if self._over:
                        await trio.sleep_until(started + self._over * (number + 1) / len(connections))
            seconds = time.perf_counter() - began
        return Round(
            turns_per_second=len(latencies) / seconds,
            cpu_ms=(cpu_seconds(self._server.pid) - cpu) * 1000 / len(latencies),
            latencies_ms=latencies,
            load_busy=(time.process_time() - own) / seconds,
            firsts_ms=firsts,
        )

    async def _talk(
        self, connection: Connection, conversation: str, latencies: list[float], firsts: list[float]
    ) -> None:
        raw = turn_request(conversation, stream=self._stream, **self._fields)
        for turn in range(1, self._turns + 1):
            began = time.perf_counter()
            status, body = await connection.request(raw)
            latencies.append((time.perf_counter() - began) * 1000)
            if connection.first_text is not None:
                firsts.append((connection.first_text - began) * 1000)
            if status != 200 or not self._check(turn, body):
                raise WrongAnswer(f"turn {turn} was answered {status}: {body[:300]!r}")


@asynccontextmanager
async def connected(server: Server, count: int) -> AsyncIterator[list[Connection]]:
    """So many connections, each of which has had its first answer."""
    connections = [Connection(server.port) for _ in range(count)]
    try:
        async with trio.open_nursery() as nursery:
            for connection in connections:
                nursery.start_soon(connection.request, get_request("/healthz"))
        yield connections
    finally:
        for connection in connections:
            connection.close()
