"""One process owns a state directory, and everybody else is told which."""

import os
from pathlib import Path

import pytest
import trio

from afactors_store import Commit, LmdbStore, MemoryStore, StoreLocked, lock

# These tests use the real clock: they wait for real processes.


async def read_pid(process) -> int:
    return int(await trio.to_thread.run_sync(process.stdout.readline))


async def test_the_owner_is_named(tmp_path: Path, start) -> None:
    owner = start("owner.py", tmp_path)
    pid = await read_pid(owner)
    with pytest.raises(StoreLocked, match=f"owned by process {pid}; stop it.*--wait-lock") as caught:
        async with LmdbStore(tmp_path).open():
            pass
    assert caught.value.pid == pid
    owner.stdin.close()
    assert await trio.to_thread.run_sync(owner.wait) == 0  # the refused opening did it no harm
    async with LmdbStore(tmp_path).open():
        pass


async def test_wait_lock_waits_for_the_owner_to_leave(tmp_path: Path, start) -> None:
    owner = start("owner.py", tmp_path)
    await read_pid(owner)
    opened = False

    async def leave() -> None:
        await trio.sleep(0.3)
        assert not opened
        owner.stdin.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        async with LmdbStore(tmp_path).open(wait_lock=30.0):
            opened = True


async def test_wait_lock_gives_up(tmp_path: Path, start) -> None:
    await read_pid(start("owner.py", tmp_path))
    started = trio.current_time()
    with pytest.raises(StoreLocked):
        async with LmdbStore(tmp_path).open(wait_lock=0.2):
            pass
    assert 0.2 <= trio.current_time() - started < 5.0


async def test_a_child_of_a_dead_owner_does_not_hold_the_lock(tmp_path: Path, start) -> None:
    owner = start("owner.py", tmp_path, "fork")
    pids = {await read_pid(owner), await read_pid(owner)}
    owner.kill()
    await trio.to_thread.run_sync(owner.wait)
    (child,) = pids - {owner.pid}
    os.kill(child, 0)  # it lives
    async with LmdbStore(tmp_path).open():
        pass
    owner.stdin.close()


async def test_a_second_opening_in_one_process_harms_nothing(tmp_path: Path, start) -> None:
    async with LmdbStore(tmp_path).open():
        (tmp_path / "again").symlink_to(tmp_path)
        for path in (tmp_path, tmp_path / "again"):
            with pytest.raises(StoreLocked, match="this one") as caught:
                async with LmdbStore(path).open():
                    pass
            assert caught.value.pid == os.getpid()
        other = start("owner.py", tmp_path)  # would own it, had our failed opening given the lock up
        await trio.to_thread.run_sync(other.wait)
        assert other.returncode != 0


async def test_a_memory_store_is_opened_once() -> None:
    store = MemoryStore()
    async with store.open():
        with pytest.raises(StoreLocked, match="this one"):
            async with store.open():
                pass
        await store.commit(await store.claim("key"), Commit())


async def test_a_memory_store_waits_too(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()

    async def hold() -> None:
        async with store.open():
            await trio.sleep(5.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(StoreLocked):
            async with store.open(wait_lock=2.0):
                pass
        async with store.open(wait_lock=9.0):
            assert trio.current_time() == pytest.approx(5.0, abs=0.1)


def test_an_owner_in_another_namespace_has_no_pid() -> None:
    error = lock.locked(Path("state"), None)
    assert error.pid is None
    assert "owned by another process;" in str(error)
