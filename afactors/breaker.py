"""When a channel is left alone: while it keeps failing (a circuit breaker), and as its rate demands.

Pure; the clock is a parameter.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import ceil

from afactors_channels.pushes import PushPolicy

_DIFFERENT = 2  # destinations that must fail: one that is down by itself has its own retries


@dataclass(slots=True)
class Breaker:
    """Counts failures in a row, over all destinations of a channel.

    Attributes:
        policy: How many trip it, and for how long.
    """

    policy: PushPolicy
    _failures: int = 0
    _failed: set[str] = field(default_factory=set)
    _pauses: int = 0
    _until: float = 0.0

    def shut_for(self, now: float) -> float:
        """Seconds for which nothing should be tried; 0 if it may be."""
        return max(0.0, self._until - now)

    @property
    def trying(self) -> bool:
        """Whether it was shut, and nothing has gone well since: then one attempt at a time is enough."""
        return self._pauses > 0

    def went_well(self) -> None:
        """A destination took something, or refused it: the channel works."""
        self._forget()
        self._pauses = 0

    def failed(self, destination: str, now: float) -> float | None:
        """An attempt failed; returns the seconds of a pause that begins with it."""
        self._failures += 1
        self._failed.add(destination)
        enough = self._failures >= self.policy.breaker and len(self._failed) >= _DIFFERENT
        if now < self._until or not (self.trying or enough):
            return None
        pause = pause_after(self._pauses, self.policy)
        self._pauses += 1
        self._forget()
        self._until = now + pause
        return pause

    def _forget(self) -> None:
        self._failures = 0
        self._failed.clear()


def pause_after(before: int, policy: PushPolicy) -> float:
    """Seconds of a pause that follows so many others."""
    return min(policy.longest_pause, policy.pause * 2.0 ** min(before, 32))


class Pace:
    """So many beginnings in any second, rounded up; below one, they are that far apart.

    Args:
        rate: How many.
    """

    def __init__(self, rate: float) -> None:
        self._most = max(1, ceil(rate))
        self._span = self._most / rate
        self._begun: deque[float] = deque(maxlen=self._most)

    def room(self, now: float) -> int:
        """How many may begin."""
        while self._begun and self._begun[0] <= now - self._span:
            self._begun.popleft()
        return self._most - len(self._begun)

    def began(self, count: int, now: float) -> None:
        """So many begin."""
        self._begun.extend([now] * count)

    def wait(self, now: float) -> float:
        """Seconds until another one may begin; 0 if one may."""
        return 0.0 if self.room(now) else max(0.0, self._begun[0] + self._span - now)
