"""Deleting a run: its name, its record, its transcript, its point, and what only that point reached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import trio

from afactors_store import Claim, Commit, Store

from .checkpoints import Kept, decode_kept
from .history import Point
from .ledger import checkpoints_name
from .naming import document_name
from .questions import question_name
from .runs import Record, Reference

_SLICE = 100
_OF_SESSIONS = ("session", "labels", "checkpoints", "question", "steps")


@dataclass(frozen=True, slots=True)
class Held:
    """What holds the messages of a key.

    Attributes:
        names: How many names there are.
        points: The points that they lead to; a run that did not complete has a name and no point.
        heads: Where its sessions stand.
        checkpoints: Of workflows' sessions, the checkpoints, by session id.
    """

    names: int
    points: Sequence[Point]
    heads: Sequence[Point]
    checkpoints: Mapping[str, Sequence[Kept]] = field(default_factory=dict)

    more: bool = False
    """Whether the key has something that is of no session: whom it knows (and so what is on its way), reminders."""

    @property
    def nothing(self) -> bool:
        """Whether nobody can reach anything any more."""
        return not self.names and not self.more and not any(head.named for head in self.heads)


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
    drop: list[int] = []
    for head in held.heads:
        if head.named or any(left.session_id == head.session_id and left.turns == head.turns for left in held.points):
            continue
        left = max((one for one in held.points if one.session_id == head.session_id), key=_turns, default=None)
        if left is None:
            kept = held.checkpoints.get(head.session_id, ())
            drop += [one.log for one in kept]
            delete += [document_name(head.session_id), checkpoints_name(head.session_id)]
            delete += [question_name(head.session_id, one) for one in head.questions if kept]
        else:
            put[document_name(head.session_id)] = replace(left, tails={}).encode()
    needed = _ends([*held.points, *(head for head in held.heads if head.named)])
    ends = _ends([point])
    return replace(
        run,
        put=put,
        delete=delete,
        drop_logs=[*run.drop_logs, *drop, *(log for log in ends if log not in needed)],
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
            reached = Reference.decode(found.value).reached(name) if found is not None else None
            if reached is not None:
                points.append(reached)
        await trio.lowlevel.checkpoint()
    every = await store.list_documents(claim, limit=1_000_000)
    documents = await store.read(claim, [name for name in every if name.startswith("session")])
    heads = [Point.decode(document) for document in documents.values()]
    workflows = {checkpoints_name(head.session_id): head.session_id for head in heads if head.checkpoint is not None}
    lists = await store.read(claim, list(workflows))
    kept = {workflows[name]: decode_kept(document) for name, document in lists.items()}
    return Held(count, points, heads, kept, not all(name.startswith(_OF_SESSIONS) for name in every))
