"""Every limit of the runtime, by name, and the slots that running turns share fairly."""

from __future__ import annotations

import difflib
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypedDict

import trio


class LimitOptions(TypedDict, total=False):
    """The same names as `Limits`, as keyword arguments."""

    max_body: int
    max_running_turns: int
    turn_timeout: float
    cancel_grace: float
    mailbox: int
    max_parallel_sessions: int
    max_live_sessions: int
    idle_timeout: float
    max_idle_actors: int
    max_live_actors: int
    drain_timeout: float
    max_restarts: int
    restart_window: float
    restart_backoff: float
    quarantine: float
    run_retention: float
    max_attempts: int
    transcript_retention: float
    max_transcript: int
    idempotency_window: float
    coalesce_quiet: float
    max_checkpoints: int
    question_timeout: float
    max_reminders: int
    dead_letter_retention: float
    max_history_messages: int | None
    max_history_age: float | None
    stall_warning: float
    stall_limit: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What a runtime allows. All times are seconds, all sizes bytes.

    Attributes:
        max_body: Longest request body, and longest WebSocket message, on every path; above it the answer is 413.
        max_running_turns: Turns that run the target at once, over all keys, shared fairly between them.
        turn_timeout: Longest run of the target for one turn.
        cancel_grace: How long a cancelled turn may clean up before it is abandoned.
        mailbox: Letters that may wait for one actor; above it the answer is 429.
        max_parallel_sessions: Sessions of one key whose turns run side by side.
        max_live_sessions: Sessions of one key that are kept in memory between turns.
        idle_timeout: Quiet time after which an actor is passivated.
        max_idle_actors: Idle actors in memory; above it the longest idle is passivated at once.
        max_live_actors: Actors in memory, idle or not; above it the answer is 429.
        drain_timeout: How long running turns may finish when the runtime stops, and after them the target's own
            clean-up and its tools' threads.
        max_restarts: Crashes of one actor within `restart_window` after which its key is in quarantine.
        restart_window: See `max_restarts`.
        restart_backoff: Wait before the first restart; it doubles with each.
        quarantine: How long a key is in quarantine: its callers get 503, everybody else is served.
        run_retention: How long records of runs are kept.
        max_attempts: How often a durable run is begun before it fails; a crash in the middle uses one up.
        transcript_retention: How long the events of a run that has ended can be followed again.
        max_transcript: Most bytes of events that are kept of one run.
        idempotency_window: How long a repeat is known by its idempotency key; not shorter than `run_retention`.
        coalesce_quiet: How long a turn of the overlap policy ``coalesce`` waits for another message, each time anew,
            but at most ten times that; 0 for not at all.
        max_checkpoints: How many checkpoints of a workflow's session are kept, and of a turn of it that runs.
        question_timeout: How long a question of the target's can be answered.
        max_reminders: Reminders that one actor may have; above it no more are made.
        max_history_messages: Messages of a session that are kept after each turn, the latest turn at the least; None
            for all. Response ids go on to reach the older ones.
        max_history_age: How long a session's messages are kept, counted in sixteenths; None for ever. Older ones leave
            with the session's next turn, also those that response ids reach.
        dead_letter_retention: How long dead letters are kept.
        stall_warning: How long the target may block its thread before the watchdog speaks and `/readyz` fails.
        stall_limit: How long before the process is stopped.
    """

    max_body: int = 32 * 1024 * 1024
    max_running_turns: int = 512
    turn_timeout: float = 600.0
    cancel_grace: float = 5.0
    mailbox: int = 128
    max_parallel_sessions: int = 8
    max_live_sessions: int = 32
    idle_timeout: float = 300.0
    max_idle_actors: int = 1_000
    max_live_actors: int = 10_000
    drain_timeout: float = 10.0
    max_restarts: int = 5
    restart_window: float = 60.0
    restart_backoff: float = 0.1
    quarantine: float = 300.0
    run_retention: float = 30 * 86_400.0
    max_attempts: int = 3
    transcript_retention: float = 3_600.0
    max_transcript: int = 16 * 1024 * 1024
    idempotency_window: float = 35 * 86_400.0
    coalesce_quiet: float = 0.0
    max_checkpoints: int = 5
    question_timeout: float = 30 * 86_400.0
    max_reminders: int = 1_000
    dead_letter_retention: float = 30 * 86_400.0
    max_history_messages: int | None = None
    max_history_age: float | None = None
    stall_warning: float = 5.0
    stall_limit: float = 120.0

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is None and limit.default is None:
                continue
            whole = str(limit.type).startswith("int")
            number = None if isinstance(value, bool) or not isinstance(value, int if whole else int | float) else value
            if number is None or not (number > 0 or number == limit.default):
                raise ValueError(f"{limit.name} must be a {'whole ' * whole}number above 0, not {value!r}")
        if self.idempotency_window < self.run_retention:
            raise ValueError("idempotency_window must not be shorter than run_retention")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Limits:
        """Limits from keyword arguments.

        Raises:
            TypeError: A name is unknown; the message has the nearest known one.
        """
        known = [limit.name for limit in fields(cls)]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise TypeError(f"unknown limit {name!r}{hint}")
        return cls(**options)


class FairSlots:
    """A number of slots, handed to waiting keys in turn, so that one busy key cannot starve the others."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiting: OrderedDict[str, deque[trio.lowlevel.Task]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Tasks that wait for a slot."""
        return sum(map(len, self._waiting.values()))

    async def acquire(self, key: str) -> None:
        """Take a slot; waits for one, in turn with other keys."""
        if self._free:
            self._free -= 1
            return
        task = trio.lowlevel.current_task()
        queue = self._waiting.setdefault(key, deque())
        queue.append(task)

        def abort(_raise_cancel: Any) -> trio.lowlevel.Abort:
            queue.remove(task)
            if not queue:
                del self._waiting[key]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def release(self) -> None:
        """Give a slot back, to the key whose turn it is."""
        if not self._waiting:
            self._free += 1
            return
        key, queue = self._waiting.popitem(last=False)
        task = queue.popleft()
        if queue:
            self._waiting[key] = queue  # to the end of the line
        trio.lowlevel.reschedule(task)
