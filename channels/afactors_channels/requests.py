"""What a channel hands over: plain data, encodable by its type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeAlias

SessionMode: TypeAlias = Literal["auto", "required", "disabled"]
"""auto: use the session that the request names, or begin one; required: refuse a request that names none;
disabled: run without any session, remember nothing."""

OnDisconnect: TypeAlias = Literal["cancel", "finish"]

OverlapPolicy: TypeAlias = Literal["enqueue", "reject", "interrupt", "latest", "coalesce"]
"""What becomes of a message to a session that is busy. enqueue: it waits in line; reject: it is refused as
`Conflicting`; interrupt: the turn that runs is cancelled, and nothing of it is kept; latest: those that wait are
cancelled, and what runs goes on; coalesce: it joins the last one that waits, if that is of its kind: one turn, whose
input is both. What came by another channel, and a reminder, is not cancelled by any."""


@dataclass(frozen=True, slots=True)
class ChannelIdentity:
    """Who sent a message, in the channel's own terms. An identity never chooses an isolation key by itself.

    Attributes:
        channel: The channel's name.
        native_id: The user's id there.
        attributes: What else is known of them: plain data.
        conversation: The id of the place where they wrote, if a user may have several (a chat, a topic).
        verified: Whether the platform vouches for it. Whatever a request's body merely claims is not.
    """

    channel: str
    native_id: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    conversation: str = ""
    verified: bool = False


TargetKind: TypeAlias = Literal["originating", "active", "channels", "identities", "all_linked", "none"]


@dataclass(frozen=True, slots=True)
class ResponseTarget:
    """Where a turn's reply goes. Destinations are found among the identities that the turn's own actor has seen.

    Use what the class offers: `originating`, `active`, `all_linked`, `none`, and `channel(…)`, `channels(…)`,
    `identity(…)`, `identities(…)`.

    Attributes:
        kind: originating: back where the request came from; active: to the channel that the actor's user wrote to
            last, and back to the request's own if none is active; channels: to the user's identities on these;
            identities: to these very ones; all_linked: to all of them; none: nowhere, and who holds the token asks.
        names: Names, for ``channels``.
        to: For ``identities``.
        echo_input: Whether what the user said goes there, too, before the reply.
        window: For ``active``: seconds for which a channel is active after its last message; None for any time.
    """

    originating: ClassVar[ResponseTarget]
    active: ClassVar[ResponseTarget]
    all_linked: ClassVar[ResponseTarget]
    none: ClassVar[ResponseTarget]

    kind: TargetKind = "originating"
    names: Sequence[str] = ()
    to: Sequence[ChannelIdentity] = ()
    echo_input: bool = False
    window: float | None = None

    @classmethod
    def channel(cls, name: str, *, echo_input: bool = False) -> ResponseTarget:
        """To the user's identities on one channel."""
        return cls("channels", (name,), echo_input=echo_input)

    @classmethod
    def channels(cls, names: Sequence[str], *, echo_input: bool = False) -> ResponseTarget:
        """To the user's identities on several channels."""
        return cls("channels", tuple(names), echo_input=echo_input)

    @classmethod
    def identity(cls, identity: ChannelIdentity, *, echo_input: bool = False) -> ResponseTarget:
        """To one identity."""
        return cls("identities", to=(identity,), echo_input=echo_input)

    @classmethod
    def identities(cls, identities: Sequence[ChannelIdentity], *, echo_input: bool = False) -> ResponseTarget:
        """To several identities."""
        return cls("identities", to=tuple(identities), echo_input=echo_input)


ResponseTarget.originating = ResponseTarget()
ResponseTarget.active = ResponseTarget("active")
ResponseTarget.all_linked = ResponseTarget("all_linked")
ResponseTarget.none = ResponseTarget("none")


@dataclass(frozen=True, slots=True)
class ChannelSession:
    """Which conversation a request belongs to.

    Attributes:
        isolation_key: The actor. None where nobody is known: then the thread itself is the key (`session_id`, the
            thread that `after` belongs to, or a new one).
        session_id: A mutable head (a conversation id): the turn continues from wherever it stands, one at a time.
        after: An immutable point (a response id): the turn continues from exactly there, on a branch of its own if
            that is no longer the head. Excludes `session_id`.
    """

    isolation_key: str | None = None
    session_id: str | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True)
class IsolationKeys:
    """Who a trusted platform says that a request is for; it partitions state beside the credential.

    Attributes:
        user_key: Opaque name of the user (`x-agent-user-isolation-key`), or None.
        chat_key: Opaque name of the chat (`x-agent-chat-isolation-key`), or None.
    """

    user_key: str | None = None
    chat_key: str | None = None


@dataclass(frozen=True, slots=True)
class ChannelRequest:
    """One message to the target: plain data, encodable by its type.

    Attributes:
        channel: Name of the channel that it came by.
        input: Messages, each in the framework's serialized form (`Message.to_dict`).
        session: Which conversation.
        session_mode: What to do about the session.
        partition: Name of the credential that it came under ("" for none): a prefix of the key, never the key itself.
        identity: Who sent it, if the channel knows.
        options: Chat options by the framework's names (`temperature`, `max_tokens`, `tool_choice`, `instructions`, …).
        payload: What a workflow is to be run with instead of `input`: plain data, or an instance of a type that its
            first executor takes. It is for the run hook to set; agents take none.
        tools: Client-side function tools, each a mapping with `name`, `description` and `parameters` (a JSON schema).
            The target may call them; the calls are returned to the client, not executed.
        metadata: The client's own labels.
        attributes: Whatever else the protocol carried, for the run hook.
        name: The name that the turn's immutable point gets (a response id), or None for no point.
        retrievable: Whether the result may be fetched later (the Responses API's `store`).
        stream: Whether the caller wants updates as they come.
        on_disconnect: What a caller that leaves does to its turn.
        overlap: What to do if the session is busy; None leaves it to the channel, and then to the runtime.
        idempotency_key: By which a repeat of this request is known, within (channel, partition); None for no check.
        fingerprint: Digest of what a repeat must be the same in.
        redelivers: Whether a repeat is a redelivery, by a platform that sends until it hears that the request was
            accepted: it is never run again. Otherwise a run that failed or was cancelled frees its idempotency key.
        isolation: What a trusted platform said of whom it is for.
        presentation: Whatever the channel needs to show the run again later; kept with its record.
        response_target: Where the reply goes.
    """

    channel: str
    input: Sequence[Mapping[str, Any]]
    session: ChannelSession = ChannelSession()
    session_mode: SessionMode = "auto"
    partition: str = ""
    identity: ChannelIdentity | None = None
    payload: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    retrievable: bool = True
    stream: bool = False
    on_disconnect: OnDisconnect = "cancel"
    overlap: OverlapPolicy | None = None
    idempotency_key: str | None = None
    fingerprint: str = ""
    redelivers: bool = False
    isolation: IsolationKeys | None = None
    presentation: Mapping[str, Any] = field(default_factory=dict)
    response_target: ResponseTarget = ResponseTarget()

    def replace(self, **changes: Any) -> ChannelRequest:
        """A copy with some fields changed."""
        return replace(self, **changes)
