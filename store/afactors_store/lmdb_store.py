"""The store in LMDB: one environment in one directory, owned by one process."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import lmdb
import trio

from . import deliveries, lock, records
from .base import BaseStore
from .engine import Operation, apply_batch
from .errors import BadKey, FormatTooNew, StoreBroken, StoreError, StoreFull, StoreUnusable
from .keys import CLEAN, COUNTERS, META
from .kv import LmdbTransaction, Reader, Transaction
from .records import Meta

T = TypeVar("T")

DEFAULT_MAP_SIZE = 64 * 1024**3
RESERVE = 0.05
"""What is kept back, as a share of the map: LMDB needs free pages to delete, too."""
FULL_FOR_SECONDS = 5.0
"""How long a refusal for want of room is remembered, if nothing succeeds meanwhile."""

_READ_THREADS = 4
_PROBE_BYTES = 1024 * 1024
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class LmdbStore(BaseStore):
    """State in one directory, for one process.

    Args:
        path: The state directory; made, with its parents, if it is missing.
        map_size: The most it may ever hold, in bytes. Address space, not disk: the file grows as it is used.
            The map is never resized while it is open.
        sync: False leaves it to the operating system when a commit reaches the disk. A killed process loses
            nothing by it; a power cut may lose the last turns (and, on a file system that reorders writes,
            the store).
    """

    def __init__(self, path: str | os.PathLike[str], *, map_size: int = DEFAULT_MAP_SIZE, sync: bool = True) -> None:
        super().__init__()
        self._path = Path(path)
        self._map_size = map_size
        self._sync = sync

    @property
    def path(self) -> Path:
        """The state directory."""
        return self._path

    @asynccontextmanager
    async def open(self, *, wait_lock: float = 0.0) -> AsyncIterator[None]:
        """Open, hold and close the store; its writer drains before the block ends.

        Args:
            wait_lock: Seconds to wait for another owner to leave.

        Raises:
            StoreLocked: Another process, or this one elsewhere, owns the directory.
            StoreUnusable: The directory cannot be made, written or understood.
            StoreBroken: At the block's end, when the machine failed.
        """
        _make_directory(self._path)
        async with lock.owned(self._path, wait_lock):
            env = _open_environment(self._path, self._map_size, self._sync)
            try:
                engine = LmdbEngine(env)
                meta, left_cleanly = _take_over(engine, self._path)
                async with self._serving(engine, meta, left_cleanly):
                    yield
            finally:
                env.close()


class LmdbEngine:
    """LMDB transactions, with its errors told by fault."""

    def __init__(self, env: lmdb.Environment) -> None:
        info, stat = env.info(), env.stat()
        self._env = env
        self._page_bytes = stat["psize"]
        self._pages = info["map_size"] // self._page_bytes
        self._most_pages = int(self._pages * (1 - RESERVE))
        self._writer_thread = trio.CapacityLimiter(1)
        self._read_threads = trio.CapacityLimiter(_READ_THREADS)
        self._full_until = 0.0
        self.reserved = False
        self._look_at_room()

    @property
    def map_bytes(self) -> int:
        """Size of the map."""
        return self._pages * self._page_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of the map in use: what the free list holds is room again."""
        return self._live_pages() * self._page_bytes

    @property
    def full(self) -> bool:
        """Whether only the reserve is left, or there was no room a moment ago."""
        return self.reserved or time.monotonic() < self._full_until

    def read(self, work: Callable[[Reader], T]) -> T:
        """Read in place, in a short transaction: an old one would pin dead pages."""
        try:
            with self._env.begin() as txn:
                return work(LmdbTransaction(txn))
        except lmdb.Error as exc:
            raise self._fault(exc) from exc

    async def read_aside(self, work: Callable[[Reader], T]) -> T:
        """Read in a worker thread."""
        return await trio.to_thread.run_sync(self.read, work, limiter=self._read_threads)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A write transaction with its own sync. It begins and ends in one thread."""
        try:
            with self._env.begin(write=True) as txn:
                view = LmdbTransaction(txn)
                yield view
        except lmdb.Error as exc:
            raise self._fault(exc) from exc
        if view.writes:
            self._full_until = 0.0

    async def apply(self, batch: Sequence[Operation]) -> int:
        """Apply a batch in one call in the writer's thread."""
        return await trio.to_thread.run_sync(self._apply, batch, limiter=self._writer_thread)

    def _apply(self, batch: Sequence[Operation]) -> int:
        transactions = apply_batch(self, batch)
        self._look_at_room()
        return transactions

    async def note_clean(self) -> None:
        """Note, in the writer's thread, that the owner leaves in order."""
        with trio.CancelScope() as scope:
            scope.shield = True
            await trio.to_thread.run_sync(self._write_now, _put_note, limiter=self._writer_thread)

    def take_note(self) -> bool:
        """Take that note away; whether it was there."""
        return self._write_now(lambda txn: txn.delete(CLEAN))

    def _write_now(self, work: Callable[[Transaction], T]) -> T:
        """A transaction that is on the disk afterwards, with all before it, even where others have no sync."""
        with self.transaction() as txn:
            result = work(txn)
        try:
            self._env.sync(True)
        except lmdb.Error as exc:
            raise self._fault(exc) from exc
        return result

    def _look_at_room(self) -> None:
        """Count live pages, but only where the file has ever grown into the reserve."""
        grown = self._env.info()["last_pgno"] >= self._most_pages
        self.reserved = grown and self._live_pages() >= self._most_pages

    def _live_pages(self) -> int:
        stat = self._env.stat()
        return stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]

    def _fault(self, exc: lmdb.Error) -> StoreError:
        if isinstance(exc, (lmdb.MapFullError, lmdb.TxnFullError)) or self._no_room(exc):
            self._full_until = time.monotonic() + FULL_FOR_SECONDS
            return StoreFull(f"no room in the store: {exc}")
        if isinstance(exc, lmdb.BadValsizeError):
            return BadKey("a value is larger than the store can hold (4 GiB)")
        return StoreBroken(f"the store failed: {exc}")

    def _no_room(self, exc: lmdb.Error) -> bool:
        """Whether the disk is full. A short write, which is how it begins, is EIO to LMDB: so try it."""
        code = getattr(exc, "code", None)  # errors that py-lmdb raises by itself have none
        if code != errno.EIO:
            return code in _NO_ROOM
        try:
            with tempfile.TemporaryFile(dir=self._env.path()) as probe:
                probe.write(bytes(_PROBE_BYTES))
                probe.flush()
        except OSError as full:
            return full.errno in _NO_ROOM
        return False


def _make_directory(path: Path) -> None:
    """Make the directory and its missing parents, readable by their owner alone."""
    try:
        for part in (*reversed(path.parents), path):
            if not part.exists():
                part.mkdir(mode=0o700, exist_ok=True)
        if path.is_dir():
            return
        reason = "it is not a directory"
    except OSError as exc:
        reason = exc.strerror or str(exc)
    raise StoreUnusable(f"cannot make the state directory '{path}': {reason}; choose another --state-dir")


def _open_environment(path: Path, map_size: int, sync: bool) -> lmdb.Environment:
    try:
        return lmdb.Environment(
            os.fspath(path),
            map_size=map_size,
            max_dbs=0,
            mode=0o600,
            sync=sync,
            max_spare_txns=_READ_THREADS + 1,
        )
    except lmdb.InvalidError:
        reason = "its data.mdb is not an LMDB file; move it away or choose another --state-dir"
    except lmdb.VersionMismatchError as exc:
        raise FormatTooNew(f"cannot open '{path}': another version of LMDB wrote its data.mdb ({exc})") from None
    except lmdb.MemoryError:
        reason = f"no address space for a map of {map_size} bytes; give a smaller --map-size"
    except (lmdb.Error, OSError) as exc:
        if "already open in this process" in str(exc):
            raise lock.locked(path, os.getpid()) from None
        reason = f"{exc}; check the rights and the disk, or choose another --state-dir"
    raise StoreUnusable(f"cannot open the state directory '{path}': {reason}")


def _renew_index(engine: LmdbEngine) -> None:
    """Bring what an older store has of its lanes up to date, once."""
    if engine.read(lambda kv: records.lacks_counters(kv.get(COUNTERS))):
        with engine.transaction() as txn:
            deliveries.renew_index(txn)


def _put_note(txn: Transaction) -> None:
    txn.put(CLEAN, b"")


def _take_over(engine: LmdbEngine, path: Path) -> tuple[Meta, bool]:
    """The meta row, and whether the previous owner left in order."""
    try:
        meta = _read_or_make_meta(engine, path)
        _renew_index(engine)
        return meta, engine.take_note()
    except FormatTooNew as exc:
        raise FormatTooNew(
            f"a newer afactors wrote the store in '{path}': {exc}; update afactors or choose another --state-dir"
        ) from None
    except (StoreBroken, StoreFull) as exc:
        raise StoreUnusable(f"cannot use the state directory '{path}': {exc}") from exc


def _read_or_make_meta(engine: LmdbEngine, path: Path) -> Meta:
    """The meta row, which an empty store gets. Nothing is written before the format is known to be ours."""
    raw = engine.read(lambda kv: kv.get(META))
    if raw is not None:
        return records.decode_meta(raw)
    if engine.used_bytes:
        raise StoreUnusable(f"'{path}' holds an LMDB database of something else; choose another --state-dir")
    meta = Meta(records.FORMAT, os.urandom(16), os.urandom(32), time.time())
    with engine.transaction() as txn:
        txn.put(META, records.encode_meta(meta))
        _put_note(txn)  # nobody was there before who could have left in disorder
    return meta
