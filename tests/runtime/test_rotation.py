"""A key's sessions: a new one, with the old one kept, and a list of them."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from afactors_channels import BadRequest, Conflicting, Overloaded, SessionEdit, StorageFull
from afactors_store import StoreFull

Clock = trio.abc.Clock


async def listed(house: Any, key: str = "ada") -> list[str]:
    return [one.session_id for one in await house.runtime.list_sessions(key)]


async def test_a_new_session_begins_and_the_old_one_goes_on_by_its_id(autojump_clock: Clock, house: Any):
    async with house.open():
        await house.ask("a")
        second = await house.runtime.reset_session("ada")
        assert await house.ask("b") == "b"
        third = await house.runtime.reset_session("ada")
        assert await house.ask("c") == "c"
        assert await house.ask("d", second) == "b d"
        assert await house.ask("e", "ada") == "a e", "the first is called as the key"
        assert await house.ask("f") == "c f"
        assert len({second, third, "ada"}) == 3


async def test_it_holds_after_a_crash(autojump_clock: Clock, house: Any):
    async with house.open(crash=True):
        await house.ask("a")
        session = await house.runtime.reset_session("ada")
    async with house.open(crash=True):
        assert await house.ask("b") == "b"
    async with house.open():
        assert await house.ask("c") == "b c"
        assert await house.ask("d", session) == "b c d"


async def test_a_key_that_nobody_has_used(autojump_clock: Clock, house: Any):
    async with house.open():
        session = await house.runtime.reset_session("ada")
        (only,) = await house.runtime.list_sessions("ada")
        assert (only.session_id, only.current) == (session, True)
        assert not (await house.runtime.get_session(house.request(""))).messages
        assert await house.ask("a") == "a"
        assert await house.runtime.list_sessions("nobody") == []


async def test_what_was_accepted_before_stays_in_the_old_session(autojump_clock: Clock, house: Any):
    gate = house.target.hold("b")
    async with house.open():
        await house.ask("a")
        running = await house.post("b")
        waiting = await house.post("c")
        token = await house.submit("d")
        await house.target.began("b").wait()
        await house.runtime.reset_session("ada")
        assert await house.ask("new") == "new", "and the next one does not wait for it"
        gate.set()
        assert (await running.outcome()).result.text == "a b"
        assert (await waiting.outcome()).result.text == "a b c"
        run = await house.runtime.get_continuation(token, wait=True)
        assert run.result.text == "a b c d"
        assert await house.ask("newer") == "new newer"


async def test_a_letter_that_waited_through_a_crash_stays_in_its_session(autojump_clock: Clock, house: Any):
    house.target.hold("b")
    async with house.open(crash=True):
        await house.ask("a")
        token = await house.submit("b")
        await house.runtime.reset_session("ada")
    house.target.hold("b").set()
    async with house.open():
        assert (await house.runtime.get_continuation(token, wait=True)).result.text == "a b"
        assert await house.ask("c") == "c"


async def test_all_sessions_are_listed_the_current_one_first(
    autojump_clock: Clock, house: Any, monkeypatch: pytest.MonkeyPatch
):
    now = 1_000.0
    monkeypatch.setattr("time.time", lambda: now)
    async with house.open():
        await house.ask("a")
        now += 1
        await house.runtime.edit_session(house.request("", "talk"), SessionEdit(create=True, labels={"topic": "tea"}))
        now += 1
        await house.ask("x", name="r1")
        now += 1
        await house.ask("y", after="r1", name="r2")
        await house.ask("z", after="r1", name="r3")
        now += 1
        session = await house.runtime.reset_session("ada")
        now += 1
        await house.ask("b", "later")
        await house.ask("other", key="bob")
        found = await house.runtime.list_sessions("ada")
        assert [one.session_id for one in found] == [session, "later", "r3", "r1", "talk", "ada"]
        assert [one.current for one in found] == [True, False, False, False, False, False]
        assert [one.created for one in found] == [1_004, 1_005, 1_003, 1_002, 1_001, 1_000]
        assert found[4].labels == {"topic": "tea"}
        assert all(one.messages == () for one in found)
        assert [one.session_id for one in await house.runtime.list_sessions("bob")] == ["bob"]


async def test_many_sessions_are_listed(autojump_clock: Clock, house: Any):
    async with house.open():
        for number in range(230):
            await house.ask("a", f"{number:03}" + "x" * 300 * (number % 2))
        found = await listed(house)
        assert len(found) == len(set(found)) == 230
        assert {one[:3] for one in found} == {f"{number:03}" for number in range(230)}


async def test_its_session_can_be_looked_at_and_edited(autojump_clock: Clock, house: Any):
    async with house.open():
        await house.ask("a")
        await house.runtime.reset_session("ada")
        await house.ask("b")
        found = await house.runtime.get_session(house.request(""))
        assert house.said(found.messages) == ["b", "b"]
        assert house.said((await house.runtime.get_session(house.request("", "ada"))).messages) == ["a", "a"]


async def test_a_key_without_a_reset_writes_nothing_for_it(autojump_clock: Clock, house: Any):
    async with house.open():
        await house.ask("a")
        claim = await house.store.claim("ada")
        assert await house.store.list_documents(claim) == ["session/ada"]


async def test_an_erased_key_begins_anew(autojump_clock: Clock, house: Any):
    async with house.open():
        await house.runtime.reset_session("ada")
        await house.ask("a")
        await house.runtime.erase_actor("ada")
        assert await house.runtime.list_sessions("ada") == []
        await house.ask("b")
        assert await listed(house) == ["ada"]


async def test_what_makes_no_reset(autojump_clock: Clock, house: Any, monkeypatch: pytest.MonkeyPatch):
    async def full(*_: object) -> None:
        raise StoreFull("full")

    async def inside(_request: object, _session: object) -> str:
        with pytest.raises(Conflicting) as error:
            await house.runtime.reset_session("ada")
        assert error.value.code == "would_deadlock"
        return await house.runtime.reset_session("bob")

    house.target.on["inside"] = inside
    async with house.open():
        assert (await house.ask("inside")).startswith("s_"), "another key's may be"
        for wrong in ("", "a\0b", "x" * 2000):
            with pytest.raises(BadRequest):
                await house.runtime.reset_session(wrong)
            with pytest.raises(BadRequest):
                await house.runtime.list_sessions(wrong)
        with monkeypatch.context() as patch:
            patch.setattr(house.store, "commit", full)
            with pytest.raises(StorageFull):
                await house.runtime.reset_session("ada")
        assert await house.ask("a") == "inside a"
        await house.runtime.drain()
        with pytest.raises(Overloaded):
            await house.runtime.reset_session("ada")
