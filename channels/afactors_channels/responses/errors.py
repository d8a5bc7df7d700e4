"""The protocol's error envelope."""

from __future__ import annotations

import math
from typing import Any

from afactors_channels.errors import HostError

# OpenAI's type names by status. A missing thing is the request's fault there (404 is an invalid request too).
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

# OpenAI's SDKs send these again by themselves, with no idempotency key.
_RETRIED_UNASKED = frozenset({408, 409, 500, 501, 502, 504, 507})


def error_body(error: HostError) -> dict[str, Any]:
    """The body of an error response: ``{"error": {"message", "type", "param", "code"}}``."""
    return {
        "error": {
            "message": error.message,
            "type": error_type(error.status),
            "param": error.field,
            "code": error.code,
        }
    }


def error_type(status: int) -> str:
    """OpenAI's name for the kind of error that a status stands for."""
    return _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")


def error_headers(error: HostError) -> dict[str, str]:
    """Headers that tell an SDK whether, and when, to send the request again.

    A conflict, a failed turn or a full store does not get better by being sent again at once, and SDKs would
    do just that; where we know when it may, we say so. Overload (429, 503) without a time is left to the
    SDK's back-off.
    """
    if error.retry_after is not None:
        return {
            "retry-after": str(math.ceil(error.retry_after)),
            "retry-after-ms": str(math.ceil(error.retry_after * 1000)),
        }
    return {"x-should-retry": "false"} if error.status in _RETRIED_UNASKED else {}
