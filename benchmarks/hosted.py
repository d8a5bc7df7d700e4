"""Runtimes in this process, and conversations with them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import trio
from agent_framework import Agent, AgentResponse

from afactors import ChannelRequest, ChannelSession, Runtime
from afactors_channels import Channel
from afactors_store import Claim, Commit, Committed, LmdbStore

from .agents import WORDS, mark
from .load import Round, WrongAnswer

_MESSAGE: Mapping[str, Any] = {"type": "message", "role": "user", "contents": [{"type": "text", "text": WORDS}]}

Turn: TypeAlias = Callable[[str], Awaitable[str]]
"""Runs one turn of a named conversation and returns the reply's text."""


class WatchedStore(LmdbStore):
    """A store that keeps the last commit and counts the bytes that were handed over."""

    def __init__(self, path: str, *, sync: bool) -> None:
        super().__init__(path, sync=sync)
        self.last: Commit | None = None
        self.handed_over = 0

    async def commit(self, claim: Claim, commit: Commit) -> Committed:
        """Commit, and remember."""
        self.last = commit
        self.handed_over += payload_bytes(commit)
        return await super().commit(claim, commit)


def payload_bytes(commit: Commit) -> int:
    """Bytes of a commit's documents, rows, names, records and letters, without what the store adds."""
    size = sum(len(name.encode()) + len(value) for name, value in commit.put.items())
    size += sum(len(name.encode()) + len(value) for name, value in commit.names.items())
    size += sum(len(row) for append in commit.append for row in append.rows)
    size += sum(len(run.body) for run in commit.runs)
    return size + sum(len(letter.body) for letter in commit.letters)


@asynccontextmanager
async def hosted(
    agent: Agent[Any], state_dir: str | None, *, sync: bool, channels: Sequence[Channel] = (), **limits: Any
) -> AsyncIterator[tuple[Runtime, WatchedStore]]:
    """A runtime without HTTP, with a store of its own that is deleted afterwards."""
    with TemporaryDirectory(prefix="afactors-bench-", dir=state_dir) as folder:
        store = WatchedStore(folder, sync=sync)
        async with Runtime(agent, store=store, channels=channels, **limits) as runtime:
            yield runtime, store


def request_for(conversation: str) -> ChannelRequest:
    """One turn of a conversation."""
    return ChannelRequest(channel="benchmark", input=[_MESSAGE], session=ChannelSession(session_id=conversation))


def asking(runtime: Runtime) -> Turn:
    """Turns by `Runtime.ask`."""

    async def turn(conversation: str) -> str:
        answer: AgentResponse[Any] = (await runtime.ask(request_for(conversation))).result
        return answer.text

    return turn


def streaming(runtime: Runtime) -> Turn:
    """Turns by `Runtime.stream`, read to their end."""

    async def turn(conversation: str) -> str:
        async with runtime.stream(request_for(conversation)) as running:
            async for _updates in running:
                pass
            answer: AgentResponse[Any] = running.result.result
            return answer.text

    return turn


def alone(agent: Agent[Any], *, stream: bool) -> Turn:
    """Turns of the agent itself, in trio, with sessions that only memory holds: the least that a turn can cost."""
    sessions: dict[str, Any] = {}

    async def turn(conversation: str) -> str:
        await trio.lowlevel.checkpoint()  # a turn that never waits would let nobody wait for it
        session = sessions.get(conversation)
        if session is None:
            session = sessions[conversation] = agent.create_session(session_id=conversation)
        if not stream:
            return (await agent.run(WORDS, session=session)).text
        updates = agent.run(WORDS, session=session, stream=True)
        async for _update in updates:
            pass
        return (await updates.get_final_response()).text

    return turn


async def converse(turn: Turn, name: str, *, conversations: int, turns: int) -> Round:
    """One round with new conversations, all at once.

    Raises:
        WrongAnswer: A reply lacks the mark of its turn: the history was not kept.
    """
    latencies: list[float] = []

    async def talk(conversation: str) -> None:
        for number in range(1, turns + 1):
            began = time.perf_counter()
            text = await turn(conversation)
            latencies.append((time.perf_counter() - began) * 1000)
            if not text.startswith(mark(number)):
                raise WrongAnswer(f"turn {number} of {conversation} was answered {text[:100]!r}")

    cpu, began = time.process_time(), time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(conversations):
            nursery.start_soon(talk, f"{name}-{number}")
    seconds = time.perf_counter() - began
    return Round(
        turns_per_second=len(latencies) / seconds,
        cpu_ms=(time.process_time() - cpu) * 1000 / len(latencies),
        latencies_ms=latencies,
    )
