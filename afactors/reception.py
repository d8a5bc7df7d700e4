"""How a request becomes a turn: authorized, recognised, rewritten by the run hook, placed, delivered."""

from __future__ import annotations

import inspect
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from afactors_channels import (
    BadRequest,
    ChannelContribution,
    ChannelRequest,
    Conflicting,
    NotAllowed,
    OverlapPolicy,
    Repeated,
    SessionEdit,
    StorageFull,
)
from afactors_store import BadKey, Store, StoreFull

from .asking import forewarn
from .commits import dealt_with
from .continuations import Continuations
from .history import NotStorable, Point
from .hooks import hooked
from .placing import place
from .questions import has_approvals
from .recovering import make_journal
from .runs import idempotency_name, pack_request
from .sending import vouched
from .supervision import Supervisor
from .target import Target
from .turn import Turn, ancestry

logger = logging.getLogger("afactors.runtime")

Authorization: TypeAlias = Literal["allowed", "link_required", "denied"]
AuthPolicy: TypeAlias = Callable[[ChannelRequest], Authorization | Awaitable[Authorization]]
"""Decides about every request before anything else happens to it; open by default."""


class Reception:
    """The door of a runtime that is open.

    Args:
        store: Where points and idempotency keys are found.
        target: Says what it cannot take.
        supervisor: Whom turns are delivered to.
        continuations: Knows which requests repeat others.
        channels: What each channel contributes: its run hook, its overlap policy.
        authorize: See `AuthPolicy`.
        overlap: The policy where neither request nor channel says.
        run_ids: Names for runs.
    """

    def __init__(
        self,
        store: Store,
        target: Target,
        supervisor: Supervisor,
        continuations: Continuations,
        channels: Mapping[str, ChannelContribution],
        *,
        authorize: AuthPolicy | None,
        overlap: OverlapPolicy,
        run_ids: Iterator[str],
    ) -> None:
        self._store = store
        self._target = target
        self._supervisor = supervisor
        self._continuations = continuations
        self._channels = channels
        self._authorize = authorize
        self._overlap: OverlapPolicy = overlap
        self._run_ids = run_ids

    async def prepare(
        self,
        request: ChannelRequest,
        protocol_request: Any = None,
        *,
        attended: bool = True,
        edit: SessionEdit | None = None,
        placed: tuple[str, Point | None] | None = None,
    ) -> Turn:
        """Make a request a turn, or refuse it.

        Args:
            request: The request.
            protocol_request: What its channel's hook gets beside it.
            attended: Whether somebody waits for it.
            edit: What it does instead of running the target.
            placed: Its key and where its session begins, if that is known already.

        Raises:
            Repeated: It repeats an earlier one.
        """
        await self.authorize(request)
        repeatable = idempotency_name(self._store.secret, request)
        if repeatable is not None:
            await self._continuations.check_repeat(repeatable, request)
        named = request.response_target
        if edit is None:
            request = await self._hooked(request, protocol_request)
            request = self._target.check(request)
        run_id = next(self._run_ids)
        durable = edit is None and (not attended or self._target.durable)
        key, start = placed or await place(self._store, request, run_id, repeatable)
        request = await vouched(self._store, key, request, named)
        turn = Turn(request, run_id, key, durable=durable, attended=attended, edit=edit)
        turn.start, turn.session_id = start, start.session_id if start is not None else None
        turn.idempotency = repeatable
        if durable:
            turn.packed = _packed(request)
        if turn.token is not None:
            await self._check_name(turn.token, key)
        elif not attended or repeatable is not None:
            turn.token = f"run_{secrets.token_hex(24)}"
        await self._forewarn(turn)
        turn.journal = make_journal(self._supervisor, turn)
        return turn

    async def _forewarn(self, turn: Turn) -> None:
        """Refuse what its session would refuse, while there is somebody who can be told in the best way."""
        if turn.edit is not None or turn.session_id is None:
            return
        asks_nothing = self._target.branches and not has_approvals(turn.request.input)
        if not asks_nothing and not self._supervisor.busy(turn.key, turn.session_id):
            await forewarn(self._store, turn, self._target, self._supervisor.limits.question_timeout)

    async def deliver(self, turn: Turn) -> Turn:
        """Put a turn into its actor's mailbox, or refuse it.

        Raises:
            Repeated: It repeats an earlier one.
        """
        request = turn.request
        self._check_circle(turn)
        overlap = request.overlap or self._contribution(request).overlap or self._overlap
        if overlap != "enqueue":
            await self._supervisor.wake(turn.key)
        if turn.idempotency is not None:
            await self._continuations.check_repeat(turn.idempotency, request)
        if turn.journal is not None and turn.attended:
            turn.journal.started()
        self._supervisor.deliver(turn.watched(), turn.start, overlap)
        return turn

    async def admit(self, request: ChannelRequest) -> bool:
        """Let in what a channel does by itself; False for a repeat."""
        await self.authorize(request)
        repeatable = idempotency_name(self._store.secret, request)
        try:
            if repeatable is not None:
                await self._continuations.check_repeat(repeatable, request)
        except Repeated:
            return False
        return True

    async def dealt(self, request: ChannelRequest) -> None:
        """Remember that a request was dealt with, but no letter."""
        repeatable, key = idempotency_name(self._store.secret, request), request.session.isolation_key
        if repeatable is None or key is None or await self._store.find(repeatable) is not None:
            return
        remembered = dealt_with(repeatable, request, time.time() + self._supervisor.limits.idempotency_window)
        try:
            await self._store.commit(await self._store.claim(key), remembered)
        except StoreFull as exc:
            raise StorageFull("The server has no room to store new turns.") from exc

    async def authorize(self, request: ChannelRequest) -> None:
        """Let a request in, or refuse it."""
        if self._authorize is None:
            return
        decision = self._authorize(request)
        if inspect.isawaitable(decision):
            decision = await decision
        if decision == "allowed":
            return
        logger.info("channel %s: a request was refused (%s)", request.channel, decision)
        code = "link_required" if decision == "link_required" else "forbidden"
        raise NotAllowed("You may not do this.", code=code, status=403)

    async def _check_name(self, name: str, key: str) -> None:
        """Refuse a name that the turn could not be given at its end."""
        try:
            found = await self._store.find(name)
        except BadKey as exc:
            raise BadRequest(str(exc), field="name", code="invalid_name") from exc
        if found is not None and found.key != key:
            raise Conflicting("This name is taken.", field="name", code="name_taken")

    def _check_circle(self, turn: Turn) -> None:
        branches = self._target.branches and turn.request.session.after is not None
        if not turn.attended or turn.start is None or branches:
            return  # nobody waits for it, or it has a session of its own
        inside = ancestry.get()
        if inside and self._supervisor.waits_in_a_circle(turn.key, turn.start.session_id, inside):
            raise Conflicting("The turn would wait for itself.", code="would_deadlock")

    def _contribution(self, request: ChannelRequest) -> ChannelContribution:
        return self._channels.get(request.channel) or ChannelContribution()

    async def _hooked(self, request: ChannelRequest, protocol_request: Any) -> ChannelRequest:
        """What the channel's run hook makes of a request."""
        made = await hooked(
            self._contribution(request).run_hook,
            request,
            what="run",
            code="run_hook_failed",
            target=self._target.hosted,
            protocol_request=protocol_request,
        )
        # What these say was checked before the hook; they are not its to change.
        return made.replace(
            channel=request.channel,
            partition=request.partition,
            idempotency_key=request.idempotency_key,
            fingerprint=request.fingerprint,
            redelivers=request.redelivers,
        )


def _packed(request: ChannelRequest) -> bytes:
    try:
        return pack_request(request)
    except NotStorable as exc:
        logger.error("channel %s: a request cannot be stored: %s", request.channel, exc)
        raise BadRequest("The request holds something that cannot be stored.", code="not_storable") from exc
