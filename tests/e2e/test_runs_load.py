"""Many runs at once, and readers that cannot keep up with one."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

POURED = "pour 500"  # 2 MB, and five times that as events: each of the closing ones has all of the text
TEXT = "".join(f"{number:08d}" + "x" * 4088 for number in range(500))


@pytest.fixture(scope="module")
def server(module_servers: Any) -> Any:
    return module_servers.hosted()


def memory(server: Any) -> float:
    """What the process has in memory, in megabytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def request_events(server: Any, path: str) -> socket.socket:
    """Ask for events, over a connection that holds little; nothing is read from it."""
    host, _, port = server.root.removeprefix("http://").rpartition(":")
    wire = socket.socket()
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire.settimeout(60)
    wire.connect((host, int(port)))
    wire.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    return wire


class Trickle:
    """A reader of one byte at a time, now and then."""

    def __init__(self, server: Any, response_id: str) -> None:
        self._wire = request_events(server, f"/v1/responses/{response_id}?stream=true")
        self.received = b""

    def read(self, size: int = 1) -> None:
        self.received += self._wire.recv(size)

    def rest(self) -> list[dict[str, Any]]:
        """Everything else, in a hurry."""
        chunks = [self.received]
        while chunk := self._wire.recv(1 << 20):
            chunks.append(chunk)
        head, _, body = b"".join(chunks).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        *blocks, done, nothing = _dechunked(body).decode().split("\n\n")
        assert (done, nothing) == ("data: [DONE]", "")
        return [json.loads(block.partition("data: ")[2]) for block in blocks]

    def close(self) -> None:
        self._wire.close()


def _dechunked(body: bytes) -> bytes:
    pieces, at = [], 0
    while at < len(body):
        end = body.index(b"\r\n", at)
        size = int(body[at:end], 16)
        pieces.append(body[end + 2 : end + 2 + size])
        at = end + 4 + size
    return b"".join(pieces)


def poured(client: openai.OpenAI, **more: Any) -> str:
    """A long run in the background, by its id."""
    with client.responses.create(model="m", input=POURED, background=True, stream=True, **more) as stream:
        return str(next(iter(stream)).response.id)


@pytest.fixture
def ended(server: Any, until: Any) -> Callable[[str], Any]:
    client = server.client()

    def end(response_id: str) -> Any:
        return until(
            lambda: found if (found := client.responses.retrieve(response_id)).status == "completed" else None,
            "the run ends",
        )

    return end


@contextmanager
def slow_readers(server: Any, number: int, gate: Path) -> Iterator[tuple[str, list[Trickle]]]:
    """A long run that begins when there is a file, and readers that follow it from the first event on, hardly."""
    client, name = server.client(), gate.parent.name
    client.responses.create(model="m", input=f"gate {gate}", background=True, conversation=name)
    response_id = poured(client, conversation=name)
    readers = [Trickle(server, response_id) for _ in range(number)]
    try:
        for reader in readers:
            reader.read()
        yield response_id, readers
    finally:
        for reader in readers:
            reader.close()


def test_slow_readers_hold_up_nobody(server: Any, ended: Any, tmp_path: Path) -> None:
    client, gate = server.client(), tmp_path / "gate"
    began = time.monotonic()
    ended(poured(client))
    undisturbed = time.monotonic() - began
    with slow_readers(server, 4, gate) as (response_id, slow):
        began = time.monotonic()
        gate.touch()
        # A reader that does read gets everything meanwhile, and so does whoever asks for the result.
        with client.responses.retrieve(response_id, stream=True) as stream:
            events = list(stream)
        assert events[-1].response.output_text == TEXT
        assert ended(response_id).output_text == TEXT
        assert time.monotonic() - began < 10 * undisturbed + 10
        # Slow is not lost: who catches up has it all, in order.
        late = slow[0].rest()
    assert [event["sequence_number"] for event in late] == list(range(len(events)))
    assert late[-1]["response"]["output"][0]["content"][0]["text"] == TEXT


def test_slow_readers_cost_little_memory(server: Any, ended: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    ended(poured(server.client()))
    before = memory(server)
    with slow_readers(server, 24, gate) as (response_id, _):
        gate.touch()
        ended(response_id)
        assert memory(server) - before < 160  # what they have not read is 240


def test_a_caller_that_reads_nothing_does_not_hold_up_its_own_run(server: Any, until: Any) -> None:
    client = server.client()
    with server.post({"input": POURED, "stream": True}) as wire:
        received = b""
        while b'"object"' not in received:
            received += wire.recv(1024)
        response_id = received.partition(b'"id":"')[2].partition(b'"')[0].decode()
        until(lambda: client.responses.retrieve(response_id).status == "completed", "it completes")
    assert client.responses.retrieve(response_id).output_text == TEXT


def _text(client: openai.OpenAI, response_id: str) -> str:
    return client.responses.retrieve(response_id).output_text


def test_a_stream_that_is_longer_than_what_is_kept(servers: Any, until: Any) -> None:
    """Its own caller gets it whole; who follows it hears that the rest was not kept, and gets the response instead."""
    server = servers.hosted(max_transcript=100_000)
    client = server.client()
    with client.responses.create(model="m", input="pour 50", stream=True) as stream:
        whole = list(stream)
    assert whole[-1].type == "response.completed"
    assert len(whole[-1].response.output_text) == 50 * 4096
    with client.responses.create(model="m", input="pour 50", background=True, stream=True) as stream:
        cut = list(stream)
    for events in (whole, cut):
        until(
            lambda events=events: _text(client, events[0].response.id) == whole[-1].response.output_text, "all is there"
        )
    assert (cut[-1].type, cut[-1].code) == ("error", "transcript_too_long")
    response_id = cut[0].response.id
    with client.responses.retrieve(response_id, stream=True) as stream:
        assert list(stream) == cut
    # Who resumes from there hears the same again, and nothing twice.
    with client.responses.retrieve(response_id, stream=True, starting_after=cut[-1].sequence_number) as stream:
        assert list(stream) == cut[-1:]


def test_thirty_runs_in_ten_conversations(server: Any, told: Any, until: Any) -> None:
    def submit(conversation: int) -> list[str]:
        client = server.client()
        return [
            client.responses.create(
                model="m",
                input=f"slowly 0.0{turn} turn {conversation}/{turn}",
                conversation=f"many-{conversation}",
                background=True,
            ).id
            for turn in range(3)
        ]

    with ThreadPoolExecutor(10) as pool:
        submitted = list(pool.map(submit, range(10)))
    client = server.client()
    for response_id in [each for ids in submitted for each in ids]:
        until(
            lambda response_id=response_id: client.responses.retrieve(response_id).status == "completed",
            "each completes",
        )
    for conversation, ids in enumerate(submitted):
        texts = [f"slowly 0.0{turn} turn {conversation}/{turn}" for turn in range(3)]
        expected = [pair for n, t in enumerate(texts, 1) for pair in (["user", t], ["assistant", f"{n}: {t}"])]
        assert told(client, "history", conversation=f"many-{conversation}") == expected
        outputs = [client.responses.retrieve(each).output_text for each in ids]
        assert outputs == [f"{number}: {text}" for number, text in enumerate(texts, 1)]
        entries = [entry for entry in server.journal() if entry["text"] in texts]
        assert [entry["what"] for entry in entries] == ["start", "end"] * 3
