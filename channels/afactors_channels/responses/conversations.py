"""Conversations: what their endpoints are asked, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .fields import array, mapping, refuse, required
from .items import SerializedMessage, parse_input
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


def render_conversation(conversation_id: str, *, created_at: int, metadata: Mapping[str, str]) -> dict[str, Any]:
    """A conversation as the protocol has it; deleting one of its items answers with it, too."""
    return {
        "id": conversation_id,
        "object": "conversation",
        "created_at": created_at,
        "metadata": dict(metadata),
    }


def render_deleted(conversation_id: str) -> dict[str, Any]:
    """What remains of a deleted conversation."""
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}
