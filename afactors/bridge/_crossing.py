"""Work on its way over the bridge: what both threads hold of it.

A crossing is begun in trio, driven by one asyncio task, and waited for in trio. Fields are written by
one thread only (noted beside them); the other reads them after the hand-over through a `TrioDoor` or
the loop's inbox. Where a flag is raised in one thread and lowered in the other, both sides write first
and look second, so that one of them sees the other whatever the interleaving.
"""

import contextvars
import inspect
from collections import deque
from collections.abc import AsyncIterable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, Protocol, TypeVar

import trio

from ._door import TrioDoor
from ._types import TargetCancelled, logger

T = TypeVar("T")
U = TypeVar("U")


class Future(Protocol):
    """What is needed here of an ``asyncio.Future``."""

    def done(self) -> bool:
        """Whether it has a result."""
        ...

    def set_result(self, result: None, /) -> None:
        """Wake whoever awaits it."""
        ...

    def __await__(self) -> Any: ...


class Task(Protocol):
    """What is needed here of an ``asyncio.Task``."""

    def cancel(self) -> bool:
        """Throw ``CancelledError`` into it."""
        ...


class Home(Protocol):
    """What the asyncio thread gives a crossing that runs in it."""

    door: TrioDoor

    def create_future(self) -> Future:
        """[asyncio] Make a future of the loop."""
        ...

    def begin(self, work: "Crossing[Any]") -> None:
        """[trio] Start the work."""
        ...

    def cancel(self, work: "Crossing[Any]") -> None:
        """[trio] Cancel the work."""
        ...

    def post(self, callback: Callable[[T], None], argument: T) -> None:
        """[trio] Call ``callback(argument)`` there soon."""
        ...


class Crossing(Generic[T]):
    """One call, run in one asyncio task, and its outcome."""

    __slots__ = (
        "__weakref__",
        "abandoned",
        "args",
        "cancel_asked",
        "context",
        "done",
        "error",
        "fn",
        "home",
        "kwargs",
        "on_done",
        "settled",
        "task",
        "value",
        "waiter",
    )

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        home: Home,
        on_done: Callable[["Crossing[Any]"], None],
    ) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.home = home
        self.on_done = on_done
        self.context = contextvars.copy_context()
        # written by trio
        self.cancel_asked = False
        self.abandoned = False
        self.done = False
        self.waiter: trio.lowlevel.Task | None = None
        # written by asyncio
        self.task: Task | None = None
        self.settled = False
        self.value: T | None = None
        self.error: Exception | None = None

    def __str__(self) -> str:
        fn = self.fn
        return f"{getattr(fn, '__module__', '?')}.{getattr(fn, '__qualname__', repr(fn))}"

    async def drive(self) -> Any:
        """[asyncio] Do the work and return its value."""
        value = self.fn(*self.args, **self.kwargs)
        if inspect.isawaitable(value):
            value = await value
        return value

    def settle(self, value: Any, error: Exception | None) -> None:
        """[asyncio] Record the outcome, once, and tell trio."""
        if not self.settled:
            self.value = value
            self.error = error
            self.settled = True
            self.home.door.post(self.arrive)

    def ended(self, task: object) -> None:
        """[asyncio] The task is over. It has settled, unless it was cancelled before its first step."""
        if not self.settled:
            error = None if self.cancel_asked else TargetCancelled(f"{self} was cancelled before it began")
            self.settle(None, error)
        self.task = None

    def arrive(self) -> None:
        """[trio] Something happened over there: take note and wake the waiter, who looks for himself."""
        if self.settled and not self.done:
            self.done = True
            self.on_done(self)
        if self.waiter is not None:
            waiter, self.waiter = self.waiter, None
            trio.lowlevel.reschedule(waiter)

    async def park(self) -> None:
        """[trio] Sleep until the next `arrive`. Cancelling it changes nothing over there."""
        self.waiter = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._unpark)

    def _unpark(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self.waiter = None
        return trio.lowlevel.Abort.SUCCEEDED

    def result(self) -> T:
        """[trio] Return the value, or raise what the target raised, with its traceback.

        The crossing keeps no reference to the exception, whose frames refer to the crossing.
        """
        error, self.error = self.error, None
        if error is None:
            return self.value  # type: ignore[return-value]  # a settled crossing without error has one
        try:
            raise error
        finally:
            del error


class StreamCrossing(Crossing[T], Generic[U, T]):
    """A whole stream, pulled from one asyncio task into a bounded buffer."""

    __slots__ = ("buffer", "chunks", "finish", "hungry", "room", "starved")

    def __init__(
        self,
        *crossing: Any,
        buffer: int,
        finish: Callable[[Any], Any] | None,
    ) -> None:
        super().__init__(*crossing)
        self.buffer = buffer
        self.finish = finish
        self.chunks: deque[U] = deque()  # asyncio appends, trio pops
        self.hungry = False  # raised by trio before it parks, lowered by asyncio when it has woken it
        self.starved = False  # raised by asyncio before it waits for room, lowered by trio when it made some
        self.room: Future | None = None  # asyncio's own

    async def drive(self) -> Any:
        """[asyncio] Open the stream, pull it to its end, compute the final value and close it."""
        source = self.fn(*self.args, **self.kwargs)
        if not isinstance(source, AsyncIterable):  # a ResponseStream is awaitable, too: iterating comes first
            source = await source
        failed = True
        try:
            await self._pull(source)
            final = await self._final(source)
            failed = False
        finally:
            await self._close(source, quiet=failed)
        return final

    async def _pull(self, source: AsyncIterable[U]) -> None:
        chunks, buffer, post, arrive = self.chunks, self.buffer, self.home.door.post, self.arrive
        iterator = aiter(source)
        try:
            async for chunk in iterator:
                chunks.append(chunk)
                if self.hungry:
                    self.hungry = False
                    post(arrive)
                if len(chunks) >= buffer:
                    await self._wait_for_room()
        finally:
            # An iterable may make its iterator by an async generator; left alone, that would be closed
            # whenever the garbage collector comes by.
            close = getattr(iterator, "aclose", None)
            if iterator is not source and close is not None:
                await close()

    async def _wait_for_room(self) -> None:
        self.room = self.home.create_future()
        self.starved = True
        if len(self.chunks) < self.buffer:  # taken between the look and the flag
            self.starved = False
            return
        await self.room

    def make_room(self) -> None:
        """[asyncio] The consumer took what was there."""
        if self.room is not None and not self.room.done():
            self.room.set_result(None)

    async def _final(self, source: Any) -> Any:
        finish = self.finish
        if finish is None:
            compute = getattr(source, "get_final_response", None)
            return None if compute is None else await compute()
        final = finish(source)
        return await final if inspect.isawaitable(final) else final

    async def _close(self, source: Any, *, quiet: bool) -> None:
        close = getattr(source, "close", None) or getattr(source, "aclose", None)
        if close is None:
            return
        try:
            closing = close()
            if inspect.isawaitable(closing):
                await closing
        except Exception:
            if not quiet:
                raise
            logger.warning("closing the stream of %s failed after it had failed", self, exc_info=True)

    def take(self) -> list[U]:
        """[trio] Take all chunks that wait."""
        chunks = self.chunks
        return [chunks.popleft() for _ in range(len(chunks))]


class HoldCrossing(Crossing[T]):
    """An async context manager that is entered, held and left by one asyncio task."""

    __slots__ = ("_let_go", "entered", "leaving")

    def __init__(self, *crossing: Any) -> None:
        super().__init__(*crossing)
        self.entered = False
        self.leaving = False  # written by trio, when the block is over
        self._let_go: Future | None = None

    async def drive(self) -> Any:
        """[asyncio] Enter, tell trio, stay until `release`, leave."""
        self._let_go = self.home.create_future()
        manager: AbstractAsyncContextManager[T] = self.fn(*self.args, **self.kwargs)
        async with manager as value:
            self.value = value
            self.entered = True
            self.home.door.post(self.arrive)
            await self._let_go
        return value

    def release(self) -> None:
        """[asyncio] Leave the context manager."""
        if self._let_go is not None and not self._let_go.done():
            self._let_go.set_result(None)

    def arrive(self) -> None:
        """[trio] As for every crossing; a resource that ends while it is held is reported."""
        first = self.settled and not self.done
        super().arrive()
        if first and self.entered and not self.leaving:
            logger.error("%s ended while it was held: %r", self, self.error)
