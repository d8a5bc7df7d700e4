"""Messages that go where their user is, and not only where a request came from: to whom, what, and how often.

Pure. A delivery is durable from the commit that causes it until its channel took it or it is dead; a channel that takes
deliveries only has to send one message at a time, and to say what came of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal, Protocol, TypeAlias

from agent_framework import AgentResponse

from .errors import PushDeferred, PushRejected
from .requests import ChannelIdentity

PushKind: TypeAlias = Literal["reply", "echo", "message"]
"""reply: what a turn said; echo: what its user said, for their other channels; message: what nobody asked for."""


@dataclass(frozen=True, slots=True)
class Push:
    """One message to one destination.

    Attributes:
        delivery_id: The same on every attempt: by it a receiver can drop a repeat. New for a replayed one.
        identity: To whom, and in which of their conversations.
        kind: What it is.
        response: What it says; it is this destination's own copy.
        created: When it was committed, in seconds since the epoch.
        attempt: Which attempt this is; counts from 1.
        unsure: Whether the attempt before may have arrived: nobody could say.
        run_id: The run that caused it; "" for a message that none did.
        payload: What the channel's codec made of the response, if it has a codec.
    """

    delivery_id: str
    identity: ChannelIdentity
    kind: PushKind
    response: AgentResponse[Any]
    created: float
    attempt: int = 1
    unsure: bool = False
    run_id: str = ""
    payload: Mapping[str, Any] | None = None


HOSTING = "hosting"
"""The additional property of messages that says where they came from, and where they went."""


def failed_with(response: AgentResponse[Any]) -> str | None:
    """The code of the error that a delivery tells of; None if it is what the target said."""
    for message in response.messages:
        told = (message.additional_properties or {}).get(HOSTING)
        if isinstance(told, Mapping) and isinstance(told.get("error"), str):
            return str(told["error"])
    return None


ChannelPush: TypeAlias = Callable[[Push], Awaitable[None]]
"""Sends one message, and returns once the destination has it. Pushes to one destination come one after the other.

It raises `PushRejected` for what will never be taken, `PushDeferred` for what the destination wants later; any other
exception is a failure that may pass, and the same push comes again."""


class ChannelPushCodec(Protocol):
    """For a channel whose payloads are more than messages: plain data, made when the delivery is committed."""

    def encode(self, response: AgentResponse[Any], identity: ChannelIdentity) -> Mapping[str, Any]:
        """What is stored with the delivery, as `Push.payload`; plain data with a version of the channel's own."""
        ...

    def check(self, payload: Mapping[str, Any]) -> None:
        """Refuse a payload of an unknown version.

        Raises:
            PushRejected: It is none of ours; the delivery is put aside and reported, as it is for any other exception.
        """
        ...


@dataclass(frozen=True, slots=True)
class Wait:
    """Try again after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Do not try again; the reason is a word of ours: ``rejected``, ``attempts``, ``expired``."""

    reason: str


_LONGEST_AGE = 10 * 365 * 86_400.0  # seconds; what expires at an instant that no calendar has could not be shown
_PATIENCE = 10  # times as many attempts for a destination that says when to come again


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a delivery that failed is tried again: a pure function of attempt, error, age and chance.

    Attributes:
        first: Seconds after the first failure.
        factor: By how much each wait is longer than the one before.
        longest: Longest wait.
        jitter: Part of a wait that chance may take away or add: 0.2 is ± 20 %.
        max_attempts: Attempts after which it is dead. Where the destination says when to come again, ten times as many;
            those are not among the others.
        max_age: Seconds after its commit from which on nobody would welcome it any more.
    """

    first: float = 1.0
    factor: float = 2.0
    longest: float = 600.0
    jitter: float = 0.2
    max_attempts: int = 20
    max_age: float = 86_400.0

    def __post_init__(self) -> None:
        if not (self.first > 0 and self.factor >= 1 and self.longest >= self.first and 0 <= self.jitter < 1):
            raise ValueError("a retry policy needs first > 0, factor ≥ 1, longest ≥ first and 0 ≤ jitter < 1")
        if not (self.max_attempts >= 1 and 0 < self.max_age <= _LONGEST_AGE):
            raise ValueError("a retry policy needs max_attempts ≥ 1 and 0 < max_age ≤ ten years")

    def after(self, attempt: int, error: BaseException, *, age: float, chance: float) -> Wait | Stop:
        """What follows a failure.

        Args:
            attempt: Which attempt failed; counts from 1. Those of which the destination said when to come again count
                only if it says so now.
            error: What it raised.
            age: Seconds since the delivery was committed.
            chance: 0 ≤ chance < 1.
        """
        if isinstance(error, PushRejected):
            return Stop("rejected")
        asked = error.retry_after if isinstance(error, PushDeferred) else None
        if attempt >= self.max_attempts * (1 if asked is None else _PATIENCE):
            return Stop("attempts")
        wait = self._wait(attempt, chance) if asked is None else max(0.0, asked)
        return Stop("expired") if age + wait > self.max_age else Wait(wait)

    def _wait(self, attempt: int, chance: float) -> float:
        # Beyond the longest wait the power would only overflow.
        grown = self.first
        for _ in range(attempt - 1):
            grown = min(self.longest, grown * self.factor)
            if grown == self.longest:
                break
        return float(grown * (1 + self.jitter * (2 * chance - 1)))


@dataclass(frozen=True, slots=True)
class PushPolicy:
    """How a channel takes deliveries.

    Attributes:
        retry: When what failed is tried again, and for how long it is welcome at all.
        concurrency: How many are sent at once.
        rate: Most that are begun in a second; None for no limit.
        timeout: Seconds that one attempt may take.
        breaker: Failures in a row, of at least two destinations, after which the channel is left alone for a while.
        pause: How long: seconds, doubling with every time that it fails again, up to `longest_pause`.
        longest_pause: See `pause`.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    concurrency: int = 16
    rate: float | None = None
    timeout: float = 30.0
    breaker: int = 5
    pause: float = 5.0
    longest_pause: float = 300.0

    def __post_init__(self) -> None:
        if not (self.concurrency >= 1 and self.breaker >= 1 and self.timeout > 0):
            raise ValueError("a push policy needs concurrency ≥ 1, breaker ≥ 1 and timeout > 0")
        if self.rate is not None and not 0 < self.rate < inf:
            raise ValueError("a push policy needs rate > 0, or None for no limit")
        if not (self.pause > 0 and self.longest_pause >= self.pause):
            raise ValueError("a push policy needs pause > 0 and longest_pause ≥ pause")


@dataclass(frozen=True, slots=True)
class ChannelCommand:
    """A word that a chat channel understands by itself (``/new``), and tells its platform of.

    Attributes:
        name: Without the slash; lower-case letters, digits and underscores.
        description: What it does, for the platform's menu.
        handle: ``await handle(context)``: what it does. It returns the text to answer with, or None.
    """

    name: str
    description: str
    handle: Callable[[ChannelCommandContext], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class ChannelCommandContext:
    """What a command is told.

    Attributes:
        identity: Who sent it, and from which conversation.
        isolation_key: Their actor.
        arguments: What follows the command's name.
        host: What the runtime gives the channel (a `ChannelContext`).
    """

    identity: ChannelIdentity
    isolation_key: str
    arguments: str
    host: Any
