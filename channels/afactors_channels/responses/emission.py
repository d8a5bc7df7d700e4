"""Output items in their order, and the numbered events about them."""

from __future__ import annotations

from typing import Any

from .ids import item_id

Event = dict[str, Any]


class Emission:
    """What was said of one response so far.

    Args:
        response_id: The response's id.
        first_sequence: Number of the first event.
        announces: Whether there are events at all.

    Attributes:
        output: The items so far; those still open are as they were when they opened.
    """

    def __init__(self, response_id: str, first_sequence: int = 0, *, announces: bool = True) -> None:
        self.output: list[dict[str, Any]] = []
        self._response_id = response_id
        self._sequence = first_sequence
        self._announces = announces
        self._events: list[Event] = []

    def take_events(self) -> list[Event]:
        """The events since the last time, in order."""
        events, self._events = self._events, []
        return events

    def emit(self, event: Event) -> None:
        """Number an event and add it."""
        if not self._announces:
            return
        event["sequence_number"] = self._sequence
        self._sequence += 1
        self._events.append(event)

    def take_back(self) -> None:
        """Let the next event have the last one's number."""
        self._sequence -= 1

    def next_id(self, prefix: str) -> str:
        """The id of the next item, of a kind with this prefix."""
        return item_id(prefix, self._response_id, len(self.output))

    def announce(self, wire: dict[str, Any]) -> None:
        """Open the next item."""
        self.emit({"type": "response.output_item.added", "output_index": len(self.output), "item": wire})
        self.output.append(wire)

    def finish(self, position: int, wire: dict[str, Any]) -> None:
        """Close the item at this position."""
        self.output[position] = wire
        self.emit({"type": "response.output_item.done", "output_index": position, "item": wire})

    def whole(self, wire: dict[str, Any], **at_first: Any) -> None:
        """An item that comes in one piece.

        Args:
            wire: The item.
            at_first: What of it is different in the event that opens it.
        """
        position = len(self.output)
        self.announce({**wire, **at_first})
        self.finish(position, wire)
