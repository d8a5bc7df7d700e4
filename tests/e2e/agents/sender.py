"""Embeds a runtime, sends messages over many lanes of a webhook endpoint, and waits until all of them are delivered.

Its one argument is a JSON object: the folder of the `state`, the endpoint's `url` and `secret`, `lanes`, how many
messages `each` of them gets, and the `journal`. A message that was accepted is a line there, [lane, number, id], and a
process that follows goes on behind it. The last line of the output says how many attempts repeated one of unknown
outcome.
"""

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import trio

from afactors import Runtime
from afactors.demo import create_agent
from afactors_channels import ChannelIdentity, ResponseTarget
from afactors_channels.pushes import PushPolicy, RetryPolicy
from afactors_channels.webhook import WebhookChannel, WebhookEndpoint
from afactors_store import LmdbStore

# A receiver that fails a third of the time must not make this a matter of minutes.
POLICY = PushPolicy(
    retry=RetryPolicy(first=0.02, factor=1.5, longest=0.3, max_attempts=100),
    concurrency=16,
    timeout=10.0,
    breaker=1_000_000,
)


async def talk(runtime: Runtime, lane: int, numbers: range, journal: TextIO) -> None:
    """Send a lane's messages, one after the other."""
    to = ChannelIdentity("webhook", "site", conversation=f"lane-{lane}", verified=True)
    for number in numbers:
        text = f"{lane}/{number}"
        target = ResponseTarget.identity(to)
        (name,) = await runtime.send(f"user-{lane}", text, target=target, remember=number % 2 == 0)
        journal.write(f"{json.dumps([lane, number, name])}\n")
        journal.flush()


def sent_before(path: Path) -> dict[int, int]:
    """How many messages of each lane were accepted, by the processes before this one."""
    sent: dict[int, int] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        lane, number, _ = json.loads(line)
        sent[lane] = number + 1
    return sent


async def deliver(config: Mapping[str, Any], sent: Mapping[int, int], journal: TextIO) -> None:
    """Send what is not sent yet, and deliver everything."""
    endpoint = WebhookEndpoint("site", config["url"], config["secret"], allow_private=True, allow_http=True)
    channel = WebhookChannel([endpoint], push_policy=POLICY)
    store = LmdbStore(config["state"])
    async with Runtime(create_agent, store=store, channels=[channel]) as runtime:
        async with trio.open_nursery() as lanes:
            for lane in range(config["lanes"]):
                lanes.start_soon(talk, runtime, lane, range(sent.get(lane, 0), config["each"]), journal)
        while runtime.deliveries.statistics().pending:  # noqa: ASYNC110 - figures are all there is to read
            await trio.sleep(0.05)
        figures = runtime.deliveries.statistics()
    print(json.dumps({"dead": figures.dead, "unsure": figures.outlets[0].unsure}), flush=True)


def main(config: Mapping[str, Any]) -> None:
    """Go on where the process before was killed."""
    path = Path(config["journal"])
    sent = sent_before(path)
    with path.open("a") as journal:
        trio.run(deliver, config, sent, journal)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main(json.loads(sys.argv[1]))
