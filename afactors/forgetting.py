"""Deleting a run: its name, its record, its transcript, its point, and what only that point reached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import trio

from afactors_store import Claim, Commit, Store

from .history import Point
from .runs import Record, Reference
from .sessions import document_name

_SLICE = 100


@dataclass(frozen=True, slots=True)
class Held:
    """What holds the messages of a key.

    Attributes:
        names: How many names there are.
        points: The points that they lead to; a run that did not complete has a name and no point.
        heads: Where its sessions stand.
    """

    names: int
    points: Sequence[Point]
    heads: Sequence[Point]

    @property
    def nothing(self) -> bool:
        """Whether nobody can reach anything any more."""
        return not self.names and not any(head.named for head in self.heads)


def forgotten(token: str, reference: Reference, record: Record | None) -> Commit:
    """The run itself: its name, its record, its transcript."""
    log = record.transcript[0] if record is not None and record.transcript is not None else None
    return Commit(
        drop_names=[token],
        drop_runs=[reference.run_id] if reference.run_id else (),
        drop_logs=[log] if log is not None else (),
    )


def released(run: Commit, point: Point, held: Held) -> Commit:
    """The run, and the messages that only its point reached.

    A session that has no name of its own goes back to the latest point that is left of it; what it appends from then on
    goes to a log of its own.
    """
    put: dict[str, bytes] = {}
    delete: list[str] = []
    for head in held.heads:
        if head.named or any(left.session_id == head.session_id and left.turns == head.turns for left in held.points):
            continue
        left = max((one for one in held.points if one.session_id == head.session_id), key=_turns, default=None)
        if left is None:
            delete.append(document_name(head.session_id))
        else:
            put[document_name(head.session_id)] = replace(left, tails={}).encode()
    needed = _ends([*held.points, *(head for head in held.heads if head.named)])
    ends = _ends([point])
    return replace(
        run,
        put=put,
        delete=delete,
        drop_logs=[*run.drop_logs, *(log for log in ends if log not in needed)],
        truncate={log: needed[log] for log, end in ends.items() if log in needed and needed[log] < end},
    )


def _turns(point: Point) -> int:
    return point.turns


def _ends(points: Iterable[Point]) -> Mapping[int, int]:
    """For each log, how many of its rows the points reach."""
    ends: dict[int, int] = {}
    for point in points:
        extents = [extent for extents in point.histories.values() for extent in extents]
        if point.state is not None:
            extents.append((point.state[0], point.state[1], point.state[1] + 1))
        for log, _, stop in extents:
            ends[log] = max(ends.get(log, 0), stop)
    return ends


async def held_without(store: Store, claim: Claim, token: str) -> Held:
    """What holds the messages of a key once a name is gone."""
    points: list[Point] = []
    count, after = 0, ""
    while names := await store.names(claim, after, _SLICE):
        after = names[-1]
        others = [name for name in names if name != token]
        count += len(others)
        for name in others:
            found = await store.find(name)
            reached = Reference.decode(found.value).point if found is not None else None
            if reached is not None:
                points.append(Point.decode(reached))
        await trio.lowlevel.checkpoint()
    documents = await store.read(claim, await store.list_documents(claim, "session", limit=100_000))
    return Held(count, points, [Point.decode(document) for document in documents.values()])
