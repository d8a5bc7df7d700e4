"""A stream of the target, seen from trio."""

from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

import trio

from ._crossing import StreamCrossing
from ._driver import Driver

U = TypeVar("U")
F = TypeVar("F")


class BridgeStream(Generic[U, F]):
    """An async context manager that is itself an async iterator of batches; made by `Bridge.stream`.

    Each step gives a list: all chunks that were waiting, at least one. A cancelled step loses no chunk and
    leaves the stream running; leaving the block is what stops it.
    """

    def __init__(self, driver: Driver, make: Callable[[], StreamCrossing[U, F]]) -> None:
        self._driver = driver
        self._make = make
        self._work: StreamCrossing[U, F] | None = None
        self._final: F | None = None
        self._read = False  # to the end, or to the failure
        self._over = False

    @property
    def final(self) -> F | None:
        """What ``finish`` or ``get_final_response()`` gave.

        Raises:
            RuntimeError: The stream was not read to its end, or failed.
        """
        if not self._over:
            raise RuntimeError("the final value is known when the stream was read to its end")
        return self._final

    async def __aenter__(self) -> Self:
        if self._work is not None:
            raise RuntimeError("a stream is entered once")
        self._work = self._make()
        await self._driver.begin(self._work)
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _exc: BaseException | None, _tb: TracebackType | None
    ) -> None:
        if self._work is not None:
            await self._driver.stop(self._work)
            self._driver.report(self._work)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[U]:
        work = self._work
        if work is None:
            raise RuntimeError("enter the stream before reading it")
        if work.waiter is not None:
            raise trio.BusyResourceError("another task is reading this stream")
        if work.chunks:
            # A fast stream must not starve other tasks; and more gathers meanwhile.
            await trio.lowlevel.checkpoint()
        await self._wait(work)
        if not work.chunks:
            self._end(work)
            raise StopAsyncIteration
        batch = work.take()
        if work.starved:
            work.starved = False
            work.home.post(StreamCrossing.make_room, work)
        return batch

    async def _wait(self, work: StreamCrossing[U, F]) -> None:
        """Wait for a chunk or the end."""
        while not work.chunks and not work.done:
            work.hungry = True
            if not work.chunks:  # else one came between the look and the flag
                await work.park()
        work.hungry = False

    def _end(self, work: StreamCrossing[U, F]) -> None:
        if not self._read:
            self._read = True
            self._final = work.result()
            self._over = True
