"""API keys, and the partitions that they stand for."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence

from .errors import NotAllowed

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Credentials:
    """A set of bearer keys.

    Args:
        keys: The keys, or a mapping from a lasting name to each key. Empty: everybody may call.

    Raises:
        ValueError: A key is empty, or a name is not 1 to 64 letters, digits, ``_``, ``.`` or ``-``.
    """

    def __init__(self, keys: Sequence[str] | Mapping[str, str] = ()) -> None:
        if isinstance(keys, str):
            raise ValueError("api_keys takes a sequence of keys (or a mapping of them), not one string")
        named = keys.items() if isinstance(keys, Mapping) else [(_digest_name(key), key) for key in keys]
        self._partitions: list[tuple[bytes, str]] = []
        for name, key in named:
            if not key or not key.isascii() or not key.isprintable():
                raise ValueError("an API key must be printable ASCII, and not empty")
            if not _NAME.fullmatch(name):
                raise ValueError(f"the name of an API key must match {_NAME.pattern}: {name!r}")
            self._partitions.append((_digest(key.encode()), name))

    @property
    def required(self) -> bool:
        """Whether callers need a key."""
        return bool(self._partitions)

    def check(self, authorization: str | None) -> str:
        """The partition of whoever sent this ``Authorization`` header; "" where no keys are needed.

        Every key is compared, in constant time, whatever the first ones gave.

        Raises:
            NotAllowed: The header has none of the keys.
        """
        if not self._partitions:
            return ""
        scheme, _, token = (authorization or "").partition(" ")
        presented = _digest(token.strip().encode("latin-1", "replace"))
        found: str | None = None
        for digest, name in self._partitions:
            if hmac.compare_digest(digest, presented):
                found = name
        if found is None or scheme.lower() != "bearer":
            raise NotAllowed("A valid API key is required, as a bearer token.")
        return found


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _digest_name(key: str) -> str:
    return hashlib.sha256(b"afactors partition\0" + key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
