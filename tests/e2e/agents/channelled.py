"""Serves the lab's agent on several channels at once: what the command line has no option for.

Its one argument is a JSON object: `state` is the folder, `port` the port; `telegram`, `responses` and `webhook` hold
keyword arguments of those channels; `people` has isolation keys, by identities (``telegram:7``) and by what requests
have as their `user`, which is vouched for if `present` has it. It says where it listens in its first line.
"""

import dataclasses
import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

import lab
import trio
from agent_framework import Agent, tool

from afactors import Runtime, serve
from afactors_channels import ChannelIdentity, ChannelRequest, ChannelSession, ResponsesChannel
from afactors_channels.telegram import TelegramChannel
from afactors_channels.webhook import WebhookChannel, WebhookEndpoint, WebhookSource
from afactors_store import LmdbStore


@tool(approval_mode="always_require")
def wipe(disk: str) -> str:
    """Wipe a disk."""
    lab.note("wiped", disk)
    return f"{disk} is empty"


def make() -> Agent[Any]:
    """The lab's agent, with a tool that must be approved and one that kills."""
    return Agent(lab.Obedient(), "You obey.", name="lab", tools=[wipe, lab.vanish])


def channels(config: Mapping[str, Any]) -> list[Any]:
    """The channels that are configured."""
    people: Mapping[str, str] = config.get("people", {})

    def known(request: ChannelRequest, **_: Any) -> ChannelRequest:
        name = request.identity.native_id if request.identity is not None else ""
        if name not in people:
            return request
        identity = ChannelIdentity("responses", name, verified=True) if name in config.get("present", ()) else None
        return request.replace(session=ChannelSession(people[name], people[name]), identity=identity)

    made: list[Any] = []
    if (telegram := config.get("telegram")) is not None:
        made.append(TelegramChannel(telegram.pop("token"), **telegram))
    if (responses := config.get("responses")) is not None:
        made.append(ResponsesChannel(run_hook=known, **responses))
    if (webhook := config.get("webhook")) is not None:
        endpoints = [WebhookEndpoint(allow_private=True, allow_http=True, **one) for one in webhook["endpoints"]]
        made.append(WebhookChannel(endpoints, [WebhookSource(**one) for one in webhook["sources"]]))
    return made


def main(config: Mapping[str, Any]) -> None:
    """Serve until told to stop."""
    people: Mapping[str, str] = config.get("people", {})

    def resolve(identity: ChannelIdentity) -> str:
        name = f"{identity.channel}:{identity.native_id}"
        return people.get(name, name)

    store = LmdbStore(config["state"])
    runtime = Runtime(
        make, channels=channels(config), store=store, identity_resolver=resolve, **config.get("limits", {})
    )

    def started(base_url: str) -> None:
        print(json.dumps({"address": f"{base_url}/v1"}), flush=True)

    async def run() -> None:
        report = await serve(runtime, port=config.get("port", 0), started=started)
        print(json.dumps(dataclasses.asdict(report)), flush=True)

    logging.basicConfig(level=logging.INFO)
    trio.run(run)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
