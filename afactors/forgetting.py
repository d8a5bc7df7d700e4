"""Deleting a run: its name, its record, its transcript, its point, and what only that point reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from afactors_store import Claim, Commit, Store

from .checkpoints import Kept, decode_kept, encode_kept
from .history import Changes, Point
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
        more: Whether the key has something that is of no session: whom it knows, reminders, what is on its way or dead.
    """

    names: int
    points: Sequence[Point]
    heads: Sequence[Point]
    checkpoints: Mapping[str, Sequence[Kept]] = field(default_factory=dict)
    more: bool = False

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
    """The run, and what only its point reached.

    A session that has no name of its own goes back to the latest point that is left of it; what it appends from then on
    goes to a log of its own. One that has a name stays, and may drop its past again once nothing else reaches that.
    """
    stands = [(head, _stands(head, point, held)) for head in held.heads]
    moved = [(head, left) for head, left in stands if left is not head]
    stay = [head for head, left in stands if left is head]
    left, gone = [*held.points, *stay], [point, *(head for head, _ in moved)]
    put: dict[str, bytes] = {}
    delete, drop = unasked(gone, left), [*run.drop_logs]
    for head, back in moved:
        name, names = document_name(head.session_id), checkpoints_name(head.session_id)
        kept = held.checkpoints.get(head.session_id, ())
        later = _after(kept, back)
        drop += [one.log for one in later]
        if back is None:
            delete += [name, names]
        else:
            put[name] = replace(back, tails={}).encode()
            put.update({names: encode_kept(kept[: len(kept) - len(later)])} if later else {})
    touched = {log for one in gone for log in one.logs()}
    for head in stay:
        if head.pinned and not touched.isdisjoint(head.logs()):
            put[document_name(head.session_id)] = settled(head, [one for one in left if one is not head]).encode()
    return replace(run, put=put, delete=delete, **unreached(gone, left, drop))


def _stands(head: Point, point: Point, held: Held) -> Point | None:
    """Where a session stands without a point; None if nobody can continue it."""
    if head.named:
        return head
    left = [one for one in held.points if one.session_id == head.session_id]
    latest = max(left, key=lambda one: one.turns, default=None)
    if head.head is not None:
        follows = any(one.head == head.head for one in left)
    else:  # its last turn had no name
        follows = latest is not None and (head.session_id != point.session_id or point.turns < latest.turns)
    return head if follows else latest


def _after(kept: Sequence[Kept], point: Point | None) -> Sequence[Kept]:
    """The checkpoints that were made after a point's."""
    known = [one.checkpoint_id for one in kept]
    return kept[known.index(point.checkpoint) + 1 :] if point is not None and point.checkpoint in known else kept


# -- what nothing reaches


def unreached(gone: Iterable[Point], left: Iterable[Point], drop: Iterable[int] = ()) -> dict[str, Any]:
    """What becomes of the rows that some points reached, and none of those that are left: fields of a commit."""
    before, needed = _spans(gone), _spans(left)
    both = [log for log in before if log in needed]
    return {
        "drop_logs": sorted({*drop, *(log for log in before if log not in needed)}),
        "truncate": {log: needed[log].stop for log in both if needed[log].stop < before[log].stop},
        "trim": {log: needed[log].start for log in both if needed[log].start > before[log].start},
    }


def _spans(points: Iterable[Point]) -> Mapping[int, range]:
    """For each log, from which row to which the points reach."""
    spans: dict[int, range] = {}
    for point in points:
        extents = [extent for extents in point.histories.values() for extent in extents]
        if point.state is not None:
            extents.append((point.state[0], point.state[1], point.state[1] + 1))
        for log, start, stop in extents:
            known = spans.get(log, range(start, stop))
            spans[log] = range(min(known.start, start), max(known.stop, stop))
    return spans


def settled(point: Point, others: Iterable[Point]) -> Point:
    """Where a session stands, with which of its logs others reach."""
    logs = point.logs()
    reached = {log for one in others for log in one.logs()} & logs
    return replace(point, pinned=bool(reached), free=tuple(sorted(logs - reached)) if reached else ())


def followed(changes: Changes, before: Point, *, named: bool) -> Changes:
    """What a turn changes, with what it leaves behind that no name leads to, and what it adds without a name."""
    point, logs = changes.point, changes.point.logs()
    pinned = named or point.pinned
    free = tuple(sorted(logs - (before.logs() - {*before.free}))) if pinned and not named else ()
    drop = {*changes.drop, *({*before.free} - logs)}
    return replace(changes, point=replace(point, pinned=pinned, free=free), drop=sorted(drop))


def unasked(gone: Iterable[Point], left: Iterable[Point]) -> list[str]:
    """The documents of questions that were open at some points, and at none of those that are left."""
    return sorted(_questions(gone) - _questions(left))


def _questions(points: Iterable[Point]) -> set[str]:
    # Only workflows have checkpoints, and name their questions themselves.
    return {
        question_name(point.session_id if point.checkpoint is not None else "", one)
        for point in points
        for one in point.questions
    }


async def held_without(store: Store, claim: Claim, token: str | None = None) -> Held:
    """What holds the messages of a key, or will once a name is gone."""
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
    held = Held(count, points, heads, kept, not all(name.startswith(_OF_SESSIONS) for name in every))
    return replace(held, more=await _delivers(store, claim)) if held.nothing else held


async def _delivers(store: Store, claim: Claim) -> bool:
    """Whether a key has deliveries that are not settled, or dead letters."""
    after: bytes | None = b""
    while after is not None:
        piece = await store.snapshot(claim, after)
        if piece.commit.deliveries:
            return True
        after = piece.after
    return False


async def beside(store: Store, claim: Claim, point: Point, live: Callable[[], Iterable[Point]]) -> Sequence[Point]:
    """What may reach the rows of a session, but for where it stands.

    Args:
        store: Where the key's points are.
        claim: The key's.
        point: Where the session stands.
        live: Tells where sessions stand that are in memory: the store may not know them yet.
    """
    if not point.pinned:
        return ()
    heads = list(live())
    held = await held_without(store, claim)
    return [*held.points, *(head for head in [*heads, *held.heads] if head.session_id != point.session_id)]
