"""What is sent, and how what is received is read.

An event of ours, by the recommendations of Standard Webhooks 1.0 ("Payload structure")::

    {
      "type": "afactors.reply",                     # or afactors.echo, afactors.message: see `PushKind`
      "version": 1,                                 # of this shape: members may be added without a new one
      "timestamp": "2026-11-21T09:00:00.000Z",      # when it was committed; the same on every attempt
      "data": {
        "id": "…",                                  # the run that caused it, or null
        "error": null,                              # a code, if this is not what the target said but that it failed
        "conversation": "…",                        # the receiver's own name for the conversation, or null
        "text": "…",                                # all that is said, as one text
        "messages": [                               # the same with its parts
          {"role": "assistant", "author": null, "contents": [{"type": "text", "text": "…"}]}
        ]
      }
    }

Contents are those that are meant for a reader: ``text`` (text), ``data`` and ``uri`` (uri, media_type), ``hosted_file``
(file_id, media_type, name) and ``function_approval_request`` (id, function_call: call_id, name, arguments). What the
target said to itself and to its tools stays with it, and so does what a workflow said on the way to its answer, unless
it asks something. Members that a content does not have are left out.

An event that we are sent may be any JSON object. Its ``data.text`` is what the target is told; without one that is the
whole event, as it came. A ``data.reply`` that is true asks for the reply to be sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from agent_framework import Content, Message

from ..pushes import Push, PushKind, failed_with
from ..readers import for_a_reader
from ..wire import decode_body, encode_json

VERSION = 1
KINDS: tuple[PushKind, ...] = ("reply", "echo", "message")

_CALL = ("call_id", "name", "arguments")
_SHOWN: Mapping[str, tuple[str, ...]] = {
    "text": ("text",),
    "data": ("uri", "media_type"),
    "uri": ("uri", "media_type"),
    "hosted_file": ("file_id", "media_type", "name"),
    "function_approval_request": ("id", "function_call"),
}
_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder().decode


def event_type(kind: PushKind) -> str:
    """The type of the events that tell of a kind of delivery."""
    return f"afactors.{kind}"


EVENT_TYPES = frozenset(event_type(kind) for kind in KINDS)


def event_of(push: Push) -> dict[str, Any]:
    """A delivery as an event: nothing in it depends on the attempt."""
    seen = list(for_a_reader(push.response.messages))
    return {
        "type": event_type(push.kind),
        "version": VERSION,
        "timestamp": _iso(push.created),
        "data": {
            "id": push.run_id or None,
            "error": failed_with(push.response),
            "conversation": push.identity.conversation or None,
            "text": "".join(message.text for message in seen),
            "messages": list(_messages(seen)),
        },
    }


def encode_event(push: Push) -> bytes:
    """A delivery as a request's body, the same bytes on every attempt.

    Raises:
        TypeError: It holds something that JSON has no form for.
    """
    event = event_of(push)
    try:
        return _encode(event)
    except UnicodeEncodeError:  # a lone surrogate
        return _encode(_decode(encode_json(event)))


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _messages(messages: list[Message]) -> Iterator[dict[str, Any]]:
    for message in messages:
        if contents := [_shown(content, _SHOWN[content.type]) for content in message.contents if _is_shown(content)]:
            yield {"role": str(message.role), "author": message.author_name, "contents": contents}


def _is_shown(content: Content) -> bool:
    return content.type in _SHOWN


def _shown(content: Content, members: tuple[str, ...]) -> dict[str, Any]:
    shown: dict[str, Any] = {"type": content.type}
    for name in members:
        value = getattr(content, name)
        if value is not None:
            shown[name] = _shown(value, _CALL) if isinstance(value, Content) else value
    return shown


def read_event(body: bytes) -> dict[str, Any]:
    """An event that we were sent.

    Raises:
        BadRequest: It is no JSON object.
    """
    return decode_body(body)


def text_of(event: Mapping[str, Any], body: bytes) -> str:
    """What the target is told of an event: its ``data.text``, or else all of it, as it came."""
    text = member(event, "data.text")
    return text if isinstance(text, str) and text else body.decode()


def wants_reply(event: Mapping[str, Any]) -> bool:
    """Whether whoever sent an event wants to hear the reply."""
    return member(event, "data.reply") is True


def named(event: Mapping[str, Any], path: str | None) -> str | None:
    """The name that an event has at a path: text, or a whole number; None if there is none."""
    found = member(event, path) if path is not None else None
    if isinstance(found, int) and not isinstance(found, bool) and abs(found) < 1 << 64:
        return str(found)
    return found if isinstance(found, str) and found else None


def member(event: Any, path: str) -> Any:
    """What is at a dotted path (``data.text``), or None."""
    for name in path.split("."):
        if not isinstance(event, Mapping):
            return None
        event = event.get(name)
    return event
