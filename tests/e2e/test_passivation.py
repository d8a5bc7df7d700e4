"""An actor that goes quiet is passivated, and comes back with its memory. In process: figures are read directly."""

from pathlib import Path

import pytest
import trio
from agent_framework import Agent, Message

from afactors import ChannelRequest, ChannelSession, Runtime
from afactors.demo import create_agent
from afactors_store import LmdbStore, MemoryStore, Store


def request(text: str, conversation: str) -> ChannelRequest:
    message = Message("user", [text]).to_dict()
    return ChannelRequest(channel="test", input=[message], session=ChannelSession(session_id=conversation))


def make() -> Agent:  # type: ignore[type-arg]
    return create_agent(word_delay=0)


# The real clock: the store's writer and the bridge have threads, for which an autojump clock does not wait.
@pytest.mark.parametrize("engine", ["lmdb", "memory"])
async def test_quiet_actors_go_and_come_back(tmp_path: Path, engine: str) -> None:
    store: Store = LmdbStore(tmp_path / "state") if engine == "lmdb" else MemoryStore()
    async with Runtime(make, store=store, idle_timeout=0.3) as runtime:
        for number in range(5):
            await runtime.ask(request(f"My name is Ada{number}.", f"c{number}"))
        assert runtime.statistics().actors.live == 5
        with trio.fail_after(30):
            while runtime.statistics().actors.live:  # noqa: ASYNC110 - nothing tells
                await trio.sleep(0.02)
        figures = runtime.statistics().actors
        assert (figures.live, figures.idle, figures.passivated) == (0, 0, 5)
        for number in range(5):
            result = await runtime.ask(request("What is my name?", f"c{number}"))
            assert f"Ada{number}" in result.result.text
        assert runtime.statistics().actors.started == 10


async def test_a_busy_actor_stays() -> None:
    runtime = Runtime(lambda: create_agent(word_delay=0.2), store=MemoryStore(), idle_timeout=0.1)
    async with runtime, runtime.stream(request("My name is Ada.", "busy")) as turn:
        seen = [runtime.statistics().actors async for _ in turn]
    assert len(seen) > 2
    assert {(figures.live, figures.idle, figures.passivated) for figures in seen[:-1]} == {(1, 0, 0)}


async def test_the_cap_on_live_actors_takes_the_longest_idle() -> None:
    async with Runtime(make, store=MemoryStore(), max_live_actors=3) as runtime:
        for number in range(10):
            await runtime.ask(request(f"My name is Ada{number}.", f"c{number}"))
            assert runtime.statistics().actors.live <= 3
        result = await runtime.ask(request("What is my name?", "c0"))
        assert "Ada0" in result.result.text
