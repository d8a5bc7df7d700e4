"""What the runtime's tests share: a target without a thread, a store that misbehaves on request, a runtime on both."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from agent_framework import AgentResponse, AgentResponseUpdate, AgentSession, Content, Message

from afactors import Runtime
from afactors.agents import AgentTarget
from afactors.bridge import BridgeStatistics
from afactors.history import Point
from afactors.runs import Record, Reference
from afactors.target import input_messages
from afactors.turn import Turn
from afactors_channels import ChannelContribution, ChannelRequest, ChannelSession
from afactors_store import Claim, Commit, Committed, MemoryStore

_LONG = 1e6  # seconds; the clock jumps through them while a thread works, a second at a time
Behaviour = Callable[[ChannelRequest, AgentSession | None], Awaitable[str | None]]


def text_of(request: ChannelRequest) -> str:
    return said(request.input)[-1]


def said(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The texts of serialized messages."""
    return [Message.from_dict(dict(message)).text for message in messages]


def messages_in(session: AgentSession) -> list[Message]:
    messages: list[Message] = session.state.setdefault("in_memory", {}).setdefault("messages", [])
    return messages


class FakeTarget(AgentTarget):
    """What an agent is to an actor, run by trio itself.

    It answers with every user text of its history, so that an answer tells what the turn remembered. `hold(text)`
    stops the turn of that text until the event is set, `hold_word(word)` every stream before that word;
    `on[text]` replaces what it does.
    """

    name = "fake"
    hosted = "the agent itself"

    def __init__(self) -> None:
        self.on: dict[str, Behaviour] = {}
        self.started: list[str] = []
        self.ended: list[str] = []
        self.running: list[str] = []
        self.peak = 0
        self.refuse: Callable[[ChannelRequest], None] = lambda _request: None
        self.make: Callable[[str], AgentSession] = lambda session_id: AgentSession(session_id=session_id)
        self._gates: dict[str, trio.Event] = {}
        self._words: dict[str, trio.Event] = {}
        self._began: dict[str, trio.Event] = {}

    def hold(self, text: str) -> trio.Event:
        return self._gates.setdefault(text, trio.Event())

    def hold_word(self, word: str) -> trio.Event:
        return self._words.setdefault(word, trio.Event())

    def began(self, text: str) -> trio.Event:
        return self._began.setdefault(text, trio.Event())

    def check(self, request: ChannelRequest) -> ChannelRequest:
        self.refuse(request)
        return request

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
            answer = await self._answer(text, turn, session)
        finally:
            self.running.remove(text)
            self.ended.append(text)
        return AgentResponse(messages=[answer])

    async def _answer(self, text: str, turn: Turn, session: AgentSession | None) -> Message:
        history = messages_in(session) if session else []
        history.extend(input_messages(turn))
        if text in self._gates:
            await self._gates[text].wait()
        own = await self.on[text](turn.request, session) if text in self.on else None
        answer = Message("assistant", [own or " ".join(message.text for message in history if message.role == "user")])
        history.append(answer)
        return answer

    async def in_trio(self, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return await call(*args)

    async def remember(self, session: AgentSession, messages: Sequence[Message]) -> None:
        messages_in(session).extend(messages)

    @asynccontextmanager
    async def stream(self, turn: Turn, session: AgentSession | None) -> AsyncIterator[FakeStream]:
        yield FakeStream(self, turn, session)


class FakeStream:
    """An update for each word, one after the other."""

    final: AgentResponse[Any]

    def __init__(self, target: FakeTarget, turn: Turn, session: AgentSession | None) -> None:
        self._run = target.run(turn, session)
        self._words = target._words

    async def __aiter__(self) -> AsyncIterator[list[AgentResponseUpdate]]:
        response = await self._run
        for word in response.text.split():
            if word in self._words:
                await self._words[word].wait()
            yield [AgentResponseUpdate(contents=[Content.from_text(word)], role="assistant")]
        self.final = response


class Words:
    """A transcript that can be read: a row is its number and what it says."""

    def __init__(self, request: ChannelRequest, *, created: float = 0.0, first: int = 0) -> None:
        self.name = request.name
        self._number = first
        self._begun = self._over = False

    def _row(self, text: str) -> bytes:
        self._number += 1
        return f"{self._number - 1} {text}".encode()

    def accepted(self) -> Sequence[bytes]:
        self._begun = True
        return [self._row("created"), self._row("queued")]

    def started(self) -> Sequence[bytes]:
        return [self._row("started")] if self._begun else [self._row("created"), self._row("started")]

    def fed(self, updates: Sequence[AgentResponseUpdate]) -> Sequence[bytes]:
        return [self._row(update.text) for update in updates]

    def completed(self, result: AgentResponse[Any], at: float) -> tuple[Sequence[bytes], Any]:
        self._over = True
        return [self._row("whole"), self._row(f"completed: {result.text}")], None

    def failed(self, state: str, code: str, message: str) -> tuple[Sequence[bytes], None]:
        self._number -= self._over
        return [self._row(f"{state}: {code}")], None


@dataclass
class FakeChannel:
    """A channel that does nothing by itself."""

    name: str = "test"
    contribution: ChannelContribution = field(default_factory=ChannelContribution)

    def contribute(self, _context: Any) -> ChannelContribution:
        return self.contribution


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
    channels: list[FakeChannel] = field(default_factory=list)
    runtime: Runtime = field(init=False)

    def build(self, **options: Any) -> Runtime:
        options = {"on_broken": self.broken.append, "tune_gc": False, "channels": self.channels, **options}
        self.runtime = Runtime(lambda: None, store=self.store, **options)
        return self.runtime

    @asynccontextmanager
    async def open(self, *, crash: bool = False, **options: Any) -> AsyncIterator[Runtime]:
        """With `crash`, what is written after the block is lost, as if the process had been killed there."""
        self.build(**options)
        with trio.fail_after(_LONG):  # nothing here takes that long, and the clock jumps
            async with self.runtime:
                try:
                    yield self.runtime
                finally:
                    if crash:
                        self.store.crash()

    def renew(self) -> None:
        """Everything begins anew, with nothing stored."""
        self.target, self.store = FakeTarget(), FaultyStore()

    def channel(self, name: str = "test", **contribution: Any) -> None:
        """Have the next runtime speak one more protocol."""
        self.channels.append(FakeChannel(name, ChannelContribution(**contribution)))

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
            **{"channel": "test", **more},
            input=[Message("user", [text]).to_dict()],
            session=ChannelSession(isolation_key=key, session_id=session, after=after),
            name=name,
        )

    async def post(self, text: str, session: str | None = None, **more: Any) -> Turn:
        """Hand a letter over, and do not wait for it."""
        return await self.runtime._accept(self.request(text, session, **more))

    async def submit(self, text: str, session: str | None = None, **more: Any) -> str:
        """A durable letter; its token."""
        return await self.runtime.submit(self.request(text, session, **more))

    async def ask(self, text: str, session: str | None = None, **more: Any) -> str:
        """One turn; its answer's text."""
        return (await self.runtime.ask(self.request(text, session, **more))).result.text

    async def record(self, turn: Turn, key: str = "ada") -> Record:
        """A turn's record."""
        body = await self.store.run(key, turn.run_id)
        assert body is not None, "no record"
        return Record.decode(body)

    async def records(self, key: str = "ada") -> list[Record]:
        return [Record.decode(run.body) for run in await self.store.runs(key)]

    async def point(self, name: str) -> Point | None:
        """What a name leads to, if it leads to a point."""
        found = await self.store.find(name)
        assert found is not None, "no such name"
        return Reference.decode(found.value).reached(name)

    @staticmethod
    def said(messages: Sequence[Mapping[str, Any]]) -> list[str]:
        """The texts of serialized messages."""
        return said(messages)

    @property
    def actors(self) -> Any:
        return self.runtime._opened_now().supervisor.statistics()


@pytest.fixture
def words() -> type[Words]:
    return Words


@pytest.fixture
def target() -> FakeTarget:
    return FakeTarget()


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch, target: FakeTarget, store: FaultyStore) -> House:
    """A runtime in which nothing needs a thread, so that the clock may jump."""

    house = House(target, store)

    @asynccontextmanager
    async def open_target(_bridge: Any, _source: Any, **_options: Any) -> AsyncIterator[FakeTarget]:
        yield house.target

    module = sys.modules["afactors.opening"]
    monkeypatch.setattr(module, "Bridge", FakeBridge)
    monkeypatch.setattr(module, "open_target", open_target)
    return house
