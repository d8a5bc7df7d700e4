"""The bridge's conformance list: runs, cancellation, failures, context, calls into trio, the thread's end.

These tests use the real clock: the bridge is a real second thread, and trio's autojump clock takes
"everybody in trio waits" for "nothing will happen" and jumps over the time that thread needs. Grace
periods and deadlines are parameters, so the tests stay short.
"""

import ast
import asyncio
import contextvars
import gc
import logging
import os
import signal
import sys
import textwrap
import threading
import time
import traceback
import warnings
import weakref
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import sniffio
import trio
import trio.testing

import afactors
from afactors.bridge import Bridge, BridgeClosed, TargetCancelled, TargetExited

ROOT = Path(next(iter(afactors.__path__)))
NAME = contextvars.ContextVar("NAME", default="nobody")


@pytest.fixture
async def bridge():
    async with Bridge(cancel_grace=0.2, close_timeout=1.0) as bridge:
        yield bridge


async def until(condition, seconds=2.0):
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
            await trio.sleep(0.002)


class Probe:
    """Agent code that tells what happened to it; its flags are set in one thread, polled in the other."""

    def __init__(self):
        self.started = self.cancelled = self.cleaned = False
        self.threads = set()

    async def wait(self, clean_up=0.0):
        self.threads.add(threading.get_ident())
        self.started = True
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            await asyncio.sleep(clean_up)
            self.threads.add(threading.get_ident())
            self.cleaned = True

    async def swallow(self, seconds):
        self.started = True
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                self.cancelled = True
        self.cleaned = True


def test_one_module_alone_imports_asyncio():
    importers = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            if any(name.split(".")[0] == "asyncio" for name in names):
                importers.add(path.relative_to(ROOT).as_posix())
    assert importers == {"bridge/_loop.py"}


# --- running -------------------------------------------------------------------------------------------


async def test_runs_a_coroutine_function_in_the_asyncio_thread(bridge):
    async def where(*args, **kwargs):
        asyncio.get_running_loop()
        await asyncio.sleep(0)
        return threading.current_thread().name, args, kwargs

    assert await bridge.run(where, 1, key=2) == ("afactors-bridge", (1,), {"key": 2})


async def test_calls_a_plain_function_there_inside_a_task(bridge):
    assert await bridge.run(lambda: asyncio.current_task() is not None) is True


async def test_awaits_any_awaitable_that_the_function_returns(bridge):
    def make():
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, "later")
        return future

    assert await bridge.run(make) == "later"


async def test_every_run_has_its_own_task_and_many_go_at_once(bridge):
    tasks, values = set(), []
    gate = asyncio.Event()

    async def one(n):
        tasks.add(id(asyncio.current_task()))
        if len(tasks) == 200:
            gate.set()
        await gate.wait()
        return n

    async def caller(n):
        values.append(await bridge.run(one, n))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for n in range(200):
                nursery.start_soon(caller, n)
    assert sorted(values) == list(range(200))
    assert bridge.statistics().completed == 200
    assert bridge.statistics().running == 0


async def test_context_flows_in_and_never_back_nor_across(bridge):
    seen = []

    async def look(name):
        seen.append((name, NAME.get()))
        NAME.set("changed by " + name)
        await asyncio.sleep(0.01)
        return NAME.get()

    async def caller(name):
        NAME.set(name)
        assert await bridge.run(look, name) == "changed by " + name
        assert NAME.get() == name

    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            nursery.start_soon(caller, name)
    assert sorted(seen) == [("a", "a"), ("b", "b"), ("c", "c")]
    assert await bridge.run(NAME.get) == "nobody"


async def test_the_loops_own_callbacks_do_not_inherit_the_context_of_a_caller(bridge):
    """The drain is scheduled by whoever comes first; what it runs is other callers' business as well."""
    NAME.set("first")
    held = contextvars.copy_context()

    async def second():
        return NAME.get()

    def clean(fn):
        return contextvars.Context().run(fn)

    results = []

    async def go():
        results.append(await bridge.run(second))

    async with trio.open_nursery() as nursery:
        held.run(nursery.start_soon, go)
        clean(lambda: nursery.start_soon(go))
    assert sorted(results) == ["first", "nobody"]


async def test_anyio_code_works_though_the_callers_context_names_trio(bridge):
    token = sniffio.current_async_library_cvar.set("trio")
    try:
        assert await bridge.run(anyio.to_thread.run_sync, lambda: "from a thread") == "from a thread"
    finally:
        sniffio.current_async_library_cvar.reset(token)


async def test_blocking_agent_code_does_not_stall_trio(bridge):
    worst = 0.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bridge.run, time.sleep, 0.3)
        end = trio.current_time() + 0.3
        while (before := trio.current_time()) < end:
            await trio.sleep(0.005)
            worst = max(worst, trio.current_time() - before - 0.005)
    assert worst < 0.15


# --- failures ------------------------------------------------------------------------------------------


async def test_an_exception_passes_through_with_its_traceback(bridge):
    async def deep_in_the_agent():
        raise ValueError("seven")

    with pytest.raises(ValueError, match="seven") as caught:
        await bridge.run(deep_in_the_agent)
    assert "deep_in_the_agent" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert bridge.statistics().failed == 1


async def test_a_failed_run_leaves_no_cycle_that_keeps_its_exception_alive(bridge):
    class BigError(Exception):
        pass

    async def fail():
        raise BigError

    gc.collect()
    gc.disable()
    try:
        try:
            await bridge.run(fail)
        except BigError as exc:
            ref = weakref.ref(exc)
        await until(lambda: ref() is None, 1)
    finally:
        gc.enable()


async def test_a_cancellation_that_trio_did_not_ask_for_is_a_failure(bridge):
    async def cancels_itself():
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    with pytest.raises(TargetCancelled) as caught:
        await bridge.run(cancels_itself)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


async def test_even_when_it_hits_a_task_before_its_first_step(bridge):
    started = []

    async def victim():
        started.append(1)

    def cancel_all_others():
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    caught = []

    async def caller():
        try:
            await bridge.run(victim)
        except TargetCancelled as exc:
            caught.append(exc)

    blocked = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bridge.run, blocked.wait)
        await trio.sleep(0.02)  # the loop is in blocked.wait, so that what follows arrives in one drain
        nursery.start_soon(bridge.run, cancel_all_others)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(caller)
        await trio.testing.wait_all_tasks_blocked()
        blocked.set()
        with trio.fail_after(2):
            await until(lambda: bridge.statistics().running == 0)
    assert len(caught) == 1
    assert not started


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_what_would_end_a_process_is_an_ordinary_failure(bridge, error):
    async def leave():
        raise error("bye")

    with pytest.raises(TargetExited) as caught:
        await bridge.run(leave)
    assert isinstance(caught.value.__cause__, error)
    assert await bridge.run(lambda: "still here") == "still here"


async def test_a_child_task_that_exits_does_not_kill_the_loop(bridge, caplog):
    async def tool():
        sys.exit(3)

    async def agent():
        await asyncio.gather(asyncio.ensure_future(tool()))

    with pytest.raises(TargetExited):
        await bridge.run(agent)
    assert await bridge.run(lambda: "still here") == "still here"
    assert "tried to end the process" in caplog.text


async def test_code_that_stops_the_loop_does_not_end_the_bridge(bridge, caplog):
    await bridge.run(lambda: asyncio.get_running_loop().stop())
    assert await bridge.run(lambda: "still here") == "still here"
    assert "stopped the event loop" in caplog.text


async def test_stray_errors_are_logged_and_kill_nothing(bridge, caplog):
    def callback():
        raise ValueError("stray callback")

    async def forgotten():
        raise ValueError("never retrieved")

    async def agent():
        asyncio.get_running_loop().call_soon(callback)
        task = asyncio.ensure_future(forgotten())
        await asyncio.sleep(0.01)
        del task
        gc.collect()

    await bridge.run(agent)
    records = [record for record in caplog.records if record.name == "afactors.bridge"]
    texts = [str(record.exc_info[1]) for record in records if record.exc_info]
    assert sorted(texts) == ["never retrieved", "stray callback"]


async def test_stop_iteration_from_a_tool_in_a_thread_does_not_hang(bridge):
    with trio.fail_after(2), pytest.raises(RuntimeError, match="StopIteration"):
        await bridge.run(asyncio.to_thread, lambda: next(iter(())))


# --- cancellation --------------------------------------------------------------------------------------


async def test_cancelling_cancels_the_task_and_waits_for_its_finally_blocks(bridge, caplog):
    probe = Probe()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.run, probe.wait, 0.05)
            await until(lambda: probe.started)
            scope.cancel()
    assert scope.cancelled_caught
    assert probe.cancelled
    assert probe.cleaned
    assert len(probe.threads) == 1
    assert threading.get_ident() not in probe.threads
    assert bridge.statistics().cancelled == 1
    assert not caplog.text


async def test_a_cancelled_caller_begins_nothing(bridge):
    called = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await bridge.run(called.append, 1)
    assert await bridge.run(lambda: list(called)) == []
    assert bridge.statistics().cancelled == 0  # nothing went over at all


async def test_cancelling_before_the_loop_came_to_it_never_calls_the_function(bridge):
    called = []
    blocked = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bridge.run, blocked.wait)
        await trio.sleep(0.02)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(bridge.run, called.append, 1)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                nursery.start_soon(_later, 0.03, blocked.set)
    assert called == []
    assert bridge.statistics().abandoned_total == 0


async def _later(seconds, fn):
    await trio.sleep(seconds)
    fn()


async def test_code_that_swallows_its_cancellation_is_abandoned_after_the_grace(bridge, caplog):
    probe = Probe()
    started = time.monotonic()
    with trio.move_on_after(0.05) as scope:
        await bridge.run(probe.swallow, 0.6)
    assert scope.cancelled_caught
    assert 0.2 <= time.monotonic() - started < 0.5
    assert bridge.statistics().abandoned == 1
    assert "is abandoned" in caplog.text
    assert "in swallow" in caplog.text  # says where it stands
    await until(lambda: bridge.statistics().abandoned == 0)
    assert probe.cleaned
    assert bridge.statistics().abandoned_total == 1


async def test_a_blocked_loop_does_not_hold_a_scope_open(bridge):
    released = threading.Event()
    started = time.monotonic()
    with trio.move_on_after(0.05) as scope:
        await bridge.run(released.wait)
    released.set()
    assert scope.cancelled_caught
    assert time.monotonic() - started < 0.6


async def test_cancellation_wins_over_a_value_and_nothing_leaks(bridge):
    class Value:
        pass

    refs = []

    async def finishes_anyway():
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            value = Value()
            refs.append(weakref.ref(value))
            return value

    with trio.move_on_after(0.03) as scope:
        await bridge.run(finishes_anyway)
    assert scope.cancelled_caught
    await until(lambda: bridge.statistics().running == 0)
    gc.collect()
    assert refs
    assert refs[0]() is None


async def test_a_failure_during_cancellation_is_logged_and_cancellation_wins(bridge, caplog):
    async def fails_to_clean_up():
        try:
            await asyncio.sleep(30)
        finally:
            raise ValueError("broken clean-up")

    with trio.move_on_after(0.03) as scope:
        await bridge.run(fails_to_clean_up)
    assert scope.cancelled_caught
    assert "broken clean-up" in caplog.text


async def test_cancellation_races_lose_nothing(bridge):
    """Cancel at every moment around the end of the work; each ends one way or the other, and is counted."""
    for step in range(60):
        with trio.move_on_after(step * 0.00005):
            await bridge.run(asyncio.sleep, 0.001)
    figures = bridge.statistics()
    assert figures.running == figures.abandoned == 0
    assert figures.failed == 0
    assert await bridge.run(lambda: 1) == 1


# --- calls into trio -----------------------------------------------------------------------------------


async def test_asyncio_code_calls_trio_and_gets_its_value_and_its_context(bridge):
    async def in_trio(number):
        await trio.lowlevel.checkpoint()
        return number + 1, NAME.get(), threading.get_ident()

    async def agent():
        NAME.set("the agent")
        return await bridge.call_trio(in_trio, 41)

    assert await bridge.run(agent) == (42, "the agent", threading.get_ident())
    assert bridge.statistics().trio_calls == 0


async def test_exceptions_of_a_call_pass_to_the_asyncio_side(bridge):
    async def in_trio():
        raise KeyError("no such checkpoint")

    async def agent():
        try:
            await bridge.call_trio(in_trio)
        except KeyError as exc:
            return exc

    assert "no such checkpoint" in str(await bridge.run(agent))


async def test_cancelling_the_asyncio_caller_cancels_the_call_and_waits_for_it(bridge):
    events = []

    async def in_trio():
        try:
            events.append("waiting")
            await trio.sleep(30)
        finally:
            with trio.move_on_after(1, shield=True):
                await trio.sleep(0.02)
            events.append("call cleaned up")

    async def agent():
        try:
            await bridge.call_trio(in_trio)
        finally:
            events.append("agent cleaned up")

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.run, agent)
            await until(lambda: events)
            scope.cancel()
    assert events == ["waiting", "call cleaned up", "agent cleaned up"]


async def test_an_asyncio_timeout_cancels_the_call(bridge):
    cancelled = []

    async def in_trio():
        try:
            await trio.sleep(30)
        except trio.Cancelled:
            cancelled.append(True)
            raise

    async def agent():
        try:
            async with asyncio.timeout(0.02):
                await bridge.call_trio(in_trio)
        except TimeoutError:
            return "timed out"

    assert await bridge.run(agent) == "timed out"
    assert cancelled == [True]


async def test_clean_up_of_cancelled_agent_code_can_still_call_trio(bridge):
    stored = []

    async def store(value):
        await trio.sleep(0.01)
        stored.append(value)

    async def agent():
        try:
            await asyncio.sleep(30)
        finally:
            await bridge.call_trio(store, "last words")

    with trio.move_on_after(0.03):
        await bridge.run(agent)
    assert stored == ["last words"]


async def test_that_holds_when_everything_around_the_bridge_is_cancelled():
    """The cancellation reaches calls into trio by way of their asyncio callers, never directly."""
    stored = []

    async def store(value):
        await trio.sleep(0.01)
        stored.append(value)

    async def agent(bridge):
        try:
            await asyncio.sleep(30)
        finally:
            await bridge.call_trio(store, "last words")

    with trio.move_on_after(0.05):
        async with Bridge() as bridge:
            await bridge.run(agent, bridge)
    assert stored == ["last words"]


async def test_call_trio_is_refused_outside_of_the_asyncio_thread(bridge):
    with pytest.raises(RuntimeError, match="asyncio thread"):
        await bridge.call_trio(trio.sleep, 0)


async def test_closing_cancels_calls_into_trio_through_their_asyncio_callers():
    outcome = []

    async def agent():
        try:
            await bridge.call_trio(trio.sleep_forever)
        except BaseException as exc:
            outcome.append(type(exc))
            raise

    async with Bridge(cancel_grace=0.1, close_timeout=0.5) as bridge:
        await bridge.run(_spawn, agent)
        await until(lambda: bridge.statistics().trio_calls == 1)
    assert outcome == [asyncio.CancelledError]
    assert bridge.statistics().trio_calls == 0


_kept = set()


async def _spawn(fn):
    _kept.add(asyncio.ensure_future(fn()))
    await asyncio.sleep(0)


# --- opening and closing -------------------------------------------------------------------------------


async def test_a_closed_bridge_and_an_unopened_one_refuse_work():
    bridge = Bridge()
    with pytest.raises(BridgeClosed, match="not open yet"):
        await bridge.run(lambda: 1)
    assert not bridge.healthy
    async with bridge:
        assert bridge.healthy
    with pytest.raises(BridgeClosed, match="closed"):
        await bridge.run(lambda: 1)
    with pytest.raises(RuntimeError, match="once"):
        async with bridge:
            pass
    assert not bridge.healthy
    assert issubclass(BridgeClosed, RuntimeError)


async def test_run_from_inside_the_asyncio_thread_is_refused(bridge):
    async def agent():
        await bridge.run(lambda: 1)

    with pytest.raises(RuntimeError, match="driven from its trio thread"):
        await bridge.run(agent)


async def test_the_body_s_exception_comes_out_bare_and_the_thread_is_joined():
    async def body():
        async with Bridge() as bridge:
            await bridge.run(asyncio.sleep, 0)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await body()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("afactors")]


async def test_nor_does_a_cancellation_around_the_bridge_hide_it():
    async def body():
        with trio.CancelScope() as scope:
            async with Bridge():
                scope.cancel()
                raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await body()


async def test_cancelling_the_bridges_block_closes_it_in_order():
    probe = Probe()
    with trio.move_on_after(0.05) as scope:
        async with Bridge(cancel_grace=0.5) as bridge:
            await bridge.run(probe.wait, 0.02)
    assert scope.cancelled_caught
    assert probe.cleaned


async def test_closing_cancels_what_agent_code_left_running():
    probe = Probe()
    async with Bridge(cancel_grace=0.5) as bridge:
        await bridge.run(_spawn, probe.wait)
        await until(lambda: probe.started)
    assert probe.cancelled
    assert probe.cleaned


@pytest.mark.parametrize("blocked", [False, True])
async def test_closing_releases_a_caller_from_outside_of_the_block(blocked):
    caught = []
    released = threading.Event()
    bridge = Bridge(cancel_grace=0.1, close_timeout=0.2)

    async def outsider():
        try:
            await bridge.run(released.wait if blocked else released_never)
        except BridgeClosed as exc:
            caught.append(exc)

    async with trio.open_nursery() as nursery, bridge:
        nursery.start_soon(outsider)
        await until(lambda: bridge.statistics().running == 1)
    assert len(caught) == 1
    released.set()
    await until(lambda: not [t for t in threading.enumerate() if t.name == "afactors-bridge"])


async def released_never():
    await asyncio.sleep(30)


async def test_closing_closes_async_generators():
    events = []

    async def numbers():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            events.append(threading.current_thread().name)

    kept = []

    async def agent():
        generator = numbers()
        kept.append(generator)
        await anext(generator)

    async with Bridge() as bridge:
        await bridge.run(agent)
        assert events == []
    assert events == ["afactors-bridge"]


async def test_closing_is_bounded_when_agent_code_blocks_the_thread(caplog):
    released = threading.Event()
    started = time.monotonic()
    with trio.move_on_after(0.05):
        async with Bridge(cancel_grace=0.05, close_timeout=0.1) as bridge:
            await bridge.run(released.wait)
    assert time.monotonic() - started < 1.5
    assert "did not end within" in caplog.text
    assert "released.wait" in caplog.text or "in wait" in caplog.text  # where it stands
    released.set()
    await until(lambda: not [t for t in threading.enumerate() if t.name == "afactors-bridge"])


# --- tools in threads ----------------------------------------------------------------------------------


async def test_tool_threads_are_as_many_as_asked_for_and_are_reused():
    names = []
    async with Bridge(tool_threads=3) as bridge:
        barrier = threading.Barrier(3)

        def tool():
            barrier.wait(2)
            names.append(threading.current_thread().name)

        async def agent():
            for _ in range(4):
                await asyncio.gather(*(asyncio.to_thread(tool) for _ in range(3)))

        await bridge.run(agent)
    assert len(names) == 12
    assert len(set(names)) == 3
    assert all(name.startswith("afactors-tool") for name in names)


async def test_no_more_threads_than_the_limit():
    running, most, lock = 0, 0, threading.Lock()

    def tool():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    async def agent():
        await asyncio.gather(*(asyncio.to_thread(tool) for _ in range(10)))

    async with Bridge(tool_threads=2) as bridge:
        await bridge.run(agent)
    assert most == 2


async def test_closing_waits_for_a_cancelled_tool_that_still_runs(caplog):
    finished = []

    def tool():
        time.sleep(0.2)
        finished.append(True)

    async with Bridge(close_timeout=2) as bridge:
        with trio.move_on_after(0.05):
            await bridge.run(asyncio.to_thread, tool)
        assert bridge.statistics().tools_running == 1
        assert not finished
    assert finished
    assert "abandoned" not in caplog.text


async def test_a_tool_past_the_deadline_is_abandoned_and_reported(caplog):
    released = threading.Event()
    started = time.monotonic()
    async with Bridge(close_timeout=0.1) as bridge:
        with trio.move_on_after(0.05):
            await bridge.run(asyncio.to_thread, released.wait)
    assert time.monotonic() - started < 1
    assert "1 synchronous tools" in caplog.text
    released.set()
    await until(lambda: not [t for t in threading.enumerate() if t.name.startswith("afactors-tool")])


@pytest.mark.parametrize("blocked", ["asyncio.to_thread, time.sleep, 60", "time.sleep, 60"])
async def test_abandoned_work_does_not_hold_up_the_exit_of_the_interpreter(blocked):
    program = f"""
        import asyncio, time, trio
        from afactors.bridge import Bridge
        async def main():
            async with Bridge(cancel_grace=0.05, close_timeout=0.1) as bridge:
                with trio.move_on_after(0.1):
                    await bridge.run({blocked})
            print("closed")
        trio.run(main)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with trio.fail_after(20):
        ended = await trio.run_process(command, capture_stdout=True, env=environment)
    assert ended.stdout == b"closed\n"


async def child_ended(pid):
    ended = []
    try:
        await until(lambda: ended.append(os.waitpid(pid, os.WNOHANG)) or ended[-1][0])
    except trio.TooSlowError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)  # noqa: ASYNC222 - it is dead
        pytest.fail("the child hangs")
    return os.waitstatus_to_exitcode(ended[-1][1])


async def test_a_subprocess_and_a_fork_leave_the_parent_well(bridge):
    def forks():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # "multi-threaded, fork may deadlock"
            return os.fork()

    def tool():  # the child runs out of the tool
        return forks()

    async def agent():  # the child runs on in the loop
        pid = forks()
        await asyncio.sleep(0.01)
        return pid

    async def process():
        child = await asyncio.create_subprocess_exec("true")
        return await child.wait()

    assert await bridge.run(process) == 0
    for fn, args in ((asyncio.to_thread, (tool,)), (agent, ())):
        pid = await bridge.run(fn, *args)
        assert await child_ended(pid) == 1
    for n in range(20):
        with trio.fail_after(2):
            assert await bridge.run(asyncio.sleep, 0.001, n) == n


# --- the watchdog --------------------------------------------------------------------------------------


async def test_a_stall_is_logged_once_with_the_stack_and_so_is_the_recovery(caplog):
    caplog.set_level(logging.INFO, logger="afactors.bridge")
    reasons = []
    released = threading.Event()

    def blocks_the_loop():
        released.wait()

    def warned():
        return [r for r in caplog.records if r.levelno == logging.WARNING]

    async with Bridge(stall_warning=0.1, stall_limit=0.2, on_stall=reasons.append) as bridge:
        await bridge.run(asyncio.sleep, 0.1)
        assert bridge.healthy
        assert bridge.statistics().stalled_for == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.run, blocks_the_loop)
            await until(lambda: not bridge.healthy)
            assert bridge.statistics().stalled_for >= 0.1
            assert len(reasons) == 0
            await until(lambda: reasons)
            await trio.sleep(0.15)
            released.set()
        await until(lambda: bridge.healthy)
        assert "turns again, after 0." in caplog.text
    assert len(reasons) == 1
    assert len(warned()) == 1
    assert "blocks_the_loop" in warned()[0].getMessage()


async def test_what_on_stall_raises_ends_the_bridge():
    released = threading.Event()

    def give_up(reason):
        released.set()
        raise OSError(reason)

    async def body():
        async with Bridge(stall_warning=0.04, stall_limit=0.05, on_stall=give_up) as bridge:
            await bridge.run(released.wait)
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await body()
    assert caught.group_contains(OSError, match="blocked the bridge thread")


async def test_a_process_that_slept_is_not_a_stalled_loop():
    """Trio's own absence (SIGSTOP, a suspended machine) must not count."""
    reasons = []
    patience = {"stall_warning": 0.2, "stall_limit": 0.3, "on_stall": reasons.append}
    async with Bridge(**patience) as bridge, trio.open_nursery() as nursery:
        nursery.start_soon(bridge.run, time.sleep, 0.62)
        await trio.sleep(0.05)
        time.sleep(0.5)  # noqa: ASYNC251 - trio itself is away
        await trio.sleep(0.01)
        assert bridge.healthy
    assert not reasons
