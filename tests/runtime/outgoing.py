"""What the tests of deliveries share: one clock for everything, and channels that take deliveries as a test says."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from agent_framework import AgentResponse, Message

from afactors.delivering import Deliverer
from afactors.outbox import posted
from afactors_channels import ChannelContribution, ChannelIdentity
from afactors_channels.pushes import Push, PushPolicy, RetryPolicy
from afactors_store import Commit, DeadLetter, MemoryStore, NewDelivery

START = 1_800_000_000.0
RETRY = RetryPolicy(jitter=0.0)
Behaviour = Callable[[Push], Awaitable[None]]


def one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the calendar go with trio's clock: what is due in an hour is due after an hour of its time."""

    def now() -> float:
        try:
            return START + trio.current_time()
        except RuntimeError:  # outside of trio: a log record, a store that is made
            return START

    monkeypatch.setattr("time.time", now)


def who(name: str = "ada", channel: str = "chat", conversation: str = "", *, verified: bool = True) -> ChannelIdentity:
    return ChannelIdentity(channel, name, conversation=conversation, verified=verified)


class Taker:
    """A channel's way out: it takes everything, unless `on` for that user raises, or waits.

    Attributes:
        on: What comes before a push is taken, by native id.
        always: The same, for those that `on` does not name.
        attempts: (when, push) of each attempt, in seconds since the test began.
        taken: What was taken.
    """

    def __init__(self, name: str = "chat", policy: PushPolicy | None = None, **contribution: Any) -> None:
        self.name = name
        self.on: dict[str, Behaviour] = {}
        self.always: Behaviour | None = None
        self.attempts: list[tuple[float, Push]] = []
        self.taken: list[Push] = []
        self.running = self.peak = 0
        policy = policy or PushPolicy(retry=RETRY)
        self.contribution = ChannelContribution(push=self.push, push_policy=policy, **contribution)

    def contribute(self, _context: Any) -> ChannelContribution:
        return self.contribution

    async def push(self, push: Push) -> None:
        self.attempts.append((trio.current_time(), push))
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await trio.lowlevel.checkpoint()
            behaviour = self.on.get(push.identity.native_id, self.always)
            if behaviour is not None:
                await behaviour(push)
        finally:
            self.running -= 1
        self.taken.append(push)

    def said(self, name: str | None = None) -> list[str]:
        """The texts that were taken, by one user or by all."""
        return [push.response.text for push in self.taken if name in (None, push.identity.native_id)]

    def times(self, name: str | None = None) -> list[float]:
        """When there were attempts, for one user or for all."""
        return [at for at, push in self.attempts if name in (None, push.identity.native_id)]

    def tell(self) -> list[tuple[str, int, bool]]:
        """Text, attempt and doubt of each attempt."""
        return [(push.response.text, push.attempt, push.unsure) for _, push in self.attempts]


class Outside:
    """A store, a deliverer and channels, without a runtime."""

    def __init__(self, *channels: Taker, store: MemoryStore | None = None) -> None:
        self.channels: Mapping[str, ChannelContribution] = {one.name: one.contribution for one in channels}
        self.store = store or MemoryStore()

    @asynccontextmanager
    async def open(self, *, delivering: bool = True) -> AsyncIterator[Deliverer]:
        async with self.store.open(), trio.open_nursery() as nursery:
            self.deliverer = Deliverer(self.store, self.channels, retention=86_400.0)
            if delivering:
                await nursery.start(self.deliverer.run)
            try:
                yield self.deliverer
            finally:
                self.deliverer.end()

    def made(self, *texts: str, to: ChannelIdentity | None = None, kind: Any = "message") -> list[NewDelivery]:
        made: list[NewDelivery] = []
        for text in texts:
            said: AgentResponse[Any] = AgentResponse(messages=[Message("assistant", [text])])
            made += posted(kind, [to or who()], said, self.channels, at=time.time())
        return made

    async def commit(self, made: Sequence[NewDelivery], key: str = "ada") -> Sequence[str]:
        done = await self.store.commit(await self.store.claim(key), Commit(deliveries=made))
        self.deliverer.notice(made)
        return done.delivery_ids

    async def send(self, *texts: str, to: ChannelIdentity | None = None, key: str = "ada") -> Sequence[str]:
        return await self.commit(self.made(*texts, to=to), key)

    async def dead(self) -> list[DeadLetter]:
        return await self.store.dead_letters()

    @property
    def pending(self) -> int:
        return self.store.statistics().pending

    async def emptied(self) -> None:
        """Wait until nothing is pending."""
        with trio.fail_after(30 * 86_400):
            while self.pending:  # noqa: ASYNC110 - figures are all there is to read
                await trio.sleep(0.2)


def down(error: BaseException | None = None) -> Behaviour:
    """Whoever is tried fails."""

    async def fail(_push: Push) -> None:
        raise error or OSError("down")

    return fail


def takes(seconds: float) -> Behaviour:
    """Whoever is tried takes that long."""

    async def wait(_push: Push) -> None:
        await trio.sleep(seconds)

    return wait
