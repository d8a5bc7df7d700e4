"""SIGKILL at a random moment of many conversations' turns: what a client saw completed is there after the restart."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import openai

CONVERSATIONS = 50
KILLS = 4
SEED = random.randrange(2**32)  # noqa: S311 - moments of death; a failure tells it


@dataclass
class Talk:
    """One conversation, and what its client knows of it."""

    name: str
    chained: bool
    streaming: bool
    seen: list[tuple[str, str]] = field(default_factory=list)
    point: str | None = None
    said: int = 0

    @property
    def where(self) -> dict[str, Any]:
        if not self.chained:
            return {"conversation": self.name}
        return {"previous_response_id": self.point} if self.point else {}

    def say(self, client: openai.OpenAI) -> None:
        self.said += 1
        text = f"slowly {random.uniform(0, 0.1):.3f} {self.name}/{self.said}"  # noqa: S311 - a delay
        request: dict[str, Any] = {"model": "m", "input": text, **self.where}
        if self.streaming:
            with client.responses.stream(**request) as stream:
                response: Any = stream.get_final_response()
        else:
            response = client.responses.create(**request)
        assert response.status == "completed"
        self.seen.append((text, response.output_text))
        self.point = response.id

    def go_on(self, client: openai.OpenAI, unexpected: list[str]) -> None:
        """Talk until the server is gone."""
        try:
            while True:
                self.say(client)
        except (openai.APIConnectionError, RuntimeError):
            pass  # RuntimeError: the stream's helper, of a stream that broke off
        except Exception as exc:  # noqa: BLE001 - reported by the test
            if not type(exc).__module__.startswith("httpx"):
                unexpected.append(f"{self.name}: {exc!r}")

    def check(self, history: list[list[str]]) -> None:
        """Everything that was seen is there once, in order, and nothing else but turns that nobody saw the end of."""
        assert [role for role, _ in history] == ["user", "assistant"] * (len(history) // 2), self.name
        turns = [(user[1], reply[1]) for user, reply in zip(history[::2], history[1::2], strict=True)]
        assert len({text for text, _ in turns}) == len(turns), f"{self.name}: a message is there twice"
        if self.chained:
            # A point is exactly what it was when it was given out.
            assert turns == self.seen, self.name
            return
        numbers = [int(text.rpartition("/")[2]) for text, _ in turns]
        assert numbers == sorted(numbers), self.name
        assert [turn for turn in turns if turn in self.seen] == self.seen, self.name
        assert [reply for _, reply in turns] == [f"{n}: {text}" for n, (text, _) in enumerate(turns, 1)]
        # What nobody saw the end of can only be the last message before one of the kills.
        assert len(turns) - len(self.seen) <= KILLS, self.name


def test_every_reply_that_was_seen_survives_sigkill(servers: Any, told: Callable[..., Any], tmp_path: Any) -> None:
    talks = [Talk(f"talk-{n}", chained=n % 2 == 1, streaming=n % 4 > 1) for n in range(CONVERSATIONS)]
    state = tmp_path / "state"
    chance = random.Random(SEED)  # noqa: S311
    for _ in range(KILLS):
        server = servers.command(state=state)
        client = server.client()
        unexpected: list[str] = []
        threads = [threading.Thread(target=talk.go_on, args=(client, unexpected), daemon=True) for talk in talks]
        seen_before = sum(len(talk.seen) for talk in talks)
        for thread in threads:
            thread.start()
        # At a random moment, but in the middle of it: some have had answers.
        deadline = time.monotonic() + 30
        while sum(len(talk.seen) for talk in talks) < seen_before + CONVERSATIONS and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 1.5))
        server.kill()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        assert unexpected == []
        assert sum(len(talk.seen) for talk in talks) >= seen_before + CONVERSATIONS

    server = servers.command(state=state)
    client = server.client()
    # A kill in the middle: turns had begun that nobody saw the end of.
    assert sum(talk.said for talk in talks) > sum(len(talk.seen) for talk in talks)
    for talk in talks:
        assert talk.seen, f"{talk.name} never had an answer; seed {SEED}"
        talk.check(told(client, "history", **talk.where))
        talk.say(client)  # … and it goes on
    assert server.stop() == 0


def test_sigkill_before_a_stream_ends_leaves_no_half_turn(servers: Any, told: Any, tmp_path: Any) -> None:
    server = servers.command(state=tmp_path / "state")
    told(server.client(), "before", conversation="c")
    with server.post({"input": "slowly 30 never", "conversation": "c", "stream": True}) as wire:
        assert wire.recv(1) == b"H"
        server.happened("start", "slowly 30 never")
        server.kill()
    client = servers.command(state=tmp_path / "state").client()
    assert told(client, "history", conversation="c") == [["user", "before"], ["assistant", "1: before"]]
    assert told(client, "after", conversation="c") == "3: after"
