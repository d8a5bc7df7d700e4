"""SIGKILL in the middle of a storm of commits: what was acknowledged is there, and nothing is half there."""

import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
import trio

from afactors_store import Delivered, Delivery, LmdbStore


def run_and_kill(process: "subprocess.Popen[str]", lines: int) -> list[str]:
    """Let a program say so many lines, and kill it; all that it said."""
    seen = [process.stdout.readline() for _ in range(lines)]
    process.kill()
    return seen + process.stdout.read().split("\n")


@pytest.mark.parametrize("lines", [1, 50, 2000])
async def test_every_acknowledged_commit_survives_sigkill(tmp_path: Path, start, lines: int) -> None:
    acknowledged: dict[str, int] = {}
    for line in await trio.to_thread.run_sync(run_and_kill, start("storm.py", tmp_path), lines):
        key, _, version = line.strip().partition(" ")
        if version.isdigit():
            acknowledged[key] = max(int(version), acknowledged.get(key, 0))
    assert acknowledged

    store = LmdbStore(tmp_path)
    async with store.open():
        for key, version in acknowledged.items():
            claim = await store.claim(key, ["version"])
            assert claim.version >= version
            assert claim.documents == {"version": b"%d" % claim.version}
            expected = [b"%d" % (n + 1) for n in range(claim.version)]
            assert await store.read_log(claim, 1, 0, claim.version + 1) == expected
            assert await store.find(f"{key}-{claim.version}") is not None
            assert await store.find(f"{key}-{claim.version + 1}") is None
            waiting = [letter.message_id for letter in await store.letters(claim)]
            assert waiting in ([], [f"m{claim.version}"])


async def drained(store: LmdbStore, now: float) -> list[Delivery]:
    """Deliver all that is pending."""
    found: list[Delivery] = []
    while taken := await store.due(now, 100, 1.0):
        await store.settle_all([(one, Delivered()) for one in taken])
        found += taken
    return found


@pytest.mark.parametrize("lines", [1, 300, 3000])
async def test_no_delivery_is_lost_or_doubled_by_sigkill(tmp_path: Path, start, lines: int) -> None:
    said: dict[str, set[bytes]] = defaultdict(set)
    for line in await trio.to_thread.run_sync(run_and_kill, start("lanes.py", tmp_path), lines):
        what, _, body = line.partition(" ")
        if body.count("/") == 2:  # the last line may have been cut off
            said[what].add(body.strip().encode())
    assert said["committed"]

    store = LmdbStore(tmp_path)
    async with store.open():
        pending, dead = await store.deliveries(limit=10**6), await store.dead_letters(limit=10**6)
        left = [one.body for one in (*pending, *dead)]
        assert len(left) == len(set(left))
        assert said["committed"] - said["delivering"] <= set(left)
        assert not said["delivered"] & set(left)
        assert (store.statistics().pending, store.statistics().dead) == (len(pending), len(dead))
        running = {one.delivery_id for one in pending if one.running}
        assert await store.reclaim(0.0) == len(running)
        assert running <= {one.delivery_id for one in await store.deliveries(limit=10**6) if one.unsure}
        ids = [await store.revive(letter.position) for letter in dead]
        arrived = await drained(store, 1e9)
        assert {one.delivery_id for one in arrived} == {one.delivery_id for one in pending} | set(ids)
        assert sorted(one.body for one in arrived) == sorted(left)
        assert (store.statistics().pending, store.statistics().dead) == (0, 0)
        assert await store.expire(1e10) == 0
        assert await store.next_due() is None
