"""What the server says when it has started: a first call that fits what is hosted."""

import json
import shlex
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, Never

import pytest
from agent_framework import Agent, Executor, Message, Workflow, WorkflowBuilder, WorkflowContext, handler
from pydantic import BaseModel, Field

from afactors.advice import for_newcomers
from afactors.demo import create_agent
from afactors.entries import entry, input_types
from afactors_channels import ChannelRequest

URL = "http://127.0.0.1:8000"


class Colour(Enum):
    RED = "red"


class Size(BaseModel):
    width: int = Field(examples=[7])
    unit: Literal["mm", "cm"]


@dataclass
class Order:
    name: str
    amount: float
    colour: Colour
    size: Size
    note: str | None
    pieces: int = 3
    tags: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


class Tree(BaseModel):
    name: str
    below: "Tree | None" = None


class Handmade:
    """Nothing that pydantic knows."""


def taking(kind: Any) -> Workflow:
    """A workflow that takes one type."""

    class Taker(Executor):
        async def take(self, said: Any, ctx: WorkflowContext[Never, str]) -> None:
            pass

        take.__annotations__["said"] = kind
        take = handler(take)

    return WorkflowBuilder(start_executor=Taker(id="taker")).build()


def call(advice: str) -> list[str]:
    """The call that it proposes, as a shell reads it."""
    _, found, rest = advice.partition("  curl ")
    assert found
    return shlex.split(rest.partition("\n\n")[0])


def test_of_an_agent():
    agent = create_agent()
    assert isinstance(agent, Agent)
    told = for_newcomers(URL, agent, with_key=False)
    assert json.loads(call(told)[-1]) == {"conversation": "first", "input": "Hello! My name is Ada."}
    assert "request_info" not in told
    assert told.endswith(" -m afactors chat")
    assert "authorization" not in told


def test_of_a_place_that_is_not_the_usual_one():
    told = for_newcomers("http://127.0.0.1:81", create_agent(), with_key=True)
    assert told.endswith(" -m afactors chat --url http://127.0.0.1:81/v1")
    assert call(told)[:2] == ["-s", "http://127.0.0.1:81/v1/responses"]
    assert "authorization: Bearer KEY" in call(told)


@pytest.mark.parametrize(
    "kind", [str, Message, list[Message], Order, Size, Tree, int, bool, list[int], dict[str, int], str | list[Message]]
)
def test_a_workflow_is_told_something_that_it_takes(kind: Any):
    workflow = taking(kind)
    told = for_newcomers(URL, workflow, with_key=False)
    text = json.loads(call(told)[-1])["input"]
    request = ChannelRequest("test", [Message("user", [text]).to_dict()])
    entry(input_types(workflow), request, [Message("user", [text])])
    assert (text == "Hello!") == (kind in (str, Message, list[Message], str | list[Message]))
    assert "request_info" in told


def test_a_sample_is_made_of_what_the_type_says():
    told = for_newcomers(URL, taking(Order), with_key=False)
    sample = json.loads(json.loads(call(told)[-1])["input"])
    assert sample["colour"] == "red"
    assert sample["size"] == {"width": 7, "unit": "mm"}
    assert sample["pieces"] == 3


def test_a_workflow_that_takes_no_message():
    assert "run hook" in for_newcomers(URL, taking(Handmade), with_key=False)
