"""Events as bytes.

A client is known that loses an event split across two reads, so whole events are encoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..wire import encode_json

DONE = b"data: [DONE]\n\n"
"""What ends every stream."""

_DATA = b"\ndata: "


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
