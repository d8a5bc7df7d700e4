"""What every store promises of expiry and erasing."""

import pytest
import trio

from afactors_store import Append, Commit, Dead, NewDelivery, RunRecord, Store, Work


async def test_runs_expire_in_bounded_slices(store: Store) -> None:
    claim = await store.claim("key")
    for n in range(10):
        await store.commit(claim, Commit(run=RunRecord(f"r{n}", b"", float(n))))
    await store.commit(claim, Commit(run=RunRecord("kept", b"")))
    assert await store.expire(-1.0) == 0
    assert await store.expire(6.0, limit=4) == 4
    assert [run.run_id for run in await store.runs("key")] == ["kept", "r4", "r5", "r6", "r7", "r8", "r9"]
    assert await store.expire(6.0, limit=4) == 3
    assert await store.expire(6.0, limit=4) == 0
    assert len(await store.runs("key")) == 4


async def test_a_run_that_was_written_again_expires_at_its_last_instant(store: Store) -> None:
    claim = await store.claim("key")
    await store.commit(claim, Commit(run=RunRecord("r", b"1", 1.0)))
    await store.commit(claim, Commit(run=RunRecord("r", b"2", 9.0)))
    assert await store.expire(5.0) == 0
    assert await store.run("key", "r") == b"2"
    assert await store.expire(9.0) == 1


async def fill(store: Store, key: str) -> None:
    await store.enqueue(key, "consumed", b"")
    await store.enqueue(key, "waits", b"")
    await store.commit(
        await store.claim(key),
        Commit(
            put={f"{key}{n}": b"x" for n in range(700)},
            append=[Append(1, 0, [b"row"] * 2000), Append(2, 0, [b"row"])],
            consume=["consumed"],
            names={f"{key}-name": b"", f"{key}-name2": b""},
            run=RunRecord("run", b"", 100.0),
            timers={"t": 1.0},
            deliveries=[NewDelivery("shared", key.encode()), NewDelivery("shared", key.encode())],
            aliases={f"{key}-alias": True, f"{key}-alias" * 100: True},
        ),
    )


async def test_erase_takes_everything_of_one_key_and_nothing_else(store: Store) -> None:
    await fill(store, "one")
    await fill(store, "two")
    (head,) = await store.due(0.0, 10, 0.0)
    await store.settle(head, Dead("so that one has a dead letter"))
    assert await store.erase("one")
    assert not await store.erase("one")
    assert await store.keys() == ["two"]
    assert store.statistics().keys == 1
    claim = await store.claim("one", ["one1"])
    assert (claim.version, claim.letters, claim.documents) == (0, 0, {})
    assert await store.read_log(claim, 1, 0, 10) == []
    assert await store.find("one-name") is None
    assert await store.run("one", "run") is None
    assert (await store.claim("one-alias")).key == "one-alias"
    assert await store.dead_letters() == []
    assert await store.work(5.0) == [Work("two", 1, 1.0)]
    assert [delivery.body for delivery in await store.due(5.0, 10, 10.0)] == [b"two"]
    assert await store.expire(200.0) == 1
    assert (await store.claim("two-alias" * 100, ["two5"])).documents == {"two5": b"x"}
    assert await store.find("two-name") is not None


async def test_a_key_that_was_erased_can_be_written_again(store: Store) -> None:
    await fill(store, "one")
    await store.erase("one")
    await fill(store, "one")
    claim = await store.claim("one")
    assert (claim.version, claim.letters) == (1, 1)
    assert len(await store.read_log(claim, 1, 0, 9999)) == 2000


async def test_erase_does_not_follow_an_alias_but_takes_it_away(store: Store) -> None:
    await fill(store, "one")
    assert await store.erase("one-alias")
    assert (await store.claim("one-alias")).key == "one-alias"
    assert (await store.claim("one")).version == 1


async def test_an_erase_that_is_cut_short_is_seen_by_nobody_and_finished_by_expire(closed_store: Store) -> None:
    store = closed_store
    async with store.open():
        await fill(store, "one")
        await store.commit(await store.claim("two"), Commit(deliveries=[NewDelivery("shared", b"two")]))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.erase, "one")
                while "one" in await store.keys():  # until its first slice was applied
                    await trio.lowlevel.checkpoint()
                scope.cancel()
    async with store.open():
        assert await store.keys() == ["two"]
        assert (await store.claim("one", ["one1"])).documents == {}
        assert await store.find("one-name") is None
        assert (await store.claim("one-alias")).key == "one-alias"
        await store.commit(await store.claim("two"), Commit(names={"one-name": b"free"}, aliases={"one-alias": True}))
        await store.commit(await store.claim("one"), Commit(put={"new": b""}))
        assert await store.work(5.0) == []
        taken = [delivery.body for _ in range(3) for delivery in await store.due(5.0, 3, 9.0)]
        assert taken == [b"two"]
        slices = [await store.expire(0.0, limit=300) for _ in range(5)]
        assert 0 < slices[0] <= 300  # at most one more slice went before the cancellation was seen
        assert await store.expire(0.0) == 0
        assert await store.find("one-name") is not None
        assert (await store.claim("one-alias")).key == "two"
        assert await store.list_documents(await store.claim("one")) == ["new"]


@pytest.mark.parametrize("state", ["empty", "idle"])
async def test_upkeep_with_nothing_to_do_writes_nothing(store: Store, state: str) -> None:
    if state == "idle":
        await store.commit(await store.claim("key"), Commit(run=RunRecord("r", b"", 50.0)))
    before = store.statistics().batches
    assert await store.expire(1.0) == 0
    assert await store.due(1.0, 10, 1.0) == []
    assert store.statistics().batches == before
