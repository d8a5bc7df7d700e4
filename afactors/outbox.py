"""What is stored of a delivery: plain data with a version, and the lane that it stands in. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agent_framework import AgentResponse

from afactors_channels import ChannelContribution, ChannelIdentity
from afactors_channels.pushes import PushKind
from afactors_store import MAX_NAME_BYTES, NewDelivery

from .encoding import NotStorable, decode_messages, encode_messages, pack, unpack
from .identities import pack_identity, unpack_identity

VERSION = 1
LETTERS = "letters"
"""The lane of letters that used up their attempts; there they are dead from the beginning."""

_MARK = "\x1f"
_NO_NAME = re.compile("[\0\ud800-\udfff]")  # what no name in the store may have


class UnknownVersion(Exception):
    """A delivery was written by a newer afactors, or by nobody: it is put aside, and nothing crashes."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A delivery's body.

    Attributes:
        identity: To whom.
        kind: What it is.
        rows: What it says: messages, encoded.
        created: When it was committed, in seconds since the epoch.
        expires: From when on nobody would welcome it.
        run_id: The run that caused it, or "".
        origin: Name of the channel that the run's request came by, or "".
        payload: What the channel's codec made of it.
        outcome: The rest of the result: finish reason, usage.
    """

    identity: ChannelIdentity
    kind: PushKind
    rows: Sequence[bytes]
    created: float
    expires: float
    run_id: str = ""
    origin: str = ""
    payload: Mapping[str, Any] | None = None
    outcome: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """As a versioned msgpack map."""
        record: dict[str, Any] = {
            "v": VERSION,
            "to": pack_identity(self.identity),
            "k": self.kind,
            "m": list(self.rows),
            "c": round(self.created, 3),
            "x": round(self.expires, 3),
        }
        optional = {"r": self.run_id, "o": self.origin, "p": self.payload, "oc": dict(self.outcome)}
        return pack(record | {name: value for name, value in optional.items() if value}, "delivery")

    @classmethod
    def decode(cls, body: bytes) -> Parcel:
        """Read what `encode` wrote.

        Raises:
            UnknownVersion: It is none that this version knows.
        """
        try:
            record = unpack(body)
            if record["v"] != VERSION:
                raise UnknownVersion(f"format {record['v']}")
            return cls(
                unpack_identity(record["to"]),
                record["k"],
                record["m"],
                float(record["c"]),
                float(record["x"]),
                record.get("r", ""),
                record.get("o", ""),
                record.get("p"),
                record.get("oc", {}),
            )
        except (KeyError, TypeError, ValueError, IndexError) as exc:
            raise UnknownVersion(type(exc).__name__) from exc

    @property
    def response(self) -> AgentResponse[Any]:
        """What it says; each time another copy."""
        return AgentResponse(
            messages=decode_messages(self.rows),
            response_id=self.outcome.get("id"),
            finish_reason=self.outcome.get("f"),
            usage_details=self.outcome.get("u"),
        )


def lane_of(identity: ChannelIdentity, channel: ChannelContribution | None = None) -> str:
    """The lane of a destination: what goes to one place, or to one conversation of one identity, goes in order."""
    place: Sequence[str] = (identity.native_id, identity.conversation)
    if channel is not None and channel.push_place is not None:
        place = (channel.push_place(identity), "")
    lane = _MARK.join((identity.channel, *place))
    encoded = lane.encode(errors="surrogatepass")
    if len(encoded) <= MAX_NAME_BYTES and not _NO_NAME.search(lane):
        return lane
    digest = hashlib.sha256(encoded).hexdigest()
    return f"{identity.channel}{_MARK}#{digest}"


def channel_of(lane: str) -> str:
    """The channel that a lane belongs to."""
    return lane.partition(_MARK)[0]


def destination_of(lane: str) -> str:
    """Whom a lane is for, in whatever conversation."""
    return _MARK.join(lane.split(_MARK)[:2])


def parts_of(lane: str) -> tuple[str, str, str]:
    """Channel, native id and conversation of a lane; of one whose name could not be stored, only the first is known."""
    channel, native_id, conversation, *_ = [*lane.split(_MARK), "", ""]
    return channel, native_id, conversation


def renewed(body: bytes, at: float) -> bytes:
    """A delivery's body for a replay: as old as if it were committed now, and welcome for as long as before.

    Raises:
        UnknownVersion: It is none that this version knows.
    """
    parcel = Parcel.decode(body)
    return replace(parcel, created=at, expires=at + parcel.expires - parcel.created).encode()


def posted(
    kind: PushKind,
    to: Sequence[ChannelIdentity],
    said: AgentResponse[Any],
    channels: Mapping[str, ChannelContribution],
    *,
    at: float,
    run_id: str = "",
    origin: str = "",
) -> list[NewDelivery]:
    """One delivery for each destination; what they say is encoded once.

    Args:
        kind: What it is.
        to: The destinations.
        said: What it says.
        channels: How each channel takes deliveries.
        at: Now, in seconds since the epoch.
        run_id: The run that caused it.
        origin: The channel that the run's request came by.

    Raises:
        NotStorable: Something of it is not plain data, or a channel's codec failed.
    """
    rows = encode_messages(said.messages, "delivery") if to else []
    outcome = {"f": said.finish_reason, "id": said.response_id}
    deliveries = []
    for identity in to:
        channel = channels.get(identity.channel, _NO_CHANNEL)
        parcel = Parcel(
            identity,
            kind,
            rows,
            at,
            at + channel.push_policy.retry.max_age,
            run_id=run_id,
            origin=origin,
            payload=_payload(channel, said, identity),
            outcome={name: value for name, value in outcome.items() if value},
        )
        deliveries.append(NewDelivery(lane_of(identity, channel), parcel.encode(), due=at))
    return deliveries


def _payload(
    channel: ChannelContribution, said: AgentResponse[Any], identity: ChannelIdentity
) -> Mapping[str, Any] | None:
    if channel.push_codec is None:
        return None
    try:
        return channel.push_codec.encode(said, identity)
    except Exception as exc:
        raise NotStorable(f"the codec of channel {identity.channel} failed: {exc!r}") from exc


_NO_CHANNEL = ChannelContribution()
