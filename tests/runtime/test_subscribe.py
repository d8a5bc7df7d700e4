"""Following a run's transcript by its name: live, afterwards, across stops and crashes."""

import gc
from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

from afactors_channels import Conflicting, HostError, NotFound, Restarted, TargetFailed
from afactors_store import StoreFull

blocked = trio.testing.wait_all_tasks_blocked
House = Any  # of conftest
Clock = trio.abc.Clock

WHOLE = ["0 created", "1 queued", "2 started", "3 a", "4 b", "5 c", "6 whole", "7 completed: a b c"]


@pytest.fixture
def house(house: House, words: Any) -> House:
    """All of them speak a protocol that writes down what it streams."""
    house.channel(transcriber=words)
    return house


class Reader:
    """Follows a run; `error` is what it was told instead of an end."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.ended = False
        self.error: HostError | None = None

    async def run(self, house: House, token: str, after: int | None = None) -> None:
        try:
            async with house.runtime.subscribe(token, after=after) as batches:
                async for batch in batches:
                    self.rows += [row.decode() for row in batch]
            self.ended = True
        except HostError as error:
            self.error = error

    @property
    def code(self) -> str | None:
        return self.error.code if self.error is not None else None


async def follow(house: House, token: str, after: int | None = None) -> Reader:
    reader = Reader()
    await reader.run(house, token, after)
    return reader


def begin_following(nursery: trio.Nursery, house: House, token: str, after: int | None = None) -> Reader:
    reader = Reader()
    nursery.start_soon(reader.run, house, token, after)
    return reader


async def read_all(rows: Any) -> Sequence[str]:
    return [row.decode() async for batch in rows for row in batch]


# --- live


async def test_following_a_run_live_and_afterwards(autojump_clock: Clock, house: House):
    house.target.hold("a b c")
    house.target.hold_word("c")
    async with house.open() as runtime:
        async with trio.open_nursery() as nursery:
            await house.submit("a b c", "s", name="p1", stream=True)
            assert (await runtime.get_continuation("p1")).streamed
            readers = [begin_following(nursery, house, "p1", after) for after in (None, 0, 3)]
            await blocked()
            assert readers[0].rows == WHOLE[:3]
            house.target.hold("a b c").set()
            await blocked()
            assert [reader.rows for reader in readers] == [WHOLE[:5], WHOLE[1:5], WHOLE[4:5]]
            late = begin_following(nursery, house, "p1")
            await blocked()
            assert late.rows == WHOLE[:5]
            house.target.hold_word("c").set()
        assert [reader.rows for reader in [*readers, late]] == [WHOLE, WHOLE[1:], WHOLE[4:], WHOLE]
        assert all(reader.ended for reader in [*readers, late])
        for after in (None, *range(9)):
            assert (await follow(house, "p1", after)).rows == WHOLE[0 if after is None else after + 1 :]
    async with house.open() as runtime:
        assert (await follow(house, "p1")).rows == WHOLE
        assert (await runtime.get_continuation("p1")).streamed


async def test_a_row_is_given_only_once_it_is_durable(autojump_clock: Clock, house: House):
    house.target.hold_word("b")
    async with house.open():
        await house.submit("a b c", "s", name="p1", stream=True)
        await blocked()
        gate = trio.Event()

        async def before(method: str, _key: str) -> None:
            if method == "commit":
                await gate.wait()

        house.store.before = before
        async with trio.open_nursery() as nursery:
            reader = begin_following(nursery, house, "p1")
            await blocked()
            assert reader.rows == WHOLE[:2], "with its letter"
            gate.set()
            await blocked()
            assert reader.rows == WHOLE[:4]
            house.target.hold_word("b").set()


async def test_a_run_that_nobody_follows_costs_no_commit_but_its_own(autojump_clock: Clock, house: House):
    async with house.open() as runtime:
        await house.submit(" ".join(map(str, range(100))), "s", name="p1", stream=True)
        await runtime.get_continuation("p1", wait=True)
        assert len(house.store.commits) == 2
        assert len((await follow(house, "p1")).rows) == 105


async def test_a_run_of_somebody_who_reads_along_can_be_followed_by_its_name(autojump_clock: Clock, house: House):
    house.target.hold_word("b")
    expected = ["0 created", "1 started", "2 a", "3 b", "4 whole", "5 completed: a b"]
    async with house.open() as runtime, trio.open_nursery() as nursery:
        async with runtime.turn(house.request("a b", "s", name="p1", stream=True)) as turn:
            reader = begin_following(nursery, house, "p1")
            rows: list[str] = []

            async def read() -> None:
                rows.extend(await read_all(turn.rows()))

            nursery.start_soon(read)
            await blocked()
            assert reader.rows == expected[:3]
            house.target.hold_word("b").set()
            assert (await turn.outcome()).result.text == "a b"
            await blocked()
        assert rows == reader.rows == expected
        assert (await follow(house, "p1", 3)).rows == expected[4:]


async def test_a_follower_keeps_a_run_going_when_its_caller_leaves(autojump_clock: Clock, house: House):
    house.target.hold_word("b")
    async with house.open() as runtime, trio.open_nursery() as nursery:
        async with runtime.turn(house.request("a b", "s", name="p1", stream=True)):
            reader = begin_following(nursery, house, "p1")
            await blocked()
        await blocked()
        assert house.target.ended == ["a b"], "the words are still to come"
        house.target.hold_word("b").set()
        await blocked()
        assert reader.rows[-1] == "5 completed: a b"
        assert (await runtime.get_continuation("p1")).state == "completed"


async def test_when_nobody_is_left_an_abandoned_run_is_cancelled(autojump_clock: Clock, house: House):
    house.target.hold("a b")
    async with house.open() as runtime:
        async with trio.open_nursery() as nursery:
            async with runtime.turn(house.request("a b", "s", name="p1", stream=True)):
                begin_following(nursery, house, "p1")
                await blocked()
            await blocked()
            assert (await runtime.get_continuation("p1")).state == "running"
            nursery.cancel_scope.cancel()
        await blocked()
        assert (await runtime.get_continuation("p1")).state == "cancelled"
        assert (await follow(house, "p1")).rows == ["0 created", "1 started", "2 cancelled: cancelled"]


async def test_a_follower_that_leaves_early_leaves_nothing_behind(autojump_clock: Clock, house: House):
    house.target.hold_word("b")
    async with house.open() as runtime:
        await house.submit("a b", "s", name="p1", stream=True)
        await blocked()
        turn = runtime._opened_now().supervisor.turns["p1"]
        async with runtime.subscribe("p1") as batches:
            async for _ in batches:
                assert turn.journal._followers == 1
                break
        assert turn.journal._followers == 0
        del batches
        gc.collect()
        house.target.hold_word("b").set()


async def test_a_slow_follower_holds_nobody_up(autojump_clock: Clock, house: House):
    text = " ".join(str(number) for number in range(600))
    async with house.open() as runtime:
        await house.submit(text, "s", name="p1", stream=True)
        async with runtime.subscribe("p1") as batches:
            rows: list[bytes] = []
            async for batch in batches:
                rows += batch
                if len(rows) < 600:
                    await trio.sleep(100)
                    assert (await runtime.get_continuation("p1", wait=True)).state == "completed"
        assert [int(row.split()[0]) for row in rows] == list(range(605))


# --- the end


async def bad(*_: object) -> str:
    raise ValueError


@pytest.mark.parametrize("durable", [False, True])
async def test_following_a_run_that_fails(autojump_clock: Clock, house: House, durable: bool):
    house.target.on["bad"] = bad
    expected = ["2 started", "3 failed: server_error"] if durable else ["1 started", "2 failed: server_error"]
    async with house.open() as runtime, trio.open_nursery() as nursery:
        house.target.hold("bad")
        if durable:
            await house.submit("bad", "s", name="p1", stream=True)
        else:
            await house.post("bad", "s", name="p1", stream=True)
        reader = begin_following(nursery, house, "p1")
        await blocked()
        house.target.hold("bad").set()
        await runtime.get_continuation("p1", wait=True)
        await blocked()
        assert reader.rows[-2:] == expected
        assert reader.ended
        assert (await follow(house, "p1")).rows == reader.rows


async def test_following_a_run_that_is_cancelled_before_it_begins(autojump_clock: Clock, house: House):
    house.target.hold("first")
    async with house.open() as runtime, trio.open_nursery() as nursery:
        await house.post("first", "s")
        await house.submit("second", "s", name="p1", stream=True)
        reader = begin_following(nursery, house, "p1")
        await blocked()
        assert reader.rows == ["0 created", "1 queued"]
        await runtime.cancel("p1")
        await blocked()
        assert reader.rows[2:] == ["2 cancelled: cancelled"]
        assert (await follow(house, "p1", 1)).rows == ["2 cancelled: cancelled"]
        nursery.cancel_scope.cancel()


async def test_a_commit_that_is_refused_is_the_end_of_the_transcript(autojump_clock: Clock, house: House):
    async def before(method: str, _key: str) -> None:
        if method == "commit" and house.store.commits[-1].put:
            raise StoreFull("the map is full")

    async with house.open() as runtime, trio.open_nursery() as nursery:
        house.store.before = before
        await house.submit("a", "s", name="p1", stream=True)
        reader = begin_following(nursery, house, "p1")
        run = await runtime.get_continuation("p1", wait=True)
        assert (run.state, run.error[0]) == ("failed", "storage_full")
        await blocked()
        assert reader.rows[-2:] == ["4 whole", "5 failed: storage_full"]
        assert (await follow(house, "p1")).rows == reader.rows


async def test_a_transcript_that_is_too_long(autojump_clock: Clock, house: House):
    text = " ".join(str(number) for number in range(100))
    async with house.open(max_transcript=100) as runtime, trio.open_nursery() as nursery:
        await house.submit(text, "s", name="p1", stream=True)
        reader = begin_following(nursery, house, "p1")
        assert (await runtime.get_continuation("p1", wait=True)).state == "completed"
        await blocked()
        assert reader.code == "transcript_too_long"
        late = await follow(house, "p1")
        assert late.code == "transcript_too_long"
        assert len(late.rows) >= 2
        assert late.rows[: len(reader.rows)] == reader.rows


# --- what was not streamed, or is no longer kept


async def test_a_run_that_was_not_streamed_is_told_at_its_end(autojump_clock: Clock, house: House):
    house.target.hold("hello")
    expected = ["0 created", "1 started", "2 whole", "3 completed: hello"]
    async with house.open() as runtime, trio.open_nursery() as nursery:
        await house.submit("hello", "s", name="p1")
        assert not (await runtime.get_continuation("p1")).streamed
        reader = begin_following(nursery, house, "p1")
        await blocked()
        assert reader.rows == []
        house.target.hold("hello").set()
        await runtime.get_continuation("p1", wait=True)
        await blocked()
        assert reader.rows == expected
        assert (await follow(house, "p1")).rows == expected
        assert (await follow(house, "p1", 1)).rows == expected[2:]


async def test_a_run_that_was_not_streamed_and_failed_is_told_too(autojump_clock: Clock, house: House):
    house.target.on["bad"] = bad
    async with house.open() as runtime:
        await house.submit("bad", "s", name="p1")
        await runtime.get_continuation("p1", wait=True)
        assert (await follow(house, "p1")).rows == ["0 created", "1 started", "2 failed: server_error"]


async def test_what_is_not_to_be_kept_is_shown_to_its_caller_only(autojump_clock: Clock, house: House):
    house.target.hold_word("b")
    async with house.open() as runtime, trio.open_nursery() as nursery:
        async with runtime.turn(house.request("a b", "s", name="p1", stream=True, retrievable=False)) as turn:
            reader = begin_following(nursery, house, "p1")
            await blocked()
            assert not (await runtime.get_continuation("p1")).streamed
            assert reader.rows == []
            house.target.hold_word("b").set()
            assert len(await read_all(turn.rows())) == 6
        await blocked()
        assert reader.rows == ["0 created", "1 started", "2 whole", "3 completed: a b"]
        assert len(house.store.commits) == 1
        assert not (await runtime.get_continuation("p1")).streamed


async def test_a_transcript_that_has_expired_is_told_again(autojump_clock: Clock, house: House):
    async with house.open(transcript_retention=60.0) as runtime:
        await house.submit("a b c", "s", name="p1", stream=True)
        run = await runtime.get_continuation("p1", wait=True)
        while await house.store.expire(run.ended + 61):
            pass
        told = await follow(house, "p1")
        assert told.rows == ["0 created", "1 started", "2 whole", "3 completed: a b c"]
        assert (await follow(house, "p1")).rows == told.rows, "the same every time"
        late = await follow(house, "p1", 3)
        assert isinstance(late.error, NotFound)
        assert late.code == "transcript_expired"


async def test_what_expired_is_refused_before_anything_is_read(autojump_clock: Clock, house: House):
    """So that a channel can still choose its status."""
    async with house.open(transcript_retention=60.0) as runtime:
        await house.submit("a", "s", name="p1", stream=True)
        run = await runtime.get_continuation("p1", wait=True)
        await house.store.expire(run.ended + 61)
        with pytest.raises(NotFound):
            await runtime.subscribe("p1", after=1).__aenter__()


async def test_a_channel_that_writes_nothing_down(autojump_clock: Clock, house: House):
    house.channel("plain")
    async with house.open() as runtime:
        await house.submit("a", "s", name="p1", channel="plain", stream=True)
        await runtime.get_continuation("p1", wait=True)
        assert (await follow(house, "p1")).code == "no_transcript"


# --- across stops and crashes


@pytest.mark.parametrize("crash", [False, True])
async def test_what_only_waited_goes_on_where_it_was(autojump_clock: Clock, house: House, crash: bool):
    house.target.hold("first")
    async with house.open(crash=crash):
        await house.submit("first", "s")
        await house.submit("a b c", "s", name="p1", stream=True)
        await blocked()
        async with trio.open_nursery() as nursery:
            reader = begin_following(nursery, house, "p1")
            await blocked()
            assert reader.rows == WHOLE[:2]
            nursery.cancel_scope.cancel()
    house.target.hold("first").set()
    async with house.open():
        assert (await follow(house, "p1", 1)).rows == [row.replace("a b c", "first a b c") for row in EXTENDED[2:]]


EXTENDED = [
    "0 created",
    "1 queued",
    "2 started",
    "3 first",
    "4 a",
    "5 b",
    "6 c",
    "7 whole",
    "8 completed: a b c",
]


@pytest.mark.parametrize("after", [0, 2, 3, 4])
@pytest.mark.parametrize("crash", [False, True])
async def test_who_resumes_across_a_re_run_is_told_that_it_began_again(
    autojump_clock: Clock, house: House, crash: bool, after: int
):
    """Also one who had read the very last row that was logged."""
    house.target.hold_word("c")
    async with house.open(crash=crash):
        await house.submit("a b c", "s", name="p1", stream=True)
        async with trio.open_nursery() as nursery:
            reader = begin_following(nursery, house, "p1")
            await blocked()
            assert reader.rows == WHOLE[:5]
            nursery.cancel_scope.cancel()
        old = (await house.records())[0].transcript[0]
    house.target.hold_word("c").set()
    async with house.open() as runtime:
        late = await follow(house, "p1", after)
        assert isinstance(late.error, Restarted)
        assert late.rows == []
        anew = await follow(house, "p1")
        assert anew.rows == [
            "5 created",
            "6 started",
            "7 a",
            "8 b",
            "9 c",
            "10 whole",
            "11 completed: a b c",
        ], "no number is used twice"
        assert (await follow(house, "p1", 8)).rows == anew.rows[4:]
        assert (await runtime.get_continuation("p1")).attempt == 1 + crash
        claim = await house.store.claim("ada")
        assert await house.store.log_length(claim, old) == 0, "what the first attempt said is gone"
    async with house.open():
        assert isinstance((await follow(house, "p1", after)).error, Restarted)
        assert (await follow(house, "p1")).rows == anew.rows


async def test_a_second_attempt_that_a_stop_cuts_short_is_not_mistaken_for_one_that_waited(
    autojump_clock: Clock, house: House
):
    """It has logged just as many rows as were logged when the letter was accepted."""
    house.target.hold("a")
    async with house.open(crash=True):
        await house.submit("a", "s", name="p1", stream=True)
        await blocked()
    async with house.open(), trio.open_nursery() as nursery:
        reader = begin_following(nursery, house, "p1")
        await blocked()
        assert reader.rows == ["2 created", "3 started"]
        nursery.cancel_scope.cancel()
    house.target.hold("a").set()
    async with house.open() as runtime:
        assert isinstance((await follow(house, "p1", 3)).error, Restarted)
        assert (await follow(house, "p1")).rows == [
            "4 created",
            "5 started",
            "6 a",
            "7 whole",
            "8 completed: a",
        ]
        assert (await runtime.get_continuation("p1")).attempt == 2


async def test_followers_of_an_attempt_that_a_stop_ends(autojump_clock: Clock, house: House):
    house.target.hold_word("c")
    async with house.open() as runtime:
        await house.submit("a b c", "s", name="p1", stream=True)
        await house.submit("behind", "s", name="p2", stream=True)
        async with trio.open_nursery() as nursery:
            readers = [begin_following(nursery, house, name) for name in ("p1", "p2")]
            await blocked()
            await runtime.drain()
        assert [reader.rows for reader in readers] == [WHOLE[:5], ["0 created", "1 queued"]]
        assert all(reader.ended for reader in readers), "there is no more for now"


async def test_followers_of_an_attempt_that_a_crash_ends(autojump_clock: Clock, house: House):
    house.target.hold_word("c")
    crashed = []

    async def before(method: str, _key: str) -> None:
        if method == "commit" and house.store.commits[-1].consume and not crashed:
            crashed.append(True)
            raise RuntimeError("a defect")

    async with house.open(), trio.open_nursery() as nursery:
        house.store.before = before
        await house.submit("a b c", "s", name="p1", stream=True)
        reader = begin_following(nursery, house, "p1")
        await blocked()
        house.target.hold_word("c").set()
        await blocked()
        assert isinstance(reader.error, Restarted)
        assert reader.rows == WHOLE[:5]
        anew = await follow(house, "p1")
        assert anew.rows[:3] == ["5 created", "6 started", "7 a"]
        assert anew.rows[-1].endswith("completed: a b c")


async def test_a_caller_whose_actor_crashes_gets_an_end(autojump_clock: Clock, house: House):
    """Nothing of its turn is stored; and a stream that just stopped would be no answer."""

    async def before(method: str, _key: str) -> None:
        if method == "commit":
            house.store.before = None
            raise RuntimeError("a defect")

    async with house.open() as runtime:
        house.store.before = before
        async with runtime.turn(house.request("a b", "s", name="p1", stream=True)) as turn:
            rows = await read_all(turn.rows())
            with pytest.raises(TargetFailed):
                _ = turn.result
        assert rows == ["0 created", "1 started", "2 a", "3 b", "4 whole", "5 failed: server_error"]


async def test_a_run_that_is_given_up_has_a_whole_transcript(autojump_clock: Clock, house: House):
    house.target.hold_word("b")
    for attempt in range(2):
        async with house.open(crash=True, max_attempts=2):
            if not attempt:
                await house.submit("a b", "s", name="p1", stream=True)
            async with trio.open_nursery() as nursery:
                begin_following(nursery, house, "p1")
                await blocked()
                nursery.cancel_scope.cancel()
            old = (await house.records())[0].transcript[0]
    async with house.open(max_attempts=2) as runtime:
        assert (await runtime.get_continuation("p1", wait=True)).error[0] == "attempts_exhausted"
        assert (await follow(house, "p1")).rows == ["7 created", "8 started", "9 failed: attempts_exhausted"]
        assert isinstance((await follow(house, "p1", 6)).error, Restarted)
        assert await house.store.log_length(await house.store.claim("ada"), old) == 0


async def test_no_number_is_used_twice_by_attempts_that_wait_for_each_other(autojump_clock: Clock, house: House):
    """A suspect that waits its turn shows nothing: the store does not know of its attempt yet."""
    house.target.hold("slow")
    house.target.hold_word("b")
    async with house.open(crash=True):
        await house.submit("slow", "s", key="aaa")
        await house.submit("a b", "s", name="p1", stream=True)
        await blocked()
    for _ in range(3):
        async with house.open(crash=True, max_attempts=100), trio.open_nursery() as nursery:
            await blocked()
            reader = begin_following(nursery, house, "p1")
            await blocked()
            assert house.target.running == ["slow"]
            assert reader.rows == []
            nursery.cancel_scope.cancel()
    house.target.hold("slow").set()
    house.target.hold_word("b").set()
    async with house.open(max_attempts=100):
        rows = (await follow(house, "p1")).rows
        assert rows[0] == "2 created", "0 and 1 were shown when it was accepted"


async def test_forgetting_takes_the_transcript_along(autojump_clock: Clock, house: House):
    async with house.open() as runtime:
        await house.submit("a", "s", name="p1", stream=True)
        await runtime.get_continuation("p1", wait=True)
        log = (await house.records())[0].transcript[0]
        await runtime.forget("p1")
        assert await house.store.log_length(await house.store.claim("ada"), log) == 0
        assert (await follow(house, "p1")).code == "run_not_found"


async def test_what_a_crash_leaves_of_a_caller_s_own_stream_expires(autojump_clock: Clock, house: House):
    """There is no letter and no record that would tell of its log."""
    house.target.hold_word("b")
    async with house.open(crash=True, turn_timeout=600.0, transcript_retention=60.0), trio.open_nursery() as nursery:
        turn = await house.post("a b", "s", name="p1", stream=True)
        begin_following(nursery, house, "p1")
        await blocked()
        log = turn.journal.log
        assert await house.store.log_length(await house.store.claim("ada"), log) == 3
        created = turn.created
        nursery.cancel_scope.cancel()
    async with house.open():
        assert await house.store.expire(created + 650) == 0
        assert await house.store.expire(created + 670) > 0
        assert await house.store.log_length(await house.store.claim("ada"), log) == 0
        assert isinstance((await follow(house, "p1")).error, NotFound)


async def test_a_batch_that_finds_no_room_cuts_the_transcript(autojump_clock: Clock, house: House):
    async def before(method: str, _key: str) -> None:
        if method == "commit" and not house.store.commits[-1].runs:
            raise StoreFull("the map is full")

    house.target.hold_word("b")
    async with house.open() as runtime, trio.open_nursery() as nursery:
        house.store.before = before
        await house.submit("a b", "s", name="p1", stream=True)
        reader = begin_following(nursery, house, "p1")
        await blocked()
        assert isinstance(reader.error, Conflicting)
        assert reader.code == "transcript_too_long"
        house.target.hold_word("b").set()
        assert (await runtime.get_continuation("p1", wait=True)).state == "completed"
        assert house.actors.restarts == 0
