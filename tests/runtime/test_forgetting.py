"""Deleting runs: what a point reached goes with the last point that reached it, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest
from trio.abc import Clock

from afactors_channels import NotFound


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
