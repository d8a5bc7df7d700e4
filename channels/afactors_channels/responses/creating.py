"""`POST /responses`: in one piece, as a stream, or in the background."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from ..asgi import ClientGone, disconnected, header, until_disconnect
from ..errors import TargetFailed
from ..outcomes import HostedRun, Repeated
from ..requests import ChannelIdentity, ChannelRequest, ChannelSession, OnDisconnect, SessionMode
from .exchange import Exchange
from .ids import RANDOM_BYTES, new_response_id
from .parse import CreateRequest, fingerprint, idempotency_key, parse_create
from .presentation import presentation
from .render import render_run


@dataclass(frozen=True, slots=True)
class Creation:
    """How responses are created on this channel.

    Attributes:
        session_mode: What to do about sessions.
        on_disconnect: What a client that leaves does to its turn.
    """

    session_mode: SessionMode
    on_disconnect: OnDisconnect

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request."""
        body = await exchange.body()
        create = parse_create(body)
        request = self.request(exchange, create, body)
        try:
            if create.background:
                await self._submit(exchange, request, body)
            elif create.stream:
                await self._stream(exchange, request, body)
            else:
                await self._ask(exchange, request, body)
        except Repeated as repeated:
            await self._repeat(exchange, repeated.token, stream=create.stream)

    def request(self, exchange: Exchange, create: CreateRequest, body: Mapping[str, Any]) -> ChannelRequest:
        """What the runtime is asked."""
        caller = exchange.caller
        native_id = create.safety_identifier or create.user
        # Who is not known by a key of their own could be given somebody else's answer; and a connection's headers are
        # about all of its requests.
        repeatable = caller.known and exchange.scope["type"] == "http"
        key = idempotency_key(header(exchange.scope, b"idempotency-key")) if repeatable else None
        return ChannelRequest(
            channel=exchange.channel,
            input=create.input,
            session=ChannelSession(session_id=create.conversation_id, after=create.previous_response_id),
            session_mode=self.session_mode,
            partition=caller.partition,
            identity=ChannelIdentity(exchange.channel, native_id) if native_id else None,
            options=create.options,
            tools=create.tools,
            metadata=create.metadata,
            attributes={**create.unknown, "include": create.include, "stream_options": create.stream_options},
            name=new_response_id(secrets.token_bytes(RANDOM_BYTES)),
            retrievable=create.store,
            stream=create.stream,
            on_disconnect=self.on_disconnect,
            idempotency_key=key,
            fingerprint=fingerprint(body) if key is not None else "",
            isolation=caller.isolation,
            presentation=presentation(create, model=exchange.context.target_name),
            response_target=create.response_target,
        )

    async def _ask(self, exchange: Exchange, request: ChannelRequest, body: Mapping[str, Any]) -> None:
        async with exchange.context.turn(request, protocol_request=body) as turn:
            with trio.CancelScope() as waiting:
                turn.on_end(waiting.cancel)
                await disconnected(exchange.receive)
            if not turn.ended:
                raise ClientGone
            run = turn.run
        await exchange.answer.json(render_run(run, run.token))

    async def _stream(self, exchange: Exchange, request: ChannelRequest, body: Mapping[str, Any]) -> None:
        asking = exchange.context.turn(request, protocol_request=body)
        async with until_disconnect(exchange.receive), asking as turn, aclosing(turn.rows()) as rows:
            await exchange.answer.tell(rows)

    async def _submit(self, exchange: Exchange, request: ChannelRequest, body: Mapping[str, Any]) -> None:
        token = await exchange.context.submit(request, protocol_request=body)
        run = await exchange.context.get_continuation(token, partition=request.partition)
        if request.stream:
            await follow(exchange, run)
        else:
            await exchange.answer.json(render_run(run, token))

    async def _repeat(self, exchange: Exchange, token: str, *, stream: bool) -> None:
        """Answer as the first one was, or will be."""
        look = partial(exchange.context.get_continuation, token, partition=exchange.caller.partition)
        if stream:
            await follow(exchange, await look())
            return
        async with until_disconnect(exchange.receive):
            await exchange.answer.json(_completed(await look(wait=True)))


def _completed(run: HostedRun) -> dict[str, Any]:
    if run.error is not None:
        code, message = run.error
        raise TargetFailed(message, code=code)
    return render_run(run, run.token)


async def follow(exchange: Exchange, run: HostedRun, after: int | None = None) -> None:
    """Send a run's events from one of them on, until its end or the client's."""
    context, answer, partition = exchange.context, exchange.answer, exchange.caller.partition
    async with until_disconnect(exchange.receive):
        async with context.subscribe(run.token, after=after, partition=partition) as batches:
            if run.ended is None:
                await answer.begin()
            over = await answer.tell(batches, after)
        if over is None and (await context.get_continuation(run.token, partition=partition)).ended is not None:
            await answer.events((), last=True)  # the client has heard all of it before
        elif not over:
            await answer.cut()
