"""Sends deliveries, and says what came of them."""

from __future__ import annotations

import logging
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version

import httpcore
import httpx
import trio

from ..errors import PushDeferred, PushRejected
from ..pushes import Push, PushPolicy, Wait
from .connecting import AddressRefused, GuardedBackend
from .endpoints import WebhookEndpoint
from .events import encode_event, event_type
from .signatures import sign
from .verdicts import Verdict, verdict_on

logger = logging.getLogger("afactors.webhook")

MAX_ANSWER = 64 * 1024
"""Bytes of an answer's body that are read, so that its connection can be used again. Nothing is made of them."""

_SKIM_SECONDS = 1.0
_CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 15.0
_FAILURES = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, AddressRefused)


class DeliveryFailed(Exception):
    """An attempt that came to nothing. Its text has the endpoint's name; never its URL, a header or a secret."""


class Deliverer:
    """Sends deliveries to the endpoints that are configured.

    Args:
        endpoints: By name.
        policy: Its `timeout` bounds an attempt, its `retry` is the least that is waited.
        tls: Whom to trust; None for the usual authorities.
        clock: Seconds since the epoch.
        chance: 0 ≤ chance < 1, for the jitter.
    """

    def __init__(
        self,
        endpoints: Mapping[str, WebhookEndpoint],
        policy: PushPolicy,
        *,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._endpoints = endpoints
        self._policy = policy
        self._tls = tls
        self._clock = clock
        self._chance = chance
        self._gone: set[str] = set()
        self._pools: dict[bool, httpcore.AsyncConnectionPool] = {}
        self._opened = trio.Event()

    async def run(self) -> None:
        """Hold the connections for as long as the host runs."""
        # A connection that one endpoint may have made to a private address must not serve one that may not.
        tls = self._tls or httpx.create_ssl_context()
        async with self._pool(tls, allow_private=False) as public, self._pool(tls, allow_private=True) as private:
            self._pools = {False: public, True: private}
            self._opened.set()
            try:
                await trio.sleep_forever()
            finally:
                self._pools, self._opened = {}, trio.Event()

    def _pool(self, tls: ssl.SSLContext, *, allow_private: bool) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=self._policy.concurrency,
            keepalive_expiry=_IDLE_SECONDS,
            network_backend=GuardedBackend(allow_private=allow_private),
        )

    async def ready(self) -> None:
        """Wait until there are connections to be had."""
        await self._opened.wait()

    @property
    def disabled(self) -> frozenset[str]:
        """Names of the endpoints that said that they want nothing any more."""
        return frozenset(self._gone)

    def enable(self, name: str) -> None:
        """Send to an endpoint again.

        Raises:
            KeyError: There is none of this name.
        """
        if name not in self._endpoints:
            raise KeyError(name)
        self._gone.discard(name)

    async def push(self, push: Push) -> None:
        """Send one delivery; see `ChannelPush`.

        Raises:
            PushRejected: There is no such endpoint, or it wants nothing any more.
            PushDeferred: It asked for time.
            DeliveryFailed: Anything else that kept it from being taken.
        """
        endpoint = self._endpoint(push.identity.native_id)
        if endpoint.takes(event_type(push.kind)):
            self._conclude(endpoint, push, await self._attempt(endpoint, push.delivery_id, _body(push)))

    def _endpoint(self, name: str) -> WebhookEndpoint:
        if name not in self._endpoints:
            raise PushRejected("unknown_endpoint")
        if name in self._gone:
            raise PushRejected("endpoint_gone")
        return self._endpoints[name]

    def _conclude(self, endpoint: WebhookEndpoint, push: Push, verdict: Verdict) -> None:
        if verdict.outcome == "delivered":
            return
        if verdict.outcome == "gone":
            self._gone.add(endpoint.name)
            logger.warning("webhook endpoint %r is gone (410): nothing more is sent to it", endpoint.name)
            raise PushRejected("endpoint_gone")
        answered = f"endpoint {endpoint.name!r} answered {verdict.status}"
        if verdict.wait is None:
            raise DeliveryFailed(answered)
        raise PushDeferred(answered, retry_after=self._patience(push, verdict.wait))

    def _patience(self, push: Push, asked: float) -> float:
        """How long to wait, where an endpoint says how long at least.

        Never less than it would be otherwise: a receiver in trouble that says "in a second" every time would use up
        all attempts within the minute. No longer than until a last try before the delivery expires: who says "in a
        year" may not mean it.
        """
        retry = self._policy.retry
        ours = retry.after(push.attempt, DeliveryFailed(), age=0.0, chance=self._chance())
        last = push.created + retry.max_age - self._policy.timeout - self._clock()
        return max(min(asked, last), ours.seconds if isinstance(ours, Wait) else 0.0)

    async def _attempt(self, endpoint: WebhookEndpoint, message_id: str, body: bytes) -> Verdict:
        """What an endpoint says to a message. Its word counts, whatever happens to the rest of its answer."""
        verdict: Verdict | None = None
        failure = "no answer in time"
        try:
            with trio.move_on_after(self._policy.timeout):
                request = self._request(endpoint, message_id, body)
                response = await self._pools[endpoint.allow_private].handle_async_request(request)
                verdict = verdict_on(response.status, _header(response.headers, b"retry-after"), now=self._clock())
                await _skim(response)
        except _FAILURES as exc:
            failure = _what_failed(exc)
        if verdict is None:
            raise DeliveryFailed(f"endpoint {endpoint.name!r}: {failure}")
        return verdict

    def _request(self, endpoint: WebhookEndpoint, message_id: str, body: bytes) -> httpcore.Request:
        url = httpx.URL(endpoint.url)
        return httpcore.Request(
            "POST",
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=[(b"host", url.netloc), *self._headers(endpoint, message_id, body)],
            content=body,
            extensions={"timeout": self._timeouts()},
        )

    def _timeouts(self) -> dict[str, float]:
        timeout = self._policy.timeout
        return {"connect": min(_CONNECT_SECONDS, timeout), "read": timeout, "write": timeout, "pool": timeout}

    def _headers(self, endpoint: WebhookEndpoint, message_id: str, body: bytes) -> Iterator[tuple[bytes, bytes]]:
        timestamp = str(int(self._clock()))
        yield b"content-type", b"application/json"
        yield b"content-length", b"%d" % len(body)
        yield b"webhook-id", message_id.encode()
        yield b"webhook-timestamp", timestamp.encode()
        yield b"webhook-signature", sign(endpoint.keys, message_id, timestamp, body).encode()
        yield from ((name.encode(), value.encode()) for name, value in endpoint.headers.items())
        if "user-agent" not in {name.lower() for name in endpoint.headers}:
            yield b"user-agent", _user_agent()


@cache
def _user_agent() -> bytes:
    return f"afactors/{version('afactors')}".encode()


def _body(push: Push) -> bytes:
    try:
        return encode_event(push)
    except TypeError:
        raise PushRejected("not_json") from None


def _header(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in headers if key.lower() == name), None)


async def _skim(response: httpcore.Response) -> None:
    """Read a short body to its end; of a longer one, or a slow one, close the connection instead."""
    size = 0
    try:
        with trio.move_on_after(_SKIM_SECONDS) as scope:
            async for chunk in response.aiter_stream():
                size += len(chunk)
                if size > MAX_ANSWER:
                    scope.cancel()  # to leave the loop would leave the library's inner generators to the collector
    finally:
        await response.aclose()


def _what_failed(exc: Exception) -> str:
    """A failure in words of ours: the library's may quote what was received."""
    if isinstance(exc, AddressRefused):
        return "its host has an address that is not public"
    if isinstance(exc, httpcore.TimeoutException):
        return "no answer in time"
    if isinstance(exc, httpcore.ProtocolError):
        return "no answer that is HTTP"
    if (tls := _tls_failure(exc)) is not None:
        return f"TLS failed: {tls}"
    return "no connection" if isinstance(exc, httpcore.ConnectError) else "the connection broke"


def _tls_failure(exc: BaseException) -> str | None:
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message
        if isinstance(cause, ssl.SSLError):
            return cause.reason or "unknown"
        cause = cause.__cause__ or cause.__context__
    return None
