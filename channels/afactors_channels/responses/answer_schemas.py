"""Schemas of what is answered."""

from __future__ import annotations

from collections.abc import Sequence

from .ids import RANDOM_BYTES
from .request_schemas import MODES, REASONING
from .schemas import (
    BOOLEAN,
    COUNT,
    OBJECT,
    TEXT,
    Schema,
    any_of,
    array,
    or_null,
    ref,
    repeated,
    told,
    told_kind,
    word,
)

RESPONSE_ID: Schema = {"type": "string", "pattern": f"^resp_[0-9a-f]{{{2 * RANDOM_BYTES}}}$"}
_TIME: Schema = {"type": "integer", "description": "Seconds since the epoch."}
_LABELS: Schema = {"type": "object", "additionalProperties": TEXT}
_STATUS = word("queued", "in_progress", "completed", "incomplete", "failed", "cancelled")
_ITEM_STATUS = word("in_progress", "completed", "incomplete")
_SPAN: Schema = {"start_index": COUNT, "end_index": COUNT}
_CITED: Schema = {"file_id": TEXT, "filename": TEXT}

_ANNOTATION = any_of(
    told_kind("url_citation", {"url": TEXT, "title": TEXT, **_SPAN}),
    told_kind("file_citation", {**_CITED, "index": COUNT}),
    told_kind("file_path", {"file_id": TEXT, "index": COUNT}),
    told_kind("container_file_citation", {**_CITED, "container_id": TEXT, **_SPAN}),
)
_LOGPROBS: Schema = {"type": "array", "items": OBJECT}
_ANSWER_PARTS: dict[str, Schema] = {
    "OutputText": told_kind(
        "output_text", {"text": TEXT, "annotations": array(ref("Annotation")), "logprobs": _LOGPROBS}
    ),
    "Refusal": told_kind("refusal", {"refusal": TEXT}),
    "SummaryText": told_kind("summary_text", {"text": TEXT}),
    "ReasoningText": told_kind("reasoning_text", {"text": TEXT}),
}
_ANSWER_ITEMS: dict[str, Schema] = {
    "OutputMessage": told_kind(
        "message",
        {
            "id": TEXT,
            "status": _ITEM_STATUS,
            "role": word("assistant"),
            "phase": word("commentary", "final_answer"),
            "content": array(any_of(ref("OutputText"), ref("Refusal"))),
        },
        ["phase"],
    ),
    "Reasoning": told_kind(
        "reasoning",
        {
            "id": TEXT,
            "status": _ITEM_STATUS,
            "encrypted_content": TEXT,
            "summary": array(ref("SummaryText")),
            "content": array(ref("ReasoningText")),
        },
        ["encrypted_content"],
    ),
    "FunctionCall": told_kind(
        "function_call",
        {"id": TEXT, "call_id": TEXT, "name": TEXT, "arguments": TEXT, "status": _ITEM_STATUS},
    ),
    "ApprovalRequest": told_kind(
        "mcp_approval_request", {"id": TEXT, "server_label": TEXT, "name": TEXT, "arguments": TEXT}
    ),
    "ImageGenerationCall": told_kind(
        "image_generation_call", {"id": TEXT, "status": _ITEM_STATUS, "result": or_null(TEXT)}
    ),
}
_LISTED_PARTS: dict[str, Schema] = {
    "ListedText": repeated({"type": word("input_text", "output_text"), "text": TEXT}),
    "ListedRefusal": repeated({"type": word("refusal"), "refusal": TEXT}),
    "ListedImage": any_of(
        *(repeated({"type": word("input_image"), source: TEXT, "detail": TEXT}) for source in ("image_url", "file_id"))
    ),
    "ListedFile": any_of(
        *(repeated({"type": word("input_file"), source: TEXT}) for source in ("file_data", "file_url", "file_id"))
    ),
}
_A_LISTED_PART = any_of(*map(ref, _LISTED_PARTS))


def _listed(kind: str, members: Schema) -> Schema:
    return repeated({"type": word(kind), "id": TEXT, "status": word("completed"), **members})


_LISTED_ITEMS: dict[str, Schema] = {
    "ListedMessage": _listed("message", {"role": TEXT, "content": array(_A_LISTED_PART)}),
    "ListedReasoning": _listed(
        "reasoning", {"summary": array(ref("SummaryText")), "content": array(ref("ReasoningText"))}
    ),
    "ListedFunctionCall": _listed("function_call", {"call_id": TEXT, "name": TEXT, "arguments": TEXT}),
    "ListedFunctionCallOutput": _listed(
        "function_call_output", {"call_id": TEXT, "output": any_of(TEXT, array(_A_LISTED_PART))}
    ),
    "ListedApprovalRequest": repeated(
        {"type": word("mcp_approval_request"), "id": TEXT, "server_label": TEXT, "name": TEXT, "arguments": TEXT}
    ),
    "ListedApprovalResponse": repeated(
        {"type": word("mcp_approval_response"), "id": TEXT, "approval_request_id": TEXT, "approve": BOOLEAN}
    ),
    "ListedImageGenerationCall": _listed("image_generation_call", {"result": TEXT}),
}
_USAGE = told(
    {
        "input_tokens": COUNT,
        "input_tokens_details": told({"cached_tokens": COUNT, "cache_write_tokens": COUNT}),
        "output_tokens": COUNT,
        "output_tokens_details": told({"reasoning_tokens": COUNT}),
        "total_tokens": COUNT,
    }
)
_TOLD_TOOL = told_kind(
    "function",
    {
        "name": TEXT,
        "description": or_null(TEXT),
        "parameters": or_null(OBJECT),
        "strict": or_null(BOOLEAN),
    },
)
_TOLD_NAMED_TOOL = told_kind("function", {"name": TEXT})
_TOLD_FORMAT = any_of(
    told({"type": word("text", "json_object")}),
    told_kind("json_schema", {"name": TEXT, "description": or_null(TEXT), "schema": OBJECT, "strict": BOOLEAN}),
)
_RESPONSE = told(
    {
        "id": RESPONSE_ID,
        "object": word("response"),
        "created_at": _TIME,
        "completed_at": or_null(_TIME),
        "status": _STATUS,
        "error": or_null(told({"code": TEXT, "message": TEXT})),
        "incomplete_details": or_null(told({"reason": word("max_output_tokens", "content_filter")})),
        "model": TEXT,
        "previous_response_id": or_null(TEXT),
        "conversation": or_null(told({"id": TEXT})),
        "instructions": or_null(TEXT),
        "output": array(ref("OutputItem")),
        "tools": array(_TOLD_TOOL),
        "tool_choice": any_of(
            MODES,
            _TOLD_NAMED_TOOL,
            told_kind("allowed_tools", {"mode": MODES, "tools": array(_TOLD_NAMED_TOOL)}),
        ),
        "parallel_tool_calls": BOOLEAN,
        "max_tool_calls": or_null(COUNT),
        "truncation": word("auto", "disabled"),
        "text": told({"format": _TOLD_FORMAT, "verbosity": word("low", "medium", "high")}, ["verbosity"]),
        "reasoning": told({name: or_null(schema) for name, schema in REASONING.items()}),
        "temperature": {"type": "number"},
        "top_p": {"type": "number"},
        "presence_penalty": {"type": "number"},
        "frequency_penalty": {"type": "number"},
        "top_logprobs": COUNT,
        "max_output_tokens": or_null(COUNT),
        "usage": or_null(ref("Usage")),
        "store": BOOLEAN,
        "background": BOOLEAN,
        "service_tier": word("default"),
        "metadata": _LABELS,
        "safety_identifier": or_null(TEXT),
        "prompt_cache_key": or_null(TEXT),
        "user": or_null(TEXT),
    }
)
_WAITING = any_of(
    *(
        told_kind(kind, {"id": TEXT, "name": TEXT, "arguments": TEXT, "asked_at": _TIME, "expires_at": or_null(_TIME)})
        for kind in ("mcp_approval_request", "function_call")
    )
)
_IN_ITEM: Schema = {"item_id": TEXT, "output_index": COUNT}
_IN_CONTENT: Schema = {**_IN_ITEM, "content_index": COUNT}
_IN_SUMMARY: Schema = {**_IN_ITEM, "summary_index": COUNT}
_PART = any_of(ref("OutputText"), ref("Refusal"), ref("ReasoningText"))
_EVENTS: dict[tuple[str, ...], Schema] = {
    ("created", "queued", "in_progress", "completed", "incomplete", "failed"): {"response": ref("Response")},
    ("output_item.added", "output_item.done"): {"output_index": COUNT, "item": ref("OutputItem")},
    ("content_part.added", "content_part.done"): {**_IN_CONTENT, "part": _PART},
    ("output_text.delta",): {**_IN_CONTENT, "delta": TEXT, "logprobs": _LOGPROBS},
    ("output_text.done",): {**_IN_CONTENT, "text": TEXT, "logprobs": _LOGPROBS},
    ("output_text.annotation.added",): {
        **_IN_CONTENT,
        "annotation_index": COUNT,
        "annotation": ref("Annotation"),
    },
    ("refusal.delta", "reasoning_text.delta"): {**_IN_CONTENT, "delta": TEXT},
    ("refusal.done",): {**_IN_CONTENT, "refusal": TEXT},
    ("reasoning_text.done",): {**_IN_CONTENT, "text": TEXT},
    ("function_call_arguments.delta",): {**_IN_ITEM, "delta": TEXT},
    ("function_call_arguments.done",): {**_IN_ITEM, "name": TEXT, "arguments": TEXT},
    ("reasoning_summary_part.added", "reasoning_summary_part.done"): {**_IN_SUMMARY, "part": ref("SummaryText")},
    ("reasoning_summary_text.delta",): {**_IN_SUMMARY, "delta": TEXT},
    ("reasoning_summary_text.done",): {**_IN_SUMMARY, "text": TEXT},
}


_ERROR: Schema = {"code": TEXT, "message": TEXT, "param": or_null(TEXT)}
_ERROR_EVENT = told_kind("error", {"sequence_number": COUNT, **_ERROR})


def _event(names: Sequence[str], members: Schema) -> Schema:
    kinds = word(*(f"response.{name}" for name in names))
    return told({"type": kinds, "sequence_number": COUNT, **members})


def _list_of(name: str) -> Schema:
    return told(
        {
            "object": word("list"),
            "data": array(ref(name)),
            "first_id": or_null(TEXT),
            "last_id": or_null(TEXT),
            "has_more": BOOLEAN,
        }
    )


def _deleted(kind: str) -> Schema:
    return told({"id": TEXT, "object": word(kind), "deleted": {"const": True}})


ANSWERS: dict[str, Schema] = {
    "Annotation": _ANNOTATION,
    **_ANSWER_PARTS,
    **_ANSWER_ITEMS,
    **_LISTED_PARTS,
    **_LISTED_ITEMS,
    "OutputItem": any_of(*map(ref, _ANSWER_ITEMS)),
    "ListedItem": any_of(*map(ref, _LISTED_ITEMS)),
    "ItemList": _list_of("ListedItem"),
    "Usage": _USAGE,
    "Response": _RESPONSE,
    "StreamEvent": any_of(*(_event(names, members) for names, members in _EVENTS.items()), _ERROR_EVENT),
    "Compaction": told(
        {
            "id": TEXT,
            "object": word("response.compaction"),
            "created_at": _TIME,
            "output": array(ref("ListedItem")),
            "usage": ref("Usage"),
        }
    ),
    "DeletedResponse": _deleted("response"),
    "Conversation": told(
        {
            "id": TEXT,
            "object": word("conversation"),
            "created_at": _TIME,
            "metadata": _LABELS,
            "waiting": array(
                _WAITING, description="What waits for an answer: an extension; absent if there is nothing."
            ),
        },
        ["waiting"],
    ),
    "DeletedConversation": _deleted("conversation.deleted"),
    "Error": told({"error": told({"message": TEXT, "type": TEXT, "param": or_null(TEXT), "code": or_null(TEXT)})}),
}
