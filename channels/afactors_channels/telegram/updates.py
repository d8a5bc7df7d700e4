"""Telegram's updates, as far as this channel understands them. Pure.

Lenient: unknown fields are ignored, and what is not of the type that the Bot API says is as if it were not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ALLOWED_UPDATES = ("message", "callback_query")
"""What the servers are asked for."""

BUTTON = re.compile(r"a:([\w-]{40}):([yn])(?::(\d{1,17}))?", re.ASCII)
"""What a button of a question holds: the question's digest, the verdict, and the forum topic that it is in."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who wrote or pressed something.

    Attributes:
        id: The user's; of an anonymous administrator, the group's.
        name: As it is shown.
        username: Without the ``@``; "" for none.
        language: Of their app: an IETF tag, or "".
        is_bot: Whether another bot wrote it.
    """

    id: int
    name: str = ""
    username: str = ""
    language: str = ""
    is_bot: bool = False


@dataclass(frozen=True, slots=True)
class Chat:
    """A place where people write.

    Attributes:
        id: Not the user's, except in private.
        kind: ``private``, ``group``, ``supergroup`` or ``channel``.
        username: Without the ``@``; "" for none.
    """

    id: int
    kind: str = "private"
    username: str = ""

    @property
    def private(self) -> bool:
        """Whether nobody but one user and the bot is in it."""
        return self.kind == "private"


@dataclass(frozen=True, slots=True)
class Entity:
    """A marked part of a text; offset and length count UTF-16 units.

    Attributes:
        kind: ``mention``, ``text_mention``, ``bot_command``, …
        offset: Where it begins.
        length: How long it is.
        user: Id of the user whom a ``text_mention`` means.
    """

    kind: str
    offset: int
    length: int
    user: int | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """One file that can be fetched; a photo comes in several sizes.

    Attributes:
        file_id: By which it is fetched.
        size: In bytes; None if nobody said.
    """

    file_id: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that came with a message.

    Attributes:
        kind: ``photo``, ``document``, ``audio``, ``voice``, ``video`` or ``sticker``.
        variants: The file in its sizes, the smallest first; none if it is of no use to a model.
        media_type: As the server says, or as files of this kind are.
        name: The file's, or a sticker's emoji.
    """

    kind: str
    variants: Sequence[Variant]
    media_type: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Quoted:
    """The message that a message replies to.

    Attributes:
        sender: Id of who wrote it, or None.
        text: What it says.
    """

    sender: int | None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message.

    Attributes:
        id: Within its chat.
        chat: Where.
        sender: Who.
        text: Its text, or its media's caption.
        entities: What is marked in it.
        attachments: Its files.
        thread: The forum topic that it is in.
        quoted: What it replies to.
    """

    id: int
    chat: Chat
    sender: Sender
    text: str = ""
    entities: Sequence[Entity] = ()
    attachments: Sequence[Attachment] = ()
    thread: int | None = None
    quoted: Quoted | None = None


@dataclass(frozen=True, slots=True)
class Pressed:
    """A button of a message of ours, pressed.

    Attributes:
        id: By which the press is acknowledged.
        sender: Who.
        data: What the button means.
        chat: Where.
        message: Id of the message that the button is at; 0 if nobody said.
        thread: The forum topic that it is in.
    """

    id: str
    sender: Sender
    data: str
    chat: Chat
    message: int = 0
    thread: int | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """One update.

    Attributes:
        id: The same if it comes again; None if it has none that could be recognised.
        event: What happened; None for what does not concern us.
        malformed: Whether it is none that the Bot API describes.
    """

    id: int | None
    event: Incoming | Pressed | None = None
    malformed: bool = False

    @property
    def lane(self) -> int | None:
        """The chat, in which updates are taken one after the other."""
        return self.event.chat.id if self.event is not None else None


def parse_update(raw: Any) -> Update:
    """An update as JSON has it; never raises."""
    if not isinstance(raw, Mapping) or (number := _int(raw, "update_id")) is None:
        return Update(None, malformed=True)
    for name, read in (("message", _message), ("callback_query", _pressed)):
        if name in raw:
            event = read(_map(raw, name))
            return Update(number, event, malformed=event is None)
    return Update(number)


# --- events ------------------------------------------------------------------------------------------------


def _message(raw: Mapping[str, Any]) -> Incoming | None:
    number, chat, sender = _int(raw, "message_id"), _chat(_map(raw, "chat")), _sender(raw)
    if number is None or chat is None or sender is None:
        return None
    captioned = "text" not in raw
    return Incoming(
        number,
        chat,
        sender,
        _str(raw, "caption" if captioned else "text") or _in_words(raw),
        tuple(_entities(_list(raw, "caption_entities" if captioned else "entities"))),
        tuple(_attachments(raw)),
        _thread(raw),
        _quoted(raw),
    )


def _pressed(raw: Mapping[str, Any]) -> Pressed | None:
    message = _map(raw, "message")
    chat, sender = _chat(_map(message, "chat")), _user(_map(raw, "from"))
    if not _str(raw, "id") or chat is None or sender is None:
        return None
    data = _str(raw, "data")
    thread = _noted_thread(data) if _int(message, "date") == 0 else _thread(message)
    return Pressed(_str(raw, "id"), sender, data, chat, _int(message, "message_id") or 0, thread)


def _chat(raw: Mapping[str, Any]) -> Chat | None:
    number = _int(raw, "id")
    return None if number is None else Chat(number, _str(raw, "type") or "private", _str(raw, "username"))


def _sender(message: Mapping[str, Any]) -> Sender | None:
    """Who wrote a message. All anonymous administrators of all groups have one user: their group stands for them."""
    user, chat = _user(_map(message, "from")), _map(message, "sender_chat")
    number = _int(chat, "id")
    if number is None or (user is not None and not user.is_bot):
        return user
    forwarded = message.get("is_automatic_forward") is True
    return Sender(number, _str(chat, "title"), _str(chat, "username"), is_bot=forwarded)


def _user(raw: Mapping[str, Any]) -> Sender | None:
    number = _int(raw, "id")
    if number is None:
        return None
    name = " ".join(filter(None, (_str(raw, "first_name"), _str(raw, "last_name"))))
    return Sender(number, name, _str(raw, "username"), _str(raw, "language_code"), raw.get("is_bot") is True)


def _thread(message: Mapping[str, Any]) -> int | None:
    """The forum topic. Chains of replies have a thread id, too, to which nothing can be sent."""
    return _int(message, "message_thread_id") if message.get("is_topic_message") is True else None


def _noted_thread(data: str) -> int | None:
    """The forum topic of a message that the bot cannot access any more: it comes without one, and without a date."""
    found = BUTTON.fullmatch(data)
    return int(found[3]) if found is not None and found[3] else None


def _quoted(message: Mapping[str, Any]) -> Quoted | None:
    """What is replied to. The first message of a topic is what everything in the topic seems to reply to."""
    raw = _map(message, "reply_to_message")
    if not raw or "forum_topic_created" in raw:
        return None
    sender = _sender(raw)
    return Quoted(sender.id if sender is not None else None, _str(raw, "text") or _str(raw, "caption"))


def _entities(raw: Sequence[Any]) -> Iterator[Entity]:
    for one in filter(_is_map, raw):
        offset, length = _int(one, "offset"), _int(one, "length")
        if offset is not None and length is not None and offset >= 0 and length > 0:
            yield Entity(_str(one, "type"), offset, length, _int(_map(one, "user"), "id"))


_IN_WORDS = {
    "contact": ("first_name", "last_name", "phone_number"),
    "venue": ("title", "address"),  # before the location that comes along
    "location": ("latitude", "longitude"),
    "poll": ("question",),
    "dice": ("emoji", "value"),
}


def _in_words(message: Mapping[str, Any]) -> str:
    """What is neither text nor a file, in words; "" for what says nothing."""
    for kind, names in _IN_WORDS.items():
        if found := _map(message, kind):
            told = [str(found[name]) for name in names if isinstance(found.get(name), str | int | float)]
            return f"[The user sent a {kind} ({', '.join(filter(None, told))}).]"
    return ""


# --- files -------------------------------------------------------------------------------------------------

_MEDIA_TYPES = {
    "document": "application/octet-stream",
    "audio": "audio/mpeg",
    "voice": "audio/ogg",
    "video": "video/mp4",
    "video_note": "video/mp4",
    "animation": "video/mp4",
}


def _attachments(message: Mapping[str, Any]) -> Iterator[Attachment]:
    if photos := [one for one in map(_variant, _list(message, "photo")) if one is not None]:
        yield Attachment("photo", tuple(sorted(photos, key=lambda one: one.size or 0)), "image/jpeg")
    for kind, media_type in _MEDIA_TYPES.items():
        raw = _map(message, kind)
        if kind == "document" and "animation" in message:
            continue  # the same file, for old clients
        if (variant := _variant(raw)) is not None:
            yield Attachment(kind, (variant,), _str(raw, "mime_type") or media_type, _str(raw, "file_name"))
    if sticker := _map(message, "sticker"):
        yield _sticker(sticker)


def _sticker(raw: Mapping[str, Any]) -> Attachment:
    """A sticker; those that move are in forms that no model reads, and only their emoji says what they mean."""
    moves = raw.get("is_animated") is True or raw.get("is_video") is True
    variant = None if moves else _variant(raw)
    return Attachment("sticker", () if variant is None else (variant,), "image/webp", _str(raw, "emoji"))


def _variant(raw: Any) -> Variant | None:
    if not _is_map(raw) or not _str(raw, "file_id"):
        return None
    return Variant(_str(raw, "file_id"), _int(raw, "file_size"))


# --- fields ------------------------------------------------------------------------------------------------


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def _map(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = raw.get(name)
    return found if isinstance(found, Mapping) else {}


def _list(raw: Mapping[str, Any], name: str) -> Sequence[Any]:
    found = raw.get(name)
    return found if isinstance(found, list) else ()


def _str(raw: Mapping[str, Any], name: str) -> str:
    found = raw.get(name)
    return found if isinstance(found, str) else ""


def _int(raw: Mapping[str, Any], name: str) -> int | None:
    found = raw.get(name)
    return found if isinstance(found, int) and not isinstance(found, bool) else None
