"""The seam between the runtime and whatever keeps its state.

There are no interactive transactions: every change is one value (`Commit`, `enqueue`, `settle`) handed over
in one call, so that an engine shared by several processes can stand in for LMDB without touching actor code.

What a store holds, by isolation key (one *actor*):

* **documents**: small named values, rewritten whole;
* **logs**: append-only rows of bytes, addressed by (log id, position); a log id is any unsigned 64-bit number
  that the caller chose at random, a position counts rows from 0;
* **letters**: accepted messages that no turn has consumed yet, in order of acceptance;
* **names**: globally unique names (a response id) with a value, found without knowing their key;
* **runs**: records of turns;
* **timers**: named instants at which the key has work to do;
* **deliveries**: outgoing messages in ordered lanes.

Runs, names, logs and dead letters may have an instant of expiry, after which `expire` removes them.

Bodies are opaque: a store knows records and transactions, not agents. It has no clock of its own: whoever calls says
what time it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from .values import (
    Claim,
    Commit,
    Committed,
    DeadLetter,
    Delivery,
    Found,
    Letter,
    Pending,
    RunRecord,
    Settlement,
    Slice,
    StoreStatistics,
    TakeNext,
    Timer,
    Work,
)


class Store(Protocol):
    """Durable state, by isolation key. One contract test-suite runs over every implementation."""

    def open(self, *, wait_lock: float = 0.0) -> AbstractAsyncContextManager[None]:
        """Open, hold and close the store; its writer task lives inside the block and drains before it ends.

        Args:
            wait_lock: Seconds to wait for another owner to leave, before `StoreLocked` is raised.

        Raises:
            StoreLocked: Another process (or this one, elsewhere) owns the directory.
            StoreUnusable: The directory cannot be made, written or understood.
            StoreBroken: On leaving the block (and in whoever waits), when the machine failed.
        """
        ...

    @property
    def store_id(self) -> bytes:
        """16 random bytes, made when the store was created."""
        ...

    @property
    def secret(self) -> bytes:
        """32 random bytes, made when the store was created; never on the wire."""
        ...

    @property
    def full(self) -> bool:
        """Whether new work must be refused (95 % of the map is in use, or the disk was full a moment ago)."""
        ...

    @property
    def left_cleanly(self) -> bool:
        """Whether the previous owner left in order, or there was none.

        In order is a block that ended by itself or by a cancellation, with all that was handed over written.
        False after any other exception, a broken store or a kill.
        """
        ...

    def statistics(self) -> StoreStatistics:
        """The store in figures, now."""
        ...

    async def claim(self, key: str, documents: Sequence[str] = ()) -> Claim:
        """Claim a key and read the named documents. Writes nothing.

        Raises:
            BadKey: The key is empty, has a NUL, or is longer than `MAX_KEY_BYTES`.
        """
        ...

    async def read(self, claim: Claim, documents: Sequence[str]) -> dict[str, bytes]:
        """Those of the named documents that exist."""
        ...

    async def list_documents(self, claim: Claim, prefix: str = "", after: str = "", limit: int = 100) -> list[str]:
        """Names of documents that begin with `prefix`, in order, after `after`."""
        ...

    async def read_log(self, claim: Claim, log: int, start: int, stop: int) -> list[bytes]:
        """Rows `start` ≤ position < `stop` of a log; fewer where the log is shorter.

        The first is always the row at `start`: none are given if that one was removed (`Commit.trim`).
        """
        ...

    async def log_length(self, claim: Claim, log: int) -> int:
        """The position behind a log's last row, which is how many it has had; 0 if there is none."""
        ...

    async def names(self, claim: Claim, after: str = "", limit: int = 1000) -> list[str]:
        """Global names that the key holds, in order, after `after`."""
        ...

    async def find(self, name: str) -> Found | None:
        """Look a global name up. One that has expired may be found until `expire` comes to it."""
        ...

    async def run(self, key: str, run_id: str) -> bytes | None:
        """The body of a run's record."""
        ...

    async def runs(self, key: str, after: str = "", limit: int = 100) -> list[RunRecord]:
        """Records of a key's runs, ordered by run id, after `after`."""
        ...

    async def letters(self, claim: Claim, after: int = -1, limit: int = 100) -> list[Letter]:
        """Waiting letters in order of acceptance, after sequence `after`."""
        ...

    async def keys(self, after: str | None = None, limit: int = 100) -> list[str]:
        """Isolation keys that have state, in the store's own order, after `after`."""
        ...

    async def work(self, now: float, after: str | None = None, limit: int = 100) -> list[Work]:
        """Keys with letters, or with a timer due at `now`, by an index, in the store's own order."""
        ...

    async def timers(self, now: float, after: bytes = b"", limit: int = 100) -> list[Timer]:
        """Timers that are due at `now`, the earliest first, after position `after`; of no key that is being erased."""
        ...

    async def next_timer(self, after: float | None = None) -> float | None:
        """The earliest instant that a timer has, or of those later than `after`; None if there is none."""
        ...

    async def enqueue(self, key: str, message_id: str, body: bytes) -> bool:
        """Accept a letter, durable when it returns; False if (key, message_id) waits already."""
        ...

    async def commit(self, claim: Claim, commit: Commit) -> Committed:
        """Apply a commit, durable when it returns. Once handed over, it is not cancelled.

        Raises:
            Fenced: The claim is stale.
            Conflict: The commit contradicts what is stored.
            BadKey: A name or id is too long or has a NUL.
            StoreFull: No room. The reserve above 95 % is open to commits, so this is the very end.
            StoreBroken: The machine failed.
        """
        ...

    async def due(self, now: float, limit: int, visibility: float, group: str | None = None) -> list[Delivery]:
        """Take lane heads that are due, those first that waited longest.

        Each counts an attempt, and is due again at `now + visibility`: that is when it is given up, if nobody settles
        it before.

        Args:
            now: The present instant.
            limit: The most to take.
            visibility: Seconds.
            group: Only lanes of this group: what comes before the first unit separator (U+001F) of their names,
                "" for lanes without one. So whoever serves one group never looks at another's.
        """
        ...

    async def settle(self, delivery: Delivery, outcome: Settlement, then: TakeNext | None = None) -> Delivery | None:
        """End an attempt, durable when it returns. A delivery that is no longer this attempt's is left alone.

        Args:
            delivery: As it was taken.
            outcome: What became of it.
            then: Take the lane's next head in the same transaction. It comes before lanes that have waited longer, so
                whoever asks for it must let them have their turn, by asking for it only so often in a row.

        Returns:
            The delivery that was taken. None if `then` is None, if the delivery goes on waiting (`Retry`,
            `Postponed`) or was left alone, and if there is no next one that is due.

        Raises:
            ValueError: An instant is not a number.
            StoreFull: The very end of the room: settlements may use what is reserved.
            StoreBroken: The machine failed.
        """
        ...

    async def settle_all(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> None:
        """End attempts as `settle` does, in their order and in one transaction, durable when it returns.

        Calls of `settle` that come at once share a transaction, too; this spares the work of handing each over.
        """
        ...

    async def reclaim(self, now: float) -> int:
        """Give up every attempt that runs: its delivery is due at `now`, and the next attempt is `unsure`.

        For the time after an opening, when whatever runs ran in a process that is gone. An attempt that was given up
        cannot be settled any more. How many there were.
        """
        ...

    async def next_due(self, group: str | None = None) -> float | None:
        """The earliest instant at which a lane head (of a group) is due, or None."""
        ...

    async def groups(self) -> list[str]:
        """The groups (see `due`) that have deliveries which are not settled, in order; there are few."""
        ...

    async def deliveries(self, after: bytes = b"", limit: int = 100) -> list[Pending]:
        """Deliveries that are not settled, lane by lane (in the order of their names), each from its head on.

        Args:
            after: The `position` of the last one that was listed, whether it is still there or not.
            limit: The most to list.
        """
        ...

    async def dead_letters(self, after: int = -1, limit: int = 100) -> list[DeadLetter]:
        """Deliveries that ended as `Dead`, in the order of their positions, after position `after`."""
        ...

    async def dead_letter(self, position: int) -> DeadLetter | None:
        """One dead letter, if it is there."""
        ...

    async def revive(self, position: int, due: float = 0.0, body: bytes | None = None) -> str | None:
        """Deliver a dead letter after all, as a new delivery with no attempts, at the end of its lane.

        Durable when it returns; the dead letter is gone in the same transaction. It counts as a commit of its key.

        Args:
            position: The dead letter's.
            due: When it is to be tried first.
            body: What to deliver instead of the dead letter's own body; None for that.

        Returns:
            The new delivery's id, which a receiver does not take for a repeat of the old one; None if there is no such
            dead letter (any longer).
        """
        ...

    async def purge(self, positions: Sequence[int]) -> int:
        """Remove dead letters, durable when it returns; how many of these were there."""
        ...

    async def expire(self, now: float, limit: int = 256) -> int:
        """Delete at most `limit` rows whose time is over, oldest first; the number deleted.

        A run, a name or a dead letter is one row, a log has many: a long one goes over several calls, from its end,
        so that what is still there is its beginning. Erasures that were cut short are finished, too.
        """
        ...

    async def snapshot(self, claim: Claim, after: bytes = b"") -> Slice:
        """All that a key holds, slice by slice: what `restore` makes the same key of, elsewhere.

        A slice is a consistent view, and all of them are if nothing was committed meanwhile: then a claim afterwards
        has the same version and as many letters. Expiry may take something away in between; what is left is as it
        was. The rows of a log come from its first to its last, letters and the deliveries of a lane in their order.
        """
        ...

    async def restore(self, key: str, slices: AsyncIterable[Commit]) -> Committed:
        """Make a key of slices: all of them, or nothing. Nobody sees any of it before it is whole.

        Deliveries get new ids. What others could act on (letters, deliveries, aliases) is kept in memory until the
        end, the rest is written slice by slice. If it is cut short, `expire` removes what was written. It does not
        close what gives the slices.

        Raises:
            Conflict: The key has state, or leads to another one; a name or an alias is held by another key; or a
                slice does more than add. Also at the end, if that has come to be so meanwhile.
            BadKey: A name or id is too long or has a NUL.
            StoreFull: No room.
            StoreBroken: The machine failed.
        """
        ...

    async def erase(self, key: str) -> bool:
        """Delete every row and index row of a key, in slices; True if there was any."""
        ...
