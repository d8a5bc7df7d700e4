"""What of a response is for whoever reads it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent_framework import Content, Message

from .workflows import INTERMEDIATE

_UNSEEN = {"tool", "system"}


def is_question(content: Content) -> bool:
    """Whether a content waits for its user."""
    return content.type == "function_approval_request" or (
        content.type == "function_call" and bool(content.user_input_request)
    )


def for_a_reader(messages: Iterable[Message]) -> Iterator[Message]:
    """Messages that are for the user: none of tools, and what is not the answer yet only where it asks something."""
    for message in messages:
        on_the_way = (message.additional_properties or {}).get(INTERMEDIATE)
        if message.role not in _UNSEEN and (not on_the_way or any(map(is_question, message.contents))):
            yield message
