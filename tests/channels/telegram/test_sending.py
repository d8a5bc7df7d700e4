"""Deliveries: split, resumed, moved, refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import trio
from agent_framework import Content

from afactors_channels import PushDeferred, PushRejected
from afactors_channels.telegram import phrases
from afactors_channels.telegram.api import ApiFailed
from tests.channels.telegram.fakes import TOKEN, Bot, Server, refused, response


async def _never(_: Any) -> None:
    await trio.sleep_forever()


LONG = "\n\n".join(letter * 4000 for letter in "abc")


async def test_a_reply(autojump_clock: Any, bot: Bot, server: Server):
    await bot.start()
    await bot.push("Hello", conversation="-100:3")
    assert server.of("sendMessage") == [{"chat_id": -100, "message_thread_id": 3, "text": "Hello"}]


async def test_a_message_to_a_user_without_a_conversation(autojump_clock: Any, bot: Bot, server: Server):
    await bot.start()
    await bot.push("Hello", conversation="", kind="message")
    assert server.of("sendMessage") == [{"chat_id": 7, "text": "Hello"}]


async def test_a_reply_that_says_nothing(autojump_clock: Any, bot: Bot, server: Server):
    await bot.start()
    await bot.push(response())
    assert server.of("sendMessage") == []


async def test_nobody_can_be_called_so(autojump_clock: Any, bot: Bot):
    await bot.start()
    with pytest.raises(PushRejected):
        await bot.push("Hello", conversation="somewhere else")


async def test_a_long_reply_goes_on_where_it_stopped(autojump_clock: Any, bot: Bot, server: Server):
    await bot.start()
    server.script["sendMessage"] += [{"message_id": 1}, refused(429, "slow", retry_after=9)]
    with pytest.raises(PushDeferred) as caught:
        await bot.push(LONG)
    assert caught.value.retry_after == 9.0
    server.script["sendMessage"] += [httpx.ConnectError("no")]
    with pytest.raises(ApiFailed):
        await bot.push(LONG, attempt=2)
    await bot.push(LONG, attempt=3)
    assert [text[0] for text in server.texts] == ["a", "b", "b", "b", "c"]
    await bot.push(LONG, delivery_id="replayed")
    assert [text[0] for text in server.texts[5:]] == ["a", "b", "c"]


async def test_a_delivery_that_is_cut_off_goes_on(autojump_clock: Any, bot: Bot, server: Server):
    await bot.start()
    server.script["sendMessage"] += [{"message_id": 1}, _never]
    with trio.move_on_after(5):
        await bot.push(LONG)
    await bot.push(LONG, attempt=2, unsure=True)
    assert [text[0] for text in server.texts] == ["a", "b", "b", "c"]


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (refused(403, "Forbidden: bot was blocked by the user"), "blocked"),
        (refused(403, "Forbidden: bot was kicked from the group chat"), "kicked"),
        (refused(403, "Forbidden: something new"), "forbidden"),
        (refused(400, "Bad Request: chat not found"), "chat_not_found"),
        (refused(400, "Bad Request: message thread not found"), "topic_not_found"),
        (refused(400, "Bad Request: something new"), "refused"),
        (refused(404, "Not Found"), "not_found"),
    ],
)
async def test_what_will_never_be_taken(autojump_clock: Any, bot: Bot, server: Server, answer: Any, word: str):
    await bot.start()
    server.script["sendMessage"].append(answer)
    with pytest.raises(PushRejected, match=f"^{word}$"):
        await bot.push("Hello")


@pytest.mark.parametrize(
    "answer", [httpx.ConnectError(f"to /bot{TOKEN}/"), refused(500, "oops"), refused(401, "Unauthorized")]
)
async def test_what_may_pass(autojump_clock: Any, bot: Bot, server: Server, answer: Any):
    await bot.start()
    server.script["sendMessage"].append(answer)
    with pytest.raises(ApiFailed) as caught:
        await bot.push("Hello")
    assert TOKEN not in str(caught.value)
    await bot.push("Hello")


@pytest.mark.parametrize("headers", [{"retry-after": "4"}, None])
async def test_a_server_that_wants_to_wait(autojump_clock: Any, bot: Bot, server: Server, headers: Any):
    await bot.start()
    server.script["sendMessage"].append(refused(429, "slow", headers))
    with pytest.raises(PushDeferred) as caught:
        await bot.push("Hello")
    assert caught.value.retry_after == (4.0 if headers else None)


async def test_a_group_that_moved(autojump_clock: Any, bot: Bot, server: Server):
    await bot.start()
    server.script["sendMessage"].append(refused(400, "upgraded to a supergroup", migrate_to_chat_id=-1005))
    await bot.push("one", conversation="-5")
    await bot.push("two", conversation="-5", delivery_id="d2")
    assert [one["chat_id"] for one in server.of("sendMessage")] == [-5, -1005, -1005]


async def test_markup_that_cannot_be_read_is_text(autojump_clock: Any, bot: Bot, server: Server):
    await bot.start(parse_mode="MarkdownV2")
    server.script["sendMessage"] += [refused(400, "Bad Request: can't parse entities: x")]
    await bot.push("a.b")
    assert server.of("sendMessage") == [
        {"chat_id": 7, "text": "a.b", "parse_mode": "MarkdownV2"},
        {"chat_id": 7, "text": "a.b"},
    ]


async def test_media_after_text(autojump_clock: Any, bot: Bot, server: Server):
    await bot.start()
    await bot.push(response(Content.from_data(b"png", "image/png"), "Look"))
    assert [method for method, _ in server.calls][-2:] == ["sendMessage", "sendPhoto"]
    assert server.files == [("photo", "file.png", "image/png", b"png")]
    assert server.of("sendPhoto") == [{"chat_id": "7"}]


@pytest.mark.parametrize("unknown", [True, False])
async def test_media_that_are_refused_are_files_and_then_words(
    autojump_clock: Any, bot: Bot, server: Server, unknown: bool
):
    for method in ("sendPhoto", "sendDocument"):
        if unknown:
            server.unknown.add(method)
        else:
            server.script[method].append(refused(400, "PHOTO_INVALID_DIMENSIONS"))
    await bot.start()
    await bot.push(response(Content.from_data(b"png", "image/png")))
    assert [method for method, _ in server.calls][-3:] == ["sendPhoto", "sendDocument", "sendMessage"]


async def test_a_group_that_allows_no_files_gets_words_and_the_rest(autojump_clock: Any, bot: Bot, server: Server):
    server.script["sendPhoto"].append(refused(400, "Bad Request: not enough rights to send photos to the chat"))
    server.script["sendDocument"].append(refused(400, "Bad Request: not enough rights to send documents to the chat"))
    await bot.start()
    call = Content.from_function_call("c", "tool", arguments="{}")
    question = Content.from_function_approval_request("q1", call)
    await bot.push(response(Content.from_data(b"png", "image/png"), question), conversation="-100")
    assert server.texts == [phrases.NO_FILE, "May I use tool?"]


async def test_a_group_that_allows_nothing(autojump_clock: Any, bot: Bot, server: Server):
    server.script["sendMessage"].append(refused(400, "Bad Request: not enough rights to send text messages"))
    await bot.start()
    with pytest.raises(PushRejected, match=r"^no_rights$"):
        await bot.push("Hi", conversation="-100")


async def test_a_text_that_the_server_finds_empty_is_passed_over(autojump_clock: Any, bot: Bot, server: Server):
    server.script["sendMessage"].append(refused(400, "Bad Request: text must be non-empty"))
    await bot.start()
    call = Content.from_function_call("c", "tool", arguments="{}")
    await bot.push(response("\u2800", Content.from_function_approval_request("q1", call)))
    assert server.texts == ["\u2800", "May I use tool?"]


@pytest.mark.parametrize("code", [403, 404])
async def test_a_gateways_page_is_no_verdict(autojump_clock: Any, bot: Bot, server: Server, code: int):
    server.script["sendMessage"].append(httpx.Response(code, text="<html>bot was blocked by the user</html>"))
    await bot.start(parse_mode="HTML")
    with pytest.raises(ApiFailed):
        await bot.push("Hi")
    assert len(server.texts) == 1


async def test_a_question_in_a_topic_has_buttons_that_know_it(autojump_clock: Any, bot: Bot, server: Server):
    await bot.start()
    call = Content.from_function_call("c", "tool", arguments="{}")
    await bot.push(response(Content.from_function_approval_request("q1", call)), conversation="-100:3")
    ((approve, _),) = server.of("sendMessage")[0]["reply_markup"]["inline_keyboard"]
    assert approve["callback_data"].endswith(":y:3")


async def test_media_into_a_chat_that_is_gone_are_not_tried_in_other_ways(
    autojump_clock: Any, bot: Bot, server: Server
):
    await bot.start()
    server.script["sendPhoto"].append(refused(403, "bot was blocked by the user"))
    with pytest.raises(PushRejected):
        await bot.push(response(Content.from_data(b"png", "image/png")))
    assert server.of("sendDocument", "sendMessage") == []


async def test_a_link_is_fetched_by_the_server_or_shown(autojump_clock: Any, bot: Bot, server: Server):
    await bot.start()
    server.script["sendPhoto"].append(refused(400, "wrong file identifier/HTTP URL specified"))
    await bot.push(response(Content.from_uri("https://x.org/a.png", media_type="image/png")))
    assert server.texts == ["https://x.org/a.png"]
