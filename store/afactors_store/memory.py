"""The store in memory, for tests: the same logic and the same writer over a sorted dict."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import trio
from sortedcontainers import SortedDict

from . import records
from .base import BaseStore
from .engine import Operation, apply_batch
from .errors import StoreLocked
from .keys import CLEAN
from .kv import Reader, SortedTransaction, Transaction
from .records import Meta

T = TypeVar("T")


class MemoryStore(BaseStore):
    """State that lives as long as this object: it may be closed and opened again, and still has its data."""

    def __init__(self) -> None:
        super().__init__()
        self._engine = MemoryEngine([(CLEAN, b"")])
        self._closed = trio.Event()
        self._meta = Meta(records.FORMAT, os.urandom(16), os.urandom(32), time.time())

    @asynccontextmanager
    async def open(self, *, wait_lock: float = 0.0) -> AsyncIterator[None]:
        """Open, hold and close the store; its writer drains before the block ends.

        Args:
            wait_lock: Seconds to wait for another block to end.

        Raises:
            StoreLocked: It is open elsewhere in this process.
        """
        deadline = trio.current_time() + wait_lock
        while self._opened is not None:
            left = deadline - trio.current_time()
            if left <= 0:
                me = os.getpid()
                raise StoreLocked(f"this store is open already, in process {me} (this one)", me)
            with trio.move_on_after(left):
                await self._closed.wait()
        self._closed = trio.Event()
        try:
            async with self._serving(self._engine, self._meta, self._engine.take_note()):
                yield
        finally:
            self._closed.set()

    def crash(self) -> None:
        """Let the next opening find what is committed now, as after a kill: what is written after this is lost."""
        self._engine = MemoryEngine(self._engine._data.items())
        self._engine.take_note()


class MemoryEngine:
    """Transactions over a sorted dict."""

    full = False
    reserved = False
    map_bytes = 0

    def __init__(self, rows: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._data = SortedDict(rows)

    @property
    def used_bytes(self) -> int:
        """Bytes of all rows."""
        return sum(len(key) + len(value) for key, value in self._data.items())

    def read(self, work: Callable[[Reader], T]) -> T:
        """Read; nothing is ever half written where this runs."""
        return work(SortedTransaction(self._data))

    async def read_aside(self, work: Callable[[Reader], T]) -> T:
        """Read, after others had their turn."""
        await trio.lowlevel.checkpoint()
        return self.read(work)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction that is undone if the block raises."""
        txn = SortedTransaction(self._data)
        try:
            yield txn
        except BaseException:
            txn.undo()
            raise

    async def apply(self, batch: Sequence[Operation]) -> int:
        """Apply a batch, after others had their turn."""
        await trio.lowlevel.checkpoint()
        return apply_batch(self, batch)

    async def note_clean(self) -> None:
        """Note that the owner leaves in order."""
        self._data[CLEAN] = b""

    def take_note(self) -> bool:
        """Take that note away; whether it was there."""
        return self._data.pop(CLEAN, None) is not None
