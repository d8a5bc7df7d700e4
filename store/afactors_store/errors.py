"""What can go wrong in a store, by whose fault."""

from __future__ import annotations


class StoreError(Exception):
    """Base of everything that a store raises by intention."""


class BadKey(StoreError, ValueError):
    """The caller's: an isolation key, name or id that no store may hold. The message names the limit."""


class Fenced(StoreError):
    """The claim is stale: another owner has claimed the key since. Nothing of the commit was applied."""


class Conflict(StoreError):
    """The commit contradicts what is stored (a name taken, a log with a gap). Nothing was applied."""


class StoreFull(StoreError):
    """The map or the disk is full: new work is refused, what is stored is safe."""


class StoreLocked(StoreError):
    """Another process owns the state directory.

    Attributes:
        pid: The owner's process id, or None where the system does not tell.
    """

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class StoreUnusable(StoreError):
    """The state directory cannot be opened: missing rights, not a directory, not a store."""


class FormatTooNew(StoreUnusable):
    """A newer afactors wrote this store (or this record). It was left untouched."""


class StoreBroken(StoreError):
    """The machine's: an I/O error or a failed fsync. Never retried; the process should stop."""
