"""Where a turn's reply goes: destinations from what the request wants and whom the actor knows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from afactors_channels import ChannelContribution, ChannelIdentity, ChannelRequest

from .identities import Identities
from .outbox import lane_of


@dataclass(frozen=True, slots=True)
class Aim:
    """Where a reply goes.

    Attributes:
        answers: Whether it goes back on the wire that the request came in on.
        destinations: To whom it is delivered.
        echoed: To whom what the user said is delivered before it.
        skipped: What was wanted and cannot be: (what, why).
        wanted: What the request asked for, in a word.
    """

    answers: bool = True
    destinations: Sequence[ChannelIdentity] = ()
    echoed: Sequence[ChannelIdentity] = ()
    skipped: Sequence[tuple[str, str]] = ()
    wanted: str = "originating"

    def told(self) -> dict[str, Any]:
        """For the reply's own additional properties."""
        told: dict[str, Any] = {"target": self.wanted, "intended": [_label(one) for one in self.destinations]}
        if self.answers:
            told["intended"].insert(0, "originating")
        if self.skipped:
            told["skipped"] = [{"target": what, "reason": why} for what, why in self.skipped]
        return told


def aim(request: ChannelRequest, known: Identities, channels: Mapping[str, ChannelContribution], at: float) -> Aim:
    """Where the reply to a request goes.

    Args:
        request: What came.
        known: Whom the actor knows, the request's own identity among them.
        channels: The channels of this runtime.
        at: Now, in seconds since the epoch.
    """
    target, skipped = request.response_target, list[tuple[str, str]]()
    pushing = {name for name, channel in channels.items() if channel.push is not None}
    if target.kind == "none":
        return Aim(answers=False, wanted="none")
    if target.kind == "originating":
        return _back(request, channels, "originating")
    if target.kind == "active":
        found = known.active(target.window, at)
        if found is None or found.channel not in pushing or _is_own(found, request):
            return _back(request, channels, "active")
        wanted = [found]
    elif target.kind == "channels":
        wanted = _on(target.names, known, channels, skipped)
    elif target.kind == "identities":
        wanted = _known(target.to, known, skipped)
    else:
        wanted = known.all()
    reachable = _reachable(wanted, channels, skipped)
    if not reachable:
        return replace(_back(request, channels, target.kind), skipped=skipped)
    echoed = [one for one in reachable if not _is_own(one, request)] if target.echo_input else []
    return Aim(False, reachable, echoed, skipped, target.kind)


def _back(request: ChannelRequest, channels: Mapping[str, ChannelContribution], wanted: str) -> Aim:
    """To where the request came from: on its wire, or as a delivery if its channel replies by these."""
    channel = channels.get(request.channel)
    if channel is not None and channel.replies_by_push and request.identity is not None:
        return Aim(answers=False, destinations=[request.identity], wanted=wanted)
    return Aim(wanted=wanted)


def _on(
    names: Sequence[str],
    known: Identities,
    channels: Mapping[str, ChannelContribution],
    skipped: list[tuple[str, str]],
) -> list[ChannelIdentity]:
    found: list[ChannelIdentity] = []
    for name in dict.fromkeys(names):
        here = known.on(name)
        if not here:
            skipped.append((name, "no_identity" if name in channels else "no_such_channel"))
        found += here
    return found


def _known(
    wanted: Sequence[ChannelIdentity], known: Identities, skipped: list[tuple[str, str]]
) -> list[ChannelIdentity]:
    found: list[ChannelIdentity] = []
    for one in wanted:
        seen = known.known(one) or (one if one.verified else None)  # the operator's own code may name strangers
        if seen is None:
            skipped.append((_label(one), "unknown_identity"))
        elif seen not in found:
            found.append(seen)
    return found


def _reachable(
    wanted: Sequence[ChannelIdentity], channels: Mapping[str, ChannelContribution], skipped: list[tuple[str, str]]
) -> list[ChannelIdentity]:
    reachable: dict[str, ChannelIdentity] = {}  # by their lanes: in a place where several are, it is said once
    for one in wanted:
        channel = channels.get(one.channel)
        if channel is not None and channel.push is not None:
            reachable.setdefault(lane_of(one, channel), one)
        else:
            skipped.append((_label(one), "does_not_push"))
    return list(reachable.values())


def _is_own(identity: ChannelIdentity, request: ChannelRequest) -> bool:
    own = request.identity
    return own is not None and (own.channel, own.native_id) == (identity.channel, identity.native_id)


def _label(identity: ChannelIdentity) -> str:
    return f"{identity.channel}:{identity.native_id}"
