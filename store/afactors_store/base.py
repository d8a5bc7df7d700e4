"""The store over any engine: every method of the `Store` Protocol, once.

Small reads happen in place, without a thread and without yielding to other tasks. Writes go to the writer
task.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import NamedTuple, TypeVar

import trio

from . import actors, apply, copying, deliveries, keys, letters, reads, upkeep
from .engine import Engine
from .errors import StoreBroken, StoreFull, StoreUnusable
from .kv import Reader, Transaction
from .prepare import ROW_BYTES, letter, prepare, readable
from .protocol import (
    Claim,
    Commit,
    Committed,
    Dead,
    DeadLetter,
    Delivery,
    Found,
    Letter,
    NewLetter,
    Retry,
    RunRecord,
    Settlement,
    Slice,
    StoreStatistics,
    Work,
)
from .records import Meta
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


class BaseStore:
    """A store whose subclass says how its engine is opened."""

    def __init__(self) -> None:
        self._opened: Opened | None = None
        self._restoring: set[bytes] = set()  # tokens of what is being restored

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
        return StoreStatistics(
            keys=engine.read(actors.read_counters).keys,
            commits=writer.applied,
            batches=writer.batches,
            refused=writer.refused,
            waiting=writer.waiting,
            used_bytes=engine.used_bytes,
            map_bytes=engine.map_bytes,
        )

    async def claim(self, key: str, documents: Sequence[str] = ()) -> Claim:
        """Claim a key and read the named documents. Writes nothing."""
        encoded = keys.encode_key(key)
        named = _named(documents)
        return await self._point(lambda kv: reads.claim(kv, encoded, named))

    async def read(self, claim: Claim, documents: Sequence[str]) -> dict[str, bytes]:
        """Those of the named documents that exist."""
        key = claim.key.encode()
        named = _named(documents)
        return await self._point(lambda kv: reads.read(kv, key, named))

    async def list_documents(self, claim: Claim, prefix: str = "", after: str = "", limit: int = 100) -> list[str]:
        """Names of documents that begin with `prefix`, in order, after `after`."""
        encoded = keys.encode_prefix(prefix)
        listing = partial(reads.names, key=claim.key.encode(), of=keys.DOCUMENT, prefix=encoded)
        return await self._listing(listing, keys.encode_prefix(after), limit)

    async def read_log(self, claim: Claim, log: int, start: int, stop: int) -> list[bytes]:
        """Rows `start` ≤ position < `stop` of a log; fewer where the log is shorter, none if the first is gone."""
        encoded = keys.u64(keys.check_u64(log, "a log id"))
        start = keys.check_u64(start, "a log position")
        listing = partial(reads.log_rows, key=claim.key.encode(), log=encoded)
        return await self._listing(listing, start, stop - start)

    async def log_length(self, claim: Claim, log: int) -> int:
        """The position behind a log's last row; 0 if there is none."""
        key, encoded = claim.key.encode(), keys.u64(keys.check_u64(log, "a log id"))
        return await self._point(lambda kv: reads.log_length(kv, key, encoded))

    async def names(self, claim: Claim, after: str = "", limit: int = 1000) -> list[str]:
        """Global names that the key holds, in order, after `after`."""
        listing = partial(reads.names, key=claim.key.encode(), of=keys.NAME, prefix=b"")
        return await self._listing(listing, keys.encode_prefix(after), limit)

    async def find(self, name: str) -> Found | None:
        """Look a global name up. One that has expired may be found until `expire` comes to it."""
        encoded = keys.encode_name(name)
        return await self._point(lambda kv: reads.find(kv, encoded))

    async def run(self, key: str, run_id: str) -> bytes | None:
        """The body of a run's record."""
        encoded, encoded_run = keys.encode_key(key), keys.encode_name(run_id, "a run id")
        return await self._point(lambda kv: reads.run(kv, encoded, encoded_run))

    async def runs(self, key: str, after: str = "", limit: int = 100) -> list[RunRecord]:
        """Records of a key's runs, ordered by run id, after `after`."""
        listing = partial(reads.runs, key=keys.encode_key(key))
        return await self._listing(listing, keys.encode_prefix(after), limit)

    async def letters(self, claim: Claim, after: int = -1, limit: int = 100) -> list[Letter]:
        """Waiting letters in order of acceptance, after sequence `after`."""
        listing = partial(reads.letters, key=claim.key.encode())
        return await self._listing(listing, keys.check_u64(after + 1, "a letter's sequence"), limit)

    async def keys(self, after: str | None = None, limit: int = 100) -> list[str]:
        """Isolation keys that have state, in the store's own order, after `after`."""
        return await self._listing(reads.all_keys, _key_position(after), limit)

    async def work(self, now: float, after: str | None = None, limit: int = 100) -> list[Work]:
        """Keys with letters, or with a timer due at `now`, in the store's own order, after `after`."""
        position = _key_position(after)
        return await self._open_here().engine.read_aside(lambda kv: reads.work(kv, now, position, limit))

    async def dead_letters(self, after: int = -1, limit: int = 100) -> list[DeadLetter]:
        """Deliveries that ended as `Dead`, in the order of their commits, after position `after`."""
        return await self._listing(reads.dead_letters, keys.check_u64(after + 1, "a position"), limit)

    async def next_due(self) -> float | None:
        """The earliest instant at which a lane head is due, or None."""
        return await self._point(deliveries.next_due)

    async def enqueue(self, key: str, message_id: str, body: bytes) -> bool:
        """Accept a letter: durable when it returns. False if (key, message_id) waits already.

        Raises:
            StoreFull: Only the reserve is left, which is for what is already accepted.
        """
        encoded = keys.encode_key(key)
        encoded_id, record = letter(NewLetter(message_id, body))
        self._check_unreserved()
        return await self._write(lambda txn: letters.enqueue(txn, encoded, encoded_id, record), len(record) + ROW_BYTES)

    async def commit(self, claim: Claim, commit: Commit) -> Committed:
        """Apply a commit, durable when it returns. Once handed over it is not cancelled."""
        prepared = prepare(claim, commit)
        store_id = self.store_id
        return await self._write(lambda txn: apply.commit(txn, prepared, store_id), prepared.size)

    async def due(self, now: float, limit: int, visibility: float) -> list[Delivery]:
        """Take lane heads that are due: each counts an attempt and is due again at `now + visibility`."""
        for at in (now, visibility):
            keys.instant(at)
        if not await self._point(lambda kv: deliveries.any_due(kv, now)):
            return []
        writer = self._open_here().writer
        return await writer.submit(lambda txn: deliveries.take_due(txn, now, limit, visibility), limit * ROW_BYTES)

    async def settle(self, delivery: Delivery, outcome: Settlement) -> None:
        """End an attempt. A delivery that is no longer this attempt's is left alone."""
        if isinstance(outcome, Retry):
            keys.instant(outcome.at)
        if isinstance(outcome, Dead):
            outcome = Dead(readable(outcome.reason))
        lane = keys.encode_name(delivery.lane, "a lane")
        await self._open_here().writer.submit(
            lambda txn: deliveries.settle(txn, lane, delivery.delivery_id, delivery.attempt, outcome),
            len(delivery.body) if isinstance(outcome, Dead) else ROW_BYTES,
        )

    async def expire(self, now: float, limit: int = 256) -> int:
        """Delete at most `limit` rows whose time is over, oldest first, or of erasures that were cut short."""
        keys.instant(now)
        restoring = self._restoring
        if not await self._point(lambda kv: upkeep.any_expired(kv, now, restoring)):
            return 0
        writer = self._open_here().writer
        return await writer.submit(lambda txn: upkeep.expire(txn, now, limit, restoring), limit * ROW_BYTES)

    async def erase(self, key: str) -> bool:
        """Delete every row and index row of a key, in slices; True if there was any.

        The key is empty for everybody from the first slice on; if the rest is cut short, `expire` finishes
        it. An alias is not followed: a key that leads elsewhere no longer does.
        """
        encoded = keys.encode_key(key)
        existed, number = await self._open_here().writer.submit(lambda txn: upkeep.begin_erase(txn, encoded), ROW_BYTES)
        if number is not None:
            await self._erase_rows(number)
        return existed

    async def _erase_rows(self, number: bytes) -> None:
        slice_of = partial(upkeep.erase_slice, number=number)
        while await self._open_here().writer.submit(slice_of, upkeep.SLICE_ROWS * ROW_BYTES):
            pass

    async def snapshot(self, claim: Claim, after: bytes = b"") -> Slice:
        """All that a key holds, slice by slice, as commits that would write it."""
        key = claim.key.encode()
        return await self._open_here().engine.read_aside(lambda kv: copying.snapshot(kv, key, after, SLICE_BYTES))

    async def restore(self, key: str, slices: AsyncIterable[Commit]) -> Committed:
        """Make a key of slices: all of them, or nothing. Nobody sees any of it before it is whole."""
        encoded, token = keys.encode_key(key), os.urandom(16)
        self._check_unreserved()
        self._restoring.add(token)
        number: bytes | None = None
        try:
            number = await self._write(lambda txn: copying.begin(txn, encoded, token), ROW_BYTES)
            return await self._restore(encoded.decode(), number, slices)
        except Exception:
            if number is not None:
                await self._erase_rows(number)
            raise
        finally:
            self._restoring.discard(token)

    async def _restore(self, key: str, number: bytes, slices: AsyncIterable[Commit]) -> Committed:
        store_id, as_if, kept = self.store_id, Claim(key, actors.EPOCH, 0, b"", {}, 0), list[Commit]()
        async for given in slices:
            self._check_unreserved()
            commit, more = copying.parted(given)
            kept.append(more)
            prepared = prepare(as_if, commit)
            await self._write(partial(copying.add, number=number, prepared=prepared, store_id=store_id), prepared.size)
        last = prepare(as_if, copying.joined(kept))
        return await self._write(partial(copying.finish, number=number, kept=last, store_id=store_id), last.size)

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


def _named(documents: Sequence[str]) -> list[tuple[str, bytes]]:
    return [(name, keys.encode_name(name, "a document name")) for name in documents]


def _key_position(after: str | None) -> bytes:
    return b"" if after is None else keys.inline(keys.encode_key(after))
