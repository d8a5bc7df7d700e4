"""Reaching people who did not ask: messages by isolation key or by identity. Mixed into `Runtime`."""

from __future__ import annotations

import inspect
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

from agent_framework import AgentResponse, Message

from afactors_channels import (
    BadRequest,
    ChannelIdentity,
    ChannelRequest,
    ChannelSession,
    ResponseTarget,
    SessionEdit,
)

from .aiming import aim
from .deliveries import Deliveries
from .opening import Life
from .outbox import posted
from .portable import checked_key
from .sending import Proactive, identities_of, no_destination
from .turn import Turn, ancestry

T = TypeVar("T")

IdentityResolver: TypeAlias = Callable[[ChannelIdentity], str | Awaitable[str]]
"""The isolation key of an identity that its platform vouches for: the application's own user id, so that several
channels meet in one actor. By default ``channel:native_id``."""


class Outreach:
    """Messages that nobody asked for. The target's own code may send them, too: they go with its turn's commit."""

    @abstractmethod
    def _opened_now(self) -> Life: ...

    @abstractmethod
    async def _in_trio(self, call: Callable[..., Awaitable[T]], *args: Any) -> T: ...

    @abstractmethod
    async def _accept(
        self, request: ChannelRequest, protocol_request: Any = None, *, edit: SessionEdit | None = None
    ) -> Turn: ...

    @property
    def deliveries(self) -> Deliveries:
        """What is on its way and what is dead: to list, show, replay and purge."""
        life = self._opened_now()
        return Deliveries(
            life.plan.store, post=life.deliverer, collect=life.supervisor.collect_soon, in_trio=self._in_trio
        )

    async def resolve(self, identity: ChannelIdentity) -> str:
        """The isolation key of an identity that its platform vouches for.

        Raises:
            BadRequest: Nobody vouches for it.
        """
        if not identity.verified:
            raise BadRequest("This identity is not verified.", field="identity", code="unverified_identity")
        resolver = self._opened_now().plan.identity_resolver
        if resolver is None:
            return checked_key(f"{identity.channel}:{identity.native_id}")
        key = resolver(identity)
        return checked_key(await key if inspect.isawaitable(key) else key)

    async def admit(self, request: ChannelRequest) -> bool:
        """Let in what a channel does by itself (a command), by the same door as a turn.

        Returns:
            Whether it is new; False if it repeats, by its idempotency key, what was accepted or `dealt` with.

        Raises:
            NotAllowed: The policy refused it.
        """
        return await self._in_trio(self._opened_now().reception.admit, request)

    async def dealt(self, request: ChannelRequest) -> None:
        """Remember that a channel dealt with a request by itself: a repeat of it is not run.

        Raises:
            StorageFull: There is no room for that.
        """
        await self._in_trio(self._opened_now().reception.dealt, request)

    async def cancel_running(self, isolation_key: str) -> int:
        """Cancel what runs and what waits in a key's sessions; returns how many turns that were."""
        return await self._in_trio(self._cancel_running, isolation_key)

    async def _cancel_running(self, key: str) -> int:
        supervisor = self._opened_now().supervisor
        if not supervisor.draining:
            await supervisor.wake(key)  # what an earlier process accepted counts, too
        return supervisor.cancel_key(key, "cancelled")

    async def send(
        self,
        isolation_key: str,
        message: str | Message,
        *,
        target: ResponseTarget = ResponseTarget.all_linked,
        remember: bool = True,
    ) -> Sequence[str]:
        """Send a message to an actor's user, through the actor's mailbox and then through the outbox.

        Args:
            isolation_key: Whose.
            message: What it says; text is the assistant's.
            target: Where to, among the identities that the actor has seen.
            remember: Whether its present session remembers it as said.

        Returns:
            Ids of the deliveries; none yet if it goes with the turn that this was called in.

        Raises:
            NotFound: `no_destination`: the actor knows nobody whom that would reach.
            Overloaded: As for a turn.
        """
        return await self._in_trio(self._send, isolation_key, _message(message), target, remember)

    async def send_to(
        self, identity: ChannelIdentity, message: str | Message, *, remember: bool = True
    ) -> Sequence[str]:
        """Send a message to one identity; its actor is found by the resolver. See `send`."""
        key = await self.resolve(identity)
        return await self.send(key, message, target=ResponseTarget.identity(identity), remember=remember)

    async def _send(self, key: str, message: Message, target: ResponseTarget, remember: bool) -> Sequence[str]:
        # It is the operator's own code that names them.
        trusted = replace(target, to=[replace(one, verified=True) for one in target.to])
        session = ChannelSession(isolation_key=checked_key(key))
        request = ChannelRequest("", (), session, overlap="enqueue", response_target=trusted)
        inside = ancestry.get()
        if inside and inside[-1].state == "running":
            return await self._joined(inside[-1], request, key, message)
        turn = await self._accept(request, edit=Proactive(message=message.to_dict(), remember=remember))
        await turn.outcome()
        return turn.delivery_ids

    async def _joined(self, turn: Turn, request: ChannelRequest, key: str, message: Message) -> Sequence[str]:
        """With the commit of the turn that runs; what it says is in that turn's own history."""
        life = self._opened_now()
        known = await identities_of(life.plan.store, key)
        at = time.time()
        if key == turn.key:
            known = known.with_(turn.request.identity, turn.created)
        wanted = aim(request, known, life.plan.channels, at)
        if not wanted.destinations:
            raise no_destination()
        said: AgentResponse[Any] = AgentResponse(messages=[message])
        deliveries = posted("message", wanted.destinations, said, life.plan.channels, at=at, run_id=turn.run_id)
        turn.posting += [(key, one) for one in deliveries]
        return ()


def _message(message: str | Message) -> Message:
    return Message("assistant", [message]) if isinstance(message, str) else message
