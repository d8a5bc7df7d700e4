"""A workflow's state as plain data and back, in the framework's own form, but for types that are no classes.

The framework pickles whatever JSON has no form for, and restores it by an allow-list of classes. What a question's
answer must be (`list[str]`, `int | None`, `Literal[…]`) is pickled by way of functions, which no allow-list lets in.
Here it is a `TypeOf`, which is a class.

Whoever looks at a type evaluates what is text in it. So nothing is a type here that holds anything else than types.
"""

from __future__ import annotations

import base64
import io
import pickle
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

from agent_framework._workflows._checkpoint_encoding import decode_checkpoint_value  # documented, and not exported

from afactors_channels.workflows import is_type

_ALIASES = (
    type(list[int]),
    type(int | None),
    type(typing.List[int]),  # noqa: UP006 - its type is what is wanted
    type(typing.Optional[int]),  # noqa: UP045 - likewise
    type(Literal[1]),
)


class TypeOf:
    """Not a type, but how one that is no class is written down: making one gives the type itself.

    Args:
        origin: The class that takes the arguments; ``union`` or ``literal``.
        args: Its arguments.
    """

    def __new__(cls, origin: Any, args: tuple[Any, ...]) -> Any:
        """The type.

        Raises:
            UnpicklingError: The origin is no class, or an argument no type.
        """
        if origin == "literal":
            return Literal[args]
        for one in args if origin == "union" else (origin, *args):
            checked_type(one)
        return Union[args] if origin == "union" else origin[args]  # noqa: UP007 - there may be any number


def checked_type(kind: Any) -> None:
    """Look at what should be a type.

    Raises:
        UnpicklingError: It is none, or is made of something that is none.
    """
    if not is_type(kind):
        one = kind if isinstance(kind, type) else type(kind)
        raise pickle.UnpicklingError(f"'{one.__module__}:{one.__qualname__}' stands where only a type may")


NAME = f"{TypeOf.__module__}:{TypeOf.__qualname__}"
"""What an allow-list must have for it."""


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, _ALIASES):
            return NotImplemented
        origin: Any = typing.get_origin(value)
        if origin in (Union, types.UnionType):
            origin = "union"
        elif origin is Literal:
            origin = "literal"
        return TypeOf, (origin, typing.get_args(value))


def encode(value: Any) -> Any:
    """A value as plain data.

    Raises:
        Exception: Whatever pickling it raises: it runs the classes' own code.
    """
    if type(value) is dict and _plain_keys(value):
        return {key: encode(item) for key, item in value.items()}
    if type(value) is list:
        return [encode(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return _pickled(value)


def _plain_keys(value: Mapping[Any, Any]) -> bool:
    return all(type(key) is str and key not in ("__pickled__", "__type__") for key in value)


def _pickled(value: Any) -> dict[str, str]:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    kind = type(value)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"__pickled__": encoded, "__type__": f"{kind.__module__}:{kind.__qualname__}"}


def decode(plain: Any, allowed: frozenset[str]) -> Any:
    """What `encode` made.

    Raises:
        WorkflowCheckpointException: It holds something of a type that is not allowed.
    """
    return decode_checkpoint_value(plain, allowed_types=allowed | {NAME})
