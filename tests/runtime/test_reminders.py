"""Reminders: once, late rather than never, in the order of what is due; made and cancelled inside a turn, too."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
from agent_framework import Message
from trio.abc import Clock
from trio.testing import wait_all_tasks_blocked

from afactors import CurrentTurn, Reminder, Runtime, get_current_turn
from afactors.encoding import pack
from afactors.reminders import due_at
from afactors_channels import (
    BadRequest,
    ChannelIdentity,
    HostError,
    NotAllowed,
    Overloaded,
    Push,
    ResponseTarget,
    StorageFull,
)
from afactors_store import Commit, Conflict, FormatTooNew, StoreBroken, StoreFull

START = 1_800_000_000.0
ADA = ChannelIdentity("chat", "ada", verified=True)


class Wall:
    """The time of day: it goes on with trio's clock, unless somebody sets it."""

    def __init__(self) -> None:
        self.offset = START

    def __call__(self) -> float:
        try:
            return self.offset + trio.current_time()
        except RuntimeError:  # outside of trio
            return self.offset


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    wall = Wall()
    monkeypatch.setattr("time.time", wall)
    return wall


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def pushing(house: Any, name: str = "chat") -> list[str]:
    """Have the next runtime speak a channel that takes deliveries; what it took."""
    taken: list[str] = []

    async def push(push: Push) -> None:
        await trio.lowlevel.checkpoint()
        taken.append(f"{push.kind} {push.identity.native_id}: {push.response.text}")

    house.channel(name, push=push)
    return taken


async def history(house: Any, key: str = "ada") -> list[str]:
    session = await house.runtime.get_session(house.request("", key=key))
    return house.said(session.messages)


# --- when it is due


async def test_it_comes_when_it_is_due_and_once(autojump_clock: Clock, wall: Wall, house: Any):
    async with house.open() as runtime:
        reminder = await runtime.schedule("ada", minutes(10), "call Bob")
        await trio.sleep(599)
        assert house.target.started == []
        assert [one.reminder_id for one in await runtime.list_reminders("ada")] == [reminder]
        await trio.sleep(2)
        assert house.target.started == ["call Bob"]
        assert await runtime.list_reminders("ada") == []
        await trio.sleep(1_800)
        assert house.target.started == ["call Bob"]
        assert await house.store.next_timer() is None


async def test_it_wakes_an_actor_that_was_passivated(autojump_clock: Clock, wall: Wall, house: Any):
    async with house.open(idle_timeout=5.0) as runtime:
        await house.ask("hello")
        await runtime.schedule("ada", minutes(10), "call Bob")
        await trio.sleep(300)
        assert house.actors.live == 0
        await trio.sleep(301)
        assert house.target.started == ["hello", "call Bob"]
        assert await history(house) == ["hello", "hello", "call Bob", "hello call Bob"]


async def test_an_earlier_one_is_not_slept_through(autojump_clock: Clock, wall: Wall, house: Any):
    async with house.open() as runtime:
        await runtime.schedule("ada", minutes(60), "later")
        await trio.sleep(1)
        await runtime.schedule("bob", minutes(1), "soon")
        await trio.sleep(61)
        assert house.target.started == ["soon"]


async def test_what_is_past_is_due_at_once(autojump_clock: Clock, wall: Wall, house: Any):
    async with house.open() as runtime:
        await runtime.schedule("ada", START - 100, "past")
        await trio.sleep(0.1)
        assert house.target.started == ["past"]


async def test_the_request_says_what_it_is(autojump_clock: Clock, wall: Wall, house: Any):
    seen: list[Any] = []

    async def look(request: Any, _session: Any) -> None:
        seen.append(request)

    house.target.on["call Bob"] = look
    async with house.open() as runtime:
        reminder = await runtime.schedule("ada", minutes(1), "call Bob")
        await trio.sleep(61)
    (request,) = seen
    assert request.channel == "reminder"
    assert request.attributes["reminder"] == reminder
    assert request.attributes["due"] == pytest.approx(START + 60)
    assert 0 <= request.attributes["late_by"] < 1


@pytest.mark.parametrize("step", [-1_000.0, 1_000.0])
async def test_a_wall_clock_that_jumps_neither_loses_nor_doubles(
    autojump_clock: Clock, wall: Wall, house: Any, step: float
):
    async with house.open() as runtime:
        await runtime.schedule("ada", minutes(15), "call Bob")
        await trio.sleep(60)
        wall.offset += step
        await trio.sleep(40)  # it looks again
        assert house.target.started == (["call Bob"] if step > 0 else [])
        await trio.sleep(3_000)
        assert house.target.started == ["call Bob"]


# --- where the answer goes


async def test_the_answer_goes_to_where_the_user_wrote_last(autojump_clock: Clock, wall: Wall, house: Any):
    one, other = pushing(house), pushing(house, "other")
    async with house.open() as runtime:
        await house.ask("a", channel="other", identity=ChannelIdentity("other", "ada", verified=True))
        await house.ask("b", channel="chat", identity=ADA)
        await runtime.schedule("ada", minutes(1), "call Bob")
        await trio.sleep(61)
    assert one == ["reply ada: a b call Bob"]
    assert other == []


async def test_it_goes_to_all_channels_if_none_is_active(autojump_clock: Clock, wall: Wall, house: Any):
    taken = pushing(house)
    house.channel("wire")
    async with house.open() as runtime:
        await house.ask("a", channel="chat", identity=ADA)
        await house.ask("b", channel="wire", identity=ChannelIdentity("wire", "ada", verified=True))
        await runtime.schedule("ada", minutes(1), "call Bob")
        await trio.sleep(61)
    assert taken == ["reply ada: a b call Bob"]


async def test_the_answer_to_nobody_is_in_the_conversation(autojump_clock: Clock, wall: Wall, house: Any):
    async with house.open() as runtime:
        await house.ask("hello")
        await runtime.schedule("ada", minutes(1), "call Bob")
        await trio.sleep(61)
        assert (await history(house))[-1] == "hello call Bob"


async def test_a_target_of_ones_own(autojump_clock: Clock, wall: Wall, house: Any):
    taken = pushing(house)
    async with house.open() as runtime:
        await house.ask("a", channel="chat", identity=ADA)
        await runtime.schedule("ada", minutes(1), "quietly", target=ResponseTarget.none)
        stranger = ResponseTarget.identity(ChannelIdentity("chat", "eve"))
        with pytest.raises(NotAllowed):
            await runtime.schedule("ada", minutes(1), "x", target=stranger)
        await trio.sleep(61)
    assert house.target.started == ["a", "quietly"]
    assert taken == []


@pytest.mark.parametrize("to", [None, ResponseTarget.channel("other"), ResponseTarget.none])
async def test_whoever_would_get_the_answer_hears_of_a_failure(
    autojump_clock: Clock, wall: Wall, house: Any, to: ResponseTarget | None
):
    async def fail(*_: Any) -> None:
        raise OSError("the model is down")

    house.target.on["call Bob"] = fail
    one, other = pushing(house), pushing(house, "other")
    async with house.open() as runtime:
        await house.ask("a", channel="other", identity=ChannelIdentity("other", "ada", verified=True))
        await house.ask("b", channel="chat", identity=ADA)
        await runtime.schedule("ada", minutes(1), "call Bob", target=to)
        await trio.sleep(61)
    told = ["reply ada: The agent failed to answer."]
    where = to.kind if to is not None else None
    assert (one, other) == {None: (told, []), "channels": ([], told), "none": ([], [])}[where]


async def test_the_message_itself_instead_of_a_turn(autojump_clock: Clock, wall: Wall, house: Any):
    taken = pushing(house)
    async with house.open() as runtime:
        await house.ask("a", channel="chat", identity=ADA)
        await runtime.schedule("ada", minutes(1), "Call Bob!", as_turn=False)
        await trio.sleep(61)
        assert taken == ["message ada: Call Bob!"]
        assert house.target.started == ["a"]
        assert await history(house) == ["a", "a", "Call Bob!"]
        assert await runtime.list_reminders("ada") == []


async def test_a_message_that_reaches_nobody_is_remembered(autojump_clock: Clock, wall: Wall, house: Any):
    async with house.open() as runtime:
        await house.ask("a")
        await runtime.schedule("ada", minutes(1), "Call Bob!", as_turn=False)
        await trio.sleep(61)
        assert await history(house) == ["a", "a", "Call Bob!"]


# --- while the process was down


async def test_what_was_due_while_the_process_was_down_comes_at_start_in_order(
    autojump_clock: Clock, wall: Wall, house: Any
):
    late: list[float] = []

    async def note(request: Any, _session: Any) -> None:
        late.append(request.attributes["late_by"])

    async with house.open() as runtime:
        for n in (3, 1, 2):
            house.target.on[f"r{n}"] = note
            await runtime.schedule("ada", minutes(n), f"r{n}")
    wall.offset += 3_600
    async with house.open():
        await trio.sleep(1)
        assert house.target.started == ["r1", "r2", "r3"]
        assert late == sorted(late, reverse=True)
        assert late[0] == pytest.approx(3_540, abs=5)


async def test_one_that_expired_is_dropped_and_the_log_says_so(
    autojump_clock: Clock, wall: Wall, house: Any, caplog: pytest.LogCaptureFixture
):
    async with house.open() as runtime:
        await runtime.schedule("ada", minutes(1), "stale", expires=minutes(5))
        await runtime.schedule("ada", minutes(1), "fresh", expires=minutes(600))
        with pytest.raises(BadRequest):
            await runtime.schedule("ada", minutes(1), "x", expires=minutes(-1))
    wall.offset += 3_600
    caplog.set_level(logging.WARNING)
    async with house.open() as runtime:
        await trio.sleep(1)
        assert house.target.started == ["fresh"]
        assert await runtime.list_reminders("ada") == []
    assert "is dropped: it is" in caplog.text


async def test_many_that_are_due_at_start_hold_nobody_up(autojump_clock: Clock, wall: Wall, house: Any):
    async with house.open(max_live_actors=50, max_idle_actors=10) as runtime:
        for n in range(50):
            await runtime.schedule(f"key-{n}", minutes(1), f"{n}")
        for n in range(20):
            await runtime.schedule("busy", minutes(1 + n), f"busy {n}")
    wall.offset += 3_600
    async with house.open(max_live_actors=50, max_idle_actors=10) as runtime:
        assert await house.ask("at once", key="somebody") == "at once"
        await trio.sleep(60)
        started = house.target.started
        assert sorted(started) == sorted([*map(str, range(50)), *(f"busy {n}" for n in range(20)), "at once"])
        assert [text for text in started if text.startswith("busy")] == [f"busy {n}" for n in range(20)]
        assert await house.store.next_timer() is None


async def test_messages_that_wait_for_their_sessions_hold_nobody_up(
    autojump_clock: Clock, wall: Wall, house: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("afactors.alarms._AT_ONCE", 2)
    house.target.hold("long")
    async with house.open() as runtime:
        for key in ("ada", "bob"):
            await house.post("long", key=key)
            await runtime.schedule(key, minutes(1), "psst", as_turn=False)
        await runtime.schedule("eve", minutes(2), "call Bob")
        await trio.sleep(130)
        assert house.target.started == ["long", "long", "call Bob"]
        house.target.hold("long").set()
        await trio.sleep(1)
        assert await history(house) == ["long", "long", "psst"]


async def test_nothing_is_begun_while_the_runtime_stops(autojump_clock: Clock, wall: Wall, house: Any):
    gate = house.target.hold("slow")
    async with house.open() as runtime:
        turn = await house.post("slow")
        await house.target.began("slow").wait()
        await runtime.schedule("ada", 3.0 + START, "call Bob")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.drain)
            await trio.sleep(5)
            gate.set()
        await turn.outcome()
        assert house.target.started == ["slow"]
        with pytest.raises(Overloaded):
            await runtime.schedule("ada", minutes(1), "x")
        with pytest.raises(Overloaded):
            await runtime.cancel_reminder("ada", "x")
    async with house.open():
        await trio.sleep(1)
        assert house.target.started == ["slow", "call Bob"]


# --- crashes


@pytest.mark.parametrize("as_turn", [True, False])
async def test_a_crash_anywhere_around_the_commit(autojump_clock: Clock, wall: Wall, house: Any, as_turn: bool):
    """Whatever had been committed by then, it comes once: the letter and the reminder's end are one commit."""
    async with house.open() as runtime:
        await house.ask("hello")
        await runtime.schedule("ada", minutes(1), "call Bob", as_turn=as_turn)
        before = len(house.store.commits)

    async def crash_before(method: str, _key: str) -> None:
        if method == "commit" and len(house.store.commits) > before:
            house.store.crash()

    wall.offset += 3_600
    house.store.before = crash_before
    async with house.open():
        await trio.sleep(1)  # the commit that fires it is lost
    house.store.before = None
    assert len(house.store.commits) > before
    house.target.started.clear()
    gate = house.target.hold("call Bob")
    async with house.open(drain_timeout=0.1, cancel_grace=0.1):
        await trio.sleep(1)  # and this time it is not
        house.store.crash()
    gate.set()
    async with house.open() as runtime:
        await trio.sleep(1)
        said = await history(house)
        assert said.count("call Bob") == 1
        assert await runtime.list_reminders("ada") == []
        assert await house.store.next_timer() is None
    async with house.open():
        await trio.sleep(1_800)
        assert await history(house) == said


async def test_a_crash_right_after_it_was_scheduled(autojump_clock: Clock, wall: Wall, house: Any):
    async with house.open(crash=True) as runtime:
        await runtime.schedule("ada", minutes(1), "call Bob")
    async with house.open():
        await trio.sleep(120)
        assert house.target.started == ["call Bob"]


# --- what goes wrong


async def test_a_full_mailbox_only_delays_it_and_nobody_else(autojump_clock: Clock, wall: Wall, house: Any):
    gate = house.target.hold("slow")
    async with house.open(mailbox=1) as runtime:
        await house.post("slow")
        await house.target.began("slow").wait()
        await house.post("waits")
        await runtime.schedule("ada", minutes(1), "call Bob")
        await runtime.schedule("bob", minutes(1.2), "call Ada")
        await trio.sleep(80)
        assert house.target.started == ["slow", "call Ada"]
        gate.set()
        await trio.sleep(60)
        assert house.target.started == ["slow", "call Ada", "waits", "call Bob"]


async def test_a_full_store_only_delays_it(autojump_clock: Clock, wall: Wall, house: Any):
    async def full(method: str, _key: str) -> None:
        if method == "commit":
            raise StoreFull("full")

    async with house.open() as runtime:
        await runtime.schedule("ada", minutes(1), "call Bob")
        house.store.before = full
        with pytest.raises(StorageFull):
            await runtime.schedule("ada", minutes(1), "no room")
        await trio.sleep(120)
        assert house.target.started == []
        house.store.before = None
        await trio.sleep(60)
        assert house.target.started == ["call Bob"]


async def test_a_policy_that_fails_only_delays_it(
    autojump_clock: Clock, wall: Wall, house: Any, caplog: pytest.LogCaptureFixture
):
    down: list[bool] = []

    def policy(_request: Any) -> Any:
        if down:
            raise ConnectionError("the directory is down")
        return "allowed"

    async with house.open(authorize=policy) as runtime:
        await runtime.schedule("ada", minutes(1), "call Bob")
        down.append(True)
        await trio.sleep(120)
        down.clear()
        await trio.sleep(60)
        assert house.target.started == ["call Bob"]
    assert "the directory is down" in caplog.text


@pytest.mark.parametrize("durable", [True, False])
async def test_a_stop_does_not_lose_a_message_that_waits(autojump_clock: Clock, wall: Wall, house: Any, durable: bool):
    taken = pushing(house)
    gate = house.target.hold("slow")
    async with house.open(drain_timeout=5) as runtime:
        await house.ask("a", channel="chat", identity=ADA)
        await runtime.schedule("ada", minutes(1), "Call Bob!", as_turn=False)
        await (house.submit if durable else house.post)("slow")
        await trio.sleep(90)
    gate.set()
    async with house.open() as runtime:
        await trio.sleep(1)
        assert taken == ["message ada: Call Bob!"]
        assert await runtime.list_reminders("ada") == []


async def test_a_message_is_not_called_off_with_the_turn_that_it_waits_for(
    autojump_clock: Clock, wall: Wall, house: Any
):
    taken = pushing(house)
    house.target.hold("slow")
    async with house.open() as runtime:
        await house.ask("a", channel="chat", identity=ADA)
        await runtime.schedule("ada", minutes(1), "Call Bob!", as_turn=False)
        await house.post("slow")
        await trio.sleep(90)
        await runtime.cancel_running("ada")
        await trio.sleep(2)
        assert taken == ["message ada: Call Bob!"]


async def test_one_that_is_refused_for_good_is_dropped(
    autojump_clock: Clock, wall: Wall, house: Any, caplog: pytest.LogCaptureFixture
):
    allowed = ["allowed"]
    async with house.open(authorize=lambda _request: allowed[-1]) as runtime:
        await runtime.schedule("ada", minutes(1), "call Bob")
        allowed.append("denied")
        await trio.sleep(120)
        assert house.target.started == []
        assert await runtime.list_reminders("ada") == []
    assert "it was refused" in caplog.text


async def test_what_the_target_cannot_take_is_refused_at_once(autojump_clock: Clock, wall: Wall, house: Any):
    def refuse(_request: Any) -> None:
        raise BadRequest("no")

    house.target.refuse = refuse
    async with house.open() as runtime:
        with pytest.raises(BadRequest):
            await runtime.schedule("ada", minutes(1), "x")


async def test_a_store_that_breaks_is_the_end(autojump_clock: Clock, wall: Wall, house: Any):
    with pytest.raises(StoreBroken):  # noqa: PT012 - it is raised by the whole block
        async with house.open() as runtime:
            await runtime.schedule("ada", minutes(0.2), "call Bob")
            house.store._open_here().writer.broken = "the disk is gone"
            await trio.sleep(13)
    assert house.broken != []


@pytest.mark.parametrize("when", [math.nan, math.inf, -1.0, 1e300, datetime(2030, 1, 1), timedelta.max], ids=str)
async def test_times_that_no_calendar_has(autojump_clock: Clock, wall: Wall, house: Any, when: Any):
    async with house.open() as runtime:
        with pytest.raises(BadRequest) as caught:
            await runtime.schedule("ada", when, "x")
        assert caught.value.code == "invalid_time"


def test_how_a_time_can_be_told():
    assert due_at(5.0, 100.0) == 5.0
    assert due_at(timedelta(minutes=1), 100.0) == 160.0
    assert due_at(datetime(1970, 1, 2, tzinfo=UTC), 100.0) == 86_400.0


async def test_too_many(autojump_clock: Clock, wall: Wall, house: Any):
    async with house.open(max_reminders=2) as runtime:
        first = await runtime.schedule("ada", minutes(1), "a")
        await runtime.schedule("ada", minutes(2), "b")
        with pytest.raises(Overloaded) as caught:
            await runtime.schedule("ada", minutes(3), "c")
        assert caught.value.code == "too_many_reminders"
        await runtime.schedule("bob", minutes(3), "c")
        assert await runtime.cancel_reminder("ada", first)
        await runtime.schedule("ada", minutes(3), "c")


def test_a_newer_format_is_not_misread():
    with pytest.raises(FormatTooNew):
        Reminder.decode("timer/x", pack({"v": 99}, "reminder"))


async def test_one_of_a_newer_format_is_left_alone_and_stops_no_other(
    autojump_clock: Clock, wall: Wall, house: Any, caplog: pytest.LogCaptureFixture
):
    newer = pack({"v": 99}, "reminder")
    async with house.open() as runtime:
        await runtime.schedule("ada", minutes(2), "call Bob")
        claim = await house.store.claim("ada")
        await house.store.commit(claim, Commit(put={"timer/x": newer}, timers={"timer/x": START + 60}))
        assert [one.text for one in await runtime.list_reminders("ada")] == ["call Bob"]
        caplog.clear()
        await trio.sleep(3_600)
        assert house.target.started == ["call Bob"]
        assert await house.store.read(claim, ["timer/x"]) == {"timer/x": newer}
    assert caplog.text.count("reminder x is left to a newer afactors") == 1


@pytest.mark.parametrize("as_turn", [True, False])
async def test_a_conflict_about_something_else_is_not_taken_for_a_cancellation(
    autojump_clock: Clock, wall: Wall, house: Any, caplog: pytest.LogCaptureFixture, as_turn: bool
):
    async def contradict(method: str, _key: str) -> None:
        if method == "commit" and house.store.commits[-1].fire:
            house.store.before = None
            raise Conflict("rows for position 3 of a log that has 2")

    async with house.open() as runtime:
        await house.ask("hello")
        await runtime.schedule("ada", minutes(1), "call Bob", as_turn=as_turn)
        house.store.before = contradict
        await trio.sleep(120)
        assert (await history(house)).count("call Bob") == 1
        assert house.actors.restarts == 1
    assert "rows for position 3" in caplog.text


# --- listed and cancelled


async def test_listed_the_earliest_first(autojump_clock: Clock, wall: Wall, house: Any):
    async with house.open() as runtime:
        late = await runtime.schedule("ada", minutes(9), "late")
        soon = await runtime.schedule("ada", minutes(1), Message("user", ["soon"]), as_turn=False)
        found = await runtime.list_reminders("ada")
        assert [(one.reminder_id, one.text, one.as_turn) for one in found] == [
            (soon, "soon", False),
            (late, "late", True),
        ]
        assert [one.due - one.created for one in found] == pytest.approx([60, 540])
        assert await runtime.list_reminders("bob") == []


async def test_cancelled(autojump_clock: Clock, wall: Wall, house: Any):
    async with house.open() as runtime:
        reminder = await runtime.schedule("ada", minutes(1), "call Bob")
        assert not await runtime.cancel_reminder("bob", reminder)
        assert await runtime.cancel_reminder("ada", reminder)
        assert not await runtime.cancel_reminder("ada", reminder)
        await trio.sleep(120)
        assert house.target.started == []
        later = await runtime.schedule("ada", minutes(1), "call Bob")
        await trio.sleep(120)
        assert not await runtime.cancel_reminder("ada", later)


async def comes_and_is_cancelled(house: Any, step: int) -> tuple[int, list[bool]]:
    """Cancel at a step on the way of a reminder that is due; how often it came, and what the cancellation said."""
    cancelled: list[bool] = []
    async with house.open() as runtime:
        await house.ask("hello")
        reminder = await runtime.schedule("ada", minutes(1), "call Bob")
        steps = [step]

        async def cancel(_method: str, _key: str) -> None:
            steps[0] -= 1
            if steps[0] == -1:
                cancelled.append(await runtime.cancel_reminder("ada", reminder))

        await trio.sleep(59)
        house.store.before = cancel
        await trio.sleep(30)
        assert await house.store.next_timer() is None
        return house.target.started.count("call Bob"), cancelled


async def test_cancelled_while_it_comes_it_does_one_or_the_other(autojump_clock: Clock, wall: Wall, house: Any):
    seen = set()
    for step in range(12):
        house.renew()
        came, cancelled = await comes_and_is_cancelled(house, step)
        assert not cancelled or cancelled == [came == 0], step
        seen.update(cancelled)
    assert seen == {True, False}


async def test_erased_with_its_actor(autojump_clock: Clock, wall: Wall, house: Any):
    async with house.open() as runtime:
        await runtime.schedule("ada", minutes(1), "call Bob")
        assert await runtime.erase_actor("ada")
        assert await runtime.list_reminders("ada") == []
        await trio.sleep(120)
        assert house.target.started == []


async def test_exported_and_imported_with_its_actor(autojump_clock: Clock, wall: Wall, house: Any, tmp_path: Any):
    file = tmp_path / "ada.afactor"
    async with house.open() as runtime:
        await house.ask("hello")
        await runtime.schedule("ada", minutes(1), "call Bob")
        await runtime.export_actor("ada", file)
        await runtime.erase_actor("ada")
        await trio.sleep(120)
        await runtime.import_actor(file, isolation_key="ada-again")
        await trio.sleep(1)
        assert house.target.started == ["hello", "call Bob"]
        assert await runtime.list_reminders("ada-again") == []


# --- inside a turn


def inside(house: Any, text: str, act: Callable[[CurrentTurn, Runtime], Any], *, fails: bool = False) -> None:
    async def behaviour(*_: Any) -> None:
        turn = get_current_turn()
        assert turn is not None
        await act(turn, house.runtime)
        if fails:
            raise RuntimeError

    house.target.on[text] = behaviour


async def test_outside_of_turns_there_is_none(autojump_clock: Clock, wall: Wall, house: Any):
    async with house.open():
        assert get_current_turn() is None


@pytest.mark.parametrize("key", ["ada", "bob"])
async def test_made_inside_a_turn_it_goes_with_the_commit(autojump_clock: Clock, wall: Wall, house: Any, key: str):
    async def act(turn: CurrentTurn, runtime: Runtime) -> None:
        assert (turn.isolation_key, turn.run_id[:4]) == ("ada", "run_")
        if key == "ada":
            await turn.schedule(minutes(1), "call Bob")
        else:
            await runtime.schedule(key, minutes(1), "call Bob")
        assert [one.text for one in await runtime.list_reminders(key)] == ["call Bob"]
        assert await house.store.next_timer() is None

    inside(house, "remind me", act)
    async with house.open(crash=True):
        await house.ask("remind me")
        assert await house.store.next_timer() == pytest.approx(START + 60, abs=1)
    async with house.open():
        await trio.sleep(120)
        assert house.target.started == ["remind me", "call Bob"]
        assert (await history(house, key))[-1] == ("remind me call Bob" if key == "ada" else "call Bob")


@pytest.mark.parametrize("key", ["ada", "bob"])
async def test_a_turn_that_fails_makes_none_and_cancels_none(autojump_clock: Clock, wall: Wall, house: Any, key: str):
    async def act(_: CurrentTurn, runtime: Runtime) -> None:
        (one,) = await runtime.list_reminders(key)
        await runtime.schedule(key, minutes(1), "lost")
        assert await runtime.cancel_reminder(key, one.reminder_id)

    inside(house, "remind me", act, fails=True)
    async with house.open() as runtime:
        await runtime.schedule(key, minutes(2), "kept")
        with pytest.raises(HostError):
            await house.ask("remind me")
        assert [one.text for one in await runtime.list_reminders(key)] == ["kept"]
        await trio.sleep(300)
        assert house.target.started == ["remind me", "kept"]


async def test_made_in_the_session_of_the_turn(autojump_clock: Clock, wall: Wall, house: Any):
    async def act(turn: CurrentTurn, _: Runtime) -> None:
        await turn.schedule(minutes(1), "call Bob")

    inside(house, "remind me", act)
    async with house.open() as runtime:
        await house.ask("elsewhere")
        await house.ask("remind me", "talk")
        await house.ask("remind me", "conv_of_nobody", key=None)
        await trio.sleep(120)
        session = await runtime.get_session(house.request("", "talk"))
        assert house.said(session.messages)[-1] == "remind me call Bob"
        session = await runtime.get_session(house.request("", "conv_of_nobody", key=None))
        assert house.said(session.messages)[-1] == "remind me call Bob"
        assert await history(house) == ["elsewhere", "elsewhere"]


async def test_cancelled_inside_a_turn(autojump_clock: Clock, wall: Wall, house: Any):
    async def act(turn: CurrentTurn, _: Runtime) -> None:
        (one,) = await turn.list_reminders()
        mine = await turn.schedule(minutes(1), "thought better of it")
        assert await turn.cancel_reminder(mine)
        assert await turn.cancel_reminder(one.reminder_id)
        assert not await turn.cancel_reminder(one.reminder_id)
        assert await turn.list_reminders() == []

    inside(house, "never mind", act)
    async with house.open() as runtime:
        await runtime.schedule("ada", minutes(2), "call Bob")
        await house.ask("never mind")
        assert await house.store.next_timer() is None
        await trio.sleep(300)
        assert house.target.started == ["never mind"]


async def test_what_is_due_before_the_commit_that_cancels_it_comes(autojump_clock: Clock, wall: Wall, house: Any):
    async def act(turn: CurrentTurn, _: Runtime) -> None:
        (one,) = await turn.list_reminders()
        assert await turn.cancel_reminder(one.reminder_id)

    inside(house, "never mind", act)
    gate = house.target.hold("never mind")
    async with house.open() as runtime:
        await runtime.schedule("ada", minutes(1), "call Bob")
        turn = await house.post("never mind")
        await trio.sleep(59)
        gate.set()
        await turn.outcome()
        await trio.sleep(120)
        assert house.target.started == ["never mind"]


async def test_a_tool_sends_and_submits_by_its_turn(autojump_clock: Clock, wall: Wall, house: Any):
    taken = pushing(house)

    async def act(turn: CurrentTurn, _: Runtime) -> None:
        await turn.send("psst")
        await turn.submit(house.request("later", key=turn.isolation_key))
        assert taken == []

    inside(house, "go", act)
    async with house.open():
        await house.ask("go", channel="chat", identity=ADA)
        await wait_all_tasks_blocked()
        await trio.sleep(1)
    assert taken == ["message ada: psst"]
    assert house.target.started == ["go", "later"]
