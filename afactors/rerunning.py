"""Letters that used up their attempts, run again as new runs if somebody says so; `commits` has buried them."""

from __future__ import annotations

import contextvars
import hashlib
import hmac
import time
from functools import partial

from afactors_channels import ChannelRequest
from afactors_store import Conflict, DeadLetter, FormatTooNew, Store

from . import commits
from .limits import Limits
from .outbox import LETTERS, UnknownVersion
from .points import Point
from .runs import LetterBody, pack_request, unpack_request
from .turn import Turn

_SLICE = 100


async def run_again(store: Store, letter: DeadLetter) -> Turn | None:
    """Accept a dead letter as a new run; None if that was done before.

    The old run stays as it ended. The new one's id and name are the same whenever this letter is run again: neither two
    who do it at once, nor a process that dies between the two steps of it, can make one letter run twice.

    Args:
        store: Where it lies, and where the new letter waits for its actor.
        letter: The dead letter, which is not removed.

    Raises:
        UnknownVersion: As of `read`.
        Fenced: Its key was erased just now.
        StoreFull: There is no room.
    """
    body, point, request = read(letter)
    digest = hmac.new(store.secret, f"again:{letter.delivery_id}".encode(), hashlib.sha256).hexdigest()
    token = f"{(body.token or 'run_').partition('_')[0]}_{digest[:48]}"
    if await store.find(token) is not None:
        return None
    name = token if request.name is not None else None
    request = request.replace(name=name, idempotency_key=None, stream=False, overlap="enqueue")
    run_id = f"run_{max(0, int(letter.died * 1000)):011x}{digest[-13:]}"  # it comes after the old one in listings
    # Its own context: whoever sent it is long gone.
    turn = contextvars.Context().run(
        partial(Turn, request, run_id, letter.key, durable=True, attended=False, created=time.time())
    )
    turn.start, turn.session_id, turn.token, turn.packed = point, body.session_id, token, pack_request(request)
    try:
        await store.commit(await store.claim(letter.key), commits.accepted(turn, Limits()))
    except Conflict:
        return None  # somebody else was here between the look and the commit, and that letter waits
    return turn


def read(letter: DeadLetter) -> tuple[LetterBody, Point | None, ChannelRequest]:
    """What a dead letter holds, where its session begins, and what it asks for.

    Raises:
        UnknownVersion: A newer afactors wrote it, or nobody.
    """
    try:
        body = LetterBody.decode(letter.body)
        return body, body.point, unpack_request(body.request)
    except FormatTooNew as exc:
        raise UnknownVersion(str(exc)) from exc
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise UnknownVersion(f"it cannot be read ({type(exc).__name__})") from exc


async def forget_letter(store: Store, key: str, run_id: str) -> None:
    """Remove the dead letter of a run that used up its attempts: it has what the run was told."""
    position = -1
    while letters := await store.dead_letters(position, _SLICE):
        position = letters[-1].position
        mine = [one.position for one in letters if one.key == key and _run_of(one) == run_id]
        if mine:
            await store.purge(mine)
            return


def _run_of(letter: DeadLetter) -> str | None:
    try:
        return LetterBody.decode(letter.body).run_id if letter.lane == LETTERS else None
    except (FormatTooNew, KeyError, TypeError, ValueError):
        return None
