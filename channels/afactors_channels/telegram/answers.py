"""Questions as messages with buttons, and the answers to them. Pure.

A button knows its question by a digest of the question's id (64 bytes are all that it can hold), so that whoever can
list the questions that wait can tell which one is meant, also after a restart.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from agent_framework import Content

from ..outcomes import Question, QuestionKind
from ..workflows import REQUEST_INFO, question_id
from .texts import clean, cut_off
from .updates import BUTTON

_DIGEST = 40
_MAX_QUESTION = 3500
_HINT = "Please reply to this message with your answer."
_TEXT_TYPES = ("text", "prompt", "question", "message", "title", "description")


class Choice(NamedTuple):
    """What a button means.

    Attributes:
        digest: Of the question's id.
        yes: Whether it approves.
    """

    digest: str
    yes: bool


def digest(question: str) -> str:
    """A name for a question that is short enough for a button."""
    return base64.urlsafe_b64encode(hashlib.sha256(question.encode("utf-8", "surrogatepass")).digest())[
        :_DIGEST
    ].decode()


def parse_choice(data: str) -> Choice | None:
    """What a button means; None if it is none of ours."""
    found = BUTTON.fullmatch(data)
    return Choice(found[1], found[2] == "y") if found is not None else None


# --- asking ------------------------------------------------------------------------------------------------


def ask(content: Content, thread: int | None = None) -> dict[str, Any]:
    """A question as what `sendMessage` takes: its text, and its buttons if two are enough to answer it.

    Args:
        content: The question.
        thread: The forum topic in which it is asked.
    """
    call = content.function_call if content.type == "function_approval_request" else content
    arguments = _plain(call.arguments) if call is not None else None
    kind, name = kind_of(content), (call.name or "" if call is not None else "")
    asked: dict[str, Any] = {"text": question_text(kind, name, arguments)}
    if kind == "approval" or _is_boolean(arguments):
        words = ("Approve", "Reject") if kind == "approval" else ("Yes", "No")
        asked["reply_markup"] = _buttons(digest(question_id(content)), words, thread)
    return asked


def kind_of(content: Content) -> QuestionKind:
    """What is asked for, as `Question.kind` has it."""
    if content.type == "function_approval_request":
        return "approval"
    return "input" if content.name == REQUEST_INFO else "call"


def question_text(kind: QuestionKind, name: str, arguments: Any) -> str:
    """What a question says; the same for a content and for the `Question` that it became."""
    if kind == "approval":
        shown = _shown(arguments)
        return f"May I use {clean(name) or 'a tool'}?" + (f"\n\n{shown}" if shown else "")
    if kind == "call":
        shown = _shown(arguments)
        return f"I need the result of {clean(name)}." + (f"\n\n{shown}" if shown else "") + f"\n\n{_HINT}"
    data = arguments.get("data") if isinstance(arguments, Mapping) else arguments
    asked = _asked(data) or "I need something from you."
    return asked if _is_boolean(arguments) else f"{asked}\n\n{_HINT}"


def _asked(data: Any) -> str:
    """What a request for information says, if it says it in a field that is called so."""
    if isinstance(data, Mapping):
        found = [data[name] for name in _TEXT_TYPES if isinstance(data.get(name), str) and data[name].strip()]
        if found:
            return cut_off(clean(found[0].strip()), _MAX_QUESTION)
    return _shown(data)


def _shown(value: Any) -> str:
    if value is None or value == {} or value == "":
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2, default=str)
    return cut_off(clean(text.strip()), _MAX_QUESTION)


def _is_boolean(arguments: Any) -> bool:
    schema = arguments.get("response_schema") if isinstance(arguments, Mapping) else None
    return isinstance(schema, Mapping) and schema.get("type") == "boolean"


def _buttons(name: str, words: Sequence[str], thread: int | None) -> dict[str, Any]:
    where = "" if thread is None else f":{thread}"  # of an old message, the servers tell only the chat
    data = [f"a:{name}:{verdict}{where}" for verdict in "yn"]
    row = [{"text": word, "callback_data": one} for word, one in zip(words, data, strict=True)]
    return {"inline_keyboard": [row]}


def _plain(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


# --- answering ---------------------------------------------------------------------------------------------


def chosen(choice: Choice, questions: Iterable[Question]) -> Question | None:
    """The question that a button belongs to."""
    return next((one for one in questions if digest(one.question_id) == choice.digest), None)


def meant(quoted: str, questions: Sequence[Question]) -> Question | None:
    """The question that a text answers: the one that it replies to, or the only one that waits for a text.

    Args:
        quoted: The text of the message that it replies to, if it replies to one.
        questions: All that wait.
    """
    open_ones = [one for one in questions if one.kind != "approval"]
    named = [one for one in open_ones if quoted and quoted.strip() == _text_of(one)]
    found = named or open_ones
    return found[0] if len(found) == 1 else None


def _text_of(question: Question) -> str:
    return question_text(question.kind, question.name, _plain(question.arguments)).strip()


def verdict(question: Question, *, yes: bool) -> dict[str, Any]:
    """A button's answer, as a message."""
    if question.kind == "approval":
        content = {"type": "function_approval_response", "id": question.question_id, "approved": yes}
        return {"type": "message", "role": "user", "contents": [content]}
    return reply(question, "true" if yes else "false")


def reply(question: Question, text: str) -> dict[str, Any]:
    """A text's answer, as a message."""
    content = {"type": "function_result", "call_id": question.question_id, "result": clean(text)}
    return {"type": "message", "role": "tool", "contents": [content]}
