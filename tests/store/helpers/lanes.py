"""Commits, takes, settles and revives deliveries for ever; prints what it begins and what is acknowledged."""

import itertools
import random
import sys

import trio

from afactors_store import Commit, Dead, Delivered, Delivery, LmdbStore, NewDelivery, Postponed, Retry, TakeNext

LANES = 5
COMMITTERS = 4
DELIVERERS = 3
CLOCK = itertools.count(1)
VISIBILITY = 1e12  # what is never given up is settled by whoever took it, or by nobody


def say(what: str, body: bytes) -> None:
    sys.stdout.write(f"{what} {body.decode()}\n")
    sys.stdout.flush()


async def commit_for_ever(store: LmdbStore, key: str) -> None:
    claim = await store.claim(key)
    for n in itertools.count():
        bodies = [f"{key}/{n}/{part}".encode() for part in range(3)]
        new = [NewDelivery(f"lane {(n + part) % LANES}", body) for part, body in enumerate(bodies)]
        await store.commit(claim, Commit(deliveries=new))
        for body in bodies:
            say("committed", body)


async def deliver_for_ever(store: LmdbStore) -> None:
    while True:
        now = float(next(CLOCK))
        for taken in await store.due(now, 3, VISIBILITY):
            head: Delivery | None = taken
            while head is not None:
                head = await end(store, head, now)
        await trio.lowlevel.checkpoint()  # with nothing due, nothing waits


async def end(store: LmdbStore, head: Delivery, now: float) -> Delivery | None:
    """End an attempt in one way or another; the next one of the lane, if it was asked for."""
    ways = [Delivered(), Delivered(), Retry(now), Postponed(now + 2), Dead("why", "said", now, now + 1e9)]
    outcome = random.choice(ways)  # noqa: S311
    if isinstance(outcome, Delivered):
        say("delivering", head.body)
    following = await store.settle(head, outcome, random.choice([None, TakeNext(now, VISIBILITY)]))  # noqa: S311
    if isinstance(outcome, Delivered):
        say("delivered", head.body)
    return following


async def revive_for_ever(store: LmdbStore) -> None:
    while True:
        for letter in await store.dead_letters(limit=10):
            await store.revive(letter.position, float(next(CLOCK)))
            say("revived", letter.body)
        await trio.lowlevel.checkpoint()


async def main(path: str) -> None:
    store = LmdbStore(path, map_size=1 << 28)
    async with store.open(), trio.open_nursery() as nursery:
        for n in range(COMMITTERS):
            nursery.start_soon(commit_for_ever, store, f"key-{n}")
        for _ in range(DELIVERERS):
            nursery.start_soon(deliver_for_ever, store)
        nursery.start_soon(revive_for_ever, store)


trio.run(main, sys.argv[1])
