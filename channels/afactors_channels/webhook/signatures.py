"""Secrets, and what is signed by them.

Source: Standard Webhooks 1.0, "Signature scheme" and "Webhook headers". The reference library (standardwebhooks) is
not used: it can be given neither bytes that are no UTF-8, nor a clock, nor several keys, and it raises whatever it
happens upon for a signature header that is malformed. The tests hold the two against each other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass

PREFIX = "whsec_"
MIN_KEY, MAX_KEY = 24, 64
"""How many bytes a key may have."""

TOLERANCE = 300
"""Seconds by which a timestamp may differ from our clock, either way."""

MAX_SIGNATURES = 16
"""How many signatures of one message are looked at; each is compared with every key."""

_VERSION = b"v1"
# No brace and no quote: `id.timestamp.body` can then be read in one way only, because a body begins with a brace.
_ID = re.compile(r"[A-Za-z0-9_.:+/=~@-]{1,256}")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")


class Unverified(Exception):
    """A message is not known to come from whoever has a key. The text is for the log."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a message's headers say of it.

    Attributes:
        message_id: The same on every attempt.
        timestamp: Of this attempt, in seconds since the epoch, as it came.
        signatures: The signatures of the version that we know, without the version.
    """

    message_id: str
    timestamp: str
    signatures: Sequence[bytes]


def key_of(secret: str) -> bytes:
    """The key that a secret stands for.

    Raises:
        ValueError: It is no ``whsec_`` and the base64 of 24 to 64 bytes. The text does not repeat it.
    """
    wanted = f"a secret is {PREFIX!r} and the base64 of {MIN_KEY} to {MAX_KEY} random bytes"
    if not isinstance(secret, str) or not secret.startswith(PREFIX):
        raise ValueError(wanted)
    text = secret.removeprefix(PREFIX).rstrip("=")  # some show it without padding
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(wanted) from None
    if not MIN_KEY <= len(key) <= MAX_KEY:
        raise ValueError(wanted)
    return key


def sign(keys: Sequence[bytes], message_id: str, timestamp: str, body: bytes) -> str:
    """A signature header: one signature by each key, in their order."""
    signed = [(_VERSION + b"," + _signature(key, message_id, timestamp, body)).decode() for key in keys]
    return " ".join(signed)


def read_stamp(message_id: str | None, timestamp: str | None, signature: str | None, *, now: float) -> Stamp:
    """What the headers ``webhook-id``, ``webhook-timestamp`` and ``webhook-signature`` say.

    Raises:
        Unverified: One is missing or malformed, or the message is too old, or from the future.
    """
    if not (message_id and timestamp and signature):
        raise Unverified("a header is missing")
    if not _ID.fullmatch(message_id):
        raise Unverified("the id is malformed")
    if not _TIMESTAMP.fullmatch(timestamp):
        raise Unverified("the timestamp is malformed")
    if abs(now - int(timestamp)) > TOLERANCE:
        raise Unverified(f"the timestamp is {now - int(timestamp):.0f} s old")
    return Stamp(message_id, timestamp, _known(signature))


def _known(header: str) -> list[bytes]:
    """The signatures of the version that we know; others are somebody else's business."""
    pairs = [one.partition(b",") for one in header.encode("latin-1", "replace").split(b" ")]
    return [signature for version, _, signature in pairs if version == _VERSION][:MAX_SIGNATURES]


def verify(keys: Sequence[bytes], stamp: Stamp, body: bytes) -> None:
    """Refuse a message that none of the keys has signed.

    Everything is compared with everything, in constant time, whatever the first comparison gave.

    Raises:
        Unverified: None has.
    """
    expected = [_signature(key, stamp.message_id, stamp.timestamp, body) for key in keys]
    matches = [hmac.compare_digest(ours, theirs) for ours in expected for theirs in stamp.signatures]
    if not any(matches):
        raise Unverified("no signature is by one of the keys")


def _signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> bytes:
    signed = b"%b.%b.%b" % (message_id.encode(), timestamp.encode(), body)
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256))
