"""Input items of a request, as the framework's messages in their serialized form (`Message.to_dict`).

The protocol has one item per reasoning, call, output and message; the framework has messages of several
contents. What one model turn produced (reasoning, calls, an answer) becomes one assistant message, and the
outputs of parallel calls one tool message: chat completions APIs refuse calls that are spread over several
messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .contents import MAX_DATA, Content, base64_data, leftovers, parse_contents, text_content
from .fields import array_of_anything, boolean, choice, function_name, identifier, mapping, refuse, required, string

SerializedMessage: TypeAlias = dict[str, Any]

# The framework knows no `developer`, and clients of other model makers would refuse it; OpenAI treats both
# alike.
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}

_text = string()
_label = string(256, 1)
_role = choice(*_ROLES)
_image_format = choice("png", "webp", "jpeg", "gif", "svg")


@dataclass(slots=True)
class _Item:
    """One item, before it is joined with its neighbours."""

    role: str
    contents: list[Content]
    message_id: str | None = None
    properties: dict[str, Any] = field(default_factory=dict)
    joins: bool = False  # whether it belongs to the message before it, if that has the same role


def parse_input(value: Any, path: str = "input") -> list[SerializedMessage]:
    """A request's input: a string, or an array of items.

    Raises:
        BadRequest: Malformed; names the path of what is wrong.
    """
    if isinstance(value, str):
        return [_message_of("user", [text_content(_text(value, path))])]
    items = array_of_anything(value, path)
    if not items:
        refuse(path, "must hold at least one item")
    messages: list[SerializedMessage] = []
    open_turn = False  # whether the last message consists of joining items only
    for index, value_of_item in enumerate(items):
        item_path = f"{path}[{index}]"
        item = _parse_item(mapping(value_of_item, item_path), item_path)
        # A message without contents stays alone: nothing of it would be left.
        same_role = bool(messages) and messages[-1]["role"] == item.role and messages[-1]["contents"]
        if same_role and (item.joins or open_turn) and item.contents and not item.properties:
            _join(messages[-1], item)
        else:
            messages.append(_message_of(item.role, item.contents, item.message_id, item.properties))
        open_turn = item.joins and item.role == "assistant"
    return messages


def _parse_item(item: Mapping[str, Any], path: str) -> _Item:
    kind = item.get("type")
    if kind is None:
        # The AI SDK and OpenAI's Agents SDKs send messages without a type; the specification's item reference
        # may come without one too, and then has nothing but an id.
        kind = "item_reference" if item.keys() <= {"type", "id"} and "id" in item else "message"
    parse = _ITEMS.get(kind) if isinstance(kind, str) else None
    if parse is None:
        refuse(f"{path}.type", f"must be one of: {', '.join(_ITEMS)}", "unsupported_value")
    return parse(item, path)


def _message(item: Mapping[str, Any], path: str) -> _Item:
    wire_role = _role(required(item, "role", path), f"{path}.role")
    content = item.get("content")
    if content is None:
        refuse(f"{path}.content", "is required", "missing_required_parameter")
    contents = parse_contents(content, f"{path}.content", role=wire_role)
    properties = {} if len(item) == 2 else leftovers(item, _MESSAGE_MEMBERS)
    if wire_role == "developer":
        properties.setdefault("responses", {})["role"] = wire_role
    return _Item(_ROLES[wire_role], contents, _optional_id(item, path), properties)


def _function_call(item: Mapping[str, Any], path: str) -> _Item:
    content = {
        "type": "function_call",
        "call_id": identifier(required(item, "call_id", path), f"{path}.call_id"),
        "name": function_name(required(item, "name", path), f"{path}.name"),
        "arguments": _text(required(item, "arguments", path), f"{path}.arguments"),
        "hosted": False,
        "additional_properties": _with_id(item, path, leftovers(item, _CALL_MEMBERS)),
    }
    return _Item("assistant", [content], joins=True)


def _function_call_output(item: Mapping[str, Any], path: str) -> _Item:
    call_id = identifier(required(item, "call_id", path), f"{path}.call_id")
    items = parse_contents(required(item, "output", path), f"{path}.output", role="user")
    content = {
        "type": "function_result",
        "call_id": call_id,
        # As `Content.from_function_result` does it: the text for clients that take nothing else, and all of
        # it beside.
        "result": "\n".join(part["text"] for part in items if part["type"] == "text" and part["text"]),
        "items": items,
        "additional_properties": _with_id(item, path, leftovers(item, _OUTPUT_MEMBERS)),
    }
    return _Item("tool", [content], joins=True)


def _approval_request(item: Mapping[str, Any], path: str) -> _Item:
    """A call that waits to be approved, from a client that repeats what it was told."""
    request_id = identifier(required(item, "id", path), f"{path}.id")
    call = {
        "type": "function_call",
        "call_id": request_id,  # the protocol's item has no other
        "name": identifier(required(item, "name", path), f"{path}.name"),
        "arguments": _text(required(item, "arguments", path), f"{path}.arguments"),
        "hosted": False,
        "additional_properties": {},
    }
    if (label := item.get("server_label")) is not None:
        _label(label, f"{path}.server_label")
    content = {
        "type": "function_approval_request",
        "id": request_id,
        "user_input_request": True,
        "function_call": call,
        "additional_properties": leftovers(item, _APPROVAL_REQUEST_MEMBERS),
    }
    return _Item("assistant", [content], joins=True)


def _approval_response(item: Mapping[str, Any], path: str) -> _Item:
    """An answer to such a call. Which call it is the runtime knows."""
    if (reason := item.get("reason")) is not None:
        _text(reason, f"{path}.reason")
    content = {
        "type": "function_approval_response",
        "id": identifier(required(item, "approval_request_id", path), f"{path}.approval_request_id"),
        "approved": boolean(required(item, "approve", path), f"{path}.approve"),
        "additional_properties": _with_id(item, path, leftovers(item, _APPROVAL_RESPONSE_MEMBERS)),
    }
    return _Item("user", [content])


def _reasoning(item: Mapping[str, Any], path: str) -> _Item:
    encrypted = item.get("encrypted_content")
    shared: Content = {"type": "text_reasoning"}
    # Unlike other ids this one must stay the provider's own: OpenAI checks that the encrypted content belongs
    # to it.
    if (reasoning_id := _optional_id(item, path)) is not None:
        shared["id"] = reasoning_id
    extra = leftovers(item, _REASONING_MEMBERS)
    contents: list[Content] = [
        {**shared, "text": text, "additional_properties": {**marker, **extra}}
        for name, kind, marker in _REASONING_TEXTS
        for text in _texts(item.get(name), f"{path}.{name}", kind)
    ] or [{**shared, "text": "", "additional_properties": extra}]
    if encrypted is not None:
        contents[0]["protected_data"] = string(_MAX_ENCRYPTED)(encrypted, f"{path}.encrypted_content")
    return _Item("assistant", contents, joins=True)


def _image_generation_call(item: Mapping[str, Any], path: str) -> _Item:
    """An image that an earlier response made: in the form in which the framework's clients report one."""
    where = f"{path}.result"
    result = base64_data(string(MAX_DATA)(required(item, "result", path), where), where)
    kind = item.get("output_format")
    media_type = "image/png" if kind is None else f"image/{_image_format(kind, f'{path}.output_format')}"
    content = {
        "type": "image_generation_tool_result",
        "outputs": {
            "type": "data",
            "uri": f"data:{media_type};base64,{result}",
            "media_type": media_type,
            "additional_properties": {},
        },
        "additional_properties": _with_id(item, path, leftovers(item, _IMAGE_MEMBERS)),
    }
    return _Item("assistant", [content], joins=True)


def _item_reference(item: Mapping[str, Any], path: str) -> _Item:
    rule = "must not be 'item_reference', which is not supported: send the item itself"
    refuse(f"{path}.type", rule, "unsupported_value")


_ITEMS: dict[str, Callable[[Mapping[str, Any], str], _Item]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_call_output,
    "mcp_approval_request": _approval_request,
    "mcp_approval_response": _approval_response,
    "reasoning": _reasoning,
    "image_generation_call": _image_generation_call,
    "item_reference": _item_reference,
}
_MESSAGE_MEMBERS = frozenset({"type", "role", "content", "id", "status"})
_CALL_MEMBERS = frozenset({"type", "call_id", "name", "arguments", "id", "status"})
_OUTPUT_MEMBERS = frozenset({"type", "call_id", "output", "id", "status"})
# What they leave, a label or a reason, is kept beside, and shown again.
_APPROVAL_REQUEST_MEMBERS = frozenset({"type", "id", "name", "arguments", "status"})
_APPROVAL_RESPONSE_MEMBERS = frozenset({"type", "id", "approval_request_id", "approve", "status"})
_IMAGE_MEMBERS = frozenset({"type", "id", "result", "status"})
_REASONING_MEMBERS = frozenset({"type", "id", "summary", "content", "encrypted_content", "status"})
_REASONING_TEXTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("summary", "summary_text", {}),
    ("content", "reasoning_text", {"openai": {"reasoning_text": True}}),  # as the framework marks it
)
_MAX_ENCRYPTED = 10_485_760


def _texts(value: Any, path: str, kind: str) -> list[str]:
    """The texts of a reasoning item's summary or content."""
    if value is None:
        return []
    texts = []
    for index, part in enumerate(array_of_anything(value, path)):
        where = f"{path}[{index}]"
        if mapping(part, where).get("type") != kind:
            refuse(f"{where}.type", f"must be '{kind}'")
        texts.append(_text(required(part, "text", where), f"{where}.text"))
    return texts


def _optional_id(item: Mapping[str, Any], path: str) -> str | None:
    value = item.get("id")
    return None if value is None else identifier(value, f"{path}.id")


def _with_id(item: Mapping[str, Any], path: str, properties: dict[str, Any]) -> dict[str, Any]:
    """Keep an item's id apart from the content's `id`, by which the framework pairs calls with results."""
    if (item_id := _optional_id(item, path)) is not None:
        properties.setdefault("responses", {})["id"] = item_id
    return properties


def _message_of(
    role: str, contents: list[Content], message_id: str | None = None, properties: dict[str, Any] | None = None
) -> SerializedMessage:
    message: SerializedMessage = {"type": "message", "role": role, "contents": contents}
    if message_id is not None:
        message["message_id"] = message_id
    message["additional_properties"] = properties or {}
    return message


def _join(message: SerializedMessage, item: _Item) -> None:
    message["contents"] += item.contents
    if item.message_id is not None:
        message.setdefault("message_id", item.message_id)
