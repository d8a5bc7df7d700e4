"""The deterministic agents that are hosted: real `Agent`s over a chat client with a script where others have a model.

A reply names how many messages the client saw, so that whoever reads it can tell a kept history from a lost one.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any

import anyio
from agent_framework import (
    Agent,
    AgentSession,
    BaseChatClient,
    ChatMiddlewareLayer,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    FunctionInvocationLayer,
    Message,
    ResponseStream,
    UsageDetails,
)
from agent_framework.observability import ChatTelemetryLayer

WORDS = "The quick brown fox jumps over the lazy dog while five boxing wizards jump quickly past it"
"""What callers say, and hear again."""

_USAGE = UsageDetails(input_token_count=17, output_token_count=17, total_token_count=34)


class ScriptedChatClient(
    FunctionInvocationLayer[Any],
    ChatMiddlewareLayer[Any],
    ChatTelemetryLayer[Any],
    BaseChatClient[Any],
):
    """Echoes the last message, after the number of the turn.

    Each reply has a message id of its own, as a model's has: without, the framework compares contents to tell a new
    message from one that it already keeps, and the same words in the same place count as kept.

    Args:
        chunks: Chunks of a streamed reply.
        spacing: Seconds before each of them; 0 gives all at once, without a pause.
    """

    OTEL_PROVIDER_NAME = "afactors.benchmarks"

    def __init__(self, *, chunks: int = 20, spacing: float = 0.0) -> None:
        super().__init__()
        self._chunks = chunks
        self._spacing = spacing
        self._numbers = itertools.count()

    def _inner_get_response(
        self, *, messages: Sequence[Message], stream: bool, options: Mapping[str, Any], **kwargs: Any
    ) -> Awaitable[ChatResponse[Any]] | ResponseStream[ChatResponseUpdate, ChatResponse[Any]]:
        if stream:
            return self._build_response_stream(self._updates(messages))
        return self._whole(messages)

    async def _whole(self, messages: Sequence[Message]) -> ChatResponse[Any]:
        text = f"{mark(turn_of(messages))} {messages[-1].text}"
        message_id = self._new_id()
        reply = Message(role="assistant", contents=[Content.from_text(text)], message_id=message_id)
        return ChatResponse(messages=[reply], response_id=message_id, finish_reason="stop", usage_details=_USAGE)

    async def _updates(self, messages: Sequence[Message]) -> AsyncIterator[ChatResponseUpdate]:
        words = messages[-1].text.split()
        message_id = self._new_id()
        for number in range(self._chunks):
            if self._spacing:
                await anyio.sleep(self._spacing)
            text = f"{words[number % len(words)]} " if number else f"{mark(turn_of(messages))} "
            yield _update(message_id, Content.from_text(text))
        yield _update(message_id, Content.from_usage(_USAGE), finish_reason="stop")

    def _new_id(self) -> str:
        return f"scripted-{next(self._numbers):032}"


def _update(message_id: str, content: Content, **more: Any) -> ChatResponseUpdate:
    return ChatResponseUpdate(
        contents=[content], role="assistant", response_id=message_id, message_id=message_id, **more
    )


def turn_of(messages: Sequence[Message]) -> int:
    """The number of the turn, from 1: each earlier one left a question and an answer."""
    return len(messages) // 2 + 1


def mark(turn: int) -> str:
    """How the reply of a turn begins."""
    return f"#{turn}."


class TimedAgent(Agent[Any]):
    """An agent that tells how long its last run took, so that its own cost can be taken out of a turn's.

    With a `burden` it runs that session, too, in each run: a short conversation then keeps the thread and the caches
    as busy as the long one whose copy the burden is.
    """

    last_seconds = 0.0
    last_session: AgentSession | None = None
    burden: AgentSession | None = None

    def copy_of_last_session(self) -> AgentSession:
        """A session with the history of the last run's."""
        assert self.last_session is not None  # noqa: S101 - there was a run
        return AgentSession.from_dict(self.last_session.to_dict())

    def run(self, messages: Any = None, **options: Any) -> Any:
        """Run, with a watch. Not for streams."""
        return self._timed(messages, options)

    async def _timed(self, messages: Any, options: dict[str, Any]) -> Any:
        began = time.perf_counter()
        self.last_session = options.get("session")
        try:
            if self.burden is not None:
                await super().run(messages, session=self.burden)
            return await super().run(messages, **options)
        finally:
            self.last_seconds = time.perf_counter() - began


def make_agent(*, chunks: int = 20, spacing: float = 0.0) -> Agent[Any]:
    """The agent of most scenarios."""
    return Agent(client=ScriptedChatClient(chunks=chunks, spacing=spacing), name="scripted")


def make_timed_agent() -> TimedAgent:
    """The agent of the history scenario."""
    return TimedAgent(client=ScriptedChatClient(), name="scripted")
