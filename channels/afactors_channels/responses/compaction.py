"""Compaction: what `POST /responses/compact` is asked, and what it answers.

OpenAI's answer is one opaque item, which only its own service can read. Ours is the shortened conversation itself, in
items that may be sent as the input of the next request just the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_framework import Message, UsageDetails

from .fields import Check, identifier, required, string
from .items import SerializedMessage, parse_input
from .render import render_usage
from .settings import ENCRYPTED
from .stored_items import history_items

_NOTHING: UsageDetails = {"input_token_count": 0, "output_token_count": 0}

_model = string(256, 1)
_text = string()


@dataclass(frozen=True, slots=True)
class CompactRequest:
    """What is to be shortened.

    Attributes:
        model: What the client asked for. The hosted target's own model rules.
        input: Messages in the framework's serialized form; may be none.
        instructions: The client's own.
        previous_response_id: The response that they follow.
    """

    model: str
    input: Sequence[SerializedMessage] = ()
    instructions: str | None = None
    previous_response_id: str | None = None


def parse_compact(body: Mapping[str, Any]) -> CompactRequest:
    """Validate the body of `POST /responses/compact`. A field that is null counts as not given.

    Raises:
        BadRequest: The first thing that is wrong, by its path.
    """
    model = _model(required(body, "model"), "model")
    return CompactRequest(
        model=model,
        input=_given(body, "input", parse_input) or (),
        instructions=_given(body, "instructions", _text),
        previous_response_id=_given(body, "previous_response_id", identifier),
    )


def _given(body: Mapping[str, Any], name: str, check: Check) -> Any:
    value = body.get(name)
    return None if value is None else check(value, name)


def render_compaction(
    messages: Sequence[Message], *, response_id: str, created_at: int, usage: UsageDetails | None = None
) -> dict[str, Any]:
    """The compacted conversation.

    Args:
        messages: What is left of it, the oldest first.
        response_id: The id of this answer. Nothing can be continued from it.
        created_at: Seconds since the epoch.
        usage: What a model used to make it; None if none was asked.
    """
    items = history_items([message.to_dict() for message in messages], include=[ENCRYPTED])
    return {
        "id": response_id,
        "object": "response.compaction",
        "created_at": created_at,
        "output": items,
        "usage": render_usage(usage) or render_usage(_NOTHING),
    }
