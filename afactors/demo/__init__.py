"""The demonstration agent: no key, no network, and it shows everything the runtime does.

It is a real Agent Framework agent. Only the model is missing: in its place, a chat client matches the
conversation it is given against a table of phrases. So what it remembers is exactly what the runtime
remembered, its tools run through the framework's own function calling, and its notes live in the session.

    client   the mind's decisions, in the framework's terms, word by word
    mind     what to say or which tool to call, from the conversation alone; pure
    tools    the time, sums, notes, reminders
    sums     arithmetic that can do nothing but arithmetic; pure

Arrows run downward in that list.
"""

from datetime import UTC, datetime
from typing import Any

from agent_framework import Agent

from .client import DemoChatClient as DemoChatClient
from .tools import Clock, make_tools

INSTRUCTIONS = "You are the demonstration agent of afactors. Be brief."


def _now() -> datetime:
    return datetime.now(UTC)


def create_agent(*, clock: Clock = _now, word_delay: float = 0.02) -> Agent[Any]:
    """Make the demonstration agent.

    Args:
        clock: Gives the present, as an aware datetime.
        word_delay: Seconds that each word of an answer takes, streamed or not.
    """
    return Agent(
        DemoChatClient(word_delay=word_delay),
        INSTRUCTIONS,
        id="demo",
        name="demo",
        description="Remembers, does sums, keeps notes and tells the time, offline.",
        tools=make_tools(clock),
    )
