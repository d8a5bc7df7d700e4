"""What the bot understands by itself: the application's commands, and those that every bot has."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

from ..errors import HostError
from ..pushes import ChannelCommand, ChannelCommandContext
from . import phrases

logger = logging.getLogger("afactors.channels.telegram")


class Menu:
    """All commands, by name.

    Args:
        given: The application's; one that is called like a built-in takes its place.
        greeting: What `/start` answers.
    """

    def __init__(self, given: Sequence[ChannelCommand], greeting: str) -> None:
        async def start(_: ChannelCommandContext) -> str:
            return greeting

        async def show_help(_: ChannelCommandContext) -> str:
            return phrases.help_text(self.shown)

        built_in = (
            ChannelCommand("new", "begin a new conversation", _new),
            ChannelCommand("cancel", "stop what I am doing", _cancel),
            ChannelCommand("help", "show what I understand", show_help),
            ChannelCommand("start", "say hello", start),
        )
        self._commands = {command.name: command for command in (*built_in, *given)}

    @property
    def names(self) -> Collection[str]:
        """Their names."""
        return self._commands.keys()

    @property
    def shown(self) -> list[ChannelCommand]:
        """Those that are worth telling of."""
        return [command for command in self._commands.values() if command.name != "start"]

    def registered(self) -> list[dict[str, Any]]:
        """Them, as `setMyCommands` takes them."""
        return [{"command": command.name, "description": command.description} for command in self.shown]

    async def run(self, name: str, context: ChannelCommandContext) -> str | None:
        """Do what a command says; returns what to answer.

        Raises:
            HostError: The runtime refused it.
        """
        try:
            return await self._commands[name].handle(context)
        except HostError:
            raise
        except Exception:
            logger.exception("the command /%s failed", name)
            return phrases.FAILED


async def _new(context: ChannelCommandContext) -> str:
    await context.host.reset_session(context.isolation_key)
    return phrases.NEW


async def _cancel(context: ChannelCommandContext) -> str:
    cancelled = await context.host.cancel_running(context.isolation_key)
    return phrases.CANCELLED if cancelled else phrases.NOTHING_RUNS
