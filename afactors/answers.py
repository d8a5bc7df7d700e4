"""One message to a Responses API, and its answer, whatever becomes of the connection and of the server.

A message is sent as a background run that streams, so that neither a connection nor a server's process has to last as
long as its answer. Where there are no background runs, it is one plain stream, which ends with its connection.
"""

import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import trio

from .endpoint import FETCHING, HURRIED, UNSAID, ChatError, Endpoint, told_error

_WAITS = [0.2, 0.4, 0.8, 1.6, *[2.0] * 29]  # seconds between attempts without progress: a minute, in all
_POLL = 2.0

_LAST = {f"response.{status}" for status in ("completed", "incomplete", "failed", "cancelled")}
_UNTOLD = {"code transcript_too_long", "code transcript_expired"}
# A server that stops, that is not up yet, or that something in between does not reach.
_PASSING = {"unreached", "broken", 502, 503, 504, "code draining", "code unavailable"}


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
_BETWEEN = "\n"  # two messages of one answer
_RESTARTED = Notice("The server was restarted; the answer begins again.", anew=True)
_WHOLE = Notice("The whole answer:", anew=True)


@dataclass
class Answer:
    """The answer to one message.

    Attributes:
        endpoint: Where the message goes.
        conversation: What it continues.
        said: The message: a text, or the items of an input.
    """

    endpoint: Endpoint
    conversation: str
    said: str | Sequence[Mapping[str, Any]]

    def __post_init__(self) -> None:
        self._key = secrets.token_hex(16)
        self._course = _Course(self.endpoint)

    @property
    def output(self) -> Sequence[Mapping[str, Any]]:
        """The items of the answer, once it has come."""
        return self._course.output

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
        if course.failure is not None:
            raise course.failure

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
            response = await self.endpoint.fetch("POST", f"/responses/{course.id}/cancel", HURRIED)
        except ChatError as error:
            raise ChatError(f"It could not be cancelled, and may still be running. {error}") from None
        if response.get("status") != "completed":
            return "Cancelled."
        course.output = _output(response)
        return "It was finished already."

    def _events(self) -> AsyncGenerator[dict[str, Any], None]:
        """The next request's."""
        course = self._course
        if course.id is None:
            return self.endpoint.events("POST", "/responses", **self._message())
        if course.untold:
            return self._fetched(course.id)
        after = {} if course.last is None else {"starting_after": course.last}
        return self.endpoint.events("GET", f"/responses/{course.id}", params={"stream": "true", **after})

    def _message(self) -> dict[str, Any]:
        body = {"input": self.said, "stream": True, "conversation": {"id": self.conversation}}
        if not self.endpoint.background:
            return {"json": body}
        headers = {"idempotency-key": self._key} if self.endpoint.keyed else {}
        return {"json": {**body, "background": True, "store": True}, "headers": headers}

    async def _fetched(self, response_id: str) -> AsyncGenerator[dict[str, Any], None]:
        """The response as it stands, again and again; each as the event of its status."""
        while True:
            response = await self.endpoint.fetch("GET", f"/responses/{response_id}", FETCHING)
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
        said: The answer's text, as far as it has come.
        between: Whether what comes next is another message than the last.
        output: The answer's items, once it has come.
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
    between: bool = False
    output: Sequence[Mapping[str, Any]] = ()
    heard: bool = False
    doubtful: bool = False
    waiting: bool = False
    untold: bool = False
    ended: bool = False
    failure: ChatError | None = None

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
                yield from self._say(delta)
            case {"type": "response.output_item.added", "item": {"type": "message"}}:
                self.between = True
            case {"type": str(kind)} if kind in _LAST:
                self.ended = True
                response = event["response"] if isinstance(event.get("response"), dict) else {}
                if self.untold:
                    yield from self._rest(_text(response))
                self.failure = _failure({"status": kind.removeprefix("response."), **response})
                self.output = _output(response)
                match response:
                    case {"incomplete_details": {"reason": str(reason)}}:
                        yield f" [cut short: {reason}]"
        match event.get("sequence_number"):
            case int(number):
                self.last = number

    def _say(self, delta: str) -> Iterator[str]:
        """More of the text; what belongs to another message begins a line."""
        if self.between and delta:
            delta = f"{_BETWEEN if self.said else ''}{delta}"
            self.between = False
        self.said += delta
        if delta:
            yield delta

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


def _failure(response: Mapping[str, Any]) -> ChatError | None:
    """Why a response that has ended is not an answer; None if it is one."""
    match response:
        case {"status": "failed" | "cancelled", "error": {"message": str()}}:
            return told_error(response, UNSAID)
        case {"status": "cancelled"}:
            return ChatError("The turn was cancelled.")
        case {"status": "failed"}:
            return ChatError(UNSAID)
    return None


def _output(response: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A response's items."""
    output = response.get("output")
    return [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []


def _text(response: Mapping[str, Any]) -> str:
    """The whole text of a response, as its events tell it."""
    texts = {"output_text": "text", "refusal": "refusal"}
    parts = [item.get("content") or () for item in _output(response) if item.get("type") == "message"]
    messages = ["".join(part[texts[part["type"]]] for part in content if part["type"] in texts) for content in parts]
    return _BETWEEN.join(filter(None, messages))
