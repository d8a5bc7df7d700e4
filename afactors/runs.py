"""The record of a turn, as it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from afactors_channels import HostError

from .history import pack
from .turn import Turn

RUN_VERSION = 1


def run_body(
    turn: Turn,
    state: str,
    *,
    completed: float,
    span: Mapping[str, tuple[int, int]] | None = None,
    usage: Mapping[str, Any] | None = None,
    error: HostError | None = None,
    keep_request: bool = True,
) -> bytes:
    """Encode a turn's record.

    A completed turn's messages are in its session's history, and the record says where. One that failed or was
    cancelled left nothing there, so its record keeps the input: it can be read and run again.

    Args:
        turn: The turn.
        state: completed, failed or cancelled.
        completed: When it ended, in seconds since the epoch.
        span: For each history source, the positions that the turn wrote.
        usage: Token counts, as the framework reports them.
        error: What became of it instead.
        keep_request: Whether the record of a turn that did not complete has its request.

    Raises:
        NotStorable: The request is not plain data.
    """
    request = turn.request
    record: dict[str, Any] = {
        "v": RUN_VERSION,
        "st": state,
        "ch": request.channel,
        "s": turn.session_id,
        "c": round(turn.created, 3),
        "d": round(completed, 3),
    }
    optional: dict[str, Any] = {
        "n": request.name,
        "w": {source: list(positions) for source, positions in (span or {}).items()},
        "u": {name: count for name, count in (usage or {}).items() if count},
        "l": dict(request.metadata),
        "x": not request.retrievable,
        "id": request.identity.native_id if request.identity else None,
    }
    if state != "completed":
        optional["why"] = turn.cancel_reason
    if state != "completed" and keep_request:
        optional["in"] = [dict(message) for message in request.input]
        optional["o"] = dict(request.options)
        optional["tl"] = [dict(tool) for tool in request.tools]
    if error is not None:
        optional["e"] = [error.code, error.message]
    record.update((name, value) for name, value in optional.items() if value)
    return pack(record, "run")
