"""Overlap policies over HTTP: what becomes of a message to a conversation that is busy."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest


@pytest.fixture(scope="module")
def rejecting(module_servers: Any) -> Any:
    return module_servers.hosted(channel={"overlap": "reject"})


@pytest.fixture(scope="module")
def interrupting(module_servers: Any) -> Any:
    return module_servers.hosted(channel={"overlap": "interrupt"})


@contextmanager
def counted(server: Any, **options: Any) -> Iterator[tuple[openai.OpenAI, list[Any]]]:
    """A client of the SDK's with its default retries, and the requests that it sends."""
    sent: list[Any] = []
    http = openai.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    with openai.OpenAI(base_url=server.base_url, api_key="none", http_client=http, **options) as client:
        yield client, sent


@contextmanager
def busy(server: Any, text: str, conversation: str, **body: Any) -> Iterator[socket.socket]:
    """A conversation in which a turn runs."""
    with server.post({"input": text, "conversation": conversation, **body}) as wire:
        server.happened("start", text)
        yield wire


def answered(wire: socket.socket) -> str:
    """What was answered, once it has been answered."""
    received = b""
    while b"}" not in received.partition(b"\r\n\r\n")[2]:
        received += wire.recv(65536)
    return received.decode()


# -- reject


@pytest.mark.parametrize("body", [{}, {"stream": True}, {"background": True}])
def test_rejected(rejecting: Any, told: Any, tmp_path: Path, body: dict[str, Any]) -> None:
    gate, name = tmp_path / "gate", f"rejected{sorted(body)}"
    with busy(rejecting, f"gate {gate}", name) as wire, counted(rejecting) as (client, sent):
        assert client.max_retries == 2
        with pytest.raises(openai.ConflictError) as caught:
            client.responses.create(model="m", input="too early", conversation=name, **body)
        assert (caught.value.code, caught.value.param) == ("conversation_busy", "conversation")
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert "retry-after" not in caught.value.response.headers
        assert len(sent) == 1
        # Others are not busy, and neither is a branch.
        assert told(client, "elsewhere", conversation=f"{name}, another") == "1: elsewhere"
        gate.touch()
        assert f"1: gate {gate}" in answered(wire)
    assert told(rejecting.client(), "now", conversation=name) == "2: now"
    assert rejecting.journal("too early") == []


def test_rejected_while_a_background_run_waits(rejecting: Any, until: Any, tmp_path: Path, told: Any) -> None:
    gate, client = tmp_path / "gate", rejecting.client()
    run = client.responses.create(model="m", input=f"gate {gate}", conversation="behind", background=True)
    with pytest.raises(openai.ConflictError):
        client.responses.create(model="m", input="at once", conversation="behind", background=True)
    # A conversation is not edited under a turn's hands, but the edit waits: nothing is rejected.
    gate.touch()
    client.conversations.items.create("behind", items=[{"role": "user", "content": "a note"}])
    until(lambda: client.responses.retrieve(run.id).status == "completed", "it completes")
    assert [text for _, text in told(client, "history", conversation="behind")][-1] == "a note"


def test_rejected_over_a_websocket(rejecting: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with busy(rejecting, f"gate {gate} wire", "wire"), rejecting.client().responses.connect() as connection:
        connection.response.create(model="m", input="too early", conversation="wire")
        refused = connection.recv().to_dict()
        assert (refused["type"], refused["status"], refused["error"]["code"]) == ("error", 409, "conversation_busy")
        gate.touch()


def test_branches_are_not_rejected(rejecting: Any, tmp_path: Path, told: Any) -> None:
    gate, client = tmp_path / "gate", rejecting.client()
    root = client.responses.create(model="m", input="root")
    with rejecting.post({"input": f"gate {gate} branch", "previous_response_id": root.id}):
        rejecting.happened("start", f"gate {gate} branch")
        assert told(client, "another branch", previous_response_id=root.id) == "2: another branch"
        gate.touch()


def test_rejecting_goes_on_after_sigkill(servers: Any, tmp_path: Path, until: Any, told: Any) -> None:
    gate, config = tmp_path / "gate", {"state": tmp_path / "state", "channel": {"overlap": "reject"}}
    first = servers.hosted(**config)
    request: dict[str, Any] = {"model": "m", "conversation": "c"}
    run = first.client().responses.create(input=f"gate {gate}", background=True, **request)
    first.happened("start", f"gate {gate}")
    first.kill()
    second = servers.hosted(**config)
    # The first thing that this process is asked: it has to know of what is not in its memory.
    with pytest.raises(openai.ConflictError):
        second.client().responses.create(input="too early", **request)
    gate.touch()
    until(lambda: second.client().responses.retrieve(run.id).status == "completed", "it completes")
    assert told(second.client(), "now", conversation="c") == "2: now"


# -- interrupt


def test_interrupted(interrupting: Any, told: Any) -> None:
    client = interrupting.client()
    told(client, "before", conversation="whole")
    with busy(interrupting, "forever interrupted", "whole") as wire:
        assert told(client, "instead", conversation="whole") == "2: instead"
        answer = answered(wire)
    assert answer.startswith("HTTP/1.1 409")
    assert '"code":"interrupted"' in answer
    assert "x-should-retry: false" in answer
    assert [entry["what"] for entry in interrupting.journal("forever interrupted")] == ["start", "cancelled"]
    assert told(client, "history", conversation="whole") == [
        ["user", "before"],
        ["assistant", "1: before"],
        ["user", "instead"],
        ["assistant", "2: instead"],
    ]


@pytest.mark.parametrize("background", [False, True])
def test_an_interrupted_stream(interrupting: Any, told: Any, background: bool) -> None:
    client, name = interrupting.client(), f"stream-{background}"
    request: dict[str, Any] = {"input": f"forever {name}", "conversation": name, "background": background}
    with client.responses.create(model="m", stream=True, **request) as stream:
        response_id = next(iter(stream)).response.id
        interrupting.happened("start", f"forever {name}")
        assert told(client, "instead", conversation=name) == "1: instead"
        *_, last = stream
    assert (last.type, last.response.status) == ("response.failed", "cancelled")
    assert last.response.error.code == "interrupted"
    assert client.responses.retrieve(response_id) == last.response
    (item,) = client.responses.input_items.list(response_id)
    assert item.content[0].text == f"forever {name}"


def test_only_what_runs_is_interrupted(interrupting: Any, told: Any, until: Any) -> None:
    """What waits keeps its place; a burst of interruptions ends with the last one."""
    client = interrupting.client()
    texts = [f"forever burst {number}" for number in range(5)]
    ids = [client.responses.create(model="m", input=text, conversation="burst", background=True).id for text in texts]
    assert told(client, "the last", conversation="burst") == "1: the last"
    statuses = [client.responses.retrieve(each).status for each in ids]
    assert statuses == ["cancelled"] * 5
    assert told(client, "history", conversation="burst") == [["user", "the last"], ["assistant", "1: the last"]]


def test_interrupting_goes_on_after_sigkill(servers: Any, tmp_path: Path, until: Any, told: Any) -> None:
    """What was interrupted stays so, and what came through can be interrupted in the next process."""
    gate, config = tmp_path / "gate", {"state": tmp_path / "state", "channel": {"overlap": "interrupt"}}
    first = servers.hosted(**config)
    client = first.client()

    def submit(text: str, conversation: str) -> str:
        run = client.responses.create(model="m", input=text, conversation=conversation, background=True)
        first.happened("start", text)
        return str(run.id)

    old, later = submit("forever old", "before"), submit("forever later", "after")
    new = submit(f"gate {gate}", "before")
    first.kill()

    client = servers.hosted(**config).client()
    # The first thing that this process is asked: it has to know of what is not in its memory.
    assert told(client, "instead", conversation="after") == "1: instead"
    assert client.responses.retrieve(later).status == "cancelled"
    assert told(client, "history", conversation="after") == [["user", "instead"], ["assistant", "1: instead"]]
    gate.touch()
    until(lambda: client.responses.retrieve(new).status == "completed", "the one that interrupted completes")
    assert client.responses.retrieve(old).status == "cancelled"
    assert told(client, "history", conversation="before") == [
        ["user", f"gate {gate}"],
        ["assistant", f"1: gate {gate}"],
    ]


# -- enqueue


def test_enqueued(servers: Any, tmp_path: Path, told: Any, until: Any) -> None:
    """The default, said by name; a runtime that rejects is overruled by its channel."""
    gate = tmp_path / "gate"
    server = servers.hosted(channel={"overlap": "enqueue"}, overlap="reject")
    client = server.client()
    with busy(server, f"gate {gate}", "line") as wire:
        waiting = [
            client.responses.create(model="m", input=f"waits {number}", conversation="line", background=True)
            for number in range(3)
        ]
        assert [client.responses.retrieve(each.id).status for each in waiting] == ["queued"] * 3
        gate.touch()
        assert f"1: gate {gate}" in answered(wire)
    until(lambda: client.responses.retrieve(waiting[-1].id).status == "completed", "the last completes")
    outputs = [client.responses.retrieve(each.id).output_text for each in waiting]
    assert outputs == [f"{number + 2}: waits {number}" for number in range(3)]
