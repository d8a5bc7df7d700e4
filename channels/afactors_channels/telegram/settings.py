"""The channel's options, checked. Pure."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from ..outcomes import ChannelResponseHook, ChannelRunHook
from ..pushes import ChannelCommand, PushPolicy, RetryPolicy
from ..requests import ChannelIdentity, OverlapPolicy
from .addressing import SCOPES, Scope
from .phrases import GREETING

Allow: TypeAlias = Collection[int | str] | Callable[[ChannelIdentity], bool | Awaitable[bool]]
"""Ids of users and chats, and ``@names`` of them; or who decides, sync or async."""

Streaming: TypeAlias = Literal["auto", "off"]
ParseMode: TypeAlias = Literal["HTML", "MarkdownV2"]

API_BASE = "https://api.telegram.org"
MAX_DOWNLOAD = 20 * 2**20
DEFAULT_PUSHES = PushPolicy(retry=RetryPolicy(max_age=86_400.0), rate=25.0, timeout=60.0)

_TOKEN = re.compile(r"[A-Za-z0-9:_-]+")
_SECRET = re.compile(r"[A-Za-z0-9_-]{1,256}")
_COMMAND = re.compile(r"[a-z0-9_]{1,32}")
_USERNAME = re.compile(r"@\w+")
_OVERLAPS = ("enqueue", "reject", "interrupt", "latest", "coalesce")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a `TelegramChannel` is told, beside its token; see there.

    Raises:
        ValueError: An option cannot be what it is; the message names it.
    """

    name: str = "telegram"
    api_base: str = API_BASE
    webhook_path: str = "/telegram/webhook"
    webhook_url: str | None = None
    secret: str | None = field(default=None, repr=False)
    require_secret: bool = True
    polling: bool | None = None
    allow: Allow | None = None
    mention_only: bool = True
    scope: Scope | None = None
    streaming: Streaming = "auto"
    edit_interval: float = 1.5
    parse_mode: ParseMode | None = None
    commands: Sequence[ChannelCommand] = ()
    overlap: OverlapPolicy | None = None
    run_hook: ChannelRunHook | None = None
    response_hook: ChannelResponseHook | None = None
    push_policy: PushPolicy = DEFAULT_PUSHES
    max_download: int = MAX_DOWNLOAD
    greeting: str = GREETING

    def __post_init__(self) -> None:
        _need(bool(self.name), "name must not be empty")
        _need(_is_address(self.api_base), "api_base must be an http(s) address without a query")
        _need(self.webhook_path.startswith("/"), "webhook_path must begin with /")
        self._check_transport()
        self._check_choices()
        _need(self.edit_interval >= 1.0, "edit_interval must be at least 1 second: the servers refuse faster edits")
        _need(self.max_download >= 0, "max_download must not be negative")
        _need(bool(self.greeting.strip()), "greeting must not be empty")
        _check_commands(self.commands)
        _check_allow(self.allow)

    def _check_transport(self) -> None:
        _need(self.webhook_url is None or _is_address(self.webhook_url), "webhook_url must be an http(s) address")
        _need(not (self.polling and self.webhook_url), "polling and webhook_url exclude each other: give one")
        guarded = self.polls or not self.require_secret or self.secret is not None
        _need(guarded, "secret is required for a webhook: anybody could write to it")
        fine = self.secret is None or _SECRET.fullmatch(self.secret) is not None
        _need(fine, "secret must be 1 to 256 letters, digits, _ and -")

    def _check_choices(self) -> None:
        _need(self.scope is None or self.scope in SCOPES, f"scope must be one of {', '.join(SCOPES)}")
        _need(self.streaming in ("auto", "off"), "streaming must be auto or off")
        _need(self.parse_mode in (None, "HTML", "MarkdownV2"), "parse_mode must be HTML, MarkdownV2 or None")
        _need(self.overlap is None or self.overlap in _OVERLAPS, f"overlap must be one of {', '.join(_OVERLAPS)}")

    @property
    def polls(self) -> bool:
        """Whether updates are fetched; otherwise they are sent to us."""
        return self.webhook_url is None if self.polling is None else self.polling

    def scope_in(self, *, private: bool) -> Scope:
        """Whose actor a message goes to."""
        return self.scope or ("user" if private else "conversation")


def check_token(token: str) -> str:
    """A bot's token; the message of the error does not hold it.

    Raises:
        ValueError: It is none.
    """
    _need(isinstance(token, str) and _TOKEN.fullmatch(token) is not None, "token is not a bot's token")
    return token


def bot_id(token: str) -> str:
    """The bot's id, which a token begins with; "0" for a fake token without one."""
    number, colon, _ = token.partition(":")
    return number if colon and number.isdecimal() else "0"


def names_of(allow: Collection[int | str]) -> frozenset[int | str]:
    """A list of users and chats, as it is compared with them."""
    return frozenset(one.lower() if isinstance(one, str) else one for one in allow)


def _check_commands(commands: Sequence[ChannelCommand]) -> None:
    for command in commands:
        fine = _COMMAND.fullmatch(command.name) is not None
        _need(fine, f"commands: {command.name!r} must be 1 to 32 lower-case letters, digits and underscores")
        _need(1 <= len(command.description) <= 256, f"commands: {command.name} needs a description, of at most 256")
    names = [command.name for command in commands]
    _need(len(set(names)) == len(names), f"commands: two have the same name: {sorted(names)}")


def _check_allow(allow: Allow | None) -> None:
    if allow is None or callable(allow):
        return
    _need(not isinstance(allow, str), "allow takes a collection of ids and @names (or a callable), not one string")
    for one in allow:
        numbered = isinstance(one, int) and not isinstance(one, bool)
        named = isinstance(one, str) and _USERNAME.fullmatch(one) is not None
        _need(numbered or named, f"allow: {one!r} is neither an id (a number) nor an @name")


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment


def _need(fine: bool, message: str) -> None:
    if not fine:
        raise ValueError(message)
