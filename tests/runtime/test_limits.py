"""Limits by name, and slots that no key can hog."""

import re
from collections import Counter

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from afactors.limits import FairSlots, LimitOptions, Limits


def test_options_and_limits_have_the_same_names():
    assert set(LimitOptions.__annotations__) == set(Limits.__dataclass_fields__)


@pytest.mark.parametrize(("given", "nearest"), [("mail_box", "mailbox"), ("turn_time_out", "turn_timeout")])
def test_an_unknown_limit_is_refused_with_the_nearest_name(given: str, nearest: str):
    with pytest.raises(TypeError, match=f"unknown limit '{given}'; did you mean '{nearest}'?"):
        Limits.of({given: 5})


def test_an_unknown_limit_that_resembles_nothing():
    with pytest.raises(TypeError, match=r"^unknown limit 'zzz'$"):
        Limits.of({"zzz": 5})


@pytest.mark.parametrize("value", [0, -1, 0.0, float("nan"), True, "5", None])
@pytest.mark.parametrize("name", ["mailbox", "idle_timeout"])
def test_a_limit_must_be_a_number_above_0(name: str, value: object):
    with pytest.raises(ValueError, match=rf"{name} must be a (whole )?number above 0, not {value!r}"):
        Limits.of({name: value})


COUNTS = [name for name, kind in LimitOptions.__annotations__.items() if "int" in str(kind)]


@pytest.mark.parametrize("value", [2.5, 2.0, 1e6, float("inf")])
@pytest.mark.parametrize("name", COUNTS)
def test_a_limit_that_counts_is_a_whole_number(name: str, value: float):
    with pytest.raises(ValueError, match=re.escape(f"{name} must be a whole number above 0, not {value!r}")):
        Limits.of({name: value})


def test_limits_take_what_is_given_and_default_the_rest():
    limits = Limits.of({"mailbox": 3, "idle_timeout": 0.5})
    assert (limits.mailbox, limits.idle_timeout) == (3, 0.5)
    assert limits.max_live_actors == Limits().max_live_actors


async def work(slots: FairSlots, key: str, order: list[str], seconds: float = 1.0) -> None:
    await slots.acquire(key)
    try:
        order.append(key)
        await trio.sleep(seconds)
    finally:
        slots.release()


async def test_no_more_than_the_slots_at_once(autojump_clock: trio.abc.Clock):
    slots = FairSlots(3)
    running = peak = 0

    async def one(number: int) -> None:
        nonlocal running, peak
        await slots.acquire(f"key{number % 2}")
        running += 1
        peak = max(peak, running)
        await trio.sleep(1)
        running -= 1
        slots.release()

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(one, number)
        await trio.testing.wait_all_tasks_blocked()
        assert (running, slots.waiting) == (3, 9)
    assert peak == 3
    assert trio.current_time() == pytest.approx(4, abs=0.01)
    assert slots.waiting == 0


async def test_a_busy_key_starves_nobody(autojump_clock: trio.abc.Clock):
    slots = FairSlots(1)
    order: list[str] = []
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(work, slots, "busy", order)
        await trio.testing.wait_all_tasks_blocked()
        for key in ("a", "b", "c"):
            nursery.start_soon(work, slots, key, order)
        await trio.testing.wait_all_tasks_blocked()
    assert set(order[1:6]) >= {"a", "b", "c"}, "each other key's turn comes within one round"
    assert Counter(order) == {"busy": 50, "a": 1, "b": 1, "c": 1}


async def test_keys_take_turns(autojump_clock: trio.abc.Clock):
    slots = FairSlots(1)
    order: list[str] = []
    await slots.acquire("first")
    async with trio.open_nursery() as nursery:
        for key in ["a"] * 3 + ["b"] * 3 + ["c"] * 2:
            nursery.start_soon(work, slots, key, order)
            await trio.testing.wait_all_tasks_blocked()
        slots.release()
    assert order == ["a", "b", "c", "a", "b", "c", "a", "b"]


async def test_within_a_key_first_come_first_served(autojump_clock: trio.abc.Clock):
    slots = FairSlots(1)
    order: list[int] = []

    async def one(number: int) -> None:
        await slots.acquire("key")
        order.append(number)
        slots.release()

    await slots.acquire("key")
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(one, number)
            await trio.testing.wait_all_tasks_blocked()
        slots.release()
    assert order == [*range(10)]


async def test_a_waiter_that_is_cancelled_leaves_no_trace(autojump_clock: trio.abc.Clock):
    slots = FairSlots(1)
    await slots.acquire("holder")
    async with trio.open_nursery() as nursery:
        for key in ("a", "a", "b"):
            nursery.start_soon(work, slots, key, [])
        await trio.testing.wait_all_tasks_blocked()
        assert slots.waiting == 3
        nursery.cancel_scope.cancel()
    assert slots.waiting == 0
    slots.release()
    with trio.fail_after(1):
        await slots.acquire("next")
    slots.release()


async def test_a_waiter_that_is_cancelled_as_it_gets_its_slot_still_has_it():
    slots = FairSlots(1)
    await slots.acquire("holder")
    scope = trio.CancelScope()
    got = False

    async def wait() -> None:
        nonlocal got
        with scope:
            await slots.acquire("waiter")
            got = True
            slots.release()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        slots.release()
        scope.cancel()  # after it was chosen, before it ran
    assert got
    with trio.fail_after(1):
        await slots.acquire("next")


@given(st.integers(1, 3), st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6)), max_size=15))
def test_whoever_gives_up_takes_no_slot_along(count: int, jobs: list[tuple[str, int]]):
    """Each job holds a slot for two seconds, unless it loses its patience first; in the end all slots are free."""

    async def main() -> None:
        slots = FairSlots(count)
        held = peak = 0

        async def one(key: str, patience: int) -> None:
            nonlocal held, peak
            with trio.move_on_after(patience):
                await slots.acquire(key)
                held += 1
                peak = max(peak, held)
                try:
                    await trio.sleep(2)
                finally:
                    held -= 1
                    slots.release()

        async with trio.open_nursery() as nursery:
            for key, patience in jobs:
                nursery.start_soon(one, key, patience)
        assert peak <= count
        assert (held, slots.waiting) == (0, 0)
        with trio.fail_after(1):
            for _ in range(count):
                await slots.acquire("all")
        with trio.move_on_after(1) as full:
            await slots.acquire("one more")
        assert full.cancelled_caught, "a slot too many"

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
