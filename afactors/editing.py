"""Changing a session otherwise than by a turn: adding and removing messages, labelling, deleting."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from agent_framework import AgentSession, Message

from afactors_channels import BadRequest, Conflicting, NotFound, TargetFailed
from afactors_store import Commit

from . import commits
from .history import Changes, LiveSession, histories_of, identify
from .sessions import document_name
from .target import Target
from .turn import Turn

logger = logging.getLogger("afactors.actor")


async def edit(
    turn: Turn, live: LiveSession, stored: Mapping[str, bytes], target: Target
) -> tuple[Commit, Changes | None]:
    """What an edit writes, and what it changes of the session's history.

    Args:
        turn: The edit's.
        live: The session, in memory; it is changed.
        stored: Those of the session's two documents that exist.
        target: Knows where the agent keeps its history.

    Raises:
        NotFound: There is no such session, or no such message in it.
        Conflicting: It is to be created, and exists.
        BadRequest: What is to be added is no message.
        TargetFailed: The agent's own code failed.
    """
    change, session_id = turn.edit, turn.session_id
    assert change is not None and session_id is not None  # noqa: S101, PT018 - it was made so
    if change.create and stored:
        raise Conflicting("This session exists already.", field="session", code="session_exists")
    if not change.create and not stored:
        raise NotFound("There is no such session.", field="session", code="session_not_found")
    if change.delete:
        return _deleted(session_id, live), None
    remove(live.session, change.remove)
    if change.append:
        messages = _messages(change.append)
        identify(messages, f"{turn.run_id}:")
        await _remember(target, live.session, messages)
    changed = change.create or bool(change.remove or change.append)
    changes = await live.changes(head=None, label=turn.run_id) if changed else None
    return commits.edited(session_id, changes, change.labels), changes


def _messages(serialized: Sequence[Mapping[str, Any]]) -> list[Message]:
    try:
        return [Message.from_dict(dict(message)) for message in serialized]
    except Exception as exc:  # the framework says this in many ways
        raise BadRequest("This is not a message.", field="append", code="invalid_message") from exc


async def _remember(target: Target, session: AgentSession, messages: Sequence[Message]) -> None:
    try:
        await target.remember(session, messages)
    except Exception as exc:  # where an agent keeps its history is user code
        logger.warning("the target cannot remember messages", exc_info=exc)
        raise TargetFailed("The agent failed to keep the messages.") from exc


def _deleted(session_id: str, live: LiveSession) -> Commit:
    # Names may lead to points of this session, and what they need of it stays with them.
    drop = () if live.point.pinned else tuple(live.point.logs())
    return Commit(delete=[document_name(session_id), document_name(session_id, "labels")], drop_logs=drop)


def remove(session: AgentSession, places: Sequence[tuple[str, Sequence[int]]]) -> None:
    """Take messages, or some of their contents, out of a session's histories.

    Raises:
        NotFound: One of them is not there.
    """
    for message_id, indexes in places:
        found = False
        for messages in histories_of(session).values():
            for at, message in enumerate(messages):
                if message.message_id == message_id:
                    found = True
                    _cut(messages, at, message, indexes)
                    break
        if not found:
            raise NotFound("There is no such message.", field="remove", code="message_not_found")


def _cut(messages: list[Message], at: int, message: Message, indexes: Sequence[int]) -> None:
    left = [content for index, content in enumerate(message.contents) if index not in indexes] if indexes else []
    if left:
        messages[at] = Message(
            message.role,
            left,
            author_name=message.author_name,
            message_id=message.message_id,
            additional_properties=message.additional_properties,
        )
    else:
        del messages[at]
