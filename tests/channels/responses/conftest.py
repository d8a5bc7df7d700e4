"""What the tests of the channel's shell share: the runtime's side in memory, and clients of both kinds."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Self
from urllib.parse import unquote

import pytest
import trio
import trio.testing
from agent_framework import AgentResponse, AgentResponseUpdate, Content, Message

from afactors.http import Dispatcher
from afactors_channels import (
    ChannelRequest,
    Conflicting,
    ContinuationToken,
    HostedRun,
    HostedSession,
    HostError,
    NotFound,
    Repeated,
    ResponsesChannel,
    Restarted,
    RunState,
    SessionEdit,
    TargetFailed,
    Transcriber,
    Unprocessable,
)

CREATED, ENDED = 1_700_000_000.5, 1_700_000_005.5
_numbers = count()


def text(words: str) -> AgentResponseUpdate:
    return AgentResponseUpdate(contents=[Content.from_text(words)], role="assistant", message_id="m")


class Log:
    """The rows of one attempt."""

    def __init__(self, first: int = 0) -> None:
        self.first = self.end = first
        self.batches: list[tuple[int, Sequence[bytes]]] = []
        self.closed = False
        self.loss: HostError | None = None
        self.changed = trio.Event()

    def write(self, rows: Sequence[bytes]) -> None:
        self.batches.append((self.end, rows))
        self.end += len(rows)
        self._notify()

    def close(self, loss: HostError | None = None) -> None:
        self.closed, self.loss = True, loss
        self._notify()

    def _notify(self) -> None:
        changed, self.changed = self.changed, trio.Event()
        changed.set()


class Reader:
    """Batches of rows from one number on, as they come."""

    def __init__(self, log: Log, after: int | None = None) -> None:
        self._log = log
        self._number = log.first if after is None else after + 1
        self._batch = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[bytes]:
        await trio.lowlevel.checkpoint()
        if self._number < self._log.first:
            raise Restarted("The run was started again.", field="starting_after")
        while True:
            if self._batch < len(self._log.batches):
                start, rows = self._log.batches[self._batch]
                self._batch += 1
                return rows[max(0, self._number - start) :]  # may be empty
            if self._log.closed:
                break
            await self._log.changed.wait()
        if self._log.loss is not None:
            raise self._log.loss
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._batch = len(self._log.batches)


class Run:
    """A run: as its context was told, from its request to its end."""

    def __init__(self, context: FakeContext, request: ChannelRequest, *, durable: bool) -> None:
        self.request, self.durable = request, durable
        self.state: RunState = "queued"
        self.attempt = 1
        self.error: HostError | None = None
        self.result: AgentResponse | None = None
        self.kept: Any = None
        self.expired = False
        self.at_end: list[Callable[[], object]] = []
        self.over = trio.Event()
        self._context = context
        self.begin(Log())

    def begin(self, log: Log) -> None:
        self.log, self.scope = log, trio.CancelScope()
        self._transcript = self._context.transcriber(self.request, created=CREATED, first=log.first)
        if self.durable and self.attempt == 1:
            log.write(self._transcript.accepted())
        self._context.nursery.start_soon(self._perform)

    async def _perform(self) -> None:
        context, log = self._context, self.log
        with self.scope:
            if self.durable:
                await context.line.wait()
            self.state = "running"
            log.write(self._transcript.started())
            for batch in context.batches:
                await trio.lowlevel.checkpoint()
                log.write(self._transcript.fed(batch))
            await context.gate.wait()
            if context.failure is None:
                self._complete()
            else:
                self._fail("failed", context.failure)
        if self.scope.cancelled_caught and not log.closed:
            self._fail("cancelled", TargetFailed("The turn was cancelled.", code="cancelled", status=409))

    def _complete(self) -> None:
        updates = [update for batch in self._context.batches for update in batch]
        self.result = AgentResponse.from_updates(updates)
        self.result.finish_reason = self._context.finish_reason
        rows, self.kept = self._transcript.completed(self.result, ENDED)
        self._context.remember(self)
        self._end("incomplete" if self._context.finish_reason == "length" else "completed", rows)

    def _fail(self, state: RunState, error: HostError) -> None:
        self.error = error
        self._context.keys.pop((self.request.partition, self.request.idempotency_key), None)
        self._end(state, self._transcript.failed(state, error.code, error.message)[0])

    def _end(self, state: RunState, rows: Sequence[bytes]) -> None:
        self.state = state
        self.log.write(rows)
        self.log.close()
        self.over.set()
        for call in self.at_end:
            call()

    @property
    def seen(self) -> HostedRun:
        return HostedRun(
            token=ContinuationToken(self.request.name or ""),
            run_id="run_1",
            isolation_key="key",
            session_id="session",
            state=self.state,
            created=CREATED,
            ended=ENDED if self.over.is_set() else None,
            attempt=self.attempt,
            durable=self.durable,
            retrievable=self.request.retrievable,
            streamed=self.request.stream,
            presentation=self.request.presentation,
            metadata=self.request.metadata,
            error=(self.error.code, self.error.message) if self.error is not None else None,
            result=self.result,
            kept=self.kept,
        )


class FakeTurn:
    """A run as whoever asked for it has it."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def rows(self) -> Reader:
        return Reader(self._run.log)

    @property
    def ended(self) -> bool:
        return self._run.over.is_set()

    @property
    def run(self) -> HostedRun:
        assert self.ended
        if self._run.error is not None:
            raise self._run.error
        return self._run.seen

    def on_end(self, call: Callable[[], object]) -> None:
        if self.ended:
            call()
        else:
            self._run.at_end.append(call)


class FakeContext:
    """What the runtime gives a channel, in memory: every run goes by one script, and what was asked is noted.

    Attributes:
        batches, finish_reason, failure: What every run says, and how it ends.
        gate: No run ends before it is set.
        line: No run in the background begins before it is set.
        refusal: What every turn is refused with.
        stops: The host begins to stop.
        asked: What turns were asked, and what the run hook would see beside.
        about: What was asked of sessions.
        left_early: How many turns their callers left before the end.
    """

    target_name = "the-agent"
    transcriber: Transcriber

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.batches: Sequence[Sequence[AgentResponseUpdate]] = [[text("Hel"), text("lo")], [text(" there")]]
        self.finish_reason: Any = "stop"
        self.failure: HostError | None = None
        self.refusal: HostError | None = None
        self.gate, self.line = trio.Event(), trio.Event()
        self.gate.set()
        self.line.set()
        self.asked: list[ChannelRequest] = []
        self.protocol_requests: list[Any] = []
        self.about: list[ChannelRequest] = []
        self.compacted: list[Any] = []
        self.stops = trio.Event()
        self.left_early = 0
        self.runs: dict[str, Run] = {}
        self.keys: dict[tuple[str, str | None], Run] = {}
        self.sessions: dict[tuple[str, str | None], HostedSession] = {}

    # -- turns

    def _accept(self, request: ChannelRequest, protocol_request: Any, *, durable: bool = False) -> Run:
        self.asked.append(request)
        self.protocol_requests.append(protocol_request)
        if self.refusal is not None:
            raise self.refusal
        first = self.keys.get((request.partition, request.idempotency_key)) if request.idempotency_key else None
        if first is not None:
            if first.request.fingerprint != request.fingerprint:
                raise Unprocessable("no", field="Idempotency-Key", code="idempotency_key_reused")
            raise Repeated(first.seen.token)
        self._point(request)
        assert request.name is not None
        run = self.runs[request.name] = Run(self, request, durable=durable)
        if request.idempotency_key:
            self.keys[request.partition, request.idempotency_key] = run
        return run

    @asynccontextmanager
    async def turn(self, request: ChannelRequest, *, protocol_request: Any = None) -> AsyncIterator[FakeTurn]:
        await trio.lowlevel.checkpoint()
        run = self._accept(request, protocol_request)
        try:
            yield FakeTurn(run)
        finally:
            if not run.over.is_set():
                self.left_early += 1
                if request.on_disconnect == "cancel":
                    run.scope.cancel()

    async def submit(self, request: ChannelRequest, *, protocol_request: Any = None) -> ContinuationToken:
        await trio.lowlevel.checkpoint()
        try:
            return self._accept(request, protocol_request, durable=True).seen.token
        except Repeated as repeated:
            return repeated.token

    # -- runs

    def run(self, token: str, partition: str | None = None) -> Run:
        run = self.runs.get(token)
        if run is None or partition not in (None, run.request.partition):
            raise NotFound("There is no such run.", code="run_not_found")
        return run

    async def get_continuation(self, token: str, *, partition: str | None = None, wait: bool = False) -> HostedRun:
        await trio.lowlevel.checkpoint()
        run = self.run(token, partition)
        if wait:
            await run.over.wait()
        if run.expired:
            raise NotFound("The result of this run is no longer kept.", code="result_expired")
        return run.seen

    async def get_input(self, token: str, *, partition: str | None = None) -> Sequence[Mapping[str, Any]]:
        await trio.lowlevel.checkpoint()
        return self.run(token, partition).request.input

    async def cancel(self, token: str, *, partition: str | None = None) -> HostedRun:
        self.run(token, partition).scope.cancel()
        return await self.get_continuation(token, partition=partition, wait=True)

    async def forget(self, token: str, *, partition: str | None = None) -> None:
        await self.cancel(token, partition=partition)
        del self.runs[token]

    @asynccontextmanager
    async def subscribe(
        self, token: str, *, after: int | None = None, partition: str | None = None
    ) -> AsyncIterator[Reader]:
        await trio.lowlevel.checkpoint()
        yield Reader(self.run(token, partition).log, after)

    # -- what becomes of runs

    def put_back(self, token: str, loss: HostError | None = None) -> None:
        """The attempt is over, and the next one has not begun."""
        run = self.run(token)
        run.state = "queued"
        run.log.close(loss)
        run.scope.cancel()

    def begin_again(self, token: str) -> None:
        """The attempt is over, and the next one begins."""
        run = self.run(token)
        self.put_back(token, Restarted("The run was started again.", field="starting_after"))
        run.attempt += 1
        run.begin(Log(run.log.end))

    def cut(self, token: str) -> None:
        """No more is logged of a run that goes on."""
        self.run(token).log.close(Conflicting("Too long to be followed.", code="transcript_too_long"))

    # -- sessions

    def _point(self, request: ChannelRequest) -> Sequence[Mapping[str, Any]]:
        """The history that a request goes on from."""
        after = self.runs.get(request.session.after or "")
        if request.session.after is not None and (after is None or after.request.partition != request.partition):
            raise NotFound("There is no such point.", field="session.after", code="point_not_found")
        return () if after is None else _messages(after)

    def remember(self, run: Run) -> None:
        request = run.request
        if request.session.session_id is not None:
            place = request.partition, request.session.session_id
            session = self.sessions.get(place) or HostedSession(place[1], CREATED)
            self.sessions[place] = _with(session, messages=[*session.messages, *_messages(run)])

    def _session(self, request: ChannelRequest) -> HostedSession:
        self.about.append(request)
        session = self.sessions.get((request.partition, request.session.session_id))
        if session is None:
            raise NotFound("There is no such session.", field="session", code="session_not_found")
        return session

    async def get_session(self, request: ChannelRequest) -> HostedSession:
        await trio.lowlevel.checkpoint()
        return self._session(request)

    async def edit_session(self, request: ChannelRequest, edit: SessionEdit) -> HostedSession:
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        place = request.partition, request.session.session_id
        if edit.create:
            assert place[1] is not None
            self.sessions[place] = HostedSession(place[1], CREATED)
        session = self._session(request)
        if edit.delete:
            return self.sessions.pop(place)
        messages = list(session.messages)
        for message_id, indexes in edit.remove:
            messages = [left for message in messages if (left := _without(message, message_id, indexes))]
        labels = session.labels if edit.labels is None else edit.labels
        session = _with(session, labels=labels, messages=[*messages, *map(_identified, edit.append)])
        self.sessions[place] = session
        return session

    async def stopping(self) -> None:
        await self.stops.wait()

    async def compact(self, request: ChannelRequest, strategy: Any) -> Sequence[Message]:
        await trio.lowlevel.checkpoint()
        self.compacted.append((request, strategy))
        return [Message.from_dict(dict(message)) for message in (*self._point(request), *request.input)]


def _messages(run: Run) -> Sequence[Mapping[str, Any]]:
    answers = run.result.messages if run.result is not None else ()
    return [*map(_identified, run.request.input), *(message.to_dict() for message in answers)]


def _identified(message: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"message_id": f"m{next(_numbers)}", **message}


def _without(message: Mapping[str, Any], message_id: str, indexes: Sequence[int]) -> Mapping[str, Any] | None:
    if message["message_id"] != message_id:
        return message
    left = [content for index, content in enumerate(message["contents"]) if indexes and index not in indexes]
    return {**message, "contents": left} if left else None


def _with(session: HostedSession, **changes: Any) -> HostedSession:
    told = {"created": session.created, "labels": session.labels, "messages": session.messages}
    return HostedSession(session.session_id, **{**told, **changes})


# --- clients


class Host:
    """What the dispatcher asks of its runtime."""

    serving = True
    broken = None

    def not_ready(self) -> list[str]:
        return []


def _scope(kind: str, target: str, headers: Mapping[str, str] | None) -> dict[str, Any]:
    path, _, query = target.partition("?")
    return {
        "type": kind,
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
    }


class Client:
    """One HTTP request and its answer."""

    def __init__(self, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.chunks = [data[:5], data[5:]]
        self.left, self.reads = trio.Event(), trio.Event()
        self.reads.set()
        self.sent: list[dict[str, Any]] = []
        self.scope = {**_scope("http", target, headers), "method": method}

    async def receive(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if self.chunks:
            chunk = self.chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self.chunks)}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        assert (message["type"] == "http.response.start") == (not self.sent)
        assert not self.sent[1:] or self.sent[-1]["more_body"], "more after the end"
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
        assert self.status >= 400
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        return error

    @property
    def refused(self) -> tuple[int, str | None, str | None]:
        """Of an error: status, what is at fault, and why."""
        return self.status, self.error["param"], self.error["code"]

    @property
    def pieces(self) -> list[list[dict[str, Any]]]:
        """For each send, its events. Each send must be of whole events; only the first and the last may have none."""
        pieces = []
        for message in self.sent[1:] if not self.sent[1:] or self.sent[1]["body"] else self.sent[2:]:
            events = []
            for block in message["body"].decode().split("\n\n")[:-1]:
                if block == "data: [DONE]":
                    events.append({"type": "[DONE]"})
                    continue
                name, data = block.split("\n")
                event = json.loads(data.removeprefix("data: "))
                assert name == f"event: {event['type']}"
                events.append(event)
            assert message["body"].endswith(b"\n\n" if events else b"")
            assert events or not message["more_body"], "nothing is sent for nothing"
            pieces.append(events)
        return pieces

    @property
    def so_far(self) -> list[dict[str, Any]]:
        """All events."""
        return [event for piece in self.pieces for event in piece]

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events but the last, which must be the end."""
        *events, last = self.so_far
        assert last == {"type": "[DONE]"}
        assert not self.sent[-1]["more_body"]
        return events

    @property
    def cut(self) -> list[dict[str, Any]]:
        """The events of a stream that ends without an end."""
        assert not self.sent[-1]["more_body"]
        assert {"type": "[DONE]"} not in self.so_far
        return self.so_far


class Socket:
    """One WebSocket, and its client's side."""

    def __init__(self, target: str, headers: Mapping[str, str] | None = None) -> None:
        self.scope = _scope("websocket", target, headers)
        self._inward, self.receive = _pipe()
        self._heard, self._hear = _pipe()
        self.accepted = False
        self.close_code: int | None = None
        self.on_frame: Callable[[dict[str, Any]], Awaitable[None]] | None = None
        self._inward.send_nowait({"type": "websocket.connect"})

    async def send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "websocket.accept":
            self.accepted = True
        elif message["type"] == "websocket.close":
            self.close_code = message.get("code", 1000)
        else:
            assert self.accepted
            assert self.close_code is None
            assert message["type"] == "websocket.send"
            frame = json.loads(message["text"])
            self._heard.send_nowait(frame)
            if self.on_frame is not None:
                await self.on_frame(frame)

    def say(self, data: Any) -> None:
        """Send text, bytes, or the fields of a `response.create`."""
        if isinstance(data, dict):
            data = json.dumps({"type": "response.create", **data})
        self._inward.send_nowait({"type": "websocket.receive", "text" if isinstance(data, str) else "bytes": data})

    def leave(self) -> None:
        self._inward.send_nowait({"type": "websocket.disconnect", "code": 1005})

    async def hear(self) -> dict[str, Any]:
        """The next message."""
        with trio.fail_after(5):
            message: dict[str, Any] = await self._hear()
        return message

    async def hear_out(self) -> list[dict[str, Any]]:
        """The messages up to the end of a response."""
        messages = [await self.hear()]
        while messages[-1]["type"] not in ("response.completed", "response.incomplete", "response.failed", "error"):
            messages.append(await self.hear())
        return messages


def _pipe() -> tuple[trio.MemorySendChannel[Any], Callable[[], Any]]:
    sender, receiver = trio.open_memory_channel[Any](1000)
    return sender, receiver.receive


class Site:
    """The channel, served."""

    def __init__(self, context: FakeContext) -> None:
        self.context = context
        self.prefix = "/v1"
        self.open()

    def open(self, **options: Any) -> None:
        """Serve a channel with these options, instead of the one before."""
        self.contribution = ResponsesChannel(**options).contribute(self.context)
        assert self.contribution.transcriber is not None
        self.context.transcriber = self.contribution.transcriber
        self.app = Dispatcher(Host(), list(self.contribution.routes), 1_000_000)

    def client(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Client:
        return Client(method, self.prefix + path, body, headers)

    async def serve(self, client: Client) -> Client:
        with trio.fail_after(5):
            await self.app(client.scope, client.receive, client.send)
        return client

    async def post(self, path: str, body: Any = None, **headers: str) -> Client:
        return await self.serve(self.client("POST", path, body, _names(headers)))

    async def get(self, path: str, **headers: str) -> Client:
        return await self.serve(self.client("GET", path, None, _names(headers)))

    async def delete(self, path: str, **headers: str) -> Client:
        return await self.serve(self.client("DELETE", path, None, _names(headers)))

    async def create(self, **fields: Any) -> str:
        """The id of a new response."""
        client = await self.post("/responses", {"input": "Hi", **fields})
        assert client.status == 200
        response_id: str = client.json["id"]
        return response_id

    @asynccontextmanager
    async def under_way(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Client]:
        """A request that is answered meanwhile."""
        client = self.client(method, path, body, headers)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.serve, client)
            await trio.testing.wait_all_tasks_blocked()
            yield client

    @asynccontextmanager
    async def socket(self, path: str = "/responses", headers: Mapping[str, str] | None = None) -> AsyncIterator[Socket]:
        """A connection, for as long as the block lasts."""
        socket = Socket(self.prefix + path, headers)
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.app, socket.scope, socket.receive, socket.send)
                await trio.testing.wait_all_tasks_blocked()
                yield socket
                socket.leave()


def _names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.fixture
async def context(nursery: trio.Nursery) -> FakeContext:
    return FakeContext(nursery)


@pytest.fixture
async def site(context: FakeContext) -> Site:
    return Site(context)
