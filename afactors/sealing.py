"""Notice that a committed message was changed in place, without reading it again.

An agent's history is a list of framework messages that stay in memory between turns. A turn writes only the messages
that are new, so it must know that the old ones are still what was committed; the framework's own compaction, for one,
edits them. Comparing contents costs more than a microsecond a message and grows with the conversation.

So a committed message is *sealed*: its class becomes a twin whose first attribute assignment turns the object back
into the plain class. That, and a comparison of the few containers it holds, runs at C speed: about 0.1 µs a message.
A value in a container that was replaced by one that compares equal (1 by True) counts as unchanged.
"""

from __future__ import annotations

import copy
import copyreg
from collections.abc import Sequence
from itertools import repeat
from operator import is_
from typing import Any

from agent_framework import Content, Message

_IMMUTABLE = frozenset((str, int, float, bool, bytes, type(None)))
_NOT_STORED = "raw_representation"  # the framework leaves it out of its serialized form


class SealedMessage(Message):
    """A committed `Message`; the first assignment to one of its attributes makes it a plain `Message` again."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, "__class__", Message)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__setattr__(self, "__class__", Message)
        object.__delattr__(self, name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _reduce(self, Message)

    @classmethod
    def _get_type_identifier(cls, value: Any = None) -> str:
        return Message._get_type_identifier(value)


class SealedContent(Content):
    """A committed `Content`; like `SealedMessage`."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, "__class__", Content)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__setattr__(self, "__class__", Content)
        object.__delattr__(self, name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _reduce(self, Content)


class Seal:
    """The committed part of one history list.

    Attributes:
        messages: The committed messages, in order. The list is the seal's own.
    """

    __slots__ = ("_contents", "_copies", "_empty", "_values", "messages")

    def __init__(self, messages: Sequence[Message] = ()) -> None:
        self.messages: list[Message] = []
        self._contents: list[Content] = []
        self._empty: list[Any] = []  # containers that were empty
        self._values: list[Any] = []  # containers that were not, and what they held
        self._copies: list[Any] = []
        self.extend(messages)

    def extend(self, messages: Sequence[Message]) -> None:
        """Seal messages that have just become durable."""
        for message in messages:
            self._seal_message(message)
        self.messages.extend(messages)

    def intact(self, history: list[Message]) -> bool:
        """Whether `history` begins with exactly these messages and none of them was changed since."""
        count = len(self.messages)
        return (
            len(history) >= count
            # Elements are compared by identity first, so this is a walk over pointers.
            and history[:count] == self.messages
            and all(map(is_, map(type, self.messages), repeat(SealedMessage)))
            and all(map(is_, map(type, self._contents), repeat(SealedContent)))
            and not any(self._empty)
            and self._values == self._copies
        )

    def _seal_message(self, message: Message) -> None:
        self._values.append(message.contents)
        self._copies.append(list(message.contents))
        self._watch(message.additional_properties)
        for content in message.contents:
            self._seal_content(content)
        if type(message) is Message:
            message.__class__ = SealedMessage

    def _seal_content(self, content: Content) -> None:
        attributes = vars(content)
        for name in [name for name, value in attributes.items() if type(value) not in _IMMUTABLE]:
            if name != _NOT_STORED:
                self._watch(attributes[name])
        self._contents.append(content)
        if type(content) is Content:
            content.__class__ = SealedContent

    def _watch(self, value: Any) -> None:
        if isinstance(value, (dict, list)) and not value:
            self._empty.append(value)
        else:
            self._values.append(value)
            self._copies.append(_copy(value))


def _copy(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except (TypeError, ValueError, RecursionError, copy.Error):
        return object()  # equal to nothing: such a message is compared with what is stored, every time


def _reduce(sealed: Any, cls: type[Message | Content]) -> Any:
    """What pickle and copy need to make the plain twin, with nothing of ours in it."""
    twin = object.__new__(cls)
    twin.__dict__.update(sealed.__dict__)
    return copyreg._reconstructor, (cls, object, None), twin.__getstate__()  # type: ignore[attr-defined]
