"""What leaves a session: by number and by age, in the commit of a turn; in memory as in the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import trio
from agent_framework import AgentSession, Content, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from afactors.encoding import encode_messages
from afactors.history import Changes, LiveSession, Point, load, read_left
from afactors.retention import Keep, _shape_of, beginning, begins_at, opened, reaches, retained
from afactors_channels import NotFound, SessionEdit
from afactors_store import Commit, MemoryStore, Store

Clock = trio.abc.Clock
DAY = 86_400.0


class FakeTime:
    """The time of day, which stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr("time.time", fake)
    return fake


async def told(house: Any, session: str | None = None, **more: Any) -> list[str]:
    return house.said((await house.runtime.get_session(house.request("", session, **more))).messages)


async def rows_of(store: Store, key: str = "ada") -> int:
    """How many rows all logs of a key have."""
    found, after = 0, b""
    while True:
        piece = await store.snapshot(await store.claim(key), after)
        found += sum(len(append.rows) for append in piece.commit.append)
        if piece.after is None:
            return found
        after = piece.after


# -- by number


async def test_the_oldest_messages_leave_with_the_turns_commit(autojump_clock: Clock, house: Any):
    async with house.open(max_history_messages=4):
        for turn in "abc":
            await house.ask(turn)
        assert await told(house) == ["b", "a b", "c", "a b c"]
        assert await house.ask("d") == "b c d", "and from memory"
        assert await told(house) == ["c", "a b c", "d", "b c d"]
        assert await rows_of(house.store) == 4, "what nobody reaches is gone from the store"
    async with house.open(max_history_messages=4):
        assert await house.ask("e") == "c d e", "and they do not come back"


async def test_each_turn_writes_one_commit(autojump_clock: Clock, house: Any):
    async with house.open(max_history_messages=2):
        for turn in "abcd":
            house.store.commits.clear()
            await house.ask(turn)
            assert len(house.store.commits) == 1


async def test_the_latest_turn_stays_whole(autojump_clock: Clock, house: Any):
    async with house.open(max_history_messages=1):
        await house.ask("a")
        await house.ask("b")
        assert await told(house) == ["b", "a b"]
        assert (await house.records())[-1].input is not None


async def test_a_run_whose_messages_left_has_expired(autojump_clock: Clock, house: Any):
    async with house.open(max_history_messages=2):
        first = await house.submit("a")
        assert (await house.runtime.get_continuation(first, wait=True)).result.text == "a"
        last = await house.submit("b")
        await house.runtime.get_continuation(last, wait=True)
        assert (await house.runtime.get_continuation(last)).result.text == "a b"
        with pytest.raises(NotFound) as error:
            await house.runtime.get_continuation(first)
        assert error.value.code == "result_expired"


async def test_response_ids_go_on_to_reach_what_left_by_number(autojump_clock: Clock, house: Any):
    async with house.open(max_history_messages=2):
        await house.ask("a", name="r1")
        await house.ask("b", after="r1", name="r2")
        assert await house.ask("c", after="r2", name="r3") == "b c"
        assert await house.ask("x", after="r1", name="r4") == "a x"


async def test_an_edit_is_limited_too(autojump_clock: Clock, house: Any):
    messages = [Message("user", [text]).to_dict() for text in "abc"]
    async with house.open(max_history_messages=2):
        await house.runtime.edit_session(house.request("", "s"), SessionEdit(create=True, append=messages[:1]))
        await house.runtime.edit_session(house.request("", "s"), SessionEdit(append=messages[1:2]))
        await house.runtime.edit_session(house.request("", "s"), SessionEdit(append=messages[2:]))
        assert await told(house, "s") == ["b", "c"]


async def test_a_turn_that_fails_lets_nothing_go(autojump_clock: Clock, house: Any):
    async def fail(_request: object, _session: object) -> str:
        raise RuntimeError("no")

    house.target.on["c"] = fail
    async with house.open(max_history_messages=2):
        await house.ask("a")
        await house.ask("b")
        with pytest.raises(Exception, match="failed"):
            await house.ask("c")
        assert await told(house) == ["b", "a b"]
        assert await house.ask("d") == "b d"


# -- by age


async def test_what_is_too_old_leaves_with_the_next_turn(autojump_clock: Clock, house: Any, clock: FakeTime):
    async with house.open(max_history_age=10 * DAY):
        await house.ask("a")
        clock.now += 6 * DAY
        await house.ask("b")
        clock.now += 5 * DAY
        assert await told(house) == ["a", "a", "b", "a b"], "not before"
        await house.ask("c")
        assert await told(house) == ["b", "a b", "c", "a b c"]
        assert await rows_of(house.store) == 4
        clock.now += 100 * DAY
        await house.ask("d")
        assert await told(house) == ["d", "b c d"]


async def test_ages_survive_a_restart(autojump_clock: Clock, house: Any, clock: FakeTime):
    for turn in "abcd":
        async with house.open(max_history_age=10 * DAY):
            await house.ask(turn)
            clock.now += 4 * DAY
    async with house.open(max_history_age=10 * DAY):
        await house.ask("e")
        assert [one for one in await told(house) if " " not in one] == ["c", "d", "e"]


async def test_what_was_there_before_the_limit_counts_from_then_on(autojump_clock: Clock, house: Any, clock: FakeTime):
    async with house.open():
        await house.ask("a")
    clock.now += 50 * DAY
    async with house.open(max_history_age=10 * DAY):
        await house.ask("b")
        assert len(await told(house)) == 4
        clock.now += 11 * DAY
        await house.ask("c")
        assert [one for one in await told(house) if " " not in one] == ["c"]


async def test_an_age_limit_overrides_response_ids(autojump_clock: Clock, house: Any, clock: FakeTime):
    async with house.open(max_history_age=10 * DAY, run_retention=400 * DAY, idempotency_window=400 * DAY):
        await house.ask("a", name="r1")
        clock.now += 6 * DAY
        await house.ask("b", after="r1", name="r2")
        clock.now += 5 * DAY
        await house.ask("c", after="r2", name="r3")
        assert await house.ask("x", after="r1", name="x1") == "a x", "until it is looked after"
        clock.now += DAY
        await house.store.expire(clock.now, 1000)
        assert await house.ask("y", after="r2", name="y1") == "b y", "it goes on with what is left"
        with pytest.raises(NotFound) as error:
            await house.ask("z", after="r1", name="z1")
        assert error.value.code == "point_not_found"
        with pytest.raises(NotFound) as error:
            await house.runtime.get_continuation("r1")
        assert error.value.code == "result_expired"


async def test_a_branch_lets_go_of_nothing_that_its_parent_has(autojump_clock: Clock, house: Any, clock: FakeTime):
    async with house.open(max_history_age=10 * DAY):
        await house.ask("a", "conversation", name="r1")
        await house.ask("x", after="r1", name="x1")
        for number in range(2, 6):
            clock.now += 4 * DAY
            await house.ask(f"x{number}", after=f"x{number - 1}", name=f"x{number}")
            await house.store.expire(clock.now, 1000)
        assert await told(house, "conversation") == ["a", "a"], "the parent has had no turn since"
        assert await house.ask("y", after="x5", name="y") == "x3 x4 x5 y"


async def test_a_rewritten_history_is_as_old_as_it_was(autojump_clock: Clock, house: Any, clock: FakeTime):
    def texts(session: AgentSession) -> list[Message]:
        return session.state["in_memory"]["messages"]

    async def touch_all(_request: object, session: AgentSession | None) -> str:
        assert session is not None
        for message in texts(session)[:-1]:
            message.additional_properties["touched"] = True
        return "touched"

    house.target.on["touch"] = touch_all
    async with house.open(max_history_age=10 * DAY):
        await house.ask("a", "s", name="r1")
        clock.now += 4 * DAY
        await house.ask("b", "s", name="r2")
        clock.now += 4 * DAY
        await house.ask("touch", "s", name="r3")
        clock.now += 3 * DAY
        await house.ask("c", "s", name="r4")
        assert await told(house, "s") == ["b", "a b", "touch", "touched", "c", "a b touch c"]
        before = await rows_of(house.store)
        clock.now += 12 * DAY
        await house.store.expire(clock.now, 1000)
        assert await rows_of(house.store) < before, "what the rewrite left behind is gone"
        assert await house.ask("d", "s", name="r5") == "b touch c d"


async def test_the_state_of_a_branch_does_not_go_with_its_parents(autojump_clock: Clock, house: Any, clock: FakeTime):
    async def count(_request: object, session: AgentSession | None) -> str:
        assert session is not None
        session.state["n"] = {"n": session.state.get("n", {"n": 0})["n"] + 1}
        return str(session.state["n"]["n"])

    house.target.on = {"count": count}
    async with house.open(max_history_age=10 * DAY, max_live_sessions=1):
        assert await house.ask("count", name="r1") == "1"
        assert await house.ask("count", after="r1", name="r2") == "2"
        await house.ask("other", after="r1", name="b1")
        for number in range(2, 6):
            clock.now += 4 * DAY
            await house.store.expire(clock.now, 1000)
            await house.ask("hello", after=f"b{number - 1}", name=f"b{number}")
        assert await house.ask("count", after="b5", name="b6") == "2"


async def test_a_long_conversation_has_a_small_point(autojump_clock: Clock, house: Any, clock: FakeTime):
    async with house.open(max_history_age=10 * DAY):
        for turn in range(200):
            await house.ask(f"{turn}", "s", name=f"r{turn}")
            clock.now += DAY / 5
        point = await house.point("r199")
        assert len(point.histories["in_memory"]) <= 18
        assert point.since.keys() == {log for log, _, _ in point.histories["in_memory"]}
        assert len(point.encode()) < 800


# -- where a history begins


def user(text: str = "u") -> Message:
    return Message("user", [text])


def said(text: str = "a") -> Message:
    return Message("assistant", [text])


def call(name: str) -> Message:
    return Message("assistant", [Content.from_function_call(name, "tool", arguments={})])


def result(name: str) -> Message:
    return Message("tool", [Content.from_function_result(name, result="r")])


async def begin(messages: Sequence[Message], wanted: int, waiting: frozenset[str] = frozenset()) -> int:

    shapes = [_shape_of(row) for row in encode_messages(messages)]

    async def look(start: int, stop: int) -> Sequence[Any]:
        return shapes[start:stop]

    return await beginning(look, len(messages), wanted, waiting)


@pytest.mark.parametrize(
    ("messages", "wanted", "begins"),
    [
        ([user(), said(), user(), said()], 1, 2),
        ([user(), said(), user(), said()], 2, 2),
        ([user(), said(), user(), said()], 3, 2),
        ([user(), call("1"), result("1"), said()], 2, 0),
        ([user(), said(), user(), call("1"), result("1"), said()], 4, 2),
        ([user(), call("1"), user(), result("1"), said(), user(), said()], 1, 5),
        ([user(), call("1"), user(), result("1"), said()], 1, 0),
        ([said(), said(), said()], 1, 1),
        ([call("1"), result("1"), said()], 1, 2),
        ([user()] * 200 + [said()] * 200, 300, 199),
    ],
)
async def test_a_history_begins_with_a_user_and_never_between_call_and_result(
    messages: list[Message], wanted: int, begins: int
):
    assert await begin(messages, wanted) == begins


@pytest.mark.parametrize(
    ("messages", "wanted", "begins"),
    [
        ([user(), call("1"), user(), said(), user(), said()], 4, 0),
        ([user(), said(), user(), call("1"), user(), said(), user()], 5, 2),
        ([user(), said(), user(), call("1"), user(), said(), user()], 2, 2),
        ([said(), call("1"), user(), said()], 2, 1),
        ([user(), call("0"), user(), result("0"), call("1"), user(), said()], 5, 0),
        ([user(), *[said()] * 100, call("1"), *[said()] * 100, user(), said()], 202, 0),
        ([user(), said(), call("2"), user(), said(), user(), said()], 5, 5),
    ],
)
async def test_a_call_that_waits_stays_with_the_users_message_before_it(
    messages: list[Message], wanted: int, begins: int
):
    assert await begin(messages, wanted, frozenset({"1"})) == begins


def test_a_call_that_waits_is_loaded_with_the_users_message_before_it():
    waiting = frozenset({"1"})
    history = [user(), said(), user(), call("1"), user(), said(), user(), said()]
    assert [reaches(history[at:], waiting) for at in range(5)] == [True, True, True, False, False]
    assert reaches(history[4:], frozenset())
    assert begins_at(history, 4, waiting) == 2
    assert begins_at(history, 1, waiting) == 0
    assert begins_at(history, 4, frozenset({"2"})) == 4
    assert begins_at(history[3:], 1, waiting) == 0


def test_what_is_loaded_of_a_long_history_begins_so_too():
    assert begins_at([said(), user(), said()]) == 1
    assert begins_at([result("0"), said(), call("1"), result("1")]) == 1
    assert begins_at([result("0")]) == 0
    assert begins_at([]) == 0


# -- at random

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["turn", "tools", "answer", "says", "rewrite", "cold", "wait", "names"]), st.integers(0, 5)
    ),
    max_size=25,
)
LIMITS = st.builds(Keep, st.none() | st.integers(1, 6), st.none() | st.sampled_from([40.0, 100.0]))


class Sessions:
    """A session over a store in memory, with a list of what it should hold at most."""

    def __init__(self, store: Store, keep: Keep) -> None:
        self.store, self.keep, self.at, self.turns = store, keep, 1000.0, 0
        self.live: LiveSession
        self.all: list[str] = []  # the ids of everything that was ever said
        self.born: dict[str, float] = {}

    async def read(self, log: int, start: int, stop: int) -> list[bytes]:
        return await self.store.read_log(await self.store.claim("k"), log, start, stop)

    async def load(self, point: Point) -> None:
        async def make(session_id: str) -> AgentSession:
            return AgentSession(session_id=session_id)

        self.live = await load(point, self.read, make=make)

    @property
    def messages(self) -> list[Message]:
        return self.live.session.state.setdefault("h", {}).setdefault("messages", [])

    async def commit(self, new: Sequence[Message], head: str | None = None) -> None:
        self.turns += 1
        for at, message in enumerate(new):
            message.message_id = f"{self.turns}.{at}"
            self.born[message.message_id] = self.at
            self.all.append(message.message_id)
        self.messages.extend(new)
        before = self.live.point = opened(self.live.point, self.keep, self.at)
        changes: Changes = await self.live.changes(head=head, label=f"t{self.turns}")
        changes = await retained(changes, before, self.keep, self.at, self.read)
        await self.store.commit(
            await self.store.claim("k"),
            Commit(append=changes.append, drop_logs=changes.drop, trim=changes.trim, expire_logs=changes.expire),
        )
        self.live.committed(changes)
        self.check(len(new))

    def check(self, new: int) -> None:
        ids = [message.message_id for message in self.messages]
        assert ids == self.all[len(self.all) - len(ids) :], "what is left is the end of it"
        assert len(ids) >= new, "the latest turn stays whole"
        assert self._may_begin(0), "no result is left without its call"
        users = [at for at, message in enumerate(self.messages) if message.role == "user"]
        gone = len(self.all) - len(ids)
        if gone and users:
            assert self.messages[0].role == "user"
        if self.keep.messages is not None and users:
            over = [at for at in users[1:] if len(ids) - at >= max(self.keep.messages, new)]
            assert not [at for at in over if self._may_begin(at)], "no more is kept than must be"
        if self.keep.age is not None:
            old = sum(self.at - self.born[one] > self.keep.age for one in ids)
            assert not [at for at in users[1:] if at <= min(old, len(ids) - new) and self._may_begin(at)]

    def _may_begin(self, at: int) -> bool:
        rest = self.messages[at:]
        calls = {content.call_id for message in rest for content in message.contents if content.type == "function_call"}
        return all(
            content.call_id in calls
            for message in rest
            for content in message.contents
            if content.type == "function_result"
        )


async def follow(keep: Keep, steps: Sequence[tuple[str, int]]) -> AsyncIterator[None]:
    store = MemoryStore()
    async with store.open():
        session = Sessions(store, keep)
        await session.load(Point("s"))
        for number, (step, size) in enumerate(steps):
            turns: dict[str, Callable[[], list[Message]]] = {
                "turn": lambda: [user(), said()],
                "names": lambda: [user(), said()],
                "tools": lambda name=str(number), size=size: [
                    user(),
                    *(call(f"{name}.{at}") for at in range(size)),
                    *(result(f"{name}.{at}") for at in range(size)),
                ],
                "answer": lambda size=size: [user()] * 0 + [Message("user", ["again"]) for _ in range(size + 1)],
                "says": lambda size=size: [said() for _ in range(size)],
            }
            if step in turns:
                await session.commit(turns[step](), f"n{number}" if step == "names" else None)
            elif step == "rewrite" and session.messages:
                message = session.messages[size % len(session.messages)]
                message.additional_properties["n"] = number
                await session.commit([user(), said()])
            elif step == "wait":
                session.at += 10.0 * size
            elif step == "cold":
                now = [message.to_dict() for message in session.messages]
                await session.load(Point.decode(session.live.point.encode()))
                assert [message.to_dict() for message in session.messages] == now, "the store has the same"
        point = session.live.point
        if point.histories and not point.pinned:
            held = sum(stop - start for extents in point.histories.values() for _, start, stop in extents)
            logs = {log for extents in point.histories.values() for log, _, _ in extents}
            assert held <= await rows_of(store, "k")
            if not any(step == "rewrite" for step, _ in steps):
                assert held == await rows_of(store, "k"), "and nothing besides"
            assert logs == point.logs()
        yield


@settings(max_examples=150, deadline=None)
@given(LIMITS, STEPS)
async def test_whatever_the_limits_what_is_left_is_the_end_and_the_store_agrees(
    keep: Keep, steps: list[tuple[str, int]]
):
    async for _ in follow(keep, steps):
        pass


async def test_what_is_left_of_a_history_is_its_end():
    rows = {1: [b"a", b"b", b"c"], 2: [b"d", b"e"]}
    gone = {1: 2}

    async def read(log: int, start: int, stop: int) -> list[bytes]:
        return [] if start < gone.get(log, 0) else rows.get(log, [])[start:stop]

    assert await read_left(read, [(1, 0, 3), (2, 0, 2)]) == ([(1, 2, 3), (2, 0, 2)], [b"c", b"d", b"e"])
    gone[1] = 3
    assert await read_left(read, [(1, 0, 3), (2, 0, 2)]) == ([(2, 0, 2)], [b"d", b"e"])
    gone[1], gone[2] = 0, 1
    assert await read_left(read, [(1, 0, 3), (2, 0, 2)]) == ([(2, 1, 2)], [b"e"])
    with pytest.raises(LookupError):
        await read_left(read, [(1, 0, 3), (3, 0, 1)])
    with pytest.raises(LookupError):
        await read_left(read, [(1, 0, 4)])
    assert await read_left(read, []) == ([], [])
