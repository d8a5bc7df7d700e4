"""Runs through the end of a process: SIGKILL in the middle, SIGTERM in the middle, and letters that waited."""

import json
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

DELTA = "response.output_text.delta"
FOREVER = "forever through it all"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def again(servers: Any, state: Path) -> Any:
    """Starts a server where another one was: on its port, with its state."""

    def start(before: Any, *arguments: str) -> Any:
        assert before.process.poll() is not None
        port = before.root.rpartition(":")[2]
        server = servers.command("--port", port, *arguments, state=state)
        assert server.base_url == before.base_url
        return server

    return start


class Steps:
    """Says when the agent's next word comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = f"steps {path}"

    def go(self, words: int = 1) -> None:
        with self.path.open("ab") as signals:
            signals.write(b"." * words)

    def end(self) -> None:
        with self.path.open("ab") as signals:
            signals.write(b"\n")


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path / "steps")


class Reader(threading.Thread):
    """Asks for a response's events in a thread of its own, and reads them until they end or break off."""

    def __init__(self, ask: Callable[..., Any], *args: Any, **fields: Any) -> None:
        super().__init__(daemon=True)
        self.events: list[Any] = []
        self.trouble: Exception | None = None
        self._ask = partial(ask, *args, **fields)
        self.start()

    def run(self) -> None:
        try:
            with self._ask() as stream:
                for event in stream:
                    self.events.append(event)
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            self.trouble = exc

    def ended(self) -> list[Any]:
        self.join(60)
        assert not self.is_alive()
        return self.events

    @property
    def said(self) -> str:
        return text_of(self.events)


def text_of(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == DELTA)


def starts(*lives: Any, text: str) -> list[int]:
    """How often the agent began with a message, in each of the processes."""
    return [sum(entry["what"] == "start" for entry in life.journal(text)) for life in lives]


def follow(sdk: openai.OpenAI, response_id: str, **after: int) -> list[Any]:
    with sdk.responses.retrieve(response_id, stream=True, **after) as stream:
        return list(stream)


def status(sdk: openai.OpenAI, response_id: str) -> Any:
    return sdk.responses.retrieve(response_id).status


def wait_for(until: Any, sdk: openai.OpenAI, response_id: str, wanted: str) -> Any:
    return until(
        lambda: found if (found := sdk.responses.retrieve(response_id)).status == wanted else None,
        f"{response_id} is {wanted}",
    )


# -- SIGKILL


def test_a_stream_that_is_resumed_after_sigkill(
    servers: Any, again: Any, steps: Steps, state: Path, until: Any, told: Any
) -> None:
    first = servers.command(state=state)
    sdk = first.client()
    told(sdk, "before", conversation="c")
    request: dict[str, Any] = {"model": "m", "input": steps.text, "conversation": "c", "background": True}
    plain = Reader(sdk.responses.create, **request, stream=True)
    response_id = until(lambda: plain.events, "its first event")[0].response.id
    helper = Reader(sdk.responses.stream, response_id=response_id)
    steps.go(3)
    until(lambda: plain.said.count(" ") == helper.said.count(" ") == 3, "three words")
    first.kill()
    seen = plain.ended()[-1].sequence_number
    assert plain.trouble is not None
    assert helper.ended()
    assert helper.trouble is not None

    second = again(first)
    sdk = second.client()
    second.happened("start", steps.text)
    # Who comes from the old attempt hears of it once, wherever in it they were, and nothing of the new one.
    for after in (0, 3, seen - 1, seen):
        (event,) = follow(sdk, response_id, starting_after=after)
        assert (event.type, event.code) == ("error", "run_restarted")
        assert event.sequence_number == after
    # The helper asks from 0 and leaves out what has been seen: of the new attempt, that is nothing.
    resumed = Reader(sdk.responses.stream, response_id=response_id, starting_after=seen)
    anew = Reader(sdk.responses.retrieve, response_id, stream=True)
    until(lambda: anew.said.count(" ") == 3, "the three words again")
    steps.go(1)
    until(lambda: anew.said.count(" ") == 4, "and another one")
    # Numbers of this attempt can be resumed from.
    middle = anew.events[-1].sequence_number
    rest = Reader(sdk.responses.retrieve, response_id, stream=True, starting_after=middle - 2)
    steps.end()
    for reader in (resumed, anew, rest):
        events = reader.ended()
        assert reader.trouble is None
        assert events[-1].type == "response.completed"
        assert [event.sequence_number for event in events] == list(
            range(events[0].sequence_number, events[0].sequence_number + len(events))
        )
    assert anew.events[0].type == "response.created"
    assert anew.events[0].sequence_number > seen
    assert rest.events == anew.events[-len(rest.events) :]
    # One attempt's words, and no others.
    final = wait_for(until, sdk, response_id, "completed")
    assert final.output_text == anew.said == resumed.said
    assert {word.partition("-")[0] for word in final.output_text.split()[:-1]} == {str(second.process.pid)}
    assert {word.partition("-")[0] for word in plain.said.split()} == {str(first.process.pid)}
    assert starts(first, second, text=steps.text) == [1, 1]
    assert told(sdk, "history", conversation="c")[2:] == [["user", steps.text], ["assistant", final.output_text]]
    # Also when all is over.
    (event,) = follow(sdk, response_id, starting_after=seen)
    assert event.code == "run_restarted"
    assert follow(sdk, response_id) == anew.events
    assert second.stop() == 0


def test_a_stream_that_was_cut_off_twice(servers: Any, again: Any, steps: Steps, state: Path, until: Any) -> None:
    """Each attempt's numbers are above those of all before it."""
    steps.go(5)
    server = servers.command(state=state)
    sdk = server.client()
    reader = Reader(sdk.responses.create, model="m", input=steps.text, background=True, stream=True)
    name = until(lambda: reader.events, "its first event")[0].response.id
    lives, last = [server], -1
    for _ in range(2):
        until(lambda reader=reader: reader.said.count(" ") == 5, "five words")
        server.kill()
        assert reader.ended()[0].sequence_number > last
        last = reader.events[-1].sequence_number
        server = again(server)
        lives.append(server)
        sdk = server.client()
        for after in (0, last):
            assert [event.type for event in follow(sdk, name, starting_after=after)] == ["error"]
        reader = Reader(sdk.responses.retrieve, name, stream=True)
    steps.end()
    assert reader.ended()[-1].type == "response.completed"
    assert reader.events[0].sequence_number > last
    assert starts(*lives, text=steps.text) == [1, 1, 1]


def test_a_run_that_kills_its_process_every_time(
    servers: Any, again: Any, state: Path, until: Any, tmp_path: Path, told: Any
) -> None:
    gate, bottle = tmp_path / "gate", tmp_path / "bottle"
    server = servers.command(state=state)
    lives, sdk = [server], server.client()
    request: dict[str, Any] = {"model": "m", "background": True, "conversation": "poisoned"}
    ahead = sdk.responses.create(input=f"gate {bottle}", **request).id
    poison = sdk.responses.create(input="call vanish", **request).id
    behind = sdk.responses.create(input="behind it", **request).id
    texts = [f"gate {gate} neighbour {number}" for number in range(4)]
    neighbours = [sdk.responses.create(model="m", input=text, background=True).id for text in texts]
    for text in texts:
        server.happened("start", text)
    bottle.touch()
    assert server.wait() == 9
    gate.touch()
    while len(lives) < 5:
        server = again(server)
        lives.append(server)
        until(lambda server=server: server.process.poll() is not None or _over(server, poison), "the poison's end")
        if server.process.poll() is None:
            break
    assert [len(life.journal("vanish")) for life in lives] == [1, 1, 1, 0]  # three attempts, and no more
    sdk = server.client()
    found = sdk.responses.retrieve(poison)
    assert (found.status, found.error.code if found.error else None) == ("failed", "attempts_exhausted")
    for response_id, text in zip(neighbours, texts, strict=True):
        assert wait_for(until, sdk, response_id, "completed").output_text == f"1: {text}"
    assert status(sdk, ahead) == "completed"
    assert wait_for(until, sdk, behind, "completed").output_text == "2: behind it"
    (item,) = sdk.responses.input_items.list(poison)
    assert item.content[0].text == "call vanish"  # type: ignore[union-attr]
    assert server.stop() == 0


def _over(server: Any, response_id: str) -> bool:
    try:
        return status(server.client(), response_id) in ("failed", "completed")
    except openai.APIConnectionError:
        return False


def test_letters_of_one_conversation_keep_their_order(
    servers: Any, again: Any, state: Path, until: Any, tmp_path: Path, told: Any
) -> None:
    """They waited, in one process and in the next; they are known there at once, and run in their order."""
    gate = tmp_path / "gate"
    first = servers.command(state=state)
    sdk = first.client()
    texts = [f"gate {gate} head", *(f"letter {number}" for number in range(6))]
    streamed = sdk.responses.create(model="m", input="streamed", conversation="line-2", background=True)
    wait_for(until, sdk, streamed.id, "completed")
    ids = [sdk.responses.create(model="m", input=t, conversation="line", background=True).id for t in texts]
    # One of them is followed; it has not begun, so that nothing of it is lost.
    follow_it: dict[str, Any] = {"conversation": "line", "background": True, "stream": True}
    waiting = Reader(sdk.responses.create, model="m", input="the last", **follow_it)
    last = until(lambda: waiting.events, "its first event")[0].response.id
    first.happened("start", texts[0])
    first.kill()
    assert [event.type for event in waiting.ended()] == ["response.created", "response.queued"]

    second = again(first)
    sdk = second.client()
    second.happened("start", texts[0])
    assert [status(sdk, each) for each in ids] == ["in_progress", *["queued"] * 6]
    assert [item.content[0].text for item in sdk.responses.input_items.list(ids[3])] == [texts[3]]  # type: ignore[union-attr]
    # What waits can be cancelled and deleted, in this process as in the first.
    assert sdk.responses.cancel(ids[2]).status == "cancelled"
    sdk.responses.delete(ids[4])
    resumed = Reader(sdk.responses.retrieve, last, stream=True, starting_after=1)
    gate.touch()
    events = resumed.ended()
    assert resumed.trouble is None
    assert [event.type for event in events[:2]] == ["response.in_progress", "response.output_item.added"]
    assert [event.sequence_number for event in events] == list(range(2, 2 + len(events)))
    assert events[-1].response.output_text == "6: the last"
    kept = [text for number, text in enumerate(texts) if number not in (2, 4)] + ["the last"]
    history = told(sdk, "history", conversation="line")
    assert [text for role, text in history if role == "user"] == kept
    assert [text for role, text in history if role == "assistant"] == [f"{n}: {t}" for n, t in enumerate(kept, 1)]
    assert starts(first, second, text=texts[0]) == [1, 1]
    assert all(starts(first, second, text=text) == [0, 1] for text in kept[1:])
    with pytest.raises(openai.NotFoundError):
        status(sdk, ids[4])
    assert second.stop() == 0


def test_what_was_seen_completed_is_the_same_after_sigkill(
    servers: Any, again: Any, state: Path, until: Any, tmp_path: Path
) -> None:
    first = servers.command(state=state)
    sdk = first.client()
    plain = sdk.responses.create(model="m", input="plain", metadata={"kept": "yes"})
    with sdk.responses.create(model="m", input="shape everything", stream=True) as stream:
        streamed = list(stream)
    with sdk.responses.create(model="m", input="shape cut", background=True, stream=True) as stream:
        cut = list(stream)
    with sdk.responses.create(model="m", input="halfway there", background=True, stream=True) as stream:
        failed = list(stream)
    running = sdk.responses.create(model="m", input=FOREVER, background=True)
    first.happened("start", FOREVER)
    cancelled = sdk.responses.cancel(running.id)
    made = sdk.conversations.create(metadata={"a": "b"}, items=[{"role": "user", "content": "hi"}])
    items = list(sdk.conversations.items.list(made.id))
    unanswered = first.post({"input": FOREVER, "stream": True, "conversation": "unanswered"})
    with unanswered:
        lost = json.loads(unanswered.recv(65536).partition(b"data: ")[2].partition(b"\n")[0] or "{}")
        first.kill()

    second = again(first)
    sdk = second.client()
    assert sdk.responses.retrieve(plain.id) == plain
    for events in (streamed, cut, failed):
        assert follow(sdk, events[0].response.id) == events
        assert follow(sdk, events[0].response.id, starting_after=2) == events[3:]
    assert sdk.responses.retrieve(streamed[0].response.id) == streamed[-1].response
    assert sdk.responses.retrieve(cut[0].response.id) == cut[-1].response
    assert status(sdk, failed[0].response.id) == "failed"
    assert sdk.responses.retrieve(running.id) == cancelled == sdk.responses.cancel(running.id)
    assert starts(second, text=FOREVER) == [0]
    assert sdk.conversations.retrieve(made.id) == made
    assert list(sdk.conversations.items.list(made.id)) == items
    # A turn in the foreground is acknowledged by its reply, and by nothing else.
    if lost:
        with pytest.raises(openai.NotFoundError):
            status(sdk, lost["response"]["id"])
    with pytest.raises(openai.NotFoundError):
        sdk.conversations.retrieve("unanswered")


# -- SIGTERM


def test_a_drain_puts_a_run_back(
    servers: Any, again: Any, steps: Steps, state: Path, until: Any, tmp_path: Path, told: Any
) -> None:
    """As often as a run may be attempted: a clean stop uses no attempt up."""
    server = servers.command("--drain-timeout", "0.2", state=state)
    sdk = server.client()
    steps.go(2)
    request: dict[str, Any] = {"model": "m", "background": True, "conversation": "drained"}
    reader = Reader(sdk.responses.create, input=steps.text, stream=True, **request)
    response_id = until(lambda: reader.events, "its first event")[0].response.id
    behind = sdk.responses.create(input="behind", **request).id
    lives = [server]
    for _ in range(3):
        until(lambda reader=reader: reader.said.count(" ") == 2, "two words")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        account = json.loads(server.stdout.splitlines()[-1])
        assert (account["event"], account["put_back"], account["cancelled"], account["finished"]) == (
            "stopped",
            2,
            0,
            0,
        )
        reader.ended()
        assert text_of(reader.events).count(" ") == 2
        assert reader.events[-1].type == DELTA  # it goes on, somewhere else
        assert [entry["what"] for entry in server.journal(steps.text)] == ["start", "cancelled"]
        seen = reader.events[-1].sequence_number
        server = again(server, "--drain-timeout", "0.2")
        lives.append(server)
        sdk = server.client()
        (event,) = follow(sdk, response_id, starting_after=seen)
        assert event.code == "run_restarted"
        reader = Reader(sdk.responses.retrieve, response_id, stream=True)
    steps.end()
    assert reader.ended()[-1].type == "response.completed"
    assert wait_for(until, sdk, behind, "completed").output_text == "2: behind"
    assert starts(*lives, text=steps.text) == [1] * 4
    assert len(told(sdk, "history", conversation="drained")) == 4
    assert server.stop() == 0


def test_the_account_says_what_was_put_back(servers: Any, until: Any, tmp_path: Path) -> None:
    arguments = ["-m", "afactors", "serve", "lab:agent", "--port", "0", "--drain-timeout", "0.2"]
    server = servers._start([*arguments, "--state-dir", str(tmp_path / "words")], {})

    def address() -> str | None:
        line = next((line for line in server.stdout.splitlines() if " address " in line), None)
        return line.split()[-1] if line and "Ctrl-C" in server.stdout else None

    server.wait_ready(address)
    server.client().responses.create(model="m", input=FOREVER, background=True)
    server.happened("start", FOREVER)
    assert server.stop() == 0
    assert "1 turn put back" in server.stdout.splitlines()[-1]
    assert server.stderr == ""


def test_a_drain_lets_a_run_finish_that_can(servers: Any, again: Any, state: Path, until: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    server = servers.command("--drain-timeout", "60", state=state)
    sdk = server.client()
    running = sdk.responses.create(model="m", input=f"gate {gate}", background=True, conversation="c").id
    reader = Reader(sdk.responses.retrieve, running, stream=True)
    waiting = sdk.responses.create(model="m", input="waits", background=True, conversation="c").id
    server.happened("start", f"gate {gate}")
    server.signal(signal.SIGTERM)

    def refused() -> bool:
        try:
            return bool(server.client().responses.create(model="m", input="late", background=True)) and False
        except openai.InternalServerError as refusal:
            return refusal.code == "draining"

    until(refused, "new runs are refused")
    gate.touch()
    assert reader.ended()[-1].type == "response.completed"
    assert server.wait() == 0
    account = json.loads(server.stdout.splitlines()[-1])
    assert (account["finished"], account["put_back"]) == (1, 1)
    sdk = again(server).client()
    assert sdk.responses.retrieve(running) == reader.events[-1].response
    assert wait_for(until, sdk, waiting, "completed").output_text == "2: waits"
