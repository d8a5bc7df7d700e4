"""No server at all: conversations with an agent inside a trio program, kept from one run to the next.

    python examples/no_http.py        (STATE_DIR names the state folder, ./.afactors otherwise)

Run it twice: the second time, it knows.
"""

import os

import trio
from agent_framework import Message

from afactors import ChannelRequest, ChannelSession, Runtime
from afactors.demo import create_agent
from afactors_store import LmdbStore


def say(who: str, text: str) -> ChannelRequest:
    """A message in somebody's conversation: the isolation key names it, and one actor owns it."""
    return ChannelRequest(
        channel="program",
        input=[Message("user", [text]).to_dict()],
        session=ChannelSession(isolation_key=who),
    )


async def ask(runtime: Runtime, who: str, text: str) -> None:
    """One turn, awaited: when it is answered, it is on disk."""
    result = await runtime.ask(say(who, text))
    print(f"{who}: {text}\n  {result.result.text}")


async def stream(runtime: Runtime, who: str, text: str) -> None:
    """One turn, update by update. Only the result says that it holds."""
    print(f"{who}: {text}\n  ", end="")
    async with runtime.stream(say(who, text)) as turn:
        async for updates in turn:
            print("".join(update.text for update in updates), end="", flush=True)
    print(f"\n  ({turn.result.run_id} is committed)")


async def main() -> None:
    """Two conversations; what is said in one is not known in the other."""
    async with Runtime(create_agent, store=LmdbStore(os.environ.get("STATE_DIR", ".afactors"))) as runtime:
        await ask(runtime, "ada", "What is my name?")
        async with trio.open_nursery() as nursery:  # side by side: one turn at a time is per conversation
            nursery.start_soon(ask, runtime, "ada", "My name is Ada.")
            nursery.start_soon(ask, runtime, "grace", "My name is Grace.")
        await stream(runtime, "ada", "count to 5")
        await ask(runtime, "ada", "How many messages did I send?")


if __name__ == "__main__":
    trio.run(main)
