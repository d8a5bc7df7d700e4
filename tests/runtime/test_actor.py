"""One isolation key: turns in order, one commit each, no trace of a failure, branches, cancellation.

Whole runtimes, but for the target and the thread that it would run in (see ``conftest``): the clock jumps.
"""

from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from agent_framework import AgentSession

from afactors.history import Point
from afactors.runs import Reference
from afactors_channels import (
    ChannelIdentity,
    ChannelRequest,
    Conflicting,
    HostedRunResult,
    NotFound,
    Overloaded,
    StorageFull,
    TargetFailed,
)
from afactors_store import StoreFull
from tests.runtime.outcomes import caught

blocked = trio.testing.wait_all_tasks_blocked
House = Any  # of conftest
Clock = trio.abc.Clock


# --- order


async def test_one_turn_at_a_time_in_order_of_acceptance(autojump_clock: Clock, house: House):
    async with house.open():
        turns = []
        for number in range(20):
            house.target.hold(str(number))
            turns.append(await house.post(str(number), "s"))
        for number in range(20):
            await blocked()
            assert house.target.running == [str(number)]
            house.target.hold(str(number)).set()
        results = [await turn.outcome() for turn in turns]
    assert house.target.peak == 1
    assert house.target.started == [str(number) for number in range(20)]
    assert results[-1].result.text == " ".join(map(str, range(20))), "each turn saw all before it"


async def test_concurrent_callers_lose_nothing(autojump_clock: Clock, house: House):
    async with house.open():
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(house.ask, f"word{number}", "s")
        last = await house.ask("last", "s")
    assert sorted(last.split()[:-1]) == sorted(f"word{number}" for number in range(50))


async def test_sessions_of_one_key_run_side_by_side_up_to_the_limit(autojump_clock: Clock, house: House):
    async with house.open(max_parallel_sessions=3):
        turns = []
        for number in range(8):
            house.target.hold(str(number))
            turns.append(await house.post(str(number), f"s{number}"))
        await blocked()
        assert sorted(house.target.running) == ["0", "1", "2"]
        house.target.hold("1").set()
        await blocked()
        assert sorted(house.target.running) == ["0", "2", "3"]
        for number in range(8):
            house.target.hold(str(number)).set()
        assert [(await turn.outcome()).result.text for turn in turns] == [str(number) for number in range(8)]
    assert house.target.peak == 3


async def test_a_busy_session_does_not_hold_up_the_others_of_its_key(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open(max_parallel_sessions=2):
        slow = await house.post("slow", "a")
        behind = await house.post("behind", "a")
        assert await house.ask("quick", "b") == "quick"
        assert behind.state == "queued"
        house.target.hold("slow").set()
        await slow.outcome()
        assert (await behind.outcome()).result.text == "slow behind"


async def test_no_more_turns_than_slots_over_all_keys(autojump_clock: Clock, house: House):
    async with house.open(max_running_turns=2):
        for number in range(5):
            house.target.hold(str(number))
            await house.post(str(number), "s", key=f"key{number}")
        await blocked()
        assert len(house.target.running) == 2
        assert house.actors.queued_for_slot == 3
        assert house.actors.running == 5
        for number in range(5):
            house.target.hold(str(number)).set()
    assert house.target.peak == 2
    assert len(house.target.ended) == 5


async def test_a_full_mailbox(autojump_clock: Clock, house: House):
    house.target.hold("0")
    async with house.open(mailbox=3):
        turns = [await house.post("0", "s")]
        await blocked()
        turns += [await house.post(str(number), "s") for number in (1, 2, 3)]
        error = await caught(house.post("too much", "s"))
        assert isinstance(error, Overloaded)
        assert (error.code, error.status, error.retry_after) == ("mailbox_full", 429, 1.0)
        assert "3 messages" in error.message
        assert await house.ask("elsewhere", "s", key="bob") == "elsewhere"
        house.target.hold("0").set()
        for turn in turns:
            await turn.outcome()
        assert await house.ask("again", "s") == "0 1 2 3 again"
    assert "too much" not in house.target.started


# --- the commit


async def test_no_reply_before_the_commit_is_durable(autojump_clock: Clock, house: House):
    durable = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "commit":
            await durable.wait()

    house.store.before = before
    async with house.open():
        turn = await house.post("hello", "s", name="p1", stream=True)
        updates: list[Any] = []

        async def read() -> None:
            async for batch in turn:
                updates.extend(batch)
            assert durable.is_set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await blocked()
            assert [update.text for update in updates] == ["hello"], "what streams before the commit is provisional"
            assert (turn.state, turn.ended) == ("committing", False)
            with pytest.raises(RuntimeError, match="has not ended"):
                _ = turn.result
            assert await house.store.find("p1") is None
            durable.set()
        assert turn.result.result.text == "hello"
        assert (await house.store.find("p1")).key == "ada"


async def test_a_turn_is_one_commit(autojump_clock: Clock, house: House):
    async with house.open():
        result = await house.runtime.ask(house.request("hello", "s", name="p1"))
    (commit,) = house.store.commits
    assert [run.run_id for run in commit.runs] == [result.run_id]
    assert set(commit.names) == {"p1"}
    points = [Point.decode(document) for document in commit.put.values()]
    named = [Reference.decode(value).reached(name) for name, value in commit.names.items()]
    assert [replace(point, tails={}) for point in points] == named
    assert [len(append.rows) for append in commit.append] == [2]


async def test_the_record_of_a_completed_turn(autojump_clock: Clock, house: House):
    async with house.open():
        await house.ask("first", "s")
        identity = ChannelIdentity("test", "user-7")
        turn = await house.post("second", "s", name="p2", identity=identity, metadata={"a": "b"}, retrievable=False)
        await turn.outcome()
        record = await house.record(turn)
        (log,) = (await house.point("p2")).logs()
    assert record.state == "completed"
    assert (record.input, record.output) == ({"at": [[log, 2, 3]]}, {"at": [[log, 3, 4]]}), "it is in the history"
    assert (record.channel, record.token, record.identity, record.metadata) == ("test", "p2", "user-7", {"a": "b"})
    assert not record.retrievable
    assert record.created <= record.ended
    assert (record.settings, record.reason, record.error) == ({}, None, None)


async def test_records_expire_and_the_conversation_does_not(autojump_clock: Clock, house: House):
    async with house.open(run_retention=60.0):
        turn = await house.post("first", "s", name="p1")
        await turn.outcome()
        assert await house.store.expire(turn.created + 59) == 0
        assert await house.store.expire(turn.created + 61) == 1
        assert await house.store.run("ada", turn.run_id) is None
        assert await house.ask("second", after="p1") == "first second"


async def test_housekeeping_expires_records(autojump_clock: Clock, house: House):
    async with house.open(run_retention=1e-6):
        await house.ask("first", "s")
        assert len(await house.records()) == 1
        await trio.sleep(61)
        assert await house.records() == []


async def test_housekeeping_goes_on_once_there_is_room(
    autojump_clock: Clock, house: House, monkeypatch: pytest.MonkeyPatch
):
    async def full(*_: Any) -> int:
        raise StoreFull("no room in the store: ENOSPC")

    async with house.open(run_retention=1e-6):
        with monkeypatch.context() as patch:
            patch.setattr(house.store, "expire", full)
            await house.ask("first", "s")
            await trio.sleep(200)
        assert len(await house.records()) == 1
        await trio.sleep(61)
        assert await house.records() == []


# --- failure


async def test_a_failed_turn_leaves_no_trace(autojump_clock: Clock, house: House, caplog: pytest.LogCaptureFixture):
    async def spoil(_request: ChannelRequest, session: AgentSession) -> str:
        messages = session.state["in_memory"]["messages"]
        messages[0].contents[0].text = "defaced"
        messages[1].additional_properties["mark"] = 1
        del messages[2:]
        session.state["garbage"] = {"left": "behind"}
        session.service_session_id = "lost"
        raise ValueError("the secret is swordfish")

    house.target.on["bad"] = spoil
    async with house.open():
        await house.ask("one", "s")
        turn = await house.post("bad", "s", options={"temperature": 0.5}, tools=[{"name": "t", "description": "d"}])
        with pytest.raises(TargetFailed) as caught_error:
            await turn.outcome()
        assert (caught_error.value.code, caught_error.value.status) == ("server_error", 500)
        assert "swordfish" not in str(caught_error.value)
        assert turn.state == "failed"
        record = await house.record(turn)
        assert await house.ask("two", "s") == "one two"

        async def look(_request: ChannelRequest, session: AgentSession) -> str:
            assert set(session.state) == {"in_memory"}
            assert session.service_session_id is None
            return repr([message.additional_properties for message in session.state["in_memory"]["messages"]])

        house.target.on["three"] = look
        assert "mark" not in await house.ask("three", "s")
    assert record.state == "failed"
    assert house.said(record.input["is"]) == ["bad"]
    assert record.settings == {"o": {"temperature": 0.5}, "tl": [{"name": "t", "description": "d"}]}
    assert record.error == ("server_error", "The agent failed to answer.")
    assert "swordfish" not in str(record)
    assert "the secret is swordfish" in caplog.text, "the log has it all"


async def test_the_first_turn_of_a_session_fails(autojump_clock: Clock, house: House):
    async def fail(*_: object) -> str:
        raise ValueError

    house.target.on["bad"] = fail
    async with house.open():
        assert isinstance(await caught(house.ask("bad", "s", name="p1")), TargetFailed)
        assert await house.point("p1") is None, "a failed turn makes no point"
        assert await house.ask("good", "s") == "good"


async def test_a_turn_that_takes_too_long(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open(turn_timeout=30.0):
        start = trio.current_time()
        turn = await house.post("slow", "s")
        error = await caught(turn.outcome())
        assert trio.current_time() - start == pytest.approx(30.0, abs=1.01)
        assert isinstance(error, TargetFailed)
        assert (error.code, error.status) == ("timeout", 504)
        assert (await house.record(turn)).state == "failed"
        assert await house.ask("next", "s") == "next"


async def test_the_time_for_a_turn_begins_with_its_slot_and_ends_with_its_target(autojump_clock: Clock, house: House):
    async def slow(*_: object) -> str:
        await trio.sleep(20)
        return "done"

    async def before(method: str, _key: str) -> None:
        if method == "commit":
            await trio.sleep(100)

    house.target.on.update(a=slow, b=slow)
    house.store.before = before
    async with house.open(turn_timeout=30.0, max_running_turns=1):
        turns = [await house.post(text, "s", key=text) for text in "ab"]
        assert [(await turn.outcome()).result.text for turn in turns] == ["done", "done"]


async def test_what_is_no_response_is_a_failure(autojump_clock: Clock, house: House, monkeypatch: pytest.MonkeyPatch):
    async def run(*_: object) -> str:
        return "just text"

    async with house.open():
        monkeypatch.setattr(house.target, "run", run)
        assert isinstance(await caught(house.ask("x", "s")), TargetFailed)


@pytest.mark.filterwarnings("ignore:AgentSession state value")
async def test_a_session_that_cannot_be_stored_fails_its_turn_only(
    autojump_clock: Clock, house: House, caplog: pytest.LogCaptureFixture
):
    async def spoil(_request: ChannelRequest, session: AgentSession) -> str:
        session.state["n"] = {"not": {"a": {"set"}}}
        return "fine so far"

    house.target.on["bad"] = spoil
    async with house.open():
        await house.ask("one", "s")
        error = await caught(house.ask("bad", "s"))
        assert isinstance(error, TargetFailed)
        assert error.code == "session_not_storable"
        assert await house.ask("two", "s") == "one two"
        assert house.actors.restarts == 0
    assert "state holds a value that cannot be stored" in caplog.text


async def test_a_service_session_id_that_cannot_be_stored_fails_its_turn_only(autojump_clock: Clock, house: House):
    async def spoil(_request: ChannelRequest, session: AgentSession) -> str:
        session.service_session_id = object()
        return "fine so far"

    house.target.on["bad"] = spoil
    async with house.open():
        assert isinstance(await caught(house.ask("bad", "s")), TargetFailed)
        assert house.actors.restarts == 0


async def test_a_failed_turn_whose_request_cannot_be_stored_hurts_nobody_else(autojump_clock: Clock, house: House):
    async def fail(*_: object) -> str:
        raise ValueError

    house.target.on["bad"] = fail
    house.target.hold("neighbour")
    async with house.open():
        neighbour = await house.post("neighbour", "other")
        tool = {"name": "t", "parameters": {"type": "object", "maximum": {"no", "data"}}}
        turn = await house.post("bad", "s", tools=[tool])
        assert isinstance(await caught(turn.outcome()), TargetFailed)
        record = await house.record(turn)
        assert (record.state, record.input) == ("failed", None)
        house.target.hold("neighbour").set()
        assert (await neighbour.outcome()).result.text == "neighbour"
        assert house.actors.restarts == 0


async def test_an_agent_that_cannot_make_a_session_fails_its_turn_only(autojump_clock: Clock, house: House):
    def make(_session_id: str) -> AgentSession:
        raise ValueError("no more sessions")

    async with house.open():
        house.target.make = make
        assert isinstance(await caught(house.ask("x", "s")), TargetFailed)
        assert house.actors.restarts == 0


@pytest.mark.parametrize("session", ["a\0b", "half a \ud83d face", "", "s" * 1025])
async def test_a_session_id_that_no_document_may_have_is_refused(autojump_clock: Clock, house: House, session: str):
    async with house.open():
        error = await caught(house.ask("x", session))
        assert getattr(error, "code", None) == "invalid_session"
        assert house.actors.restarts == 0


@pytest.mark.parametrize("session", ["s" * 249, "s" * 1000, "ß" * 300])
async def test_session_ids_of_any_length(autojump_clock: Clock, house: House, session: str):
    async with house.open():
        await house.ask("one", session)
        assert await house.ask("elsewhere", session + "x") == "elsewhere"
        assert await house.ask("two", session) == "one two"
    async with house.open():
        assert await house.ask("three", session) == "one two three"


# --- cancellation


async def test_a_queued_letter_is_withdrawn(autojump_clock: Clock, house: House):
    house.target.hold("first")
    async with house.open():
        first = await house.post("first", "s")
        second = await house.post("second", "s")
        third = await house.post("third", "s")
        await blocked()
        assert second.cancel("user")
        error = await caught(second.outcome())
        assert isinstance(error, TargetFailed)
        assert (error.code, error.status, second.state) == ("cancelled", 409, "cancelled")
        record = await house.record(second)
        assert (record.state, record.reason) == ("cancelled", "user")
        assert house.said(record.input["is"]) == ["second"]
        assert first.state == "running"
        house.target.hold("first").set()
        assert (await third.outcome()).result.text == "first third"
        assert not second.cancel("again")
        assert not third.cancel("too late")
    assert house.target.started == ["first", "third"]


async def test_cancelling_all_that_wait_frees_the_mailbox(autojump_clock: Clock, house: House):
    house.target.hold("first")
    async with house.open(mailbox=2):
        first = await house.post("first", "s")
        await blocked()
        waiting = [await house.post(text, "s") for text in ("a", "b")]
        assert isinstance(await caught(house.post("c", "s")), Overloaded)
        for turn in waiting:
            turn.cancel("user")
        for turn in waiting:
            await caught(turn.outcome())
        again = await house.post("d", "s")
        house.target.hold("first").set()
        await first.outcome()
        assert (await again.outcome()).result.text == "first d"


async def test_a_running_turn_is_cancelled(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open():
        await house.ask("one", "s")
        turn = await house.post("slow", "s")
        await house.target.began("slow").wait()
        await blocked()
        assert turn.cancel("user")
        assert turn.cancel("user")  # it is on its way, and saying so again changes nothing
        assert isinstance(await caught(turn.outcome()), TargetFailed)
        assert (await house.record(turn)).state == "cancelled"
        assert await house.ask("two", "s") == "one two"
    assert house.target.ended == ["one", "slow", "two"]


async def test_a_turn_that_waits_for_its_slot_is_cancelled(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open(max_running_turns=1):
        slow = await house.post("slow", "s", key="bob")
        await blocked()
        turn = await house.post("queued", "s")
        await blocked()
        assert turn.state == "running"
        turn.cancel("user")
        await caught(turn.outcome())
        assert house.actors.queued_for_slot == 0
        house.target.hold("slow").set()
        await slow.outcome()
        assert await house.ask("next", "s") == "next"
    assert "queued" not in house.target.started


async def test_a_turn_that_commits_cannot_be_cancelled(autojump_clock: Clock, house: House):
    durable = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "commit":
            await durable.wait()

    house.store.before = before
    async with house.open():
        turn = await house.post("hello", "s")
        await blocked()
        assert turn.state == "committing"
        assert turn.cancel("user") is False
        turn.leave()  # the caller goes away
        durable.set()
        assert (await turn.outcome()).result.text == "hello"
        assert turn.state == "completed"
        assert (await house.record(turn)).state == "completed"
        assert await house.ask("again", "s") == "hello again"


@pytest.mark.parametrize("on_disconnect", ["cancel", "finish"])
async def test_a_caller_that_is_cancelled(autojump_clock: Clock, house: House, on_disconnect: Any):
    house.target.hold("slow")
    async with house.open():
        with trio.move_on_after(5):
            await house.ask("slow", "s", on_disconnect=on_disconnect)
        await blocked()
        house.target.hold("slow").set()
        await blocked()
        (record,) = await house.records()
        assert record.state == ("completed" if on_disconnect == "finish" else "cancelled")
        assert record.reason == (None if on_disconnect == "finish" else "disconnected")
        assert await house.ask("next", "s") == ("slow next" if on_disconnect == "finish" else "next")


async def test_a_slow_reader_holds_its_turn_up_and_a_gone_one_does_not(autojump_clock: Clock, house: House):
    text = " ".join(str(number) for number in range(100))
    async with house.open():
        turn = await house.post(text, "s", stream=True, on_disconnect="finish")
        await blocked()
        assert turn.state == "running"
        turn.leave()
        assert (await turn.outcome()).result.text == text


# --- storage


async def test_a_full_store_takes_no_new_turn(autojump_clock: Clock, house: House):
    async with house.open():
        await house.ask("one", "s")
        house.store.stuffed = True
        error = await caught(house.ask("two", "s"))
        assert isinstance(error, StorageFull)
        assert error.status == 507
        assert house.target.started == ["one"], "the target was not even asked"
        assert len(await house.records()) == 1
        assert house.runtime.not_ready() == ["storage full"]
        house.store.stuffed = False
        assert await house.ask("three", "s") == "one three"


async def test_a_store_that_fills_up_at_the_commit(
    autojump_clock: Clock, house: House, caplog: pytest.LogCaptureFixture
):
    async def before(method: str, _key: str) -> None:
        if method == "commit":
            raise StoreFull("the map is full")

    async with house.open():
        await house.ask("one", "s")
        house.store.before = before
        error = await caught(house.ask("two", "s", name="p2"))
        assert isinstance(error, StorageFull)
        house.store.before = None
        assert await house.store.find("p2") is None
        assert len(await house.records()) == 1
        assert await house.ask("three", "s") == "one three"
        assert house.actors.restarts == 0
    assert "no room for its record" in caplog.text


# --- branches


async def test_after_the_head_goes_on_in_the_session(autojump_clock: Clock, house: House):
    async with house.open():
        first = await house.runtime.ask(house.request("one", name="p1"))
        second = await house.runtime.ask(house.request("two", after="p1", name="p2"))
        assert first.session_id == second.session_id
        assert second.result.text == "one two"
    async with house.open():  # and when it is cold
        third = await house.runtime.ask(house.request("three", after="p2", name="p3"))
        assert third.session_id == first.session_id
        assert third.result.text == "one two three"


@pytest.mark.parametrize("cold", [False, True])
async def test_after_an_older_point_branches(autojump_clock: Clock, house: House, cold: bool):
    async with house.open(idle_timeout=10.0):
        first = await house.runtime.ask(house.request("one", name="p1"))
        await house.ask("two", after="p1", name="p2")
        if cold:
            await trio.sleep(20)
            assert house.actors.live == 0
        branch = await house.runtime.ask(house.request("other", after="p1", name="p3"))
        assert branch.result.text == "one other"
        assert branch.session_id != first.session_id
        assert await house.ask("three", after="p2", name="p4") == "one two three"
        assert await house.ask("more", after="p3", name="p5") == "one other more"
        assert await house.ask("again", after="p1") == "one again"


async def test_two_at_once_from_one_point_make_two_branches(autojump_clock: Clock, house: House):
    async with house.open():
        first = await house.runtime.ask(house.request("one", name="p1"))
        for text in ("a", "b", "c"):
            house.target.hold(text)
        turns = [await house.post(text, after="p1", name=f"p{text}") for text in ("a", "b", "c")]
        await blocked()
        assert sorted(house.target.running) == ["a", "b", "c"], "they do not wait for each other"
        for text in ("a", "b", "c"):
            house.target.hold(text).set()
        results = [await turn.outcome() for turn in turns]
        assert [result.result.text for result in results] == ["one a", "one b", "one c"]
        assert len({result.session_id for result in results}) == 3
        assert results[0].session_id == first.session_id
        assert await house.ask("d", after="pb") == "one b d"


@pytest.mark.parametrize("cold", [False, True])
async def test_after_a_point_of_a_named_conversation_always_branches(autojump_clock: Clock, house: House, cold: bool):
    async with house.open(idle_timeout=10.0):
        await house.ask("one", "talk", name="p1")
        if cold:
            await trio.sleep(20)
        branch = await house.runtime.ask(house.request("aside", after="p1", name="p2"))
        assert branch.result.text == "one aside"
        assert branch.session_id != "ada:talk"
        assert await house.ask("two", "talk") == "one two"
        assert await house.ask("more", after="p2") == "one aside more"


async def test_an_older_point_after_a_failed_turn(autojump_clock: Clock, house: House):
    """The failed turn made the session cold; the branch begins at its point all the same, not where the session did."""

    async def fail(*_: object) -> str:
        raise ValueError

    house.target.on["bad"] = fail
    async with house.open():
        await house.ask("one", name="p1")
        await house.ask("two", after="p1", name="p2")
        assert isinstance(await caught(house.ask("bad", after="p2", name="p3")), TargetFailed)
        assert await house.ask("other", after="p1") == "one other"


async def test_going_on_after_a_failed_turn(autojump_clock: Clock, house: House):
    async def fail(*_: object) -> str:
        raise ValueError

    house.target.on["bad"] = fail
    async with house.open():
        first = await house.runtime.ask(house.request("one", name="p1"))
        assert isinstance(await caught(house.ask("bad", after="p1", name="p2")), TargetFailed)
        assert isinstance(await caught(house.ask("x", after="p2")), NotFound)
        again = await house.runtime.ask(house.request("two", after="p1", name="p3"))
        assert (again.result.text, again.session_id) == ("one two", first.session_id)


async def test_another_owners_point_does_not_exist(autojump_clock: Clock, house: House):
    async with house.open():
        await house.ask("one", name="of-ada")
        await house.ask("one", key=None, name="of-nobody")
        await house.ask("one", key=None, partition="acme", name="of-acme")
        known = {
            "of-ada": {"key": "ada"},
            "of-nobody": {"key": None},
            "of-acme": {"key": None, "partition": "acme"},
        }
        for point in known:
            for whose, caller in known.items():
                if whose == point:
                    assert await house.ask("two", after=point, **caller) == "one two"
                    continue
                error = await caught(house.ask("two", after=point, **caller))
                assert isinstance(error, NotFound), (whose, point)
                assert (error.code, error.status, error.field) == ("point_not_found", 404, "session.after")
        unknown = await caught(house.ask("two", after="never"))
        assert isinstance(unknown, NotFound)
        error = await caught(house.ask("two", after="of-ada", key="bob"))
        assert str(error) == str(unknown), "nobody can tell another's point from none"
        error = await caught(house.ask("two", after="of-acme", key=None, partition="acm"))
        assert isinstance(error, NotFound)


@pytest.mark.parametrize("after", ["", "é" * 256, "a\0b", "\ud800"])  # the second one also over HTTP
async def test_a_point_that_cannot_be_is_not_found(autojump_clock: Clock, house: House, after: str):
    async with house.open():
        assert isinstance(await caught(house.ask("x", after=after)), NotFound)


async def test_a_conversation_with_the_name_of_a_thread_is_another_session(autojump_clock: Clock, house: House):
    """They have one actor, and nothing else in common."""
    async with house.open(idle_timeout=10.0):
        await house.ask("one", key=None, name="resp_1")
        await house.ask("two", key=None, after="resp_1", name="resp_2")
        await trio.sleep(20)
        house.target.hold("aside")
        branch = await house.post("aside", key=None, after="resp_1", name="resp_3")
        waiting = await house.post("three", "resp_1", key=None)
        await blocked()
        house.target.hold("aside").set()
        assert (await branch.outcome()).result.text == "one aside"
        assert (await waiting.outcome()).result.text == "three"
        assert await house.ask("four", key=None, after="resp_2", name="resp_4") == "one two four"
        assert house.actors.restarts == 0


async def test_branches_share_the_rows_of_their_parent(autojump_clock: Clock, house: House):
    async with house.open():
        for number in range(20):
            after = f"p{number - 1}" if number else None
            await house.ask(f"word{number}", after=after, name=f"p{number}")
        rows = sum(len(append.rows) for commit in house.store.commits for append in commit.append)
        await house.ask("other", after="p18", name="b")
        again = sum(len(append.rows) for commit in house.store.commits for append in commit.append)
        assert (rows, again) == (40, 42)
        branch, parent = await house.point("b"), await house.point("p18")
        assert branch.logs() > parent.logs()


async def test_sessions_beyond_the_limit_are_forgotten_and_come_back(autojump_clock: Clock, house: House):
    async with house.open(max_live_sessions=2):
        for number in range(6):
            await house.ask(f"word{number}", f"s{number}")
        (statistics,) = [actor.statistics() for actor in house.runtime._opened_now().supervisor._actors.values()]
        assert statistics.live_sessions == 2
        for number in range(6):
            assert await house.ask("more", f"s{number}") == f"word{number} more"


# --- sessions, or none


async def test_without_a_session_nothing_is_remembered(autojump_clock: Clock, house: House):
    async with house.open():
        result = await house.runtime.ask(house.request("one", "s", session_mode="disabled", name="p1"))
        assert result.session_id is None
        assert await house.ask("two", "s", session_mode="disabled") == "two"
        assert await house.ask("three", "s") == "three"
        assert await house.point("p1") is None
        assert [record.state for record in await house.records()] == ["completed"] * 3


async def test_turns_without_a_session_run_side_by_side(autojump_clock: Clock, house: House):
    async with house.open():
        for text in "ab":
            house.target.hold(text)
        turns = [await house.post(text, session_mode="disabled") for text in "ab"]
        await blocked()
        assert sorted(house.target.running) == ["a", "b"]
        for text, turn in zip("ab", turns, strict=True):
            house.target.hold(text).set()
            await turn.outcome()


async def test_a_key_without_a_session_id_is_one_long_conversation(autojump_clock: Clock, house: House):
    async with house.open():
        await house.ask("one")
        assert await house.ask("two") == "one two"
        assert await house.ask("hello", key="bob") == "hello"


# --- turns inside of turns


def nested(house: House, *args: Any, **more: Any) -> Any:
    async def behave(*_: object) -> str:
        return "inner: " + await house.ask(*args, **more)

    return behave


async def test_a_turn_cannot_wait_for_its_own_session(autojump_clock: Clock, house: House):
    house.target.on["outer"] = nested(house, "inner", "s")
    async with house.open():
        error = await caught(house.ask("outer", "s"))
        assert isinstance(error, Conflicting)
        assert (error.code, error.status) == ("would_deadlock", 409)
        assert await house.ask("next", "s") == "next"


async def test_a_turn_cannot_wait_for_a_session_that_waits_for_it(autojump_clock: Clock, house: House):
    house.target.on["outer"] = nested(house, "middle", "b")
    house.target.on["middle"] = nested(house, "inner", "a")
    async with house.open():
        assert isinstance(await caught(house.ask("outer", "a")), Conflicting)


async def test_two_turns_cannot_wait_for_each_other(autojump_clock: Clock, house: House):
    """Neither runs inside the other; the one that would close the circle is told, and the other is answered."""
    house.target.on["from a"] = nested(house, "to b", "b")
    answers: dict[str, object] = {}

    async def from_b(*_: object) -> str:
        await house.target.began("from a").wait()
        await blocked()
        answers["b"] = await caught(house.ask("to a", "a"))
        return "b goes on"

    house.target.on["from b"] = from_b
    async with house.open(), trio.open_nursery() as nursery:

        async def ask(text: str, session: str) -> None:
            answers[text] = await house.ask(text, session)

        nursery.start_soon(ask, "from b", "b")
        await blocked()
        nursery.start_soon(ask, "from a", "a")
    assert getattr(answers["b"], "code", None) == "would_deadlock"
    assert answers["from b"] == "b goes on"
    assert str(answers["from a"]).startswith("inner: ")


async def test_a_turn_may_branch_off_its_own_session(autojump_clock: Clock, house: House):
    house.target.on["outer"] = nested(house, "inner", after="p1")
    async with house.open():
        await house.ask("one", name="p1")
        assert await house.ask("outer", after="p1") == "inner: one inner"


async def test_a_turn_may_ask_another_session_though_every_slot_is_taken(autojump_clock: Clock, house: House):
    """Its own key's limit of parallel sessions, and the slots of the whole runtime."""
    house.target.on["outer"] = nested(house, "middle", "b")
    house.target.on["middle"] = nested(house, "inner", "c", key="bob")
    async with house.open(max_running_turns=1, max_parallel_sessions=1):
        with trio.fail_after(60):
            assert await house.ask("outer", "a") == "inner: inner: inner"
        assert await house.ask("next", "a") == "outer next"


async def test_a_turn_without_a_session_may_ask_for_another(autojump_clock: Clock, house: House):
    house.target.on["outer"] = nested(house, "inner", session_mode="disabled")
    async with house.open():
        assert await house.ask("outer", session_mode="disabled") == "inner: inner"


async def test_what_is_asked_for_by_a_turn_is_in_no_way_nested_afterwards(autojump_clock: Clock, house: House):
    house.target.on["outer"] = nested(house, "inner", "b")
    async with house.open(max_parallel_sessions=1):
        await house.ask("outer", "a")
        house.target.hold("slow")
        slow = await house.post("slow", "c")
        turn = await house.post("later", "b")
        await blocked()
        assert turn.state == "queued"
        house.target.hold("slow").set()
        result: HostedRunResult[Any] = await turn.outcome()
        assert result.result.text == "inner later"
        await slow.outcome()
