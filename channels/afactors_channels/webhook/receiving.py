"""The endpoint of what is sent to us: verified, made durable, and only then acknowledged."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from agent_framework import Message

from ..asgi import JSON, ClientGone, Headers, header, read_body, send_whole
from ..contract import ChannelContext, Receive, Scope, Send
from ..errors import HostError, NotAllowed, NotFound, Unprocessable
from ..requests import ChannelIdentity, ChannelRequest, ChannelSession, ResponseTarget
from ..wire import encode_json
from .endpoints import WebhookSource
from .events import named, read_event, text_of, wants_reply
from .signatures import Stamp, Unverified, read_stamp, verify

logger = logging.getLogger("afactors.webhook")

_MAX_CONVERSATION = 256


class Receiver:
    """Takes events from the sources that are configured.

    Args:
        channel: The channel's name.
        sources: By name.
        context: Whom they are handed to.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        channel: str,
        sources: Mapping[str, WebhookSource],
        context: ChannelContext,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._channel = channel
        self._sources = sources
        self._context = context
        self._clock = clock

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: 202 with the name of the run, once the event is durable."""
        try:
            token = await self._accept(scope, receive)
        except ClientGone:
            return
        except HostError as error:
            await _refuse(send, error)
        else:
            await send_whole(send, 202, encode_json({"id": token}))

    async def _accept(self, scope: Scope, receive: Receive) -> str:
        source = self._source(scope["path_params"]["source"])
        try:
            stamp = self._stamp(scope)  # before the body: whoever has no signature to show need not be listened to
            body = await read_body(receive)
            verify(source.keys, stamp, body)
        except Unverified as exc:
            logger.info("webhook source %r: refused: %s", source.name, exc)
            raise NotAllowed("The message could not be verified.", code="unverified") from None
        event = read_event(body)
        return await self._context.submit(self._request(source, stamp, event, body), protocol_request=event)

    def _source(self, name: str) -> WebhookSource:
        if name not in self._sources:
            raise NotFound("Nothing is received here.")
        return self._sources[name]

    def _stamp(self, scope: Scope) -> Stamp:
        names = (b"webhook-id", b"webhook-timestamp", b"webhook-signature")
        message_id, timestamp, signature = (header(scope, name) for name in names)
        return read_stamp(message_id, timestamp, signature, now=self._clock())

    def _request(self, source: WebhookSource, stamp: Stamp, event: Mapping[str, Any], body: bytes) -> ChannelRequest:
        # A slash is in no API key's name, so that no key of another channel has the same conversations.
        partition = f"{self._channel}/{source.name}"
        conversation = _conversation(source, event)
        replies = source.reply_to is not None and wants_reply(event)
        return ChannelRequest(
            channel=self._channel,
            input=[Message("user", [text_of(event, body)]).to_dict()],
            session=ChannelSession(_isolation_key(source, partition, event), conversation),
            partition=partition,
            identity=self._identity(source, conversation),
            attributes={"source": source.name, "webhook_id": stamp.message_id, "event": event},
            idempotency_key=f"webhook:{stamp.message_id}",
            fingerprint=hashlib.sha256(body).hexdigest(),
            redelivers=True,
            response_target=ResponseTarget.originating if replies else ResponseTarget.none,
        )

    def _identity(self, source: WebhookSource, conversation: str | None) -> ChannelIdentity | None:
        """Where replies go: an identity is an address, and a source without an endpoint has none."""
        if source.reply_to is None:
            return None
        return ChannelIdentity(self._channel, source.reply_to, conversation=conversation or "", verified=True)


def _conversation(source: WebhookSource, event: Mapping[str, Any]) -> str | None:
    """The conversation that an event names, if its name can stand in a key."""
    name = named(event, source.conversation)
    if name is not None and (len(name) > _MAX_CONVERSATION or not name.isprintable()):
        raise Unprocessable(
            f"'{source.conversation}' must be at most {_MAX_CONVERSATION} printable characters.", code="unroutable"
        )
    return name


def _isolation_key(source: WebhookSource, partition: str, event: Mapping[str, Any]) -> str | None:
    """The key of the actor that an event is for."""
    wanted = source.isolation_key
    if wanted is None or isinstance(wanted, str):
        return wanted
    try:
        name = wanted(event)
    except (LookupError, TypeError, ValueError, AttributeError) as exc:
        logger.info("webhook source %r: isolation_key refused an event (%s)", source.name, type(exc).__name__)
        raise _unroutable() from exc
    if not isinstance(name, str) or not name:
        raise _unroutable()
    return f"{partition}:{name}"


def _unroutable() -> Unprocessable:
    return Unprocessable("The event does not say whom it is for.", code="unroutable")


async def _refuse(send: Send, error: HostError) -> None:
    headers: Headers = JSON
    if error.retry_after is not None:
        headers = [*JSON, (b"retry-after", b"%d" % math.ceil(error.retry_after))]
    body = {"error": {"code": error.code, "message": error.message}}
    await send_whole(send, error.status, encode_json(body), headers)
