"""Events as bytes.

A client is known that loses an event split across two reads, so whole events are encoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"
"""What ends every stream."""

_DATA = b"\ndata: "
_encode = msgspec.json.Encoder().encode


def encode_event(event: Mapping[str, Any]) -> bytes:
    r"""Encode an event as ``event: <type>\ndata: <json>\n\n``. The JSON has no newline of its own."""
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), encode_json(event))


def sse_data(block: bytes) -> bytes:
    """The JSON of an encoded event, which is what a WebSocket message holds."""
    return block[block.index(_DATA) + len(_DATA) : -2]


def sequence_number(block: bytes) -> int:
    """The number of an encoded event."""
    number: int = msgspec.json.decode(sse_data(block))["sequence_number"]
    return number


def encode_json(value: Any) -> bytes:
    """Encode plain values as UTF-8 JSON; NaN and infinities become null, a lone surrogate becomes U+FFFD.

    Raises:
        TypeError: The value holds something that JSON has no form for.
    """
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return _encode(_mended(value))


def _mended(value: Any) -> Any:
    """A copy without lone surrogates: models and clients can produce them, UTF-8 cannot express them."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {_mended(key): _mended(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mended(item) for item in value]
    return value
