"""Conversations by their ids: created, labelled, deleted; their items listed, added, taken out."""

from __future__ import annotations

from typing import Any

import pytest

from afactors_channels import Conflicting, HostedSession, NotFound, Overloaded, Question

UNKNOWN = (404, "conversation_id", "conversation_not_found")
NO_ITEM = (404, "item_id", "item_not_found")
ENDPOINTS = [
    ("GET", "", None),
    ("POST", "", {"metadata": {}}),
    ("DELETE", "", None),
    ("GET", "/items", None),
    ("POST", "/items", {"items": [{"role": "user", "content": "Hi"}]}),
    ("GET", "/items/msg_1", None),
    ("DELETE", "/items/msg_1", None),
]


def message(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [item["content"][0]["text"] for item in items]


async def begun(site: Any, *words: str, **fields: Any) -> str:
    """The id of a new conversation."""
    client = await site.post("/conversations", {"items": [message(word) for word in words], **fields})
    assert client.status == 200
    conversation_id: str = client.json["id"]
    return conversation_id


async def items_of(site: Any, name: str) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = (await site.get(f"/conversations/{name}/items?order=asc")).json["data"]
    return data


# --- conversations


@pytest.mark.parametrize("body", [None, {}, {"items": None, "metadata": None}, {"items": []}])
async def test_beginning_with_nothing(site: Any, body: Any):
    client = await site.post("/conversations", body)
    conversation = client.json
    assert conversation.pop("id").startswith("conv_")
    assert conversation == {"object": "conversation", "created_at": 1_700_000_000, "metadata": {}}


async def test_a_conversation_from_its_beginning_to_its_end(site: Any):
    name = await begun(site, "a", "b", metadata={"x": "1"})
    path = f"/conversations/{name}"
    shown = {"id": name, "object": "conversation", "created_at": 1_700_000_000, "metadata": {"x": "1"}}
    assert (await site.get(path)).json == shown
    assert (await site.post(path, {"metadata": {"y": "2"}})).json == {**shown, "metadata": {"y": "2"}}
    assert (await site.get(path)).json["metadata"] == {"y": "2"}
    assert texts(await items_of(site, name)) == ["a", "b"]
    assert (await site.delete(path)).json == {"id": name, "object": "conversation.deleted", "deleted": True}
    assert (await site.get(path)).refused == UNKNOWN


async def test_a_conversation_that_waits_says_for_what(site: Any):
    asked = Question("r1", "input", "request_info", {"data": 1}, 1_700_000_000.5, 1_700_000_100.5)
    site.context.sessions["", "c"] = HostedSession("c", 1_700_000_000.5, questions=[asked])
    [waiting] = (await site.get("/conversations/c")).json["waiting"]
    assert waiting == {
        "type": "function_call",
        "id": "r1",
        "name": "request_info",
        "arguments": '{"data": 1}',
        "asked_at": 1_700_000_000,
        "expires_at": 1_700_000_100,
    }


async def test_an_item_that_changes_how_others_are_shown(site: Any):
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    request = {"type": "function_approval_request", "id": "a1", "function_call": call}
    asked = {"type": "message", "role": "assistant", "message_id": "m", "contents": [call, request]}
    site.context.sessions["", "c"] = HostedSession("c", 1_700_000_000.5, messages=[asked])
    assert [item["type"] for item in await items_of(site, "c")] == ["mcp_approval_request"]
    added = {"type": "function_call_output", "call_id": "c1", "output": "x"}
    client = await site.post("/conversations/c/items", {"items": [added]})
    assert [item["type"] for item in client.json["data"]] == ["function_call_output"]
    assert len(await items_of(site, "c")) == 3


async def test_every_conversation_has_an_id_of_its_own(site: Any):
    assert len({await begun(site) for _ in range(20)}) == 20


async def test_turns_and_items_go_together(site: Any):
    name = await begun(site, "Before.")
    await site.post("/responses", {"input": "Hi", "conversation": name})
    await site.post(f"/conversations/{name}/items", {"items": [message("After.")]})
    assert texts(await items_of(site, name)) == ["Before.", "Hi", "Hello there", "After."]


async def test_a_name_of_ones_own(site: Any):
    await site.post("/responses", {"input": "Hi", "conversation": "mine/or yours"})
    assert (await site.get("/conversations/mine%2For%20yours")).json["id"] == "mine/or yours"


@pytest.mark.parametrize(("method", "rest", "body"), ENDPOINTS)
async def test_what_nobody_knows(site: Any, method: str, rest: str, body: Any):
    assert (await site.serve(site.client(method, f"/conversations/conv_1{rest}", body))).refused == UNKNOWN


@pytest.mark.parametrize(("method", "rest", "body"), ENDPOINTS)
async def test_what_is_anothers_is_as_unknown(site: Any, method: str, rest: str, body: Any):
    site.open(api_keys={"acme": "k", "mill": "m"})
    name = (await site.post("/conversations", None, authorization="Bearer k")).json["id"]
    headers = {"authorization": "Bearer m"}
    assert (await site.serve(site.client(method, f"/conversations/{name}{rest}", body, headers))).refused == UNKNOWN


@pytest.mark.parametrize("name", ["%00", "x" * 1025])
@pytest.mark.parametrize(("method", "rest", "body"), ENDPOINTS)
async def test_what_cannot_be_a_name(site: Any, method: str, rest: str, body: Any, name: str):
    client = await site.serve(site.client(method, f"/conversations/{name}{rest}", body))
    assert client.refused == (400, "conversation_id", "invalid_value")


TOO_MANY_PAIRS = {str(number): "" for number in range(17)}
BODIES = [
    ("", b"[]", None, "invalid_type"),
    ("", {"items": "Hi"}, "items", "invalid_type"),
    ("", {"items": [message("")] * 21}, "items", "invalid_value"),
    ("", {"items": [{"role": "user"}]}, "items[0].content", "missing_required_parameter"),
    ("", {"metadata": []}, "metadata", "invalid_type"),
    ("", {"metadata": TOO_MANY_PAIRS}, "metadata", "invalid_value"),
    ("/{}", b"", None, "invalid_json"),
    ("/{}", {}, "metadata", "missing_required_parameter"),
    ("/{}", {"metadata": {"a": 1}}, "metadata", "invalid_value"),
    ("/{}/items", {}, "items", "missing_required_parameter"),
    ("/{}/items", {"items": []}, "items", "invalid_value"),
    ("/{}/items", {"items": [message("")] * 21}, "items", "invalid_value"),
    ("/{}/items", {"items": ["Hi"]}, "items[0]", "invalid_type"),
    ("/{}/items", {"items": [{"type": "nothing"}]}, "items[0].type", "unsupported_value"),
    ("/{}/items?include=x", {"items": [message("")]}, "include[0]", "unsupported_value"),
]


@pytest.mark.parametrize(("path", "body", "field", "code"), BODIES)
async def test_a_body_that_is_wrong(site: Any, path: str, body: Any, field: str | None, code: str):
    name = await begun(site)
    client = await site.post("/conversations" + path.format(name), body)
    assert client.refused == (400, field, code)
    assert await items_of(site, name) == []


async def test_a_change_that_the_runtime_refuses(site: Any):
    name = await begun(site)
    for refusal, refused in [
        (Overloaded("no", code="mailbox_full"), (429, None, "mailbox_full")),
        (NotFound("no", field="remove", code="message_not_found"), NO_ITEM),
        (Conflicting("no", field="session", code="strange"), (409, "conversation", "strange")),
    ]:
        site.context.refusal = refusal
        assert (await site.post(f"/conversations/{name}", {"metadata": {}})).refused == refused


# --- items


async def test_pages_of_items(site: Any):
    name = await begun(site, *"abcde")
    ids = [item["id"] for item in await items_of(site, name)]

    async def page(query: str) -> tuple[str, bool]:
        told = (await site.get(f"/conversations/{name}/items{query}")).json
        assert (told["first_id"], told["last_id"]) == (told["data"][0]["id"], told["data"][-1]["id"])
        return "".join(texts(told["data"])), told["has_more"]

    assert await page("") == ("edcba", False)
    assert await page("?limit=2") == ("ed", True)
    assert await page(f"?limit=3&after={ids[3]}") == ("cba", False)
    assert await page(f"?order=asc&limit=2&after={ids[0]}") == ("bc", True)


async def test_no_items(site: Any):
    told = (await site.get(f"/conversations/{await begun(site)}/items")).json
    assert told == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("query", "field", "code"),
    [
        ("limit=0", "limit", "invalid_value"),
        ("limit=101", "limit", "invalid_value"),
        ("order=up", "order", "invalid_value"),
        ("after=msg_1", "after", "invalid_value"),
        ("include=x", "include[0]", "unsupported_value"),
    ],
)
async def test_a_page_that_cannot_be_had(site: Any, query: str, field: str, code: str):
    client = await site.get(f"/conversations/{await begun(site)}/items?{query}")
    assert client.refused == (400, field, code)


async def test_adding_answers_with_what_was_added(site: Any):
    name = await begun(site, "a")
    reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "s"}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "1"}
    path = f"/conversations/{name}/items"
    added = (await site.post(path, {"items": [message("b"), reasoning, call, output]})).json
    # The framework keeps a thought and a call that belong together in one message.
    assert [item["type"] for item in added["data"]] == ["message", "reasoning", "function_call", "function_call_output"]
    assert (await items_of(site, name))[1:] == added["data"]
    assert "encrypted_content" not in added["data"][1]
    added = (await site.post(f"{path}?include=reasoning.encrypted_content", {"items": [reasoning]})).json
    assert [item["encrypted_content"] for item in added["data"]] == ["s"]


async def test_one_item(site: Any):
    name = await begun(site, "a", "b")
    first, second = await items_of(site, name)
    path = f"/conversations/{name}/items"
    assert (await site.get(f"{path}/{first['id']}")).json == first
    client = await site.delete(f"{path}/{first['id']}")
    assert client.json == {"id": name, "object": "conversation", "created_at": 1_700_000_000, "metadata": {}}
    assert await items_of(site, name) == [second]
    assert (await site.get(f"{path}/{first['id']}")).refused == NO_ITEM
    assert (await site.delete(f"{path}/{first['id']}")).refused == NO_ITEM
    assert (await site.get(f"{path}/{second['id']}?include=x")).refused == (400, "include[0]", "unsupported_value")


async def test_taking_out_a_part_of_a_message(site: Any):
    calls = [{"type": "function_call", "call_id": each, "name": "f", "arguments": "{}"} for each in "xyz"]
    client = await site.post("/conversations", {"items": calls})
    name = client.json["id"]
    one, two, three = await items_of(site, name)
    assert (await site.delete(f"/conversations/{name}/items/{two['id']}")).status == 200
    assert await items_of(site, name) == [one, three]


@pytest.mark.parametrize("name", ["%00", "x" * 257])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_what_cannot_be_an_items_id(site: Any, method: str, name: str):
    path = f"/conversations/{await begun(site)}/items/{name}"
    assert (await site.serve(site.client(method, path))).refused == (400, "item_id", "invalid_value")
