"""Small jobs, and the room that they have."""

from __future__ import annotations

from functools import partial
from typing import Any

import trio

from afactors_channels.telegram.errands import Errands


async def test_what_lasts_has_room_of_its_own(autojump_clock: Any, nursery: trio.Nursery):
    errands, done, gate = Errands(2), list[str](), trio.Event()

    async def lasts(name: str) -> None:
        done.append(name)
        await gate.wait()

    async def short(name: str) -> None:
        await trio.sleep(1)
        done.append(name)

    for name in "abc":
        errands.leave(partial(lasts, name), lasting=True)
    for name in "xyz":
        errands.leave(partial(short, name))
    nursery.start_soon(errands.run)
    await trio.sleep(2)
    assert sorted(done) == ["a", "b", "x", "y"]
    gate.set()
    await trio.sleep(2)
    errands.leave(partial(lasts, "c"), lasting=True)
    await trio.sleep(2)
    assert done[4:] == ["c"]


async def test_a_job_that_fails_leaves_its_room(autojump_clock: Any, nursery: trio.Nursery):
    errands, done = Errands(1), list[int]()

    async def fails() -> None:
        done.append(1)
        raise ValueError

    nursery.start_soon(errands.run)
    for _ in range(3):
        errands.leave(fails)
        await trio.sleep(1)
    assert len(done) == 3
