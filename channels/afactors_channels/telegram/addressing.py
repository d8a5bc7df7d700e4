"""Who is spoken to, and by whom: whether a message is for the bot, and whose actor it goes to. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from ..requests import ChannelIdentity
from .texts import clean, span, without
from .updates import Entity, Incoming, Pressed, Sender

Scope: TypeAlias = Literal["user", "conversation", "both"]
"""Whose actor a message goes to. user: the user's, wherever they write; conversation: the chat's, or the topic's;
both: the user's in this very chat or topic."""

SCOPES = get_args(Scope)

_COMMAND = re.compile(r"/(\w{1,32})(?:@(\w+))?(?:\s+(.*))?", re.DOTALL | re.ASCII)
_PLACE = re.compile(r"(?:chat:)?(-?\d+|@\w+)(?::(\d+))?")


@dataclass(frozen=True, slots=True)
class Bot:
    """Who the bot is: `getMe`."""

    id: int
    username: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is said.

    Attributes:
        chat: The chat's id, or the ``@name`` of a public one.
        thread: The forum topic in it.
    """

    chat: int | str
    thread: int | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What a message says to the bot.

    Attributes:
        text: Without the mention of the bot; of a command, what follows it.
        command: The command's name, in lower case; "" for none.
    """

    text: str
    command: str = ""


# --- is it for us? -----------------------------------------------------------------------------------------


def said_to(message: Incoming, bot: Bot | None, commands: Collection[str], *, mention_only: bool) -> Said | None:
    """What a message says to the bot; None if it is not for the bot.

    Args:
        message: What came.
        bot: Who the bot is; may be None in private, where everything is said to the bot.
        commands: Names of those that the bot knows.
        mention_only: Whether the bot hears only what is said to it, in groups.
    """
    if message.sender.is_bot:
        return None  # two bots could talk for ever
    called = _COMMAND.fullmatch(message.text)
    if called is not None and (called[2] or called[1].lower() in commands):
        return _called(message, called, bot, commands)
    if message.chat.private:
        return Said(message.text)
    return _overheard(message, bot, mention_only=mention_only) if bot is not None else None


def _called(message: Incoming, called: re.Match[str], bot: Bot | None, commands: Collection[str]) -> Said | None:
    name, addressee, arguments = called[1].lower(), called[2], (called[3] or "").strip()
    if addressee and bot is not None and addressee.lower() != bot.username.lower():
        return None
    if name in commands:
        return Said(arguments, name)
    return Said(f"/{called[1]} {arguments}".strip())


def _overheard(message: Incoming, bot: Bot, *, mention_only: bool) -> Said | None:
    mentions = [span(message.text, one.offset, one.length) for one in message.entities if _means(one, message, bot)]
    replied = message.quoted is not None and message.quoted.sender == bot.id
    if mention_only and not mentions and not replied:
        return None
    text = without(message.text, mentions) if mentions else message.text
    if not text and not message.attachments and message.quoted is not None and not replied:
        text = message.quoted.text  # "@bot" alone, under what somebody else said
    return Said(text)


def _means(entity: Entity, message: Incoming, bot: Bot) -> bool:
    if entity.kind == "text_mention":
        return entity.user == bot.id
    start, end = span(message.text, entity.offset, entity.length)
    return entity.kind == "mention" and message.text[start:end].lower() == f"@{bot.username.lower()}"


# --- whose is it? ------------------------------------------------------------------------------------------


def conversation_name(place: Place) -> str:
    """A place as an identity names it: ``chat`` or ``chat:thread``."""
    return str(place.chat) if place.thread is None else f"{place.chat}:{place.thread}"


def place_of(identity: ChannelIdentity) -> Place | None:
    """Where an identity is spoken to: in its conversation, or in private; None if nobody can be called so."""
    found = _PLACE.fullmatch(identity.conversation or identity.native_id)
    if found is None:
        return None
    chat = found[1] if found[1].startswith("@") else int(found[1])
    return Place(chat, int(found[2]) if found[2] else None)


def identity_of(channel: str, event: Incoming | Pressed) -> ChannelIdentity:
    """Who wrote, and where."""
    sender = event.sender
    known = {"name": sender.name, "username": sender.username, "language": sender.language}
    return ChannelIdentity(
        channel,
        str(sender.id),
        {name: clean(value) for name, value in known.items() if value},
        conversation_name(Place(event.chat.id, event.thread)),
        verified=True,
    )


def actor_of(identity: ChannelIdentity, scope: Scope) -> ChannelIdentity:
    """The identity whose actor is meant: the user, their conversation, or the user there."""
    if scope == "user":
        return identity
    place = f"chat:{identity.conversation}"
    if scope == "both":
        place = f"{place}:user:{identity.native_id}"
    return ChannelIdentity(identity.channel, place, {}, identity.conversation, verified=True)


def listed(sender: Sender, event: Incoming | Pressed, names: Collection[int | str]) -> bool:
    """Whether a user, or the chat that they write in, is on a list of ids and of ``@names`` in lower case."""
    known = {sender.id, event.chat.id, f"@{sender.username.lower()}", f"@{event.chat.username.lower()}"}
    return not known.isdisjoint(names)
