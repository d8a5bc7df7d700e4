"""The response object, and a finished response as a whole.

Source: Open Responses 2026-04-24 (`ResponseResource`): 31 fields that are always present, many of them null.
    Those that its schema forbids to be null have OpenAI's defaults.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from agent_framework import AgentResponse, UsageDetails

from .output import OutputBuilder
from .parse import CreateRequest

# Why a response that did not fail is not complete, by the framework's finish reasons.
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}

_DEFAULTS: dict[str, Any] = {
    "id": None,
    "object": "response",
    "created_at": None,
    "completed_at": None,
    "status": "in_progress",
    "error": None,
    "incomplete_details": None,
    "model": None,
    "previous_response_id": None,
    "conversation": None,
    "instructions": None,
    "output": [],
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "max_tool_calls": None,
    "truncation": "disabled",
    "text": {"format": {"type": "text"}},
    "reasoning": {"effort": None, "summary": None},
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "top_logprobs": 0,
    "max_output_tokens": None,
    "usage": None,
    "store": True,
    "background": False,
    "service_tier": "default",  # the only one there is here, whatever was asked for
    "metadata": {},
    "safety_identifier": None,
    "prompt_cache_key": None,
    "user": None,
}


def response_skeleton(
    request: CreateRequest,
    *,
    response_id: str,
    created_at: int,
    model: str,
    conversation_id: str | None = None,
) -> dict[str, Any]:
    """The response object of a run that has just begun.

    Args:
        request: What the client asked for; the response repeats its settings.
        response_id: The response's id.
        created_at: Seconds since the epoch.
        model: What to call the model if the request named none.
        conversation_id: The conversation that the response became part of, if the request did not name it.
    """
    skeleton = {
        **_DEFAULTS,
        **request.echo,
        "id": response_id,
        "created_at": created_at,
        "model": request.model or model,
    }
    if conversation_id is not None:
        skeleton["conversation"] = {"id": conversation_id}
    return skeleton


def render_response(
    skeleton: Mapping[str, Any],
    result: AgentResponse,
    *,
    completed_at: int,
    client_tools: Collection[str] = (),
) -> dict[str, Any]:
    """The response object of a finished run, with the items and ids that its stream would have had.

    Args:
        skeleton: From `response_skeleton`; it is not changed.
        result: What the target returned.
        completed_at: Seconds since the epoch.
        client_tools: Names of the functions that the client executes; calls of others are not shown.
    """
    builder = OutputBuilder(skeleton["id"], client_tools)
    for message in result.messages:
        builder.feed_message(message)
    usage = result.usage_details or builder.usage
    return finished(skeleton, builder, result.finish_reason, usage, completed_at)


def finished(
    skeleton: Mapping[str, Any],
    builder: OutputBuilder,
    finish_reason: str | None,
    usage: UsageDetails | None,
    completed_at: int,
) -> dict[str, Any]:
    """Close what the builder has open, and put the response object together."""
    reason = _INCOMPLETE.get(finish_reason or "")
    status = "incomplete" if reason else "completed"
    return {
        **skeleton,
        "status": status,
        "completed_at": None if reason else completed_at,
        "incomplete_details": {"reason": reason} if reason else None,
        "output": builder.finish(status),
        "usage": render_usage(usage),
    }


def failed(skeleton: Mapping[str, Any], builder: OutputBuilder, code: str, message: str) -> dict[str, Any]:
    """Close what the builder has open as cut off, and put the failed response object together."""
    return {
        **skeleton,
        "status": "failed",
        "error": {"code": code, "message": message},
        "output": builder.finish("incomplete"),
        "usage": render_usage(builder.usage),
    }


def render_usage(details: UsageDetails | None) -> dict[str, Any] | None:
    """Usage as the protocol counts it, or None if neither direction is known."""
    if not details:
        return None
    given_in, given_out = details.get("input_token_count"), details.get("output_token_count")
    if given_in is None and given_out is None:
        return None
    tokens_in, tokens_out = given_in or 0, given_out or 0
    total = details.get("total_token_count")
    return {
        "input_tokens": tokens_in,
        "input_tokens_details": {
            "cached_tokens": details.get("cache_read_input_token_count") or 0,
            "cache_write_tokens": details.get("cache_creation_input_token_count") or 0,
        },
        "output_tokens": tokens_out,
        "output_tokens_details": {"reasoning_tokens": details.get("reasoning_output_token_count") or 0},
        "total_tokens": tokens_in + tokens_out if total is None else total,
    }
