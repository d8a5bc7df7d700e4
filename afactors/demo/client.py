"""The chat client: the mind's decisions in the framework's terms, word by word."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any, Literal
from uuid import uuid4

import anyio
from agent_framework import (
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

from .mind import Call, think

MODEL = "afactors-demo"

_Finish = Literal["stop", "length", "tool_calls"]


class DemoChatClient(
    FunctionInvocationLayer[Any],
    ChatMiddlewareLayer[Any],
    ChatTelemetryLayer[Any],
    BaseChatClient[Any],
):
    """A chat client with a table of phrases where others have a model.

    It takes the usual options. These make a difference: `instructions` that ask for upper case, `model`
    (echoed), `tools` that the caller runs itself, `tool_choice`, and `max_tokens` (a word is a token).
    """

    OTEL_PROVIDER_NAME = "afactors.demo"

    def __init__(self, *, word_delay: float = 0.02) -> None:
        super().__init__()
        self.word_delay = word_delay

    def _inner_get_response(
        self, *, messages: Sequence[Message], stream: bool, options: Mapping[str, Any], **kwargs: Any
    ) -> Awaitable[ChatResponse[Any]] | ResponseStream[ChatResponseUpdate, ChatResponse[Any]]:
        updates = self._updates(messages, options)
        if stream:
            return self._build_response_stream(updates)
        return ChatResponse.from_update_generator(updates)

    async def _updates(
        self, messages: Sequence[Message], options: Mapping[str, Any]
    ) -> AsyncIterator[ChatResponseUpdate]:
        """Answer one request: a function call, or words that join up to the text; then the usage."""
        about: dict[str, Any] = {
            "role": "assistant",
            "response_id": f"demo-{uuid4().hex}",
            "message_id": f"demo-{uuid4().hex}",
            "model": options.get("model") or MODEL,
        }
        instructions = _instructions(messages, options)
        decided = think(messages, options)
        finish: _Finish
        if isinstance(decided, Call):
            words, finish = [json.dumps(decided.arguments, ensure_ascii=False)], "tool_calls"
            call = Content.from_function_call(f"call_{uuid4().hex}", decided.name, arguments=words[0])
            yield ChatResponseUpdate(contents=[call], **about)
        else:
            words, finish = _words(decided.text, instructions, options.get("max_tokens"))
            for word in words:
                await anyio.sleep(self.word_delay)
                yield ChatResponseUpdate(contents=[Content.from_text(word)], **about)
        usage = Content.from_usage(_usage(messages, instructions, words))
        yield ChatResponseUpdate(contents=[usage], finish_reason=finish, **about)


def _instructions(messages: Sequence[Message], options: Mapping[str, Any]) -> str:
    system = [message.text for message in messages if message.role in {"system", "developer"}]
    return "\n".join([str(options.get("instructions") or ""), *system])


def _words(text: str, instructions: str, limit: int | None) -> tuple[list[str], _Finish]:
    """Split a text into words that join up again, as told to, and say why it ends where it does."""
    if re.search(r"\bupper[ -]?case\b", instructions, re.I):
        text = text.upper()
    words = re.findall(r"\s*\S+\s*", text)
    if limit is not None and limit < len(words):
        return words[:limit], "length"
    return words, "stop"


def _usage(messages: Sequence[Message], instructions: str, words: Sequence[str]) -> UsageDetails:
    spoken = [message.text for message in messages if message.role not in {"system", "developer"}]
    words_in = sum(len(text.split()) for text in [instructions, *spoken])
    words_out = sum(len(word.split()) for word in words)
    return UsageDetails(
        input_token_count=words_in, output_token_count=words_out, total_token_count=words_in + words_out
    )
