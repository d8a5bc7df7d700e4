"""A request's body, validated.

Sources: Open Responses 2026-04-24 (`CreateResponseBody`), and openai-python 3.52 where the open form is
    silent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from afactors_channels.errors import BadRequest

from ..requests import ResponseTarget
from . import settings
from .fields import Check, array, boolean, choice, identifier, integer, members, number, refuse, string
from .items import SerializedMessage, parse_input
from .targets import check_target, check_waits


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A validated request for a response.

    Attributes:
        input: Messages in the framework's serialized form, at least one.
        model: What the client asked for. The hosted target's own model rules: this is only repeated to the
            client.
        instructions: The client's own, for this turn; also in `options`.
        previous_response_id: Continue from this response. Excludes `conversation_id`.
        conversation_id: Continue this conversation.
        stream: Whether the client wants events.
        store: Whether the response may be fetched later.
        background: Whether the run goes on without the client. Then `store` is not false.
        metadata: The client's own labels.
        user: Deprecated name of the end user.
        safety_identifier: Opaque name of the end user.
        tools: Client-side functions, each with `type`, `name`, `description`, `parameters` and, if given,
            `strict`.
        tool_choice: As the client sent it.
        options: Chat options by the framework's names; only what the client gave, and what cannot harm the
            host.
        echo: The fields of the response object that repeat the request.
        stream_options: How the client wants its events.
        include: What else the client wants in the output.
        response_target: Where the reply goes besides.
        unknown: The body's other fields, untouched, for the run hook.
    """

    input: Sequence[SerializedMessage]
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation_id: str | None = None
    stream: bool = False
    store: bool = True
    background: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    safety_identifier: str | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    echo: Mapping[str, Any] = field(default_factory=dict)
    stream_options: Mapping[str, Any] = field(default_factory=dict)
    include: Sequence[str] = ()
    response_target: ResponseTarget = ResponseTarget.originating
    unknown: Mapping[str, Any] = field(default_factory=dict)

    @property
    def client_tools(self) -> frozenset[str]:
        """Names of the functions that the client executes."""
        return frozenset(tool["name"] for tool in self.tools)


MAX_KEY = 256
"""How long an idempotency key may be."""

_encode_sorted = msgspec.json.Encoder(order="deterministic").encode
_VISIBLE = re.compile(r"[!-~]+")


def idempotency_key(header: str | None) -> str | None:
    """The value of an `Idempotency-Key` header, if there is one.

    Raises:
        BadRequest: It is not 1 to 256 visible ASCII characters.
    """
    if header is None or (1 <= len(header) <= MAX_KEY and _VISIBLE.fullmatch(header)):
        return header
    return refuse("Idempotency-Key", f"must be 1 to {MAX_KEY} visible ASCII characters")


def fingerprint(body: Mapping[str, Any]) -> str:
    """A digest of a body: the same for the same JSON, in whatever order the members stand."""
    return hashlib.blake2b(_encode_sorted(body), digest_size=16).hexdigest()


def parse_create(body: Mapping[str, Any]) -> CreateRequest:
    """Validate the body of `POST /responses`. A field that is null counts as not given.

    Raises:
        BadRequest: The first thing that is wrong, by its path.
    """
    if not isinstance(body, Mapping):
        raise BadRequest("The body must be a JSON object.", code="invalid_type")
    given: dict[str, Any] = {}
    unknown: dict[str, Any] = {}
    options: dict[str, Any] = {}
    echo: dict[str, Any] = {}
    for name, value in body.items():
        rule = _FIELDS.get(name)
        if rule is None:
            unknown[name] = value
        elif value is not None:
            given[name] = checked = rule.check(value, name)
            if rule.option is not None:
                options[rule.option] = checked
            if rule.echo:
                echo[name] = checked
    _check_together(given)
    for name in _SHAPES.keys() & given.keys():
        _SHAPES[name](given[name], options, echo)
    return CreateRequest(
        unknown=unknown,
        options=options,
        echo=echo,
        conversation_id=given.get("conversation"),
        tools=[settings.plain_tool(tool) for tool in given.get("tools", ())],
        **{name: given[name] for name in _ATTRIBUTES & given.keys()},
    )


def _check_together(given: Mapping[str, Any]) -> None:
    if "input" not in given:
        refuse("input", "is required", "missing_required_parameter")
    if "conversation" in given and "previous_response_id" in given:
        rule = "excludes 'conversation': give one of them"
        refuse("previous_response_id", rule, "mutually_exclusive_parameters")
    settings.check_background(given.get("background", False), given.get("store", True))
    if "response_target" in given:
        check_waits(given["response_target"], given.get("background", False))
    if "tool_choice" in given:
        settings.check_chosen(given["tool_choice"], given.get("tools", []))


class _Field(NamedTuple):
    """What to do with one field: check it, pass it on as a chat option, repeat it in the response."""

    check: Check
    option: str | None = None
    echo: bool = False


# `model`, `service_tier`, `truncation`, `safety_identifier`, `metadata` and the like are not passed on: the
# hosted target's own settings rule, and a run hook can still pass them.
_FIELDS: dict[str, _Field] = {
    "background": _Field(boolean, echo=True),
    "conversation": _Field(settings.check_conversation),
    "frequency_penalty": _Field(number(-2, 2), "frequency_penalty", echo=True),
    "include": _Field(array(settings.check_include)),
    "input": _Field(parse_input),
    # The framework appends these to the agent's own, for one run (`_merge_options`).
    "instructions": _Field(string(), "instructions", echo=True),
    "max_output_tokens": _Field(integer(1), "max_tokens", echo=True),
    "max_tool_calls": _Field(integer(1), echo=True),
    "metadata": _Field(settings.check_metadata, echo=True),
    "model": _Field(string(256, 1)),
    "parallel_tool_calls": _Field(boolean, "allow_multiple_tool_calls", echo=True),
    "presence_penalty": _Field(number(-2, 2), "presence_penalty", echo=True),
    "previous_response_id": _Field(identifier, echo=True),
    "prompt_cache_key": _Field(string(64), echo=True),
    "reasoning": _Field(settings.check_reasoning),
    "response_target": _Field(check_target),  # an extension
    "safety_identifier": _Field(string(64), echo=True),
    "seed": _Field(integer(-(2**63)), "seed"),  # not of this protocol, but the framework knows it
    "service_tier": _Field(string(64)),
    "stop": _Field(settings.check_stop, "stop"),  # likewise
    "store": _Field(boolean, echo=True),
    "stream": _Field(boolean),
    "stream_options": _Field(members({"include_obfuscation": boolean})),
    "temperature": _Field(number(0, 2), "temperature", echo=True),
    "text": _Field(settings.check_text),
    "tool_choice": _Field(settings.check_tool_choice, echo=True),
    "tools": _Field(settings.check_tools, echo=True),
    "top_logprobs": _Field(integer(0, 20), echo=True),
    "top_p": _Field(number(0, 1), "top_p", echo=True),
    "truncation": _Field(choice("auto", "disabled"), echo=True),
    "user": _Field(string(512), "user", echo=True),
}

# Fields whose form differs in the options or the response.
_SHAPES: dict[str, Callable[[Any, dict[str, Any], dict[str, Any]], None]] = {
    "conversation": settings.shape_conversation,
    "reasoning": settings.shape_reasoning,
    "store": settings.shape_store,
    "text": settings.shape_text,
    "tool_choice": settings.shape_tool_choice,
}

# Fields that the request keeps under their own names.
_ATTRIBUTES = frozenset(
    {
        "background",
        "include",
        "input",
        "instructions",
        "metadata",
        "model",
        "previous_response_id",
        "response_target",
        "safety_identifier",
        "store",
        "stream",
        "stream_options",
        "tool_choice",
        "user",
    }
)
