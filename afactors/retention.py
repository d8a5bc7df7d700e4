"""How much of a session's past is kept: limits on the number and the age of its messages, applied by each commit. Pure.

Messages carry no time. Where there is an age limit, a log holds what was committed within a sixteenth of it, and the
point tells since when; then a new log is begun. So the oldest messages leave log by log, and a log that some response
id still reaches goes by itself when it is old enough, whatever is left of that session.

What is left of a history begins with a message of the user, and never between a function's call and its result. The
latest turn stays whole. A call that a question waits for, whose result is still to come, does not leave by number;
where it leaves by age, the question goes with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby
from typing import Any, NamedTuple, TypeAlias

from agent_framework import Message

from afactors_store import Append

from .encoding import unpack
from .history import Changes, ReadLog
from .limits import Limits
from .points import Extent, Point, aside, cut, length, new_log, section

_SLICES = 16  # of an age limit: what is committed within one of them leaves together
_CALLS = ("_call", "_request")  # how the types of contents end that something answers
_ANSWERS = ("_result", "_response")
_NONE: frozenset[str] = frozenset()
_LOOK = 64  # messages that are looked at at once for one to begin with


class Keep(NamedTuple):
    """What is kept of a history: so many messages, none older than so many seconds; None is no limit."""

    messages: int | None = None
    age: float | None = None

    @classmethod
    def of(cls, limits: Limits) -> Keep:
        """What the limits say."""
        return cls(limits.max_history_messages, limits.max_history_age)


class Shape(NamedTuple):
    """What of a message decides whether a history may begin with it."""

    user: bool = False
    calls: frozenset[str] = frozenset()
    answers: frozenset[str] = frozenset()


Shapes: TypeAlias = Callable[[int, int], Awaitable[Sequence[Shape]]]
"""The shapes of the messages `start` ≤ position < `stop` of a history."""


def opened(point: Point, keep: Keep, at: float) -> Point:
    """The point that a turn begins from: without the tails that hold what is too old for more to follow."""
    if keep.age is None:
        return replace(point, since={}) if point.since else point
    begun = at - keep.age / _SLICES
    tails = {source: log for source, log in point.tails.items() if point.since.get(log, at) > begun}
    return replace(point, tails=tails) if tails != point.tails else point


async def retained(changes: Changes, before: Point, keep: Keep, at: float, read: ReadLog) -> Changes:
    """What a turn changes, and what leaves its session with it.

    Args:
        changes: What the turn changes.
        before: The point that it began from.
        keep: The limits.
        at: When it is committed, in seconds since the epoch.
        read: Reads logs.
    """
    if keep == Keep() and not before.shared and not any(map(aside, before.histories)):
        return changes
    reached = _dated(changes, before, int(at)) if keep.age is not None else changes
    gone: dict[str, int] = {}
    waiting = frozenset(reached.point.questions)
    for source, extents in reached.point.histories.items():
        latest, messages = _latest(reached, source, extents), length(extents)
        old = min(_old(extents, reached.point.since, keep, at), latest)
        many = 0 if keep.messages is None else min(messages - keep.messages, latest)
        shapes = _shapes(extents, reached.append, read)
        if old > 0:
            gone[source] = await beginning(shapes, messages, old)
            waiting -= await _called(shapes, gone[source], waiting)
        if many > gone.get(source, 0):
            gone[source] = max(gone.get(source, 0), await beginning(shapes, messages, many, waiting))
    left = [one for one in reached.point.questions if one in waiting]
    reached = replace(reached, point=replace(reached.point, questions=left))
    return _released(reached, before, gone, keep, at)


def _old(extents: Sequence[Extent], since: Mapping[int, int], keep: Keep, at: float) -> int:
    """How many of the oldest messages are too old."""
    old = 0
    for log, start, stop in extents if keep.age is not None else ():
        if since.get(log, at) >= at - (keep.age or 0):
            break
        old += stop - start
    return old


async def _called(shapes: Shapes, stop: int, waiting: frozenset[str]) -> frozenset[str]:
    """Which of the calls that questions wait for are among the first messages."""
    seen = await shapes(0, stop) if waiting else ()
    return waiting.intersection(name for shape in seen for name in shape.calls)


def _latest(changes: Changes, source: str, extents: Sequence[Extent]) -> int:
    """Where the latest turn begins, as far as that can be told; the last message belongs to it."""
    last = length(extents) - 1
    if source not in changes.span:
        return last
    first, stop = changes.span[source]
    if source in changes.past:
        known = {one for one in changes.past[source] if one is not None}
        new = changes.added[source]
        first = stop - next((at for at, one in enumerate(reversed(new)) if one.message_id in known), len(new))
    return min(first, last)


# -- where a history may begin


async def beginning(shapes: Shapes, messages: int, wanted: int, waiting: frozenset[str] = _NONE) -> int:
    """Where a history of so many messages begins, if `wanted` of them should leave: a user's message there or after.

    If there is none, one before; and if there is none at all, the first message that answers nothing. Calls that wait
    for an answer stay: if one would leave, the history begins with the user's message before it, or with the call.
    """
    found = await _beginning(shapes, messages, wanted)
    for low in range(0, found if waiting else 0, _LOOK):
        seen = await shapes(low, min(low + _LOOK, found))
        held = next((low + at for at, one in enumerate(seen) if one.calls & waiting), None)
        if held is not None:
            before = await _last_of(shapes, held, messages, user=True)
            return before if before is not None else await _last_of(shapes, held + 1, messages, user=False) or 0
    return found


async def _beginning(shapes: Shapes, messages: int, wanted: int) -> int:
    for low in range(wanted, messages, _LOOK):
        if (found := await _first_of(shapes, low, min(low + _LOOK, messages), messages)) is not None:
            return found
    if (found := await _last_of(shapes, wanted, messages, user=True)) is not None:
        return found
    for at in range(wanted, messages):
        if _begins(await shapes(at, min(at + _LOOK, messages)), user=False):
            return at
    return 0


async def _last_of(shapes: Shapes, stop: int, messages: int, *, user: bool) -> int | None:
    for high in range(stop, 0, -_LOOK):
        low = max(0, high - _LOOK)
        seen = await shapes(low, min(high + _LOOK, messages))
        places = [at for at in range(low, high) if _begins(seen[at - low :], user=user)]
        if places:
            return places[-1]
    return None


async def _first_of(shapes: Shapes, low: int, high: int, messages: int) -> int | None:
    seen = await shapes(low, min(high + _LOOK, messages))
    return next((at for at in range(low, high) if _begins(seen[at - low :], user=True)), None)


def _begins(seen: Sequence[Shape], *, user: bool) -> bool:
    """Whether a history may begin with the first of these."""
    if not seen or seen[0].answers or (user and not seen[0].user):
        return False
    called: set[str] = set()
    for shape in seen:
        if not shape.answers <= called | shape.calls:
            return False
        called |= shape.calls
    return True


def begins_at(messages: Sequence[Message], extra: int = 0, waiting: frozenset[str] = _NONE) -> int:
    """Where a history begins that is left of a longer one.

    Args:
        messages: What is left.
        extra: How many of them are there for the calls only.
        waiting: Calls whose results are still to come: they stay.
    """
    shapes = list(map(_shape_in, messages))
    shapes.append(Shape(answers=waiting.intersection(name for shape in shapes for name in shape.calls)))
    for user in (True, False):
        for at in chain(range(extra, -1, -1), range(extra + 1, len(messages))):
            if _begins(shapes[at:], user=user):
                return at
    return 0


def reaches(messages: Sequence[Message], waiting: frozenset[str]) -> bool:
    """Whether calls are among messages, and a user's message before them."""
    user = False
    for shape in map(_shape_in, messages):
        if not waiting or (shape.calls & waiting and not user):
            break
        user = user or shape.user
        waiting -= shape.calls
    return not waiting


def _shape_in(message: Message) -> Shape:
    contents = ((one.type, one.call_id or getattr(one, "id", None)) for one in message.contents)
    return _shape(message.role, contents)


def _shape_of(row: bytes) -> Shape:
    message = unpack(row)
    contents = message.get("contents") or ()
    return _shape(message.get("role"), ((one.get("type"), one.get("call_id") or one.get("id")) for one in contents))


def _shape(role: Any, contents: Iterable[tuple[Any, Any]]) -> Shape:
    calls: set[str] = set()
    answers: set[str] = set()
    for kind, name in contents:
        if str(kind).endswith(_ANSWERS):
            answers.add(str(name))
        elif str(kind).endswith(_CALLS):
            calls.add(str(name))
    return Shape(role == "user", frozenset(calls), frozenset(answers))


def _shapes(extents: Sequence[Extent], append: Iterable[Append], read: ReadLog) -> Shapes:
    """Shapes from the logs, and from what is about to be appended to them."""
    pending = {one.log: one for one in append}

    async def shapes(start: int, stop: int) -> Sequence[Shape]:
        found: list[Shape] = []
        for log, low, high in section(extents, start, stop):
            new = pending.get(log, Append(log, high, ()))
            stored = await read(log, low, min(high, new.start)) if low < new.start else []
            rows = [*stored, *new.rows[max(0, low - new.start) : max(0, high - new.start)]]
            found += [Shape()] * (high - low - len(rows))  # what is gone already is nothing to begin with
            found += map(_shape_of, rows)
        return found

    return shapes


# -- since when


def _dated(changes: Changes, before: Point, now: int) -> Changes:
    """The changes with the age of every log."""
    since = dict(before.since)
    for source in changes.past.keys() & changes.point.histories.keys():
        changes = _parted(changes, before, source, since, now)
    point, append = changes.point, changes.append
    if point.state is not None and point.state[0] in before.shared and changes.state is not None:
        # Whose log it is lets it go when it has no use for it.
        own = new_log()
        point, append = replace(point, state=(own, 0)), [*append, Append(own, 0, (changes.state,))]
    logs = {log for extents in point.histories.values() for log, _, _ in extents}
    return replace(changes, point=replace(point, since={log: since.get(log, now) for log in logs}), append=append)


def _parted(changes: Changes, before: Point, source: str, since: dict[int, int], now: int) -> Changes:
    """A rewritten history, whose messages are as old as they were: a log for those of each age."""
    extents = changes.point.histories[source]
    written = next((one for one in changes.append if extents and one.log == extents[-1][0] and not one.start), None)
    if written is None:
        return changes
    parts: list[tuple[int, Append]] = []
    ages = _ages(changes, before, source, since, now)
    for age, rows in groupby(zip(ages, written.rows, strict=True), key=lambda pair: pair[0]):
        parts.append((age, Append(new_log(), 0, [row for _, row in rows])))
    since.update((one.log, age) for age, one in parts)
    kept = cut(extents, length(extents) - len(written.rows))
    moved = [*kept, *((one.log, 0, len(one.rows)) for _, one in parts)]
    point = replace(
        changes.point,
        histories={**changes.point.histories, source: moved},
        tails={**changes.point.tails, source: parts[-1][1].log},
    )
    others = [one for one in changes.append if one is not written]
    return replace(changes, point=point, append=[*others, *(one for _, one in parts)])


def _ages(changes: Changes, before: Point, source: str, since: Mapping[int, int], now: int) -> list[int]:
    """When each message of a rewritten history was committed first; none later than what follows it."""
    logs = [log for log, start, stop in before.histories.get(source, ()) for _ in range(start, stop)]
    known = {name: since.get(log, now) for name, log in zip(changes.past[source], logs, strict=False) if name}
    ages = [known.get(one.message_id or "", now) for one in changes.added[source]]
    for at in reversed(range(len(ages) - 1)):
        ages[at] = min(ages[at], ages[at + 1])
    return ages


# -- what goes


def _released(changes: Changes, before: Point, gone: Mapping[str, int], keep: Keep, at: float) -> Changes:
    """The point without what leaves, and what becomes of that in the store."""
    kept = dict(changes.point.histories)
    ends: dict[int, int] = {}
    for source, messages in gone.items():
        ends.update((log, stop) for log, _, stop in section(kept[source], 0, messages))
        kept[source] = section(kept[source], messages, length(kept[source]))
    point = replace(changes.point, histories=kept)
    needed = point.logs()
    left = (before.logs() | changes.point.logs()) - needed
    point = replace(
        point,
        shared=tuple(log for log in before.shared if log in needed),
        since={log: first for log, first in point.since.items() if log in needed},
    )
    changes = replace(changes, point=point, gone=gone, append=[one for one in changes.append if one.log not in left])
    if not before.pinned:
        trim = {log: end for log, end in ends.items() if log in needed}
        return replace(changes, drop=sorted({*changes.drop, *(left & before.logs())}), trim=trim)
    if keep.age is None:
        return changes
    own = left & before.logs() - {*before.shared}
    span = keep.age * (1 + 1 / _SLICES)
    return replace(changes, expire={log: max(at, before.since.get(log, at) + span) for log in own})
