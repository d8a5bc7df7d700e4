"""Which actor a request belongs to, and where in which session it goes on."""

from __future__ import annotations

import hashlib

from afactors_channels import BadRequest, ChannelRequest, NotFound
from afactors_store import MAX_KEY_BYTES, BadKey, Store, check_key

from .history import Point
from .rotation import current_session, session_name
from .runs import Reference


async def place(
    store: Store, request: ChannelRequest, run_id: str, repeatable: str | None = None
) -> tuple[str, Point | None]:
    """The key that a request belongs to, and where its session begins.

    Args:
        store: Where points are found.
        request: The request.
        run_id: Names a thread that nothing else names.
        repeatable: The name of its idempotency key: names a new thread, so that every repeat has the same key.
    """
    session = request.session
    if session.after is not None and session.session_id is not None:
        raise BadRequest("Name a session or a point to continue from, not both.", field="session")
    if request.session_mode == "required" and session == type(session)():
        raise BadRequest("A session is required.", field="session", code="session_required")
    if request.session_mode == "disabled":
        return _key(request, run_id), None
    if session.after is not None:
        return await _continue(store, request, session.after)
    if session.session_id is not None:
        key = _key(request, session.session_id)
        return key, Point(key if session.isolation_key is None else session_name(key, session.session_id), named=True)
    if session.isolation_key is not None and request.name is None:
        key = _key(request, session.isolation_key)
        return key, Point(await current_session(store, key), named=True)
    thread = repeatable or request.name or run_id
    return _key(request, thread), Point(thread)


async def _continue(store: Store, request: ChannelRequest, after: str) -> tuple[str, Point]:
    """The key and session of an immutable point. Another owner's point is as unknown as one that never was."""
    try:
        found = await store.find(after)
    except BadKey:
        found = None  # nothing that is called so can be there
    wanted = request.session.isolation_key
    point = Reference.decode(found.value).reached(after) if found is not None else None
    if found is not None and point is not None:
        mine = found.key == wanted if wanted is not None else found.key.startswith(_threads(request.partition))
        if mine:
            return found.key, point
    raise NotFound("There is no such point to continue from.", field="session.after", code="point_not_found")


def _key(request: ChannelRequest, thread: str) -> str:
    isolation_key = request.session.isolation_key
    for text in (thread, isolation_key):
        if text is not None:
            _check_text(text)
    if isolation_key is not None:
        return isolation_key
    key = _threads(request.partition) + thread
    if len(key.encode()) <= MAX_KEY_BYTES:
        return key
    return f"{_threads(request.partition)}#{hashlib.sha256(thread.encode()).hexdigest()}"


def _check_text(text: str) -> None:
    try:
        check_key(text)
    except BadKey as exc:
        raise BadRequest(str(exc), field="session", code="invalid_session") from exc


def _threads(partition: str) -> str:
    """The beginning of every key that a thread of nobody we know has, by the credential it came under."""
    return f"thread:{partition}:"
