"""A finished response as a whole, and the response object of a run in whatever state."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from agent_framework import AgentResponse, Message, UsageDetails

from afactors_channels.outcomes import HostedRun, RunState

from .output import OutputBuilder
from .presentation import Status, client_tools, included, skeleton

# Why a response that did not fail is not complete, by the framework's finish reasons.
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}

_STATUSES: dict[RunState, Status] = {
    "queued": "queued",
    "running": "in_progress",
    "completed": "completed",
    "incomplete": "incomplete",
    "failed": "failed",
    "cancelled": "cancelled",
}


def render_run(run: HostedRun, response_id: str, *, include: Collection[str] = ()) -> dict[str, Any]:
    """The response object of a run as its record has it.

    Args:
        run: In any state.
        response_id: The response's id.
        include: What the caller wants in the output beyond what the request wanted.
    """
    shown = run.presentation
    response = skeleton(shown, response_id=response_id, created_at=int(run.created), status=_STATUSES[run.state])
    if run.error is not None:
        code, message = run.error
        return {**response, "error": {"code": code, "message": message}, "output": run.kept or []}
    if run.result is None:
        return response
    return render_response(
        response,
        run.result,
        completed_at=int(run.ended or run.created),
        client_tools=client_tools(shown),
        include=included(shown).union(include),
        kept=run.kept,
    )


def render_response(
    skeleton: Mapping[str, Any],
    result: AgentResponse,
    *,
    completed_at: int,
    client_tools: Collection[str] = (),
    include: Collection[str] = (),
    kept: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The response object of a finished run, with the items and ids that its stream would have had.

    Args:
        skeleton: From the function of that name; it is not changed.
        result: What the target returned.
        completed_at: Seconds since the epoch.
        client_tools: Names of the functions that the client executes; calls of others are not shown.
        include: What else the client wants in the output.
        kept: The output items, if the stream had others than the result's messages give.
    """
    builder = _built(result.messages, skeleton["id"], client_tools, include)
    output = builder.finish(end_status(result.finish_reason)) if kept is None else kept
    return finished(skeleton, output, result.finish_reason, result.usage_details or builder.usage, completed_at)


def render_output(
    result: AgentResponse, response_id: str, client_tools: Collection[str] = (), include: Collection[str] = ()
) -> list[dict[str, Any]]:
    """The output items alone that `render_response` gives."""
    return _built(result.messages, response_id, client_tools, include).finish(end_status(result.finish_reason))


def _built(
    messages: Iterable[Message], response_id: str, client_tools: Collection[str], include: Collection[str]
) -> OutputBuilder:
    builder = OutputBuilder(response_id, client_tools, include=include, announce=False)
    for message in messages:
        builder.feed_message(message)
    return builder


def end_status(finish_reason: str | None) -> Status:
    """How a run that was committed ended: ``completed``, or ``incomplete`` if the model was cut off."""
    return "incomplete" if finish_reason in _INCOMPLETE else "completed"


def finished(
    skeleton: Mapping[str, Any],
    output: list[dict[str, Any]],
    finish_reason: str | None,
    usage: UsageDetails | None,
    completed_at: int,
) -> dict[str, Any]:
    """The response object of a run that was committed."""
    reason = _INCOMPLETE.get(finish_reason or "")
    return {
        **skeleton,
        "status": end_status(finish_reason),
        "completed_at": None if reason else completed_at,
        "incomplete_details": {"reason": reason} if reason else None,
        "output": output,
        "usage": render_usage(usage),
    }


def failed(
    skeleton: Mapping[str, Any],
    output: list[dict[str, Any]],
    usage: UsageDetails | None,
    *,
    status: Status,
    code: str,
    message: str,
) -> dict[str, Any]:
    """The response object of a run that failed or was cancelled."""
    return {
        **skeleton,
        "status": status,
        "completed_at": None,
        "incomplete_details": None,
        "error": {"code": code, "message": message},
        "output": output,
        "usage": render_usage(usage),
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
