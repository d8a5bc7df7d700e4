"""What the channel itself says to people. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import Conflicting, HostError, NotAllowed, TargetFailed, TooLarge
from ..pushes import ChannelCommand

GREETING = "Hello! Write to me, and I will answer. /help says what else I understand."
NEW = "Here begins a new conversation."
CANCELLED = "Cancelled."
NOTHING_RUNS = "There is nothing to cancel."
NOT_ALLOWED = "Sorry, I may not talk with you: this bot serves only people whom its operator has let in."
FAILED = "Sorry, something went wrong, and I cannot answer this. Please try again."
WITHDRAWN = "(cancelled)"
ANSWERED = "This was answered before."
NOT_YOURS = "This question is not open, or it was not put to you."
NO_FILE = "(I made a file for you, but it could not be sent.)"

_REFUSALS = {
    "session_busy": "I am still busy with what you said before. Please wait, or send /cancel.",
    "question_open": "Please answer my question first, by its buttons or by replying to it. /new begins anew.",
    "question_answered": ANSWERED,
    "question_expired": "It is too late to answer this. Please begin anew with /new.",
    "question_not_found": NOT_YOURS,
    "invalid_answer": "This does not answer my question. Please try again.",
    "mailbox_full": "I cannot remember so much at once, and I did not take this. Please say it again later.",
    "quarantined": "Something is wrong with this conversation, and I did not take this. Please tell my operator.",
    "link_required": "Please link your account first; then I can answer you.",
}


def refusal(error: HostError) -> str:
    """What somebody is told whose message was refused."""
    if error.code in _REFUSALS:
        return _REFUSALS[error.code]
    if isinstance(error, NotAllowed):
        return NOT_ALLOWED
    if isinstance(error, TargetFailed):
        return FAILED
    if isinstance(error, TooLarge):
        return "Sorry, this is too large for me."
    if isinstance(error, Conflicting):
        return "Sorry, I cannot take this now. Please try again."
    return "Sorry, I cannot do anything with this."


def failure(code: str) -> str:
    """What somebody is told whose run failed."""
    return _REFUSALS.get(code, FAILED)


def help_text(commands: Sequence[ChannelCommand]) -> str:
    """What the bot understands."""
    return "\n".join(f"/{command.name}: {command.description}" for command in commands)


def too_large(name: str, limit: int) -> str:
    """A note for the target: a file that it does not get."""
    return f"[The user sent {name}, which is larger than {limit} bytes and was not fetched.]"


def not_fetched(name: str) -> str:
    """A note for the target: a file that it does not get."""
    return f"[The user sent {name}, which could not be fetched.]"
