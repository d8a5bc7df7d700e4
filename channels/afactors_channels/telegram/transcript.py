"""A run as the rows of a transcript: the text as it grows, and how it ended. Pure.

A row is a small JSON object: ``{"add": text}``, ``{"text": all of it}`` or ``{"end": state}``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agent_framework import AgentResponse, AgentResponseUpdate

from ..outcomes import RunState
from ..requests import ChannelRequest
from ..workflows import INTERMEDIATE
from .texts import clean, split_text

_SHOWN_HERE = {"originating", "active", "all_linked"}


class TelegramTranscript:
    """Writes one run's text down; a `Transcript`, and the class itself a `Transcriber`.

    Args:
        request: What was accepted; nothing is shown of a run whose reply goes elsewhere.
        created: When, in seconds since the epoch.
        first: Number of the first row.
    """

    def __init__(self, request: ChannelRequest, *, created: float, first: int) -> None:
        self._shown = request.response_target.kind in _SHOWN_HERE
        self._message: str | None = None
        self._text = ""

    def accepted(self) -> Sequence[bytes]:
        """Nothing."""
        return ()

    def started(self) -> Sequence[bytes]:
        """Nothing."""
        return ()

    def fed(self, updates: Sequence[AgentResponseUpdate]) -> Sequence[bytes]:
        """What a batch of updates adds to the text; at most one row."""
        before = self._text
        for update in updates if self._shown else ():
            self._take(update)
        if self._text == before:
            return ()
        if self._text.startswith(before):
            return [_row({"add": self._text[len(before) :]})]
        return [_row({"text": self._text})]

    def completed(self, result: AgentResponse, at: float) -> tuple[Sequence[bytes], Any]:
        """The end; the reply itself comes as a delivery."""
        return [_row({"end": "completed"})], None

    def failed(self, state: RunState, code: str, message: str) -> tuple[Sequence[bytes], Any]:
        """The end; what the user hears of a failure comes as a delivery, too."""
        return [_row({"end": state})], None

    def _take(self, update: AgentResponseUpdate) -> None:
        said = [each for each in update.contents if each.type == "text" and each.text]
        if not said or (update.additional_properties or {}).get(INTERMEDIATE):
            return
        if update.message_id and update.message_id != self._message:
            self._text += "\n\n" if self._text and self._message is not None else ""
            self._message = update.message_id
        for content in said:
            self._text = content.text or "" if content.merge_mode == "replace" else self._text + (content.text or "")


class Growing:
    """A text as its rows tell it.

    Attributes:
        text: So far.
        end: How the run ended; "" as long as it has not.
    """

    def __init__(self) -> None:
        self.begin_again()

    def begin_again(self) -> None:
        """The run began again: nothing that comes belongs to what came before."""
        self.text = self.end = ""

    def take(self, row: bytes) -> None:
        """One more row."""
        told = json.loads(row)
        self.text = told.get("text", self.text + told.get("add", ""))
        self.end = told.get("end", self.end)

    def shown(self) -> str:
        """What can be shown of it in one message: the part that is being written."""
        parts = split_text(clean(self.text))
        return parts[-1] if parts else ""


def _row(told: dict[str, Any]) -> bytes:
    return json.dumps(told, separators=(",", ":")).encode()
