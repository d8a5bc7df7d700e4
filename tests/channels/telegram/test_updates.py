"""Updates, read leniently."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afactors_channels.telegram.updates import Attachment, Incoming, Pressed, Quoted, Variant, parse_update
from tests.channels.telegram.fakes import ANN, GROUP, message, press

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["update_id", "message", "chat", "from", "id", "text", "entities", "photo", "callback_query", "data"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)


def heard(**more: Any) -> Incoming:
    event = parse_update(message(**more)).event
    assert isinstance(event, Incoming)
    return event


@settings(deadline=None)
@given(JSON)
def test_nothing_raises(raw: Any):
    parse_update(raw)


@settings(deadline=None)
@given(JSON)
def test_nothing_in_a_message_raises(raw: Any):
    parse_update({"update_id": 1, "message": raw})


def test_a_message():
    event = heard(text="Hi", entities=[{"type": "bold", "offset": 0, "length": 2, "new": 1}], new=1)
    assert (event.text, event.chat.id, event.chat.private) == ("Hi", 7, True)
    assert (event.sender.name, event.sender.username, event.sender.language) == ("Ann Lee", "ann", "en")
    assert [(one.kind, one.offset, one.length) for one in event.entities] == [("bold", 0, 2)]


@pytest.mark.parametrize("raw", [None, [], {}, {"update_id": "1"}, {"update_id": True}])
def test_no_update_at_all(raw: Any):
    update = parse_update(raw)
    assert update.malformed
    assert update.id is None
    assert update.event is None


@pytest.mark.parametrize("part", ["message_id", "chat", "from"])
def test_a_message_that_lacks_what_it_must_have(part: str):
    raw = message("Hi")
    del raw["message"][part]
    update = parse_update(raw)
    assert update.malformed
    assert update.id == raw["update_id"]
    assert update.event is None


@pytest.mark.parametrize("kind", ["edited_message", "channel_post", "my_chat_member", "poll"])
def test_what_does_not_concern_us(kind: str):
    update = parse_update({"update_id": 5, kind: message("Hi")["message"]})
    assert (update.id, update.event, update.malformed) == (5, None, False)


def test_a_photo_in_its_sizes():
    event = heard(
        photo=[{"file_id": "b", "file_size": 90}, {"file_id": "a", "file_size": 9}, {"no": 1}], caption="Look"
    )
    assert event.text == "Look"
    assert event.attachments == (Attachment("photo", (Variant("a", 9), Variant("b", 90)), "image/jpeg"),)


def test_files():
    event = heard(document={"file_id": "d", "file_name": "a.pdf", "mime_type": "application/pdf"})
    assert event.attachments == (Attachment("document", (Variant("d"),), "application/pdf", "a.pdf"),)
    assert heard(voice={"file_id": "v"}).attachments[0].media_type == "audio/ogg"
    both = heard(animation={"file_id": "g"}, document={"file_id": "g"})
    assert [one.kind for one in both.attachments] == ["animation"]


def test_a_sticker_that_moves_has_nothing_to_fetch():
    assert heard(sticker={"file_id": "s", "emoji": "😀"}).attachments[0].variants == (Variant("s"),)
    assert heard(sticker={"file_id": "s", "is_animated": True}).attachments[0].variants == ()


def test_a_thread_is_a_topic_only_if_it_says_so():
    assert heard(text="Hi", chat=GROUP, message_thread_id=3).thread is None
    assert heard(text="Hi", chat=GROUP, message_thread_id=3, is_topic_message=True).thread == 3


def test_what_is_replied_to():
    reply = {"message_id": 1, "from": ANN, "chat": GROUP, "text": "before"}
    assert heard(text="Hi", reply_to_message=reply).quoted == Quoted(7, "before")
    assert heard(text="Hi", reply_to_message={**reply, "forum_topic_created": {}}).quoted is None


def test_an_anonymous_administrator_is_their_group():
    anonymous = {"id": 1087968824, "is_bot": True, "first_name": "Group"}
    event = heard(text="Hi", sender=anonymous, chat=GROUP, sender_chat=GROUP)
    assert (event.sender.id, event.sender.name, event.sender.is_bot) == (-100, "Group", False)


def test_what_a_channel_forwards_is_no_one_speaking():
    sender = {"id": 777000, "is_bot": False, "first_name": "Telegram"}
    automatic = heard(
        text="News", sender={**sender, "is_bot": True}, chat=GROUP, sender_chat={"id": -5}, is_automatic_forward=True
    )
    assert automatic.sender.is_bot


def test_a_button():
    event = parse_update(press("x", message_id=9)).event
    assert isinstance(event, Pressed)
    assert (event.id, event.data, event.chat.id, event.message, event.sender.id) == ("q", "x", 7, 9, 7)


@pytest.mark.parametrize(
    ("message", "data", "thread"),
    [
        ({"date": 0}, f"a:{'x' * 40}:y:3", 3),
        ({"date": 0}, f"a:{'x' * 40}:y", None),
        ({"date": 0}, "a:b:3", None),
        ({"date": 1}, f"a:{'x' * 40}:y:3", None),
        ({"date": 1, "message_thread_id": 4, "is_topic_message": True}, f"a:{'x' * 40}:y:3", 4),
    ],
)
def test_a_button_of_an_old_message_knows_its_topic(message: Any, data: str, thread: int | None):
    raw = press(data, chat=GROUP)
    raw["callback_query"]["message"] |= message
    event = parse_update(raw).event
    assert isinstance(event, Pressed)
    assert event.thread == thread


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"contact": {"first_name": "Bo", "phone_number": "+1"}}, "[The user sent a contact (Bo, +1).]"),
        ({"location": {"latitude": 1.5, "longitude": -2}}, "[The user sent a location (1.5, -2).]"),
        (
            {"venue": {"title": "Bar", "address": "Lane 1"}, "location": {"latitude": 1.5, "longitude": -2}},
            "[The user sent a venue (Bar, Lane 1).]",
        ),
        ({"poll": {"question": "Tea?", "options": []}}, "[The user sent a poll (Tea?).]"),
        ({"dice": {"emoji": "🎲", "value": 3}}, "[The user sent a dice (🎲, 3).]"),
        ({"contact": 1, "pinned_message": {"x": 1}}, ""),
    ],
)
def test_what_is_neither_text_nor_a_file_is_put_in_words(more: Any, text: str):
    assert heard(**more).text == text


def test_a_button_of_a_message_without_a_number():
    raw = press("x")
    del raw["callback_query"]["message"]["message_id"]
    event = parse_update(raw).event
    assert isinstance(event, Pressed)
    assert event.message == 0
