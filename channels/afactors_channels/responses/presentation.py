"""What must be kept of a request to show its response again, and the response object of a run without output.

Source: Open Responses 2026-04-24 (`ResponseResource`): 31 fields that are always present, many of them null.
    Those that its schema forbids to be null have OpenAI's defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from .parse import CreateRequest

Status: TypeAlias = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]

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


def presentation(create: CreateRequest, *, model: str) -> dict[str, Any]:
    """Plain data from which the response can be shown at any later time.

    Args:
        create: What the client asked for; the response repeats its settings.
        model: What to call the model if the request named none.

    Returns:
        ``echo``: the response's fields that differ from the defaults; ``include``: what else the client wants in the
        output, if anything.
    """
    told = {**create.echo, "model": create.model or model}
    kept: dict[str, Any] = {"echo": {name: value for name, value in told.items() if value != _DEFAULTS[name]}}
    if create.include:
        kept["include"] = list(create.include)
    return kept


def skeleton(
    presentation: Mapping[str, Any], *, response_id: str, created_at: int, status: Status = "in_progress"
) -> dict[str, Any]:
    """The response object of a run that has no output yet, with all keys.

    Args:
        presentation: From the function of that name.
        response_id: The response's id.
        created_at: Seconds since the epoch.
        status: Where the run stands.
    """
    return {
        **_DEFAULTS,
        **presentation.get("echo", {}),
        "id": response_id,
        "created_at": created_at,
        "status": status,
    }


def client_tools(presentation: Mapping[str, Any]) -> frozenset[str]:
    """Names of the functions that the client executes."""
    return frozenset(tool["name"] for tool in presentation.get("echo", {}).get("tools", ()))


def included(presentation: Mapping[str, Any]) -> frozenset[str]:
    """What else the client wants in the output."""
    return frozenset(presentation.get("include", ()))
