"""The bot makes itself known: who it is, what it understands, and where its updates go."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from typing import Any

import trio

from ..errors import Overloaded
from .addressing import Bot
from .api import ApiFailed, ApiRefused, BotApi
from .commands import Menu
from .errands import log_trouble
from .settings import Settings
from .updates import ALLOWED_UPDATES

logger = logging.getLogger("afactors.channels.telegram")

_PATIENCE = 10.0
_LONGEST = 60.0


def pause(failures: int, error: ApiRefused | ApiFailed | None = None) -> float:
    """Seconds until the next attempt: what the server asks for, or ever longer, and never all bots at once."""
    if isinstance(error, ApiRefused) and error.retry_after is not None:
        return error.retry_after
    return float(min(_LONGEST, 2.0 ** min(failures, 10)) * random.uniform(0.5, 1.0))  # noqa: S311 - no secret


class Presence:
    """What the server is told at the start, and what it says of the bot.

    Args:
        api: The server.
        settings: Where updates are to go.
        menu: What is registered.
    """

    def __init__(self, api: BotApi, settings: Settings, menu: Menu) -> None:
        self._api = api
        self._settings = settings
        self._menu = menu
        self._met = trio.Event()
        self._bot: Bot | None = None

    async def bot(self) -> Bot:
        """Who the bot is, as soon as that is known."""
        await self._met.wait()
        assert self._bot is not None  # noqa: S101 - set before the event
        return self._bot

    async def bot_soon(self) -> Bot:
        """Who the bot is.

        Raises:
            Overloaded: Nobody knows yet.
        """
        with trio.move_on_after(_PATIENCE):
            return await self.bot()
        raise Overloaded("The bot does not know its name yet.", code="starting", status=503, retry_after=5.0)

    async def introduce(self) -> None:
        """Learn who the bot is, and register its commands."""
        told = await self._insist("getMe", {})
        number, username = told.get("id"), told.get("username")
        self._bot = Bot(number if isinstance(number, int) else 0, username if isinstance(username, str) else "")
        self._met.set()
        logger.info("the bot is @%s", self._bot.username)
        try:
            await self._api.call("setMyCommands", {"commands": self._menu.registered()})
        except (ApiRefused, ApiFailed) as error:
            log_trouble("the commands are not in the bot's menu", error)

    async def register(self) -> None:
        """Have updates sent to the webhook."""
        await self._insist(
            "setWebhook",
            {
                "url": self._settings.webhook_url,
                "secret_token": self._settings.secret,
                "allowed_updates": ALLOWED_UPDATES,
                "drop_pending_updates": False,
            },
        )
        logger.info("updates are sent to the webhook")

    async def _insist(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Call a method until the server takes it."""
        failures = 0
        while True:
            try:
                result = await self._api.call(method, params)
            except (ApiRefused, ApiFailed) as error:
                log_trouble(_advice(error), error)
                await trio.sleep(pause(failures, error))
                failures += 1
            else:
                return result if isinstance(result, Mapping) else {}


def _advice(error: ApiRefused | ApiFailed) -> str:
    if isinstance(error, ApiRefused) and error.code in (401, 404):
        return "is the token right?"
    return "the server does not take it yet"
