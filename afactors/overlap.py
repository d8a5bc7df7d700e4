"""Overlap policies: what becomes of a message that reaches a busy session. Pure.

Some of it is settled when the message arrives: `POLICIES` look at the turns ahead of it, in order, and return those to
cancel; or they refuse it. The rest is settled when its place in line is, just before it is accepted: what it
`supersedes`, and which turn it `joins`. Edits of a session are in nobody's way, and nobody joins them. A message takes
the place of none but its own channel's: whoever sent the others counts on them, and so does who was to be reminded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from afactors_channels import ChannelRequest, Conflicting, OverlapPolicy

from .history import Point
from .questions import answering_contents
from .reminders import CHANNEL as REMINDER
from .turn import Turn

Policy: TypeAlias = Callable[[Turn, Sequence[Turn]], Sequence[Turn]]

_LONGEST_QUIET = 10  # times that a turn waits for one more message, at most


def enqueue(turn: Turn, ahead: Sequence[Turn]) -> Sequence[Turn]:
    """Wait in line."""
    return ()


def reject(turn: Turn, ahead: Sequence[Turn]) -> Sequence[Turn]:
    """Nobody waits.

    Raises:
        Conflicting: There is a turn ahead.
    """
    if any(other.edit is None for other in ahead):
        raise Conflicting("This conversation is busy with another message.", field="session", code="session_busy")
    return ()


def interrupt(turn: Turn, ahead: Sequence[Turn]) -> Sequence[Turn]:
    """What runs is cancelled; what waits keeps its place."""
    return [other for other in ahead if other.state == "running" and _can_be_replaced(other, turn)]


POLICIES: Mapping[OverlapPolicy, Policy] = {
    "enqueue": enqueue,
    "reject": reject,
    "interrupt": interrupt,
    "latest": enqueue,
    "coalesce": enqueue,
}


def policy_of(turn: Turn, start: Point | None, overlap: OverlapPolicy) -> OverlapPolicy:
    """What a turn does to those that wait before it, if it is told that.

    It has a run with others only in a session that has a name of its own. An answer is for the question that was
    asked, a payload cannot be put beside another, and who reads along reads of their own run.
    """
    request = turn.request
    if overlap != "coalesce":
        return overlap
    by_itself = turn.edit is not None or request.payload is not None or bool(answering_contents(request.input))
    reads_along = turn.attended and request.stream
    placed = start is not None and start.named and request.session.after is None
    return "enqueue" if by_itself or reads_along or not placed else "coalesce"


def supersedes(turn: Turn, ahead: Sequence[Turn]) -> Sequence[Turn]:
    """Whose place a turn takes: of those who have not begun, also of those whose end is being written."""
    if turn.overlap != "latest" or turn.cancel_reason is not None:
        return ()
    return [other for other in ahead if not other.begun and _can_be_replaced(other, turn)]


def _can_be_replaced(other: Turn, turn: Turn) -> bool:
    return other.edit is None and other.request.channel == turn.request.channel != REMINDER


def joins(turn: Turn, ahead: Sequence[Turn]) -> Turn | None:
    """The turn whose run a turn becomes a part of: the last in line, if it waits as well, and is of the same kind."""
    last = ahead[-1] if ahead else None
    if last is None or turn.overlap != "coalesce" or turn.cancel_reason is not None or not _can_be_joined(last):
        return None
    same = (turn.durable, turn.attended, _kind(turn.request)) == (last.durable, last.attended, _kind(last.request))
    return last if same else None


def quiet_until(turn: Turn, now: float, quiet: float) -> float:
    """Until when a turn waits for one more message, now that there was one."""
    return min(now + quiet, turn.quiet_since + _LONGEST_QUIET * quiet)


def _can_be_joined(turn: Turn) -> bool:
    """Whether nothing of it has begun, nor had before a crash or a stop; and nobody has cancelled it."""
    begun = turn.begun or turn.suspect or turn.attempt > 1 or turn.steps is not None or turn.leftover is not None
    return turn.overlap == "coalesce" and turn.state == "queued" and not begun and turn.cancel_reason is None


def _kind(request: ChannelRequest) -> tuple[ChannelRequest, Sequence[str | bool]]:
    """What must be the same in all that is said in one run. What was said, when, and by what name may differ."""
    who = request.identity
    sender = () if who is None else (who.channel, who.native_id, who.conversation, who.verified)
    own = request.replace(
        input=(),
        session=type(request.session)(),
        identity=None,
        attributes={},
        name=None,
        on_disconnect="cancel",
        overlap=None,
        idempotency_key=None,
        fingerprint="",
    )
    return own, (request.name is not None, *sender)
