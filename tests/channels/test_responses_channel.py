"""The Responses channel as a server meets it: ASGI in, JSON or whole events out, over a context that is scripted."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from agent_framework import AgentResponse, AgentResponseUpdate, Content, Message

from afactors_channels import (
    BadRequest,
    ChannelIdentity,
    ChannelRequest,
    ChannelSession,
    Conflicting,
    HostedRunResult,
    HostError,
    NotFound,
    Overloaded,
    ResponsesChannel,
    StorageFull,
    TargetFailed,
)

Checked = Callable[[dict[str, Any]], dict[str, Any]]
Read = Callable[[list[dict[str, Any]]], dict[str, Any]]
blocked = trio.testing.wait_all_tasks_blocked


def update(text: str) -> AgentResponseUpdate:
    return AgentResponseUpdate(contents=[Content.from_text(text)], role="assistant", message_id="m")


class FakeTurn:
    """A turn that goes as its context was told."""

    def __init__(self, context: "FakeContext", request: ChannelRequest) -> None:
        self._context = context
        self._request = request
        self._at_end: list[Callable[[], object]] = []
        self.ended = False

    def on_end(self, call: Callable[[], object]) -> None:
        if self.ended:
            call()
        else:
            self._at_end.append(call)

    async def finish(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._context.gate is not None:
            await self._context.gate.wait()
        self.ended = True
        for call in self._at_end:
            call()

    async def __aiter__(self) -> AsyncIterator[Sequence[AgentResponseUpdate]]:
        for batch in self._context.batches:
            await trio.lowlevel.checkpoint()
            yield batch
        await self.finish()
        _ = self.result

    @property
    def result(self) -> HostedRunResult[AgentResponse[Any]]:
        assert self.ended
        if self._context.failure is not None:
            raise self._context.failure
        text = "".join(one.text for batch in self._context.batches for one in batch)
        return HostedRunResult(AgentResponse(messages=[Message("assistant", [text])]), "key", "session", "run_1")


class FakeContext:
    """What the runtime gives a channel: it notes what was asked, and how its callers left."""

    target_name = "the-agent"

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.batches: list[list[AgentResponseUpdate]] = [[update("Hel"), update("lo")], [update(" there")]]
        self.refusal: HostError | None = None
        self.failure: HostError | None = None
        self.gate: trio.Event | None = None
        self.asked: list[ChannelRequest] = []
        self.left_early = 0

    @asynccontextmanager
    async def turn(self, request: ChannelRequest) -> AsyncIterator[FakeTurn]:
        self.asked.append(request)
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        turn = FakeTurn(self, request)
        if not request.stream:
            self._nursery.start_soon(turn.finish)
        try:
            yield turn
        finally:
            self.left_early += not turn.ended


class Client:
    """One request and its answer."""

    def __init__(self, body: Any, headers: dict[str, str] | None = None, path: str = "/v1/responses") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.chunks = [data[:5], data[5:]]
        self.left = trio.Event()
        self.sent: list[dict[str, Any]] = []
        encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
        self.scope = {"type": "http", "method": "POST", "path": path, "headers": encoded}

    async def receive(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if self.chunks:
            chunk = self.chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self.chunks)}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(dict(message))

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[bytes, bytes]:
        headers: list[tuple[bytes, bytes]] = self.sent[0]["headers"]
        assert len({name for name, _ in headers}) == len(headers), "a header twice"
        return dict(headers)

    @property
    def json(self) -> dict[str, Any]:
        assert [message["type"] for message in self.sent] == ["http.response.start", "http.response.body"]
        assert int(self.headers[b"content-length"]) == len(self.sent[1]["body"])
        assert self.headers[b"content-type"] == b"application/json"
        value: dict[str, Any] = json.loads(self.sent[1]["body"])
        return value

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error

    @property
    def pieces(self) -> list[list[dict[str, Any]]]:
        """For each send, its events. Each send must be of whole events."""
        pieces = []
        for message in self.sent[1:]:
            assert message["body"].endswith(b"\n\n")
            events = []
            for block in message["body"].decode().removesuffix("\n\n").split("\n\n"):
                if block == "data: [DONE]":
                    events.append({"type": "[DONE]"})
                    continue
                name, data = block.split("\n")
                event = json.loads(data.removeprefix("data: "))
                assert name == f"event: {event['type']}"
                events.append(event)
            pieces.append(events)
        return pieces

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events but the last, which must be the end."""
        *events, last = [event for piece in self.pieces for event in piece]
        assert last == {"type": "[DONE]"}
        assert [message.get("more_body", False) for message in self.sent[1:]] == [True] * (len(self.sent) - 2) + [False]
        return events


@pytest.fixture
async def context(nursery: trio.Nursery) -> FakeContext:
    return FakeContext(nursery)


async def serve(context: FakeContext, client: Client, **options: Any) -> Client:
    channel = ResponsesChannel(**options)
    routes = {route.path: route for route in channel.contribute(context).routes}
    route = routes[client.scope["path"]]
    assert route.method == "POST"
    with trio.fail_after(5):
        await route.endpoint(client.scope, client.receive, client.send)
    return client


# --- JSON


@pytest.mark.parametrize("path", ["/v1/responses", "/responses/v1/responses"])
async def test_an_answer_in_one_piece(context: FakeContext, checked: Checked, path: str):
    client = await serve(context, Client({"model": "m", "input": "Hi"}, path=path))
    assert client.status == 200
    response = checked(client.json)
    assert response["status"] == "completed"
    assert response["output"][0]["content"][0]["text"] == "Hello there"
    (request,) = context.asked
    assert response["id"] == request.name
    assert response["id"].startswith("resp_")
    assert context.left_early == 0


async def test_what_the_runtime_is_asked(context: FakeContext):
    body = {
        "input": "Hi",
        "conversation": "talk",
        "metadata": {"a": "b"},
        "safety_identifier": "user-7",
        "temperature": 0.5,
        "store": False,
        "tools": [{"type": "function", "name": "look", "parameters": {"type": "object"}}],
    }
    client = Client(body, {"authorization": "Bearer k"})
    await serve(
        context,
        client,
        name="mine",
        api_keys={"acme": "k"},
        session_mode="required",
        on_disconnect="finish",
    )
    (request,) = context.asked
    assert request.channel == "mine"
    assert [message["contents"][0]["text"] for message in request.input] == ["Hi"]
    assert request.session == ChannelSession(session_id="talk")
    assert (request.session_mode, request.on_disconnect, request.partition) == ("required", "finish", "acme")
    assert request.identity == ChannelIdentity("mine", "user-7")
    assert request.options["temperature"] == 0.5
    assert request.metadata == {"a": "b"}
    assert [one["name"] for one in request.tools] == ["look"]
    assert (request.retrievable, request.stream) == (False, False)
    assert client.json["store"] is False


async def test_going_on_from_a_response(context: FakeContext):
    await serve(context, Client({"input": "Hi", "previous_response_id": "resp_1"}))
    (request,) = context.asked
    assert request.session == ChannelSession(after="resp_1")
    assert request.identity is None
    assert request.partition == ""


async def test_every_response_has_an_id_of_its_own(context: FakeContext):
    channel = ResponsesChannel()
    route = channel.contribute(context).routes[0]
    for _ in range(20):
        client = Client({"input": "Hi"})
        await route.endpoint(client.scope, client.receive, client.send)
    assert len({request.name for request in context.asked}) == 20


# --- events


async def test_a_stream(context: FakeContext, read: Read):
    client = await serve(context, Client({"input": "Hi", "stream": True}))
    assert client.status == 200
    assert client.headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert client.headers[b"cache-control"] == b"no-cache"
    assert b"content-length" not in client.headers
    response = read(client.events)
    assert response["output"][0]["content"][0]["text"] == "Hello there"
    (request,) = context.asked
    assert request.stream
    assert response["id"] == request.name


async def test_what_is_ready_at_once_leaves_at_once(context: FakeContext):
    context.batches = [[update(str(number)) for number in range(50)], [update("x")]]
    client = await serve(context, Client({"input": "Hi", "stream": True}))
    kinds = [[event["type"].removeprefix("response.") for event in piece] for piece in client.pieces]
    assert kinds[0] == ["created", "in_progress"]
    assert kinds[1].count("output_text.delta") == 50
    assert kinds[2] == ["output_text.delta"]
    assert kinds[3][-2:] == ["completed", "[DONE]"]
    assert len(kinds) == 4


async def test_a_batch_that_says_nothing_sends_nothing(context: FakeContext, read: Read):
    context.batches = [[update("a")], [AgentResponseUpdate(contents=[], role="assistant", message_id="m")]] * 3
    client = await serve(context, Client({"input": "Hi", "stream": True}))
    assert all(message["body"] for message in client.sent[1:])
    assert read(client.events)["output"][0]["content"][0]["text"] == "aaa"


async def test_the_first_events_leave_before_the_target_answers(context: FakeContext):
    context.gate, context.batches = trio.Event(), []
    client = Client({"input": "Hi", "stream": True})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, context, client)
        await blocked()
        assert [event["type"] for event in client.pieces[0]] == ["response.created", "response.in_progress"]
        assert client.sent[1]["more_body"]
        context.gate.set()


async def test_a_turn_that_fails_in_mid_stream(context: FakeContext, read: Read):
    context.failure = TargetFailed("The agent failed to answer.")
    client = await serve(context, Client({"input": "Hi", "stream": True}))
    assert client.status == 200
    response = read(client.events)
    assert response["status"] == "failed"
    assert response["error"]["message"] == "The agent failed to answer."


# --- errors

ERRORS = [
    (BadRequest("no", field="input"), 400, "invalid_request_error", "invalid_request", "input", {}),
    (Conflicting("no"), 409, "invalid_request_error", "conflict", None, {b"x-should-retry": b"false"}),
    (
        Overloaded("no", retry_after=1.5),
        429,
        "rate_limit_error",
        "overloaded",
        None,
        {b"retry-after": b"2", b"retry-after-ms": b"1500"},
    ),
    (Overloaded("no", code="draining", status=503), 503, "server_error", "draining", None, {}),
    (StorageFull("no"), 507, "server_error", "storage_full", None, {b"x-should-retry": b"false"}),
    (TargetFailed("no"), 500, "server_error", "server_error", None, {b"x-should-retry": b"false"}),
    (
        NotFound("no", field="session.after", code="point_not_found"),
        400,
        "invalid_request_error",
        "previous_response_not_found",
        "previous_response_id",
        {},
    ),
    (
        BadRequest("no", field="session", code="session_required"),
        400,
        "invalid_request_error",
        "session_required",
        "conversation",
        {},
    ),
    (
        BadRequest("no", field="session", code="invalid_session"),
        400,
        "invalid_request_error",
        "invalid_session",
        "conversation",
        {},
    ),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", ERRORS, ids=[case[3] for case in ERRORS])
async def test_a_refusal_has_its_status_and_envelope(context: FakeContext, case: Any, stream: bool):
    error, status, kind, code, field, headers = case
    context.refusal = type(error)(
        error.message, field=error.field, code=error.code, status=error.status, retry_after=error.retry_after
    )
    client = await serve(context, Client({"input": "Hi", "stream": stream}))
    assert client.status == status
    assert client.error.pop("message")
    assert (client.error["type"], client.error["code"], client.error["param"]) == (kind, code, field)
    told = {name: value for name, value in client.headers.items() if b"retry" in name}
    assert told == headers
    assert b"x-request-id" in client.headers


async def test_a_turn_that_fails(context: FakeContext):
    context.failure = TargetFailed("The agent did not answer in time.", code="timeout", status=504)
    client = await serve(context, Client({"input": "Hi"}))
    assert client.status == 504
    assert client.error["code"] == "timeout"


@pytest.mark.parametrize(
    ("body", "field"),
    [(b"not json", None), (b"[]", None), ({"input": 5}, "input"), ({"input": "x", "stream": "yes"}, "stream")],
)
async def test_a_body_that_cannot_be_understood(context: FakeContext, body: Any, field: str | None):
    client = await serve(context, Client(body))
    assert client.status == 400
    assert client.error["param"] == field
    assert context.asked == []


async def test_without_a_key_nothing_is_read(context: FakeContext):
    for headers in ({}, {"authorization": "Bearer wrong"}):
        client = await serve(context, Client({"input": "Hi"}, headers), api_keys=["right"])
        assert client.status == 401
        assert client.error["type"] == "authentication_error"
        assert len(client.chunks) == 2, "not even the body"
    assert context.asked == []
    assert (
        await serve(context, Client({"input": "Hi"}, {"authorization": "Bearer right"}), api_keys=["right"])
    ).status == 200


# --- clients that leave


async def test_a_client_that_leaves_before_its_body_is_whole(context: FakeContext):
    client = Client({"input": "Hi"})
    client.chunks[1:] = []
    client.left.set()

    async def receive() -> dict[str, Any]:
        if client.chunks:
            return {"type": "http.request", "body": client.chunks.pop(0), "more_body": True}
        return {"type": "http.disconnect"}

    await ResponsesChannel().contribute(context).routes[0].endpoint(client.scope, receive, client.send)
    assert (client.sent, context.asked) == ([], [])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_leaves_its_turn(context: FakeContext, stream: bool):
    context.gate = trio.Event()
    client = Client({"input": "Hi", "stream": stream})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, context, client)
        await blocked()
        before = len(client.sent)
        client.left.set()
    assert context.left_early == 1
    assert len(client.sent) == before, "nothing is sent to nobody"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_as_the_turn_ends_is_no_error(context: FakeContext, stream: bool):
    context.gate = trio.Event()
    client = Client({"input": "Hi", "stream": stream})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, context, client)
        await blocked()
        context.gate.set()
        client.left.set()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_cancels_the_request_leaves_the_turn(context: FakeContext, stream: bool):
    context.gate = trio.Event()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, context, Client({"input": "Hi", "stream": stream}))
            await blocked()
            scope.cancel()
    assert context.left_early == 1


# --- request ids


@pytest.mark.parametrize("given", ["mine-1", "x" * 512, "a b;c=~"])
async def test_the_clients_request_id_is_sent_back(context: FakeContext, given: str):
    for body in ({"input": "Hi"}, {"input": "Hi", "stream": True}, {"input": 5}):
        client = await serve(context, Client(body, {"X-Request-Id": given}))
        assert client.headers[b"x-request-id"] == given.encode()


@pytest.mark.parametrize("given", [None, "", "x" * 513, "caf\xe9", "a\r\nset-cookie: b", "tab\t"])
async def test_without_one_that_a_header_can_hold_it_gets_one_of_ours(context: FakeContext, given: str | None):
    channel = ResponsesChannel()
    route = channel.contribute(context).routes[0]
    ids = set()
    for _ in range(3):
        client = Client({"input": "Hi"}, {} if given is None else {"X-Request-Id": given})
        await route.endpoint(client.scope, client.receive, client.send)
        ids.add(client.headers[b"x-request-id"])
    assert len(ids) == 3
    assert all(one.startswith(b"req_") and len(one) > 20 for one in ids)
