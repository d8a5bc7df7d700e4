"""What a receiver's answer means."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime, formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afactors_channels.webhook.verdicts import Verdict, verdict_on

NOW = 1_700_000_000.0


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_taken(status: int):
    assert verdict_on(status, "60", now=NOW) == Verdict("delivered", status)


@pytest.mark.parametrize(
    "status", [101, 300, 301, 302, 307, 308, 400, 401, 403, 404, 408, 409, 413, 425, 429, 500, 503]
)
def test_not_taken(status: int):
    assert verdict_on(status, None, now=NOW) == Verdict("failed", status)


def test_gone():
    assert verdict_on(410, "60", now=NOW) == Verdict("gone", 410)


@pytest.mark.parametrize("status", [413, 429, 500, 503])
@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [
        ("60", 60.0),
        (" 60 ", 60.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW + 90), 90.0),
        (format_datetime(datetime.fromtimestamp(NOW + 90, UTC)), 90.0),
        ("Tue, 14 Nov 2023 22:14:20 -0000", 60.0),
        ("Tuesday, 14-Nov-23 22:14:20 GMT", 60.0),
        ("0", None),
        (formatdate(NOW - 90, usegmt=True), None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("9" * 400, None),
        ("Tue, 99 Nov 2023 22:14:20 GMT", None),
        ("Tue, 14 Nov 99999999 22:14:20 GMT", None),
    ],
)
def test_how_long_it_asks_to_wait(status: int, retry_after: str, wait: float | None):
    assert verdict_on(status, retry_after, now=NOW).wait == wait


def test_a_redirect_asks_for_nothing():
    assert verdict_on(301, "60", now=NOW).wait is None


@given(st.integers(100, 999), st.text())
def test_nothing_is_ever_raised(status: int, retry_after: str):
    verdict_on(status, retry_after, now=NOW)
