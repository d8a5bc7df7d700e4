"""Messages that wait become one turn: one run, to which the names of all of them lead."""

from typing import Any

import pytest
import trio
import trio.testing
from agent_framework import Content, Message

from afactors.history import Point
from afactors.overlap import joins, policy_of
from afactors.turn import Turn
from afactors_channels import (
    ChannelIdentity,
    ChannelRequest,
    ChannelSession,
    HostError,
    NotFound,
    Overloaded,
    Restarted,
    SessionEdit,
)
from afactors_store import Commit, StoreFull, keys
from tests.runtime.outcomes import caught, fate

blocked = trio.testing.wait_all_tasks_blocked
House = Any  # of conftest
Clock = trio.abc.Clock


async def busy(house: House, *texts: str, begin: Any = None, **more: Any) -> None:
    """A turn that runs, and messages that wait for it."""
    house.target.hold("busy")
    await house.submit("busy", "s", name="p-busy", overlap="enqueue")
    await blocked()
    for text in texts:
        await (begin or house.submit)(text, "s", name=f"p-{text}", **more)


def go_on(house: House) -> None:
    house.target.hold("busy").set()


# --- one run


async def test_those_that_wait_become_one_turn(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce") as runtime:
        await busy(house, "one", "two", "three")
        waiting = [await runtime.get_continuation(f"p-{text}") for text in ("one", "two", "three")]
        assert [run.token for run in waiting] == ["p-one", "p-two", "p-three"]
        assert {(run.run_id, run.state) for run in waiting} == {(waiting[0].run_id, "queued")}
        assert house.said(await runtime.get_input("p-two")) == ["one", "two", "three"]
        go_on(house)
        runs = [await runtime.get_continuation(f"p-{text}", wait=True) for text in ("one", "two", "three")]
        assert {(run.run_id, run.state, run.result.text) for run in runs} == {
            (waiting[0].run_id, "completed", "busy one two three")
        }
        assert [run.token for run in runs] == ["p-one", "p-two", "p-three"]
        for run in runs:
            assert house.said(await runtime.get_input(run.token)) == ["one", "two", "three"]
        assert runtime._opened_now().supervisor.turns == {}
        assert runtime._opened_now().supervisor._here == set()
        assert len(await house.records()) == 2
    assert house.target.started == ["busy", "three"]


async def test_callers_who_wait_get_the_same_result(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce") as runtime:
        await busy(house)
        turns = [await house.post(text, "s", name=f"p-{text}") for text in ("one", "two", "three")]
        results = []
        async with trio.open_nursery() as nursery:
            for turn in turns:
                nursery.start_soon(lambda turn=turn: keep(turn.outcome(), results))
            await blocked()
            go_on(house)
        assert len({result.run_id for result in results}) == 1
        assert [result.result.text for result in results] == ["busy one two three"] * 3
        assert [turn.run.token for turn in turns] == ["p-one", "p-two", "p-three"]
        assert {turn.run.run_id for turn in turns} == {turns[0].run_id}
        assert (await runtime.get_continuation("p-three")).result.text == "busy one two three"
        assert len(await house.records()) == 2


async def keep(awaitable: Any, results: list[Any]) -> None:
    results.append(await awaitable)


async def test_what_runs_is_not_joined(autojump_clock: Clock, house: House):
    house.target.hold("one")
    async with house.open(overlap="coalesce"):
        await house.submit("one", "s", name="p-one")
        await blocked()
        await house.submit("two", "s", name="p-two")
        house.target.hold("one").set()
        assert await fate(house, "p-one") == "one"
        assert await fate(house, "p-two") == "one two"


async def test_a_letter_on_its_way_holds_the_turn_that_it_joins(autojump_clock: Clock, house: House):
    gate = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "commit" and house.store.commits[-1].letters:
            await gate.wait()

    async with house.open(overlap="coalesce") as runtime, trio.open_nursery() as nursery:
        await busy(house, "one")
        house.store.before = before
        nursery.start_soon(lambda: house.submit("two", "s", name="p-two"))
        await blocked()
        go_on(house)
        await runtime.get_continuation("p-busy", wait=True)
        await blocked()
        assert (await runtime.get_continuation("p-one")).state == "queued"
        assert isinstance(await caught(runtime.get_continuation("p-two")), NotFound), "it is not accepted yet"
        gate.set()
        assert await fate(house, "p-one") == "busy one two"
        assert await fate(house, "p-two") == "busy one two"


@pytest.mark.parametrize("cancel", [False, True])
async def test_a_letter_that_is_refused_has_joined_nothing(autojump_clock: Clock, house: House, cancel: bool):
    gate = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "commit" and house.store.commits[-1].letters:
            await gate.wait()
            raise StoreFull("the map is full")

    async with house.open(overlap="coalesce") as runtime, trio.open_nursery() as nursery:
        await busy(house, "one")
        house.store.before = before
        errors: list[Any] = []
        nursery.start_soon(lambda: keep(caught(house.submit("two", "s", name="p-two")), errors))
        await blocked()
        if cancel:
            nursery.start_soon(runtime.cancel, "p-one")
            await blocked()
        gate.set()
        await blocked()
        assert errors[0].code == "storage_full"
        house.store.before = None
        go_on(house)
        assert await fate(house, "p-one") == (("cancelled", "cancelled") if cancel else "busy one")
        assert await fate(house, "p-two") is None


# --- who joins whom


def turn_of(text: str = "hi", *, durable: bool = True, attended: bool | None = None, **more: Any) -> Turn:
    more = {"channel": "test", "input": [Message("user", [text]).to_dict()], **more}
    turn = Turn(ChannelRequest(**more), text, "key", durable=durable, attended=attended)
    turn.overlap = policy_of(turn, Point("s", named=True), "coalesce")
    turn.state = "queued"
    return turn


@pytest.mark.parametrize(
    "more",
    [
        {"channel": "other"},
        {"partition": "other"},
        {"identity": ChannelIdentity("test", "bob")},
        {"identity": ChannelIdentity("test", "ada", conversation="room")},
        {"identity": ChannelIdentity("test", "ada", verified=True)},
        {"options": {"temperature": 1}},
        {"tools": [{"name": "tool"}]},
        {"payload": 3},
        {"metadata": {"a": "b"}},
        {"presentation": {"a": "b"}},
        {"name": "p1"},
        {"retrievable": False},
        {"stream": True},
        {"session": ChannelSession(after="p0")},
        {"durable": False},
        {"attended": True},
        {"input": [Message("tool", [Content.from_function_result("c1", result="x")]).to_dict()]},
    ],
    ids=lambda more: next(iter(more)),
)
def test_others_have_a_turn_of_their_own(more: Any):
    ada = {"identity": ChannelIdentity("test", "ada")}
    assert joins(turn_of(**ada), [turn_of(**ada)]) is not None
    assert joins(turn_of(**{**ada, **more}), [turn_of(**ada)]) is None
    assert joins(turn_of(**ada), [turn_of(**{**ada, **more})]) is None


@pytest.mark.parametrize(
    "more",
    [
        {"name": "p2"},
        {"attributes": {"update": 2}},
        {"idempotency_key": "k2", "fingerprint": "f2"},
        {"on_disconnect": "finish"},
        {"session": ChannelSession(isolation_key="ada", session_id="s")},
        {"identity": ChannelIdentity("test", "ada", {"name": "Ada"})},
    ],
    ids=lambda more: next(iter(more)),
)
def test_these_may_differ(more: Any):
    common = {"name": "p1", "identity": ChannelIdentity("test", "ada")}
    first = turn_of(**common)
    assert joins(turn_of(**{**common, **more}), [first]) is first


@pytest.mark.parametrize(
    "state",
    [
        {"state": "accepting"},
        {"state": "running"},
        {"state": "committing"},
        {"overlap": "enqueue"},
        {"cancel_reason": "cancelled"},
        {"suspect": True},
        {"attempt": 2},
        {"leftover": 5},
        {"steps": object()},
    ],
    ids=lambda state: next(iter(state)),
)
def test_what_has_begun_is_not_joined(state: Any):
    first = turn_of()
    for name, value in state.items():
        setattr(first, name, value)
    assert joins(turn_of(), [turn_of(), first]) is None
    assert joins(turn_of(), [first, last := turn_of()]) is last, "and it is the last that counts"


def test_who_reads_along_reads_of_their_own_run():
    reading = turn_of(durable=False, stream=True)
    assert reading.overlap == "enqueue"
    assert turn_of(durable=True, stream=True).overlap == "coalesce", "who follows later follows the one run"


async def test_others_in_between_keep_their_place(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce") as runtime, trio.open_nursery() as nursery:
        await busy(house, "one", "two")
        request = house.request("edited", "s")
        nursery.start_soon(runtime.edit_session, request, SessionEdit(append=request.input))
        await blocked()
        await house.submit("three", "s", name="p-three")
        await house.submit("four", "s", name="p-four", overlap="enqueue")
        await house.submit("five", "s", name="p-five")
        six = await house.post("six", "s")
        seven = await house.post("seven", "s")
        await house.submit("eight", "s", name="p-eight")
        go_on(house)
        assert await fate(house, "p-eight") == "busy one two edited three four five six seven eight"
        assert (await six.outcome()).result.text == "busy one two edited three four five six seven"
        assert (await seven.outcome()).result.text == "busy one two edited three four five six seven"
    assert house.target.started == ["busy", "two", "three", "four", "five", "seven", "eight"]


async def test_other_sessions_are_others(autojump_clock: Clock, house: House):
    house.target.hold("aside")
    async with house.open(overlap="coalesce"):
        await busy(house, "one")
        await house.submit("aside", "t")
        await blocked()
        await house.submit("two", "t", name="p-two")
        await house.submit("three", None, name="p-three")
        house.target.hold("aside").set()
        go_on(house)
        assert await fate(house, "p-one") == "busy one"
        assert await fate(house, "p-two") == "aside two"
        assert await fate(house, "p-three") == "three"


async def test_a_key_s_current_session(autojump_clock: Clock, house: House):
    """As chat channels have it: no names but those that the runtime makes."""
    house.target.hold("busy")
    async with house.open(overlap="coalesce") as runtime:
        await house.submit("busy")
        await blocked()
        tokens = [await house.submit(text, idempotency_key=text) for text in ("one", "two")]
        assert len(set(tokens)) == 2
        go_on(house)
        assert [await fate(house, token) for token in tokens] == ["busy one two"] * 2
        assert await house.submit("two", idempotency_key="two") == tokens[1]
        assert len({(await runtime.get_continuation(token)).run_id for token in tokens}) == 1


async def test_its_names_are_one_point(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce"):
        await busy(house, "one", "two")
        go_on(house)
        await fate(house, "p-two")
        assert await house.ask("on", after="p-two", name="p-on") == "busy one two on"
        assert await house.ask("aside", after="p-one", name="p-aside") == "busy one two aside"
        assert await house.ask("back", after="p-busy", name="p-back") == "busy back"


# --- repeats


async def test_a_repeat_gets_its_own_name(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce"):
        await busy(house)
        tokens = [await house.submit(text, "s", idempotency_key=text) for text in ("one", "two", "three")]
        for number, text in enumerate(("one", "two", "three")):
            assert await house.submit("again", "s", idempotency_key=text) == tokens[number]
        go_on(house)
        assert await fate(house, tokens[2]) == "busy one two three"
        for number, text in enumerate(("one", "two", "three")):
            assert await house.submit("again", "s", idempotency_key=text) == tokens[number]
            assert await house.ask("again", "s", idempotency_key=text) == "busy one two three"
    async with house.open(overlap="coalesce"):
        for number, text in enumerate(("one", "two", "three")):
            assert await house.submit("again", "s", idempotency_key=text) == tokens[number]
    assert house.target.started == ["busy", "three"]


async def test_a_caller_s_repeat(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce"), trio.open_nursery() as nursery:
        await busy(house)
        answers: list[Any] = []
        for text in ("one", "two", "two"):
            nursery.start_soon(lambda text=text: keep(house.ask(text, "s", idempotency_key=text), answers))
            await blocked()
        go_on(house)
        await blocked()
        assert answers == ["busy one two"] * 3
        assert await house.ask("two", "s", idempotency_key="two") == "busy one two"
    assert house.target.started == ["busy", "two"]


async def test_after_a_failure_their_keys_are_free_again(autojump_clock: Clock, house: House):
    async def fail(*_: object) -> str:
        raise ValueError("as it was told")

    house.target.on["two"] = fail
    async with house.open(overlap="coalesce"):
        await busy(house)
        tokens = [await house.submit(text, "s", idempotency_key=text) for text in ("one", "two")]
        go_on(house)
        for token in tokens:
            assert (await fate(house, token))[0] == "failed"
        del house.target.on["two"]
        again = await house.submit("one", "s", idempotency_key="one")
        assert again != tokens[0]
        assert await fate(house, again) == "busy one"


# --- cancelling, leaving, following, forgetting


@pytest.mark.parametrize("name", ["p-one", "p-two"])
@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("how", ["asked", "submitted"])
async def test_cancelling_one_cancels_them_all(autojump_clock: Clock, house: House, name: str, runs: bool, how: str):
    house.target.hold("two")
    async with house.open(overlap="coalesce") as runtime:
        await busy(house, "one", "two", begin=house.post if how == "asked" else None)
        if runs:
            go_on(house)
            await blocked()
        run = await runtime.cancel(name)
        assert (run.token, run.state) == (name, "cancelled")
        for other in ("p-one", "p-two"):
            assert await fate(house, other) == ("cancelled", "cancelled")
            assert house.said(await runtime.get_input(other)) == ["one", "two"]
        go_on(house)
        assert await house.ask("next", "s") == "busy next"


async def test_who_leaves_takes_nothing_along(autojump_clock: Clock, house: House):
    """Not before all have left."""
    house.target.hold("three")
    async with house.open(overlap="coalesce") as runtime:
        await busy(house)
        one, two, three = [await house.post(text, "s", name=f"p-{text}") for text in ("one", "two", "three")]
        one.leave()
        await blocked()
        go_on(house)
        await blocked()
        three.leave()
        await blocked()
        assert (await runtime.get_continuation("p-one")).state == "running"
        two.leave()
        await blocked()
        assert await fate(house, "p-one") == ("cancelled", "cancelled")
        assert (await house.records())[-1].reason == "disconnected"


async def test_somebody_else_waits(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce"), trio.open_nursery() as nursery:
        await busy(house)
        turns = [await house.post(text, "s", name=f"p-{text}") for text in ("one", "two")]
        fates: list[Any] = []
        nursery.start_soon(lambda: keep(fate(house, "p-two"), fates))
        await blocked()
        for turn in turns:
            turn.leave()
        go_on(house)
        await blocked()
        assert fates == ["busy one two"]


async def test_one_wants_it_finished(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce"):
        await busy(house)
        one = await house.post("one", "s", name="p-one")
        two = await house.post("two", "s", name="p-two", on_disconnect="finish")
        two.leave()
        one.leave()
        go_on(house)
        assert await fate(house, "p-two") == "busy one two"


async def read(house: House, name: str, rows: list[str]) -> None:
    async with house.runtime.subscribe(name) as batches:
        async for batch in batches:
            rows += [row.decode() for row in batch]


async def test_all_names_lead_to_one_transcript(autojump_clock: Clock, house: House, words: Any):
    house.channel(transcriber=words)
    async with house.open(overlap="coalesce"), trio.open_nursery() as nursery:
        await busy(house, "one", "two", stream=True)
        first: list[str] = []
        second: list[str] = []
        nursery.start_soon(read, house, "p-one", first)
        nursery.start_soon(read, house, "p-two", second)
        await blocked()
        go_on(house)
    assert first == second
    assert first[-1].endswith("completed: busy one two")
    async with house.open():
        later: list[str] = []
        await read(house, "p-two", later)
    assert later == first


async def test_a_run_without_a_transcript_is_told_by_each_name(autojump_clock: Clock, house: House, words: Any):
    house.channel(transcriber=words)
    async with house.open(overlap="coalesce"):
        await busy(house, "one", "two")
        go_on(house)
        rows: list[str] = []
        await read(house, "p-two", rows)
    assert rows[-1].endswith("completed: busy one two")


async def test_forgetting_one_name_forgets_the_run(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce") as runtime:
        await busy(house, "one", "two")
        go_on(house)
        await fate(house, "p-two")
        await runtime.forget("p-one")
        for name in ("p-one", "p-two"):
            assert isinstance(await caught(runtime.get_continuation(name)), NotFound)
        assert await house.ask("on", after="p-two", name="p-on") == "busy one two on", "its point is there"
        await runtime.forget("p-two")
        assert isinstance(await caught(house.ask("on", after="p-two")), NotFound)


async def test_nothing_is_left_behind(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce"):
        await busy(house, "one", "two")
        go_on(house)
        assert await fate(house, "p-two") == "busy one two"
        rows = house.store._opened.engine.read(lambda kv: [row for row, _ in kv.scan(b"\0", b"\xff" * 9)])
        assert not [row for row in rows if row[:1] == keys.ROWS and row[9:10] == keys.LETTER]


# --- the mailbox


@pytest.mark.parametrize("how", ["asked", "submitted"])
async def test_each_of_them_takes_a_place_in_the_mailbox(autojump_clock: Clock, house: House, how: str):
    async with house.open(overlap="coalesce", mailbox=3):
        await busy(house, "one", "two", "three", begin=house.post if how == "asked" else None)
        assert house.actors.waiting == 3
        error = await caught(house.submit("four", "s"))
        assert isinstance(error, Overloaded)
        assert error.code == "mailbox_full"
        go_on(house)
        assert await fate(house, "p-one") == "busy one two three"
        assert house.actors.waiting == 0


# --- other policies beside it


@pytest.mark.parametrize("overlap", ["reject", "interrupt", "latest"])
async def test_beside_other_policies(autojump_clock: Clock, house: House, overlap: str):
    house.target.hold("two")
    async with house.open(overlap="coalesce"):
        await busy(house, "one", "two")
        if overlap == "reject":
            assert getattr(await caught(house.submit("new", "s", overlap=overlap)), "code", None) == "session_busy"
        elif overlap == "latest":
            await house.submit("new", "s", name="p-new", overlap=overlap)
            for name in ("p-one", "p-two"):
                assert await fate(house, name) == ("cancelled", "superseded")
            go_on(house)
            assert await fate(house, "p-new") == "busy new"
            return
        go_on(house)
        await blocked()
        if overlap == "interrupt":
            await house.submit("new", "s", name="p-new", overlap=overlap)
            for name in ("p-one", "p-two"):
                assert await fate(house, name) == ("cancelled", "interrupted")
            assert await fate(house, "p-new") == "busy new"
        house.target.hold("two").set()


@pytest.mark.parametrize("new", ["asked", "submitted"])
async def test_it_is_superseded_while_one_more_is_on_its_way(autojump_clock: Clock, house: House, new: str):
    gate = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "commit" and house.store.commits[-1].letters:
            await gate.wait()

    async with house.open(overlap="coalesce"), trio.open_nursery() as nursery:
        await busy(house, "one")
        house.store.before = before
        nursery.start_soon(lambda: house.submit("two", "s", name="p-two"))
        await blocked()
        begin = house.submit if new == "submitted" else house.post
        nursery.start_soon(lambda: begin("three", "s", name="p-three", overlap="latest"))
        await blocked()
        gate.set()
        await blocked()
        for name in ("p-one", "p-two"):
            assert await fate(house, name) == ("cancelled", "superseded")
        go_on(house)
        assert await fate(house, "p-three") == "busy three"


# --- restarts


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("runs", [False, True])
async def test_the_same_letters_are_one_turn_again(autojump_clock: Clock, house: House, crash: bool, runs: bool):
    house.target.hold("three")
    async with house.open(overlap="coalesce", crash=crash, drain_timeout=1) as runtime:
        await busy(house)
        tokens = [await house.submit(text, "s", idempotency_key=text) for text in ("one", "two", "three")]
        if runs:
            go_on(house)
            await runtime.get_continuation("p-busy", wait=True)
            await blocked()
            assert house.target.running == ["three"]
    house.target.started.clear()
    async with house.open(overlap="coalesce") as runtime:
        assert (await runtime.get_continuation(tokens[2])).state in ("queued", "running")
        assert await house.submit("again", "s", idempotency_key="two") == tokens[1]
        await house.submit("four", "s", name="p-four")
        go_on(house)
        house.target.hold("three").set()
        fates = [await fate(house, token) for token in tokens]
        assert set(fates) in ({"busy one two three"}, {"busy one two three four"})
        assert (await fate(house, "p-four")).startswith("busy one two three four")
        run = await runtime.get_continuation(tokens[1])
        assert run.attempt == (2 if crash and runs else 1)
        if crash and runs:
            assert fates == ["busy one two three"] * 3, "what has begun is not joined"
            assert house.target.started == ["three", "four"]
        assert house.said(await runtime.get_input(tokens[1]))[:3] == ["one", "two", "three"]


@pytest.mark.parametrize("commits", range(1, 9))
async def test_a_crash_at_any_commit(autojump_clock: Clock, house: House, commits: int):
    """Whoever was told that their message was accepted finds it; and it is said once."""
    done, accepted = 0, []

    async def before(method: str, _key: str) -> None:
        nonlocal done
        if method == "commit":
            done += 1
            if done == commits:
                house.store.crash()

    async def submit(text: str) -> None:
        await house.submit(text, "s", name=f"p-{text}", idempotency_key=text)
        if done < commits:
            accepted.append(text)

    async with house.open(crash=True, overlap="coalesce"):
        house.store.before = before
        await busy(house)
        for text in ("one", "two", "three"):
            await submit(text)
        go_on(house)
        await blocked()
    house.store.before = None
    house.target.hold("busy").set()
    async with house.open(overlap="coalesce") as runtime:
        for text in accepted:
            assert text in (await fate(house, f"p-{text}")).split()
        for text in ("one", "two", "three"):
            await house.submit(text, "s", name=f"p-{text}", idempotency_key=text)
            assert text in (await fate(house, f"p-{text}")).split()
        session = await runtime.get_session(house.request("", "s"))
        said = house.said([message for message in session.messages if message["role"] == "user"])
        assert sorted(said) == sorted({"one", "two", "three", *said})


@pytest.mark.parametrize("at", ["accepting", "running"])
async def test_an_actor_s_crash(autojump_clock: Clock, house: House, at: str):
    crashed: list[Commit] = []

    async def before(method: str, _key: str) -> None:
        if method != "commit" or crashed:
            return
        commit = house.store.commits[-1]
        if commit.letters if at == "accepting" else len(commit.consume) > 1:
            crashed.append(commit)
            raise RuntimeError("a defect")

    async with house.open(overlap="coalesce") as runtime:
        await busy(house, "one", "two")
        house.store.before = before
        await house.submit("three", "s", name="p-three")
        go_on(house)
        for text in ("one", "two", "three"):
            assert await fate(house, f"p-{text}") == "busy one two three"
        assert crashed
        run = await runtime.get_continuation("p-three")
        assert run.attempt == (2 if at == "running" else 1)
        assert house.actors.restarts == 1
        assert runtime._opened_now().supervisor.turns == {}


async def test_an_actor_s_crash_with_callers(autojump_clock: Clock, house: House):
    async def before(method: str, _key: str) -> None:
        if method == "commit" and house.store.commits[-1].runs:
            house.store.before = None
            raise RuntimeError("a defect")

    house.target.hold("two")
    async with house.open(overlap="coalesce"):
        await busy(house)
        turns = [await house.post(text, "s") for text in ("one", "two")]
        go_on(house)
        await fate(house, "p-busy")
        await blocked()
        house.store.before = before
        house.target.hold("two").set()
        for turn in turns:
            assert isinstance(await caught(turn.outcome()), HostError)
        assert await house.ask("next", "s") == "busy next"


async def test_followers_hear_of_a_crash(autojump_clock: Clock, house: House, words: Any):
    async def before(method: str, _key: str) -> None:
        if method == "commit" and len(house.store.commits[-1].consume) > 1:
            house.store.before = None
            raise RuntimeError("a defect")

    house.channel(transcriber=words)
    async with house.open(overlap="coalesce"):
        await busy(house, "one", "two", stream=True)
        house.store.before = before
        go_on(house)
        assert isinstance(await caught(read(house, "p-two", [])), Restarted)
        rows: list[str] = []
        await read(house, "p-two", rows)
        assert rows[-1].endswith("completed: busy one two")


async def test_a_stop_tells_callers_and_keeps_letters(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce", drain_timeout=1) as runtime:
        await busy(house, "one", "two")
        turns = [await house.post(text, "s") for text in ("three", "four")]
        await runtime.drain()
        for turn in turns:
            error = await caught(turn.outcome())
            assert getattr(error, "code", None) == "draining"
        records = [record for record in await house.records() if record.reason == "draining"]
        assert [house.said(record.input["is"]) for record in records] == [["three", "four"]]
    async with house.open():
        go_on(house)
        assert await fate(house, "p-two") == "busy one two"


async def test_a_stop_while_one_is_on_its_way(autojump_clock: Clock, house: House):
    gate = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "commit" and house.store.commits[-1].letters:
            await gate.wait()

    async with house.open(overlap="coalesce", drain_timeout=1), trio.open_nursery() as nursery:
        await busy(house, "one")
        house.store.before = before
        nursery.start_soon(lambda: house.submit("two", "s", name="p-two"))
        await blocked()
        nursery.start_soon(house.runtime.drain)
        await blocked()
        gate.set()
    house.store.before = None
    async with house.open():
        go_on(house)
        assert await fate(house, "p-one") == "busy one two"
        assert await fate(house, "p-two") == "busy one two"


async def test_one_that_waits_is_put_back_and_taken_up_by_whoever_asks(autojump_clock: Clock, house: House):
    """A full store at its end: nothing of it is written, and its letters wait."""
    async with house.open(overlap="coalesce") as runtime:
        await busy(house, "one", "two")

        async def before(method: str, _key: str) -> None:
            if method == "commit" and len(house.store.commits[-1].consume) > 1:
                raise StoreFull("the map is full")

        house.store.before = before
        go_on(house)
        error = await caught(runtime.get_continuation("p-two", wait=True))
        assert getattr(error, "code", None) == "storage_full"
        house.store.before = None
        assert await fate(house, "p-two") == "busy one two"
        assert await fate(house, "p-one") == "busy one two"


async def test_attempts_are_those_of_the_run(autojump_clock: Clock, house: House):
    house.target.hold("two")
    async with house.open(overlap="coalesce", crash=True, max_attempts=2):
        await busy(house, "one", "two")
        go_on(house)
        await fate(house, "p-busy")
        await blocked()
    async with house.open(overlap="coalesce", crash=True, max_attempts=2):
        await blocked()
        assert (await house.runtime.get_continuation("p-two")).attempt == 2
    async with house.open(overlap="coalesce", max_attempts=2):
        for name in ("p-one", "p-two"):
            assert await fate(house, name) == ("failed", "attempts_exhausted")
        assert await house.ask("next", "s") == "busy next"


async def test_an_actor_that_was_passivated_in_between(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce", idle_timeout=10, coalesce_quiet=1.0):
        await busy(house, "one", "two")
        go_on(house)
        assert await fate(house, "p-two") == "busy one two"
        await trio.sleep(30)
        assert house.actors.live == 0
        await house.submit("three", "s", name="p-three")
        await house.submit("four", "s", name="p-four")
        assert await fate(house, "p-three") == "busy one two three four"


# --- the quiet


async def test_a_turn_waits_until_nothing_more_comes(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce", coalesce_quiet=2.0) as runtime:
        start = trio.current_time()
        for text in ("one", "two", "three"):
            await house.submit(text, "s", name=f"p-{text}")
            await trio.sleep(1.5)
        assert (await runtime.get_continuation("p-one")).state == "queued"
        assert await fate(house, "p-one") == "one two three"
        assert trio.current_time() - start == pytest.approx(3 + 2)


async def test_a_caller_s_turn_waits_as_well(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce", coalesce_quiet=2.0):
        start = trio.current_time()
        one = await house.post("one", "s")
        await trio.sleep(1)
        assert await house.ask("two", "s") == "one two"
        assert (await one.outcome()).result.text == "one two"
        assert trio.current_time() - start == pytest.approx(3)


async def test_it_does_not_wait_for_ever(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce", coalesce_quiet=2.0) as runtime:
        await house.submit("0", "s", name="p-0")
        for number in range(1, 25):
            await trio.sleep(1)
            await house.submit(str(number), "s", name=f"p-{number}")
        first = await runtime.get_continuation("p-0", wait=True)
        assert len(first.result.text.split()) in (20, 21)


async def test_nobody_else_waits_for_that(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce", coalesce_quiet=10.0):
        start = trio.current_time()
        await house.submit("one", "s", name="p-one")
        assert await house.ask("aside", "t", overlap="enqueue") == "aside"
        assert await house.ask("a thread of its own", None, key=None) == "a thread of its own"
        assert trio.current_time() == start
        assert await fate(house, "p-one") == "one"
        assert trio.current_time() - start == pytest.approx(10)


async def test_it_waits_no_longer_when_nobody_can_join(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce", coalesce_quiet=10.0):
        start = trio.current_time()
        await house.submit("one", "s", name="p-one")
        await house.submit("two", "s", name="p-two", overlap="enqueue")
        assert await fate(house, "p-one") == "one"
        assert await fate(house, "p-two") == "one two"
        assert trio.current_time() == start


async def test_cancelled_in_the_quiet(autojump_clock: Clock, house: House):
    async with house.open(overlap="coalesce", coalesce_quiet=10.0, idle_timeout=1.0) as runtime:
        start = trio.current_time()
        await house.submit("one", "s", name="p-one")
        assert (await runtime.cancel("p-one")).state == "cancelled"
        assert trio.current_time() == start
        await trio.sleep(3)
        assert house.actors.live == 0


@pytest.mark.parametrize("how", ["asked", "submitted"])
async def test_a_stop_in_the_quiet(autojump_clock: Clock, house: House, how: str):
    async with house.open(overlap="coalesce", coalesce_quiet=1000.0) as runtime:
        start = trio.current_time()
        begin = house.submit if how == "submitted" else house.post
        for text in ("one", "two"):
            await begin(text, "s", name=f"p-{text}")
        await blocked()
        await runtime.drain()
        assert trio.current_time() - start < 1
    assert house.target.started == (["two"] if how == "asked" else [])
    async with house.open():
        assert await fate(house, "p-one") == "one two"


async def test_an_actor_s_crash_in_the_quiet(autojump_clock: Clock, house: House):
    house.target.hold("aside")

    async def before(method: str, _key: str) -> None:
        if method == "commit":
            house.store.before = None
            raise RuntimeError("a defect")

    async with house.open(overlap="coalesce", coalesce_quiet=5.0):
        await house.submit("aside", "t", overlap="enqueue")
        start = trio.current_time()
        await house.submit("one", "s", name="p-one")
        await blocked()
        house.store.before = before
        house.target.hold("aside").set()
        await trio.sleep(1)
        assert house.actors.restarts == 1
        await house.submit("two", "s", name="p-two")
        assert await fate(house, "p-one") == "one two"
        assert trio.current_time() - start == pytest.approx(6)


# --- inside a turn


async def test_what_a_tool_submits_waits_in_line(autojump_clock: Clock, house: House):
    async def submitting(*_: object) -> None:
        for text in ("two", "three"):
            await house.submit(text, "s", name=f"p-{text}")

    house.target.on["one"] = submitting
    async with house.open(overlap="coalesce"):
        assert await house.ask("one", "s") == "one"
        assert await fate(house, "p-two") == "one two"
        assert await fate(house, "p-three") == "one two three"


async def test_a_turn_that_waits_for_one_of_them(autojump_clock: Clock, house: House):
    async def asking(*_: object) -> str:
        return await house.ask("inner two", "t")

    house.target.hold("inner busy")
    house.target.on["outer"] = asking
    async with house.open(overlap="coalesce", max_running_turns=2):
        await house.submit("inner busy", "t")
        await blocked()
        one = await house.post("inner one", "t")
        outer = await house.post("outer", "s")
        await blocked()
        house.target.hold("inner busy").set()
        assert (await outer.outcome()).result.text == "inner busy inner one inner two"
        assert (await one.outcome()).result.text == "inner busy inner one inner two"
