"""The framework's contents in their serialized form, as content parts: the inverse of `contents`, and more.

What came in as a part goes out as the same part. What the framework's agents add has other marks, or none, and gets
the nearest part that there is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .parts import TEXT, image_data, json_text, part_object, text_kind, wire_annotations, wire_logprobs
from .settings import LOGPROBS

Part = dict[str, Any]


def properties_of(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The additional properties of a serialized content or message."""
    return value.get("additional_properties") or {}


def leftovers_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """The members of a part or item that nothing else carried (`contents.leftovers`)."""
    left = properties_of(value).get("responses")
    return dict(left) if isinstance(left, Mapping) else {}


def part_of(content: Mapping[str, Any], role: str, include: Collection[str] = ()) -> Part | None:
    """A content as a part of a message, or None if the protocol has no part for it.

    Args:
        content: In the framework's serialized form.
        role: Whose message it is in.
        include: What else the client wants to see.
    """
    part = _bare(content, role, include)
    return None if part is None else {**part, **leftovers_of(content)}


def _bare(content: Mapping[str, Any], role: str, include: Collection[str]) -> Part | None:
    kind = content["type"]
    if kind == "text":
        text = content.get("text") or ""
        return _said(content, text, include) if role == "assistant" else {"type": "input_text", "text": text}
    if kind not in _SOURCES:
        return None
    if role != "assistant" or sent_as(content):
        return _image(content) if _is_image(content) else _file(content)
    uri = content.get("uri")  # of what is no image; the response had it as text, too
    return part_object(TEXT, uri, [], []) if uri and not _is_partial(content) else None


def output_of(content: Mapping[str, Any]) -> Any:
    """What a tool gave: text, or parts if it is more than one plain text."""
    items, result = content.get("items"), content.get("result")
    if items is None or (result and not items):
        return "" if result is None else json_text(result)
    parts = [part for item in items if (part := part_of(item, "user")) is not None]
    plain = len(parts) == 1 and parts[0].keys() == {"type", "text"}
    return parts[0]["text"] if plain else parts


def sent_as(content: Mapping[str, Any]) -> str | None:
    """The type of part that an image or file was sent as, if a client sent it."""
    marks = properties_of(content).get("openai")
    return marks.get("content_type") if isinstance(marks, Mapping) else None


def images_of(content: Mapping[str, Any]) -> list[str]:
    """The base64 data of the images that a model made."""
    if content["type"] == "image_generation_tool_result":
        outputs = content.get("outputs")
        return [data for output in (outputs if isinstance(outputs, list) else [outputs]) for data in _made(output)]
    return _made(content) if content["type"] == "data" and not sent_as(content) else []


def _made(content: Any) -> list[str]:
    if not isinstance(content, Mapping) or _is_partial(content):
        return []
    data = image_data(content.get("uri") or "")
    return [] if data is None else [data]


def _is_partial(content: Mapping[str, Any]) -> bool:
    return bool(properties_of(content).get("is_partial_image"))


def _said(content: Mapping[str, Any], text: str, include: Collection[str]) -> Part:
    properties = properties_of(content)
    annotations = wire_annotations(content.get("annotations") or ())
    logprobs = wire_logprobs(properties) if LOGPROBS in include else []
    return part_object(text_kind(properties), text, annotations, logprobs)


def _is_image(content: Mapping[str, Any]) -> bool:
    sent = sent_as(content)
    return sent == "input_image" or (sent is None and (content.get("media_type") or "").startswith("image/"))


# Which member has the source of each type of content, and which one of a file.
_SOURCES = {"data": ("uri", "file_data"), "uri": ("uri", "file_url"), "hosted_file": ("file_id", "file_id")}


def _image(content: Mapping[str, Any]) -> Part:
    source, _ = _SOURCES[content["type"]]
    name = "image_url" if source == "uri" else source
    return {"type": "input_image", name: content[source], "detail": properties_of(content).get("detail") or "auto"}


def _file(content: Mapping[str, Any]) -> Part:
    source, name = _SOURCES[content["type"]]
    properties = properties_of(content)
    told = {"filename": properties.get("filename") or content.get("name"), "detail": properties.get("detail")}
    return {"type": "input_file", name: content[source], **{key: value for key, value in told.items() if value}}
