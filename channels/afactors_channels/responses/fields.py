"""Validators of single values: each takes a value and its path, and returns it or refuses it by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeAlias

from afactors_channels.errors import BadRequest

Check: TypeAlias = Callable[[Any, str], Any]

MAX_ID = 256
MAX_CONVERSATION = 1024  # bytes
MAX_TEXT = 10_485_760  # Open Responses: the longest text that an item may carry
MAX_INTEGER = 2**63 - 1

_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def refuse(path: str, rule: str, code: str = "invalid_value") -> NoReturn:
    """Raise the error that says which field broke which rule."""
    raise BadRequest(f"'{path}' {rule}.", field=path, code=code)


def required(value: Mapping[str, Any], name: str, path: str = "") -> Any:
    """The named member of a mapping; null counts as missing."""
    member = value.get(name)
    if member is None:
        refuse(f"{path}.{name}" if path else name, "is required", "missing_required_parameter")
    return member


def string(limit: int = MAX_TEXT, at_least: int = 0) -> Check:
    """Text of so many characters, which UTF-8 can express."""

    def check(value: Any, path: str) -> str:
        if not isinstance(value, str):
            refuse(path, "must be a string", "invalid_type")
        if len(value) > limit:
            refuse(path, f"must be at most {limit} characters long", "string_above_max_length")
        if len(value) < at_least:
            refuse(path, f"must be at least {at_least} characters long", "string_below_min_length")
        if not value.isascii():
            _expressible(value, path)
        return value

    return check


def _expressible(value: str, path: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        refuse(path, "must not contain a lone surrogate")


def identifier(value: Any, path: str) -> str:
    """A name that may become part of a key: no NUL, no control character, no lone surrogate."""
    if not isinstance(value, str):
        refuse(path, "must be a string", "invalid_type")
    if not 1 <= len(value) <= MAX_ID or not value.isprintable():
        refuse(path, f"must be 1 to {MAX_ID} printable characters")
    return value


def conversation_name(value: Any, path: str) -> str:
    """A name of the client's own choice: any text that an isolation key may be."""
    if not isinstance(value, str):
        refuse(path, "must be a string", "invalid_type")
    _expressible(value, path)
    if not 1 <= len(value.encode()) <= MAX_CONVERSATION or "\0" in value:
        refuse(path, f"must be 1 to {MAX_CONVERSATION} bytes of UTF-8 without NUL")
    return value


def function_name(value: Any, path: str) -> str:
    """A function's name, as Open Responses limits it."""
    if not isinstance(value, str):
        refuse(path, "must be a string", "invalid_type")
    if not _FUNCTION_NAME.fullmatch(value):
        refuse(path, "must be 1 to 64 letters, digits, underscores or hyphens")
    return value


def number(low: float, high: float) -> Check:
    """A number within a range; true and false are not numbers, and NaN is in no range."""

    def check(value: Any, path: str) -> float:
        if type(value) not in (int, float):
            refuse(path, "must be a number", "invalid_type")
        if not low <= value <= high:
            refuse(path, f"must be between {low} and {high}")
        return float(value)

    return check


def integer(low: int, high: int = MAX_INTEGER) -> Check:
    """An integer within a range."""
    rule = f"must be between {low} and {high}" if high != MAX_INTEGER else f"must be {low} or more"

    def check(value: Any, path: str) -> int:
        if type(value) is not int:
            refuse(path, "must be an integer", "invalid_type")
        if not low <= value <= MAX_INTEGER or value > high:
            refuse(path, rule)
        return value

    return check


def boolean(value: Any, path: str) -> bool:
    """True or false, and nothing that only looks like it."""
    if value is not True and value is not False:
        refuse(path, "must be true or false", "invalid_type")
    return value


def choice(*values: str) -> Check:
    """One of a few words."""
    known = frozenset(values)
    rule = f"must be one of: {', '.join(values)}"

    def check(value: Any, path: str) -> str:
        if not isinstance(value, str) or value not in known:
            refuse(path, rule)
        return value

    return check


def mapping(value: Any, path: str) -> Mapping[str, Any]:
    """A JSON object."""
    if not isinstance(value, Mapping):
        refuse(path, "must be an object", "invalid_type")
    return value


def array(check: Check, limit: int | None = None) -> Check:
    """A JSON array of values that each pass a check."""

    def check_all(value: Any, path: str) -> list[Any]:
        items = array_of_anything(value, path)
        if limit is not None and len(items) > limit:
            refuse(path, f"must have at most {limit} items")
        return [check(item, f"{path}[{index}]") for index, item in enumerate(items)]

    return check_all


def array_of_anything(value: Any, path: str) -> list[Any]:
    """A JSON array."""
    if not isinstance(value, list):
        refuse(path, "must be an array", "invalid_type")
    return value


def members(checks: Mapping[str, Check]) -> Check:
    """A JSON object whose named members, where given, pass their checks; what else it holds is kept."""

    def check(value: Any, path: str) -> dict[str, Any]:
        found = dict(mapping(value, path))
        for name, member_check in checks.items():
            if (member := found.get(name)) is not None:
                found[name] = member_check(member, f"{path}.{name}")
        return found

    return check
