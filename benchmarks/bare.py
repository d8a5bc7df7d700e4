"""The comparisons: quart-trio on hypercorn's trio worker, as both come, with routes that do next to nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import msgspec
import trio
from agent_framework import Agent
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response, jsonify, request
from quart_trio import QuartTrio

from .agents import WORDS


def make_bare_app(*, chunks: int, spacing: float) -> QuartTrio:
    """An app with the paths that the load generator calls: it reads the request and answers a constant.

    Args:
        chunks: Events of a stream.
        spacing: Seconds before each of them.
    """
    app = QuartTrio(__name__)

    @app.post("/v1/responses")
    async def answer() -> Response:
        body = await request.get_json()
        if body.get("stream"):
            return Response(events(), content_type="text/event-stream; charset=utf-8")
        return jsonify(status="completed", text=WORDS)

    async def events() -> AsyncIterator[bytes]:
        for number in range(chunks):
            if spacing:
                await trio.sleep(spacing)
            yield b'event: delta\ndata: {"type": "delta", "number": %d, "delta": "word "}\n\n' % number

    return _with_health(app)


def make_agent_app(agent: Agent[Any]) -> QuartTrio:
    """An app that streams an agent's updates as they come: no session, no store, none of the protocol but the text."""
    app = QuartTrio(__name__)

    @app.post("/v1/responses")
    async def answer() -> Response:
        body = await request.get_json()
        return Response(events(body["input"]), content_type="text/event-stream; charset=utf-8")

    async def events(words: str) -> AsyncIterator[bytes]:
        async for update in agent.run(words, stream=True):
            if update.text:
                event = {"type": "response.output_text.delta", "delta": update.text}
                yield b"event: response.output_text.delta\ndata: %b\n\n" % msgspec.json.encode(event)
        yield b"data: [DONE]\n\n"

    return _with_health(app)


def _with_health(app: QuartTrio) -> QuartTrio:
    @app.get("/healthz")
    async def health() -> str:
        return "ok"

    return app


async def serve_app(app: QuartTrio, started: Callable[[str], None], stop: trio.Event) -> None:
    """Serve on a free port with hypercorn's defaults; only its log is quieter.

    Args:
        app: What to serve.
        started: Called with the base URL once requests are served.
        stop: Ends the serving.
    """
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.loglevel = "WARNING"
    async with trio.open_nursery() as nursery:
        urls = await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
        started(urls[0])
