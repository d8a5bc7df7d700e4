"""Runs by their names: accepted, looked at, waited for, cancelled, forgotten, expired; by nobody but their owner."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from agent_framework import AgentResponse, AgentSession, Message

from afactors_channels import (
    BadRequest,
    ChannelIdentity,
    ChannelRequest,
    HostedRun,
    IsolationKeys,
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

DAY = 86_400.0


async def fail(*_: object) -> str:
    raise ValueError("the secret is swordfish")


def plain(run: HostedRun) -> HostedRun:
    """As something that can be compared."""
    return replace(run, result=shown(run))  # type: ignore[arg-type]


def shown(run: HostedRun) -> str | None:
    return run.result.text if run.result is not None else None


class Gate:
    """Holds the store's commits up, from when it is closed."""

    def __init__(self, house: House) -> None:
        self._event = trio.Event()
        house.store.before = self._wait

    async def _wait(self, method: str, _key: str) -> None:
        if method == "commit":
            await self._event.wait()

    def open(self) -> None:
        self._event.set()


# --- acceptance


async def test_a_letter_is_accepted_once_it_is_durable(autojump_clock: Clock, house: House):
    async with house.open():
        gate, tokens = Gate(house), []

        async def submit() -> None:
            tokens.append(await house.submit("hello", "s"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit)
            await blocked()
            assert tokens == []
            assert house.target.started == [], "it does not run before that, either"
            gate.open()
        (token,) = tokens
        assert token.startswith("run_")
        assert len(token) == 52, "192 random bits"
        run = await house.runtime.get_continuation(token, wait=True)
        assert (run.state, shown(run), run.durable, run.attempt) == ("completed", "hello", True, 1)
        accepted, completed = house.store.commits
        assert [letter.message_id for letter in accepted.letters] == completed.consume == [run.run_id]
        assert (await house.store.claim("ada")).letters == 0


async def test_the_name_of_a_request_is_its_token(autojump_clock: Clock, house: House):
    async with house.open():
        assert await house.submit("one", name="p1") == "p1"
        assert shown(await house.runtime.get_continuation("p1", wait=True)) == "one"
        assert await house.ask("two", after="p1") == "one two"


async def test_a_session_s_letters_run_in_order_with_its_other_turns(autojump_clock: Clock, house: House):
    house.target.hold("0")
    async with house.open():
        for number in range(9):
            if number % 3:
                await house.submit(str(number), "s")
            else:
                await house.post(str(number), "s")
        house.target.hold("0").set()
        assert await house.ask("last", "s") == " ".join([*map(str, range(9)), "last"])
    assert house.target.peak == 1


@pytest.mark.parametrize("crash", [False, True])
async def test_letters_that_come_at_once_are_stored_in_the_order_in_which_they_run(
    autojump_clock: Clock, house: House, crash: bool
):
    texts = [str(number) for number in range(20)]
    house.target.hold("0")
    async with house.open(crash=crash), trio.open_nursery() as nursery:
        supervisor = house.runtime._opened_now().supervisor
        for text in texts:
            nursery.start_soon(house.submit, text, "s")
        await blocked()
        (actor,) = supervisor._actors.values()
        order = [turn.run_id for turn in [*actor._running, *actor._waiting]]
        letters = await house.store.letters(await house.store.claim("ada"))
        assert [letter.message_id for letter in letters] == order
        house.target.hold("0").set()


async def test_a_submitter_that_gives_up_leaves_its_letter_there(autojump_clock: Clock, house: House):
    async with house.open():
        gate = Gate(house)
        with trio.move_on_after(1):
            await house.submit("hello", "s", name="p1", on_disconnect="cancel")
        assert isinstance(await caught(house.runtime.get_continuation("p1")), NotFound), "not yet"
        gate.open()
        await blocked()
        assert (await house.runtime.get_continuation("p1", wait=True)).state == "completed"


@pytest.mark.parametrize("full", ["said before", "noticed by the commit"])
async def test_a_full_store_accepts_nothing(autojump_clock: Clock, house: House, full: str):
    async def before(method: str, _key: str) -> None:
        if method == "commit":
            raise StoreFull("the map is full")

    async with house.open():
        house.store.stuffed = full == "said before"
        house.store.before = before
        error = await caught(house.submit("hello", "s", name="p1"))
        assert isinstance(error, StorageFull)
        house.store.stuffed, house.store.before = False, None
        assert isinstance(await caught(house.runtime.get_continuation("p1")), NotFound)
        assert await house.ask("next", "s") == "next"
        assert house.actors.restarts == 0
    assert house.target.started == ["next"]


@pytest.mark.parametrize(
    "more",
    [{"metadata": {"a": 1}}, {"metadata": {"a": {1}}}, {"options": {"a": object()}}, {"tools": [{"name": fail}]}],
)
async def test_a_request_that_cannot_be_stored_is_refused(autojump_clock: Clock, house: House, more: Any):
    async with house.open():
        error = await caught(house.submit("hello", "s", name="p1", **more))
        assert isinstance(error, BadRequest)
        assert error.code == "not_storable"
        assert isinstance(await caught(house.runtime.get_continuation("p1")), NotFound)
        assert await house.ask("next", "s") == "next"
        assert house.actors.restarts == 0


@pytest.mark.parametrize("name", ["é" * 256, "a\0b", "half a \ud83d face"])
@pytest.mark.parametrize("durable", [False, True])
async def test_a_name_that_cannot_be_stored_is_refused(autojump_clock: Clock, house: House, name: str, durable: bool):
    async with house.open():
        error = await caught((house.submit if durable else house.ask)("hello", "s", name=name))
        assert isinstance(error, BadRequest)
        assert (error.field, error.code) == ("name", "invalid_name")
        assert await house.ask("next", "s") == "next"
        assert house.actors.restarts == 0


@pytest.mark.parametrize("durable", [False, True])
async def test_a_name_of_another_key_s_is_taken(autojump_clock: Clock, house: House, durable: bool):
    async with house.open():
        await house.ask("one", name="p1")
        error = await caught((house.submit if durable else house.ask)("two", key="bob", name="p1"))
        assert getattr(error, "code", None) == "name_taken"
        assert await house.ask("two", after="p1") == "one two"
        assert house.actors.restarts == 0


async def test_what_can_be_stored_is_read_back(autojump_clock: Clock, house: House):
    more = {
        "options": {"temperature": 0.5, "a": (1, 2), "n": 2**70, "b": b"bytes", "nothing": None},
        "metadata": {"half a \ud83d": "face"},
        "attributes": {"x": [{"y": [None, True]}]},
        "isolation": IsolationKeys("u", "c"),
        "identity": ChannelIdentity("test", "user-7", {"a": 1}),
        "session_mode": "required",
    }
    seen: list[ChannelRequest] = []

    async def look(request: ChannelRequest, _session: AgentSession) -> str:
        seen.append(request)
        return "x"

    async with house.open(crash=True):
        house.target.hold("text")
        await house.submit("text", "s", **more)
    house.target._gates.clear()
    house.target.on["text"] = look
    async with house.open():
        await blocked()
    (request,) = seen
    assert request.options == {**more["options"], "a": [1, 2]}
    for field in ("metadata", "attributes", "isolation", "identity", "session_mode"):
        assert getattr(request, field) == more[field]


async def test_letters_count_for_the_mailbox(autojump_clock: Clock, house: House):
    house.target.hold("0")
    async with house.open(mailbox=2):
        tokens = [await house.submit(str(number), "s") for number in range(3)]
        error = await caught(house.submit("too much", "s", name="p1"))
        assert isinstance(error, Overloaded)
        assert error.code == "mailbox_full"
        assert isinstance(await caught(house.runtime.get_continuation("p1")), NotFound)
        house.target.hold("0").set()
        for token in tokens:
            assert (await house.runtime.get_continuation(token, wait=True)).state == "completed"


# --- looking at a run


@pytest.mark.parametrize("durable", [False, True])
async def test_a_run_in_every_state(autojump_clock: Clock, house: House, durable: bool):
    house.target.hold("first")
    more = {"metadata": {"a": "b"}, "presentation": {"model": "m"}, "retrievable": False}

    async def begin(text: str, name: str) -> None:
        await (house.submit if durable else house.post)(text, "s", name=name, **more)

    async with house.open() as runtime:
        await begin("first", "p1")
        await begin("second", "p2")
        await blocked()
        first, second = [await runtime.get_continuation(name) for name in ("p1", "p2")]
        assert (first.state, second.state) == ("running", "queued")
        for run in (first, second):
            assert (run.token, run.isolation_key, run.session_id) == ("p" + str(1 + (run is second)), "ada", "ada:s")
            assert (run.durable, run.attempt, run.retrievable, run.streamed) == (durable, 1, False, False)
            assert (run.metadata, run.presentation) == ({"a": "b"}, {"model": "m"})
            assert (run.ended, run.error, run.result) == (None, None, None)
        gate = Gate(house)
        house.target.hold("first").set()
        await blocked()
        assert (await runtime.get_continuation("p1")).state == "running", "its end is not durable"
        gate.open()
        done = await runtime.get_continuation("p1", wait=True)
        assert (done.state, shown(done), done.error) == ("completed", "first", None)
        assert (done.run_id, done.created) == (first.run_id, pytest.approx(first.created, abs=0.001))
        assert done.created <= done.ended
        assert (done.metadata, done.presentation, done.retrievable) == ({"a": "b"}, {"model": "m"}, False)
        assert plain(await runtime.get_continuation("p1", wait=True)) == plain(done)


@pytest.mark.parametrize("durable", [False, True])
async def test_a_run_that_failed(autojump_clock: Clock, house: House, durable: bool):
    house.target.on["bad"] = fail
    async with house.open() as runtime:
        await (house.submit if durable else house.post)("bad", "s", name="p1")
        run = await runtime.get_continuation("p1", wait=True)
        assert (run.state, shown(run), run.error) == ("failed", None, ("server_error", "The agent failed to answer."))
        assert house.said(await runtime.get_input("p1")) == ["bad"]
        assert await house.ask("next", "s") == "next"
        assert isinstance(await caught(house.ask("more", after="p1")), NotFound), "it made no point"


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_a_run_that_was_cut_off_is_incomplete(
    autojump_clock: Clock, house: House, monkeypatch: pytest.MonkeyPatch, reason: str
):
    async def run(*_: object) -> AgentResponse[Any]:
        return AgentResponse(messages=[Message("assistant", ["as far as it w"])], finish_reason=reason)

    async with house.open() as runtime:
        monkeypatch.setattr(house.target, "run", run)
        await house.submit("tell me", "s", name="p1")
        run = await runtime.get_continuation("p1", wait=True)
        assert (run.state, shown(run), run.result.finish_reason) == ("incomplete", "as far as it w", reason)


async def test_a_run_that_takes_too_long(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open(turn_timeout=30.0) as runtime:
        run = await runtime.get_continuation(await house.submit("slow", "s"), wait=True)
        assert (run.state, run.error[0]) == ("failed", "timeout")


async def test_usage_and_finish_reason_are_kept(autojump_clock: Clock, house: House, monkeypatch: pytest.MonkeyPatch):
    async def run(*_: object) -> AgentResponse[Any]:
        usage: Any = {"input_token_count": 7, "output_token_count": 5}
        return AgentResponse(messages=[Message("assistant", ["x"])], usage_details=usage, response_id="r-1")

    async with house.open() as runtime:
        monkeypatch.setattr(house.target, "run", run)
        run = await runtime.get_continuation(await house.submit("x", "s"), wait=True)
        assert run.result.usage_details == {"input_token_count": 7, "output_token_count": 5}
        assert run.result.response_id == "r-1"


async def test_what_completed_is_kept_where_it_was_said_and_not_twice(autojump_clock: Clock, house: House):
    async with house.open() as runtime:
        for number in range(3):
            await house.submit(f"word{number}", "s", name=f"p{number}")
        assert [shown(await runtime.get_continuation(f"p{n}", wait=True)) for n in range(3)] == [
            "word0",
            "word0 word1",
            "word0 word1 word2",
        ]
        assert [house.said(await runtime.get_input(f"p{n}")) for n in range(3)] == [["word0"], ["word1"], ["word2"]]
        records = await house.records()
        assert all("at" in record.input and "at" in record.output for record in records)


@pytest.mark.parametrize("durable", [False, True])
async def test_its_input_in_every_state(autojump_clock: Clock, house: House, durable: bool):
    house.target.hold("first")
    begin = house.submit if durable else house.post
    async with house.open() as runtime:
        await begin("first", "s", name="p1")
        await begin("second", "s", name="p2")
        await blocked()
        sent = house.request("first").input
        assert await runtime.get_input("p1") == sent
        assert house.said(await runtime.get_input("p2")) == ["second"]
        await runtime.cancel("p2")
        assert house.said(await runtime.get_input("p2")) == ["second"]
        house.target.hold("first").set()
        await runtime.get_continuation("p1", wait=True)
        assert await runtime.get_input("p1") == sent, "without the ids that it got in between"


@pytest.mark.parametrize("token", ["", "never", "é" * 256, "a\0b", "\ud800", "run_" + "0" * 48])
async def test_a_run_that_never_was(autojump_clock: Clock, house: House, token: str):
    async with house.open() as runtime:
        await house.ask("hello", "s", name="p1")
        for method in (runtime.get_continuation, runtime.get_input, runtime.cancel, runtime.forget):
            error = await caught(method(token))
            assert isinstance(error, NotFound)
            assert error.code == "run_not_found"
        with pytest.raises(NotFound):
            async with runtime.subscribe(token):
                pass


async def test_waiting_does_not_cancel_and_leaving_does_not_matter(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open() as runtime:
        token = await house.submit("slow", "s")
        with trio.move_on_after(5):
            await runtime.get_continuation(token, wait=True)
        await blocked()
        assert (await runtime.get_continuation(token)).state == "running"
        house.target.hold("slow").set()
        assert (await runtime.get_continuation(token, wait=True)).state == "completed"


async def test_who_waits_for_a_run_keeps_it_going_when_its_caller_leaves(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open() as runtime:
        async with trio.open_nursery() as nursery:
            runs = []

            async def wait() -> None:
                runs.append(await runtime.get_continuation("p1", wait=True))

            async with runtime.turn(house.request("slow", "s", name="p1")):
                nursery.start_soon(wait)
                await blocked()
            await blocked()
            assert house.target.running == ["slow"]
            house.target.hold("slow").set()
        assert runs[0].state == "completed"


async def test_the_last_one_who_waits_for_an_abandoned_run_cancels_it(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open() as runtime:
        async with trio.open_nursery() as nursery:
            async with runtime.turn(house.request("slow", "s", name="p1")):
                nursery.start_soon(lambda: runtime.get_continuation("p1", wait=True))
                await blocked()
            nursery.cancel_scope.cancel()
        await blocked()
        run = await runtime.get_continuation("p1")
        assert (run.state, run.error[0]) == ("cancelled", "cancelled")


# --- cancelling


@pytest.mark.parametrize("durable", [False, True])
async def test_cancelling_a_run_that_waits(autojump_clock: Clock, house: House, durable: bool):
    house.target.hold("first")
    begin = house.submit if durable else house.post
    async with house.open() as runtime:
        await begin("first", "s")
        await begin("second", "s", name="p2")
        await blocked()
        run = await runtime.cancel("p2")
        assert (run.state, run.error) == ("cancelled", ("cancelled", "The turn was cancelled."))
        assert await runtime.cancel("p2") == run, "once more changes nothing"
        house.target.hold("first").set()
        assert await house.ask("third", "s") == "first third"
    assert "second" not in house.target.started


@pytest.mark.parametrize("durable", [False, True])
async def test_cancelling_a_run_that_runs(autojump_clock: Clock, house: House, durable: bool):
    house.target.hold("slow")
    begin = house.submit if durable else house.post
    async with house.open() as runtime:
        await begin("slow", "s", name="p1")
        await house.target.began("slow").wait()
        await blocked()
        runs = []
        async with trio.open_nursery() as nursery:
            for _ in range(2):

                async def cancel() -> None:
                    runs.append(await runtime.cancel("p1"))

                nursery.start_soon(cancel)
        assert runs[0] == runs[1]
        assert runs[0].state == "cancelled"
        assert await house.ask("next", "s") == "next"
        assert (await house.store.claim("ada")).letters == 0
    async with house.open() as runtime:
        assert await runtime.cancel("p1") == runs[0]
    assert house.target.started == ["slow", "next"]


async def test_cancelling_a_run_that_is_with_the_writer(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open() as runtime:
        token = await house.submit("slow", "s")
        await blocked()
        gate = Gate(house)
        house.target.hold("slow").set()
        await blocked()
        runs = []

        async def cancel() -> None:
            runs.append(await runtime.cancel(token))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            await blocked()
            gate.open()
        assert (runs[0].state, shown(runs[0])) == ("completed", "slow")


async def test_cancelling_what_has_ended(autojump_clock: Clock, house: House):
    house.target.on["bad"] = fail
    async with house.open() as runtime:
        for text, state in (("good", "completed"), ("bad", "failed")):
            token = await house.submit(text, "s")
            run = await runtime.get_continuation(token, wait=True)
            assert run.state == state
            assert plain(await runtime.cancel(token)) == plain(run)


async def test_an_agent_that_fails_when_it_is_cancelled_was_cancelled_all_the_same(autojump_clock: Clock, house: House):
    async def clumsy(*_: object) -> str:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            raise ValueError("the connection is gone") from None

    house.target.on["slow"] = clumsy
    async with house.open() as runtime:
        token = await house.submit("slow", "s")
        await blocked()
        run = await runtime.cancel(token)
        assert (run.state, run.error[0]) == ("cancelled", "cancelled")


# --- forgetting


async def test_forgetting_a_run(autojump_clock: Clock, house: House):
    async with house.open() as runtime:
        await house.ask("one", name="p1")
        await house.ask("two", after="p1", name="p2")
        await runtime.forget("p1")
        for method in (runtime.get_continuation, runtime.get_input, runtime.forget):
            error = await caught(method("p1"))
            assert isinstance(error, NotFound)
            assert error.code == "run_not_found"
        assert isinstance(await caught(house.ask("x", after="p1")), NotFound)
        assert await house.ask("three", after="p2", name="p3") == "one two three", "what it said is in the session"
        assert len(await house.records()) == 2


async def test_with_the_last_name_of_a_thread_goes_everything(autojump_clock: Clock, house: House):
    async with house.open() as runtime:
        await house.ask("one", key=None, name="p1")
        await house.ask("two", key=None, after="p1", name="p2")
        await house.ask("other", key=None, after="p1", name="b2")
        assert len(await house.store.keys()) == 1
        for name in ("p1", "b2"):
            await runtime.forget(name)
        assert len(await house.store.keys()) == 1
        await runtime.forget("p2")
        assert await house.store.keys() == []
        assert await house.ask("one", key=None, name="p1") == "one", "and all can begin again"


async def test_a_conversation_with_a_name_stays_when_its_last_response_is_forgotten(
    autojump_clock: Clock, house: House
):
    async with house.open() as runtime:
        await house.ask("one", "talk", key=None, name="p1")
        await runtime.forget("p1")
        assert await house.ask("two", "talk", key=None) == "one two"


async def test_a_conversation_among_very_many_threads_stays(autojump_clock: Clock, house: House):
    async with house.open() as runtime:
        await house.ask("one", "zzz", name="talk")
        for number in range(150):
            await house.ask("x", name=f"p{number:03}")
        for name in ["talk", *(f"p{number:03}" for number in range(150))]:
            await runtime.forget(name)
        assert await house.ask("two", "zzz") == "one two"


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("text", ["queued", "slow"])
async def test_forgetting_a_run_that_goes_on_cancels_it(autojump_clock: Clock, house: House, durable: bool, text: str):
    house.target.hold("slow")
    begin = house.submit if durable else house.post
    async with house.open() as runtime:
        await begin("slow", "s", key=None, name="p-slow")
        await begin("queued", "s", key=None, name="p-queued")
        await blocked()
        await runtime.forget(f"p-{text}")
        assert isinstance(await caught(runtime.get_continuation(f"p-{text}")), NotFound)
        house.target.hold("slow").set()
        assert await house.ask("next", "s", key=None) == ("queued next" if text == "slow" else "slow next")


async def test_a_thread_that_failed_and_is_forgotten_leaves_nothing(autojump_clock: Clock, house: House):
    house.target.on["bad"] = fail
    async with house.open() as runtime:
        token = await house.submit("bad", key=None)
        await runtime.get_continuation(token, wait=True)
        await runtime.forget(token)
        assert await house.store.keys() == []


async def test_forgetting_while_the_next_turn_waits(autojump_clock: Clock, house: House):
    house.target.hold("two")
    async with house.open() as runtime:
        await house.ask("one", key=None, name="p1")
        turn = await house.post("two", key=None, after="p1", name="p2")
        await blocked()
        await runtime.forget("p1")
        house.target.hold("two").set()
        assert (await turn.outcome()).result.text == "one two"
        assert await house.ask("three", key=None, after="p2") == "one two three"


@pytest.mark.parametrize("point", ["names", "erase"])
async def test_a_turn_that_comes_while_its_thread_is_being_forgotten(
    autojump_clock: Clock, house: House, monkeypatch: pytest.MonkeyPatch, point: str
):
    """It is of a thread that is there, or of one that never was; its actor survives that."""
    reached, go_on = trio.Event(), trio.Event()
    original = getattr(house.store, point)

    async def slow(*args: Any, **more: Any) -> Any:
        reached.set()
        await go_on.wait()
        return await original(*args, **more)

    async with house.open() as runtime:
        await house.ask("one", key=None, name="p1")
        monkeypatch.setattr(house.store, point, slow)
        outcomes: list[Any] = []

        async def go_on_from_it() -> None:
            try:
                outcomes.append(await house.ask("two", key=None, after="p1", name="p2"))
            except NotFound as error:
                outcomes.append(error.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.forget, "p1")
            await reached.wait()
            nursery.start_soon(go_on_from_it)
            await blocked()
            go_on.set()
        assert outcomes in (["one two"], ["point_not_found"])
        monkeypatch.undo()
        assert house.actors.restarts == 0


async def test_a_turn_that_is_cancelled_while_its_thread_is_being_forgotten(autojump_clock: Clock, house: House):
    async with house.open() as runtime:
        await house.ask("one", key=None, name="p1")
        original, reached, go_on = house.store.erase, trio.Event(), trio.Event()

        async def slow(key: str) -> bool:
            reached.set()
            await go_on.wait()
            return bool(await original(key))

        house.store.erase = slow
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.forget, "p1")
            await reached.wait()
            turn = await house.post("two", key=None, after="p1", name="p2")
            assert turn.cancel("cancelled")
            go_on.set()
        assert getattr(await caught(turn.outcome()), "code", None) == "cancelled"
        assert (await runtime.get_continuation("p2")).state == "cancelled"
        assert house.actors.restarts == 0


async def test_one_who_gives_up_forgetting_hurts_nobody(autojump_clock: Clock, house: House):
    """The client hangs up while its thread is erased: the actor goes on with what is there then."""
    async with house.open() as runtime:
        await house.ask("one", key=None, name="p1")
        original, begun = house.store.erase, trio.Event()

        async def slow(key: str) -> bool:
            begun.set()
            found = await original(key)
            await trio.sleep(1)
            return found

        house.store.erase = slow
        with trio.move_on_after(10) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(runtime.forget, "p1")
                await begun.wait()
                scope.cancel()
        house.store.erase = original
        assert await house.ask("again", key=None, name="p1") == "again"
        assert house.actors.restarts == 0


# --- whose they are


async def test_another_partition_s_run_does_not_exist(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open() as runtime:
        await house.submit("done", name="p-done", partition="acme")
        await runtime.get_continuation("p-done", wait=True)
        await house.submit("slow", "s", name="p-slow", partition="acme")
        await house.submit("queued", "s", name="p-queued", partition="acme")
        await blocked()
        never = str(await caught(runtime.get_continuation("never", partition="acm")))
        for name in ("p-done", "p-slow", "p-queued"):
            for stranger in ("", "acm", "acme2"):
                for method in (runtime.get_continuation, runtime.get_input, runtime.cancel, runtime.forget):
                    error = await caught(method(name, partition=stranger))
                    assert isinstance(error, NotFound)
                    assert (str(error), error.code) == (never, "run_not_found")
                error = await caught(runtime.get_continuation(name, partition=stranger, wait=True))
                assert str(error) == never
                with pytest.raises(NotFound, match=never):
                    async with runtime.subscribe(name, partition=stranger):
                        pass
            for owner in ("acme", None):
                assert (await runtime.get_continuation(name, partition=owner)).token == name
        assert house.target.running == ["slow"], "nobody cancelled anything"


async def test_another_partition_s_letter_in_the_store_does_not_exist(autojump_clock: Clock, house: House):
    house.target.hold("slow")
    async with house.open(crash=True):
        await house.submit("slow", "s", name="p1", partition="acme")
    async with house.open() as runtime:
        for method in (runtime.get_continuation, runtime.get_input, runtime.cancel, runtime.forget):
            assert isinstance(await caught(method("p1", partition="other")), NotFound)
        assert (await runtime.cancel("p1", partition="acme")).state == "cancelled"


async def test_the_name_of_an_idempotency_key_is_no_run_s(autojump_clock: Clock, house: House):
    async with house.open() as runtime:
        await house.ask("one", idempotency_key="k")
        names = await house.store.names(await house.store.claim("ada"))
        (name,) = [name for name in names if name.startswith("idem_")]
        assert isinstance(await caught(runtime.get_continuation(name)), NotFound)
        assert isinstance(await caught(house.ask("x", after=name)), NotFound)


# --- how long they are kept


async def test_a_record_expires_and_its_point_still_continues(autojump_clock: Clock, house: House):
    async with house.open(run_retention=60.0) as runtime:
        await house.submit("one", name="p1")
        run = await runtime.get_continuation("p1", wait=True)
        assert await house.store.expire(run.ended + 59) == 0
        assert await house.store.expire(run.ended + 61) == 1
        for method in (runtime.get_continuation, runtime.get_input, runtime.cancel):
            error = await caught(method("p1"))
            assert isinstance(error, NotFound)
            assert error.code == "result_expired"
        with pytest.raises(NotFound):
            async with runtime.subscribe("p1"):
                pass
        assert await house.ask("two", after="p1") == "one two"
        await runtime.forget("p1")
        assert isinstance(await caught(house.ask("three", after="p1")), NotFound)


@pytest.mark.parametrize("text", ["one", "bad"])
async def test_what_made_no_point_expires_with_its_name(autojump_clock: Clock, house: House, text: str):
    house.target.on["bad"] = fail
    async with house.open(run_retention=60.0) as runtime:
        token = await house.submit(text, "s", name="p1" if text == "bad" else None)
        run = await runtime.get_continuation(token, wait=True)
        assert await house.store.expire(run.ended + 59) == 0
        assert await house.store.expire(run.ended + 61) == 2
        error = await caught(runtime.get_continuation(token))
        assert isinstance(error, NotFound)
        assert error.code == "run_not_found"
        assert await house.store.names(await house.store.claim("ada")) == []


async def test_a_run_that_waits_or_runs_never_expires(autojump_clock: Clock, house: House):
    house.target.hold("first")
    async with house.open(run_retention=1.0, transcript_retention=1.0) as runtime:
        tokens = [await house.submit(text, "s") for text in ("first", "second")]
        await blocked()
        assert await house.store.expire(2e9 * 2) == 0
        house.target.hold("first").set()
        for token in tokens:
            assert (await runtime.get_continuation(token, wait=True)).state == "completed"


async def test_default_retention(autojump_clock: Clock, house: House, words: Any):
    house.channel(transcriber=words)
    async with house.open() as runtime:
        assert runtime.limits.run_retention == 30 * DAY
        assert runtime.limits.transcript_retention == 3600
        assert runtime.limits.idempotency_window == 35 * DAY
        await house.submit("one", name="p1", stream=True, idempotency_key="k")
        run = await runtime.get_continuation("p1", wait=True)
        log = house.store.commits[0].append[0].log
        claim = await house.store.claim("ada")
        assert await house.store.expire(run.ended + 3599) == 0
        assert await house.store.log_length(claim, log) == 6
        assert await house.store.expire(run.ended + 3601) > 0
        assert await house.store.log_length(claim, log) == 0
        assert await house.store.expire(run.ended + 30 * DAY - 1) == 0
        assert await house.store.expire(run.ended + 30 * DAY + 1) == 1, "the record"
        assert await house.store.expire(run.created + 35 * DAY - 1) == 0
        assert await house.store.expire(run.created + 35 * DAY + 1) == 1, "the idempotency key"
        assert await house.ask("two", after="p1") == "one two"


# --- letters that a turn sends


def sends(house: House, *args: Any, then: Callable[[], Awaitable[Any]] | None = None, **more: Any) -> Any:
    async def behave(_request: ChannelRequest, _session: AgentSession) -> str:
        token = await house.submit(*args, **more)
        if then is not None:
            await then()
        return f"sent {token}"

    return behave


async def test_what_a_turn_submits_goes_with_its_commit(autojump_clock: Clock, house: House):
    async with house.open() as runtime:

        async def look() -> None:
            assert isinstance(await caught(runtime.get_continuation("p1")), NotFound), "it is not accepted yet"

        house.target.on["outer"] = sends(house, "inner", "t", key="bob", name="p1", then=look)
        assert await house.ask("outer", "s") == "sent p1"
        run = await runtime.get_continuation("p1", wait=True)
        assert (run.state, run.isolation_key, shown(run)) == ("completed", "bob", "inner")
        assert [len(commit.others) for commit in house.store.commits] == [1, 0]


async def test_what_a_failed_turn_submitted_never_was(autojump_clock: Clock, house: House):
    house.target.on["outer"] = sends(house, "inner", "t", key="bob", name="p1", then=fail)
    async with house.open() as runtime:
        assert isinstance(await caught(house.ask("outer", "s")), TargetFailed)
        await blocked()
        assert isinstance(await caught(runtime.get_continuation("p1")), NotFound)
        assert house.target.started == ["outer"]


async def test_a_turn_may_submit_to_its_own_session(autojump_clock: Clock, house: House):
    house.target.on["outer"] = sends(house, "inner", "s", name="p1")
    async with house.open() as runtime:
        await house.ask("outer", "s")
        assert shown(await runtime.get_continuation("p1", wait=True)) == "outer inner"


async def test_what_a_turn_submitted_is_run_after_a_crash(autojump_clock: Clock, house: House):
    house.target.on["outer"] = sends(house, "inner", "t", key="bob", name="p1")
    async with house.open(crash=True):
        await house.ask("outer", "s")
        house.store.crash()  # before the letter's own actor could do anything
    house.target.started.clear()
    async with house.open() as runtime:
        await blocked()
        run = await runtime.get_continuation("p1", wait=True)
        assert (run.state, shown(run)) == ("completed", "inner")
    assert house.target.started == ["inner"]


@pytest.mark.parametrize("more", [{"options": {"a": object()}}, {"name": "é" * 256}])
async def test_what_a_turn_submits_is_refused_to_it(autojump_clock: Clock, house: House, more: Any):
    refused = []

    async def behave(*_: object) -> str:
        refused.append(await caught(house.submit("inner", "t", key="bob", **more)))
        return "goes on"

    house.target.on["outer"] = behave
    async with house.open():
        assert await house.ask("outer", "s") == "goes on"
        assert isinstance(refused[0], BadRequest)
        assert await house.store.keys() == ["ada"]


async def test_a_record_that_cannot_be_written_as_it_is_is_written_bare(autojump_clock: Clock, house: House):
    """Whatever in a request is no plain data: the turn ends, with a record that says so."""
    house.target.on["bad"] = fail
    odd = [
        {"metadata": {"a": {1}}},
        {"presentation": {"a": object()}},
        {"options": {"a": object()}},
        {"identity": ChannelIdentity("test", object())},  # type: ignore[arg-type]
    ]
    async with house.open():
        for text in ("bad", "good"):
            for more in odd:
                turn = await house.post(text, f"{text}{odd.index(more)}", **more)
                await turn.end()
                assert turn.state == ("completed" if text == "good" and "options" in more else "failed")
                assert (await house.record(turn)).state == turn.state
        assert house.actors.restarts == 0


async def test_a_letter_that_streams_to_nobody_runs_to_its_end(autojump_clock: Clock, house: House):
    """Its channel writes no transcript: there is nobody to wait for."""
    async with house.open() as runtime:
        token = await house.submit(" ".join("word" for _ in range(60)), "s", stream=True)
        with trio.fail_after(5):
            assert (await runtime.get_continuation(token, wait=True)).state == "completed"


@pytest.mark.parametrize("end", ["completed", "failed"])
async def test_whoever_looks_later_sees_the_same_second(
    autojump_clock: Clock, house: House, monkeypatch: pytest.MonkeyPatch, end: str
):
    monkeypatch.setattr("time.time", lambda: 1_800_000_000.9996)
    house.target.on["failed"] = fail
    house.target.hold(end)
    async with house.open() as runtime:
        turn = await house.post(end, "s", name="p1")
        await blocked()
        running = await runtime.get_continuation("p1")
        house.target.hold(end).set()
        stored = await runtime.get_continuation("p1", wait=True)
        assert (stored.state, int(stored.created)) == (end, int(running.created))
        assert end == "failed" or int(stored.ended or 0) == int(turn.run.ended or 0)
