"""The way out of one channel: its deliveries, lane by lane, until each was taken or is dead.

The store gives the heads of lanes that are due, and counts each attempt before it is made; so attempts that a crash cut
off stay used up, and are marked as unsure. One outlet has one channel's lanes only: what another channel does is none
of its business.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import trio

from afactors_channels import (
    ChannelContribution,
    ChannelRequest,
    ChannelResponseContext,
    HostedRunResult,
    HostError,
    PushDeferred,
    PushRejected,
)
from afactors_channels.pushes import Push, Stop
from afactors_store import Dead, Delivered, Delivery, Postponed, Retry, Settlement, Store, TakeNext

from .breaker import Breaker, Pace, pause_after
from .hooks import hooked
from .outbox import Parcel, UnknownVersion, destination_of
from .room import once_there_is_room
from .steady import SteadyClock
from .stranded import expire_stranded

logger = logging.getLogger("afactors.deliveries")

_VISIBILITY = math.inf  # whoever makes an attempt ends it, or is gone: then `reclaim` gives it up at the next start
_IN_A_ROW = 16  # of one lane, before others have their turn
_LOOK = 60.0  # seconds; longest wait without looking again
_INSTANT = 0.001  # seconds; shortest wait: what is due at an instant is not due the last bit of a float before it
_ERROR_LENGTH = 200


@dataclass(frozen=True, slots=True)
class OutletStatistics:
    """One channel's deliveries in figures, since the start.

    Attributes:
        channel: Its name.
        in_flight: Attempts that run now.
        delivered: Deliveries that their destinations took.
        failed: Attempts that failed, and will be made again.
        dead: Deliveries that died, by reason.
        unsure: Attempts that repeated one of which nobody knows whether it arrived.
        paused_for: Seconds for which the channel is left alone; 0 if it is not.
    """

    channel: str
    in_flight: int
    delivered: int
    failed: int
    dead: Mapping[str, int]
    unsure: int
    paused_for: float


class Outlet:
    """The deliveries of one channel. Made by the runtime only."""

    def __init__(
        self,
        name: str,
        channel: ChannelContribution,
        store: Store,
        *,
        clock: SteadyClock,
        retention: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        assert channel.push is not None  # noqa: S101 - only channels that push have one
        self._name = name
        self._channel = channel
        self._push = channel.push
        self._policy = channel.push_policy
        self._store = store
        self._clock = clock
        self._retention = retention
        self._chance = chance
        self._breaker = Breaker(self._policy)
        self._news, self._idle = trio.Event(), trio.Event()
        self._running = 0
        self._draining = self._ready = False
        self._pace = Pace(self._policy.rate) if self._policy.rate is not None else None
        self.counts: Counter[str] = Counter()
        self._dead: Counter[str] = Counter()
        self._not_before: dict[str, float] = {}  # lanes whose head died of waiting, with when their destination is back

    def statistics(self) -> OutletStatistics:
        """The channel's deliveries in figures, now."""
        counts = self.counts
        return OutletStatistics(
            self._name,
            self._running,
            counts["delivered"],
            counts["failed"],
            dict(self._dead),
            counts["unsure"],
            self._breaker.shut_for(trio.current_time()),
        )

    def notice(self) -> None:
        """There is something new, or room again."""
        self._news.set()

    async def run(self) -> None:
        """Send what is due, until cancelled. What is under way then is looked for by the next process."""
        await self._readiness()
        self._ready = True
        try:
            async with trio.open_nursery() as attempts:
                await self._send_all(attempts)
        finally:  # with a store that broke, nobody is to wait for what is due
            self._ready = False
            self._idle.set()

    async def _readiness(self) -> None:
        if self._channel.push_ready is None:
            return
        async with trio.open_nursery() as meanwhile:
            meanwhile.start_soon(expire_stranded, self._store, self._name, self._died)
            await self._asked(self._channel.push_ready)
            meanwhile.cancel_scope.cancel(reason="the channel is ready")

    async def _asked(self, ready: Callable[[], Awaitable[None]]) -> None:
        for before in count():
            try:
                await ready()
            except Exception as exc:  # noqa: BLE001 - whatever a channel makes of an outage
                pause = pause_after(before, self._policy)
                logger.error("channel %s is not ready: %s; it is asked again in %.0f s", self._name, told(exc), pause)
                await trio.sleep(pause)
            else:
                break

    async def _send_all(self, attempts: trio.Nursery) -> None:
        while True:
            self._news = trio.Event()
            taken = await self._take()
            for delivery in taken:
                self._running += 1
                attempts.start_soon(self._lane, delivery)
            if not taken:
                await self._wait()

    async def drained(self) -> None:
        """Wait until nothing is due, or could be sent, and nothing is under way."""
        self._draining = True
        if self._ready:
            self._idle = trio.Event()
            self.notice()
            await self._idle.wait()

    async def _take(self) -> list[Delivery]:
        limit, now = self._policy.concurrency - self._running, trio.current_time()
        if self._pace is not None:
            limit = min(limit, self._pace.room(now))
        if self._breaker.trying:
            limit = min(limit, 1 - self._running)
        if limit <= 0 or self._breaker.shut_for(now):
            return []
        taken = await once_there_is_room(lambda: self._store.due(self._clock(), limit, _VISIBILITY, self._name))
        if self._pace is not None:
            self._pace.began(len(taken), trio.current_time())
        return taken

    async def _wait(self) -> None:
        """Until there is news, a pause is over, a head is due, or the rate allows another attempt."""
        due, now = await self._store.next_due(self._name), self._clock()
        seconds = self._breaker.shut_for(trio.current_time())
        if not self._running and (seconds or due is None or due > now):
            self._idle.set()
        if not seconds and self._pace is not None:
            seconds = self._pace.wait(trio.current_time())
        if not seconds:
            full = self._running >= (1 if self._breaker.trying else self._policy.concurrency)
            seconds = _LOOK if due is None or full else due - now
        with trio.move_on_after(min(_LOOK, max(_INSTANT, seconds))):
            await self._news.wait()

    async def _lane(self, delivery: Delivery | None) -> None:
        """One lane's head, and what follows it while that goes well."""
        try:
            for left in reversed(range(_IN_A_ROW)):
                if delivery is None:
                    break
                outcome = await self._attempt(delivery)
                more = left > 0 and isinstance(outcome, Delivered) and self._pace is None and not self._draining
                then = TakeNext(self._clock(), _VISIBILITY) if more else None
                settle = partial(self._store.settle, delivery, outcome, then)
                delivery = await once_there_is_room(settle, shield=True)  # what is known of it is not forgotten
        except trio.Cancelled:
            self.counts["cut off"] += 1
            raise
        finally:
            self._running -= 1
            self.notice()

    async def _attempt(self, delivery: Delivery) -> Settlement:
        """Send one delivery; what is to become of it."""
        self.counts["unsure"] += delivery.unsure
        try:
            parcel = Parcel.decode(delivery.body)
            if self._channel.push_codec is not None and parcel.payload is not None:
                self._channel.push_codec.check(parcel.payload)
        except Exception as exc:  # noqa: BLE001 - whatever a channel's codec makes of what it does not know
            logger.error("delivery %s cannot be read (%s) and is put aside", delivery.delivery_id, told(exc))
            return self._died("unknown_version", told(exc))
        if parcel.expires <= time.time():
            return self._died("expired", "")
        if delivery.unsure and _counted(delivery) > self._policy.retry.max_attempts:  # cut off at its last
            return self._died("attempts", "")
        if (until := self._not_before.pop(delivery.lane, 0.0)) > self._clock():
            self._not_before[delivery.lane] = until
            return Postponed(min(until, parcel.expires))
        sending = False
        try:
            with trio.fail_after(self._policy.timeout):
                push = await self._pushed(parcel, delivery)
                sending = True
                await self._push(push)
        except Exception as exc:  # noqa: BLE001 - whatever a channel makes of an outage
            return self._failed(parcel, delivery, exc, sending)
        self._breaker.went_well()
        self.counts["delivered"] += 1
        return Delivered()

    def _failed(self, parcel: Parcel, delivery: Delivery, exc: Exception, sending: bool) -> Settlement:
        age = time.time() - parcel.created
        asked = exc.retry_after if isinstance(exc, PushDeferred) else None
        attempt = _counted(delivery) if asked is None else delivery.attempt
        verdict = self._policy.retry.after(attempt, exc, age=age, chance=self._chance())
        if not sending:
            pass  # it says nothing of the channel
        elif isinstance(exc, (PushRejected, PushDeferred)):
            self._breaker.went_well()
        elif (pause := self._breaker.failed(destination_of(delivery.lane), trio.current_time())) is not None:
            logger.warning("channel %s keeps failing; its deliveries wait for %.0f s", self._name, pause)
        logger.info("delivery %s, attempt %d: %s", delivery.delivery_id, delivery.attempt, told(exc))
        if isinstance(verdict, Stop):
            if asked is not None:  # the rest of its lane heeds it
                self._not_before[delivery.lane] = self._clock() + min(asked, self._policy.retry.max_age)
            return self._died(verdict.reason, told(exc))
        self.counts["failed"] += 1
        return Retry(self._clock() + verdict.seconds, asked is not None)

    def _died(self, reason: str, error: str) -> Dead:
        self._dead[reason] += 1
        return died(self._name, self._retention, reason, error)

    async def _pushed(self, parcel: Parcel, delivery: Delivery) -> Push:
        """What the channel is handed: its own copy, as its response hook makes of it."""
        response: Any = parcel.response
        if self._channel.response_hook is not None:
            request = ChannelRequest(parcel.origin or self._name, ())
            context = ChannelResponseContext(
                request,
                self._name,
                destination_identity=parcel.identity,
                originating=parcel.origin == self._name,
                is_echo=parcel.kind == "echo",
            )
            result = HostedRunResult(response, delivery.key, None, parcel.run_id)
            hook = self._channel.response_hook
            shown = await hooked(hook, result, what="response", code="response_hook_failed", context=context)
            response = shown.result
        return Push(
            delivery.delivery_id,
            parcel.identity,
            parcel.kind,
            response,
            parcel.created,
            attempt=delivery.attempt,
            unsure=delivery.unsure,
            run_id=parcel.run_id,
            payload=parcel.payload,
        )


def _counted(delivery: Delivery) -> int:
    """Which attempt this is of those that are held against a delivery: not those that its destination deferred."""
    return delivery.attempt - delivery.deferred


def died(channel: str, retention: float, reason: str, error: str) -> Dead:
    """The end of a delivery, which the log is told of."""
    logger.error("channel %s: a delivery is dead: %s %s", channel, reason, error)
    now = time.time()
    return Dead(reason, error, died=now, expires_at=now + retention)


def told(exc: BaseException) -> str:
    """An error as it is kept: in a channel's own words, or by its type; texts of others may hold secrets."""
    if isinstance(exc, (PushRejected, PushDeferred, HostError, UnknownVersion)):
        return str(exc)[:_ERROR_LENGTH] or type(exc).__name__
    return type(exc).__name__
