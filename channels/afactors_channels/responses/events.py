"""One response as a stream of events.

The order of the contract:

    created, queued if it waits, in_progress, then the items' events (see `output`), then exactly one of completed,
    incomplete and failed.

Sequence numbers have no gaps. Every event is a plain mapping, and is not changed once it was handed out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from agent_framework import AgentResponse, AgentResponseUpdate

from .emission import Event
from .output import OutputBuilder
from .presentation import Status
from .render import end_status, failed, finished

# What may be done in which state, and the state after it. Anything else is a defect of the caller.
_NEXT = {
    ("new", "queue"): "queued",
    ("new", "begin"): "open",
    ("new", "fail"): "closed",
    ("queued", "begin"): "open",
    ("queued", "fail"): "closed",
    ("open", "feed"): "open",
    ("open", "complete"): "complete",
    ("open", "fail"): "closed",
    ("complete", "fail"): "closed",  # the commit failed
}


class EventStream:
    """Turns a run's updates into events. Pure: the caller sends them.

    Args:
        skeleton: The response object of a run that has just begun; it is not changed.
        client_tools: Names of the functions that the client executes; calls of others are not shown.
        include: What else the client wants in the output.
        first_sequence: Number of the first event.

    Attributes:
        response: The response object as it stands: the skeleton, and after `complete` or `fail` the final
            one.
    """

    def __init__(
        self,
        skeleton: Mapping[str, Any],
        *,
        client_tools: Collection[str] = (),
        include: Collection[str] = (),
        first_sequence: int = 0,
    ) -> None:
        self.response: Mapping[str, Any] = skeleton
        self._builder = OutputBuilder(skeleton["id"], client_tools, first_sequence, include=include)
        self._state = "new"

    @property
    def output(self) -> list[dict[str, Any]]:
        """The output items so far."""
        return self._builder.output

    def queue(self) -> list[Event]:
        """`response.created` and `response.queued`: the run waits."""
        self._advance("queue")
        waiting = {**self.response, "status": "queued"}
        return self._tell(waiting, "created", "queued")

    def begin(self) -> list[Event]:
        """`response.in_progress`, after `response.created` if the run did not wait."""
        known = self._state == "queued"
        self._advance("begin")
        return self._tell(self.response, *(() if known else ("created",)), "in_progress")

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
        output = builder.finish(end_status(finish_reason))
        self.response = finished(self.response, output, finish_reason, usage, completed_at)
        return self._tell(self.response, self.response["status"])

    def fail(self, code: str, message: str, *, status: Status = "failed") -> list[Event]:
        """Close what is open as incomplete, and end with `response.failed`.

        After `complete`, the event takes the place of the last one, and has its number.

        Args:
            code: Machine-readable, such as ``server_error``.
            message: For the client; never the text of somebody's exception.
            status: ``failed``, or ``cancelled``, for which the protocol has no event of its own.
        """
        before = self._state
        self._advance("fail")
        builder = self._builder
        if before == "new":
            self._emit(self.response, "created")
        elif before == "complete":
            builder.take_back()
        output = builder.finish("incomplete")
        self.response = failed(self.response, output, builder.usage, status=status, code=code, message=message)
        return self._tell(self.response, "failed")

    def _tell(self, response: Mapping[str, Any], *names: str) -> list[Event]:
        """The open events, and one about the response by each name."""
        for name in names:
            self._emit(response, name)
        return self._builder.take_events()

    def _emit(self, response: Mapping[str, Any], name: str) -> None:
        self._builder.emit({"type": f"response.{name}", "response": response})

    def _advance(self, action: str) -> None:
        state = _NEXT.get((self._state, action))
        if state is None:
            raise RuntimeError(f"cannot {action} a stream that is {self._state}")
        self._state = state
