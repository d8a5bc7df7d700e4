"""Fills a file system of 2 MB, is refused, makes room, and goes on. Runs in a mount namespace of its own."""

import sys

import trio

from afactors_store import Append, Commit, LmdbStore, StoreFull


async def main(path: str) -> None:
    await trio.run_process(["mount", "-t", "tmpfs", "-o", "size=2m", "none", path])
    ballast = trio.Path(path, "ballast")
    await ballast.write_bytes(bytes(1 << 20))
    store = LmdbStore(trio.Path(path, "state"), map_size=1 << 28)
    async with store.open():
        claim = await store.claim("key")
        rows = 0
        try:
            while True:
                await store.commit(claim, Commit(append=[Append(1, rows, [bytes(50_000)])]))
                rows += 1
        except StoreFull:
            print("full" if store.full else "not said to be full", rows > 0)
        await ballast.unlink()
        await store.commit(claim, Commit(append=[Append(1, rows, [b"again"])]))
        print("full" if store.full else "room")
    async with store.open():
        kept = await store.read_log(await store.claim("key"), 1, 0, 1000)
        print(len(kept) == rows + 1, kept[-1])


trio.run(main, sys.argv[1])
