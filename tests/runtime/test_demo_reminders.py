"""The demonstration agent's reminders, through the whole runtime: its thread, its tools, its memory."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from agent_framework import Message

from afactors import ChannelRequest, ChannelSession, Runtime
from afactors.demo import create_agent
from afactors.demo.mind import Call, Say, think
from afactors.demo.tools import ALONE, cancel_reminder, my_reminders, remind_me
from afactors_channels import ChannelContext, ChannelContribution, ChannelIdentity, Push
from afactors_store import MemoryStore


def request(text: str) -> ChannelRequest:
    return ChannelRequest("api", [Message("user", [text]).to_dict()], ChannelSession(isolation_key="ada"))


class Pushing:
    """A channel that takes deliveries."""

    name = "chat"

    def __init__(self) -> None:
        self._given, self.taken = trio.open_memory_channel[str](9)

    def contribute(self, context: ChannelContext) -> ChannelContribution:
        _ = context
        return ChannelContribution(push=self._push)

    async def _push(self, push: Push) -> None:
        await self._given.send(push.response.text)


def hosted(*channels: Pushing) -> Runtime:
    agent = partial(create_agent, word_delay=0)
    return Runtime(agent, channels=channels, store=MemoryStore(), tune_gc=False)


async def say(runtime: Runtime, text: str) -> str:
    return (await runtime.ask(request(text))).result.text


@pytest.mark.parametrize(
    ("said", "minutes", "what"),
    [
        ("remind me in 1 minute to stretch", 1.0, "stretch"),
        ("please remind me in an hour that 2 + 2 = 4", 60.0, "2 + 2 = 4"),
        ("Remind me in 90 seconds about tea", 1.5, "tea"),
        ("remind me in 2.5 days call Bob", 3_600.0, "call Bob"),
    ],
)
def test_what_is_asked_for(said: str, minutes: float, what: str) -> None:
    assert think([Message("user", [said])], {}) == Call("remind_me", {"minutes": minutes, "what": what})


def test_what_is_said_when_it_comes() -> None:
    assert think([Message("user", ["Reminder: what is 2 + 2?"])], {}) == Say("It is time: what is 2 + 2?")


async def test_made_listed_and_cancelled() -> None:
    async with hosted() as runtime:
        assert await say(runtime, "my reminders") == "There are no reminders."
        assert "in 10 minutes: stretch" in await say(runtime, "remind me in 10 minutes to stretch")
        assert (await say(runtime, "my reminders")).endswith("(UTC): stretch")
        assert await say(runtime, "cancel reminder 2") == "There is no reminder 2."
        assert await say(runtime, "cancel reminder 1") == "Cancelled reminder 1: stretch"
        assert await runtime.list_reminders("ada") == []
        assert "within a year" in await say(runtime, "remind me in 9999 days to stretch")


async def test_it_becomes_a_turn_of_the_conversation() -> None:
    pushing = Pushing()
    async with hosted(pushing) as runtime:
        ada = ChannelIdentity("chat", "ada", verified=True)
        await runtime.ask(request("remind me in 0 seconds to stretch").replace(identity=ada))
        with trio.fail_after(10):
            assert await pushing.taken.receive() == "It is time: stretch"
        assert "'Reminder: stretch'" in await say(runtime, "what did I just say?")


async def test_alone_it_has_no_calendar() -> None:
    for tool, given in ((remind_me, (1.0, "stretch")), (my_reminders, ()), (cancel_reminder, (1,))):
        assert tool.func is not None
        assert await tool.func(*given) == ALONE
