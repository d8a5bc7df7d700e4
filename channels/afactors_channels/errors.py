"""Errors by whose fault; each knows the HTTP status that its protocol envelope should carry.

The message of each is meant for the wire: it names the field and the limit, never a path, a secret or the text of
another exception.
"""

from __future__ import annotations


class HostError(Exception):
    """Base of every error that a channel may show its caller.

    Attributes:
        message: Text for the caller.
        field: The request's field at fault (a dotted path such as ``input[0].content``), or None.
        code: Machine-readable reason, in snake case.
        status: HTTP status.
        retry_after: Seconds after which a retry may succeed, or None.
    """

    status: int = 500
    code: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        code: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.code = code or type(self).code
        self.status = status or type(self).status
        self.retry_after = retry_after


class BadRequest(HostError):
    """The caller's: unparsable, an unknown field value, a key too long."""

    status = 400
    code = "invalid_request"


class NotFound(BadRequest):
    """The caller named something that is not there (or is not theirs)."""

    status = 404
    code = "not_found"


class Conflicting(BadRequest):
    """The caller's request contradicts what is going on."""

    status = 409
    code = "conflict"


class Restarted(Conflicting):
    """The run that was followed began again: nothing that follows belongs to what came before."""

    code = "run_restarted"


class TooLarge(BadRequest):
    """The request's body is over the limit."""

    status = 413
    code = "request_too_large"


class Unprocessable(BadRequest):
    """Well formed, and refused (by the run hook, or because the target cannot take it)."""

    status = 422
    code = "unprocessable"


class NotAllowed(HostError):
    """Authorization: bland text outside, details in the log."""

    status = 401
    code = "invalid_api_key"


class Overloaded(HostError):
    """Ours, for now: mailbox full, draining, too many runs."""

    status = 429
    code = "overloaded"


class StorageFull(HostError):
    """Ours: the store has no room for new work."""

    status = 507
    code = "storage_full"


class TargetFailed(HostError):
    """The agent's: it raised, timed out, or was cancelled. Never carries the agent's own exception text."""

    status = 500
    code = "server_error"


class PushRejected(Exception):
    """The destination refuses this message for good: to the dead letters at once."""


class PushDeferred(Exception):
    """The destination asks to wait.

    Attributes:
        retry_after: Seconds to wait, or None for the retry policy's choice.
    """

    def __init__(self, message: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
