"""Schemas of what is asked, with the limits of the validators."""

from __future__ import annotations

from .contents import MAX_DATA, MAX_URL
from .conversations import MAX_ITEMS
from .fields import MAX_CONVERSATION, MAX_ID
from .schemas import (
    BOOLEAN,
    OBJECT,
    Schema,
    any_of,
    array,
    asked,
    asked_kind,
    integer,
    number,
    or_null,
    ref,
    string,
    word,
)
from .settings import INCLUDABLE, MAX_PAIR_KEY, MAX_PAIR_VALUE, MAX_PAIRS, MAX_TOOLS
from .targets import MAX_TARGETS, WORDS

IDENTIFIER = string(MAX_ID, 1, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", description="Printable characters only.")
_FUNCTION_NAME = {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}
CONVERSATION_NAME = string(MAX_CONVERSATION, 1, pattern=r"^[^\x00]*$", description="The limit counts bytes of UTF-8.")
_METADATA = {
    "type": "object",
    "maxProperties": MAX_PAIRS,
    "propertyNames": {"maxLength": MAX_PAIR_KEY},
    "additionalProperties": string(MAX_PAIR_VALUE),
}
MODES = word("auto", "none", "required")
_DETAIL = word("low", "high", "auto", "original")
_BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"


def _sources(kind: str, sources: dict[str, Schema], optional: Schema) -> list[Schema]:
    """A part has exactly one source: a schema for each."""
    rest = [{other: {"type": "null"} for other in sources if other != name} for name in sources]
    parts = [asked_kind(kind, {name: schema}, optional) for name, schema in sources.items()]
    return [{**part, "properties": {**part["properties"], **nulls}} for part, nulls in zip(parts, rest, strict=True)]


def _data_uri(top: str) -> Schema:
    return string(MAX_DATA, pattern=f"^[dD][aA][tT][aA]:{top}[^;,]*(?:;[^;,]*=[^;,]*)*;base64,{_BASE64}$")


_HTTP_URL = string(MAX_URL, pattern=r"^[hH][tT][tT][pP][sS]?://[^\x00-\x20\x7f-\xa0]*$")
_IMAGE_URL = any_of(
    _HTTP_URL, {**_data_uri("[iI][mM][aA][gG][eE]/"), "description": "Base64 data of an image type, in a data URI."}
)
_FILE_DATA = any_of(_data_uri(""), string(MAX_DATA, pattern=f"^{_BASE64}$"))

_REQUEST_PARTS: dict[str, Schema] = {
    "InputText": asked({"type": word("input_text", "output_text", "text"), "text": string()}),
    "InputImage": any_of(
        *_sources("input_image", {"image_url": _IMAGE_URL, "file_id": IDENTIFIER}, {"detail": _DETAIL})
    ),
    "InputFile": any_of(
        *_sources(
            "input_file",
            {"file_data": _FILE_DATA, "file_url": _HTTP_URL, "file_id": IDENTIFIER},
            {"filename": string(255, 1), "detail": _DETAIL},
        )
    ),
    "InputRefusal": asked_kind("refusal", {"refusal": string()}),
}
_PARTS = any_of(ref("InputText"), ref("InputImage"), ref("InputFile"))
_ASSISTANT_PARTS = any_of(*_PARTS["anyOf"], ref("InputRefusal"))


def _message(role: Schema, parts: Schema) -> Schema:
    return asked(
        {"role": role, "content": any_of(string(), array(parts))},
        {"type": word("message"), "id": IDENTIFIER},
    )


def _texts(kind: str) -> Schema:
    return array(asked_kind(kind, {"text": string()}))


_ITEM_ID: Schema = {"id": IDENTIFIER}
_REQUEST_ITEMS: dict[str, Schema] = {
    "InputMessage": _message(word("user", "system", "developer"), _PARTS),
    "InputAssistantMessage": _message(word("assistant"), _ASSISTANT_PARTS),
    "InputFunctionCall": asked_kind(
        "function_call", {"call_id": IDENTIFIER, "name": _FUNCTION_NAME, "arguments": string()}, _ITEM_ID
    ),
    "InputFunctionCallOutput": asked_kind(
        "function_call_output", {"call_id": IDENTIFIER, "output": any_of(string(), array(_PARTS))}, _ITEM_ID
    ),
    "InputApprovalRequest": asked_kind(
        "mcp_approval_request",
        {"id": IDENTIFIER, "name": IDENTIFIER, "arguments": string()},
        {"server_label": string(256, 1)},
    ),
    "InputApprovalResponse": asked_kind(
        "mcp_approval_response",
        {"approval_request_id": IDENTIFIER, "approve": BOOLEAN},
        {**_ITEM_ID, "reason": string()},
    ),
    "InputReasoning": asked_kind(
        "reasoning",
        {},
        {
            **_ITEM_ID,
            "summary": _texts("summary_text"),
            "content": _texts("reasoning_text"),
            "encrypted_content": string(),
        },
    ),
    "InputImageGenerationCall": asked_kind(
        "image_generation_call",
        {"result": string(MAX_DATA, pattern=f"^{_BASE64}$")},
        {**_ITEM_ID, "output_format": word("png", "webp", "jpeg", "gif", "svg")},
    ),
}
_INPUT_ITEM = any_of(*map(ref, _REQUEST_ITEMS))

_TOOL = asked_kind(
    "function",
    {"name": _FUNCTION_NAME},
    {"description": string(), "parameters": OBJECT, "strict": BOOLEAN},
)
_NAMED_TOOL = asked_kind("function", {"name": _FUNCTION_NAME})
_TOOL_CHOICE = any_of(
    MODES,
    _NAMED_TOOL,
    asked_kind("allowed_tools", {"tools": array(_NAMED_TOOL, maxItems=MAX_TOOLS)}, {"mode": MODES}),
)
_FORMAT = any_of(
    asked({"type": word("text", "json_object")}),
    asked_kind("json_schema", {"name": _FUNCTION_NAME, "schema": OBJECT}, {"description": string(), "strict": BOOLEAN}),
)
REASONING: Schema = {
    "effort": word("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "summary": word("auto", "concise", "detailed"),
}
INCLUDE = array(word(*INCLUDABLE))
_INPUT = any_of(string(), array(ref("InputItem"), minItems=1))
_IDENTITY: Schema = {
    **asked({"channel": IDENTIFIER, "native_id": IDENTIFIER}, {"conversation": IDENTIFIER}),
    "additionalProperties": False,
}
_TARGETS: dict[str, Schema] = {
    "kind": word(*WORDS),
    "channel": IDENTIFIER,
    "channels": array(IDENTIFIER, minItems=1, maxItems=MAX_TARGETS),
    "identities": array(_IDENTITY, minItems=1, maxItems=MAX_TARGETS),
}


def _target(form: str) -> Schema:
    rest: Schema = {other: {"type": "null"} for other in _TARGETS if other != form}
    found = asked({form: _TARGETS[form]}, {"echo_input": BOOLEAN})
    return {**found, "properties": {**found["properties"], **rest}, "additionalProperties": False}


_RESPONSE_TARGET = {
    **any_of(word(*WORDS), *map(_target, _TARGETS)),
    "description": "An extension: where the reply goes besides, among the identities of this conversation's user. "
    "'none' needs 'background'.",
}

CREATE_FIELDS: dict[str, Schema] = {
    "background": BOOLEAN,
    "conversation": any_of(CONVERSATION_NAME, asked({"id": CONVERSATION_NAME})),
    "frequency_penalty": number(-2, 2),
    "include": INCLUDE,
    "instructions": string(),
    "max_output_tokens": integer(1),
    "max_tool_calls": integer(1),
    "metadata": _METADATA,
    "model": string(256, 1),
    "parallel_tool_calls": BOOLEAN,
    "presence_penalty": number(-2, 2),
    "previous_response_id": IDENTIFIER,
    "prompt_cache_key": string(64),
    "reasoning": asked({}, REASONING),
    "response_target": _RESPONSE_TARGET,
    "safety_identifier": string(64),
    "seed": integer(-(2**63)),
    "service_tier": string(64),
    "stop": any_of(string(256), array(string(256), maxItems=4)),
    "store": BOOLEAN,
    "stream": BOOLEAN,
    "stream_options": asked({}, {"include_obfuscation": BOOLEAN}),
    "temperature": number(0, 2),
    "text": asked({}, {"format": _FORMAT, "verbosity": word("low", "medium", "high")}),
    "tool_choice": {**_TOOL_CHOICE, "description": "Names functions of this request's `tools` only."},
    "tools": array(_TOOL, maxItems=MAX_TOOLS, description="No two of the same name."),
    "top_logprobs": integer(0, 20),
    "top_p": number(0, 1),
    "truncation": word("auto", "disabled"),
    "user": string(512),
}
"""The optional fields of `POST /responses`, by name; `input` is the one that is required."""


_GIVEN: Schema = {"not": {"type": "null"}}
_EXCLUDED: list[Schema] = [
    {
        "properties": {"conversation": _GIVEN, "previous_response_id": _GIVEN},
        "required": ["conversation", "previous_response_id"],
    },
    {"properties": {"background": {"const": True}, "store": {"const": False}}, "required": ["background", "store"]},
    {
        "properties": {"response_target": any_of(word("none"), asked({"kind": word("none")}))},
        "required": ["response_target"],
        "not": {"properties": {"background": {"const": True}}, "required": ["background"]},
    },
]

REQUESTS: dict[str, Schema] = {
    **_REQUEST_PARTS,
    **_REQUEST_ITEMS,
    "InputItem": _INPUT_ITEM,
    "CreateResponse": {
        **asked({"input": _INPUT}, CREATE_FIELDS),
        "not": {"anyOf": _EXCLUDED},
    },
    "Compact": asked(
        {"model": CREATE_FIELDS["model"]},
        {"input": _INPUT, "instructions": string(), "previous_response_id": IDENTIFIER},
    ),
    "CountTokens": OBJECT,
    "CreateConversation": asked({}, {"items": array(ref("InputItem"), maxItems=MAX_ITEMS), "metadata": _METADATA}),
    "UpdateConversation": asked({"metadata": or_null(_METADATA)}),
    "AddItems": asked({"items": array(ref("InputItem"), minItems=1, maxItems=MAX_ITEMS)}),
}
