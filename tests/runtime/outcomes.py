"""What became of it: how tests tell the ends of calls and of runs."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from afactors_channels import NotFound


async def caught(awaitable: Awaitable[Any]) -> Exception:
    """What it raises."""
    try:
        await awaitable
    except Exception as exc:  # noqa: BLE001 - whatever it is, the test looks at it
        return exc
    raise AssertionError("it raised nothing")


async def fate(house: Any, name: str) -> Any:
    """How a run ended: its answer, or the code of its error; None if there is none."""
    try:
        run = await house.runtime.get_continuation(name, wait=True)
    except NotFound:
        return None
    return run.result.text if run.result is not None else (run.state, run.error[0])
