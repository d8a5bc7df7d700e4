"""What the bridge raises by itself, and what it tells about itself."""

import logging
from dataclasses import dataclass

logger = logging.getLogger("afactors.bridge")


class BridgeClosed(RuntimeError):
    """The bridge is not open: not entered yet, closing, or closed; or it closed under the work."""


class TargetCancelled(Exception):
    """The target was cancelled, and nobody on the trio side asked for it.

    An ordinary failure of the target: its own ``asyncio.CancelledError`` is the ``__cause__``.
    """


class TargetExited(Exception):
    """The target raised something that would end a process, such as ``SystemExit``.

    Agent code does not decide when the host stops, so this is an ordinary failure of the target; what
    it raised is the ``__cause__``.
    """


@dataclass(frozen=True, slots=True)
class BridgeStatistics:
    """What goes on in the bridge at one moment.

    Attributes:
        running: Runs, streams and held resources that trio waits for.
        abandoned: Those that swallowed their cancellation, were given up, and have not ended yet.
        abandoned_total: All that were ever given up.
        completed: Ended with a value.
        failed: Ended with an exception of the target.
        cancelled: Ended because trio cancelled them or left their block.
        trio_calls: Calls from asyncio code into trio under way.
        tools_running: Synchronous tools that occupy a thread now.
        lateness: Seconds the loop was behind at its last beat.
        stalled_for: Seconds since the loop last answered a beat that it owes; 0.0 when it owes none.
        healthy: Whether ``stalled_for`` is under the warning threshold.
    """

    running: int
    abandoned: int
    abandoned_total: int
    completed: int
    failed: int
    cancelled: int
    trio_calls: int
    tools_running: int
    lateness: float
    stalled_for: float
    healthy: bool
