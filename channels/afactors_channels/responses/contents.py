"""Content parts of a request, as the framework's contents in their serialized form (`Content.to_dict`).

Written out as mappings rather than through `Content`, which takes ten times as long; tests hold the two
together.

What the framework has no field for goes into `additional_properties`, so that nothing is lost: under
``openai`` by the names that `agent-framework-openai` reads back, under ``responses`` what only this protocol
knows.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from .fields import array_of_anything, choice, identifier, mapping, refuse, required, string

Content: TypeAlias = dict[str, Any]

MAX_URL = 8192
MAX_DATA = 33_554_432  # Open Responses: the longest `file_data`

REFUSAL = {"core": {"model_output_kind": "refusal"}}
"""How the framework marks text as a refusal."""

_MEDIA_TYPES = {
    "csv": "text/csv",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "gif": "image/gif",
    "htm": "text/html",
    "html": "text/html",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "json": "application/json",
    "md": "text/markdown",
    "mp3": "audio/mpeg",
    "pdf": "application/pdf",
    "png": "image/png",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "txt": "text/plain",
    "wav": "audio/wav",
    "webp": "image/webp",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "xml": "application/xml",
}

_text = string()
_url_text = string(MAX_URL)
_data_text = string(MAX_DATA)
_filename = string(255, 1)
_detail = choice("low", "high", "auto", "original")


def text_content(text: str, properties: dict[str, Any] | None = None) -> Content:
    """A text content."""
    return {"type": "text", "text": text, "additional_properties": properties or {}}


def parse_contents(value: Any, path: str, *, role: str) -> list[Content]:
    """A message's content: a string, or an array of parts.

    Raises:
        BadRequest: Malformed, or a part that cannot be carried; names the part's path.
    """
    if isinstance(value, str):
        return [text_content(_text(value, path))]
    contents = []
    for index, part in enumerate(array_of_anything(value, path)):
        part_path = f"{path}[{index}]"
        kind = mapping(part, part_path).get("type")
        parse = _PARTS.get(kind) if isinstance(kind, str) else None
        if parse is None:
            refuse(f"{part_path}.type", f"must be one of: {', '.join(_PARTS)}", "unsupported_value")
        if kind == "refusal" and role != "assistant":
            refuse(f"{part_path}.type", "may be a refusal only in an assistant's message")
        contents.append(parse(part, part_path))
    return contents


def leftovers(value: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The members that nothing else carries, as additional properties."""
    if value.keys() <= known:
        return {}
    extra = {name: member for name, member in value.items() if name not in known and member not in (None, [])}
    return {"responses": extra} if extra else {}


_TEXT_MEMBERS = frozenset({"type", "text"})
_REFUSAL_MEMBERS = frozenset({"type", "refusal"})
_IMAGE_MEMBERS = frozenset({"type", "image_url", "file_id", "detail"})
_FILE_MEMBERS = frozenset({"type", "file_data", "file_url", "file_id", "filename", "detail"})


def _text_part(part: Mapping[str, Any], path: str) -> Content:
    text = _text(required(part, "text", path), f"{path}.text")
    return text_content(text, leftovers(part, _TEXT_MEMBERS))


def _refusal_part(part: Mapping[str, Any], path: str) -> Content:
    text = _text(required(part, "refusal", path), f"{path}.refusal")
    return text_content(text, {**REFUSAL, **leftovers(part, _REFUSAL_MEMBERS)})


def _image_part(part: Mapping[str, Any], path: str) -> Content:
    properties = {"openai": {"content_type": "input_image"}, **leftovers(part, _IMAGE_MEMBERS)}
    if (detail := _detail_of(part, path)) is not None:
        properties["detail"] = properties["openai"]["image_detail"] = detail
    source = _only_one(part, path, "image_url", "file_id")
    if source == "file_id":
        return _hosted(part, path, "image/*", None, properties)
    url, where = part["image_url"], f"{path}.image_url"
    if isinstance(url, str) and url[:5].lower() == "data:":
        return _data(_data_uri(url, where, "image/"), properties, None)
    media_type = _media_type(_http_url(url, where).partition("?")[0])
    return _uri(url, media_type if media_type.startswith("image/") else "image/*", properties, None)


def _file_part(part: Mapping[str, Any], path: str) -> Content:
    properties = {"openai": {"content_type": "input_file"}, **leftovers(part, _FILE_MEMBERS)}
    if (detail := _detail_of(part, path)) is not None:
        properties["detail"] = detail
    filename = part.get("filename")
    if filename is not None:
        properties["filename"] = _filename(filename, f"{path}.filename")
    source = _only_one(part, path, "file_data", "file_url", "file_id")
    where = f"{path}.{source}"
    if source == "file_id":
        return _hosted(part, path, _media_type(filename) if filename else None, filename, properties)
    if source == "file_url":
        url = _http_url(part["file_url"], where)
        return _uri(url, _media_type(filename or url.partition("?")[0]), properties, filename)
    data = _data_text(part["file_data"], where)
    if data[:5].lower() == "data:":
        return _data(_data_uri(data, where, ""), properties, filename)
    media_type = _media_type(filename or "")
    base64_data(data, where)
    return _data((f"data:{media_type};base64,{data}", media_type), properties, filename)


_PARTS: dict[str, Callable[[Mapping[str, Any], str], Content]] = {
    "input_text": _text_part,
    "output_text": _text_part,
    "text": _text_part,
    "refusal": _refusal_part,
    "input_image": _image_part,
    "input_file": _file_part,
}


def _detail_of(part: Mapping[str, Any], path: str) -> str | None:
    """How closely to look; ``auto`` is the same as nothing."""
    detail = part.get("detail")
    return None if detail is None or _detail(detail, f"{path}.detail") == "auto" else detail


def _only_one(part: Mapping[str, Any], path: str, *names: str) -> str:
    given = [name for name in names if part.get(name) is not None]
    if len(given) != 1:
        refuse(path, f"must have exactly one of: {', '.join(names)}")
    return given[0]


def _hosted(
    part: Mapping[str, Any], path: str, media_type: str | None, name: str | None, properties: dict[str, Any]
) -> Content:
    content: Content = {"type": "hosted_file", "file_id": identifier(part["file_id"], f"{path}.file_id")}
    return _named(content, media_type, name, properties)


def _uri(uri: str, media_type: str, properties: dict[str, Any], name: str | None) -> Content:
    return _named({"type": "uri", "uri": uri}, media_type, name, properties)


def _data(data: tuple[str, str], properties: dict[str, Any], name: str | None) -> Content:
    return _named({"type": "data", "uri": data[0]}, data[1], name, properties)


def _named(content: Content, media_type: str | None, name: str | None, properties: dict[str, Any]) -> Content:
    if media_type is not None:
        content["media_type"] = media_type
    if name is not None:
        content["name"] = name
    content["additional_properties"] = properties
    return content


def _media_type(name: str) -> str:
    """By the name's ending; a table, because `mimetypes` reads files of the machine that it runs on."""
    return _MEDIA_TYPES.get(name.rpartition(".")[2].lower(), "application/octet-stream")


def _http_url(value: Any, path: str) -> str:
    url: str = _url_text(value, path)
    if not url.lower().startswith(("http://", "https://")) or " " in url or not url.isprintable():
        refuse(path, "must be an http or https URL, or base64 data in a data URI", "invalid_url")
    return url


def _data_uri(value: str, path: str, top: str) -> tuple[str, str]:
    """A base64 data URI (RFC 2397) and its media type, which must begin with `top`."""
    _data_text(value, path)
    head, comma, payload = value.partition(",")
    media_type, *parameters = head[5:].split(";")
    well_formed = comma and parameters[-1:] == ["base64"] and all("=" in each for each in parameters[:-1])
    if not well_formed or not head.isprintable():
        refuse(path, "must be a data URI of the form 'data:<media type>;base64,<data>'", "invalid_data_uri")
    media_type = media_type.lower() or "text/plain"
    if not media_type.startswith(top):
        refuse(path, f"must be data of a media type that begins with '{top}'", "invalid_data_uri")
    base64_data(payload, path)
    return value, media_type


def base64_data(payload: str, path: str) -> str:
    """Base64 data, and nothing else."""
    try:
        binascii.a2b_base64(payload, strict_mode=True)
    except ValueError:
        refuse(path, "must hold valid base64 data", "invalid_base64")
    return payload
