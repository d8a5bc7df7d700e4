"""Whether a message is for the bot, and whose actor it goes to."""

from __future__ import annotations

from typing import Any

import pytest

from afactors_channels import ChannelIdentity
from afactors_channels.telegram.addressing import (
    Bot,
    Place,
    Said,
    actor_of,
    conversation_name,
    identity_of,
    listed,
    place_of,
    said_to,
)
from afactors_channels.telegram.updates import Incoming, parse_update
from tests.channels.telegram.fakes import ANN, GROUP, ME, message

BOT = Bot(4242, "the_bot")
COMMANDS = {"new", "help"}


def heard(text: str | None = None, **more: Any) -> Incoming:
    event = parse_update(message(text, **more)).event
    assert isinstance(event, Incoming)
    return event


def said(text: str | None = None, *, mention_only: bool = True, **more: Any) -> Said | None:
    return said_to(heard(text, **more), BOT, COMMANDS, mention_only=mention_only)


def mention(text: str, word: str, kind: str = "mention", **more: Any) -> dict[str, Any]:
    offset = len(text[: text.index(word)].encode("utf-16-le")) // 2
    return {"entities": [{"type": kind, "offset": offset, "length": len(word.encode("utf-16-le")) // 2, **more}]}


def test_in_private_everything_is_said_to_the_bot():
    assert said("Hi") == Said("Hi")
    assert said_to(heard("Hi"), None, COMMANDS, mention_only=True) == Said("Hi")


def test_in_a_group_only_what_is_said_to_the_bot():
    assert said("Hi", chat=GROUP) is None
    assert said("Hi", chat=GROUP, mention_only=False) == Said("Hi")


@pytest.mark.parametrize("text", ["@the_bot Hi", "Hi @The_Bot", "😀😀 @the_bot Hi"])
def test_a_mention(text: str):
    word = "@The_Bot" if "@The_Bot" in text else "@the_bot"
    answer = said(text, chat=GROUP, **mention(text, word))
    assert answer is not None
    assert answer.text == text.replace(word, "").strip().replace("  ", " ")


def test_a_mention_of_another_is_none():
    assert said("@the_bot2 Hi", chat=GROUP, **mention("@the_bot2 Hi", "@the_bot2")) is None


def test_a_mention_by_name():
    text = "Hey Bot Hi"
    assert said(text, chat=GROUP, **mention(text, "Bot", "text_mention", user=ME)) == Said("Hey Hi")
    assert said(text, chat=GROUP, **mention(text, "Bot", "text_mention", user=ANN)) is None


def test_a_mention_in_a_caption():
    words = mention("@the_bot what is this?", "@the_bot")["entities"]
    answer = said(None, chat=GROUP, caption="@the_bot what is this?", caption_entities=words, photo=[{"file_id": "x"}])
    assert answer == Said("what is this?")


def test_a_reply_to_the_bot():
    reply = {"message_id": 1, "from": ME, "chat": GROUP, "text": "before"}
    assert said("Hi", chat=GROUP, reply_to_message=reply) == Said("Hi")
    assert said("Hi", chat=GROUP, reply_to_message={**reply, "from": ANN}) is None


def test_a_mention_alone_means_what_it_replies_to():
    reply = {"message_id": 1, "from": ANN, "chat": GROUP, "text": "before"}
    answer = said("@the_bot", chat=GROUP, reply_to_message=reply, **mention("@the_bot", "@the_bot"))
    assert answer == Said("before")


@pytest.mark.parametrize(
    ("text", "heard_as"),
    [
        ("/new", Said("", "new")),
        ("/NEW", Said("", "new")),
        ("/new@the_bot", Said("", "new")),
        ("/new@The_Bot  and  more\nlines", Said("and  more\nlines", "new")),
        ("/new@other_bot", None),
        ("/unknown", None),
        ("/unknown@the_bot x", Said("/unknown x")),
        ("/new!", None),
    ],
)
def test_commands_in_a_group(text: str, heard_as: Said | None):
    assert said(text, chat=GROUP) == heard_as


def test_an_unknown_command_in_private_is_text():
    assert said("/unknown x") == Said("/unknown x")


def test_other_bots_are_not_heard():
    assert said("Hi", sender={**ANN, "is_bot": True}) is None


@pytest.mark.parametrize(
    ("place", "name"), [(Place(7), "7"), (Place(-100), "-100"), (Place(-100, 3), "-100:3"), (Place("@news"), "@news")]
)
def test_places_and_their_names(place: Place, name: str):
    assert conversation_name(place) == name
    assert place_of(ChannelIdentity("telegram", "7", conversation=name)) == place


@pytest.mark.parametrize(
    ("native_id", "place"), [("7", Place(7)), ("@news", Place("@news")), ("chat:-100:3", Place(-100, 3)), ("ann", None)]
)
def test_without_a_conversation_the_user_is_the_place(native_id: str, place: Place | None):
    assert place_of(ChannelIdentity("telegram", native_id)) == place


def test_an_identity():
    identity = identity_of("telegram", heard("Hi", chat=GROUP, message_thread_id=3, is_topic_message=True))
    known = {"name": "Ann Lee", "username": "ann", "language": "en"}
    assert identity == ChannelIdentity("telegram", "7", known, "-100:3", verified=True)


def test_whose_actor():
    identity = ChannelIdentity("telegram", "7", {"name": "Ann"}, "-100:3", verified=True)
    assert actor_of(identity, "user") is identity
    assert actor_of(identity, "conversation").native_id == "chat:-100:3"
    assert actor_of(identity, "both").native_id == "chat:-100:3:user:7"


@pytest.mark.parametrize(
    ("names", "may"),
    [({7}, True), ({-100}, True), ({"@ann"}, True), ({"@group"}, True), ({8, "@bob"}, False), (set(), False)],
)
def test_lists(names: set[int | str], may: bool):
    event = heard("Hi", chat={**GROUP, "username": "Group"}, sender={**ANN, "username": "Ann"})
    assert listed(event.sender, event, names) is may
