"""The watchdog: is the asyncio thread still turning?"""

import time
from collections.abc import Callable

import trio

from ._loop import LoopThread
from ._types import logger


class Watchdog:
    """Beats the loop about each second and reports when it does not answer.

    Time that trio itself slept through (a suspended process, say) is not counted as a stall of the loop:
    each look adds at most two beats.

    Attributes:
        lateness: Seconds the last answered beat took.
        stalled_for: Seconds the beat that is owed has been counted as owed.
    """

    def __init__(self, *, warning: float, limit: float | None, on_stall: Callable[[str], None] | None) -> None:
        self.lateness = 0.0
        self.stalled_for = 0.0
        self._warning = warning
        self._limit = limit
        self._on_stall = on_stall
        self._interval = min(1.0, warning / 4)
        self._owed = False  # raised by trio, lowered by asyncio
        self._warned = False
        self._reported = False

    @property
    def healthy(self) -> bool:
        """Whether the loop beat within the warning threshold."""
        return self.stalled_for < self._warning

    async def run(self, loop: LoopThread) -> None:
        """[trio] Beat the loop and look until cancelled. What ``on_stall`` raises ends it."""
        last = time.monotonic()
        while True:
            if not self._owed:
                self._owed = True
                loop.post(self._answer, time.monotonic())
            await trio.sleep(self._interval)
            now = time.monotonic()
            self._look(loop, min(now - last, 2 * self._interval))
            last = now

    def _answer(self, sent: float) -> None:
        """[asyncio] Answer the beat."""
        self.lateness = time.monotonic() - sent
        self._owed = False

    def _look(self, loop: LoopThread, elapsed: float) -> None:
        if not self._owed:
            if self._warned:
                logger.info("the bridge thread turns again, after %.1f s", self.lateness)
            self.stalled_for = 0.0
            self._warned = self._reported = False
            return
        self.stalled_for += elapsed
        if not self.healthy and not self._warned:
            self._warned = True
            logger.warning(
                "agent code has blocked the bridge thread for %.1f s; it stands here:\n%s",
                self.stalled_for,
                loop.stack(),
            )
        if self._limit is not None and self.stalled_for >= self._limit and not self._reported:
            self._reported = True
            if self._on_stall is not None:
                self._on_stall(f"agent code has blocked the bridge thread for {self.stalled_for:.0f} s")
