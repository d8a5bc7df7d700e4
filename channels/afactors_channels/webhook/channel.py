"""The webhook channel: its options, and what it adds to the host."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence

from ..contract import ChannelContext, ChannelContribution, Route
from ..outcomes import ChannelResponseHook, ChannelRunHook
from ..pushes import PushPolicy, RetryPolicy
from ..requests import OverlapPolicy
from .delivering import Deliverer
from .endpoints import WebhookEndpoint, WebhookSource, by_name
from .receiving import Receiver

PUSH_POLICY = PushPolicy(
    retry=RetryPolicy(first=5.0, factor=3.0, longest=8 * 3600.0, max_attempts=30, max_age=3 * 86_400.0),
    timeout=20.0,
    # Endpoints are strangers to each other: two that are down say nothing of the third, which must not wait for them.
    breaker=1_000_000,
)
"""How webhooks are delivered unless the channel is told otherwise: 17 attempts or so, over three days."""

_PATH = re.compile(r"(/[A-Za-z0-9_.~-]+)+")


class WebhookChannel:
    """Signed webhooks, by Standard Webhooks 1.0, out and in.

    Out: deliveries are POSTed to `endpoints` as signed JSON events (`afactors_channels.webhook.events` has the shape).
    A delivery's `webhook-id` is the same on every attempt, and so is its body, if a response hook makes the same of the
    same. 2xx is success. 410 disables the endpoint: what is sent to it goes to the dead letters, until `enable` or the
    next start, which forgets it. Any other answer, also a redirect, is a failure, and so is none: it is tried again by
    the push policy, no sooner than `Retry-After` says, unless it would expire before: then it is tried once more.

    In: what `sources` POST to ``{path}/{source}`` is verified, stored, and then answered with 202 and the run's name.
    A repeat, by its `webhook-id`, is answered as the first one was; the same id with another body is refused (422).
    Errors are ``{"error": {"code", "message"}}``.

    Args:
        endpoints: To whom events are sent. An endpoint's name is the native id of its identity.
        sources: Who may send events.
        name: Unique among the runtime's channels.
        path: Where sources send to.
        push_policy: How endpoints are sent to.
        run_hook: Rewrites or refuses requests; see `ChannelRunHook`. Its `protocol_request` is the event.
        response_hook: Rewrites what is sent; see `ChannelResponseHook`.
        overlap: What to do with an event for a conversation that is busy; None leaves it to the runtime.
        tls: Whose certificates endpoints may have; None for the usual authorities.

    Raises:
        ValueError: One of these is not as it should be.
    """

    def __init__(
        self,
        endpoints: Sequence[WebhookEndpoint] = (),
        sources: Sequence[WebhookSource] = (),
        *,
        name: str = "webhook",
        path: str = "/webhooks",
        push_policy: PushPolicy = PUSH_POLICY,
        run_hook: ChannelRunHook | None = None,
        response_hook: ChannelResponseHook | None = None,
        overlap: OverlapPolicy | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if not _PATH.fullmatch(path):
            raise ValueError(f"path begins with a slash and ends with none: {path!r}")
        self._name = name
        self._path = path
        self._endpoints: dict[str, WebhookEndpoint] = by_name("endpoints", endpoints)
        self._sources: dict[str, WebhookSource] = by_name("sources", sources)
        self._check_replies()
        self._policy = push_policy
        self._deliverer = Deliverer(self._endpoints, push_policy, tls=tls)
        self._run_hook = run_hook
        self._response_hook = response_hook
        self._overlap: OverlapPolicy | None = overlap

    def _check_replies(self) -> None:
        for source in self._sources.values():
            if source.reply_to is not None and source.reply_to not in self._endpoints:
                raise ValueError(f"source {source.name!r}: reply_to is the name of no endpoint: {source.reply_to!r}")

    def __repr__(self) -> str:
        return f"WebhookChannel(endpoints={[*self._endpoints]}, sources={[*self._sources]}, name={self._name!r})"

    @property
    def name(self) -> str:
        """Unique among the runtime's channels."""
        return self._name

    @property
    def disabled(self) -> frozenset[str]:
        """Names of the endpoints that answered 410 since the start, and were not enabled again."""
        return self._deliverer.disabled

    def enable(self, name: str) -> None:
        """Send to an endpoint again that was disabled. What went to the dead letters stays there until it is replayed.

        Raises:
            KeyError: There is no endpoint of this name.
        """
        self._deliverer.enable(name)

    def contribute(self, context: ChannelContext) -> ChannelContribution:
        """The way in, the way out, and the hooks."""
        receiver = Receiver(self._name, self._sources, context)
        return ChannelContribution(
            [Route("POST", f"{self._path}/{{source}}", receiver.serve)] if self._sources else [],
            task=self._deliverer.run,
            run_hook=self._run_hook,
            response_hook=self._response_hook,
            overlap=self._overlap,
            push=self._deliverer.push,
            push_policy=self._policy,
            push_ready=self._deliverer.ready,
            replies_by_push=True,
        )
