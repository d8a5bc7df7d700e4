"""SIGKILL in the middle of a storm of commits: what was acknowledged is there, and nothing is half there."""

from pathlib import Path

import pytest
import trio

from afactors_store import LmdbStore


@pytest.mark.parametrize("lines", [1, 50, 2000])
async def test_every_acknowledged_commit_survives_sigkill(tmp_path: Path, start, lines: int) -> None:
    process = start("storm.py", tmp_path)

    def storm() -> list[str]:
        seen = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        return seen + process.stdout.read().split("\n")

    acknowledged: dict[str, int] = {}
    for line in await trio.to_thread.run_sync(storm):
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
