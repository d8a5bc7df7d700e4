"""What every store promises of expiry and erasing."""

import pytest
import trio

from afactors_store import Append, Claim, Commit, Dead, Found, NewDelivery, RunRecord, Store, Work


async def test_runs_expire_in_bounded_slices(store: Store) -> None:
    claim = await store.claim("key")
    for n in range(10):
        await store.commit(claim, Commit(runs=[RunRecord(f"r{n}", b"", float(n))]))
    await store.commit(claim, Commit(runs=[RunRecord("kept", b"")]))
    assert await store.expire(-1.0) == 0
    assert await store.expire(6.0, limit=4) == 4
    assert [run.run_id for run in await store.runs("key")] == ["kept", "r4", "r5", "r6", "r7", "r8", "r9"]
    assert await store.expire(6.0, limit=4) == 3
    assert await store.expire(6.0, limit=4) == 0
    assert len(await store.runs("key")) == 4


async def test_a_run_that_was_written_again_expires_at_its_last_instant(store: Store) -> None:
    claim = await store.claim("key")
    await store.commit(claim, Commit(runs=[RunRecord("r", b"1", 1.0)]))
    await store.commit(claim, Commit(runs=[RunRecord("r", b"2", 9.0)]))
    assert await store.expire(5.0) == 0
    assert await store.run("key", "r") == b"2"
    assert await store.expire(9.0) == 1


async def test_runs_names_and_logs_expire_in_one_order(store: Store) -> None:
    claim = await store.claim("key")
    await store.commit(
        claim,
        Commit(
            append=[Append(1, 0, [b"row"]), Append(2, 0, [b"row"])],
            expire_logs={1: 2.0, 2: 5.0},
            names={"early": b"", "late": b"", "kept": b""},
            expire_names={"early": 1.0, "late": 4.0},
            runs=[RunRecord("run", b"", 3.0)],
        ),
    )
    assert await store.expire(0.5) == 0
    assert await store.find("early") == Found("key", b"")  # until the sweep
    left = []
    for _ in range(5):
        assert await store.expire(9.0, limit=1) == 1
        logs = [log for log in (1, 2) if await store.log_length(claim, log)]
        left.append((*await store.names(claim), *logs, *(run.run_id for run in await store.runs("key"))))
    assert left == [
        ("kept", "late", 1, 2, "run"),
        ("kept", "late", 2, "run"),
        ("kept", "late", 2),
        ("kept", 2),
        ("kept",),
    ]
    assert await store.find("late") is None
    assert await store.expire(9.0) == 0


LOG = Append(1, 0, [b"row"])


@pytest.mark.parametrize(
    ("commit", "name_expires", "log_expires"),
    [
        (Commit(), 2.0, 2.0),
        (Commit(expire_names={"n": 9.0}, expire_logs={1: 9.0}), 9.0, 9.0),
        (Commit(expire_names={"n": 1.0}, expire_logs={1: 1.0}), 1.0, 1.0),
        (Commit(expire_names={"n": None}, expire_logs={1: None}), None, None),
        (Commit(names={"n": b"again"}, append=[Append(1, 1, [b"more"])]), None, 2.0),
        (Commit(names={"n": b"again"}, expire_names={"n": 5.0}), 5.0, 2.0),
        (Commit(drop_names=["n"], names={"n": b"new"}, drop_logs=[1], append=[LOG]), None, None),
        (Commit(drop_logs=[1], append=[LOG], expire_logs={1: 7.0}), 2.0, 7.0),
    ],
)
async def test_an_expiry_stays_moves_or_goes(
    store: Store, commit: Commit, name_expires: float | None, log_expires: float | None
) -> None:
    claim = await store.claim("key")
    await store.commit(claim, Commit(names={"n": b""}, expire_names={"n": 2.0}, append=[LOG], expire_logs={1: 2.0}))
    await store.commit(claim, commit)
    for now in range(1, 11):
        await store.expire(float(now))
        assert await store.names(claim) == (["n"] if name_expires is None or now < name_expires else [])
        assert (await store.log_length(claim, 1) > 0) == (log_expires is None or now < log_expires)


async def test_an_expiry_of_what_is_not_there_is_ignored(store: Store) -> None:
    claim, other = await store.claim("key"), await store.claim("other")
    await store.commit(other, Commit(names={"theirs": b""}, append=[Append(7, 0, [b"theirs"])]))
    await store.commit(claim, Commit(names={"n": b""}, append=[LOG]))
    await store.commit(
        claim,
        Commit(
            drop_names=["n"],
            expire_names={"n": 1.0, "never": 1.0, "theirs": 1.0},
            drop_logs=[1],
            expire_logs={1: 1.0, 7: 1.0},
        ),
    )
    assert await store.expire(9.0) == 0
    await store.commit(claim, Commit(names={"n": b"", "never": b""}, append=[LOG]))
    assert await store.expire(9.0) == 0
    assert await store.names(other) == ["theirs"]


async def append_apart(store: Store, claim: Claim, rows: int) -> None:
    """A log of as many rows in the store as it has."""
    for n in range(rows):
        await store.commit(claim, Commit(append=[Append(1, n, [b"%d" % n])]))


async def test_a_long_log_expires_over_several_slices_from_its_end(store: Store) -> None:
    claim = await store.claim("key")
    await append_apart(store, claim, 10)
    await store.commit(claim, Commit(expire_logs={1: 1.0}, runs=[RunRecord("r", b"", 2.0)]))
    for left in (6, 2):
        assert await store.expire(3.0, limit=4) == 4
        assert await store.log_length(claim, 1) == left
        assert await store.read_log(claim, 1, 0, 99) == [b"%d" % n for n in range(left)]
    assert await store.expire(3.0, limit=4) == 3  # and the run
    assert await store.expire(3.0) == 0
    assert await store.runs("key") == []


async def fill(store: Store, key: str) -> None:
    await store.enqueue(key, "consumed", b"")
    await store.enqueue(key, "waits", b"")
    await store.commit(
        await store.claim(key),
        Commit(
            put={f"{key}{n}": b"x" for n in range(700)},
            append=[Append(1, 0, [b"row"] * 2000), Append(2, 0, [b"row"])],
            consume=["consumed"],
            expire_logs={1: 100.0},
            names={f"{key}-name": b"", f"{key}-name2": b""},
            expire_names={f"{key}-name2": 100.0},
            runs=[RunRecord("run", b"", 100.0)],
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
    assert await store.expire(200.0) == 6  # two's run, its name, and its log in four rows
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
        await store.commit(await store.claim("key"), Commit(runs=[RunRecord("r", b"", 50.0)]))
    before = store.statistics().batches
    assert await store.expire(1.0) == 0
    assert await store.due(1.0, 10, 1.0) == []
    assert store.statistics().batches == before
