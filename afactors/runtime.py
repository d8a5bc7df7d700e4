"""The runtime: one target, many channels, an actor for each isolation key, one store."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast

import trio
from agent_framework import AgentResponse, CompactionStrategy, Message, apply_compaction

from afactors_channels import (
    Channel,
    ChannelRequest,
    ChannelSession,
    ContinuationToken,
    Endpoint,
    HostedRun,
    HostedRunResult,
    HostedSession,
    OverlapPolicy,
    Overloaded,
    Repeated,
    Route,
    SessionEdit,
    StorageFull,
)
from afactors_store import LmdbStore, Store, StoreBroken, StoreStatistics, StoreUnusable

from .asking import waiting_for
from .bridge import BridgeStatistics
from .checkpoints import type_names
from .continuations import failure_of
from .embedding import around
from .hosting import TargetSource
from .http import Dispatcher
from .limits import LimitOptions, Limits
from .opening import Life, Plan, opened
from .operations import ActorOperations
from .placing import place
from .reaching import IdentityResolver, Outreach
from .reception import AuthPolicy, Reception
from .reports import DrainReport
from .scheduling import Scheduling
from .serve import serve
from .sessions import messages_at, read_session
from .supervision import ActorsStatistics
from .turn import Turn, ancestry, stopping

if TYPE_CHECKING:
    from quart_trio import QuartTrio

logger = logging.getLogger("afactors.runtime")

DEFAULT_STATE_DIR = ".afactors"

T = TypeVar("T")

_NOWHERE = ChannelSession()


@dataclass(frozen=True, slots=True)
class RuntimeStatistics:
    """A runtime in figures."""

    actors: ActorsStatistics
    store: StoreStatistics
    bridge: BridgeStatistics


class Runtime(ActorOperations, Outreach, Scheduling):
    """Hosts one agent for many conversations.

    Use it as ``async with runtime``, embed it with `init_app`, or let `serve` do everything.

    Args:
        target: An agent, a workflow, a builder of one, or a factory of any of these (sync or async). Each session of a
            workflow has an instance of its own.
        channels: The protocols to speak; none is fine for a runtime without HTTP.
        store: Where state lives; `LmdbStore(".afactors")` by default.
        wait_lock: Seconds to wait for another process to give up the store.
        authorize: Decides about every request; see `AuthPolicy`.
        overlap: What becomes of a message to a busy session, where neither its channel nor the request says.
        checkpoint_types: Classes that a workflow's checkpoints may hold, beside the framework's own, common types and
            those that were given to its `register_checkpoint_type`; or their names (``module:Class``). Anything else is
            refused, when it is to be stored and when it is to be restored.
        identity_resolver: Whose actor an identity belongs to; see `IdentityResolver`.
        on_broken: Called once when the store or the target's thread is beyond help, with the reason; by default the
            process is asked to terminate (SIGTERM): serving without being able to remember is worse than being down.
        tune_gc: Whether the process's garbage collector is set to look for cycles less often while the runtime is open.
        control: Whether commands (``python -m afactors deliveries``) may reach it by a socket in the state folder, that
            only its owner can open.
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
        overlap: OverlapPolicy = "enqueue",
        checkpoint_types: Iterable[type | str] = (),
        identity_resolver: IdentityResolver | None = None,
        on_broken: Callable[[str], None] | None = None,
        tune_gc: bool = True,
        control: bool = True,
        **limits: Unpack[LimitOptions],
    ) -> None:
        self.limits = Limits.of(limits)
        self.store: Store = store if store is not None else LmdbStore(DEFAULT_STATE_DIR)
        self._on_broken = on_broken or _ask_to_terminate
        self._life: Life | None = None
        self._stack: AsyncExitStack | None = None
        self._broken: str | None = None
        self._report: DrainReport | None = None
        names = [channel.name for channel in channels]
        if len(set(names)) != len(names):
            raise ValueError(f"two channels have the same name: {sorted(names)}")
        contributions = {channel.name: channel.contribute(self) for channel in channels}
        self._plan = Plan(
            target,
            type_names(checkpoint_types),
            identity_resolver,
            self.store,
            wait_lock,
            contributions,
            authorize,
            overlap,
            tune_gc,
            self.limits,
            self._break,
            self,
            control,
            self,
        )

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
        self._broken, self._report = None, None
        async with opened(self._plan) as life, trio.open_nursery() as tasks:
            self._life = life
            tasks.start_soon(self._channels_live, over := trio.CancelScope(shield=True))
            try:
                yield
            finally:
                try:
                    with trio.CancelScope(shield=True):
                        await self.drain()
                finally:
                    self._life = None
                    over.cancel(reason="the runtime stops")

    async def _channels_live(self, until: trio.CancelScope) -> None:
        """Run the channels' tasks. No other cancellation reaches them: a drain sends by what they hold."""
        with until:
            async with trio.open_nursery() as tasks:
                for contribution in self._plan.channels.values():
                    if contribution.task is not None:
                        tasks.start_soon(contribution.task)

    def _break(self, reason: str) -> None:
        if self._broken is None:
            self._broken = reason
            logger.critical("%s; the process should stop", reason)
            self._on_broken(reason)

    async def drain(self) -> DrainReport:
        """Take no more work, let running turns finish, and cancel what still runs at the deadline.

        Safe to call early (before an HTTP server is stopped) and again; the second call returns the same report.
        """
        if self._report is None:
            self._report = await self._opened_now().drain()
        return self._report

    async def stopping(self) -> None:
        """Wait until the runtime is drained: whoever holds a connection open that is idle should close it."""
        await self._opened_now().supervisor.stopping.wait()

    def hurry(self) -> None:
        """Shorten a drain that is under way: what still runs is cancelled now."""
        if self._life is not None:
            self._life.hurry()

    @property
    def _draining(self) -> bool:
        return self._life is not None and self._life.supervisor.draining

    def _store_full(self) -> bool:
        try:
            return self.store.full
        except StoreBroken as exc:
            self._break(f"the store failed: {exc}")
            return True
        except StoreUnusable:  # it is closed already, and the runtime about to be
            return True

    # -- turns

    async def ask(
        self, request: ChannelRequest, *, protocol_request: Any = None
    ) -> HostedRunResult[AgentResponse[Any]]:
        """Run one turn and wait for its commit.

        A caller that is cancelled cancels the turn, unless the request says `on_disconnect="finish"`. The target's own
        code (a tool) may call this too, for another session than its own. A repeat of an earlier request, by its
        idempotency key, gets the first one's result.

        Raises:
            BadRequest: The request is at fault; a subclass says how.
            NotAllowed: The policy refused it.
            Overloaded: Mailbox full, too many actors, or the runtime is stopping.
            StorageFull: There is no room for new work.
            TargetFailed: The turn ended without a result; its record says why and keeps the input.
        """
        return await self._in_trio(self._ask, request, protocol_request)

    async def _ask(self, request: ChannelRequest, protocol_request: Any) -> HostedRunResult[AgentResponse[Any]]:
        inside = ancestry.get()
        try:
            async with (
                self.turn(request, protocol_request=protocol_request) as turn,
                inside[-1].standing_aside(turn) if inside else nullcontext(),
            ):
                return await turn.outcome()
        except Repeated as repeated:
            run = await self.get_continuation(repeated.token, wait=True)
            if run.result is None:
                raise failure_of(run) from None
            return HostedRunResult(run.result, run.isolation_key, run.session_id, run.run_id)

    def stream(self, request: ChannelRequest) -> AbstractAsyncContextManager[Turn]:
        """`turn`, of a request that streams."""
        return self.turn(request.replace(stream=True))

    @asynccontextmanager
    async def turn(self, request: ChannelRequest, *, protocol_request: Any = None) -> AsyncIterator[Turn]:
        """Run one turn and follow it; one that streams, batch of updates by batch of updates.

        Leaving the block early cancels the turn, unless the request says `on_disconnect="finish"`. Entering it raises
        what `ask` raises before the turn begins; iterating raises the rest.

        Raises:
            Repeated: The request repeats an earlier one, by its idempotency key.
        """
        turn = await self._accept(request, protocol_request)
        try:
            yield turn
        finally:
            turn.leave()

    async def submit(self, request: ChannelRequest, *, protocol_request: Any = None) -> ContinuationToken:
        """Accept a request as a durable letter; it runs when its turn comes, in this process or the next.

        The target's own code (a tool) may call this, too: then the letter goes with its turn's commit, and not at all
        if that turn fails.

        Returns:
            The name of its run (the request's own name, if it has one); a repeat gets the first one's.

        Raises:
            HostError: What `ask` raises before a turn begins.
        """
        return await self._in_trio(self._submit, request, protocol_request)

    async def _submit(self, request: ChannelRequest, protocol_request: Any) -> ContinuationToken:
        inside = ancestry.get()
        try:
            reception = self._receiving()
            turn = await reception.prepare(request, protocol_request, attended=False)
            if inside and inside[-1].state == "running":
                inside[-1].outgoing.append(turn)
            else:
                await (await reception.deliver(turn)).acceptance()
        except Repeated as repeated:
            return repeated.token
        return ContinuationToken(turn.token or "")

    async def _in_trio(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Make a call where the runtime lives, also from the target's own thread."""
        bridge = self._opened_now().bridge
        return await (bridge.call_trio(call, *args) if bridge.inside else call(*args))

    async def _accept(
        self, request: ChannelRequest, protocol_request: Any = None, *, edit: SessionEdit | None = None
    ) -> Turn:
        """Put a request into its actor's mailbox, or refuse it."""
        reception = self._receiving()
        return await reception.deliver(await reception.prepare(request, protocol_request, edit=edit))

    def _receiving(self) -> Reception:
        """The door, if it is open."""
        opened = self._opened_now()
        self._check_open()
        return opened.reception

    def _check_open(self) -> None:
        if self._draining:
            raise stopping()
        full = self._store_full()
        if self._broken is not None:
            raise Overloaded("The server is not serving.", code="unavailable", status=503, retry_after=5.0)
        if full:
            raise StorageFull("The server has no room to store new turns.")

    # -- runs by name

    async def get_continuation(self, token: str, *, partition: str | None = None, wait: bool = False) -> HostedRun:
        """A run as it stands; with `wait`, once it has ended.

        Args:
            token: What `submit` returned, or the request's own name.
            partition: Only if it belongs to this partition; None for any.
            wait: Whether to wait for its end.

        Raises:
            NotFound: There is no such run. Its code is ``result_expired`` if there was one, and it completed.
            Overloaded: It was to be waited for, and goes on in the next process.
        """
        return await self._opened_now().continuations.get(token, partition, wait=wait)

    async def get_input(self, token: str, *, partition: str | None = None) -> Sequence[Mapping[str, Any]]:
        """The messages that a run was given, serialized: also of one that failed, to be run again.

        By any of its names these are all messages that became this one run, in order.
        """
        return await self._opened_now().continuations.input(token, partition)

    async def cancel(self, token: str, *, partition: str | None = None) -> HostedRun:
        """Cancel a run wherever it is; returns it as it ended. One that has ended stays as it is.

        Any of its names cancels all of it, whichever of its messages that was the name of.
        """
        return await self._opened_now().continuations.cancel(token, partition)

    async def forget(self, token: str, *, partition: str | None = None) -> None:
        """Remove a run's record, transcript and point; cancels it first if it has not ended.

        Other names that it has lead to no result any more, but to a point until they are forgotten, too.
        """
        await self._opened_now().continuations.forget(token, partition)

    def subscribe(
        self, token: str, *, after: int | None = None, partition: str | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[bytes]]]:
        """Follow a run's transcript, as its channel writes it: rows numbered above `after` (None: all), then live ones.

        A row is given only once it is durable; a slow reader holds nobody up.

        Raises:
            NotFound: There is no such run, or its transcript is gone.
            Restarted: While iterating: the run began again, and nothing that follows belongs to what came before.
            Conflicting: While iterating: `transcript_too_long`.
        """
        return self._opened_now().continuations.subscribe(token, after, partition)

    # -- sessions by name

    async def get_session(self, request: ChannelRequest) -> HostedSession:
        """The session that a request names.

        Raises:
            NotFound: There is none.
        """
        await self._opened_now().reception.authorize(request)
        key, start = await place(self.store, request.replace(session_mode="auto"), "")
        assert start is not None  # noqa: S101 - sessions are not disabled
        return await self._session(key, start.session_id)

    async def compact(self, request: ChannelRequest, strategy: CompactionStrategy) -> Sequence[Message]:
        """What a request would tell the target, history first, as a strategy of the framework's shortens it.

        Raises:
            NotFound: It continues from something that is not there.
        """
        await self._receiving().authorize(request)
        told: Sequence[Mapping[str, Any]] = ()
        if request.session != _NOWHERE:
            key, start = await place(self.store, request, "")
            told = await messages_at(self.store, key, start) if start is not None else ()
        messages = [Message.from_dict(dict(message)) for message in [*told, *request.input]]
        compacted: list[Message] = await self._opened_now().bridge.run(apply_compaction, messages, strategy=strategy)
        return compacted

    async def edit_session(self, request: ChannelRequest, edit: SessionEdit) -> HostedSession:
        """Change the session that a request names; returns it as it is then. It waits in line like a turn.

        Raises:
            NotFound: There is no such session, or no such message in it.
            Conflicting: It is to be created, and exists.
        """
        turn = await self._accept(request.replace(overlap="enqueue", session_mode="auto"), edit=edit)
        await turn.outcome()
        if edit.delete:
            return HostedSession(turn.session_id or "", 0.0)
        return await self._session(turn.key, turn.session_id or "")

    async def _session(self, key: str, session_id: str) -> HostedSession:
        target = self._opened_now().target
        waiting = await waiting_for(self.store, key, session_id, target, self.limits.question_timeout)
        return replace(await read_session(self.store, key, session_id), questions=waiting)

    def _opened_now(self) -> Life:
        if self._life is None:
            raise RuntimeError("this runtime is not open; use it inside `async with runtime`")
        return self._life

    # -- what others ask

    @property
    def target_name(self) -> str:
        """The hosted agent's name."""
        return self._opened_now().target.name

    @property
    def serving(self) -> bool:
        """Whether it is open and nothing is beyond help."""
        return self._life is not None and self._broken is None

    @property
    def broken(self) -> str | None:
        """What is beyond help, if anything is."""
        return self._broken

    def not_ready(self) -> list[str]:
        """Why it should get no traffic; empty if it should."""
        reasons = []
        if self._life is None:
            reasons.append("not open")
        elif not self._life.bridge.healthy:
            reasons.append("the agent blocks its thread")
        if self._draining:
            reasons.append("stopping")
        full = self._life is not None and self._store_full()
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
        return Dispatcher(self, self._routes(), self.limits.max_body, inner)

    def _routes(self) -> list[Route]:
        return [route for contribution in self._plan.channels.values() for route in contribution.routes]

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


def _is_cancellation(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return exc.subgroup(trio.Cancelled) is not None
    return isinstance(exc, trio.Cancelled)


def _ask_to_terminate(_reason: str) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
