"""The values that cross the seam: what a store is given, and what it gives.

All instants are seconds since the epoch (float). All bodies are opaque bytes. Values are frozen, and no value leads
back to the store that gave it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

MAX_KEY_BYTES = 1024
"""Longest isolation key, in bytes of UTF-8. No NUL."""

MAX_NAME_BYTES = 256
"""Longest document name, global name, letter id, run id, timer name, lane, in bytes of UTF-8. No NUL."""

MAX_REASON = 1000
"""How much of a dead letter's reason, and of its error, is kept, in characters; what is longer is cut off."""


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
class Dead:
    """It will not be tried again by itself.

    Attributes:
        reason: Why. What is no Unicode is made so, and what is longer than `MAX_REASON` is cut off: of the error, too.
        error: What the destination said last, as far as it may be stored and shown.
        died: When it ended.
        expires_at: When `Store.expire` removes the dead letter; None keeps it for as long as its key lives.
    """

    reason: str
    error: str = ""
    died: float = 0.0
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """One outgoing message; its id is made by the store at commit and is the same on every attempt.

    Attributes:
        lane: The lane at whose end it waits.
        body: What to deliver.
        due: When it is to be tried first.
        attempts: How many attempts it has had elsewhere, without those that were deferred.
        dead: How it ended, if it ended elsewhere: it goes to the dead letters at once.
        unsure: Whether one of the attempts elsewhere was never settled, see `Delivery.unsure`.
    """

    lane: str
    body: bytes
    due: float = 0.0
    attempts: int = 0
    dead: Dead | None = None
    unsure: bool = False


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
        fire: Timers that this commit settles: they are cleared. One that is not set (any longer) is a `Conflict`.
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
    fire: Sequence[str] = ()
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
    """A lane's head, taken for one attempt.

    Attributes:
        delivery_id: The same on every attempt.
        key: Whose commit it comes from.
        lane: Its lane.
        body: What to deliver.
        attempt: Which attempt this is, from 1. One that was postponed does not count.
        unsure: Whether an attempt before this one was never settled (the process died, or its visibility ran out):
            nobody knows whether it arrived. It stays so: what becomes of a later attempt does not tell.
        take: Which taking this is, from 1: `settle` ends this one and no other.
        deferred: How many of the attempts before this one ended as `Retry` with `deferred`.
    """

    delivery_id: str
    key: str
    lane: str
    body: bytes
    attempt: int
    unsure: bool = False
    take: int = 1
    deferred: int = 0


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination took it."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again, not before `at`.

    Attributes:
        at: When.
        deferred: Whether the destination only wanted it later: see `Delivery.deferred`.
    """

    at: float
    deferred: bool = False


@dataclass(frozen=True, slots=True)
class Postponed:
    """The attempt did not happen, and does not count. Try again, not before `at`."""

    at: float


Settlement: TypeAlias = Delivered | Retry | Postponed | Dead


@dataclass(frozen=True, slots=True)
class TakeNext:
    """Take the next head of the same lane, too, if it is due at `now`: as `Store.due` would."""

    now: float
    visibility: float


@dataclass(frozen=True, slots=True)
class Pending:
    """A delivery that is not settled, as a listing shows it.

    Attributes:
        position: Where it stands in the order of the listing. Only the store that gave it understands it.
        delivery_id: The same on every attempt.
        key: Whose commit it comes from.
        lane: Its lane.
        body: What to deliver.
        attempts: How many attempts it has had, with the one that runs.
        due: When it is to be tried, once it is its lane's head; while an attempt runs, when that is given up.
        running: Whether an attempt runs: it was taken, and is neither settled nor reclaimed.
        unsure: Whether an attempt before that one was never settled, see `Delivery.unsure`.
    """

    position: bytes
    delivery_id: str
    key: str
    lane: str
    body: bytes
    attempts: int
    due: float
    running: bool
    unsure: bool


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A delivery that ended as `Dead`; the last four attributes are what was said there.

    `position` rises in the order in which deliveries were committed, across keys.
    """

    position: int
    delivery_id: str
    key: str
    lane: str
    body: bytes
    attempt: int
    reason: str
    error: str = ""
    died: float = 0.0
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """A key that has something to do: letters that wait, or a timer."""

    key: str
    letters: int
    timer: float | None


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer, as a listing shows it.

    Attributes:
        position: Where it stands in the order of the listing. Only the store that gave it understands it.
        key: Whose it is.
        name: What it is called there.
        at: Its instant.
    """

    position: bytes
    key: str
    name: str
    at: float


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
        pending: Deliveries that are not settled, with those whose attempt runs.
        dead: Dead letters.
    """

    keys: int
    commits: int
    batches: int
    refused: int
    waiting: int
    used_bytes: int
    map_bytes: int
    pending: int
    dead: int
