"""Timers: listed in the order of their instants, and settled once."""

from __future__ import annotations

import math

import pytest

from afactors_store import Commit, Conflict, NewLetter, Store


async def test_the_next_one(store: Store) -> None:
    assert await store.next_timer() is None
    await store.commit(await store.claim("a"), Commit(timers={"t": 3.0, "u": 2.0}))
    await store.commit(await store.claim("b"), Commit(timers={"t": 1.5}))
    assert [await store.next_timer(after) for after in (None, 1.4, 1.5, 2.5, 3.0)] == [1.5, 1.5, 2.0, 3.0, None]
    await store.commit(await store.claim("b"), Commit(timers={"t": None}))
    assert await store.next_timer() == 2.0
    with pytest.raises(ValueError, match="NaN"):
        await store.next_timer(math.nan)


async def test_those_that_are_due_the_earliest_first(store: Store) -> None:
    await store.commit(await store.claim("a"), Commit(timers={"late": 3.0, "t": -1.0, "never": 9.0}))
    await store.commit(await store.claim("b"), Commit(timers={"t": 2.0}))
    found = await store.timers(3.0)
    everything = [("a", "t", -1.0), ("b", "t", 2.0), ("a", "late", 3.0)]
    assert [(one.key, one.name, one.at) for one in found] == everything
    assert await store.timers(3.0, limit=2) == found[:2]
    assert await store.timers(3.0, limit=0) == []
    for n, one in enumerate(found):
        assert await store.timers(3.0, after=one.position) == found[n + 1 :]
    await store.commit(await store.claim("b"), Commit(timers={"t": None}))
    assert await store.timers(3.0, after=found[1].position) == found[2:]
    assert await store.timers(-2.0) == []


async def test_more_than_a_slice_of_them(store: Store) -> None:
    names = [f"{n:04}" for n in range(3_000)]
    await store.commit(await store.claim("a"), Commit(timers={name: float(name) for name in names}))
    assert [one.name for one in await store.timers(math.inf, limit=10_000)] == names


async def test_one_is_settled_once(store: Store) -> None:
    claim = await store.claim("a")
    await store.commit(claim, Commit(timers={"t": 1.0, "u": 2.0}, put={"d": b"x"}))
    await store.commit(claim, Commit(fire=["t"], delete=["d"], letters=[NewLetter("m", b"x")]))
    assert await store.next_timer() == 2.0
    for gone in ("t", "never"):
        with pytest.raises(Conflict, match="timer"):
            await store.commit(claim, Commit(fire=[gone], letters=[NewLetter("n", b"x")], put={"d": b"y"}))
    assert (await store.claim("a", ["d"])).documents == {}
    assert [letter.message_id for letter in await store.letters(claim)] == ["m"]
    with pytest.raises(Conflict):
        await store.commit(await store.claim("nobody"), Commit(fire=["t"]))
    assert await store.keys() == ["a"]
    await store.commit(claim, Commit(fire=["u"], timers={"u": 7.0}))
    assert await store.next_timer() == 7.0


async def test_erased_and_restored_with_their_key(store: Store) -> None:
    await store.commit(await store.claim("a"), Commit(timers={"t": 1.0}, put={"timer": b"x"}))
    told = (await store.snapshot(await store.claim("a"))).commit
    assert await store.erase("a")
    assert (await store.next_timer(), await store.timers(9.0)) == (None, [])

    async def slices():
        yield told

    await store.restore("b", slices())
    assert [(one.key, one.name, one.at) for one in await store.timers(9.0)] == [("b", "t", 1.0)]
    assert (await store.claim("b", ["timer"])).documents == {"timer": b"x"}
