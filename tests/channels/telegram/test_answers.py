"""Questions as buttons, and their answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from agent_framework import Content, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from afactors_channels import Question
from afactors_channels.readers import is_question
from afactors_channels.telegram import answers
from afactors_channels.telegram.texts import units
from afactors_channels.workflows import REQUEST_INFO

CALL = Content.from_function_call("c", "delete_files", arguments={"path": "/data"})
APPROVAL = Content.from_function_approval_request("q1", CALL)


def info(data: Any, schema: Any = None, name: str = "r1") -> Content:
    arguments = {"request_id": name, "source": "x", "data": data}
    content = Content.from_function_call(
        name, REQUEST_INFO, arguments=arguments | ({"response_schema": schema} if schema else {})
    )
    content.user_input_request = True
    return content


def question(question_id: str, kind: Any = "input", arguments: Any = None, name: str = REQUEST_INFO) -> Question:
    return Question(question_id, kind, name, arguments, 0.0, 1.0)


def buttons(asked: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["text"], one["callback_data"]) for one in asked["reply_markup"]["inline_keyboard"][0]]


def test_an_approval():
    asked = answers.ask(APPROVAL)
    assert "delete_files" in asked["text"]
    assert '"/data"' in asked["text"]
    assert [word for word, _ in buttons(asked)] == ["Approve", "Reject"]
    choices = [answers.parse_choice(data) for _, data in buttons(asked)]
    assert [choice and choice.yes for choice in choices] == [True, False]
    waiting = question("q1", "approval", {"path": "/data"}, "delete_files")
    assert choices[0] is not None
    assert answers.chosen(choices[0], [question("other"), waiting]) is waiting


@settings(deadline=None)
@given(st.text())
def test_buttons_fit(question_id: str):
    asked = answers.ask(Content.from_function_approval_request(question_id, CALL))
    for _, data in buttons(asked):
        assert len(data.encode()) <= 64
        assert answers.parse_choice(data) is not None


@settings(deadline=None)
@given(st.integers(1, 10**15))
def test_buttons_know_their_topic(thread: int):
    for _, data in buttons(answers.ask(APPROVAL, thread)):
        assert len(data.encode()) <= 64
        assert answers.parse_choice(data) is not None
        assert data.endswith(f":{thread}")


@pytest.mark.parametrize("data", ["", "x", "a:short:y", f"a:{'x' * 40}:z", f"b:{'x' * 40}:y"])
def test_buttons_of_others(data: str):
    assert answers.parse_choice(data) is None


def test_a_boolean_has_buttons():
    asked = answers.ask(info({"prompt": "Shall I?"}, {"type": "boolean"}))
    assert asked["text"] == "Shall I?"
    assert [word for word, _ in buttons(asked)] == ["Yes", "No"]


@pytest.mark.parametrize("data", ["How much?", {"question": "How much?", "id": 3}])
def test_a_request_for_information(data: Any):
    asked = answers.ask(info(data, {"type": "string"}))
    assert asked["text"].startswith("How much?")
    assert "reply" in asked["text"]
    assert "reply_markup" not in asked


def test_arguments_as_text():
    content = Content.from_function_call("r1", REQUEST_INFO, arguments=json.dumps({"data": "How much?"}))
    content.user_input_request = True
    assert answers.ask(content)["text"].startswith("How much?")


def test_a_question_fits_a_message():
    assert units(answers.ask(info("😀" * 5000))["text"]) <= 4096
    assert units(answers.ask(info({"x": "\ud83d" * 5000}))["text"]) <= 4096


def test_a_plain_call_is_no_question():
    assert not is_question(CALL)
    assert is_question(APPROVAL)
    assert is_question(info("x"))


def test_which_question_a_text_means():
    one, two = question("r1", arguments={"data": "One?"}), question("r2", arguments={"data": "Two?"})
    approval = question("q1", "approval")
    assert answers.meant("", [one, approval]) is one
    assert answers.meant("", [one, two]) is None
    assert answers.meant("", [approval]) is None
    assert answers.meant(answers.ask(info({"x": 1}))["text"], [one, two]) is None
    assert answers.meant(answers.ask(info("Two?"))["text"], [one, two]) is two


def test_answers_as_messages():
    approved = Message.from_dict(answers.verdict(question("q1", "approval"), yes=True))
    assert (approved.role, approved.contents[0].id, approved.contents[0].approved) == ("user", "q1", True)
    told = Message.from_dict(answers.verdict(question("r1"), yes=False))
    assert (told.role, told.contents[0].call_id, told.contents[0].result) == ("tool", "r1", "false")
    assert answers.reply(question("r1"), "5 €")["contents"][0]["result"] == "5 €"
