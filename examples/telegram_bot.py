"""A Telegram bot.

    TELEGRAM_TOKEN=… python examples/telegram_bot.py [PORT]

@BotFather gives out tokens (`/newbot`). It fetches its messages, so no address of yours has to be reachable; what is
written while it is away is answered when it is back. PORT is only for `/healthz`. ALLOW names who may use it, by their
ids and @names with spaces between (by default everybody: a bot's name is public); STATE_DIR the state folder,
./.afactors otherwise; TELEGRAM_API another server of the Bot API.
"""

import os
import sys

import trio
from agent_framework import Agent

from afactors import Runtime
from afactors.demo import DemoChatClient
from afactors_channels.pushes import ChannelCommand, ChannelCommandContext
from afactors_channels.telegram import TelegramChannel
from afactors_store import LmdbStore


def make_agent() -> Agent:
    """The agent; DemoChatClient stands where your model's client goes."""
    return Agent(DemoChatClient(), "You are a friendly bot.", name="clerk")


async def who_am_i(context: ChannelCommandContext) -> str:
    """A command of one's own. Menu, `/new`, `/cancel` and `/help` are there already."""
    name = context.identity.attributes.get("name", "somebody")
    return f"You are {name}; your conversation is {context.isolation_key}."


def allowed() -> list[int | str] | None:
    """Who may use it."""
    names = os.environ.get("ALLOW", "").split()
    return [name if name.startswith("@") else int(name) for name in names] or None


async def main(port: int) -> None:
    """Talk until Ctrl-C or SIGTERM."""
    telegram = TelegramChannel(
        os.environ["TELEGRAM_TOKEN"],
        allow=allowed(),
        commands=[ChannelCommand("whoami", "say who you are", who_am_i)],
        api_base=os.environ.get("TELEGRAM_API", "https://api.telegram.org"),
    )
    runtime = Runtime(make_agent, channels=[telegram], store=LmdbStore(os.environ.get("STATE_DIR", ".afactors")))
    report = await runtime.serve(port=port, started=lambda url: print(f"{telegram!r}, health at {url}", flush=True))
    print(report)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
