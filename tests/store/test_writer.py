"""Group commit: who shares a transaction, who fails, who can be cancelled, and how it ends."""

import errno
from pathlib import Path

import lmdb
import pytest
import trio
import trio.testing

from afactors_store import (
    Append,
    BadKey,
    Claim,
    Commit,
    Conflict,
    LmdbStore,
    MemoryStore,
    Store,
    StoreBroken,
    StoreFull,
    StoreUnusable,
    kv,
    lmdb_store,
    writer,
)

POISON = b"poison"


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch):
    """Make LMDB fail on a certain value, with the error that is given."""

    def poison(error: BaseException) -> None:
        class Poisoned(kv.LmdbTransaction):
            def put(self, key: bytes, value: bytes) -> None:
                if value == POISON:
                    raise error
                super().put(key, value)

        monkeypatch.setattr(lmdb_store, "LmdbTransaction", Poisoned)

    return poison


def error(code: int) -> lmdb.Error:
    exc = lmdb.Error("mdb_put")
    exc.code = code  # type: ignore[misc]
    return exc


async def commit_all(store: Store, values: list[bytes]) -> list[object]:
    """Commit each value to a key of its own, all at once; what became of each."""
    results: list[object] = [None] * len(values)
    await trio.testing.wait_all_tasks_blocked()  # the writer waits, so they share a batch

    async def one(n: int, value: bytes) -> None:
        try:
            results[n] = await store.commit(Claim(f"k{n}", 1, 0, b"", {}, 0), Commit(put={"v": value}))
        except (StoreFull, StoreBroken, ZeroDivisionError, BadKey) as exc:
            results[n] = type(exc)

    async with trio.open_nursery() as nursery:
        for n, value in enumerate(values):
            nursery.start_soon(one, n, value)
    return results


async def test_commits_that_wait_together_share_a_transaction(store: Store) -> None:
    async def commit(key: str) -> None:
        claim = await store.claim(key)
        for _ in range(10):
            await store.commit(claim, Commit(put={"a": b"1"}))

    async with trio.open_nursery() as nursery:
        for n in range(100):
            nursery.start_soon(commit, f"key{n}")
    statistics = store.statistics()
    assert (statistics.commits, statistics.refused, statistics.waiting) == (1000, 0, 0)
    assert statistics.batches <= 30


async def test_one_transaction_and_so_one_sync_per_batch(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    async with store.open():
        env = store._opened.engine._env
        before = env.info()["last_txnid"]
        await commit_all(store, [b"x"] * 50)
        assert env.info()["last_txnid"] - before == store.statistics().batches <= 3


async def test_the_writer_does_not_wait_for_a_batch_to_fill(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()
    async with store.open():
        started = trio.current_time()
        await store.enqueue("key", "m", b"")
        assert trio.current_time() == started


async def test_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    monkeypatch.setattr(writer, "BATCH_OPERATIONS", 10)
    await commit_all(store, [b"x"] * 95)
    assert store.statistics().batches >= 10
    before = store.statistics().batches
    monkeypatch.setattr(writer, "BATCH_BYTES", 1000)
    await commit_all(store, [b"x" * 600] * 5)
    assert store.statistics().batches - before == 5


async def test_commits_are_applied_in_the_order_of_their_arrival(store: Store) -> None:
    order = []

    async def commit(n: int) -> None:
        order.append((await store.commit(Claim("key", 1, 0, b"", {}, 0), Commit()), n))

    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(commit, n)
            await trio.testing.wait_all_tasks_blocked()
    assert [committed.version for committed, _ in sorted(order, key=lambda pair: pair[1])] == list(range(1, 21))


async def test_a_refused_commit_fails_alone(store: Store) -> None:
    await store.commit(await store.claim("taken"), Commit(names={"name": b""}))
    outcomes = []

    async def commit(key: str, commit: Commit) -> None:
        try:
            await store.commit(await store.claim(key), commit)
            outcomes.append(key)
        except Conflict:
            outcomes.append("refused")

    before = store.statistics()
    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(commit, f"key{n}", Commit(put={"a": b""}))
        nursery.start_soon(commit, "bad", Commit(put={"a": b""}, append=[Append(1, 5, [b""])]))
        nursery.start_soon(commit, "worse", Commit(put={"a": b""}, names={"name": b""}))
        for n in range(5, 10):
            nursery.start_soon(commit, f"key{n}", Commit(put={"a": b""}))
    after = store.statistics()
    assert sorted(outcomes) == [*(f"key{n}" for n in range(10)), "refused", "refused"]
    assert (after.commits - before.commits, after.refused - before.refused) == (10, 2)
    assert after.batches - before.batches == 1
    assert (await store.claim("bad", ["a"])).version == (await store.claim("worse")).version == 0


@pytest.mark.parametrize(
    ("raised", "fails"),
    [
        (lmdb.MapFullError("mdb_put"), StoreFull),
        (error(errno.ENOSPC), StoreFull),
        (ZeroDivisionError(), ZeroDivisionError),
        (lmdb.BadValsizeError("mdb_put"), BadKey),
    ],
)
async def test_what_spoils_a_batch_fails_alone(tmp_path: Path, poisoned, raised, fails) -> None:
    poisoned(raised)
    store = LmdbStore(tmp_path, sync=False)
    async with store.open():
        results = await commit_all(store, [b"1", b"2", POISON, b"4"])
        assert results[2] is fails
        assert [result.version for n, result in enumerate(results) if n != 2] == [1, 1, 1]
        assert await store.keys() == ["k0", "k1", "k3"]
        assert store.statistics().keys == 3


async def test_full_is_remembered_until_something_succeeds(tmp_path: Path, poisoned) -> None:
    poisoned(lmdb.MapFullError("mdb_put"))
    store = LmdbStore(tmp_path, sync=False)
    async with store.open():
        assert await commit_all(store, [POISON]) == [StoreFull]
        assert store.full
        await commit_all(store, [b"1"])
        assert not store.full


@pytest.mark.parametrize("raised", [error(errno.EIO), lmdb.PanicError("mdb"), lmdb.CorruptedError("mdb")])
async def test_a_broken_store_says_so_to_everybody(tmp_path: Path, poisoned, raised) -> None:
    poisoned(raised)
    store = LmdbStore(tmp_path, sync=False)
    later = False
    with pytest.raises(StoreBroken):  # noqa: PT012 - it is the block's end that raises
        async with store.open():
            results = await commit_all(store, [b"1", POISON, b"3"])
            with pytest.raises(StoreBroken):
                await store.commit(Claim("k", 1, 0, b"", {}, 0), Commit())
            with pytest.raises(StoreBroken):
                await store.claim("k")
            later = True
    assert (results, later) == ([StoreBroken] * 3, True)
    async with store.open():
        assert not store.left_cleanly
        assert await store.keys() == []


async def test_a_broken_store_wins_over_what_the_block_raises(tmp_path: Path, poisoned) -> None:
    poisoned(error(errno.EIO))
    with pytest.raises(StoreBroken) as caught:  # noqa: PT012 - it is the block's end that raises
        async with (store := LmdbStore(tmp_path, sync=False)).open():
            await commit_all(store, [POISON])
            raise ZeroDivisionError
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_what_the_block_raises_leaves_as_it_came(closed_store: Store) -> None:
    raised = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError) as caught:
        async with closed_store.open():
            raise raised
    assert caught.value is raised
    assert caught.value.__context__ is None


async def test_a_waiter_cannot_be_cancelled_once_it_has_handed_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, gate, results, scope = store._opened.engine, trio.Event(), [], trio.CancelScope()
    apply = engine.apply

    async def apply_later(batch) -> int:
        await gate.wait()
        return await apply(batch)

    async def commit() -> None:
        with scope:
            results.append(await store.commit(Claim("key", 1, 0, b"", {}, 0), Commit()))

    monkeypatch.setattr(engine, "apply", apply_later)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(commit)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert (results, store.statistics().waiting) == ([], 1)
        gate.set()
    assert results[0].version == (await store.claim("key")).version == 1


async def test_who_is_cancelled_already_hands_nothing_over(store: Store) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.commit(Claim("key", 1, 0, b"", {}, 0), Commit())
    assert scope.cancelled_caught
    assert await store.keys() == []


async def test_leaving_drains_the_queue(closed_store: Store) -> None:
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with closed_store.open():
                for n in range(50):
                    nursery.start_soon(closed_store.commit, Claim(f"k{n}", 1, 0, b"", {}, 0), Commit(put={"a": b"1"}))
                while (figures := closed_store.statistics()).waiting + figures.commits < 50:
                    await trio.lowlevel.checkpoint()
                scope.cancel()
                await trio.sleep_forever()
    async with closed_store.open():
        assert len(await closed_store.keys()) == 50


async def test_who_comes_after_the_end_is_turned_away() -> None:
    async with (store := MemoryStore()).open():
        late = store._opened.writer
    with pytest.raises(StoreUnusable, match="closed"):
        await late.submit(lambda txn: None, 0)
