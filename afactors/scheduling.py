"""Reminders as the application and the target's own code make, list and cancel them. Mixed into `Runtime`."""

from __future__ import annotations

import secrets
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from agent_framework import Message

from afactors_channels import BadRequest, ChannelRequest, ChannelSession, Overloaded, ResponseTarget

from .alarms import reminders_of, settle
from .history import NotStorable
from .opening import Life
from .portable import checked_key
from .reception import Reception
from .reminders import CHANNEL, PREFIX, Reminder, When, changed, due_at
from .sending import vouched
from .turn import Turn, ancestry, stopping

T = TypeVar("T")


class Scheduling:
    """Durable reminders. Within a turn, the target's own code makes and cancels them with that turn's commit."""

    @abstractmethod
    def _opened_now(self) -> Life: ...

    @abstractmethod
    def _receiving(self) -> Reception: ...

    @abstractmethod
    async def _in_trio(self, call: Callable[..., Awaitable[T]], *args: Any) -> T: ...

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
        """Have an actor get a message later: once, whatever happens in between, and late rather than never.

        When it is due, the message becomes a durable letter of the actor's, as if its user had written it; the request
        says so (`channel` is "reminder") and how late it is (`attributes`: `reminder`, `due` and `late_by`, seconds).
        What was due while no process ran comes when the next one starts, the earliest first; for one key always in
        the order of what is due.

        Args:
            isolation_key: Whose actor.
            when: When it is due: seconds since the epoch, an aware datetime, or how long from now. What is past is due
                at once.
            message: What the actor is told; text is its user's, or the assistant's if it is no turn.
            target: Where the answer goes; by default to the channel that the user wrote on last, and if that takes no
                deliveries, to all that do. If there is none, the answer is in the conversation alone.
            as_turn: Whether the target answers it. Otherwise the message itself is sent, as by `send`.
            expires: How late it may be; after that it is dropped, and the log says so. None for any time.

        Returns:
            Its id, by which it can be cancelled. Within a turn it is not durable before that turn's commit, and made
            of nothing if that turn fails; then it is made in the turn's own session.

        Raises:
            BadRequest: `invalid_time`, `not_storable`; or the target could not take such a message.
            NotAllowed: `not_your_identity`: `target` names somebody whom the actor does not know.
            Overloaded: `too_many_reminders`; or as for a turn.
            StorageFull: There is no room for it.
        """
        said = Message("user" if as_turn else "assistant", [message]) if isinstance(message, str) else message
        request = ChannelRequest(
            CHANNEL,
            [said.to_dict()],
            ChannelSession(isolation_key=isolation_key),
            overlap="enqueue",
            response_target=target or ResponseTarget.active,
        )
        now = time.time()
        made = Reminder(
            f"rem_{int(now * 1e6):014x}{secrets.token_hex(4)}",
            due_at(when, now),
            now,
            request,
            as_turn,
            _seconds(expires),
            anywhere=target is None,
        )
        return await self._in_trio(self._schedule, checked_key(isolation_key), made)

    async def list_reminders(self, isolation_key: str) -> Sequence[Reminder]:
        """An actor's reminders that have not come yet, the earliest first; within a turn, as its commit leaves them."""
        return await self._in_trio(self._list_reminders, checked_key(isolation_key))

    async def cancel_reminder(self, isolation_key: str, reminder_id: str) -> bool:
        """Cancel a reminder; False if there is none such (any longer).

        Within a turn it goes with the turn's commit: what comes due before that, comes.

        Raises:
            Overloaded: The runtime is stopping, or there are too many actors.
            StorageFull: There is no room for it.
        """
        return await self._in_trio(self._cancel_reminder, checked_key(isolation_key), reminder_id)

    async def _schedule(self, key: str, reminder: Reminder) -> str:
        self._receiving()
        life, inside = self._opened_now(), _inside()
        if inside is not None and inside.key == key:
            own = reminder.request.replace(partition=inside.request.partition, isolation=inside.request.isolation)
            reminder = replace(reminder, request=own, session_id=inside.session_id)
        await self._check(key, reminder)
        if inside is not None:
            inside.reminding[key, reminder.reminder_id] = reminder
            inside.on_end(life.alarms.notice)
            return reminder.reminder_id
        async with life.supervisor.awake(key) as actor:
            await actor.write(changed({reminder.reminder_id: reminder}))
        life.alarms.notice()
        return reminder.reminder_id

    async def _check(self, key: str, reminder: Reminder) -> None:
        """Refuse what could not be handed over later."""
        life, request = self._opened_now(), reminder.request
        if reminder.as_turn:
            life.target.check(request)
        await vouched(life.plan.store, key, request, request.response_target)
        try:
            reminder.encode()
        except NotStorable as exc:
            raise BadRequest("The message holds something that cannot be stored.", code="not_storable") from exc
        most = life.plan.limits.max_reminders
        if len(await self._list_reminders(key)) >= most:
            raise Overloaded(f"This conversation has {most} reminders already.", code="too_many_reminders")

    async def _list_reminders(self, key: str) -> Sequence[Reminder]:
        found = {one.reminder_id: one for one in await reminders_of(self._opened_now().plan.store, key)}
        left = {**found, **_changes(key)}
        return sorted((one for one in left.values() if one is not None), key=lambda one: (one.due, one.reminder_id))

    async def _cancel_reminder(self, key: str, reminder_id: str) -> bool:
        life, inside = self._opened_now(), _inside()
        if life.supervisor.draining:
            raise stopping()
        if reminder_id not in {one.reminder_id for one in await self._list_reminders(key)}:
            return False
        if inside is None:
            return await settle(life.supervisor, key, PREFIX + reminder_id)
        inside.reminding[key, reminder_id] = None
        return True


def _inside() -> Turn | None:
    """The turn that the caller runs in, if that can still commit something."""
    inside = ancestry.get()
    return inside[-1] if inside and inside[-1].state == "running" else None


def _changes(key: str) -> Mapping[str, Reminder | None]:
    inside = _inside()
    return {} if inside is None else {one: new for (of, one), new in inside.reminding.items() if of == key}


def _seconds(expires: timedelta | None) -> float | None:
    if expires is not None and expires < timedelta():
        raise BadRequest("A reminder cannot expire before it is due.", field="expires", code="invalid_time")
    return expires.total_seconds() if expires is not None else None
