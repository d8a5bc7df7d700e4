"""A workflow's events, as the framework's messages.

What an agent says comes as updates and messages; what a workflow says comes as events, whose payloads may be
anything. This module makes the one of the other, for whatever protocol shows it. Facts about the events are those of
the framework's own `WorkflowAgent` (agent-framework-core 1.23).

The rules:

1. Outputs and intermediate outputs are what a workflow says, and requests for information are what it asks. Its
   other events (states, rounds, executors that begin and end) are its own business.
2. Contents, messages, responses and updates of the framework stay what they are, and lists of them come one by one.
   Text is text. Anything else is its JSON, or failing that its `str`. Nothing (None, an empty text or list) says
   nothing.
3. A payload that is an update is a piece of its executor's message, by the framework's rule for updates. Any other
   payload is a message of its own, with a new id: an executor may say again what another said, with the ids of that.
4. What nobody signed is signed with the executor's id.
5. What is only intermediate is marked as that in the additional properties of the update, and of the message. It has
   no say in how the whole ended (`finish_reason`).
6. Payloads are shared with the executors, and never changed.
"""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from itertools import groupby
from typing import Any
from uuid import uuid4

from agent_framework import (
    AgentExecutorResponse,
    AgentResponse,
    AgentResponseUpdate,
    Content,
    Message,
    UsageDetails,
    WorkflowEvent,
    add_usage_details,
)
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

INTERMEDIATE = "intermediate"
"""The additional property of what is not the answer yet."""

REQUEST_INFO = "request_info"
"""Name of the function that an executor's request for information is shown as a call of."""

_SAID = frozenset({"output", "intermediate", "data"})
_RUNS = frozenset({"executor_invoked", "executor_completed", "executor_failed"})
_NESTED = ("function_call", "items", "inputs", "outputs", "screenshot")  # where a content holds others
_FRAMEWORKS = (AgentResponseUpdate, AgentResponse, AgentExecutorResponse, Message, Content)


def updates_of(event: WorkflowEvent[Any]) -> list[AgentResponseUpdate]:
    """What one event says, as updates.

    Args:
        event: Of any type; it is not changed.

    Returns:
        None at all for events that say nothing.
    """
    if event.type == "request_info":
        return [_question(event)]
    if event.type not in _SAID:
        return []
    updates = list(_updates(event.data, event.executor_id))
    if event.type != "output":
        for update in updates:
            update.additional_properties = {**(update.additional_properties or {}), INTERMEDIATE: True}
            update.finish_reason = None
    return updates


def question_content(event: WorkflowEvent[Any]) -> Content:
    """What a request for information asks, as a content that waits for its caller.

    Returns:
        The payload itself, if it is such a content (a tool's approval, a call of a client's tool). Otherwise a call of
        `request_info`, whose arguments are ``request_id``, ``source`` (the executor's id), ``data`` (the payload as
        plain data) and, if there is one, ``response_schema`` (the JSON schema of the answer).
    """
    asked = event.data
    if isinstance(asked, Content) and asked.user_input_request and asked.type != "text":
        return _copied(asked)
    request_id = _given(event, "request_id") or ""
    arguments = {"request_id": request_id, "source": _given(event, "source_executor_id"), "data": plain(asked)}
    schema = _schema(_given(event, "response_type"))
    if schema is not None:
        arguments["response_schema"] = schema
    content = Content.from_function_call(request_id, REQUEST_INFO, arguments=arguments)
    content.user_input_request = True
    return content


def question_id(content: Content) -> str:
    """By which a question is answered: an approval's id, or the id of a call."""
    found = content.call_id or content.id if content.type == "function_call" else content.id or content.call_id
    return found or ""


def question_named(content: Content, name: str) -> Content:
    """The same question under another name, by which it is answered."""
    renamed = _copied(content)
    setattr(renamed, "call_id" if content.type == "function_call" else "id", name)
    return renamed


def response_of(events: Iterable[WorkflowEvent[Any]], *, response_id: str | None = None) -> AgentResponse:
    """What all events of a run say, as one response.

    Messages stand in the order in which they began. The pieces of one message are put together also where several
    executors spoke at once. A call that was asked to be answered is there once, as the question.

    Args:
        events: Of one run, in their order.
        response_id: The response's id.
    """
    merger = _Merger()
    for event in events:
        merger.take(event)
    return merger.response(response_id)


def plain(value: Any) -> Any:
    """Any value as plain data: what JSON can express of it, or failing that a text."""
    try:
        return to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="null", fallback=_fallback)
    except Exception:  # noqa: BLE001 - somebody else's object may do anything when it is looked at
        return _words(value)


def _fallback(value: Any) -> Any:
    to_dict = getattr(value, "to_dict", None)
    return to_dict() if callable(to_dict) and not isinstance(value, type) else _words(value)


def _words(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - as above
        return f"<{type(value).__name__}>"


def _text(value: Any) -> str:
    found = plain(value)
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _given(event: WorkflowEvent[Any], name: str) -> Any:
    """What an event may lack, although its type promises it."""
    try:
        return getattr(event, name)
    except RuntimeError:
        return None


def is_type(kind: Any) -> bool:
    """Whether something is a class that is found by its name, or made of such, as `list[str]` and `int | None` are.

    Whatever else stands in a type, as text and forward references do, is evaluated when the type is looked at.
    """
    origin = typing.get_origin(kind)
    if origin is None or origin is kind:
        return issubclass(type(kind), type) and (kind is type(None) or _found(kind) is kind)
    if origin is typing.Literal:
        return True
    parts = [one for one in typing.get_args(kind) if one is not ...]
    return all(map(is_type, parts if origin in (typing.Union, types.UnionType) else [origin, *parts]))


def _found(kind: type) -> Any:
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found


def _schema(kind: Any) -> Mapping[str, Any] | None:
    if not is_type(kind):
        return None
    try:
        return TypeAdapter(kind).json_schema()
    except Exception:  # noqa: BLE001 - not every type has a schema, and there are many ways to say so
        return None


def _question(event: WorkflowEvent[Any]) -> AgentResponseUpdate:
    update = _update([question_content(event)], "assistant", _given(event, "source_executor_id"))
    update.merge_mode = "replace"  # pieces of the same call may have been said before
    return update


def _updates(said: Any, author: str | None) -> Iterator[AgentResponseUpdate]:
    if isinstance(said, AgentResponseUpdate):
        yield _copied_update(said, author)
    elif isinstance(said, AgentExecutorResponse):
        yield from _response_updates(said.agent_response, said.executor_id or author)
    elif isinstance(said, AgentResponse):
        yield from _response_updates(said, author)
    elif isinstance(said, Message):
        yield from _message_updates([said], author)
    elif isinstance(said, list | tuple) and any(isinstance(each, _FRAMEWORKS) for each in said):
        yield from _listed(said, author)
    elif said is not None and said != "" and not (isinstance(said, list | tuple) and not said):
        yield _update([_content(said)], "assistant", author)


def _listed(said: Iterable[Any], author: str | None) -> Iterator[AgentResponseUpdate]:
    """Contents and texts that follow each other are one message."""
    for loose, items in groupby(said, lambda each: isinstance(each, Content | str)):
        if loose:
            yield _update([_content(each) for each in items], "assistant", author)
            continue
        for item in items:
            # A list in a list is told as a whole: it could hold itself.
            yield from _updates(_text(item) if isinstance(item, list | tuple) else item, author)


def _content(said: Any) -> Content:
    return _copied(said) if isinstance(said, Content) else Content.from_text(_text(said))


def _response_updates(response: AgentResponse, author: str | None) -> Iterator[AgentResponseUpdate]:
    """A response's messages; the last has what is said of all of them."""
    updates = _message_updates(response.messages, author)
    usage = [] if response.usage_details is None else [Content.from_usage(response.usage_details)]
    if not updates and (usage or response.finish_reason is not None):
        updates.append(AgentResponseUpdate())  # of no message: none begins by it, and none ends
    for update in updates:
        update.response_id, update.agent_id, update.created_at = (
            response.response_id,
            response.agent_id,
            response.created_at,
        )
    if updates:
        updates[-1].contents += usage
        updates[-1].finish_reason = response.finish_reason
    return iter(updates)


def _message_updates(messages: Iterable[Message], author: str | None) -> list[AgentResponseUpdate]:
    updates = []
    for message in messages:
        if message.contents:
            contents = [_copied(content) for content in message.contents]
            updates.append(_update(contents, message.role, message.author_name or author))
            updates[-1].additional_properties = dict(message.additional_properties or {})
    return updates


def _update(contents: list[Content], role: str, author: str | None) -> AgentResponseUpdate:
    return AgentResponseUpdate(contents=contents, role=role, author_name=author, message_id=f"msg_{uuid4().hex}")


def _copied_update(said: AgentResponseUpdate, author: str | None) -> AgentResponseUpdate:
    update = copy(said)
    update.contents = [_copied(content) for content in said.contents]
    update.author_name = said.author_name or author
    update.additional_properties = dict(said.additional_properties or {})
    return update


def _copied(content: Content) -> Content:
    """A copy deep enough for the framework to merge it with others; what is not the framework's is shared."""
    twin = copy(content)
    for name in _NESTED:
        setattr(twin, name, _copied_inside(getattr(content, name)))
    return twin


def _copied_inside(value: Any) -> Any:
    if isinstance(value, Content):
        return _copied(value)
    return [_copied_inside(each) for each in value] if isinstance(value, list) else value


class _Piecewise:
    """A message that grows by updates."""

    def __init__(self, executor: str | None) -> None:
        self.executor = executor
        self.updates: list[AgentResponseUpdate] = []
        self.over = False  # its executor has ended since
        self._role: str | None = None
        self._id: str | None = None

    def continues(self, update: AgentResponseUpdate) -> bool:
        """Whether an update belongs to it, by the framework's rule (`_process_update`): what is not given stays."""
        pairs = ((self._role, update.role), (self._id, update.message_id))
        return not any(old and new and old != new for old, new in pairs)

    def add(self, update: AgentResponseUpdate) -> None:
        self.updates.append(update)
        self._role = update.role or self._role
        self._id = update.message_id or self._id

    def messages(self) -> list[Message]:
        """It; none if nothing is in it."""
        messages = [each for each in AgentResponse.from_updates(self.updates).messages if each.contents]
        for message in messages:
            for update in self.updates:
                message.additional_properties.update(update.additional_properties or {})
        return messages


_Lane = tuple[str | None, str | None, bool]


class _Merger:
    """Puts a run's events together.

    Every executor has a lane per author, in which its messages follow each other.
    """

    def __init__(self) -> None:
        self._begun: list[_Piecewise] = []
        self._lanes: dict[_Lane, _Piecewise] = {}
        self._last: _Piecewise | None = None
        self._usages: dict[_Lane, UsageDetails] = {}
        self._usage: UsageDetails | None = None
        self._finish_reason: Any = None
        self._created_at: Any = None

    def take(self, event: WorkflowEvent[Any]) -> None:
        if event.type in _RUNS:
            self._end(event.executor_id)
        executor = _given(event, "source_executor_id") or event.executor_id
        for update in updates_of(event):
            lane = (executor, update.author_name, INTERMEDIATE in (update.additional_properties or {}))
            if update.role or update.author_name or update.message_id:
                self._add(lane, update)
            self._count(lane, update)
            self._finish_reason = update.finish_reason or self._finish_reason
            self._created_at = update.created_at or self._created_at

    def response(self, response_id: str | None) -> AgentResponse:
        messages = [message for piecewise in self._begun for message in piecewise.messages()]
        for usage in self._usages.values():
            self._usage = add_usage_details(self._usage, usage)
        return AgentResponse(
            messages=_asked_once(messages),
            response_id=response_id,
            created_at=self._created_at,
            finish_reason=self._finish_reason,
            usage_details=self._usage or None,
        )

    def _end(self, executor: str | None) -> None:
        """What an executor says in its next run is another message, and its usage begins anew."""
        for lane, piecewise in self._lanes.items():
            if lane[0] == executor:
                piecewise.over = True
                if (usage := self._usages.pop(lane, None)) is not None:
                    self._usage = add_usage_details(self._usage, usage)

    def _add(self, lane: _Lane, update: AgentResponseUpdate) -> None:
        found = self._lanes.get(lane)
        # Nobody who sees the updates alone notices that an executor ended, unless another one spoke since.
        if found is None or not found.continues(update) or (found.over and found is not self._last):
            found = self._lanes[lane] = _Piecewise(lane[0])
            self._begun.append(found)
        found.over = False
        found.add(update)
        self._last = found

    def _count(self, lane: _Lane, update: AgentResponseUpdate) -> None:
        """The framework's agents say the sum of what they used, again and again, to replace what they said before."""
        for content in update.contents:
            if content.type == "usage" and content.usage_details is not None:
                replaces = content.merge_mode == "replace"
                before = None if replaces else self._usages.get(lane)
                self._usages[lane] = add_usage_details(before, content.usage_details)


def _asked_once(messages: list[Message]) -> list[Message]:
    """Without the calls that a later question repeats."""
    for position, message in enumerate(messages):
        for content in message.contents:
            call = content.function_call if content.type == "function_approval_request" else content
            if content.user_input_request and call is not None and call.type == "function_call" and call.call_id:
                _withdraw(messages[:position], call)
    return [message for message in messages if message.contents]


def _withdraw(messages: list[Message], call: Content) -> None:
    """Take out the last call of this id, unless it has its result: some providers use the same id again."""
    for message in reversed(messages):
        for content in reversed(message.contents):
            if content.call_id != call.call_id or content.type not in ("function_call", "function_result"):
                continue
            if content.type == "function_call" and content.name == call.name and not content.user_input_request:
                message.contents = [each for each in message.contents if each is not content]
            return
