"""Events as bytes.

A client is known that loses an event split across two reads, so whole events are encoded, and any number of
them into one piece of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"
"""What ends every stream."""

_encode = msgspec.json.Encoder().encode


def encode_events(events: Iterable[Mapping[str, Any]]) -> bytes:
    r"""Encode events, each as ``event: <type>\ndata: <json>\n\n``, in one piece."""
    pieces: list[bytes] = []
    for event in events:
        pieces += (b"event: ", event["type"].encode(), b"\ndata: ", encode_json(event), b"\n\n")
    return b"".join(pieces)


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
