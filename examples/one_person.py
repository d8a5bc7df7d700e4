"""All that is kept of one person: shortened, begun anew, copied out, erased and brought back, by a program that runs.

    python examples/one_person.py        (STATE_DIR names the state folder, ./.afactors otherwise)

`python -m afactors actors` exports, imports and erases while no server runs.
"""

import os
from pathlib import Path

import trio
from agent_framework import Message

from afactors import ChannelRequest, ChannelSession, Runtime
from afactors.demo import create_agent
from afactors_store import LmdbStore

STATE = Path(os.environ.get("STATE_DIR", ".afactors"))


def say(text: str, session_id: str | None = None) -> ChannelRequest:
    """A message of Ada's: in the session that she is in, unless it names another."""
    return ChannelRequest(
        channel="program",
        input=[Message("user", [text]).to_dict()],
        session=ChannelSession(isolation_key="ada", session_id=session_id),
    )


async def ask(runtime: Runtime, text: str, session_id: str | None = None) -> None:
    """One turn."""
    result = await runtime.ask(say(text, session_id))
    print(f"{text} {result.result.text}")


async def main() -> None:
    """Everything in turn; nobody else is held up by it."""
    runtime = Runtime(
        create_agent,
        store=LmdbStore(STATE),
        max_history_messages=4,  # what a conversation goes on with
        max_history_age=90 * 86_400.0,  # what is older leaves with the next turn
    )
    async with runtime:
        await runtime.erase_actor("ada")  # what an earlier run of this program left

        await ask(runtime, "My name is Ada.")
        await ask(runtime, "How many messages did I send?")
        await ask(runtime, "What is my name?")
        await ask(runtime, "What is my name, again?")  # that was six messages ago, and four are kept

        # A new session for whoever names none; the old one is still there for those that do.
        old = (await runtime.list_sessions("ada"))[0].session_id
        await runtime.reset_session("ada")
        await ask(runtime, "What did I say first?")
        await ask(runtime, "How many messages did I send?", old)
        print("sessions:", len(await runtime.list_sessions("ada")))

        # All of it as one file, which is whole or not there; then nothing of it; then all of it again.
        export = await runtime.export_actor("ada", STATE / "ada.actor")
        print("exported:", export.key)
        print("erased:", await runtime.erase_actor("ada"), "sessions:", len(await runtime.list_sessions("ada")))
        await runtime.import_actor(STATE / "ada.actor")
        print("imported, sessions:", len(await runtime.list_sessions("ada")))
        await ask(runtime, "How many messages did I send?")


if __name__ == "__main__":
    trio.run(main)
