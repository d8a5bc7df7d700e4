"""The framework's messages in their serialized form, as the protocol's items: the inverse of `items`, and more.

A message of the framework may be several items: what `parse_input` joined comes apart again, and so does what a model
said in one turn. Calls and their outputs are shown whoever executed the function, because the model was told of them;
only what happened inside a model's service (hosted tools) has no item here.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from afactors_channels.workflows import INTERMEDIATE

from .ids import input_item_id
from .parts import SUMMARY, json_text, part_object, reasoning_kind
from .settings import ENCRYPTED
from .stored_parts import images_of, leftovers_of, output_of, part_of, properties_of

Stored: TypeAlias = Mapping[str, Any]

_ROLES = frozenset({"user", "assistant", "system", "tool"})
_LABELS = ("text", "refusal", "image_url", "file_url", "file_data", "file_id")  # what tells a message from another
_LABEL = 1024  # how much of a long text tells it from another


def input_items(messages: Iterable[Stored], response_id: str, *, include: Collection[str] = ()) -> list[dict[str, Any]]:
    """What a response was given, as items in their order.

    An item has the id that the client gave it, if no item before it has the same; else one that is derived from its
    place.

    Args:
        messages: As `parse_input` made them.
        response_id: The response's id.
        include: What else the client wants in the items.
    """
    items: list[dict[str, Any]] = []
    taken: set[str] = set()
    messages = list(messages)
    answered = _answered(messages)
    for message in messages:
        for draft in _drafts(message, include, answered):
            name = draft.own
            if name is None or name in taken:
                name = input_item_id(draft.prefix, response_id, len(items))
            taken.add(name)
            items.append(draft.named(name))
    return items


def history_items(messages: Sequence[Stored], *, include: Collection[str] = (), begin: int = 0) -> list[dict[str, Any]]:
    """A conversation's history, as items in their order.

    An item's id stays the same for as long as the item is there: it is derived from its message's id and its own
    contents. Only a reasoning keeps its provider's id, and a request for approval the one by which it is answered.

    Args:
        messages: Of all roles, each with an id.
        include: What else the client wants in the items.
        begin: Which message's items are the first that are wanted.
    """
    return [draft.named(name) for position, draft, name in _history(messages, include) if position >= begin]


def item_place(messages: Sequence[Stored], item_id: str) -> tuple[str, list[int]] | None:
    """Where an item of `history_items` is: its message's id, and the indexes of its contents there.

    Returns:
        None if there is no such item. All indexes if the message would show nothing without it.
    """
    answered = _answered(messages)
    for position, draft, name in _history(messages, ()):
        message = messages[position]
        if name == item_id and message.get("message_id"):
            alone = all(other.indexes == draft.indexes for other in _drafts(message, (), answered))
            return message["message_id"], list(range(len(message["contents"]))) if alone else draft.indexes
    return None


@dataclass(slots=True)
class _Draft:
    """An item without its id.

    Attributes:
        prefix: What its id begins with.
        item: The rest of it.
        indexes: Places of its contents in the message.
        own: The id that the client or the model's service gave it.
        label: What tells it from the message's other items.
    """

    prefix: str
    item: dict[str, Any]
    indexes: list[int]
    own: str | None
    label: str

    @property
    def keeps_its_id(self) -> bool:
        """Whether somebody knows it by the id that it has of its own."""
        return self.prefix == "mcpr" or (self.prefix == "rs" and (self.own or "").startswith("rs_"))

    def named(self, name: str) -> dict[str, Any]:
        """The item."""
        return {"id": name, **self.item}


def _history(messages: Sequence[Stored], include: Collection[str]) -> Iterator[tuple[int, _Draft, str]]:
    """Each item with its message's place and its id."""
    counts: Counter[tuple[str, ...]] = Counter()
    taken: set[str] = set()
    hidden = {content.get("call_id") for message in messages for content in message["contents"] if _is_hosted(content)}
    answered = _answered(messages)
    for position, message in enumerate(messages):
        place = message.get("message_id") or f"#{position}"
        for draft in _drafts(message, include, answered):
            name = draft.own
            if draft.prefix == "fco" and draft.item["call_id"] in hidden:
                continue
            if name is None or not draft.keeps_its_id or name in taken:
                key = (place, draft.prefix, draft.label)
                name = f"{draft.prefix}_{_digest(*key, str(counts[key]))}"
                counts[key] += 1
            taken.add(name)
            yield position, draft, name


def _digest(*words: str) -> str:
    """Of several texts, none of which can run into the next."""
    digest = hashlib.blake2b(digest_size=16)
    for word in words:
        data = word.encode("utf-8", "surrogatepass")
        digest.update(b"%d:%b" % (len(data), data))
    return digest.hexdigest()


def _answered(messages: Iterable[Stored]) -> set[Any]:
    """The calls that have their results."""
    contents = (content for message in messages for content in message["contents"])
    return {content.get("call_id") for content in contents if content["type"] == "function_result"}


def _drafts(message: Stored, include: Collection[str], answered: Collection[Any]) -> list[_Draft]:
    """The items of one message."""
    drafts: list[_Draft] = []
    contents = message["contents"]
    waiting = _waiting(contents, answered)
    for index, content in enumerate(contents):
        last = drafts[-1] if drafts and drafts[-1].indexes[-1] == index - 1 else None
        kind = content["type"]
        if kind == "text_reasoning":
            if last is None or not _continues(last, contents[index - 1], content):
                last = _reasoning(content, include)
                drafts.append(last)
            _add_reasoning(last, content, index)
        elif kind in _OF_ONE:
            hidden = _is_hosted(content) or index in waiting.values()
            drafts += [] if hidden else [_OF_ONE[kind](content, index)]
        elif kind == "function_approval_request":
            drafts.append(_approval_request(message, content, [*_place(waiting, content), index]))
        elif images := images_of(content) if message["role"] == "assistant" else []:
            drafts += [_made_image(content, data, index) for data in images]
        elif (part := part_of(content, message["role"], include)) is not None:
            if last is None or last.prefix != "msg":
                last = _message(message, part, first=all(draft.prefix != "msg" for draft in drafts))
                drafts.append(last)
            last.item["content"].append(part)
            last.indexes.append(index)
    for draft in drafts:
        if draft.prefix == "rs":
            _without_nothing(draft.item)
    return drafts if contents else [_message(message, {}, first=True)]


def _waiting(contents: Sequence[Stored], answered: Collection[Any]) -> dict[Any, int]:
    """Where the calls are that wait for an approval, and are nothing but what the request for it says."""
    asked = {_call_id(content) for content in contents if content["type"] == "function_approval_request"}
    asked.difference_update(answered, [None])
    calls = {each.get("call_id"): index for index, each in enumerate(contents) if each["type"] == "function_call"}
    return {call_id: index for call_id, index in calls.items() if call_id in asked}


def _call_id(request: Stored) -> Any:
    return (request.get("function_call") or {}).get("call_id")


def _place(waiting: Mapping[Any, int], request: Stored) -> list[int]:
    index = waiting.get(_call_id(request))
    return [] if index is None else [index]


def _message(message: Stored, part: Stored, *, first: bool) -> _Draft:
    """The first message item of a message has whatever else the message has."""
    more = leftovers_of(message)
    role = more.pop("role", None) or (message["role"] if message["role"] in _ROLES else "unknown")
    phase = {"phase": "commentary"} if properties_of(message).get(INTERMEDIATE) else {}
    item = {"type": "message", "role": role, "content": [], "status": "completed", **phase, **(more if first else {})}
    label = next((value for name in _LABELS if isinstance(value := part.get(name), str)), "")
    return _Draft("msg", item, [], message.get("message_id") if first else None, label[:_LABEL])


def _reasoning(content: Stored, include: Collection[str]) -> _Draft:
    sealed = content.get("protected_data")
    item: dict[str, Any] = {"type": "reasoning", "summary": [], "content": [], "status": "completed"}
    if sealed is not None and ENCRYPTED in include:
        item["encrypted_content"] = sealed
    label = content.get("text") or sealed or ""
    return _Draft("rs", {**item, **leftovers_of(content)}, [], content.get("id"), label[:_LABEL])


def _add_reasoning(draft: _Draft, content: Stored, index: int) -> None:
    kind = reasoning_kind(properties_of(content))
    draft.item[kind.holder].append(part_object(kind, content.get("text") or "", [], []))
    draft.indexes.append(index)


def _continues(draft: _Draft, before: Stored, content: Stored) -> bool:
    """Whether a reasoning content belongs to the item of the one before it: only its first is sealed."""
    return (
        draft.prefix == "rs"
        and content.get("protected_data") is None
        and content.get("id") == before.get("id")
        and leftovers_of(content) == leftovers_of(before)
        and not (draft.item["content"] and reasoning_kind(properties_of(content)) is SUMMARY)
    )


def _without_nothing(item: dict[str, Any]) -> None:
    """A reasoning whose text nobody may read has no text, not an empty one."""
    if not item["content"] and [part["text"] for part in item["summary"]] == [""]:
        item["summary"] = []


def _is_hosted(content: Stored) -> bool:
    """Whether it is a call that a model's service executed by itself."""
    return content["type"] == "function_call" and bool(content.get("hosted") or content.get("informational_only"))


def _call(content: Stored, index: int) -> _Draft:
    arguments = content.get("arguments")
    item = {
        "type": "function_call",
        "call_id": content.get("call_id") or "",
        "name": content.get("name") or "",
        "arguments": json_text({} if arguments is None else arguments),
        "status": "completed",
    }
    return _of_one("fc", item, content, index, item["call_id"])


def _result(content: Stored, index: int) -> _Draft:
    item = {
        "type": "function_call_output",
        "call_id": content.get("call_id") or "",
        "output": output_of(content),
        "status": "completed",
    }
    return _of_one("fco", item, content, index, item["call_id"])


def _approval_request(message: Stored, content: Stored, indexes: list[int]) -> _Draft:
    call = content.get("function_call") or {}
    arguments = call.get("arguments")
    item = {
        "type": "mcp_approval_request",
        "server_label": call.get("server_name") or message.get("author_name") or "agent",
        "name": call.get("name") or "",
        "arguments": json_text({} if arguments is None else arguments),
        **leftovers_of(content),
    }
    return _Draft("mcpr", item, indexes, content.get("id"), content.get("id") or "")


def _approval_response(content: Stored, index: int) -> _Draft:
    answered = content.get("id") or ""
    item = {
        "type": "mcp_approval_response",
        "approval_request_id": answered,
        "approve": bool(content.get("approved")),
    }
    return _of_one("mcpa", item, content, index, answered)


_OF_ONE: Mapping[str, Callable[[Stored, int], _Draft]] = {
    "function_call": _call,
    "function_result": _result,
    "function_approval_response": _approval_response,
}


def _made_image(content: Stored, data: str, index: int) -> _Draft:
    item = {"type": "image_generation_call", "status": "completed", "result": data}
    return _of_one("ig", item, content, index, data[:_LABEL])


def _of_one(prefix: str, item: dict[str, Any], content: Stored, index: int, label: str) -> _Draft:
    """An item that is made of one content, which then has the client's id of it."""
    more = leftovers_of(content)
    own = more.pop("id", None)
    return _Draft(prefix, {**item, **more}, [index], own, label)
