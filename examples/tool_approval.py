"""An agent whose tool must be approved by a person: it asks, and waits for as long as it takes, also across processes.

    python examples/tool_approval.py            wants a note deleted, and shows what is to be approved
    python examples/tool_approval.py yes        (or no) answers, in a process of its own

STATE_DIR names the state folder, ./.afactors otherwise. Over the Responses API, the question is an item
``mcp_approval_request``, and the answer one ``mcp_approval_response``.
"""

import os
import sys

import trio
from agent_framework import Agent, Content, Message, tool

from afactors import ChannelRequest, ChannelSession, Runtime
from afactors.demo import DemoChatClient
from afactors_store import LmdbStore


@tool(approval_mode="always_require")
def delete_note(number: int) -> str:
    """Delete a note."""
    print(f"  (the tool runs: note {number} is gone)")
    return f"Deleted note {number}."


def make_agent() -> Agent:
    """The agent; DemoChatClient stands where your model's client goes."""
    return Agent(DemoChatClient(), "You keep notes.", name="clerk", tools=[delete_note])


def said(*contents: Content) -> ChannelRequest:
    """A message in the one conversation of this program."""
    return ChannelRequest(
        channel="program",
        input=[Message("user", list(contents)).to_dict()],
        session=ChannelSession(isolation_key="ada"),
    )


async def main(answer: str | None) -> None:
    """Ask, or answer what was asked."""
    async with Runtime(make_agent, store=LmdbStore(os.environ.get("STATE_DIR", ".afactors"))) as runtime:
        if answer is None:
            await runtime.ask(said(Content.from_text("Please delete note 7.")))
        waiting = (await runtime.get_session(said())).questions
        for question in waiting:
            print(f"{question.name} {question.arguments} waits for a yes or no")
            if answer is not None:
                approval = Content("function_approval_response", id=question.question_id, approved=answer == "yes")
                print((await runtime.ask(said(approval))).result.text)
        if not waiting:
            print("nothing waits")


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else None)
