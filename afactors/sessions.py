"""What an actor knows of its sessions: which are in memory, which are taken, and where each begins."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import trio
from agent_framework import AgentSession, Message

from afactors_channels import HostedSession, NotFound, TargetFailed
from afactors_store import MAX_NAME_BYTES, Claim, Store

from .history import LiveSession, Point, decode_messages, load, read_extents, unpack
from .target import Target
from .turn import Turn

logger = logging.getLogger("afactors.actor")

_DECODED_IN_PLACE = 64 * 1024  # bytes


@dataclass(slots=True)
class Session:
    """What an actor knows of one of its sessions.

    Attributes:
        live: What is in memory; None while it is cold.
        letters: Turns that wait for it or run in it.
    """

    live: LiveSession | None = None
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

    def get(self, session_id: str | None) -> Session | None:
        """A session that is known."""
        return self._sessions.get(session_id) if session_id is not None else None

    def of(self, turn: Turn) -> Session | None:
        """The session of a turn that was placed; None if it runs without one."""
        return self._sessions[turn.session_id] if turn.session_id is not None else None

    def join(self, turn: Turn, start: Point) -> None:
        """Place a letter: in the session that it names, or a branch if that one is taken or has moved on."""
        after = turn.request.session.after
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

    async def wake(self, claim: Claim, turn: Turn) -> LiveSession:
        """Bring a turn's session into memory; a point that is no longer its head becomes a branch."""
        session = self.of(turn)
        assert session is not None and turn.session_id is not None  # noqa: S101, PT018 - the caller has looked
        if session.live is None:
            name = document_name(turn.session_id)
            stored = (await self._store.read(claim, [name])).get(name)
            assert turn.start is not None  # noqa: S101 - it was given when the turn was placed
            point = Point.decode(stored) if stored is not None else turn.start
            if stored is not None and not point.named and moved_on(point, turn.request.session.after):
                session, point = self._branch(turn, turn.start, session)

            async def read(log: int, start: int, stop: int) -> list[bytes]:
                return await self._store.read_log(claim, log, start, stop)

            try:
                session.live = await load(point, read, make=self._make, decode=_decode)
            except LookupError as exc:
                if turn.request.session.after is None:
                    raise
                raise NotFound("This point was deleted.", field="session.after", code="point_not_found") from exc
        return session.live

    def _branch(self, turn: Turn, start: Point, left: Session) -> tuple[Session, Point]:
        """Move a turn that has begun to a session of its own, which begins at the turn's point."""
        left.letters -= 1
        point = start.branch(_branch_id(turn))
        turn.session_id = point.session_id
        session = self._sessions[point.session_id] = Session(letters=1)
        return session, point

    async def _make(self, session_id: str) -> AgentSession:
        try:
            return await self._target.make_session(session_id)
        except Exception as exc:  # the target is user code
            logger.warning("the target cannot make a session", exc_info=exc)
            raise TargetFailed("The agent failed to answer.") from exc

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

    return [unpack(row) for row in await read_extents(read, next(iter(point.histories.values()), ()))]


def labels_of(document: bytes | None) -> Mapping[str, str]:
    """A session's labels, from their document."""
    labels: Mapping[str, str] = unpack(document)["l"] if document is not None else {}
    return labels


def document_name(session_id: str, kind: str = "session") -> str:
    """The document that holds a session's point (or its labels); a session id of any length has one."""
    name = f"{kind}/{session_id}"
    if len(name.encode(errors="surrogatepass")) <= MAX_NAME_BYTES:
        return name
    return f"{kind}#{hashlib.sha256(session_id.encode(errors='surrogatepass')).hexdigest()}"


async def _decode(rows: list[bytes]) -> list[Message]:
    """A long history is decoded in a worker thread: trio goes on meanwhile."""
    if sum(map(len, rows)) <= _DECODED_IN_PLACE:
        return decode_messages(rows)
    return await trio.to_thread.run_sync(decode_messages, rows)


def _branch_id(turn: Turn) -> str:
    return turn.request.name or turn.run_id
