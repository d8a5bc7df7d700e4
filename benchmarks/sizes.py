"""What a conversation of 1,000 turns takes in the store, against the messages that were said in it.

The turns come as HTTP requests to the Responses channel, without a server between: what is stored of a turn is what a
client's turn leaves. Messages are random words of 200 to 600 bytes. What a turn adds *beside its messages* is all that
it adds to the store, keys and values, less its two encoded messages.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio
from agent_framework import Agent, ChatResponse, Content, Message

from afactors import Runtime
from afactors.encoding import unpack
from afactors_channels import Endpoint, ResponsesChannel
from afactors_store import Claim, Commit, Committed, LmdbStore, keys

from .agents import ScriptedChatClient
from .hosted import payload_bytes
from .load import WrongAnswer
from .plan import Plan
from .report import Figure, Progress, Target, as_json, as_table

LOGICAL = Target("<=", 1.5)
FILE = Target("<=", 3)
BESIDE = Target("<=", 4096)
PROMISED_FOR = 1000  # turns

_KINDS = {keys.LOG: "logs", keys.RUN: "runs", keys.NAME: "names", keys.DOCUMENT: "documents"}  # an actor's own rows
_TABLES = {keys.NAMES: "names", keys.EXPIRY: "expiry"}
_SAMPLES = 20

_SHORTEST, _LONGEST = 200, 600
_SEED = 20_27
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Talker(ScriptedChatClient):
    """Answers with random words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = random.Random(_SEED)

    def text(self) -> str:
        """Something to say."""
        length = self.words.randint(_SHORTEST, _LONGEST)
        return "".join(self.words.choices(_LETTERS + "  ", k=length))

    async def _whole(self, messages: Sequence[Message]) -> ChatResponse[Any]:
        message_id = self._new_id()
        reply = Message(role="assistant", contents=[Content.from_text(self.text())], message_id=message_id)
        return ChatResponse(messages=[reply], response_id=message_id, finish_reason="stop")


class _Store(LmdbStore):
    """A store that counts what is handed over to it."""

    said = 0  # bytes of encoded messages
    handed_over = 0  # bytes of everything else, by the last commit

    async def commit(self, claim: Claim, commit: Commit) -> Committed:
        """Commit, and count."""
        rows = [row for append in commit.append for row in append.rows]
        messages = sum(len(row) for row in rows if "role" in unpack(row))
        self.said += messages
        self.handed_over = payload_bytes(commit) - messages
        return await super().commit(claim, commit)

    def rows(self) -> Mapping[bytes, bytes]:
        """Everything that is stored."""
        return self._open_here().engine.read(lambda kv: dict(kv.scan(b"\0", b"\xff" * 9)))


@dataclass(slots=True)
class _Sizes:
    """What a conversation came to, in bytes.

    Attributes:
        said: Its encoded messages.
        stored: All keys and values.
        file: What the store takes on the disk.
        beside: What a turn added beside its messages, on the average of some that followed each other.
        handed_over: What a turn handed to the store beside its messages.
        kinds: What the keys and values of each kind of row come to.
    """

    said: int = 0
    stored: int = 0
    file: int = 0
    beside: list[float] = field(default_factory=list)
    handed_over: list[float] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)


async def sizes(scenario: str, plan: Plan, progress: Progress) -> Sequence[Figure]:
    """A conversation by its name, and a chain of responses."""
    figures: list[Figure] = []
    progress.begin(scenario, 2)
    for label in ("conversation", "previous_response_id"):
        with trio.fail_after(plan.patience * 5), TemporaryDirectory(prefix="afactors-bench-", dir=plan.state_dir) as to:
            found = await _measured(Path(to), label, plan.history)
        figures += _figures(scenario, label, found, plan.history)
        progress.step(label)
    return figures


async def _measured(folder: Path, link: str, turns: int) -> _Sizes:
    talker, store, found = Talker(), _Store(folder, sync=False), _Sizes()
    agent: Agent[Any] = Agent(client=talker, name="talker")
    async with Runtime(agent, channels=[ResponsesChannel()], store=store) as runtime:
        app, body = runtime.asgi(), {"model": "talker"}
        if link == "conversation":
            body[link] = (await _post(app, "/v1/conversations", {}))["id"]
        every = max(1, turns // _SAMPLES)
        for number in range(1, turns + 1):
            response = await _post(app, "/v1/responses", {**body, "input": talker.text()})
            if link != "conversation":
                body[link] = response["id"]
            found.handed_over.append(store.handed_over)
            if number % every == 0:
                _look(store, found, every)
        _look(store, found, 0)
    found.file = await trio.to_thread.run_sync(_on_disk, folder)
    return found


def _on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _look(store: _Store, found: _Sizes, turns: int) -> None:
    """Note what is stored, so many turns after the last look."""
    rows = store.rows()
    stored = sum(len(key) + len(value) for key, value in rows.items())
    if turns:
        found.beside.append((stored - found.stored - (store.said - found.said)) / turns)
    found.said, found.stored = store.said, stored
    found.kinds.clear()
    for key, value in rows.items():
        kind = _KINDS.get(key[9:10], "other") if key[:1] == keys.ROWS else _TABLES.get(key[:1], "other")
        found.kinds[kind] += len(key) + len(value)


def _figures(scenario: str, label: str, found: _Sizes, turns: int) -> list[Figure]:
    def figure(name: str, value: float, unit: str = "", target: Target | None = None, **more: Any) -> Figure:
        promised = target.promised_from(PROMISED_FOR, turns) if target is not None else None
        return Figure(scenario, f"{label}: {name}", value, unit, target=promised, **more)

    return [
        figure("keys and values ÷ encoded messages", found.stored / found.said, target=LOGICAL),
        figure("file ÷ encoded messages", found.file / found.said, target=FILE),
        figure("a turn beside its messages, stored", max(found.beside), "B", BESIDE, rounds=tuple(found.beside)),
        figure("a turn beside its messages, handed over", max(found.handed_over), "B", BESIDE),
        figure("encoded messages", found.said, "B"),
        *(figure(f"in {kind}", size, "B") for kind, size in found.kinds.most_common()),
    ]


async def _post(app: Endpoint, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """One request to the channel.

    Raises:
        WrongAnswer: The answer is none.
    """
    raw, answer, status = json.dumps(body).encode(), bytearray(), 0
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(raw))]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    pending = [{"type": "http.request", "body": raw, "more_body": False}]

    async def receive() -> MutableMapping[str, Any]:
        if not pending:
            await trio.sleep_forever()
        return pending.pop()

    async def send(event: Mapping[str, Any]) -> None:
        nonlocal status
        status = event.get("status", status)
        answer.extend(event.get("body", b""))

    await app({**scope, "headers": headers, "http_version": "1.1", "scheme": "http"}, receive, send)
    if status != 200:
        raise WrongAnswer(f"{path} was answered {status}: {bytes(answer[:300])!r}")
    result: dict[str, Any] = json.loads(bytes(answer))
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code, 0 when it ran."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizes", description=__doc__)
    parser.add_argument("--turns", type=int, default=PROMISED_FOR, metavar="N", help="turns (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="the report as JSON, and nothing else on standard output")
    parser.add_argument("--state-dir", metavar="FOLDER", help="where the stores are made and deleted")
    given = parser.parse_args(arguments)
    progress = Progress()
    plan = Plan(history=max(1, given.turns), state_dir=given.state_dir)
    figures = trio.run(sizes, "sizes", plan, progress)
    progress.end()
    write = as_json if given.json else as_table
    print(write(figures, progress.notes, {"turns": plan.history}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
