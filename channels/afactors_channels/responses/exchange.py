"""What all endpoints of the channel share: who calls, and how they are answered."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..asgi import ClientGone, Headers, header, read_body, request_id, send_whole
from ..contract import ChannelContext, Receive, Scope, Send
from ..credentials import Credentials
from ..errors import BadRequest, Conflicting, HostError, NotFound, TargetFailed, Unprocessable
from ..requests import ChannelRequest, ChannelSession, IsolationKeys
from ..wire import decode_body, encode_json
from .errors import error_body, error_headers
from .fields import identifier
from .sse import DONE, encode_event, sequence_number

_EVENT_STREAM: Headers = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_LAST = tuple(f"event: response.{name}\n".encode() for name in ("completed", "incomplete", "failed"))


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Attributes:
        partition: Whose runs and sessions they can reach.
        known: Whether they showed a key of their own.
        isolation: Whom a trusted platform calls for.
    """

    partition: str
    known: bool
    isolation: IsolationKeys | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """One HTTP request, and the way to answer it."""

    scope: Scope
    receive: Receive
    answer: Answer
    caller: Caller
    channel: str
    context: ChannelContext

    def parameter(self, name: str) -> str:
        """A segment of the path.

        Raises:
            BadRequest: No name of ours looks like that.
        """
        return str(identifier(self.scope["path_params"][name], name))

    @property
    def query(self) -> bytes:
        """The query string."""
        return bytes(self.scope.get("query_string", b""))

    async def body(self) -> dict[str, Any]:
        """The request's body.

        Raises:
            BadRequest: It is no JSON object.
        """
        return decode_body(await read_body(self.receive))

    async def body_if_any(self) -> dict[str, Any]:
        """The request's body; none is an empty object."""
        body = await read_body(self.receive)
        return decode_body(body) if body else {}

    def about(self, session: ChannelSession, **more: Any) -> ChannelRequest:
        """A request that is about a session, and has nothing to say."""
        caller = self.caller
        return ChannelRequest(self.channel, (), session, partition=caller.partition, isolation=caller.isolation, **more)


Work = Callable[[Exchange], Awaitable[None]]


class Door:
    """Tells callers apart, and answers in the protocol's envelope whatever goes wrong behind it.

    Args:
        channel: The channel's name.
        credentials: The keys that callers must show.
        trust_isolation_headers: Whether a trusted platform sets the isolation headers.
    """

    def __init__(self, channel: str, credentials: Credentials, *, trust_isolation_headers: bool) -> None:
        self._channel = channel
        self._credentials = credentials
        self._trusting = trust_isolation_headers

    def caller(self, scope: Scope) -> Caller:
        """Who sent this.

        Raises:
            NotAllowed: They have no key, or none that is known.
        """
        partition = self._credentials.check(header(scope, b"authorization"))
        isolation = self._isolation(scope) if self._trusting else None
        if isolation is not None:
            partition = f"{partition}~{_digest(isolation)}"
        return Caller(partition, self._credentials.required, isolation)

    @staticmethod
    def _isolation(scope: Scope) -> IsolationKeys | None:
        keys = IsolationKeys(
            user_key=header(scope, b"x-agent-user-isolation-key") or None,
            chat_key=header(scope, b"x-agent-chat-isolation-key") or None,
        )
        return keys if keys != IsolationKeys() else None

    def endpoint(self, context: ChannelContext, work: Work) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        """An ASGI callable that has `work` done for callers that may come in."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            answer = Answer(send, request_id(scope))
            refused: HostError
            try:
                await work(Exchange(scope, receive, answer, self.caller(scope), self._channel, context))
            except HostError as error:
                refused = in_our_words(error)
            except ClientGone:
                return
            else:
                return
            await answer.refuse(refused)

        return serve


def _digest(isolation: IsolationKeys) -> str:
    return hashlib.sha256(encode_json([isolation.user_key, isolation.chat_key])).hexdigest()[:32]


class Answer:
    """One response on the wire."""

    def __init__(self, send: Send, request_id: bytes) -> None:
        self._send = send
        self._request_id = (b"x-request-id", request_id)
        self.begun = False

    async def json(self, value: Mapping[str, Any]) -> None:
        """A response in one piece."""
        await self._whole(200, encode_json(value))

    async def refuse(self, error: HostError) -> None:
        """An error in the protocol's envelope; in a stream, as its last event."""
        if self.begun:
            await self.events([_error_event(error, 0)], last=True)
            return
        retry = [(name.encode(), value.encode()) for name, value in error_headers(error).items()]
        await self._whole(error.status, encode_json(error_body(error)), retry)

    async def _whole(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.begun = True
        await send_whole(self._send, status, body, [(b"content-type", b"application/json"), self._request_id, *headers])

    async def tell(self, batches: AsyncIterator[Sequence[bytes]], after: int | None = None) -> bool | None:
        """Send a run's events, batch by batch, as the protocol has it.

        What keeps the rest from coming is an event of its own, with the number of the last one that came: whoever
        resumes from there hears the same again.

        Returns:
            Whether the last one came, without which the run goes on without us (the server stops); None if none came.

        Raises:
            HostError: Nothing was sent yet, and can be refused altogether.
        """
        row = b""
        try:
            async for rows in batches:
                if rows:
                    row = rows[-1]
                    await self.events(rows, last=is_last(row))
        except HostError as error:
            if not self.begun and not isinstance(error, Conflicting):
                raise
            number = sequence_number(row) if row else after or 0
            await self.events([_error_event(in_our_words(error), number)], last=True)
            return True
        return is_last(row) if row else None

    async def begin(self) -> None:
        """A stream whose first event may be long in coming."""
        await self._stream(b"", more=True)

    async def events(self, rows: Sequence[bytes], *, last: bool) -> None:
        """Some of a stream's events. Whole events only: a client is known that loses one split across reads."""
        await self._stream(b"".join([*rows, DONE] if last else rows), more=not last)

    async def cut(self) -> None:
        """A stream's end before its run's."""
        await self._stream(b"", more=False)

    async def _stream(self, body: bytes, *, more: bool) -> None:
        if not self.begun:
            self.begun = True
            headers = [*_EVENT_STREAM, self._request_id]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


def is_last(row: bytes) -> bool:
    """Whether a run's events end with this one."""
    return row.startswith(_LAST)


def _error_event(error: HostError, number: int) -> bytes:
    event = {
        "type": "error",
        "sequence_number": number,
        "code": error.code,
        "message": error.message,
        "param": error.field,
    }
    return encode_event(event)


def _about(kind: type[HostError], field: str | None, message: str = "") -> Callable[[HostError], HostError]:
    """The same error, about another field; in the runtime's words if we have no other."""
    return lambda error: kind(message or error.message, field=field, code=error.code)


# The runtime speaks of runs, sessions and points; this protocol has other names for them.
_OUR_WORDS: Mapping[str, Callable[[HostError], HostError]] = {
    "point_not_found": lambda _: BadRequest(
        "No response with this id was found to continue from.",
        field="previous_response_id",
        code="previous_response_not_found",
    ),
    "session_required": lambda _: BadRequest(
        "This server needs a conversation or a previous_response_id.", field="conversation", code="session_required"
    ),
    "session_busy": lambda _: Conflicting(
        "This conversation is busy with another message.", field="conversation", code="conversation_busy"
    ),
    "session_not_found": lambda _: NotFound(
        "There is no conversation with this id.", field="conversation_id", code="conversation_not_found"
    ),
    "message_not_found": lambda _: NotFound(
        "There is no item with this id in the conversation.", field="item_id", code="item_not_found"
    ),
    "run_not_found": lambda _: response_not_found(),
    "result_expired": lambda _: NotFound(
        "The response was completed, and its output is no longer kept.", field="response_id", code="result_expired"
    ),
    "question_not_found": _about(BadRequest, "input", "Nothing with this id waits for an answer here."),
    "question_answered": _about(Conflicting, "input", "This was answered before."),
    "question_expired": _about(Conflicting, "input", "It is too late to answer this."),
    "question_open": _about(Conflicting, "input"),
    "invalid_answer": _about(Unprocessable, "input"),
    "mixed_input": _about(Unprocessable, "input"),
    "invalid_payload": _about(Unprocessable, "input"),
    "not_the_head": _about(
        Conflicting, "previous_response_id", "This conversation has moved on: continue from its last response."
    ),
    "checkpoint_refused": _about(TargetFailed, None),
}


def response_not_found() -> NotFound:
    """For an id that is unknown, or another one's."""
    return NotFound("There is no response with this id.", field="response_id", code="response_not_found")


def in_our_words(error: HostError) -> HostError:
    """An error of the runtime's, by the protocol's names."""
    if error.code in _OUR_WORDS:
        return _OUR_WORDS[error.code](error)
    if error.field == "session":
        error.field = "conversation"
    return error
