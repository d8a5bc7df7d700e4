"""Each example does what it says."""

import socket
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.sites import TOKEN, BotApi
from tests.examples.conftest import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
TESTED = {
    "approval_client.py",
    "approval_workflow.py",
    "embed_quart.py",
    "no_http.py",
    "one_person.py",
    "openai_client.py",
    "stand_alone.py",
    "telegram_bot.py",
    "tool_approval.py",
    "webhooks.py",
}


def example(name: str) -> str:
    return str(EXAMPLES / name)


def post(url: str, text: str) -> httpx.Response:
    return httpx.post(url, content=text, timeout=60, trust_env=False)


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == TESTED


def test_embedded_in_quart(start: Any, tmp_path: Path) -> None:
    server = start(example("embed_quart.py"), "0", folder=tmp_path)
    assert post(f"{server.address}/hello/ada", "My name is Ada.").text.startswith("Nice to meet you, Ada.")
    assert post(f"{server.address}/hello/grace", "What is my name?").text == "You have not told me your name yet."
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", timeout=60) as client:
        assert client.responses.create(model="any", input="what is 2 + 3?").output_text == "2 + 3 = 5"
    server.stop()

    again = start(example("embed_quart.py"), "0", folder=tmp_path)
    assert post(f"{again.address}/hello/ada", "What is my name?").text == "Your name is Ada."
    assert httpx.get(f"{again.address}/visitors", timeout=60, trust_env=False).json() == ["ada", "grace"]
    again.stop()


def test_stand_alone(start: Any) -> None:
    server = start(example("stand_alone.py"), "0")

    def client(key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{server.address}/v1", api_key=key, timeout=60, max_retries=0)

    with client("shop-secret") as shop, client("staff-secret") as staff, client("none") as nobody:
        asked = shop.responses.create(model="any", input="What time is it in Oslo?", conversation="order-7")
        assert asked.output_text.startswith("In Oslo it is ")
        count = "How many messages did I send?"
        mine = shop.responses.create(model="any", input=count, conversation="order-7")
        assert mine.output_text == "With this one, you have sent me 2 messages."
        theirs = staff.responses.create(model="any", input=count, conversation="order-7")
        assert theirs.output_text == "With this one, you have sent me 1 message."
        with pytest.raises(openai.AuthenticationError):
            nobody.responses.create(model="any", input="hello")
    assert "stopped in " in server.stop()


def test_no_http_and_the_second_time_it_knows(start: Any, tmp_path: Path) -> None:
    first = start(example("no_http.py"), folder=tmp_path).ended()
    assert first.startswith("ada: What is my name?\n  You have not told me your name yet.\n")
    assert "grace: My name is Grace.\n  Nice to meet you, Grace." in first
    assert "ada: count to 5\n  1 2 3 4 5\n  (run_" in first
    assert first.endswith("\n  With this one, you have sent me 4 messages.\n")
    second = start(example("no_http.py"), folder=tmp_path).ended()
    assert second.startswith("ada: What is my name?\n  Your name is Ada.\n")
    assert second.endswith("\n  With this one, you have sent me 8 messages.\n")


def test_openai_client(start: Any, demo: Any) -> None:
    assert start(example("openai_client.py"), f"{demo.address}/v1").ended().splitlines() == [
        "conversation: Your name is Ada.",
        "right branch: Your name is Grace.",
        "left branch: Your name is Admiral.",
        "1 |2 |3 |4 |5| completed",
        "call: weather {'city': 'Oslo'}",
        "with its output: weather says: Rain.",
        "error: 400 previous_response_not_found",
    ]


def test_a_workflow_that_asks(start: Any, tmp_path: Path) -> None:
    serve = ["-m", "afactors", "examples.approval_workflow:make_desk", "--port", "0"]
    server = start(*serve, folder=tmp_path)
    told = [
        "refund order-6 20: Paid 20 for order-6; 20 in all.",
        "request_info: {'order': 'order-7', 'amount': 120}, to be answered by a boolean",
        "error: 409 question_open",
    ]
    url = f"{server.address}/v1"
    assert start(example("approval_client.py"), "yes", url).ended().splitlines() == [
        *told,
        "true: Paid 120 for order-7; 140 in all.",
        "refund order-8 5: Paid 5 for order-8; 145 in all.",
    ]
    assert start(example("approval_client.py"), "no", url).ended().splitlines() == [
        *told,
        "false: No refund for order-7.",
        "refund order-8 5: Paid 5 for order-8; 25 in all.",
    ]
    with openai.OpenAI(base_url=url, api_key="none", timeout=60) as client:
        asked = client.responses.create(model="any", input="refund order-9 90")
    server.kill()
    again = start(*serve, folder=tmp_path)
    with openai.OpenAI(base_url=f"{again.address}/v1", api_key="none", timeout=60) as client:
        output: Any = {"type": "function_call_output", "call_id": asked.output[0].call_id, "output": "true"}
        answer = client.responses.create(model="any", previous_response_id=asked.id, input=[output])
    assert answer.output_text == "Paid 90 for order-9; 90 in all."
    again.stop()


def test_a_tool_that_must_be_approved(start: Any, tmp_path: Path) -> None:
    def run(*arguments: str) -> list[str]:
        lines: list[str] = start(example("tool_approval.py"), *arguments, folder=tmp_path).ended().splitlines()
        return lines

    waits = "delete_note {'number': 7} waits for a yes or no"
    assert run() == [waits]
    assert run("yes") == [waits, "  (the tool runs: note 7 is gone)", "Deleted note 7."]
    assert run("yes") == ["nothing waits"]
    assert run() == [waits]
    assert len(run("no")) == 2
    assert run("yes") == ["nothing waits"]


def test_one_person(start: Any, tmp_path: Path) -> None:
    told = [
        "My name is Ada. Nice to meet you, Ada. I will remember your name.",
        "How many messages did I send? With this one, you have sent me 2 messages.",
        "What is my name? Your name is Ada.",
        "What is my name, again? You have not told me your name yet.",
        "What did I say first? This is the first thing you have said to me.",
        "How many messages did I send? With this one, you have sent me 3 messages.",
        "sessions: 2",
        "exported: ada",
        "erased: True sessions: 0",
        "imported, sessions: 2",
        "How many messages did I send? With this one, you have sent me 2 messages.",
    ]
    for _ in range(2):
        assert start(example("one_person.py"), folder=tmp_path).ended().splitlines() == told


def test_telegram_bot(start: Any, tmp_path: Path) -> None:
    with BotApi() as api:

        def talk(text: str, count: int) -> str:
            api.say(7, text)
            seen: list[str] = eventually(lambda: (found := api.seen(7)) and len(found) == count and found, text)
            return seen[-1]

        def begin() -> Any:
            return start(
                example("telegram_bot.py"),
                "0",
                folder=tmp_path,
                TELEGRAM_TOKEN=TOKEN,
                TELEGRAM_API=api.url,
                ALLOW="7 @grace",
            )

        bot = begin()
        assert talk("My name is Ada.", 1).startswith("Nice to meet you, Ada.")
        assert talk("/whoami", 2) == "You are User 7; your conversation is telegram:7."
        api.say(8, "Let me in!")
        (refusal,) = eventually(lambda: api.seen(8), "a stranger is refused")
        assert "whom its operator has let in" in refusal
        bot.kill()
        bot = begin()
        assert talk("What is my name?", 3) == "Your name is Ada."
        assert "stopped in " in bot.stop()
        assert TOKEN not in bot.output


def test_webhooks(start: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    for _ in range(2):
        assert start(example("webhooks.py"), port, folder=tmp_path).ended().splitlines() == [
            "accepted: 202, the same run again: True",
            "forged: 401 unverified",
            "the shop got afactors.reply, genuine: True: 6 * 7 = 42",
        ]
