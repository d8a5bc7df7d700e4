"""The OpenAPI document of what the channel serves.

Its schemas are made from the limits of the validators; tests hold it together with them, and with what is answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, TypeAlias

from .answer_schemas import ANSWERS, RESPONSE_ID
from .listing import DEFAULT_PAGE, MAX_PAGE
from .parse import MAX_KEY
from .request_schemas import CONVERSATION_NAME, IDENTIFIER, INCLUDE, REQUESTS
from .schemas import BOOLEAN, OBJECT, TEXT, Schema, integer, ref, string, word

Object: TypeAlias = dict[str, Any]

_ERRORS = {
    400: "The request is wrong; `param` is the path of what is.",
    403: "This caller may not do this.",
    404: "There is no such thing, or it is another key's.",
    409: "It contradicts what is going on.",
    413: "The body is too long.",
    422: "Well formed, and refused.",
    429: "Too much waits already.",
    500: "The agent failed, or the server did.",
    501: "Not implemented.",
    503: "The server, or this conversation, is not available now.",
    504: "The turn took too long.",
    507: "There is no room for more.",
}
_ANY = (400, 403, 404, 413, 429, 500, 503)
_TURN = (*_ANY, 409, 422, 504, 507)
_EDIT = (*_ANY, 409, 504, 507)

_HEADERS: Object = {
    "x-request-id": {
        "description": "The caller's id of the request, or one of ours.",
        "required": True,
        "schema": TEXT,
    },
    "x-should-retry": {"description": "Sending it again does not help.", "schema": word("false")},
    "retry-after": {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 0}},
    "retry-after-ms": {"description": "The same, in milliseconds.", "schema": {"type": "integer", "minimum": 0}},
}


def _parameter(name: str, where: str, schema: Schema, description: str = "") -> Object:
    required = {"required": True} if where == "path" else {}
    told = {"description": description} if description else {}
    return {"name": name, "in": where, **required, **told, "schema": schema}


_PARAMETERS: dict[str, Object] = {
    "request_id": _parameter("x-request-id", "header", TEXT, "Repeated in the answer, if it is short and printable."),
    "response_id": _parameter("response_id", "path", RESPONSE_ID),
    "conversation_id": _parameter("conversation_id", "path", CONVERSATION_NAME),
    "item_id": _parameter("item_id", "path", IDENTIFIER),
    "include": _parameter("include", "query", INCLUDE),
    "stream": _parameter("stream", "query", BOOLEAN, "Whether to answer with events."),
    "starting_after": _parameter(
        "starting_after", "query", integer(0), "With `stream`: only events with a higher sequence number."
    ),
    "limit": _parameter("limit", "query", {**integer(1, MAX_PAGE), "default": DEFAULT_PAGE}),
    "order": _parameter("order", "query", {**word("asc", "desc"), "default": "desc"}),
    "after": _parameter("after", "query", IDENTIFIER, "Only items that come after this one."),
}
_IDEMPOTENCY_KEY = _parameter(
    "Idempotency-Key",
    "header",
    {**string(MAX_KEY, 1), "pattern": "^[!-~]+$"},
    "A request with the key of an earlier one gets that one's answer.",
)
_PAGE = ("limit", "order", "after", "include")


def _json(schema: Schema) -> Object:
    return {"application/json": {"schema": schema}}


# OpenAPI 3.1 has no word for what an event stream consists of; as in 3.2 (`itemSchema`), the schema is of one event.
_EVENTS: Object = {
    "text/event-stream": {
        "schema": {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        "event": TEXT,
                        "data": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": ref("StreamEvent"),
                        },
                    },
                    "required": ["event", "data"],
                },
                {"type": "object", "properties": {"data": word("[DONE]")}, "required": ["data"]},
            ]
        }
    }
}


def _operation(
    name: str,
    summary: str,
    answer: Object | None,
    errors: Sequence[int],
    *,
    parameters: Sequence[str] = (),
    body: str | None = None,
    body_required: bool = True,
    links: Object | None = None,
) -> Object:
    answers: Object = {}
    if answer is not None:
        answers["200"] = _answer("Done.", answer, "x-request-id") | ({"links": links} if links else {})
    asked = {} if body is None else {"requestBody": {"required": body_required, "content": _json(ref(body))}}
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [{"$ref": f"#/components/parameters/{each}"} for each in ("request_id", *parameters)],
        **asked,
        "responses": answers | {str(code): {"$ref": f"#/components/responses/{code}"} for code in sorted(errors)},
    }


def _links(operations: Sequence[str], **parameters: str) -> Object:
    return {name: {"operationId": name, "parameters": parameters} for name in operations}


def _answer(description: str, content: Object, *headers: str) -> Object:
    named = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    return {"description": description, "headers": named, "content": content}


def _paths() -> dict[str, Object]:
    response, conversation = "response_id", "conversation_id"
    item = (conversation, "item_id")
    shown = _json(ref("Response"))
    one_conversation = _json(ref("Conversation"))
    return {
        "/responses": {
            "post": _operation(
                "createResponse",
                "Take a turn.",
                {**shown, **_EVENTS},
                _TURN,
                body="CreateResponse",
                links=_links(
                    ["getResponse", "deleteResponse", "cancelResponse", "listInputItems"],
                    response_id="$response.body#/id",
                ),
            )
        },
        "/responses/{response_id}": {
            "get": _operation(
                "getResponse",
                "A response as it stands, or its events.",
                {**shown, **_EVENTS},
                (*_ANY, 409),
                parameters=[response, "stream", "starting_after", "include"],
            ),
            "delete": _operation(
                "deleteResponse", "Forget a response.", _json(ref("DeletedResponse")), _EDIT, parameters=[response]
            ),
        },
        "/responses/{response_id}/cancel": {
            "post": _operation(
                "cancelResponse",
                "Cancel a response in the background; again, the same answer.",
                shown,
                _EDIT,
                parameters=[response],
            )
        },
        "/responses/{response_id}/input_items": {
            "get": _operation(
                "listInputItems",
                "What a response was given.",
                _json(ref("ItemList")),
                _ANY,
                parameters=[response, *_PAGE],
            )
        },
        "/responses/compact": {
            "post": _operation(
                "compactResponse", "Make a conversation shorter.", _json(ref("Compaction")), _TURN, body="Compact"
            )
        },
        "/responses/input_tokens": {
            "post": _operation("countInputTokens", "Not implemented.", None, (*_ANY, 501), body="CountTokens")
        },
        "/conversations": {
            "post": _operation(
                "createConversation",
                "Begin a conversation.",
                one_conversation,
                _EDIT,
                body="CreateConversation",
                body_required=False,
            )
        },
        "/conversations/{conversation_id}": {
            "get": _operation("getConversation", "A conversation.", one_conversation, _ANY, parameters=[conversation]),
            "post": _operation(
                "updateConversation",
                "Give a conversation other labels.",
                one_conversation,
                _EDIT,
                parameters=[conversation],
                body="UpdateConversation",
            ),
            "delete": _operation(
                "deleteConversation",
                "Remove a conversation with its items.",
                _json(ref("DeletedConversation")),
                _EDIT,
                parameters=[conversation],
            ),
        },
        "/conversations/{conversation_id}/items": {
            "get": _operation(
                "listItems",
                "The items of a conversation.",
                _json(ref("ItemList")),
                _ANY,
                parameters=[conversation, *_PAGE],
            ),
            "post": _operation(
                "addItems",
                "Add items to a conversation's end.",
                _json(ref("ItemList")),
                _EDIT,
                parameters=[conversation, "include"],
                body="AddItems",
                links=_links(
                    ["getItem", "deleteItem"],
                    conversation_id="$request.path.conversation_id",
                    item_id="$response.body#/data/0/id",
                ),
            ),
        },
        "/conversations/{conversation_id}/items/{item_id}": {
            "get": _operation("getItem", "One item.", _json(ref("ListedItem")), _ANY, parameters=[*item, "include"]),
            "delete": _operation("deleteItem", "Remove one item.", one_conversation, _EDIT, parameters=item),
        },
        "/openapi.json": {"get": _operation("getDocument", "This document.", _json(OBJECT), (500, 503))},
    }


def openapi_document(*, version: str, server_prefix: str = "/v1", authenticated: bool) -> dict[str, Any]:
    """The document, as plain values; the same arguments give the same document.

    Args:
        version: Of the program that serves.
        server_prefix: Where the paths begin.
        authenticated: Whether callers need a key.
    """
    document: Object = {
        "openapi": "3.1.0",
        "info": {
            "title": "Responses",
            "version": version,
            "description": "The OpenAI Responses API, as this server has it. Members of a request that are not"
            " described here are ignored.",
        },
        "servers": [{"url": server_prefix}],
        "paths": _paths(),
        "components": {
            "schemas": {**REQUESTS, **ANSWERS},
            "parameters": {**_PARAMETERS},
            "headers": _HEADERS,
            "responses": {str(code): _error(told) for code, told in _ERRORS.items()},
        },
    }
    if authenticated:
        _authenticate(document)
    return deepcopy(document)


def _error(description: str) -> Object:
    return _answer(description, _json(ref("Error")), *_HEADERS)


def _authenticate(document: Mapping[str, Any]) -> None:
    """Every operation needs a key, and can be refused for want of one; and repeats of those who have one are known."""
    components = document["components"]
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    components["responses"]["401"] = _error("No key, or none that is known.")
    components["parameters"]["idempotency_key"] = _IDEMPOTENCY_KEY
    document["paths"]["/responses"]["post"]["parameters"].append({"$ref": "#/components/parameters/idempotency_key"})
    for path in document["paths"].values():
        for operation in path.values():
            operation["security"] = [{"key": []}]
            operation["responses"]["401"] = {"$ref": "#/components/responses/401"}
