"""What a newcomer may try, as the server says when it has started."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent_framework import Message
from pydantic import TypeAdapter

from afactors_channels import BadRequest, ChannelRequest

from .entries import check_entry, input_types
from .instances import is_workflow

_CHAT_URL = "http://127.0.0.1:8000"
_DEEP = 8  # schemas may refer to themselves
_PLAIN: Mapping[str, Any] = {"string": "text", "integer": 1, "number": 1.5, "boolean": True, "array": [], "null": None}


def for_newcomers(base_url: str, hosted: Any, *, with_key: bool) -> str:
    """What to type into another terminal.

    Args:
        base_url: Where it is served, without a path.
        hosted: The agent or the workflow.
        with_key: Whether callers need a key.
    """
    workflow = is_workflow(hosted)
    message = _first_message(input_types(hosted)) if workflow else "Hello! My name is Ada."
    if message is None:
        return "No message is what this workflow takes; host it in Python, with a run hook that makes it."
    key = "  -H 'authorization: Bearer KEY' \\\n" if with_key else ""
    body = shlex.quote(json.dumps({"conversation": "first", "input": message}, ensure_ascii=False))
    chat = f"{_this_python()} -m afactors chat{'' if base_url == _CHAT_URL else f' --url {base_url}/v1'}"
    lines = [
        "Try it, from another terminal:\n",
        f"  curl -s {base_url}/v1/responses -H 'content-type: application/json' \\\n{key}  -d {body}\n",
        f"  {chat}",
    ]
    if workflow:
        answer = '{"type": "function_call_output", "call_id": "…", "output": "…"}'
        lines.append(
            f"\nA question in the output (a call of request_info) is answered by the next input:\n\n  [{answer}]"
        )
    return "\n".join(lines)


def _first_message(types: Sequence[Any]) -> str | None:
    """A text that a workflow can be run with."""
    for text in ("Hello!", *(_sample(kind) for kind in types)):
        try:
            check_entry(types, ChannelRequest("advice", [Message("user", [text]).to_dict()]))
        except BadRequest:
            continue
        return text
    return None


def _sample(kind: Any) -> str:
    try:
        schema = TypeAdapter(kind).json_schema()
    except Exception:  # noqa: BLE001 - not every type has a schema, and there are many ways to say so
        return ""
    return json.dumps(_value(schema, schema.get("$defs", {}), 0), ensure_ascii=False)


def _value(schema: Mapping[str, Any], others: Mapping[str, Any], depth: int) -> Any:
    """Some value of a JSON schema."""
    if depth > _DEEP:
        return None
    if "$ref" in schema:
        return _value(others.get(schema["$ref"].rpartition("/")[2], {}), others, depth + 1)
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    for name in ("examples", "enum"):
        if schema.get(name):
            return schema[name][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return _value(schema[name][0], others, depth + 1)
    if schema.get("type") == "object":
        return {name: _value(one, others, depth + 1) for name, one in schema.get("properties", {}).items()}
    return _PLAIN.get(schema.get("type", "string"))


def _this_python() -> str:
    """How to call the Python that runs this, from the present folder."""
    executable = Path(sys.executable)
    if executable.is_relative_to(Path.cwd()):
        return str(executable.relative_to(Path.cwd()))
    return "python"
