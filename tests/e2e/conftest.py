"""Real server processes on loopback, and what the tests need to drive and to watch them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

AGENTS = Path(__file__).parent / "agents"
PATIENCE = 60.0  # seconds; only a hang takes so long


def eventually(check: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first true value of `check`."""
    deadline = time.monotonic() + patience
    while not (value := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"this did not happen in {patience:.0f} s: {what}")
        time.sleep(0.01)
    return value


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without anything that configures the program or the SDK."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AFACTORS_", "OPENAI_", "LAB_"))}
    return {**kept, "NO_PROXY": "*", **more}


class Server:
    """A server process and its clients."""

    def __init__(self, arguments: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.journal_path = folder / "journal"
        self._clients: list[Any] = []
        self._out, self._err = folder / "stdout", folder / "stderr"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=AGENTS,
                env=clean_environment(LAB_JOURNAL=str(self.journal_path), **environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,  # its children can be found, even those that outlive it
            )

    # -- what it says

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def wait_ready(self, look: Callable[[], str | None]) -> None:
        def ready() -> str | None:
            found = look()
            if found is None and self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}: {self.stderr}")
            return found

        self.base_url: str = eventually(ready, "the server is ready")
        self.root = self.base_url.removesuffix("/v1")

    def announced(self) -> str | None:
        line, end, _ = self.stdout.partition("\n")
        return json.loads(line)["address"] if end else None

    def journal(self, text: str | None = None) -> list[dict[str, Any]]:
        """What the agent wrote down, of one message or of all."""
        if not self.journal_path.exists():
            return []
        entries = [json.loads(line) for line in self.journal_path.read_text().splitlines()]
        return [entry for entry in entries if text is None or entry["text"] == text]

    def happened(self, what: str, text: str) -> dict[str, Any]:
        """Wait until the agent wrote this down."""
        found = eventually(lambda: [e for e in self.journal(text) if e["what"] == what], f"{what} {text!r}")
        return found[0]

    # -- talking to it

    def client(self, **options: Any) -> openai.OpenAI:
        settings = {"api_key": "none", "max_retries": 0, "timeout": PATIENCE, **options}
        client = openai.OpenAI(base_url=self.base_url, **settings)
        self._clients.append(client)
        return client

    def http(self) -> httpx.Client:
        client = httpx.Client(base_url=self.root, timeout=PATIENCE, trust_env=False)
        self._clients.append(client)
        return client

    def figures(self) -> dict[str, Any]:
        """The runtime's figures; `hosted.py` has them."""
        return httpx.get(f"{self.root}/figures", timeout=PATIENCE, trust_env=False).json()

    def post(self, body: dict[str, Any], path: str = "/v1/responses") -> socket.socket:
        """Send a request over a socket of one's own, and read nothing."""
        host, _, port = self.root.removeprefix("http://").rpartition(":")
        payload = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        wire = socket.create_connection((host, int(port)), timeout=PATIENCE)
        wire.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(payload) + payload)
        return wire

    # -- ending it

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, patience: float = PATIENCE) -> int:
        return self.process.wait(patience)

    def stop(self) -> int:
        """Ask it to stop, and wait."""
        self.close_clients()
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, and nothing is left of the process when this returns."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def kill_all(self) -> None:
        """SIGKILL for the process and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def close_clients(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()


class Servers:
    """Starts servers, and sees to it that none is left."""

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._started: list[Server] = []

    def _start(self, arguments: Sequence[str], environment: dict[str, str]) -> Server:
        server = Server(arguments, self._folder(), environment)
        self._started.append(server)
        return server

    def command(
        self,
        *arguments: str,
        target: str = "lab:agent",
        state: Path | None = None,
        ready: bool = True,
        environment: dict[str, str] | None = None,
    ) -> Server:
        """``python -m afactors serve``, on a free port."""
        folder = str(state or self._folder())
        options = ["--port", "0", "--json-logs", "--state-dir", folder, *arguments]
        server = self._start(["-m", "afactors", "serve", target, *options], environment or {})
        if ready:
            server.wait_ready(server.announced)
        return server

    def hosted(self, *, state: Path | None = None, channel: dict[str, Any] | None = None, **limits: Any) -> Server:
        """``hosted.py``: a runtime with limits that the command line does not have."""
        config = {"state": str(state or self._folder()), "channel": channel or {}, "limits": limits}
        server = self._start(["hosted.py", json.dumps(config)], {})
        server.wait_ready(server.announced)
        return server

    def channelled(self, state: Path, **config: Any) -> Server:
        """``channelled.py``: the lab's agent on several channels."""
        server = self._start(["channelled.py", json.dumps({"state": str(state), **config})], {})
        server.wait_ready(server.announced)
        return server

    def embedded(self, state: Path, *options: str, ready: bool = True) -> Server:
        """The Quart-Trio app, under hypercorn's own command; the worker is a process of its own."""
        arguments = ["-m", "hypercorn", "-k", "trio", "--bind", "127.0.0.1:0", *options, "embedded:app"]
        server = self._start(arguments, {"LAB_STATE": str(state)})

        def announced() -> str | None:
            _, found, rest = server.stderr.partition("Running on ")
            return f"{rest.split()[0]}/v1" if found and " " in rest else None

        if ready:
            server.wait_ready(announced)
        return server

    def close(self) -> None:
        for server in self._started:
            server.close_clients()
            server.kill_all()


@contextlib.contextmanager
def _servers(factory: pytest.TempPathFactory) -> Iterator[Servers]:
    servers = Servers(lambda: factory.mktemp("server"))
    try:
        yield servers
    finally:
        servers.close()


@pytest.fixture
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Servers for one test."""
    with _servers(tmp_path_factory) as found:
        yield found


@pytest.fixture(scope="module")
def module_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Servers for the tests of one module."""
    with _servers(tmp_path_factory) as found:
        yield found


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server of the lab's agent for whoever does not stop it: `serve lab:agent`."""
    with _servers(tmp_path_factory) as found:
        yield found.command()


@pytest.fixture(scope="session")
def sdk(lab: Server) -> openai.OpenAI:
    """The SDK against `lab`, without retries."""
    return lab.client()


@pytest.fixture(scope="session")
def told() -> Callable[..., Any]:
    """Says something and returns the answer's text; `history`, `options` and `contents` answer in JSON."""

    def tell(client: openai.OpenAI, text: str, **fields: Any) -> Any:
        answer = client.responses.create(model="any", input=text, **fields).output_text
        return json.loads(answer) if text in ("history", "options", "contents") else answer

    return tell


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """Waits for something to become true."""
    return eventually


@pytest.fixture(scope="session")
def environment() -> Callable[..., dict[str, str]]:
    """An environment for a process of the program's."""
    return clean_environment


@pytest.fixture(scope="session")
def agents_folder() -> Path:
    """Where the agents are."""
    return AGENTS
