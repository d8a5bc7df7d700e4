"""SIGTERM and SIGINT: running turns finish, new work is refused, and the last line tells what happened."""

import json
import re
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest


class Later(threading.Thread):
    """A call in a thread of its own, and what came of it."""

    def __init__(self, call: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(daemon=True)
        self._call, self._args, self._kwargs = call, args, kwargs
        self.result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._call(*self._args, **self._kwargs)
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            self.result = exc

    def outcome(self) -> Any:
        self.join(60)
        assert not self.is_alive()
        return self.result


def account(server: Any) -> dict[str, Any]:
    last: dict[str, Any] = json.loads(server.stdout.splitlines()[-1])
    assert last["event"] == "stopped"
    return last


def wait_draining(server: Any, until: Any) -> None:
    def draining() -> bool:
        ready = httpx.get(f"{server.root}/readyz", trust_env=False, timeout=30)
        return ready.status_code == 503 and ready.json()["reasons"] == ["stopping"]

    until(draining, "/readyz says that it stops")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_running_turn_finishes(servers: Any, told: Any, until: Any, tmp_path: Path, number: int) -> None:
    server = servers.command("--drain-timeout", "60", state=tmp_path / "state")
    gate = tmp_path / "gate"
    client = server.client()
    whole = Later(told, client, f"gate {gate} whole", conversation="whole")

    def stream() -> str:
        with client.responses.stream(model="m", input=f"gate {gate} stream", conversation="stream") as events:
            return str(events.get_final_response().output_text)

    streamed = Later(stream)
    server.happened("start", f"gate {gate} whole")
    server.happened("start", f"gate {gate} stream")
    server.signal(number)
    wait_draining(server, until)

    # New work is refused, on new connections and on old ones, and says when to come again.
    with pytest.raises(openai.InternalServerError) as caught:
        client.responses.create(model="m", input="too late", conversation="whole")
    assert (caught.value.status_code, caught.value.code) == (503, "draining")
    assert int(caught.value.response.headers["retry-after"]) >= 1
    late = httpx.post(f"{server.base_url}/responses", json={"input": "too late", "stream": True}, trust_env=False)
    assert late.status_code == 503
    assert httpx.get(f"{server.root}/healthz", trust_env=False).status_code == 200

    gate.touch()
    assert whole.outcome() == f"1: gate {gate} whole"
    assert streamed.outcome() == f"1: gate {gate} stream"
    assert server.wait() == 0
    assert (account(server)["finished"], account(server)["cancelled"]) == (2, 0)
    assert server.stderr == ""
    assert server.journal("too late") == []

    again = servers.command(state=tmp_path / "state").client()
    assert len(told(again, "history", conversation="whole")) == 2
    assert len(told(again, "history", conversation="stream")) == 2


def test_what_does_not_finish_in_time_is_cancelled(servers: Any, told: Any, tmp_path: Path) -> None:
    server = servers.command("--drain-timeout", "0.5", state=tmp_path / "state")
    client = server.client()
    told(client, "before", conversation="c")
    running = Later(told, client, "forever running", conversation="c")
    server.happened("start", "forever running")
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert time.monotonic() - began < 30
    # The agent's own `finally` ran, and its caller was told.
    assert [entry["what"] for entry in server.journal("forever running")] == ["start", "cancelled"]
    outcome = running.outcome()
    assert isinstance(outcome, openai.APIStatusError)
    assert (outcome.status_code, outcome.code) == (503, "draining")
    assert (account(server)["finished"], account(server)["cancelled"]) == (0, 1)
    again = servers.command(state=tmp_path / "state").client()
    assert told(again, "history", conversation="c") == [["user", "before"], ["assistant", "1: before"]]


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_is_faster(servers: Any, told: Any, until: Any, second: int) -> None:
    server = servers.command("--drain-timeout", "300")
    running = Later(told, server.client(), "forever", conversation="c")
    server.happened("start", "forever")
    server.signal(signal.SIGTERM)
    wait_draining(server, until)
    server.signal(second)
    assert server.wait() == 0
    assert isinstance(running.outcome(), openai.APIStatusError)
    assert account(server)["cancelled"] == 1


def test_agent_code_that_never_gives_its_thread_back(servers: Any, until: Any) -> None:
    """The process ends all the same: asked to, and past `stall_limit` by itself."""
    limits = {"drain_timeout": 0.5, "cancel_grace": 0.5}
    asked = servers.hosted(**limits)
    unasked = servers.hosted(**limits, stall_warning=0.3, stall_limit=1.0)
    with asked.post({"input": "block 100000"}), unasked.post({"input": "block 100000"}):
        asked.happened("start", "block 100000")
        asked.signal(signal.SIGTERM)
        until(lambda: asked.process.poll() is not None and unasked.process.poll() is not None, "both end", 20.0)


@pytest.mark.soak  # it takes the bridge's ten seconds of patience
def test_a_tool_that_never_returns_does_not_hold_up_the_end(servers: Any) -> None:
    server = servers.hosted(drain_timeout=0.5, cancel_grace=0.5)
    with server.post({"input": 'call nap {"seconds": 100000}'}):
        server.happened("napping", "100000.0")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert json.loads(server.stdout.splitlines()[-1])["cancelled"] == 1


def test_a_stop_with_idle_connections_is_quick(servers: Any, told: Any) -> None:
    """Keep-alive connections that nobody uses must not hold it up."""
    server = servers.command()
    host, _, port = server.root.removeprefix("http://").rpartition(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(5)]
    client = server.client()
    told(client, "hi")
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert time.monotonic() - began < 20
    for wire in idle:
        wire.close()


def test_the_account_in_words(servers: Any, tmp_path: Path, until: Any) -> None:
    server = servers._start(["-m", "afactors", "--port", "0", "--state-dir", str(tmp_path / "state")], {})
    until(lambda: "Ctrl-C stops it" in server.stdout, "it is ready")
    server.signal(signal.SIGINT)
    assert server.wait() == 0
    last = server.stdout.splitlines()[-1]
    assert re.fullmatch(r"stopped in \d+\.\d s: nothing was running", last)
    assert server.stderr == ""
