"""JSON as channels take it from the wire, and put it there. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .errors import BadRequest

MAX_DEPTH = 100
"""How deeply a body may be nested."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def decode_body(body: bytes) -> dict[str, Any]:
    """A request's body as plain values. Unlike `json.loads` this takes no NaN and no lone surrogate.

    Raises:
        BadRequest: Not JSON in UTF-8, nested too deeply, or not an object.
    """
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("The body is not valid JSON.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.", code="invalid_type")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    """What is kept of a request is walked through by code that recurses, ours and others'."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return
    raise BadRequest(f"The body may be nested at most {MAX_DEPTH} deep.", code="invalid_json")


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
