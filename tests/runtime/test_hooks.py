"""What a channel's hooks may do to requests and results, and what the agent's code can learn of its request."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from agent_framework import AgentResponse, Message

from afactors import get_current_isolation_keys, get_current_request
from afactors_channels import (
    ChannelRequest,
    ChannelResponseContext,
    ChannelSession,
    HostedRunResult,
    IsolationKeys,
    NotAllowed,
    TargetFailed,
    Unprocessable,
)
from tests.runtime.outcomes import caught

blocked = trio.testing.wait_all_tasks_blocked
House = Any  # of conftest
Clock = trio.abc.Clock

Hook = Callable[..., Any]


def in_both_ways(hook: Hook) -> list[Any]:
    """A hook, and the same one as a coroutine function that waits."""

    async def waits(*args: Any, **more: Any) -> Any:
        await trio.sleep(1)
        return hook(*args, **more)

    return [pytest.param(hook, id="sync"), pytest.param(waits, id="async")]


# --- before


def shout(request: ChannelRequest, **_: Any) -> ChannelRequest:
    text = Message.from_dict(dict(request.input[0])).text
    return request.replace(
        input=[Message("user", [text.upper()]).to_dict()], options={**request.options, "temperature": 0.5}
    )


@pytest.mark.parametrize("hook", in_both_ways(shout))
@pytest.mark.parametrize("durable", [False, True])
async def test_a_run_hook_rewrites_what_is_accepted(autojump_clock: Clock, house: House, hook: Hook, durable: bool):
    house.channel(run_hook=hook)
    async with house.open() as runtime:
        if durable:
            run = await runtime.get_continuation(await house.submit("hello", "s"), wait=True)
            assert house.said(await runtime.get_input(run.token)) == ["HELLO"]
        else:
            run = await runtime.ask(house.request("hello", "s"))
        assert run.result.text == "HELLO"
        seen: list[ChannelRequest] = []

        async def look(request: ChannelRequest, _session: Any) -> str:
            seen.append(request)
            return "x"

        house.target.on["AGAIN"] = look
        await house.ask("again", "s", options={"a": 1})
        assert seen[0].options == {"a": 1, "temperature": 0.5}


async def test_a_run_hook_is_told_of_the_agent_and_of_the_protocol_s_request(autojump_clock: Clock, house: House):
    told: list[Any] = []

    def hook(request: ChannelRequest, *, target: Any, protocol_request: Any) -> ChannelRequest:
        told.append((request.channel, target, protocol_request))
        return request

    house.channel(run_hook=hook)
    house.channel("other")
    async with house.open() as runtime:
        await runtime.ask(house.request("a", "s"), protocol_request={"body": 1})
        await runtime.submit(house.request("b", "s"), protocol_request={"body": 2})
        async with runtime.turn(house.request("c", "s"), protocol_request={"body": 3}):
            pass
        await house.ask("d", "s", channel="other")
    assert told == [("test", "the agent itself", {"body": number}) for number in (1, 2, 3)]


def refuse(_request: ChannelRequest, **_: Any) -> ChannelRequest:
    raise Unprocessable("Not in this house.", field="input")


@pytest.mark.parametrize("hook", in_both_ways(refuse))
@pytest.mark.parametrize("call", ["ask", "submit", "post"])
async def test_a_run_hook_refuses(autojump_clock: Clock, house: House, hook: Hook, call: str):
    house.channel(run_hook=hook)
    async with house.open():
        error = await caught(getattr(house, call)("hello", "s", name="p1", idempotency_key="k"))
        assert isinstance(error, Unprocessable)
        assert (error.status, error.message, error.field) == (422, "Not in this house.", "input")
        assert await house.store.keys() == []
    assert house.target.started == []


def stumble(_request: ChannelRequest, **_: Any) -> ChannelRequest:
    raise ValueError("the secret is swordfish")


@pytest.mark.parametrize("hook", [*in_both_ways(stumble), *in_both_ways(lambda _request, **_: None)])
async def test_a_run_hook_that_fails(autojump_clock: Clock, house: House, hook: Hook, caplog: pytest.LogCaptureFixture):
    house.channel(run_hook=hook)
    house.channel("other")
    async with house.open():
        error = await caught(house.ask("hello", "s"))
        assert isinstance(error, TargetFailed)
        assert (error.code, error.status) == ("run_hook_failed", 500)
        assert "swordfish" not in str(error)
        assert await house.ask("hello", "s", channel="other") == "hello"
    assert "hook" in caplog.text


async def test_a_run_hook_may_choose_the_session(autojump_clock: Clock, house: House):
    def hook(request: ChannelRequest, **_: Any) -> ChannelRequest:
        return request.replace(session=ChannelSession(isolation_key="room"), overlap="reject")

    house.channel(run_hook=hook)
    house.target.hold("busy")
    async with house.open() as runtime:
        result = await runtime.ask(house.request("one", "s"))
        assert result.isolation_key == "room"
        assert await house.ask("two", "other", key="bob") == "one two"
        await house.post("busy")
        await blocked()
        assert getattr(await caught(house.ask("three")), "code", None) == "session_busy"
        house.target.hold("busy").set()


async def test_a_run_hook_cannot_change_what_was_checked_before_it(autojump_clock: Clock, house: House):
    def hook(request: ChannelRequest, **_: Any) -> ChannelRequest:
        return request.replace(channel="other", idempotency_key="mine", fingerprint="mine", partition="theirs")

    house.channel(run_hook=hook)
    more = {"idempotency_key": "k", "fingerprint": "f", "partition": "acme"}
    async with house.open() as runtime:
        await house.ask("hello", "s", name="p1", **more)
        assert await house.ask("hello", "s", **more) == "hello"
        assert (await runtime.get_continuation("p1", partition="acme")).state == "completed"
        assert getattr(await caught(runtime.get_continuation("p1", partition="theirs")), "status", None) == 404
        assert [record.channel for record in await house.records()] == ["test"]
    assert house.target.started == ["hello"]


async def test_authorization_comes_first(autojump_clock: Clock, house: House):
    house.channel(run_hook=shout)
    asked: list[str] = []

    def authorize(request: ChannelRequest) -> Any:
        asked.append(house.said(request.input)[0])
        return "denied"

    async with house.open(authorize=authorize):
        for call in (house.ask, house.submit):
            assert isinstance(await caught(call("hello", "s")), NotAllowed)
    assert asked == ["hello", "hello"]


async def test_an_edit_is_no_run(autojump_clock: Clock, house: House):
    from afactors_channels import SessionEdit

    house.channel(run_hook=refuse)
    async with house.open() as runtime:
        await runtime.edit_session(house.request("", "s"), SessionEdit(create=True))
        assert (await runtime.get_session(house.request("", "s"))).messages == []


# --- after


def instead(text: str) -> Hook:
    def hook(result: HostedRunResult[Any], *, context: ChannelResponseContext) -> HostedRunResult[Any]:
        assert context.originating
        assert context.channel_name == context.request.channel == "test"
        return replace(result, result=AgentResponse(messages=[Message("assistant", [text])]))

    return hook


@pytest.mark.parametrize("hook", in_both_ways(instead("[redacted]")))
@pytest.mark.parametrize("durable", [False, True])
async def test_a_response_hook_changes_what_is_shown_and_not_what_is_remembered(
    autojump_clock: Clock, house: House, hook: Hook, durable: bool
):
    house.channel(response_hook=hook)
    async with house.open() as runtime:
        if durable:
            await house.submit("the secret", "s", name="p1")
            await runtime.get_continuation("p1", wait=True)
        else:
            result = await runtime.ask(house.request("the secret", "s", name="p1"))
            assert result.result.text == "[redacted]"
        assert (await runtime.get_continuation("p1")).result.text == "[redacted]"
        session = await runtime.get_session(house.request("", "s"))
        assert house.said(session.messages) == ["the secret", "the secret"]
    async with house.open() as runtime:
        assert (await runtime.get_continuation("p1")).result.text == "[redacted]"


async def test_a_response_hook_may_change_a_result_in_place(autojump_clock: Clock, house: House):
    """The most natural way to write one: the session does not notice."""

    def hook(result: HostedRunResult[Any], *, context: ChannelResponseContext) -> HostedRunResult[Any]:
        result.result.messages[0].contents[0].text = "[redacted]"
        return result

    house.channel(response_hook=hook)
    async with house.open() as runtime:
        await house.ask("the secret", "s", name="p1")
        session = await runtime.get_session(house.request("", "s"))
        assert house.said(session.messages) == ["the secret", "the secret"]
        assert (await runtime.get_continuation("p1")).result.text == "[redacted]"


async def test_a_response_hook_that_changes_nothing(autojump_clock: Clock, house: House):
    house.channel(response_hook=lambda result, *, context: result)
    async with house.open() as runtime:
        assert await house.ask("hello", "s", name="p1") == "hello"
        assert (await runtime.get_continuation("p1")).result.text == "hello"


@pytest.mark.parametrize("call", ["stream", "submit"])
async def test_a_stream_is_shown_whole_where_there_is_a_response_hook(
    autojump_clock: Clock, house: House, words: Any, call: str
):
    house.channel(response_hook=instead("[redacted]"), transcriber=words)
    async with house.open() as runtime:
        if call == "submit":
            await house.submit("the secret", "s", name="p1", stream=True)
            async with runtime.subscribe("p1") as batches:
                rows = [row.decode() async for batch in batches for row in batch]
        else:
            async with runtime.turn(house.request("the secret", "s", name="p1", stream=True)) as turn:
                rows = [row.decode() async for batch in turn.rows() for row in batch]
        assert rows[-1].endswith("completed: [redacted]")
        assert "secret" not in str(rows)


def drop(_result: Any, *, context: Any) -> Any:
    return None


def raise_error(_result: Any, *, context: Any) -> Any:
    raise ValueError("the secret is swordfish")


@pytest.mark.parametrize("hook", [*in_both_ways(drop), *in_both_ways(raise_error)])
async def test_a_response_hook_that_fails_fails_the_turn(
    autojump_clock: Clock, house: House, hook: Hook, caplog: pytest.LogCaptureFixture
):
    house.channel(response_hook=hook)
    async with house.open() as runtime:
        error = await caught(house.ask("hello", "s", name="p1"))
        assert isinstance(error, TargetFailed)
        assert error.code == "response_hook_failed"
        assert "swordfish" not in str(error)
        run = await runtime.get_continuation("p1")
        assert (run.state, run.error[0]) == ("failed", "response_hook_failed")
        assert getattr(await caught(runtime.get_session(house.request("", "s"))), "status", None) == 404
        assert house.actors.restarts == 0
    assert "hook" in caplog.text


async def test_a_response_hook_may_refuse_in_its_own_words(autojump_clock: Clock, house: House):
    def hook(_result: Any, *, context: Any) -> Any:
        raise TargetFailed("It is not fit to be shown.", code="unfit")

    house.channel(response_hook=hook)
    async with house.open() as runtime:
        assert getattr(await caught(house.ask("hello", "s", name="p1")), "code", None) == "unfit"
        assert (await runtime.get_continuation("p1")).error == ("unfit", "It is not fit to be shown.")


async def test_a_turn_is_cancelled_while_its_response_hook_thinks(autojump_clock: Clock, house: House):
    async def think(*_: Any, **__: Any) -> Any:
        await trio.sleep_forever()

    house.channel(response_hook=think)
    async with house.open() as runtime:
        await house.submit("hello", "s", name="p1")
        await blocked()
        assert (await runtime.cancel("p1")).state == "cancelled"


# --- inside


async def test_the_agent_s_code_knows_its_request(autojump_clock: Clock, house: House):
    seen: list[Any] = []

    async def look(request: ChannelRequest, _session: Any) -> str:
        current = get_current_request()
        assert current is not None
        seen.append((house.said(current.input)[0], get_current_isolation_keys()))
        assert current == request
        if house.said(request.input) == ["outer"]:
            await house.ask("inner", "t")
            after = get_current_request()
            assert after is not None
            assert house.said(after.input) == ["outer"]
        return "x"

    house.target.on.update(outer=look, inner=look)
    keys = IsolationKeys(user_key="u-1", chat_key="c-1")
    async with house.open():
        assert get_current_request() is None
        assert get_current_isolation_keys() is None
        await house.ask("outer", "s", isolation=keys)
        assert get_current_request() is None
    assert seen == [("outer", keys), ("inner", None)]


async def test_a_letter_s_code_knows_its_request_after_a_crash(autojump_clock: Clock, house: House):
    seen: list[Any] = []

    async def look(request: ChannelRequest, _session: Any) -> str:
        seen.append(get_current_isolation_keys())
        return "x"

    house.target.hold("hello")
    house.target.on["hello"] = look
    keys = IsolationKeys(user_key="u-1", chat_key="c-1")
    async with house.open(crash=True):
        await house.submit("hello", "s", isolation=keys)
    house.target.hold("hello").set()
    async with house.open():
        await blocked()
        assert get_current_request() is None
    assert seen == [keys]
