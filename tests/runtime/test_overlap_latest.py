"""Of those that wait, only the newest remains; what runs goes on."""

from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from afactors_channels import HostError, Overloaded, SessionEdit, TargetFailed
from afactors_store import Commit, StoreFull
from tests.runtime.outcomes import caught, fate

blocked = trio.testing.wait_all_tasks_blocked
House = Any  # of conftest
Clock = trio.abc.Clock


SUPERSEDED = ("cancelled", "superseded")


@pytest.mark.parametrize("running", ["asked", "submitted"])
@pytest.mark.parametrize("waiting", ["asked", "submitted"])
@pytest.mark.parametrize("new", ["asked", "submitted"])
async def test_only_the_newest_remains(autojump_clock: Clock, house: House, running: str, waiting: str, new: str):
    begin = {"asked": house.post, "submitted": house.submit}
    house.target.hold("one")
    async with house.open(overlap="latest") as runtime:
        await begin[running]("one", "s", name="p1", retrievable=True)
        await blocked()
        await begin[waiting]("two", "s", name="p2")
        await blocked()
        assert (await runtime.get_continuation("p2")).state == "queued"
        await begin[new]("three", "s", name="p3")
        await blocked()
        assert await fate(house, "p2") == SUPERSEDED, "before anything else ends"
        house.target.hold("one").set()
        assert await fate(house, "p1") == "one", "what runs goes on"
        assert await fate(house, "p3") == "one three"
        assert house.said(await runtime.get_input("p2")) == ["two"], "what it said can be looked at"
    assert house.target.started == ["one", "three"]


async def test_a_caller_is_told(autojump_clock: Clock, house: House):
    house.target.hold("one")
    async with house.open(overlap="latest"):
        await house.post("one", "s")
        two = await house.post("two", "s")
        await house.post("three", "s")
        error = await caught(two.outcome())
        assert isinstance(error, TargetFailed)
        assert (error.code, error.status) == ("superseded", 409)
        house.target.hold("one").set()


async def test_many_wait_whatever_their_own_policy(autojump_clock: Clock, house: House):
    house.target.hold("0")
    async with house.open() as runtime:
        await house.submit("0", "s", name="p0")
        await blocked()
        for number in range(1, 9):
            begin = house.submit if number % 2 else house.post
            await begin(str(number), "s", name=f"p{number}", overlap="coalesce" if number > 5 else None)
        await house.submit("9", "s", name="p9", overlap="latest")
        assert [await fate(house, f"p{number}") for number in range(1, 9)] == [SUPERSEDED] * 8
        house.target.hold("0").set()
        assert await fate(house, "p9") == "0 9"
        assert runtime._opened_now().supervisor.turns == {}


async def test_other_sessions_and_edits_go_on(autojump_clock: Clock, house: House):
    house.target.hold("one")
    house.target.hold("aside")
    async with house.open(overlap="latest") as runtime, trio.open_nursery() as nursery:
        await house.submit("one", "s")
        await house.submit("aside", "t")
        await blocked()
        await house.submit("also aside", "t", name="q")
        request = house.request("edited", "s")
        nursery.start_soon(runtime.edit_session, request, SessionEdit(append=request.input))
        await blocked()
        await house.submit("two", "s", name="p2")
        house.target.hold("one").set()
        house.target.hold("aside").set()
        assert await fate(house, "p2") == "one edited two"
        assert await fate(house, "q") == "aside also aside"


async def test_branches_are_not_touched(autojump_clock: Clock, house: House):
    house.target.hold("one")
    house.target.hold("two")
    async with house.open(overlap="latest"):
        await house.ask("zero", name="p0")
        await house.post("one", after="p0", name="p1")
        two = await house.post("two", after="p0", name="p2")
        assert await house.ask("three", after="p0", name="p3") == "zero three"
        house.target.hold("one").set()
        house.target.hold("two").set()
        assert (await two.outcome()).result.text == "zero two"


async def test_it_is_settled_by_the_commit_that_accepts_the_new_one(autojump_clock: Clock, house: House):
    """While that is being written, nobody whose place is taken begins; and nobody has been told yet."""
    gate = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "commit" and house.store.commits[-1].letters:
            await gate.wait()

    house.target.hold("one")
    async with house.open(overlap="latest") as runtime, trio.open_nursery() as nursery:
        await house.submit("one", "s", name="p1")
        await blocked()
        await house.submit("two", "s", name="p2")
        house.store.before = before
        nursery.start_soon(lambda: house.submit("three", "s", name="p3"))
        await blocked()
        house.target.hold("one").set()
        assert await fate(house, "p1") == "one"
        assert (await runtime.get_continuation("p2")).state == "queued", "though its session is free"
        gate.set()
        assert await fate(house, "p2") == SUPERSEDED
        assert await fate(house, "p3") == "one three"


async def test_what_is_refused_takes_nobody_s_place(autojump_clock: Clock, house: House):
    async def before(method: str, _key: str) -> None:
        if method == "commit" and house.store.commits[-1].letters:
            raise StoreFull("the map is full")

    house.target.hold("one")
    async with house.open(overlap="latest"):
        await house.submit("one", "s", name="p1")
        await blocked()
        await house.submit("two", "s", name="p2")
        house.store.before = before
        error = await caught(house.submit("three", "s", name="p3"))
        assert getattr(error, "code", None) == "storage_full"
        house.store.before = None
        house.target.hold("one").set()
        assert await fate(house, "p2") == "one two"
        assert await fate(house, "p3") is None


async def test_cancelled_while_its_place_is_being_taken(autojump_clock: Clock, house: House):
    """Whatever becomes of the new one, it is cancelled."""
    gate = trio.Event()
    refusing: list[bool] = []

    async def before(method: str, _key: str) -> None:
        if method == "commit" and house.store.commits[-1].letters:
            await gate.wait()
            if refusing[-1]:
                raise StoreFull("the map is full")

    house.target.hold("one")
    async with house.open(overlap="latest") as runtime:
        await house.submit("one", "s", name="p1")
        await blocked()
        for refused in (False, True):
            refusing.append(refused)
            house.store.before = None
            await house.submit("two", "s", name="p2", overlap="enqueue")
            house.store.before, gate = before, trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(caught_if_any, house.submit("three", "s"))
                await blocked()
                nursery.start_soon(runtime.cancel, "p2")
                await blocked()
                gate.set()
            assert (await runtime.get_continuation("p2")).state == "cancelled"
        house.target.hold("one").set()


async def caught_if_any(awaitable: Any) -> None:
    with suppress(HostError):
        await awaitable


async def test_a_full_mailbox_has_room_for_whoever_makes_room(autojump_clock: Clock, house: House):
    house.target.hold("one")
    house.target.hold("aside")
    async with house.open(mailbox=2):
        await house.submit("one", "s", name="p1")
        await house.submit("aside", "t", name="q1")
        await blocked()
        await house.submit("two", "s", name="p2")
        await house.submit("three", "s", name="p3")
        for overlap, session in (("enqueue", "s"), ("latest", "t"), ("coalesce", "s")):
            assert isinstance(await caught(house.submit("no", session, overlap=overlap)), Overloaded)
        await house.submit("four", "s", name="p4", overlap="latest")
        assert [await fate(house, name) for name in ("p2", "p3")] == [SUPERSEDED] * 2
        house.target.hold("one").set()
        house.target.hold("aside").set()
        assert await fate(house, "p4") == "one four"


async def test_a_full_mailbox_stays_bounded_while_the_store_is_slow(autojump_clock: Clock, house: House):
    gate = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "commit":
            await gate.wait()

    house.target.hold("one")
    async with house.open(mailbox=2, overlap="latest"):
        await house.submit("one", "s", name="p1")
        await blocked()
        await house.submit("two", "s", name="p2")
        house.store.before = before
        refused = []

        async def submit(number: int) -> None:
            try:
                await house.submit(str(number), "s", name=f"n{number}")
            except Overloaded:
                refused.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(submit, number)
            await blocked()
            assert len(refused) == 3
            gate.set()
        house.target.hold("one").set()
        left = [number for number in range(5) if (await fate(house, f"n{number}")) not in (None, SUPERSEDED)]
        assert len(left) == 1


async def test_a_repeat_takes_nobody_s_place(autojump_clock: Clock, house: House):
    house.target.hold("one")
    async with house.open(overlap="latest"):
        await house.submit("one", "s", name="p1")
        await blocked()
        first = await house.submit("two", "s", idempotency_key="k")
        assert await house.submit("two", "s", idempotency_key="k") == first
        third = await house.submit("three", "s", idempotency_key="l")
        assert await fate(house, first) == SUPERSEDED
        assert await house.submit("two", "s", idempotency_key="k") == first, "also when its own place was taken"
        house.target.hold("one").set()
        assert await fate(house, third) == "one three"
        assert await house.submit("two", "s", idempotency_key="k") == first
    async with house.open(overlap="latest"):
        assert await house.submit("two", "s", idempotency_key="k") == first
    assert house.target.started == ["one", "three"]


# --- restarts


@pytest.mark.parametrize("after", range(1, 7))
@pytest.mark.parametrize("waiting", ["submitted", "asked"])
async def test_a_crash_at_any_commit(autojump_clock: Clock, house: House, after: int, waiting: str):
    """Either the new one was never accepted, or those whose place it took do not come back."""
    house.target.hold("one")
    done = 0

    async def before(method: str, _key: str) -> None:
        nonlocal done
        if method == "commit":
            done += 1
            if done == after:
                house.store.crash()

    async with house.open(crash=True, overlap="latest"):
        await house.submit("one", "s", name="p1")
        await blocked()
        house.store.before = before
        begin = house.submit if waiting == "submitted" else house.post
        for name in ("two", "three"):
            await begin(name, "s", name=f"p-{name}")
        await house.submit("four", "s", name="p-four")
        await blocked()
    house.store.before = None
    house.target.hold("one").set()
    house.target.started.clear()
    async with house.open():
        assert await fate(house, "p1") == "one"
        ends = [await fate(house, f"p-{name}") for name in ("two", "three", "four")]
        if ends[2] is not None:
            assert ends[2] == "one four"
            assert set(ends[:2]) <= {SUPERSEDED, None}
            assert house.target.started == ["one", "four"]
        elif ends[1] is not None:
            assert ends[:2] == [SUPERSEDED, "one three"]
        assert after < 3 or waiting == "asked" or ends[2] is not None or ends[1] is not None


@pytest.mark.parametrize("crash", [False, True])
async def test_letters_of_the_process_before(autojump_clock: Clock, house: House, crash: bool):
    """The actor is cold: it looks before the new one takes anybody's place."""
    house.target.hold("one")
    async with house.open(crash=crash):
        for name in ("one", "two", "three"):
            await house.submit(name, "s", name=f"p-{name}")
        await blocked()
    async with house.open(overlap="latest"):
        if not crash:
            house.target.hold("one")
        await house.submit("four", "s", name="p-four")
        house.target.hold("one").set()
        assert [await fate(house, f"p-{name}") for name in ("two", "three")] == [SUPERSEDED] * 2
        assert (await fate(house, "p-four")).endswith("four")


async def test_an_actor_s_crash_before_the_ends_are_written(autojump_clock: Clock, house: House):
    house.target.hold("one")
    crashed: list[Commit] = []

    async def before(method: str, _key: str) -> None:
        if method == "commit" and house.store.commits[-1].consume and not crashed:
            crashed.append(house.store.commits[-1])
            raise RuntimeError("a defect")

    async with house.open(overlap="latest") as runtime:
        await house.submit("one", "s", name="p1")
        await blocked()
        await house.submit("two", "s", name="p2")
        house.store.before = before
        await house.submit("three", "s", name="p3")
        await trio.sleep(1)
        house.target.hold("one").set()
        assert crashed
        assert await fate(house, "p2") == SUPERSEDED
        assert await fate(house, "p1") == "one"
        assert await fate(house, "p3") == "one three"
        assert (await runtime.get_continuation("p1")).attempt == 2


async def test_a_stop_before_the_ends_are_written(autojump_clock: Clock, house: House):
    house.target.hold("one")
    async with house.open(overlap="latest", drain_timeout=1):
        await house.submit("one", "s", name="p1")
        await blocked()
        await house.submit("two", "s", name="p2")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caught_if_any, house.submit("three", "s", name="p3"))
            nursery.start_soon(house.runtime.drain)
    house.target.hold("one").set()
    async with house.open():
        assert await fate(house, "p1") == "one"
        ends = [await fate(house, name) for name in ("p2", "p3")]
        assert ends in ([SUPERSEDED, "one three"], ["one two", None])
