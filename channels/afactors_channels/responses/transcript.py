"""One response as the rows of a transcript: each an event as bytes, each numbered as its event is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from agent_framework import AgentResponse, AgentResponseUpdate

from afactors_channels.outcomes import RunState
from afactors_channels.requests import ChannelRequest

from .emission import Event
from .events import EventStream
from .presentation import client_tools, included, skeleton
from .render import render_output
from .sse import encode_event


class ResponseTranscript:
    """Writes one response down; a `Transcript`, and the class itself a `Transcriber`.

    A row is one event as it is sent (``event: …``, ``data: …``), and its number is the event's `sequence_number`.

    Args:
        request: What was accepted: its name is the response's id, and its presentation says the rest.
        created: When, in seconds since the epoch.
        first: Number of the first row.

    Raises:
        ValueError: The request has no name.
    """

    def __init__(self, request: ChannelRequest, *, created: float, first: int) -> None:
        if request.name is None:
            raise ValueError("a request without a name has no response id")
        shown = request.presentation
        self._id = request.name
        self._client_tools = client_tools(shown)
        self._include = included(shown)
        self._stream = EventStream(
            skeleton(shown, response_id=request.name, created_at=int(created)),
            client_tools=self._client_tools,
            include=self._include,
            first_sequence=first,
        )

    def accepted(self) -> Sequence[bytes]:
        """`response.created` and `response.queued`."""
        return _rows(self._stream.queue())

    def started(self) -> Sequence[bytes]:
        """`response.in_progress`, after `response.created` if nobody called `accepted`."""
        return _rows(self._stream.begin())

    def fed(self, updates: Sequence[AgentResponseUpdate]) -> Sequence[bytes]:
        """The events of a batch of updates; may be none."""
        return _rows(self._stream.feed(updates))

    def completed(self, result: AgentResponse, at: float) -> tuple[Sequence[bytes], Any]:
        """The end: `response.completed` or `response.incomplete`.

        Returns:
            The rows; and the output items as they were streamed, or None if `render_run` gives the same ones from
            the result's messages. (A chat client may stream what it later takes back; a stream cannot.)
        """
        rows = _rows(self._stream.complete(result, completed_at=int(at)))
        streamed = self._stream.output
        if streamed == render_output(result, self._id, self._client_tools, self._include):
            return rows, None
        return rows, streamed

    def failed(self, state: RunState, code: str, message: str) -> tuple[Sequence[bytes], Any]:
        """The end: `response.failed`, whose response says whether it failed or was cancelled.

        After `completed` the last row takes the place of that one's last.

        Returns:
            The rows; and the output items as far as they were streamed.
        """
        rows = _rows(self._stream.fail(code, message, status="cancelled" if state == "cancelled" else "failed"))
        return rows, self._stream.output or None


def _rows(events: Iterable[Event]) -> list[bytes]:
    return [encode_event(event) for event in events]
