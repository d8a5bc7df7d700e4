"""Which updates of a poller are accepted, and up to where they can be confirmed. Pure."""

from __future__ import annotations

from collections.abc import Iterable


class Window:
    """The updates that came and are not confirmed yet.

    A server gives everything from the first update that is not confirmed, again and again. So what lies behind one
    that waits has come before, and must not be taken twice; and what waits must not be confirmed.
    """

    def __init__(self) -> None:
        self._pending: set[int] = set()
        self._done: set[int] = set()
        self._next: int | None = None

    @property
    def offset(self) -> int | None:
        """The first update to ask for, which confirms all before it; None before there was any."""
        return min(self._pending) if self._pending else self._next

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return not self._pending

    @property
    def pending(self) -> int:
        """How many wait."""
        return len(self._pending)

    def take(self, ids: Iterable[int]) -> set[int]:
        """Which of the updates that came are new; they wait from now on."""
        came = set(ids)
        if not came:
            return came
        if self._next is not None and not self._pending and max(came) < self._next:
            self._next = None  # after a quiet week the server begins to count at random
            self._done.clear()
        new = came - self._pending - self._done
        self._pending |= new
        self._next = max(self._next or 0, max(came) + 1)
        return new

    def finish(self, number: int) -> None:
        """An update was accepted, or is none that ever will be."""
        self._pending.discard(number)
        self._done.add(number)
        first = self.offset or 0
        self._done = {one for one in self._done if one >= first}
