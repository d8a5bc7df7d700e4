"""What trio does with a crossing: begin it, wait for it, stop it, give it up, count it."""

import threading
from typing import Any

import sniffio
import trio

from ._crossing import Crossing
from ._loop import LoopThread, where
from ._types import BridgeClosed, logger


class Driver:
    """The trio side of all crossings of one bridge. All of it runs in trio.

    Attributes:
        grace: Seconds that work gets to end after its cancellation.
        running: Work that is waited for.
        stragglers: Work that was given up and has not ended yet.
        abandoned: How often work was given up.
        completed: How often it ended with a value.
        failed: How often it ended with an exception.
        cancelled: How often it ended after trio had cancelled it.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.running: set[Crossing[Any]] = set()
        self.stragglers: set[Crossing[Any]] = set()
        self.abandoned = self.completed = self.failed = self.cancelled = 0
        self._loop: LoopThread | None = None
        self._trio_thread: int | None = None
        self._state = "not open yet"

    def open(self, loop: LoopThread) -> None:
        """Begin to take work, from this thread only."""
        self._loop = loop
        self._trio_thread = threading.get_ident()
        self._state = "open"

    def close(self) -> None:
        """Take no more work."""
        self._state = "closed"

    @property
    def is_open(self) -> bool:
        """Whether work is taken."""
        return self._state == "open"

    def loop(self) -> LoopThread:
        """Return the asyncio thread, for new work.

        Raises:
            BridgeClosed: The bridge is not open.
            RuntimeError: Called from outside the bridge's trio run.
        """
        if self._state != "open" or self._loop is None:
            raise BridgeClosed(f"the bridge is {self._state}")
        if threading.get_ident() != self._trio_thread:
            raise RuntimeError(
                "the bridge is driven from its trio thread; code in the asyncio thread awaits its own things"
            )
        return self._loop

    async def begin(self, work: Crossing[Any]) -> None:
        """Send the work over, unless the caller is cancelled already."""
        await trio.lowlevel.checkpoint_if_cancelled()
        # trio.from_thread.run names trio in the context of what it runs; in the asyncio thread that would
        # make anyio take the wrong backend.
        if work.context.get(sniffio.current_async_library_cvar) is not None:
            work.context.run(sniffio.current_async_library_cvar.set, None)
        self.running.add(work)
        work.home.begin(work)

    async def finish(self, work: Crossing[Any]) -> None:
        """Wait for the end of the work; when cancelled, stop it first."""
        try:
            while not work.done:
                await work.park()
        except (trio.Cancelled, KeyboardInterrupt):
            await self.stop(work)
            raise

    async def stop(self, work: Crossing[Any]) -> None:
        """Cancel the work and wait for its end, for so long and no longer."""
        if work.done:
            return
        work.cancel_asked = True
        work.home.cancel(work)
        await self.linger(work)
        if not work.done:
            self._abandon(work)

    async def linger(self, work: Crossing[Any]) -> None:
        """Wait for the end of the work, cancelled or not, for the time of grace."""
        with trio.move_on_after(self.grace, shield=True):
            while not work.done:
                await work.park()

    def report(self, work: Crossing[Any]) -> None:
        """Log the failure of work whose caller is gone, or leaves with a failure of its own."""
        error, work.error = work.error, None
        if error is not None:
            logger.warning("%s failed, and nobody waits for it any more", work, exc_info=error)

    def ended(self, work: Crossing[Any]) -> None:
        """Count the end of the work; called when the news arrives."""
        self.running.discard(work)
        self.stragglers.discard(work)
        if work.cancel_asked:
            self.cancelled += 1
            self.report(work)
        elif work.error is not None:
            self.failed += 1
        else:
            self.completed += 1

    def give_up(self) -> None:
        """Release whoever still waits, from outside of the bridge's block: the loop is gone."""
        for work in list(self.running):
            work.settled = True
            work.error = BridgeClosed(f"the bridge closed while {work} was running")
            work.arrive()

    def _abandon(self, work: Crossing[Any]) -> None:
        self.running.discard(work)
        self.stragglers.add(work)
        self.abandoned += 1
        logger.error(
            "%s did not end within %.1f s of its cancellation and is abandoned; it stands here:\n%s",
            work,
            self.grace,
            where(work),
        )
