"""WebSocket clients that nobody here wrote: the `websockets` library, and the openai SDK's own connections."""

import asyncio
import json
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from websockets.asyncio.client import connect as connect_asyncio
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import ClientConnection, connect

LAST = ("response.completed", "response.incomplete", "response.failed")


@pytest.fixture(scope="module")
def dial(lab: Any) -> Callable[..., ClientConnection]:
    """Connects to the lab's server."""

    def dialled(path: str = "/v1/responses", **options: Any) -> ClientConnection:
        return connect(lab.root.replace("http", "ws") + path, proxy=None, max_size=None, **options)

    return dialled


def ask(wire: ClientConnection, **body: Any) -> None:
    wire.send(json.dumps({"type": "response.create", "model": "m", **body}))


def hear(wire: ClientConnection) -> dict[str, Any]:
    frame = wire.recv(timeout=60)
    assert isinstance(frame, str)
    return json.loads(frame)  # type: ignore[no-any-return]


def events(wire: ClientConnection) -> list[dict[str, Any]]:
    """One response's events."""
    heard = [hear(wire)]
    while heard[-1]["type"] not in LAST:
        assert heard[-1]["type"] != "error", heard[-1]
        heard.append(hear(wire))
    return heard


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])


def status(sdk: openai.OpenAI, response_id: str) -> Any:
    return sdk.responses.retrieve(response_id).status


# -- responses over one connection


def test_one_after_the_other(dial: Any, sdk: openai.OpenAI) -> None:
    with dial() as wire:
        previous = None
        for number in range(1, 11):
            ask(wire, input=f"say {number}", previous_response_id=previous)
            heard = events(wire)
            assert [event["sequence_number"] for event in heard] == list(range(len(heard)))
            assert [event["type"] for event in heard[:2]] == ["response.created", "response.in_progress"]
            response = heard[-1]["response"]
            assert text_of(response) == f"{number}: say {number}"
            assert response["previous_response_id"] == previous
            deltas = [event["delta"] for event in heard if event["type"] == "response.output_text.delta"]
            assert "".join(deltas) == text_of(response)
            previous = response["id"]
    # What was said over the wire is a response like any other.
    found = sdk.responses.retrieve(previous or "")
    assert found.output_text == "10: say 10"
    assert found.to_dict() == openai.types.responses.Response.model_validate(response).to_dict()


def test_the_events_are_those_of_a_stream(dial: Any, lab: Any) -> None:
    with dial() as wire:
        ask(wire, input="shape everything", tools=[{"type": "function", "name": "left"}])
        heard = events(wire)
    with lab.http() as http:
        answer = http.get(f"/v1/responses/{heard[0]['response']['id']}", params={"stream": "true"}).text
    blocks = [block.partition("data: ")[2] for block in answer.split("\n\n")]
    assert [json.loads(block) for block in blocks[:-2]] == heard
    assert blocks[-2:] == ["[DONE]", ""]


def test_two_connections_share_a_conversation(dial: Any) -> None:
    with dial() as one, dial() as other:
        for number, wire in enumerate((one, other, one, other), 1):
            ask(wire, input=f"say {number}", conversation="two wires")
            assert text_of(events(wire)[-1]["response"]) == f"{number}: say {number}"


def test_a_client_function(dial: Any) -> None:
    tools = [{"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}]
    with dial() as wire:
        ask(wire, input="call get_weather {}", tools=tools)
        response = events(wire)[-1]["response"]
        (call,) = response["output"]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
        ask(wire, input=[output], tools=tools, previous_response_id=response["id"])
        assert text_of(events(wire)[-1]["response"]) == 'results: ["rain"]'


def test_store_false_lives_with_the_connection(dial: Any, sdk: openai.OpenAI) -> None:
    with dial() as wire:
        ask(wire, input="unstored", store=False)
        response = events(wire)[-1]["response"]
        ask(wire, input="go on", previous_response_id=response["id"], store=False)
        assert text_of(events(wire)[-1]["response"]) == "2: go on"
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(response["id"])


# -- what a connection survives


@pytest.mark.parametrize(
    ("frame", "param"),
    [
        ("", None),
        ("no json", None),
        ("[]", None),
        ('"text"', None),
        ("{}", "type"),
        ('{"type": "response.cancel"}', "type"),
        ('{"type": 7}', "type"),
        ('{"type": "response.create"}', "input"),
        ('{"type": "response.create", "input": 7}', "input"),
        ('{"type": "response.create", "input": [{"role": "user", "content": [{}]}]}', "input[0].content[0].type"),
        ('{"type": "response.create", "input": "hi", "background": true}', "background"),
        ('{"type": "response.create", "input": "hi", "temperature": 9}', "temperature"),
        ('{"type": "response.create", "input": "hi", "conversation": "a", "previous_response_id": "b"}', None),
        ('{"type": "response.create", "input": "hi", "previous_response_id": "resp_0"}', "previous_response_id"),
        ('{"type": "response.create", "input": "hi", "stream_id": 7}', "stream_id"),
        ("[" * 100_000, None),
        (b"\xff\x00", None),
        (b"", None),
    ],
)
def test_a_bad_frame(dial: Any, frame: str | bytes, param: str | None) -> None:
    with dial() as wire:
        wire.send(frame)
        error = hear(wire)
        assert (error["type"], error["status"]) == ("error", 400)
        assert set(error["error"]) == {"message", "type", "param", "code"}
        assert error["error"]["type"] == "invalid_request_error"
        if param is not None:
            assert error["error"]["param"] == param
        ask(wire, input="still here")
        assert text_of(events(wire)[-1]["response"]) == "1: still here"


def test_a_binary_frame(dial: Any) -> None:
    """JSON is JSON; the answer comes as text."""
    with dial() as wire:
        wire.send(json.dumps({"type": "response.create", "input": "in bytes"}).encode())
        assert text_of(events(wire)[-1]["response"]) == "1: in bytes"


def test_a_frame_in_fragments(dial: Any) -> None:
    body = json.dumps({"type": "response.create", "input": "in many pieces " + "ü" * 100})
    with dial() as wire:
        wire.send(body[at : at + 7] for at in range(0, len(body), 7))
        assert text_of(events(wire)[-1]["response"]) == "1: in many pieces " + "ü" * 100


def test_a_big_frame(dial: Any) -> None:
    with dial() as wire:
        ask(wire, input="big " + "x" * 3_000_000)
        response = events(wire)[-1]["response"]
        assert len(text_of(response)) == 3_000_007
        ask(wire, input="and on", previous_response_id=response["id"])
        assert text_of(events(wire)[-1]["response"]) == "2: and on"


def test_a_frame_that_is_too_big(servers: Any) -> None:
    server = servers.hosted(max_body=10_000)
    with connect(server.base_url.replace("http", "ws") + "/responses", proxy=None) as wire:
        ask(wire, input="x" * 9_000)
        assert len(text_of(events(wire)[-1]["response"])) == 9_003
        ask(wire, input="x" * 10_000)
        with pytest.raises(ConnectionClosed) as closed:
            hear(wire)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    assert server.client().responses.create(model="m", input="the others go on").output_text == "1: the others go on"


def test_one_at_a_time(dial: Any, lab: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with dial() as wire:
        ask(wire, input=f"gate {gate}", stream_id="lane-1")
        assert hear(wire)["stream_id"] == "lane-1"
        lab.happened("start", f"gate {gate}")
        ask(wire, input="too early")
        heard = [hear(wire)]
        while heard[-1]["type"] != "error":
            heard.append(hear(wire))
        assert (heard[-1]["status"], heard[-1]["error"]["code"]) == (409, "response_under_way")
        gate.touch()
        heard = events(wire)
        assert {event["stream_id"] for event in heard} == {"lane-1"}
        assert text_of(heard[-1]["response"]) == f"1: gate {gate}"
        ask(wire, input="now")
        heard = events(wire)
        assert text_of(heard[-1]["response"]) == "1: now"
        assert "stream_id" not in heard[-1]
    assert lab.journal("too early") == []


def test_a_failure_ends_a_response_and_not_the_connection(dial: Any, sdk: openai.OpenAI) -> None:
    with dial() as wire:
        for text in ("fail s3cr3t", "halfway s3cr3t"):
            ask(wire, input=text)
            heard = events(wire)
            assert heard[-1]["type"] == "response.failed"
            assert "s3cr3t" not in json.dumps(heard)
            assert status(sdk, heard[0]["response"]["id"]) == "failed"
        ask(wire, input="go on")
        assert text_of(events(wire)[-1]["response"]) == "1: go on"


# -- leaving


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_connection_that_ends_cancels(dial: Any, lab: Any, sdk: openai.OpenAI, until: Any, how: str) -> None:
    text, name = f"forever {how}", f"wire-{how}"
    wire = dial()
    ask(wire, input=text, conversation=name)
    response_id = hear(wire)["response"]["id"]
    lab.happened("start", text)
    if how == "close":
        wire.close()
    else:
        wire.socket.shutdown(socket.SHUT_RDWR)
    lab.happened("cancelled", text)
    until(lambda: status(sdk, response_id) == "cancelled", "its record says so")
    (item,) = sdk.responses.input_items.list(response_id)
    assert item.content[0].text == text  # type: ignore[union-attr]
    assert sdk.responses.create(model="m", input="after", conversation=name).output_text == "1: after"


def test_a_client_that_pings_and_waits(lab: Any, dial: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with dial(ping_interval=0.05, ping_timeout=10) as wire:
        ask(wire, input=f"gate {gate} pinged")
        lab.happened("start", f"gate {gate} pinged")
        assert wire.ping().wait(60)
        gate.touch()
        assert events(wire)[-1]["type"] == "response.completed"


# -- following


def test_following_a_run(dial: Any, lab: Any, sdk: openai.OpenAI, tmp_path: Path) -> None:
    signals = tmp_path / "steps"
    signals.write_text("...")
    with sdk.responses.create(model="m", input=f"steps {signals}", background=True, stream=True) as stream:
        response_id = next(iter(stream)).response.id
    heard: list[dict[str, Any]] = []
    with dial(f"/v1/responses/{response_id}") as wire:
        while sum(event["type"] == "response.output_text.delta" for event in heard) < 3:
            heard.append(hear(wire))
    signals.write_text("....\n")
    # Dropped in the middle, and resumed: nothing is missing, and nothing is there twice.
    with dial(f"/v1/responses/{response_id}?starting_after={heard[-1]['sequence_number']}") as wire:
        heard += events(wire)
        with pytest.raises(ConnectionClosedOK):
            wire.recv(timeout=60)
    assert [event["sequence_number"] for event in heard] == list(range(len(heard)))
    with sdk.responses.retrieve(response_id, stream=True) as again:
        assert [(event.type, event.sequence_number) for event in again] == [
            (event["type"], event["sequence_number"]) for event in heard
        ]


def test_following_what_has_ended(dial: Any, sdk: openai.OpenAI) -> None:
    response = sdk.responses.create(model="m", input="long over")
    for path, count in ((f"/v1/responses/{response.id}", None), (f"/v1/responses/{response.id}?starting_after=99", 0)):
        with dial(path) as wire:
            frames = [json.loads(frame) for frame in wire]
        assert frames == [] if count == 0 else frames[-1]["response"]["id"] == response.id
    with pytest.raises(InvalidStatus) as refused:
        dial("/v1/responses/resp_unknown")
    assert refused.value.response.status_code == 404
    with pytest.raises(InvalidStatus) as refused:
        dial(f"/v1/responses/{response.id}?starting_after=soon")
    assert refused.value.response.status_code == 400


def test_a_follower_that_leaves_cancels_nothing(dial: Any, lab: Any, sdk: openai.OpenAI, until: Any) -> None:
    run = sdk.responses.create(model="m", input="forever followed by wire", background=True)
    lab.happened("start", "forever followed by wire")
    for _ in range(2):
        dial(f"/v1/responses/{run.id}").close()
    assert status(sdk, run.id) == "in_progress"
    # … and one that stays hears of the end.
    with dial(f"/v1/responses/{run.id}") as wire:
        sdk.responses.cancel(run.id)
        assert events(wire)[-1]["response"]["status"] == "cancelled"


def test_following_across_sigkill(servers: Any, tmp_path: Path) -> None:
    signals, state = tmp_path / "steps", tmp_path / "state"
    signals.write_text("...")
    first = servers.command(state=state)
    sdk = first.client()
    with sdk.responses.create(model="m", input=f"steps {signals}", background=True, stream=True) as stream:
        response_id = next(iter(stream)).response.id
    with connect(f"{first.base_url.replace('http', 'ws')}/responses/{response_id}", proxy=None) as wire:
        heard = [hear(wire)]
        while sum(event["type"] == "response.output_text.delta" for event in heard) < 3:
            heard.append(hear(wire))
        first.kill()
        with pytest.raises(ConnectionClosed):
            hear(wire)
    second = servers.command(state=state)
    address = f"{second.base_url.replace('http', 'ws')}/responses/{response_id}"
    with connect(f"{address}?starting_after={heard[-2]['sequence_number']}", proxy=None) as wire:
        error = hear(wire)
        assert (error["type"], error["status"], error["error"]["code"]) == ("error", 409, "run_restarted")
        with pytest.raises(ConnectionClosedOK):
            hear(wire)
    signals.write_text("...\n")
    with connect(address, proxy=None) as wire:
        anew = events(wire)
    assert anew[0]["sequence_number"] > heard[-1]["sequence_number"]
    assert anew[-1]["type"] == "response.completed"


# -- many


def test_many_connections_at_once(lab: Any, dial: Any) -> None:
    def talk(number: int) -> list[str]:
        with dial() as wire:
            texts = []
            for turn in range(3):
                ask(wire, input=f"slowly 0.01 {turn}", conversation=f"crowd-{number}")
                texts.append(text_of(events(wire)[-1]["response"]))
            return texts

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(talk, range(20))) == [[f"{turn + 1}: slowly 0.01 {turn}" for turn in range(3)]] * 20


async def over_asyncio(address: str) -> list[str]:
    texts = []
    async with connect_asyncio(address, proxy=None) as wire:
        for number in range(3):
            await wire.send(json.dumps({"type": "response.create", "input": f"say {number}", "conversation": "aio"}))
            while (event := json.loads(await wire.recv()))["type"] not in LAST:
                pass
            texts.append(text_of(event["response"]))
    return texts


def test_the_library_under_asyncio(lab: Any) -> None:
    address = f"{lab.base_url.replace('http', 'ws')}/responses"
    assert asyncio.run(over_asyncio(address)) == ["1: say 0", "2: say 1", "3: say 2"]


# -- the openai SDK's own connections


def response_of(connection: Any) -> Any:
    for event in connection:
        if event.type in LAST:
            return event.response
        assert event.type != "error", event
    raise AssertionError("the connection ended")


def test_the_sdk(sdk: openai.OpenAI, lab: Any) -> None:
    with sdk.responses.connect() as connection:
        previous: Any = openai.omit
        for number in range(1, 4):
            connection.response.create(model="m", input=f"say {number}", previous_response_id=previous)
            response = response_of(connection)
            assert response.output_text == f"{number}: say {number}"
            assert sdk.responses.retrieve(response.id) == response
            previous = response.id
        connection.response.create(model="m", input="hi", previous_response_id="resp_unknown")
        refused = connection.recv()
        assert (refused.type, refused.error.code) == ("error", "previous_response_not_found")
        connection.response.steer(input="no", previous_response_id=previous)
        assert connection.recv().type == "error"
        connection.response.create(model="m", input="and on", previous_response_id=previous)
        assert response_of(connection).output_text == "4: and on"


def test_the_sdks_handlers(sdk: openai.OpenAI) -> None:
    heard: list[str] = []
    with sdk.responses.connect() as connection:

        @connection.on("response.output_text.delta")
        def _(event: Any) -> None:
            heard.append(event.delta)

        @connection.on("response.completed")
        def _(event: Any) -> None:
            connection.close()

        connection.response.create(model="m", input="by handlers")
        connection.dispatch_events()
    assert "".join(heard) == "1: by handlers"


def test_the_sdk_leaves(sdk: openai.OpenAI, lab: Any, until: Any) -> None:
    with sdk.responses.connect() as connection:
        connection.response.create(model="m", input="forever the sdk")
        created: Any = connection.recv()
        lab.happened("start", "forever the sdk")
    until(lambda: status(sdk, created.response.id) == "cancelled", "it is cancelled")


async def asynchronously(base_url: str) -> list[str]:
    texts = []
    client = openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0)
    async with client, client.responses.connect() as connection:
        previous: Any = openai.omit
        for number in range(3):
            await connection.response.create(model="m", input=f"say {number}", previous_response_id=previous)
            async for event in connection:
                if event.type == "response.completed":
                    texts.append(event.response.output_text)
                    previous = event.response.id
                    break
    return texts


def test_the_asynchronous_sdk(lab: Any) -> None:
    assert asyncio.run(asynchronously(lab.base_url)) == ["1: say 0", "2: say 1", "3: say 2"]


def test_a_key(servers: Any) -> None:
    guarded = servers.command("--api-key", "sesame")
    with guarded.client(api_key="sesame").responses.connect() as connection:
        connection.response.create(model="m", input="let in")
        assert response_of(connection).output_text == "1: let in"
    with pytest.raises(Exception, match="401"), guarded.client(api_key="wrong").responses.connect():
        pass


def test_idle_connections_do_not_hold_up_the_end(servers: Any) -> None:
    server = servers.command("--drain-timeout", "8")
    with connect(server.base_url.replace("http", "ws") + "/responses", proxy=None) as wire:
        ask(wire, input="hi")
        events(wire)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            wire.recv(timeout=60)
        assert server.wait() == 0
        assert time.monotonic() - began < 6


def test_a_response_under_way_is_let_finish(servers: Any, tmp_path: Path, until: Any) -> None:
    gate, server = tmp_path / "gate", servers.command("--drain-timeout", "60")
    with connect(server.base_url.replace("http", "ws") + "/responses", proxy=None) as wire:
        ask(wire, input=f"gate {gate}")
        server.happened("start", f"gate {gate}")
        server.signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{server.root}/readyz", trust_env=False).status_code == 503, "it stops")
        gate.touch()
        assert text_of(events(wire)[-1]["response"]) == f"1: gate {gate}"
        with pytest.raises(ConnectionClosed) as closed:
            wire.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    assert server.wait() == 0
    assert server.journal("too late") == []
