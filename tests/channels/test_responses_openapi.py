"""The OpenAPI document: that it is one, and that it and the code say the same of what is asked and what is answered."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from agent_framework import AgentResponse, AgentResponseUpdate, Annotation, Content, Message

from afactors_channels import Question, QuestionKind, errors
from afactors_channels.errors import BadRequest, HostError
from afactors_channels.responses import (
    EventStream,
    compaction,
    conversations,
    error_body,
    listing,
    new_response_id,
    parse,
    parse_create,
    render_response,
    stored_items,
)
from afactors_channels.responses.openapi import openapi_document
from afactors_channels.responses.presentation import presentation, skeleton

DOCUMENT = openapi_document(version="1.2.3", authenticated=True)
OPERATIONS = {
    (method, path): operation for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
ID = new_response_id(bytes(24))


def validator(name: str) -> jsonschema_rs.Validator:
    reference = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return jsonschema_rs.validator_for(reference)


CREATE = validator("CreateResponse")
RESPONSE = validator("Response")
EVENT = validator("StreamEvent")


def parts(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in the document."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts(part)


# --- the document


@pytest.mark.parametrize("authenticated", [True, False])
def test_it_is_a_valid_document(authenticated: bool) -> None:
    document = openapi_document(version="1.2.3", server_prefix="/responses/v1", authenticated=authenticated)
    schemathesis.openapi.from_dict(document).validate()
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)
    assert document["servers"] == [{"url": "/responses/v1"}]
    assert document["info"]["version"] == "1.2.3"


def test_it_is_small_and_always_the_same() -> None:
    again = openapi_document(version="1.2.3", authenticated=True)
    assert json.dumps(again) == json.dumps(DOCUMENT)
    assert len(json.dumps(DOCUMENT)) < 100_000
    again["components"]["schemas"]["Response"].clear()
    assert openapi_document(version="1.2.3", authenticated=True) == DOCUMENT


@pytest.mark.parametrize("authenticated", [True, False])
def test_every_reference_leads_somewhere_and_everything_is_referred_to(authenticated: bool) -> None:
    document = openapi_document(version="1", authenticated=authenticated)
    references = {part["$ref"] for part in parts(document) if "$ref" in part}
    for reference in references:
        place: Any = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
    kinds = set(document["components"]) - {"securitySchemes"}
    named = {f"#/components/{kind}/{name}" for kind in kinds for name in document["components"][kind]}
    assert named == references


def test_every_operation_says_how_it_can_fail() -> None:
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len({*names}) == len(names)
    for (_, path), operation in OPERATIONS.items():
        given = {parameter["$ref"].rpartition("/")[2] for parameter in operation["parameters"]}
        assert {name.strip("{}") for name in path.split("/") if name.startswith("{")} <= given
        assert {"401", "500", "503"} <= operation["responses"].keys()
        assert path == "/responses/input_tokens" or "200" in operation["responses"]


def test_a_turn_can_fail_in_every_way_that_there_is() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HostError)]
    assert {str(kind.status) for kind in kinds} <= OPERATIONS["post", "/responses"]["responses"].keys()


@pytest.mark.parametrize("authenticated", [True, False])
def test_keys_are_described_where_they_are_needed(authenticated: bool) -> None:
    document = openapi_document(version="1", authenticated=authenticated)
    for methods in document["paths"].values():
        for operation in methods.values():
            assert ("security" in operation) == ("401" in operation["responses"]) == authenticated
    components = document["components"]
    assert ("securitySchemes" in components) == ("401" in components["responses"]) == authenticated
    assert ("idempotency_key" in components["parameters"]) == authenticated  # repeats of strangers are not known


# --- what is asked: the schema and the parser agree


def test_both_know_the_same_fields() -> None:
    assert DOCUMENT["components"]["schemas"]["CreateResponse"]["properties"].keys() == parse._FIELDS.keys()


def accepted(body: dict[str, Any], read: Callable[[dict[str, Any]], Any] = parse_create) -> bool:
    try:
        read(body)
    except BadRequest:
        return False
    return True


def edges(schema: dict[str, Any]) -> Iterator[Any]:
    """Values at the limits of a schema, and just beyond."""
    for choice in schema.get("anyOf", []):
        yield from edges(choice)
    for word in [*schema.get("enum", []), *([schema["const"]] if "const" in schema else [])]:
        yield from (word, f"{word}x")
    for limit, step in (("minimum", -1), ("maximum", 1)):
        if limit in schema:
            yield from (schema[limit], schema[limit] + step)
    for limit, step in (("minLength", -1), ("maxLength", 1)):
        if limit in schema:
            yield from ("x" * schema[limit], "x" * (schema[limit] + step))
    if "maxItems" in schema and "maxLength" in schema["items"]:
        yield from (["x"] * schema["maxItems"], ["x"] * (schema["maxItems"] + 1))
    if "maxProperties" in schema:
        yield from ({str(n): "" for n in range(schema["maxProperties"] + more)} for more in (0, 1))
        yield from ({"x" * (schema["propertyNames"]["maxLength"] + more): ""} for more in (0, 1))
        yield from ({"x": "x" * (schema["additionalProperties"]["maxLength"] + more)} for more in (0, 1))
    if schema.get("items", {}).keys() & {"enum", "maxLength"}:
        yield from ([edge] for edge in edges(schema["items"]))
    for name, member in schema.get("properties", {}).items():
        yield from ({name: edge} for edge in edges(member))


@pytest.mark.parametrize("field", sorted(parse._FIELDS))
def test_both_draw_the_same_limits(field: str) -> None:
    schema = DOCUMENT["components"]["schemas"]["CreateResponse"]["properties"][field]
    for edge in edges(schema):
        body = {"input": "x", field: edge}
        assert CREATE.is_valid(body) == accepted(body), str(body)[:200]


def function(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, **more}


BODIES: list[dict[str, Any]] = [
    {
        "input": "x",
        "conversation": {"id": "c"},
        "background": True,
        "store": True,
        "metadata": {"a": "b"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "stop": ["a"],
        "stream": True,
        "stream_options": {"include_obfuscation": False},
        "include": ["reasoning.encrypted_content"],
        "text": {"verbosity": "low", "format": {"type": "text"}},
        "tools": [function("f", description="d", parameters={"type": "object"}, strict=True)],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [function("f")]},
        "response_target": "none",
    },
    {
        "input": "x",
        "previous_response_id": "resp_1",
        "stop": "a",
        "tools": [function("f")],
        "tool_choice": function("f"),
        "text": {
            "format": {"type": "json_schema", "name": "n", "description": "d", "schema": {"a": 1}, "strict": True}
        },
    },
    {
        "input": [
            {"type": "message", "id": "m", "status": "completed", "role": "user", "content": "x"},
            {
                "role": "assistant",
                "content": [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}],
            },
            {
                "role": "developer",
                "content": [
                    {"type": "text", "text": "a"},
                    {"type": "input_image", "image_url": "https://x.test/a.png", "detail": "low"},
                    {"type": "input_image", "file_id": "f"},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
                    {"type": "input_file", "file_data": PNG, "filename": "a.pdf"},
                    {"type": "input_file", "file_data": f"data:text/plain;charset=utf-8;base64,{PNG}"},
                    {"type": "input_file", "file_url": "http://x.test/b.csv", "detail": "high"},
                    {"type": "input_file", "file_id": "f"},
                ],
            },
            {
                "type": "reasoning",
                "id": "r",
                "summary": [{"type": "summary_text", "text": "s"}],
                "content": [{"type": "reasoning_text", "text": "t"}],
                "encrypted_content": "e",
            },
            {"type": "function_call", "id": "i", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "id": "i", "call_id": "c", "output": "x"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "x"}]},
            {"type": "image_generation_call", "id": "i", "result": PNG, "output_format": "png"},
            {"type": "mcp_approval_request", "id": "a", "name": "f", "arguments": "{}", "server_label": "s"},
            {"type": "mcp_approval_response", "id": "i", "approval_request_id": "a", "approve": True, "reason": "r"},
        ]
    },
    {"input": "x", "response_target": {"kind": "all_linked", "echo_input": True}},
    {"input": "x", "response_target": {"channel": "telegram", "kind": None}},
    {"input": "x", "response_target": {"channels": ["telegram", "webhook"], "echo_input": False}},
    {
        "input": "x",
        "response_target": {
            "identities": [
                {"channel": "telegram", "native_id": "7", "conversation": "7"},
                {"channel": "telegram", "native_id": "8"},
            ]
        },
    },
]
# What takes the place of every value in turn. Words of the protocol are among it, where they do not belong.
STRANGERS: list[Any] = [
    None, True, False, 0, 1, -1, 0.5, 2**70, "", "x", "no such thing", "é", "a\0b", "x" * 2000, "auto", "input_text",
    "message", "reasoning", "function", "json_object", "json_schema", "refusal", "item_reference", "tool", "assistant",
    "data:image/png;base64,", "data:text/plain;base64,AA==", "data:;base64,A", "HTTP://x", "http://a b", "AAAA", "AA=A",
    [], [None], ["x"], [{}], [[]], {}, {"id": "c"}, {"type": "text", "text": "x"}, {"role": "user", "content": []},
]  # fmt: skip
GONE = object()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a body."""
    for key, member in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(member, dict | list):
            yield from places(member, (*path, key))


def with_a_stranger(body: dict[str, Any], path: tuple[Any, ...], stranger: Any) -> dict[str, Any]:
    changed = copy.deepcopy(body)
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    if stranger is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = stranger
    return changed


def only_the_parser_knows(body: dict[str, Any]) -> bool:
    """Rules that JSON Schema has no words for."""
    choice, tools = body.get("tool_choice"), body.get("tools") or []
    names = [tool["name"] for tool in tools]
    chosen = [] if not isinstance(choice, dict) else choice.get("tools", [choice])
    return not {tool["name"] for tool in chosen} <= {*names} or len({*names}) < len(names)


@pytest.mark.parametrize("body", BODIES)
def test_both_accept_and_refuse_the_same_bodies(body: dict[str, Any]) -> None:
    assert CREATE.is_valid(body)
    assert accepted(body)
    for path in places(body):
        for stranger in [*STRANGERS, GONE]:
            changed = with_a_stranger(body, path, stranger)
            valid = CREATE.is_valid(changed)
            if not valid or not only_the_parser_knows(changed):
                assert valid == accepted(changed), (path, stranger)


@pytest.mark.parametrize(
    ("name", "body", "read"),
    [
        ("CreateConversation", {"metadata": {"a": "b"}, "items": BODIES[2]["input"]}, conversations.parse_new),
        ("UpdateConversation", {"metadata": {"a": "b"}}, conversations.parse_update),
        (
            "Compact",
            {"model": "m", "instructions": "i", "input": BODIES[2]["input"][:1], "previous_response_id": "r"},
            compaction.parse_compact,
        ),
        ("AddItems", {"items": [{"role": "user", "content": "x"}] * 20}, conversations.parse_added),
    ],
)
def test_both_agree_on_other_bodies(name: str, body: dict[str, Any], read: Callable[[dict[str, Any]], Any]) -> None:
    schema = validator(name)
    assert schema.is_valid(body)
    for path in places(body):
        for stranger in [*STRANGERS, GONE, [{"role": "user", "content": "x"}] * 21]:
            changed = with_a_stranger(body, path, stranger)
            assert schema.is_valid(changed) == accepted(changed, read), (path, stranger)


# --- what is answered: it is what the schemas say


def rendered(result: AgentResponse, **fields: Any) -> dict[str, Any]:
    request = parse_create({"input": "x", **fields})
    begun = skeleton(presentation(request, model="target"), response_id=ID, created_at=5)
    return render_response(begun, result, completed_at=6, client_tools=request.client_tools)


def contents() -> list[Content]:
    """Contents of every kind that an answer shows."""
    cited: Annotation = {"type": "citation", "url": "https://x.test", "title": "t"}
    filed: Annotation = {"type": "citation", "file_id": "f"}
    named: Annotation = {"type": "citation", "file_id": "f", "url": "a.pdf"}
    held: Annotation = {
        "type": "citation",
        "file_id": "f",
        "additional_properties": {"container_id": "c"},
        "annotated_regions": [{"type": "text_span", "start_index": 0, "end_index": 1}],
    }
    return [
        Content.from_text_reasoning(id="rs_1", text="thought", protected_data="secret"),
        Content.from_text_reasoning(text="whole", additional_properties={"openai": {"reasoning_text": True}}),
        Content.from_text("hello", annotations=[cited, filed, named, held]),
        Content.from_text("no", additional_properties={"core": {"model_output_kind": "refusal"}}),
        Content.from_function_call("call_1", "f", arguments='{"a": 1}'),
        Content.from_function_approval_request("a", Content.from_function_call("c", "f", arguments={"a": 1}, id="a")),
        Content.from_uri(f"data:image/png;base64,{PNG}"),
        Content.from_uri("https://x.test/a.pdf", media_type="application/pdf"),
        Content.from_usage({"input_token_count": 1, "output_token_count": 2}),
    ]


INCLUDED = ["reasoning.encrypted_content", "message.output_text.logprobs"]


@pytest.mark.parametrize("body", [{}, {"include": INCLUDED}, *BODIES[:2]])
@pytest.mark.parametrize("finish_reason", ["stop", "length", "content_filter"])
def test_responses(body: dict[str, Any], finish_reason: str) -> None:
    result = AgentResponse(
        messages=[
            Message("assistant", ["hm"], additional_properties={"intermediate": True}),
            *(Message("assistant", [content]) for content in contents()),
        ],
        finish_reason=finish_reason,  # type: ignore[arg-type]
    )
    fields = {name: value for name, value in body.items() if name != "input"}
    RESPONSE.validate(rendered(result, **fields))
    RESPONSE.validate(rendered(AgentResponse(), **fields))


def test_all_of_a_response_is_described() -> None:
    properties = DOCUMENT["components"]["schemas"]["Response"]["properties"]
    assert rendered(AgentResponse()).keys() == properties.keys()


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_events(end: str) -> None:
    body = {**BODIES[0], "include": INCLUDED}
    request = parse_create(body)
    begun = skeleton(presentation(request, model="target"), response_id=ID, created_at=5)
    stream = EventStream(begun, client_tools=request.client_tools, include=request.include)
    updates = [AgentResponseUpdate(contents=[content], role="assistant") for content in contents()]
    events = [*stream.queue(), *stream.begin(), *stream.feed(updates)]
    if end == "completed":
        events += stream.complete(completed_at=6)
    else:
        events += stream.fail("code", "message", status=end)  # type: ignore[arg-type]
    for event in events:
        EVENT.validate(json.loads(json.dumps(event)))
    told = {event["type"] for event in events}
    assert {"response.queued", "response.output_item.added", "response.function_call_arguments.done"} <= told


@pytest.mark.parametrize("error", [BadRequest("no", field="input[0]"), HostError("no")])
def test_errors(error: HostError) -> None:
    validator("Error").validate(error_body(error))


def test_conversations() -> None:
    conversation = conversations.render_conversation("c", created_at=1, metadata={"a": "b"})
    validator("Conversation").validate(conversation)
    kinds: list[QuestionKind] = ["approval", "input", "call"]
    questions = [
        Question("q", kind, "name", arguments, 1.5, expires)
        for kind in kinds
        for arguments in (None, {"a": 1}, '{"a": 1}')
        for expires in (2.5, float("inf"))
    ]
    shown = conversations.render_conversation("c", created_at=1, metadata={}, questions=questions)
    validator("Conversation").validate(shown)
    assert len(shown["waiting"]) == 18
    validator("DeletedConversation").validate(conversations.render_deleted("c"))


def test_lists_of_items() -> None:
    said = [*parse_create(BODIES[2]).input, Message("assistant", contents()).to_dict()]
    lists = [stored_items.input_items(said, ID), stored_items.history_items(said, include=INCLUDED)]
    assert {item["type"] for item in lists[0]} == {item["type"] for item in lists[1]}
    assert len({item["type"] for item in lists[0]}) == 7
    for items in [[], *lists]:
        validator("ItemList").validate(listing.list_of(items, has_more=True))
    for item in [item for items in lists for item in items]:
        validator("ListedItem").validate(item)
    compacted = [Message.from_dict(dict(message)) for message in said]
    validator("Compaction").validate(compaction.render_compaction(compacted, response_id=ID, created_at=1))
