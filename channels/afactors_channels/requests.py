"""What a channel hands over: plain data, encodable by its type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

SessionMode: TypeAlias = Literal["auto", "required", "disabled"]
"""auto: use the session that the request names, or begin one; required: refuse a request that names none;
disabled: run without any session, remember nothing."""

OnDisconnect: TypeAlias = Literal["cancel", "finish"]

OverlapPolicy: TypeAlias = Literal["enqueue", "reject", "interrupt"]
"""What becomes of a message to a session that is busy. enqueue: it waits in line; reject: it is refused as
`Conflicting`; interrupt: the turn that runs is cancelled, and nothing of it is kept."""


@dataclass(frozen=True, slots=True)
class ChannelIdentity:
    """Who sent a message, in the channel's own terms. An identity never chooses an isolation key by itself."""

    channel: str
    native_id: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


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
        isolation: What a trusted platform said of whom it is for.
        presentation: Whatever the channel needs to show the run again later; kept with its record.
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
    isolation: IsolationKeys | None = None
    presentation: Mapping[str, Any] = field(default_factory=dict)

    def replace(self, **changes: Any) -> ChannelRequest:
        """A copy with some fields changed."""
        return replace(self, **changes)
