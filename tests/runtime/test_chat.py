"""The terminal chat: what it sends, what it shows, what it lives through, and what Ctrl-C means.

The server is a fake at httpx's transport; the terminal is a real pseudo-terminal or a pipe.
"""

import io
import json
import os
import signal
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from afactors.answers import Answer
from afactors.chat import chat
from afactors.endpoint import Endpoint, split_events
from tests.runtime.chats import (
    BASE,
    COMPLETED,
    CREATED,
    DONE,
    LOST,
    PLAIN,
    RESTARTED,
    RUN,
    Events,
    Screen,
    Server,
    broken,
    delta,
    encoded,
    endless,
    error,
    numbered,
    said,
    sitting,
    talk,
    terminals,
    whole,
)

GONE = "The server did not come back."


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "chat.json"


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    path = tmp_path / "chat.json"
    path.touch(mode=0o600)
    path.write_text("{spoilt")
    return path


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
        {"input": text, "stream": True, "conversation": {"id": name}, "background": True, "store": True}
        for text in ("hello", "again", "later")
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
        (
            lambda: httpx.ReadTimeout("no"),
            "The connection failed (ReadTimeout). The message may or may not have been taken.",
        ),
        (list, "The connection ended before the answer did. The message may or may not have been taken."),
        (refusal(401, {"error": {"message": "no"}}), "The server wants an API key."),
        (refusal(429, {"error": {"message": "Too busy."}}), "Too busy."),
        (refusal(404, b"<html>"), f"{BASE}/responses is not there: does the address end in the right path?"),
        (refusal(502, b"\xff" * 100_000), "The server answered with status 502."),
        (refusal(503, {"error": {"message": "Stopping.", "code": "draining"}}), "Stopping."),
        (lambda: [{"type": "response.failed", "response": {"error": {"message": "It broke."}}}], "It broke."),
        (lambda: [{"type": "error", "message": "It broke."}], "It broke."),
        (lambda: [{"type": "error", "error": {"message": "It broke."}}], "It broke."),
        (lambda: [{"type": "response.failed"}], "The turn failed; the server does not say why."),
        (lambda: [error("transcript_too_long")], "It broke."),
        (lambda: [{"type": "error"}], "The turn failed; the server does not say why."),
        (lambda: [{"type": "response.failed", "response": {"status": "cancelled"}}], "The turn was cancelled."),
        (lambda: [{"type": "response.cancelled"}], "The turn was cancelled."),
        (lambda: [delta("")], "The connection ended before the answer did."),
    ],
)
async def test_a_failure_is_one_line_and_ends_an_unwatched_sitting(
    file: Path, answer: Callable[[], Any], shown: str
) -> None:
    for key in (None, "secret"):
        server = Server(answer(), [COMPLETED])
        if key and "may or may not" in shown:
            continue  # it is sent again
        expected = shown.replace("an API key", "another API key") if key else shown
        assert await talk(server, "hello\nagain\n", file, api_key=key) == (1, f"{expected}\n")
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


# --- through a restart -------------------------------------------------------------------------------------


async def test_a_message_has_a_key_where_the_server_knows_callers_apart(file: Path) -> None:
    server = Server([COMPLETED], [COMPLETED])
    await talk(server, "one\ntwo\n", file, api_key="secret")
    first, second = (request.headers["idempotency-key"] for request in server.requests)
    assert first != second
    server = Server([COMPLETED])
    await talk(server, "one\n", file)
    assert "idempotency-key" not in server.requests[0].headers


BEGUN = numbered(CREATED, delta("one "))
NOT_YET: list[Callable[[], Any]] = [
    lambda: httpx.ConnectError("no"),
    lambda: httpx.ConnectTimeout("no"),
    lambda: httpx.RemoteProtocolError("no"),
    lambda: httpx.Response(503, headers={"retry-after": "5"}, json={"error": {"message": "Stopping."}}),
    lambda: httpx.Response(502),
    list,
    lambda: [error("draining")],
]


@pytest.mark.parametrize("first", [lambda: broken(*BEGUN), lambda: BEGUN, lambda: [*BEGUN, error("unavailable")]])
async def test_a_lost_connection_is_taken_up_where_it_broke(
    file: Path, first: Callable[[], Any], autojump_clock: trio.testing.MockClock
) -> None:
    rest = numbered(delta("two"), COMPLETED, first=2)
    server = Server(first(), *(answer() for answer in NOT_YET), rest, [COMPLETED])
    assert await talk(server, "hello\nagain\n", file) == (0, "one two\n\n")
    assert server.asked == [*[("GET", f"{RUN}?stream=true&starting_after=1")] * 8, ("POST", f"{BASE}/responses")]


@pytest.mark.parametrize("created", [CREATED, PLAIN])
async def test_nothing_is_lost_after_the_last_event(file: Path, created: dict[str, Any]) -> None:
    server = Server(broken(*numbered(created, delta("one"), COMPLETED)))
    assert await talk(server, "hello\n", file) == (0, "one\n")


AGAIN: list[Callable[[], list[Any]]] = [
    lambda: [[error("run_restarted")], numbered(CREATED, delta("one two"), COMPLETED, first=2)],
    lambda: [httpx.Response(409, json={"error": error("run_restarted")}), [CREATED, delta("one two"), COMPLETED]],
    lambda: [numbered(CREATED, delta("one two"), COMPLETED, first=2)],
]


@pytest.mark.parametrize("answers", AGAIN)
async def test_a_run_that_was_restarted_is_followed_from_its_beginning(
    file: Path, answers: Callable[[], list[Any]], autojump_clock: trio.testing.MockClock
) -> None:
    server = Server(broken(*BEGUN), *answers())
    assert await talk(server, "hello\n", file) == (0, "one \none two\n")
    asked = [("GET", f"{RUN}?stream=true&starting_after=1"), ("GET", f"{RUN}?stream=true")]
    assert server.asked == asked[: len(server.requests) - 1]


async def test_a_server_that_does_not_come_back_is_given_up(file: Path, autojump_clock: trio.testing.MockClock) -> None:
    refused = [httpx.ConnectError("no") for _ in range(100)]
    began = trio.current_time()
    server = Server(broken(*BEGUN), *refused)
    status, shown = await talk(server, "hello\nagain\n", file)
    assert (status, shown) == (1, f"one \n{GONE} It goes on with the message when it is back.\n")
    assert 55 < trio.current_time() - began < 65

    status, shown = await talk(Server(httpx.ReadError("no"), *refused), "hello\n", file, api_key="secret")
    assert (status, shown) == (1, f"{GONE} The message may or may not have been taken.\n")


async def test_what_comes_renews_the_patience(file: Path, autojump_clock: trio.testing.MockClock) -> None:
    refused = [httpx.ConnectError("no")] * 25
    more = [broken(*numbered(delta(f"{n} "), first=n)) for n in range(2, 5)]
    server = Server(broken(*BEGUN), *refused, more[0], *refused, more[1], *refused, more[2], [COMPLETED])
    assert await talk(server, "hello\n", file) == (0, "one 2 3 4 \n")


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (refusal(404, {"error": {"message": "No such response.", "code": "response_not_found"}}), "No such response."),
        (refusal(401, {}), "The server wants an API key."),
        (lambda: [error("server_error")], "It broke."),
        (lambda: [{"type": "response.failed", "response": {"error": {"message": "It broke."}}}], "It broke."),
    ],
)
async def test_a_server_that_has_nothing_to_take_up_ends_it(
    file: Path, answer: Callable[[], Any], shown: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = Server(broken(*BEGUN), answer())
    assert await talk(server, "hello\nagain\n", file) == (1, f"one \n{shown}\n")


async def test_a_message_that_may_have_been_taken_is_sent_again_with_its_key(
    file: Path, autojump_clock: trio.testing.MockClock
) -> None:
    not_yet = [answer() for answer in NOT_YET]
    server = Server(broken(), *not_yet, numbered(CREATED, delta("one"), COMPLETED))
    assert await talk(server, "hello\n", file, api_key="secret") == (0, "one\n")
    assert len(server.requests) == 9
    assert len({(r.method, r.url, r.content, r.headers["idempotency-key"]) for r in server.requests}) == 1


@pytest.mark.parametrize("code", ["transcript_too_long", "transcript_expired"])
@pytest.mark.parametrize("as_event", [True, False])
async def test_what_events_do_not_tell_is_fetched_at_the_end(
    file: Path, code: str, as_event: bool, autojump_clock: trio.testing.MockClock
) -> None:
    refused = [error(code)] if as_event else httpx.Response(404, json={"error": {"message": "no", "code": code}})
    server = Server(
        broken(*BEGUN),
        refused,
        whole(status="queued", output=[]),
        httpx.ReadError("no"),
        whole(status="in_progress", output=[]),
        whole(status="completed", output=said("one two")),
    )
    assert await talk(server, "hello\n", file) == (0, "one two\n")
    assert server.asked[1:] == [("GET", RUN)] * 4


@pytest.mark.parametrize(
    ("response", "status", "shown"),
    [
        ({"status": "completed", "output": said("another")}, 0, "one \nanother\n"),
        ({"status": "completed", "output": []}, 0, "one \n\n"),
        (
            {"status": "incomplete", "output": said("one two"), "incomplete_details": {"reason": "max_output_tokens"}},
            0,
            "one two [cut short: max_output_tokens]\n",
        ),
        ({"status": "failed", "output": said("one "), "error": {"message": "It broke."}}, 1, "one \nIt broke.\n"),
        ({"status": "cancelled", "output": said("one "), "error": None}, 1, "one \nThe turn was cancelled.\n"),
    ],
)
async def test_what_is_fetched_ends_as_its_run_did(
    file: Path, response: dict[str, Any], status: int, shown: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = Server([*BEGUN, error("transcript_too_long")], whole(**response))
    assert await talk(server, "hello\n", file) == (status, shown)


class Run(httpx.AsyncBaseTransport):
    """A run whose server breaks as it is told: for each request, after how many events, and whether it starts again."""

    def __init__(self, words: list[str], faults: list[tuple[int, bool]]) -> None:
        self.rows = [CREATED, *map(delta, words), COMPLETED]
        self.faults = faults
        self.first = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        start = int(request.url.params.get("starting_after", self.first - 1)) + 1
        if start < self.first:
            return httpx.Response(200, content=encoded([error("run_restarted")]))
        events = numbered(*self.rows, first=self.first)[start - self.first :]
        if not self.faults:
            return httpx.Response(200, content=encoded(events))
        count, restarts = self.faults.pop(0)
        sent = events[: min(count, len(events) - 1)]
        if restarts:
            self.first = start + len(sent)
        return httpx.Response(200, content=broken(*sent))


@given(
    words=st.lists(st.text("ab ", min_size=1), max_size=5),
    faults=st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=5),
)
def test_the_answer_is_whole_wherever_it_breaks(words: list[str], faults: list[tuple[int, bool]]) -> None:
    async def answer() -> str:
        shown = ""
        transport = Run(words, list(faults))
        async with (
            httpx.AsyncClient(transport=transport, headers={"authorization": "Bearer secret"}) as client,
            aclosing(Answer(Endpoint(client, BASE), "conv", "hello").pieces()) as pieces,
        ):
            async for piece in pieces:
                if isinstance(piece, str):
                    shown += piece
                elif piece.anew:
                    shown = ""
        return shown

    assert trio.run(answer, clock=trio.testing.MockClock(autojump_threshold=0)) == "".join(words)


# --- servers of others -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"message": "must be false", "param": "background", "code": "unsupported_parameter"}}),
        (400, {"error": {"message": "Unrecognized request argument: background", "param": None}}),
        (422, {"error": {"message": "background: extra inputs are not permitted"}}),
    ],
)
async def test_a_server_without_background_runs_gets_plain_streams(
    file: Path, status: int, body: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    server = Server(httpx.Response(status, json=body), [delta("one"), COMPLETED], broken(delta("two ")), [COMPLETED])
    given = await talk(server, "hello\nagain\nmore\n", file, api_key="secret")
    assert given == (1, "one\ntwo \nThe connection failed (ReadError).\n")
    name = remembered(file)[BASE]
    assert server.sent[1:] == [
        {"input": text, "stream": True, "conversation": {"id": name}} for text in ("hello", "again")
    ]
    assert ["idempotency-key" in request.headers for request in server.requests] == [True, False, False]


async def test_a_plain_stream_is_not_sent_again(file: Path, autojump_clock: trio.testing.MockClock) -> None:
    refused = httpx.Response(400, json={"error": {"message": "must be false", "param": "background"}})
    shown = "The connection failed (ReadError). The message may or may not have been taken.\n"
    assert await talk(Server(refused, broken()), "hello\n", file, api_key="secret") == (1, shown)


async def test_a_refusal_of_something_else_is_one(file: Path) -> None:
    server = Server(httpx.Response(400, json={"error": {"message": "No.", "param": "input"}}), [COMPLETED])
    assert await talk(server, "hello\n", file) == (1, "No.\n")


async def test_a_server_that_takes_no_notice_of_the_background_is_not_asked_for_it(file: Path) -> None:
    server = Server([PLAIN, delta("one"), COMPLETED], [PLAIN, delta("two ")])
    shown = "one\ntwo \nThe connection ended before the answer did.\n"
    assert await talk(server, "hello\nagain\nmore\n", file) == (1, shown)
    assert ["background" in body for body in server.sent] == [True, False]


# --- at a terminal -----------------------------------------------------------------------------------------


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    with terminals() as found:
        yield found


async def test_ctrl_c_cancels_the_answer_and_at_the_prompt_it_leaves(file: Path, terminal: tuple[int, int]) -> None:
    keyboard, descriptor = terminal
    closed = trio.Event()
    server = Server(endless(*BEGUN, closed=closed), whole(status="cancelled"), [delta("two"), COMPLETED])
    async with sitting(file, descriptor, server) as (screen, statuses):
        os.write(keyboard, b"hello\n")
        await screen.shows("one")
        os.kill(os.getpid(), signal.SIGINT)
        await screen.shows("Cancelled.")
        assert closed.is_set()
        assert server.asked == [("POST", f"{RUN}/cancel")]
        os.write(keyboard, b"again\n")
        await screen.shows("two")
        await screen.shows("> ", times=3)
        assert statuses == []
        os.kill(os.getpid(), signal.SIGINT)
    assert statuses == [0]


@pytest.mark.parametrize(
    ("events", "answer", "shown"),
    [
        (BEGUN, lambda: whole(status="completed"), "It was finished already.\n"),
        (BEGUN, lambda: httpx.ConnectError("no"), "It could not be cancelled, and may still be running. No server"),
        (BEGUN, lambda: httpx.ReadTimeout("no"), "may still be running. The connection failed"),
        (BEGUN, lambda: httpx.Response(503), "may still be running. The server answered with status 503."),
        ([delta("one")], None, "\x1b[2mCancelled.\n"),
        ([PLAIN, delta("one")], None, "\x1b[2mCancelled.\n"),
        ([], None, "Cancelled, but the message may have been taken, and may still be answered.\n"),
    ],
)
async def test_what_becomes_of_an_answer_that_is_cancelled(
    file: Path, terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch, events: Events, answer: Any, shown: str
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    keyboard, descriptor = terminal
    server = Server(endless(*events), *([answer()] if answer else []))
    async with sitting(file, descriptor, server) as (screen, statuses):
        os.write(keyboard, b"hello\n")
        await (screen.shows("one") if events else server.is_asked())
        os.kill(os.getpid(), signal.SIGINT)
        await screen.shows(shown)
        await screen.shows("> ", times=2)
        os.kill(os.getpid(), signal.SIGINT)
    assert statuses == [0]
    assert server.answers == []


async def test_ctrl_c_cancels_also_while_the_server_is_away(
    file: Path, terminal: tuple[int, int], autojump_clock: trio.testing.MockClock
) -> None:
    keyboard, descriptor = terminal
    server = Server(broken(*BEGUN), httpx.ConnectError("no"), endless(), whole(status="cancelled"))
    async with sitting(file, descriptor, server) as (screen, _):
        os.write(keyboard, b"hello\n\x04")
        await server.is_asked(times=3)
        os.kill(os.getpid(), signal.SIGINT)
    assert screen.getvalue().count(LOST) == 1
    assert "Cancelled." in screen.getvalue()
    assert server.asked[-1] == ("POST", f"{RUN}/cancel")


async def test_a_second_ctrl_c_does_not_wait_for_the_server(file: Path, terminal: tuple[int, int]) -> None:
    keyboard, descriptor = terminal
    server = Server(endless(*BEGUN), endless())
    async with sitting(file, descriptor, server) as (screen, statuses):
        os.write(keyboard, b"hello\n")
        await screen.shows("one")
        os.kill(os.getpid(), signal.SIGINT)
        await server.is_asked(times=2)
        os.kill(os.getpid(), signal.SIGINT)
    assert statuses == [0]


async def test_a_person_is_told_what_happens_to_the_server(
    file: Path, terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    keyboard, descriptor = terminal
    os.write(keyboard, b"hello\n\x04")
    away = [httpx.ConnectError("no") for _ in range(5)]
    server = Server(
        broken(*BEGUN),
        *away,
        broken(*numbered(delta("two "), first=2)),
        *away,
        [error("run_restarted")],
        numbered(CREATED, delta("three"), COMPLETED, first=3),
    )
    screen = Screen()
    assert await chat(BASE, path=file, descriptor=descriptor, out=screen, transport=server) == 0
    assert screen.getvalue().partition("> ")[2] == f"one \n{LOST}two \n{LOST}{RESTARTED}three\n> \n"


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
        yield encoded([CREATED]).removesuffix(DONE)
        os.kill(os.getpid(), signal.SIGINT)
        await trio.sleep_forever()

    server = Server(interrupted(), whole(status="cancelled"))
    assert await talk(server, "hello\nagain\n", file) == (130, "")
    assert server.asked == [("POST", f"{RUN}/cancel")]
