"""A store while it is open, over any engine: what it is, and how it reads and writes.

Small reads happen in place, without a thread and without yielding to other tasks. Writes go to the writer
task.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import NamedTuple, TypeVar

import trio

from . import actors
from .engine import Engine
from .errors import StoreBroken, StoreFull, StoreUnusable
from .kv import Reader, Transaction
from .records import Meta
from .values import StoreStatistics
from .writer import Writer

P = TypeVar("P")
T = TypeVar("T")

IN_PLACE_BYTES = 64 * 1024
"""What a listing may read on trio's thread; the rest is read aside, in slices."""
SLICE_BYTES = 1024 * 1024


class Opened(NamedTuple):
    """What exists only while a store is open."""

    engine: Engine
    writer: Writer
    meta: Meta
    pid: int
    left_cleanly: bool


class Serving:
    """What every part of a store stands on; a subclass says how its engine is opened."""

    def __init__(self) -> None:
        self._opened: Opened | None = None

    @asynccontextmanager
    async def _serving(self, engine: Engine, meta: Meta, left_cleanly: bool) -> AsyncIterator[None]:
        writer = Writer(engine)
        self._opened = Opened(engine, writer, meta, os.getpid(), left_cleanly)
        try:
            async with _noting(engine), writer.running():
                yield
        finally:
            self._opened = None

    def _open_here(self) -> Opened:
        opened = self._opened
        if opened is None:
            raise StoreUnusable("the store is not open; use it within `async with store.open():`")
        if opened.pid != os.getpid():
            raise StoreUnusable(
                f"the store was opened by process {opened.pid} and cannot be used in a child that it forked"
            )
        if opened.writer.broken is not None:
            raise StoreBroken(opened.writer.broken)
        return opened

    @property
    def store_id(self) -> bytes:
        """16 random bytes, made when the store was created."""
        return self._open_here().meta.store_id

    @property
    def secret(self) -> bytes:
        """32 random bytes, made when the store was created; never on the wire."""
        return self._open_here().meta.secret

    @property
    def left_cleanly(self) -> bool:
        """Whether the previous owner left in order, or there was none."""
        return self._open_here().left_cleanly

    @property
    def full(self) -> bool:
        """Whether new work must be refused."""
        return self._open_here().engine.full

    def statistics(self) -> StoreStatistics:
        """The store in figures, now. Every change counts as a commit there: letters and settlements, too."""
        engine, writer, *_ = self._open_here()
        counters = engine.read(actors.read_counters)
        return StoreStatistics(
            keys=counters.keys,
            commits=writer.applied,
            batches=writer.batches,
            refused=writer.refused,
            waiting=writer.waiting,
            used_bytes=engine.used_bytes,
            map_bytes=engine.map_bytes,
            pending=counters.pending,
            dead=counters.dead,
        )

    async def _write(self, work: Callable[[Transaction], T], size: int) -> T:
        opened = self._open_here()
        self._check_size(opened, size)
        return await opened.writer.submit(work, size)

    def _check_unreserved(self) -> None:
        opened = self._open_here()
        if opened.engine.reserved:
            opened.writer.refused += 1
            raise StoreFull("the store is full: it takes no new work until something was erased or has expired")

    def _check_size(self, opened: Opened, size: int) -> None:
        if 0 < opened.engine.map_bytes < size:
            opened.writer.refused += 1
            raise StoreFull(f"{size} bytes in one change are more than the whole map of {opened.engine.map_bytes}")

    async def _point(self, work: Callable[[Reader], T]) -> T:
        """A small read: in place."""
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._open_here().engine.read(work)

    async def _listing(
        self, listing: Callable[..., tuple[list[T], P | None]], position: P | None, limit: int
    ) -> list[T]:
        """A read of unknown size: the first slice in place, the others aside, each in a view of its own."""
        found, position = await self._point(
            lambda kv: listing(kv, position=position, limit=limit, budget=IN_PLACE_BYTES)
        )
        while position is not None:
            left = partial(listing, position=position, limit=limit - len(found), budget=SLICE_BYTES)
            more, position = await self._open_here().engine.read_aside(left)
            found += more
        return found


@asynccontextmanager
async def _noting(engine: Engine) -> AsyncIterator[None]:
    """Note that the block was left in order, if it was."""
    cancellation: BaseException | None = None
    try:
        yield
    except BaseException as exc:
        if not _is_cancellation(exc):
            raise
        cancellation = exc
    with suppress(StoreFull):  # without room for the note, the next owner looks more closely than it must
        await engine.note_clean()
    if cancellation is not None:
        raise cancellation


def _is_cancellation(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return all(map(_is_cancellation, exc.exceptions))
    return isinstance(exc, trio.Cancelled)
