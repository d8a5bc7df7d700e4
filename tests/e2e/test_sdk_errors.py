"""What goes wrong, as the SDK's own exceptions; and what must never be on the wire."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

SECRET = "s3cr3t-c0nnection-string"
KEYS = ("key-of-ada", "key-of-bob")


@pytest.fixture(scope="module")
def small(module_servers: Any) -> Any:
    """A server with little room: two may wait in a mailbox, a body has 4,096 bytes."""
    return module_servers.hosted(mailbox=2, max_body=4096)


@pytest.fixture(scope="module")
def guarded(module_servers: Any) -> Any:
    """A server that wants a key."""
    return module_servers.command("--api-key", KEYS[0], "--api-key", KEYS[1])


# -- the caller's fault


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text", None),
        ({"input": [{"type": "surprise"}]}, "input[0].type", None),
        ({"input": "hi", "temperature": 99}, "temperature", None),
        ({"input": "hi", "tools": [{"type": "web_search"}]}, "tools[0].type", None),
        (
            {"input": "hi", "previous_response_id": "resp_" + "0" * 48},
            "previous_response_id",
            "previous_response_not_found",
        ),
        (
            {"input": "hi", "previous_response_id": "resp_1", "conversation": "c"},
            "previous_response_id",
            "mutually_exclusive_parameters",
        ),
        ({"input": "hi", "conversation": "no\0nul"}, "conversation", None),
        ({"input": "hi", "conversation": "x" * 1025}, "conversation", None),
        ({}, "input", "missing_required_parameter"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_request(sdk: openai.OpenAI, fields: Any, param: str, code: str | None, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.post("/responses", body={"model": "m", "stream": stream, **fields}, cast_to=object)
    assert caught.value.status_code == 400
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.code
    if code is not None:
        assert caught.value.code == code
    assert set(caught.value.body) == {"message", "type", "param", "code"}  # type: ignore[arg-type]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'"text"', b'{"input": NaN}', b"[" * 100_000])
def test_a_body_that_is_no_json_object(lab: Any, body: bytes) -> None:
    answer = httpx.post(f"{lab.base_url}/responses", content=body, trust_env=False)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_unknown_path(sdk: openai.OpenAI, lab: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.get("/nothing/here", cast_to=object)
    assert caught.value.code == "not_found"
    assert httpx.get(f"{lab.base_url}/responses", trust_env=False).status_code == 405


# -- keys


def test_no_key_and_a_wrong_key(guarded: Any, lab: Any) -> None:
    for key in ("none", "key-of-ad", "key-of-adaa", "Key-of-ada"):
        with pytest.raises(openai.AuthenticationError) as caught:
            guarded.client(api_key=key).responses.create(model="m", input=f"hi {key}")
        assert caught.value.status_code == 401
        assert caught.value.code == "invalid_api_key"
        assert guarded.journal(f"hi {key}") == []
    bare = httpx.post(f"{guarded.base_url}/responses", json={"input": "hi"}, trust_env=False)
    assert bare.status_code == 401
    for key in KEYS:
        assert guarded.client(api_key=key).responses.create(model="m", input="hi").output_text == "1: hi"


def test_a_key_opens_only_its_own_conversations(guarded: Any, told: Any) -> None:
    ada, bob = (guarded.client(api_key=key) for key in KEYS)
    first = ada.responses.create(model="m", input="ada's")
    told(ada, "ada's too", conversation="shared-name")
    with pytest.raises(openai.BadRequestError) as caught:
        bob.responses.create(model="m", input="history", previous_response_id=first.id)
    unknown = f"resp_{'0' * (len(first.id) - 5)}"
    with pytest.raises(openai.BadRequestError) as never:
        bob.responses.create(model="m", input="history", previous_response_id=unknown)
    # What is another's looks exactly as what never was.
    assert caught.value.code == "previous_response_not_found"
    assert caught.value.body == never.value.body
    assert told(bob, "history", conversation="shared-name") == []
    assert told(ada, "mine", previous_response_id=first.id) == "2: mine"
    assert told(ada, "mine", conversation="shared-name") == "2: mine"


# -- overload


@dataclass(frozen=True)
class Crowd:
    """A conversation whose mailbox is full: one turn runs until the gate is there, two wait."""

    name: str
    gate: Path


@pytest.fixture
def crowd(small: Any, until: Any, tmp_path: Path) -> Iterator[Crowd]:
    crowd = Crowd(f"crowd-{time.monotonic_ns()}", tmp_path / "gate")
    body = {"input": f"gate {crowd.gate} {crowd.name}", "conversation": crowd.name}
    wires = [small.post(body)]
    small.happened("start", body["input"])
    wires += [small.post({"input": f"{crowd.name} waits", "conversation": crowd.name}) for _ in range(2)]
    until(lambda: small.figures()["waiting"] == 2, "two wait")
    try:
        yield crowd
    finally:
        for wire in wires:
            wire.close()
        until(lambda: small.figures()["running"] == 0, "all left")


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_mailbox(small: Any, crowd: Crowd, told: Any, stream: bool) -> None:
    client = small.client()
    with pytest.raises(openai.RateLimitError) as caught:
        client.responses.create(model="m", input="one too many", conversation=crowd.name, stream=stream)
    assert caught.value.status_code == 429
    assert caught.value.code == "mailbox_full"
    assert caught.value.type == "rate_limit_error"
    assert int(caught.value.response.headers["retry-after"]) >= 1
    # Nobody else is held up.
    assert told(client, "elsewhere") == "1: elsewhere"


def test_the_sdk_waits_and_tries_again(small: Any, crowd: Crowd) -> None:
    client = small.client(max_retries=20)
    opening = threading.Timer(0.5, crowd.gate.touch)
    opening.start()
    raw = client.responses.with_raw_response.create(model="m", input="in the end", conversation=crowd.name)
    opening.join()
    assert raw.retries_taken >= 1
    assert raw.parse().output_text == "4: in the end"
    assert len([entry for entry in small.journal("in the end") if entry["what"] == "start"]) == 1


@pytest.mark.parametrize("path", ["/v1/responses", "/responses/v1/responses", "/nothing/here"])
def test_a_body_over_the_limit(small: Any, path: str) -> None:
    with small.http() as http:
        answer = http.post(path, content=b'{"input": "' + b"x" * 5000 + b'"}')
        assert answer.status_code == 413
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert "4096" in answer.json()["error"]["message"]
        # The connection is in order: the next request on it is answered.
        assert http.get("/healthz").status_code == 200


def test_a_body_over_the_limit_in_the_sdk(small: Any) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        small.client().responses.create(model="m", input="x" * 5000)
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")


def test_a_chunked_body_over_the_limit(small: Any) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"input": "'
        for _ in range(50):
            yield b"y" * 100
        yield b'"}'

    with small.http() as http:
        answer = http.post("/v1/responses", content=chunks())
        assert answer.request.headers["transfer-encoding"] == "chunked"
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"


def test_a_chunked_body_within_the_limit(small: Any) -> None:
    def chunks() -> Iterator[bytes]:
        for byte in b'{"input": "in small pieces"}':
            yield bytes([byte])

    with small.http() as http:
        answer = http.post("/v1/responses", content=chunks())
    assert answer.json()["output"][0]["content"][0]["text"] == "1: in small pieces"


def test_a_full_store(servers: Any, told: Any, tmp_path: Path) -> None:
    """Turns are refused, none that was answered is lost, and with more room everything goes on."""
    server = servers.command("--map-size", "256K", state=tmp_path / "state")
    answered, refused = 0, []
    with server.http() as http:
        while len(refused) < 10 and answered < 200:
            body = {"input": "x" * 3000, "conversation": "full", "stream": bool(len(refused) % 2)}
            answer = http.post("/v1/responses", json=body)
            failed = "response.failed" in answer.text or answer.status_code != 200
            answered += not failed
            if failed:
                refused.append(answer)
        assert all('"storage_full"' in answer.text for answer in refused)
        assert refused[0].headers["x-should-retry"] == "false"
        assert {answer.status_code for answer in refused} <= {200, 507}
        assert refused[-1].status_code == 507  # by now before the agent runs, not after
        assert http.get("/readyz").json()["reasons"] == ["storage full"]
        assert http.get("/healthz").status_code == 200
    server.kill()
    roomy = servers.command("--map-size", "64M", state=tmp_path / "state").client()
    assert len(told(roomy, "history", conversation="full")) == 2 * answered > 0
    assert told(roomy, "on", conversation="full") == f"{answered + 2}: on"


# -- the agent's fault


def test_a_failing_agent_runs_once(lab: Any) -> None:
    text = f"fail {SECRET} once"
    with pytest.raises(openai.InternalServerError) as caught:
        lab.client(max_retries=3).responses.create(model="m", input=text)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.type == "server_error"
    assert [entry["what"] for entry in lab.journal(text)] == ["start", "raised"]
    assert SECRET not in caught.value.response.text


@pytest.mark.parametrize("command", ["fail", "halfway"])
@pytest.mark.parametrize("stream", [False, True])
def test_no_text_of_an_exception_on_the_wire(lab: Any, command: str, stream: bool) -> None:
    body = {"input": f"{command} {SECRET}", "stream": stream, "conversation": f"secret-{command}-{stream}"}
    with lab.http() as http:
        answer = http.post("/v1/responses", json=body)
    for leak in (SECRET.encode(), b"RuntimeError", b"Traceback", b"lab.py"):
        assert leak not in answer.content
        assert leak.decode() not in str(answer.headers)
    if stream:
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        assert events[-1]["type"] == "response.failed"
        assert events[-1]["response"]["status"] == "failed"
        assert events[-1]["response"]["error"]["code"] == "server_error"
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert "response.completed" not in answer.text
    else:
        assert answer.status_code == 500
    # The operator does see it.
    assert SECRET in lab.stderr


def test_a_stream_that_fails_in_the_sdk(sdk: openai.OpenAI, told: Any) -> None:
    with sdk.responses.create(
        model="m", input=f"halfway {SECRET}", stream=True, conversation="failed-stream"
    ) as stream:
        events = list(stream)
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert last.response.error.code == "server_error"
    assert [e.delta for e in events if e.type == "response.output_text.delta"] == ["so ", "far "]
    assert told(sdk, "history", conversation="failed-stream") == []


def test_a_stream_helper_of_a_turn_that_fails(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(model="m", input=f"halfway {SECRET}") as stream:
        last = list(stream)[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed"


def test_a_response_that_failed_is_no_point_to_continue_from(sdk: openai.OpenAI) -> None:
    with sdk.responses.create(model="m", input=f"halfway {SECRET}", stream=True) as stream:
        last = list(stream)[-1]
    assert last.type == "response.failed"
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(model="m", input="go on", previous_response_id=last.response.id)
    assert caught.value.code == "previous_response_not_found"
