"""What every store promises of how its previous owner left."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from afactors_store import Commit, MemoryStore, Store


async def left_cleanly(store: Store) -> bool:
    async with store.open():
        return store.left_cleanly


async def test_a_new_store_and_one_that_was_closed(closed_store: Store) -> None:
    assert [await left_cleanly(closed_store) for _ in range(3)] == [True] * 3


@pytest.mark.parametrize("raised", [ZeroDivisionError(), KeyboardInterrupt(), ExceptionGroup("", [ValueError()])])
async def test_a_block_that_ends_with_an_exception(closed_store: Store, raised: BaseException) -> None:
    with pytest.raises(type(raised)):
        async with closed_store.open():
            raise raised
    assert not await left_cleanly(closed_store)
    assert await left_cleanly(closed_store)


async def cancel_a_block(store: Store, work: Callable[[], Awaitable[None]]) -> None:
    """Cancel tasks within the block, so that it ends with a group."""
    with trio.CancelScope() as scope:
        async with store.open(), trio.open_nursery() as nursery:
            nursery.start_soon(work)
            nursery.start_soon(trio.sleep_forever)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()


async def test_a_block_that_ends_with_a_cancellation(closed_store: Store) -> None:
    await cancel_a_block(closed_store, trio.sleep_forever)
    assert await left_cleanly(closed_store)


async def test_a_block_that_ends_with_a_cancellation_and_an_exception(closed_store: Store) -> None:
    async def fail_late() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        await cancel_a_block(closed_store, fail_late)
    assert not await left_cleanly(closed_store)


async def test_it_is_said_only_while_the_store_is_open_and_only_of_the_last_owner(closed_store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        async with closed_store.open():
            raise ZeroDivisionError
    async with closed_store.open():
        await closed_store.commit(await closed_store.claim("key"), Commit())
        assert not closed_store.left_cleanly
    assert await left_cleanly(closed_store)


async def test_a_crash_in_memory_keeps_what_was_committed_before_it() -> None:
    store = MemoryStore()
    async with store.open():
        claim = await store.claim("key")
        await store.commit(claim, Commit(put={"a": b"kept"}))
        store.crash()
        await store.commit(claim, Commit(put={"a": b"lost"}))
        assert await store.read(claim, ["a"]) == {"a": b"lost"}
    async with store.open():
        assert not store.left_cleanly
        assert (await store.claim("key", ["a"])).documents == {"a": b"kept"}
    store.crash()
    assert not await left_cleanly(store)
    assert await left_cleanly(store)
