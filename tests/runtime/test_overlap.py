"""A message to a busy session: it waits in line, is refused, or takes the place of what runs."""

from typing import Any, get_args

import pytest
import trio
import trio.testing

from afactors.overlap import POLICIES, enqueue, interrupt, reject, supersedes
from afactors.turn import Turn
from afactors_channels import ChannelRequest, Conflicting, NotFound, OverlapPolicy, SessionEdit, TargetFailed
from afactors_store import Commit, StoreFull
from tests.runtime.outcomes import caught

blocked = trio.testing.wait_all_tasks_blocked
House = Any  # of conftest
Clock = trio.abc.Clock


async def texts(house: House, session: str = "s") -> list[str]:
    """What the users of a session said, as it is stored."""
    found = await house.runtime.get_session(house.request("", session))
    return [text for text, message in zip(house.said(found.messages), found.messages, strict=True) if role(message)]


def role(message: Any) -> bool:
    return str(message["role"]) == "user" or message["role"] == {"value": "user"}


def turn_in(state: Any, channel: str = "test") -> Turn:
    turn = Turn(ChannelRequest(channel, ()), "run", "key")
    turn.state = state
    return turn


# --- the policies themselves


def test_what_each_policy_does_to_what_is_ahead():
    running, committing, queued = turn_in("running"), turn_in("committing"), turn_in("queued")
    new = turn_in("queued")
    assert set(POLICIES) == set(get_args(OverlapPolicy))
    assert list(enqueue(new, [running, queued])) == []
    assert list(reject(new, [])) == []
    for ahead in (running, committing, queued):
        with pytest.raises(Conflicting):
            reject(new, [ahead])
    assert list(interrupt(new, [running, queued])) == [running]
    assert list(interrupt(new, [committing, queued])) == []


@pytest.mark.parametrize(
    ("before", "after", "gone"),
    [("test", "test", True), ("hook", "test", False), ("reminder", "test", False), ("reminder", "reminder", False)],
)
def test_whose_place_a_message_may_take(before: str, after: str, gone: bool):
    running, queued, new = turn_in("running", before), turn_in("queued", before), turn_in("queued", after)
    assert list(interrupt(new, [running])) == [running] * gone
    new.overlap = "latest"
    assert list(supersedes(new, [running, queued])) == [queued] * gone


# --- where it is said


@pytest.mark.parametrize(
    ("of_runtime", "of_channel", "of_request", "expected"),
    [
        ("enqueue", None, None, "enqueue"),
        ("reject", None, None, "reject"),
        ("interrupt", None, None, "interrupt"),
        ("reject", "enqueue", None, "enqueue"),
        ("enqueue", "reject", None, "reject"),
        ("enqueue", "reject", "interrupt", "interrupt"),
        ("reject", "interrupt", "enqueue", "enqueue"),
        ("interrupt", None, "reject", "reject"),
    ],
)
@pytest.mark.parametrize("durable", [False, True])
async def test_the_request_s_word_counts_before_the_channel_s_and_the_runtime_s(
    autojump_clock: Clock,
    house: House,
    of_runtime: Any,
    of_channel: Any,
    of_request: Any,
    expected: str,
    durable: bool,
):
    house.channel(overlap=of_channel)
    house.target.hold("first")
    async with house.open(overlap=of_runtime):
        first = await house.post("first", "s")
        await blocked()
        begin = house.submit if durable else house.post
        if expected == "reject":
            error = await caught(begin("second", "s", overlap=of_request))
            assert isinstance(error, Conflicting)
            assert (error.code, error.status) == ("session_busy", 409)
        else:
            await begin("second", "s", overlap=of_request)
        await blocked()
        assert first.state == ("cancelled" if expected == "interrupt" else "running")
        house.target.hold("first").set()
        answer = {"enqueue": "first second third", "reject": "first third", "interrupt": "second third"}
        assert await house.ask("third", "s", overlap="enqueue") == answer[expected]


async def test_another_channel_s_policy_is_another_matter(autojump_clock: Clock, house: House):
    house.channel("strict", overlap="reject")
    house.channel("test")
    house.target.hold("first")
    async with house.open():
        await house.post("first", "s")
        assert isinstance(await caught(house.ask("second", "s", channel="strict")), Conflicting)
        third = await house.post("third", "s")
        house.target.hold("first").set()
        assert (await third.outcome()).result.text == "first third"


# --- reject


async def test_reject_takes_what_finds_its_session_free(autojump_clock: Clock, house: House):
    house.target.hold("busy")
    async with house.open(overlap="reject"):
        assert await house.ask("one", "s") == "one"
        assert await house.ask("two", "s") == "one two"
        await house.post("busy", "other")
        await blocked()
        assert await house.ask("three", "s") == "one two three", "another session's turn is none of its business"
        await house.submit("four", "s", name="p4")
        assert (await house.runtime.get_continuation("p4", wait=True)).result.text == "one two three four"
        house.target.hold("busy").set()


async def test_reject_sees_what_waits_and_what_is_with_the_writer(autojump_clock: Clock, house: House):
    gate = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "commit":
            await gate.wait()

    async with house.open(overlap="reject", max_parallel_sessions=1):
        house.target.hold("elsewhere")
        await house.post("elsewhere", "other")
        waiting = await house.post("waits", "s")
        assert waiting.state == "queued"
        assert isinstance(await caught(house.ask("no", "s")), Conflicting)
        house.store.before = before
        house.target.hold("elsewhere").set()
        await blocked()
        assert waiting.state == "queued"
        gate.set()
        await waiting.outcome()
        house.store.before, gate = before, trio.Event()
        committing = await house.post("commits", "s")
        await blocked()
        assert committing.state == "committing"
        assert isinstance(await caught(house.ask("no", "s")), Conflicting)
        gate.set()
        await committing.outcome()
        assert await house.ask("yes", "s") == "waits commits yes"


async def test_reject_sees_a_letter_that_is_being_accepted(autojump_clock: Clock, house: House):
    gate = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "commit":
            await gate.wait()

    async with house.open(overlap="reject"), trio.open_nursery() as nursery:
        house.store.before = before
        nursery.start_soon(lambda: house.submit("first", "s", name="p1"))
        await blocked()
        for begin in (house.ask, house.submit):
            assert isinstance(await caught(begin("second", "s")), Conflicting)
        gate.set()
        await blocked()
        assert (await house.runtime.get_continuation("p1", wait=True)).state == "completed"


async def test_at_once_and_only_one_gets_in(autojump_clock: Clock, house: House):
    outcomes: list[str] = []
    house.target.hold("0")
    async with house.open(overlap="reject"):

        async def ask(number: int) -> None:
            try:
                outcomes.append(await house.ask("0", "s"))
            except Conflicting:
                outcomes.append("busy")

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(ask, number)
            await blocked()
            house.target.hold("0").set()
    assert sorted(outcomes) == ["0", *["busy"] * 9]


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("durable", [False, True])
async def test_reject_sees_letters_that_wait_in_the_store(
    autojump_clock: Clock, house: House, crash: bool, durable: bool
):
    """The actor is cold: it has to look first."""
    house.target.hold("first")
    async with house.open(crash=crash):
        await house.submit("first", "s", name="p1")
        await blocked()
    looking = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "claim":
            await looking.wait()

    house.store.before = before
    async with house.open(overlap="reject") as runtime, trio.open_nursery() as nursery:
        errors: list[Exception] = []

        async def begin() -> None:
            errors.append(await caught((house.submit if durable else house.ask)("second", "s")))

        nursery.start_soon(begin)
        await blocked()
        looking.set()
        await blocked()
        assert isinstance(errors[0], Conflicting)
        house.target.hold("first").set()
        await runtime.get_continuation("p1", wait=True)
        assert await house.ask("third", "s") == "first third"


async def test_a_rejected_one_leaves_nothing(autojump_clock: Clock, house: House):
    house.target.hold("first")
    async with house.open(overlap="reject") as runtime:
        await house.submit("first", "s")
        await blocked()
        commits = len(house.store.commits)
        assert isinstance(await caught(house.submit("second", "s", name="p2", idempotency_key="k")), Conflicting)
        assert isinstance(await caught(house.ask("second", "s", name="p2", idempotency_key="k")), Conflicting)
        assert len(house.store.commits) == commits
        assert isinstance(await caught(runtime.get_continuation("p2")), NotFound)
        house.target.hold("first").set()
        await runtime.get_continuation((await house.records())[0].token, wait=True)
        assert await house.ask("second", "s", name="p2", idempotency_key="k") == "first second", "its key is free"


# --- interrupt


@pytest.mark.parametrize("running", ["asked", "submitted"])
@pytest.mark.parametrize("new", ["asked", "submitted"])
async def test_interrupt_takes_the_place_of_what_runs(autojump_clock: Clock, house: House, running: str, new: str):
    house.target.hold("long")
    async with house.open(overlap="interrupt") as runtime:
        await house.ask("one", "s")
        await (house.submit if running == "submitted" else house.post)("long", "s", name="p1")
        await blocked()
        if new == "submitted":
            run = await runtime.get_continuation(await house.submit("short", "s"), wait=True)
            answer = run.result.text
        else:
            answer = await house.ask("short", "s")
        assert answer == "one short", "nothing of it is kept"
        old = await runtime.get_continuation("p1")
        assert (old.state, old.error[0]) == ("cancelled", "interrupted")
        assert house.said(await runtime.get_input("p1")) == ["long"], "but what it said can be looked at"
        assert await texts(house) == ["one", "short"]


async def test_the_interrupted_caller_is_told(autojump_clock: Clock, house: House):
    house.target.hold("long")
    async with house.open():
        turn = await house.post("long", "s")
        await blocked()
        await house.ask("short", "s", overlap="interrupt")
        error = await caught(turn.outcome())
        assert isinstance(error, TargetFailed)
        assert (error.code, error.status) == ("interrupted", 409)


@pytest.mark.parametrize("policy", ["interrupt", "latest"])
async def test_neither_a_reminder_nor_another_channel_s_letter_loses_its_place(
    autojump_clock: Clock, house: House, policy: Any
):
    """Whoever sent it was told that it is accepted, and nobody would send it again."""
    house.channel("hook")
    reminded = house.target.hold("call Bob")
    async with house.open(overlap=policy) as runtime:
        await runtime.schedule("ada", 0.0, "call Bob")
        await house.target.began("call Bob").wait()
        await house.submit("order 7 was paid", channel="hook")
        await runtime.schedule("ada", 1.0, "call Eve")
        await trio.sleep(1)
        await house.submit("hello?")
        reminded.set()
        assert await house.ask("all?", overlap="enqueue") == "call Bob order 7 was paid call Eve hello? all?"


async def test_interrupt_leaves_what_waits_its_place(autojump_clock: Clock, house: House):
    house.target.hold("long")
    async with house.open() as runtime:
        await house.submit("long", "s")
        await blocked()
        await house.submit("waits", "s", name="p2")
        answer = await house.ask("new", "s", overlap="interrupt")
        assert answer == "waits new"
        assert (await runtime.get_continuation("p2")).state == "completed"


async def test_interrupt_comes_too_late_for_what_is_with_the_writer(autojump_clock: Clock, house: House):
    gate = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "commit":
            await gate.wait()

    async with house.open() as runtime:
        house.store.before = before
        turn = await house.post("first", "s")
        await blocked()
        assert turn.state == "committing"
        second = await house.post("second", "s", overlap="interrupt")
        gate.set()
        assert (await second.outcome()).result.text == "first second"
        assert (await turn.outcome()).result.text == "first"
        assert (await runtime.drain()).abandoned == 0


async def test_one_interrupts_the_other_many_times(autojump_clock: Clock, house: House):
    async with house.open(overlap="interrupt") as runtime:
        for number in range(30):
            house.target.hold(str(number))
            await house.submit(str(number), "s", name=f"p{number}")
            await blocked()
            assert house.target.running == [str(number)]
        last = runtime._opened_now().supervisor.turns["p29"]
        assert list(last.interrupts) == [], "it holds on to nothing of what was before"
        house.target.hold("29").set()
        states = [(await runtime.get_continuation(f"p{n}", wait=True)).state for n in range(30)]
        assert states == [*["cancelled"] * 29, "completed"]
        assert await texts(house) == ["29"]


@pytest.mark.parametrize("policy", ["reject", "interrupt"])
async def test_an_edit_is_no_message(autojump_clock: Clock, house: House, policy: Any):
    gate, answers = trio.Event(), []

    async def before(method: str, _key: str) -> None:
        if method == "read":
            await gate.wait()

    async def ask() -> None:
        answers.append(await house.ask("hello", "s"))

    async with house.open(overlap=policy) as runtime, trio.open_nursery() as nursery:
        house.store.before = before
        request = house.request("edited", "s")
        nursery.start_soon(runtime.edit_session, request, SessionEdit(create=True, append=request.input))
        await blocked()
        nursery.start_soon(ask)
        await blocked()
        gate.set()
        await blocked()
        assert answers == ["edited hello"]


async def test_a_branch_interrupts_nobody(autojump_clock: Clock, house: House):
    """It has a session of its own."""
    house.target.hold("long")
    async with house.open(overlap="interrupt"):
        await house.ask("one", name="p1")
        turn = await house.post("long", after="p1", name="p2")
        await blocked()
        assert await house.ask("aside", after="p1", name="p3") == "one aside"
        house.target.hold("long").set()
        assert (await turn.outcome()).result.text == "one long"


async def test_a_letter_is_accepted_only_when_what_it_interrupts_is_gone_for_good(autojump_clock: Clock, house: House):
    async def stubborn(*_: object) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(3)
        return "at last"

    house.target.on["long"] = stubborn
    async with house.open() as runtime:
        await house.submit("long", "s", name="p1")
        await blocked()
        start = trio.current_time()
        await house.submit("short", "s", name="p2", overlap="interrupt")
        assert trio.current_time() - start == pytest.approx(3)
        assert (await runtime.get_continuation("p1")).state == "cancelled"
        cancelled, accepted = house.store.commits[1:3]
        assert cancelled.consume
        assert accepted.letters


@pytest.mark.parametrize("commits", range(5))
@pytest.mark.parametrize("durable", [False, True])
async def test_a_crash_at_any_point_of_an_interruption(
    autojump_clock: Clock, house: House, commits: int, durable: bool
):
    """Either the old one is gone for good, or the new one was never accepted."""
    house.target.hold("long")
    accepted, done = [], 0

    async def before(method: str, _key: str) -> None:
        nonlocal done
        if method == "commit":
            if done == commits:
                house.store.crash()
            done += 1

    async with house.open(crash=commits == 4) as runtime:
        await house.submit("long", "s", name="p1")
        await blocked()
        house.store.before = before
        if durable:
            await house.submit("short", "s", name="p2", overlap="interrupt")
        else:
            await house.post("short", "s", name="p2", overlap="interrupt")
        await blocked()
    house.target.hold("long").set()
    house.store.before = None
    async with house.open() as runtime:
        await blocked()
        for name in ("p1", "p2"):
            try:
                accepted.append((await runtime.get_continuation(name, wait=True)).state)
            except NotFound:
                accepted.append("never")
        assert accepted in (
            ["completed", "never"],
            ["cancelled", "never"],
            ["cancelled", "completed"],
        )
        if accepted[0] == "completed":
            assert await texts(house) == ["long"]
        elif accepted[1] == "completed":
            assert await texts(house) == ["short"]
        assert commits or accepted[0] == "completed"


@pytest.mark.parametrize("durable", [False, True])
async def test_an_actor_s_crash_in_the_middle_of_an_interruption(autojump_clock: Clock, house: House, durable: bool):
    """The record of the old one's end is lost: it is written again, before the new one is accepted."""
    house.target.hold("long")
    crashed: list[Commit] = []

    async def before(method: str, _key: str) -> None:
        if method == "commit" and house.store.commits[-1].consume and not crashed:
            crashed.append(house.store.commits[-1])
            raise RuntimeError("a defect")

    async with house.open(overlap="interrupt") as runtime:
        await house.submit("long", "s", name="p1")
        await blocked()
        house.store.before = before
        if durable:
            await house.submit("short", "s", name="p2")
            assert (await runtime.get_continuation("p1")).state == "cancelled"
            assert (await runtime.get_continuation("p2", wait=True)).result.text == "short"
        else:
            assert await house.ask("short", "s", name="p2") == "short"
        old = await runtime.get_continuation("p1")
        assert (old.state, old.error[0]) == ("cancelled", "interrupted")
        assert house.actors.restarts == 1
    assert crashed
    assert house.target.started == ["long", "short"]


async def test_an_actor_s_crash_in_the_middle_of_an_interruption_and_of_a_stop(autojump_clock: Clock, house: House):
    house.target.hold("long")

    async def before(method: str, _key: str) -> None:
        if method == "commit" and house.store.commits[-1].consume:
            house.store.before = None
            raise RuntimeError("a defect")

    async with house.open(overlap="interrupt", restart_backoff=1.0), trio.open_nursery() as nursery:
        await house.submit("long", "s", name="p1")
        await blocked()
        house.store.before = before
        nursery.start_soon(lambda: house.submit("short", "s", name="p2"))
        await blocked()
        assert house.store.before is None
        await house.runtime.drain()
    async with house.open() as runtime:
        assert (await runtime.get_continuation("p1", wait=True)).state == "cancelled"
        assert (await runtime.get_continuation("p2", wait=True)).result.text == "short"


async def test_what_is_refused_after_all_has_interrupted_all_the_same(autojump_clock: Clock, house: House):
    """The place was made; that the new one found no room in the store is its own caller's to hear."""
    house.target.hold("long")

    async def before(method: str, _key: str) -> None:
        if method == "commit" and house.store.commits[-1].letters:
            raise StoreFull("the map is full")

    async with house.open(overlap="interrupt") as runtime:
        await house.submit("long", "s", name="p1")
        await blocked()
        house.store.before = before
        error = await caught(house.submit("short", "s", name="p2"))
        assert getattr(error, "code", None) == "storage_full"
        assert (await runtime.get_continuation("p1")).state == "cancelled"
        assert isinstance(await caught(runtime.get_continuation("p2")), NotFound)
        house.store.before = None
        assert await house.ask("next", "s") == "next"


async def test_what_cannot_be_stored_interrupts_nobody(autojump_clock: Clock, house: House):
    house.target.hold("long")
    async with house.open(overlap="interrupt"):
        turn = await house.post("long", "s")
        await blocked()
        error = await caught(house.submit("short", "s", options={"a": object()}))
        assert getattr(error, "code", None) == "not_storable"
        house.target.hold("long").set()
        assert (await turn.outcome()).result.text == "long"


async def test_cancelling_what_interrupts(autojump_clock: Clock, house: House):
    async def stubborn(*_: object) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(3)
        return "at last"

    house.target.on["long"] = stubborn
    async with house.open() as runtime, trio.open_nursery() as nursery:
        await house.submit("long", "s", name="p1")
        await blocked()
        nursery.start_soon(lambda: house.submit("short", "s", name="p2", overlap="interrupt"))
        await blocked()
        assert isinstance(await caught(runtime.cancel("p2")), NotFound), "it is not accepted yet"
        await trio.sleep(5)
        assert (await runtime.get_continuation("p2")).state == "completed"
