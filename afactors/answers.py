"""One message to a Responses API, and its answer, whatever becomes of the connection and of the server.

events      a server-sent event stream, cut into events
endpoint    one request: its events, or one error made for reading
answers     one message: sent, followed over as many connections as it takes, cancelled

A message is sent as a background run that streams, so that neither a connection nor a server's process has to last as
long as its answer. Where there are no background runs, it is one plain stream, which ends with its connection.
"""

import json
import re
import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import trio

_TIMEOUT = httpx.Timeout(10, read=600)
_FETCH_TIMEOUT = httpx.Timeout(10)
_CANCEL_TIMEOUT = httpx.Timeout(10, connect=2)
_WAITS = [0.2, 0.4, 0.8, 1.6, *[2.0] * 29]  # seconds between attempts without progress: a minute, in all
_POLL = 2.0

_LAST = {f"response.{status}" for status in ("completed", "incomplete", "failed", "cancelled")}
_UNTOLD = {"code transcript_too_long", "code transcript_expired"}
# A server that stops, that is not up yet, or that something in between does not reach.
_PASSING = {"unreached", "broken", 502, 503, 504, "code draining", "code unavailable"}


class ChatError(Exception):
    """An answer that did not come; its text is one line for the person at the terminal.

    Attributes:
        reasons: What a program may know it by: a status, a code, and the like.
    """

    def __init__(self, text: str, *reasons: object) -> None:
        super().__init__(text)
        self.reasons = set(reasons)


@dataclass(frozen=True)
class Notice:
    """Something to tell the person in the middle of an answer.

    Attributes:
        text: One line.
        anew: Whether the answer begins again after it.
    """

    text: str
    anew: bool = False


_LOST = Notice("The connection was lost; waiting for the server ...")
_RESTARTED = Notice("The server was restarted; the answer begins again.", anew=True)
_WHOLE = Notice("The whole answer:", anew=True)
_UNSAID = "The turn failed; the server does not say why."


def split_events(buffer: bytes) -> tuple[list[str], bytes]:
    """Take the whole events off the front of a server-sent event stream.

    Returns:
        The data of each event that has any, and the bytes that wait for more.
    """
    *blocks, rest = re.split(rb"\r\n\r\n|\n\n|\r\r", buffer)
    events = []
    for block in blocks:
        lines = (line.partition(":") for line in re.split(r"\r\n|\n|\r", block.decode("utf-8", "replace")))
        data = [value.removeprefix(" ") for name, _, value in lines if name == "data"]
        if data:
            events.append("\n".join(data))
    return events, rest


# --- one request -------------------------------------------------------------------------------------------


@dataclass
class Endpoint:
    """Where messages are sent, and what is known of it.

    Attributes:
        client: With the key as its authorization, if there is one.
        base_url: Where `/responses` is.
        background: Whether runs go on there without a caller; nobody knows until it denies it.
    """

    client: httpx.AsyncClient
    base_url: str
    background: bool = True

    @property
    def keyed(self) -> bool:
        """Whether callers are told apart, so that a message that is sent again can be recognised."""
        return "authorization" in self.client.headers

    def url(self, path: str = "") -> str:
        """The address of the responses, or of one."""
        return f"{self.base_url.rstrip('/')}/responses{path}"

    async def events(self, method: str, path: str = "", **more: Any) -> AsyncGenerator[dict[str, Any], None]:
        """The events of one request; the connection is closed with the iterator.

        Raises:
            ChatError: There is no server, it refused, the connection failed, or the last event was an error.
        """
        refused = None
        with self._faults():
            async with self.client.stream(method, self.url(path), timeout=_TIMEOUT, **more) as response:
                await self._check(response)
                # To the end, not to the last event: httpx does not clean up after who stops reading early.
                buffer = b""
                async for chunk in response.aiter_bytes():
                    blocks, buffer = split_events(buffer + chunk)
                    for event in filter(None, map(_decoded, blocks)):
                        if event.get("type") == "error":
                            refused = _error(event, _UNSAID)
                        else:
                            yield event
        if refused is not None:
            raise refused

    async def fetch(self, method: str, path: str, timeout: httpx.Timeout) -> dict[str, Any]:
        """The answer to one request, in one piece.

        Raises:
            ChatError: There is no server, it refused, or the connection failed.
        """
        with self._faults():
            response = await self.client.request(method, self.url(path), timeout=timeout)
            await self._check(response)
        return _decoded(response.text)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout):
            text = f"No server answers at {self.base_url}. Start one with: python -m afactors"
            raise ChatError(text, "unreached") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise ChatError(f"{self.base_url!r} is not an address such as http://127.0.0.1:8000/v1") from None
        except httpx.HTTPError as error:
            raise ChatError(f"The connection failed ({type(error).__name__}).", "broken") from None

    async def _check(self, response: httpx.Response) -> None:
        if response.status_code == httpx.codes.OK:
            return
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise ChatError(f"The server wants {'another' if self.keyed else 'an'} API key.")
        body = _decoded((await response.aread()).decode("utf-8", "replace"))
        status = response.status_code
        if status == httpx.codes.NOT_FOUND and "error" not in body:
            raise ChatError(f"{response.request.url} is not there: does the address end in the right path?")
        raise _error(body, f"The server answered with status {status}.", status)


def _decoded(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:  # the closing [DONE], or nothing that we know
        return {}
    return event if isinstance(event, dict) else {}


def _error(told: Mapping[str, Any], unsaid: str, *reasons: object) -> ChatError:
    """An error, as an event or a body has it."""
    inner = told.get("error")
    error = inner if isinstance(inner, dict) else told
    message = error.get("message")
    named = (f"{name} {error[name]}" for name in ("code", "param") if error.get(name))
    return ChatError(message if isinstance(message, str) else unsaid, *reasons, *named)


# --- one message -------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """The answer to one message.

    Attributes:
        endpoint: Where the message goes.
        conversation: What it continues.
        text: The message.
    """

    endpoint: Endpoint
    conversation: str
    text: str

    def __post_init__(self) -> None:
        self._key = secrets.token_hex(16)
        self._course = _Course(self.endpoint)

    async def pieces(self) -> AsyncGenerator[str | Notice, None]:
        """Send the message; give the pieces of its answer as they come, and what there is to say meanwhile.

        Closing the iterator closes the connection, which ends the run only where there are no background runs.

        Raises:
            ChatError: No answer came, or not all of it.
        """
        course, waits = self._course, iter(_WAITS)
        while not course.ended:
            try:
                async with aclosing(self._events()) as events:
                    async for event in events:
                        waits = iter(_WAITS)
                        for piece in course.take(event):
                            yield piece
                course.check()
            except ChatError as trouble:
                if course.ended:
                    break
                for notice in course.go_on(trouble):
                    yield notice
                if (seconds := next(waits, None)) is None:
                    raise ChatError(f"The server did not come back. {course.fate}") from None
                await trio.sleep(seconds)
        if course.failure:
            raise ChatError(course.failure)

    async def cancel(self) -> str:
        """Cancel the run, after `pieces` was cancelled; returns what became of it, in one line.

        Raises:
            ChatError: Nobody knows what became of it.
        """
        course = self._course
        if course.id is None:
            if course.heard or not self.endpoint.background:
                return "Cancelled."  # with its connection
            raise ChatError("Cancelled, but the message may have been taken, and may still be answered.")
        try:
            response = await self.endpoint.fetch("POST", f"/{course.id}/cancel", _CANCEL_TIMEOUT)
        except ChatError as error:
            raise ChatError(f"It could not be cancelled, and may still be running. {error}") from None
        return "It was finished already." if response.get("status") == "completed" else "Cancelled."

    def _events(self) -> AsyncGenerator[dict[str, Any], None]:
        """The next request's."""
        course = self._course
        if course.id is None:
            return self.endpoint.events("POST", **self._message())
        if course.untold:
            return self._fetched(course.id)
        after = {} if course.last is None else {"starting_after": course.last}
        return self.endpoint.events("GET", f"/{course.id}", params={"stream": "true", **after})

    def _message(self) -> dict[str, Any]:
        body = {"input": self.text, "stream": True, "conversation": {"id": self.conversation}}
        if not self.endpoint.background:
            return {"json": body}
        headers = {"idempotency-key": self._key} if self.endpoint.keyed else {}
        return {"json": {**body, "background": True, "store": True}, "headers": headers}

    async def _fetched(self, response_id: str) -> AsyncGenerator[dict[str, Any], None]:
        """The response as it stands, again and again; each as the event of its status."""
        while True:
            response = await self.endpoint.fetch("GET", f"/{response_id}", _FETCH_TIMEOUT)
            yield {"type": f"response.{response.get('status')}", "response": response}
            if self._course.ended:
                return
            await trio.sleep(_POLL)


@dataclass
class _Course:
    """What has come of a message so far, and whether it goes on. Pure.

    Attributes:
        endpoint: Where it was sent.
        id: The response's, if it can be followed.
        last: The number of the last event.
        said: The answer, as far as it has come.
        heard: Whether there was any event at all.
        doubtful: Whether a connection broke before there was any.
        waiting: Whether there is no connection, and the person knows.
        untold: Whether events do not tell the rest.
        ended: Whether nothing more will come.
        failure: Why it ended without an answer, if it did.
    """

    endpoint: Endpoint
    id: str | None = None
    last: int | None = None
    said: str = ""
    heard: bool = False
    doubtful: bool = False
    waiting: bool = False
    untold: bool = False
    ended: bool = False
    failure: str = ""

    def take(self, event: Mapping[str, Any]) -> Iterator[str | Notice]:
        """What an event adds to the answer."""
        self.heard, self.waiting = True, False
        match event:
            case {"type": "response.created", "response": {"id": str(name), "background": True}}:
                yield from self._begin_again(_RESTARTED)
                self.id = name
            case {"type": "response.created"}:
                self.endpoint.background = False
            case {"type": "response.output_text.delta" | "response.refusal.delta", "delta": str(delta)}:
                self.said += delta
                if delta:
                    yield delta
            case {"type": str(kind)} if kind in _LAST:
                self.ended = True
                response = event["response"] if isinstance(event.get("response"), dict) else {}
                if self.untold:
                    yield from self._rest(_text(response))
                self.failure = _failure({"status": kind.removeprefix("response."), **response})
                match response:
                    case {"incomplete_details": {"reason": str(reason)}}:
                        yield f" [cut short: {reason}]"
        match event.get("sequence_number"):
            case int(number):
                self.last = number

    def _begin_again(self, notice: Notice) -> Iterator[Notice]:
        """Another attempt: nothing that follows belongs to what came before."""
        self.last = None
        if self.said:
            self.said = ""
            yield notice

    def _rest(self, text: str) -> Iterator[str | Notice]:
        if not text.startswith(self.said):
            yield from self._begin_again(_WHOLE)
        if rest := text[len(self.said) :]:
            yield rest

    def check(self) -> None:
        """After a connection: raises if it should have brought more."""
        if not self.ended:
            raise ChatError("The connection ended before the answer did.", "broken")

    def go_on(self, trouble: ChatError) -> Iterator[Notice]:
        """Settle what to ask for next, after a request without an end; raises if there is nothing."""
        reasons = trouble.reasons
        unheard = "broken" in reasons and not self.heard
        self.doubtful = self.doubtful or unheard
        sent_again = self.doubtful and self.endpoint.background and self.endpoint.keyed
        if "code run_restarted" in reasons:
            yield from self._begin_again(_RESTARTED)
        elif self.id is not None and reasons & _UNTOLD:
            self.untold = True
        elif self.endpoint.background and reasons & {400, 422} and "background" in f"{reasons} {trouble}":
            self.endpoint.background = False
        elif (self.id is not None or sent_again) and reasons & _PASSING:
            if not self.waiting:
                yield _LOST
            self.waiting = True
        elif unheard:
            raise ChatError(f"{trouble} {self.fate}")
        else:
            raise trouble

    @property
    def fate(self) -> str:
        """What becomes of the message if its answer is waited for no longer."""
        if self.id is None:
            return "The message may or may not have been taken."
        return "It goes on with the message when it is back."


def _failure(response: Mapping[str, Any]) -> str:
    """Why a response that has ended is not an answer; empty if it is one."""
    match response:
        case {"status": "failed" | "cancelled", "error": {"message": str(message)}}:
            return message
        case {"status": "cancelled"}:
            return "The turn was cancelled."
        case {"status": "failed"}:
            return _UNSAID
    return ""


def _text(response: Mapping[str, Any]) -> str:
    """The whole text of a response."""
    texts = {"output_text": "text", "refusal": "refusal"}
    parts = [part for item in response.get("output") or () for part in item.get("content") or ()]
    return "".join(part[texts[part["type"]]] for part in parts if part["type"] in texts)
