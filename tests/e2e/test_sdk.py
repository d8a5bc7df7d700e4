"""The openai SDK against a real server: everything that its users do in a conversation."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather somewhere",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256))).decode()


# -- one turn


def test_create(sdk: openai.OpenAI) -> None:
    response = sdk.responses.create(model="gpt-5", input="hello there")
    assert response.output_text == "1: hello there"
    assert response.status == "completed"
    assert response.id.startswith("resp_")
    assert response.error is None
    assert response.created_at <= (response.completed_at or 0) <= response.created_at + 60
    assert [item.type for item in response.output] == ["message"]
    assert response.model == "gpt-5"


def test_usage(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(model="m", input="one two three", conversation="usage")
    second = sdk.responses.create(model="m", input="four", conversation="usage")
    assert first.usage is not None
    assert second.usage is not None
    assert (first.usage.input_tokens, first.usage.output_tokens, first.usage.total_tokens) == (3, 7, 10)
    # The history is part of the second one's input: 3 words, 4 of the answer, 1 more.
    assert (second.usage.input_tokens, second.usage.output_tokens) == (8, 7)


def test_stream(sdk: openai.OpenAI) -> None:
    with sdk.responses.create(model="m", input="a few words to stream", stream=True) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "1: a few words to stream"
    assert len(deltas) > 1
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[4:-4] == ["response.output_text.delta"] * len(deltas)
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "1: a few words to stream"
    assert last.response.usage is not None


def test_stream_ends_with_done(lab: Any) -> None:
    with lab.http() as http:
        wire = http.post("/v1/responses", json={"input": "hi", "stream": True})
    assert wire.headers["content-type"].startswith("text/event-stream")
    blocks = wire.text.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    for block in blocks[:-2]:
        name, data = block.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"


def test_stream_helper(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(model="m", input="by the helper") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == "1: by the helper"
    assert final.status == "completed"


def test_stream_helper_that_only_wants_the_end(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(model="m", input="only the end", conversation="helper-end") as stream:
        assert stream.get_final_response().output_text == "1: only the end"


def test_what_was_streamed_is_what_is_remembered(sdk: openai.OpenAI, told: Any) -> None:
    with sdk.responses.stream(model="m", input="by stream", conversation="mixed") as stream:
        stream.until_done()
    told(sdk, "by call", conversation="mixed")
    assert told(sdk, "history", conversation="mixed") == [
        ["user", "by stream"],
        ["assistant", "1: by stream"],
        ["user", "by call"],
        ["assistant", "2: by call"],
    ]


def test_the_other_mount(lab: Any) -> None:
    with openai.OpenAI(base_url=f"{lab.root}/responses/v1", api_key="none", max_retries=0) as client:
        assert client.responses.create(model="m", input="over here").output_text == "1: over here"


# -- conversations


def test_chain(sdk: openai.OpenAI, told: Any) -> None:
    previous = sdk.responses.create(model="m", input="one")
    for number in range(2, 6):
        nxt = sdk.responses.create(model="m", input=f"say {number}", previous_response_id=previous.id)
        assert nxt.output_text == f"{number}: say {number}"
        assert nxt.previous_response_id == previous.id
        previous = nxt
    history = told(sdk, "history", previous_response_id=previous.id)
    assert [text for role, text in history if role == "user"] == ["one", "say 2", "say 3", "say 4", "say 5"]


def test_a_call_without_a_conversation_begins_one(sdk: openai.OpenAI, told: Any) -> None:
    told(sdk, "something")
    assert told(sdk, "history") == []


def test_branches_do_not_see_each_other(sdk: openai.OpenAI, told: Any) -> None:
    root = sdk.responses.create(model="m", input="root")
    left = sdk.responses.create(model="m", input="left", previous_response_id=root.id)
    right = sdk.responses.create(model="m", input="right", previous_response_id=root.id)
    left = sdk.responses.create(model="m", input="left again", previous_response_id=left.id)
    shared = [["user", "root"], ["assistant", "1: root"]]
    assert told(sdk, "history", previous_response_id=left.id) == [
        *shared,
        ["user", "left"],
        ["assistant", "2: left"],
        ["user", "left again"],
        ["assistant", "3: left again"],
    ]
    assert told(sdk, "history", previous_response_id=right.id) == [
        *shared,
        ["user", "right"],
        ["assistant", "2: right"],
    ]
    # The root is where it was, whatever came after it.
    assert told(sdk, "history", previous_response_id=root.id) == shared


def test_branches_that_begin_at_once(sdk: openai.OpenAI, told: Any) -> None:
    root = sdk.responses.create(model="m", input="root")

    def branch(number: int) -> str:
        one = sdk.responses.create(model="m", input=f"slowly 0.2 b{number}", previous_response_id=root.id)
        return sdk.responses.create(model="m", input=f"more {number}", previous_response_id=one.id).id

    with ThreadPoolExecutor(6) as pool:
        ends = list(pool.map(branch, range(6)))
    assert len(set(ends)) == 6
    for number, end in enumerate(ends):
        history = told(sdk, "history", previous_response_id=end)
        assert [text for role, text in history if role == "user"] == [
            "root",
            f"slowly 0.2 b{number}",
            f"more {number}",
        ]
    assert told(sdk, "history", previous_response_id=root.id) == [["user", "root"], ["assistant", "1: root"]]


@pytest.mark.parametrize("form", ["text", "object"])
def test_conversation(sdk: openai.OpenAI, told: Any, form: str) -> None:
    conversation: Any = f"conv-{form}" if form == "text" else {"id": f"conv-{form}"}
    for number in (1, 2, 3):
        response = sdk.responses.create(model="m", input=f"say {number}", conversation=conversation)
        assert response.output_text == f"{number}: say {number}"
        assert response.conversation is not None
        assert response.conversation.id == f"conv-{form}"
    assert told(sdk, "history", conversation=f"another-{form}") == []


def test_a_conversation_has_points_to_branch_from(sdk: openai.OpenAI, told: Any) -> None:
    first = sdk.responses.create(model="m", input="first", conversation="branched")
    told(sdk, "second", conversation="branched")
    assert told(sdk, "aside", previous_response_id=first.id) == "2: aside"
    history = told(sdk, "history", conversation="branched")
    assert [text for role, text in history if role == "user"] == ["first", "second"]


def test_chain_after_a_restart(servers: Any, told: Any, tmp_path: Any) -> None:
    server = servers.command(state=tmp_path / "state")
    client = server.client()
    root = client.responses.create(model="m", input="before")
    branch = client.responses.create(model="m", input="a branch", previous_response_id=root.id)
    told(client, "other branch", previous_response_id=root.id)
    told(client, "in a conversation", conversation="kept")
    assert told(client, 'call remember {"text": "state"}', conversation="kept") == 'results: ["state"]'
    assert server.stop() == 0

    again = servers.command(state=tmp_path / "state")
    client = again.client()
    assert json.loads(again.stdout.splitlines()[0])["conversations"] == 2
    after = client.responses.create(model="m", input="after", previous_response_id=branch.id)
    assert after.output_text == "3: after"
    history = told(client, "history", previous_response_id=after.id)
    assert [text for role, text in history if role == "user"] == ["before", "a branch", "after"]
    assert told(client, "new branch", previous_response_id=root.id) == "2: new branch"
    assert told(client, "and on", conversation="kept") == "3: and on"
    assert told(client, 'call remember {"text": "too"}', conversation="kept") == 'results: ["state too"]'


# -- tools of the client


@pytest.mark.parametrize("streaming", [False, True])
def test_tools_round_trip(sdk: openai.OpenAI, told: Any, streaming: bool) -> None:
    asked: Any = {"model": "m", "input": 'call get_weather {"city": "Oslo"}', "tools": [WEATHER]}
    if streaming:
        with sdk.responses.stream(**asked) as stream:
            kinds = [event.type for event in stream]
            response: Any = stream.get_final_response()
        assert "response.function_call_arguments.done" in kinds
    else:
        response = sdk.responses.create(**asked)
    (call,) = response.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", {"city": "Oslo"})

    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "12 degrees, rain"}
    answer = sdk.responses.create(model="m", input=[output], previous_response_id=response.id, tools=[WEATHER])
    assert answer.output_text == 'results: ["12 degrees, rain"]'
    roles = [role for role, _ in told(sdk, "history", previous_response_id=answer.id)]
    assert roles == ["user", "assistant", "tool", "assistant"]


def test_a_tool_of_the_agents_own(sdk: openai.OpenAI, told: Any) -> None:
    response = sdk.responses.create(model="m", input="call spawn", conversation="own-tool")
    assert response.output_text == 'results: ["42"]'


def test_a_client_tool_with_the_name_of_the_agents_own(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(model="m", input="hi", tools=[{**WEATHER, "name": "spawn"}])
    assert caught.value.param == "tools[0].name"


# -- what a request carries


def test_options_reach_the_agent(sdk: openai.OpenAI) -> None:
    response = sdk.responses.create(
        model="m",
        input="options",
        instructions="Answer in Norwegian.",
        temperature=0.25,
        top_p=0.5,
        max_output_tokens=1234,
        parallel_tool_calls=False,
        tool_choice="required",
        tools=[WEATHER],
        reasoning={"effort": "low"},
        text={"format": {"type": "json_object"}, "verbosity": "low"},
        metadata={"project": "lab"},
        user="ada",
        safety_identifier="anon-1",
    )
    got = json.loads(response.output_text)
    told_to_obey = "\n".join([got.get("instructions") or "", *got["system"]])
    assert "You obey." in told_to_obey
    assert "Answer in Norwegian." in told_to_obey
    assert {name: got[name] for name in ("temperature", "top_p", "max_tokens", "allow_multiple_tool_calls")} == {
        "temperature": 0.25,
        "top_p": 0.5,
        "max_tokens": 1234,
        "allow_multiple_tool_calls": False,
    }
    assert "required" in str(got["tool_choice"])
    assert got["reasoning"] == {"effort": "low"}
    assert got["response_format"] == {"type": "json_object"}
    # … and the response repeats them.
    assert response.instructions == "Answer in Norwegian."
    assert (response.temperature, response.top_p, response.max_output_tokens) == (0.25, 0.5, 1234)
    assert (response.parallel_tool_calls, response.tool_choice) == (False, "required")
    assert [tool.type for tool in response.tools] == ["function"]
    assert response.metadata == {"project": "lab"}
    assert (response.user, response.safety_identifier) == ("ada", "anon-1")


def test_options_are_for_one_turn(sdk: openai.OpenAI, told: Any) -> None:
    told(sdk, "hi", conversation="once", temperature=0.25, instructions="Answer in Norwegian.")
    got = told(sdk, "options", conversation="once")
    assert "temperature" not in got
    assert "Norwegian" not in json.dumps(got)


def test_who_asks_chooses_no_conversation(sdk: openai.OpenAI, told: Any) -> None:
    told(sdk, "mine", safety_identifier="same", user="same")
    assert told(sdk, "history", safety_identifier="same", user="same") == []


def test_every_part_of_the_input_reaches_the_agent(sdk: openai.OpenAI) -> None:
    pdf = base64.b64encode(b"%PDF-1.7 \x00\xff").decode()
    parts: Any = [
        {"type": "input_text", "text": "contents"},
        {"type": "input_image", "image_url": PNG, "detail": "high"},
        {"type": "input_image", "image_url": "https://example.org/cat.jpg"},
        {"type": "input_file", "filename": "paper.pdf", "file_data": f"data:application/pdf;base64,{pdf}"},
        {"type": "input_file", "file_id": "file_123"},
        {"type": "input_text", "text": "\n ½ \u2028 🙂"},
    ]
    # The command is what the message's texts begin with.
    parts[-1]["text"] = " " + parts[-1]["text"]
    got = json.loads(sdk.responses.create(model="m", input=[{"role": "user", "content": parts}]).output_text)
    assert [content["type"] for content in got] == ["text", "data", "uri", "data", "hosted_file", "text"]
    assert got[1]["uri"] == PNG
    assert got[1]["media_type"] == "image/png"
    assert got[1]["additional_properties"]["detail"] == "high"
    assert got[2]["uri"] == "https://example.org/cat.jpg"
    assert got[3]["uri"] == f"data:application/pdf;base64,{pdf}"
    assert got[3]["additional_properties"]["filename"] == "paper.pdf"
    assert got[4]["file_id"] == "file_123"
    assert got[5]["text"] == " \n ½ \u2028 🙂"


def test_a_large_part_survives_a_restart(servers: Any, told: Any, tmp_path: Any) -> None:
    """Half a megabyte, many pages of the store, comes back byte for byte."""
    data = base64.b64encode(bytes(range(256)) * 2048).decode()
    part: Any = {"type": "input_file", "filename": "big.bin", "file_data": data}
    text: Any = {"type": "input_text", "text": "x" * 100_000}
    server = servers.command(state=tmp_path / "state")
    server.client().responses.create(model="m", input=[{"role": "user", "content": [text, part]}], conversation="large")
    server.stop()
    client = servers.command(state=tmp_path / "state").client()
    history = told(client, "history", conversation="large")
    assert history[0] == ["user", "x" * 100_000]
    assert history[1] == ["assistant", "1: " + "x" * 100_000]


def test_several_items_at_once(sdk: openai.OpenAI, told: Any) -> None:
    items: Any = [
        {"role": "user", "content": "was it you?"},
        {"role": "assistant", "content": "it was"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "thanks"}]},
    ]
    response = sdk.responses.create(model="m", input=items)
    assert response.output_text == "2: thanks"
    assert told(sdk, "history", previous_response_id=response.id) == [
        ["user", "was it you?"],
        ["assistant", "it was"],
        ["user", "thanks"],
        ["assistant", "2: thanks"],
    ]


def test_store_false_forgets_nothing(sdk: openai.OpenAI, told: Any, lab: Any) -> None:
    first = sdk.responses.create(model="m", input="off the record", store=False, conversation="unstored")
    assert first.store is False
    assert told(sdk, "still here", store=False, conversation="unstored") == "2: still here"
    assert told(sdk, "a point", previous_response_id=first.id) == "2: a point"
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(first.id)


def test_request_id_comes_back(sdk: openai.OpenAI, lab: Any) -> None:
    raw = sdk.responses.with_raw_response.create(model="m", input="hi", extra_headers={"x-request-id": "mine-17"})
    assert raw.headers["x-request-id"] == "mine-17"
    assert raw.parse()._request_id == "mine-17"
    ours = sdk.responses.create(model="m", input="hi")
    assert ours._request_id
    refused = httpx.post(f"{lab.base_url}/responses", json={}, headers={"x-request-id": "mine-18"}, trust_env=False)
    assert (refused.status_code, refused.headers["x-request-id"]) == (400, "mine-18")


# The SDK itself leaves its stream's generators to the collector, which trio tells.
@pytest.mark.filterwarnings("ignore:Async generator 'openai:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")
async def test_the_asynchronous_sdk(lab: Any) -> None:
    async with openai.AsyncOpenAI(base_url=lab.base_url, api_key="none", max_retries=0) as client:
        response = await client.responses.create(model="m", input="from trio")
        assert response.output_text == "1: from trio"
        async with client.responses.stream(model="m", input="too", previous_response_id=response.id) as stream:
            assert (await stream.get_final_response()).output_text == "2: too"
