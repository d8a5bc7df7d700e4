"""Notice that a committed message was changed in place, without looking at it again.

An agent's history is a list of framework messages that stay in memory between turns. A turn writes only the messages
that are new, so it must know that the old ones are still what was committed; the framework's own compaction, for one,
edits them. Looking at each costs a tenth of a microsecond at the very least, and a cache miss: at two thousand
messages as much as all the rest of a turn.

So a committed message is *sealed*, and tells its seal when it is changed: its class becomes a twin that notices
assignments, and the dicts and lists it holds become ones that notice changes. Copies of a sealed message, shallow,
deep or pickled, are plain.
"""

from __future__ import annotations

import copy
import copyreg
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from agent_framework import Content, Message

_IMMUTABLE = frozenset((str, int, float, bool, bytes, type(None)))
_NOT_STORED = "raw_representation"  # the framework leaves it out of its serialized form
_SEAL = "_afactors_seal"  # the framework leaves names with an underscore out of its serialized forms


class Seal:
    """The committed part of one history list.

    Attributes:
        messages: The committed messages, in order. The list is the seal's own.
        broken: Whether one of them was changed since, or holds something whose changes cannot be noticed.
    """

    __slots__ = ("__weakref__", "_self", "broken", "messages")

    def __init__(self, messages: Sequence[Message] = ()) -> None:
        self.messages: list[Message] = []
        self.broken = False
        # What is sealed refers weakly to its seal: a session that is dropped must not wait for the collector.
        self._self = _weakly(self)
        self.extend(messages)

    def extend(self, messages: Sequence[Message]) -> None:
        """Seal messages that have just become durable."""
        for message in messages:
            self._close(message, Message, SealedMessage)
        self.messages.extend(messages)

    def forget(self, messages: int) -> None:
        """The oldest messages are no longer in the history."""
        del self.messages[:messages]

    def intact(self, history: list[Message]) -> bool:
        """Whether `history` begins with exactly these messages and none of them was touched since."""
        # Elements are compared by identity first, so this is a walk over pointers.
        return not self.broken and history[: len(self.messages)] == self.messages

    def _close(self, value: Any, plain: type[Any], sealed: type[Any]) -> None:
        if type(value) not in (plain, sealed):
            self.broken = True  # a class of somebody else's: it is compared with what is stored, every time
            return
        attributes = vars(value)
        for name in [name for name, held in attributes.items() if type(held) not in _IMMUTABLE]:
            if name not in (_NOT_STORED, _SEAL):
                attributes[name] = self._watch(attributes[name])
        attributes[_SEAL] = self._self
        object.__setattr__(value, "__class__", sealed)

    def _watch(self, value: Any) -> Any:
        """The same value, such that its changes are noticed."""
        kind = type(value)
        if kind in _IMMUTABLE:
            return value
        if kind in (list, WatchedList):
            return WatchedList(self._self, map(self._watch, value))
        if kind in (dict, WatchedDict):
            return WatchedDict(self._self, {key: self._watch(held) for key, held in value.items()})
        if isinstance(value, (Message, Content)):
            of = (Message, SealedMessage) if isinstance(value, Message) else (Content, SealedContent)
            self._close(value, *of)
        else:
            self.broken = True
        return value


class SealedMessage(Message):
    """A committed `Message`."""

    __slots__ = ()

    @classmethod
    def _get_type_identifier(cls, value: Any = None) -> str:
        return Message._get_type_identifier(value)


class SealedContent(Content):
    """A committed `Content`."""

    __slots__ = ()


def _weakly(seal: Seal) -> weakref.ref[Seal]:
    return weakref.ref(seal)


def _break(reference: weakref.ref[Seal]) -> None:
    seal = reference()
    if seal is not None:
        seal.broken = True


def _set(self: Any, name: str, value: Any) -> None:
    _break(vars(self)[_SEAL])
    object.__setattr__(self, name, value)


def _delete(self: Any, name: str) -> None:
    _break(vars(self)[_SEAL])
    object.__delattr__(self, name)


def _deep_copy(self: Any, memo: dict[int, Any]) -> Any:
    return copy.deepcopy(_plain(self), memo)


def _reduce(self: Any, _protocol: Any) -> Any:
    # What pickle needs to make the plain twin, with nothing of ours in it.
    twin = _plain(self)
    return copyreg._reconstructor, (type(twin), object, None), twin.__getstate__()  # type: ignore[attr-defined]


def _plain(sealed: Any) -> Any:
    twin = object.__new__(Message if isinstance(sealed, Message) else Content)
    twin.__dict__.update(sealed.__dict__)
    del twin.__dict__[_SEAL]
    return twin


# A base class for what the two have in common would give them another layout, and objects could not change over.
for _sealed in (SealedMessage, SealedContent):
    _sealed.__setattr__ = _set  # type: ignore[method-assign]
    _sealed.__delattr__ = _delete  # type: ignore[method-assign]
    _sealed.__copy__ = _plain  # type: ignore[assignment, method-assign]
    _sealed.__deepcopy__ = _deep_copy  # type: ignore[method-assign]
    _sealed.__reduce_ex__ = _reduce  # type: ignore[method-assign]


class WatchedList(list[Any]):
    """A list in a sealed message."""

    __slots__ = ("seal",)

    def __init__(self, seal: weakref.ref[Seal], values: Iterable[Any]) -> None:
        super().__init__(values)
        self.seal = seal

    def __reduce_ex__(self, protocol: Any) -> Any:
        return list, (list(self),)


class WatchedDict(dict[Any, Any]):
    """A dict in a sealed message."""

    __slots__ = ("seal",)

    def __init__(self, seal: weakref.ref[Seal], values: dict[Any, Any]) -> None:
        super().__init__(values)
        self.seal = seal

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (dict(self),)


def _notice(watched: type[Any], base: type[Any], *names: str) -> None:
    """Have the methods that change a container break its seal first."""
    for name in names:
        setattr(watched, name, _changing(getattr(base, name)))


def _changing(change: Any) -> Any:
    def changing(self: Any, *args: Any, **kwargs: Any) -> Any:
        _break(self.seal)
        return change(self, *args, **kwargs)

    return changing


_notice(WatchedList, list, "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort")
_notice(WatchedList, list, "__setitem__", "__delitem__", "__iadd__", "__imul__")
_notice(WatchedDict, dict, "clear", "pop", "popitem", "setdefault", "update")
_notice(WatchedDict, dict, "__setitem__", "__delitem__", "__ior__")
