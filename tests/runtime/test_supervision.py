"""Actors come and go: crashes, back-off, quarantine, passivation, and a store that breaks."""

from typing import Any

import pytest
import trio
import trio.testing

from afactors_channels import Overloaded, TargetFailed
from afactors_store import Commit, FormatTooNew, MemoryStore, StoreBroken
from tests.runtime.outcomes import caught

House = Any  # of conftest
Clock = trio.abc.Clock
blocked = trio.testing.wait_all_tasks_blocked


class Failing:
    """Makes a method of the store raise for one key, a number of times, and notes when."""

    def __init__(self, method: str, key: str = "ada", times: float = float("inf")) -> None:
        self.method, self.key, self.times = method, key, times
        self.at: list[float] = []

    async def __call__(self, method: str, key: str) -> None:
        if (method, key) == (self.method, self.key) and self.times > 0:
            self.times -= 1
            self.at.append(trio.current_time())
            raise ZeroDivisionError("a defect")


# --- crashes


@pytest.mark.parametrize("method", ["claim", "read", "commit"])
async def test_an_actor_that_crashes_is_restarted(autojump_clock: Clock, house: House, method: str):
    house.store.before = Failing(method, times=1)
    async with house.open():
        outcome = await house.post("one", "s")
        if method == "claim":  # no letter had begun: it waits, and begins in the next life
            assert (await outcome.outcome()).result.text == "one"
        else:
            error = await caught(outcome.outcome())
            assert isinstance(error, TargetFailed)
            assert (error.code, error.status) == ("server_error", 500)
            assert "defect" not in str(error)
        assert (await house.ask("two", "s")).endswith("two")
        assert (house.actors.restarts, house.actors.quarantined) == (1, ())


async def test_neighbours_of_a_crash_go_on(autojump_clock: Clock, house: House, caplog: pytest.LogCaptureFixture):
    house.target.hold("neighbour")
    async with house.open():
        neighbour = await house.post("neighbour", "s", key="bob")
        await blocked()
        house.store.before = Failing("read")
        assert isinstance(await caught(house.ask("one", "s")), TargetFailed)
        assert neighbour.state == "running"
        house.target.hold("neighbour").set()
        assert (await neighbour.outcome()).result.text == "neighbour"
    assert "actor 'ada' crashed" in caplog.text


async def test_a_crash_takes_the_running_turns_of_its_key_and_leaves_the_waiting(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open():
        slow = await house.post("slow", "a")
        waiting = await house.post("waiting", "a")
        await blocked()
        house.store.before = Failing("read", times=1)
        crashing = await house.post("crashing", "b")
        for turn in (slow, crashing):
            assert isinstance(await caught(turn.outcome()), TargetFailed)
        assert not waiting.ended
        assert (await waiting.outcome()).result.text == "waiting"
    assert house.target.ended.count("slow") == 1


async def test_a_letter_that_is_cancelled_between_two_lives(autojump_clock: Clock, house: House):
    house.store.before = Failing("claim", times=2)
    async with house.open(restart_backoff=10.0):
        turn = await house.post("one", "s")
        await trio.sleep(5)
        assert turn.cancel("user")
        error = await caught(turn.outcome())
        assert error.code == "cancelled"
        assert (await house.record(turn)).state == "cancelled"
        assert house.target.started == []
        assert await house.ask("two", "s") == "two"


async def test_the_back_off_doubles_and_then_the_key_is_quarantined(
    autojump_clock: Clock, house: House, caplog: pytest.LogCaptureFixture
):
    failing = house.store.before = Failing("claim")
    async with house.open(max_restarts=4, restart_backoff=1.0, restart_window=1000.0):
        turns = [await house.post(str(number), f"s{number}") for number in range(3)]
        errors = [await caught(turn.outcome()) for turn in turns]
        assert [later - at for at, later in zip(failing.at, failing.at[1:], strict=False)] == pytest.approx(
            [1, 2, 4, 8]
        )
        assert {type(error) for error in errors} == {Overloaded}
        assert {(error.code, error.status) for error in errors} == {("quarantined", 503)}
        assert errors[0].retry_after
        assert (house.actors.restarts, house.actors.quarantined, house.actors.live) == (4, ("ada",), 0)
        house.store.before = None
        error = await caught(house.ask("again", "s"))
        assert (type(error), error.code) == (Overloaded, "quarantined")
        assert await house.ask("hello", "s", key="bob") == "hello"
        assert len(failing.at) == 5
    assert "quarantined after 4 restarts" in caplog.text


async def test_a_quarantine_ends(autojump_clock: Clock, house: House):
    house.store.before = Failing("read", times=2)
    async with house.open(max_restarts=1, quarantine=300.0):
        for _ in range(2):
            assert isinstance(await caught(house.ask("x", "s")), TargetFailed)
        await blocked()
        error = await caught(house.ask("x", "s"))
        assert (error.code, house.actors.quarantined) == ("quarantined", ("ada",))
        assert 0 < error.retry_after <= 300
        await trio.sleep(error.retry_after + 1)
        assert await house.ask("again", "s") == "again"
        assert house.actors.quarantined == ()


async def test_crashes_far_apart_do_not_add_up(autojump_clock: Clock, house: House):
    house.store.before = Failing("read")
    async with house.open(max_restarts=2, restart_window=60.0):
        for _ in range(10):
            assert isinstance(await caught(house.ask("x", "s")), TargetFailed)
            await trio.sleep(40)
        assert (house.actors.restarts, house.actors.quarantined) == (10, ())


async def test_crashes_close_together_do(autojump_clock: Clock, house: House):
    house.store.before = Failing("read")
    async with house.open(max_restarts=2, restart_window=60.0):
        codes = []
        for _ in range(4):
            codes.append((await caught(house.ask("x", "s"))).code)
            await trio.sleep(10)
        assert codes == ["server_error", "server_error", "server_error", "quarantined"]


async def test_a_corrupt_session_is_its_own_problem(autojump_clock: Clock, house: House):
    async with house.open():
        await house.ask("one", "bad")
        await house.ask("one", "good")
        claim = await MemoryStore.claim(house.store, "ada")
        await MemoryStore.commit(house.store, claim, Commit(put={"session/ada:bad": b"\xc1 no msgpack"}))
    async with house.open():
        assert isinstance(await caught(house.ask("two", "bad")), TargetFailed)
        assert await house.ask("two", "good") == "one two"


async def test_a_session_of_a_newer_version_is_left_alone(
    autojump_clock: Clock, house: House, caplog: pytest.LogCaptureFixture
):
    newer = b"\x84\xa1v\x09\xa1s\xa5ada:s\xa1t\x01\xa1b\x00"
    async with house.open():
        claim = await MemoryStore.claim(house.store, "ada")
        await MemoryStore.commit(house.store, claim, Commit(put={"session/ada:s": newer}))
        assert isinstance(await caught(house.ask("two", "s")), TargetFailed)
        assert await MemoryStore.read(house.store, claim, ["session/ada:s"]) == {"session/ada:s": newer}
    assert FormatTooNew.__name__ in caplog.text


async def test_an_actor_that_is_passivated_during_its_back_off(autojump_clock: Clock, house: House):
    crashed = False

    async def before(method: str, key: str) -> None:
        nonlocal crashed
        if key == "ada" and (crashed or method == "read"):
            crashed = True
            raise ZeroDivisionError("a defect")

    house.store.before = before
    async with house.open(max_restarts=3, restart_backoff=1.0, max_live_actors=1):
        await caught(house.ask("one", "s"))  # now it is idle, and waits to be restarted
        assert await house.ask("hello", "s", key="bob") == "hello"
        await trio.sleep(60)
        assert await house.ask("again", "s", key="bob") == "hello again"


# --- passivation


async def test_an_idle_actor_is_passivated_and_comes_back(autojump_clock: Clock, house: House):
    async with house.open(idle_timeout=100.0):
        assert await house.ask("one", "s") == "one"
        await trio.sleep(95)
        assert (house.actors.live, house.actors.idle) == (1, 1)
        await trio.sleep(20)
        assert (house.actors.live, house.actors.idle, house.actors.passivated) == (0, 0, 1)
        assert await house.ask("two", "s") == "one two"
        assert house.actors.started == 2


async def test_a_busy_actor_is_not_passivated(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open(idle_timeout=10.0):
        turn = await house.post("slow", "s")
        await trio.sleep(100)
        assert (house.actors.live, house.actors.passivated) == (1, 0)
        house.target.hold("slow").set()
        await turn.outcome()


async def test_an_actor_that_was_idle_and_is_busy_is_not_passivated(autojump_clock: Clock, house: House):
    """Or there would soon be two actors of one key."""
    house.target.hold("slow")
    async with house.open(idle_timeout=10.0, max_live_actors=2):
        await house.ask("one", "s")
        turn = await house.post("slow", "s")
        await trio.sleep(100)
        for key in "bcd":
            await house.ask("x", "s", key=key)
        assert "ada" in house.runtime._opened_now().supervisor._actors
        behind = await house.post("behind", "s")
        await trio.sleep(1)
        assert behind.state == "queued"
        house.target.hold("slow").set()
        await turn.outcome()
        assert (await behind.outcome()).result.text == "one slow behind"


async def test_each_message_puts_passivation_off(autojump_clock: Clock, house: House):
    async with house.open(idle_timeout=100.0):
        for number in range(10):
            await house.ask(str(number), "s")
            await trio.sleep(60)
        assert house.actors.started == 1


async def test_above_the_cap_the_longest_idle_goes_first(autojump_clock: Clock, house: House):
    async with house.open(max_live_actors=3):
        for key in ("a", "b", "c"):
            await house.ask("one", "s", key=key)
            await trio.sleep(1)
        await house.ask("two", "s", key="a")  # now b is the longest idle
        await house.ask("one", "s", key="d")
        assert sorted(house.runtime._opened_now().supervisor._actors) == ["a", "c", "d"]
        assert await house.ask("two", "s", key="b") == "one two"
        assert sorted(house.runtime._opened_now().supervisor._actors) == ["a", "b", "d"]
        assert (house.actors.live, house.actors.passivated) == (3, 2)


async def test_above_the_cap_of_idle_actors_the_longest_idle_goes(autojump_clock: Clock, house: House):
    async with house.open(max_idle_actors=2):
        for key in ("a", "b", "c", "d"):
            await house.ask("one", "s", key=key)
        assert sorted(house.runtime._opened_now().supervisor._actors) == ["c", "d"]
        assert await house.ask("two", "s", key="a") == "one two"
        assert (house.actors.live, house.actors.idle, house.actors.passivated) == (2, 2, 3)


async def test_above_the_cap_with_none_idle(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open(max_live_actors=2):
        turns = [await house.post("slow", "s", key=key) for key in ("a", "b")]
        error = await caught(house.ask("one", "s", key="c"))
        assert isinstance(error, Overloaded)
        assert (error.status, error.retry_after) == (429, 1.0)
        behind = await house.post("behind", "s", key="a")  # who is there already may still speak
        house.target.hold("slow").set()
        for turn in [*turns, behind]:
            await turn.outcome()
        assert await house.ask("one", "s", key="c") == "one"


@pytest.mark.parametrize("steps", range(6))
async def test_a_letter_that_arrives_during_passivation_is_not_lost(autojump_clock: Clock, house: House, steps: int):
    async with house.open(idle_timeout=100.0):
        supervisor = house.runtime._opened_now().supervisor
        for round_ in range(5):
            await house.ask(f"a{round_}", "s")
            assert supervisor._passivate_longest_idle()
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            await house.ask(f"b{round_}", "s")
        expected = " ".join(f"{letter}{round_}" for round_ in range(5) for letter in "ab")
        assert await house.ask("end", "s") == f"{expected} end"


async def test_traffic_around_the_moment_of_passivation_loses_nothing(autojump_clock: Clock, house: House):
    async with house.open(idle_timeout=1.0, max_live_actors=2):
        for number in range(60):
            await house.ask(str(number), "s", key=f"key{number % 3}")
            await trio.sleep(0.9 + number % 4 * 0.1)
        for key in range(3):
            expected = [str(number) for number in range(key, 60, 3)]
            assert await house.ask("end", "s", key=f"key{key}") == " ".join([*expected, "end"])
        assert house.actors.passivated > 10


async def test_statistics(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open(max_running_turns=1):
        await house.ask("one", "s", key="idle")
        for key in ("a", "b"):
            await house.post("slow", "s", key=key)
        await house.post("behind", "s", key="a")
        await blocked()
        now = house.actors
        assert (now.live, now.idle, now.waiting, now.running, now.queued_for_slot) == (3, 1, 1, 2, 1)
        house.target.hold("slow").set()


# --- a store that breaks


async def test_a_broken_store_ends_the_runtime_loudly(autojump_clock: Clock, house: House):
    async def live() -> None:
        async with house.open():
            await house.ask("one", "s")
            house.store.breaks = True
            await house.ask("two", "s")
            await trio.sleep_forever()

    with pytest.raises(StoreBroken, match="the disk is gone"):
        await live()
    assert house.broken == ["the store failed: the disk is gone"], "told once"
    assert house.runtime.broken == house.broken[0]
    assert not house.runtime.serving
    assert "broken" in house.runtime.not_ready()


@pytest.fixture
async def elsewhere(house: House, nursery: trio.Nursery) -> Any:
    """A runtime that lives in another task than its callers, as it does under a server; what ended it."""
    ends: list[BaseException] = []
    opened = trio.Event()

    async def live() -> None:
        try:
            async with house.open():
                opened.set()
                await trio.sleep_forever()
        except StoreBroken as exc:
            ends.append(exc)

    nursery.start_soon(live)
    await opened.wait()
    return ends


async def test_nobody_waits_for_ever_for_a_broken_store(autojump_clock: Clock, house: House, elsewhere: Any):
    house.target.hold("bystander")
    bystander = await house.post("bystander", "s", key="bob")
    await blocked()
    house.store.breaks = True
    turn = await house.post("one", "s")
    await trio.sleep(600)
    assert house.broken
    assert turn.ended
    assert bystander.ended


async def test_a_runtime_whose_store_broke_is_not_ready(autojump_clock: Clock, house: House, elsewhere: Any):
    house.store.breaks = True
    await house.post("one", "s")
    while not elsewhere:
        await trio.lowlevel.checkpoint()
        assert isinstance(house.runtime.not_ready(), list), "at no moment does it fail to say"
    assert "broken" in house.runtime.not_ready()
    assert not house.runtime.serving


async def test_a_broken_store_is_told_at_once(autojump_clock: Clock, house: House, elsewhere: Any):
    house.store.breaks = True
    start = trio.current_time()
    await house.post("one", "s")
    while not house.broken:  # noqa: ASYNC110 - nobody sets an event
        await trio.sleep(0.1)
    assert trio.current_time() - start < 1.0


async def test_a_store_that_breaks_in_housekeeping_is_told_at_once(autojump_clock: Clock, house: House, elsewhere: Any):
    house.target.hold("slow")
    turn = await house.post("slow", "s")
    await trio.sleep(50)
    house.store.breaks = True
    await trio.sleep(12)  # housekeeping is at 60
    assert house.broken
    assert turn.ended
