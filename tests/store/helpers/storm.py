"""Commits to many keys at once for ever, and prints every version once it is acknowledged."""

import sys

import trio

from afactors_store import Append, Commit, LmdbStore, NewDelivery

COMMITTERS = 20


async def commit_for_ever(store: LmdbStore, key: str) -> None:
    claim = await store.claim(key)
    version = claim.version
    while True:
        await store.enqueue(key, f"m{version}", b"letter")
        done = await store.commit(
            claim,
            Commit(
                put={"version": b"%d" % (version + 1)},
                append=[Append(1, version, [b"%d" % (version + 1)])],
                consume=[f"m{version}"],
                names={f"{key}-{version + 1}": b""},
                deliveries=[NewDelivery(key, b"%d" % (version + 1))],
            ),
        )
        version = done.version
        sys.stdout.write(f"{key} {version}\n")
        sys.stdout.flush()


async def main(path: str) -> None:
    store = LmdbStore(path, map_size=1 << 28)
    async with store.open(), trio.open_nursery() as nursery:
        for n in range(COMMITTERS):
            nursery.start_soon(commit_for_ever, store, f"key-{n}")


trio.run(main, sys.argv[1])
