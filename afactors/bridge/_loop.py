"""The asyncio thread. The only module of the project that imports asyncio.

One daemon thread, one event loop. Trio hands callbacks in through `LoopThread.post`; everything that
goes back goes through a `TrioDoor`. Nothing that agent code raises ends the loop.
"""

import asyncio
import gc
import os
import selectors
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVar

from ._crossing import Crossing
from ._door import TrioCall, TrioDoor
from ._threads import ToolThreads
from ._types import BridgeClosed, TargetCancelled, TargetExited, logger

T = TypeVar("T")

_FRAMES = ("cr_frame", "gi_frame", "ag_frame")


class LoopThread:
    """The thread, its loop, and what is posted to it.

    Attributes:
        door: The way back into trio.
        tools: The executor of synchronous tools.
        abandoned: What was still running when the thread gave up waiting, in words; set at its end.
    """

    def __init__(self, door: TrioDoor, tool_threads: int) -> None:
        self.door = door
        self.tools = ToolThreads(tool_threads, "afactors-tool")
        self.abandoned: list[str] = []
        self._inbox: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._scheduled = False
        # Callbacks of the bridge run in one neutral context, not in that of whoever happened to post.
        self._context = Context()
        self._closing = False
        self._finished = False
        self._loop = asyncio.SelectorEventLoop(_ForkSafeSelector())
        self._loop.set_default_executor(self.tools)
        self._loop.set_exception_handler(_log_stray_error)
        self._thread = threading.Thread(target=self._main, name="afactors-bridge", daemon=True)

    # --- from trio ---------------------------------------------------------------------------------

    def start(self) -> None:
        """[trio] Start the thread."""
        try:
            self._thread.start()
        except RuntimeError:
            self._loop.close()
            raise

    def join(self, timeout: float) -> bool:
        """[trio] Wait for the thread, which said that it is about to end. Returns whether it did."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def ident(self) -> int | None:
        """The thread's identifier."""
        return self._thread.ident

    def post(self, callback: Callable[[T], None], argument: T) -> None:
        """[trio] Call ``callback(argument)`` in the loop soon; one wake-up for all that wait.

        Nothing happens when the loop is closed: nobody is left there to care.
        """
        self._inbox.append((callback, argument))
        if not self._scheduled:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._drain, context=self._context)
            except RuntimeError:
                logger.debug("the bridge thread has ended: %r is dropped", callback)

    def begin(self, work: Crossing[Any]) -> None:
        """[trio] Start the work in a task of its own."""
        self.post(self._begin, work)

    def cancel(self, work: Crossing[Any]) -> None:
        """[trio] Cancel the task of the work."""
        self.post(self._cancel, work)

    def close(self, *, grace: float, deadline: float, then: Callable[[], None]) -> None:
        """[trio] End everything by ``deadline`` (monotonic); ``then()`` is called in trio at the end."""
        self.post(self._close, (grace, deadline, then))

    def stack(self) -> str:
        """Tell where the thread is now, as a formatted stack; empty when it has ended."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else ""

    # --- in the loop -------------------------------------------------------------------------------

    def create_future(self) -> "asyncio.Future[None]":
        """[asyncio] Make a future of the loop."""
        return self._loop.create_future()

    async def call_trio(self, call: TrioCall[T]) -> T:
        """[asyncio] Run the call in trio and await its outcome.

        When the awaiting task is cancelled, so is the call; the cancellation goes on when it has ended.
        """
        over = asyncio.Event()
        call.reply = lambda: self.post(asyncio.Event.set, over)
        self.door.post(call.begin)
        try:
            await over.wait()
        except asyncio.CancelledError:
            self.door.post(call.cancel)
            await _insist(over)
            if call.error is not None and not isinstance(call.error, BridgeClosed):
                logger.warning("a cancelled call into trio failed: %r", call.fn, exc_info=call.error)
            raise
        if call.error is not None:
            raise call.error
        return call.value  # type: ignore[return-value]  # a call without error has a value

    def _drain(self) -> None:
        self._scheduled = False  # before looking: who appends from here on schedules anew
        inbox = self._inbox
        for _ in range(len(inbox)):
            callback, argument = inbox.popleft()
            callback(argument)

    def _begin(self, work: Crossing[Any]) -> None:
        work.task = task = self._loop.create_task(self._guard(work), context=work.context)
        task.add_done_callback(work.ended)

    async def _guard(self, work: Crossing[Any]) -> None:
        try:
            value = await work.drive()
        except BaseException as exc:  # noqa: BLE001 - all of it is the caller's; SystemExit would end the loop
            work.settle(None, self._failure(work, exc))
        else:
            work.settle(value, None)

    def _failure(self, work: Crossing[Any], exc: BaseException) -> Exception | None:
        """Say what trio is to raise; None when it asked for the cancellation itself."""
        failure: Exception
        if isinstance(exc, Exception):
            return exc
        if not isinstance(exc, asyncio.CancelledError):
            failure = TargetExited(f"{work} raised {exc!r}")
        elif work.cancel_asked:
            return None
        elif self._closing:
            failure = BridgeClosed(f"the bridge closed while {work} was running")
        else:
            failure = TargetCancelled(f"{work} was cancelled by something on the asyncio side")
        failure.__cause__ = exc
        return failure

    def _cancel(self, work: Crossing[Any]) -> None:
        if work.task is not None:
            work.task.cancel()

    # --- the end -----------------------------------------------------------------------------------

    def _close(self, order: tuple[float, float, Callable[[], None]]) -> None:
        self._closing = True
        grace, deadline, self._then = order
        # The loop keeps only weak references to tasks.
        self._closer = self._loop.create_task(self._end(grace, deadline), context=Context())

    async def _end(self, grace: float, deadline: float) -> None:
        try:
            await self._end_tasks(min(deadline, time.monotonic() + grace))
            await self._end_generators(deadline)
            await self._end_tools(deadline)
        finally:
            self._finished = True
            self._loop.stop()

    async def _end_tasks(self, deadline: float) -> None:
        asked: set[asyncio.Task[Any]] = set()
        while tasks := asyncio.all_tasks() - {self._closer}:
            for task in tasks - asked:  # clean-up may start new ones, hence the loop
                task.cancel()
            asked |= tasks
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                self.abandoned += [f"task {task.get_name()}:\n{_where(task.get_coro())}" for task in tasks]
                return
            await asyncio.wait(tasks, timeout=remaining)

    async def _end_generators(self, deadline: float) -> None:
        closing = asyncio.ensure_future(self._loop.shutdown_asyncgens())
        _, late = await asyncio.wait({closing}, timeout=max(0.0, deadline - time.monotonic()))
        if late:
            self.abandoned.append("async generators that do not close")

    async def _end_tools(self, deadline: float) -> None:
        self.tools.shutdown(wait=False, cancel_futures=True)
        ended = asyncio.wrap_future(self.tools.ended)
        _, late = await asyncio.wait({ended}, timeout=max(0.0, deadline - time.monotonic()))
        if late:
            self.abandoned.append(f"{self.tools.running} synchronous tools")

    # --- the thread --------------------------------------------------------------------------------

    def _main(self) -> None:
        while not self._finished:
            try:
                self._loop.run_forever()
            except (KeyboardInterrupt, SystemExit):
                # asyncio gives the task its exception and then raises it through the loop as well.
                logger.exception("agent code tried to end the process; the bridge goes on")
            else:
                if not self._finished:
                    logger.error("agent code stopped the event loop; the bridge goes on")
        self._loop.close()
        self.door.post(self._then)


class _ForkSafeSelector(selectors.DefaultSelector):
    """A selector that a forked child cannot use.

    Agent code may fork. The child shares the parent's epoll object and wake-up sockets; a child that came
    back into the loop would eat the parent's wake-ups, and the parent would hang.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events, in the process that made the selector."""
        if os.getpid() != self._pid:
            os._exit(1)
        return super().select(timeout)


async def _insist(over: asyncio.Event) -> None:
    """Wait for the event, however often the waiting task is cancelled; it is on its way out already."""
    while not over.is_set():
        try:
            await over.wait()
        except asyncio.CancelledError:
            continue


def _log_stray_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    details = ", ".join(f"{name}={value!r}" for name, value in context.items() if name != "message")
    logger.error(
        "stray error in agent code: %s (%s)",
        context.get("message"),
        details,
        exc_info=context.get("exception"),
    )


def where(work: Crossing[Any]) -> str:
    """Tell where the work is suspended, as a formatted stack, outermost first."""
    task = work.task
    return _where(task.get_coro()) if isinstance(task, asyncio.Task) else ""


def _where(awaitable: object) -> str:
    """Follow what awaits what; ``Task.get_stack`` shows the outermost frame only."""
    frames = []
    while awaitable is not None:
        if _first(awaitable, *_FRAMES) is None:
            # The step of an async generator hides its generator from all but the garbage collector.
            hidden = gc.get_referents(awaitable)
            awaitable = next((thing for thing in hidden if _first(thing, *_FRAMES)), None)
            continue
        frame = _first(awaitable, *_FRAMES)
        frames.append((frame, frame.f_lineno))
        awaitable = _first(awaitable, "cr_await", "gi_yieldfrom", "ag_await")
    return "".join(traceback.StackSummary.extract(iter(frames)).format())


def _first(thing: object, *names: str) -> Any:
    return next((value for name in names if (value := getattr(thing, name, None)) is not None), None)
