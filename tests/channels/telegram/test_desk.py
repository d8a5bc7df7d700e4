"""What becomes of a message on its way to the runtime: commands, groups, files, questions, and who may come in."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio
from agent_framework import Content

from afactors_channels import (
    BadRequest,
    ChannelIdentity,
    Conflicting,
    NotAllowed,
    Question,
    TargetFailed,
    Unprocessable,
)
from afactors_channels.pushes import ChannelCommand, ChannelCommandContext
from afactors_channels.telegram import phrases
from tests.channels.telegram.fakes import ANN, BOB, GROUP, ME, Bot, Context, Server, message, press, refused, response

TOPIC: dict[str, Any] = {"chat": GROUP, "message_thread_id": 3, "is_topic_message": True}


def to_bot(text: str, **more: Any) -> dict[str, Any]:
    entity = {"type": "mention", "offset": 0, "length": 8}
    return message(f"@the_bot {text}", entities=[entity], **({"chat": GROUP} | more))


# --- groups and scopes


async def test_in_groups_only_what_is_said_to_the_bot(autojump_clock: Any, bot: Bot, context: Context):
    await bot.start()
    await bot.hear(message("Hi", chat=GROUP), to_bot("Hello"))
    assert context.said == ["Hello"]
    assert context.inputs[0]["author_name"] == "Ann Lee"
    (run,) = context.runs
    assert run.request.identity == ChannelIdentity(
        "telegram", "7", {"name": "Ann Lee", "username": "ann", "language": "en"}, "-100", verified=True
    )


@pytest.mark.parametrize(
    ("scope", "private", "topic"),
    [
        (None, "7", "chat:-100:3"),
        ("user", "7", "7"),
        ("conversation", "chat:7", "chat:-100:3"),
        ("both", "chat:7:user:7", "chat:-100:3:user:7"),
    ],
)
async def test_whose_actor(autojump_clock: Any, bot: Bot, context: Context, scope: Any, private: str, topic: str):
    await bot.start(scope=scope)
    await bot.hear(message("Hi"), to_bot("Hi", **TOPIC))
    assert [run.request.session.isolation_key for run in context.runs] == [f"telegram:{private}", f"telegram:{topic}"]
    assert [one.native_id for one in context.resolved] == [private, topic]
    assert context.runs[1].request.identity is not None
    assert (context.runs[1].request.identity.native_id, context.runs[1].request.identity.conversation) == (
        "7",
        "-100:3",
    )


async def test_groups_wait_until_the_bot_knows_its_name(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    server.script["getMe"] += [httpx.ConnectError("no")] * 6
    await bot.start()
    await bot.hear(message("Hi"))
    status, headers = await bot.hook(to_bot("Hello"))
    assert (status, headers["retry-after"]) == (503, "5")
    await trio.sleep(120)
    await bot.hear(to_bot("Hello"))
    assert context.said == ["Hi", "Hello"]


# --- commands


async def test_a_new_conversation(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    await bot.hear(message("/new"), message("/new@the_bot", **TOPIC), message("/new@other", **TOPIC))
    assert context.resets == ["telegram:7", "telegram:chat:-100:3"]
    assert sorted(map(str, server.of("sendMessage"))) == sorted(
        map(
            str,
            [
                {"chat_id": 7, "text": phrases.NEW},
                {"chat_id": -100, "message_thread_id": 3, "text": phrases.NEW},
            ],
        )
    )
    assert context.runs == []


@pytest.mark.parametrize(("cancelled", "answer"), [(1, phrases.CANCELLED), (0, phrases.NOTHING_RUNS)])
async def test_cancelling(autojump_clock: Any, bot: Bot, server: Server, context: Context, cancelled: int, answer: str):
    context.cancelled = cancelled
    await bot.start()
    await bot.hear(message("/cancel"))
    assert (context.cancels, server.texts) == (["telegram:7"], [answer])


async def test_a_repeated_command_is_dropped(autojump_clock: Any, bot: Bot, context: Context):
    await bot.start()
    update = message("/new")
    await bot.hear(update, update)
    assert len(context.resets) == 1


async def test_a_command_of_another_life_is_known(
    autojump_clock: Any, bot: Bot, other: Bot, server: Server, context: Context
):
    updates = [message("/new"), message("/cancel"), message("/help"), message("hello")]
    await bot.start()
    await bot.hear(*updates)
    said = list(server.texts)
    await other.start()
    await other.hear(*updates)
    assert (context.resets, context.cancels, context.said) == (["telegram:7"], ["telegram:7"], ["hello"])
    assert server.texts == said


async def test_the_policy_is_asked_about_commands(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    context.forbidden = NotAllowed("internals")
    await bot.start()
    await bot.hear(message("/cancel"), message("/new"))
    assert (context.cancels, context.resets, server.texts) == ([], [], [phrases.NOT_ALLOWED])
    context.forbidden = None
    await bot.hear(message("/cancel"))
    assert [one.attributes["command"] for one in context.admitted] == ["cancel"]


async def test_what_was_refused_in_another_life_is_not_done(
    autojump_clock: Any, bot: Bot, other: Bot, server: Server, context: Context
):
    update = message("delete everything")
    context.refusals.append(Conflicting("x", code="session_busy"))
    await bot.start()
    await bot.hear(update)
    await other.start()
    await other.hear(update)
    assert (context.said, len(server.texts)) == ([], 1)


async def test_commands_of_the_application(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    told: list[ChannelCommandContext] = []

    async def weather(command: ChannelCommandContext) -> str | None:
        told.append(command)
        return f"In {command.arguments}: rain" if command.arguments else None

    async def breaks(_: ChannelCommandContext) -> str | None:
        raise RuntimeError("internals")

    async def denies(_: ChannelCommandContext) -> str | None:
        raise BadRequest("internals")

    given = [ChannelCommand(one.__name__, "x", one) for one in (weather, breaks, denies)]
    await bot.start(commands=given, greeting="Welcome!")
    await bot.hear(message("/weather  Bern"), message("/weather"), message("/breaks"), message("/denies"))
    assert (told[0].isolation_key, told[0].host, told[0].identity.native_id) == ("telegram:7", context, "7")
    assert sorted(server.texts) == sorted(["In Bern: rain", phrases.FAILED, phrases.refusal(BadRequest(""))])
    await bot.hear(message("/start"), message("/help"))
    assert "Welcome!" in server.texts
    assert any("/weather: x" in text and "/cancel" in text and "/start" not in text for text in server.texts)
    (registered,) = server.of("setMyCommands")
    assert {one["command"] for one in registered["commands"]} == {
        "new",
        "cancel",
        "help",
        "weather",
        "breaks",
        "denies",
    }


async def test_an_answer_is_tried_once_more(autojump_clock: Any, bot: Bot, server: Server):
    server.script["sendMessage"] += [httpx.ConnectError("no")]
    await bot.start()
    await bot.hear(message("/start"))
    await trio.sleep(2)
    server.script["sendMessage"] += [refused(429, "slow", retry_after=3), refused(400, "no")]
    await bot.hear(message("/start"))
    await trio.sleep(60)
    await bot.hear(message("/start"))
    assert server.texts == [phrases.GREETING] * 5


# --- who may come in


async def test_a_list_of_who_may(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start(allow=[8, "@Ann", -100])
    eve = {"id": 9, "first_name": "Eve"}
    await bot.hear(message("Ann"), message("Bob", sender=BOB), message("Eve", sender=eve), to_bot("Eve", sender=eve))
    assert context.said == ["Ann", "Bob", "Eve"]
    assert server.of("sendMessage") == [{"chat_id": 9, "text": phrases.NOT_ALLOWED}]


async def test_who_may_not_is_told_once_an_hour_and_not_in_groups(autojump_clock: Any, bot: Bot, server: Server):
    await bot.start(allow=[8])
    await bot.hear(message("Hi"), message("/new"), message("Hi"), to_bot("Hi"), press("x"))
    assert server.texts == [phrases.NOT_ALLOWED]
    await trio.sleep(3601)
    await bot.hear(message("Hi"))
    assert len(server.texts) == 2


async def _may(identity: ChannelIdentity) -> bool:
    await trio.lowlevel.checkpoint()
    return identity.native_id == "8"


@pytest.mark.parametrize(("allow", "said"), [(_may, ["Bob"]), (lambda one: one.native_id == "7", ["Ann"])])
async def test_somebody_who_decides(
    autojump_clock: Any, bot: Bot, context: Context, allow: Callable[..., Any], said: list[str]
):
    await bot.start(allow=allow)
    await bot.hear(message("Ann"), message("Bob", sender=BOB))
    assert context.said == said


async def test_who_cannot_decide_is_asked_again(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    verdicts = [RuntimeError("internals"), True]

    def decide(_: ChannelIdentity) -> bool:
        verdict = verdicts.pop(0)
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    await bot.start(allow=decide)
    update = message("hello")
    assert (await bot.hook(update))[0] == 500
    await bot.hear(update)
    assert (context.said, server.texts) == (["hello"], [])


# --- refusals of the runtime


@pytest.mark.parametrize(
    ("refusal", "answer"),
    [
        (Conflicting("x", code="session_busy"), "busy"),
        (Unprocessable("internals"), "Sorry"),
        (TargetFailed("internals", code="run_hook_failed"), "went wrong"),
        (NotAllowed("internals", code="link_required", status=403), "link your account"),
    ],
)
async def test_a_refusal_is_told_and_acknowledged(
    autojump_clock: Any, bot: Bot, server: Server, context: Context, refusal: Any, answer: str
):
    await bot.start()
    context.refusals.append(refusal)
    await bot.hear(message("Hi"))
    (text,) = server.texts
    assert answer in text
    assert "internals" not in text


async def test_what_may_not_is_not_told_in_groups(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    context.denied = NotAllowed("no")
    await bot.hear(to_bot("Hi"))
    assert server.texts == []


# --- files


async def test_a_photo(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    server.stored = {"small": b"s", "large": b"large"}
    await bot.start(max_download=100)
    sizes = [
        {"file_id": "small", "file_size": 1},
        {"file_id": "large", "file_size": 5},
        {"file_id": "huge", "file_size": 101},
    ]
    await bot.hear(message(caption="Look", photo=sizes))
    text, photo = context.inputs[0]["contents"]
    assert text["text"] == "Look"
    assert photo["media_type"] == "image/jpeg"
    assert photo["uri"] == "data:image/jpeg;base64," + base64.b64encode(b"large").decode()
    assert Content.from_dict(photo).type == "data"


@pytest.mark.parametrize(
    ("document", "stored", "note"),
    [
        ({"file_id": "f", "file_size": 101, "file_name": "a.pdf"}, b"x" * 101, "larger than 100"),
        ({"file_id": "f"}, b"x" * 101, "larger than 100"),
        ({"file_id": "f"}, None, "could not be fetched"),
    ],
)
async def test_a_file_that_cannot_be_had(
    autojump_clock: Any, bot: Bot, server: Server, context: Context, document: Any, stored: bytes | None, note: str
):
    server.stored = {} if stored is None else {"f": stored}
    await bot.start(max_download=100)
    await bot.hear(message(document=document))
    (content,) = context.inputs[0]["contents"]
    assert note in content["text"]


async def test_servers_without_files(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    server.unknown.add("getFile")
    server.script["getFile"] += [httpx.ConnectError("no")]
    await bot.start()
    await bot.hear(message(voice={"file_id": "v"}), message(sticker={"file_id": "s", "is_video": True, "emoji": "😀"}))
    assert ["could not be fetched" in context.said[0], "😀" in context.said[1]] == [True, True]


# --- questions


def question(question_id: str, kind: Any = "input", data: Any = "How much?", name: str = "request_info") -> Question:
    return Question(question_id, kind, name, {"data": data}, 0.0, 1.0)


async def asked(bot: Bot, server: Server, content: Content) -> dict[str, str]:
    """Deliver a question; returns its buttons."""
    await bot.push(response(content), delivery_id=str(content.id))
    markup = server.of("sendMessage")[-1]["reply_markup"]
    return {one["text"]: one["callback_data"] for one in markup["inline_keyboard"][0]}


APPROVAL = Content.from_function_approval_request("q1", Content.from_function_call("c", "tool", arguments="{}"))


@pytest.mark.parametrize(("word", "approved"), [("Approve", True), ("Reject", False)])
async def test_an_approval(autojump_clock: Any, bot: Bot, server: Server, context: Context, word: str, approved: bool):
    await bot.start()
    context.questions = [question("q0", "approval"), question("q1", "approval", name="tool")]
    buttons = await asked(bot, server, APPROVAL)
    await bot.hear(press(buttons[word], message_id=500))
    (answer,) = context.inputs
    assert answer["contents"] == [{"type": "function_approval_response", "id": "q1", "approved": approved}]
    assert context.asked_about[0].session.isolation_key == "telegram:7"
    assert server.of("answerCallbackQuery") == [{"callback_query_id": "q"}]
    context.runs[0].end()
    await bot.quiet()
    assert server.of("editMessageReplyMarkup") == [{"chat_id": 7, "message_id": 500}]


async def test_a_question_that_nobody_asks_any_more(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    buttons = await asked(bot, server, APPROVAL)
    await bot.hear(press(buttons["Approve"]))
    context.questions = [question("q2", "approval")]
    await bot.hear(press(buttons["Approve"]))
    assert context.offered == []
    assert [one["text"] for one in server.of("answerCallbackQuery")] == [phrases.NOT_YOURS] * 2


@pytest.mark.parametrize("code", ["question_answered", "question_expired"])
async def test_an_answer_that_comes_too_late(
    autojump_clock: Any, bot: Bot, server: Server, context: Context, code: str
):
    await bot.start()
    context.questions = [question("q1", "approval")]
    context.refusals.append(Conflicting("internals", code=code))
    buttons = await asked(bot, server, APPROVAL)
    await bot.hear(press(buttons["Approve"]))
    assert server.of("answerCallbackQuery")[0]["text"] == phrases.refusal(Conflicting("", code=code))


async def test_a_button_of_the_application_is_text(autojump_clock: Any, bot: Bot, context: Context):
    await bot.start()
    await bot.hear(press("red"))
    assert context.said == ["red"]


async def test_a_text_answers_the_one_question_that_waits(autojump_clock: Any, bot: Bot, context: Context):
    await bot.start()
    context.questions = [question("r1")]
    context.refusals.append(Conflicting("x", code="question_open"))
    await bot.hear(message("Five"))
    (answer,) = context.inputs
    assert (answer["role"], answer["contents"]) == (
        "tool",
        [{"type": "function_result", "call_id": "r1", "result": "Five"}],
    )


async def test_a_text_answers_the_question_that_it_replies_to(
    autojump_clock: Any, bot: Bot, server: Server, context: Context
):
    await bot.start()
    context.questions = [question("r1"), question("r2", data="When?")]
    content = Content.from_function_call("r2", "request_info", arguments={"data": "When?"})
    content.user_input_request = True
    await bot.push(response(content), conversation="-100")
    context.refusals.append(Conflicting("x", code="question_open"))
    quoted = {"message_id": 500, "from": ME, "chat": GROUP, "text": server.texts[-1]}
    await bot.hear(message("Now", chat=GROUP, reply_to_message=quoted, sender=BOB))
    assert context.inputs[0]["contents"][0]["call_id"] == "r2"


async def test_a_text_that_answers_nothing_is_refused(autojump_clock: Any, bot: Bot, server: Server, context: Context):
    await bot.start()
    context.questions = [question("r1"), question("r2")]
    context.refusals.append(Conflicting("x", code="question_open"))
    await bot.hear(message("Five", sender=ANN))
    assert context.runs == []
    assert "answer my question first" in server.texts[0]
