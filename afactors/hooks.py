"""Calling the user's hooks: sync or async, and none of their failures is ours."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from afactors_channels import HostError, TargetFailed

logger = logging.getLogger("afactors.runtime")

T = TypeVar("T")


async def hooked(hook: Callable[..., Any] | None, value: T, *, what: str, code: str, **more: Any) -> T:
    """What a hook makes of a value; the value itself without one.

    Args:
        hook: Takes the value and what else it is told, and returns one of the same type.
        value: What it may rewrite.
        what: What the hook is called.
        code: What its failure is called.
        **more: What else it is told.

    Raises:
        HostError: It refused.
        TargetFailed: It failed.
    """
    if hook is None:
        return value
    try:
        made = hook(value, **more)
        if inspect.isawaitable(made):
            made = await made
        if not isinstance(made, type(value)):
            raise TypeError(f"the {what} hook gave {type(made).__name__} instead of a {type(value).__name__}")
    except HostError:
        raise
    except Exception as exc:  # it is user code
        logger.warning("the %s hook failed", what, exc_info=exc)
        raise TargetFailed(f"The {what} hook failed.", code=code) from exc
    return made
