"""Signatures, against the reference library and by themselves."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afactors_channels.webhook.signatures import (
    MAX_SIGNATURES,
    TOLERANCE,
    Stamp,
    Unverified,
    key_of,
    read_stamp,
    sign,
    verify,
)

NOW = 1_700_000_000
KEY, OTHER = b"k" * 32, b"o" * 32
ids = st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True)
keys = st.binary(min_size=24, max_size=64)


def secret_of(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


def stamp(header: str, message_id: str = "m", timestamp: int = NOW, now: float = NOW) -> Stamp:
    return read_stamp(message_id, str(timestamp), header, now=now)


# --- against the reference library


@given(key=keys, message_id=ids, data=st.dictionaries(st.text(), st.text(), max_size=3))
def test_the_reference_takes_what_we_sign(key: bytes, message_id: str, data: dict[str, str]):
    standardwebhooks = pytest.importorskip("standardwebhooks")
    body, timestamp = json.dumps(data, ensure_ascii=False).encode(), str(int(time.time()))
    for signers in ([key], [key, OTHER], [OTHER, key]):
        headers = {
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": sign(signers, message_id, timestamp, body),
        }
        assert standardwebhooks.Webhook(secret_of(key)).verify(body, headers) == data


@given(key=keys, message_id=ids, text=st.text())
def test_we_take_what_the_reference_signs(key: bytes, message_id: str, text: str):
    standardwebhooks = pytest.importorskip("standardwebhooks")
    reference = standardwebhooks.Webhook(secret_of(key))
    header = reference.sign(message_id, datetime.fromtimestamp(NOW, UTC), text)
    assert header == sign([key], message_id, str(NOW), text.encode())
    verify([OTHER, key], stamp(header, message_id), text.encode())


def test_a_signature_that_was_worked_out_elsewhere():
    # openssl dgst -sha256 -mac HMAC says the same of this key, id, time and body.
    key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    header = sign([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert header == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


# --- secrets


@pytest.mark.parametrize("key", [b"x" * 24, b"x" * 25, b"x" * 32, b"x" * 64])
def test_a_key_comes_out_of_its_secret(key: bytes):
    assert key_of(secret_of(key)) == key
    assert key_of(secret_of(key).rstrip("=")) == key


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "whsec_!!!!",
        "whsec_" + "a" * 33,  # no base64 has that length
        secret_of(b"x" * 32).removeprefix("whsec_"),
        secret_of(b"x" * 23),
        secret_of(b"x" * 65),
        "whsk_" + base64.b64encode(b"x" * 32).decode(),
        "whsec_é" + base64.b64encode(b"x" * 32).decode(),
        None,
    ],
)
def test_what_is_no_secret(secret: str):
    with pytest.raises(ValueError, match="24 to 64") as caught:
        key_of(secret)
    assert not secret or len(secret) < 8 or secret not in str(caught.value)
    assert caught.value.__cause__ is None


# --- rotation


def test_every_key_signs_and_any_will_do():
    header = sign([KEY, OTHER], "m", str(NOW), b"{}")
    assert header.count("v1,") == 2
    verify([KEY], stamp(header), b"{}")
    verify([OTHER], stamp(header), b"{}")
    verify([b"n" * 32, OTHER], stamp(header), b"{}")
    with pytest.raises(Unverified):
        verify([b"n" * 32], stamp(header), b"{}")


def test_other_versions_are_somebody_elses():
    ours = sign([KEY], "m", str(NOW), b"{}")
    verify([KEY], stamp(f"v1a,AAAA {ours} v2,x=="), b"{}")
    with pytest.raises(Unverified):
        verify([KEY], stamp(ours.replace("v1,", "v1a,")), b"{}")


def test_only_so_many_signatures_are_looked_at():
    ours = sign([KEY], "m", str(NOW), b"{}")
    verify([KEY], stamp(" ".join(["v1,x"] * (MAX_SIGNATURES - 1) + [ours])), b"{}")
    with pytest.raises(Unverified):
        verify([KEY], stamp(" ".join(["v1,x"] * MAX_SIGNATURES + [ours])), b"{}")


# --- what is signed


@pytest.mark.parametrize(
    ("message_id", "timestamp", "body"), [("n", NOW, b"{}"), ("m", NOW + 1, b"{}"), ("m", NOW, b"")]
)
def test_everything_is_signed(message_id: str, timestamp: int, body: bytes):
    header = sign([KEY], "m", str(NOW), b"{}")
    with pytest.raises(Unverified, match="one of the keys"):
        verify([KEY], stamp(header, message_id, timestamp), body)


def test_bodies_are_bytes():
    body = b"\xff\x00{}"
    verify([KEY], stamp(sign([KEY], "m", str(NOW), body)), body)


def test_no_boundary_can_be_moved():
    """What was signed with an id that has dots is not taken as a message with another body."""
    header = sign([KEY], 'a.1700000000.{"x":"', str(NOW), b'"}')
    with pytest.raises(Unverified, match="malformed"):
        read_stamp('a.1700000000.{"x":"', str(NOW), header, now=NOW)


# --- time


@pytest.mark.parametrize("late", [-TOLERANCE, 0, TOLERANCE])
def test_a_clock_may_be_off_by_so_much(late: int):
    assert stamp("v1,x", now=NOW + late).timestamp == str(NOW)


@pytest.mark.parametrize("late", [-TOLERANCE - 0.01, TOLERANCE + 0.01, 10**9])
def test_and_not_by_more(late: float):
    with pytest.raises(Unverified, match="s old"):
        stamp("v1,x", now=NOW + late)


# --- headers


@pytest.mark.parametrize(
    ("message_id", "timestamp", "signature"),
    [
        (None, "1700000000", "v1,x"),
        ("m", None, "v1,x"),
        ("m", "1700000000", None),
        ("", "1700000000", "v1,x"),
        ("m", "", "v1,x"),
        ("m", "1700000000", ""),
        ("m m", "1700000000", "v1,x"),
        ("m\n", "1700000000", "v1,x"),
        ("m" * 257, "1700000000", "v1,x"),
        ("é", "1700000000", "v1,x"),
        ("m", "1700000000.5", "v1,x"),
        ("m", "-1700000000", "v1,x"),
        ("m", "+1700000000", "v1,x"),
        ("m", "nan", "v1,x"),
        ("m", "1_700_000_000", "v1,x"),
        ("m", "١٧٠٠٠٠٠٠٠٠", "v1,x"),
        ("m", "9" * 5000, "v1,x"),
    ],
)
def test_headers_that_are_not_as_they_should_be(message_id: str | None, timestamp: str | None, signature: str | None):
    with pytest.raises(Unverified):
        read_stamp(message_id, timestamp, signature, now=NOW)


@pytest.mark.parametrize(
    "header", ["v1", "v1,", ",", " ", "v1,,", "v1 , x", "v1,é", "v1,\xff", "v1a,x", "V1,x", "v1,€"]
)
def test_signatures_that_are_none(header: str):
    with pytest.raises(Unverified):
        verify([KEY], stamp(header), b"{}")


@given(st.text(), st.text(), st.text(), st.binary(max_size=50))
def test_nothing_else_is_ever_raised(message_id: str, timestamp: str, signature: str, body: bytes):
    with pytest.raises(Unverified):
        verify([KEY], read_stamp(message_id, timestamp, signature, now=NOW), body)


@given(st.text(), st.binary(max_size=50))
def test_no_signature_is_guessed(signature: str, body: bytes):
    with pytest.raises(Unverified):
        verify([KEY], read_stamp("m", str(NOW), f"v1,{signature}", now=NOW), body)
