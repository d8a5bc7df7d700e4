"""What the tests of the terminal chat share: a server that says what it is told to, a keyboard and a screen."""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import trio

from afactors.chat import chat

BASE = "http://agent.test/v1"
RUN = f"{BASE}/responses/resp_1"
DONE = b"data: [DONE]\n\n"
LOST = "The connection was lost; waiting for the server ...\n"
RESTARTED = "The server was restarted; the answer begins again.\n"
Events = list[dict[str, Any]]


def delta(text: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "delta": text}


def error(code: str, message: str = "It broke.") -> dict[str, Any]:
    return {"type": "error", "code": code, "message": message}


CREATED = {"type": "response.created", "response": {"id": "resp_1", "background": True}}
PLAIN = {"type": "response.created", "response": {"id": "resp_1", "background": False}}
COMPLETED = {"type": "response.completed", "response": {"status": "completed"}}


def numbered(*events: dict[str, Any], first: int = 0) -> Events:
    return [{**event, "sequence_number": number} for number, event in enumerate(events, first)]


def encoded(events: Events) -> bytes:
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events) + DONE


async def broken(*events: dict[str, Any]) -> AsyncIterator[bytes]:
    """A connection that is lost after these."""
    yield encoded(list(events)).removesuffix(DONE)
    raise httpx.ReadError("no")


def whole(**response: Any) -> httpx.Response:
    """The response that is fetched."""
    return httpx.Response(200, json={"id": "resp_1", **response})


def said(text: str) -> list[dict[str, Any]]:
    """An output."""
    reasoning = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]}
    message = {"type": "message", "content": [{"type": "output_text", "text": text}]}
    return [reasoning, {"type": "function_call"}, message]


class Server(httpx.AsyncBaseTransport):
    """Answers each request with the next of its answers, and keeps the requests.

    Whoever asks for the conversation is told of no answer, but of what is `waiting`; of more than that, one by one.
    """

    def __init__(self, *answers: Events | httpx.Response | Exception | AsyncIterator[bytes]) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.waiting: list[Any] = []
        self.looked: list[str] = []
        self._asked = trio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "/conversations/" in request.url.path:
            return await self._conversation(request)
        self.requests.append(request)
        self._asked.set()
        await trio.lowlevel.checkpoint()
        match self.answers.pop(0):
            case Exception() as error:
                raise error
            case httpx.Response() as response:
                return response
            case list() as events:
                return httpx.Response(200, content=encoded(events))
            case stream:
                return httpx.Response(200, content=stream)

    async def _conversation(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        self.looked.append(request.url.path)
        match self.waiting.pop(0) if self.waiting else None:
            case Exception() as error:
                raise error
            case httpx.Response() as response:
                return response
            case list() as waiting:
                return httpx.Response(200, json={"id": "conv", "waiting": waiting})
        return httpx.Response(404, json={"error": {"message": "No such conversation."}})

    @property
    def sent(self) -> list[dict[str, Any]]:
        return [json.loads(request.content) for request in self.requests if request.content]

    async def is_asked(self, times: int = 1) -> None:
        while len(self.requests) < times:
            self._asked = trio.Event()
            await self._asked.wait()

    @property
    def asked(self) -> list[tuple[str, str]]:
        """What was asked for after the first request."""
        return [(request.method, str(request.url)) for request in self.requests[1:]]


async def talk(server: Server, typed: str, file: Path, base_url: str = BASE, **options: Any) -> tuple[int, str]:
    """Chat with what was typed on a pipe; give the exit status and everything shown."""
    reading, writing = os.pipe()
    os.write(writing, typed.encode())
    os.close(writing)
    out = io.StringIO()
    try:
        status = await chat(base_url, path=file, descriptor=reading, out=out, transport=server, **options)
    finally:
        os.close(reading)
    return status, out.getvalue()


class Screen(io.StringIO):
    """A terminal that can be waited for. The keyboard is real, so the clock is, too."""

    def __init__(self) -> None:
        super().__init__()
        self.written = trio.Event()

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        self.written.set()

    async def shows(self, text: str, times: int = 1) -> None:
        with trio.fail_after(5):
            while self.getvalue().count(text) < times:
                self.written = trio.Event()
                await self.written.wait()


_numbers = count(300)


@contextmanager
def terminals() -> Iterator[tuple[int, int]]:
    """A terminal under a number of its own: a read that an earlier sitting gave up could take this one's lines."""
    keyboard, opened = os.openpty()
    descriptor = fcntl.fcntl(opened, fcntl.F_DUPFD, next(_numbers))
    os.close(opened)
    try:
        yield keyboard, descriptor
    finally:
        os.close(keyboard)
        os.close(descriptor)


def endless(*events: dict[str, Any], closed: trio.Event | None = None) -> AsyncIterator[bytes]:
    """A stream that goes on after these, without a word more."""

    async def stream() -> AsyncIterator[bytes]:
        try:
            yield encoded(list(events)).removesuffix(DONE)
            await trio.sleep_forever()
        finally:
            if closed is not None:
                closed.set()

    return stream()


@asynccontextmanager
async def sitting(
    file: Path, descriptor: int, server: Server, **options: Any
) -> AsyncIterator[tuple[Screen, list[int]]]:
    """A chat at a terminal that goes on meanwhile, and the statuses that it ended with."""
    screen, statuses = Screen(), []

    async def sit() -> None:
        statuses.append(await chat(BASE, path=file, descriptor=descriptor, out=screen, transport=server, **options))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sit)
        await screen.shows("> ")
        yield screen, statuses
