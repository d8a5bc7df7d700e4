"""The bridge's conformance list: streams and held resources. Real clock: see ``test_bridge``."""

import asyncio
import contextvars
import threading
import time
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from afactors.bridge import Bridge, BridgeClosed, TargetCancelled

TURN = contextvars.ContextVar("TURN", default="none")


@pytest.fixture
async def bridge():
    async with Bridge(cancel_grace=0.2, close_timeout=1.0, buffer=8) as bridge:
        yield bridge


async def until(condition, seconds=2.0):
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
            await trio.sleep(0.002)


class Source:
    """A stream of numbers with the framework's face, which notes in which task each step was taken."""

    def __init__(self, count, *, pause=0.0, fail_at=None, fail_close=False):
        self.count, self.pause, self.fail_at, self.fail_close = count, pause, fail_at, fail_close
        self.pulled = 0
        self.closed = 0
        self.cleaned = False
        self.tasks = set()
        self.threads = set()

    def __call__(self):
        self._note()
        return self

    def __aiter__(self):
        return self

    async def __anext__(self):
        self._note()
        await asyncio.sleep(self.pause)
        if self.pulled == self.fail_at:
            raise ValueError("broken stream")
        if self.pulled == self.count:
            raise StopAsyncIteration
        self.pulled += 1
        return self.pulled - 1

    async def get_final_response(self):
        self._note()
        await asyncio.sleep(0)
        return f"all {self.pulled}"

    async def close(self):
        self._note()
        await asyncio.sleep(0)
        self.closed += 1
        if self.fail_close:
            raise OSError("cannot close")

    def _note(self):
        self.tasks.add(asyncio.current_task())
        self.threads.add(threading.get_ident())


async def collect(stream, chunks=None):
    chunks = [] if chunks is None else chunks
    async for batch in stream:
        assert batch
        chunks += batch
    return chunks


async def test_a_stream_gives_every_chunk_in_order_and_then_its_final_value(bridge):
    source = Source(100)
    async with bridge.stream(source) as stream:
        with pytest.raises(RuntimeError, match="final value"):
            _ = stream.final
        assert await collect(stream) == list(range(100))
        assert stream.final == "all 100"
        assert await collect(stream) == []
        assert stream.final == "all 100"
    assert source.closed == 1


async def test_the_whole_stream_is_driven_from_one_task(bridge):
    source = Source(20)
    async with bridge.stream(source) as stream:
        await collect(stream)
    assert len(source.tasks) == 1
    assert source.threads.isdisjoint({threading.get_ident()})


async def test_context_tokens_work_across_chunks(bridge):
    async def numbers():
        token = TURN.set("inside")
        try:
            for n in range(3):
                yield n, TURN.get()
                await asyncio.sleep(0)
        finally:
            TURN.reset(token)  # raises when it runs in another context

    TURN.set("mine")
    async with bridge.stream(numbers) as stream:
        assert await collect(stream) == [(n, "inside") for n in range(3)]
        assert stream.final is None
    assert TURN.get() == "mine"


async def test_waiting_chunks_come_in_one_batch(bridge):
    async def numbers():
        for n in range(5):
            yield n

    async with bridge.stream(numbers) as stream:
        await until(lambda: bridge.statistics().completed == 1)
        with trio.testing.assert_checkpoints():  # or a fast stream would starve other tasks
            assert await anext(stream) == [0, 1, 2, 3, 4]


async def test_a_chunk_is_not_held_back_for_company(bridge):
    gate = asyncio.Event()

    async def numbers():
        yield 1
        await gate.wait()
        yield 2

    with trio.fail_after(2):
        async with bridge.stream(numbers) as stream:
            assert await anext(stream) == [1]
            await bridge.run(gate.set)
            assert await anext(stream) == [2]


async def test_finish_computes_the_final_value_in_the_same_task(bridge):
    source = Source(3)

    async def finish(exhausted):
        assert exhausted is source
        source.tasks.add(asyncio.current_task())
        return exhausted.pulled * 2

    async with bridge.stream(source, finish=finish) as stream:
        await collect(stream)
        assert stream.final == 6
    assert len(source.tasks) == 1

    async with bridge.stream(Source(3), finish=lambda exhausted: exhausted.pulled) as stream:
        await collect(stream)
        assert stream.final == 3


async def test_a_coroutine_that_makes_a_stream_will_do(bridge):
    async def make():
        await asyncio.sleep(0)
        return Source(2)

    async with bridge.stream(make) as stream:
        assert await collect(stream) == [0, 1]


async def test_a_stream_that_nobody_reads_stops_being_pulled(bridge):
    source = Source(1000)
    async with bridge.stream(source) as stream:
        await until(lambda: source.pulled == 8)
        await trio.sleep(0.03)
        assert source.pulled == 8
        assert await anext(stream) == list(range(8))
        await until(lambda: source.pulled == 16)
        assert await collect(stream) == list(range(8, 1000))


async def test_chunks_before_a_failure_are_delivered_and_then_the_failure_once(bridge):
    source = Source(100, fail_at=20)
    chunks = []
    async with bridge.stream(source) as stream:
        with pytest.raises(ValueError, match="broken stream"):
            await collect(stream, chunks)
        assert await collect(stream) == []
        with pytest.raises(RuntimeError):
            _ = stream.final
    assert chunks == list(range(20))
    assert source.closed == 1


async def test_a_function_that_fails_to_make_the_stream(bridge):
    def make():
        raise LookupError("no agent")

    async with bridge.stream(make) as stream:
        with pytest.raises(LookupError, match="no agent"):
            await anext(stream)


async def test_a_close_that_fails_is_a_failure_of_a_good_stream_and_a_log_line_of_a_bad_one(bridge, caplog):
    async with bridge.stream(Source(2, fail_close=True)) as stream:
        with pytest.raises(OSError, match="cannot close"):
            await collect(stream)
    async with bridge.stream(Source(5, fail_at=1, fail_close=True)) as stream:
        with pytest.raises(ValueError, match="broken stream"):
            await collect(stream)
    assert "cannot close" in caplog.text


async def test_a_failure_that_nobody_read_is_logged(bridge, caplog):
    async with bridge.stream(Source(5, fail_at=1)):
        await until(lambda: bridge.statistics().failed == 1)
    assert "broken stream" in caplog.text


async def test_leaving_early_runs_the_generators_finally_blocks_in_the_asyncio_thread(bridge):
    ended = []

    async def numbers():
        try:
            n = 0
            while True:
                yield n
                n += 1
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0.02)
            ended.append(threading.current_thread().name)

    async with bridge.stream(numbers) as stream:
        async for _ in stream:
            break
    assert ended == ["afactors-bridge"]
    assert bridge.statistics().cancelled == 1


@pytest.mark.parametrize("reads", [0, 1])
async def test_leaving_early_closes_a_stream_that_waits_for_room(bridge, reads):
    source = Source(1000)
    async with bridge.stream(source) as stream:
        for _ in range(reads):
            await anext(stream)
        await until(lambda: source.pulled >= 8)
    assert source.closed == 1


async def test_an_iterator_made_by_the_iterable_is_closed_too(bridge):
    ended = []

    class Iterable:
        async def __aiter__(self):
            try:
                while True:
                    yield 1
            finally:
                ended.append(threading.current_thread().name)

    async with bridge.stream(Iterable) as stream:
        await anext(stream)
    assert ended == ["afactors-bridge"]


async def test_a_cancelled_step_loses_no_chunk_and_leaves_the_stream_running(bridge):
    async with bridge.stream(Source(30, pause=0.003)) as stream:
        chunks, cut = [], 0
        while True:
            with trio.move_on_after(0.002) as scope:
                try:
                    chunks += await anext(stream)
                except StopAsyncIteration:
                    break
            cut += scope.cancelled_caught
        assert stream.final == "all 30"
    assert chunks == list(range(30))
    assert cut > 3


async def test_a_second_reader_is_refused(bridge):
    async def silence():
        await asyncio.sleep(30)
        yield 1

    async with bridge.stream(silence) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(stream.__anext__)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await anext(stream)
        nursery.cancel_scope.cancel()


async def test_a_stream_that_swallows_its_cancellation_is_abandoned(bridge, caplog):
    released = asyncio.Event()

    async def stubborn():
        yield 1
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    started = time.monotonic()
    async with bridge.stream(stubborn) as stream:
        await anext(stream)
    assert time.monotonic() - started < 1
    assert bridge.statistics().abandoned == 1
    assert "in stubborn" in caplog.text
    await bridge.run(released.set)
    await until(lambda: bridge.statistics().abandoned == 0)


async def test_an_alien_cancellation_of_a_stream_is_a_failure(bridge):
    async def numbers():
        yield 1
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    async with bridge.stream(numbers) as stream:
        with pytest.raises(TargetCancelled):
            await collect(stream)


async def test_a_stream_of_a_closed_bridge(bridge):
    async with Bridge() as other:
        pass
    with pytest.raises(BridgeClosed):
        async with other.stream(Source(1)):
            pass
    with pytest.raises(RuntimeError, match="enter the stream"):
        await anext(bridge.stream(Source(1)))


# --- held resources ------------------------------------------------------------------------------------


class Resource:
    def __init__(self):
        self.events = []
        self.tasks = set()
        self.crash = asyncio.Event()

    def note(self, event):
        self.events.append(event)
        self.tasks.add(asyncio.current_task())

    @asynccontextmanager
    async def open(self, value, leave=0.0, fail=None):
        self.note("enter")
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(30):  # needs to be left in the task that entered it
                yield value
        except BaseException as exc:
            self.note(type(exc).__name__)
            raise
        finally:
            await asyncio.sleep(leave)
            self.note("leave")
        if fail is not None:
            raise fail


async def test_a_resource_is_entered_held_and_left_in_one_task(bridge):
    resource = Resource()
    async with bridge.hold(resource.open, "client") as value:
        assert value == "client"
        assert resource.events == ["enter"]
        assert bridge.statistics().running == 1
    assert resource.events == ["enter", "leave"]
    assert len(resource.tasks) == 1
    assert bridge.statistics().running == 0


async def test_a_failing_or_cancelled_block_leaves_the_resource_in_good_order(bridge):
    resource = Resource()
    with pytest.raises(ValueError, match="block"):
        async with bridge.hold(resource.open, 1, leave=0.02):
            raise ValueError("block")
    with trio.move_on_after(0.03) as scope:
        async with bridge.hold(resource.open, 1, leave=0.02):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert resource.events == ["enter", "leave"] * 2


async def test_failures_of_entering_and_leaving_pass_through(bridge, caplog):
    resource = Resource()

    @asynccontextmanager
    async def refuses():
        raise ConnectionRefusedError("no server")
        yield

    with pytest.raises(ConnectionRefusedError):
        async with bridge.hold(refuses):
            pytest.fail("never entered")
    with pytest.raises(OSError, match="half closed"):
        async with bridge.hold(resource.open, 1, fail=OSError("half closed")):
            pass
    with pytest.raises(ValueError, match="block"):
        async with bridge.hold(resource.open, 1, fail=OSError("half closed again")):
            raise ValueError("block")
    assert "half closed again" in caplog.text


async def test_cancelling_while_it_enters(bridge):
    cancelled = []

    @asynccontextmanager
    async def slow():
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        yield

    with trio.move_on_after(0.03) as scope:
        async with bridge.hold(slow):
            pass
    assert scope.cancelled_caught
    assert cancelled == [True]


async def test_a_resource_that_will_not_be_left_is_abandoned(bridge, caplog):
    @asynccontextmanager
    async def sticky():
        yield 1
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    released = asyncio.Event()
    started = time.monotonic()
    with trio.move_on_after(0.03):
        async with bridge.hold(sticky):
            await trio.sleep_forever()
    assert time.monotonic() - started < 1
    assert "is abandoned" in caplog.text
    await bridge.run(released.set)
    await until(lambda: bridge.statistics().abandoned == 0)


async def test_a_resource_that_ends_by_itself_is_logged_and_raised_at_the_end(bridge, caplog):
    @asynccontextmanager
    async def fragile():
        task = asyncio.current_task()
        asyncio.get_running_loop().call_later(0.02, task.cancel)  # as an anyio task group does to its host
        yield 1

    async def body():
        async with bridge.hold(fragile):
            await until(lambda: "ended while it was held" in caplog.text)
            assert await bridge.run(lambda: "the block goes on") == "the block goes on"

    with pytest.raises(TargetCancelled):
        await body()
