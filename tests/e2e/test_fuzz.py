"""No input makes the server fail: requests made from its own OpenAPI document, and bytes that nobody asked for.

The agent takes whatever it is told and never fails, so that every answer of 500 is the server's own defect.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import hypothesis
import jsonschema_rs
import pytest
from hypothesis import strategies as st

KEY = "fuzz-key"
PATIENCE = 60.0  # seconds; only a hang takes so long
SOAK = 20 * 60.0  # seconds
SEED = "1"
LAST = ("response.completed", "response.incomplete", "response.failed", "error")
EXAMPLES = 60
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ensure_resource_availability",
    "ignored_auth",
]


# --- a server, and a wire to it


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Fuzzed:
    """A server that is fuzzed, and what its answers must be."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.prefix = "/v1"
        self._log_read = 0
        host, _, port = server.root.removeprefix("http://").rpartition(":")
        self._address = (host, int(port))
        self.document = json.loads(self.send("GET", "/openapi.json").body)
        components = self.document["components"]
        self._schemas = {
            name: jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}", "components": components})
            for name in ("Error", "Response", "StreamEvent", "ItemList", "ListedItem", "Conversation", "Compaction")
        }

    @property
    def operations(self) -> list[tuple[str, str]]:
        """Method and path of everything that is served."""
        paths = self.document["paths"]
        return [(method.upper(), path) for path, methods in paths.items() for method in methods]

    def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, bytes] | None = None) -> Answer:
        """One request, on a connection of its own; with the key, if the headers say nothing else."""
        fields = {"authorization": f"Bearer {KEY}".encode(), **(headers or {})}
        lines = [f"{method} {self.prefix}{path} HTTP/1.1".encode(), b"host: x", b"connection: close"]
        lines += [b"content-length: %d" % len(body), *(name.encode() + b": " + value for name, value in fields.items())]
        with socket.create_connection(self._address, timeout=PATIENCE) as wire:
            wire.sendall(b"\r\n".join([*lines, b"", body]))
            with http.client.HTTPResponse(wire, method=method) as response:
                response.begin()
                told = {name.lower(): value for name, value in response.getheaders()}
                return Answer(response.status, told, response.read())

    def check(self, answer: Answer) -> None:
        """It is not a failure of the server's, and its body is what it ought to be."""
        assert answer.status < 500 or answer.status == 501, answer
        kind = answer.headers.get("content-type", "")
        if answer.status >= 400:
            assert kind == "application/json"
            self._schemas["Error"].validate(json.loads(answer.body))
        elif kind.startswith("text/event-stream"):
            self.events(answer)
        else:
            json.loads(answer.body)

    def events(self, answer: Answer) -> list[dict[str, Any]]:
        """The events of a stream: numbered, whole, the last one last, and then the mark of the end."""
        *blocks, done, rest = answer.body.decode().split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        events = []
        for block in blocks:
            name, data = block.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
            self._schemas["StreamEvent"].validate(events[-1])
        first = events[0]["sequence_number"] if events else 0
        assert [event["sequence_number"] for event in events] == list(range(first, first + len(events)))
        assert [event["type"] in LAST for event in events[-1:]] == [True] * bool(events)
        assert not [event for event in events[:-1] if event["type"] in LAST]
        return events

    def told(self, schema: str, answer: Answer) -> Any:
        """What a successful answer says; it is of that schema."""
        self.check(answer)
        assert answer.status == 200, answer
        value = json.loads(answer.body)
        self._schemas[schema].validate(value)
        return value

    def check_turn(self, answer: Answer) -> str | None:
        """The same, of `POST /responses`; returns the response's id."""
        self.check(answer)
        assert answer.headers["x-request-id"]
        if answer.status != 200:
            return None
        if answer.headers["content-type"] == "application/json":
            response = json.loads(answer.body)
            self._schemas["Response"].validate(response)
        else:
            events = self.events(answer)
            response = events[-1]["response"]
            assert events[0]["sequence_number"] == 0
        assert response["status"] in ("completed", "incomplete") or response["background"], response
        return str(response["id"])

    def check_alive(self) -> None:
        """It still serves, and has nothing to complain of."""
        self.check_turn(self.send("POST", "/responses", b'{"input": "hello"}'))
        assert self.server.process.poll() is None
        assert "Traceback" not in self.read_log()

    def read_log(self) -> str:
        """What it has said since the last time."""
        log: str = self.server.stderr
        self._log_read, before = len(log), self._log_read
        return log[before:]


@pytest.fixture(scope="module")
def served(module_servers: Any) -> Fuzzed:
    """A server of the agent that never fails."""
    return Fuzzed(module_servers.command("--api-key", KEY, target="quick:make"))


@pytest.fixture
def fuzzed(served: Fuzzed) -> Fuzzed:
    """The same, for one test."""
    served.read_log()
    return served


# --- by the document


def schemathesis(fuzzed: Fuzzed, folder: Path, *options: str) -> None:
    """Run the fuzzer in a process of its own, for its own options and its own patches of the world."""
    target = f"{fuzzed.server.base_url}/openapi.json"
    common = ["--header", f"Authorization: Bearer {KEY}", "--no-color"]
    # What is not implemented answers 501 to everything, and that is what the document says; see below.
    common += ["--exclude-path", "/responses/input_tokens", "--checks", ",".join(CHECKS), "--continue-on-failure"]
    command = [sys.executable, "-m", "schemathesis.cli", "run", target, *common, *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_requests_made_from_the_document(fuzzed: Fuzzed, tmp_path: Path) -> None:
    schemathesis(fuzzed, tmp_path, "--seed", SEED, "--generation-deterministic", "--max-examples", "20")
    fuzzed.check_alive()


def test_what_is_not_implemented_says_so(fuzzed: Fuzzed) -> None:
    answer = fuzzed.send("POST", "/responses/input_tokens", b'{"input": "x"}')
    assert answer.status == 501
    fuzzed.check(answer)


# --- by nothing

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["", "message", "function", "user", "auto", "json_schema", "input_text", "text", "\ud83d", "\0"]),
)
MEMBERS = [
    "type",
    "id",
    "role",
    "content",
    "text",
    "name",
    "call_id",
    "output",
    "arguments",
    "summary",
    "tools",
    "mode",
]
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(MEMBERS) | st.text(max_size=8), inner, max_size=6)
    ),
    max_leaves=12,
)


def nested(depth: int, opening: str = '{"a":', closing: str = "}", core: str = "1") -> bytes:
    """JSON as deep as that."""
    return (opening * depth + core + closing * depth).encode()


DEPTHS = [10, 100, 200, 400, 500, 900, 1_000, 1_100, 2_000, 5_000, 100_000]
NUMBERS = [
    b"1e400",
    b"-1e400",
    b"1E-400",
    b"9" * 5_000,
    b"-" + b"9" * 400,
    b"0." + b"3" * 5_000,
    b"-0.0",
    b"NaN",
    b"1e5",
]
BROKEN_TEXTS = [
    rb'"\ud800"',
    rb'"\udc00\ud800"',
    b'"\xff"',
    b'"\xed\xa0\x80"',
    rb'"\u0000"',
    b'"\x00"',
    b'"\xef\xbf\xbf"',
]
# Where a request may hold anything at all: %b is for a JSON value, %q for its text.
IN_ITEMS = [
    b'{"input": [{"role": "user", "content": "x", "more": %b}]}',
    b'{"input": [{"role": "user", "content": [{"type": "input_text", "text": "x", "more": %b}]}]}',
    b'{"input": [{"type": "function_call_output", "call_id": "c", "output": "x", "more": %b}]}',
    b'{"input": [{"type": "reasoning", "summary": [], "more": %b}]}',
]
ELSEWHERE = [
    b'{"input": "x", "unknown": %b}',
    b'{"input": "x", "metadata": {"a": %b}}',
    b'{"input": "x", "tools": [{"type": "function", "name": "f", "parameters": {"a": %b}}]}',
    b'{"input": "x", "text": {"format": {"type": "json_schema", "name": "n", "schema": {"a": %b}}}}',
    b'{"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "%q"}]}',
    b'{"input": [{"type": "function_call_output", "call_id": "c", "output": "%q"}]}',
    b'{"input": "%q", "instructions": "%q", "stream": true}',
    b'{"input": "x", "reasoning": {"effort": "low", "more": %b}}',
    b'{"input": "x", "stream_options": {"more": %b}}',
    b'{"input": "x", "temperature": %b, "seed": %b}',
    b'{"input": %b, "stream": true, "conversation": %b}',
    b"%b",
]


def filled(template: bytes, value: bytes) -> bytes:
    """A request with this value wherever it may hold one."""
    return template.replace(b"%b", value).replace(b"%q", value.replace(b"\\", rb"\\").replace(b'"', rb"\""))


def deep_values() -> dict[str, bytes]:
    """JSON that takes a deep breath."""
    objects = {f"{depth} objects deep": nested(depth) for depth in DEPTHS}
    return objects | {f"{depth} arrays deep": nested(depth, "[", "]") for depth in DEPTHS}


def odd_values() -> dict[str, bytes]:
    """JSON, or nearly so, that parsers and encoders trip over."""
    values = [*NUMBERS, *BROKEN_TEXTS, b'{"a": 1, "a": 2}', b'"' + "\U0001f600".encode() * 10_000 + b'"']
    return {repr(value[:40]): value for value in values}


def encoded(value: Any) -> bytes:
    """JSON in ASCII, so that a lone surrogate is an escape."""
    return json.dumps(value).encode()


def explore(check: Callable[[Any], None], inputs: st.SearchStrategy[Any], examples: int, seed: int | None) -> None:
    """Check so many inputs: the same ones every time, or others by a seed."""

    def noted(value: Any) -> None:
        hypothesis.note(repr(value))
        check(value)

    test = hypothesis.given(inputs)(noted)
    if seed is not None:
        test = hypothesis.seed(seed)(test)
    health = list(hypothesis.HealthCheck)
    hypothesis.settings(
        max_examples=examples, derandomize=seed is None, database=None, deadline=None, suppress_health_check=health
    )(test)()


def bodies(fuzzed: Fuzzed, examples: int, seed: int | None = None) -> None:
    """Bodies that are no JSON, or JSON of any form."""
    valid = (
        b'{"model": "m", "input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}], "stream": true}'
    )
    cut = st.tuples(st.integers(0, len(valid)), st.integers(0, 4), st.binary(max_size=4))
    damaged = cut.map(lambda at: valid[: at[0]] + at[2] + valid[at[0] + at[1] :])
    whole = st.dictionaries(st.sampled_from(known_fields(fuzzed)) | st.text(max_size=5), VALUES, max_size=5).map(
        encoded
    )

    def check(body: bytes) -> None:
        fuzzed.check_turn(fuzzed.send("POST", "/responses", body))

    explore(check, st.binary(max_size=200) | damaged | whole, examples, seed)


def known_fields(fuzzed: Fuzzed) -> list[str]:
    """The fields of a request, by the document."""
    return [*fuzzed.document["components"]["schemas"]["CreateResponse"]["properties"]]


def fields(fuzzed: Fuzzed, examples: int, seed: int | None = None) -> None:
    """Anything under each known field, streamed or not."""

    def check(given: tuple[str, Any, bool]) -> None:
        name, value, stream = given
        fuzzed.check_turn(fuzzed.send("POST", "/responses", encoded({"input": "x", "stream": stream, name: value})))

    explore(check, st.tuples(st.sampled_from(known_fields(fuzzed)), VALUES, st.booleans()), examples, seed)


def paths(fuzzed: Fuzzed, examples: int, seed: int | None = None) -> None:
    """Anything as the ids in every path, and as the query."""
    encoded_id = st.binary(min_size=1, max_size=60).map(quote_from_bytes)
    odd = ["%2F", "..", ".", "%2e%2e", "a/b", "%00", "%0a", "%ff", "%", "%zz", "~", "+", ";", "null", "x" * 10_000]
    each = encoded_id | st.sampled_from([*odd, quote_from_bytes("é".encode() * 1_000), "resp_" + "0" * 48])
    asked = st.sampled_from(["limit", "order", "after", "include", "include[]", "stream", "starting_after", "x"])
    wanted = st.sampled_from(["", "true", "1", "-1", "99999999999999999999", "asc", "%00", "%ff", "1e3", "%d9%a3"])
    query = st.lists(st.tuples(asked, wanted | encoded_id), max_size=3).map(
        lambda pairs: "&".join(f"{name}={value}" for name, value in pairs)
    )
    body = st.sampled_from([b"", b"{}", b'{"metadata": null}', b'{"items": []}', b'{"input": "x"}']) | st.binary(
        max_size=9
    )

    def check(given: tuple[tuple[str, str], str, str, str, bytes]) -> None:
        (method, path), first, second, asks, content = given
        ids = iter([first, second])
        whole = re.sub(r"\{\w+\}", lambda _: next(ids), path) + (f"?{asks}" if asks else "")
        fuzzed.check(fuzzed.send(method, whole, content if method == "POST" else b""))

    explore(check, st.tuples(st.sampled_from(fuzzed.operations), each, each, query, body), examples, seed)


def headers(fuzzed: Fuzzed, examples: int, seed: int | None = None) -> None:
    """Anything in the headers that somebody reads."""
    named = ["idempotency-key", "x-request-id", "x-agent-user-isolation-key", "x-agent-chat-isolation-key"]
    named += ["authorization", "content-type", "accept"]
    printable = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40)
    value = printable | st.sampled_from(["", "Bearer", f"bearer  {KEY}", f"Bearer {KEY}\t", "x" * 10_000, "\xff" * 300])

    def check(given: dict[str, str]) -> None:
        sent = {name: text.encode("latin-1").strip() for name, text in given.items()}
        fuzzed.check_turn(fuzzed.send("POST", "/responses", b'{"input": "x"}', sent))

    explore(check, st.dictionaries(st.sampled_from(named), value, min_size=1, max_size=4), examples, seed)


ITEMS: list[dict[str, Any]] = [
    {"role": "user", "content": "x"},
    {"role": "developer", "content": [{"type": "input_text", "text": "x"}]},
    {"role": "assistant", "content": [{"type": "output_text", "text": "x"}, {"type": "refusal", "refusal": "x"}]},
    {"role": "user", "content": [{"type": "input_image", "file_id": "f"}, {"type": "input_file", "file_data": "AAAA"}]},
    {"role": "system", "content": []},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "x"},
    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "file_id": "f"}]},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}], "encrypted_content": "e"},
    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "x"}]},
    {"type": "image_generation_call", "result": "AAAA"},
]


def with_more(item: dict[str, Any], more: dict[str, Any], deeper: bool) -> dict[str, Any]:
    """An item, or the last of its parts, with further members."""
    for holder in ("content", "output", "summary"):
        if deeper and item.get(holder) and isinstance(item[holder], list):
            return {**item, holder: [*item[holder][:-1], {**more, **item[holder][-1]}]}
    return {**more, **item}


def items(fuzzed: Fuzzed, examples: int, seed: int | None = None) -> None:
    """Items with anything in them, kept and shown again."""
    named = st.sampled_from([*MEMBERS, "id", "status", "detail", "filename", "annotations", "logprobs", "message_id"])
    more = st.dictionaries(named | st.text(max_size=5), VALUES, max_size=3)
    each = st.tuples(st.sampled_from(ITEMS), more, st.booleans()).map(lambda made: with_more(*made))

    def check(given: list[dict[str, Any]]) -> None:
        made = fuzzed.send("POST", "/conversations", encoded({"items": given}))
        fuzzed.check(made)
        if made.status != 200:
            return
        place = f"/conversations/{fuzzed.told('Conversation', made)['id']}"
        listed = fuzzed.told("ItemList", fuzzed.send("GET", f"{place}/items?limit=100&order=asc"))["data"]
        assert len({item["id"] for item in listed}) == len(listed) > 0
        for item in listed:
            found = fuzzed.told(
                "ListedItem", fuzzed.send("GET", f"{place}/items/{quote_from_bytes(item['id'].encode())}")
            )
            assert found == item
        turn = fuzzed.send("POST", "/responses", encoded({"input": given, "conversation": place[15:]}))
        asked = f"/responses/{fuzzed.told('Response', turn)['id']}/input_items?limit=100&order=asc"
        again = fuzzed.told("ItemList", fuzzed.send("GET", asked))["data"]
        assert [item["type"] for item in again] == [item["type"] for item in listed]
        for item in reversed(listed):  # see `test_an_item_keeps_its_id`
            removed = fuzzed.send("DELETE", f"{place}/items/{quote_from_bytes(item['id'].encode())}")
            fuzzed.told("Conversation", removed)

    explore(check, st.lists(each, min_size=1, max_size=4), examples, seed)


def lives(fuzzed: Fuzzed, examples: int, seed: int | None = None) -> None:
    """What a response may be asked in the course of its life, and after it."""
    flags = st.fixed_dictionaries({name: st.booleans() for name in ("stream", "background", "store")})
    number = st.integers(0, 20) | st.sampled_from([1_000, 2**63 - 1])
    asked = st.one_of(
        number.map(lambda after: ("GET", f"?stream=true&starting_after={after}")),
        st.sampled_from(
            [("GET", ""), ("GET", "?stream=true"), ("GET", "/input_items"), ("POST", "/cancel"), ("DELETE", "")]
        ),
    )

    def check(given: tuple[dict[str, bool], list[tuple[str, str]]]) -> None:
        wanted, questions = given
        name = fuzzed.check_turn(fuzzed.send("POST", "/responses", encoded({"input": "count to 3", **wanted})))
        for method, rest in questions if name else ():
            answer = fuzzed.send(method, f"/responses/{name}{rest}")
            fuzzed.check(answer)
            if answer.status == 200 and "starting_after=" in rest:
                after = int(rest.rpartition("=")[2])
                assert [event["sequence_number"] for event in fuzzed.events(answer)][:1] in ([], [after + 1])

    explore(check, st.tuples(flags, st.lists(asked, max_size=5)), examples, seed)


EXPLORATIONS = [bodies, fields, paths, headers, items, lives]


@pytest.mark.parametrize("exploration", EXPLORATIONS)
def test_anything(fuzzed: Fuzzed, exploration: Callable[..., None]) -> None:
    exploration(fuzzed, EXAMPLES)
    fuzzed.check_alive()


def turns_with(fuzzed: Fuzzed, template: bytes, values: Mapping[str, bytes]) -> None:
    for name, value in values.items():
        try:
            turn = fuzzed.check_turn(fuzzed.send("POST", "/responses", filled(template, value)))
            if turn is not None:  # what was accepted must not be in the way of what follows
                follow_up = encoded({"input": "y", "previous_response_id": turn})
                fuzzed.told("Response", fuzzed.send("POST", "/responses", follow_up))
        except BaseException as exc:
            exc.add_note(name)
            raise
    fuzzed.check_alive()


@pytest.mark.parametrize("template", [*IN_ITEMS, *ELSEWHERE])
def test_odd_values(fuzzed: Fuzzed, template: bytes) -> None:
    turns_with(fuzzed, template, odd_values())


@pytest.mark.parametrize("template", ELSEWHERE)
def test_deep_values(fuzzed: Fuzzed, template: bytes) -> None:
    turns_with(fuzzed, template, deep_values())


@pytest.mark.parametrize("template", IN_ITEMS)
def test_deep_values_in_items(fuzzed: Fuzzed, template: bytes) -> None:
    turns_with(fuzzed, template, deep_values())


# --- what fuzzing has found, and nothing else looks at


@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing"), ("PUT", "/responses"), ("GET", "/responses/%ff")])
def test_every_answer_has_a_request_id(fuzzed: Fuzzed, method: str, path: str) -> None:
    assert fuzzed.send(method, path, headers={"x-request-id": b"mine"}).headers["x-request-id"] == "mine"


def test_a_body_that_nobody_reads_costs_no_connection(fuzzed: Fuzzed) -> None:
    client = fuzzed.server.http()
    for _ in range(200):
        answer = client.post(
            f"{fuzzed.prefix}/responses/resp_1/cancel", json={}, headers={"authorization": f"Bearer {KEY}"}
        )
        assert answer.status_code == 404


@pytest.mark.xfail(
    strict=True, reason="of two calls of one id, the second takes the id of the first when that is removed"
)
def test_an_item_keeps_its_id(fuzzed: Fuzzed) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    made = fuzzed.told("Conversation", fuzzed.send("POST", "/conversations", encoded({"items": [call, call]})))
    place = f"/conversations/{made['id']}/items"
    first, second = (item["id"] for item in fuzzed.told("ItemList", fuzzed.send("GET", f"{place}?order=asc"))["data"])
    fuzzed.told("Conversation", fuzzed.send("DELETE", f"{place}/{first}"))
    [left] = fuzzed.told("ItemList", fuzzed.send("GET", place))["data"]
    assert left["id"] == second


def test_input_alone_can_be_compacted(fuzzed: Fuzzed) -> None:
    answer = fuzzed.send("POST", "/responses/compact", encoded({"model": "m", "input": "hello"}))
    assert [item["type"] for item in fuzzed.told("Compaction", answer)["output"]] == ["message"]


@pytest.mark.soak
def test_for_long(fuzzed: Fuzzed, tmp_path: Path) -> None:
    end = time.monotonic() + SOAK
    seed = time.time_ns()
    print(f"seed {seed}")
    schemathesis(
        fuzzed, tmp_path, "--seed", str(seed), "--max-time", str(int(SOAK / 2)), "--generation-database", "none"
    )
    while time.monotonic() < end:
        for exploration in EXPLORATIONS:
            seed += 1
            exploration(fuzzed, EXAMPLES, seed)
        fuzzed.check_alive()
