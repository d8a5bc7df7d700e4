"""A repeat of a request, known by its idempotency key: it gets the first one's answer, and nothing runs twice."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from afactors_channels import NotAllowed, NotFound, Repeated, StorageFull, TargetFailed, Unprocessable
from afactors_store import StoreFull
from tests.runtime.outcomes import caught

blocked = trio.testing.wait_all_tasks_blocked
House = Any  # of conftest
Clock = trio.abc.Clock

K = {"idempotency_key": "k", "fingerprint": "f"}


async def bad(*_: object) -> str:
    raise ValueError


@pytest.mark.parametrize("first", ["ask", "submit"])
@pytest.mark.parametrize("then", ["ask", "submit"])
async def test_a_repeat_while_it_runs_joins_it(autojump_clock: Clock, house: House, first: str, then: str):
    house.target.hold("hello")
    answers: list[str] = []

    async def call(how: str, name: str) -> None:
        if how == "ask":
            answers.append(await house.ask("hello", "s", name=name, **K))
        else:
            token = await house.submit("hello", "s", name=name, **K)
            answers.append((await house.runtime.get_continuation(token, wait=True)).result.text)

    async with house.open():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, first, "p1")
            await blocked()
            for number in range(3):
                nursery.start_soon(call, then, f"again{number}")
            await blocked()
            assert answers == []
            house.target.hold("hello").set()
        assert answers == ["hello"] * 4
        assert len(await house.records()) == 1
        for number in range(3):
            assert isinstance(await caught(house.runtime.get_continuation(f"again{number}")), NotFound)
    assert house.target.started == ["hello"]


@pytest.mark.parametrize("restart", [None, "stop", "crash"])
@pytest.mark.parametrize("first", ["ask", "submit"])
async def test_a_repeat_afterwards_gets_the_same_result(
    autojump_clock: Clock, house: House, first: str, restart: str | None
):
    async with house.open(crash=restart == "crash"):
        if first == "ask":
            result = await house.runtime.ask(house.request("hello", "s", name="p1", **K))
        else:
            await house.submit("hello", "s", name="p1", **K)
            result = await house.runtime.get_continuation("p1", wait=True)
        if restart is None:
            again = await house.runtime.ask(house.request("hello", "s", name="p2", **K))
            assert (again.run_id, again.result.text) == (result.run_id, "hello")
    async with house.open():
        again = await house.runtime.ask(house.request("hello", "s", name="p3", **K))
        assert (again.run_id, again.result.text) == (result.run_id, "hello")
        assert (again.isolation_key, again.session_id) == ("ada", "ada:s")
        assert await house.submit("hello", "s", name="p4", **K) == "p1"
        assert await house.ask("next", "s") == "hello next"
    assert house.target.started == ["hello", "next"]


@pytest.mark.parametrize("crash", [False, True])
async def test_a_repeat_of_what_waits_in_the_store(autojump_clock: Clock, house: House, crash: bool):
    house.target.hold("hello")
    async with house.open(crash=crash):
        await house.submit("hello", "s", name="p1", **K)
        await blocked()
    house.target.hold("hello").set()
    async with house.open():
        assert await house.submit("hello", "s", name="p2", **K) == "p1"
        assert await house.ask("hello", "s", name="p3", **K) == "hello"
    assert house.target.started == ["hello", "hello"], "once in each process"


async def test_a_turn_that_streams_is_told_whose_repeat_it_is(autojump_clock: Clock, house: House, words: Any):
    house.channel(transcriber=words)
    house.target.hold("a b")
    async with house.open() as runtime:
        await house.submit("a b", "s", name="p1", stream=True, **K)
        with pytest.raises(Repeated) as repeated:
            async with runtime.turn(house.request("a b", "s", name="p2", stream=True, **K)):
                pass
        assert repeated.value.token == "p1"
        house.target.hold("a b").set()
        async with runtime.subscribe(repeated.value.token) as batches:
            assert len([row async for batch in batches for row in batch]) == 7


async def test_a_repeat_of_a_nameless_request(autojump_clock: Clock, house: House):
    async with house.open():
        assert await house.ask("hello", "s", **K) == "hello"
        assert await house.ask("hello", "s", **K) == "hello"
        token = await house.submit("hello", "s", **K)
        assert (await house.runtime.get_continuation(token)).result.text == "hello"
    assert house.target.started == ["hello"]


async def test_a_key_with_another_request_is_refused(autojump_clock: Clock, house: House):
    house.target.hold("hello")
    async with house.open() as runtime:
        await house.submit("hello", "s", name="p1", **K)
        await blocked()
        for _ in range(2):
            for call in (house.ask, house.submit):
                error = await caught(call("other", "s", idempotency_key="k", fingerprint="g"))
                assert isinstance(error, Unprocessable)
                assert (error.status, error.code, error.field) == (422, "idempotency_key_reused", "Idempotency-Key")
            house.target.hold("hello").set()
            await runtime.get_continuation("p1", wait=True)
    async with house.open():
        error = await caught(house.ask("other", "s", idempotency_key="k", fingerprint=""))
        assert isinstance(error, Unprocessable)
    assert house.target.started == ["hello"]


@pytest.mark.parametrize("end", ["failed", "cancelled"])
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("durable", [False, True])
async def test_a_run_without_a_result_frees_its_key(
    autojump_clock: Clock, house: House, end: str, durable: bool, restart: bool
):
    async with without_a_result(house, house.submit if durable else house.post, end, restart) as runtime:
        assert await house.ask("better", "s", name="p2", idempotency_key="k", fingerprint="g") == "better"
        assert (await runtime.get_continuation("p1")).state == end
        assert await house.submit("better", "s", idempotency_key="k", fingerprint="g") == "p2"


@pytest.mark.parametrize("end", ["failed", "cancelled"])
@pytest.mark.parametrize("restart", [False, True])
async def test_a_redelivery_of_a_run_without_a_result_runs_nothing(
    autojump_clock: Clock, house: House, end: str, restart: bool
):
    async with without_a_result(house, house.submit, end, restart, redelivers=True):
        assert await house.submit("again", "s", **K, redelivers=True) == "p1"
    assert len(house.target.started) == 1


@pytest.mark.parametrize("restart", [False, True])
async def test_what_a_channel_dealt_with_is_known_by_its_key(autojump_clock: Clock, house: House, restart: bool):
    command = house.request("", "s", **K, redelivers=True)
    async with house.open() as runtime:
        assert await runtime.admit(command)
        await runtime.dealt(command)
        await runtime.dealt(command)
        if not restart:
            assert not await runtime.admit(command)
            assert await house.submit("", "s", **K) == ""
    async with house.open() as runtime:
        assert not await runtime.admit(command)
        assert await house.submit("", "s", **K) == ""
        assert await runtime.admit(command.replace(channel="other"))
        token = await house.submit("hello", "s", idempotency_key="k2")
        accepted = house.request("hello", "s", idempotency_key="k2")
        assert not await runtime.admit(accepted)
        await runtime.dealt(accepted)
        assert await house.submit("hello", "s", idempotency_key="k2") == token
        await runtime.get_continuation(token, wait=True)
    assert house.target.started == ["hello"]


async def test_what_is_dealt_with_goes_through_the_door_and_is_forgotten_in_time(autojump_clock: Clock, house: House):
    refused = house.request("", "s", **K)
    async with house.open(
        authorize=lambda request: "denied", idempotency_window=3600.0, run_retention=3600.0
    ) as runtime:
        with pytest.raises(NotAllowed):
            await runtime.admit(refused)
        await runtime.dealt(refused)
        claim = await house.store.claim("ada")
        (name,) = await house.store.names(claim)
        assert name.startswith("idem_")
        while await house.store.expire(time.time() + 3601.0):
            pass
        assert await house.store.names(claim) == []


@asynccontextmanager
async def without_a_result(house: House, how: Any, end: str, restart: bool, **more: Any) -> AsyncIterator[Any]:
    """A runtime in which, or before whose start, the run ``p1`` ended without a result."""
    house.target.on["bad"] = bad
    house.target.hold("slow")
    async with house.open() as runtime:
        await how("bad" if end == "failed" else "slow", "s", name="p1", **K, **more)
        await blocked()
        if end == "cancelled":
            await runtime.cancel("p1")
        assert (await runtime.get_continuation("p1", wait=True)).state == end
        if not restart:
            yield runtime
    if restart:
        async with house.open() as runtime:
            yield runtime


async def test_who_joined_a_run_that_fails_hears_of_it(autojump_clock: Clock, house: House):
    house.target.on["bad"] = bad
    house.target.hold("bad")
    errors: list[Exception] = []

    async def ask() -> None:
        errors.append(await caught(house.ask("bad", "s", name="p1", **K)))

    async with house.open(), trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(ask)
            await blocked()
        house.target.hold("bad").set()
        await blocked()
        assert [getattr(error, "code", None) for error in errors] == ["server_error"] * 2
        assert all(isinstance(error, TargetFailed) for error in errors)


@pytest.mark.parametrize("redelivers", [False, True])
async def test_a_run_that_is_given_up(autojump_clock: Clock, house: House, redelivers: bool):
    house.target.hold("poison")
    poison = {**K, "redelivers": redelivers}
    for attempt in range(2):
        async with house.open(crash=True, max_attempts=2):
            if not attempt:
                await house.submit("poison", "s", name="p1", **poison)
            await blocked()
    async with house.open(max_attempts=2) as runtime:
        assert (await runtime.get_continuation("p1", wait=True)).error[0] == "attempts_exhausted"
        house.target.hold("poison").set()
        again = await house.submit("poison", "s", **poison)
        assert (again == "p1") == redelivers
        await runtime.get_continuation(again, wait=True)
    assert house.target.started == ["poison"] * (2 if redelivers else 3)


async def test_the_scope_is_a_channel_and_a_partition(autojump_clock: Clock, house: House):
    house.channel("test")
    house.channel("other")
    scopes = [
        {"channel": channel, "partition": partition}
        for channel in ("test", "other")
        for partition in ("", "acme", "acm")
    ]
    async with house.open():
        for number, scope in enumerate(scopes):
            answer = await house.ask(f"{number}", f"s{number}", **{**scope, **K})
            assert answer == f"{number}", "nobody gets another's answer"
        for number, scope in enumerate(scopes):
            assert await house.ask("whatever", f"t{number}", **{**scope, **K}) == f"{number}"
        assert await house.ask("x", "s", idempotency_key="k2", fingerprint="f") == "x"
    assert len(house.target.started) == 7


async def test_a_key_cannot_be_guessed_from_the_store_s_outside(autojump_clock: Clock, house: House):
    """Its name is made with the store's secret: another store has another one."""
    async with house.open():
        await house.ask("hello", "s", **K)
        (name,) = [name for name in await house.store.names(await house.store.claim("ada")) if "idem" in name]
        assert len(name) == len("idem_") + 48
    house.store._meta = house.store._meta._replace(secret=b"another")
    async with house.open():
        assert await house.ask("hello", "t", **K) == "hello"
    assert house.target.started == ["hello", "hello"]


async def test_repeats_of_a_new_thread_meet_in_one_actor(autojump_clock: Clock, house: House):
    """Though each of them has a name of its own, and nobody knows the caller."""
    house.target.hold("hello")
    async with house.open(), trio.open_nursery() as nursery:
        runs: list[Any] = []

        async def ask(number: int) -> None:
            request = house.request("hello", key=None, name=f"p{number}", partition="acme", **K)
            runs.append(await house.runtime.ask(request))

        for number in range(5):
            nursery.start_soon(ask, number)
        await blocked()
        house.target.hold("hello").set()
        await blocked()
        assert len({(run.run_id, run.isolation_key, run.session_id) for run in runs}) == 1
        assert await house.store.keys() == [runs[0].isolation_key]
        names = [n for n in range(5) if await house.store.find(f"p{n}") is not None]
        assert len(names) == 1
        answer = await house.ask("more", key=None, after=f"p{names[0]}", partition="acme")
        assert answer == "hello more"
    assert house.target.started == ["hello", "more"]


async def test_a_thread_s_key_is_not_the_next_thread_s_memory(autojump_clock: Clock, house: House):
    """After the window the same key may come again: it begins a new thread, and not the old one's next turn."""
    async with house.open(idle_timeout=10.0) as runtime:
        first = await runtime.ask(house.request("one", key=None, name="p1", **K))
        run = await runtime.get_continuation("p1")
        await house.store.expire(run.created + 36 * 86_400)
        await trio.sleep(20)
        assert house.actors.live == 0
        again = await runtime.ask(house.request("two", key=None, name="p2", **K))
        assert again.result.text == "two"
        assert again.isolation_key == first.isolation_key
        assert await house.ask("more", key=None, after="p1") == "one more"
        assert await house.ask("more", key=None, after="p2") == "two more"


@pytest.mark.parametrize("durable", [False, True])
async def test_a_repeat_of_an_expired_result_is_no_second_run(autojump_clock: Clock, house: House, durable: bool):
    async with house.open(run_retention=60.0, idempotency_window=600.0) as runtime:
        await (house.submit if durable else house.post)("hello", "s", name="p1", **K)
        run = await runtime.get_continuation("p1", wait=True)
        await house.store.expire(run.ended + 61)
        for _ in range(2):
            error = await caught(house.ask("hello", "s", name="p2", **K))
            assert isinstance(error, NotFound)
            assert error.code == "result_expired"
            assert await house.submit("hello", "s", name="p3", **K) == "p1"
        assert house.target.started == ["hello"]
        assert await house.store.expire(run.created + 599) == 0
        assert await house.store.expire(run.created + 601) == 1
        assert await house.ask("hello", "s", name="p4", **K) == "hello hello", "the window is over"


async def test_an_expired_nameless_result_is_no_second_run_either(autojump_clock: Clock, house: House):
    async with house.open(run_retention=60.0, idempotency_window=600.0) as runtime:
        token = await house.submit("hello", "s", **K)
        run = await runtime.get_continuation(token, wait=True)
        while await house.store.expire(run.ended + 61):
            pass
        error = await caught(house.ask("hello", "s", **K))
        assert isinstance(error, NotFound)
        assert house.target.started == ["hello"]


async def test_a_repeat_is_acknowledged_only_once_the_first_is_durable(autojump_clock: Clock, house: House):
    gate = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "commit":
            await gate.wait()

    tokens: list[str] = []

    async def submit() -> None:
        tokens.append(await house.submit("hello", "s", **K))

    async with house.open(), trio.open_nursery() as nursery:
        house.store.before = before
        nursery.start_soon(submit)
        await blocked()
        nursery.start_soon(submit)
        await blocked()
        assert tokens == []
        gate.set()
        await blocked()
        assert len(tokens) == 2
        assert len(set(tokens)) == 1


async def test_a_repeat_of_what_is_refused_is_refused(autojump_clock: Clock, house: House):
    gate = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "commit":
            await gate.wait()
            raise StoreFull("the map is full")

    errors: list[Exception] = []

    async def submit() -> None:
        errors.append(await caught(house.submit("hello", "s", **K)))

    async with house.open():
        async with trio.open_nursery() as nursery:
            house.store.before = before
            for _ in range(2):
                nursery.start_soon(submit)
                await blocked()
            gate.set()
        assert [type(error) for error in errors] == [StorageFull] * 2
        house.store.before = None
        assert await house.ask("hello", "s", **K) == "hello"


@pytest.mark.parametrize("policy", ["reject", "interrupt"])
async def test_a_repeat_is_known_before_any_policy(autojump_clock: Clock, house: House, policy: Any):
    """It neither finds itself in its own way, nor takes its own place."""
    house.target.hold("hello")
    async with house.open(overlap=policy):
        await house.submit("hello", "s", name="p1", **K)
        await blocked()
        assert await house.submit("hello", "s", name="p2", **K) == "p1"
        house.target.hold("hello").set()
        assert await house.ask("hello", "s", name="p3", **K) == "hello"
    assert house.target.started == ["hello"]


async def test_repeats_while_the_hook_thinks(autojump_clock: Clock, house: House):
    async def slow(request: Any, **_: Any) -> Any:
        await trio.sleep(1)
        return request

    house.channel(run_hook=slow)
    async with house.open():
        tokens = []

        async def submit() -> None:
            tokens.append(await house.submit("hello", "s", **K))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(submit)
        assert len(set(tokens)) == 1
        await blocked()
    assert house.target.started == ["hello"]


async def test_a_stop_keeps_the_key_of_what_it_puts_back(autojump_clock: Clock, house: House):
    house.target.hold("hello")
    for _ in range(3):
        async with house.open():
            token = await house.submit("hello", "s", **K)
            await blocked()
    house.target.hold("hello").set()
    async with house.open() as runtime:
        assert await house.submit("hello", "s", **K) == token
        assert (await runtime.get_continuation(token, wait=True)).result.text == "hello"
        assert len(await house.records()) == 1


async def test_an_edit_of_a_session_is_nobody_s_repeat(autojump_clock: Clock, house: House):
    from afactors_channels import SessionEdit

    async with house.open() as runtime:
        request = house.request("", "s", **K)
        await runtime.edit_session(request, SessionEdit(create=True))
        await runtime.edit_session(request, SessionEdit(labels={"a": "b"}))
        assert (await runtime.get_session(request)).labels == {"a": "b"}
        assert await house.ask("hello", "s", **K) == "hello"
