"""A Telegram bot as a process: conversations, crashes and refusals, over real HTTP.

Always against a small Bot API of our own; and against the npm package `telegram-test-api` where
`AFACTORS_TELEGRAM_FAKE` names a folder that it is installed in.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.sites import TOKEN, BotApi, private, refused

CHATS = 30
SEED = random.randrange(2**32)  # noqa: S311 - moments of death; a failure tells it


def free_port() -> int:
    """A port that nobody has: a webhook has to be at the same address after a restart."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Bot:
    """The bot's process, by polling or by webhook; it can be started again."""

    def __init__(self, servers: Any, state: Path, api: BotApi, *, webhook: bool = False, **options: Any) -> None:
        self._servers = servers
        self._state = state
        self._port = free_port() if webhook else 0
        hook = {"webhook_url": f"http://127.0.0.1:{self._port}/telegram/webhook", "secret": "s3cret"}
        self._options = {"token": TOKEN, "api_base": api.url, **(hook if webhook else {}), **options}

    def start(self) -> Any:
        return self._servers.channelled(self._state, port=self._port, telegram=self._options)


@pytest.fixture
def api() -> Iterator[BotApi]:
    with BotApi() as made:
        yield made


def texts(api: BotApi, chat: int, count: int) -> list[str] | None:
    """The texts in a chat, once there are so many."""
    seen = api.seen(chat)
    return seen if len(seen) >= count else None


@pytest.mark.parametrize("webhook", [False, True], ids=["polling", "webhook"])
def test_a_conversation(servers: Any, api: BotApi, tmp_path: Path, until: Any, webhook: bool) -> None:
    bot = Bot(servers, tmp_path / "state", api, webhook=webhook)
    server = bot.start()
    for number, text in enumerate(["hello", "again"], 1):
        api.say(7, text)
        assert until(lambda n=number: texts(api, 7, n), "an answer")[-1] == f"{number}: {text}"
    api.say(8, "somebody else")
    assert until(lambda: texts(api, 8, 1), "another answer") == ["1: somebody else"]
    until(lambda: api.unconfirmed == 0, "all is confirmed")
    assert server.stop() == 0

    # What is said while it is away is answered when it is back, and the conversation goes on.
    api.say(7, "while you were away")
    server = bot.start()
    assert until(lambda: texts(api, 7, 3), "the answer")[2:] == ["3: while you were away"]
    assert server.stop() == 0
    assert api.unconfirmed == 0


def test_a_webhook_that_anybody_could_write_to(servers: Any, api: BotApi, tmp_path: Path) -> None:
    server = Bot(servers, tmp_path / "state", api, webhook=True).start()
    update = {"update_id": 1, "message": {"message_id": 1, "chat": private(7), "from": {"id": 7}, "text": "x"}}
    for secret in ({}, {"x-telegram-bot-api-secret-token": "guessed"}):
        answer = server.http().post("/telegram/webhook", json=update, headers=secret)
        assert answer.status_code == 401
    assert server.journal() == []
    assert TOKEN.partition(":")[2] not in server.stderr


def test_commands(servers: Any, api: BotApi, tmp_path: Path, until: Any) -> None:
    server = Bot(servers, tmp_path / "state", api).start()
    api.say(7, "one")
    until(lambda: texts(api, 7, 1), "an answer")
    api.say(7, "/new")
    until(lambda: texts(api, 7, 2), "the command's answer")
    api.say(7, "two")
    assert until(lambda: texts(api, 7, 3), "an answer")[2] == "1: two"  # it counts anew
    api.say(7, "forever please")
    server.happened("start", "forever please")
    api.say(7, "/cancel")
    assert until(lambda: texts(api, 7, 4), "the command's answer")[3] == "Cancelled."
    server.happened("cancelled", "forever please")
    api.say(7, "three")
    assert until(lambda: texts(api, 7, 5), "an answer")[4] == "2: three"
    api.say(7, "/help")
    assert "/new" in until(lambda: texts(api, 7, 6), "help")[5]


def test_commands_that_come_again_after_a_kill_are_not_done_again(
    servers: Any, api: BotApi, tmp_path: Path, until: Any
) -> None:
    api.confirms = False
    bot = Bot(servers, tmp_path / "state", api)
    server = bot.start()
    said = ["one", "/new", "two", "/cancel", "three"]
    for number, text in enumerate(said, 1):
        api.say(7, text)
        until(lambda n=number: texts(api, 7, n), f"an answer to {text}")
    server.kill()
    seen = list(api.seen(7))
    assert seen[2] == "1: two"
    assert seen[4] == "2: three"
    api.confirms = True
    server = bot.start()
    api.say(7, "four")
    until(lambda: "3: four" in api.seen(7), "the answer")
    until(lambda: api.unconfirmed == 0, "all is confirmed")
    assert server.stop() == 0
    # The last answer may have been on its way when the server was killed: then it comes twice.
    assert [text for text, _ in itertools.groupby(api.seen(7))] == [*seen, "3: four"]


def test_what_fails_is_told_and_tells_nothing(servers: Any, api: BotApi, tmp_path: Path, until: Any) -> None:
    Bot(servers, tmp_path / "state", api).start()
    api.say(7, "fail pssst")
    (text,) = until(lambda: texts(api, 7, 1), "an answer")
    assert text.startswith("Sorry, something went wrong")
    api.say(7, "hello")
    assert until(lambda: texts(api, 7, 2), "an answer")[1] == "1: hello"


def test_a_message_that_kills_is_given_up_and_told(servers: Any, api: BotApi, tmp_path: Path, until: Any) -> None:
    bot = Bot(servers, tmp_path / "state", api)
    server = bot.start()
    api.say(7, "call vanish")
    api.say(7, "and then?")
    lives = [server]
    for _ in range(3):  # `max_attempts`
        lives[-1].wait()
        lives.append(bot.start())
    first, second = until(lambda: texts(api, 7, 2), "both answers")
    assert first.startswith("Sorry, something went wrong")
    assert second == "1: and then?"
    until(lambda: api.unconfirmed == 0, "what comes again is confirmed")
    assert [len(life.journal("vanish")) for life in lives] == [1, 1, 1, 0]
    assert lives[-1].stop() == 0
    assert len(texts(api, 7, 0)) == 2


@pytest.mark.parametrize(("choice", "end"), [("Approve", 'results: ["sda is empty"]'), ("Reject", "results: ")])
def test_a_question_outlives_the_process(
    servers: Any, api: BotApi, tmp_path: Path, until: Any, choice: str, end: str
) -> None:
    bot = Bot(servers, tmp_path / "state", api)
    server = bot.start()
    api.say(7, 'call wipe {"disk": "sda"}')
    until(lambda: texts(api, 7, 1), "the question")
    question = api.messages[7][0]
    assert question["text"].startswith("May I use wipe?")
    server.kill()
    server = bot.start()
    api.press(8, question, choice)  # not theirs: they have another conversation
    api.press(7, question, choice)
    # Killed before it could note that the question had arrived, it asks again, and only the answer counts.
    answer = until(lambda: [text for text in api.seen(7) if text.startswith("results: ")], "the answer")[0]
    assert answer.startswith(end)
    assert ("sda is empty" in answer) == (choice == "Approve")
    until(lambda: question["reply_markup"] is None, "the buttons are gone")
    assert len(server.journal("sda")) == (choice == "Approve")
    assert api.seen(8) == []


def test_a_long_reply_through_429s(servers: Any, api: BotApi, tmp_path: Path, until: Any) -> None:
    Bot(servers, tmp_path / "state", api).start()
    slow = refused(429, "Too Many Requests: retry after 1", retry_after=1)
    api.refuse("sendMessage", slow, slow)
    began = time.monotonic()
    api.say(7, "pour 4")
    api.say(7, "and then?")
    seen = until(lambda: (found := api.seen(7)) and found[-1] == "2: and then?" and found, "both answers")
    assert time.monotonic() - began >= 2
    whole = "".join(seen[:-1])
    assert all(len(text) <= 4096 for text in seen)
    assert whole.count("x") == 4 * 4088
    assert re.findall(r"\d{8}", whole) == [f"{number:08d}" for number in range(4)]


def test_a_reply_grows_in_a_group(servers: Any, api: BotApi, tmp_path: Path, until: Any) -> None:
    server = Bot(servers, tmp_path / "state", api, edit_interval=1.0).start()
    group = {"id": -100, "type": "supergroup", "title": "Group"}
    mention = {"entities": [{"type": "mention", "offset": 0, "length": 8}]}
    steps = tmp_path / "steps"
    steps.write_text(".")
    api.say(8, "nothing for you", group)
    api.say(7, f"@the_bot steps {steps}", group, **mention)
    first = until(lambda: texts(api, -100, 1), "the first word")[0]
    steps.write_text("..")
    until(lambda: len(api.seen(-100)[0]) > len(first), "it grows")
    steps.write_text("..\n")
    until(lambda: api.seen(-100)[0].endswith("end"), "the end")
    assert len(api.seen(-100)) == 1
    assert api.count("editMessageText") >= 2
    assert not server.journal("nothing for you")


@pytest.mark.parametrize("webhook", [False, True], ids=["polling", "webhook"])
def test_sigkill_loses_nothing(servers: Any, tmp_path: Path, until: Any, webhook: bool) -> None:
    """Every message is answered at least once, each chat's in their order, and no turn runs twice in its history."""
    chance = random.Random(SEED)  # noqa: S311
    said = [f"slowly 0.0{chance.randrange(1, 9)} chat {chat}/{n}" for n in range(1, 4) for chat in range(1, CHATS + 1)]
    with BotApi(twice=5) as api:
        bot = Bot(servers, tmp_path / "state", api, webhook=webhook)
        for number, part in enumerate([said[at : at + CHATS] for at in range(0, len(said), CHATS)]):
            server = bot.start()
            for text in part:
                chat = int(re.findall(r"chat (\d+)", text)[0])
                api.say(chat, text)
            before, some = answered(api), CHATS // 3
            until(lambda n=before + some: answered(api) >= n, f"some answers; seed {SEED}")
            time.sleep(chance.uniform(0, 0.2))
            if number < 2:
                server.kill()
        for chat in range(1, CHATS + 1):
            mine = [text for text in said if f"chat {chat}/" in text]
            wanted = [f"{n}: {text}" for n, text in enumerate(mine, 1)]
            until(lambda c=chat, last=wanted[-1]: last in api.seen(c), f"chat {chat} is answered; seed {SEED}")
            # A crash between the server's answer and its record: then the same message comes again, at once.
            assert [text for text, _ in itertools.groupby(api.seen(chat))] == wanted, f"seed {SEED}"
        repeats = answered(api) - len(said)
        assert repeats <= 2 * 16, "no more than what was under way when it was killed"
        until(lambda: api.unconfirmed == 0, "all is confirmed")
        assert server.stop() == 0


def answered(api: BotApi) -> int:
    return sum(len(api.seen(chat)) for chat in range(1, CHATS + 1))


# -- somebody else's fake


class Fake:
    """`telegram-test-api`: HTTP for the bot, and HTTP for its users."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        program = (
            "const T = require('telegram-test-api'); const S = T.default || T.TelegramServer || T;"
            f"new S({{port: {self.port}, host: '127.0.0.1', storeTimeout: 600}}).start();"
        )
        self.process = subprocess.Popen(["node", "-e", program], cwd=folder, stdin=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{self.port}"
        self._client = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def post(self, path: str, **body: Any) -> Any:
        return self._client.post(path, json=body).json()

    def up(self) -> bool:
        try:
            return bool(self.post(f"/bot{TOKEN}/getMe")["ok"])
        except httpx.TransportError:
            return False

    def say(self, user: int, text: str, path: str = "/sendMessage", **more: Any) -> None:
        sender = {"id": user, "first_name": "Ada", "username": "ada", "is_bot": False}
        self.post(path, botToken=TOKEN, date=1, text=text, chat=private(user), **{"from": sender}, **more)

    def seen(self, chat: int) -> list[Any]:
        """The bot's messages."""
        history = self.post("/getUpdatesHistory", token=TOKEN)
        said = [one["message"] for one in history["result"]] if isinstance(history, dict) else []
        return [one for one in said if str(one.get("chat_id")) == str(chat)]

    def close(self) -> None:
        self._client.close()
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def fake(until: Callable[..., Any]) -> Iterator[Fake]:
    folder = os.environ.get("AFACTORS_TELEGRAM_FAKE")
    if not folder:
        pytest.skip("AFACTORS_TELEGRAM_FAKE names no folder with the npm package telegram-test-api")
    if shutil.which("node") is None:
        pytest.skip("there is no node")
    if not (Path(folder) / "node_modules" / "telegram-test-api").is_dir():
        pytest.skip("the package telegram-test-api is not in AFACTORS_TELEGRAM_FAKE")
    made = Fake(Path(folder))
    try:
        until(made.up, "the fake is up")
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("webhook", [False, True], ids=["polling", "webhook"])
def test_somebody_elses_server(servers: Any, fake: Any, tmp_path: Path, until: Any, webhook: bool) -> None:
    # It sends no secret to webhooks, and knows neither drafts, nor typing, nor commands.
    options = {"secret": None, "require_secret": False} if webhook else {}
    server = Bot(servers, tmp_path / "state", fake, webhook=webhook, **options).start()
    if webhook:
        until(lambda: "updates are sent to the webhook" in server.stderr, "it is registered")
    for number, text in enumerate(["hello", "again"], 1):
        fake.say(7, text)
        until(lambda n=number: len(fake.seen(7)) == n, "an answer")
    fake.say(7, "/new", "/sendCommand", entities=[{"type": "bot_command", "offset": 0, "length": 4}])
    until(lambda: len(fake.seen(7)) == 3, "the command's answer")
    fake.say(7, "pour 2")
    until(lambda: sum(one["text"].count("x") for one in fake.seen(7)) == 2 * 4088, "a long answer")
    said = [one["text"] for one in fake.seen(7)]
    assert said[:2] == ["1: hello", "2: again"]
    assert "new conversation" in said[2]
    assert server.stop() == 0
