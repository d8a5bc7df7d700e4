"""What the runtime says of itself when it stops."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What became of the work when the runtime stopped.

    Attributes:
        finished: Turns that ended by themselves during the drain.
        cancelled: Turns that were cancelled at its deadline.
        put_back: Durable letters that did not get done, and are left to the next start.
        abandoned: Turns whose code did not even obey that.
        seconds: How long it took.
    """

    finished: int
    cancelled: int
    abandoned: int
    seconds: float
    put_back: int = 0

    def __str__(self) -> str:
        counts = {
            "finished": self.finished,
            "cancelled": self.cancelled,
            "put back": self.put_back,
            "abandoned": self.abandoned,
        }
        parts = [f"{count} {'turn' if count == 1 else 'turns'} {what}" for what, count in counts.items() if count]
        return f"stopped in {self.seconds:.1f} s: {', '.join(parts) or 'nothing was running'}"
