"""Conversations: what their endpoints are asked, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from afactors_channels.outcomes import Question

from .fields import array, mapping, refuse, required
from .items import SerializedMessage, parse_input
from .parts import json_text
from .settings import check_metadata

MAX_ITEMS = 20
"""How many items may be added at a time."""

_few_items = array(mapping, MAX_ITEMS)


@dataclass(frozen=True, slots=True)
class NewConversation:
    """What `POST /conversations` is asked.

    Attributes:
        messages: What the conversation begins with, in the framework's serialized form.
        metadata: The client's own labels.
    """

    messages: Sequence[SerializedMessage] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def parse_new(body: Mapping[str, Any]) -> NewConversation:
    """Validate the body of `POST /conversations`. A field that is null counts as not given.

    Raises:
        BadRequest: The first thing that is wrong, by its path.
    """
    items, metadata = body.get("items"), body.get("metadata")
    return NewConversation(
        messages=_messages(items) if items not in (None, []) else [],
        metadata=check_metadata({} if metadata is None else metadata, "metadata"),
    )


def parse_update(body: Mapping[str, Any]) -> dict[str, str]:
    """Validate the body of `POST /conversations/{id}`: the labels that it has from then on; null removes all.

    Raises:
        BadRequest: They are missing or malformed.
    """
    if "metadata" not in body:
        refuse("metadata", "is required", "missing_required_parameter")
    metadata = body["metadata"]
    return check_metadata({} if metadata is None else metadata, "metadata")


def parse_added(body: Mapping[str, Any]) -> list[SerializedMessage]:
    """Validate the body of `POST /conversations/{id}/items`: 1 to 20 items, as messages.

    Raises:
        BadRequest: The first thing that is wrong, by its path.
    """
    return _messages(required(body, "items"))


def _messages(items: Any) -> list[SerializedMessage]:
    return parse_input(_few_items(items, "items"), "items")


def render_conversation(
    conversation_id: str, *, created_at: int, metadata: Mapping[str, str], questions: Sequence[Question] = ()
) -> dict[str, Any]:
    """A conversation as the protocol has it; deleting one of its items answers with it, too.

    What waits for an answer is an extension: ``waiting``, which is there only if something does.
    """
    conversation: dict[str, Any] = {
        "id": conversation_id,
        "object": "conversation",
        "created_at": created_at,
        "metadata": dict(metadata),
    }
    if questions:
        conversation["waiting"] = [_waiting(question) for question in questions]
    return conversation


def _waiting(question: Question) -> dict[str, Any]:
    """A question, by the type of the item that asked it; `id` is what the answer names."""
    return {
        "type": "mcp_approval_request" if question.kind == "approval" else "function_call",
        "id": question.question_id,
        "name": question.name,
        "arguments": json_text({} if question.arguments is None else question.arguments),
        "asked_at": int(question.asked),
        "expires_at": int(question.expires) if isfinite(question.expires) else None,
    }


def render_deleted(conversation_id: str) -> dict[str, Any]:
    """What remains of a deleted conversation."""
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}
