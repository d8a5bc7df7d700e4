"""Where a reply goes besides to its caller: `response_target`, an extension of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..requests import ChannelIdentity, ResponseTarget, TargetKind
from .fields import Check, array, boolean, choice, identifier, mapping, refuse, required

MAX_TARGETS = 16
WORDS: tuple[TargetKind, ...] = ("originating", "active", "all_linked", "none")

_word = choice(*WORDS)
_FORMS = ("kind", "channel", "channels", "identities")


def check_target(value: Any, path: str) -> ResponseTarget:
    """A word; or an object with one of `kind` (a word), `channel`, `channels` and `identities`, and `echo_input`."""
    if isinstance(value, str):
        return ResponseTarget(_word(value, path))
    found = mapping(value, path)
    _know(found, path, (*_FORMS, "echo_input"))
    given = [name for name in _FORMS if found.get(name) is not None]
    if len(given) != 1:
        refuse(path, f"must have exactly one of: {', '.join(_FORMS)}")
    (form,) = given
    echo = found.get("echo_input")
    echoes = boolean(echo, f"{path}.echo_input") if echo is not None else False
    return _READ[form](found[form], f"{path}.{form}", echoes)


def check_waits(target: ResponseTarget, background: bool) -> None:
    """A reply that goes nowhere can only be fetched later."""
    if target.kind == "none" and not background:
        refuse("response_target", "may be 'none' only with 'background'", "unsupported_value")


def _know(value: Mapping[str, Any], path: str, names: Sequence[str]) -> None:
    for name in value:
        if name not in names:
            refuse(f"{path}.{name}", f"is not known here; there are: {', '.join(names)}")


def _several(check: Check) -> Check:
    check_all = array(check, MAX_TARGETS)

    def check_some(value: Any, path: str) -> list[Any]:
        found: list[Any] = check_all(value, path)
        if not found:
            refuse(path, "must not be empty")
        return found

    return check_some


def _identity(value: Any, path: str) -> ChannelIdentity:
    """Somebody whom the body names; nobody vouches for it."""
    _know(mapping(value, path), path, ("channel", "native_id", "conversation"))
    channel, native_id = (
        identifier(required(value, name, path), f"{path}.{name}") for name in ("channel", "native_id")
    )
    conversation = value.get("conversation")
    if conversation is not None:
        conversation = identifier(conversation, f"{path}.conversation")
    return ChannelIdentity(channel, native_id, conversation=conversation or "")


_names = _several(identifier)
_identities = _several(_identity)


_READ: Mapping[str, Callable[[Any, str, bool], ResponseTarget]] = {
    "kind": lambda value, path, echo: ResponseTarget(_word(value, path), echo_input=echo),
    "channel": lambda value, path, echo: ResponseTarget.channel(identifier(value, path), echo_input=echo),
    "channels": lambda value, path, echo: ResponseTarget.channels(_names(value, path), echo_input=echo),
    "identities": lambda value, path, echo: ResponseTarget.identities(_identities(value, path), echo_input=echo),
}
