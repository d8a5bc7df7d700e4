"""Telegram's messages as the framework's: what a request holds. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import phrases
from .texts import clean
from .updates import Attachment, Incoming, Variant


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that came with a message.

    Attributes:
        attachment: As it was announced.
        data: What is in it; None if it could not be fetched.
        large: Whether it is larger than what is fetched at all.
    """

    attachment: Attachment
    data: bytes | None = None
    large: bool = False


def largest(attachment: Attachment, limit: int) -> Variant | None:
    """The largest file of an attachment that may be fetched; None if all are too large, or there is none."""
    fitting = [one for one in attachment.variants if one.size is None or one.size <= limit]
    return fitting[-1] if fitting else None


def user_message(text: str, files: Sequence[Fetched], limit: int, author: str = "") -> dict[str, Any]:
    """A message of the user's: text first, then its files; a file that is not there is told of.

    Args:
        text: What was said; may be "".
        files: What came with it.
        limit: In bytes, of files.
        author: Who wrote it, where several people write.
    """
    contents = [_text(text)] if text else []
    contents += [_content(one, limit) for one in files]
    return {"type": "message", "role": "user", "contents": contents, **({"author_name": author} if author else {})}


def author_of(message: Incoming) -> str:
    """Who wrote a message, where that is not clear from where it was written."""
    return "" if message.chat.private else clean(message.sender.name or message.sender.username)


def _content(fetched: Fetched, limit: int) -> Mapping[str, Any]:
    attachment = fetched.attachment
    if fetched.data is not None:
        return _data(attachment, fetched.data)
    named = _named(attachment)
    if attachment.kind == "sticker" and not attachment.variants:
        return _text(f"[The user sent {named}.]")
    return _text(phrases.too_large(named, limit) if fetched.large else phrases.not_fetched(named))


def _data(attachment: Attachment, data: bytes) -> Mapping[str, Any]:
    properties = {"filename": clean(attachment.name)} if attachment.name else {}
    return {
        "type": "data",
        "uri": f"data:{attachment.media_type};base64,{base64.b64encode(data).decode()}",
        "media_type": attachment.media_type,
        "additional_properties": properties,
    }


def _named(attachment: Attachment) -> str:
    kind = attachment.kind.replace("_", " ")
    article = "an" if kind[0] in "aeiou" else "a"
    return f"{article} {kind} ({clean(attachment.name)})" if attachment.name else f"{article} {kind}"


def _text(text: str) -> Mapping[str, Any]:
    return {"type": "text", "text": clean(text)}
