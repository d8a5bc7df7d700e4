"""A chat in the terminal: reads lines, sends each as one turn, prints the answer as it comes.

lines       stdin, line by line, without holding up trio
answers     one streamed `POST /responses`: pieces of text, or one error made for reading
chat        the loop between the two, and what Ctrl-C means
"""

import codecs
import io
import json
import os
import re
import secrets
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import httpx
import trio

HELP = """\
/new    start a new conversation; the old one is kept on the server
/quit   leave (so does Ctrl-D); the conversation goes on next time
/help   show this
Ctrl-C  cancel the answer that is being given; at the prompt, leave"""

_TIMEOUT = httpx.Timeout(10, read=600)
_LAST = {"response.completed", "response.incomplete", "response.failed", "response.cancelled", "error"}
_BOLD, _DIM, _RED, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[0m"
# An answer may hold anything, and a terminal obeys control characters. A tab and a line's end stay.
_CONTROLS = dict.fromkeys(n for n in [*range(32), *range(127, 160)] if chr(n) not in "\t\n")


class ChatError(Exception):
    """An answer that did not come; its text is one line for the person at the terminal."""


# --- the server's side -------------------------------------------------------------------------------------


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


async def answers(client: httpx.AsyncClient, base_url: str, conversation: str, text: str) -> AsyncGenerator[str, None]:
    """Send one message and give the pieces of its answer. Closing the iterator closes the connection.

    Raises:
        ChatError: There is no server, it refused, or the answer broke off.
    """
    body = {"input": text, "stream": True, "conversation": {"id": conversation}}
    url = f"{base_url.rstrip('/')}/responses"
    ended, failure = False, ""
    try:
        async with client.stream("POST", url, json=body, timeout=_TIMEOUT) as response:
            if response.status_code != httpx.codes.OK:
                raise await _refusal(response)
            # To the end, not to the last event: httpx does not clean up after who stops reading early.
            buffer = b""
            async for chunk in response.aiter_bytes():
                events, buffer = split_events(buffer + chunk)
                for event in map(_decoded, events):
                    ended = ended or event.get("type") in _LAST
                    failure = failure or _failure(event)
                    if piece := _piece(event):
                        yield piece
    except (httpx.ConnectError, httpx.ConnectTimeout):
        raise ChatError(f"No server answers at {base_url}. Start one with: python -m afactors") from None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise ChatError(f"{base_url!r} is not an address such as http://127.0.0.1:8000/v1") from None
    except httpx.HTTPError as error:
        raise ChatError(f"The connection failed ({type(error).__name__}).") from None
    if failure or not ended:
        raise ChatError(failure or "The connection ended before the answer did.")


def _decoded(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:  # the closing [DONE], or nothing that we know
        return {}
    return event if isinstance(event, dict) else {}


def _piece(event: Mapping[str, Any]) -> str:
    """The text that an event adds to the answer."""
    match event:
        case {"type": "response.output_text.delta" | "response.refusal.delta", "delta": str(delta)}:
            return delta
        case {"type": "response.incomplete", "response": {"incomplete_details": {"reason": str(reason)}}}:
            return f" [cut short: {reason}]"
    return ""


def _failure(event: Mapping[str, Any]) -> str:
    """Why the turn failed, if the event says that it did."""
    match event:
        case {"type": "response.failed", "response": {"error": {"message": str(message)}}}:
            return message
        case {"type": "error", "message": str(message)} | {
            "type": "error",
            "error": {"message": str(message)},
        }:
            return message
        case {"type": "response.failed" | "error" | "response.cancelled"}:
            return "The turn failed; the server does not say why."
    return ""


async def _refusal(response: httpx.Response) -> ChatError:
    """Put an error response into one line."""
    if response.status_code == httpx.codes.UNAUTHORIZED:
        given = "authorization" in response.request.headers
        return ChatError(f"The server wants {'another' if given else 'an'} API key.")
    match _decoded((await response.aread()).decode("utf-8", "replace")):
        case {"error": {"message": str(message)}}:
            return ChatError(message)
    if response.status_code == httpx.codes.NOT_FOUND:
        return ChatError(f"{response.request.url} is not there: does the address end in the right path?")
    return ChatError(f"The server answered with status {response.status_code}.")


# --- the person's side --------------------------------------------------------------------------------


@dataclass
class _Lines:
    """Lines from a file descriptor, read in a worker thread that may be abandoned.

    The descriptor, not `sys.stdin`: an abandoned read would hold that one's lock when the process ends.
    """

    descriptor: int
    _decode: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))
    _buffer: str = ""
    _ended: bool = False

    async def read(self) -> str | None:
        """The next line without its end, or None at the end of the file."""
        while "\n" not in self._buffer and not self._ended:
            try:
                data = await trio.to_thread.run_sync(os.read, self.descriptor, 65_536, abandon_on_cancel=True)
            except OSError:  # the terminal hung up
                data = b""
            self._ended = not data
            self._buffer += self._decode.decode(data, final=self._ended)
        line, end, self._buffer = self._buffer.partition("\n")
        return line.rstrip("\r") if line or end else None


def _remembered(path: Path) -> dict[str, str]:
    """The conversations' names by their servers' addresses."""
    try:
        names = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return names if isinstance(names, dict) else {}


def _new_conversation(path: Path, base_url: str) -> str:
    """Name a new conversation and remember it where only we can read: to know the name is to have it."""
    conversation = f"conv_{secrets.token_hex(24)}"
    names = _remembered(path) | {base_url: conversation}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")
    return conversation


def _unkept(path: Path, error: OSError) -> str:
    return f"The conversation's name cannot be kept in {path}: {error.strerror}"


@dataclass
class _Chat:
    """One sitting at the terminal."""

    client: httpx.AsyncClient
    base_url: str
    conversation: str
    path: Path
    lines: _Lines
    out: TextIO
    interactive: bool
    answering: trio.CancelScope | None = None

    async def sit(self) -> int:
        """Take lines until the end; a failure is shown, and ends a sitting that nobody watches."""
        self.show(f"Talking to {self.base_url}. /help says what you can type.\n", _DIM, watched=True)
        while True:
            self.show("> ", _BOLD, watched=True)
            line = await self.lines.read()
            if line is None:
                self.show("\n", watched=True)
                return 0
            if not line.strip():
                continue
            if line.startswith("/"):
                if not self.obey(line.strip()):
                    return 0
            elif not await self.ask(line) and not self.interactive:
                return 1

    def obey(self, command: str) -> bool:
        """Carry out a command; False when it is to leave."""
        match command:
            case "/quit" | "/exit":
                return False
            case "/new":
                self.begin_anew()
            case "/help":
                self.show(f"{HELP}\n")
            case _:
                self.show(f"There is no {command.split()[0]}; /help says what there is.\n", _RED)
        return True

    def begin_anew(self) -> None:
        """Go on in a new conversation."""
        try:
            self.conversation = _new_conversation(self.path, self.base_url)
        except OSError as error:
            self.show(f"{_unkept(self.path, error)}\n", _RED)
        else:
            self.show("A new conversation.\n", _DIM)

    async def ask(self, text: str) -> bool:
        """Send a message and show its answer; False when none came."""
        failure, begun = "", False
        with trio.CancelScope() as self.answering:
            try:
                coming = answers(self.client, self.base_url, self.conversation, text)
                async with aclosing(coming) as pieces:
                    async for piece in pieces:
                        self.show(piece)
                        begun = True
            except ChatError as error:
                failure = str(error)
        cancelled, self.answering = self.answering.cancelled_caught, None
        if begun or not failure:
            self.show("\n")
        if cancelled:
            self.show("Cancelled.\n", _DIM)
        if failure:
            self.show(f"{failure}\n", _RED)
        return not failure

    def show(self, text: str, style: str = "", *, watched: bool = False) -> None:
        """Print; what is marked as `watched` is only for a person at a terminal."""
        if watched and not self.interactive:
            return
        text = text.translate(_CONTROLS)
        colour = style and self.out.isatty() and "NO_COLOR" not in os.environ
        self.out.write(f"{style}{text}{_PLAIN}" if colour else text)
        self.out.flush()

    async def heed_interrupts(
        self, sitting: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Let Ctrl-C cancel the answer that is being given, or else end the sitting."""
        with trio.open_signal_receiver(signal.SIGINT) as interrupts:
            task_status.started()
            async for _ in interrupts:
                target = self.answering if self.answering and self.interactive else sitting
                target.cancel(reason="interrupted")


async def chat(
    base_url: str,
    *,
    api_key: str | None = None,
    conversation: str | None = None,
    path: Path = Path(".afactors/chat.json"),
    descriptor: int = 0,
    out: TextIO | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> int:
    """Chat until `/quit`, the end of the input, or Ctrl-C at the prompt.

    Ctrl-C during an answer closes its stream, which cancels the turn. Without a terminal, there is no prompt,
    and the first failure or Ctrl-C ends it all.

    Args:
        base_url: Where `/responses` is, such as ``http://127.0.0.1:8000/v1``.
        api_key: Sent as a bearer token.
        conversation: Continue this one, and leave the remembered one alone.
        path: The file in which conversations' names are remembered between sittings, by server.
        descriptor: Where lines are read from.
        out: Where everything is written; `sys.stdout` if not given.
        transport: In the network's place, for tests.

    Returns:
        The exit status: 0, 1 after a failure, or 130 when interrupted without a terminal.
    """
    screen = sys.stdout if out is None else out
    if isinstance(screen, io.TextIOWrapper):
        screen.reconfigure(errors="replace")
    try:
        conversation = conversation or _remembered(path).get(base_url) or _new_conversation(path, base_url)
    except OSError as error:
        screen.write(f"{_unkept(path, error)}\n")
        return 1
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    interactive = os.isatty(descriptor)
    status = 0 if interactive else 128 + signal.SIGINT
    async with httpx.AsyncClient(headers=headers, transport=transport) as client:
        talk = _Chat(client, base_url, conversation, path, _Lines(descriptor), screen, interactive)
        async with trio.open_nursery() as nursery:
            await nursery.start(talk.heed_interrupts, nursery.cancel_scope)
            status = await talk.sit()
            nursery.cancel_scope.cancel()
    return status
