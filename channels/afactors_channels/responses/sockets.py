"""WebSockets: responses one after the other over one connection, and a response's events followed over one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import trio

from ..contract import ChannelContext, Receive, Scope, Send
from ..errors import Conflicting, HostError
from .creating import Creation
from .exchange import Answer, Door, Exchange, in_our_words, is_last
from .fields import identifier
from .frames import CreateFrame, error_frame, event_frame, parse_frame
from .listing import parse_stream_query
from .parse import parse_create
from .reading import visible

_NORMAL = 1000
_RESTARTING = 1012


@dataclass(frozen=True, slots=True)
class Sockets:
    """The channel's WebSocket endpoints."""

    channel: str
    door: Door
    creation: Creation
    context: ChannelContext

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`/responses`: each message of the client's asks for a response, one at a time."""
        talk = _Talk(self._exchange(scope, receive, send), self.creation, send)
        await receive()  # websocket.connect
        await send({"type": "websocket.accept"})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk.end_with, self.context)
            while (message := await receive())["type"] == "websocket.receive":
                await talk.hear(message.get("text") or message.get("bytes") or b"", nursery)
            nursery.cancel_scope.cancel(reason="the client left")

    async def follow(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`/responses/{response_id}`: the events of a response, as `GET` with `stream` gives them."""
        exchange = self._exchange(scope, receive, send)
        token = str(identifier(scope["path_params"]["response_id"], "response_id"))
        query = parse_stream_query(exchange.query)
        try:
            await visible(exchange, token)
        except HostError as error:
            raise in_our_words(error) from None
        await receive()  # websocket.connect
        await send({"type": "websocket.accept"})
        async with trio.open_nursery() as nursery:

            async def tell() -> None:
                try:
                    following = self.context.subscribe(
                        token, after=query.starting_after, partition=exchange.caller.partition
                    )
                    async with following as batches:
                        async for rows in batches:
                            for row in rows:
                                await _say(send, event_frame(row))
                except HostError as error:
                    await _say(send, error_frame(in_our_words(error)))
                await send({"type": "websocket.close", "code": _NORMAL})
                nursery.cancel_scope.cancel()

            nursery.start_soon(tell)
            while (await receive())["type"] == "websocket.receive":
                pass
            nursery.cancel_scope.cancel(reason="the client left")

    def _exchange(self, scope: Scope, receive: Receive, send: Send) -> Exchange:
        return Exchange(scope, receive, Answer(send, b""), self.door.caller(scope), self.channel, self.context)


@dataclass(slots=True)
class _Talk:
    """The responses of one connection, one at a time."""

    exchange: Exchange
    creation: Creation
    send: Send
    under_way: CreateFrame | None = None
    _answering: int = 0
    _answered: trio.Event = field(default_factory=trio.Event)

    async def hear(self, data: str | bytes, nursery: trio.Nursery) -> None:
        """Have a message of the client's answered."""
        try:
            frame = parse_frame(data)
        except HostError as error:
            await _say(self.send, error_frame(error))
            return
        if self.under_way is not None:
            await _say(self.send, error_frame(_under_way(), frame.stream_id))
            return
        self.under_way = frame
        self._answering += 1
        nursery.start_soon(self._answer, frame)

    async def _answer(self, frame: CreateFrame) -> None:
        try:
            await self._respond(frame)
        except HostError as error:
            self._free(frame)
            await _say(self.send, error_frame(in_our_words(error), frame.stream_id))
        finally:
            self._free(frame)
            self._answering -= 1
            self._answered.set()
            self._answered = trio.Event()

    async def _respond(self, frame: CreateFrame) -> None:
        context = self.exchange.context
        request = self.creation.request(self.exchange, parse_create(frame.body), frame.body)
        async with context.turn(request, protocol_request=frame.body) as turn, aclosing(turn.rows()) as rows:
            await self._tell(rows, frame)

    async def _tell(self, batches: AsyncIterator[Sequence[bytes]], frame: CreateFrame) -> None:
        async for rows in batches:
            for row in rows:
                if is_last(row):
                    self._free(frame)
                await _say(self.send, event_frame(row, frame.stream_id))

    async def end_with(self, host: ChannelContext) -> None:
        """Close the connection when the host stops; what is under way is answered first."""
        await host.stopping()
        while self._answering:
            await self._answered.wait()
        await self.send({"type": "websocket.close", "code": _RESTARTING})

    def _free(self, frame: CreateFrame) -> None:
        """The next one may come; before the end of this one is sent, because whoever reads it may ask at once."""
        if self.under_way is frame:
            self.under_way = None


def _under_way() -> Conflicting:
    return Conflicting("Another response is under way on this connection.", code="response_under_way")


async def _say(send: Send, data: bytes) -> None:
    await send({"type": "websocket.send", "text": data.decode()})
