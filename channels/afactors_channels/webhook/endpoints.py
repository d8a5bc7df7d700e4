"""Who is sent to, and who may send: what is configured, and checked when it is.

Nothing here shows a secret: not in its repr, and not in an error's text. A URL may be one, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from ipaddress import ip_address
from typing import Any, TypeAlias

import httpx

from .addresses import is_public
from .events import EVENT_TYPES
from .signatures import key_of

Secrets: TypeAlias = str | Sequence[str]
"""One secret, or several while they are exchanged, the newest first."""

IsolationKey: TypeAlias = str | Callable[[Mapping[str, Any]], str]

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
# What is the message's, and what is the connection's.
_OURS = frozenset({"content-type", "content-length", "content-encoding", "transfer-encoding", "host", "connection"})
_OURS |= {"expect", "keep-alive", "te", "trailer", "upgrade"}
_MAX_SECRETS = 8


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """Somebody to whom events are sent. Only what is configured exists: no request can name a URL.

    Attributes:
        name: Its name: as an identity's native id, and in logs. 1 to 64 letters, digits, ``_``, ``-`` and ``.``.
        url: Where it is. It has to be https, without user information.
        secrets: What it is signed with: one ``whsec_…``, or several while they are exchanged, the newest first. Every
            one of them signs.
        events: Types of the events that it takes (``afactors.reply``); None for all. Others count as delivered.
        allow_private: Whether its host may be at an address that is not public.
        allow_http: Whether events may be sent to it in the clear.
        headers: More headers for every request (an `Authorization`).

    Raises:
        ValueError: One of these is not as it should be.
    """

    name: str
    url: str = field(repr=False)
    secrets: InitVar[Secrets]
    events: Collection[str] | None = None
    allow_private: bool = False
    allow_http: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    keys: tuple[bytes, ...] = field(init=False, repr=False)

    def __post_init__(self, secrets: Secrets) -> None:
        _check_name("endpoint", self.name)
        what = f"endpoint {self.name!r}"
        _check_url(what, self.url, allow_private=self.allow_private, allow_http=self.allow_http)
        _check_events(what, self.events)
        _check_headers(what, self.headers)
        object.__setattr__(self, "keys", _keys(what, secrets))

    def takes(self, event_type: str) -> bool:
        """Whether it takes events of a type."""
        return self.events is None or event_type in self.events


@dataclass(frozen=True, slots=True)
class WebhookSource:
    """Somebody who may send events, to ``{path}/{name}``.

    Attributes:
        name: Its name: the last segment of its path. 1 to 64 letters, digits, ``_``, ``-`` and ``.``.
        secrets: What it signs with: one ``whsec_…``, or several while they are exchanged. Any of them will do.
        isolation_key: Whom its events are for. Text: the actor that has this key. A function of the event: it names
            one of this source's own actors (the key is ``channel/source:name``), because whatever a body says is only
            the source's word. It refuses an event that names nobody by raising `LookupError`, `TypeError` or
            `ValueError`. None: every conversation is an actor of its own. A run hook can give a request any key.
        conversation: Dotted path of the event's member that names its conversation (``data.thread``): text, or a whole
            number. An event without one begins a conversation of its own, or goes on with its actor's current one.
        reply_to: Name of the endpoint that replies are sent to, where the event asks for one by ``data.reply``.

    Raises:
        ValueError: One of these is not as it should be.
    """

    name: str
    secrets: InitVar[Secrets]
    isolation_key: IsolationKey | None = None
    conversation: str | None = None
    reply_to: str | None = None
    keys: tuple[bytes, ...] = field(init=False, repr=False)

    def __post_init__(self, secrets: Secrets) -> None:
        _check_name("source", self.name)
        what = f"source {self.name!r}"
        if not (self.isolation_key is None or callable(self.isolation_key) or _is_text(self.isolation_key)):
            raise ValueError(f"{what}: isolation_key is text, or a function of the event")
        if self.conversation is not None and not all(self.conversation.split(".")):
            raise ValueError(f"{what}: conversation is a dotted path such as 'data.thread'")
        object.__setattr__(self, "keys", _keys(what, secrets))


def by_name(what: str, things: Iterable[Any]) -> dict[str, Any]:
    """Endpoints or sources by their names.

    Raises:
        ValueError: Two have the same one.
    """
    found: dict[str, Any] = {}
    for thing in things:
        if thing.name in found:
            raise ValueError(f"{what}: two are called {thing.name!r}")
        found[thing.name] = thing
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _check_name(what: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{what}: the name must match {_NAME.pattern}: {name!r}")


def _keys(what: str, secrets: Secrets) -> tuple[bytes, ...]:
    several = [secrets] if isinstance(secrets, str) else list(secrets)
    if not 1 <= len(several) <= _MAX_SECRETS:
        raise ValueError(f"{what}: secrets are 1 to {_MAX_SECRETS}")
    try:
        return tuple(key_of(secret) for secret in several)
    except ValueError as exc:
        raise ValueError(f"{what}: secrets: {exc}") from None


def _check_url(what: str, text: str, *, allow_private: bool, allow_http: bool) -> None:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError):
        raise ValueError(f"{what}: url is no URL") from None
    if url.scheme != "https" and not (url.scheme == "http" and allow_http):
        raise ValueError(f"{what}: url has to be https (or http, with allow_http)")
    if not url.host or url.userinfo or url.fragment:
        raise ValueError(f"{what}: url has to have a host, and neither user information nor a fragment")
    if url.port is not None and not 1 <= url.port <= 65_535:
        raise ValueError(f"{what}: url has a port that there cannot be")
    if not allow_private and _is_number(url.host) and not is_public(url.host):
        raise ValueError(f"{what}: url is at an address that is not public (allow_private)")


def _is_number(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _check_events(what: str, events: Collection[str] | None) -> None:
    if events is None:
        return
    if isinstance(events, str) or not set(events) <= EVENT_TYPES:
        raise ValueError(f"{what}: events are some of: {', '.join(sorted(EVENT_TYPES))}")


def _check_headers(what: str, headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"{what}: headers: {name!r} is not a header's name, or its value not printable ASCII")
        if name.lower() in _OURS or name.lower().startswith("webhook-"):
            raise ValueError(f"{what}: headers: {name!r} is not yours to set")
