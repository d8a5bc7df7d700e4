"""A transcript between its writer, its readers and its log: what is shown to whom, and when."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from agent_framework import AgentResponse, AgentResponseUpdate, Content, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from afactors.journal import Journal, check_number, restarted
from afactors_channels import ChannelRequest, Conflicting, Restarted
from afactors_store import Append

blocked = trio.testing.wait_all_tasks_blocked
LOG = 7


class Log:
    """A log as strict as a store's; a write waits for `gate`, if there is one."""

    def __init__(self) -> None:
        self.rows: list[bytes] = []
        self.batches: list[int] = []
        self.reads: list[tuple[int, int]] = []
        self.gate: trio.Event | None = None

    def apply(self, append: Append) -> None:
        assert (append.log, append.start) == (LOG, len(self.rows))
        assert append.rows
        self.rows += append.rows
        self.batches.append(len(append.rows))

    async def write(self, append: Append) -> None:
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        self.apply(append)

    async def read(self, log: int, start: int, stop: int) -> list[bytes]:
        await trio.lowlevel.checkpoint()
        assert log == LOG
        self.reads.append((start, stop))
        return self.rows[start:stop]


class Desk:
    """A journal with its log, and its readers."""

    def __init__(self, words: Any, nursery: trio.Nursery, *, kept: bool = True, **options: Any) -> None:
        self.log = Log()
        self.wanted = 0
        self._nursery = nursery
        defaults: dict[str, Any] = {"attended": False, "limit": 10_000_000}
        request = ChannelRequest("test", ())
        self.journal = Journal(
            words(request, first=options.get("first", 0)),
            LOG if kept else None,
            read=self.log.read,
            wanted=self._flush_soon,
            **{**defaults, **options},
        )

    def _flush_soon(self) -> None:
        self.wanted += 1
        self._nursery.start_soon(self.journal.flush, self.log.write)

    def say(self, *words: str) -> None:
        self.journal.fed([AgentResponseUpdate(contents=[Content.from_text(word)]) for word in words])

    def complete(self, text: str = "all of it") -> None:
        self.journal.completed(AgentResponse(messages=[Message("assistant", [text])]), 1.0)

    def commit(self) -> None:
        for append in self.journal.append():
            self.log.apply(append)
        self.journal.settled()

    def read(self, rows: AsyncIterator[Sequence[bytes]]) -> "Reader":
        reader = Reader(rows)
        self._nursery.start_soon(reader.run)
        return reader

    def follow(self, after: int | None = None) -> "Reader":
        return self.read(self.journal.follow(after))

    @property
    def in_memory(self) -> int:
        return len(self.journal._rows)


class Reader:
    """Whoever reads along; `hold` is a batch that it does not take yet."""

    def __init__(self, rows: AsyncIterator[Sequence[bytes]]) -> None:
        self._rows = rows
        self.rows: list[str] = []
        self.batches: list[int] = []
        self.hold: trio.Event | None = None
        self.ended: Exception | bool = False

    async def run(self) -> None:
        try:
            async with aclosing(self._rows) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    self.batches.append(len(batch))
                    self.rows += [row.decode() for row in batch]
                    if self.hold is not None:
                        await self.hold.wait()
            self.ended = True
        except Conflicting as error:
            self.ended = error

    @property
    def numbers(self) -> list[int]:
        return [int(row.split()[0]) for row in self.rows]


@pytest.fixture
async def open_desk(words: Any):
    @asynccontextmanager
    async def opened(**options: Any) -> AsyncIterator[Desk]:
        async with trio.open_nursery() as nursery:
            yield Desk(words, nursery, **options)
            nursery.cancel_scope.cancel()

    return opened


# --- the run's own caller


async def test_the_caller_sees_rows_at_once_and_the_end_when_it_is_durable(open_desk: Any):
    async with open_desk(attended=True) as desk:
        caller = desk.read(desk.journal.provisional())
        desk.journal.started()
        desk.say("a", "b")
        await blocked()
        assert caller.rows == ["0 created", "1 started", "2 a", "3 b"]
        assert caller.batches == [4], "what was ready at once comes at once"
        desk.complete()
        await blocked()
        assert len(caller.rows) == 4, "the end is not durable"
        desk.commit()
        await blocked()
        assert caller.rows[4:] == ["4 whole", "5 completed: all of it"]
        assert caller.ended is True
        assert desk.wanted == 0, "nobody else followed: no commit but the turn's own"
        assert desk.log.batches == [6]


async def test_a_caller_that_leaves_holds_nothing_up(open_desk: Any):
    async with open_desk(attended=True, kept=False) as desk:
        caller = desk.read(desk.journal.provisional())
        caller.hold = trio.Event()
        desk.say("x" * 2_000_000)
        await blocked()
        desk.say("y" * 2_000_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.journal.room)
            await blocked()
            assert nursery.child_tasks, "the run waits for its caller"
            desk.journal.leave()
        assert desk.in_memory == 0
        desk.say("more")
        await desk.journal.room()
        assert desk.in_memory == 0


async def test_what_is_not_kept_is_for_the_caller_only(open_desk: Any):
    async with open_desk(attended=True, kept=False) as desk:
        assert desk.journal.place is None
        caller = desk.read(desk.journal.provisional())
        for number in range(100):
            desk.say(f"{number:09}" * 10_000)
            await desk.journal.room()
        assert desk.in_memory <= 2 * 1024 * 1024 / 90_000, "no more than it may be behind"
        desk.complete()
        assert desk.journal.append() == []
        desk.commit()
        await blocked()
        assert caller.numbers == list(range(102))
        assert (desk.log.rows, desk.wanted) == ([], 0)


# --- followers


async def test_a_follower_sees_a_row_only_once_it_is_logged(open_desk: Any):
    async with open_desk(attended=True) as desk:
        caller, follower = desk.read(desk.journal.provisional()), desk.follow()
        desk.log.gate = trio.Event()
        desk.journal.started()
        desk.say("a")
        await blocked()
        assert len(caller.rows) == 3
        assert follower.rows == []
        desk.log.gate.set()
        await blocked()
        assert follower.rows == caller.rows
        desk.complete()
        await blocked()
        assert len(follower.rows) == 3
        desk.commit()
        await blocked()
        assert follower.rows == caller.rows == [row.decode() for row in desk.log.rows]
        assert follower.ended is caller.ended is True


async def test_what_comes_while_a_batch_is_written_is_the_next_batch(open_desk: Any):
    async with open_desk() as desk:
        desk.follow()
        await blocked()
        desk.log.gate = trio.Event()
        desk.say("a")
        await blocked()
        for number in range(50):
            desk.say(str(number))
        desk.log.gate.set()
        await blocked()
        assert desk.log.batches == [1, 50]
        assert desk.wanted == 1


@pytest.mark.parametrize("after", [None, 0, 1, 4, 5])
@pytest.mark.parametrize("when", ["before", "in the middle", "at the end"])
async def test_following_from_any_number(open_desk: Any, after: int | None, when: str):
    async with open_desk() as desk:
        assert len(desk.journal.accepted()) == 2
        desk.log.rows += [b"0 created", b"1 queued"]  # with the letter
        if when == "before":
            follower = desk.follow(after)
        desk.journal.started()
        desk.say("a", "b")
        if when == "in the middle":
            follower = desk.follow(after)
        await blocked()
        desk.complete()
        desk.commit()
        if when == "at the end":
            follower = desk.follow(after)
        await blocked()
        assert follower.numbers == list(range(0 if after is None else after + 1, 7))
        assert follower.ended is True


async def test_following_from_beyond_the_end(open_desk: Any):
    async with open_desk() as desk:
        follower = desk.follow(100)
        desk.say("a")
        await blocked()
        desk.complete()
        desk.commit()
        await blocked()
        assert (follower.rows, follower.ended) == ([], True)


async def test_one_who_comes_late_makes_what_is_there_be_logged(open_desk: Any):
    async with open_desk(attended=True) as desk:
        desk.say("a", "b")
        await blocked()
        assert desk.wanted == 0
        follower = desk.follow()
        await blocked()
        assert follower.numbers == [0, 1]
        desk.journal.leave()


async def test_a_slow_follower_holds_nobody_up_and_reads_slices_of_the_log(open_desk: Any):
    async with open_desk() as desk:
        slow, quick = desk.follow(), desk.follow()
        slow.hold = trio.Event()
        for number in range(1000):
            desk.say(str(number))
            await desk.journal.room()
            if number % 10 == 0:
                await blocked()
        await blocked()
        assert quick.numbers == list(range(1000))
        assert slow.numbers == [0]
        assert desk.in_memory == 0
        slow.hold.set()
        await blocked()
        assert slow.numbers == list(range(1000))
        assert max(stop - start for start, stop in desk.log.reads) == 64


async def test_when_the_last_follower_has_left_nothing_more_is_logged_for_it(open_desk: Any):
    async with open_desk() as desk:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Reader(desk.journal.follow(None)).run)
                await blocked()
                desk.say("a")
                await blocked()
                scope.cancel()
        desk.say("b")
        await blocked()
        assert desk.log.batches == [1]


# --- memory and size


async def test_rows_leave_the_memory_when_they_are_logged(open_desk: Any):
    async with open_desk() as desk:
        for number in range(1000):
            desk.say(f"{number:01000}")
            await trio.lowlevel.checkpoint()
            assert desk.in_memory < 100
        assert len(desk.log.batches) == pytest.approx(1_000_000 / (64 * 1024), abs=2), "only much at once"
        late = desk.follow(990)
        await blocked()
        assert late.numbers == list(range(991, 1000))
        desk.complete()
        desk.commit()
        await blocked()
        assert late.numbers[-1] == 1001
        assert len(desk.log.rows) == 1002


async def test_a_transcript_that_is_too_long_is_cut(open_desk: Any):
    async with open_desk(attended=True, limit=1000) as desk:
        caller, follower = desk.read(desk.journal.provisional()), desk.follow()
        await blocked()
        for _ in range(20):
            desk.say("x" * 97)
            await blocked()
        assert desk.journal.cut
        assert desk.journal.place == (LOG, 0, True)
        assert len(desk.log.rows) == 10
        assert follower.numbers == list(range(10))
        assert getattr(follower.ended, "code", None) == "transcript_too_long"
        assert desk.in_memory == 0
        desk.complete()
        assert desk.journal.append() == []
        desk.commit()
        await blocked()
        assert caller.numbers == list(range(22)), "its own caller gets all of it"
        late = desk.follow(8)
        await blocked()
        assert late.numbers == [9]
        assert getattr(late.ended, "code", None) == "transcript_too_long"


async def test_a_caller_that_is_behind_the_log_when_it_is_cut_misses_nothing(open_desk: Any):
    """Though it reads the log in slices, while newer rows are in memory only."""
    async with open_desk(attended=True, limit=3000) as desk:
        caller = desk.read(desk.journal.provisional())
        caller.hold = trio.Event()
        desk.say("a")
        await blocked()
        desk.follow()
        for number in range(1, 1000):
            desk.say("x")
            if number % 10 == 0:
                await blocked()
        assert caller.numbers == [0]
        assert desk.journal.cut
        assert len(desk.log.rows) > 512
        caller.hold.set()
        await blocked()
        assert caller.numbers == list(range(1000))
        assert desk.in_memory == 0


async def test_a_caller_that_is_far_behind_holds_up_a_run_that_was_cut(open_desk: Any):
    async with open_desk(attended=True, limit=1000) as desk:
        caller = desk.read(desk.journal.provisional())
        caller.hold = trio.Event()
        said = 0

        async def speak() -> None:
            nonlocal said
            for _ in range(100):
                desk.say("x" * 100_000)
                said += 1
                await desk.journal.room()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak)
            await blocked()
            assert 11 <= said <= 22, "a megabyte waits, and it may have taken one"
            caller.hold.set()
        assert said == 100
        assert caller.numbers == list(range(99)) or caller.numbers == list(range(100))


async def test_a_transcript_that_is_over_the_limit_at_its_end(open_desk: Any):
    async with open_desk(attended=True, limit=100) as desk:
        caller, follower = desk.read(desk.journal.provisional()), desk.follow()
        desk.say("a")
        await blocked()
        desk.complete("x" * 100)
        assert desk.journal.place == (LOG, 0, True), "the commit says that it is cut"
        desk.commit()
        await blocked()
        assert caller.numbers == [0, 1, 2]
        assert follower.numbers == [0]
        assert getattr(follower.ended, "code", None) == "transcript_too_long"


# --- the end


async def test_a_failure_after_the_end_takes_the_place_of_its_last_row(open_desk: Any):
    async with open_desk(attended=True) as desk:
        caller, follower = desk.read(desk.journal.provisional()), desk.follow()
        desk.journal.started()
        desk.complete()
        assert len(desk.journal.append()[0].rows) == 4
        desk.journal.failed("failed", "storage_full", "There is no room.")
        desk.journal.failed("failed", "server_error", "It is said only once.")
        desk.commit()
        await blocked()
        expected = ["0 created", "1 started", "2 whole", "3 failed: storage_full"]
        assert caller.rows == follower.rows == expected
        assert [row.decode() for row in desk.log.rows] == expected


async def test_a_failure_in_the_middle(open_desk: Any):
    async with open_desk() as desk:
        follower = desk.follow()
        desk.journal.started()
        desk.say("a")
        await blocked()
        desk.journal.failed("cancelled", "cancelled", "It was cancelled.")
        desk.commit()
        await blocked()
        assert follower.rows == ["0 created", "1 started", "2 a", "3 cancelled: cancelled"]
        assert follower.ended is True


async def test_a_failure_before_the_beginning_has_a_beginning_all_the_same(open_desk: Any):
    """As of a run that is given up: its new transcript was neither accepted nor started."""
    async with open_desk(first=5) as desk:
        desk.journal.failed("failed", "attempts_exhausted", "The run was cut off too often.")
        desk.commit()
        follower = desk.follow()
        await blocked()
        assert follower.rows == ["5 created", "6 started", "7 failed: attempts_exhausted"]


async def test_a_failure_of_what_only_waited(open_desk: Any):
    async with open_desk() as desk:
        desk.log.rows += desk.journal.accepted()
        assert desk.journal.accepted() == desk.log.rows, "once more is the same"
        desk.journal.failed("cancelled", "cancelled", "It was cancelled.")
        desk.commit()
        assert [row.decode() for row in desk.log.rows] == ["0 created", "1 queued", "2 cancelled: cancelled"]


async def test_the_last_commit_goes_on_where_the_batch_under_way_ends(open_desk: Any):
    async with open_desk() as desk:
        follower = desk.follow()
        await blocked()
        desk.log.gate = trio.Event()
        desk.say("a")
        await blocked()
        desk.say("b")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.journal.flushed)
            await blocked()
            assert nursery.child_tasks
            desk.log.gate.set()
        assert desk.log.batches == [1], "the rest goes with the commit"
        desk.complete()
        desk.commit()
        await blocked()
        assert desk.log.batches == [1, 3]
        assert follower.numbers == [0, 1, 2, 3]


@pytest.mark.parametrize("why", [None, restarted()])
async def test_an_attempt_that_is_lost(open_desk: Any, why: Exception | None):
    async with open_desk(attended=True) as desk:
        caller, follower = desk.read(desk.journal.provisional()), desk.follow()
        await blocked()
        desk.log.gate = trio.Event()
        desk.say("a")
        await blocked()
        desk.journal.lost(why)
        await blocked()
        assert follower.rows == [], "nobody can ask for it again"
        assert caller.ended is True
        if why is None:
            assert follower.ended is True
        else:
            assert isinstance(follower.ended, Restarted)


async def test_a_batch_that_cannot_be_written(open_desk: Any):
    async with open_desk() as desk:

        async def broken(_append: Append) -> None:
            raise OSError

        desk.log.gate = trio.Event()
        desk.say("a" * 100_000)
        with pytest.raises(OSError):
            await desk.journal.flush(broken)
        await desk.journal.flushed()
        desk.complete()
        desk.commit()
        assert len(desk.log.rows) == 3


@pytest.mark.parametrize(
    ("after", "first", "number"), [(None, 0, 0), (0, 0, 1), (5, 0, 6), (None, 4, 4), (4, 4, 5), (9, 4, 10)]
)
def test_the_number_to_begin_with(after: int | None, first: int, number: int):
    assert check_number(after, first) == number


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_number_of_an_attempt_that_is_over(after: int):
    """Also of its very last row: what follows belongs to another text."""
    with pytest.raises(Restarted):
        check_number(after, 4)


async def test_another_attempt_is_numbered_behind_the_one_before(open_desk: Any):
    async with open_desk(first=4) as desk:
        assert desk.journal.place == (LOG, 4, False)
        old, anew = desk.follow(3), desk.follow()
        desk.journal.started()
        desk.say("a")
        await blocked()
        assert isinstance(old.ended, Restarted)
        assert anew.rows == ["4 created", "5 started", "6 a"]
        desk.complete()
        desk.commit()
        late = desk.follow(5)
        await blocked()
        assert late.numbers == [6, 7, 8]


# --- at random


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(1, 400)),
        st.tuples(st.just("say"), st.integers(1, 400)),
        st.tuples(st.just("flush"), st.none()),
        st.tuples(st.just("write"), st.none()),
        st.tuples(st.just("follow"), st.none() | st.integers(0, 8)),
        st.tuples(st.just("read"), st.none()),
        st.tuples(st.just("leave"), st.none()),
    ),
    max_size=25,
)


class Play:
    """A journal, driven step by step."""

    def __init__(self, desk: Desk, *, kept: bool) -> None:
        self.desk = desk
        self.kept = kept
        self.caller = desk.read(desk.journal.provisional())
        self.caller.hold = trio.Event()
        self.followers: list[tuple[int, Reader]] = []
        self.said, self.left = 0, False

    async def step(self, what: str, value: Any) -> None:
        getattr(self, what)(value)
        await blocked()
        for _, follower in self.followers:
            assert not follower.numbers or follower.numbers[-1] < len(self.desk.log.rows), "it is not durable"

    def say(self, size: int) -> None:
        self.desk.say("x" * size)
        self.said += 1

    def flush(self, _: None) -> None:
        self.desk.log.gate = trio.Event() if self.desk.log.gate is None else self.desk.log.gate
        self.desk._flush_soon()

    def write(self, _: None) -> None:
        if self.desk.log.gate is not None:
            self.desk.log.gate.set()
            self.desk.log.gate = None

    def follow(self, after: int | None) -> None:
        if self.kept:
            self.followers.append((0 if after is None else after + 1, self.desk.follow(after)))

    def read(self, _: None) -> None:
        assert self.caller.hold is not None
        self.caller.hold.set()
        self.caller.hold = trio.Event()

    def leave(self, _: None) -> None:
        self.left = True
        self.desk.journal.leave()

    async def end(self) -> None:
        self.read(None)
        self.caller.hold = None
        self.write(None)
        self.desk.complete()
        await self.desk.journal.flushed()
        self.desk.commit()
        await blocked()

    def check(self) -> None:
        """Every reader got consecutive numbers; the log has what was said; and followers saw what the log has."""
        logged, cut = [int(row.split()[0]) for row in self.desk.log.rows], self.desk.journal.cut
        assert logged == list(range(len(logged)))
        assert len(logged) == self.said + 2 or cut
        assert self.caller.numbers == list(range(len(self.caller.numbers)))
        assert len(self.caller.numbers) == self.said + 2 or self.left
        for start, follower in self.followers:
            assert follower.numbers == logged[start:]
            assert isinstance(follower.ended, Conflicting) if cut else follower.ended is True


@pytest.fixture
def play(words: Any):
    async def played(steps: Sequence[tuple[str, Any]], limit: int, *, kept: bool) -> None:
        async with trio.open_nursery() as nursery:
            one = Play(Desk(words, nursery, attended=True, kept=kept, limit=limit), kept=kept)
            for what, value in steps:
                await one.step(what, value)
            await one.end()
            one.check()

    return played


def test_any_order_of_saying_reading_and_logging(play: Any):
    @settings(max_examples=100, deadline=None)
    @given(steps=STEPS, limit=st.sampled_from([300, 1000, 100_000]), kept=st.booleans())
    def holds(steps: Sequence[tuple[str, Any]], limit: int, kept: bool) -> None:
        trio.run(lambda: play(steps, limit, kept=kept))

    holds()
