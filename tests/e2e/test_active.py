"""One person on Telegram and at an HTTP client: replies follow them, and a stranger's word reaches nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.sites import TOKEN, BotApi

PEOPLE = {"telegram:7": "ada", "ada": "ada", "cron": "ada", "eve": "eve", "telegram:8": "eve"}


@pytest.fixture
def api() -> Iterator[BotApi]:
    with BotApi() as made:
        yield made


@pytest.fixture
def start(servers: Any, api: BotApi, tmp_path: Path) -> Any:
    def start() -> Any:
        telegram = {"token": TOKEN, "api_base": api.url}
        # Ada's own client is vouched for by its run hook; "cron" is a program that works for her.
        return servers.channelled(
            tmp_path / "state", telegram=telegram, responses={}, people=PEOPLE, present=["ada", "eve"]
        )

    return start


def post(server: Any, text: str, user: str, target: Any = None, **more: Any) -> Any:
    body = {"input": text, "user": user, "response_target": target, **more}
    return server.http().post("/v1/responses", json=body)


def said(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["output"][0]["content"][0]["text"])


def test_replies_follow_their_user(start: Any, api: BotApi, until: Any) -> None:
    server = start()
    api.say(7, "on my way")
    until(lambda: api.seen(7) == ["1: on my way"], "an answer")

    # She is on Telegram: so that is where the program's message goes, too; and its caller has the response.
    assert said(post(server, "report", "cron", "active")) == "2: report"
    until(lambda: api.seen(7)[1:] == ["2: report"], "the reply")

    # She sits down at her client. That cannot be pushed to: the wire is the way back, and her phone stays quiet.
    assert said(post(server, "at my desk", "ada", "active")) == "3: at my desk"
    assert said(post(server, "report again", "cron", "active")) == "4: report again"

    # She leaves again.
    api.say(7, "off again")
    until(lambda: api.seen(7)[2:] == ["5: off again"], "an answer")
    server.kill()
    server = start()  # whom the actor knows is on disk
    assert said(post(server, "last report", "cron", "active")) == "6: last report"
    until(lambda: api.seen(7)[-1] == "6: last report", "the reply")
    assert "3: at my desk" not in api.seen(7)
    assert "4: report again" not in api.seen(7)
    assert server.stop() == 0


def test_targets_by_name(start: Any, api: BotApi, until: Any) -> None:
    server = start()
    api.say(7, "hello")
    until(lambda: len(api.seen(7)) == 1, "an answer")
    assert said(post(server, "to all", "ada", {"kind": "all_linked", "echo_input": True})) == "2: to all"
    until(lambda: api.seen(7)[1:] == ["You wrote: to all", "2: to all"], "echo and reply")
    hers = {"identities": [{"channel": "telegram", "native_id": "7"}]}
    assert said(post(server, "to me", "ada", hers)) == "3: to me"
    until(lambda: api.seen(7)[3:] == ["3: to me"], "the reply")
    begun = post(server, "in the background", "cron", {"channels": ["telegram", "nowhere"]}, background=True)
    assert begun.json()["status"] in ("queued", "in_progress", "completed")
    until(lambda: api.seen(7)[4:] == ["4: in the background"], "the reply")
    quiet = post(server, "for nobody", "cron", "none", background=True)
    done = until(lambda: fetched(server, quiet.json()["id"]), "it has ended")
    assert done["output"][0]["content"][0]["text"] == "5: for nobody"
    assert len(api.seen(7)) == 5


def fetched(server: Any, name: str) -> Any:
    found = server.http().get(f"/v1/responses/{name}").json()
    return found if found["status"] == "completed" else None


def test_nobody_writes_to_others(start: Any, api: BotApi, until: Any) -> None:
    server = start()
    api.say(7, "hello")
    until(lambda: len(api.seen(7)) == 1, "an answer")
    ada = {"identities": [{"channel": "telegram", "native_id": "7"}]}
    for user, more in (("eve", {}), ("eve", {"background": True}), ("somebody", {}), ("somebody", {"stream": True})):
        refused = post(server, "psst", user, ada, **more)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_your_identity"), user
    assert said(post(server, "to whom?", "eve", {"channel": "telegram"})) == "1: to whom?"
    assert post(server, "psst", "eve", "none").json()["error"]["param"] == "response_target"
    api.say(7, "still here?")
    until(lambda: api.seen(7) == ["1: hello", "2: still here?"], "nothing else came")
