"""Who leaves, and what stays: unstored responses, dropped connections, failures, and what was said in them."""

import json
import socket
from pathlib import Path
from typing import Any

import openai
import pytest


@pytest.fixture(scope="module")
def finishing(module_servers: Any) -> Any:
    """A server whose turns end even though their clients have left."""
    return module_servers.hosted(channel={"on_disconnect": "finish"})


def begun(server: Any, **body: Any) -> tuple[str, socket.socket]:
    """A stream's connection, with the first event read from it, and the response's id."""
    wire = server.post({"stream": True, **body})
    received = b""
    while b"\n\n" not in received.partition(b"\r\n\r\n")[2]:
        received += wire.recv(65536)
    data = received.partition(b"data: ")[2].partition(b"\n")[0]
    return json.loads(data)["response"]["id"], wire


def status(sdk: openai.OpenAI, response_id: str) -> Any:
    return sdk.responses.retrieve(response_id).status


def said(sdk: openai.OpenAI, response_id: str) -> list[str]:
    return [item.content[0].text for item in sdk.responses.input_items.list(response_id, order="asc")]  # type: ignore[union-attr]


# -- not stored


@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_not_stored_is_not_found(sdk: openai.OpenAI, told: Any, streaming: bool) -> None:
    request: dict[str, Any] = {"model": "m", "input": "off the record", "store": False}
    if streaming:
        with sdk.responses.stream(**request) as stream:
            response_id = stream.get_final_response().id
    else:
        response_id = sdk.responses.create(**request).id
    for way in (
        lambda: sdk.responses.retrieve(response_id),
        lambda: sdk.responses.retrieve(response_id, stream=True),
        lambda: sdk.responses.cancel(response_id),
        lambda: sdk.responses.input_items.list(response_id),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            way()
        assert caught.value.code == "response_not_found"
    assert told(sdk, "but remembered", previous_response_id=response_id) == "2: but remembered"


def test_while_it_runs_it_is_not_found_either(sdk: openai.OpenAI, lab: Any) -> None:
    response_id, wire = begun(lab, input="forever unstored", store=False)
    with wire:
        lab.happened("start", "forever unstored")
        for stream in (False, True):
            with pytest.raises(openai.NotFoundError):
                sdk.responses.retrieve(response_id, stream=stream)
    lab.happened("cancelled", "forever unstored")


def test_what_fails_is_not_found_if_it_is_not_stored(sdk: openai.OpenAI) -> None:
    with sdk.responses.create(model="m", input="fail", store=False, stream=True) as stream:
        *_, last = stream
    assert last.type == "response.failed"
    with pytest.raises(openai.NotFoundError):
        sdk.responses.input_items.list(last.response.id)


def test_the_background_needs_the_store(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(model="m", input="hi", background=True, store=False)
    assert caught.value.param == "background"


# -- dropped


def test_a_dropped_stream_is_cancelled(sdk: openai.OpenAI, lab: Any, told: Any, until: Any) -> None:
    told(sdk, "before", conversation="dropped")
    response_id, wire = begun(lab, input="forever dropped", conversation="dropped", metadata={"a": "b"})
    lab.happened("start", "forever dropped")
    assert status(sdk, response_id) == "in_progress"
    wire.close()
    lab.happened("cancelled", "forever dropped")
    until(lambda: status(sdk, response_id) == "cancelled", "its record says so")
    # What was said is not lost: it can be read, and run again.
    assert said(sdk, response_id) == ["forever dropped"]
    assert sdk.responses.retrieve(response_id).metadata == {"a": "b"}
    assert told(sdk, "history", conversation="dropped") == [["user", "before"], ["assistant", "1: before"]]
    with sdk.responses.retrieve(response_id, stream=True) as stream:
        *_, last = stream
    assert (last.type, last.response.status) == ("response.failed", "cancelled")
    with pytest.raises(openai.BadRequestError) as caught:
        told(sdk, "go on", previous_response_id=response_id)
    assert caught.value.code == "previous_response_not_found"


def test_a_stream_dropped_by_the_sdk(sdk: openai.OpenAI, lab: Any, until: Any) -> None:
    with sdk.responses.stream(model="m", input="forever left by the sdk") as stream:
        created = next(iter(stream))
        lab.happened("start", "forever left by the sdk")
    lab.happened("cancelled", "forever left by the sdk")
    until(lambda: status(sdk, created.response.id) == "cancelled", "its record says so")


def test_dropped_while_it_waits(sdk: openai.OpenAI, lab: Any, until: Any, told: Any) -> None:
    ahead, first = begun(lab, input="forever ahead", conversation="line")
    behind, second = begun(lab, input="behind", conversation="line")
    lab.happened("start", "forever ahead")
    assert status(sdk, behind) == "queued"
    second.close()
    until(lambda: status(sdk, behind) == "cancelled", "it is withdrawn")
    first.close()
    until(lambda: status(sdk, ahead) == "cancelled", "so is the one ahead")
    assert said(sdk, behind) == ["behind"]
    assert lab.journal("behind") == []
    assert told(sdk, "history", conversation="line") == []


def test_a_dropped_background_stream_goes_on(sdk: openai.OpenAI, lab: Any, until: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    response_id, wire = begun(lab, input=f"gate {gate}", background=True)
    lab.happened("start", f"gate {gate}")
    wire.close()
    with sdk.responses.retrieve(response_id, stream=True) as stream:
        next(iter(stream))  # dropped, too
    gate.touch()
    until(lambda: status(sdk, response_id) == "completed", "it completes")
    assert [entry["what"] for entry in lab.journal(f"gate {gate}")] == ["start", "end"]
    assert sdk.responses.retrieve(response_id).output_text == f"1: gate {gate}"


def test_a_dropped_stream_that_somebody_else_follows(
    sdk: openai.OpenAI, lab: Any, until: Any, tmp_path: Path, told: Any
) -> None:
    """It goes on for those who follow it, and ends with the last of them."""
    gate = tmp_path / "gate"
    followed, wire = begun(lab, input=f"gate {gate} followed", conversation="followed")
    with sdk.responses.retrieve(followed, stream=True) as stream:
        events = [next(iter(stream))]
        wire.close()
        told(sdk, "meanwhile")  # the server has seen that by now
        gate.touch()
        events += stream
    assert events[-1].type == "response.completed"
    assert sdk.responses.retrieve(followed).output_text == f"1: gate {gate} followed"

    left, wire = begun(lab, input="forever left by all")
    with sdk.responses.retrieve(left, stream=True) as stream:
        next(iter(stream))
        wire.close()
        told(sdk, "meanwhile")
        assert [entry["what"] for entry in lab.journal("forever left by all")] in ([], ["start"])
    until(lambda: status(sdk, left) == "cancelled", "nobody is left")


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_whose_turns_finish(finishing: Any, until: Any, told: Any, tmp_path: Path, stream: bool) -> None:
    gate, sdk = tmp_path / "gate", finishing.client()
    text, conversation = f"gate {gate}", f"finishing-{stream}"
    with finishing.post({"input": text, "conversation": conversation, "stream": stream}):
        finishing.happened("start", text)
    told(sdk, "meanwhile")
    gate.touch()
    until(lambda: len(told(sdk, "history", conversation=conversation)) >= 2, "the turn is in the history")
    assert told(sdk, "history", conversation=conversation)[:2] == [["user", text], ["assistant", f"1: {text}"]]
    assert [entry["what"] for entry in finishing.journal(text)] == ["start", "end"]


def test_what_finished_unseen_is_fetched(finishing: Any, until: Any, tmp_path: Path) -> None:
    gate, sdk = tmp_path / "gate", finishing.client()
    response_id, wire = begun(finishing, input=f"gate {gate} unseen")
    finishing.happened("start", f"gate {gate} unseen")
    wire.close()
    gate.touch()
    until(lambda: status(sdk, response_id) == "completed", "it completes")
    with sdk.responses.retrieve(response_id, stream=True) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response == sdk.responses.retrieve(response_id)


# -- the end of a connection


def test_a_stream_whose_end_is_that_of_its_connection(lab: Any, sdk: openai.OpenAI) -> None:
    """In HTTP/1.0, which proxies still speak, nothing else tells that there is no more."""
    host, _, port = lab.root.removeprefix("http://").rpartition(":")
    payload = json.dumps({"input": "pour 20", "stream": True}).encode()
    created = sdk.responses.create(model="m", input="pour 20")
    for request in (
        b"POST /v1/responses HTTP/1.0\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(payload) + payload,
        f"GET /v1/responses/{created.id}?stream=true HTTP/1.0\r\nhost: x\r\n\r\n".encode(),
    ):
        with socket.create_connection((host, int(port)), timeout=3) as wire:
            wire.sendall(request)
            received = b""
            while chunk := wire.recv(1 << 20):
                received += chunk
        assert received.endswith(b"data: [DONE]\n\n")


# -- failed


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("text", ["fail s3cr3t", "halfway s3cr3t"])
def test_a_failure_keeps_what_was_said(sdk: openai.OpenAI, told: Any, text: str, background: bool) -> None:
    conversation = f"failed-{text.split()[0]}-{background}"
    told(sdk, "before", conversation=conversation)
    request: dict[str, Any] = {"model": "m", "input": text, "conversation": conversation, "background": background}
    with sdk.responses.create(**request, stream=True) as stream:
        *_, last = stream
    assert last.type == "response.failed"
    found = sdk.responses.retrieve(last.response.id)
    assert (found.status, found.error and found.error.code) == ("failed", "server_error")
    assert said(sdk, found.id) == [text]
    assert "s3cr3t" not in found.to_json() + last.to_json()
    assert told(sdk, "history", conversation=conversation) == [["user", "before"], ["assistant", "1: before"]]
    with sdk.responses.retrieve(found.id, stream=True) as stream:
        *_, again = stream
    assert again == last
    sdk.responses.delete(found.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(found.id)


def test_a_turn_that_took_too_long(servers: Any) -> None:
    server = servers.hosted(turn_timeout=0.5)
    sdk = server.client()
    with sdk.responses.create(model="m", input="forever late", background=True, stream=True) as stream:
        *_, last = stream
    assert (last.type, last.response.status, last.response.error.code) == ("response.failed", "failed", "timeout")
    assert sdk.responses.retrieve(last.response.id) == last.response
    assert said(sdk, last.response.id) == ["forever late"]
