"""An agent inside a Quart-Trio app that has routes and a life of its own.

    hypercorn -k trio -b 127.0.0.1:8000 --graceful-timeout 10 examples/embed_quart.py:app
    python examples/embed_quart.py [PORT]        (the same, from Python; STATE_DIR names the state folder)

    curl -s http://127.0.0.1:8000/hello/ada -d 'My name is Ada.'
    curl -s http://127.0.0.1:8000/hello/ada -d 'What is my name?'
    curl -s http://127.0.0.1:8000/visitors

An OpenAI SDK talks to the same agent at http://127.0.0.1:8000/v1.
"""

import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import trio
from agent_framework import Message
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import request
from quart_trio import QuartTrio

from afactors import ChannelRequest, ChannelSession, Runtime
from afactors.demo import create_agent
from afactors_channels import HostError, ResponsesChannel
from afactors_store import LmdbStore

STATE = Path(os.environ.get("STATE_DIR", ".afactors"))

app = QuartTrio(__name__)
runtime = Runtime(create_agent, channels=[ResponsesChannel()], store=LmdbStore(STATE), drain_timeout=10.0)
runtime.init_app(app)  # /v1/responses, /healthz and /readyz; every other path stays the app's


@app.while_serving
async def guest_book() -> AsyncGenerator[None, None]:
    """The app's own resource, held while it serves. The runtime is open before it, and closed after it."""
    with (STATE / "visitors").open("a+") as book:
        app.extensions["guest_book"] = book
        yield


@app.post("/hello/<visitor>")
async def hello(visitor: str) -> str:
    """A turn from a route of the app's own: one conversation for each visitor."""
    print(visitor, file=app.extensions["guest_book"], flush=True)
    text = str(await request.get_data(as_text=True))
    result = await runtime.ask(
        ChannelRequest(
            channel="hello",
            input=[Message("user", [text]).to_dict()],
            session=ChannelSession(isolation_key=f"visitor:{visitor}"),
        )
    )
    return result.result.text


@app.get("/visitors")
async def visitors() -> list[str]:
    """Who was here."""
    book = app.extensions["guest_book"]
    book.seek(0)
    return sorted(set(book.read().split()))


@app.errorhandler(HostError)
async def refused(error: HostError) -> tuple[str, int]:
    """What the runtime refuses (too busy, stopping, no room) has a status and a text that callers may see."""
    return error.message, error.status


async def main(port: int) -> None:
    """Serve until Ctrl-C or SIGTERM; hypercorn waits `graceful_timeout` for requests that run."""
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.graceful_timeout = 10.0

    async def told_to_stop() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            await anext(signals)

    await serve(app, config, shutdown_trigger=told_to_stop)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
