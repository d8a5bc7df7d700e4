"""The identities that an actor has seen: who its user is on each channel, and where they wrote last. Pure.

They are one document of the actor, written by the commit of the turn that saw something new in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from afactors_channels import ChannelIdentity
from afactors_store import FormatTooNew

from .encoding import pack, unpack

VERSION = 1
DOCUMENT = "identities"
_COARSE = 60.0  # seconds: an instant that is less later is not worth writing
_MOST = 64  # identities of one actor; those that were not seen the longest are forgotten


@dataclass(frozen=True, slots=True)
class Seen:
    """An identity, and when a message of theirs came last, in seconds since the epoch."""

    identity: ChannelIdentity
    at: float


@dataclass(frozen=True, slots=True)
class Identities:
    """What an actor knows of its user; the latest seen first."""

    seen: Sequence[Seen] = field(default=())

    def with_(self, identity: ChannelIdentity | None, at: float) -> Identities:
        """What is known after a message of that time; the same object if a later one was seen there."""
        if identity is None or not identity.verified:
            return self
        known = next((one for one in self.seen if _place(one.identity) == _place(identity)), None)
        if known is not None and at <= known.at:
            return self
        rest = [one for one in self.seen if one is not known]
        return replace(self, seen=sorted([Seen(identity, at), *rest], key=lambda one: -one.at)[:_MOST])

    def news_to(self, written: Identities) -> bool:
        """Whether this is worth writing: somebody is new, has changed, came before another, or is here for longer."""
        if [one.identity for one in self.seen] != [one.identity for one in written.seen]:
            return True
        return any(one.at - old.at >= _COARSE for one, old in zip(self.seen, written.seen, strict=True))

    def active(self, window: float | None, at: float) -> ChannelIdentity | None:
        """Where the user wrote last, if that is not too long ago."""
        for one in self.seen:
            return one.identity if window is None or one.at >= at - window else None
        return None

    def on(self, channel: str) -> list[ChannelIdentity]:
        """The user's identities on a channel; of several conversations of one, the latest."""
        found: dict[str, ChannelIdentity] = {}
        for one in self.seen:
            if one.identity.channel == channel:
                found.setdefault(one.identity.native_id, one.identity)
        return list(found.values())

    def all(self) -> list[ChannelIdentity]:
        """One of each identity, the latest seen first."""
        found: dict[tuple[str, str], ChannelIdentity] = {}
        for one in self.seen:
            found.setdefault((one.identity.channel, one.identity.native_id), one.identity)
        return list(found.values())

    def known(self, identity: ChannelIdentity) -> ChannelIdentity | None:
        """An identity as it was seen; without a conversation, the latest one of theirs."""
        for one in self.seen:
            same = (one.identity.channel, one.identity.native_id) == (identity.channel, identity.native_id)
            if same and identity.conversation in ("", one.identity.conversation):
                return one.identity
        return None

    def encode(self) -> bytes:
        """As a versioned msgpack map."""
        return pack(
            {"v": VERSION, "i": [[*pack_identity(one.identity), round(one.at, 3)] for one in self.seen]}, DOCUMENT
        )

    @classmethod
    def decode(cls, document: bytes | None) -> Identities:
        """Read what `encode` wrote; nothing is known without a document.

        Raises:
            FormatTooNew: A newer afactors wrote it.
        """
        if document is None:
            return cls()
        record = unpack(document)
        if record["v"] > VERSION:
            raise FormatTooNew(f"an actor's identities were written by a newer afactors (format {record['v']})")
        return cls([Seen(unpack_identity(one), one[-1]) for one in record["i"]])


def pack_identity(identity: ChannelIdentity) -> list[Any]:
    """An identity as plain data; verified, or it would not be kept."""
    return [identity.channel, identity.native_id, identity.conversation, dict(identity.attributes)]


def unpack_identity(plain: Sequence[Any]) -> ChannelIdentity:
    """What `pack_identity` made."""
    attributes: Mapping[str, Any] = plain[3]
    return ChannelIdentity(plain[0], plain[1], attributes, plain[2], verified=True)


def _place(identity: ChannelIdentity) -> tuple[str, str, str]:
    return identity.channel, identity.native_id, identity.conversation
