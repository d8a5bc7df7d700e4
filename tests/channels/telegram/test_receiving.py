"""Webhook and poller: what is acknowledged is accepted, in the order of each chat."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
import trio

from afactors_channels import Overloaded, StorageFull
from afactors_channels.telegram import phrases
from tests.channels.telegram.fakes import ANN, BOB, SECRET, TOKEN, Bot, Context, Server, message, refused

BUSY = Overloaded("full", retry_after=3.0)


# --- webhook


async def test_a_message_is_accepted_before_it_is_acknowledged(autojump_clock: Any, bot: Bot, context: Context):
    await bot.start()
    context.slow["7"] = trio.Event()
    statuses: list[int] = []

    async def send() -> None:
        statuses.append((await bot.hook(update))[0])

    update = message("Hi")
    bot.nursery.start_soon(send)
    await bot.quiet()
    assert statuses == []
    context.slow["7"].set()
    await bot.quiet()
    assert statuses == [200]
    (run,) = context.runs
    request = run.request
    assert request.idempotency_key == f"update:4242:{update['update_id']}"
    assert request.session.isolation_key == "telegram:7"
    assert request.identity is not None
    assert request.identity.verified
    assert request.identity.conversation == "7"
    assert request.input[0]["contents"] == [{"type": "text", "text": "Hi"}]
    assert request.stream
    assert context.raws == [update]


@pytest.mark.parametrize("secret", [None, "", "wrong", SECRET + "x", "ü"])
async def test_who_does_not_know_the_secret(autojump_clock: Any, bot: Bot, context: Context, secret: str | None):
    await bot.start()
    assert (await bot.hook(message("Hi"), secret=secret))[0] == 401
    assert context.offered == []


async def test_a_server_that_sends_no_secret(
    autojump_clock: Any, bot: Bot, context: Context, caplog: pytest.LogCaptureFixture
):
    await bot.start(require_secret=False)
    assert (await bot.hook(message("Hi"), secret=None))[0] == 200
    assert (await bot.hook(message("Hi"), secret="wrong"))[0] == 401
    assert context.said == ["Hi"]
    assert "require_secret" in caplog.text


@pytest.mark.parametrize(
    ("refusal", "status", "wait"),
    [
        (BUSY, 429, "3"),
        (Overloaded("draining", status=503, retry_after=0.5), 503, "1"),
        (StorageFull("full"), 503, "5"),
        (RuntimeError("a defect"), 500, "5"),
    ],
)
async def test_what_was_not_accepted_is_not_acknowledged(
    autojump_clock: Any, bot: Bot, context: Context, refusal: Exception, status: int, wait: str
):
    await bot.start()
    context.refusals.append(refusal)
    update = message("Hi")
    found, headers = await bot.hook(update)
    assert (found, headers["retry-after"]) == (status, wait)
    assert (await bot.hook(update))[0] == 200
    assert context.said == ["Hi"]


async def test_a_repeat_is_dropped(autojump_clock: Any, bot: Bot, context: Context, server: Server):
    await bot.start()
    update = message("Hi")
    await bot.hear(update, update, update)
    assert len(context.offered) == 1


async def test_a_repeat_of_another_life_is_for_the_runtime_to_know(
    autojump_clock: Any, bot: Bot, context: Context, server: Server
):
    await bot.start()
    update = message("Hi")
    await bot.hear(update)
    again = Bot(server, context, bot.nursery)
    await again.start()
    await again.hear(update)
    assert (len(context.offered), len(context.runs)) == (2, 1)


async def test_repeats_at_once(autojump_clock: Any, bot: Bot, context: Context):
    await bot.start()
    context.slow["7"] = trio.Event()
    update = message("Hi")
    for _ in range(3):
        bot.nursery.start_soon(bot.hook, update)
    await bot.quiet()
    context.slow["7"].set()
    await bot.quiet()
    assert len(context.offered) == 1


async def test_a_slow_chat_holds_up_no_other_and_keeps_its_order(autojump_clock: Any, bot: Bot, context: Context):
    await bot.start()
    context.slow["7"] = trio.Event()
    for text in ("one", "two", "three"):
        bot.nursery.start_soon(bot.hook, message(text))
        await bot.quiet()
    await bot.hear(message("from Bob", sender=BOB))
    assert context.said == ["from Bob"]
    context.slow["7"].set()
    await bot.quiet()
    assert context.said == ["from Bob", "one", "two", "three"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"update_id": 1, "message": {"text": "private words"}}'])
async def test_nonsense_is_acknowledged(
    autojump_clock: Any, bot: Bot, context: Context, body: bytes, caplog: pytest.LogCaptureFixture
):
    await bot.start()
    assert (await bot.hook(None, body=body))[0] == 200
    assert context.offered == []
    assert "not understood" in caplog.text
    assert "private words" not in caplog.text


async def test_the_webhook_is_registered(autojump_clock: Any, bot: Bot, server: Server):
    server.script["setWebhook"] += [httpx.ConnectError("not yet"), refused(429, "slow", retry_after=4)]
    await bot.start(webhook_url="https://x.org/telegram/webhook", polling=None)
    await trio.sleep(10)
    assert len(server.of("setWebhook")) == 3
    told = server.of("setWebhook")[-1]
    assert (told["url"], told["secret_token"]) == ("https://x.org/telegram/webhook", SECRET)
    assert told["drop_pending_updates"] is False
    assert set(told["allowed_updates"]) == {"message", "callback_query"}
    assert server.of("getUpdates") == []


# --- the start


async def test_deliveries_wait_until_the_bot_is_known(autojump_clock: Any, bot: Bot, server: Server):
    server.script["getMe"] += [httpx.ConnectError("no"), refused(401, "Unauthorized")]
    await bot.start()
    assert bot.contribution.push_ready is not None
    with trio.move_on_after(0.1) as early:
        await bot.contribution.push_ready()
    assert early.cancelled_caught
    await bot.contribution.push_ready()
    assert len(server.of("getMe")) == 3


async def test_commands_are_registered_and_need_not_be(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    server.unknown.add("setMyCommands")
    await bot.start()
    (told,) = server.of("setMyCommands")
    assert [one["command"] for one in told["commands"]] == ["new", "cancel", "help"]
    await bot.hear(message("Hi"))
    assert context.said == ["Hi"]


# --- polling


async def test_updates_are_fetched_and_confirmed(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start(polls=True)
    assert bot.contribution.routes == ()
    one, two = message("one"), message("two", sender=BOB)
    server.post(one, two)
    await trio.sleep(1)
    assert sorted(context.said) == ["one", "two"]
    assert server.of("getUpdates")[0] == {"timeout": 50, "limit": 100, "allowed_updates": ["message", "callback_query"]}
    assert server.of("getUpdates")[-1]["offset"] == two["update_id"] + 1
    assert server.pending == []


async def test_what_waits_is_not_confirmed_and_holds_nobody_up(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    await bot.start(polls=True)
    context.slow["7"] = trio.Event()
    slow = message("slow")
    server.post(slow, message("quick", sender=BOB))
    await trio.sleep(5)
    server.post(message("later", sender=BOB))
    await trio.sleep(5)
    assert context.said == ["quick", "later"]
    assert server.of("getUpdates")[-1]["offset"] == slow["update_id"]
    assert len(server.of("getUpdates")) < 30
    context.slow["7"].set()
    await trio.sleep(5)
    assert context.said == ["quick", "later", "slow"]
    assert server.pending == []
    assert len(context.offered) == 3


async def test_what_is_refused_for_now_is_offered_again_in_its_place(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    await bot.start(polls=True)
    context.refusals += [BUSY, StorageFull("full"), RuntimeError("a defect")]
    server.post(message("one"), message("two"))
    await trio.sleep(2)
    assert context.said == []
    assert len(server.pending) == 2
    await trio.sleep(60)
    assert context.said == ["one", "two"]
    assert server.pending == []


async def test_what_always_breaks_something_does_not_stop_the_others(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    await bot.start(polls=True)
    context.refusals += [RuntimeError("a defect")] * 10
    server.post(message("poison"), message("next"))
    await trio.sleep(1000)
    assert context.said == ["next"]
    assert server.pending == []
    assert server.texts == [phrases.FAILED]


async def test_one_full_conversation_does_not_stop_the_others(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    full = Overloaded("full", code="mailbox_full", retry_after=1.0)
    context.full["8"] = full
    await bot.start(polls=True)
    server.post(*(message(f"{number}", sender=BOB) for number in range(110)))
    server.post(message("hello"))
    await trio.sleep(60)
    assert context.said == ["hello"]
    # Only so many were given up as hid what came behind them; the others are still offered.
    assert set(server.texts) == {phrases.refusal(full)}
    lost = len(server.texts)
    assert 11 <= lost <= 12
    del context.full["8"]
    await trio.sleep(60)
    assert (len(context.said), server.pending) == (111 - lost, [])


async def test_nothing_is_confirmed_if_the_host_stops(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start(polls=True)
    context.refusals += [Overloaded("draining", retry_after=60.0)] * 3
    update = message("Hi")
    server.post(update)
    await trio.sleep(1)
    context.stops.set()
    await trio.sleep(1)
    fetches = len(server.of("getUpdates"))
    assert server.pending == [update]
    await trio.sleep(100)
    assert len(server.of("getUpdates")) == fetches
    assert context.runs == []


async def test_what_is_taken_while_the_host_stops_is_confirmed(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    await bot.start(polls=True)
    context.slow["7"] = trio.Event()
    server.post(update := message("Hi"))
    await bot.quiet()
    context.stops.set()
    await bot.quiet()
    context.slow["7"].set()
    await bot.quiet()
    assert server.of("getUpdates")[-1] == {"offset": update["update_id"] + 1, "timeout": 0, "limit": 1}


async def test_what_is_confirmed_is_not_confirmed_again(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    await bot.start(polls=True)
    server.post(message("Hi"))
    await trio.sleep(1)
    fetches = len(server.of("getUpdates"))
    context.stops.set()
    await trio.sleep(1)
    assert len(server.of("getUpdates")) == fetches


async def test_a_server_that_does_not_wait_is_not_asked_without_end(autojump_clock: Any, bot: Bot, server: Server):
    server.script["getUpdates"] += [httpx.Response(200, json={"ok": True, "result": []})] * 1000
    await bot.start(polls=True)
    await trio.sleep(10)
    assert 10 < len(server.of("getUpdates")) < 100


async def test_troubles_of_the_server_pass(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    trouble: list[Any] = [
        httpx.ConnectError("no"),
        httpx.Response(502, text="bad"),
        refused(429, "slow", retry_after=30),
    ]
    server.script["getUpdates"] += trouble
    await bot.start(polls=True)
    server.post(message("Hi"))
    await trio.sleep(29)
    assert context.said == []
    await trio.sleep(10)
    assert context.said == ["Hi"]


async def test_a_webhook_in_the_way_is_deleted_once_if_polling_was_asked_for(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    conflict = refused(409, "Conflict: can't use getUpdates method while webhook is active")
    server.script["getUpdates"] += [conflict, conflict]
    await bot.start(polls=True, polling=True)
    server.post(message("Hi"))
    await trio.sleep(60)
    assert len(server.of("deleteWebhook")) == 1
    assert context.said == ["Hi"]


async def test_a_webhook_in_the_way_is_somebody_elses_by_default(
    autojump_clock: Any, bot: Bot, server: Server, caplog: pytest.LogCaptureFixture
):
    server.script["getUpdates"] += [refused(409, "Conflict: webhook is active")]
    await bot.start(polls=True)
    await trio.sleep(60)
    assert server.of("deleteWebhook") == []
    (line,) = [one.getMessage() for one in caplog.records if "elsewhere" in one.getMessage()]
    assert "\n" not in line
    assert "polling=True" in line


async def test_another_poller_is_not_cured_by_deleting_webhooks(autojump_clock: Any, bot: Bot, server: Server):
    conflict = refused(
        409, "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running"
    )
    server.script["getUpdates"] += [conflict]
    await bot.start(polls=True, polling=True)
    await trio.sleep(60)
    assert server.of("deleteWebhook") == []


@pytest.mark.parametrize("polls", [True, False])
async def test_the_token_is_in_no_log(
    autojump_clock: Any, bot: Bot, server: Server, polls: bool, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    server.script["getMe"] += [
        httpx.ConnectError(f"cannot reach /bot{TOKEN}/getMe"),
        refused(404, f"/bot{TOKEN}/getMe?"),
    ]
    server.script["sendMessage"] += [refused(400, "chat not found"), httpx.ReadTimeout("late")]
    await bot.start(polls=polls)
    await trio.sleep(10)
    update = message("/help", sender=ANN)
    if polls:
        server.post(update)
        await trio.sleep(10)
    else:
        await bot.hear(update)
    assert "HTTP Request" in caplog.text
    assert TOKEN not in caplog.text
    assert TOKEN.partition(":")[2] not in caplog.text
