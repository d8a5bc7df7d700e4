"""What the runtime's tests share: a target without a thread, a store that misbehaves on request, a runtime on both."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgpack
import pytest
import trio
from agent_framework import AgentResponse, AgentResponseUpdate, AgentSession, Content, Message

from afactors import Runtime
from afactors.bridge import BridgeStatistics
from afactors.turn import Turn
from afactors_channels import ChannelRequest, ChannelSession
from afactors_store import Claim, Commit, Committed, MemoryStore

_LONG = 3600.0
Behaviour = Callable[[ChannelRequest, AgentSession | None], Awaitable[str | None]]


def text_of(request: ChannelRequest) -> str:
    return Message.from_dict(dict(request.input[-1])).text


class FakeTarget:
    """What `Target` is to an actor, run by trio itself.

    It answers with every user text of its history, so that an answer tells what the turn remembered. `hold(text)`
    stops the turn of that text until the event is set; `on[text]` replaces what it does.
    """

    name = "fake"

    def __init__(self) -> None:
        self.on: dict[str, Behaviour] = {}
        self.started: list[str] = []
        self.ended: list[str] = []
        self.running: list[str] = []
        self.peak = 0
        self.refuse: Callable[[ChannelRequest], None] = lambda _request: None
        self.make: Callable[[str], AgentSession] = lambda session_id: AgentSession(session_id=session_id)
        self._gates: dict[str, trio.Event] = {}
        self._began: dict[str, trio.Event] = {}

    def hold(self, text: str) -> trio.Event:
        return self._gates.setdefault(text, trio.Event())

    def began(self, text: str) -> trio.Event:
        return self._began.setdefault(text, trio.Event())

    def check(self, request: ChannelRequest) -> None:
        self.refuse(request)

    async def make_session(self, session_id: str) -> AgentSession:
        await trio.lowlevel.checkpoint()
        return self.make(session_id)

    async def run(self, turn: Turn, session: AgentSession | None) -> AgentResponse[Any]:
        text = text_of(turn.request)
        self.started.append(text)
        self.running.append(text)
        self.peak = max(self.peak, len(self.running))
        self.began(text).set()
        try:
            await trio.lowlevel.checkpoint()
            answer = await self._answer(text, turn.request, session)
        finally:
            self.running.remove(text)
            self.ended.append(text)
        return AgentResponse(messages=[Message("assistant", [answer])])

    async def _answer(self, text: str, request: ChannelRequest, session: AgentSession | None) -> str:
        history = session.state.setdefault("in_memory", {}).setdefault("messages", []) if session else []
        history.append(Message("user", [text]))
        if text in self._gates:
            await self._gates[text].wait()
        own = await self.on[text](request, session) if text in self.on else None
        answer = own or " ".join(message.text for message in history if message.role == "user")
        history.append(Message("assistant", [answer]))
        return answer

    @asynccontextmanager
    async def stream(self, turn: Turn, session: AgentSession | None) -> AsyncIterator[FakeStream]:
        yield FakeStream(self, turn, session)


class FakeStream:
    """An update for each word, one after the other."""

    final: AgentResponse[Any]

    def __init__(self, target: FakeTarget, turn: Turn, session: AgentSession | None) -> None:
        self._run = target.run(turn, session)

    async def __aiter__(self) -> AsyncIterator[list[AgentResponseUpdate]]:
        response = await self._run
        for word in response.text.split():
            yield [AgentResponseUpdate(contents=[Content.from_text(word)], role="assistant")]
        self.final = response


class FakeBridge:
    """A bridge that nothing crosses."""

    inside = False
    healthy = True

    def __init__(self, **_options: Any) -> None:
        pass

    async def __aenter__(self) -> FakeBridge:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        pass

    def statistics(self) -> BridgeStatistics:
        raise NotImplementedError


class FaultyStore(MemoryStore):
    """A store that waits, or raises, where a test says so.

    Attributes:
        before: Called with (method, key) before each claim, read and commit of the runtime; may wait, may raise.
        commits: What was handed over, in order.
        stuffed: Whether it says that it is full.
        breaks: Whether the machine fails at the next commit or expiry.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[str, str], Awaitable[None]] | None = None
        self.commits: list[Commit] = []
        self.stuffed = False
        self.breaks = False

    @property
    def full(self) -> bool:
        return self.stuffed or super().full

    async def _before(self, method: str, key: str) -> None:
        if self.before is not None:
            # What was handed over is not cancelled; but a test that fails must not hang, either.
            with trio.move_on_after(_LONG, shield=method == "commit"):
                await self.before(method, key)

    async def claim(self, key: str, documents: Any = ()) -> Claim:
        await self._before("claim", key)
        return await super().claim(key, documents)

    async def read(self, claim: Claim, documents: Any) -> dict[str, bytes]:
        await self._before("read", claim.key)
        return await super().read(claim, documents)

    async def commit(self, claim: Claim, commit: Commit) -> Committed:
        await trio.lowlevel.checkpoint_if_cancelled()
        self.commits.append(commit)
        await self._before("commit", claim.key)
        self._break()
        return await super().commit(claim, commit)

    async def expire(self, now: float, limit: int = 256) -> int:
        self._break()
        return await super().expire(now, limit)

    def _break(self) -> None:
        if self.breaks:
            self._open_here().writer.broken = "the disk is gone"  # and everybody hears of it, as with LMDB


@dataclass
class House:
    """A runtime over a fake target and a store in memory, with shorthands for a test's sake."""

    target: FakeTarget
    store: FaultyStore
    broken: list[str] = field(default_factory=list)
    runtime: Runtime = field(init=False)

    def build(self, **options: Any) -> Runtime:
        options = {"on_broken": self.broken.append, "tune_gc": False, **options}
        self.runtime = Runtime(lambda: None, store=self.store, **options)
        return self.runtime

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncIterator[Runtime]:
        self.build(**options)
        with trio.fail_after(_LONG):  # nothing here takes that long, and the clock jumps
            async with self.runtime:
                yield self.runtime

    @staticmethod
    def request(
        text: str,
        session: str | None = None,
        *,
        key: str | None = "ada",
        after: str | None = None,
        name: str | None = None,
        **more: Any,
    ) -> ChannelRequest:
        """By default a message of the key "ada"; key None is a caller whom nobody knows."""
        return ChannelRequest(
            channel="test",
            input=[Message("user", [text]).to_dict()],
            session=ChannelSession(isolation_key=key, session_id=session, after=after),
            name=name,
            **more,
        )

    async def post(self, text: str, session: str | None = None, **more: Any) -> Turn:
        """Hand a letter over, and do not wait for it."""
        return await self.runtime._accept(self.request(text, session, **more))

    async def ask(self, text: str, session: str | None = None, **more: Any) -> str:
        """One turn; its answer's text."""
        return (await self.runtime.ask(self.request(text, session, **more))).result.text

    async def record(self, turn: Turn, key: str = "ada") -> dict[str, Any]:
        """A turn's record, decoded."""
        body = await self.store.run(key, turn.run_id)
        assert body is not None, "no record"
        return msgpack.unpackb(body)

    async def records(self, key: str = "ada") -> list[dict[str, Any]]:
        return [msgpack.unpackb(run.body) for run in await self.store.runs(key)]

    @property
    def actors(self) -> Any:
        return self.runtime._opened_now().supervisor.statistics()


@pytest.fixture
def target() -> FakeTarget:
    return FakeTarget()


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch, target: FakeTarget, store: FaultyStore) -> House:
    """A runtime in which nothing needs a thread, so that the clock may jump."""

    @asynccontextmanager
    async def open_target(_bridge: Any, _source: Any) -> AsyncIterator[FakeTarget]:
        yield target

    module = sys.modules["afactors.runtime"]
    monkeypatch.setattr(module, "Bridge", FakeBridge)
    monkeypatch.setattr(module, "open_target", open_target)
    return House(target, store)
