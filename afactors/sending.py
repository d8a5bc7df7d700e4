"""What a turn sends: its reply to whom it is for, and what its user said to their other channels.

The actor knows its user's identities; they are read when first needed, and written when something new was seen.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agent_framework import AgentResponse, Message

from afactors_channels import (
    ChannelContribution,
    ChannelIdentity,
    ChannelRequest,
    HostError,
    NotAllowed,
    NotFound,
    ResponseTarget,
    SessionEdit,
)
from afactors_channels.pushes import HOSTING
from afactors_store import Claim, NewDelivery, Store

from .aiming import Aim, aim
from .commits import Sent
from .encoding import NotStorable, pack
from .identities import DOCUMENT, Identities, pack_identity
from .outbox import posted
from .reminders import CHANNEL as REMINDER
from .turn import Turn

logger = logging.getLogger("afactors.actor")


@dataclass(frozen=True, slots=True)
class Proactive(SessionEdit):
    """A message that nobody asked for, on its way through the actor's mailbox.

    Attributes:
        message: What it says, serialized.
        remember: Whether the session's history gets it.
    """

    message: Mapping[str, Any] = field(default_factory=dict)
    remember: bool = False


class Sender:
    """The outgoing side of one actor."""

    def __init__(self, store: Store, channels: Mapping[str, ChannelContribution]) -> None:
        self._store = store
        self._channels = channels
        self._claim: Claim | None = None
        self._known = self._written = Identities()

    def news(self, claim: Claim) -> Identities | None:
        """Whom the actor knows, if something new is in that: for the commit that is handed over before the next await.

        Turns of other sessions learn, too. What one of them had read earlier would undo what another has written.
        """
        return self._known if self._claim is claim and self._known.news_to(self._written) else None

    def learnt(self, news: Identities | None) -> None:
        """What was new is durable."""
        self._written = news or self._written

    async def heard(self, claim: Claim, turn: Turn) -> None:
        """Note who says what a turn is told, as of when it came: whatever becomes of it, there they are."""
        for one in turn.parts:
            identity = one.request.identity
            if identity is not None and identity.verified and _storable(identity):
                self._known = (await self.known(claim)).with_(identity, one.created)

    async def aim(self, claim: Claim, request: ChannelRequest, at: float) -> Aim:
        """Where a reply goes."""
        if request.response_target.kind in ("originating", "none"):
            return aim(request, Identities(), self._channels, at)
        return aim(request, await self.known(claim), self._channels, at)

    async def known(self, claim: Claim) -> Identities:
        """Whom the actor knows."""
        if self._claim is not claim:  # a new one knows nothing of what was before: the key was erased, or made
            found = Identities.decode((await self._store.read(claim, [DOCUMENT])).get(DOCUMENT))
            if self._claim is not claim:  # another session's turn may have been faster
                self._claim, self._known, self._written = claim, found, found
        return self._known

    def sent(self, turn: Turn, wanted: Aim, news: Identities | None, said: AgentResponse[Any], at: float) -> Sent:
        """What the turn's commit has of this."""
        if not wanted.destinations:
            return Sent(turn.posting, written(news))
        origin: dict[str, Any] = {"at": at, "run_id": turn.run_id, "origin": turn.request.channel}
        told: AgentResponse[Any] = AgentResponse(
            messages=[message for message in turn.messages if message.role == "user"]
        )
        echoes = posted("echo", wanted.echoed, told, self._channels, **origin)
        replies = posted("reply", wanted.destinations, said, self._channels, **origin)
        return Sent([*turn.posting, *((turn.key, one) for one in [*echoes, *replies])], written(news))

    async def concerned(self, claim: Claim, turn: Turn, at: float) -> Sequence[ChannelIdentity]:
        """Who waits for a delivery of a turn that failed; of one that was called off, nobody."""
        request, identity = turn.request, turn.request.identity
        if turn.failure == "cancelled" or not turn.durable or request.response_target.kind == "none":
            return ()
        if request.channel == REMINDER:
            return (await self.aim(claim, request, at)).destinations
        channel = self._channels.get(request.channel)
        if channel is None or not channel.replies_by_push or identity is None or not identity.verified:
            return ()
        return [identity]

    def failure(
        self, turn: Turn, concerned: Sequence[ChannelIdentity], error: HostError, at: float
    ) -> list[NewDelivery]:
        """What they hear of it."""
        message = Message("assistant", [error.message], additional_properties={HOSTING: {"error": error.code}})
        said: AgentResponse[Any] = AgentResponse(messages=[message])
        return posted("reply", concerned, said, self._channels, at=at, run_id=turn.run_id, origin=turn.request.channel)

    def message(self, turn: Turn, wanted: Aim, said: AgentResponse[Any], at: float) -> list[NewDelivery]:
        """What a message that nobody asked for is delivered as."""
        return posted("message", wanted.destinations, said, self._channels, at=at, run_id=turn.run_id)


def _storable(identity: ChannelIdentity) -> bool:
    try:
        pack(pack_identity(identity), DOCUMENT)
    except NotStorable as exc:
        logger.error("channel %s: an identity is not remembered: %s", identity.channel, exc)
        return False
    return True


def written(news: Identities | None) -> Mapping[str, bytes]:
    """The document of whom an actor knows, if there is something new in it."""
    return {DOCUMENT: news.encode()} if news is not None else {}


def marked(said: AgentResponse[Any], wanted: Aim) -> None:
    """Have the reply say where it was meant to go; once, before it is stored."""
    if said.messages and (wanted.destinations or wanted.skipped or wanted.wanted != "originating"):
        said.messages[-1].additional_properties.setdefault(HOSTING, wanted.told())


def no_destination() -> NotFound:
    """For a message that would reach nobody."""
    return NotFound("There is nobody to send this to.", field="target", code="no_destination")


async def identities_of(store: Store, key: str) -> Identities:
    """Whom an actor knows, as it was committed."""
    return Identities.decode((await store.claim(key, [DOCUMENT])).documents.get(DOCUMENT))


async def vouched(store: Store, key: str, request: ChannelRequest, named: ResponseTarget) -> ChannelRequest:
    """A request whose destinations may be its own: its actor's, or those that the operator's code chose.

    Args:
        store: Where the actor's identities are.
        key: The actor's.
        request: As the run hook left it.
        named: What it asked for before.

    Raises:
        NotAllowed: It names somebody else.
    """
    target = request.response_target
    if target.kind != "identities":
        return request
    # Whom the request named itself stays a claim, whatever copies of it the hook made.
    claimed = {(one.channel, one.native_id) for one in named.to}
    to = [one if (one.channel, one.native_id) in claimed else replace(one, verified=True) for one in target.to]
    own = (await identities_of(store, key)).with_(request.identity, time.time())
    if any(not one.verified and own.known(one) is None for one in to):
        raise NotAllowed("This is no identity of yours.", field="response_target", code="not_your_identity", status=403)
    return request.replace(response_target=replace(target, to=to))
