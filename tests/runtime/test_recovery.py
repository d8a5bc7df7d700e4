"""Durable letters through crashes and stops: of the process (`crash=True` loses what is written after), of an actor."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from afactors_channels import HostedRun, NotFound, Overloaded
from afactors_store import Commit, StoreFull
from tests.runtime.outcomes import caught

blocked = trio.testing.wait_all_tasks_blocked
House = Any  # of conftest
Clock = trio.abc.Clock


def shown(run: HostedRun) -> str | None:
    return run.result.text if run.result is not None else None


def failing(house: House, when: Callable[[Commit], bool], times: int = 1) -> None:
    """Have the actor crash at a commit."""
    left = times

    async def before(method: str, _key: str) -> None:
        nonlocal left
        if method == "commit" and left and when(house.store.commits[-1]):
            left -= 1
            raise RuntimeError("a defect")

    house.store.before = before


# --- the process


@pytest.mark.parametrize("crash", [False, True])
async def test_letters_that_waited_are_run_by_the_next_process(autojump_clock: Clock, house: House, crash: bool):
    house.target.hold("first")
    async with house.open(crash=crash):
        for text in ("first", "second", "third"):
            await house.submit(text, "s", name=f"p-{text}")
        await house.target.began("first").wait()
    house.target.hold("first").set()
    async with house.open() as runtime:
        await blocked()
        runs = [await runtime.get_continuation(f"p-{text}") for text in ("first", "second", "third")]
        assert [run.state for run in runs] == ["completed"] * 3, "nobody had to ask for them"
        assert [shown(run) for run in runs] == ["first", "first second", "first second third"]
        assert [run.attempt for run in runs] == [2 if crash else 1, 1, 1], "what ran may have been at fault"
        assert (await house.store.claim("ada")).letters == 0
    assert house.target.started == ["first", "first", "second", "third"]


async def test_every_acknowledged_letter_survives(autojump_clock: Clock, house: House):
    async with house.open(crash=True):
        for number in range(50):
            await house.submit(str(number), f"s{number % 7}", key=f"key{number % 3}", name=f"p{number}")
    async with house.open() as runtime:
        states = [(await runtime.get_continuation(f"p{number}", wait=True)).state for number in range(50)]
    assert states == ["completed"] * 50


async def test_what_was_not_acknowledged_is_there_whole_or_not_at_all(autojump_clock: Clock, house: House):
    gate = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "commit":
            await gate.wait()

    async with house.open(crash=True):
        house.store.before = before
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.submit, "hello")
            await blocked()
            house.store.crash()
            gate.set()
    async with house.open():
        await blocked()
        assert await house.store.keys() == []
    assert house.target.started in ([], ["hello"])


async def test_a_run_that_crashes_the_process_is_given_up(autojump_clock: Clock, house: House):
    house.target.hold("poison")
    for attempt in range(1, 4):
        async with house.open(crash=True) as runtime:
            if attempt == 1:
                await house.submit("poison", "s", name="p1")
            await blocked()
            assert house.target.running == ["poison"]
            run = await runtime.get_continuation("p1")
            assert (run.state, run.attempt) == ("running", attempt)
    for _ in range(2):
        async with house.open() as runtime:
            await blocked()
            run = await runtime.get_continuation("p1")
            assert (run.state, run.error[0], run.attempt) == ("failed", "attempts_exhausted", 3)
            assert house.said(await runtime.get_input("p1")) == ["poison"], "it can be looked at, and sent again"
            assert (await house.store.claim("ada")).letters == 0
            assert await house.ask("next", session_mode="disabled") == "next"
    assert house.target.started.count("poison") == 3


@pytest.mark.parametrize("budget", [1, 2, 5])
async def test_the_budget_is_what_it_says(autojump_clock: Clock, house: House, budget: int):
    house.target.hold("poison")
    for attempt in range(budget + 2):
        async with house.open(crash=True, max_attempts=budget):
            if attempt == 0:
                await house.submit("poison", "s")
            await blocked()
    assert house.target.started == ["poison"] * budget


async def test_a_crash_while_the_last_attempt_is_given_up(autojump_clock: Clock, house: House):
    """The record of it is lost: it is given up again, and not run."""
    house.target.hold("poison")
    for _ in range(2):
        async with house.open(crash=True, max_attempts=2):
            if not house.target.started:
                await house.submit("poison", "s", name="p1")
            await blocked()
    async with house.open(crash=True, max_attempts=2):
        house.store.crash()
        await blocked()
    async with house.open(max_attempts=2) as runtime:
        run = await runtime.get_continuation("p1", wait=True)
        assert (run.error[0], run.attempt) == ("attempts_exhausted", 2)
    assert house.target.started == ["poison"] * 2


async def test_a_clean_stop_uses_up_no_attempt(autojump_clock: Clock, house: House):
    house.target.hold("long")
    for number in range(6):
        async with house.open() as runtime:
            if number == 0:
                await house.submit("long", "s", name="p1")
            await blocked()
            assert house.target.running == ["long"]
        report = await runtime.drain()
        assert (report.finished, report.cancelled, report.put_back, report.abandoned) == (0, 0, 1, 0)
        assert str(report) == "stopped in 10.0 s: 1 turn put back"
    house.target.hold("long").set()
    async with house.open() as runtime:
        run = await runtime.get_continuation("p1", wait=True)
        assert (run.state, run.attempt) == ("completed", 1)


async def test_crashes_and_stops_in_turn(autojump_clock: Clock, house: House):
    house.target.hold("long")
    attempts = []
    for crash in (True, False, False, True, False):
        async with house.open(crash=crash) as runtime:
            if not attempts:
                await house.submit("long", "s", name="p1")
            await blocked()
            attempts.append((await runtime.get_continuation("p1")).attempt)
    assert attempts == [1, 2, 2, 2, 3]


async def test_the_neighbours_of_a_poison_letter_keep_their_attempts(autojump_clock: Clock, house: House):
    """All of them ran when it struck first. Then they run one at a time, and only the culprit is counted again."""
    house.target.hold("poison")
    names = [f"p{number}" for number in range(6)]
    async with house.open(crash=True):
        for number, name in enumerate(names):
            text = "poison" if number == 2 else f"good{number}"
            house.target.hold(text)
            await house.submit(text, "s", key=f"key{number}", name=name)
        await blocked()
        assert len(house.target.running) == 6
    for number in (0, 1, 3, 4, 5):
        house.target.hold(f"good{number}").set()
    for _ in range(4):
        house.target.peak = 0
        async with house.open(crash=True):
            await blocked()
        assert house.target.peak <= 1, "one at a time"
    async with house.open() as runtime:
        runs = [await runtime.get_continuation(name) for name in names]
        assert [run.state for run in runs] == [
            "completed",
            "completed",
            "failed",
            "completed",
            "completed",
            "completed",
        ]
        assert max(run.attempt for run in runs if run.state == "completed") == 2


async def test_suspects_hold_up_nobody_else(autojump_clock: Clock, house: House):
    for number in range(3):
        house.target.hold(f"suspect{number}")
    async with house.open(crash=True):
        for number in range(3):
            await house.submit(f"suspect{number}", "s", key=f"key{number}", name=f"p{number}")
        await blocked()
    async with house.open() as runtime:
        await blocked()
        assert len(house.target.running) == 1
        assert await house.ask("hello", "s", key="bob") == "hello"
        assert await house.ask("hello", "other", key="key0") == "hello"
        (first,) = [n for n in range(3) if house.target.running == [f"suspect{n}"]]
        await runtime.cancel(f"p{first}")
        await blocked()
        assert len(house.target.running) == 1, "the next one"
        for number in range(3):
            house.target.hold(f"suspect{number}").set()
        states = [(await runtime.get_continuation(f"p{n}", wait=True)).state for n in range(3)]
        assert sorted(states) == ["cancelled", "completed", "completed"]


async def test_a_suspect_may_ask_a_session_whose_letter_is_suspect_too(autojump_clock: Clock, house: House):
    async def ask_the_other(*_: object) -> str:
        if house.target.started.count("outer") > 1:
            return "then: " + await house.ask("inner", "t", key="bob")
        await trio.sleep_forever()
        return ""

    house.target.on["outer"] = ask_the_other
    house.target.hold("letter")
    async with house.open(crash=True):
        await house.submit("outer", "s", name="p1")
        await house.submit("letter", "t", key="bob")
        await blocked()
    house.target.hold("letter").set()
    async with house.open() as runtime:
        with trio.fail_after(60):
            run = await runtime.get_continuation("p1", wait=True)
        assert shown(run) == "then: letter inner"


@pytest.mark.parametrize("crash", [False, True])
async def test_letters_come_first_and_then_what_is_new(autojump_clock: Clock, house: House, crash: bool):
    house.target.hold("1")
    async with house.open(crash=crash):
        for text in "123":
            await house.submit(text, "s")
        await house.submit("other", "t")
    house.target.hold("1").set()
    reading = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "claim":
            await reading.wait()

    house.store.before = before
    async with house.open():
        new = [await house.post(text, "s") for text in "45"]  # the actor has not yet found its letters
        reading.set()
        assert [(await turn.outcome()).result.text for turn in new] == ["1 2 3 4", "1 2 3 4 5"]


async def test_a_letter_of_a_cold_actor_is_looked_at_waited_for_and_cancelled(autojump_clock: Clock, house: House):
    house.target.hold("first")
    async with house.open(crash=True):
        for text in ("first", "second", "third"):
            await house.submit(text, "s", name=f"p-{text}")
        await blocked()
    house.target.started.clear()
    hold_up = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "claim":
            await hold_up.wait()

    house.store.before = before
    async with house.open() as runtime:
        runs: dict[str, Any] = {}

        async def ask(what: str, call: Callable[[], Awaitable[Any]]) -> None:
            runs[what] = await call()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "wait", lambda: runtime.get_continuation("p-third", wait=True))
            nursery.start_soon(ask, "cancel", lambda: runtime.cancel("p-second"))
            nursery.start_soon(ask, "input", lambda: runtime.get_input("p-first"))
            await blocked()
            hold_up.set()
            house.target.hold("first").set()
        assert shown(runs["wait"]) == "first third"
        assert runs["cancel"].state == "cancelled"
        assert house.said(runs["input"]) == ["first"]
    assert house.target.started == ["first", "third"]


async def test_a_letter_s_own_point_is_kept_through_a_crash(autojump_clock: Clock, house: House):
    """It continues from where it was said to, though its session has moved on."""
    house.target.hold("slow")
    async with house.open(crash=True):
        await house.ask("one", name="p1")
        await house.submit("slow", after="p1", name="p2")
        await house.submit("aside", after="p1", name="p3")
        await blocked()
    house.target.hold("slow").set()
    async with house.open() as runtime:
        runs = [await runtime.get_continuation(name, wait=True) for name in ("p2", "p3")]
        assert [shown(run) for run in runs] == ["one slow", "one aside"]
        assert len({run.session_id for run in runs}) == 2
        assert await house.ask("more", after="p3") == "one aside more"


async def test_letters_wait_for_room(autojump_clock: Clock, house: House):
    async with house.open(crash=True):
        for number in range(20):
            house.target.hold(str(number))
            await house.submit(str(number), "s", key=f"key{number:02}", name=f"p{number}")
    async with house.open(max_live_actors=8) as runtime:
        await blocked()
        assert house.actors.live <= 4, "and new callers still find room"
        assert await house.ask("hello", "s", key="new") == "hello"
        for number in range(20):
            house.target.hold(str(number)).set()
        await blocked()
        assert {(await runtime.get_continuation(f"p{number}")).state for number in range(20)} == {"completed"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("crash", [False, True])
async def test_a_letter_whose_channel_is_gone_is_run_all_the_same(
    autojump_clock: Clock, house: House, words: Any, stream: bool, crash: bool
):
    house.channel(transcriber=words)
    house.target.hold("hello")
    async with house.open(crash=crash):
        await house.submit("hello", "s", name="p1", stream=stream)
        await blocked()
    house.channels.clear()
    house.target.hold("hello").set()
    async with house.open() as runtime:
        run = await runtime.get_continuation("p1", wait=True)
        assert (run.state, shown(run)) == ("completed", "hello")
        assert house.actors.restarts == 0


# --- stopping


async def test_a_stop_in_numbers(autojump_clock: Clock, house: House):
    house.target.hold("asked")
    house.target.hold("slow")
    async with house.open(drain_timeout=10.0) as runtime:
        turn = await house.post("asked", "s", key="bob")
        await house.submit("slow", "s")
        for number in range(3):
            await house.submit(str(number), "s")
        await blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.drain)
            await trio.sleep(4)
            house.target.hold("asked").set()
    report = await runtime.drain()
    assert (report.finished, report.cancelled, report.put_back, report.abandoned) == (1, 0, 4, 0)
    assert report.seconds == pytest.approx(10.0, abs=0.1)
    assert (await turn.outcome()).result.text == "asked"
    async with house.open() as runtime:
        assert (await house.store.claim("ada")).letters == 4
        house.target.hold("slow").set()
        assert await house.ask("last", "s") == "slow 0 1 2 last"


async def test_waiting_for_a_letter_that_is_put_back(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open() as runtime:
        await house.submit("slow", "s", name="p1")
        await house.submit("queued", "s", name="p2")
        await blocked()
        errors: dict[str, Exception] = {}

        async def wait(name: str) -> None:
            errors[name] = await caught(runtime.get_continuation(name, wait=True))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "p1")
            nursery.start_soon(wait, "p2")
            await blocked()
            await runtime.drain()
        for error in errors.values():
            assert isinstance(error, Overloaded)
            assert (error.code, error.status) == ("draining", 503)
        assert {(await runtime.get_continuation(name)).state for name in errors} == {"queued"}


async def test_no_turn_overtakes_a_letter_that_is_put_back(autojump_clock: Clock, house: House):
    """What stands behind it in its session would run before it: it is refused instead, and comes again."""
    house.target.hold("first")
    async with house.open() as runtime:
        await house.post("first", "s")
        await house.submit("second", "s", name="p2")
        third = await house.post("third", "s")
        elsewhere = await house.post("elsewhere", "t")
        await blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.drain)
            await blocked()
            house.target.hold("first").set()
        error = await caught(third.outcome())
        assert getattr(error, "code", None) == "draining"
        assert (await elsewhere.outcome()).result.text == "elsewhere"
    async with house.open() as runtime:
        assert shown(await runtime.get_continuation("p2", wait=True)) == "first second"
        assert await house.ask("third", "s") == "first second third"


async def test_nothing_is_delivered_any_more_during_the_stop(autojump_clock: Clock, house: House):
    """Though it was let in before: it would run ahead of what was put back."""

    async def slow(request: Any, **_: Any) -> Any:
        await trio.sleep(1)
        return request

    house.channel(run_hook=slow)
    house.target.hold("first")
    async with house.open(drain_timeout=10.0) as runtime:
        errors: list[Exception] = []

        async def ask() -> None:
            errors.append(await caught(house.ask("late", "s")))

        async with trio.open_nursery() as nursery:
            await house.post("first", "t")
            nursery.start_soon(ask)
            await blocked()
            nursery.start_soon(runtime.drain)
        assert getattr(errors[0], "code", None) == "draining"
    assert house.target.started == ["first"]


async def test_a_letter_that_is_accepted_during_the_stop_does_not_hold_it_up(autojump_clock: Clock, house: House):
    gate = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "commit":
            await gate.wait()

    house.store.before = before
    async with house.open(drain_timeout=100.0) as runtime:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: house.submit("hello", "s", name="p1"))
            await blocked()
            nursery.start_soon(runtime.drain)
            await blocked()
            gate.set()
        report = await runtime.drain()
        assert (report.put_back, report.finished) == (1, 0)
        assert report.seconds < 1
    assert house.target.started == []
    async with house.open() as runtime:
        assert (await runtime.get_continuation("p1", wait=True)).state == "completed"


async def test_a_cancelled_letter_stays_cancelled_through_a_stop(autojump_clock: Clock, house: House):
    async def stubborn(*_: object) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(3)
        return "at last"

    house.target.on["slow"] = stubborn
    async with house.open() as runtime:
        await house.submit("slow", "s", name="p1")
        await blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.cancel, "p1")
            await blocked()
            await runtime.drain()
    async with house.open() as runtime:
        assert (await runtime.get_continuation("p1")).state == "cancelled"
    assert house.target.started == ["slow"]


# --- an actor


async def test_an_actor_that_crashes_in_a_durable_turn_runs_it_again(autojump_clock: Clock, house: House):
    failing(house, lambda commit: bool(commit.consume))
    async with house.open() as runtime:
        token = await house.submit("hello", "s")
        run = await runtime.get_continuation(token)
        assert run.attempt == 1
        run = await runtime.get_continuation(token, wait=True)
        assert (run.state, run.attempt, shown(run)) == ("completed", 2, "hello"), "whoever waits waits for that"
        assert house.actors.restarts == 1
    assert house.target.started == ["hello", "hello"]


async def test_a_turn_that_always_crashes_its_actor_is_given_up(autojump_clock: Clock, house: House):
    failing(house, lambda commit: bool(commit.put), times=100)
    async with house.open() as runtime:
        token = await house.submit("hello", "s")
        await trio.sleep(60)
        run = await runtime.get_continuation(token, wait=True)
        assert (run.state, run.error[0], run.attempt) == ("failed", "attempts_exhausted", 3)
        assert house.actors.quarantined == ()
    assert house.target.started == ["hello"] * 3


async def test_a_crash_takes_nobody_else_s_attempt(autojump_clock: Clock, house: House):
    """What runs in another session of the key is run again, too, and counted; what waits is not."""
    house.target.hold("beside")
    failing(house, lambda commit: bool(commit.put))
    async with house.open() as runtime:
        await house.submit("beside", "t", name="p-beside")
        await blocked()
        await house.submit("culprit", "s", name="p-culprit")
        await house.submit("behind", "s", name="p-behind")
        house.target.hold("beside").set()
        await trio.sleep(10)
        runs = [await runtime.get_continuation(f"p-{text}") for text in ("culprit", "behind", "beside")]
        assert [run.state for run in runs] == ["completed"] * 3
        assert [run.attempt for run in runs] in ([2, 1, 1], [2, 1, 2], [1, 1, 2])
        assert shown(runs[1]) == "culprit behind"


async def test_an_actor_that_goes_on_after_a_crash_is_not_idle(autojump_clock: Clock, house: House):
    """There is one actor to a key, however long its letter takes."""
    failing(house, lambda commit: bool(commit.consume))
    async with house.open(idle_timeout=10.0, restart_backoff=20.0) as runtime:
        await house.submit("hello", "s", name="p1")
        await trio.sleep(15)
        assert house.actors.live == 1, "its letter waits for the restart"
        house.target.hold("hello")
        await trio.sleep(100)
        assert house.target.running == ["hello"]
        assert (house.actors.live, house.actors.idle, house.actors.passivated) == (1, 0, 0)
        turn = await house.post("more", "s")
        await blocked()
        house.target.hold("hello").set()
        assert (await turn.outcome()).result.text == "hello more"
        await trio.sleep(20)
        assert house.actors.live == 0
        assert (await runtime.get_continuation("p1")).attempt == 2


async def test_an_actor_that_crashes_while_the_runtime_stops_does_not_hold_it_up(autojump_clock: Clock, house: House):
    house.target.hold("hello")
    async with house.open(drain_timeout=100.0) as runtime:
        await house.submit("hello", "s", name="p1")
        await blocked()
        failing(house, lambda commit: bool(commit.consume))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.drain)
            await blocked()
            house.target.hold("hello").set()
        report = await runtime.drain()
        assert (report.put_back, report.finished) == (1, 0)
        assert report.seconds < 1
    async with house.open() as runtime:
        assert (await runtime.get_continuation("p1", wait=True)).state == "completed"


async def test_who_waited_behind_a_crash_goes_on(autojump_clock: Clock, house: House):
    failing(house, lambda commit: bool(commit.consume))
    async with house.open():
        await house.submit("one", "s")
        asked = await house.post("two", "s")
        await house.submit("three", "s")
        assert (await asked.outcome()).result.text == "one two"
        assert await house.ask("four", "s") == "one two three four"


@pytest.mark.parametrize("known", [False, True])
async def test_a_letter_that_was_being_accepted_when_its_actor_crashed(
    autojump_clock: Clock, house: House, known: bool
):
    """It is accepted once, whether its commit came through or not."""
    commit, crash = house.store.commit, [True]

    async def crashing(claim: Any, change: Commit) -> Any:
        if change.letters and crash:
            crash.clear()
            if known:
                await commit(claim, change)
            raise RuntimeError("a defect")
        return await commit(claim, change)

    house.store.commit = crashing
    async with house.open() as runtime:
        token = await house.submit("hello", "s")
        run = await runtime.get_continuation(token, wait=True)
        assert (run.state, shown(run)) == ("completed", "hello")
        assert house.actors.restarts == 1
    assert house.target.started == ["hello"]


async def test_submitting_to_a_key_that_is_put_in_quarantine(autojump_clock: Clock, house: House):
    failing(house, lambda _commit: True, times=10**6)
    async with house.open(max_restarts=2, quarantine=60.0) as runtime:
        with trio.fail_after(30):
            error = await caught(house.submit("hello", "s", name="p1"))
        assert isinstance(error, Overloaded)
        assert error.code == "quarantined"
        assert isinstance(await caught(runtime.get_continuation("p1")), NotFound)
        house.store.before = None
        await trio.sleep(61)
        assert await house.ask("again", "s") == "again"


async def test_letters_wait_for_the_end_of_a_quarantine(autojump_clock: Clock, house: House):
    async with house.open(max_restarts=2, quarantine=60.0, max_attempts=50) as runtime:
        house.target.hold("hello")
        await house.submit("hello", "s", name="p1")
        await house.submit("behind", "s", name="p2")
        await blocked()
        failing(house, lambda commit: bool(commit.runs), times=10**6)
        house.target.hold("hello").set()
        await trio.sleep(10)
        assert house.actors.quarantined == ("ada",)
        assert (await runtime.get_continuation("p1")).state in ("queued", "running")
        assert isinstance(await caught(runtime.get_continuation("p1", wait=True)), Overloaded)
        house.store.before = None
        await trio.sleep(60)
        assert shown(await runtime.get_continuation("p2", wait=True)) == "hello behind"


async def test_what_was_cancelled_is_not_run_again_after_a_crash(autojump_clock: Clock, house: House):
    """The record of its end was lost with the actor, and the decision is not."""
    house.target.hold("slow")
    async with house.open() as runtime:
        token = await house.submit("slow", "s")
        await blocked()
        failing(house, lambda commit: bool(commit.consume))
        assert (await runtime.cancel(token)).state == "cancelled"
        assert house.actors.restarts == 1
    assert house.target.started == ["slow"]


async def test_a_clean_stop_does_not_clear_a_suspect(autojump_clock: Clock, house: House):
    """It was running when the process crashed, and the next one stopped before it could run again."""
    house.build(channels=house.channels, max_attempts=2)
    gate = house.target.hold("poison")
    async with house.runtime as runtime:
        token = await runtime.submit(house.request("poison"))
        await house.target.began("poison").wait()
        house.store.crash()
    house.target.hold("first")
    async with house.open(max_attempts=2) as runtime:
        supervisor = runtime._opened_now().supervisor
        await supervisor.suspects.acquire("somebody")  # so it does not begin
        await supervisor.wake("ada")
    assert house.target.started.count("poison") == 1
    gate.set()
    async with house.open(max_attempts=2) as runtime:
        run = await runtime.get_continuation(token, wait=True)
    assert (run.state, run.attempt) == ("completed", 2)


async def test_a_run_whose_end_finds_no_room_is_put_back(autojump_clock: Clock, house: House):
    """Neither its result nor its failure can be written: its letter is still there, and runs when there is room."""

    async def before(method: str, _key: str) -> None:
        if method == "commit" and house.store.commits[-1].consume:
            raise StoreFull("the map is full")

    async with house.open() as runtime:
        house.store.before = before
        await house.submit("hello", "s", name="p1")
        error = await caught(runtime.get_continuation("p1", wait=True))
        assert getattr(error, "code", None) == "storage_full"
        assert (await runtime.get_continuation("p1")).state in ("queued", "running")
        house.store.stuffed = True
        for call in (runtime.cancel("p1"), runtime.get_continuation("p1", wait=True), runtime.forget("p1")):
            assert getattr(await caught(call), "code", None) == "storage_full"
        assert house.target.started == ["hello"], "nobody made it run again for nothing"
        house.store.before, house.store.stuffed = None, False
        run = await runtime.get_continuation("p1", wait=True)
        assert (run.state, shown(run)) == ("completed", "hello")
        assert house.actors.restarts == 0


async def test_cancelling_a_run_whose_end_finds_no_room(autojump_clock: Clock, house: House):
    async def before(method: str, _key: str) -> None:
        if method == "commit" and house.store.commits[-1].consume:
            raise StoreFull("the map is full")

    house.target.hold("hello")
    async with house.open() as runtime:
        await house.submit("hello", "s", name="p1")
        await blocked()
        house.store.before = before
        assert getattr(await caught(runtime.cancel("p1")), "code", None) == "storage_full"
        house.store.before = None
        assert (await runtime.cancel("p1")).state == "cancelled"
        assert house.target.started == ["hello"]


async def test_cancelling_finds_letters_that_no_actor_has_taken_up(autojump_clock: Clock, house: House):
    house.target.hold("long")
    async with house.open(crash=True):
        await house.submit("long", "s", name="p1")
        await house.submit("next", "s", name="p2")
    async with house.open() as runtime:
        assert await runtime.cancel_running("ada") == 2
        for name in ("p1", "p2"):
            assert (await runtime.get_continuation(name, wait=True)).state == "cancelled"
