"""Deleting runs: what a point reached goes with the last point that reached it, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from agent_framework import AgentSession
from trio.abc import Clock

from afactors_channels import ChannelIdentity, ChannelRequest, NotFound, PushRejected, ResponseTarget, SessionEdit
from tests.runtime.conftest import messages_in
from tests.runtime.outgoing import Taker, down, one_clock


def stored(house: Any, text: str) -> int:
    """How many rows of the store hold a text."""
    engine = house.store._open_here().engine
    return sum(
        text.encode() in value for value in engine.read(lambda kv: [value for _, value in kv.scan(b"", b"\xff")])
    )


async def say(house: Any, text: str, name: str, after: str | None = None) -> str:
    return await house.ask(text, key=None, name=name, after=after)


async def test_messages_go_with_the_last_point_that_reached_them(autojump_clock: Clock, house: Any):
    async with house.open() as runtime:
        for text, name, after in (("one", "r1", None), ("two", "r2", "r1"), ("three", "r3", "r2")):
            await say(house, text, name, after)
        await runtime.forget("r2")
        assert stored(house, "two") > 0  # r3 came after it
        await runtime.forget("r3")
        assert stored(house, "three") == 0
        assert stored(house, "two") == 0
        assert await say(house, "four", "r4", "r1") == "one four"
        for gone in ("r2", "r3"):
            with pytest.raises(NotFound):
                await say(house, "five", "r5", gone)


async def test_a_branch_keeps_what_it_shares(autojump_clock: Clock, house: Any):
    async with house.open() as runtime:
        await say(house, "one", "r1")
        await say(house, "two", "r2", "r1")
        await say(house, "other", "b1", "r1")
        await runtime.forget("r1")
        await runtime.forget("r2")
        assert stored(house, "two") == 0
        assert await say(house, "more", "b2", "b1") == "one other more"


async def test_the_last_name_of_a_thread_takes_everything_along(autojump_clock: Clock, house: Any):
    async with house.open() as runtime:
        await say(house, "one", "r1")
        await say(house, "two", "r2", "r1")
        await runtime.forget("r1")
        await runtime.forget("r2")
        assert await house.store.keys() == []
        assert stored(house, "one") == 0
        assert await say(house, "again", "r1") == "again"


async def test_a_conversation_with_a_name_of_its_own_stays(autojump_clock: Clock, house: Any):
    async with house.open() as runtime:
        await house.ask("one", "talk", key=None, name="r1")
        await runtime.forget("r1")
        assert await house.ask("two", "talk", key=None, name="r2") == "one two"


async def test_a_conversation_leaves_nothing_of_responses_that_were_deleted_before_it(
    autojump_clock: Clock, house: Any
):
    async with house.open() as runtime:
        await house.ask("kept", "other")
        await house.ask("one", "talk", name="r1")
        await house.ask("two", "talk", name="r2")
        await house.ask("branch", after="r1", name="r3")
        await runtime.forget("r1")
        await runtime.forget("r2")
        await runtime.edit_session(house.request("", "talk"), SessionEdit(delete=True))
        assert stored(house, "two") == 0
        assert await house.ask("more", after="r3", name="r4") == "one branch more"
        await runtime.forget("r3")
        await runtime.forget("r4")
        assert stored(house, "one") == 0


@pytest.mark.parametrize("named", [True, False])
async def test_an_item_goes_once_no_name_leads_to_it(autojump_clock: Clock, house: Any, named: bool):
    async with house.open() as runtime:
        house.target.on.update(dict.fromkeys(("one", "two"), _hello))
        await house.ask("one", "talk", name="r1" if named else None)
        await house.ask("two", "talk", name="r2" if named else None)
        for name in ("r1", "r2") if named else ():
            await runtime.forget(name)
        for text in ("two", "one"):  # the later first: what is before it stays where it is
            session = await runtime.get_session(house.request("", "talk"))
            (found,) = (
                one for one, said in zip(session.messages, house.said(session.messages), strict=True) if said == text
            )
            await runtime.edit_session(house.request("", "talk"), SessionEdit(remove=[(found["message_id"], ())]))
            assert stored(house, text) == 0
        assert house.said((await runtime.get_session(house.request("", "talk"))).messages) == ["hello", "hello"]


async def test_a_limit_is_one_also_where_each_response_is_deleted(autojump_clock: Clock, house: Any):
    async with house.open(max_history_messages=2) as runtime:
        house.target.on.update({f"text-{number}.": _hello for number in range(9)})
        for number in range(9):
            await house.ask(f"text-{number}.", "talk", name=f"r{number}")
            if number:
                await runtime.forget(f"r{number - 1}")
        assert [number for number in range(9) if stored(house, f"text-{number}.")] == [8]


async def test_what_turns_without_a_name_leave_behind_goes(autojump_clock: Clock, house: Any):
    """Though names lead to what the conversation was before them."""

    async def squeeze(_request: ChannelRequest, session: AgentSession | None) -> str:
        assert session is not None
        del messages_in(session)[:-1]
        return "squeezed"

    async with house.open() as runtime:
        await house.ask("one", "talk", name="r1")
        for text in ("two", "three"):
            house.target.on[text] = squeeze
            await house.ask(text, "talk")
        assert stored(house, "two") == 0
        assert house.said((await runtime.get_session(house.request("", after="r1"))).messages) == ["three", "squeezed"]
        assert await house.ask("more", after="r1") == "one more"


async def test_a_response_of_another_thread_takes_nothing_along(autojump_clock: Clock, house: Any):
    async with house.open() as runtime:
        await house.ask("one", name="r1")
        await house.ask("two", after="r1")  # without a name: a reminder, say
        await house.ask("other", name="r2")
        await runtime.forget("r2")
        session = await runtime.get_session(house.request("", after="r1"))
        assert house.said(session.messages) == ["one", "one", "two", "one two"]


async def _hello(*_: Any) -> str:
    return "hello"


async def test_what_a_busy_key_holds_is_left(autojump_clock: Clock, house: Any):
    async with house.open() as runtime:
        await say(house, "one", "r1")
        await say(house, "two", "r2", "r1")
        gate = house.target.hold("three")
        await house.post("three", key=None, name="r3", after="r2")
        await house.target.began("three").wait()
        await runtime.forget("r2")
        gate.set()
        run = await runtime.get_continuation("r3", wait=True)
        assert run.result.text == "one two three"


async def test_records_of_runs_without_a_point_are_kept(autojump_clock: Clock, house: Any):
    async with house.open() as runtime:
        await say(house, "one", "r1")

        async def fail(*_: Any) -> str:
            raise RuntimeError

        house.target.on["two"] = fail
        with pytest.raises(Exception, match="failed"):
            await say(house, "two", "r2", "r1")
        await runtime.forget("r1")
        assert (await runtime.get_continuation("r2")).state == "failed"
        await runtime.forget("r2")
        assert await house.store.keys() == []


@pytest.mark.parametrize("dead", [False, True])
async def test_what_is_on_its_way_is_delivered_all_the_same(
    autojump_clock: Clock, house: Any, monkeypatch: pytest.MonkeyPatch, dead: bool
):
    """Also to somebody whom the key does not know: the operator's hook chose them."""
    one_clock(monkeypatch)
    chat, boss = Taker(), ChannelIdentity("chat", "boss", verified=True)
    chat.always = down(PushRejected("no")) if dead else down()
    house.channels.append(chat)
    house.channel("wire", run_hook=lambda asked, **_: asked.replace(response_target=ResponseTarget.identity(boss)))
    async with house.open() as runtime:
        await house.ask("report", channel="wire", key=None, name="r1")
        await trio.sleep(2)
        await runtime.forget("r1")
        chat.always = None
        assert await runtime.deliveries.replay(all=True) == dead
        await trio.sleep(3600)
        assert chat.said() == ["report"]
