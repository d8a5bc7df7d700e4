"""The terminal chat keeps its answer through a server that is killed or stopped and started again."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.chats import Chat, chats

DEMO = "afactors.demo:create_agent"  # it counts fifty numbers in a second
LOST = "The connection was lost; waiting for the server ..."
RESTARTED = "The server was restarted; the answer begins again."


def numbers(last: int) -> str:
    return " ".join(map(str, range(1, last + 1)))


class Wire:
    """What is between a client and a server, and can be cut; `lose` answers are cut as they begin."""

    def __init__(self, server: Any, lose: int = 0) -> None:
        self._lose = lose
        self._port = int(server.root.rpartition(":")[2])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.passed = b""
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._port))
                except OSError:
                    near.close()
                    continue
                self._sockets += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65_536):
                if self._lose and data.startswith(b"HTTP/"):
                    self._lose -= 1
                    break
                other.sendall(data)
                self.passed += data
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        while self._sockets:
            one = self._sockets.pop()
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        self._listener.close()
        self.cut()


@pytest.fixture
def start_chat(environment: Any, tmp_path: Path) -> Iterator[Callable[..., Chat]]:
    with chats(environment, tmp_path / "mine") as start:
        yield start


@pytest.fixture
def serve(servers: Any, tmp_path: Path) -> Callable[..., Any]:
    """Starts the demonstration agent on the same port and folder every time."""
    port = "0"

    def serve(*arguments: str) -> Any:
        nonlocal port
        server = servers.command("--port", port, *arguments, target=DEMO, state=tmp_path / "state")
        port = server.root.rpartition(":")[2]
        return server

    return serve


@pytest.mark.parametrize(("terminal", "key"), [(False, None), (True, "sesame")])
def test_the_answer_survives_a_server_that_is_killed(
    serve: Any, start_chat: Any, until: Any, terminal: bool, key: str | None
) -> None:
    keys = ["--api-key", key] if key else []
    server = serve(*keys)
    chat = start_chat(server.base_url, *keys, terminal=terminal)
    chat.type("count to 150\n")
    until(lambda: " 20 21 " in chat.shown, "it is in the middle")
    server.kill()
    if terminal:
        until(lambda: LOST in chat.shown, "it says that it waits")
    serve(*keys)
    until(lambda: f"{numbers(150)}\n" in chat.shown, "the whole answer")
    chat.type("what did I say first?\n")
    until(lambda: "The first thing you said was: 'count to 150'." in chat.shown, "the next answer")
    assert chat.leave() == 0
    lines = chat.shown.splitlines()
    at = lines.index(numbers(150))
    if terminal:
        assert lines[at - 2 : at] == [LOST, RESTARTED]
    before = lines[at - (3 if terminal else 1)].removeprefix("> ").strip()
    assert numbers(150).startswith(before)
    assert before != numbers(150)
    assert chat.shown.count(numbers(150)) == 1


def test_the_answer_survives_a_server_that_stops(serve: Any, start_chat: Any, until: Any) -> None:
    """It is put back, and runs again in the next process."""
    server = serve("--drain-timeout", "0.3")
    chat = start_chat(server.base_url, terminal=True)
    chat.type("count to 150\n")
    until(lambda: " 20 21 " in chat.shown, "it is in the middle")
    assert server.stop() == 0
    serve()
    until(lambda: f"\n{numbers(150)}" in chat.shown, "the whole answer")
    assert chat.leave() == 0
    assert f"\n{LOST}\n{RESTARTED}\n{numbers(150)}\n" in chat.shown
    assert chat.shown.count(numbers(150)) == 1


def test_an_answer_that_ends_in_time_is_not_disturbed(serve: Any, start_chat: Any, until: Any) -> None:
    server = serve()
    chat = start_chat(server.base_url)
    chat.type("count to 100\n")
    until(lambda: " 20 21 " in chat.shown, "it is in the middle")
    assert server.stop() == 0
    assert chat.leave() == 0
    assert chat.shown == f"{numbers(100)}\n"


def test_a_message_that_waits_is_answered_after_the_restart(serve: Any, start_chat: Any, until: Any) -> None:
    """Another one of its conversation is ahead of it when the server is killed."""
    server = serve()
    where = ("--conversation", "conv_both")
    with contextlib.closing(Wire(server)) as wire:
        first, second = start_chat(server.base_url, *where), start_chat(wire.address, *where)
        first.type("count to 150\n")
        until(lambda: " 20 21 " in first.shown, "it is in the middle")
        second.type("what did I say first?\n")
        until(lambda: b"event: response.queued" in wire.passed, "it waits")
        server.kill()
        serve()
        until(lambda: second.shown.endswith("\n"), "the second answer")
        assert (first.leave(), second.leave()) == (0, 0)
    assert first.shown.endswith(f"\n{numbers(150)}\n")
    assert second.shown == "The first thing you said was: 'count to 150'.\n"


def test_ctrl_c_cancels_the_run_on_the_server(serve: Any, start_chat: Any, until: Any) -> None:
    chat = start_chat(serve().base_url, terminal=True)
    chat.type("count to 500\n")
    until(lambda: " 20 21 " in chat.shown, "it is in the middle")
    chat.process.send_signal(signal.SIGINT)
    until(lambda: "Cancelled.\n" in chat.shown, "it is cancelled")
    chat.type("what did I say first?\n")
    until(lambda: "This is the first thing you have said to me." in chat.shown, "no trace of it")
    assert chat.leave() == 0


def test_ctrl_c_while_the_server_is_away(serve: Any, start_chat: Any, until: Any) -> None:
    server = serve()
    chat = start_chat(server.base_url, terminal=True)
    chat.type("count to 500\n")
    until(lambda: " 20 21 " in chat.shown, "it is in the middle")
    server.kill()
    until(lambda: LOST in chat.shown, "it waits")
    chat.process.send_signal(signal.SIGINT)
    until(lambda: "may still be running" in chat.shown, "it says so")
    assert chat.leave() == 0


def test_a_connection_that_is_cut_costs_nothing(serve: Any, start_chat: Any, until: Any) -> None:
    with contextlib.closing(Wire(serve())) as wire:
        chat = start_chat(wire.address)
        chat.type("count to 200\n")
        for last in (20, 60, 100, 140):
            until(lambda n=last: f" {n} " in chat.shown, "it goes on")
            wire.cut()
        until(lambda: chat.shown.endswith("\n"), "the end")
        assert chat.leave() == 0
    assert chat.shown == f"{numbers(200)}\n"


def test_what_events_do_not_tell_is_fetched(servers: Any, start_chat: Any, until: Any) -> None:
    server = servers.hosted(max_transcript=6_000)
    words = " ".join(f"w{n}" for n in range(45))
    chat = start_chat(server.base_url)
    chat.type(f"{words}\n")
    until(lambda: chat.shown.endswith("\n"), "the end")
    assert chat.leave() == 0
    assert chat.shown == f"1: {words}\n"


def test_a_message_that_is_sent_twice_is_taken_once(servers: Any, start_chat: Any, until: Any) -> None:
    key = ("--api-key", "sesame")
    with contextlib.closing(Wire(servers.command(*key), lose=2)) as wire:
        chat = start_chat(wire.address, *key)
        chat.type("hello\nagain\n")
        assert chat.leave() == 0
    assert chat.shown == "1: hello\n2: again\n"


def test_without_a_key_nobody_knows_whether_a_message_was_taken(servers: Any, start_chat: Any) -> None:
    with contextlib.closing(Wire(servers.command(), lose=1)) as wire:
        chat = start_chat(wire.address)
        chat.type("hello\n")
        assert chat.leave() == 1
    assert chat.shown.startswith("The connection failed (")
    assert chat.shown.endswith("). The message may or may not have been taken.\n")


def test_a_run_that_is_killed_too_often_is_given_up_by_the_server(serve: Any, start_chat: Any, until: Any) -> None:
    server = serve()
    chat = start_chat(server.base_url)
    chat.type("count to 500\n")
    for lines in range(3):
        until(lambda n=lines: chat.shown.count(" 20 21 ") == n + 1, "it is in the middle")
        server.kill()
        server = serve()
    assert chat.leave() == 1
    assert chat.shown.endswith("\nThe run was cut off too often.\n")


def test_a_restart_between_two_messages_is_not_noticed(serve: Any, start_chat: Any, until: Any) -> None:
    server = serve()
    chat = start_chat(server.base_url)
    for last in (1, 2):
        chat.type(f"count to {last}\n")
        until(lambda n=last: chat.shown.count("\n") == n, "the answer")
        server.kill()
        server = serve()
    chat.type("what did I say first?\n")
    assert chat.leave() == 0
    assert chat.shown == "1\n1 2\nThe first thing you said was: 'count to 1'.\n"
