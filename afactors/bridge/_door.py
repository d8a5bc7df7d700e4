"""The way from the asyncio thread back into trio: callbacks, and whole calls."""

import contextvars
import os
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import trio

from ._types import BridgeClosed, logger

T = TypeVar("T")


class TrioDoor:
    """Callbacks from the asyncio thread for the trio thread; one wake-up for all that wait."""

    __slots__ = ("_pid", "_scheduled", "_token", "_waiting")

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._pid = os.getpid()
        self._waiting: deque[Callable[[], None]] = deque()
        self._scheduled = False

    def post(self, callback: Callable[[], None]) -> None:
        """[asyncio] Call ``callback()`` in trio soon. It must not raise: that would end the trio run."""
        self._waiting.append(callback)
        if not self._scheduled:
            self._scheduled = True
            if os.getpid() != self._pid:
                # Agent code forked, and the child ran on. It has no trio, only a copy of trio's lock, which
                # may be held for ever by a thread that the child does not have.
                os._exit(1)
            try:
                self._token.run_sync_soon(self._drain)
            except trio.RunFinishedError:
                logger.debug("trio has ended: nobody is left to hear from the bridge thread")

    def _drain(self) -> None:
        self._scheduled = False  # before looking: who appends from here on schedules anew
        waiting = self._waiting
        for _ in range(len(waiting)):
            waiting.popleft()()


class TrioCall(Generic[T]):
    """One call from asyncio code into trio.

    It runs in a scope of its own that is shielded from the rest of trio: it is cancelled when its
    asyncio caller is, or when the bridge gives up waiting at its end, and by nothing else. So a turn is
    taken down in one order, and the clean-up of agent code can still reach a store.
    """

    __slots__ = ("args", "asked", "calls", "context", "error", "fn", "nursery", "reply", "scope", "value")

    def __init__(
        self,
        fn: Callable[..., Awaitable[T]],
        args: tuple[Any, ...],
        nursery: trio.Nursery,
        calls: set["TrioCall[Any]"],
    ) -> None:
        self.fn = fn
        self.args = args
        self.nursery = nursery
        self.calls = calls  # the bridge's set of calls under way; trio's own
        self.context = contextvars.copy_context()
        self.scope: trio.CancelScope | None = None
        self.reply: Callable[[], None] = _nobody
        self.asked = False
        self.value: T | None = None
        self.error: Exception | None = None

    def begin(self) -> None:
        """[trio] Start the call in the bridge's nursery, in the caller's context."""
        self.scope = trio.CancelScope(shield=True)
        self.calls.add(self)
        try:
            self.context.run(self.nursery.start_soon, self._perform)
        except RuntimeError:  # the nursery is closed to new arrivals
            self._finish(BridgeClosed("the bridge closed before the call into trio began"))

    def cancel(self) -> None:
        """[trio] The asyncio caller was cancelled."""
        self.asked = True
        if self.scope is not None:
            self.scope.cancel()

    async def _perform(self) -> None:
        assert self.scope is not None  # noqa: S101 - set by begin, which alone starts this
        error: Exception | None = BridgeClosed("the bridge closed under the call into trio")
        try:
            with self.scope:
                self.value = await self.fn(*self.args)
                error = None
        except Exception as exc:  # noqa: BLE001 - it belongs to the asyncio caller
            error = exc
        finally:
            self._finish(error)

    def _finish(self, error: Exception | None) -> None:
        self.error = error
        self.calls.discard(self)
        self.reply()


def _nobody() -> None:
    """Stand in for the reply of a call that was never sent."""
