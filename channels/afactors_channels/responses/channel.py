"""The Responses channel's thin shell: ASGI in, `ChannelRequest` over, JSON or SSE out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import trio

from ..asgi import ClientGone, Headers, disconnected, header, read_body, send_whole, until_disconnect
from ..contract import (
    ChannelContext,
    ChannelContribution,
    ChannelIdentity,
    ChannelRequest,
    ChannelSession,
    OnDisconnect,
    Receive,
    Route,
    Scope,
    Send,
    SessionMode,
)
from ..credentials import Credentials
from ..errors import BadRequest, HostError
from .errors import error_body, error_headers
from .events import EventStream
from .ids import RANDOM_BYTES, new_response_id
from .parse import CreateRequest, decode_body, parse_create
from .render import render_response, response_skeleton
from .sse import DONE, encode_events, encode_json

PREFIXES = ("/v1", "/responses/v1")

_EVENT_STREAM: Headers = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_MAX_REQUEST_ID = 512


class ResponsesChannel:
    """The OpenAI Responses API, under `/v1` and `/responses/v1`.

    Args:
        name: Unique among the runtime's channels.
        api_keys: Keys that callers must send as bearer tokens: a sequence, or a mapping from a lasting name to each
            key. A key's conversations are partitioned under its name (or, without one, under its digest), so with
            names a key can be exchanged and its conversations stay. None and empty: everybody may call.
        session_mode: What to do about sessions; see `SessionMode`.
        on_disconnect: What a client that leaves does to its turn. The protocol says ``cancel``.
    """

    def __init__(
        self,
        *,
        name: str = "responses",
        api_keys: Sequence[str] | Mapping[str, str] = (),
        session_mode: SessionMode = "auto",
        on_disconnect: OnDisconnect = "cancel",
    ) -> None:
        self._name = name
        self._credentials = Credentials(api_keys)
        self._session_mode: SessionMode = session_mode
        self._on_disconnect: OnDisconnect = on_disconnect
        self._context: ChannelContext | None = None
        self._request_prefix = b"req_" + secrets.token_hex(12).encode()
        self._request_numbers = count()

    @property
    def name(self) -> str:
        """Unique among the runtime's channels."""
        return self._name

    def contribute(self, context: ChannelContext) -> ChannelContribution:
        """The channel's routes."""
        self._context = context
        return ChannelContribution([Route("POST", f"{prefix}/responses", self._create) for prefix in PREFIXES])

    async def _create(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answer(send, self._request_id(scope))
        try:
            partition = self._credentials.check(header(scope, b"authorization"))
            call = self._call(parse_create(decode_body(await read_body(receive))), partition)
            outcome = await (self._stream if call.create.stream else self._ask)(call, answer, receive)
        except HostError as error:
            outcome = error
        except ClientGone:
            return
        if outcome is not None:
            await answer.refuse(_in_our_words(outcome))

    def _request_id(self, scope: Scope) -> bytes:
        """The client's own id for this request, to be sent back; ours if it sent none that a header can hold."""
        given = header(scope, b"x-request-id")
        if given and len(given) <= _MAX_REQUEST_ID and given.isascii() and given.isprintable():
            return given.encode()
        return b"%s%08x" % (self._request_prefix, next(self._request_numbers))

    def _call(self, create: CreateRequest, partition: str) -> _Call:
        assert self._context is not None  # noqa: S101 - routes exist only after `contribute`
        response_id = new_response_id(secrets.token_bytes(RANDOM_BYTES))
        native_id = create.safety_identifier or create.user
        request = ChannelRequest(
            channel=self._name,
            input=create.input,
            session=ChannelSession(session_id=create.conversation_id, after=create.previous_response_id),
            session_mode=self._session_mode,
            partition=partition,
            identity=ChannelIdentity(self._name, native_id) if native_id else None,
            options=create.options,
            tools=create.tools,
            metadata=create.metadata,
            attributes={**create.unknown, "include": create.include, "stream_options": create.stream_options},
            name=response_id,
            retrievable=create.store,
            stream=create.stream,
            on_disconnect=self._on_disconnect,
        )
        skeleton = response_skeleton(
            create, response_id=response_id, created_at=int(time.time()), model=self._context.target_name
        )
        return _Call(self._context, create, request, skeleton)

    async def _ask(self, call: _Call, answer: _Answer, receive: Receive) -> HostError | None:
        async with call.context.turn(call.request) as turn:
            with trio.CancelScope() as waiting:
                turn.on_end(waiting.cancel)
                await disconnected(receive)
            if not turn.ended:
                raise ClientGone
            result = turn.result
        response = render_response(
            call.skeleton,
            result.result,
            completed_at=int(time.time()),
            client_tools=call.create.client_tools,
        )
        await answer.whole(200, encode_json(response))
        return None

    async def _stream(self, call: _Call, answer: _Answer, receive: Receive) -> HostError | None:
        events = EventStream(call.skeleton, client_tools=call.create.client_tools)
        async with until_disconnect(receive):
            try:
                async with call.context.turn(call.request) as turn:
                    await answer.begin(encode_events(events.begin()))
                    async for updates in turn:
                        await answer.more(encode_events(events.feed(updates)))
                    last = events.complete(turn.result.result, completed_at=int(time.time()))
            except HostError as error:
                if not answer.begun:
                    return error
                last = events.fail(error.code, error.message)
            await answer.end(encode_events(last) + DONE)
        return None


@dataclass(frozen=True, slots=True)
class _Call:
    """One request on its way."""

    context: ChannelContext
    create: CreateRequest
    request: ChannelRequest
    skeleton: Mapping[str, object]


class _Answer:
    """One response on the wire."""

    def __init__(self, send: Send, request_id: bytes) -> None:
        self._send = send
        self._request_id = (b"x-request-id", request_id)
        self.begun = False

    async def whole(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """A response in one piece."""
        self.begun = True
        await send_whole(self._send, status, body, [(b"content-type", b"application/json"), self._request_id, *headers])

    async def refuse(self, error: HostError) -> None:
        """An error in the protocol's envelope."""
        headers = [(name.encode(), value.encode()) for name, value in error_headers(error).items()]
        await self.whole(error.status, encode_json(error_body(error)), headers)

    async def begin(self, events: bytes) -> None:
        """A stream's first events. Whole events only: a client is known that loses one split across reads."""
        self.begun = True
        headers = [*_EVENT_STREAM, self._request_id]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def more(self, events: bytes) -> None:
        """More of a stream, if there is any."""
        if events:
            await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def end(self, events: bytes) -> None:
        """A stream's last events."""
        await self._send({"type": "http.response.body", "body": events})


# The runtime speaks of sessions and points; this protocol has other names for them.
_OUR_WORDS = {
    "point_not_found": lambda: BadRequest(
        "No response with this id was found to continue from.",
        field="previous_response_id",
        code="previous_response_not_found",
    ),
    "session_required": lambda: BadRequest(
        "This server needs a conversation or a previous_response_id.", field="conversation", code="session_required"
    ),
}


def _in_our_words(error: HostError) -> HostError:
    if error.code in _OUR_WORDS:
        return _OUR_WORDS[error.code]()
    if error.field == "session":
        error.field = "conversation"
    return error
