"""What every test of the Responses channel's pure half shares: a strict reader of event streams."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

# Open Responses 2026-04-24: what `ResponseResource` requires.
REQUIRED_KEYS = frozenset(
    [
        "id",
        "object",
        "created_at",
        "completed_at",
        "status",
        "incomplete_details",
        "model",
        "previous_response_id",
        "instructions",
        "output",
        "error",
        "tools",
        "tool_choice",
        "truncation",
        "parallel_tool_calls",
        "text",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "top_logprobs",
        "temperature",
        "reasoning",
        "usage",
        "max_output_tokens",
        "max_tool_calls",
        "store",
        "background",
        "service_tier",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
    ]
)
# … and which of them its schema lets be null.
NULLABLE = frozenset(
    [
        "completed_at",
        "incomplete_details",
        "previous_response_id",
        "instructions",
        "error",
        "reasoning",
        "usage",
        "max_output_tokens",
        "max_tool_calls",
        "safety_identifier",
        "prompt_cache_key",
        "metadata",
    ]
)
# … and what it requires of an event, beside `type` and `sequence_number`.
IDS = {"item_id", "output_index"}
EVENT_KEYS = {
    "response.created": {"response"},
    "response.queued": {"response"},
    "response.in_progress": {"response"},
    "response.completed": {"response"},
    "response.incomplete": {"response"},
    "response.failed": {"response"},
    "response.output_item.added": {"output_index", "item"},
    "response.output_item.done": {"output_index", "item"},
    "response.content_part.added": {*IDS, "content_index", "part"},
    "response.content_part.done": {*IDS, "content_index", "part"},
    "response.output_text.delta": {*IDS, "content_index", "delta", "logprobs"},
    "response.output_text.done": {*IDS, "content_index", "text", "logprobs"},
    "response.output_text.annotation.added": {*IDS, "content_index", "annotation_index", "annotation"},
    "response.refusal.delta": {*IDS, "content_index", "delta"},
    "response.refusal.done": {*IDS, "content_index", "refusal"},
    "response.function_call_arguments.delta": {*IDS, "delta"},
    "response.function_call_arguments.done": {*IDS, "arguments", "name"},
    "response.reasoning_summary_part.added": {*IDS, "summary_index", "part"},
    "response.reasoning_summary_part.done": {*IDS, "summary_index", "part"},
    "response.reasoning_summary_text.delta": {*IDS, "summary_index", "delta"},
    "response.reasoning_summary_text.done": {*IDS, "summary_index", "text"},
    "response.reasoning_text.delta": {*IDS, "content_index", "delta"},
    "response.reasoning_text.done": {*IDS, "content_index", "text"},
}
# The order of a part's events: what may follow what. Written anew here, not taken from the code under test.
PART_ORDER = {
    None: {"added"},
    "added": {"delta", "annotation", "done"},
    "delta": {"delta", "annotation", "done"},
    "annotation": {"delta", "annotation", "done"},
    "done": {"closed"},
    "closed": set(),
}
STEPS = {
    "response.content_part.added": "added",
    "response.reasoning_summary_part.added": "added",
    "response.output_text.delta": "delta",
    "response.refusal.delta": "delta",
    "response.reasoning_text.delta": "delta",
    "response.reasoning_summary_text.delta": "delta",
    "response.output_text.annotation.added": "annotation",
    "response.output_text.done": "done",
    "response.refusal.done": "done",
    "response.reasoning_text.done": "done",
    "response.reasoning_summary_text.done": "done",
    "response.content_part.done": "closed",
    "response.reasoning_summary_part.done": "closed",
}
OPENING = {"response.created", "response.queued", "response.in_progress"}
STATUSES = {"response.created": {"queued", "in_progress"}, "response.failed": {"failed", "cancelled"}}
_events = TypeAdapter(ResponseStreamEvent)


def check_response(response: dict[str, Any]) -> dict[str, Any]:
    assert response.keys() >= REQUIRED_KEYS
    assert {"user", "conversation"} <= response.keys()
    assert not [key for key in REQUIRED_KEYS - NULLABLE if response[key] is None]
    assert type(response["created_at"]) is int
    Response.model_validate(with_known_code(response))
    return response


def with_known_code(response: dict[str, Any]) -> dict[str, Any]:
    """With an error code that is on OpenAI's list: in the open form it is any text."""
    if response["error"] is None:
        return response
    assert response["error"].keys() == {"code", "message"}
    return {**response, "error": {**response["error"], "code": "server_error"}}


class StreamReader:
    """Reads events one by one, and refuses any that is out of order."""

    def __init__(self) -> None:
        self.count = 0
        self.opening = ["response.created", "response.in_progress"]
        self.open: dict[int, dict[str, Any]] = {}
        self.done: dict[int, dict[str, Any]] = {}
        self.added = 0
        self.parts: dict[tuple[int, str, int], str] = {}
        self.deltas: dict[Any, str] = defaultdict(str)
        self.annotations: dict[Any, list[Any]] = defaultdict(list)
        self.final: dict[str, Any] | None = None

    def read(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        assert self.final is None, "an event after the last one"
        assert event["sequence_number"] == self.count
        assert EVENT_KEYS[kind] <= event.keys()
        _events.validate_python(
            {**event, "response": with_known_code(event["response"])} if "response" in event else event
        )
        if not (self.count and kind == "response.failed"):  # a run may fail before it begins
            assert kind == self.opening.pop(0) if self.opening else kind not in OPENING
        if self.count == 0 and event["response"]["status"] == "queued":
            self.opening.insert(0, "response.queued")
        self.count += 1
        if "response" in event:
            self.lifecycle(kind, check_response(event["response"]))
        elif kind.startswith("response.output_item."):
            self.item(kind, event)
        else:
            assert self.open[event["output_index"]]["id"] == event["item_id"]
            (self.call if "function_call" in kind else self.part)(kind, event)

    def lifecycle(self, kind: str, response: dict[str, Any]) -> None:
        status = response["status"]
        assert status in STATUSES.get(kind, {kind.removeprefix("response.")})
        if kind in OPENING:
            assert response["output"] == []
            return
        assert self.open == {}
        assert response["output"] == [self.done[index] for index in range(self.added)]
        self.final = response

    def item(self, kind: str, event: dict[str, Any]) -> None:
        index, item = event["output_index"], event["item"]
        if kind.endswith("added"):
            assert index == self.added
            assert item.get("status") == (None if item["type"] == "mcp_approval_request" else "in_progress")
            assert not item.get("content")
            assert not item.get("summary")
            assert not item.get("arguments") or item["type"] == "mcp_approval_request"
            if item["type"] in ("message", "reasoning"):
                assert not [1 for other in self.open.values() if other["type"] in ("message", "reasoning")]
            self.added += 1
            self.open[index] = item
            return
        was = self.open.pop(index)
        assert (was["id"], was["type"], was.get("phase")) == (item["id"], item["type"], item.get("phase"))
        if item["type"] == "mcp_approval_request":  # the only kind without a status, and always there at once
            assert was == item
        else:
            assert item["status"] in ("completed", "incomplete")
        assert item["id"] not in [other["id"] for other in self.done.values()]
        for holder in ("content", "summary"):
            for number, part in enumerate(item.get(holder) or []):
                assert self.parts[index, holder, number] == "closed"
                assert part.get("text", part.get("refusal")) == self.deltas[index, holder, number]
                assert part.get("annotations", []) == self.annotations[index, number]
        opened = [key for key in self.parts if key[0] == index]
        assert len(opened) == len(item.get("content") or []) + len(item.get("summary") or [])
        if item["type"] == "function_call":
            assert item["arguments"] == self.deltas[index, "arguments"] == self.deltas[index, "done"]
            assert item["arguments"] or item["status"] == "incomplete"  # clients parse the arguments
        self.done[index] = item

    def part(self, kind: str, event: dict[str, Any]) -> None:
        holder = "summary" if "summary_index" in event else "content"
        key = (event["output_index"], holder, event.get("summary_index", event.get("content_index")))
        step = STEPS[kind]
        assert step in PART_ORDER[self.parts.get(key)]
        if step == "added":
            assert key[2] == len([1 for other in self.parts if other[:2] == key[:2]])
            assert all(state == "closed" for other, state in self.parts.items() if other[0] == key[0])
        self.parts[key] = step
        if step == "delta":
            assert event["delta"]
            self.deltas[key] += event["delta"]
        elif step == "annotation":
            assert event["annotation_index"] == len(self.annotations[key[0], key[2]])
            self.annotations[key[0], key[2]].append(event["annotation"])
        elif step == "done":
            assert event.get("text", event.get("refusal")) == self.deltas[key]
        elif step == "closed":
            part = event["part"]
            assert part.get("text", part.get("refusal")) == self.deltas[key]

    def call(self, kind: str, event: dict[str, Any]) -> None:
        index = event["output_index"]
        assert "done" not in self.parts.get((index, "call", 0), "")
        if kind.endswith("delta"):
            assert event["delta"]
            self.deltas[index, "arguments"] += event["delta"]
        else:
            assert event["name"] == self.open[index]["name"]
            self.deltas[index, "done"] = event["arguments"]


def read_stream(events: list[dict[str, Any]]) -> dict[str, Any]:
    reader = StreamReader()
    for event in events:
        reader.read(event)
    assert reader.final is not None
    return reader.final


@pytest.fixture(scope="session")
def read() -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Reads a whole stream strictly, and returns its last response object."""
    return read_stream


@pytest.fixture(scope="session")
def checked() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Checks a response object, and returns it."""
    return check_response
