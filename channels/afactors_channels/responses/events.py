"""One response as a stream of events.

The order of the contract:

    created, in_progress, then the items' events (see `output`), then exactly one of completed, incomplete and
    failed.

Sequence numbers begin at 0 and have no gaps. Every event is a plain mapping, and is not changed once it was
handed out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from agent_framework import AgentResponse, AgentResponseUpdate

from .output import Event, OutputBuilder
from .render import failed, finished

# What may be done in which state, and the state after it. Anything else is a defect of the caller.
_NEXT = {
    ("new", "begin"): "open",
    ("open", "feed"): "open",
    ("open", "complete"): "closed",
    ("open", "fail"): "closed",
}


class EventStream:
    """Turns a run's updates into events. Pure: the caller sends them.

    Args:
        skeleton: From `response_skeleton`; it is not changed.
        client_tools: Names of the functions that the client executes; calls of others are not shown.

    Attributes:
        response: The response object as it stands: the skeleton, and after `complete` or `fail` the final
            one.
    """

    def __init__(self, skeleton: Mapping[str, Any], *, client_tools: Collection[str] = ()) -> None:
        self.response: Mapping[str, Any] = skeleton
        self._builder = OutputBuilder(skeleton["id"], client_tools)
        self._state = "new"

    def begin(self) -> list[Event]:
        """`response.created` and `response.in_progress`."""
        self._advance("begin")
        for name in ("response.created", "response.in_progress"):
            self._builder.emit({"type": name, "response": self.response})
        return self._builder.take_events()

    def feed(self, updates: Iterable[AgentResponseUpdate]) -> list[Event]:
        """The events of a batch of updates; may be none."""
        self._advance("feed")
        for update in updates:
            self._builder.feed(update)
        return self._builder.take_events()

    def complete(self, result: AgentResponse | None = None, *, completed_at: int) -> list[Event]:
        """End with `response.completed`, or with `response.incomplete` if the model was cut off.

        Closes what is open. The output is what was streamed. Only if nothing was, the result's messages are
        sent now (a middleware may have answered for the target).

        Args:
            result: The finished run, for its finish reason and usage; None to go by the updates.
            completed_at: Seconds since the epoch.
        """
        self._advance("complete")
        builder = self._builder
        finish_reason, usage = builder.finish_reason, builder.usage
        if result is not None:
            finish_reason, usage = result.finish_reason or finish_reason, result.usage_details or usage
            for message in () if builder.output else result.messages:
                builder.feed_message(message)
        self.response = finished(self.response, builder, finish_reason, usage, completed_at)
        return self._end()

    def fail(self, code: str, message: str) -> list[Event]:
        """Close what is open as incomplete, and end with `response.failed`.

        Args:
            code: Machine-readable, such as ``server_error``.
            message: For the client; never the text of somebody's exception.
        """
        self._advance("fail")
        self.response = failed(self.response, self._builder, code, message)
        return self._end()

    def _end(self) -> list[Event]:
        self._builder.emit({"type": f"response.{self.response['status']}", "response": self.response})
        return self._builder.take_events()

    def _advance(self, action: str) -> None:
        state = _NEXT.get((self._state, action))
        if state is None:
            raise RuntimeError(f"cannot {action} a stream that is {self._state}")
        self._state = state
