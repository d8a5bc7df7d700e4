"""SIGKILL at random moments of thousands of deliveries to a receiver that fails a third of the time: none is lost."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

SECRET = "whsec_" + base64.b64encode(b"\x07" * 32).decode()
LANES = 50
EACH = 40
KILLS = 6
AT_ONCE = 16  # of the sender's policy
SEED = random.randrange(2**32)  # noqa: S311 - moments of death; a failure tells it


class Site:
    """The receiver: what it took, in its order. A third of what comes it does not take."""

    def __init__(self, chance: random.Random) -> None:
        self.taken: list[tuple[int, int, str]] = []  # lane, number, webhook-id
        self.bodies: dict[str, set[bytes]] = defaultdict(set)
        self.requests = 0
        self.url = ""
        self._chance = chance
        self._lock = threading.Lock()
        self._webhook = Webhook(SECRET)

    def answer(self, headers: dict[str, str], body: bytes) -> int | None:
        """A status, or None to close the connection without one."""
        with self._lock:
            self.requests += 1
            fate = self._chance.random()
            event: Any = self._webhook.verify(body, headers)
            name = headers["webhook-id"]
            self.bodies[name].add(body)
            if fate < 1 / 3:
                return self._chance.choice([500, 503, None])
            lane, number = map(int, event["data"]["text"].split("/"))
            assert event["data"]["conversation"] == f"lane-{lane}"
            self.taken.append((lane, number, name))
            return 204


@contextmanager
def served(site: Site) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = site.answer(headers, self.rfile.read(int(headers["content-length"])))
            if status is None:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

        def handle_error(self, *_args: Any) -> None:
            """A client that is gone is what this is about."""

    with Server(("127.0.0.1", 0), Handler) as server:
        site.url = f"http://127.0.0.1:{server.server_port}/hook"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def deliver(
    folder: Path, start: Callable[[str], subprocess.Popen[str]], *, lanes: int, each: int, kills: int, longest: float
) -> dict[str, Any]:
    """Send and deliver everything, with so many deaths on the way; what came of it."""
    chance = random.Random(SEED)  # noqa: S311
    site = Site(random.Random(SEED + 1))  # noqa: S311
    journal = folder / "journal"
    died = 0
    with served(site):
        config = {"state": str(folder / "state"), "journal": str(journal), "url": site.url, "secret": SECRET}
        config = {**config, "lanes": lanes, "each": each}
        while True:
            before = site.requests
            with start(json.dumps(config)) as process:
                while site.requests == before and process.poll() is None:
                    time.sleep(0.005)
                if died < kills:
                    try:
                        process.wait(chance.uniform(0.0, longest))
                    except subprocess.TimeoutExpired:
                        process.kill()
                        died += 1
                        continue
                out, err = process.communicate(timeout=300)
                assert process.returncode == 0, err
                break
    sent = [json.loads(line) for line in journal.read_text().splitlines()]
    check(site, sent, lanes=lanes, each=each, kills=died)
    taken = [name for _, _, name in site.taken]
    return {
        "deliveries": len(sent),
        "attempts": site.requests,
        "kills": died,
        "repeats": len(taken) - len(set(taken)),
        **json.loads(out.splitlines()[-1]),
    }


def check(site: Site, sent: list[tuple[int, int, str]], *, lanes: int, each: int, kills: int) -> None:
    told = f"seed {SEED}"
    everything = {(lane, number) for lane in range(lanes) for number in range(each)}
    assert {(lane, number) for lane, number, _ in sent} == everything, told
    # None is lost: what was accepted arrived, by the id that the sender was given.
    assert {name for _, _, name in sent} <= {name for _, _, name in site.taken}, told
    # A repeat is the same message with the same id, byte for byte.
    assert all(len(bodies) == 1 for bodies in site.bodies.values()), told
    # What has two ids was committed and not yet answered when its sender was killed; nobody else can tell.
    ids = defaultdict(set)
    for lane, number, name in site.taken:
        ids[lane, number].add(name)
    assert sum(len(names) - 1 for names in ids.values()) <= kills * lanes, told
    for lane in range(lanes):
        order = [(number, name) for other, number, name in site.taken if other == lane]
        # A repeat follows its first arrival at once, and nothing overtakes anything.
        once = [one for one, _ in groupby(order)]
        assert len(once) == len(set(once)), told
        assert [number for number, _ in once] == sorted(number for number, _ in once), told
    repeats = len(site.taken) - len({name for _, _, name in site.taken})
    assert repeats <= kills * AT_ONCE, told  # what was under way at each death


@pytest.fixture
def start(agents_folder: Path, environment: Any) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def begin(config: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "sender.py", config],
            cwd=agents_folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()


def test_every_delivery_survives_sigkill(start: Any, tmp_path: Path) -> None:
    found = deliver(tmp_path, start, lanes=LANES, each=EACH, kills=KILLS, longest=1.0)
    print(found)
    assert found["kills"] > KILLS // 2, "it was over before it was killed"
    assert (found["deliveries"], found["dead"]) == (LANES * EACH, 0)
    assert found["attempts"] > 1.3 * found["deliveries"]


@pytest.mark.soak
def test_for_long(start: Any, tmp_path: Path) -> None:
    found = deliver(tmp_path, start, lanes=LANES, each=1000, kills=60, longest=4.0)
    print(found)
    assert found["kills"] > 30
    assert (found["deliveries"], found["dead"]) == (LANES * 1000, 0)
