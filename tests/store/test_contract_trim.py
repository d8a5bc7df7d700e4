"""What every store promises of logs whose first rows were removed."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afactors_store import Append, Claim, Commit, Conflict, MemoryStore, Store


async def claimed(store: Store) -> Claim:
    return await store.claim("key")


async def append(store: Store, start: int, *rows: bytes, **more: Any) -> None:
    await store.commit(await claimed(store), Commit(append=[Append(1, start, rows)], **more))


async def trim(store: Store, first: int, **more: Any) -> None:
    await store.commit(await claimed(store), Commit(trim={1: first}, **more))


async def rows(store: Store, start: int, stop: int = 99) -> list[bytes]:
    return await store.read_log(await claimed(store), 1, start, stop)


async def ends(store: Store) -> tuple[int, int]:
    """The position of the first row, and the one behind the last."""
    length = await store.log_length(await claimed(store), 1)
    there = [at for at in range(length) if await rows(store, at, at + 1)]
    assert there == list(range(length))[-len(there) :]
    return min(there, default=0), length


async def test_the_rows_below_are_gone_and_the_others_keep_their_positions(store: Store) -> None:
    await append(store, 0, b"a", b"b")
    await append(store, 2, b"c", b"d")
    await trim(store, 2)
    assert await rows(store, 2) == [b"c", b"d"]
    assert await rows(store, 3, 4) == [b"d"]
    assert await ends(store) == (2, 4)


@pytest.mark.parametrize("first", range(6))
async def test_also_in_the_middle_of_what_was_appended_at_once(store: Store, first: int) -> None:
    await append(store, 0, *(b"%d" % at for at in range(6)))
    await trim(store, first)
    assert await rows(store, first) == [b"%d" % at for at in range(first, 6)]
    assert await ends(store) == (first, 6)


async def test_nothing_is_read_from_a_row_that_is_gone_on(store: Store) -> None:
    await append(store, 0, b"a")
    await append(store, 1, b"b", b"c")
    await trim(store, 1)
    assert await rows(store, 0) == []
    assert await rows(store, 0, 1) == []
    assert await rows(store, 1) == [b"b", b"c"]


async def test_a_log_goes_on_where_it_was(store: Store) -> None:
    await append(store, 0, b"a", b"b")
    await trim(store, 1)
    with pytest.raises(Conflict):
        await append(store, 1, b"x")
    await append(store, 2, b"c")
    assert await rows(store, 1) == [b"b", b"c"]


async def test_what_is_appended_by_the_same_commit_is_trimmed_too(store: Store) -> None:
    await append(store, 0, b"a", b"b")
    await append(store, 2, b"c", b"d", b"e", trim={1: 3})
    assert await rows(store, 3) == [b"d", b"e"]
    assert await ends(store) == (3, 5)


async def test_trimming_again_and_below_changes_nothing(store: Store) -> None:
    await append(store, 0, b"a", b"b", b"c")
    await trim(store, 2)
    await trim(store, 2)
    await trim(store, 0)
    assert await rows(store, 2) == [b"c"]
    assert await ends(store) == (2, 3)


async def test_a_log_that_is_not_there(store: Store) -> None:
    await trim(store, 5)
    assert await ends(store) == (0, 0)
    await append(store, 0, b"a")


@pytest.mark.parametrize("first", [2, 3, 2**63])
async def test_a_log_of_which_nothing_is_left_is_removed_whole(store: Store, first: int) -> None:
    await append(store, 0, b"a", b"b", expire_logs={1: 5.0})
    await trim(store, first)
    assert await ends(store) == (0, 0)
    assert await store.expire(9.0) == 0, "and so is its expiry"
    await append(store, 0, b"new")
    assert await rows(store, 0) == [b"new"]


async def test_a_new_log_may_begin_at_the_row_that_is_kept(store: Store) -> None:
    """That is how a copy of a log is made that has lost rows."""
    with pytest.raises(Conflict):
        await append(store, 7, b"h")
    await append(store, 7, b"h", trim={1: 7})
    assert await rows(store, 7) == [b"h"]
    assert await ends(store) == (7, 8)


async def test_a_truncated_log_is_cut_at_the_same_positions(store: Store) -> None:
    await append(store, 0, b"a", b"b", b"c", b"d")
    await trim(store, 1)
    await store.commit(await claimed(store), Commit(truncate={1: 3}))
    assert await rows(store, 1) == [b"b", b"c"]
    assert await ends(store) == (1, 3)
    await store.commit(await claimed(store), Commit(truncate={1: 1}))
    assert await ends(store) == (0, 0)


async def test_a_log_that_expires_goes_with_what_is_left_of_it(store: Store) -> None:
    await append(store, 0, b"a", b"b", b"c")
    await trim(store, 1, expire_logs={1: 5.0})
    assert await store.expire(4.0) == 0
    assert await store.expire(6.0) == 1
    assert await ends(store) == (0, 0)


async def test_a_copy_of_a_key_has_the_same_rows_at_the_same_positions(store: Store) -> None:
    await append(store, 0, b"a", b"b", b"c", expire_logs={1: 5.0})
    await append(store, 3, b"d")
    await trim(store, 2)
    told = await store.snapshot(await claimed(store))
    assert told.after is None
    await store.erase("key")

    async def slices():
        yield told.commit

    await store.restore("key", slices())
    assert await rows(store, 2) == [b"c", b"d"]
    assert await ends(store) == (2, 4)
    assert await store.expire(6.0) > 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12)), max_size=8), st.integers(0, 20), st.integers(0, 20))
async def test_any_appends_and_trims_are_slicing_a_list(steps: list[tuple[int, int]], start: int, stop: int) -> None:
    store, model, first = MemoryStore(), [], 0
    async with store.open():
        for number, cut in steps:
            new = [b"%d" % at for at in range(len(model), len(model) + number)]
            if cut >= len(model) + number:
                cut = 0
            await append(store, len(model), *new, trim={1: cut} if cut else {})
            model += new
            first = max(first, cut)
        assert await ends(store) == (first, len(model))
        assert await rows(store, start, stop) == (model[start:stop] if start >= first else [])
