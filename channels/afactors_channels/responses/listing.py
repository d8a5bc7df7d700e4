"""Queries: pages of a list of items, and how a response is to be fetched.

Parameters that nobody here knows are ignored; one that is known and wrong is refused by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast
from urllib.parse import parse_qsl

from afactors_channels.errors import BadRequest

from .fields import Check, choice, identifier, integer, refuse
from .settings import check_include

MAX_PAGE = 100
DEFAULT_PAGE = 20

_MAX_PARAMETERS = 100
_TRUTH = {"true": True, "1": True, "false": False, "0": False}

_limit = integer(1, MAX_PAGE)
_order = choice("asc", "desc")
_sequence = integer(0)


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted.

    Attributes:
        limit: How many items at most.
        order: ``asc``: the oldest first; ``desc``: the newest first.
        after: Only what comes after the item with this id, in that order.
        include: What else the client wants in the items.
    """

    limit: int = DEFAULT_PAGE
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    include: tuple[str, ...] = ()


class StreamQuery(NamedTuple):
    """How a response is to be fetched.

    Attributes:
        stream: Whether the client wants its events.
        starting_after: Only events with a higher number than this.
        include: What else the client wants in the output.
    """

    stream: bool = False
    starting_after: int | None = None
    include: tuple[str, ...] = ()


def parse_page(query_string: bytes) -> Page:
    """The query of a list: `limit`, `order`, `after` and `include`.

    Raises:
        BadRequest: One of them is wrong.
    """
    query = _Query(query_string)
    order = query.one("order", _order) or "desc"
    return Page(
        limit=query.number("limit", _limit) or DEFAULT_PAGE,
        order=cast(Literal["asc", "desc"], order),
        after=query.one("after", identifier),
        include=query.include,
    )


def parse_stream_query(query_string: bytes) -> StreamQuery:
    """The query of `GET /responses/{id}`: `stream`, `starting_after` and `include`.

    Raises:
        BadRequest: One of them is wrong.
    """
    query = _Query(query_string)
    return StreamQuery(
        stream=query.one("stream", _truth) or False,
        starting_after=query.number("starting_after", _sequence),
        include=query.include,
    )


def parse_include(query_string: bytes) -> tuple[str, ...]:
    """The only parameter of queries about single items.

    Raises:
        BadRequest: It names something unknown.
    """
    return _Query(query_string).include


def page_of(items: Sequence[dict[str, Any]], page: Page) -> dict[str, Any]:
    """One page of a list.

    Args:
        items: All items, the oldest first.
        page: Which of them are wanted.

    Raises:
        BadRequest: The item that the page is to begin after is not there.
    """
    ordered = items if page.order == "asc" else items[::-1]
    start = 0
    if page.after is not None:
        start = next((number for number, item in enumerate(ordered, 1) if item["id"] == page.after), 0)
        if not start:
            refuse("after", "must be the id of an item in this list")
    return list_of(ordered[start : start + page.limit], has_more=len(ordered) > start + page.limit)


def list_of(items: Sequence[dict[str, Any]], *, has_more: bool = False) -> dict[str, Any]:
    """A list as the protocol has it; without items it has no first and no last id."""
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


class _Query:
    """A query's parameters, by name."""

    def __init__(self, query_string: bytes) -> None:
        try:
            pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
        except ValueError:
            raise BadRequest(f"The query must have at most {_MAX_PARAMETERS} parameters.") from None
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name.removesuffix("[]"), []).append(value)

    def one(self, name: str, check: Check) -> Any:
        """A parameter's value, or None if it is not given; given more than once, the last counts."""
        values = self._values.get(name)
        return check(values[-1], name) if values else None

    def number(self, name: str, check: Check) -> int | None:
        """A whole number."""
        number: int | None = self.one(name, lambda value, path: check(_whole(value, path), path))
        return number

    @property
    def include(self) -> tuple[str, ...]:
        """`include=a&include=b`, or, as OpenAI's SDKs send it, `include[]=a&include[]=b`."""
        values = self._values.get("include", [])
        return tuple(check_include(value, f"include[{index}]") for index, value in enumerate(values))


def _whole(value: str, path: str) -> int:
    digits = value.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
        refuse(path, "must be an integer", "invalid_type")
    return int(value)


def _truth(value: str, path: str) -> bool:
    if value not in _TRUTH:
        refuse(path, "must be true or false", "invalid_type")
    return _TRUTH[value]
