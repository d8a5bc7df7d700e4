"""Replies as calls, and what goes in as the framework's messages."""

from __future__ import annotations

import pytest
from agent_framework import AgentResponse, Content, Message

from afactors_channels.telegram import phrases
from afactors_channels.telegram.inputs import Fetched, largest, user_message
from afactors_channels.telegram.messages import MAX_PHOTO, Call, Upload, plan
from afactors_channels.telegram.updates import Attachment, Variant
from tests.channels.telegram.fakes import failure, response

PNG = Content.from_data(b"png", "image/png")


def methods(calls: list[Call]) -> list[str]:
    return [call.method for call in calls]


# --- out


def test_text_in_parts():
    calls = plan(response("a" * 5000))
    assert [len(call.params["text"]) for call in calls] == [4096, 904]


def test_messages_are_apart_and_contents_are_not():
    both = AgentResponse(messages=[Message("assistant", ["one ", "two"]), Message("assistant", ["three"])])
    assert [call.params for call in plan(both)] == [{"text": "one two\n\nthree"}]


def test_what_nobody_should_see():
    made = AgentResponse(
        messages=[
            Message("assistant", ["on the way"], additional_properties={"intermediate": True}),
            Message("tool", [Content.from_function_result("c", result="secret")]),
            Message("assistant", [Content.from_text_reasoning(text="hm"), Content.from_text("answer")]),
        ]
    )
    assert [call.params["text"] for call in plan(made)] == ["answer"]


@pytest.mark.parametrize("text", ["\u200b", "\u200b \n\ufeff\u2060"])
def test_what_nobody_can_see_is_not_said(text: str):
    assert methods(plan(response(text, PNG))) == ["sendPhoto"]


@pytest.mark.parametrize("text", ["\U0001fae8", "\u200b."])
def test_what_can_be_seen_is_said(text: str):
    assert methods(plan(response(text))) == ["sendMessage"]


def test_nothing_says_nothing():
    assert plan(response("")) == []
    assert plan(AgentResponse(messages=[])) == []


def test_an_error_is_told_in_our_words():
    (call,) = plan(response(Content.from_error(message="internals")))
    assert call.params == {"text": phrases.FAILED}


def test_a_failed_run_is_told_in_our_words():
    (call,) = plan(failure("timed_out"))
    assert call.params == {"text": phrases.FAILED}
    (call,) = plan(failure("question_open"), parse_mode="HTML")
    assert "answer my question first" in call.params["text"]


def test_an_echo_says_whose_words_it_is():
    assert plan(AgentResponse(messages=[Message("user", ["Hi"])]), "echo")[0].params["text"] == "You wrote: Hi"


def test_a_parse_mode_and_what_if_it_fails():
    (call,) = plan(response("<b>x</b>"), parse_mode="HTML")
    assert call.params == {"text": "<b>x</b>", "parse_mode": "HTML"}
    assert call.or_else is not None
    assert call.or_else.params == {"text": "<b>x</b>"}


def test_media_after_text():
    assert methods(plan(response(PNG, "Look"))) == ["sendMessage", "sendPhoto"]


@pytest.mark.parametrize(
    ("media_type", "method"),
    [
        ("image/png", "sendPhoto"),
        ("image/svg+xml", "sendDocument"),
        ("audio/mpeg", "sendAudio"),
        ("video/mp4", "sendVideo"),
        ("application/pdf", "sendDocument"),
    ],
)
def test_kinds_of_media(media_type: str, method: str):
    (call,) = plan(response(Content.from_data(b"data", media_type)))
    assert call.method == method
    assert call.upload is not None
    assert (call.upload.data, call.upload.media_type) == (b"data", media_type)
    assert call.upload.parameter == method.removeprefix("send").lower()


def test_a_photo_is_else_a_document_else_words():
    (call,) = plan(response(PNG))
    assert call.or_else is not None
    assert call.or_else.method == "sendDocument"
    assert call.or_else.upload == Upload("document", "file.png", "image/png", b"png")
    assert call.or_else.or_else is not None
    assert call.or_else.or_else.method == "sendMessage"


def test_a_photo_too_large_is_a_document():
    assert methods(plan(response(Content.from_data(b"x" * (MAX_PHOTO + 1), "image/png")))) == ["sendDocument"]


def test_a_file_name_and_a_caption():
    content = Content.from_data(
        b"x", "application/pdf", additional_properties={"filename": "a/b.pdf", "caption": "Here"}
    )
    (call,) = plan(response(content))
    assert call.upload is not None
    assert (call.upload.name, call.params) == ("a_b.pdf", {"caption": "Here"})
    assert plan(response(content, "Text"))[1].params == {}


def test_links():
    (call,) = plan(response(Content.from_uri("https://x.org/a.png", media_type="image/png")))
    assert (call.method, call.params) == ("sendPhoto", {"photo": "https://x.org/a.png"})
    assert call.or_else is not None
    assert call.or_else.params == {"text": "https://x.org/a.png"}
    (call,) = plan(response(Content.from_uri("file:///etc/passwd", media_type="image/png")))
    assert call.method == "sendMessage"
    assert "/etc" not in call.params["text"]


def test_a_link_with_half_a_character():
    (call,) = plan(response(Content("uri", uri="https://x.org/\ud83d.png", media_type="image/png")))
    assert call.params == {"photo": "https://x.org/\ufffd.png"}


def test_a_link_that_is_none():
    (call,) = plan(response(Content("uri", uri="http://[::1", media_type="image/png")))
    assert call.params == {"text": phrases.NO_FILE}


@pytest.mark.parametrize("uri", ["data:image/png;base64,%%%", "data:image/png;base64", "data:image/png;base64,"])
def test_media_that_is_none(uri: str):
    (call,) = plan(response(Content("data", uri=uri, media_type="image/png")))
    assert call.method == "sendMessage"


def test_questions_come_last():
    asked = Content.from_function_approval_request("q", Content.from_function_call("c", "tool", arguments={"x": 1}))
    calls = plan(response(asked, PNG, "Text"))
    assert methods(calls) == ["sendMessage", "sendPhoto", "sendMessage"]
    assert "reply_markup" in calls[-1].params


# --- in

PHOTO = Attachment("photo", (Variant("a", 10), Variant("b", 1000), Variant("c")), "image/jpeg")


def test_the_largest_that_fits():
    assert largest(PHOTO, 500) == Variant("c")
    assert largest(Attachment("photo", PHOTO.variants[:2], "image/jpeg"), 500) == Variant("a", 10)
    assert largest(Attachment("photo", PHOTO.variants[:2], "image/jpeg"), 5) is None


def test_a_message_with_a_file():
    made = Message.from_dict(user_message("Look", [Fetched(PHOTO, b"jpeg")], 500, "Ann"))
    assert (made.role, made.author_name, made.text) == ("user", "Ann", "Look")
    assert made.contents[1] == Content.from_data(b"jpeg", "image/jpeg")


@pytest.mark.parametrize(
    ("fetched", "note"),
    [
        (Fetched(PHOTO, large=True), "larger than 500 bytes"),
        (Fetched(PHOTO), "could not be fetched"),
        (Fetched(Attachment("sticker", (), "image/webp", "😀"), large=True), "[The user sent a sticker (😀).]"),
        (Fetched(Attachment("audio", (Variant("a"),), "audio/mpeg")), "an audio"),
    ],
)
def test_a_file_that_is_not_there_is_told_of(fetched: Fetched, note: str):
    made = user_message("", [fetched], 500)
    assert len(made["contents"]) == 1
    assert note in made["contents"][0]["text"]
