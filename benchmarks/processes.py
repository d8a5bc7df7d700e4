"""Subprocesses of the benchmark: each is started here, bound to a core, and stopped when its block is left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import trio

from .plan import Plan

_HOUSE = Path(__file__).parent.parent
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0


class ProcessFailed(Exception):
    """A subprocess did not start, or ended in a failure; its own words are on standard error."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server at work, on the loopback interface."""

    pid: int
    port: int


@asynccontextmanager
async def runtime_server(plan: Plan, *, sync: bool, spacing: float = 0.0) -> AsyncIterator[Server]:
    """The runtime over HTTP, with a store of its own that is deleted afterwards."""
    with TemporaryDirectory(prefix="afactors-bench-", dir=plan.state_dir) as folder:
        options = ["runtime", "--state-dir", folder, *([] if sync else ["--no-sync"])]
        async with _server(plan, options, spacing) as server:
            yield server


@asynccontextmanager
async def bare_server(plan: Plan, *, spacing: float = 0.0) -> AsyncIterator[Server]:
    """The routes that do nothing."""
    async with _server(plan, ["bare"], spacing) as server:
        yield server


@asynccontextmanager
async def agent_server(plan: Plan, *, spacing: float = 0.0) -> AsyncIterator[Server]:
    """The same agent behind the same HTTP stack, without a runtime and without a store."""
    async with _server(plan, ["agent"], spacing) as server:
        yield server


@asynccontextmanager
async def _server(plan: Plan, options: Sequence[str], spacing: float) -> AsyncIterator[Server]:
    core = [] if plan.cores.server is None else ["--core", str(plan.cores.server)]
    arguments = [*options, "--chunks", str(plan.chunks), "--spacing", str(spacing), *core]
    async with _listening("benchmarks.server", arguments) as server:
        yield server


@asynccontextmanager
async def receiver(plan: Plan) -> AsyncIterator[Server]:
    """Somebody who takes whatever is POSTed, on the load generator's core."""
    core = [] if plan.cores.load is None else ["--core", str(plan.cores.load)]
    async with _listening("benchmarks.receiver", core) as server:
        yield server


@asynccontextmanager
async def _listening(module: str, arguments: Sequence[str]) -> AsyncIterator[Server]:
    async with _child(module, arguments) as process:
        url = ""
        with trio.move_on_after(_START_SECONDS):
            url = await _line(process)
        port = urlsplit(url).port
        if port is None:
            raise ProcessFailed("a server did not start")
        yield Server(process.pid, port)


async def run_child(module: str, arguments: Sequence[str], *, seconds: float) -> str:
    """Run a module of ours to its end and return what it printed.

    Raises:
        ProcessFailed: It failed, or took longer than it may.
    """
    async with _child(module, arguments) as process:
        with trio.move_on_after(seconds) as late:
            text = await _all(process)
            code = await process.wait()
    if late.cancelled_caught:
        raise ProcessFailed(f"{module} took longer than {seconds:.0f} s")
    if code:
        raise ProcessFailed(f"{module} ended with exit code {code}")
    return text


@asynccontextmanager
async def _child(module: str, arguments: Sequence[str]) -> AsyncIterator[trio.Process]:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_HOUSE,
        start_new_session=True,  # Ctrl-C is for the benchmark, which then stops its children
    )
    try:
        yield process
    finally:
        with trio.move_on_after(_STOP_SECONDS, shield=True):
            if process.stdin is not None:
                await process.stdin.aclose()
            await process.wait()
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        if process.stdout is not None:
            with trio.CancelScope(shield=True):
                await process.stdout.aclose()


async def _line(process: trio.Process) -> str:
    received = b""
    while not received.endswith(b"\n"):
        more = await _stdout(process).receive_some()
        if not more:
            return ""
        received += more
    return received.decode().strip()


async def _all(process: trio.Process) -> str:
    return b"".join([part async for part in _stdout(process)]).decode()


def _stdout(process: trio.Process) -> trio.abc.ReceiveStream:
    if process.stdout is None:
        raise ProcessFailed("a subprocess has no standard output")
    return process.stdout
