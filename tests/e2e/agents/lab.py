"""The agent that the end-to-end tests talk to: a real `Agent` whose model does what the last message says.

    slowly SECONDS …    wait first
    gate FILE …         wait until there is such a file
    forever …           never answer
    block SECONDS …     hold the whole thread
    spin                hold the whole thread, for ever
    flood               say more and more
    swallow             never answer, and take no notice of being cancelled
    fail SECRET         raise, with SECRET in the exception's text
    exit, interrupt, give-up    raise SystemExit, KeyboardInterrupt or asyncio.CancelledError
    halfway SECRET      say two words, then raise
    history             the conversation before this message, as JSON
    options             the options that arrived, as JSON
    contents            the contents of this message, as JSON
    call NAME ARGUMENTS call a function, the client's or one of the agent's own
    surrogate           half a character, which no JSON in UTF-8 can hold
    silence             no contents at all
    steps FILE          a word for each dot that the file has, as it gets them, until there is a newline
    pour COUNT          so many pieces of 4 kB
    shape NAME          an answer of another shape: see `shapes.py`
    anything else       "N: …", where N counts the user's messages in the conversation so far

What a function returned is repeated as "results: …". Everything that happens is written to the file that `LAB_JOURNAL`
names, a JSON object to a line, so that a test sees what the agent saw.
"""

import asyncio
import contextlib
import copy
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent_framework import (
    Agent,
    BaseChatClient,
    ChatMiddlewareLayer,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    FunctionInvocationContext,
    FunctionInvocationLayer,
    Message,
    ResponseStream,
    UsageDetails,
    tool,
)
from agent_framework.observability import ChatTelemetryLayer
from shapes import SHAPES

from afactors import ChannelRequest, ChannelSession, Runtime, get_current_isolation_keys
from afactors_channels import HostError

host: Runtime | None = None
"""The runtime that hosts the agent; whoever made it says so here, for the tool that calls it."""


def note(what: str, text: str) -> None:
    """Write to the journal: one write of one line, so that threads do not mix theirs."""
    if journal := os.environ.get("LAB_JOURNAL"):
        line = json.dumps({"what": what, "text": text, "at": time.monotonic(), "pid": os.getpid()}) + "\n"
        descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


class Obedient(FunctionInvocationLayer[Any], ChatMiddlewareLayer[Any], ChatTelemetryLayer[Any], BaseChatClient[Any]):
    """A chat client that does what it is told."""

    OTEL_PROVIDER_NAME = "lab"

    def _inner_get_response(
        self, *, messages: Sequence[Message], stream: bool, options: Mapping[str, Any], **_: Any
    ) -> Awaitable[ChatResponse[Any]] | ResponseStream[ChatResponseUpdate, ChatResponse[Any]]:
        updates = self._noted(messages, options)
        return self._build_response_stream(updates) if stream else ChatResponse.from_update_generator(updates)

    async def _noted(
        self, messages: Sequence[Message], options: Mapping[str, Any]
    ) -> AsyncIterator[ChatResponseUpdate]:
        text = messages[-1].text
        note("start", text)
        end = "cancelled"
        try:
            async for update in self._answer(messages, options):
                yield update
            end = "end"
        except Exception:
            end = "raised"
            raise
        finally:
            note(end, text)

    async def _answer(
        self, messages: Sequence[Message], options: Mapping[str, Any]
    ) -> AsyncIterator[ChatResponseUpdate]:
        last = messages[-1]
        if last.role == "tool":
            yield _say(_results(last))
            return
        command, _, rest = last.text.partition(" ")
        if command == "silence":
            return
        if command == "call":
            name, _, arguments = rest.partition(" ")
            yield _update(Content.from_function_call(f"call_{name}", name, arguments=arguments or "{}"))
            return
        while command == "flood":
            yield _say("x" * 4096)
            await asyncio.sleep(0)
        if command in _ANSWERS:
            async for update in _ANSWERS[command](rest):
                yield update
            return
        if command == "halfway":
            yield _say("so ")
            yield _say("far ")
        if command in ("fail", "halfway"):
            raise RuntimeError(f"the secret is {rest}")
        if command in _EXITS:
            raise _EXITS[command]
        if command in _DELAYS:
            await _DELAYS[command](*rest.split()[:1])
        text = _reply(command, messages, options)
        for word in re.findall(r"\S+\s*", text)[:-1] if len(text) < 200 else []:
            yield _say(word)
            text = text[len(word) :]
        yield _say(text)
        words = sum(len(message.text.split()) for message in messages)
        yield _update(Content.from_usage(UsageDetails(input_token_count=words, output_token_count=7)))


_EXITS = {"exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "give-up": asyncio.CancelledError()}


def _results(message: Message) -> str:
    results = [content.result for content in message.contents if content.type == "function_result"]
    if "fail now" in results:
        raise RuntimeError("told to fail")
    return "results: " + json.dumps(results)


async def _slowly(seconds: str, *_: str) -> None:
    await asyncio.sleep(float(seconds))


async def _gate(path: str, *_: str) -> None:
    while not await asyncio.to_thread(os.path.exists, path):  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.01)


async def _forever(*_: str) -> None:
    await asyncio.Event().wait()


async def _block(seconds: str, *_: str) -> None:
    time.sleep(float(seconds))  # noqa: ASYNC251 - that is what it is for


async def _spin(*_: str) -> None:
    while True:
        pass


async def _swallow(*_: str) -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


_DELAYS: dict[str, Callable[..., Awaitable[None]]] = {
    "slowly": _slowly,
    "gate": _gate,
    "forever": _forever,
    "block": _block,
    "spin": _spin,
    "swallow": _swallow,
}


async def _steps(path: str) -> AsyncIterator[ChatResponseUpdate]:
    said, signals = 0, b""
    while not signals.endswith(b"\n"):
        signals = Path(path).read_bytes() if os.path.exists(path) else b""  # noqa: ASYNC240 - small, and local
        for number in range(said, signals.count(b".")):
            yield _say(f"{os.getpid()}-{number} ")  # who says it, so that two attempts are told apart
            said += 1
        await asyncio.sleep(0.005)
    yield _say("end")


async def _pour(pieces: str) -> AsyncIterator[ChatResponseUpdate]:
    for number in range(int(pieces)):
        yield _say(f"{number:08d}" + "x" * 4088)
        await asyncio.sleep(0)


async def _shape(name: str) -> AsyncIterator[ChatResponseUpdate]:
    for update in SHAPES[name.split()[0]]:
        yield copy.deepcopy(update)  # the framework puts updates together in place
        await asyncio.sleep(0)


_ANSWERS: dict[str, Callable[[str], AsyncIterator[ChatResponseUpdate]]] = {
    "steps": _steps,
    "pour": _pour,
    "shape": _shape,
}


def _reply(command: str, messages: Sequence[Message], options: Mapping[str, Any]) -> str:
    said = [message for message in messages if message.role != "system"]
    if command == "history":
        return json.dumps([[message.role, message.text] for message in said[:-1]])
    if command == "options":
        instructions = [message.text for message in messages if message.role == "system"]
        return json.dumps({**options, "system": instructions}, default=repr)
    if command == "contents":
        return json.dumps([content.to_dict() for content in messages[-1].contents])
    if command == "surrogate":
        return "half \ud83d a character"
    return f"{sum(message.role == 'user' for message in said)}: {messages[-1].text}"


def _update(content: Content) -> ChatResponseUpdate:
    return ChatResponseUpdate(contents=[content], role="assistant", message_id="m1", response_id="r1", model="lab-1")


def _say(text: str) -> ChatResponseUpdate:
    return _update(Content.from_text(text))


@tool
def fork() -> str:
    """Fork; the child leaves at once."""
    child = os.fork()
    if child == 0:
        os._exit(7)
    return f"the child left with {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}"


@tool
def fork_and_stay(seconds: float) -> str:
    """Fork a child that outlives this call, with every descriptor that it inherits."""
    child = os.fork()
    if child == 0:
        time.sleep(seconds)
        os._exit(0)
    return str(child)


@tool
def spawn() -> str:
    """Run another program."""
    program = [sys.executable, "-c", "print(6 * 7)"]
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout.strip()


@tool
def vanish() -> str:
    """End the process at once, as a defect of some library would."""
    note("vanishing", "vanish")
    os._exit(9)


@tool
def whose() -> str:
    """For whom a trusted platform says that this is."""
    keys = get_current_isolation_keys()
    return "nobody" if keys is None else f"user {keys.user_key}, chat {keys.chat_key}"


@tool
def nap(seconds: float) -> str:
    """Block the tool's own thread."""
    note("napping", str(seconds))
    time.sleep(seconds)
    return "awake"


@tool
async def ask(conversation: str, text: str, gate: str = "") -> str:
    """Say something in a conversation of this very runtime, once there is a file of the gate's name."""
    assert host is not None
    note("asking", text)
    if gate:
        await _gate(gate)
    message = Message("user", [text]).to_dict()
    request = ChannelRequest(channel="lab", input=[message], session=ChannelSession(session_id=conversation))
    try:
        return (await host.ask(request)).result.text
    except HostError as error:
        return f"{error.status} {error.code}"


@tool
def remember(text: str, context: FunctionInvocationContext) -> str:
    """Keep a text in the session's own state, beside its history."""
    assert context.session is not None
    kept = [*context.session.state.get("kept", []), text]
    context.session.state["kept"] = kept
    return " ".join(kept)


@tool
def remember_and_fail(context: FunctionInvocationContext) -> str:
    """Change the session's state in every way, and make the turn fail."""
    assert context.session is not None
    context.session.state["kept"].append("in place")
    context.session.state["kept"] = [*context.session.state["kept"], "anew"]
    return "fail now"


def make() -> Agent[Any]:
    """Make the agent."""
    own = [fork, fork_and_stay, spawn, vanish, whose, nap, ask, remember, remember_and_fail]
    return Agent(Obedient(), "You obey.", name="lab", tools=own)


agent = make()
number = 42  # something that is no agent
