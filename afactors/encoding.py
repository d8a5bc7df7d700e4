"""Messages and state as rows of bytes, and back. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import msgpack
from agent_framework import AgentSession, Message

_LONG_INTEGER, _HEXADECIMAL = 1, 2  # msgpack extension types
_DIGITS, _MANY_DIGITS = "0123456789abcdef", 24
_LONGEST_ID = 128


class NotStorable(Exception):
    """The session holds something that cannot be written down; the message names its place and type."""


def identify(messages: Iterable[Message], prefix: str) -> None:
    """Give every message an id that has none: the prefix and its place.

    The framework compares each turn's messages with the whole history: by id where there is one, else by contents,
    at ten times the cost.
    """
    for index, message in enumerate(messages):
        if isinstance(message, Message) and message.message_id is None:
            message.message_id = f"{prefix}{index}"


def encode_messages(messages: Iterable[Message], source: str = "history") -> list[bytes]:
    """One row a message: msgpack of the framework's own serialized form."""
    place = f"state.{source}.messages"
    rows = []
    for message in messages:
        if not isinstance(message, Message):
            raise NotStorable(f"{place} holds a {type(message).__name__} among its messages")
        rows.append(pack(_serialized(message, place), place))
    return rows


def decode_messages(rows: Iterable[bytes]) -> list[Message]:
    """What `encode_messages` wrote."""
    return [Message.from_dict(unpack(row)) for row in rows]


def pack(value: Any, place: str, *, short_ids: bool = False) -> bytes:
    """Msgpack, with lone surrogates kept.

    Args:
        value: Plain data.
        place: What it is, for the error.
        short_ids: Whether strings that end in many hexadecimal digits are extensions of half the length.

    Raises:
        NotStorable: Something in it is not plain data; `place` names where.
    """
    try:
        value = _with_short_ids(value) if short_ids else value
        try:
            return cast("bytes", msgpack.packb(value, unicode_errors="surrogatepass"))
        except OverflowError:
            return cast("bytes", msgpack.packb(_with_long_integers(value), unicode_errors="surrogatepass"))
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise NotStorable(f"{place} holds a value that cannot be stored: {exc}") from exc


def _with_long_integers(value: Any) -> Any:
    """A copy in which integers that msgpack has no form for are extensions: JSON has no limit, so they come in."""
    if isinstance(value, msgpack.ExtType):  # it is a tuple, too
        return value
    if isinstance(value, dict):
        return {key: _with_long_integers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_long_integers(item) for item in value]
    if isinstance(value, int) and value.bit_length() > 63:
        return msgpack.ExtType(_LONG_INTEGER, b"%x" % value)
    return value


def _with_short_ids(value: Any) -> Any:
    if isinstance(value, str):
        return _short_id(value) if _MANY_DIGITS <= len(value) <= _LONGEST_ID else value
    if isinstance(value, (list, tuple)):
        return [_with_short_ids(item) for item in value]
    if isinstance(value, dict):
        return {key: _with_short_ids(item) for key, item in value.items()}
    return value


def _short_id(text: str) -> Any:
    word = text.rstrip(_DIGITS)
    word = text[: len(word) + (len(text) - len(word)) % 2]
    if len(text) - len(word) < _MANY_DIGITS or "\0" in word:
        return text
    digits = bytes.fromhex(text[len(word) :])
    return msgpack.ExtType(_HEXADECIMAL, word.encode(errors="surrogatepass") + b"\0" + digits)


def _extension(code: int, data: bytes) -> Any:
    if code == _LONG_INTEGER:
        return int(data, 16)
    if code == _HEXADECIMAL:
        word, _, digits = data.partition(b"\0")
        return word.decode(errors="surrogatepass") + digits.hex()
    return msgpack.ExtType(code, data)


def unpack(data: bytes) -> Any:
    """What `pack` wrote."""
    return msgpack.unpackb(data, unicode_errors="surrogatepass", strict_map_key=False, ext_hook=_extension)


def histories_of(session: AgentSession) -> dict[str, list[Message]]:
    """A session's histories, by source."""
    return {
        source: state["messages"]
        for source, state in session.state.items()
        if isinstance(state, dict) and _is_history(state.get("messages"))
    }


def _is_history(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Message)


def encode_state(session: AgentSession) -> bytes | None:
    """The session's state without its histories; None if nothing is left."""
    found = histories_of(session)
    rest = {
        source: {key: value for key, value in state.items() if key != "messages"} if source in found else state
        for source, state in session.state.items()
    }
    rest = {source: state for source, state in rest.items() if state != {}}
    if not rest:
        return None
    plain = AgentSession(session_id=session.session_id)
    plain.state = rest
    return pack(_serialized(plain, "state")["state"], "state")


def _serialized(value: Message | AgentSession, place: str) -> dict[str, Any]:
    try:
        return value.to_dict()
    except Exception as exc:  # codecs of the user's own types may raise anything
        raise NotStorable(f"{place} holds a value that cannot be stored: {type(exc).__name__}") from exc
