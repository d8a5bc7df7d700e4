"""The subprocess that serves: the runtime, or the routes that it is compared with.

It prints its URL on its standard output, and stops when its standard input ends: a benchmark that dies takes its
servers along.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

import trio

from afactors import Runtime, serve
from afactors_channels import ResponsesChannel
from afactors_store import LmdbStore

from .agents import make_agent
from .bare import make_agent_app, make_bare_app, serve_app
from .measure import pin


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["runtime", "bare", "agent"])
    parser.add_argument("--state-dir", help="the runtime's state (needed for it)")
    parser.add_argument("--no-sync", action="store_true", help="open the store without fsync")
    parser.add_argument("--chunks", type=int, default=20)
    parser.add_argument("--spacing", type=float, default=0.0)
    parser.add_argument("--core", type=int, help="the core to run on")
    given = parser.parse_args()
    pin(given.core)
    trio.run(_serve_runtime if given.kind == "runtime" else _serve_app, given)


async def _serve_runtime(given: argparse.Namespace) -> None:
    runtime = Runtime(
        make_agent(chunks=given.chunks, spacing=given.spacing),
        channels=[ResponsesChannel()],
        store=LmdbStore(given.state_dir, sync=not given.no_sync),
    )
    async with trio.open_nursery() as nursery:

        async def end_with_parent() -> None:
            await input_ended()
            os.kill(os.getpid(), signal.SIGTERM)

        nursery.start_soon(end_with_parent)
        await serve(runtime, port=0, started=_announce)
        nursery.cancel_scope.cancel(reason="the server was stopped")


async def _serve_app(given: argparse.Namespace) -> None:
    if given.kind == "bare":
        app = make_bare_app(chunks=given.chunks, spacing=given.spacing)
    else:
        app = make_agent_app(make_agent(chunks=given.chunks, spacing=given.spacing))
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_app, app, _announce, stop)
        await input_ended()
        stop.set()


async def input_ended() -> None:
    """Wait until whoever started this process has closed its standard input, or is gone."""
    while True:
        await trio.lowlevel.wait_readable(sys.stdin)
        if not os.read(sys.stdin.fileno(), 4096):
            return


def _announce(url: str) -> None:
    print(url, flush=True)


if __name__ == "__main__":
    main()
