"""`POST /responses/compact`: a conversation's items, shortened by one of the framework's strategies."""

from __future__ import annotations

import secrets
import time

from agent_framework import CompactionStrategy, ContextWindowCompactionStrategy

from ..requests import ChannelSession
from .compaction import parse_compact, render_compaction
from .exchange import Exchange
from .ids import RANDOM_BYTES, new_response_id

_WINDOW = 128_000
_ANSWER = 16_384


class Compaction:
    """How items are shortened on this channel.

    Args:
        strategy: Which of them are kept; None for what fits into a context window of 128,000 tokens.
    """

    def __init__(self, strategy: CompactionStrategy | None) -> None:
        self._strategy = strategy or ContextWindowCompactionStrategy(
            max_context_window_tokens=_WINDOW, max_output_tokens=_ANSWER
        )

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request."""
        asked = parse_compact(await exchange.body())
        about = exchange.about(ChannelSession(after=asked.previous_response_id)).replace(input=asked.input)
        messages = await exchange.context.compact(about, self._strategy)
        response_id = new_response_id(secrets.token_bytes(RANDOM_BYTES))
        await exchange.answer.json(render_compaction(messages, response_id=response_id, created_at=int(time.time())))
