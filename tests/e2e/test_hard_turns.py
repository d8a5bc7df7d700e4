"""Turns that raise, block, never end, fork, call their own runtime; and clients that leave."""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest


@pytest.fixture(scope="module")
def server(module_servers: Any) -> Any:
    """Turns have two seconds, plenty for whatever does not mean to run into that; a stall is one of half a second."""
    return module_servers.hosted(turn_timeout=2.0, stall_warning=0.5)


@pytest.fixture(scope="module")
def patient(module_servers: Any) -> Any:
    """Turns have all the time that they want."""
    return module_servers.hosted()


@pytest.fixture(scope="module")
def finishing(module_servers: Any) -> Any:
    """Turns go on when their client leaves."""
    return module_servers.hosted(channel={"on_disconnect": "finish"})


def leave(wire: Any) -> None:
    wire.close()


def read_until(wire: Any, wanted: bytes) -> bytes:
    got = b""
    while wanted not in got:
        more = wire.recv(65536)
        assert more, f"the server closed the connection after {got!r}"
        got += more
    return got


# -- a turn that raises


@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_that_raises_leaves_no_trace(patient: Any, told: Any, stream: bool) -> None:
    client, conversation = patient.client(), f"raises-{stream}"
    told(client, "before", conversation=conversation)
    if stream:
        with client.responses.create(model="m", input="halfway x", conversation=conversation, stream=True) as events:
            assert [event.type for event in events][-1] == "response.failed"
    else:
        with pytest.raises(openai.InternalServerError):
            client.responses.create(model="m", input="halfway x", conversation=conversation)
    assert told(client, "history", conversation=conversation) == [["user", "before"], ["assistant", "1: before"]]
    assert told(client, "after", conversation=conversation) == "3: after"


def test_state_that_a_failed_turn_wrote_is_gone(patient: Any, told: Any) -> None:
    """The tool ran and changed the session; then the turn failed. Nothing of it is left, in memory either."""
    client = patient.client()
    keep = 'call remember {"text": "%s"}'
    assert told(client, keep % "first", conversation="state") == 'results: ["first"]'
    with pytest.raises(openai.APIStatusError):
        client.responses.create(
            model="m",
            input=[{"role": "user", "content": "call remember_and_fail"}],
            conversation="state",
        )
    assert told(client, keep % "second", conversation="state") == 'results: ["first second"]'


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("command", ["exit", "interrupt", "give-up"])
def test_a_turn_that_tries_to_end_the_process(patient: Any, told: Any, command: str, stream: bool) -> None:
    conversation = f"{command}-{stream}"
    with patient.http() as http:
        body = {"input": command, "conversation": conversation, "stream": stream}
        answer = http.post("/v1/responses", json=body)
    assert answer.status_code == (200 if stream else 500)
    assert ("response.failed" in answer.text) == stream
    assert '"server_error"' in answer.text
    assert told(patient.client(), "history", conversation=conversation) == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("command", ["surrogate", "silence"])
def test_a_turn_with_a_strange_answer(patient: Any, told: Any, command: str, stream: bool) -> None:
    """Half a character, or nothing: a turn like any other, and the conversation goes on."""
    client, conversation = patient.client(), f"{command}-{stream}"
    if stream:
        with client.responses.stream(model="m", input=command, conversation=conversation) as events:
            response: Any = events.get_final_response()
    else:
        response = client.responses.create(model="m", input=command, conversation=conversation)
    assert response.status == "completed"
    assert ("character" in response.output_text) == (command == "surrogate")
    assert told(client, "and on", conversation=conversation) == "2: and on"


# -- a turn that blocks its thread


def test_a_turn_that_blocks_the_thread(server: Any) -> None:
    with server.http() as http:
        assert http.get("/readyz").status_code == 200
        with server.post({"input": "block 3 thread", "conversation": "blocks"}) as wire:
            server.happened("start", "block 3 thread")
            slowest, not_ready = 0.0, None
            while not server.journal("block 3 thread")[1:]:
                began = time.monotonic()
                assert http.get("/healthz").json() == {"status": "ok"}
                slowest = max(slowest, time.monotonic() - began)
                ready = http.get("/readyz")
                if ready.status_code == 503:
                    not_ready = ready.json()
                time.sleep(0.05)
            answer = read_until(wire, b"\r\n\r\n")
        # Nothing else than a thread of its own makes this possible: it was blocked for three seconds on end.
        assert slowest < 1.5
        assert not_ready == {"status": "not ready", "reasons": ["the agent blocks its thread"]}
        # The watchdog says where it stands, once.
        assert server.stderr.count("blocked the bridge thread") == 1
        assert "time.sleep" in server.stderr
        assert answer.startswith(b"HTTP/1.1 504")  # it took longer than it had
        deadline = time.monotonic() + 30
        while http.get("/readyz").status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert http.get("/readyz").json() == {"status": "ready"}
    assert server.client().responses.create(model="m", input="and on").output_text == "1: and on"


# -- a turn that never ends


@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_that_never_ends(server: Any, told: Any, stream: bool) -> None:
    client, conversation = server.client(max_retries=2), f"endless-{stream}"
    told(client, "before", conversation=conversation)
    text = f"forever {stream}"
    if stream:
        with client.responses.create(model="m", input=text, conversation=conversation, stream=True) as events:
            last = list(events)[-1]
        assert last.type == "response.failed"
        assert last.response.error is not None
        assert last.response.error.code == "timeout"
    else:
        with pytest.raises(openai.InternalServerError) as caught:
            client.responses.create(model="m", input=text, conversation=conversation)
        assert (caught.value.status_code, caught.value.code) == (504, "timeout")
    # The agent was cancelled, its `finally` ran, and the SDK did not send it again.
    assert [entry["what"] for entry in server.journal(text)] == ["start", "cancelled"]
    assert told(client, "history", conversation=conversation) == [["user", "before"], ["assistant", "1: before"]]


# -- a client that leaves


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_turn(patient: Any, told: Any, stream: bool) -> None:
    client, conversation, text = patient.client(), f"leaves-{stream}", f"forever left {stream}"
    told(client, "before", conversation=conversation)
    wire = patient.post({"input": text, "conversation": conversation, "stream": stream})
    if stream:
        read_until(wire, b"response.in_progress")
    patient.happened("start", text)
    leave(wire)
    patient.happened("cancelled", text)
    assert told(client, "history", conversation=conversation) == [["user", "before"], ["assistant", "1: before"]]
    assert told(client, "after", conversation=conversation) == "3: after"


def test_a_stream_of_the_sdk_that_is_closed(patient: Any, told: Any) -> None:
    client, text = patient.client(), "forever sdk"
    with client.responses.create(model="m", input=text, conversation="sdk-left", stream=True) as stream:
        assert next(iter(stream)).type == "response.created"
        patient.happened("start", text)
    patient.happened("cancelled", text)
    assert told(client, "history", conversation="sdk-left") == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_lets_its_turn_finish(
    finishing: Any, told: Any, tmp_path: Path, until: Any, stream: bool
) -> None:
    client, conversation = finishing.client(), f"finishes-{stream}"
    text = f"gate {tmp_path / 'gate'} finish"
    wire = finishing.post({"input": text, "conversation": conversation, "stream": stream})
    if stream:
        read_until(wire, b"response.in_progress")
    finishing.happened("start", text)
    leave(wire)
    time.sleep(0.3)  # time in which it could be cancelled, wrongly
    (tmp_path / "gate").touch()
    finishing.happened("end", text)
    until(lambda: finishing.figures()["running"] == 0, "the turn has ended")
    assert told(client, "history", conversation=conversation) == [["user", text], ["assistant", f"1: {text}"]]


@pytest.mark.parametrize("stream", [False, True])
def test_a_queued_turn_whose_client_leaves_is_withdrawn(
    patient: Any, told: Any, tmp_path: Path, until: Any, stream: bool
) -> None:
    client, conversation, gate = patient.client(), f"queued-{stream}", tmp_path / "gate"
    running = f"gate {gate} first"
    with patient.post({"input": running, "conversation": conversation}) as wire:
        patient.happened("start", running)
        body = {"input": f"withdrawn {stream}", "conversation": conversation, "stream": stream}
        leaving = patient.post(body)
        until(lambda: patient.figures()["waiting"] == 1, "it waits")
        staying = threading.Thread(target=told, args=(client, "third"), kwargs={"conversation": conversation})
        staying.start()
        until(lambda: patient.figures()["waiting"] == 2, "another one waits")
        leave(leaving)
        until(lambda: patient.figures()["waiting"] == 1, "it is withdrawn")
        gate.touch()
        assert b" 200 " in read_until(wire, b"\r\n")
    staying.join(60)
    assert patient.journal(f"withdrawn {stream}") == []
    history = told(client, "history", conversation=conversation)
    assert [text for role, text in history if role == "user"] == [running, "third"]


def test_a_client_that_leaves_in_the_middle_of_its_body(patient: Any, told: Any) -> None:
    with patient.http() as http:
        host, _, port = patient.root.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port))) as half:
            half.sendall(b'POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"input": "never')
        assert http.get("/healthz").status_code == 200
    assert [entry for entry in patient.journal() if "never" in entry["text"]] == []


# -- forks


def test_a_fork_and_a_subprocess_in_a_tool(servers: Any, told: Any, tmp_path: Path) -> None:
    server = servers.command(state=tmp_path / "state")
    client = server.client()
    for number in range(3):
        assert told(client, "call fork", conversation="forks") == 'results: ["the child left with 7"]'
        assert told(client, "call spawn", conversation="forks") == 'results: ["42"]'
        assert told(client, f"and on {number}", conversation="forks") == f"{3 * number + 3}: and on {number}"
    server.kill()
    again = servers.command(state=tmp_path / "state").client()
    history = told(again, "history", conversation="forks")
    assert [text for role, text in history if role == "user"] == [
        text for number in range(3) for text in ("call fork", "call spawn", f"and on {number}")
    ]


def test_a_child_that_outlives_the_server_holds_no_state(servers: Any, told: Any, tmp_path: Path) -> None:
    server = servers.command(state=tmp_path / "state")
    reply = told(server.client(), 'call fork_and_stay {"seconds": 60}', conversation="stays")
    child = int(json.loads(reply.removeprefix("results: "))[0])
    try:
        server.kill()
        os.kill(child, 0)  # it is still there
        again = servers.command(state=tmp_path / "state").client()
        assert len(told(again, "history", conversation="stays")) == 4
    finally:
        os.kill(child, signal.SIGKILL)


# -- a tool that calls the runtime


def nested(conversation: str, text: str) -> str:
    return f"call ask {json.dumps({'conversation': conversation, 'text': text})}"


def test_a_tool_that_asks_its_own_session(patient: Any, told: Any) -> None:
    client = patient.client(timeout=20)
    assert told(client, nested("own", "hello me"), conversation="own") == 'results: ["409 would_deadlock"]'
    assert [entry["what"] for entry in patient.journal("hello me")] == ["asking"]
    assert told(client, "and on", conversation="own") == "2: and on"


def test_a_tool_that_asks_another_session(patient: Any, told: Any) -> None:
    client = patient.client(timeout=20)
    assert told(client, nested("other", "hello you"), conversation="asker") == 'results: ["1: hello you"]'
    assert told(client, "history", conversation="other") == [["user", "hello you"], ["assistant", "1: hello you"]]


def test_a_session_that_is_asked_asks_back(patient: Any, told: Any) -> None:
    """A asks B, whose turn asks A, which waits for B: an error at once, in the innermost."""
    client = patient.client(timeout=20)
    answer = told(client, nested("b", nested("a", "hello")), conversation="a")
    assert "409 would_deadlock" in answer
    assert [entry["what"] for entry in patient.journal("hello")] == ["asking"]


def test_a_client_that_leaves_cancels_what_its_tool_asked(patient: Any, told: Any, until: Any) -> None:
    with patient.post({"input": nested("inner", "forever inner"), "conversation": "outer"}):
        patient.happened("start", "forever inner")
    patient.happened("cancelled", "forever inner")
    until(lambda: patient.figures()["running"] == 0, "both have ended")
    for conversation in ("outer", "inner"):
        assert told(patient.client(), "history", conversation=conversation) == []


def test_two_that_ask_each_other(servers: Any, told: Any, tmp_path: Path) -> None:
    """Each would wait for the other: the second to ask is told so at once, and then the first is answered."""
    server = servers.hosted(turn_timeout=60.0)
    gate = tmp_path / "gate"
    with contextlib.ExitStack() as stack:
        wires = []
        for mine, other in (("a", "b"), ("b", "a")):
            asked = {"conversation": other, "text": f"from {mine}", "gate": str(gate)}
            body = {"input": f"call ask {json.dumps(asked)}", "conversation": mine}
            wires.append(stack.enter_context(server.post(body)))
            server.happened("asking", f"from {mine}")
        gate.touch()
        statuses = {name: read_until(wire, b"\r\n")[9:12] for name, wire in zip("ab", wires, strict=True)}
    assert set(statuses.values()) == {b"200"}
    told_so = 0
    for conversation in statuses:
        history = told(server.client(), "history", conversation=conversation)
        assert len([text for _, text in history if text.startswith("call ask")]) == 1
        told_so += sum("would_deadlock" in text for _, text in history)
        assert told(server.client(), "fine", conversation=conversation).endswith(": fine")
    assert told_so == 1


def test_a_tool_that_asks_a_session_that_waits_for_a_slot(servers: Any, tmp_path: Path, until: Any) -> None:
    server = servers.hosted(max_running_turns=1)
    gate = tmp_path / "gate"
    asked = {"conversation": "b", "text": "from a", "gate": str(gate)}
    with server.post({"input": f"call ask {json.dumps(asked)}", "conversation": "a"}) as asking:
        server.happened("asking", "from a")
        with server.post({"input": "own of b", "conversation": "b"}):
            until(lambda: server.figures()["queued_for_slot"] == 1, "b's own turn waits for the slot that a has")
            gate.touch()
            asking.settimeout(5)
            assert b" 200 " in read_until(asking, b"\r\n")


def test_a_turn_that_waits_for_a_slot_is_withdrawn_with_its_client(servers: Any, until: Any) -> None:
    server = servers.hosted(max_running_turns=1)
    with server.post({"input": "forever holds the slot", "conversation": "a"}):
        server.happened("start", "forever holds the slot")
        with server.post({"input": "never begins", "conversation": "b"}):
            until(lambda: server.figures()["queued_for_slot"] == 1, "it waits")
        until(lambda: server.figures()["queued_for_slot"] == 0, "it has left")
    assert server.journal("never begins") == []


def test_nested_turns_need_no_slots_of_their_own(servers: Any, told: Any) -> None:
    """With one turn at a time in the whole runtime, a tool can still ask."""
    server = servers.hosted(max_running_turns=1, max_parallel_sessions=1)
    answer = told(server.client(timeout=20), nested("x", nested("y", "deep")), conversation="w")
    assert "1: deep" in answer


def test_readyz_and_healthz_of_a_quiet_server(lab: Any) -> None:
    assert httpx.get(f"{lab.root}/healthz", trust_env=False).json() == {"status": "ok"}
    assert httpx.get(f"{lab.root}/readyz", trust_env=False).json() == {"status": "ready"}
