"""Responses by their ids: fetched, followed, resumed, cancelled, deleted; what they were given; compaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from agent_framework import AgentResponseUpdate, ContextWindowCompactionStrategy

from afactors_channels import NotFound, TargetFailed

Checked = Callable[[dict[str, Any]], dict[str, Any]]
Read = Callable[[list[dict[str, Any]]], dict[str, Any]]
blocked = trio.testing.wait_all_tasks_blocked

ENDPOINTS = [("GET", ""), ("GET", "?stream=true"), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")]
UNKNOWN = (404, "response_id", "response_not_found")


async def held(site: Any, **fields: Any) -> str:
    """The id of a response in the background that does not end by itself."""
    site.context.gate = trio.Event()
    response_id: str = await site.create(background=True, **fields)
    await blocked()
    return response_id


# --- fetching


async def test_a_response_is_fetched_as_it_was_answered(site: Any, checked: Checked):
    created = await site.post("/responses", {"input": "Hi", "metadata": {"a": "b"}, "temperature": 1.5})
    fetched = await site.get(f"/responses/{created.json['id']}")
    assert checked(fetched.json) == created.json


async def test_a_response_that_failed_is_fetched_with_its_error(site: Any, checked: Checked):
    site.context.failure = TargetFailed("The agent failed to answer.", code="strange")
    response_id = await site.create(background=True)
    await blocked()
    response = checked((await site.get(f"/responses/{response_id}")).json)
    assert response["status"] == "failed"
    assert response["error"] == {"code": "strange", "message": "The agent failed to answer."}


@pytest.mark.parametrize("query", ["include=reasoning.encrypted_content", "include[]=reasoning.encrypted_content"])
async def test_what_is_shown_only_if_it_is_asked_for(site: Any, query: str):
    thought = {"type": "text_reasoning", "id": "rs_1", "text": "hm", "protected_data": "sealed"}
    update = AgentResponseUpdate.from_dict({"contents": [thought], "role": "assistant", "message_id": "m"})
    site.context.batches = [[update]]
    response_id = await site.create()
    (plain,) = (await site.get(f"/responses/{response_id}")).json["output"]
    assert not plain.get("encrypted_content")
    (asked,) = (await site.get(f"/responses/{response_id}?{query}")).json["output"]
    assert asked["encrypted_content"] == "sealed"


@pytest.mark.parametrize(("method", "rest"), ENDPOINTS)
async def test_what_nobody_knows(site: Any, method: str, rest: str):
    client = await site.serve(site.client(method, f"/responses/resp_1{rest}"))
    assert client.refused == UNKNOWN


@pytest.mark.parametrize(("method", "rest"), ENDPOINTS)
async def test_what_is_anothers_is_as_unknown(site: Any, method: str, rest: str):
    site.open(api_keys={"acme": "k", "mill": "m"})
    client = await site.post("/responses", {"input": "Hi", "background": True}, authorization="Bearer k")
    path = f"/responses/{client.json['id']}{rest}"
    other = await site.serve(site.client(method, path, None, {"authorization": "Bearer m"}))
    nobody = await site.serve(site.client(method, f"/responses/x{rest}", None, {"authorization": "Bearer m"}))
    assert other.refused == UNKNOWN
    assert other.json == nobody.json
    assert (await site.serve(site.client(method, path, None, {"authorization": "Bearer k"}))).status == 200


@pytest.mark.parametrize(("method", "rest"), [each for each in ENDPOINTS if each[0] != "DELETE"])
async def test_what_was_not_stored_is_as_unknown(site: Any, method: str, rest: str):
    response_id = await site.create(store=False)
    client = await site.serve(site.client(method, f"/responses/{response_id}{rest}"))
    assert client.refused == UNKNOWN


@pytest.mark.parametrize(("method", "rest"), [each for each in ENDPOINTS if each[0] != "DELETE"])
async def test_what_is_no_longer_kept(site: Any, method: str, rest: str):
    response_id = await site.create()
    site.context.run(response_id).expired = True
    client = await site.serve(site.client(method, f"/responses/{response_id}{rest}"))
    assert client.refused == (404, "response_id", "result_expired")


@pytest.mark.parametrize("name", ["x" * 257, "%00", "a%0ab"])
@pytest.mark.parametrize(("method", "rest"), ENDPOINTS)
async def test_what_cannot_be_an_id(site: Any, method: str, rest: str, name: str):
    client = await site.serve(site.client(method, f"/responses/{name}{rest}"))
    assert client.refused == (400, "response_id", "invalid_value")


@pytest.mark.parametrize(
    ("query", "field", "code"),
    [
        ("stream=maybe", "stream", "invalid_type"),
        ("stream=true&starting_after=x", "starting_after", "invalid_type"),
        ("stream=true&starting_after=-1", "starting_after", "invalid_value"),
        ("include=everything", "include[0]", "unsupported_value"),
        ("&".join("x=1" for _ in range(200)), None, "invalid_request"),
    ],
)
async def test_a_query_that_is_wrong(site: Any, query: str, field: str | None, code: str):
    response_id = await site.create()
    client = await site.get(f"/responses/{response_id}?{query}")
    assert client.refused == (400, field, code)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/responses", b"POST"),
        ("PUT", "/responses/x", b"DELETE, GET"),
        ("GET", "/responses/x/cancel", b"POST"),
        ("GET", "/responses/compact", b"POST"),
        ("DELETE", "/conversations", b"POST"),
        ("PATCH", "/conversations/x", b"DELETE, GET, POST"),
        ("POST", "/openapi.json", b"GET"),
    ],
)
async def test_a_method_that_is_not_served(site: Any, method: str, path: str, allowed: bytes):
    client = await site.serve(site.client(method, path, {}))
    assert client.refused == (405, None, "method_not_allowed")
    assert client.headers[b"allow"] == allowed


# --- following


async def test_following_from_the_beginning_and_from_anywhere(site: Any, read: Read):
    first = await site.post("/responses", {"input": "Hi", "stream": True})
    events = first.events
    response_id = read(events)["id"]
    for query, seen in [("", 0), *((f"&starting_after={number}", number + 1) for number in range(len(events)))]:
        client = await site.get(f"/responses/{response_id}?stream=true{query}")
        assert (client.status, client.events) == (200, events[seen:])


async def test_following_what_is_under_way(site: Any, read: Read):
    response_id = await held(site)
    async with (
        site.under_way("GET", f"/responses/{response_id}?stream=true") as whole,
        site.under_way("GET", f"/responses/{response_id}?stream=true&starting_after=2") as rest,
    ):
        assert [event["sequence_number"] for event in rest.so_far][:2] == [3, 4]
        site.context.gate.set()
    assert read(whole.events)["status"] == "completed"
    assert rest.events == whole.events[3:]


async def test_a_follower_that_leaves_stops_nothing(site: Any):
    response_id = await held(site)
    async with site.under_way("GET", f"/responses/{response_id}?stream=true") as client:
        sent = len(client.sent)
        client.left.set()
    assert len(client.sent) == sent
    site.context.gate.set()
    await blocked()
    assert (await site.get(f"/responses/{response_id}")).json["status"] == "completed"


async def test_a_follower_that_never_reads_and_leaves(site: Any):
    response_id = await held(site)
    client = site.client("GET", f"/responses/{response_id}?stream=true")
    client.reads = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.serve, client)
        await blocked()
        client.left.set()
    assert client.sent == []


async def test_following_what_begins_again(site: Any, read: Read):
    response_id = await held(site)
    async with site.under_way("GET", f"/responses/{response_id}?stream=true") as client:
        before = client.so_far
        site.context.begin_again(response_id)
    *told, error = client.events
    assert told == before
    last = before[-1]["sequence_number"]
    assert (error["type"], error["sequence_number"], error["code"]) == ("error", last, "run_restarted")
    assert (error["param"], bool(error["message"])) == ("starting_after", True)
    async with site.under_way("GET", f"/responses/{response_id}?stream=true&starting_after=1") as resumed:
        pass
    (error,) = resumed.events
    assert (error["type"], error["sequence_number"], error["code"]) == ("error", 1, "run_restarted")
    site.context.gate.set()
    anew = (await site.get(f"/responses/{response_id}?stream=true")).events
    assert anew[0]["sequence_number"] > last
    assert anew[-1]["response"]["status"] == "completed"
    late = await site.get(f"/responses/{response_id}?stream=true&starting_after=1")
    assert late.events == resumed.events


async def test_following_what_is_too_long(site: Any):
    response_id = await held(site)
    async with site.under_way("GET", f"/responses/{response_id}?stream=true") as client:
        before = client.so_far
        site.context.cut(response_id)
    *told, error = client.events
    assert told == before
    last = before[-1]["sequence_number"]
    assert (error["type"], error["sequence_number"], error["code"]) == ("error", last, "transcript_too_long")
    resumed = await site.get(f"/responses/{response_id}?stream=true&starting_after={last}")
    assert resumed.events == [error]


async def test_following_what_is_put_back(site: Any):
    response_id = await held(site)
    async with site.under_way("GET", f"/responses/{response_id}?stream=true") as client:
        before = client.so_far
        site.context.put_back(response_id)
    assert client.cut == before
    last = before[-1]["sequence_number"]
    assert (await site.get(f"/responses/{response_id}?stream=true&starting_after={last}")).cut == []


async def test_following_what_is_put_back_before_it_said_anything(site: Any):
    response_id = await held(site)
    site.context.run(response_id).log.batches.clear()
    async with site.under_way("GET", f"/responses/{response_id}?stream=true") as client:
        site.context.put_back(response_id)
    assert client.status == 200
    assert client.cut == []


async def test_following_what_says_nothing_for_now(site: Any):
    """Whoever has heard all that there is so far knows at once that there will be more."""
    response_id = await held(site)
    told = site.context.run(response_id).log.end
    async with site.under_way("GET", f"/responses/{response_id}?stream=true&starting_after={told - 1}") as client:
        assert (client.status, client.headers[b"content-type"][:17]) == (200, b"text/event-stream")
        assert [message["body"] for message in client.sent[1:]] == [b""]
        site.context.gate.set()
    assert [client.events[0]["sequence_number"], client.events[-1]["type"]] == [told, "response.completed"]


async def test_events_that_are_no_longer_kept(site: Any):
    response_id = await site.create()
    log = site.context.run(response_id).log
    log.batches.clear()
    log.close(NotFound("Gone.", code="transcript_expired"))
    client = await site.get(f"/responses/{response_id}?stream=true&starting_after=3")
    assert client.refused == (404, None, "transcript_expired")


async def test_what_keeps_the_rest_from_coming_is_the_last_event(site: Any):
    response_id = await held(site)
    async with site.under_way("GET", f"/responses/{response_id}?stream=true") as client:
        before = client.so_far
        site.context.put_back(response_id, NotFound("There is no such run.", code="run_not_found"))
    *told, error = client.events
    assert told == before
    assert error.pop("message")
    last = before[-1]["sequence_number"]
    assert error == {
        "type": "error", "sequence_number": last, "code": "response_not_found", "param": "response_id"
    }  # fmt: skip
    again = await site.get(f"/responses/{response_id}?stream=true&starting_after={last}")
    assert [event.pop("message") and event for event in again.events] == [error]


# --- cancelling


async def test_cancelling(site: Any, checked: Checked, read: Read):
    response_id = await held(site)
    async with site.under_way("GET", f"/responses/{response_id}?stream=true") as follower:
        client = await site.post(f"/responses/{response_id}/cancel")
    response = checked(client.json)
    assert (response["id"], response["status"]) == (response_id, "cancelled")
    assert read(follower.events)["status"] == "cancelled"
    assert (await site.post(f"/responses/{response_id}/cancel")).json == response
    assert (await site.get(f"/responses/{response_id}")).json == response


async def test_cancelling_what_waits_in_line(site: Any, read: Read):
    site.context.line = trio.Event()
    response_id = await site.create(background=True)
    assert (await site.post(f"/responses/{response_id}/cancel")).json["status"] == "cancelled"
    events = (await site.get(f"/responses/{response_id}?stream=true")).events
    assert read(events)["status"] == "cancelled"
    assert "response.in_progress" not in [event["type"] for event in events]


async def test_cancelling_what_has_ended_changes_nothing(site: Any):
    response_id = await site.create(background=True)
    await blocked()
    before = (await site.get(f"/responses/{response_id}")).json
    assert before["status"] == "completed"
    assert (await site.post(f"/responses/{response_id}/cancel")).json == before


async def test_what_is_not_in_the_background_cannot_be_cancelled(site: Any):
    response_id = await site.create()
    client = await site.post(f"/responses/{response_id}/cancel")
    assert client.refused == (400, "response_id", "not_in_background")


# --- deleting


async def test_deleting(site: Any):
    response_id = await site.create()
    client = await site.delete(f"/responses/{response_id}")
    assert client.json == {"id": response_id, "object": "response", "deleted": True}
    for method, rest in ENDPOINTS:
        assert (await site.serve(site.client(method, f"/responses/{response_id}{rest}"))).refused == UNKNOWN
    client = await site.post("/responses", {"input": "Hi", "previous_response_id": response_id})
    assert client.refused == (400, "previous_response_id", "previous_response_not_found")


async def test_deleting_what_is_under_way_cancels_it(site: Any):
    response_id = await held(site)
    run = site.context.run(response_id)
    assert (await site.delete(f"/responses/{response_id}")).status == 200
    assert run.state == "cancelled"


async def test_what_was_not_stored_can_be_deleted(site: Any):
    """It cannot be fetched, but it is a point to go on from."""
    response_id = await site.create(store=False)
    assert (await site.delete(f"/responses/{response_id}")).json["deleted"]
    assert site.context.runs == {}


# --- input


async def test_the_items_that_a_response_was_given(site: Any):
    items = [{"role": "user", "content": str(number)} for number in range(5)]
    response_id = await site.create(input=items)

    async def page(query: str) -> tuple[list[str], bool]:
        client = await site.get(f"/responses/{response_id}/input_items{query}")
        assert client.json["object"] == "list"
        data = client.json["data"]
        assert [client.json["first_id"], client.json["last_id"]] == [data[0]["id"], data[-1]["id"]]
        ids.update({item["content"][0]["text"]: item["id"] for item in data})
        return [item["content"][0]["text"] for item in data], client.json["has_more"]

    ids: dict[str, str] = {}
    assert await page("") == (["4", "3", "2", "1", "0"], False)
    assert await page("?order=asc&limit=2") == (["0", "1"], True)
    assert await page(f"?order=asc&limit=2&after={ids['1']}") == (["2", "3"], True)
    assert await page(f"?order=asc&limit=2&after={ids['3']}") == (["4"], False)
    assert await page(f"?limit=1&after={ids['3']}") == (["2"], True)


async def test_the_input_of_a_response_that_failed_is_there(site: Any):
    site.context.failure = TargetFailed("no")
    response_id = await site.create(background=True)
    await blocked()
    assert len((await site.get(f"/responses/{response_id}/input_items")).json["data"]) == 1


PAGES = [
    ("limit=0", "limit", "invalid_value"),
    ("limit=101", "limit", "invalid_value"),
    ("limit=ten", "limit", "invalid_type"),
    ("order=up", "order", "invalid_value"),
    ("after=msg_1", "after", "invalid_value"),
    ("after=", "after", "invalid_value"),
    ("include[]=everything", "include[0]", "unsupported_value"),
]


@pytest.mark.parametrize(("query", "field", "code"), PAGES)
async def test_a_page_that_cannot_be_had(site: Any, query: str, field: str, code: str):
    response_id = await site.create()
    client = await site.get(f"/responses/{response_id}/input_items?{query}")
    assert client.refused == (400, field, code)


# --- the rest


async def test_tokens_are_not_counted(site: Any):
    client = await site.post("/responses/input_tokens", {"model": "m", "input": "Hi"})
    assert client.refused == (501, None, "not_implemented")
    assert client.headers[b"x-should-retry"] == b"false"
    assert (await site.post("/responses/input_tokens", b"nonsense")).refused == (400, None, "invalid_json")


async def test_compacting(site: Any):
    strategy = object()
    site.open(compaction=strategy, api_keys={"acme": "k"})
    first = await site.post("/responses", {"input": "Hi"}, authorization="Bearer k")
    body = {"model": "m", "input": "And then?", "previous_response_id": first.json["id"]}
    client = await site.post("/responses/compact", body, authorization="Bearer k")
    assert (client.json["object"], client.json["id"][:5]) == ("response.compaction", "resp_")
    assert [item["content"][0]["text"] for item in client.json["output"]] == ["Hi", "Hello there", "And then?"]
    ((request, given),) = site.context.compacted
    assert given is strategy
    assert (request.session.after, request.partition) == (first.json["id"], "acme")


async def test_compacting_by_default_is_for_a_window_of_a_usual_size(site: Any):
    await site.post("/responses/compact", {"model": "m", "input": "Hi"})
    ((_, strategy),) = site.context.compacted
    assert isinstance(strategy, ContextWindowCompactionStrategy)


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        (b"", None, "invalid_json"),
        ({"input": "Hi"}, "model", "missing_required_parameter"),
        ({"model": "m", "input": 5}, "input", "invalid_type"),
        ({"model": "m", "previous_response_id": 5}, "previous_response_id", "invalid_type"),
        ({"model": "m", "previous_response_id": "resp_1"}, "previous_response_id", "previous_response_not_found"),
    ],
)
async def test_what_cannot_be_compacted(site: Any, body: Any, field: str | None, code: str):
    assert (await site.post("/responses/compact", body)).refused == (400, field, code)


@pytest.mark.parametrize("prefix", ["/v1", "/responses/v1"])
async def test_the_document_tells_of_every_endpoint(site: Any, prefix: str):
    site.prefix = prefix
    document = (await site.get("/openapi.json")).json
    assert document["servers"] == [{"url": prefix}]
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    routes = site.contribution.routes
    assert told == {
        (route.method, route.path.removeprefix(prefix))
        for route in routes
        if route.path.startswith(prefix) and route.method != "WEBSOCKET"
    }


async def test_the_document_is_behind_the_key_too(site: Any):
    site.open(api_keys=["k"])
    assert (await site.get("/openapi.json")).refused == (401, None, "invalid_api_key")
    document = (await site.get("/openapi.json", authorization="Bearer k")).json
    assert document["components"]["securitySchemes"]
