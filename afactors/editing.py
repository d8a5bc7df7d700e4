"""Changing a session otherwise than by a turn: adding and removing messages, labelling, deleting."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent_framework import AgentSession, Message

from afactors_channels import BadRequest, Conflicting, NotFound, TargetFailed
from afactors_store import Commit

from . import commits
from .encoding import histories_of, identify
from .forgetting import settled, unasked, unreached
from .history import Changes, LiveSession, Point
from .ledger import WorkflowSession
from .naming import document_name
from .target import Live, Target
from .turn import Turn

logger = logging.getLogger("afactors.actor")

_APPROVALS = frozenset({"function_approval_request", "function_approval_response"})


async def edit(
    turn: Turn,
    live: Live,
    stored: Mapping[str, bytes],
    target: Target,
    kept: Callable[[], Awaitable[Changes]],
    beside: Callable[[], Awaitable[Sequence[Point]]],
) -> tuple[Commit, Changes | None]:
    """What an edit writes, and what it changes of the session's history.

    Args:
        turn: The edit's.
        live: The session, in memory; it is changed.
        stored: Those of the session's two documents that exist.
        target: Knows where the agent keeps its history.
        kept: Tells what has changed, and what leaves the session for that.
        beside: Tells what else reaches something of the session.

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
        return _deleted(session_id, live, target, await beside()), None
    if change.append or change.remove:
        if not isinstance(live, LiveSession):
            raise Conflicting("A workflow's conversation cannot be edited.", field="session", code="workflow_session")
        remove(live.session, change.remove)
    if change.append and isinstance(live, LiveSession):
        messages = _messages(change.append)
        identify(messages, f"{turn.run_id}:")
        await _remember(target, live.session, messages)
    changed = change.create or bool(change.remove or change.append)
    before, changes = live.point, await kept() if changed else None
    if not change.remove or changes is None:
        return commits.edited(session_id, changes, change.labels), changes
    others = await beside()
    changes = replace(changes, point=settled(changes.point, others))
    rows = unreached([before], [changes.point, *others], changes.drop)
    return replace(commits.edited(session_id, changes, change.labels), **rows), changes


def _messages(serialized: Sequence[Mapping[str, Any]]) -> list[Message]:
    try:
        messages = [Message.from_dict(dict(message)) for message in serialized]
    except Exception as exc:  # the framework says this in many ways
        raise BadRequest("This is not a message.", field="append", code="invalid_message") from exc
    if any(content.type in _APPROVALS for message in messages for content in message.contents):
        # In a history they are as good as given: the agent would run whatever they say was approved.
        raise BadRequest("Approvals are given by a turn only.", field="append", code="invalid_message")
    return messages


async def remembered(target: Target, live: Live, messages: Sequence[Message], label: str) -> None:
    """Add messages to a session in memory as if they had been said.

    Raises:
        TargetFailed: The agent's own code failed.
    """
    identify(messages, f"{label}:")
    if isinstance(live, LiveSession):
        await _remember(target, live.session, messages)
    elif isinstance(live, WorkflowSession):
        live.told(messages)


async def _remember(target: Target, session: AgentSession, messages: Sequence[Message]) -> None:
    try:
        await target.remember(session, messages)
    except Exception as exc:  # where an agent keeps its history is user code
        logger.warning("the target cannot remember messages", exc_info=exc)
        raise TargetFailed("The agent failed to keep the messages.") from exc


def _deleted(session_id: str, live: Live, target: Target, others: Sequence[Point]) -> Commit:
    """The whole session, but for what others reach: names may lead to points of it, and branches begin there."""
    documents = [document_name(session_id), document_name(session_id, "labels"), *target.documents(session_id)]
    questions = unasked([live.point], () if target.scope(session_id) else others)
    return Commit(delete=[*documents, *questions], **unreached([live.point], others, live.own_logs()))


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
