"""The face of the bridge: what the rest of the runtime calls, from trio."""

import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import trio

from ._crossing import Crossing, HoldCrossing, StreamCrossing
from ._door import TrioCall, TrioDoor
from ._driver import Driver
from ._loop import LoopThread
from ._stream import BridgeStream
from ._types import BridgeStatistics, logger
from ._watchdog import Watchdog

T = TypeVar("T")
U = TypeVar("U")
F = TypeVar("F")

# How much longer trio waits than the asyncio thread was told to take, so that a thread that used its
# time up still gets to say so.
_MARGIN = 0.25


class Bridge:
    """One asyncio thread, started and joined by ``async with``.

    Args:
        cancel_grace: Seconds that work gets to end after its cancellation before it is abandoned.
        tool_threads: How many synchronous tools may run at once.
        buffer: Chunks of a stream that may wait for their consumer; pulling stops there.
        stall_warning: Seconds without a beat after which the thread is unhealthy, and logged with its stack.
        stall_limit: Seconds without a beat after which ``on_stall`` is called; None for never.
        on_stall: Called in trio with a reason, once per stall. What it raises comes out of the
            ``async with``, in an exception group.
        close_timeout: Seconds that leaving the ``async with`` may take. What has not ended by then (a
            synchronous tool, say) is abandoned and logged.

    One bridge is entered once, and used from the trio run it was entered in.
    """

    def __init__(
        self,
        *,
        cancel_grace: float = 5.0,
        tool_threads: int = 64,
        buffer: int = 64,
        stall_warning: float = 5.0,
        stall_limit: float | None = 120.0,
        on_stall: Callable[[str], None] | None = None,
        close_timeout: float = 10.0,
    ) -> None:
        if buffer < 1 or tool_threads < 1:
            raise ValueError("buffer and tool_threads must be at least 1")
        self._tool_threads = tool_threads
        self._buffer = buffer
        self._close_timeout = close_timeout
        self._driver = Driver(cancel_grace)
        self._watchdog = Watchdog(warning=stall_warning, limit=stall_limit, on_stall=on_stall)
        self._calls: set[TrioCall[Any]] = set()
        self._loop: LoopThread | None = None

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError("a Bridge is entered once")
        await trio.lowlevel.checkpoint()
        self._loop = LoopThread(TrioDoor(trio.lowlevel.current_trio_token()), self._tool_threads)
        self._loop.start()
        self._driver.open(self._loop)
        self._nursery_manager = trio.open_nursery()
        self._nursery = await self._nursery_manager.__aenter__()
        self._watching = trio.CancelScope()
        self._nursery.start_soon(self._watch, self._loop, name="afactors.bridge watchdog")
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _exc: BaseException | None, _tb: TracebackType | None
    ) -> None:
        assert self._loop is not None  # noqa: S101 - __aenter__ set it
        self._driver.close()
        self._watching.cancel()
        await self._close(self._loop)
        # What the body raised goes on as it is, not wrapped into the group of a nursery that is ours.
        self._nursery.cancel_scope.shield = True
        self._nursery.cancel_scope.cancel()
        await self._nursery_manager.__aexit__(None, None, None)

    # --- work --------------------------------------------------------------------------------------

    @overload
    async def run(self, fn: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T: ...
    @overload
    async def run(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T: ...
    async def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``fn(*args, **kwargs)`` in the asyncio thread and return its value.

        An awaitable result is awaited there. It runs in a task of its own, in a fresh copy of the caller's
        context. When the caller is cancelled, so is the task, and the caller waits for its ``finally``
        blocks: up to ``cancel_grace`` seconds.

        Raises:
            TargetCancelled: The task was cancelled, and not by the caller.
            TargetExited: The task raised ``SystemExit``, ``KeyboardInterrupt`` or the like.
            BridgeClosed: The bridge is not open, or closed meanwhile.
            RuntimeError: Called from outside the bridge's trio run.
            Exception: Whatever the target raised, with its traceback.
        """
        driver = self._driver
        work: Crossing[Any] = Crossing(fn, args, kwargs, driver.loop(), driver.ended)
        await driver.begin(work)
        await driver.finish(work)
        return work.result()

    def stream(
        self,
        fn: Callable[..., AsyncIterable[U] | Awaitable[AsyncIterable[U]]],
        /,
        *args: Any,
        finish: Callable[[Any], Awaitable[F] | F] | None = None,
        **kwargs: Any,
    ) -> "BridgeStream[U, F]":
        """Drive the async iterable that ``fn(*args, **kwargs)`` makes, from one asyncio task.

        Args:
            fn: Called in the asyncio thread when the block is entered.
            *args: For ``fn``.
            finish: Computes ``stream.final`` from the exhausted stream object, in the same task; by default
                its ``get_final_response()``, or None when it has no such method.
            **kwargs: For ``fn``.

        Returns:
            An async context manager that is itself an async iterator of batches. Leaving it early cancels
            the task and waits for its ``finally`` blocks.
        """

        def make() -> StreamCrossing[U, F]:
            driver = self._driver
            return StreamCrossing(fn, args, kwargs, driver.loop(), driver.ended, buffer=self._buffer, finish=finish)

        return BridgeStream(self._driver, make)

    @asynccontextmanager
    async def hold(
        self, enter: Callable[..., AbstractAsyncContextManager[T]], /, *args: Any, **kwargs: Any
    ) -> AsyncIterator[T]:
        """Keep ``enter(*args, **kwargs)``, an async context manager, entered in one asyncio task.

        It is made, entered and left in that task; it lives as long as the block. It is not told of a
        failure of the block. When the block fails, leaving takes at most twice ``cancel_grace``.

        A resource that ends by itself while it is held is logged at once; the block goes on, and what ended
        it is raised at the end of the block.
        """
        driver = self._driver
        work: HoldCrossing[T] = HoldCrossing(enter, args, kwargs, driver.loop(), driver.ended)
        await driver.begin(work)
        try:
            while not (work.entered or work.done):
                await work.park()
        except (trio.Cancelled, KeyboardInterrupt):
            await driver.stop(work)
            raise
        if not work.entered:
            work.result()
        well = False
        try:
            yield work.value  # type: ignore[misc]  # an entered resource has a value
            well = True
        finally:
            work.leaving = True
            work.home.post(HoldCrossing.release, work)
            if not well:
                await driver.linger(work)
                await driver.stop(work)
                driver.report(work)
        with trio.move_on_after(self._close_timeout) as late:
            await driver.finish(work)
        if late.cancelled_caught:  # agent code that never gives its thread back; it is abandoned and reported
            driver.report(work)
        else:
            work.result()

    async def call_trio(self, fn: Callable[..., Awaitable[T]], /, *args: Any) -> T:
        """From asyncio code: run ``fn(*args)`` in trio, in the bridge's nursery, and return its value.

        When the awaiting asyncio task is cancelled, so is the call, and the cancellation goes on when the
        call has ended. Exceptions pass through.

        Raises:
            BridgeClosed: The bridge closed before the call ended.
            RuntimeError: Called from outside the asyncio thread.
        """
        if self._loop is None or threading.get_ident() != self._loop.ident:
            raise RuntimeError("call_trio is for code in the asyncio thread of an open bridge")
        return await self._loop.call_trio(TrioCall(fn, args, self._nursery, self._calls))

    @property
    def inside(self) -> bool:
        """Whether the caller runs in the asyncio thread, and so must use `call_trio` to reach trio."""
        return self._loop is not None and threading.get_ident() == self._loop.ident

    # --- health ------------------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """Whether the bridge is open and its loop beat within ``stall_warning`` seconds."""
        return self._driver.is_open and self._watchdog.healthy

    def statistics(self) -> BridgeStatistics:
        """Tell what goes on."""
        driver = self._driver
        return BridgeStatistics(
            running=len(driver.running),
            abandoned=len(driver.stragglers),
            abandoned_total=driver.abandoned,
            completed=driver.completed,
            failed=driver.failed,
            cancelled=driver.cancelled,
            trio_calls=len(self._calls),
            tools_running=self._loop.tools.running if self._loop is not None else 0,
            lateness=self._watchdog.lateness,
            stalled_for=self._watchdog.stalled_for,
            healthy=self.healthy,
        )

    # --- inside ------------------------------------------------------------------------------------

    async def _watch(self, loop: LoopThread) -> None:
        with self._watching:
            await self._watchdog.run(loop)

    async def _close(self, loop: LoopThread) -> None:
        ended = trio.Event()
        deadline = time.monotonic() + self._close_timeout
        loop.close(grace=self._driver.grace, deadline=deadline, then=ended.set)
        with trio.move_on_after(self._close_timeout + _MARGIN, shield=True):
            await ended.wait()
        if not (ended.is_set() and loop.join(_MARGIN)):
            logger.error(
                "the bridge thread did not end within %.1f s and is abandoned; it stands here:\n%s",
                self._close_timeout,
                loop.stack(),
            )
        elif loop.abandoned:
            logger.error("the bridge closed and abandoned: %s", "; ".join(loop.abandoned))
        self._driver.give_up()
        for call in list(self._calls):
            call.cancel()
