"""The terminal chat when it is asked: what it shows, what it takes for an answer, and what it lives through.

The server is a fake at httpx's transport; the terminal is a real pseudo-terminal or a pipe.
"""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.runtime.chats import (
    BASE,
    COMPLETED,
    CREATED,
    LOST,
    RUN,
    Events,
    Server,
    broken,
    delta,
    endless,
    error,
    numbered,
    sitting,
    talk,
    terminals,
    whole,
)

BOOLEAN = {"type": "boolean"}
ASKS = '? desk asks: {"what": "it"} (yes or no)\n'
AGAIN = "Please answer yes or no.\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "chat.json"


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    with terminals() as found:
        yield found


def question(name: str = "q", schema: Any = BOOLEAN, data: Any = None) -> dict[str, Any]:
    told = {"request_id": name, "source": "desk", "data": data or {"what": "it"}, "response_schema": schema}
    call = {"type": "function_call", "id": f"fc_{name}", "call_id": name, "name": "request_info"}
    return {**call, "arguments": json.dumps(told)}


def waiting(*items: dict[str, Any]) -> list[dict[str, Any]]:
    """As a conversation lists them."""
    return [{**item, "id": item.pop("call_id", item["id"]), "asked_at": 1, "expires_at": 2} for item in items]


APPROVAL = {
    "type": "mcp_approval_request",
    "id": "mcpr_1",
    "name": "wipe",
    "arguments": '{"disk": "sda"}',
    "server_label": "clerk",
}
WEATHER = {"type": "function_call", "id": "fc_w", "call_id": "w", "name": "weather", "arguments": '{"city": "Oslo"}'}


def ended(*output: dict[str, Any], text: str = "") -> Events:
    """An answer with these items."""
    said = [delta(text)] if text else []
    return [*said, {"type": "response.completed", "response": {"status": "completed", "output": list(output)}}]


def failed(code: str, message: str = "No.") -> Events:
    response = {"status": "failed", "error": {"code": code, "message": message}, "output": [question("never")]}
    return [CREATED, {"type": "response.failed", "response": response}]


def refused(status: int, code: str, message: str = "No.") -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": code, "message": message}})


def output(value: str, name: str = "q") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": name, "output": value}


def inputs(server: Server) -> list[Any]:
    return [body["input"] for body in server.sent]


# --- asked and answered


@pytest.mark.parametrize(("typed", "given"), [("y", "true"), ("YES", "true"), ("n", "false"), ("no", "false")])
async def test_a_question_is_shown_and_the_next_line_answers_it(file: Path, typed: str, given: str) -> None:
    server = Server(ended(question()), ended(text="done"), ended(text="more"))
    assert await talk(server, f"hello\n{typed}\nagain\n", file) == (0, f"{ASKS}done\nmore\n")
    assert inputs(server) == ["hello", [output(given)], "again"]
    assert len({body["conversation"]["id"] for body in server.sent}) == 1
    assert all(body["background"] and body["stream"] for body in server.sent)


async def test_what_was_said_before_the_question_has_its_line(file: Path) -> None:
    server = Server(ended(question(), text="Thinking."))
    assert await talk(server, "hello\n", file) == (0, f"Thinking.\n{ASKS}")


async def test_messages_of_one_answer_have_a_line_each(file: Path) -> None:
    item = {"type": "response.output_item.added", "item": {"type": "message"}}
    call = {"type": "response.output_item.added", "item": {"type": "function_call"}}
    events = [item, delta("one "), delta("and"), item, item, delta(""), delta("two"), call, COMPLETED]
    assert await talk(Server(events), "hello\n", file) == (0, "one and\ntwo\n")


async def test_an_approval_is_answered_as_one(file: Path) -> None:
    server = Server(ended(APPROVAL), ended(text="wiped"))
    shown = '? clerk asks whether to call wipe: {"disk": "sda"} (yes or no)\n'
    assert await talk(server, "hello\ny\n", file) == (0, f"{shown}wiped\n")
    assert inputs(server)[1] == [{"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}]


async def test_what_is_no_answer_is_asked_again_and_not_sent(file: Path) -> None:
    server = Server(ended(question()), ended(text="done"))
    assert await talk(server, "hello\nmaybe\n\ntrue\ny\n", file) == (0, f"{ASKS}{AGAIN}{AGAIN}done\n")
    assert inputs(server) == ["hello", [output("true")]]
    server = Server()
    server.waiting = [waiting(question())]
    assert await talk(server, "maybe\n", file) == (1, f"{ASKS}{AGAIN}")


async def test_text_is_taken_as_it_is_also_with_a_slash(file: Path) -> None:
    server = Server(ended(question(schema={"type": "string"}, data="Where?")), ended())
    assert await talk(server, "hello\n /etc \n", file) == (0, "? desk asks: Where? (text)\n\n")
    assert inputs(server)[1] == [output(" /etc ")]
    server = Server(ended(question(schema={"type": "string"}, data="Where?")), ended())
    await talk(server, "hello\n/etc\n", file, conversation="other")
    assert inputs(server)[1] == [output("/etc")]


async def test_json_is_checked_before_it_is_sent(file: Path) -> None:
    schema = {"type": "object", "properties": {"ok": BOOLEAN}, "required": ["ok"]}
    server = Server(ended(question(schema=schema)), ended(text="done"))
    status, shown = await talk(server, 'hello\nyes\n{"ok": true}\n', file)
    assert (status, inputs(server)[1]) == (0, [output('{"ok": true}')])
    assert shown.splitlines() == [
        '? desk asks: {"what": "it"} (JSON: {ok: boolean})',
        "This is not JSON (Expecting value, column 1). Please answer in JSON.",
        "done",
    ]


async def test_several_questions_are_asked_one_by_one_and_answered_together(file: Path) -> None:
    number = question("n", {"type": "integer"}, "How many?")
    server = Server(ended(question(), number, APPROVAL), ended(text="done"))
    status, shown = await talk(server, "hello\ny\nfew\n7\nno\n", file)
    assert status == 0
    assert shown.splitlines() == [
        ASKS.rstrip(),
        "? desk asks: How many? (a whole number)",
        "Please answer with a number.",
        '? clerk asks whether to call wipe: {"disk": "sda"} (yes or no)',
        "done",
    ]
    approval = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": False}
    assert inputs(server)[1] == [output("true"), output("7", "n"), approval]


async def test_what_is_only_half_answered_is_not_sent(file: Path) -> None:
    server = Server(ended(question(), question("other")))
    shown = f"{ASKS}{ASKS}Not all of it was answered, so nothing was sent.\n"
    assert await talk(server, "hello\ny\n", file) == (1, shown)
    server = Server(ended(question(), question("other")), ended(text="hi"))
    assert await talk(server, "hello\ny\n/later\nhi\n", file, conversation="other") == (0, f"{shown}hi\n")
    assert inputs(server) == ["hello", "hi"]


async def test_one_question_after_the_other(file: Path) -> None:
    server = Server(ended(question()), ended(question("r"), text="And?"), ended(text="done"))
    assert await talk(server, "hello\ny\nn\n", file) == (0, f"{ASKS}And?\n{ASKS}done\n")
    assert inputs(server)[1:] == [[output("true")], [output("false", "r")]]


async def test_a_question_of_a_response_that_is_fetched(file: Path) -> None:
    server = Server(
        [*numbered(CREATED), error("transcript_too_long")],
        whole(status="completed", output=[question()]),
        ended(text="done"),
    )
    assert await talk(server, "hello\ny\n", file) == (0, f"{ASKS}done\n")


async def test_a_call_of_a_tool_that_the_chat_does_not_have(file: Path) -> None:
    server = Server(ended(WEATHER, question()), ended(WEATHER))
    told = 'It calls a tool that this chat does not have: weather: {"city": "Oslo"}\n'
    assert await talk(server, "hello\ny\n", file) == (0, f"{told}{ASKS}{told}")


async def test_a_question_cannot_steer_the_terminal(file: Path) -> None:
    server = Server(ended(question(data="a\x1b[2Jb\x9b5m")))
    assert await talk(server, "hello\n", file) == (0, "? desk asks: a[2Jb5m (yes or no)\n")


# --- a conversation that waits


@pytest.mark.parametrize("item", [question(), APPROVAL])
async def test_a_chat_that_begins_anew_asks_what_its_conversation_waits_for(file: Path, item: dict[str, Any]) -> None:
    server = Server(ended(text="done"))
    server.waiting = [waiting({**item})]
    status, shown = await talk(server, "y\n", file, conversation="a/b ö")
    assert (status, len(inputs(server))) == (0, 1)
    assert shown.startswith("? ")
    assert shown.endswith(" (yes or no)\ndone\n")
    assert server.looked == ["/v1/conversations/a/b ö"]


async def test_a_new_conversation_is_not_asked_what_it_waits_for(file: Path) -> None:
    server = Server(ended(text="hi"), ended(text="hi"))
    await talk(server, "hello\n", file)
    assert server.looked == []
    await talk(server, "hello\n", file)
    assert len(server.looked) == 1


@pytest.mark.parametrize(
    "answer",
    [httpx.ConnectError("no"), httpx.Response(401), httpx.Response(200, content=b"[]"), httpx.Response(404), "spoilt"],
)
async def test_a_server_that_does_not_say_is_talked_to(file: Path, answer: Any) -> None:
    server = Server(ended(text="hi"))
    server.waiting = [httpx.Response(200, json={"waiting": answer}) if isinstance(answer, str) else answer]
    assert await talk(server, "hello\n", file, conversation="c") == (0, "hi\n")


async def test_a_message_that_is_not_taken_leads_to_what_is_asked(file: Path) -> None:
    for refusal in (refused(409, "question_open"), [error("question_open")], failed("question_open")):
        server = Server(refusal, ended(text="done"), ended(text="hi"))
        server.waiting = [None, waiting(question())]
        shown = f"The conversation waits for an answer first; the message was not taken.\n{ASKS}done\nhi\n"
        assert await talk(server, "hello\ny\nhello\n", file, conversation="c") == (0, shown)
        assert inputs(server) == ["hello", [output("true")], "hello"]


async def test_what_the_chat_cannot_answer_is_named(file: Path) -> None:
    server = Server(refused(409, "question_open"))
    server.waiting = [None, waiting({**WEATHER})]
    status, shown = await talk(server, "hello\nagain\n", file, conversation="c")
    assert status == 1
    assert shown.splitlines() == [
        "The conversation waits for an answer first; the message was not taken.",
        'The conversation waits for a tool that this chat does not have: weather: {"city": "Oslo"}',
    ]


@pytest.mark.parametrize("command", ["/new", "/later"])
async def test_a_question_can_be_left_open(file: Path, command: str) -> None:
    server = Server(ended(question()), ended(text="hi"))
    status, shown = await talk(server, f"hello\n/help\n{command}\nhi\n", file)
    assert (status, inputs(server)) == (0, ["hello", "hi"])
    assert "/later" in shown
    same = len({body["conversation"]["id"] for body in server.sent}) == 1
    assert same == (command == "/later")


# --- refusals


@pytest.mark.parametrize("as_event", [False, True])
async def test_an_answer_that_does_not_fit_is_asked_for_again(file: Path, as_event: bool) -> None:
    told = "invalid_answer", "That is none."
    refusal = failed(*told) if as_event else refused(422, *told)
    server = Server(ended(question(), question("r")), refusal, ended(text="done"))
    shown = f"{ASKS}{ASKS}That is none.\n{ASKS}{ASKS}done\n"
    assert await talk(server, "hello\ny\ny\nn\nn\n", file) == (0, shown)
    assert inputs(server)[2] == [output("false"), output("false", "r")]


@pytest.mark.parametrize(
    ("status", "code"), [(409, "question_answered"), (409, "question_expired"), (400, "question_not_found")]
)
async def test_an_answer_that_comes_too_late_does_not_end_the_chat(file: Path, status: int, code: str) -> None:
    server = Server(ended(question()), refused(status, code, "Too late."), ended(text="hi"))
    server.waiting = [waiting(question())]  # where somebody else is about to answer it
    assert await talk(server, "hello\ny\nhi\n", file) == (0, f"{ASKS}Too late.\nhi\n")
    server = Server(ended(question(), question("r")), refused(status, code, "Too late."), ended(text="done"))
    server.waiting = [None, waiting(question("r"))]
    shown = f"{ASKS}{ASKS}Too late.\n{ASKS}done\n"
    assert await talk(server, "hello\ny\ny\nn\n", file, conversation="c") == (0, shown)
    assert inputs(server)[2] == [output("false", "r")]
    server = Server(ended(question()), refused(status, code, "Too late."))
    assert await talk(server, "hello\ny\n", file, conversation="c") == (1, f"{ASKS}Too late.\n")


async def test_a_failure_of_the_turn_leaves_the_question_open(file: Path, terminal: tuple[int, int]) -> None:
    keyboard, descriptor = terminal
    server = Server(
        ended(question()),
        failed("target_failed", "It broke."),
        httpx.ConnectError("no"),
        ended(text="done"),
    )
    server.waiting = [waiting(question()), httpx.ConnectError("no")]
    async with sitting(file, descriptor, server) as (screen, statuses):
        os.write(keyboard, b"hello\n")
        await screen.shows("(yes or no)")
        os.write(keyboard, b"y\n")
        await screen.shows("It broke.")
        await screen.shows("(yes or no)", times=2)
        os.write(keyboard, b"y\n")
        await screen.shows("No server answers")
        await screen.shows("(yes or no)", times=3)
        os.write(keyboard, b"n\n")
        await screen.shows("done")
        os.write(keyboard, b"\x04")
    assert statuses == [0]
    assert inputs(server)[1:] == [[output("true")], [output("true")], [output("false")]]


async def test_a_failure_of_the_turn_ends_a_sitting_that_nobody_watches(file: Path) -> None:
    server = Server(ended(question()), failed("target_failed", "It broke."))
    assert await talk(server, "hello\ny\nagain\n", file) == (1, f"{ASKS}It broke.\n")


# --- at a terminal


async def test_a_question_is_bold_and_prompted_for(
    file: Path, terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    keyboard, descriptor = terminal
    async with sitting(file, descriptor, Server(ended(question()), ended(text="done"))) as (screen, _):
        os.write(keyboard, b"hello\nmaybe\nyes\n\x04")
        await screen.shows("done")
    assert f"\x1b[1m{ASKS}\x1b[0m\x1b[1m> \x1b[0m\x1b[31m{AGAIN}\x1b[0m\x1b[1m> \x1b[0mdone" in screen.getvalue()


@pytest.mark.parametrize(("finished", "told"), [(False, True), (False, False), (True, True)])
async def test_an_answer_that_is_cancelled_was_not_given(
    file: Path, terminal: tuple[int, int], finished: bool, told: bool
) -> None:
    keyboard, descriptor = terminal
    status = whole(status="completed", output=[question("r")]) if finished else whole(status="cancelled")
    server = Server(ended(question()), endless(CREATED, delta("so")), status, ended(text="done"))
    server.waiting = [waiting(question())] if told else [httpx.ConnectError("no")]
    async with sitting(file, descriptor, server) as (screen, _):
        os.write(keyboard, b"hello\n")
        await screen.shows("(yes or no)")
        os.write(keyboard, b"y\n")
        await screen.shows("so")
        os.kill(os.getpid(), signal.SIGINT)
        await screen.shows("(yes or no)", times=2)
        os.write(keyboard, b"n\n")
        await screen.shows("done")
        os.write(keyboard, b"\x04")
    assert server.asked[1] == ("POST", f"{RUN}/cancel")
    assert inputs(server)[-1] == [output("false", "r" if finished else "q")]


# --- through a restart


async def test_an_answer_goes_on_through_a_restart(file: Path, autojump_clock: trio.testing.MockClock) -> None:
    begun = numbered(CREATED, delta("so "))
    server = Server(
        [*numbered(CREATED), *ended(question())],
        broken(*begun),
        httpx.ConnectError("no"),
        [error("run_restarted")],
        [CREATED, *ended(question("r"), text="so be it")],
    )
    assert await talk(server, "hello\ny\n", file) == (0, f"{ASKS}so \nso be it\n{ASKS}")
    following = [("GET", f"{RUN}?stream=true&starting_after=1")] * 2
    assert server.asked == [("POST", f"{BASE}/responses"), *following, ("GET", f"{RUN}?stream=true")]
    assert LOST not in await talk(Server(), "", file)


async def test_an_answer_is_sent_again_with_its_key(file: Path, autojump_clock: trio.testing.MockClock) -> None:
    server = Server(ended(question()), broken(), httpx.ConnectError("no"), [CREATED, *ended(text="done")])
    assert await talk(server, "hello\ny\n", file, api_key="secret") == (0, f"{ASKS}done\n")
    assert len({request.headers["idempotency-key"] for request in server.requests[1:]}) == 1
    assert inputs(server)[1:] == [[output("true")]] * 3
