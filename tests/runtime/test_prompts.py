"""Questions in words, and lines as answers to them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afactors.prompts import Inquiry, Prompt, Unfit, read_items


def requested(data: Any, schema: Any = None, **more: Any) -> dict[str, Any]:
    """The item of a request for information."""
    told = {"request_id": "r", "source": "desk", "data": data, **({"response_schema": schema} if schema else {})}
    arguments = json.dumps(told | more.pop("told", {}))
    return {"type": "function_call", "call_id": "q", "name": "request_info", "arguments": arguments, **more}


def approving(arguments: Any = '{"number": 7}', **more: Any) -> dict[str, Any]:
    return {"type": "mcp_approval_request", "id": "a", "name": "delete_note", "arguments": arguments, **more}


def only(*items: Any) -> Prompt:
    [prompt], calls = read_items(items)
    assert calls == []
    return prompt


# --- words


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (requested({"order": "ö7", "amount": 120}), 'desk asks: {"order": "ö7", "amount": 120}'),
        (requested("Shall I?"), "desk asks: Shall I?"),
        (requested("One.\nTwo?"), "desk asks:\n    One.\n    Two?\n "),
        (requested({"long": "x" * 100}), 'desk asks:\n    {\n      "long": "' + "x" * 100 + '"\n    }\n '),
        (requested(None), "desk asks"),
        (requested(0), "desk asks: 0"),
        (requested("Shall I?", told={"source": None}), "the workflow asks: Shall I?"),
        (requested(None, arguments="{spoilt"), "the workflow asks: {spoilt"),
        (requested(None, arguments="[1, 2]"), "the workflow asks: [1, 2]"),
        (requested(None, arguments=None), "the workflow asks"),
        (requested([[]]), "desk asks: [[]]"),
        (approving(), 'the agent asks whether to call delete_note: {"number": 7}'),
        (approving("{}", server_label="clerk"), "clerk asks whether to call delete_note"),
        (approving(None), "the agent asks whether to call delete_note"),
    ],
)
def test_a_question_in_words(item: Any, text: str) -> None:
    assert only(item).text == text


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        (None, "text, or JSON"),
        ({}, "text, or JSON"),
        ("spoilt", "text, or JSON"),
        ({"type": "boolean"}, "yes or no"),
        ({"type": "integer"}, "a whole number"),
        ({"type": "number"}, "a number"),
        ({"type": "string"}, "text"),
        ({"type": "string", "enum": ["small", "large"]}, "one of small, large"),
        ({"enum": ["small", 7]}, 'JSON: "small" or 7'),
        ({"type": "array", "items": {"type": "integer"}}, "JSON: [integer, ...]"),
        ({"type": "array"}, "JSON: [..., ...]"),
        ({"type": "object"}, "JSON: {...}"),
        ({"type": ["string", "null"]}, "JSON: ..."),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "JSON: string or null"),
        ({"$ref": "#/$defs/Node"}, "JSON: Node"),
        ({"type": "null"}, "JSON: null"),
        (
            {
                "type": "object",
                "required": ["ok"],
                "properties": {"ok": {"type": "boolean"}, "who": {"type": "object", "properties": {"name": {}}}},
            },
            "JSON: {ok: boolean, who?: {name?: ...}}",
        ),
    ],
)
def test_what_is_wanted(schema: Any, wanted: str) -> None:
    assert only(requested("?", schema)).wanted == wanted


def test_a_deep_schema_is_not_told_to_its_end() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(50):
        schema = {"type": "array", "items": schema}
    assert only(requested("?", schema)).wanted == "JSON: [[[[..., ...], ...], ...], ...]"


def test_what_is_too_deep_to_be_told_is_still_asked() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    assert only(requested(None, arguments=deep)).text.startswith("the workflow asks:\n    [[[")
    assert only(requested(None, told={"data": json.loads("[" * 800 + "]" * 800)})).text.startswith("desk asks:")


def test_questions_and_calls_among_the_items() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": '{"city": "Oslo"}'}
    done = {**call, "call_id": "d"}
    items = [
        {"type": "message"},
        "spoilt",
        call,
        approving(),
        done,
        {"type": "function_call_output", "call_id": "d"},
        requested("?"),
        {"type": "function_call", "call_id": "e"},
        {"type": "function_call", "name": "nameless"},
        {"type": "mcp_approval_request", "id": 7},
    ]
    prompts, calls = read_items(items)
    assert [prompt.id for prompt in prompts] == ["a", "q"]
    assert calls == ['weather: {"city": "Oslo"}']


def test_what_a_conversation_waits_for_has_an_id_only() -> None:
    item = requested("?") | {"id": "w"}
    del item["call_id"]
    assert only(item).id == "w"
    assert only(requested("?") | {"id": "fc_1"}).id == "q"


# --- lines

BOOLEAN, INTEGER, NUMBER, STRING, LIST = (
    {"type": kind} for kind in ("boolean", "integer", "number", "string", "array")
)


@pytest.mark.parametrize(
    ("schema", "line", "output"),
    [
        (BOOLEAN, "y", "true"),
        (BOOLEAN, " YES ", "true"),
        (BOOLEAN, "n", "false"),
        (BOOLEAN, "No", "false"),
        (INTEGER, " 7 ", "7"),
        (NUMBER, "-1.5e3", "-1.5e3"),
        (STRING, "  as it is ", "  as it is "),
        (STRING, "7", "7"),
        (None, "anything", "anything"),
        (LIST, " [1] ", "[1]"),
        (LIST, '"the server says what it thinks of this"', '"the server says what it thinks of this"'),
    ],
)
def test_an_answer(schema: Any, line: str, output: str) -> None:
    answer = only(requested("?", schema)).answer(line)
    assert answer == {"type": "function_call_output", "call_id": "q", "output": output}


@pytest.mark.parametrize(
    ("schema", "line", "complaint"),
    [
        *((BOOLEAN, line, "Please answer yes or no.") for line in ("true", "yes please", "j", "1", "ya")),
        *(
            (INTEGER, line, "Please answer with a number.")
            for line in ("seven", "true", "NaN", '"7"', "[7]", "9" * 5000, "[" * 100_000)
        ),
        (LIST, "one, two", "This is not JSON (Expecting value, column 1). Please answer in JSON."),
        (LIST, "[1,", "This is not JSON (Expecting value, column 4). Please answer in JSON."),
        (LIST, "[NaN]", "This is not JSON. Please answer in JSON."),
        (LIST, "[" * 100_000, "This is not JSON. Please answer in JSON."),
    ],
)
def test_what_is_no_answer(schema: Any, line: str, complaint: str) -> None:
    with pytest.raises(Unfit) as caught:
        only(requested("?", schema)).answer(line)
    assert str(caught.value) == complaint


def test_an_approval() -> None:
    for line, approve in (("y", True), ("no", False)):
        expected = {"type": "mcp_approval_response", "approval_request_id": "a", "approve": approve}
        assert only(approving()).answer(line) == expected
    with pytest.raises(Unfit):
        only(approving()).answer("maybe")


@given(line=st.text(), schema=st.sampled_from([BOOLEAN, INTEGER, NUMBER, STRING, LIST, None]))
def test_any_line_is_an_answer_or_is_not(line: str, schema: Any) -> None:
    try:
        output = only(requested("?", schema)).answer(line)["output"]
    except Unfit:
        assert schema not in (STRING, None)
    else:
        assert output == line if schema in (STRING, None) else json.loads(output) is not ...


# --- several at once


def test_several_are_answered_one_after_the_other_and_given_together() -> None:
    inquiry = Inquiry([Prompt("a", "?", "", approval=True), Prompt("q", "?", "", "string")])
    assert inquiry.take("y") == []
    with pytest.raises(Unfit):
        Inquiry(inquiry.prompts).take("?")
    answers = inquiry.take("well")
    assert [answer.get("approval_request_id") or answer["call_id"] for answer in answers] == ["a", "q"]
    assert inquiry.current is None
    inquiry.again()
    assert inquiry.current == inquiry.prompts[0]


def test_of_what_was_settled_meanwhile_the_rest_is_asked() -> None:
    one, other = Prompt("a", "?", ""), Prompt("b", "?", "")
    inquiry = Inquiry([one, other], [{}, {}])
    inquiry.settle([other])
    assert (inquiry.prompts, inquiry.answers) == ([other], [])
    inquiry.settle([other])  # it is being answered by somebody else
    assert inquiry.current is None
