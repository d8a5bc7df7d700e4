"""When a delivery is tried again: a pure function of attempt, error, age and chance."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afactors_channels import PushDeferred, PushRejected
from afactors_channels.pushes import PushPolicy, RetryPolicy, Stop, Wait

DOWN = OSError("down")
PLAIN = RetryPolicy(first=1.0, factor=2.0, longest=60.0, jitter=0.0, max_attempts=10, max_age=1000.0)

policies = st.builds(
    RetryPolicy,
    first=st.floats(0.001, 10),
    factor=st.floats(1, 10),
    longest=st.floats(10, 10_000),
    jitter=st.floats(0, 0.99),
    max_attempts=st.integers(1, 100),
    max_age=st.floats(1, 1e6),
)
errors = st.sampled_from([DOWN, PushRejected("no"), PushDeferred(), PushDeferred(retry_after=3.0), TimeoutError()])
chances = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("attempt", "error", "age", "then"),
    [
        (1, DOWN, 0, Wait(1.0)),
        (2, DOWN, 0, Wait(2.0)),
        (3, DOWN, 0, Wait(4.0)),
        (7, DOWN, 0, Wait(60.0)),
        (9, DOWN, 0, Wait(60.0)),
        (10, DOWN, 0, Stop("attempts")),
        (99, DOWN, 0, Stop("attempts")),
        (1, PushRejected("no"), 0, Stop("rejected")),
        (10, PushRejected("no"), 5000, Stop("rejected")),
        (3, PushDeferred(), 0, Wait(4.0)),
        (3, PushDeferred(retry_after=17.5), 0, Wait(17.5)),
        (3, PushDeferred(retry_after=400.0), 0, Wait(400.0)),
        (3, PushDeferred(retry_after=-1.0), 0, Wait(0.0)),
        (1, PushDeferred(retry_after=0.0), 0, Wait(0.0)),
        (10, PushDeferred(), 0, Stop("attempts")),
        (10, PushDeferred(retry_after=1.0), 0, Wait(1.0)),
        (100, PushDeferred(retry_after=1.0), 0, Stop("attempts")),
        (1, DOWN, 999.5, Stop("expired")),
        (1, DOWN, 999.0, Wait(1.0)),
        (1, PushDeferred(retry_after=1001.0), 0, Stop("expired")),
        (1, PushDeferred(retry_after=math.inf), 0, Stop("expired")),
    ],
)
def test_what_follows_a_failure(attempt: int, error: Exception, age: float, then: Any):
    assert PLAIN.after(attempt, error, age=age, chance=0.5) == then


@given(policies, st.integers(1, 10_000), errors, st.floats(0, 1e7), chances)
def test_it_waits_within_bounds_or_says_why_not(
    policy: RetryPolicy, attempt: int, error: Exception, age: float, chance: float
):
    then = policy.after(attempt, error, age=age, chance=chance)
    assert then == policy.after(attempt, error, age=age, chance=chance)
    if isinstance(then, Stop):
        assert then.reason in {"rejected", "attempts", "expired"}
        return
    told_when = isinstance(error, PushDeferred) and error.retry_after is not None
    assert attempt < policy.max_attempts * (10 if told_when else 1)
    assert age + then.seconds <= policy.max_age
    if told_when:
        assert then.seconds == error.retry_after
    else:
        least, most = policy.first * (1 - policy.jitter), policy.longest * (1 + policy.jitter)
        assert 0 < least * 0.999 <= then.seconds <= most * 1.001


@given(policies, errors, chances)
def test_every_delivery_comes_to_an_end(policy: RetryPolicy, error: Exception, chance: float):
    age = 0.0
    for attempt in range(1, policy.max_attempts * 10 + 1):
        then = policy.after(attempt, error, age=age, chance=chance)
        if isinstance(then, Stop):
            return
        age += then.seconds
    raise AssertionError("it would go on for ever")


@given(policies, st.integers(1, 50))
def test_without_chance_no_wait_is_shorter_than_the_one_before(policy: RetryPolicy, attempt: int):
    one, two = (policy._wait(number, 0.5) for number in (attempt, attempt + 1))
    assert one <= two


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": 0.0},
        {"factor": 0.5},
        {"first": 5.0, "longest": 1.0},
        {"jitter": 1.0},
        {"jitter": -0.1},
        {"max_attempts": 0},
        {"max_age": 0.0},
        {"max_age": math.inf},
        {"max_age": math.nan},
        {"first": math.nan},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=f"a retry policy needs .*{next(iter(wrong))}"):
        RetryPolicy(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"rate": 0.0},
        {"rate": -1.0},
        {"rate": math.inf},
        {"rate": math.nan},
        {"timeout": 0.0},
        {"timeout": math.nan},
        {"breaker": 0},
        {"pause": 0.0},
        {"pause": 600.0},
        {"longest_pause": 1.0},
    ],
)
def test_a_way_out_that_makes_no_sense_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=f"a push policy needs .*{next(iter(wrong))}"):
        PushPolicy(**wrong)
