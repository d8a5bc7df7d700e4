"""Replies as calls of the Bot API. Pure, and the same for the same reply: an attempt can go on where one stopped."""

from __future__ import annotations

import base64
import binascii
import mimetypes
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from agent_framework import AgentResponse, Content, Message

from ..pushes import PushKind, failed_with
from ..readers import for_a_reader, is_question
from . import phrases
from .answers import ask
from .texts import MAX_CAPTION, MAX_TEXT, clean, cut_off, split_text

MAX_PHOTO = 10 * 2**20
MAX_UPLOAD = 50 * 2**20

_ECHO = "You wrote: "
_PHOTOS = {"image/jpeg", "image/png", "image/webp"}  # other images are files: the server would refuse or still them
_METHODS = {"photo": "sendPhoto", "audio": "sendAudio", "video": "sendVideo", "document": "sendDocument"}
_INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp"}


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that goes with a call.

    Attributes:
        parameter: What the call knows it as.
        name: Its name.
        media_type: Its type.
        data: What is in it.
    """

    parameter: str
    name: str
    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the Bot API; to which chat, is for the sender to add.

    Attributes:
        method: Its name.
        params: Its parameters, as JSON has them.
        upload: A file.
        or_else: What to call if the server refuses this one as it is.
    """

    method: str
    params: Mapping[str, Any]
    upload: Upload | None = None
    or_else: Call | None = None

    @property
    def is_text(self) -> bool:
        """Whether it could be put in place of another text."""
        return self.method == "sendMessage"


def plan(
    response: AgentResponse[Any], kind: PushKind = "reply", parse_mode: str | None = None, *, thread: int | None = None
) -> list[Call]:
    """What to call, in this order: text, then media, then questions; nothing for a reply that says nothing.

    A reply that tells of a failure is told in the channel's own words.

    Args:
        response: The reply.
        kind: What it is to whoever gets it.
        parse_mode: How its text is marked up.
        thread: The forum topic that it goes to; buttons remember it.
    """
    if (code := failed_with(response)) is not None:
        return [_said(phrases.failure(code))]
    messages = list(for_a_reader(response.messages))
    text, contents = text_of(messages), [content for message in messages for content in message.contents]
    if kind == "echo" and text:
        text = _ECHO + text
    calls = [_said(part, parse_mode) for part in split_text(text) if _is_seen(part)]
    calls += [_media(content, captioned=not text) for content in contents if content.type in ("data", "uri")]
    calls += [Call("sendMessage", ask(content, thread)) for content in contents if is_question(content)]
    failed = not calls and any(content.type == "error" for content in contents)
    return [_said(phrases.FAILED)] if failed else calls


def text_of(messages: Iterable[Message]) -> str:
    """What messages say, with an empty line between each and the next."""
    texts = ("".join(each.text or "" for each in message.contents if each.type == "text") for message in messages)
    return clean("\n\n".join(text for text in texts if text.strip()))


def _is_seen(text: str) -> bool:
    """Whether a text has anything in it that can be seen: the servers refuse it otherwise."""
    return any(unicodedata.category(char) not in _INVISIBLE for char in text)


def _said(text: str, parse_mode: str | None = None) -> Call:
    plain = Call("sendMessage", {"text": text})
    if parse_mode is None:
        return plain
    return Call("sendMessage", {"text": text, "parse_mode": parse_mode}, or_else=plain)


# --- media -------------------------------------------------------------------------------------------------


def _media(content: Content, *, captioned: bool) -> Call:
    """A call that sends a file: as what it is, failing that as a document, failing that in words."""
    given = (content.additional_properties or {}).get("caption") if captioned else None
    more = {"caption": cut_off(clean(given), MAX_CAPTION)} if isinstance(given, str) and given.strip() else {}
    uri = clean(content.uri or "")
    return _uploaded(content, uri, more) if uri.startswith("data:") else _linked(content, uri, more)


def _linked(content: Content, uri: str, more: Mapping[str, Any]) -> Call:
    """A file that the server fetches by itself; it may refuse to, and then people can."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return _said(phrases.NO_FILE)
    if parts.scheme not in ("http", "https"):
        return _said(phrases.NO_FILE)
    words = _said(cut_off(uri, MAX_TEXT))
    media_type = content.media_type or mimetypes.guess_type(parts.path)[0]
    if media_type is None:
        return words
    kind = _kind(media_type)
    return Call(_METHODS[kind], {**more, kind: uri}, or_else=words)


def _uploaded(content: Content, uri: str, more: Mapping[str, Any]) -> Call:
    data, media_type = _decoded(uri), content.media_type or uri[5:].partition(",")[0].partition(";")[0]
    words = _said(phrases.NO_FILE)
    if data is None or not 0 < len(data) <= MAX_UPLOAD:
        return words
    name = _file_name(content, media_type)
    document = Call("sendDocument", more, Upload("document", name, media_type, data), words)
    kind = _kind(media_type)
    if kind == "document" or (kind == "photo" and len(data) > MAX_PHOTO):
        return document
    return Call(_METHODS[kind], more, Upload(kind, name, media_type, data), document)


def _kind(media_type: str) -> str:
    if media_type in _PHOTOS:
        return "photo"
    top = media_type.partition("/")[0]
    return top if top in ("audio", "video") else "document"


def _file_name(content: Content, media_type: str) -> str:
    given = (content.additional_properties or {}).get("filename")
    if isinstance(given, str) and given.strip():
        return clean(given.replace("/", "_").strip())[:128]
    return f"file{mimetypes.guess_extension(media_type) or ''}"


def _decoded(uri: str) -> bytes | None:
    """What is in a data URI; None if it is none."""
    head, comma, body = uri.partition(",")
    if not comma:
        return None
    try:
        return base64.b64decode(body, validate=True) if head.endswith(";base64") else unquote_to_bytes(body)
    except (binascii.Error, ValueError):
        return None
