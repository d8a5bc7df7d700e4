"""The terminal chat with targets that ask: real processes, servers that are killed while the question is open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.chats import Chat, chats

HOUSE = Path(__file__).parent.parent.parent
DESK = "examples.approval_workflow:make_desk"
ASKED = '? clerk asks: {"order": "order-7", "amount": 120} (yes or no)\n'
LOST = "The connection was lost; waiting for the server ...\n"


@pytest.fixture
def start_chat(environment: Any, tmp_path: Path) -> Iterator[Callable[..., Chat]]:
    with chats(environment, tmp_path / "mine") as start:
        yield start


@pytest.fixture
def serve(servers: Any, tmp_path: Path) -> Callable[..., Any]:
    """Starts a target on the same port and folder every time."""
    port = "0"

    def serve(target: str, *arguments: str) -> Any:
        nonlocal port
        state, path = tmp_path / "state", {"PYTHONPATH": str(HOUSE)}
        server = servers.command("--port", port, *arguments, target=target, state=state, environment=path)
        port = server.root.rpartition(":")[2]
        return server

    return serve


@pytest.mark.parametrize("terminal", [False, True])
def test_a_question_outlives_a_server_that_is_killed(serve: Any, start_chat: Any, until: Any, terminal: bool) -> None:
    server = serve(DESK)
    chat = start_chat(server.base_url, terminal=terminal)
    chat.type("refund order-7 120\n")
    until(lambda: ASKED in chat.shown, "it asks")
    server.kill()
    serve(DESK)
    chat.type("maybe\nyes\n")
    until(lambda: "Paid 120 for order-7; 120 in all.\n" in chat.shown, "it goes on")
    chat.type("refund order-8 7\n")
    until(lambda: "Paid 7 for order-8; 127 in all.\n" in chat.shown, "and on")
    assert chat.leave() == 0
    assert chat.shown.count("Please answer yes or no.\n") == 1
    assert chat.shown.count(ASKED) == 1
    if not terminal:
        paid = "Paid 120 for order-7; 120 in all.\nPaid 7 for order-8; 127 in all.\n"
        assert chat.shown == f"{ASKED}Please answer yes or no.\n{paid}"


def test_a_question_outlives_the_chat_and_the_server(serve: Any, start_chat: Any) -> None:
    server = serve(DESK)
    first = start_chat(server.base_url)
    first.type("refund order-7 120\n")
    assert first.leave() == 0
    assert first.shown == ASKED
    server.kill()
    again = start_chat(serve(DESK).base_url)
    again.type("n\nrefund order-8 7\n")
    assert again.leave() == 0
    assert again.shown == f"{ASKED}No refund for order-7.\nPaid 7 for order-8; 7 in all.\n"


def test_an_answer_whose_turn_is_cut_off_goes_on(serve: Any, start_chat: Any, until: Any, tmp_path: Path) -> None:
    """The server is killed when the answer was given, and before it has an effect."""
    server = serve("flows_asking:make_slow")
    chat = start_chat(server.base_url, terminal=True)
    chat.type(f"wait for {tmp_path / 'go'}\n")
    until(lambda: "? slow asks: Shall I? (yes or no)\n" in chat.shown, "it asks")
    chat.type("y\n")
    server.happened("told", "True")
    server.kill()
    until(lambda: LOST in chat.shown, "it waits")
    serve("flows_asking:make_slow").happened("told", "True")
    (tmp_path / "go").touch()
    until(lambda: "It was True.\n" in chat.shown, "it goes on")
    assert chat.leave() == 0
    assert chat.shown.count("It was True.") == 1
    assert chat.shown.count("Shall I?") == 1


def test_two_questions_a_schema_and_a_refusal(serve: Any, start_chat: Any) -> None:
    chat = start_chat(serve("flows:make_desk").base_url)
    chat.type('both x\ny\nn\nchoose it\nyes\n{"approved": 7}\n{"approved": true, "reason": "so"}\n')
    assert chat.leave() == 0
    assert chat.shown.splitlines() == [
        '? desk asks: {"what": "first x"} (yes or no)',
        '? desk asks: {"what": "second x"} (yes or no)',
        "first x: True, answer 1 of this conversation",
        "second x: False, answer 2 of this conversation",
        '? desk asks: {"what": "it"} (JSON: {approved: boolean, reason?: string})',
        "This is not JSON (Expecting value, column 1). Please answer in JSON.",
        "The answer is no Choice: approved: Input should be a valid boolean, unable to interpret input",
        '? desk asks: {"what": "it"} (JSON: {approved: boolean, reason?: string})',
        "it: True because so",
    ]


def test_what_somebody_else_answered_meanwhile(serve: Any, start_chat: Any, until: Any) -> None:
    server = serve(DESK)
    chat = start_chat(server.base_url, "--conversation", "both")
    chat.type("refund order-7 120\n")
    until(lambda: ASKED in chat.shown, "it asks")
    with httpx.Client(base_url=server.base_url, trust_env=False, timeout=60) as other:
        [waiting] = other.get("/conversations/both").json()["waiting"]
        answer = {"type": "function_call_output", "call_id": waiting["id"], "output": "true"}
        assert other.post("/responses", json={"conversation": "both", "input": [answer]}).status_code == 200
    chat.type("n\nrefund order-8 7\n")
    assert chat.leave() == 0
    assert chat.shown == f"{ASKED}This was answered before.\nPaid 7 for order-8; 127 in all.\n"


def test_a_message_that_somebody_elses_question_holds_up(serve: Any, start_chat: Any, until: Any) -> None:
    server = serve(DESK)
    chat = start_chat(server.base_url, "--conversation", "both", terminal=True)
    until(lambda: "> " in chat.shown, "it is there")
    with httpx.Client(base_url=server.base_url, trust_env=False, timeout=60) as other:
        other.post("/responses", json={"conversation": "both", "input": "refund order-7 120"})
    chat.type("refund order-8 7\n")
    until(lambda: ASKED in chat.shown, "it asks")
    assert "the message was not taken" in chat.shown
    chat.type("y\n")
    until(lambda: "Paid 120 for order-7; 120 in all.\n" in chat.shown, "it goes on")
    assert chat.leave() == 0


@pytest.mark.parametrize("line", ["y", "n"])
def test_a_tool_that_wants_to_be_approved(serve: Any, start_chat: Any, line: str) -> None:
    server = serve("flows:guarded")
    chat = start_chat(server.base_url)
    chat.type('call wipe {"disk": "sda"}\n')
    assert chat.leave() == 0
    assert chat.shown == '? guarded asks whether to call wipe: {"disk": "sda"} (yes or no)\n'
    server.kill()
    server = serve("flows:guarded")
    again = start_chat(server.base_url)
    again.type(f"{line}\n")
    assert again.leave() == 0
    asked, *answer = again.shown.splitlines()
    assert asked == '? the agent asks whether to call wipe: {"disk": "sda"} (yes or no)'
    assert answer
    wiped = [entry["text"] for entry in server.journal() if entry["what"] == "wiped"]
    assert wiped == (["sda"] if line == "y" else [])
