"""The demonstration agent, without its pauses: it takes whatever it is told, and never fails."""

from typing import Any

from agent_framework import Agent

from afactors.demo import create_agent


def make() -> Agent[Any]:
    """Make the agent."""
    return create_agent(word_delay=0)
