"""Buttons: when they go, when they stay, and what is told at them."""

from __future__ import annotations

from typing import Any

import pytest
from agent_framework import Content

from afactors_channels import Conflicting, NotAllowed, NotFound, Question, TargetFailed
from afactors_channels.telegram import phrases
from tests.channels.telegram.fakes import GROUP, Bot, Context, Server, message, press, response

APPROVAL = Content.from_function_approval_request("q1", Content.from_function_call("c", "tool", arguments="{}"))
OPEN = Question("q1", "approval", "tool", {}, 0.0, 1.0)


async def asked(bot: Bot, server: Server, context: Context) -> dict[str, Any]:
    """Put the question; returns an update in which it is approved."""
    context.questions = [OPEN]
    await bot.push(response(APPROVAL), delivery_id="asks")
    ((approve, _),) = server.of("sendMessage")[-1]["reply_markup"]["inline_keyboard"]
    return press(approve["callback_data"], message_id=500)


def unbuttoned(server: Server) -> int:
    return len(server.of("editMessageReplyMarkup"))


def toasts(server: Server) -> list[str | None]:
    return [one.get("text") for one in server.of("answerCallbackQuery")]


async def test_buttons_go_once_the_answer_has_been_taken(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    await bot.start()
    await bot.hear(await asked(bot, server, context))
    assert (toasts(server), unbuttoned(server)) == ([None], 0)
    context.runs[0].end()
    await bot.quiet()
    assert unbuttoned(server) == 1


@pytest.mark.parametrize(
    ("state", "code", "gone"),
    [
        ("failed", "server_error", 0),
        ("cancelled", "cancelled", 0),
        ("cancelled", "superseded", 0),
        ("failed", "question_answered", 1),
    ],
)
async def test_buttons_stay_if_nothing_was_answered(
    autojump_clock: Any, bot: Bot, server: Server, context: Context, state: str, code: str, gone: int
):
    await bot.start()
    update = await asked(bot, server, context)
    await bot.hear(update)
    context.runs[0].fail(state, code)
    await bot.quiet()
    assert unbuttoned(server) == gone
    await bot.hear(press(update["callback_query"]["data"], message_id=500))
    assert len(context.runs) == 2
    context.runs[1].end()
    await bot.quiet()
    assert unbuttoned(server) == gone + 1


async def test_buttons_stay_if_the_host_stops(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    await bot.hear(await asked(bot, server, context))
    context.runs[0].leave()
    await bot.quiet()
    assert unbuttoned(server) == 0


async def test_an_answer_takes_nobodys_place(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start(overlap="latest")
    await bot.hear(await asked(bot, server, context), press("red"))
    context.questions = [Question("r1", "input", "request_info", {"data": "How much?"}, 0.0, 1.0)]
    context.refusals.append(Conflicting("x", code="question_open"))
    await bot.hear(message("Five"))
    assert [run.request.overlap for run in context.runs] == ["enqueue", None, "enqueue"]


@pytest.mark.parametrize("ended", [False, True])
async def test_a_press_that_comes_again_in_another_process(
    autojump_clock: Any, bot: Bot, other: Bot, server: Server, context: Context, ended: bool
):
    await bot.start()
    update = await asked(bot, server, context)
    await bot.hear(update)
    if ended:
        context.questions = []
        context.runs[0].end()
        await bot.quiet()
    before = unbuttoned(server)
    await other.start()
    await other.hear(update)
    if not ended:
        context.runs[0].end()
    await other.quiet()
    assert (len(context.runs), toasts(server)) == (1, [None, None])
    assert unbuttoned(server) >= before + 1


async def test_a_press_whose_run_is_no_longer_kept(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    update = await asked(bot, server, context)
    context.on_submit = lambda run: setattr(run, "left", NotFound("gone", code="result_expired"))
    await bot.hear(update)
    context.runs[0].over.set()
    await bot.quiet()
    assert unbuttoned(server) == 1


@pytest.mark.parametrize(
    "refusal",
    [NotAllowed("internals", code="link_required", status=403), TargetFailed("internals", code="run_hook_failed")],
)
async def test_a_refusal_is_told_at_the_button(
    autojump_clock: Any, bot: Bot, server: Server, context: Context, refusal: Any
):
    await bot.start()
    update = await asked(bot, server, context)
    said = len(server.texts)
    context.refusals.append(refusal)
    await bot.hear(update)
    assert toasts(server) == [phrases.refusal(refusal)]
    assert (len(server.texts), unbuttoned(server)) == (said, 0)


async def test_a_press_that_was_refused_is_not_taken_when_it_comes_again(
    autojump_clock: Any, bot: Bot, other: Bot, server: Server, context: Context
):
    await bot.start()
    context.refusals.append(Conflicting("x", code="session_busy"))
    update = press("red")
    await bot.hear(update)
    await other.start()
    await other.hear(update)
    assert context.runs == []


@pytest.mark.parametrize("code", ["question_answered", "question_expired"])
async def test_the_buttons_of_a_question_that_is_over_go(
    autojump_clock: Any, bot: Bot, server: Server, context: Context, code: str
):
    await bot.start()
    update = await asked(bot, server, context)
    context.refusals.append(Conflicting("x", code=code))
    await bot.hear(update)
    assert unbuttoned(server) == 1


async def test_an_old_button_in_a_topic_goes_to_the_topics_actor(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    await bot.start()
    context.questions = [OPEN]
    await bot.push(response(APPROVAL), conversation="-100:3")
    ((approve, _),) = server.of("sendMessage")[-1]["reply_markup"]["inline_keyboard"]
    update = press(approve["callback_data"], chat=GROUP, message_id=500)
    update["callback_query"]["message"]["date"] = 0
    await bot.hear(update)
    assert [run.request.session.isolation_key for run in context.runs] == ["telegram:chat:-100:3"]


async def test_a_contact_is_heard(autojump_clock: Any, bot: Bot, context: Context):
    await bot.start()
    await bot.hear(message(contact={"first_name": "Bo", "phone_number": "+1"}))
    assert context.said == ["[The user sent a contact (Bo, +1).]"]
