"""The transcript, the window of a poller, the options, and what the channel says."""

from __future__ import annotations

from typing import Any

import pytest
from agent_framework import AgentResponse, AgentResponseUpdate, Content
from hypothesis import given, settings
from hypothesis import strategies as st

from afactors_channels import BadRequest, ChannelRequest, Conflicting, NotAllowed, TargetFailed, TooLarge
from afactors_channels.pushes import ChannelCommand
from afactors_channels.requests import ResponseTarget
from afactors_channels.telegram import TelegramChannel, phrases
from afactors_channels.telegram.settings import bot_id
from afactors_channels.telegram.transcript import Growing, TelegramTranscript
from afactors_channels.telegram.window import Window

REQUEST = ChannelRequest("telegram", ())


def update(*words: str, name: str | None = "m", **more: Any) -> AgentResponseUpdate:
    return AgentResponseUpdate(
        contents=[Content.from_text(word) for word in words], role="assistant", message_id=name, **more
    )


def grown(*rows: bytes) -> Growing:
    growing = Growing()
    for row in rows:
        growing.take(row)
    return growing


# --- transcript


def test_a_text_grows():
    transcript = TelegramTranscript(REQUEST, created=0.0, first=0)
    assert [*transcript.accepted(), *transcript.started(), *transcript.fed([])] == []
    rows = [*transcript.fed([update("Hel"), update("lo")]), *transcript.fed([update("again", name="n")])]
    assert len(rows) == 2
    rows += transcript.completed(AgentResponse(messages=[]), 0.0)[0]
    growing = grown(*rows)
    assert (growing.text, growing.end, growing.shown()) == ("Hello\n\nagain", "completed", "Hello\n\nagain")


def test_a_text_that_is_replaced():
    transcript = TelegramTranscript(REQUEST, created=0.0, first=0)
    rows = list(transcript.fed([update("wrong")]))
    replaced = AgentResponseUpdate(contents=[Content("text", text="right", merge_mode="replace")], message_id="m")
    rows += transcript.fed([replaced])
    assert grown(*rows).text == "right"


def test_what_is_not_the_answer_is_not_shown():
    transcript = TelegramTranscript(REQUEST, created=0.0, first=0)
    reasoning = AgentResponseUpdate(contents=[Content.from_text_reasoning(text="hm")])
    assert transcript.fed([update("x", additional_properties={"intermediate": True}), reasoning]) == ()


def test_nothing_is_shown_of_what_goes_elsewhere():
    request = REQUEST.replace(response_target=ResponseTarget.none)
    transcript = TelegramTranscript(request, created=0.0, first=0)
    assert transcript.fed([update("x")]) == ()


def test_a_failure_is_the_last_row():
    transcript = TelegramTranscript(REQUEST, created=0.0, first=3)
    (row,) = transcript.failed("failed", "timed_out", "no")[0]
    growing = grown(row)
    assert growing.end == "failed"


def test_a_long_text_shows_what_is_being_written():
    growing = Growing()
    growing.text = "a" * 4096 + "b" * 10
    assert growing.shown() == "b" * 10


# --- window


def test_an_update_that_waits_holds_the_offset():
    window = Window()
    assert window.offset is None
    assert window.take([1, 2, 3]) == {1, 2, 3}
    window.finish(2)
    assert (window.offset, window.idle) == (1, False)
    assert window.take([1, 2, 3, 4]) == {4}
    window.finish(1)
    assert window.offset == 3
    window.finish(3)
    window.finish(4)
    assert (window.offset, window.idle) == (5, True)
    assert window.take([]) == set()


def test_a_server_may_count_anew():
    window = Window()
    window.take([900])
    window.finish(900)
    assert window.take([5, 6]) == {5, 6}
    window.finish(5)
    window.finish(6)
    assert window.offset == 7


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=40))
def test_nothing_is_taken_twice_and_nothing_that_waits_is_confirmed(order: list[int]):
    window, taken, finished = Window(), set[int](), set[int]()
    for step in order:
        first = window.offset or 0
        new = window.take(range(first, first + 4))
        assert not new & taken
        taken |= new
        waiting = sorted(taken - finished)
        done = waiting[step % len(waiting)]
        finished.add(done)
        window.finish(done)
        assert window.offset == min(taken - finished, default=max(taken) + 1)


# --- options


async def nothing(_: Any) -> None: ...


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"token": ""}, "token"),
        ({"token": "12:ab/cd"}, "token"),
        ({"name": ""}, "name"),
        ({"api_base": "ftp://x"}, "api_base"),
        ({"webhook_path": "x"}, "webhook_path"),
        ({"webhook_url": "https://x.org/t"}, "secret"),
        ({"polling": False}, "secret"),
        ({"webhook_url": "x", "secret": "s"}, "webhook_url"),
        ({"webhook_url": "https://x.org/t", "secret": "no spaces"}, "secret"),
        ({"webhook_url": "https://x.org/t", "secret": "s" * 257}, "secret"),
        ({"webhook_url": "https://x.org/t", "secret": "s", "polling": True}, "polling"),
        ({"allow": "@ann"}, "allow"),
        ({"allow": ["ann"]}, "allow"),
        ({"allow": [True]}, "allow"),
        ({"scope": "chat"}, "scope"),
        ({"streaming": "on"}, "streaming"),
        ({"edit_interval": 0.5}, "edit_interval"),
        ({"parse_mode": "Markdown"}, "parse_mode"),
        ({"overlap": "queue"}, "overlap"),
        ({"max_download": -1}, "max_download"),
        ({"greeting": " "}, "greeting"),
        ({"commands": [ChannelCommand("No", "x", nothing)]}, "commands"),
        ({"commands": [ChannelCommand("x", "", nothing)]}, "commands"),
        ({"commands": [ChannelCommand("x", "x", nothing)] * 2}, "commands"),
    ],
)
def test_what_an_option_cannot_be(options: dict[str, Any], word: str):
    with pytest.raises(ValueError, match=word) as caught:
        TelegramChannel(**{"token": "1:secret_token"} | options)
    assert "secret_token" not in str(caught.value)
    assert "ab/cd" not in str(caught.value)


def test_an_overlap_policy_is_passed_through():
    TelegramChannel("1:a", overlap="latest")  # type: ignore[arg-type,unused-ignore]
    TelegramChannel("1:a", overlap="coalesce", allow=[7, -100, "@ann"])  # type: ignore[arg-type,unused-ignore]


def test_no_secret_in_a_repr():
    channel = TelegramChannel("1:the_token", webhook_url="https://x.org/t", secret="the_secret")
    shown = repr(channel) + repr(vars(channel))
    assert "the_token" not in shown
    assert "the_secret" not in shown
    assert channel.name == "telegram"


# --- phrases


@pytest.mark.parametrize(
    "error",
    [
        BadRequest("internals"),
        Conflicting("internals", code="question_open"),
        Conflicting("internals"),
        NotAllowed("internals"),
        TooLarge("internals"),
        TargetFailed("internals"),
    ],
)
def test_refusals_are_polite_and_bland(error: Any):
    assert phrases.refusal(error)
    assert "internals" not in phrases.refusal(error)


@pytest.mark.parametrize(("token", "number"), [("4242:secret", "4242"), ("secret", "0"), ("x:y", "0"), (":y", "0")])
def test_a_token_names_its_bot(token: str, number: str):
    assert bot_id(token) == number


def test_failures_are_told_in_our_words():
    assert phrases.failure("anything") == phrases.FAILED
    assert phrases.failure("question_expired") != phrases.FAILED
