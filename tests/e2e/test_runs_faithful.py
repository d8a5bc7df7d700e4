"""What a response is when it is fetched: what it was when it was created, field by field, whatever is in it."""

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

TOOLS: Any = [
    {
        "type": "function",
        "name": name,
        "description": f"The {name} one",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": False,
    }
    for name in ("left", "right")
]
MODES = ["whole", "stream", "background", "background stream"]
FAILURES = {"failed", "cancelled"}


@pytest.fixture(scope="module")
def ended(sdk: openai.OpenAI, until: Any) -> Callable[..., dict[str, Any]]:
    """Creates a response in one of the modes, and returns it as its client saw it at its end."""

    def end(mode: str, **request: Any) -> dict[str, Any]:
        request = {"model": "m", "background": mode.startswith("background"), **request}
        if mode.endswith("stream"):
            with sdk.responses.create(**request, stream=True) as stream:
                *_, last = stream
            assert last.type == f"response.{'failed' if last.response.status in FAILURES else last.response.status}"
            return last.response.to_dict()
        response = sdk.responses.create(**request)
        if mode == "whole":
            return response.to_dict()
        assert response.status in ("queued", "in_progress")

        def ended() -> Any:
            now = sdk.responses.retrieve(response.id)
            return now if now.status not in ("queued", "in_progress") else None

        found: dict[str, Any] = until(ended, f"{request['input']} ends").to_dict()
        return found

    return end


def check_fetched(sdk: openai.OpenAI, seen: dict[str, Any]) -> None:
    """It is fetched as it was seen; and so is the end of its events."""
    assert sdk.responses.retrieve(seen["id"]).to_dict() == seen
    with sdk.responses.retrieve(seen["id"], stream=True) as stream:
        *events, last = stream
    assert last.response.to_dict() == seen
    numbers = [event.sequence_number for event in [*events, last]]
    assert numbers == list(range(len(numbers)))


def anonymous(response: dict[str, Any]) -> Any:
    """Without what differs from one response to the next."""
    own = {"created_at": 0, "completed_at": 0 if response["completed_at"] else None, "background": None}
    return json.loads(json.dumps({**response, **own}).replace(response["id"].removeprefix("resp_"), "…"))


PLAIN = ["reasoning", "thought", "refusal", "half-refusal", "cited", "image", "link", "cut", "filtered"]
PLAIN += ["two-messages", "repeated", "probable", "two-calls", "thinking-call", "everything"]


@pytest.mark.parametrize("shape", PLAIN)
def test_every_kind_of_answer(sdk: openai.OpenAI, ended: Any, shape: str) -> None:
    include = ["reasoning.encrypted_content", "message.output_text.logprobs"]
    every = [ended(mode, input=f"shape {shape}", tools=TOOLS, include=include) for mode in MODES]
    for seen in every:
        check_fetched(sdk, seen)
    # … and the ways to get it differ in nothing but how long one waits.
    assert [anonymous(seen) for seen in every[1:]] == [anonymous(every[0])] * 3


def test_what_each_kind_looks_like(ended: Any) -> None:
    """Once by hand, so that the comparisons above do not compare nothing with nothing."""
    include = ["reasoning.encrypted_content", "message.output_text.logprobs"]
    thought, image, message, refused, call = (
        ended("stream", input="shape everything", tools=TOOLS, include=include)["output"][:1]
        + ended("stream", input="shape image")["output"][1:2]
        + [
            ended("whole", input="shape cited")["output"][0],
            ended("background", input="shape refusal")["output"][0],
            ended("background stream", input="shape two-calls", tools=TOOLS)["output"][1],
        ]
    )
    assert (thought["id"], thought["encrypted_content"]) == ("rs_lab", "sealed-1")
    assert thought["summary"] == [{"type": "summary_text", "text": "Let me think."}]
    assert image["type"] == "image_generation_call"
    assert image["result"].startswith("iVBOR")
    assert [mark["type"] for mark in message["content"][0]["annotations"]] == ["url_citation", "file_citation"]
    assert refused["content"] == [{"type": "refusal", "refusal": "I will not."}]
    assert (call["name"], json.loads(call["arguments"])) == ("left", {"city": "Oslo"})
    cut = ended("background", input="shape cut")
    assert (cut["status"], cut["incomplete_details"], cut["completed_at"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
        None,
    )
    assert cut["usage"] == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
        "output_tokens": 13,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 24,
    }


@pytest.mark.parametrize("mode", MODES)
def test_a_stream_that_took_something_back(sdk: openai.OpenAI, ended: Any, mode: str) -> None:
    """A stream cannot unsay what it said; whoever fetches it later sees the same."""
    seen = ended(mode, input="shape taken-back")
    check_fetched(sdk, seen)
    texts = [part["text"] for item in seen["output"] for part in item["content"]]
    assert texts == (["It is 4", "No: 5."] if mode.endswith("stream") else ["No: 5."])


@pytest.mark.parametrize("mode", MODES)
def test_what_the_request_said_is_repeated(sdk: openai.OpenAI, ended: Any, mode: str) -> None:
    said: dict[str, Any] = {
        "instructions": "Answer in Norwegian.",
        "temperature": 0.25,
        "top_p": 0.5,
        "max_output_tokens": 1234,
        "max_tool_calls": 3,
        "parallel_tool_calls": False,
        "tool_choice": {"type": "function", "name": "left"},
        "tools": TOOLS,
        "metadata": {"project": "lab", "": "empty"},
        "user": "ada",
        "safety_identifier": "anon-1",
        "prompt_cache_key": "cache-1",
        "truncation": "auto",
        "top_logprobs": 2,
        "model": "gpt-5",
    }
    seen = ended(
        mode,
        input="hi",
        **said,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"},
        conversation=f"repeated-{mode}",
    )
    check_fetched(sdk, seen)
    assert {name: seen[name] for name in said} == said
    assert seen["reasoning"] == {"effort": "low", "summary": "auto"}
    assert seen["text"]["verbosity"] == "low"
    assert seen["text"]["format"]["name"] == "n"
    assert seen["conversation"] == {"id": f"repeated-{mode}"}
    assert seen["background"] is mode.startswith("background")
    follower = ended(mode, input="more", previous_response_id=seen["id"])
    check_fetched(sdk, follower)
    assert follower["previous_response_id"] == seen["id"]


@pytest.mark.parametrize("mode", ["stream", "background", "background stream"])
@pytest.mark.parametrize("text", ["fail now", "halfway through"])
def test_a_failure(sdk: openai.OpenAI, ended: Any, text: str, mode: str) -> None:
    seen = ended(mode, input=text)
    assert seen["status"] == "failed"
    assert seen["error"] == {"code": "server_error", "message": "The agent failed to answer."}
    check_fetched(sdk, seen)


def test_included_later(sdk: openai.OpenAI, ended: Any) -> None:
    """Who did not ask for the sealed reasoning when creating may when fetching."""
    for mode in MODES:
        seen = ended(mode, input="shape reasoning")
        assert "encrypted_content" not in seen["output"][0] or seen["output"][0]["encrypted_content"] is None
        later = sdk.responses.retrieve(seen["id"], include=["reasoning.encrypted_content"]).to_dict()
        assert later["output"][0]["encrypted_content"] == "sealed-1", mode


def test_a_conversation_has_the_same_items(sdk: openai.OpenAI, ended: Any) -> None:
    """What was answered is in its conversation, in the same words."""
    seen = ended("stream", input="shape everything", tools=TOOLS, conversation="same-items")
    items = [item.to_dict() for item in sdk.conversations.items.list("same-items", order="asc")]
    kinds = [item["type"] for item in items]
    assert kinds == ["message", *(item["type"] for item in seen["output"])]
    texts = [[part.get("text", part.get("refusal")) for part in item.get("content", [])] for item in items[1:]]
    assert texts == [
        [part.get("text", part.get("refusal")) for part in item.get("content", [])] for item in seen["output"]
    ]
