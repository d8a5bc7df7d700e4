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

Runs, names and logs may have an instant of expiry, after which `expire` removes them.

All instants are seconds since the epoch (float). All bodies are opaque bytes: a store knows records and
transactions, not agents.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

MAX_KEY_BYTES = 1024
"""Longest isolation key, in bytes of UTF-8. No NUL."""

MAX_NAME_BYTES = 256
"""Longest document name, global name, letter id, run id, timer name, lane, in bytes of UTF-8. No NUL."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write one key.

    Attributes:
        key: The isolation key, after aliases were followed.
        epoch: Fencing number. A commit whose epoch is not the stored one is refused as `Fenced`. One process
            owns an LMDB store, so there it never changes hands.
        version: Number of commits applied so far; 0 for a key that was never written.
        incarnation: Random, new after an erase. Empty for a key that was never written.
        documents: The documents that were asked for and exist.
        letters: How many letters wait.
    """

    key: str
    epoch: int
    version: int
    incarnation: bytes
    documents: Mapping[str, bytes]
    letters: int


@dataclass(frozen=True, slots=True)
class Append:
    """Rows for one log.

    `start` must be the log's present length (for a new log 0, or the first row that the same commit's `trim` keeps),
    else `Conflict`.
    """

    log: int
    start: int
    rows: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class NewLetter:
    """A letter that a commit accepts for its own key."""

    message_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The record of a turn. `expires_at` None keeps it for as long as the key lives."""

    run_id: str
    body: bytes
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """One outgoing message; its id is made by the store at commit and is the same on every attempt.

    Attributes:
        lane: The lane at whose end it waits.
        body: What to deliver.
        due: When it is to be tried first.
        attempts: How many attempts it has had elsewhere.
        dead: Why it is not to be tried any more, if it ended elsewhere: it goes to the dead letters at once.
    """

    lane: str
    body: bytes
    due: float = 0.0
    attempts: int = 0
    dead: str | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """Everything one turn changes: all of it becomes durable, or none.

    What a commit both removes and writes is written. An expiry is an instant after which `Store.expire` removes
    a name or a log by itself; it is as much a part of the name or log as its value, and goes with it.

    Attributes:
        put: Documents to write, by name.
        delete: Documents to remove; one that is not there is no error.
        append: Rows for logs.
        drop_logs: Logs to remove whole.
        truncate: How many rows to leave of logs, by log id; what is shorter, or not there, stays as it is. To
            truncate a log and append to it in one commit is a `Conflict`.
        trim: The first row to keep of logs, by log id: those below it are removed, after everything else of this
            commit, and the others keep their positions. What begins there or later, or is not there, stays as it is; a
            log all of whose rows are below is removed whole.
        expire_logs: When to remove logs whole, by log id; None keeps one for as long as the key lives. An append
            leaves it as it is; one for a log that has no rows after this commit is ignored.
        consume: Ids of letters this commit settles; they are deleted. One that is not there is a `Conflict`.
        letters: Letters this commit accepts, in order, behind those that wait. An id that waits already, or comes
            twice, is a `Conflict`; one that this commit consumes may be used again.
        others: What is accepted for other keys in the same transaction, each with its key. It only adds to them, so it
            needs no claim on them; for this key it counts as a commit of its own, after this one.
        names: Global names to set, with their values. A name that another key holds is a `Conflict`. A name that
            is set loses its expiry, unless `expire_names` gives it one.
        drop_names: Global names of this key to remove.
        expire_names: When to remove global names of this key; None keeps one for as long as the key lives. One for
            a name that this key does not hold after this commit is ignored.
        runs: Records of turns, to write or overwrite.
        drop_runs: Ids of runs whose records to remove; one that is not there is no error.
        timers: Named instants; None clears one.
        deliveries: Outgoing messages, in order within their lane.
        aliases: Other isolation keys that lead here from now on (True) or no longer (False).
    """

    put: Mapping[str, bytes] = field(default_factory=dict)
    delete: Sequence[str] = ()
    append: Sequence[Append] = ()
    drop_logs: Sequence[int] = ()
    truncate: Mapping[int, int] = field(default_factory=dict)
    trim: Mapping[int, int] = field(default_factory=dict)
    expire_logs: Mapping[int, float | None] = field(default_factory=dict)
    consume: Sequence[str] = ()
    letters: Sequence[NewLetter] = ()
    others: Sequence[tuple[str, Commit]] = ()
    names: Mapping[str, bytes] = field(default_factory=dict)
    drop_names: Sequence[str] = ()
    expire_names: Mapping[str, float | None] = field(default_factory=dict)
    runs: Sequence[RunRecord] = ()
    drop_runs: Sequence[str] = ()
    timers: Mapping[str, float | None] = field(default_factory=dict)
    deliveries: Sequence[NewDelivery] = ()
    aliases: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit became: the key's new version, and the ids of its deliveries in their order."""

    version: int
    delivery_ids: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Slice:
    """Some of what a key holds, told as a commit that would write it.

    Attributes:
        commit: It only adds: no name is dropped, no letter consumed, nothing is for another key.
        after: Where the next slice begins; None at the end. Only the store that gave it understands it.
    """

    commit: Commit
    after: bytes | None


@dataclass(frozen=True, slots=True)
class Found:
    """A global name's owner and value."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Letter:
    """An accepted message. `sequence` rises in order of acceptance within its key."""

    message_id: str
    sequence: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """A lane's head, taken for one attempt. `attempt` counts from 1."""

    delivery_id: str
    key: str
    lane: str
    body: bytes
    attempt: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination took it."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again, not before `at`."""

    at: float


@dataclass(frozen=True, slots=True)
class Dead:
    """It will not be tried again by itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A delivery that ended as `Dead`. `position` rises in the order of commits, across keys."""

    position: int
    delivery_id: str
    key: str
    lane: str
    body: bytes
    attempt: int
    reason: str


Settlement: TypeAlias = Delivered | Retry | Dead


@dataclass(frozen=True, slots=True)
class Work:
    """A key that has something to do: letters that wait, or a timer."""

    key: str
    letters: int
    timer: float | None


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """A store in figures.

    Attributes:
        keys: Isolation keys that have state.
        commits: Commits applied since open.
        batches: Write transactions (and so fsyncs) since open; `commits / batches` is what group commit
            saves.
        refused: Commits refused (fenced, conflict, full) since open.
        waiting: Commits handed over and not yet applied.
        used_bytes: Bytes of the map in use.
        map_bytes: Size of the map; 0 where there is no limit.
    """

    keys: int
    commits: int
    batches: int
    refused: int
    waiting: int
    used_bytes: int
    map_bytes: int


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

    async def due(self, now: float, limit: int, visibility: float) -> list[Delivery]:
        """Take lane heads that are due: each counts an attempt and is due again at `now + visibility`."""
        ...

    async def settle(self, delivery: Delivery, outcome: Settlement) -> None:
        """End an attempt. A delivery that is no longer this attempt's is left alone."""
        ...

    async def dead_letters(self, after: int = -1, limit: int = 100) -> list[DeadLetter]:
        """Deliveries that ended as `Dead`, in the order of their commits, after position `after`."""
        ...

    async def next_due(self) -> float | None:
        """The earliest instant at which a lane head is due, or None."""
        ...

    async def expire(self, now: float, limit: int = 256) -> int:
        """Delete at most `limit` rows whose time is over, oldest first; the number deleted.

        A run or a name is one row, a log has many: a long one goes over several calls, from its end, so that
        what is still there is its beginning. Erasures that were cut short are finished, too.
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
