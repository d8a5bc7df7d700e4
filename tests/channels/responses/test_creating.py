"""`POST /responses` as a server meets it: ASGI in, JSON or whole events out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from agent_framework import AgentResponseUpdate, Content

from afactors_channels import ChannelIdentity, ChannelSession, HostError, TargetFailed
from afactors_channels.responses import ResponseTranscript

Checked = Callable[[dict[str, Any]], dict[str, Any]]
Read = Callable[[list[dict[str, Any]]], dict[str, Any]]
blocked = trio.testing.wait_all_tasks_blocked
KEY = {"authorization": "Bearer k"}


def text(words: str) -> AgentResponseUpdate:
    return AgentResponseUpdate(contents=[Content.from_text(words)], role="assistant", message_id="m")


def said(response: dict[str, Any]) -> str:
    words: str = response["output"][0]["content"][0]["text"]
    return words


# --- JSON


@pytest.mark.parametrize("prefix", ["/v1", "/responses/v1"])
async def test_an_answer_in_one_piece(site: Any, checked: Checked, prefix: str):
    site.prefix = prefix
    client = await site.post("/responses", {"model": "m", "input": "Hi"})
    assert client.status == 200
    response = checked(client.json)
    assert (response["status"], response["model"], said(response)) == ("completed", "m", "Hello there")
    (request,) = site.context.asked
    assert response["id"] == request.name
    assert re.fullmatch(r"resp_[0-9a-f]{48}", response["id"])
    assert (response["created_at"], response["completed_at"]) == (1_700_000_000, 1_700_000_005)
    assert site.context.left_early == 0


async def test_an_answer_that_was_cut_off(site: Any, checked: Checked):
    site.context.finish_reason = "length"
    response = checked((await site.post("/responses", {"input": "Hi"})).json)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


async def test_what_the_runtime_is_asked(site: Any):
    site.open(name="mine", api_keys={"acme": "k"}, session_mode="required", on_disconnect="finish")
    body = {
        "input": "Hi",
        "conversation": "talk",
        "metadata": {"a": "b"},
        "safety_identifier": "user-7",
        "temperature": 0.5,
        "store": False,
        "tools": [{"type": "function", "name": "look", "parameters": {"type": "object"}}],
    }
    client = await site.post("/responses", body, **KEY)
    (request,) = site.context.asked
    assert request.channel == "mine"
    assert [message["contents"][0]["text"] for message in request.input] == ["Hi"]
    assert request.session == ChannelSession(session_id="talk")
    assert (request.session_mode, request.on_disconnect, request.partition) == ("required", "finish", "acme")
    assert request.identity == ChannelIdentity("mine", "user-7")
    assert request.options["temperature"] == 0.5
    assert request.metadata == {"a": "b"}
    assert [one["name"] for one in request.tools] == ["look"]
    assert (request.retrievable, request.stream, request.overlap) == (False, False, None)
    assert request.presentation["echo"]["conversation"] == {"id": "talk"}
    assert client.json["store"] is False
    assert site.context.protocol_requests == [body]


async def test_going_on_from_a_response(site: Any):
    first = await site.create()
    client = await site.post("/responses", {"input": "Hi", "previous_response_id": first})
    assert client.json["previous_response_id"] == first
    request = site.context.asked[-1]
    assert request.session == ChannelSession(after=first)
    assert (request.identity, request.partition) == (None, "")


async def test_every_response_has_an_id_of_its_own(site: Any):
    assert len({await site.create() for _ in range(20)}) == 20


async def test_the_run_hook_sees_all_that_the_body_says(site: Any):
    include = ["reasoning.encrypted_content"]
    body = {"input": "Hi", "persona": {"x": 1}, "include": include, "stream_options": {"include_obfuscation": False}}
    bodies = [body, {**body, "stream": True}, {**body, "background": True}]
    for each in bodies:
        assert (await site.post("/responses", each)).status == 200
    assert site.context.protocol_requests == bodies
    for request in site.context.asked:
        assert request.attributes == {
            "persona": {"x": 1},
            "include": include,
            "stream_options": {"include_obfuscation": False},
        }


async def test_what_the_channel_contributes(site: Any):
    def hook(request: Any, **_: Any) -> Any:
        return request

    site.open(run_hook=hook, response_hook=hook, overlap="reject")
    contribution = site.contribution
    assert (contribution.run_hook, contribution.response_hook, contribution.overlap) == (hook, hook, "reject")
    assert contribution.transcriber is ResponseTranscript
    site.open()
    contribution = site.contribution
    assert (contribution.run_hook, contribution.response_hook, contribution.overlap) == (None, None, None)


# --- events


async def test_a_stream(site: Any, read: Read):
    client = await site.post("/responses", {"input": "Hi", "stream": True})
    assert client.status == 200
    assert client.headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert client.headers[b"cache-control"] == b"no-cache"
    assert b"content-length" not in client.headers
    response = read(client.events)
    assert said(response) == "Hello there"
    (request,) = site.context.asked
    assert request.stream
    assert response["id"] == request.name
    assert site.context.left_early == 0


async def test_what_is_ready_at_once_leaves_at_once(site: Any):
    site.context.batches = [[text(str(number)) for number in range(50)], [text("x")]]
    client = await site.post("/responses", {"input": "Hi", "stream": True})
    kinds = [[event["type"].removeprefix("response.") for event in piece] for piece in client.pieces]
    assert kinds[0] == ["created", "in_progress"]
    assert kinds[1].count("output_text.delta") == 50
    assert kinds[2] == ["output_text.delta"]
    assert kinds[3][-2:] == ["completed", "[DONE]"]
    assert len(kinds) == 4


async def test_a_batch_that_says_nothing_sends_nothing(site: Any, read: Read):
    silent = AgentResponseUpdate(contents=[], role="assistant", message_id="m")
    site.context.batches = [[text("a")], [silent]] * 3
    client = await site.post("/responses", {"input": "Hi", "stream": True})
    assert all(message["body"] for message in client.sent[1:])
    assert said(read(client.events)) == "aaa"


async def test_the_first_events_leave_before_the_target_answers(site: Any):
    site.context.gate, site.context.batches = trio.Event(), []
    async with site.under_way("POST", "/responses", {"input": "Hi", "stream": True}) as client:
        assert [event["type"] for event in client.pieces[0]] == ["response.created", "response.in_progress"]
        assert client.sent[1]["more_body"]
        site.context.gate.set()


async def test_a_turn_that_fails_in_mid_stream(site: Any, read: Read):
    site.context.failure = TargetFailed("The agent failed to answer.")
    client = await site.post("/responses", {"input": "Hi", "stream": True})
    assert client.status == 200
    response = read(client.events)
    assert response["status"] == "failed"
    assert response["error"]["message"] == "The agent failed to answer."


async def test_a_turn_that_fails(site: Any):
    site.context.failure = TargetFailed("The agent did not answer in time.", code="timeout", status=504)
    client = await site.post("/responses", {"input": "Hi"})
    assert client.refused == (504, None, "timeout")


# --- in the background


async def test_a_response_in_the_background_is_answered_at_once(site: Any, checked: Checked):
    site.context.line, site.context.gate = trio.Event(), trio.Event()
    client = await site.post("/responses", {"input": "Hi", "background": True})
    response = checked(client.json)
    assert (response["status"], response["background"], response["output"]) == ("queued", True, [])
    site.context.line.set()
    await blocked()
    assert checked((await site.get(f"/responses/{response['id']}")).json)["status"] == "in_progress"
    site.context.gate.set()
    await blocked()
    shown = checked((await site.get(f"/responses/{response['id']}")).json)
    assert (shown["status"], said(shown)) == ("completed", "Hello there")


async def test_a_stream_of_a_response_in_the_background(site: Any, read: Read):
    client = await site.post("/responses", {"input": "Hi", "background": True, "stream": True})
    assert [event["type"] for event in client.pieces[0]] == ["response.created", "response.queued"]
    assert said(read(client.events)) == "Hello there"


async def test_leaving_a_response_in_the_background_stops_nothing(site: Any, read: Read):
    site.context.gate = trio.Event()
    async with site.under_way("POST", "/responses", {"input": "Hi", "background": True, "stream": True}) as client:
        client.left.set()
    site.context.gate.set()
    response_id = client.so_far[0]["response"]["id"]
    assert said(read((await site.get(f"/responses/{response_id}?stream=true")).events)) == "Hello there"


async def test_what_is_not_stored_cannot_run_in_the_background(site: Any):
    client = await site.post("/responses", {"input": "Hi", "background": True, "store": False})
    assert client.refused == (400, "background", "unsupported_value")


# --- repeats


async def test_without_keys_an_idempotency_key_means_nothing(site: Any):
    for _ in range(2):
        assert (await site.post("/responses", {"input": "Hi"}, idempotency_key="once")).status == 200
        assert (await site.post("/responses", {"input": "Hi"}, idempotency_key="not valid")).status == 200
    assert {(request.idempotency_key, request.fingerprint) for request in site.context.asked} == {(None, "")}
    assert len(site.context.runs) == 4


@pytest.mark.parametrize("key", ["", "a b", "caf\xe9", "x" * 257])
async def test_a_key_that_is_none(site: Any, key: str):
    site.open(api_keys=["k"])
    client = await site.post("/responses", {"input": "Hi"}, idempotency_key=key, **KEY)
    assert client.refused == (400, "Idempotency-Key", "invalid_value")
    assert site.context.asked == []


async def test_what_a_repeat_must_be_the_same_in(site: Any):
    site.open(api_keys=["k"])
    for number, body in enumerate([b'{"input": "Hi", "x": 1}', b'{ "x": 1, "input": "Hi"}', b'{"input": "Hi"}']):
        await site.post("/responses", body, idempotency_key=f"key-{number}", **KEY)
    assert [request.idempotency_key for request in site.context.asked] == ["key-0", "key-1", "key-2"]
    one, same, other = [request.fingerprint for request in site.context.asked]
    assert one == same != other


@pytest.mark.parametrize("background", [False, True])
async def test_a_repeat_gets_the_first_ones_answer(site: Any, background: bool):
    site.open(api_keys=["k"])
    asked = {"input": "Hi", "background": background}
    first = await site.post("/responses", asked, idempotency_key="once", **KEY)
    await blocked()
    again = await site.post("/responses", asked, idempotency_key="once", **KEY)
    assert again.json["id"] == first.json["id"]
    assert said(again.json) == "Hello there"
    assert len(site.context.runs) == 1
    other = await site.post("/responses", {"input": "Ho"}, idempotency_key="once", **KEY)
    assert other.refused == (422, "Idempotency-Key", "idempotency_key_reused")


async def test_a_repeat_waits_for_the_first_one(site: Any):
    site.open(api_keys=["k"])
    site.context.gate = trio.Event()
    asked = "POST", "/responses", {"input": "Hi"}, {**KEY, "idempotency-key": "once"}
    async with site.under_way(*asked) as first, site.under_way(*asked) as again:
        assert again.sent == []
        site.context.gate.set()
    assert first.json == again.json
    assert len(site.context.runs) == 1


async def test_a_repeat_whose_client_leaves_stops_nothing(site: Any):
    site.open(api_keys=["k"])
    site.context.gate = trio.Event()
    asked = "POST", "/responses", {"input": "Hi"}, {**KEY, "idempotency-key": "once"}
    async with site.under_way(*asked) as first:
        async with site.under_way(*asked) as again:
            again.left.set()
        assert again.sent == []
        site.context.gate.set()
    assert said(first.json) == "Hello there"


async def test_a_repeat_of_what_fails_fails_too(site: Any):
    site.open(api_keys=["k"])
    site.context.gate = trio.Event()
    site.context.failure = TargetFailed("The agent failed to answer.", code="strange")
    asked = "POST", "/responses", {"input": "Hi"}, {**KEY, "idempotency-key": "once"}
    async with site.under_way(*asked) as first, site.under_way(*asked) as again:
        site.context.gate.set()
    assert first.error == again.error
    assert again.refused == (500, None, "strange")


async def test_a_repeat_follows_the_first_ones_stream(site: Any):
    site.open(api_keys=["k"])
    site.context.gate = trio.Event()
    asked = "POST", "/responses", {"input": "Hi", "stream": True}, {**KEY, "idempotency-key": "once"}
    async with site.under_way(*asked) as first, site.under_way(*asked) as again:
        assert again.so_far == first.so_far
        site.context.gate.set()
    assert again.events == first.events
    late = await site.post("/responses", {"input": "Hi", "stream": True}, idempotency_key="once", **KEY)
    assert late.events == first.events
    assert len(site.context.runs) == 1


async def test_a_key_belongs_to_its_credential(site: Any):
    site.open(api_keys={"acme": "k", "mill": "m"})
    ids = set()
    for key in "km":
        client = await site.post("/responses", {"input": "Hi"}, idempotency_key="once", authorization=f"Bearer {key}")
        ids.add(client.json["id"])
    assert len(ids) == 2


# --- clients that leave


async def test_a_client_that_leaves_before_its_body_is_whole(site: Any):
    client = site.client("POST", "/responses", {"input": "Hi"})

    async def receive() -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if len(client.chunks) == 2:
            return {"type": "http.request", "body": client.chunks.pop(0), "more_body": True}
        return {"type": "http.disconnect"}

    await site.app(client.scope, receive, client.send)
    assert (client.sent, site.context.asked) == ([], [])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_leaves_its_turn(site: Any, stream: bool):
    site.context.gate = trio.Event()
    async with site.under_way("POST", "/responses", {"input": "Hi", "stream": stream}) as client:
        before = len(client.sent)
        client.left.set()
    assert site.context.left_early == 1
    assert len(client.sent) == before, "nothing is sent to nobody"
    await blocked()
    assert [run.state for run in site.context.runs.values()] == ["cancelled"]


async def test_a_client_that_never_reads_and_leaves(site: Any):
    site.context.gate = trio.Event()
    client = site.client("POST", "/responses", {"input": "Hi", "stream": True})
    client.reads = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.serve, client)
        await blocked()
        client.left.set()
    assert (client.sent, site.context.left_early) == ([], 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_as_the_turn_ends_is_no_error(site: Any, stream: bool):
    site.context.gate = trio.Event()
    async with site.under_way("POST", "/responses", {"input": "Hi", "stream": stream}) as client:
        site.context.gate.set()
        client.left.set()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_cancels_the_request_leaves_the_turn(site: Any, stream: bool):
    site.context.gate = trio.Event()
    with trio.CancelScope() as scope:
        async with site.under_way("POST", "/responses", {"input": "Hi", "stream": stream}):
            scope.cancel()
    assert site.context.left_early == 1


# --- bodies


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        (b"", None, "invalid_json"),
        (b"not json", None, "invalid_json"),
        (b'"\xff"', None, "invalid_json"),
        (b"[" * 100_000, None, "invalid_json"),
        (b"[]", None, "invalid_type"),
        ({}, "input", "missing_required_parameter"),
        ({"input": 5}, "input", "invalid_type"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        ({"input": "x", "stream": "yes"}, "stream", "invalid_type"),
        ({"input": "x", "include": ["all"]}, "include[0]", "unsupported_value"),
        (
            {"input": "x", "conversation": "c", "previous_response_id": "r"},
            "previous_response_id",
            "mutually_exclusive_parameters",
        ),
    ],
)
async def test_a_body_that_cannot_be_understood(site: Any, body: Any, field: str | None, code: str):
    client = await site.post("/responses", body)
    assert client.refused == (400, field, code)
    assert site.context.asked == []


@pytest.mark.parametrize("mode", [{}, {"stream": True}, {"background": True}, {"background": True, "stream": True}])
async def test_a_point_that_is_not_there(site: Any, mode: dict[str, bool]):
    client = await site.post("/responses", {"input": "Hi", "previous_response_id": "resp_1", **mode})
    assert client.refused == (400, "previous_response_id", "previous_response_not_found")


@pytest.mark.parametrize("mode", [{}, {"stream": True}, {"background": True}, {"background": True, "stream": True}])
async def test_a_refusal_before_anything_was_sent(site: Any, mode: dict[str, bool]):
    site.context.refusal = HostError("no", code="because", status=418)
    assert (await site.post("/responses", {"input": "Hi", **mode})).refused == (418, None, "because")
