"""`Idempotency-Key`: a repeat gets the first one's answer, or its running stream; never a second run."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

KEYS = ("key-of-ada", "key-of-bob")


@pytest.fixture(scope="module")
def server(module_servers: Any) -> Any:
    return module_servers.command("--api-key", KEYS[0], "--api-key", KEYS[1])


@pytest.fixture(scope="module")
def ada(server: Any) -> openai.OpenAI:
    return server.client(api_key=KEYS[0])  # type: ignore[no-any-return]


def keyed(key: str) -> dict[str, Any]:
    """What sends a key with a request of the SDK's."""
    return {"extra_headers": {"idempotency-key": key}}


def runs(server: Any, text: str) -> int:
    """How often the agent began with a message."""
    return sum(entry["what"] == "start" for entry in server.journal(text))


def together(number: int, call: Callable[[], Any]) -> list[Any]:
    """Make the same call at the same time."""
    barrier = threading.Barrier(number)

    def one(_: int) -> Any:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))


@pytest.mark.parametrize("where", [{}, {"conversation": "at-once"}], ids=["new thread", "conversation"])
def test_at_once(server: Any, ada: openai.OpenAI, told: Any, where: Any) -> None:
    text = f"slowly 0.1 at once {sorted(where)}"
    answers = together(6, lambda: ada.responses.create(model="m", input=text, **where, **keyed(f"once{sorted(where)}")))
    assert answers == [answers[0]] * 6
    assert runs(server, text) == 1
    assert told(ada, "history", previous_response_id=answers[0].id) == [["user", text], ["assistant", f"1: {text}"]]
    assert ada.responses.retrieve(answers[0].id) == answers[0]


def test_streams_at_once(server: Any, ada: openai.OpenAI) -> None:
    def stream() -> list[Any]:
        request: dict[str, Any] = {"model": "m", "input": "slowly 0.1 streams at once", "stream": True}
        with ada.responses.create(**request, **keyed("streams at once".replace(" ", "-"))) as events:
            return list(events)

    first, *others = together(4, stream)
    assert others == [first] * 3
    assert first[-1].type == "response.completed"
    assert runs(server, "slowly 0.1 streams at once") == 1
    assert stream() == first  # … and afterwards


@pytest.mark.parametrize("body", [{}, {"store": False}, {"background": True}, {"stream": True, "background": True}])
def test_afterwards(server: Any, ada: openai.OpenAI, until: Any, body: dict[str, Any]) -> None:
    text, key = f"afterwards {sorted(body)}", f"afterwards{sorted(body)}".replace(" ", "")

    def ask() -> Any:
        answer = ada.responses.create(model="m", input=text, **body, **keyed(key))
        return list(answer) if body.get("stream") else answer

    first = ask()
    if body == {"background": True}:
        until(lambda: ada.responses.retrieve(first.id).status == "completed", "it completes")
        first = ada.responses.retrieve(first.id)
    assert [ask(), ask()] == [first, first]
    assert runs(server, text) == 1


def test_a_stream_that_is_repeated_while_it_runs(server: Any, ada: openai.OpenAI, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    request: dict[str, Any] = {"model": "m", "input": f"gate {gate}", "stream": True, **keyed("running")}
    with ada.responses.create(**request) as first:
        begun = next(iter(first))
        server.happened("start", f"gate {gate}")
        with ada.responses.create(**request) as second:
            assert next(iter(second)) == begun
            gate.touch()
            assert list(second) == list(first)
    assert runs(server, f"gate {gate}") == 1


def test_a_repeat_whose_first_is_dropped(server: Any, ada: openai.OpenAI, tmp_path: Path, told: Any) -> None:
    """A client whose connection broke sends its request again; the answer is the one that was under way."""
    gate = tmp_path / "gate"
    request: dict[str, Any] = {"model": "m", "input": f"gate {gate} dropped", **keyed("dropped")}
    with ada.responses.create(**request, stream=True) as first:
        begun = next(iter(first)).response
        server.happened("start", f"gate {gate} dropped")
        with ada.responses.create(**request, stream=True) as second:
            next(iter(second))
            first.close()
            told(ada, "meanwhile")
            gate.touch()
            *_, last = second
    assert (last.type, last.response.id) == ("response.completed", begun.id)
    assert runs(server, f"gate {gate} dropped") == 1


@pytest.mark.parametrize("running", [False, True])
def test_another_body(server: Any, ada: openai.OpenAI, tmp_path: Path, running: bool) -> None:
    gate, key = tmp_path / "gate", f"another-{running}"
    if not running:
        gate.touch()
    first = ada.responses.create(model="m", input=f"gate {gate}", background=True, **keyed(key))
    changes: list[dict[str, Any]] = [{"input": "else"}, {"model": "n"}, {"metadata": {"a": "b"}}, {"stream": True}]
    for change in changes:
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            ada.responses.create(**{"model": "m", "input": f"gate {gate}", "background": True, **keyed(key), **change})
        assert (caught.value.code, caught.value.param) == ("idempotency_key_reused", "Idempotency-Key")
    gate.touch()
    assert ada.responses.create(model="m", input=f"gate {gate}", background=True, **keyed(key)).id == first.id
    assert runs(server, f"gate {gate}") <= 1


def test_the_same_body_in_another_order(server: Any) -> None:
    headers = {"authorization": f"Bearer {KEYS[0]}", "idempotency-key": "order", "content-type": "application/json"}
    bodies = ['{"input": "order", "metadata": {"a": "1", "b": "2"}}', '{ "metadata":{"b":"2","a":"1"},"input":"order"}']
    address = f"{server.base_url}/responses"
    one, two = (httpx.post(address, content=body, headers=headers, trust_env=False) for body in bodies)
    assert one.json() == two.json()
    assert runs(server, "order") == 1


@pytest.mark.parametrize("background", [False, True])
def test_what_failed_may_be_tried_again(server: Any, ada: openai.OpenAI, until: Any, background: bool) -> None:
    text = f"fail {background}"

    def ask() -> Any:
        if not background:
            with pytest.raises(openai.InternalServerError):
                ada.responses.create(model="m", input=text, **keyed("failed"))
            return None
        response = ada.responses.create(model="m", input=text, background=True, **keyed("failed-behind"))
        until(lambda: ada.responses.retrieve(response.id).status == "failed", "it fails")
        return response.id

    first, second = ask(), ask()
    assert first is None or first != second
    assert runs(server, text) == 2


def test_what_was_cancelled_may_be_tried_again(server: Any, ada: openai.OpenAI, until: Any) -> None:
    request: dict[str, Any] = {"model": "m", "input": "forever cancelled", "background": True, **keyed("cancelled")}
    first = ada.responses.create(**request)
    assert ada.responses.cancel(first.id).status == "cancelled"
    second = ada.responses.create(**request)
    assert second.id != first.id
    ada.responses.cancel(second.id)
    with ada.responses.create(model="m", input="forever left", stream=True, **keyed("left")) as stream:
        left = next(iter(stream)).response.id
        server.happened("start", "forever left")
    until(lambda: ada.responses.retrieve(left).status == "cancelled", "the dropped one is cancelled")
    with ada.responses.create(model="m", input="forever left", stream=True, **keyed("left")) as stream:
        assert next(iter(stream)).response.id != left


def test_whose_key_it_is(server: Any, ada: openai.OpenAI, lab: Any) -> None:
    """A key of the caller's own choice means nothing to the others; and nothing at all where nobody is known."""
    bob = server.client(api_key=KEYS[1])
    mine, theirs = (each.responses.create(model="m", input="whose", **keyed("same")) for each in (ada, bob))
    assert mine.id != theirs.id
    with pytest.raises(openai.NotFoundError):
        bob.responses.retrieve(mine.id)
    unknown = [lab.client().responses.create(model="m", input="nobody's", **keyed("same")).id for _ in range(2)]
    assert unknown[0] != unknown[1]


@pytest.mark.parametrize("key", ["", "x" * 257, "a b", "\x7f"])
def test_what_is_no_key(ada: openai.OpenAI, key: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ada.responses.create(model="m", input="hi", **keyed(key))
    assert caught.value.param == "Idempotency-Key"


def test_continuing_what_was_repeated(server: Any, ada: openai.OpenAI, told: Any) -> None:
    root = ada.responses.create(model="m", input="root", **keyed("root"))
    for _ in range(2):
        branch = ada.responses.create(model="m", input="branch", previous_response_id=root.id, **keyed("branch"))
        assert branch.output_text == "2: branch"
    assert told(ada, "on", previous_response_id=branch.id) == "3: on"
    assert runs(server, "branch") == 1


def test_across_sigkill(servers: Any, tmp_path: Path, until: Any) -> None:
    gate, state = tmp_path / "gate", tmp_path / "state"
    first = servers.command("--api-key", KEYS[0], state=state)
    ada = first.client(api_key=KEYS[0])
    done_request: dict[str, Any] = {"model": "m", "input": "done before", **keyed("done")}
    request: dict[str, Any] = {"model": "m", "input": f"gate {gate}", "background": True, **keyed("k")}
    queued_request = {**request, "conversation": "c", **keyed("queued")}
    done = ada.responses.create(**done_request)
    with ada.responses.create(**done_request | keyed("stream"), stream=True) as stream:
        streamed = list(stream)
    running = ada.responses.create(**request)
    ada.responses.create(**request | keyed("ahead"), conversation="c")
    queued = ada.responses.create(**queued_request)
    first.happened("start", f"gate {gate}")
    first.kill()

    second = servers.command("--api-key", KEYS[0], state=state)
    ada = second.client(api_key=KEYS[0])
    # At once, before anything else has been asked of the new process, and by many.
    repeats = together(4, lambda: ada.responses.create(**request))
    assert {repeat.id for repeat in repeats} == {running.id}
    assert ada.responses.create(**queued_request).id == queued.id
    assert ada.responses.create(**done_request) == done
    with ada.responses.create(**done_request | keyed("stream"), stream=True) as stream:
        assert list(stream) == streamed
    with pytest.raises(openai.UnprocessableEntityError):
        ada.responses.create(**request | {"input": "else"})
    gate.touch()
    for response in (running, queued):
        until(lambda response=response: ada.responses.retrieve(response.id).status == "completed", "it completes")
    assert ada.responses.create(**request) == ada.responses.retrieve(running.id)
    assert (runs(first, "done before"), runs(second, "done before")) == (2, 0)
    assert runs(second, f"gate {gate}") == 3  # the two that had begun, and the one that waited
