"""A Bot API, a runtime and a bot between them, all in memory."""

from __future__ import annotations

import pytest
import trio

from tests.channels.telegram.fakes import Bot, Context, Server


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def context() -> Context:
    return Context()


@pytest.fixture
async def bot(server: Server, context: Context, nursery: trio.Nursery) -> Bot:
    return Bot(server, context, nursery)


@pytest.fixture
async def other(server: Server, context: Context, nursery: trio.Nursery) -> Bot:
    """The same bot in another process, after the first one's: it knows what the runtime remembers."""
    return Bot(server, context, nursery)
