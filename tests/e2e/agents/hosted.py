"""Serves the lab's agent with a `Runtime` of its own: what the command line has no option for.

Its one argument is a JSON object: `limits` and `channel` are keyword arguments, `state` is the folder. Like
`--json-logs`, it says where it listens in the first line of its output, and what it did in the last.
"""

import dataclasses
import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

import lab
import trio

from afactors import Runtime, serve
from afactors_channels import ChannelContext, ChannelContribution, Receive, ResponsesChannel, Route, Scope, Send
from afactors_channels.asgi import send_whole
from afactors_store import LmdbStore


class Figures:
    """A channel of one route: the runtime's figures."""

    name = "figures"

    def contribute(self, context: ChannelContext) -> ChannelContribution:
        """The route."""
        runtime: Any = context

        async def figures(scope: Scope, receive: Receive, send: Send) -> None:
            await send_whole(send, 200, json.dumps(dataclasses.asdict(runtime.statistics().actors)).encode())

        return ChannelContribution([Route("GET", "/figures", figures)])


def main(config: Mapping[str, Any]) -> None:
    """Serve until told to stop."""
    channels = [ResponsesChannel(**config.get("channel", {})), Figures()]
    store = LmdbStore(config["state"])
    runtime = lab.host = Runtime(lab.make, channels=channels, store=store, **config.get("limits", {}))

    def started(base_url: str) -> None:
        print(json.dumps({"address": f"{base_url}/v1"}), flush=True)

    async def run() -> None:
        report = await serve(runtime, port=0, started=started)
        print(json.dumps(dataclasses.asdict(report)), flush=True)

    logging.basicConfig(level=logging.WARNING)
    trio.run(run)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
