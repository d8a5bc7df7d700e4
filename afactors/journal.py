"""A run's transcript on its way to its readers, and to the store.

Rows are shown to the run's own caller as they come; everybody else sees a row once it is durable. They are logged when
somebody else follows, when many are waiting, and at the end, in the turn's own commit: a run that nobody else
follows costs no commit but that one. What a crash takes along was seen by nobody who could ask for it again.

Number of a row = place in the log + number of the attempt's first row.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import trio
from agent_framework import AgentResponse, AgentResponseUpdate

from afactors_channels import Conflicting, Restarted, RunState, Transcript
from afactors_store import Append

_WAITING_BYTES = 64 * 1024  # of rows, from which on they are logged though nobody follows
_AHEAD_BYTES = 1024 * 1024  # a caller that is further behind holds up a run that is not logged
_BATCH_ROWS = 64

ReadRows = Callable[[int, int, int], Awaitable[list[bytes]]]


class Journal:
    """The transcript of one attempt.

    Args:
        transcript: The channel's; it makes the rows.
        log: Where in the store they go; None if they are only for the caller.
        first: Number of the first row.
        logged: How many rows the log has already.
        attended: Whether the run's own caller reads along.
        limit: Most bytes to log; what is beyond is for the caller only.
        read: Reads rows of a log of this run's key.
        wanted: Called when rows should be logged soon.
    """

    def __init__(
        self,
        transcript: Transcript,
        log: int | None,
        *,
        first: int = 0,
        logged: int = 0,
        attended: bool,
        limit: int,
        read: ReadRows,
        wanted: Callable[[], None],
    ) -> None:
        self.log = log
        self.first = first
        self.logged = first + logged
        self.cut = log is None
        """Whether no more rows are logged."""
        self._transcript = transcript
        self._limit = limit
        self._read = read
        self._wanted = wanted
        self._rows: list[bytes] = []  # from number `_start` on
        self._start = self.shown = self.logged
        self._bytes = self._waiting = 0
        self._caller = first if attended else None  # the number that the caller reads next
        self._followers = 0
        self._opening: Sequence[bytes] | None = None
        self._begun = self._flushing = self._ending = self._failed = self._closed = False
        self._lost: Exception | None = None
        self._changed = trio.Event()

    @property
    def place(self) -> tuple[int, int, bool] | None:
        """For the record: the log, the number of its first row, and whether it was cut; None if it is not logged."""
        return None if self.log is None else (self.log, self.first, self.cut)

    # -- writing

    def accepted(self) -> Sequence[bytes]:
        """The run is queued; its first rows, which are logged with the letter."""
        if self._opening is None:
            self._opening = self._transcript.accepted()
            self.logged = self.shown = self._start = self.first + len(self._opening)
        return self._opening

    def started(self) -> None:
        """The run begins."""
        self._begun = True
        self._add(self._transcript.started())

    def fed(self, updates: Sequence[AgentResponseUpdate]) -> None:
        """More of it."""
        self._add(self._transcript.fed(updates))

    def completed(self, result: AgentResponse[Any], at: float) -> Any:
        """The end. Its rows are shown when they are durable; returns what is to be kept with the record."""
        rows, kept = self._transcript.completed(result, at)
        self._hold(rows)
        return kept

    def failed(self, state: RunState, code: str, message: str) -> Any:
        """The end of a run that failed; its last row takes the place of the completed one's, if there is one.

        Returns:
            What is to be kept with the record.
        """
        if self._failed:
            return None
        self._failed = True
        if not self._begun and self._opening is None:  # even then it has a beginning
            self._hold(self._transcript.started())
            self.shown = self._start + len(self._rows)
        rows, kept = self._transcript.failed(state, code, message)
        if self._start + len(self._rows) > self.shown:
            self._rows.pop()
        self._hold(rows)
        return kept

    def append(self) -> list[Append]:
        """What is not logged yet, for the turn's last commit."""
        waiting = self._rows[self.logged - self._start :]
        if self.log is None or self.cut or not waiting:
            return []
        return [Append(self.log, self.logged - self.first, waiting)]

    def settled(self) -> None:
        """All of it is durable, and the run has ended."""
        self.shown = self._start + len(self._rows)
        if not self.cut:
            self.logged = self.shown
        self._close()

    def lost(self, why: Exception | None) -> None:
        """The attempt is over without an end: its followers hear `why`, or that there is no more for now."""
        self._lost = why
        self._close()

    def _close(self) -> None:
        self._closed = True
        # It leads to the turn, which leads here: a circle that would keep both until the next collection.
        self._wanted = _nobody
        self._notify()

    async def flush(self, write: Callable[[Append], Awaitable[None]]) -> None:
        """Log what is waiting, batch by batch; one call at a time does."""
        if self._flushing:
            return
        self._flushing = True
        try:
            while (append := self._next_batch()) is not None:
                await write(append)
                self.logged += len(append.rows)
                self._forget()
                self._notify()
        finally:
            self._flushing = False
            self._notify()

    async def flushed(self) -> None:
        """Wait until no batch is under way: the log has to be continued where it ends."""
        self._ending = True
        while self._flushing:
            await self._changed.wait()

    async def room(self) -> None:
        """Wait for a caller that is far behind, where nothing but memory could hold what it has not read."""
        while self.cut and self._caller is not None and self._unread() > _AHEAD_BYTES:
            await self._changed.wait()
        if self.cut and self._caller is None:
            self._forget()

    @property
    def _due(self) -> bool:
        """Whether what waits should be logged before the end."""
        return self._followers > 0 or self._waiting > _WAITING_BYTES

    def _next_batch(self) -> Append | None:
        rows = self._rows[self.logged - self._start : self.shown - self._start]
        if self.log is None or self.cut or self._ending or not rows or not self._due:
            return None
        self._waiting = 0
        return Append(self.log, self.logged - self.first, rows)

    def _add(self, rows: Sequence[bytes]) -> None:
        self._hold(rows)
        self.shown = self._start + len(self._rows)
        if not self._flushing and not self.cut and self._due:
            self._wanted()
        self._notify()

    def _hold(self, rows: Sequence[bytes]) -> None:
        size = sum(map(len, rows))
        self._rows += rows
        self._bytes += size
        self._waiting += size
        if self._bytes > self._limit:
            self.cut = True

    def _unread(self) -> int:
        assert self._caller is not None  # noqa: S101 - the caller of this has looked
        return sum(map(len, self._rows[max(0, self._caller - self._start) :]))

    def _forget(self) -> None:
        """Let go of rows that are in the log, or that the caller has read and nobody else can."""
        read = self.shown if self._caller is None else self._caller
        keep = max(self._start, read if self.cut else self.logged)
        del self._rows[: keep - self._start]
        self._start = keep

    # -- reading

    async def provisional(self) -> AsyncGenerator[Sequence[bytes], None]:
        """Every row as it comes, for the run's own caller."""
        try:
            while self._caller is not None:
                batch = await self._next(self._caller, lambda: self.shown, lambda: self._closed)
                if not batch or self._caller is None:
                    return
                self._caller += len(batch)
                if self.cut:
                    self._forget()
                    self._notify()
                yield batch
        finally:
            self.leave()

    def leave(self) -> None:
        """The run's own caller reads no more."""
        self._caller = None
        self._notify()

    async def follow(self, after: int | None) -> AsyncGenerator[Sequence[bytes], None]:
        """Durable rows that are numbered above `after`.

        Raises:
            Restarted: The run began again.
            Conflicting: The rest was not logged.
        """
        number = check_number(after, self.first)
        self._followers += 1
        try:
            if self.shown > self.logged:
                self._wanted()
            while batch := await self._next(number, lambda: self.logged, self._all_logged):
                number += len(batch)
                yield batch
            if self._lost is not None:
                raise self._lost
            if self.cut:
                raise too_long()
        finally:
            self._followers -= 1

    def _all_logged(self) -> bool:
        return self._closed or (self.cut and not self._flushing)

    async def _next(self, number: int, end: Callable[[], int], done: Callable[[], bool]) -> Sequence[bytes]:
        while number >= end():
            if done():
                return ()
            await self._changed.wait()
        if number >= self._start:
            return self._rows[number - self._start : min(end(), number + _BATCH_ROWS) - self._start]
        assert self.log is not None  # noqa: S101 - rows leave the memory only for the log
        start = number - self.first
        return await self._read(self.log, start, min(start + _BATCH_ROWS, self.logged - self.first))

    def _notify(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()


def _nobody() -> None:
    """Nobody is to log the rest: there is none."""


def check_number(after: int | None, first: int) -> int:
    """The number of the row to begin with.

    Raises:
        Restarted: The number is one of an attempt that is over.
    """
    if after is None:
        return first
    if after < first != 0:
        raise restarted()
    return after + 1


def restarted() -> Restarted:
    """For readers that came from an attempt that is over."""
    return Restarted("The run was started again; follow it from its beginning.", field="starting_after")


def too_long() -> Conflicting:
    """For followers of a transcript that was cut."""
    return Conflicting(
        "The stream is too long to be followed to its end; get the response when it has ended.",
        code="transcript_too_long",
    )
