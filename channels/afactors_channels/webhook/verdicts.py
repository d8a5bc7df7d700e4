"""What a receiver's answer means.

Source: Standard Webhooks 1.0, "Delivery success and failure". Only 410 is final. A receiver that answers 400, 401 or
404 has very likely been deployed wrong, and is put right within the days for which a delivery is tried again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

_SECONDS = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an attempt.

    Attributes:
        outcome: delivered: the receiver has it; gone: it wants nothing any more; failed: it is to be tried again.
        status: What it answered.
        wait: Seconds that it asked us to wait, if it did.
    """

    outcome: Literal["delivered", "gone", "failed"]
    status: int
    wait: float | None = None


def verdict_on(status: int, retry_after: str | None, *, now: float) -> Verdict:
    """What an answer means.

    Args:
        status: Its status. A redirect is a failure, and never followed.
        retry_after: Its ``Retry-After``, if it has one: seconds, or a date. Heeded where it means what we need, in
            errors; nonsense and the past are ignored.
        now: In seconds since the epoch.
    """
    if 200 <= status < 300:
        return Verdict("delivered", status)
    if status == 410:
        return Verdict("gone", status)
    return Verdict("failed", status, _seconds(retry_after or "", now) if status >= 400 else None)


def _seconds(retry_after: str, now: float) -> float | None:
    """RFC 9110, 10.2.3."""
    text = retry_after.strip()
    seconds = float(text) if _SECONDS.fullmatch(text) else _until(text, now)
    return seconds if seconds > 0 else None


def _until(text: str, now: float) -> float:
    try:
        date: datetime = parsedate_to_datetime(text)
        return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
