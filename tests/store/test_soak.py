"""Many keys, for as long as it takes."""

from pathlib import Path

import pytest
import trio

from afactors_store import Claim, Commit, LmdbStore

KEYS = 1_000_000
COMMITTERS = 1000


@pytest.mark.soak
async def test_a_million_keys(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, sync=False)

    async def write(first: int) -> None:
        for n in range(first, KEYS, COMMITTERS):
            await store.commit(Claim(f"user:{n:07}", 1, 0, b"", {}, 0), Commit(put={"n": b"%d" % n}))

    async with store.open():
        async with trio.open_nursery() as nursery:
            for first in range(COMMITTERS):
                nursery.start_soon(write, first)
        assert store.statistics().keys == KEYS
        for n in range(0, KEYS, 9973):
            assert (await store.claim(f"user:{n:07}", ["n"])).documents == {"n": b"%d" % n}
        listed, page = 0, [""]
        while page:
            page = await store.keys(after=page[-1] or None, limit=10_000)
            listed += len(page)
            if page:
                assert page == sorted(page)
            else:
                break
        assert listed == KEYS
