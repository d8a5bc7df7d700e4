"""The terminal chat: what it sends, what it shows, and what Ctrl-C means.

The server is a fake at httpx's transport; the terminal is a real pseudo-terminal or a pipe.
"""

import io
import json
import os
import signal
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from afactors.chat import chat, split_events

BASE = "http://agent.test/v1"
Events = list[dict[str, Any]]


def delta(text: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "delta": text}


COMPLETED = {"type": "response.completed", "response": {"status": "completed"}}


def encoded(events: Events) -> bytes:
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events) + b"data: [DONE]\n\n"


class Server(httpx.AsyncBaseTransport):
    """Answers each request with the next of its answers, and keeps the requests."""

    def __init__(self, *answers: Events | httpx.Response | Exception | AsyncIterator[bytes]) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        match self.answers.pop(0):
            case Exception() as error:
                raise error
            case httpx.Response() as response:
                return response
            case list() as events:
                return httpx.Response(200, content=encoded(events))
            case stream:
                return httpx.Response(200, content=stream)

    @property
    def sent(self) -> list[dict[str, Any]]:
        return [json.loads(request.content) for request in self.requests]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "chat.json"


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    path = tmp_path / "chat.json"
    path.touch(mode=0o600)
    path.write_text("{spoilt")
    return path


async def talk(server: Server, typed: str, file: Path, base_url: str = BASE, **options: Any) -> tuple[int, str]:
    """Chat with what was typed on a pipe; give the exit status and everything shown."""
    reading, writing = os.pipe()
    os.write(writing, typed.encode())
    os.close(writing)
    out = io.StringIO()
    try:
        status = await chat(base_url, path=file, descriptor=reading, out=out, transport=server, **options)
    finally:
        os.close(reading)
    return status, out.getvalue()


def remembered(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    names: dict[str, str] = json.loads(file.read_text())
    return names


# --- events ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@given(data=st.data())
def test_events_are_whole_however_the_bytes_are_cut(end: str, data: st.DataObject) -> None:
    lines = [
        "data: {1}",
        "",
        ": a comment",
        "",
        "event: x",
        "data:twö",
        "data: 3",
        "id: 7",
        "",
        "data: 4",
        "",
        "",
    ]
    stream = end.join(lines).encode() + b"data: unfinished"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    found, rest = [], b""
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events, rest = split_events(rest + stream[start:stop])
        found += events
    assert found == ["{1}", "twö\n3", "4"]
    assert rest == b"data: unfinished"


async def test_an_answer_is_shown_as_it_comes(file: Path, autojump_clock: trio.testing.MockClock) -> None:
    seen = []

    async def stream() -> AsyncIterator[bytes]:
        whole = encoded([delta("Hé"), delta("llo"), COMPLETED])
        for byte in whole:
            yield bytes([byte])
            seen.append(out.getvalue())

    out = io.StringIO()
    reading, writing = os.pipe()
    os.write(writing, b"hi\n/quit\n")
    status = await chat(BASE, path=file, descriptor=reading, out=out, transport=Server(stream()))
    os.close(reading)
    os.close(writing)
    assert status == 0
    assert out.getvalue() == "Héllo\n"
    assert list(dict.fromkeys(seen)) == ["", "Hé", "Héllo"]


# --- what is sent ------------------------------------------------------------------------------------------


async def test_lines_are_turns_of_one_remembered_conversation(file: Path) -> None:
    server = Server([delta("one"), COMPLETED], [delta("two"), COMPLETED], [delta("three"), COMPLETED])
    assert await talk(server, "hello\n\nagain", file) == (0, "one\ntwo\n")
    assert await talk(server, "later\r\n/quit\nnever sent\n", file) == (0, "three\n")

    name = remembered(file)[BASE]
    assert name.startswith("conv_")
    assert server.sent == [
        {"input": text, "stream": True, "conversation": {"id": name}} for text in ("hello", "again", "later")
    ]
    assert str(server.requests[0].url) == f"{BASE}/responses"
    assert "authorization" not in server.requests[0].headers


async def test_new_starts_another_conversation(file: Path) -> None:
    server = Server([COMPLETED], [COMPLETED])
    await talk(server, "one\n/new\ntwo\n", file)
    first, second = (body["conversation"]["id"] for body in server.sent)
    assert first != second
    assert remembered(file) == {BASE: second}


async def test_each_server_has_its_own_conversation(file: Path) -> None:
    server = Server([COMPLETED], [COMPLETED], [COMPLETED])
    for base_url in (BASE, "http://other.test/v1", BASE):
        await talk(server, "hello\n", file, base_url=base_url)
    first, other, again = (body["conversation"]["id"] for body in server.sent)
    assert first == again != other


async def test_a_spoilt_memory_is_begun_anew(spoilt: Path) -> None:
    server = Server([COMPLETED])
    assert await talk(server, "hello\n", spoilt) == (0, "\n")
    assert remembered(spoilt) == {BASE: server.sent[0]["conversation"]["id"]}


async def test_a_conversation_that_is_given_leaves_the_remembered_one_alone(file: Path) -> None:
    server = Server([COMPLETED])
    await talk(server, "one\n", file, conversation="conv_given", api_key="secret")
    assert server.sent[0]["conversation"] == {"id": "conv_given"}
    assert server.requests[0].headers["authorization"] == "Bearer secret"
    assert remembered(file) == {}


async def test_commands_are_not_sent(file: Path) -> None:
    server = Server()
    status, shown = await talk(server, "/help\n/what is this\n/exit\n", file)
    assert (status, server.requests) == (0, [])
    assert "/new" in shown
    assert "There is no /what" in shown


async def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, shown = await talk(Server(), "hello\n", tmp_path / "file" / "chat")
    assert status == 1
    assert shown.count("\n") == 1
    assert "cannot be kept" in shown
    server = Server([COMPLETED])
    status, shown = await talk(server, "/new\nhello\n", tmp_path / "file" / "chat", conversation="conv_given")
    assert (status, server.sent[0]["conversation"]) == (0, {"id": "conv_given"})
    assert "cannot be kept" in shown


# --- what goes wrong ---------------------------------------------------------------------------------------


def refusal(status: int, body: Any) -> Callable[[], httpx.Response]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda: httpx.Response(status, content=content)


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (
            lambda: httpx.ConnectError("no"),
            f"No server answers at {BASE}. Start one with: python -m afactors",
        ),
        (lambda: httpx.ReadTimeout("no"), "The connection failed (ReadTimeout)."),
        (refusal(401, {"error": {"message": "no"}}), "The server wants an API key."),
        (refusal(429, {"error": {"message": "Too busy."}}), "Too busy."),
        (refusal(404, b"<html>"), f"{BASE}/responses is not there: does the address end in the right path?"),
        (refusal(502, b"\xff" * 100_000), "The server answered with status 502."),
        (lambda: [{"type": "response.failed", "response": {"error": {"message": "It broke."}}}], "It broke."),
        (lambda: [{"type": "error", "message": "It broke."}], "It broke."),
        (lambda: [{"type": "error", "error": {"message": "It broke."}}], "It broke."),
        (lambda: [{"type": "response.failed"}], "The turn failed; the server does not say why."),
        (lambda: [delta("")], "The connection ended before the answer did."),
    ],
)
async def test_a_failure_is_one_line_and_ends_an_unwatched_sitting(
    file: Path, answer: Callable[[], Any], shown: str
) -> None:
    server = Server(answer(), [COMPLETED])
    assert await talk(server, "hello\nagain\n", file) == (1, f"{shown}\n")
    assert len(server.requests) == 1


async def test_a_failure_after_some_words_starts_a_line(file: Path) -> None:
    server = Server([delta("Well,"), {"type": "error", "message": "It broke."}])
    assert await talk(server, "hello\n", file) == (1, "Well,\nIt broke.\n")


async def test_a_wrong_key_and_a_wrong_address_are_named(file: Path) -> None:
    server = Server(httpx.Response(401))
    assert "another API key" in (await talk(server, "hello\n", file, api_key="wrong"))[1]
    out = io.StringIO()
    reading, writing = os.pipe()
    os.write(writing, b"hello\n")
    os.close(writing)
    assert await chat("nowhere", path=file, descriptor=reading, out=out) == 1
    os.close(reading)
    assert "'nowhere' is not an address" in out.getvalue()


async def test_an_answer_that_is_cut_short_says_so(file: Path) -> None:
    ended = {
        "type": "response.incomplete",
        "response": {"incomplete_details": {"reason": "max_output_tokens"}},
    }
    assert await talk(Server([delta("one"), ended]), "hello\n", file) == (
        0,
        "one [cut short: max_output_tokens]\n",
    )


async def test_an_answer_cannot_steer_the_terminal(file: Path) -> None:
    server = Server([delta("a\x1b[2J\x07b\tc\nd\x9b5m"), COMPLETED])
    assert await talk(server, "hello\n", file) == (0, "a[2Jb\tc\nd5m\n")


# --- at a terminal -----------------------------------------------------------------------------------------


class Screen(io.StringIO):
    """A terminal that can be waited for. The keyboard is real, so the clock is, too."""

    def __init__(self) -> None:
        super().__init__()
        self.written = trio.Event()

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        self.written.set()

    async def shows(self, text: str, times: int = 1) -> None:
        with trio.fail_after(5):
            while self.getvalue().count(text) < times:
                self.written = trio.Event()
                await self.written.wait()


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    keyboard, descriptor = os.openpty()
    yield keyboard, descriptor
    os.close(keyboard)
    os.close(descriptor)


async def test_ctrl_c_cancels_the_answer_and_at_the_prompt_it_leaves(file: Path, terminal: tuple[int, int]) -> None:
    keyboard, descriptor = terminal
    closed = trio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield encoded([delta("one")]).removesuffix(b"data: [DONE]\n\n")
            await trio.sleep_forever()
        finally:
            closed.set()

    screen, statuses = Screen(), []
    server = Server(endless(), [delta("two"), COMPLETED])

    async def sit() -> None:
        statuses.append(await chat(BASE, path=file, descriptor=descriptor, out=screen, transport=server))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sit)
        await screen.shows("> ")
        os.write(keyboard, b"hello\n")
        await screen.shows("one")
        os.kill(os.getpid(), signal.SIGINT)
        await screen.shows("Cancelled.")
        assert closed.is_set()
        os.write(keyboard, b"again\n")
        await screen.shows("two")
        await screen.shows("> ", times=3)
        assert statuses == []
        os.kill(os.getpid(), signal.SIGINT)
    assert statuses == [0]


async def test_a_failure_at_a_terminal_is_red_and_the_sitting_goes_on(
    file: Path, terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    keyboard, descriptor = terminal
    screen = Screen()
    os.write(keyboard, b"hello\nagain\n\x04")  # the last is the end of the input
    server = Server(httpx.ConnectError("no"), [delta("here"), COMPLETED])
    assert await chat(BASE, path=file, descriptor=descriptor, out=screen, transport=server) == 0
    assert "\x1b[31mNo server answers" in screen.getvalue()
    assert "here\n" in screen.getvalue()

    monkeypatch.setenv("NO_COLOR", "1")
    plain = Screen()
    os.write(keyboard, b"\x04")
    assert await chat(BASE, path=file, descriptor=descriptor, out=plain, transport=Server()) == 0
    assert "\x1b" not in plain.getvalue()
    assert "/help" in plain.getvalue()


async def test_ctrl_c_ends_an_unwatched_sitting(file: Path) -> None:
    async def interrupted() -> AsyncIterator[bytes]:
        yield b""
        os.kill(os.getpid(), signal.SIGINT)
        await trio.sleep_forever()

    assert await talk(Server(interrupted()), "hello\nagain\n", file) == (130, "")
