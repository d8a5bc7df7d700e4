"""What an actor knows of its sessions: which are in memory, which are taken, and where each begins."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afactors_channels import Conflicting, HostedSession, NotFound
from afactors_store import Claim, Store

from .history import Extent, Point, aside, read_left, unpack
from .naming import document_name
from .target import Live, Target
from .turn import Turn


@dataclass(slots=True)
class Session:
    """What an actor knows of one of its sessions.

    Attributes:
        live: What is in memory; None while it is cold.
        letters: Turns that wait for it or run in it.
    """

    live: Live | None = None
    letters: int = 0

    def taken_for(self, after: str | None) -> bool:
        """Whether a turn from that point (or a new thread) must branch off, as far as can be told without the store."""
        return self.letters > 0 or (self.live is not None and moved_on(self.live.point, after))


def moved_on(point: Point, after: str | None) -> bool:
    """Whether a thread has a turn that one from `after` (None: from its beginning) does not follow."""
    return after is None or point.head != after


class Sessions:
    """The sessions of one actor, by id, the latest used last."""

    def __init__(self, store: Store, target: Target) -> None:
        self._store = store
        self._target = target
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    @property
    def live(self) -> int:
        """How many are in memory."""
        return sum(session.live is not None for session in self._sessions.values())

    def points(self) -> Sequence[Point]:
        """Where those stand that are in memory."""
        return [session.live.point for session in self._sessions.values() if session.live is not None]

    def get(self, session_id: str | None) -> Session | None:
        """A session that is known."""
        return self._sessions.get(session_id) if session_id is not None else None

    def of(self, turn: Turn) -> Session | None:
        """The session of a turn that was placed; None if it runs without one."""
        return self._sessions[turn.session_id] if turn.session_id is not None else None

    def join(self, turn: Turn, start: Point) -> None:
        """Place a letter: in the session that it names, or a branch if that one is taken or has moved on."""
        after = turn.request.session.after
        if not self._target.branches:
            self.rejoin(turn, start)
            return
        session = self._sessions.get(start.session_id)
        taken = session is not None and session.taken_for(after)
        if after is not None if start.named else taken:
            start = start.branch(_branch_id(turn))
        self.rejoin(turn, start)

    def rejoin(self, turn: Turn, start: Point) -> None:
        """Place a letter where it was before."""
        turn.start, turn.session_id = start, start.session_id
        self._sessions.setdefault(start.session_id, Session()).letters += 1

    def leave(self, turn: Turn, keep: int) -> None:
        """A turn has ended; at most `keep` sessions that nobody uses stay."""
        if turn.session_id is not None:
            self._sessions[turn.session_id].letters -= 1
            self._sessions.move_to_end(turn.session_id)
            self._forget_cold(keep)

    async def wake(self, claim: Claim, turn: Turn) -> Live:
        """Bring a turn's session into memory; a point that is no longer its head becomes a branch.

        Raises:
            Conflicting: The target has no branches.
            NotFound: The point was deleted.
        """
        session = self.of(turn)
        assert session is not None and turn.session_id is not None  # noqa: S101, PT018 - the caller has looked
        if session.live is None:
            name, *others = document_name(turn.session_id), *self._target.documents(turn.session_id)
            documents = await self._store.read(claim, [name, *others])
            stored = documents.get(name)
            assert turn.start is not None  # noqa: S101 - it was given when the turn was placed
            point = Point.decode(stored) if stored is not None else turn.start
            moved = stored is not None and moved_on(point, turn.request.session.after)
            if moved and not point.named and self._target.branches:
                session, point = self._branch(turn, turn.start, session)

            async def read(log: int, start: int, stop: int) -> list[bytes]:
                return await self._store.read_log(claim, log, start, stop)

            try:
                session.live = await self._target.wake(point, documents, read)
            except LookupError as exc:
                if turn.request.session.after is None:
                    raise
                raise NotFound("This point was deleted.", field="session.after", code="point_not_found") from exc
        after, live = turn.request.session.after, session.live
        assert live is not None  # noqa: S101 - it was just made
        if after is not None and not self._target.branches and live.point.head != after:
            raise not_the_head()
        return live

    def _branch(self, turn: Turn, start: Point, left: Session) -> tuple[Session, Point]:
        """Move a turn that has begun to a session of its own, which begins at the turn's point."""
        left.letters -= 1
        point = start.branch(_branch_id(turn))
        turn.session_id = point.session_id
        session = self._sessions[point.session_id] = Session(letters=1)
        return session, point

    def forget(self, session_id: str) -> None:
        """A session was deleted: what follows begins anew."""
        self._sessions[session_id].live = None

    def go_cold(self, waiting: Collection[Turn]) -> None:
        """Keep only what the waiting letters need to begin again."""
        ids = [turn.session_id for turn in waiting]
        for session_id, session in list(self._sessions.items()):
            if session_id not in ids:
                del self._sessions[session_id]
            else:
                session.live, session.letters = None, ids.count(session_id)

    def _forget_cold(self, keep: int) -> None:
        for session_id in list(self._sessions):
            if len(self._sessions) <= keep:
                return
            if not self._sessions[session_id].letters:
                del self._sessions[session_id]


async def read_session(store: Store, key: str, session_id: str) -> HostedSession:
    """A session as it is stored.

    Raises:
        NotFound: There is none.
    """
    claim = await store.claim(key)
    name, labels = document_name(session_id), document_name(session_id, "labels")
    stored = await store.read(claim, [name, labels])
    if not stored:
        raise NotFound("There is no such session.", field="session", code="session_not_found")
    point = Point.decode(stored[name]) if name in stored else Point(session_id)
    messages = await messages_at(store, key, point)
    return HostedSession(session_id, float(point.created or 0), labels_of(stored.get(labels)), messages)


async def messages_at(store: Store, key: str, point: Point) -> Sequence[Mapping[str, Any]]:
    """The history up to a point, serialized."""
    claim = await store.claim(key)

    async def read(log: int, start: int, stop: int) -> list[bytes]:
        return await store.read_log(claim, log, start, stop)

    try:
        _, rows = await read_left(read, _told(point))
    except LookupError as exc:
        raise NotFound("This point is too old.", field="session", code="point_not_found") from exc
    return [unpack(row) for row in rows]


def _told(point: Point) -> Sequence[Extent]:
    """The history that tells what was said: one that is in memory, if there is any."""
    here = [name for name in point.histories if not aside(name)]
    return point.histories[[*here, *point.histories][0]] if point.histories else ()


def labels_of(document: bytes | None) -> Mapping[str, str]:
    """A session's labels, from their document."""
    labels: Mapping[str, str] = unpack(document)["l"] if document is not None else {}
    return labels


def _branch_id(turn: Turn) -> str:
    return turn.request.name or turn.run_id


def not_the_head() -> Conflicting:
    """For a turn that would go back in a workflow's session."""
    return Conflicting(
        "A workflow goes on only from its latest turn, and this is an earlier one.",
        field="session.after",
        code="not_the_head",
    )
