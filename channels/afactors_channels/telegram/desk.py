"""One update at the door: whether it is for us, who may come in, and what they are told if not."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from ..contract import ChannelContext
from ..errors import HostError, NotAllowed, Overloaded, StorageFull
from ..pushes import ChannelCommandContext
from ..requests import ChannelIdentity, ChannelRequest
from . import phrases
from .addressing import Said, actor_of, identity_of, listed, said_to
from .asking import Asker, place_in
from .commands import Menu
from .errands import Errands, Recent, Speaker
from .presence import Presence
from .settings import Settings, names_of
from .updates import Incoming, Pressed, Update

logger = logging.getLogger("afactors.channels.telegram")

_TAKEN = 10_000
_HOUR = 3600.0


class Desk:
    """Takes updates; those of one chat one after the other.

    Args:
        settings: The channel's options.
        context: What the runtime gives the channel.
        asker: Makes requests.
        presence: Knows who the bot is.
        menu: The commands.
        speaker: Says what the channel itself has to say.
        errands: Does what can wait until the update is acknowledged.
    """

    def __init__(
        self,
        settings: Settings,
        context: ChannelContext,
        *,
        asker: Asker,
        presence: Presence,
        menu: Menu,
        speaker: Speaker,
        errands: Errands,
    ) -> None:
        self._settings = settings
        self._context = context
        self._asker = asker
        self._presence = presence
        self._menu = menu
        self._speaker = speaker
        self._errands = errands
        allow = settings.allow
        self._names = names_of(allow) if allow is not None and not callable(allow) else frozenset()
        self._lanes = _Lanes()
        self._taken = Recent[int, None](_TAKEN)
        self._turned_away = Recent[int, float]()

    async def take(self, update: Update, raw: Any) -> None:
        """Take an update. Once this returns it may be acknowledged: it is durable, or it is dealt with.

        Args:
            update: What came.
            raw: The same, as JSON has it; for the run hook.

        Raises:
            Overloaded: Not now; it is to come again.
            StorageFull: As above.
        """
        if update.malformed:
            logger.warning("an update was not understood, and is passed over")
        if update.event is None or update.id is None:
            return
        async with self._lanes.lane(update.event.chat.id):
            if update.id not in self._taken:
                await self._deal(update.id, update.event, raw)
                self._taken.put(update.id, None)

    def give_up(self, update: Update, refused: HostError | None) -> None:
        """Tell somebody that what they said was not taken, and will not be.

        Args:
            update: What came.
            refused: Why; None if nobody knows.
        """
        if update.event is not None:
            self._tell(update.event, phrases.FAILED if refused is None else phrases.refusal(refused))

    async def _deal(self, number: int, event: Incoming | Pressed, raw: Any) -> None:
        try:
            if isinstance(event, Incoming):
                await self._heard(number, event, raw)
            else:
                await self._pressed(number, event, raw)
        except (Overloaded, StorageFull):
            raise
        except NotAllowed as refused:
            self._turn_away(event, phrases.refusal(refused))
        except HostError as refused:
            self._tell(event, phrases.refusal(refused))

    async def _heard(self, number: int, message: Incoming, raw: Any) -> None:
        bot = None if message.chat.private else await self._presence.bot_soon()
        said = said_to(message, bot, self._menu.names, mention_only=self._settings.mention_only)
        if said is None or not (said.text or said.command or message.attachments):
            return
        identity = identity_of(self._settings.name, message)
        if not await self._allowed(identity, message):
            self._turn_away(message, phrases.NOT_ALLOWED)
            return
        key = await self._key(identity, message)
        request = self._asker.request(number, message, identity, key)
        async with self._remembering(request, message):
            if said.command:
                await self._command(said, message, request, identity, key)
            elif not message.attachments or await self._context.admit(request):  # or nothing is fetched for it
                await self._asker.say(request, message, said, raw)

    async def _command(
        self, said: Said, message: Incoming, request: ChannelRequest, identity: ChannelIdentity, key: str
    ) -> None:
        if not await self._context.admit(request.replace(attributes={**request.attributes, "command": said.command})):
            return
        context = ChannelCommandContext(identity, key, said.text, self._context)
        answer = await self._menu.run(said.command, context)
        await self._context.dealt(request)
        if answer:
            self._say(message, answer)

    @asynccontextmanager
    async def _remembering(self, request: ChannelRequest, event: Incoming | Pressed) -> AsyncIterator[None]:
        """A refusal is as durable as a letter: what somebody was told is not done when the update comes again."""
        try:
            yield
        except (Overloaded, StorageFull, NotAllowed):
            raise
        except HostError as refused:
            await self._context.dealt(request)
            self._tell(event, phrases.refusal(refused))

    async def _pressed(self, number: int, pressed: Pressed, raw: Any) -> None:
        identity = identity_of(self._settings.name, pressed)
        if not pressed.data or not await self._allowed(identity, pressed):
            self._asker.toast(pressed)
            return
        request = self._asker.request(number, pressed, identity, await self._key(identity, pressed))
        async with self._remembering(request, pressed):
            await self._asker.press(request, pressed, raw)

    async def _key(self, identity: ChannelIdentity, event: Incoming | Pressed) -> str:
        scope = self._settings.scope_in(private=event.chat.private)
        return await self._context.resolve(actor_of(identity, scope))

    async def _allowed(self, identity: ChannelIdentity, event: Incoming | Pressed) -> bool:
        allow = self._settings.allow
        if allow is None:
            return True
        if not callable(allow):
            return listed(event.sender, event, self._names)
        verdict = allow(identity)
        return bool(await verdict if inspect.isawaitable(verdict) else verdict)

    def _say(self, event: Incoming | Pressed, text: str) -> None:
        self._errands.leave(partial(self._speaker.say, place_in(event), text))

    def _tell(self, event: Incoming | Pressed, text: str) -> None:
        """Answer what came: at the button, if it was one."""
        if isinstance(event, Pressed):
            self._asker.toast(event, text)
        else:
            self._say(event, text)

    def _turn_away(self, event: Incoming | Pressed, text: str) -> None:
        """Refuse somebody: at the button; in private, and not again and again; in a group, silently."""
        if isinstance(event, Pressed):
            self._asker.toast(event, text)
            return
        if not event.chat.private:
            return
        last, now = self._turned_away.get(event.sender.id), trio.current_time()
        if last is None or now - last >= _HOUR:
            self._turned_away.put(event.sender.id, now)
            self._say(event, text)


class _Lanes:
    """A lock for each chat, for as long as somebody holds it or waits for it. Whoever comes first goes first."""

    def __init__(self) -> None:
        self._locks: dict[int, trio.Lock] = {}

    @asynccontextmanager
    async def lane(self, chat: int) -> AsyncIterator[None]:
        lock = self._locks.setdefault(chat, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            statistics = lock.statistics()
            if not statistics.locked and not statistics.tasks_waiting:
                self._locks.pop(chat, None)
