"""Questions, as they are stored, and answers, as they come in. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent_framework import Content, Message
from pydantic_core import from_json

from afactors_channels import ChannelRequest, Conflicting, HostError, Question, QuestionKind, Unprocessable

from .history import pack, unpack
from .naming import document_name

VERSION = 1

_SAID_BEFORE = frozenset({"function_call", "function_approval_request", "text_reasoning"})

_YES = {"approve": True, "approved": True, "yes": True, "true": True, "reject": False, "rejected": False}
_YES |= {"no": False, "false": False, "deny": False, "denied": False}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as it is stored.

    Attributes:
        question_id: By which it is answered.
        kind: As in `Question`.
        name: As in `Question`.
        asked: When, in seconds since the epoch.
        request_id: What a workflow calls it.
        content: The content that asks it, serialized.
        closed: When it was answered, or lapsed; None while it is open.
        lapsed: Whether it was closed because what it asks about is no longer there.
    """

    question_id: str
    kind: QuestionKind
    name: str
    asked: float
    request_id: str = ""
    content: Mapping[str, Any] = field(default_factory=dict)
    closed: float | None = None
    lapsed: bool = False

    def encode(self) -> bytes:
        """As a versioned msgpack map; of one that is closed, no more than that it was."""
        record = {"v": VERSION, "q": self.question_id, "k": self.kind, "a": round(self.asked, 3)}
        if self.closed is not None:
            lapsed = {"x": True} if self.lapsed else {}
            return pack(record | {"d": round(self.closed, 3)} | lapsed, "question")
        return pack(record | {"n": self.name, "r": self.request_id, "c": dict(self.content)}, "question")

    @classmethod
    def decode(cls, data: bytes) -> Asked:
        """Read what `encode` wrote."""
        record = unpack(data)
        return cls(
            record["q"],
            record["k"],
            record.get("n", ""),
            record["a"],
            record.get("r", ""),
            record.get("c", {}),
            record.get("d"),
            record.get("x", False),
        )

    def open_at(self, now: float, timeout: float) -> bool:
        """Whether it can be answered."""
        return self.closed is None and now < self.asked + timeout

    def told(self, timeout: float) -> Question:
        """The question as channels know it."""
        call = self.content.get("function_call") or self.content
        return Question(
            self.question_id,
            self.kind,
            self.name,
            _plain(call.get("arguments")),
            self.asked,
            self.asked + timeout,
        )


def asked(content: Content, question_id: str, *, request_id: str = "") -> Asked:
    """A question from the content that asks it; when, is for the commit to say."""
    serialized = content.to_dict(exclude_none=True)
    if content.type == "function_approval_request":
        name = content.function_call.name if content.function_call is not None else None
        return Asked(question_id, "approval", name or "", 0.0, request_id, serialized)
    kind: QuestionKind = "input" if content.name == "request_info" else "call"
    return Asked(question_id, kind, content.name or content.type, 0.0, request_id, serialized)


def approvals(messages: Sequence[Message]) -> list[Asked]:
    """The approvals that an agent's answer asks for."""
    contents = [content for message in messages for content in message.contents]
    return [asked(one, one.id) for one in contents if one.type == "function_approval_request" and one.id]


def question_name(scope: str, question_id: str) -> str:
    """The document of a question. Workflows may choose its id: they have a scope for each session."""
    return document_name(f"{scope}\n{question_id}", "question")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that came with a request.

    Attributes:
        question: What it answers.
        content: As it came, serialized.
    """

    question: Asked
    content: Mapping[str, Any]


def called(answers: Mapping[str, Answer]) -> frozenset[str]:
    """What is answered, by the names that a history has for it."""
    asked = (answer.question for answer in answers.values() if answer.question.kind != "input")
    return frozenset(str(one.content.get("call_id") or one.content.get("id")) for one in asked)


def answering_contents(messages: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Sequence[Mapping[str, Any]], bool]]:
    """The contents of an input that may answer something, by the id of what they answer.

    Each with whether the call that it answers is told in the same input: then it may be part of a story.
    """
    contents = [content for message in messages for content in message.get("contents", ())]
    told = {one.get("call_id") for one in contents if one.get("type") == "function_call"}
    found: dict[str, list[Mapping[str, Any]]] = {}
    for content in contents:
        kind = {"function_approval_response": "id", "function_result": "call_id"}.get(content.get("type"), "")
        if name := content.get(kind):
            found.setdefault(name, []).append(content)
    return {name: (given, name in told and given[-1]["type"] == "function_result") for name, given in found.items()}


def has_approvals(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an input approves or rejects something."""
    contents = (content for message in messages for content in message.get("contents", ()))
    return any(content.get("type") == "function_approval_response" for content in contents)


def approval_of(answer: Answer) -> bool:
    """Whether an answer approves.

    Raises:
        Unprocessable: It says neither yes nor no.
    """
    content = answer.content
    said = content.get("approved") if content["type"] == "function_approval_response" else spoken(content)
    if isinstance(said, Mapping):
        said = next((said[name] for name in ("approve", "approved") if name in said), None)
    if isinstance(said, str):
        said = _YES.get(said.strip().lower())
    if not isinstance(said, bool):
        raise invalid_answer("An approval must be true or false.")
    return said


def approval_response(answer: Answer) -> Content:
    """An answer as the framework wants it: with the call that it approves, as we remember it."""
    call = Content.from_dict(dict(answer.question.content["function_call"]))
    return Content.from_function_approval_response(
        approved=approval_of(answer),
        id=answer.question.question_id,
        function_call=call,
        additional_properties=dict(answer.content.get("additional_properties") or {}),
    )


def spoken(content: Mapping[str, Any]) -> Any:
    """What a function's result says: JSON if it is some, else text."""
    return _plain(content.get("result"))


def invalid_answer(message: str) -> HostError:
    """For an answer that does not fit its question."""
    return Unprocessable(message, field="input", code="invalid_answer")


def _plain(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return from_json(value)  # which refuses what is nested more deeply than could be stored
    except (ValueError, TypeError):  # the latter for text that is none in any encoding
        return value


def check_answers(request: ChannelRequest, answers: Mapping[str, Answer], waiting: Sequence[str]) -> None:
    """Refuse a request that is not what a session waits for.

    Args:
        request: What came.
        answers: The answers in it.
        waiting: Ids of the questions that wait for answers.

    Raises:
        Conflicting: Questions wait, and this is something else.
        Unprocessable: It is both.
    """
    if answers and _says_more(request, answers):
        raise Unprocessable("Send answers by themselves, without other messages.", field="input", code="mixed_input")
    if waiting and not answers:
        shown = ", ".join(waiting[:3])
        raise Conflicting(
            f"The conversation waits for the answer to {shown}; answer it first (function_call_output).",
            field="input",
            code="question_open",
        )


def _says_more(request: ChannelRequest, answers: Mapping[str, Answer]) -> bool:
    """Whether an input holds something beside answers and what was said before them."""
    given = [answer.content for answer in answers.values()]
    contents = [content for message in request.input for content in message.get("contents", ())]
    return any(content.get("type") not in _SAID_BEFORE and content not in given for content in contents)
