"""Workflows that are cut off in the middle: what runs again, what does not, and what their clients see of it."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response

DESK = "flows:make_desk"


def say(sdk: openai.OpenAI, said: Any, **fields: Any) -> Response:
    response: Response = sdk.responses.create(model="any", input=said, **fields)
    return response


def ended(until: Callable[..., Any], sdk: openai.OpenAI, response_id: str) -> Response:
    """A response of the background, once it has ended."""
    found: Response = until(
        lambda: r if (r := sdk.responses.retrieve(response_id)).status not in ("queued", "in_progress") else None,
        f"{response_id} ends",
    )
    return found


def done(server: Any, what: str) -> list[str]:
    """What was written down, in its order."""
    return [entry["text"] for entry in server.journal() if entry["what"] == what]


class Walk:
    """Says when the workflow takes its next step."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.text = f"walk {path}"

    def go(self, steps: int = 1) -> None:
        with self._path.open("ab") as signals:
            signals.write(b"." * steps)


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    return Walk(tmp_path / "walk")


def test_sigkill_in_the_middle_of_a_workflow(servers: Any, walk: Walk, until: Any, tmp_path: Path) -> None:
    """It goes on with the superstep that was cut off: those before it do not run again, and all of it is told."""
    state = tmp_path / "state"
    first = servers.command(target=DESK, state=state)
    sdk = first.client()
    events: list[Any] = []

    def read() -> None:
        try:
            with sdk.responses.create(model="any", input=walk.text, background=True, stream=True) as stream:
                for event in stream:
                    events.append(event)  # noqa: PERF402 - others look at it meanwhile
        except (openai.APIConnectionError, httpx.HTTPError):
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    walk.go(2)
    until(lambda: "3" in done(first, "begin"), "two steps")
    until(lambda: sum(event.type == "response.output_text.delta" for event in events) == 2, "two words")
    first.kill()
    reader.join(60)
    assert (done(first, "begin"), done(first, "done")) == (["1", "2", "3"], ["1", "2"])
    response_id, last = events[0].response.id, events[-1].sequence_number

    second = servers.command(target=DESK, state=state)
    sdk = second.client()
    until(lambda: "3" in done(second, "begin"), "the third step again")
    with sdk.responses.retrieve(response_id, stream=True, starting_after=last) as stream:
        [restarted] = list(stream)
    assert (restarted.type, restarted.code) == ("error", "run_restarted")
    walk.go(2)
    response = ended(until, sdk, response_id)
    pids = [f"{server.process.pid}" for server in (first, first, second, second)]
    assert response.output_text.split() == [f"{pid}-{step}" for step, pid in enumerate(pids, 1)]
    assert done(second, "start") == []
    assert done(second, "done") == ["3", "4"]
    with sdk.responses.retrieve(response_id, stream=True) as stream:
        anew = list(stream)
    said = "".join(event.delta for event in anew if event.type == "response.output_text.delta")
    assert said.split() == response.output_text.split()
    assert anew[0].sequence_number > last
    assert second.stop() == 0


def test_a_stop_in_the_middle_of_a_workflow(servers: Any, walk: Walk, until: Any, tmp_path: Path) -> None:
    """What is put back goes on in the next process, too; a clean stop uses up none of its attempts."""
    state = tmp_path / "state"
    walk.go(1)
    first = servers.command("--drain-timeout", "0.2", target=DESK, state=state)
    sdk = first.client()
    response_id = say(sdk, walk.text, background=True).id
    until(lambda: "2" in done(first, "begin"), "a step")
    lives = [first]
    for _ in range(3):
        assert lives[-1].stop() == 0
        lives.append(servers.command("--drain-timeout", "0.2", target=DESK, state=state))
        until(lambda: "2" in done(lives[-1], "begin"), "the second step again")
    sdk = lives[-1].client()
    walk.go(3)
    response = ended(until, sdk, response_id)
    assert [word.partition("-")[2] for word in response.output_text.split()] == ["1", "2", "3", "4"]
    assert [done(life, "done") for life in lives] == [["1"], [], [], ["2", "3", "4"]]


def test_nobody_waits_any_more_and_it_happens(servers: Any, walk: Walk, until: Any, tmp_path: Path) -> None:
    """Also the turns of clients in the foreground are on disk before they begin."""
    state = tmp_path / "state"
    walk.go(1)
    first = servers.command(target=DESK, state=state)
    sdk = first.client()
    before = say(sdk, "hello")
    bodies: list[dict[str, Any]] = [
        {"input": walk.text, "conversation": "named"},
        {"input": walk.text, "previous_response_id": before.id},
    ]
    wires = [first.post(body) for body in bodies]
    until(lambda: done(first, "begin").count("2") == 2, "the second step, twice")
    first.kill()
    for wire in wires:
        wire.close()

    second = servers.command(target=DESK, state=state)
    sdk = second.client()
    walk.go(3)
    until(lambda: done(second, "done").count("4") == 2, "the last step, twice")
    # Who sends it again in the conversation says it twice; who continues from a response is told so.
    assert say(sdk, "hello again", conversation="named").output_text == "heard: hello again"
    items = sdk.conversations.items.list("named", order="asc").data
    texts = [item.content[0].text for item in items]  # type: ignore[union-attr]
    assert texts[0] == walk.text
    assert [text.partition("-")[2].strip() for text in texts[1:5]] == ["1", "2", "3", "4"]
    assert texts[5:] == ["hello again", "heard: hello again"]
    with pytest.raises(openai.ConflictError) as caught:
        say(sdk, walk.text, previous_response_id=before.id)
    assert caught.value.code == "not_the_head"
    assert sorted(done(second, "done")) == ["2", "2", "3", "3", "4", "4"]


def test_a_client_that_leaves_cancels_its_turn(servers: Any, walk: Walk, until: Any, tmp_path: Path) -> None:
    server = servers.command(target=DESK, state=tmp_path / "state")
    sdk = server.client()
    walk.go(1)
    wire = server.post({"input": walk.text, "conversation": "left"})
    until(lambda: "2" in done(server, "begin"), "it is under way")
    wire.close()
    assert say(sdk, "hello", conversation="left").output_text == "heard: hello"
    walk.go(3)
    assert len(sdk.conversations.items.list("left").data) == 2
    assert "2" not in done(server, "done")


def test_too_many_crashes(servers: Any, walk: Walk, until: Any, tmp_path: Path) -> None:
    """It fails in the end, and its conversation is where it was."""
    state = tmp_path / "state"
    response_id = ""
    for attempt in range(3):
        server = servers.command(target=DESK, state=state)
        if not attempt:
            response_id = say(server.client(), walk.text, background=True, conversation="fatal").id
        until(lambda server=server: "1" in done(server, "begin"), "it begins")
        server.kill()
    server = servers.command(target=DESK, state=state)
    sdk = server.client()
    response = ended(until, sdk, response_id)
    assert response.status == "failed"
    assert response.error is not None
    assert response.error.code == "attempts_exhausted"
    assert done(server, "begin") == []
    assert say(sdk, "hello", conversation="fatal").output_text == "heard: hello"


def test_an_output_of_a_type_that_is_not_listed(servers: Any, walk: Walk, tmp_path: Path) -> None:
    """It would have to be told again after a crash: that it cannot be is known before there is one."""
    refused = servers.command(target="flows:make_spoken", state=tmp_path / "one").client()
    with pytest.raises(openai.InternalServerError) as caught:
        say(refused, walk.text)
    assert caught.value.code == "checkpoint_refused"
    assert "flows:Unlisted" in caught.value.message
    walk.go(1)
    options = ["--checkpoint-type", "flows:Unlisted"]
    listed = servers.command(*options, target="flows:make_spoken", state=tmp_path / "two").client()
    assert '"going"' in say(listed, walk.text).output_text
