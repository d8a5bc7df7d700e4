"""A reply as it grows, and how its delivery takes its place."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import pytest
import trio

from afactors_channels.telegram import phrases
from tests.channels.telegram.fakes import GROUP, Bot, Context, Server, failure, message, refused

REPLIED = {"reply_to_message": {"message_id": 1, "chat": GROUP, "from": {"id": 4242, "is_bot": True}}}


async def in_group(bot: Bot, text: str = "Hi") -> int:
    """Say something to the bot in a group; returns the message's number."""
    update = message(text, chat=GROUP, **REPLIED)
    await bot.hear(update)
    return int(update["message"]["message_id"])


async def test_typing_as_long_as_it_runs(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    await bot.hear(message("Hi"))
    await trio.sleep(10)
    assert server.of("sendChatAction") == [{"chat_id": 7, "action": "typing"}] * 3
    context.runs[0].end()
    await trio.sleep(10)
    assert len(server.of("sendChatAction")) == 3


async def test_a_draft_in_private(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    await bot.hear(message("Hi"))
    run = context.runs[0]
    run.say("Hel")
    await trio.sleep(1.2)
    run.say("lo")
    run.say(" there")
    await trio.sleep(1.6)
    drafts = server.of("sendMessageDraft")
    assert [one["text"] for one in drafts] == ["Hel", "Hello there"]
    assert drafts[0]["draft_id"] == drafts[1]["draft_id"] != 0
    run.end()
    await bot.push("Hello there.", run_id=run.run_id)
    await trio.sleep(10)
    assert server.texts == ["Hello there."]
    assert len(server.of("sendMessageDraft")) == 2


@pytest.mark.parametrize(
    "answer", [refused(404, "Not Found"), httpx.Response(500, json={"message": "API method 'x' is not supported."})]
)
async def test_a_server_without_drafts(autojump_clock: Any, bot: Bot, server: Server, context: Context, answer: Any):
    await bot.start()
    server.script["sendMessageDraft"].append(answer)
    for _ in range(2):
        await bot.hear(message("Hi"))
        context.runs[-1].say("Hello")
        await trio.sleep(5)
        context.runs[-1].end()
        await bot.quiet()
    assert len(server.of("sendMessageDraft")) == 1


async def test_edits_in_a_group_are_not_too_many(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    number = await in_group(bot)
    run = context.runs[0]
    for _ in range(100):
        run.say("word ")
        await trio.sleep(0.1)
    (first,) = server.of("sendMessage")
    assert first["reply_parameters"]["message_id"] == number
    times = [
        at
        for at, (name, _) in zip(server.times, server.calls, strict=True)
        if name in ("sendMessage", "editMessageText")
    ]
    assert 5 <= len(times) <= 8
    assert all(later - sooner >= 1.5 for sooner, later in itertools.pairwise(times))
    run.end()
    await bot.push("word " * 100, run_id=run.run_id, conversation="-100")
    assert server.visible == [("word " * 100).strip()]
    await trio.sleep(10)
    assert len(server.of("sendMessage")) == 1


async def test_a_long_reply_begins_where_it_was_shown(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    await in_group(bot)
    run = context.runs[0]
    run.say("a")
    await trio.sleep(2)
    run.end()
    server.script["editMessageText"].append(refused(429, "slow", retry_after=1))
    with pytest.raises(Exception, match="too_many"):
        await bot.push("a" * 5000, run_id=run.run_id, conversation="-100")
    server.script["sendMessage"].append(httpx.ConnectError("no"))
    with pytest.raises(Exception, match="reached"):
        await bot.push("a" * 5000, run_id=run.run_id, conversation="-100")
    await bot.push("a" * 5000, run_id=run.run_id, conversation="-100")
    assert [len(one["text"]) for one in server.of("editMessageText")] == [4096, 4096]
    assert [len(text) for text in server.texts] == [1, 904, 904]


@pytest.mark.parametrize(
    "description", ["Bad Request: message to edit not found", "Bad Request: message can't be edited"]
)
async def test_what_was_shown_is_gone(
    autojump_clock: Any, bot: Bot, server: Server, context: Context, description: str
):
    await bot.start()
    await in_group(bot)
    run = context.runs[0]
    run.say("a")
    await trio.sleep(2)
    run.end()
    server.script["editMessageText"].append(refused(400, description))
    await bot.push("all", run_id=run.run_id, conversation="-100")
    assert server.texts == ["a", "all"]


async def test_an_edit_that_changes_nothing_is_done(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    await in_group(bot)
    run = context.runs[0]
    run.say("all")
    await trio.sleep(2)
    run.end()
    server.script["editMessageText"].append(refused(400, "Bad Request: message is not modified"))
    await bot.push("all", run_id=run.run_id, conversation="-100")
    assert server.texts == ["all"]


async def test_a_delivery_waits_for_what_is_being_shown(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    await bot.start()
    await in_group(bot)
    run = context.runs[0]
    run.say("a")

    async def slow(_: Any) -> dict[str, int]:
        await trio.sleep(3)
        return {"message_id": 500}

    server.script["sendMessage"].append(slow)
    await trio.sleep(1.5)
    run.end()
    await bot.push("all", run_id=run.run_id, conversation="-100")
    await trio.sleep(5)
    assert server.visible == ["all"]


async def test_a_delivery_before_the_show(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    await bot.push("all", run_id="run0", conversation="-100")
    await in_group(bot)
    context.runs[0].say("a")
    await trio.sleep(5)
    assert server.texts == ["all"]


async def test_a_quick_reply_is_not_previewed(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    await in_group(bot)
    run = context.runs[0]
    run.say("all")
    await trio.sleep(0.5)
    run.end()
    await bot.push("all", run_id=run.run_id, conversation="-100")
    assert server.texts == ["all"]
    assert server.of("editMessageText") == []


async def test_a_run_that_begins_again(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    await in_group(bot)
    run = context.runs[0]
    run.say("first attempt")
    await trio.sleep(2)
    run.restart()
    run.say("second")
    await trio.sleep(4)
    assert server.visible == ["second"]


@pytest.mark.parametrize(
    "troubles", [[refused(429, "slow", retry_after=20)], [httpx.ConnectError("no")] * 2, [refused(400, "odd")] * 2]
)
async def test_troubles_of_showing_fail_nothing(
    autojump_clock: Any, bot: Bot, server: Server, context: Context, troubles: list[Any]
):
    await bot.start()
    await in_group(bot)
    run = context.runs[0]
    server.script["sendMessage"] += troubles
    run.say("word")
    await trio.sleep(15)
    assert len(server.of("sendMessage")) <= 3
    run.say(" again")
    await trio.sleep(30)
    run.end()
    await bot.push("all", run_id=run.run_id, conversation="-100")
    assert server.visible == ["all"]


async def test_what_is_always_refused_is_not_tried_for_ever(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    await bot.start()
    await in_group(bot)
    server.script["sendMessage"] += [refused(400, "odd")] * 100
    for _ in range(100):
        context.runs[0].say("word ")
        await trio.sleep(1)
    assert len(server.of("sendMessage")) == 3


async def test_a_failure_is_told_by_its_delivery_where_the_reply_would_have_been(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    await bot.start()
    await in_group(bot)
    run = context.runs[0]
    run.say("half of")
    await trio.sleep(2)
    run.fail(code="timed_out")
    await bot.quiet()
    assert server.visible == ["half of"]
    await bot.push(failure("timed_out"), run_id=run.run_id, conversation="-100")
    assert server.visible == [phrases.FAILED]


async def test_a_cancelled_run_takes_back_what_it_showed(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    await bot.start()
    await in_group(bot)
    context.runs[0].say("half of")
    await trio.sleep(2)
    context.runs[0].fail("cancelled", "cancelled")
    await bot.quiet()
    assert server.visible == [phrases.WITHDRAWN]


async def test_who_cancelled_hears_no_more_of_it(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    await bot.hear(message("Hi"))
    context.runs[0].fail("cancelled", "cancelled")
    await bot.quiet()
    assert server.texts == []


async def test_without_streaming_there_is_only_typing(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start(streaming="off")
    assert bot.contribution.transcriber is None
    await in_group(bot)
    run = context.runs[0]
    assert not run.request.stream
    run.say("x")
    await trio.sleep(6)
    assert server.texts == []
    assert len(server.of("sendChatAction")) == 2
    run.fail()
    await bot.quiet()
    assert server.texts == []


async def test_servers_without_typing(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    server.unknown.add("sendChatAction")
    await bot.start()
    await bot.hear(message("Hi"), message("again"))
    await trio.sleep(20)
    assert 1 <= len(server.of("sendChatAction")) <= 2
    assert context.said == ["Hi", "again"]


async def test_a_repeat_is_not_shown_twice(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    update = message("Hi", chat=GROUP, **REPLIED)
    await bot.hear(update)
    again = {**update, "update_id": update["update_id"]}
    bot_again = Bot(server, context, bot.nursery)
    await bot_again.start()
    context.runs[0].end()
    await bot_again.hear(again)
    await trio.sleep(10)
    assert len(server.of("sendChatAction")) == 1


async def test_a_run_that_failed_at_once(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    context.on_submit = lambda run: run.fail("failed", "question_open")
    await bot.hear(message("Hi"))
    await trio.sleep(5)
    assert server.of("sendChatAction") == server.texts == []
    await bot.push(failure("question_open"), run_id=context.runs[0].run_id)
    (text,) = server.texts
    assert "answer my question first" in text


async def test_previews_of_a_long_run_slow_down(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    await in_group(bot)
    for _ in range(60):
        context.runs[0].say("word ")
        await trio.sleep(1)
    assert len(server.of("sendMessage", "editMessageText")) <= 20


async def test_messages_that_share_a_run_share_its_show(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    await bot.start()
    context.on_submit = lambda run: setattr(run, "run_id", "run0")
    await in_group(bot, "one")
    await in_group(bot, "two")
    for run in context.runs:
        run.say("half of")
    await trio.sleep(10)
    assert server.visible == ["half of"]
    await bot.push("all", run_id="run0", conversation="-100")
    for run in context.runs:
        run.end()
    await trio.sleep(10)
    assert server.visible == ["all"]


async def test_nobody_types_before_a_run_has_begun(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    context.on_submit = lambda run: setattr(run, "state", "queued")
    await bot.hear(message("Hi"))
    await trio.sleep(60)
    assert server.of("sendChatAction") == []
    context.runs[0].state = "running"
    await trio.sleep(2)
    assert len(server.of("sendChatAction")) == 1


async def test_one_types_for_all_that_runs_in_a_place(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    for _ in range(5):
        await bot.hear(message("Hi"))
    await trio.sleep(10)
    assert len(server.of("sendChatAction")) == 3
    await bot.hear(message("Hi", chat=GROUP, **REPLIED))
    assert len(server.of("sendChatAction")) == 4
    for run in context.runs[1:5]:
        run.end()
    await trio.sleep(4)
    assert [one["chat_id"] for one in server.of("sendChatAction")].count(7) == 4


async def test_a_server_whose_gateway_knows_no_typing(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    server.script["sendChatAction"] += [httpx.Response(404, text="<html>")] * 10
    server.script["sendMessageDraft"] += [httpx.Response(404, text="<html>")] * 10
    await bot.start()
    await bot.hear(message("Hi"))
    for _ in range(20):
        context.runs[0].say("word ")
        await trio.sleep(1)
    assert (len(server.of("sendChatAction")), len(server.of("sendMessageDraft"))) == (1, 1)


async def test_runs_that_wait_take_no_room_from_answers(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    context.on_submit = lambda run: setattr(run, "state", "queued")
    await bot.start()
    for _ in range(1010):
        assert (await bot.hook(message("Hi")))[0] == 200
    await bot.hear(message("/help"))
    assert len(server.texts) == 1


async def test_a_clean_stop_leaves_no_preview(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    await in_group(bot)
    context.runs[0].say("half of")
    await trio.sleep(2)
    context.runs[0].leave()
    await bot.quiet()
    assert server.visible == []


async def _hangs(_: Any) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_stop_that_cuts_off(autojump_clock: Any, server: Server, context: Context, hangs: bool):
    async with trio.open_nursery() as life:
        bot = Bot(server, context, life)
        await bot.start()
        await in_group(bot)
        context.runs[0].say("half of")
        await trio.sleep(2)
        if hangs:
            server.script["deleteMessage"].append(_hangs)
        began = trio.current_time()
        life.cancel_scope.cancel()
    assert server.visible == (["half of"] if hangs else [])
    assert trio.current_time() - began == (2.0 if hangs else 0.0)


async def test_a_stop_leaves_a_reply(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    await in_group(bot)
    run = context.runs[0]
    run.say("half of")
    await trio.sleep(2)
    await bot.push("all", run_id=run.run_id, conversation="-100")
    run.leave()
    await bot.quiet()
    assert server.visible == ["all"]
