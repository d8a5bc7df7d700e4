"""The calendar's time, which is never set back. Pure but for the clocks that it reads."""

from __future__ import annotations

import time

import trio


class SteadyClock:
    """Seconds since the epoch, for what waits for an instant.

    If the wall clock is set back by an hour, what was to happen in a minute happens in a minute. If it is set forward,
    it is followed. It begins when it is made, within trio.
    """

    def __init__(self) -> None:
        self._ahead = time.time() - trio.current_time()

    def __call__(self) -> float:
        """Now."""
        wall, running = time.time(), trio.current_time()
        self._ahead = max(self._ahead, wall - running)
        return max(wall, self._ahead + running)  # the sum alone may lose the last bit of a float
