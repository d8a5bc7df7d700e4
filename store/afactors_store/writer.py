"""The writer task: group commit.

A batch is whatever waits when the writer is free, in order of arrival; nobody waits for a batch to fill.
While one batch is being made durable, the next one gathers by itself: the busier the store, the larger its
batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import outcome
import trio

from .engine import Engine, Operation
from .errors import StoreBroken, StoreUnusable
from .kv import Transaction

T = TypeVar("T")

BATCH_OPERATIONS = 1024
BATCH_BYTES = 32 * 1024 * 1024


class Writer:
    """The one who writes. It lives for as long as the block `running()` does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: deque[Operation] = deque()
        self._in_flight = 0
        self._wake = trio.Event()
        self._closing = False
        self._ended = False
        self.broken: str | None = None
        self.applied = 0
        self.batches = 0
        self.refused = 0

    @property
    def waiting(self) -> int:
        """Operations handed over that have no outcome yet."""
        return len(self._queue) + self._in_flight

    @trio.lowlevel.enable_ki_protection
    async def submit(self, work: Callable[[Transaction], T], size: int) -> T:
        """Hand a change over and wait until it is durable. Once handed over, it is not cancelled."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.broken is not None:
            raise StoreBroken(self.broken)
        if self._ended:
            raise StoreUnusable("the store is closed")
        self._queue.append(Operation(work, size, trio.lowlevel.current_task()))
        self._wake.set()
        result: T = await trio.lowlevel.wait_task_rescheduled(_stay)
        return result

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write for as long as the block lasts and then until the queue is empty.

        What the block raises leaves as it came, not in a group: the writer itself raises nothing that counts.

        Raises:
            StoreBroken: At the block's end, if the machine failed.
        """
        body: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run, name="afactors store writer")
                try:
                    yield
                except BaseException as exc:
                    body = exc
                    raise
                finally:
                    self._closing = True
                    self._wake.set()
        except BaseExceptionGroup:
            if body is None:
                raise
        if self.broken is not None:
            raise StoreBroken(self.broken) from body
        if body is not None:
            raise body

    @trio.lowlevel.enable_ki_protection
    async def _run(self) -> None:
        with trio.CancelScope() as scope:
            scope.shield = True
            while self.broken is None:
                batch = self._next_batch()
                if batch:
                    await self._write(batch)
                elif self._closing:
                    self._ended = True
                    return
                else:
                    self._wake = trio.Event()
                    await self._wake.wait()

    def _next_batch(self) -> list[Operation]:
        batch: list[Operation] = []
        size = 0
        while self._queue and len(batch) < BATCH_OPERATIONS:
            size += self._queue[0].size
            if batch and size > BATCH_BYTES:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _write(self, batch: list[Operation]) -> None:
        self._in_flight = len(batch)
        try:
            self.batches += await self._engine.apply(batch)
        except StoreBroken as exc:
            self.broken = str(exc)
        except BaseException as exc:
            self.broken = f"the store's writer failed: {exc!r}"
            raise
        finally:
            self._in_flight = 0
            self._answer(batch)
            if self.broken is not None:
                self._answer(self._queue)
                self._queue.clear()

    def _answer(self, operations: list[Operation] | deque[Operation]) -> None:
        for operation in operations:
            result = operation.outcome
            if result is None:
                result = outcome.Error(StoreBroken(self.broken or "the writer stopped"))
            if isinstance(result, outcome.Value):
                self.applied += 1
            else:
                self.refused += 1
            trio.lowlevel.reschedule(operation.task, result)


def _stay(_: object) -> trio.lowlevel.Abort:
    """Refuse a cancellation: what was handed over will be written, and its waiter must learn that."""
    return trio.lowlevel.Abort.FAILED
