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
        delivered: Deliveries that were taken meanwhile.
        pending: Deliveries that are left to the next start.
        cut_off: How many of these were being sent at its deadline: nobody knows whether they arrived.
    """

    finished: int
    cancelled: int
    abandoned: int
    seconds: float
    put_back: int = 0
    delivered: int = 0
    pending: int = 0
    cut_off: int = 0

    def __str__(self) -> str:
        counts = {
            "finished": self.finished,
            "cancelled": self.cancelled,
            "put back": self.put_back,
            "abandoned": self.abandoned,
        }
        sent = {"sent": self.delivered, "left for the next start": self.pending, "of them cut off": self.cut_off}
        parts = [f"{count} {'turn' if count == 1 else 'turns'} {what}" for what, count in counts.items() if count]
        parts += [
            f"{count} {'delivery' if count == 1 else 'deliveries'} {what}" for what, count in sent.items() if count
        ]
        return f"stopped in {self.seconds:.1f} s: {', '.join(parts) or 'nothing was running'}"
