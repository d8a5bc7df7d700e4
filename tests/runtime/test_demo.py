"""The demonstration agent: what it remembers, what its tools do, and what it refuses.

Runs that execute tools need asyncio (the framework does), so `ask` runs the agent in a thread with a loop of
its own; answers without tools run under trio, as they are.
"""

import asyncio
import json
import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from agent_framework import Agent, AgentResponse, AgentSession, Content, FunctionTool, Message
from hypothesis import given
from hypothesis import strategies as st

from afactors.demo import create_agent
from afactors.demo.mind import Call, Say, think
from afactors.demo.sums import evaluate
from afactors.demo.tools import find_zone

NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)


@pytest.fixture
def agent() -> Agent[Any]:
    return create_agent(clock=lambda: NOON, word_delay=0)


async def ask(agent: Agent[Any], what: Any, session: AgentSession | None = None, **options: Any) -> AgentResponse:
    async def run() -> AgentResponse:
        return await agent.run(what, session=session, options=options)

    return await trio.to_thread.run_sync(lambda: asyncio.run(run()))


def functions(response: AgentResponse, kind: str) -> list[Content]:
    return [content for message in response.messages for content in message.contents if content.type == kind]


# --- memory ----------------------------------------------------------------------------------------------


async def test_it_remembers_over_several_turns(agent: Agent[Any]) -> None:
    session = agent.create_session()
    turns = [
        ("my name is Ada", "Nice to meet you, Ada."),
        ("how many messages have I sent?", "2 messages"),
        ("what did I just say?", "'how many messages have I sent?'"),
        ("what did I say first?", "'my name is Ada'"),
        ("what is my name?", "Your name is Ada."),
        ("call me Grace", "Grace"),
        ("do you know what my name is now?", "Your name is Grace."),
    ]
    for said, expected in turns:
        assert expected in (await agent.run(said, session=session)).text


async def test_a_stranger_is_told_so(agent: Agent[Any]) -> None:
    assert "not told me your name" in (await agent.run("who am I?")).text
    assert "first thing" in (await agent.run("what did I say first?")).text
    assert "not said anything" in (await agent.run("what did I say?")).text


async def test_notes_and_memory_survive_storage(agent: Agent[Any]) -> None:
    session = agent.create_session()
    for said in ["my name is Ada", "note: buy milk", "add a note: call Bob", "delete note 1"]:
        await ask(agent, said, session)
    stored = json.dumps(session.to_dict())

    later = create_agent(clock=lambda: NOON, word_delay=0)
    session = AgentSession.from_dict(json.loads(stored))
    assert (await ask(later, "show my notes", session)).text == "Your notes:\n1. call Bob"
    assert (await ask(later, "what is my name?", session)).text == "Your name is Ada."


async def test_notes_belong_to_one_session(agent: Agent[Any]) -> None:
    mine, yours = agent.create_session(), agent.create_session()
    await ask(agent, "note: mine alone", mine)
    assert (await ask(agent, "list notes", yours)).text == "There are no notes yet."
    assert (await ask(agent, "delete note 1", yours)).text == "There is no note 1."


async def test_a_change_of_notes_leaves_an_earlier_snapshot_alone(agent: Agent[Any]) -> None:
    session = agent.create_session()
    await ask(agent, "note: one", session)
    snapshot = dict(session.state)
    await ask(agent, "note: two", session)
    await ask(agent, "delete note 1", session)
    assert snapshot["demo_notes"] == ["one"]
    assert session.state["demo_notes"] == ["two"]


async def test_notes_are_bounded(agent: Agent[Any]) -> None:
    session = agent.create_session()
    session.state["demo_notes"] = ["x"] * 100
    assert "Delete one first" in (await ask(agent, "note: one more", session)).text
    session.state["demo_notes"] = []
    assert "too long" in (await ask(agent, f"note: {'y' * 501}", session)).text
    assert session.state["demo_notes"] == []


# --- tools -----------------------------------------------------------------------------------------------


async def test_a_sum_goes_through_the_frameworks_function_calling(agent: Agent[Any]) -> None:
    response = await ask(agent, "what is 12 * (3 + 4)?")
    (call,) = functions(response, "function_call")
    (result,) = functions(response, "function_result")
    assert call.name == "calculate"
    assert json.loads(str(call.arguments)) == {"expression": "12 * (3 + 4)"}
    assert (result.call_id, result.result) == (call.call_id, "12 * (3 + 4) = 84")
    assert response.text == "12 * (3 + 4) = 84"
    assert response.finish_reason == "stop"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("what time is it in Tokyo?", "In Asia/Tokyo it is 21:00 on Thursday, 15 January 2026."),
        ("what's the time in new york now?", "In America/New_York it is 07:00 on Thursday, 15 January 2026."),
        (
            "what time is it in europe/paris please",
            "In Europe/Paris it is 13:00 on Thursday, 15 January 2026.",
        ),
        ("what is the date?", "In UTC it is 12:00 on Thursday, 15 January 2026."),
    ],
)
async def test_it_tells_the_time(agent: Agent[Any], said: str, expected: str) -> None:
    assert (await ask(agent, said)).text == expected


async def test_an_unknown_zone_is_a_plain_answer(agent: Agent[Any]) -> None:
    assert "no time zone called 'Atlantis'" in (await ask(agent, "what time is it in Atlantis?")).text


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", "/etc/localtime", "Europe", "a\0b", "x" * 10_000])
def test_what_is_not_a_zone_is_not_looked_for_on_disk(name: str) -> None:
    assert find_zone(name) is None


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 2", 4),
        ("-2 ** 2", -4),
        ("2 ** -1", 0.5),
        ("7 // 2 + 7 % 4", 6),
        ("1 / 4", 0.25),
        ("6 / 3", 2),
        ("2 ** 99", 2**99),
        ("0 ** 5", 0),
        (" (1 + 2) * 3 ", 9),
    ],
)
def test_sums(expression: str, value: float) -> None:
    assert evaluate(expression) == value
    assert type(evaluate(expression)) is type(value)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("9**9**9", "too large"),
        ("9**9**9**9**9", "too large"),
        ("(10**29)*(10**29)", "too large"),
        ("(1/10**30)**-9", "too large"),
        ("1e999", "too large"),
        ("1/0", "divides by zero"),
        ("0**-1", "divides by zero"),
        ("(-8)**0.5", "root"),
        ("x + 1", "only numbers"),
        ("__import__('os').system('true')", "only numbers"),
        ("(1).__class__", "only numbers"),
        ("[1][0]", "only numbers"),
        ("'a' * 9", "only numbers"),
        ("True + 1", "only numbers"),
        ("1j", "only numbers"),
        ("1 if 1 else 2", "only numbers"),
        ("1 << 99", "only numbers"),
        ("2 +", "not a sum"),
        ("", "not a sum"),
        ("(" * 150 + "1" + ")" * 49, "not a sum"),
        ("1+" * 100 + "1", "longer than"),
    ],
)
def test_sums_refused(expression: str, reason: str) -> None:
    began = time.perf_counter()
    with pytest.raises(ValueError, match=reason):
        evaluate(expression)
    assert time.perf_counter() - began < 0.5  # the real clock, because the danger is real work


@given(st.text(alphabet="0123456789.+-*/%() e", max_size=40))
def test_any_sum_ends_in_a_bounded_number_or_a_refusal(expression: str) -> None:
    try:
        value = evaluate(expression)
    except ValueError:
        return
    assert math.isfinite(value)
    assert abs(value) <= 10**30


async def test_a_refused_sum_is_a_plain_answer(agent: Agent[Any]) -> None:
    text = (await ask(agent, "what is 9**9**9?")).text
    assert text == "I cannot work out 9**9**9: the result is too large."


# --- the caller's own tools --------------------------------------------------------------------------------

WEATHER = FunctionTool(
    name="get_weather",
    description="The weather of a place.",
    func=None,
    input_model={
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "detail": {"type": "string"},
        },
        "required": ["city", "days", "unit"],
    },
)


async def test_a_clients_tool_is_called_and_its_result_is_told(agent: Agent[Any]) -> None:
    session = agent.create_session()
    asked = await ask(agent, "How will the weather be in Paris, fahrenheit, 3 days?", session, tools=[WEATHER])
    (call,) = functions(asked, "function_call")
    assert call.name == "get_weather"
    assert json.loads(str(call.arguments)) == {"city": "Paris", "days": 3, "unit": "fahrenheit"}
    assert asked.finish_reason == "tool_calls"
    assert functions(asked, "function_result") == []

    result = Message("tool", [Content.from_function_result(str(call.call_id), result="Sunny, 75 degrees")])
    told = await ask(agent, [result], session, tools=[WEATHER])
    assert told.text == "get_weather says: Sunny, 75 degrees"
    assert (await ask(agent, "thanks", session, tools=[WEATHER])).text.startswith("You said: 'thanks'")


def hear(text: str, **options: Any) -> Say | Call:
    return think([Message("user", [text])], options)


def test_tool_choice_is_honoured() -> None:
    other = FunctionTool(name="other", description="", func=None, input_model={"type": "object"})
    declared = [WEATHER, other]
    only_other = {"mode": "required", "required_function_name": "other"}
    assert hear("good day", tools=declared, tool_choice="required") == Call(
        "get_weather", {"city": "good day", "days": 1, "unit": "celsius"}
    )
    assert hear("the weather?", tools=declared, tool_choice=only_other) == Call("other", {})
    required, auto = ({"mode": mode, "allowed_tools": ["other"]} for mode in ("required", "auto"))
    assert hear("the weather?", tools=declared, tool_choice=required) == Call("other", {})
    assert isinstance(hear("the weather?", tools=declared, tool_choice=auto), Say)
    assert isinstance(hear("the weather?", tools=declared, tool_choice="none"), Say)
    assert isinstance(hear("what is 1 + 1?", tool_choice="none"), Say)
    assert isinstance(hear("nothing to call here", tools=declared), Say)


@pytest.mark.parametrize("name", ["get_weather", "getWeather", "weather-report", "WEATHER"])
def test_a_telling_word_of_a_tools_name_is_enough(name: str) -> None:
    declared = FunctionTool(name=name, description="", func=None, input_model={"type": "object"})
    assert hear("tell me the weather", tools=[declared]) == Call(name, {})


# --- words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["hello", "count to 12", "an echo"])
async def test_the_streamed_words_join_up_to_the_text(agent: Agent[Any], said: str) -> None:
    stream = agent.run(said, stream=True)
    words = [update.text async for update in stream if update.text]
    text = (await agent.run(said)).text
    assert "".join(words) == text == (await stream.get_final_response()).text
    assert len(words) == len(text.split())


async def test_each_word_takes_its_time(autojump_clock: trio.testing.MockClock) -> None:
    agent = create_agent(word_delay=0.5)
    began = trio.current_time()
    at: Sequence[float] = [
        trio.current_time() - began async for update in agent.run("count to 4", stream=True) if update.text
    ]
    assert at == pytest.approx([0.5, 1.0, 1.5, 2.0])
    await agent.run("count to 4")
    assert trio.current_time() - began == pytest.approx(4.0)


async def test_instructions_and_max_tokens_make_a_difference(agent: Agent[Any]) -> None:
    loud = await agent.run("an echo", options={"instructions": "Please answer in upper case.", "temperature": 1.5})
    assert loud.text.startswith("YOU SAID: 'AN ECHO'")
    short = await agent.run("count to 9", options={"max_tokens": 3})
    assert (short.text.split(), short.finish_reason) == (["1", "2", "3"], "length")


async def test_usage_counts_words(agent: Agent[Any]) -> None:
    usage = (await agent.run("count to 5")).usage_details
    assert usage is not None
    instructions = 9
    assert usage["input_token_count"] == instructions + 3
    assert usage["output_token_count"] == 5
    assert usage["total_token_count"] == instructions + 8


async def test_the_unknown_gets_a_short_friendly_answer(agent: Agent[Any]) -> None:
    text = (await agent.run("quux")).text
    assert "'quux'" in text
    assert "help" in text
    assert "tell the time" in (await agent.run("help")).text
    assert "only read text" in (await agent.run(Message("user", []))).text


@pytest.mark.parametrize("said", ["1" * 1_000_000, "what time " * 100_000, "((((" * 250_000, "how many " * 100_000])
def test_a_huge_message_costs_little(said: str) -> None:
    began = time.perf_counter()
    hear(said)
    assert time.perf_counter() - began < 1  # the real clock, because the danger is real work
