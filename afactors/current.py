"""The present turn, for the target's own code: what a tool may ask of the runtime that it runs in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from agent_framework import Message

from afactors_channels import ChannelRequest, ContinuationToken, ResponseTarget

from .host import Host
from .reminders import Reminder, When
from .turn import Turn, ancestry


@dataclass(frozen=True, slots=True)
class CurrentTurn:
    """The turn that the calling code runs in. What is done by it is done by the turn's commit, or not at all."""

    _turn: Turn
    _host: Host

    @property
    def isolation_key(self) -> str:
        """The actor that the turn is of."""
        return self._turn.key

    @property
    def run_id(self) -> str:
        """The turn's run."""
        return self._turn.run_id

    async def schedule(
        self,
        when: When,
        message: str | Message,
        *,
        target: ResponseTarget | None = None,
        as_turn: bool = True,
        expires: timedelta | None = None,
    ) -> str:
        """Have this actor get a message later, in the session of this turn; see `Runtime.schedule`."""
        return await self._host.schedule(
            self.isolation_key, when, message, target=target, as_turn=as_turn, expires=expires
        )

    async def list_reminders(self) -> Sequence[Reminder]:
        """This actor's reminders, as this turn leaves them."""
        return await self._host.list_reminders(self.isolation_key)

    async def cancel_reminder(self, reminder_id: str) -> bool:
        """Cancel one of this actor's reminders; False if there is none such."""
        return await self._host.cancel_reminder(self.isolation_key, reminder_id)

    async def send(self, message: str | Message, *, target: ResponseTarget = ResponseTarget.all_linked) -> None:
        """Send a message to this actor's user; see `Runtime.send`."""
        await self._host.send(self.isolation_key, message, target=target)

    async def submit(self, request: ChannelRequest) -> ContinuationToken:
        """Submit a durable letter; see `Runtime.submit`."""
        return await self._host.submit(request)


def get_current_turn() -> CurrentTurn | None:
    """The turn that the calling code (an agent's, a tool's) runs in; None outside of turns."""
    inside = ancestry.get()
    host = inside[-1].host if inside else None
    return CurrentTurn(inside[-1], host) if host is not None else None
