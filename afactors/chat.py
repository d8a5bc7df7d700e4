"""A chat in the terminal: reads lines, sends each as one turn, prints the answer as it comes.

lines       stdin, line by line, without holding up trio
chat        the loop between them, the answers (`answers`) and what is asked (`prompts`), and what Ctrl-C means
"""

import codecs
import io
import json
import os
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence, Set
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import httpx
import trio

from .answers import Answer, Notice
from .endpoint import ChatError, Endpoint
from .prompts import Inquiry, Prompt, Unfit, read_items

HELP = """\
/new    start a new conversation; the old one is kept on the server
/quit   leave (so does Ctrl-D); the conversation goes on next time
/later  leave open what is asked, and say something else
/help   show this
Ctrl-C  cancel the answer that is being given; at the prompt, leave"""

# The only commands while something is asked: an answer may begin with a slash.
_ALWAYS = {"/new", "/quit", "/exit", "/later", "/help"}
_NOT_TAKEN = "The conversation waits for an answer first; the message was not taken."
# Somebody else answered, or it is too late.
_SETTLED = {"code question_answered", "code question_expired", "code question_not_found"}

_INTERRUPTED = 128 + signal.SIGINT
_BOLD, _DIM, _RED, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[0m"
# An answer may hold anything, and a terminal obeys control characters. A tab and a line's end stay.
_CONTROLS = dict.fromkeys(n for n in [*range(32), *range(127, 160)] if chr(n) not in "\t\n")


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
    """One sitting at the terminal.

    Attributes:
        inquiry: What is asked, and waits for an answer.
        posed: What was shown of it last.
        status: The exit status for whoever has no more to say.
    """

    endpoint: Endpoint
    conversation: str
    path: Path
    lines: _Lines
    out: TextIO
    interactive: bool
    answering: trio.CancelScope | None = None
    midline: bool = False
    inquiry: Inquiry = field(default_factory=Inquiry)
    posed: Prompt | None = None
    status: int = 0

    async def sit(self, *, anew: bool) -> int:
        """Take lines until the end; a failure is shown, and ends a sitting that nobody watches."""
        self.show(f"Talking to {self.endpoint.base_url}. /help says what you can type.\n", _DIM, watched=True)
        if not anew:
            await self.look()
        while True:
            self.pose()
            line = await self.lines.read()
            if line is None:
                self.show("\n", watched=True)
                self.drop()
                return 0 if self.interactive else self.status
            if not line.strip():
                continue
            if line.startswith("/") and (self.inquiry.current is None or line.strip() in _ALWAYS):
                if not self.obey(line.strip()):
                    return 0
            elif not (await self.take(line) or self.interactive):
                return self.status

    def obey(self, command: str) -> bool:
        """Carry out a command; False when it is to leave."""
        match command:
            case "/quit" | "/exit":
                return False
            case "/new":
                self.begin_anew()
            case "/later":
                self.drop()
            case "/help":
                self.show(f"{HELP}\n")
            case _:
                self.show(f"There is no {command.split()[0]}; /help says what there is.\n", _RED)
        return True

    def begin_anew(self) -> None:
        """Go on in a new conversation."""
        try:
            self.conversation = _new_conversation(self.path, self.endpoint.base_url)
        except OSError as error:
            self.show(f"{_unkept(self.path, error)}\n", _RED)
        else:
            self.drop()
            self.show("A new conversation.\n", _DIM)

    # -- what is asked

    def pose(self) -> None:
        """Show what is asked, once, and that it is the person's turn."""
        prompt = self.inquiry.current
        if prompt is not None and prompt is not self.posed:
            self.show(f"? {prompt.text} ({prompt.wanted})\n", _BOLD)
        self.posed = prompt
        self.show("> ", _BOLD, watched=True)

    def inquire(self, items: Sequence[Any], calling: str) -> None:
        """Ask from now on what these items ask."""
        prompts, calls = read_items(items)
        self.inquiry, self.posed = Inquiry(prompts), None
        for call in calls:
            self.show(f"{calling} a tool that this chat does not have: {call}\n")

    def drop(self) -> None:
        """Ask no longer what is asked; on the server it goes on waiting."""
        if self.inquiry.answers:
            self.status = 1
            self.show("Not all of it was answered, so nothing was sent.\n", _RED)
        self.inquiry = Inquiry()

    async def look(self) -> None:
        """Ask what the conversation waits for, if its server says so."""
        with suppress(ChatError):
            self.inquire(await self.endpoint.waiting(self.conversation), "The conversation waits for")

    # -- what is said

    async def take(self, line: str) -> bool:
        """Send a message, or answer what is asked; whether it went well, or can be put right by the next line."""
        if self.inquiry.current is None:
            return await self.send(line)
        try:
            answers = self.inquiry.take(line)
        except Unfit as unfit:
            self.status = 1
            self.show(f"{unfit}\n", _RED)
            return True
        return not answers or await self.send(answers)

    async def send(self, said: str | Sequence[Mapping[str, Any]]) -> bool:
        """Send a message, or answers, and show what comes of it; returns as `take`."""
        answer = Answer(self.endpoint, self.conversation, said)
        cancelled, failure = await self.follow(answer)
        self.status = _INTERRUPTED if cancelled else int(failure is not None)
        if failure is not None:
            text = _NOT_TAKEN if "code question_open" in failure.reasons else f"{failure}"
            self.show(f"{text}\n", _RED)
            return await self.reconsider(said, failure.reasons)
        if cancelled and not isinstance(said, str) and not answer.output:
            await self.reconsider(said, set())  # they were not given
        else:
            self.inquire(answer.output, "It calls")
        return not cancelled

    async def reconsider(self, said: str | Sequence[Mapping[str, Any]], reasons: Set[object]) -> bool:
        """After a failure: what is asked now; whether the next line can put it right."""
        if isinstance(said, str):
            if "code question_open" in reasons:
                await self.look()
            return self.inquiry.current is not None
        self.posed = None
        if "code invalid_answer" in reasons:
            self.inquiry.again()
            return True
        before = self.inquiry
        before.again()
        await self.look()
        if settled := bool(reasons & _SETTLED):
            before.settle(self.inquiry.prompts if self.inquiry is not before else ())
            self.inquiry = before
        return settled

    async def follow(self, answer: Answer) -> tuple[bool, ChatError | None]:
        """Show an answer as it comes; whether it was cancelled, and what went wrong."""
        failure, self.midline = None, False
        with trio.CancelScope() as answering:
            self.answering = answering
            try:
                async with aclosing(answer.pieces()) as pieces:
                    async for piece in pieces:
                        self.tell(piece)
            except ChatError as error:
                failure = error
        cancelled, self.answering = answering.cancelled_caught, None
        if self.midline or not (failure or any(read_items(answer.output))):
            self.show("\n", watched=cancelled and not self.midline)
        if cancelled:
            try:
                self.show(f"{await answer.cancel()}\n", _DIM, watched=True)
            except ChatError as error:
                failure = error
        return cancelled, failure

    # -- the screen

    def tell(self, piece: str | Notice) -> None:
        """Show a piece of an answer, or a notice on a line of its own."""
        if isinstance(piece, str):
            self.show(piece)
            self.midline = True
            return
        if self.midline and (piece.anew or self.interactive):
            self.show("\n")
            self.midline = False
        self.show(f"{piece.text}\n", _DIM, watched=True)

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
                (self.answering or sitting).cancel(reason="interrupted")


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

    What the answer asks is shown, and the next lines are the answers to that. An answer is waited for through a restart
    of the server. Ctrl-C during an answer cancels its run on the server.
    Without a terminal, there is no prompt, and the first failure or Ctrl-C ends it all.

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
        known = conversation or _remembered(path).get(base_url)
        conversation = known or _new_conversation(path, base_url)
    except OSError as error:
        screen.write(f"{_unkept(path, error)}\n")
        return 1
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    interactive = os.isatty(descriptor)
    status = 0 if interactive else _INTERRUPTED
    async with httpx.AsyncClient(headers=headers, transport=transport) as client:
        talk = _Chat(Endpoint(client, base_url), conversation, path, _Lines(descriptor), screen, interactive)
        async with trio.open_nursery() as nursery:
            await nursery.start(talk.heed_interrupts, nursery.cancel_scope)
            status = await talk.sit(anew=known is None)
            nursery.cancel_scope.cancel()
    return status
