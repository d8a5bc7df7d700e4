"""Many messages at once to one conversation: each is a turn, in order of acceptance, none lost, none interleaved."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest

MESSAGES = 20


@pytest.fixture(scope="module")
def server(module_servers: Any) -> Any:
    return module_servers.hosted()


def check_turns(server: Any, told: Any, conversation: str, replies: dict[str, str]) -> list[str]:
    """Every message is one turn of the history, with the reply that its sender got; no two overlapped.

    Returns:
        The messages in the order of their turns.
    """
    history = told(server.client(), "history", conversation=conversation)
    assert [role for role, _ in history] == ["user", "assistant"] * len(replies)
    asked, answered = [text for _, text in history[::2]], [text for _, text in history[1::2]]
    assert sorted(asked) == sorted(replies)
    assert answered == [f"{number}: {text}" for number, text in enumerate(asked, 1)]
    assert dict(zip(asked, answered, strict=True)) == replies
    entries = [entry for entry in server.journal() if entry["text"] in replies]
    # start, end, start, end, …: never two at once, and in the history's order.
    assert [(entry["what"], entry["text"]) for entry in entries] == [
        (what, text) for text in asked for what in ("start", "end")
    ]
    return asked


def streamed(client: openai.OpenAI, text: str, conversation: str) -> str:
    with client.responses.stream(model="m", input=text, conversation=conversation) as stream:
        return str(stream.get_final_response().output_text)


def test_at_once_from_one_client(server: Any, told: Any) -> None:
    client = server.client()
    texts = [f"slowly 0.01 one-{number}" for number in range(MESSAGES)]
    with ThreadPoolExecutor(MESSAGES) as pool:
        replies = pool.map(lambda text: told(client, text, conversation="one"), texts)
        found = dict(zip(texts, replies, strict=True))
    check_turns(server, told, "one", found)


def test_at_once_from_two_clients_in_json_and_sse(server: Any, told: Any) -> None:
    clients = [server.client(), server.client()]
    texts = [f"slowly 0.01 two-{number}" for number in range(MESSAGES)]

    def say(number: int) -> str:
        how = told if number // 2 % 2 else streamed
        return str(how(clients[number % 2], texts[number], conversation="two"))

    order = list(range(MESSAGES))
    random.shuffle(order)
    with ThreadPoolExecutor(MESSAGES) as pool:
        found = dict(zip([texts[number] for number in order], pool.map(say, order), strict=True))
    check_turns(server, told, "two", found)


def test_in_order_of_acceptance(server: Any, told: Any, until: Any, tmp_path: Path) -> None:
    """Each is sent once the one before is in the mailbox, so that the order of acceptance is known."""
    gate = tmp_path / "gate"
    texts = [f"gate {gate} order-0", *(f"order-{number}" for number in range(1, MESSAGES))]
    clients = [server.client(), server.client()]
    with ThreadPoolExecutor(MESSAGES) as pool:
        replies = {}
        for number, text in enumerate(texts):
            how = told if number % 3 else streamed
            replies[text] = pool.submit(how, clients[number % 2], text, conversation="order")
            # With everything still behind the first one, `waiting` counts what was accepted.
            until(lambda: (f := server.figures())["running"] and f["waiting"] == number, f"{text} is accepted")  # noqa: B023
        gate.touch()
        found = {text: reply.result() for text, reply in replies.items()}
    assert check_turns(server, told, "order", found) == texts


def test_conversations_do_not_wait_for_each_other(server: Any, until: Any) -> None:
    """All of them are in their turns at the same time, each behind nobody."""
    with ExitStack() as stack:
        for number in range(MESSAGES):
            body = {"input": f"forever beside-{number}", "conversation": f"beside-{number}"}
            stack.enter_context(server.post(body))
        for number in range(MESSAGES):
            server.happened("start", f"forever beside-{number}")
        assert server.figures()["running"] == MESSAGES
    until(lambda: server.figures()["running"] == 0, "all have left")


def test_a_chain_and_its_conversation_are_one(server: Any, told: Any) -> None:
    """Points and the head of one conversation at once: the conversation keeps all of its own turns."""
    client = server.client()
    root = client.responses.create(model="m", input="root", conversation="head")

    def say(number: int) -> str:
        where: dict[str, str] = {"previous_response_id": root.id} if number % 2 else {"conversation": "head"}
        return str(told(client, f"slowly 0.01 h{number}", **where))

    with ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(say, range(10)))
    assert [reply for number, reply in enumerate(replies) if number % 2] == [
        f"2: slowly 0.01 h{number}" for number in range(1, 10, 2)
    ]
    history = told(client, "history", conversation="head")
    asked = [text for role, text in history if role == "user"]
    assert asked[0] == "root"
    assert sorted(asked[1:]) == [f"slowly 0.01 h{number}" for number in range(0, 10, 2)]
    assert json.dumps(history).count("slowly") == 10
