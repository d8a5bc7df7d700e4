"""A Quart-Trio app with a life of its own, and the lab's agent in it."""

import os
from collections.abc import AsyncIterator

import lab
from quart import Response, request
from quart_trio import QuartTrio

from afactors import Runtime
from afactors_channels import ResponsesChannel
from afactors_store import LmdbStore

app = QuartTrio(__name__)
runtime = lab.host = Runtime(lab.make, channels=[ResponsesChannel()], store=LmdbStore(os.environ["LAB_STATE"]))
hooks: list[str] = []


@app.before_serving
async def before() -> None:
    """Its start-up; the runtime is open already."""
    hooks.append(f"before {runtime.target_name}")


@app.while_serving
async def during() -> AsyncIterator[None]:
    """Its own resource, held while it serves."""
    hooks.append("while")
    yield
    lab.note("left", runtime.target_name)  # the runtime is still open here


@app.get("/hooks")
async def show() -> Response:
    """What has happened."""
    return Response(" ".join(hooks))


@app.post("/upper")
async def upper() -> Response:
    """A route with a body."""
    return Response((await request.get_data()).decode().upper())


runtime.init_app(app)
