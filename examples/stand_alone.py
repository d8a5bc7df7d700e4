r"""Your agent, served alone, for callers with a key.

    python examples/stand_alone.py [PORT]        (STATE_DIR names the state folder, ./.afactors otherwise)

    curl -s http://127.0.0.1:8000/v1/responses -H 'authorization: Bearer shop-secret' \
      -H 'content-type: application/json' -d '{"conversation": "order-7", "input": "What time is it in Oslo?"}'

Without a key the answer is 401; with the other key, "order-7" is another conversation.
"""

import os
import sys
from datetime import datetime
from zoneinfo import ZoneInfo

import trio
from agent_framework import Agent, tool

from afactors import Runtime
from afactors.demo import DemoChatClient
from afactors_channels import ResponsesChannel
from afactors_store import LmdbStore

# By name: a key can be exchanged under its name, and its conversations stay. Real ones come from your secrets.
API_KEYS = {
    "shop": os.environ.get("SHOP_KEY", "shop-secret"),
    "staff": os.environ.get("STAFF_KEY", "staff-secret"),
}


@tool
def current_time(zone: str) -> str:
    """Tell the time in a city."""
    try:
        return f"In {zone} it is {datetime.now(ZoneInfo(f'Europe/{zone}')):%H:%M}."
    except (LookupError, OSError, ValueError):
        return f"I only know Europe's capitals, and not {zone}."


def make_agent() -> Agent:
    """The agent; DemoChatClient stands where your model's client goes."""
    return Agent(DemoChatClient(), "You answer a shop's customers.", name="clerk", tools=[current_time])


async def main(port: int) -> None:
    """Serve until Ctrl-C or SIGTERM, then let running turns finish."""
    runtime = Runtime(
        make_agent,  # called once, in the thread that the agent will live in
        channels=[ResponsesChannel(api_keys=API_KEYS)],
        store=LmdbStore(os.environ.get("STATE_DIR", ".afactors")),
        wait_lock=10.0,  # a new process may start while the old one is on its way out
        turn_timeout=60.0,
        max_running_turns=64,
    )
    report = await runtime.serve(port=port, started=lambda url: print(f"listening on {url}", flush=True))
    print(report)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
