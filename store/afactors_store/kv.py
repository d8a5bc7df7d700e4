"""Ordered key-value transactions: the Protocol that the store's logic is written over, for both engines.

Whoever scans must not write while a scan is open: take the rows first, then change them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import lmdb
    from sortedcontainers import SortedDict


class Reader(Protocol):
    """A consistent view."""

    def get(self, key: bytes, /) -> bytes | None:
        """A row's value, or None."""
        ...

    def scan(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Rows with `start` ≤ key < `stop`, in order or in reverse order."""
        ...


class Transaction(Reader, Protocol):
    """A view that can be written. All of it becomes durable, or none.

    Attributes:
        writes: Counts changes, so that whoever refuses an operation can be held to having changed nothing.
    """

    writes: int

    def put(self, key: bytes, value: bytes) -> None:
        """Write a row."""
        ...

    def delete(self, key: bytes) -> bool:
        """Delete a row; whether it was there."""
        ...


class LmdbTransaction:
    """A view of an LMDB transaction. It copies: no buffer outlives the transaction."""

    __slots__ = ("_txn", "writes")

    def __init__(self, txn: lmdb.Transaction[bytes]) -> None:
        self._txn = txn
        self.writes = 0

    def get(self, key: bytes, /) -> bytes | None:
        """A row's value, or None."""
        return self._txn.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        """Write a row."""
        self.writes += 1
        self._txn.put(key, value)

    def delete(self, key: bytes) -> bool:
        """Delete a row; whether it was there."""
        self.writes += 1
        return self._txn.delete(key)

    def scan(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Rows with `start` ≤ key < `stop`, in order or in reverse order."""
        with self._txn.cursor() as cursor:
            if reverse:
                found = cursor.prev() if cursor.set_range(stop) else cursor.last()
                items = cursor.iterprev(True, True)
            else:
                found = cursor.set_range(start)
                items = cursor.iternext(True, True)
            if not found:
                return
            for key, value in items:
                if not start <= key < stop:
                    return
                yield key, value


class SortedTransaction:
    """A view of a sorted dict that remembers what it changed, so that it can be undone."""

    __slots__ = ("_data", "_undo", "writes")

    def __init__(self, data: SortedDict) -> None:
        self._data = data
        self._undo: list[tuple[bytes, bytes | None]] = []
        self.writes = 0

    def get(self, key: bytes, /) -> bytes | None:
        """A row's value, or None."""
        value: bytes | None = self._data.get(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:
        """Write a row."""
        self.writes += 1
        self._undo.append((key, self._data.get(key)))
        self._data[key] = value

    def delete(self, key: bytes) -> bool:
        """Delete a row; whether it was there."""
        self.writes += 1
        value = self._data.pop(key, None)
        self._undo.append((key, value))
        return value is not None

    def scan(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Rows with `start` ≤ key < `stop`, in order or in reverse order."""
        if start < stop:
            for key in self._data.irange(start, stop, inclusive=(True, False), reverse=reverse):
                yield key, self._data[key]

    def undo(self) -> None:
        """Put everything back as it was."""
        for key, value in reversed(self._undo):
            if value is None:
                self._data.pop(key, None)
            else:
                self._data[key] = value
        self._undo.clear()


def take(rows: Iterator[tuple[bytes, bytes]], limit: int, budget: int) -> tuple[list[tuple[bytes, bytes]], bool]:
    """The first rows, at most `limit`, until about `budget` bytes are read; and whether the budget ended it.

    At least one row is taken, so that whoever goes on in slices makes progress.
    """
    taken: list[tuple[bytes, bytes]] = []
    if limit <= 0:
        return taken, False
    for row in rows:
        taken.append(row)
        if len(taken) == limit:
            break
        budget -= len(row[0]) + len(row[1]) + 64  # 64: a row is work, however small it is
        if budget <= 0:
            return taken, True
    return taken, False


def delete_range(kv: Transaction, start: bytes, stop: bytes) -> int:
    """Delete every row with `start` ≤ key < `stop`; how many there were."""
    doomed = [key for key, _ in kv.scan(start, stop)]
    for key in doomed:
        kv.delete(key)
    return len(doomed)
