"""What only LMDB has: a directory, a format, a map that fills up, and a process it belongs to."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb
import msgpack
import pytest
import trio

from afactors_store import (
    Append,
    Commit,
    Dead,
    FormatTooNew,
    LmdbStore,
    NewDelivery,
    RunRecord,
    StoreFull,
    StoreUnusable,
    keys,
)
from afactors_store.keys import CLEAN, META


async def open_once(path: Path) -> None:
    async with LmdbStore(path, sync=False).open():
        pass


async def test_a_missing_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    await open_once(tmp_path / "a" / "b" / "state")
    for made in ("a", "a/b", "a/b/state"):
        assert stat.S_IMODE((tmp_path / made).stat().st_mode) == 0o700


@pytest.mark.parametrize("path", ["file", "file/below", "/proc/state", "/proc"])
async def test_a_directory_that_cannot_be_used(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnusable, match="choose another --state-dir") as caught:
        await open_once(tmp_path / path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_file_that_is_not_lmdb(tmp_path: Path, size: int) -> None:
    (tmp_path / "data.mdb").write_bytes(b"?" * size)
    with pytest.raises(StoreUnusable, match=r"data\.mdb is not an LMDB file"):
        await open_once(tmp_path)
    assert (tmp_path / "data.mdb").read_bytes() == b"?" * size


async def test_a_database_of_something_else(tmp_path: Path) -> None:
    with lmdb.Environment(os.fspath(tmp_path)) as env, env.begin(write=True) as txn:
        txn.put(b"theirs", b"1")
    with pytest.raises(StoreUnusable, match="something else"):
        await open_once(tmp_path)


async def test_a_newer_format_is_refused_and_left_untouched(tmp_path: Path) -> None:
    with lmdb.Environment(os.fspath(tmp_path)) as env, env.begin(write=True) as txn:
        txn.put(META, msgpack.packb({"format": 2, "something": "new"}))
    before = (tmp_path / "data.mdb").read_bytes()
    with pytest.raises(FormatTooNew, match=r"newer afactors .* format is 2, .* up to 1"):
        await open_once(tmp_path)
    assert (tmp_path / "data.mdb").read_bytes() == before


def rows_in(path: Path) -> list[tuple[bytes, bytes]]:
    with lmdb.Environment(os.fspath(path)) as env, env.begin() as txn:
        return list(txn.cursor())


async def test_reopening_changes_nothing(tmp_path: Path) -> None:
    await open_once(tmp_path)
    before = rows_in(tmp_path)
    await open_once(tmp_path)
    assert rows_in(tmp_path) == before


async def test_what_an_older_afactors_wrote_is_read_and_expires(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, sync=False)
    async with store.open():
        await store.commit(await store.claim("key"), Commit(runs=[RunRecord("kept", b"")]))
    with lmdb.Environment(os.fspath(tmp_path)) as env, env.begin(write=True) as txn:
        number = txn.get(b"kkey")
        txn.put(b"r" + number + b"rold", msgpack.packb({"v": 1, "b": b"body", "x": 5.0}))
        txn.put(b"e" + bytes.fromhex("c014000000000000") + number + b"old", b"")
        txn.delete(CLEAN)  # which an older one does not write
    async with store.open():
        assert not store.left_cleanly
        assert await store.run("key", "old") == b"body"
        assert await store.expire(4.9) == 0
        assert await store.expire(5.0) == 1
        assert await store.runs("key") == [RunRecord("kept", b"")]
    assert [key for key, _ in rows_in(tmp_path) if key[:1] == b"e"] == []


async def test_a_killed_owner_did_not_leave_cleanly(tmp_path: Path, start) -> None:
    async def run_owner(end: Callable[["subprocess.Popen[str]"], None]) -> bool:
        owner = start("owner.py", tmp_path)
        await trio.to_thread.run_sync(owner.stdout.readline)
        end(owner)
        await trio.to_thread.run_sync(owner.wait)
        async with (store := LmdbStore(tmp_path)).open():
            return store.left_cleanly

    assert await run_owner(lambda owner: owner.stdin.close())
    assert not await run_owner(lambda owner: owner.kill())
    assert await run_owner(lambda owner: owner.stdin.close())


def make_older(path: Path) -> None:
    """Make a store what stores were before lanes had groups, deliveries were counted and attempts under way listed."""

    def fields(raw: bytes, names: str) -> bytes:
        return msgpack.packb({name: msgpack.unpackb(raw)[name] for name in names.split()})

    with lmdb.open(str(path), map_size=1 << 24) as env, env.begin(write=True) as txn:
        for key, value in list(txn.cursor()):
            if key == keys.COUNTERS:
                txn.put(key, value[:24])
            elif key[:1] == keys.RUNNING:
                txn.delete(key)
            elif key[:1] == keys.HEADS:
                txn.delete(key)
                txn.put(key[:1] + key[-16:], value)
            elif key[9:10] == keys.DELIVERY:
                row, came = key[:9] + keys.ATTEMPT + key[10:], [1, msgpack.unpackb(value)["d"], 0, 0.0, False]
                raw = txn.get(row)
                txn.put(row, msgpack.packb(came if raw is None else msgpack.unpackb(raw)[:5]))
                txn.put(key, fields(value, "v id l b"))
            elif key[9:10] == keys.DEAD_LETTER:
                txn.put(key, fields(value, "v id l b n r"))


async def test_a_store_from_before_deliveries_were_counted_goes_on(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, map_size=1 << 24)
    async with store.open():
        new = [NewDelivery("a\x1f", b"dies"), NewDelivery("a\x1f", b"runs"), NewDelivery("a\x1f", b"waits", 7.0)]
        await store.commit(await store.claim("key"), Commit(deliveries=[*new, NewDelivery("b", b"later", 50.0)]))
        await store.settle((await store.due(0.0, 1, 10.0))[0], Dead("why"))
        await store.due(0.0, 1, 10.0)
    make_older(tmp_path)
    async with store.open():
        assert (store.statistics().pending, store.statistics().dead) == (3, 1)
        assert [(one.body, one.due, one.attempts) for one in await store.deliveries()] == [
            (b"runs", 10.0, 1),
            (b"waits", 7.0, 0),
            (b"later", 50.0, 0),
        ]
        (letter,) = await store.dead_letters()
        assert (letter.reason, letter.error, letter.died, letter.expires_at) == ("why", "", 0.0, None)
        assert await store.reclaim(0.0) == 0  # it waits for its visibility
        assert [await store.next_due(group) for group in ("a", "", "b")] == [10.0, 50.0, None]
        assert await store.due(9.0, 1, 10.0) == []
        (again,) = await store.due(10.0, 1, 10.0)
        assert (again.body, again.attempt, again.unsure) == (b"runs", 2, True)
        assert await store.reclaim(10.0) == 1
        assert await store.revive(letter.position, 60.0) is not None
        assert [one.body for one in await store.due(10.0, 9, 10.0)] == [b"runs"]
        await store.erase("key")
        assert (store.statistics().pending, store.statistics().dead) == (0, 0)


async def fill(store: LmdbStore) -> int:
    """Append until there is no room at all; how many rows went in."""
    claim = await store.claim("large")
    rows = 0
    while True:
        commit = Commit(append=[Append(1, rows, [bytes(3000)])], runs=[RunRecord(f"r{rows}", b"", 1.0)])
        try:
            await store.commit(claim, commit)
        except StoreFull:
            return rows
        rows += 1


async def test_a_full_map_refuses_new_work_and_can_still_delete(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, map_size=2 << 20, sync=False)
    async with store.open():
        await store.commit(await store.claim("small"), Commit(put={"a": b"1"}))
        rows = await fill(store)
        statistics = store.statistics()
        assert store.full
        assert statistics.map_bytes == 2 << 20
        assert statistics.used_bytes > 0.9 * statistics.map_bytes
        with pytest.raises(StoreFull, match="no new work"):
            await store.enqueue("small", "m", b"")
        assert len(await store.read_log(await store.claim("large"), 1, 0, rows + 1)) == rows
    async with store.open():
        assert store.full
        assert await store.expire(2.0, limit=20) == 20
        assert await store.erase("large")
        assert not store.full
        assert await store.enqueue("small", "m", b"")
        assert (await store.claim("small", ["a"])).documents == {"a": b"1"}


async def test_the_reserve_is_open_to_commits(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, map_size=4 << 20, sync=False)
    async with store.open():
        claim = await store.claim("key")
        rows = 0
        while not store.full:
            await store.commit(claim, Commit(append=[Append(1, rows, [bytes(3000)])]))
            rows += 1
        with pytest.raises(StoreFull):
            await store.enqueue("key", "m", b"")
        for _ in range(5):
            await store.commit(claim, Commit(append=[Append(1, rows, [bytes(3000)])]))
            rows += 1
        assert store.full


async def test_a_change_larger_than_the_map_is_refused_before_it_is_handed_over(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, map_size=1 << 20)
    async with store.open():
        with pytest.raises(StoreFull, match="whole map"):
            await store.commit(await store.claim("key"), Commit(put={"a": bytes(2 << 20)}))
        assert store.statistics().refused == 1
        assert not store.full


async def test_a_full_disk_is_full_and_not_broken(tmp_path: Path, start) -> None:
    namespace = ("unshare", "--map-root-user", "--mount")
    if (await trio.run_process([*namespace, "true"], capture_stderr=True, check=False)).returncode:
        pytest.skip("this machine gives no mount namespaces")
    process = start("fill_disk.py", tmp_path, prefix=namespace)
    said, _ = await trio.to_thread.run_sync(process.communicate)
    assert said.splitlines() == ["full True", "room", "True b'again'"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # 3.12: it is multi-threaded; the child only asks
async def test_a_forked_child_is_refused(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    async with store.open():
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            try:
                store.statistics()
            except StoreUnusable as exc:
                os.write(write, str(exc).encode())
            os._exit(0)
        os.close(write)
        said = await trio.to_thread.run_sync(os.read, read, 4096)
        os.close(read)
        await trio.to_thread.run_sync(os.waitpid, child, 0)
        assert f"opened by process {os.getpid()}" in said.decode()
        await store.commit(await store.claim("key"), Commit())


async def test_without_address_space_the_map_size_is_named(tmp_path: Path) -> None:
    script = (
        "import resource, trio; from afactors_store import LmdbStore, StoreUnusable\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))\n"
        "async def main():\n"
        "    async with LmdbStore('state').open(): pass\n"
        "try: trio.run(main)\n"
        "except StoreUnusable as exc: print(exc)\n"
    )
    done = await trio.run_process(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_stdout=True,
    )
    assert b"give a smaller --map-size" in done.stdout
