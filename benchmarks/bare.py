"""The comparison: what quart-trio on hypercorn's trio worker, as both come, does with routes that do nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response, jsonify, request
from quart_trio import QuartTrio

from .agents import WORDS


def make_app(*, chunks: int, spacing: float) -> QuartTrio:
    """An app with the paths that the load generator calls: it reads the request and answers a constant."""
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

    @app.get("/healthz")
    async def health() -> str:
        return "ok"

    return app


async def serve_bare(*, chunks: int, spacing: float, started: Callable[[str], None], stop: trio.Event) -> None:
    """Serve on a free port with hypercorn's defaults; only its log is quieter.

    Args:
        chunks: Events of a stream.
        spacing: Seconds before each of them.
        started: Called with the base URL once requests are served.
        stop: Ends the serving.
    """
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.loglevel = "WARNING"
    app = make_app(chunks=chunks, spacing=spacing)
    async with trio.open_nursery() as nursery:
        urls = await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
        started(urls[0])
