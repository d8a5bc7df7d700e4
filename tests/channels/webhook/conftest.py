"""What the tests of the webhook channel share: a receiver on a real socket, and the runtime's side in memory."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import h11
import pytest
import trio
from agent_framework import AgentResponse, Message

from afactors.http import Dispatcher
from afactors_channels import ChannelIdentity, ChannelRequest, ContinuationToken, HostError, Unprocessable
from afactors_channels.pushes import Push
from afactors_channels.webhook import PUSH_POLICY, WebhookChannel, WebhookEndpoint
from afactors_channels.webhook.delivering import Deliverer

NOW = 1_700_000_000.25
Answer = bytes | Callable[[trio.abc.Stream], Awaitable[None]]


def secret(number: int = 0) -> str:
    return "whsec_" + base64.b64encode(bytes([number]) * 32).decode()


def response(status: int, *headers: str, body: bytes = b"") -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status} Whatever", f"content-length: {len(body)}", *headers])
    return head.encode() + b"\r\n\r\n" + body


@dataclass
class Post:
    """A request as it came."""

    target: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Site:
    """Somebody's server: answers every request by the next answer, the last one again and again."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [response(204)]
        self.posts: list[Post] = []
        self.connections = 0
        self.broken = 0
        self.port = 0

    def answer(self, *answers: Answer) -> None:
        self.answers = list(answers)

    async def serve(self, tls: ssl.SSLContext | None = None, *, task_status: Any) -> None:
        async def handle(stream: trio.SocketStream) -> None:
            try:
                await self._handle(stream if tls is None else trio.SSLStream(stream, tls, server_side=True))
            except (trio.BrokenResourceError, h11.RemoteProtocolError):
                self.broken += 1

        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
            self.port = listeners[0].socket.getsockname()[1]
            task_status.started()

    async def _handle(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        number, connection = self.connections, h11.Connection(h11.SERVER)
        async with stream:
            while (post := await self._read(stream, connection, number)) is not None:
                self.posts.append(post)
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if not isinstance(answer, bytes):
                    await answer(stream)
                    return
                await stream.send_all(answer)
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                connection.start_next_cycle()

    async def _read(self, stream: trio.abc.Stream, connection: h11.Connection, number: int) -> Post | None:
        body, request = b"", None
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some()))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                headers = {name.decode(): value.decode() for name, value in request.headers}
                return Post(request.target.decode(), headers, body, number)
            else:
                return None


@pytest.fixture
async def site(nursery: trio.Nursery) -> Site:
    made = Site()
    await nursery.start(made.serve)
    return made


def endpoint(site: Site, **changes: Any) -> WebhookEndpoint:
    given: dict[str, Any] = {
        "name": "crm",
        "url": f"http://127.0.0.1:{site.port}/hook?token=hidden-in-the-url",
        "secrets": secret(),
        "allow_private": True,
        "allow_http": True,
    }
    return WebhookEndpoint(**{**given, **changes})


def push(text: str = "Hello", **changes: Any) -> Push:
    given: dict[str, Any] = {
        "delivery_id": "d_1",
        "identity": ChannelIdentity("webhook", "crm", conversation="talk"),
        "kind": "reply",
        "response": AgentResponse(messages=[Message("assistant", [text])]),
        "created": NOW - 60,
        "run_id": "run_1",
    }
    return Push(**{**given, **changes})


class Sending:
    """Makes a deliverer, and has it run."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.now = NOW

    @asynccontextmanager
    async def to(self, *endpoints: WebhookEndpoint, policy: Any = PUSH_POLICY, **more: Any) -> AsyncIterator[Deliverer]:
        known = {one.name: one for one in endpoints or [endpoint(self.site)]}
        deliverer = Deliverer(known, policy, clock=lambda: self.now, chance=lambda: 0.5, **more)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliverer.run)
            await deliverer.ready()
            yield deliverer
            nursery.cancel_scope.cancel()

    endpoint = staticmethod(endpoint)
    push = staticmethod(push)
    secret = staticmethod(secret)
    response = staticmethod(response)


@pytest.fixture
def sending(site: Site) -> Sending:
    return Sending(site)


class FakeContext:
    """The runtime, as far as this channel knows it."""

    target_name = "target"

    def __init__(self) -> None:
        self.submitted: list[ChannelRequest] = []
        self.protocol_requests: list[Any] = []
        self.durable = trio.Event()
        self.durable.set()
        self.refusal: HostError | None = None
        self.keys: dict[Any, tuple[str, str]] = {}

    async def submit(self, request: ChannelRequest, *, protocol_request: Any = None) -> ContinuationToken:
        if self.refusal is not None:
            raise self.refusal
        await self.durable.wait()
        key = (request.channel, request.partition, request.idempotency_key)
        if key in self.keys:
            token, fingerprint = self.keys[key]
            if fingerprint != request.fingerprint:
                raise Unprocessable("Used before.", code="idempotency_key_reused")
            return ContinuationToken(token)
        self.submitted.append(request)
        self.protocol_requests.append(protocol_request)
        self.keys[key] = (f"run_{len(self.submitted)}", request.fingerprint)
        return ContinuationToken(self.keys[key][0])


@dataclass
class Reply:
    """What a sender is answered."""

    status: int
    headers: Mapping[bytes, bytes]
    json: Any


class Door:
    """A channel's way in, behind the dispatcher."""

    def __init__(self) -> None:
        self.context = FakeContext()
        self.serving, self.broken = True, None

    def not_ready(self) -> Sequence[str]:
        return []

    def open(self, channel: WebhookChannel, max_body: int = 100_000) -> None:
        contribution = channel.contribute(self.context)  # type: ignore[arg-type]
        self.app = Dispatcher(self, list(contribution.routes), max_body)  # type: ignore[arg-type]

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], method: str = "POST") -> Reply:
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
        }
        chunks, sent = [body[:10], body[10:]], []

        async def receive() -> Mapping[str, Any]:
            await trio.lowlevel.checkpoint()
            if not chunks:
                await trio.sleep_forever()
            return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

        async def send(message: Mapping[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
        return Reply(sent[0]["status"], dict(sent[0]["headers"]), json.loads(sent[1]["body"]))


@pytest.fixture
def door() -> Door:
    return Door()
