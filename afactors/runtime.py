"""The runtime: one target, many channels, an actor for each isolation key, one store."""

from __future__ import annotations

import inspect
import logging
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, Unpack, cast

import trio
from agent_framework import AgentResponse

from afactors_channels import (
    Channel,
    ChannelRequest,
    Conflicting,
    Endpoint,
    HostedRunResult,
    NotAllowed,
    Overloaded,
    Route,
    StorageFull,
)
from afactors_store import LmdbStore, Store, StoreBroken, StoreStatistics

from .bridge import Bridge, BridgeStatistics
from .collector import rare_collections
from .embedding import around
from .http import Dispatcher
from .limits import LimitOptions, Limits
from .placing import place
from .reports import DrainReport
from .serve import serve
from .supervision import ActorsStatistics, Supervisor
from .target import Target, TargetSource, open_target
from .turn import Turn, ancestry

if TYPE_CHECKING:
    from quart_trio import QuartTrio

logger = logging.getLogger("afactors.runtime")

DEFAULT_STATE_DIR = ".afactors"

Authorization: TypeAlias = Literal["allowed", "link_required", "denied"]
AuthPolicy: TypeAlias = Callable[[ChannelRequest], Authorization | Awaitable[Authorization]]
"""Decides about every request before anything else happens to it; open by default."""

_HOUSEKEEPING_SECONDS = 60.0
_EXPIRE_SLICE = 256


@dataclass(frozen=True, slots=True)
class RuntimeStatistics:
    """A runtime in figures."""

    actors: ActorsStatistics
    store: StoreStatistics
    bridge: BridgeStatistics


@dataclass(slots=True)
class _Open:
    """What exists only while the runtime is open."""

    bridge: Bridge
    target: Target
    supervisor: Supervisor
    hurry: trio.CancelScope
    run_ids: Iterator[str]


class Runtime:
    """Hosts one agent for many conversations.

    Use it as ``async with runtime``, embed it with `init_app`, or let `serve` do everything.

    Args:
        target: An agent, or a factory of one (sync or async).
        channels: The protocols to speak; none is fine for a runtime without HTTP.
        store: Where state lives; `LmdbStore(".afactors")` by default.
        wait_lock: Seconds to wait for another process to give up the store.
        authorize: Decides about every request; see `AuthPolicy`.
        on_broken: Called once when the store or the target's thread is beyond help, with the reason; by default the
            process is asked to terminate (SIGTERM): serving without being able to remember is worse than being down.
        tune_gc: Whether the process's garbage collector is set to look for cycles less often while the runtime is open.
        **limits: Any field of `Limits`, by name.
    """

    def __init__(
        self,
        target: TargetSource,
        *,
        channels: Sequence[Channel] = (),
        store: Store | None = None,
        wait_lock: float = 0.0,
        authorize: AuthPolicy | None = None,
        on_broken: Callable[[str], None] | None = None,
        tune_gc: bool = True,
        **limits: Unpack[LimitOptions],
    ) -> None:
        self.limits = Limits.of(limits)
        self.store: Store = store if store is not None else LmdbStore(DEFAULT_STATE_DIR)
        self._source = target
        self._channels = list(channels)
        self._wait_lock = wait_lock
        self._authorize = authorize
        self._tune_gc = tune_gc
        self._on_broken = on_broken or _ask_to_terminate
        self._open: _Open | None = None
        self._stack: AsyncExitStack | None = None
        self._draining = False
        self._broken: str | None = None
        self._report: DrainReport | None = None
        contributions = [channel.contribute(self) for channel in self._channels]
        names = [channel.name for channel in self._channels]
        if len(set(names)) != len(names):
            raise ValueError(f"two channels have the same name: {sorted(names)}")
        self._routes: list[Route] = [route for contribution in contributions for route in contribution.routes]
        self._tasks = [contribution.task for contribution in contributions if contribution.task is not None]

    # -- open and close

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise RuntimeError("this runtime is open already")
        self._stack = AsyncExitStack()
        try:
            await self._stack.enter_async_context(self._opened())
        except BaseException:
            self._stack = None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._stack is not None  # noqa: S101 - entered before
        stack, self._stack = self._stack, None
        if exc is not None and not _is_cancellation(exc):
            # The block's own failure goes on as it is, not wrapped by nurseries that are none of its business.
            await stack.__aexit__(None, None, None)
            return False
        return await stack.__aexit__(kind, exc, traceback)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        """Store, bridge, target, actors, channels: each inside the one before, and left in the other order."""
        limits = self.limits
        bridge = Bridge(
            cancel_grace=limits.cancel_grace,
            stall_warning=limits.stall_warning,
            stall_limit=limits.stall_limit,
            on_stall=self._break,
            close_timeout=limits.drain_timeout,
        )
        self._draining, self._broken, self._report = False, None, None
        # The collector is set last: what start-up made is there by then.
        collector = rare_collections() if self._tune_gc else nullcontext()
        async with self._whole_store(), bridge, open_target(bridge, self._source) as target:
            with collector:
                async with self._working(bridge, target):
                    yield

    @asynccontextmanager
    async def _working(self, bridge: Bridge, target: Target) -> AsyncIterator[None]:
        """Actors, and inside them whatever brings them letters."""
        supervisor = Supervisor(self.store, target, self.limits, self._break)
        async with trio.open_nursery() as actors:
            await actors.start(supervisor.run)
            async with trio.open_nursery() as services:
                services.start_soon(self._housekeeping, supervisor)
                for task in self._tasks:
                    services.start_soon(task)
                self._open = _Open(bridge, target, supervisor, trio.CancelScope(), run_ids())
                try:
                    yield
                finally:
                    with trio.CancelScope(shield=True):
                        await self.drain()
                    self._open = None
                    supervisor.end()
                services.cancel_scope.cancel(reason="the runtime stops")

    @asynccontextmanager
    async def _whole_store(self) -> AsyncIterator[None]:
        try:
            async with self.store.open(wait_lock=self._wait_lock):
                yield
        except BaseExceptionGroup as group:
            if (broken := group.subgroup(StoreBroken)) is not None:
                self._break(f"the store failed: {_deepest(broken)}")
            raise
        except StoreBroken as exc:
            self._break(f"the store failed: {exc}")
            raise

    def _break(self, reason: str) -> None:
        if self._broken is None:
            self._broken = reason
            logger.critical("%s; the process should stop", reason)
            self._on_broken(reason)

    async def drain(self) -> DrainReport:
        """Take no more work, let running turns finish, and cancel what still runs at the deadline.

        Safe to call early (before an HTTP server is stopped) and again; the second call returns the same report.
        """
        opened = self._open
        if self._report is not None:
            return self._report
        if opened is None:
            raise RuntimeError("this runtime is not open")
        self._draining = True
        started, ended_before = trio.current_time(), opened.supervisor.ended
        grace = self.limits.cancel_grace + 1.0
        with trio.CancelScope(deadline=started + self.limits.drain_timeout) as opened.hurry:
            await opened.supervisor.quiet()
        cancelled = opened.supervisor.cancel_all("draining")
        with trio.move_on_after(grace) as late:
            await opened.supervisor.quiet()
        left = opened.supervisor.statistics()
        self._report = DrainReport(
            finished=max(0, opened.supervisor.ended - ended_before - cancelled),
            cancelled=cancelled,
            abandoned=left.running + left.waiting if late.cancelled_caught else 0,
            seconds=trio.current_time() - started,
        )
        logger.info("%s", self._report)
        return self._report

    def hurry(self) -> None:
        """Shorten a drain that is under way: what still runs is cancelled now."""
        if self._open is not None:
            self._open.hurry.cancel(reason="asked to hurry")

    async def _housekeeping(self, supervisor: Supervisor) -> None:
        while True:
            await trio.sleep(_HOUSEKEEPING_SECONDS)
            try:
                while await self.store.expire(time.time(), _EXPIRE_SLICE) == _EXPIRE_SLICE:
                    await trio.lowlevel.checkpoint()
            except StoreBroken as exc:
                supervisor.give_up(exc)
                raise

    def _store_full(self) -> bool:
        try:
            return self.store.full
        except StoreBroken as exc:
            self._break(f"the store failed: {exc}")
            return True

    # -- turns

    async def ask(self, request: ChannelRequest) -> HostedRunResult[AgentResponse[Any]]:
        """Run one turn and wait for its commit.

        A caller that is cancelled cancels the turn, unless the request says `on_disconnect="finish"`. The target's own
        code (a tool) may call this too, for another session than its own.

        Raises:
            BadRequest: The request is at fault; a subclass says how.
            NotAllowed: The policy refused it.
            Overloaded: Mailbox full, too many actors, or the runtime is stopping.
            StorageFull: There is no room for new work.
            TargetFailed: The turn ended without a result; its record says why and keeps the input.
        """
        opened = self._opened_now()
        if opened.bridge.inside:
            return await opened.bridge.call_trio(self._ask, request)
        return await self._ask(request)

    async def _ask(self, request: ChannelRequest) -> HostedRunResult[AgentResponse[Any]]:
        inside = ancestry.get()
        async with self.turn(request) as turn, inside[-1].standing_aside(turn) if inside else nullcontext():
            return await turn.outcome()

    def stream(self, request: ChannelRequest) -> AbstractAsyncContextManager[Turn]:
        """`turn`, of a request that streams."""
        return self.turn(request.replace(stream=True))

    @asynccontextmanager
    async def turn(self, request: ChannelRequest) -> AsyncIterator[Turn]:
        """Run one turn and follow it; one that streams, batch of updates by batch of updates.

        Leaving the block early cancels the turn, unless the request says `on_disconnect="finish"`. Entering it raises
        what `ask` raises before the turn begins; iterating raises the rest.
        """
        turn = await self._accept(request)
        try:
            yield turn
        finally:
            turn.leave()

    async def _accept(self, request: ChannelRequest) -> Turn:
        """Put a request into its actor's mailbox, or refuse it."""
        opened = self._opened_now()
        if self._draining:
            raise Overloaded("The server is stopping.", code="draining", status=503, retry_after=5.0)
        full = self._store_full()
        if self._broken is not None:
            raise Overloaded("The server is not serving.", code="unavailable", status=503, retry_after=5.0)
        if full:
            raise StorageFull("The server has no room to store new turns.")
        await self._check_allowed(request)
        opened.target.check(request)
        run_id = next(opened.run_ids)
        key, start = await place(self.store, request, run_id)
        turn = Turn(request, run_id, key)
        inside = ancestry.get() if start is not None and request.session.after is None else ()
        if start is not None and inside and opened.supervisor.waits_in_a_circle(key, start.session_id, inside):
            raise Conflicting("The turn would wait for itself.", code="would_deadlock")
        opened.supervisor.deliver(key, turn, start)
        return turn

    async def _check_allowed(self, request: ChannelRequest) -> None:
        if self._authorize is None:
            return
        decision = self._authorize(request)
        if inspect.isawaitable(decision):
            decision = await decision
        if decision == "allowed":
            return
        logger.info("channel %s: a request was refused (%s)", request.channel, decision)
        code = "link_required" if decision == "link_required" else "forbidden"
        raise NotAllowed("You may not do this.", code=code, status=403)

    def _opened_now(self) -> _Open:
        if self._open is None:
            raise RuntimeError("this runtime is not open; use it inside `async with runtime`")
        return self._open

    # -- what others ask

    @property
    def target_name(self) -> str:
        """The hosted agent's name."""
        return self._opened_now().target.name

    @property
    def serving(self) -> bool:
        """Whether it is open and nothing is beyond help."""
        return self._open is not None and self._broken is None

    @property
    def broken(self) -> str | None:
        """What is beyond help, if anything is."""
        return self._broken

    def not_ready(self) -> list[str]:
        """Why it should get no traffic; empty if it should."""
        reasons = []
        if self._open is None:
            reasons.append("not open")
        elif not self._open.bridge.healthy:
            reasons.append("the agent blocks its thread")
        if self._draining:
            reasons.append("stopping")
        full = self._open is not None and self._store_full()
        if self._broken is not None:
            reasons.append("broken")
        elif full:
            reasons.append("storage full")
        return reasons

    def statistics(self) -> RuntimeStatistics:
        """The runtime in figures, now."""
        opened = self._opened_now()
        return RuntimeStatistics(opened.supervisor.statistics(), self.store.statistics(), opened.bridge.statistics())

    # -- HTTP

    def asgi(self, inner: Endpoint | None = None) -> Endpoint:
        """The ASGI callable: this runtime's routes before those of `inner`.

        Its lifespan opens and closes nothing; `init_app` and `serve` see to that.
        """
        return Dispatcher(self, self._routes, self.limits.max_body, inner)

    def init_app(self, app: QuartTrio) -> None:
        """Embed in a Quart-Trio app: the runtime opens before the app's own start-up and closes after its shutdown.

        There, the server stops accepting before the runtime hears of it, so that the drain of running HTTP turns is
        bounded by the server's own graceful timeout.
        """
        inner = cast("Endpoint", app.asgi_app)
        app.asgi_app = around(self, self.asgi(inner), inner)  # type: ignore[method-assign,assignment]

    async def serve(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        started: Callable[[str], None] | None = None,
        signals: bool = True,
    ) -> DrainReport:
        """Open, serve HTTP on hypercorn's trio worker until SIGINT or SIGTERM, drain, close; see `serve.serve`."""
        return await serve(self, host, port, started=started, signals=signals)


def run_ids() -> Iterator[str]:
    """Ids of runs, in order: when the runtime was opened, 24 random bits, a number. They are unique, not secret."""
    prefix = f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(3)}"
    return (f"run_{prefix}{number:07x}" for number in count())


def _is_cancellation(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return exc.subgroup(trio.Cancelled) is not None
    return isinstance(exc, trio.Cancelled)


def _deepest(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def _ask_to_terminate(_reason: str) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
