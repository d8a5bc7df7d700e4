"""The store over any engine: every method of the `Store` Protocol, once. Those of deliveries are in `outbox`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Sequence
from functools import partial

from . import actors, apply, copying, keys, letters, reads, upkeep
from .outbox import Outbox
from .prepare import ROW_BYTES, letter, prepare
from .serving import SLICE_BYTES
from .values import Claim, Commit, Committed, Found, Letter, NewLetter, RunRecord, Slice, Timer, Work


class BaseStore(Outbox):
    """A store whose subclass says how its engine is opened."""

    def __init__(self) -> None:
        super().__init__()
        self._restoring: set[bytes] = set()  # tokens of what is being restored

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

    async def timers(self, now: float, after: bytes = b"", limit: int = 100) -> list[Timer]:
        """Timers that are due at `now`, the earliest first, after position `after`."""
        keys.instant(now)
        return await self._listing(partial(reads.timers, now=now), after, limit)

    async def next_timer(self, after: float | None = None) -> float | None:
        """The earliest instant that a timer has, or of those later than `after`; None if there is none."""
        start = keys.TIMERS if after is None else keys.up_to(keys.TIMERS, after)
        return await self._point(lambda kv: reads.next_timer(kv, start))

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


def _named(documents: Sequence[str]) -> list[tuple[str, bytes]]:
    return [(name, keys.encode_name(name, "a document name")) for name in documents]


def _key_position(after: str | None) -> bytes:
    return b"" if after is None else keys.inline(keys.encode_key(after))
