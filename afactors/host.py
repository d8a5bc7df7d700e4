"""What a turn may ask of the runtime that it runs in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from agent_framework import Message

from afactors_channels import ChannelRequest, ContinuationToken, ResponseTarget

from .reminders import Reminder, When


class Host(Protocol):
    """What a turn asks of its runtime; see `Runtime`."""

    async def schedule(
        self,
        isolation_key: str,
        when: When,
        message: str | Message,
        *,
        target: ResponseTarget | None = None,
        as_turn: bool = True,
        expires: timedelta | None = None,
    ) -> str:
        """Have an actor get a message later."""
        ...

    async def list_reminders(self, isolation_key: str) -> Sequence[Reminder]:
        """An actor's reminders that have not come yet."""
        ...

    async def cancel_reminder(self, isolation_key: str, reminder_id: str) -> bool:
        """Cancel a reminder."""
        ...

    async def send(
        self,
        isolation_key: str,
        message: str | Message,
        *,
        target: ResponseTarget = ResponseTarget.all_linked,
        remember: bool = True,
    ) -> Sequence[str]:
        """Send a message to an actor's user."""
        ...

    async def submit(self, request: ChannelRequest) -> ContinuationToken:
        """Accept a request as a durable letter."""
        ...
