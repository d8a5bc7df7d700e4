"""What `serve module:attribute` and `serve --model NAME` host."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from agent_framework import Agent

from .hosting import TargetSource, one_line

MODEL_INSTRUCTIONS = "You are a helpful assistant."


class CannotLoad(Exception):
    """The target cannot be had. The message is one line that says what to do."""


def load_target(spec: str) -> TargetSource:
    """Import ``module:attribute``; the current folder is importable.

    Raises:
        CannotLoad: The spec is malformed, the module cannot be imported, or it lacks the attribute.
    """
    module_name, colon, attribute = spec.partition(":")
    if not (module_name and colon and attribute):
        raise CannotLoad(f"{spec!r} is not module:attribute, for example my_agents:agent")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        where = "" if exc.name == module_name else f" (imported by {module_name!r})"
        raise CannotLoad(
            f"there is no module {exc.name!r}{where}; run from the folder that holds it, or install it"
        ) from exc
    except Exception as exc:  # a module that is being imported may raise anything
        raise CannotLoad(f"importing {module_name!r} failed: {one_line(exc)}") from exc
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise CannotLoad(f"module {module_name!r} has no {attribute!r}{hint}")
        found = getattr(found, part)
    source: TargetSource = found
    return source


def model_factory(model: str, environment: Mapping[str, str] = os.environ) -> Callable[[], Agent[Any]]:
    """A factory of an agent over an OpenAI-compatible chat completions server.

    Chat completions rather than responses: every local model server speaks it, and it leaves the history to us.

    Raises:
        CannotLoad: The extra is not installed, or there is no key.
    """
    try:
        from agent_framework.openai import OpenAIChatCompletionClient
    except ImportError as exc:
        raise CannotLoad("--model needs the openai extra: pip install 'afactors[openai]'") from exc
    base_url = environment.get("OPENAI_BASE_URL")
    api_key = environment.get("OPENAI_API_KEY") or ("none" if base_url else None)
    if api_key is None:
        raise CannotLoad("--model needs OPENAI_API_KEY, or OPENAI_BASE_URL for a local model server")

    def make() -> Agent[Any]:
        client = OpenAIChatCompletionClient(model=model, api_key=api_key, base_url=base_url)
        return Agent(client, MODEL_INSTRUCTIONS, name="assistant")

    return make
