"""What a workflow is run with: messages or text, by what its first executor takes, or the run hook's payload. Pure.

A payload is stored as plain data, and made an instance again when the turn runs.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from agent_framework import FunctionalWorkflow, Message, RunContext
from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from afactors_channels import ChannelRequest, Unprocessable

from .instances import AnyWorkflow

_MAX_COMPLAINTS = 3


def input_types(workflow: AnyWorkflow) -> list[Any]:
    """The types that a workflow may be run with; `Any` for what it does not say."""
    if not isinstance(workflow, FunctionalWorkflow):
        return [one for kind in workflow.input_types for one in _taken_apart(kind)]
    function = inspect.unwrap(workflow)  # type: ignore[arg-type]
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # noqa: BLE001 - annotations are user code; without them anything goes
        hints = {}
    for name in inspect.signature(function).parameters:
        if name != "ctx" and hints.get(name) is not RunContext:
            return _taken_apart(hints.get(name, Any))
    return []


def _taken_apart(kind: Any) -> list[Any]:
    """The types of a union; any other by itself."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [one for part in typing.get_args(kind) if part is not type(None) for one in _taken_apart(part)]
    return [kind]


def check_entry(kinds: Sequence[Any], request: ChannelRequest) -> ChannelRequest:
    """A request whose input fits, its payload as plain data.

    Raises:
        Unprocessable: It does not fit.
    """
    if request.payload is None:
        entry(kinds, request, [Message.from_dict(dict(message)) for message in request.input])
        return request
    kind, value = _instance(kinds, request.payload)
    return request.replace(payload=TypeAdapter(kind).dump_python(value, mode="json"))


def entry(kinds: Sequence[Any], request: ChannelRequest, messages: list[Message]) -> Any:
    """What the workflow is run with.

    Raises:
        Unprocessable: Nothing that it takes can be made of the request.
    """
    if request.payload is not None:
        return _instance(kinds, request.payload)[1]
    if any(kind is Any or _is_messages(kind) for kind in kinds):
        return messages
    text = "\n".join(message.text for message in messages if message.role == "user" and message.text)
    if Message in kinds and messages:
        return messages[-1]
    if str in kinds:
        return text
    for kind in kinds:
        adapter = _adapter(kind)
        try:
            if adapter is not None:
                return adapter.validate_json(text)
        except ValidationError:
            continue
    wanted = " or ".join(map(_name, kinds)) or "nothing"
    raise Unprocessable(
        f"This workflow takes {wanted}, which the message is not; send it as JSON text, or have a run hook make it.",
        field="input",
        code="invalid_payload",
    )


def _instance(kinds: Sequence[Any], payload: Any) -> tuple[Any, Any]:
    """The first type that a payload fits, and the payload as one of it."""
    complaints: list[str] = []
    for kind in kinds:
        adapter = _adapter(kind)
        if adapter is None:
            continue
        try:
            return kind, adapter.validate_python(payload)
        except ValidationError as exc:
            complaints += [_complaint(error) for error in exc.errors()[:_MAX_COMPLAINTS]]
    wanted = " or ".join(map(_name, kinds)) or "nothing"
    told = "; ".join(complaints[:_MAX_COMPLAINTS])
    raise Unprocessable(
        f"The workflow takes {wanted}, which this is not{': ' + told if told else ''}.",
        field="payload",
        code="invalid_payload",
    )


def fitted(kind: Any, value: Any) -> Any:
    """A value as one of a type.

    Raises:
        ValueError: It is none, in the words of whoever looked.
    """
    if kind is Message or _is_messages(kind):
        messages = _messages(value)
        return messages if kind is not Message else messages[-1]
    adapter = _adapter(kind)
    if adapter is None:
        if isinstance(kind, type) and isinstance(value, kind):
            return value
        raise ValueError(f"a {_name(kind)} cannot be made of plain data")
    try:
        return adapter.validate_python(value)
    except ValidationError as exc:
        raise ValueError("; ".join(_complaint(error) for error in exc.errors()[:_MAX_COMPLAINTS])) from exc


def _messages(value: Any) -> list[Message]:
    """Messages from text, from one message in its serialized form, or from several of either."""
    parts = value if isinstance(value, list) and value else [value]
    try:
        return [Message("user", [one]) if isinstance(one, str) else Message.from_dict(dict(one)) for one in parts]
    except Exception as exc:  # the framework says this in many ways
        raise ValueError("neither text nor messages") from exc


def _adapter(kind: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(kind)
    except (PydanticSchemaGenerationError, PydanticUserError):
        return None


def _is_messages(kind: Any) -> bool:
    if typing.get_origin(kind) in (list, Sequence):
        arguments = typing.get_args(kind)
        return any(one is Message or Message in typing.get_args(one) for one in arguments)
    return False


def _complaint(error: Mapping[str, Any]) -> str:
    place = ".".join(map(str, error["loc"]))
    return f"{place}: {error['msg']}" if place else str(error["msg"])


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind)
