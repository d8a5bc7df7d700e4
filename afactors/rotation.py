"""The sessions of a key: which of them it is in by default, and what others there are."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from afactors_channels import HostedSession
from afactors_store import Claim, Commit, Store

from .encoding import pack, unpack
from .naming import document_name
from .points import Point
from .sessions import labels_of

_CURRENT = "current"  # the document that names the session of who names none; without it, that is called as the key
_SLICE = 100


async def current_session(store: Store, key: str) -> str:
    """The session that a key is in unless a request says otherwise."""
    claim = await store.claim(key, [_CURRENT])
    return _named_in(claim) or key


def session_name(key: str, session_id: str) -> str:
    """What a session is called inside: the agent sees this, so no two sessions of any keys share one."""
    return key if session_id == key else f"{key}:{session_id}"


def rotated(key: str) -> tuple[str, Commit]:
    """A new session's id, and what makes it the current one of a key."""
    session_id = f"s_{secrets.token_hex(12)}"
    name = session_name(key, session_id)
    point = Point(name, named=True, created=int(time.time()))
    put = {_CURRENT: pack({"v": 1, "s": name}, _CURRENT), document_name(name): point.encode()}
    return session_id, Commit(put=put)


async def sessions_of(store: Store, key: str) -> Sequence[HostedSession]:
    """A key's sessions, without what was said in them: the current one first, then the latest begun."""
    claim = await store.claim(key, [_CURRENT])
    current = _named_in(claim) or key
    found: list[HostedSession] = []
    after = ""
    while names := await store.list_documents(claim, "session", after, _SLICE):
        after = names[-1]
        points = [Point.decode(document) for document in (await store.read(claim, names)).values()]
        labels = await store.read(claim, [document_name(one.session_id, "labels") for one in points])
        found += [_told(key, point, labels, current) for point in points]
    return sorted(found, key=lambda one: (one.current, one.created), reverse=True)


def _named_in(claim: Claim) -> str | None:
    document = claim.documents.get(_CURRENT)
    return unpack(document)["s"] if document is not None else None


def _told(key: str, point: Point, labels: dict[str, bytes], current: str) -> HostedSession:
    name = point.session_id
    return HostedSession(
        name.removeprefix(f"{key}:") if point.named else name,
        float(point.created or 0),
        labels_of(labels.get(document_name(name, "labels"))),
        current=name == current,
    )
