"""What a response asks, in words, and a person's lines as the answers. Pure.

The rules:

1. A request for an approval (`mcp_approval_request`) and a workflow's request for information (a `function_call` of
   `request_info`) are questions. Any other call that has no output wants a tool of the client's.
2. The schema of the answer says what a line has to be: yes or no for a boolean (and for approvals), a number, the text
   as it is for a string and where there is no schema, and JSON for anything else. Whether the JSON is of the right
   shape is for the server to say.
3. Questions that are asked at once are answered one after the other, and their answers sent together.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_REQUEST_INFO = "request_info"
_WIDTH = 100  # data that is longer has lines of its own
_PRIMITIVE = {"boolean": "yes or no", "integer": "a whole number", "number": "a number", "string": "text"}


class Unfit(ValueError):
    """A line that is no answer; its text says what would be one."""


@dataclass(frozen=True)
class Prompt:
    """One question.

    Attributes:
        id: By which it is answered.
        text: The question, in words.
        wanted: The answer that it wants, in words.
        kind: What a line has to be.
        approval: Whether it is answered as an approval is.
    """

    id: str
    text: str
    wanted: str
    kind: str = "boolean"
    approval: bool = False

    def answer(self, line: str) -> dict[str, Any]:
        """A line, as the item that answers.

        Raises:
            Unfit: It is no answer to this.
        """
        output = _READERS.get(self.kind, _json)(line)
        if self.approval:
            return {"type": "mcp_approval_response", "approval_request_id": self.id, "approve": output == "true"}
        return {"type": "function_call_output", "call_id": self.id, "output": output}


@dataclass
class Inquiry:
    """Questions that wait, and their answers as far as they are given."""

    prompts: list[Prompt] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def current(self) -> Prompt | None:
        """What is asked now."""
        return self.prompts[len(self.answers)] if len(self.answers) < len(self.prompts) else None

    def take(self, line: str) -> list[dict[str, Any]]:
        """Answer what is asked now; all the answers once the last is there, and nothing before.

        Raises:
            Unfit: The line is no answer.
        """
        if self.current is not None:
            self.answers.append(self.current.answer(line))
        return self.answers if self.current is None else []

    def again(self) -> None:
        """Ask all of it again."""
        self.answers = []

    def settle(self, waiting: Iterable[Prompt]) -> None:
        """Answers were refused because something was settled meanwhile: ask for what still waits."""
        only = self.prompts[0].id if len(self.prompts) == 1 else None
        self.prompts, self.answers = [prompt for prompt in waiting if prompt.id != only], []


def read_items(items: Iterable[Any]) -> tuple[list[Prompt], list[str]]:
    """The questions among a response's items, or among what a conversation waits for.

    Returns:
        The questions, and in words the calls of the client's tools.
    """
    known = [item for item in items if isinstance(item, Mapping)]
    done = [item.get("call_id") for item in known if item.get("type") == "function_call_output"]
    prompts, calls = [], []
    for item in known:
        arguments = _loaded(item.get("arguments"))
        match item:
            case {"type": "mcp_approval_request", "id": str(name), "name": str(tool)}:
                who = item.get("server_label") or "the agent"
                text = f"{who} asks whether to call {tool}{_shown(arguments)}"
                prompts.append(Prompt(name, text, _PRIMITIVE["boolean"], approval=True))
            case {"type": "function_call", "call_id": str(name)} | {"type": "function_call", "id": str(name)}:
                if item.get("name") == _REQUEST_INFO:
                    prompts.append(_requested(name, arguments))
                elif item.get("name") and name not in done:
                    calls.append(f"{item['name']}{_shown(arguments)}")
    return prompts, calls


def _requested(name: str, arguments: Any) -> Prompt:
    told = arguments if isinstance(arguments, Mapping) else {"data": arguments}
    schema = told.get("response_schema")
    schema = schema if isinstance(schema, Mapping) else {}
    kind = schema.get("type") if schema else "any"
    kind = kind if isinstance(kind, str) else ""
    wanted = "text, or JSON" if kind == "any" else _PRIMITIVE.get(kind) or f"JSON: {_shape(schema)}"
    if kind == "string" and isinstance(schema.get("enum"), list):
        wanted = f"one of {', '.join(map(str, schema['enum']))}"
    return Prompt(name, f"{told.get('source') or 'the workflow'} asks{_shown(told.get('data'))}", wanted, kind)


# --- words -------------------------------------------------------------------------------------------------


def _loaded(arguments: Any) -> Any:
    try:
        return json.loads(arguments)
    except (TypeError, ValueError, RecursionError):
        return arguments


def _shown(data: Any) -> str:
    """Data behind a colon; nothing if there is none."""
    if data is None or data in ("", {}):
        return ""
    text = data if isinstance(data, str) else _dumped(data)
    if "\n" not in text and len(text) <= _WIDTH:
        return f": {text}"
    lines = text if isinstance(data, str) else _dumped(data, indent=2)
    return ":\n" + "\n".join(f"    {line}" for line in lines.splitlines()) + "\n "


def _dumped(data: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(data, ensure_ascii=False, indent=indent)
    except RecursionError:
        return "..."


def _shape(schema: Any, depth: int = 4) -> str:
    """A schema at a glance."""
    match schema:
        case _ if not depth:
            return "..."
        case {"enum": list(values)}:
            return " or ".join(map(_dumped, values))
        case {"anyOf": list(kinds)} | {"oneOf": list(kinds)}:
            return " or ".join(_shape(kind, depth - 1) for kind in kinds)
        case {"type": "object", "properties": {**members}}:
            required = schema.get("required") or ()
            named = {name if name in required else f"{name}?": _shape(one, depth - 1) for name, one in members.items()}
            return f"{{{', '.join(f'{name}: {shape}' for name, shape in named.items())}}}"
        case {"type": "array"}:
            return f"[{_shape(schema.get('items'), depth - 1)}, ...]"
        case {"type": "object"}:
            return "{...}"
        case {"type": str(kind)}:
            return kind
        case {"$ref": str(name)}:
            return name.rpartition("/")[2]
    return "..."


# --- lines -------------------------------------------------------------------------------------------------


def _yes_or_no(line: str) -> str:
    word = line.strip().lower()
    if word not in ("y", "yes", "n", "no"):
        raise Unfit("Please answer yes or no.")
    return "true" if word.startswith("y") else "false"


def _number(line: str) -> str:
    try:
        value = _parsed(line)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unfit("Please answer with a number.")
    return line.strip()


def _json(line: str) -> str:
    try:
        _parsed(line)
    except (ValueError, RecursionError) as error:
        why = f" ({error.msg}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise Unfit(f"This is not JSON{why}. Please answer in JSON.") from None
    return line.strip()


def _parsed(line: str) -> Any:
    return json.loads(line, parse_constant=_refused)


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _as_it_is(line: str) -> str:
    return line


_READERS: Mapping[str, Callable[[str], str]] = {
    "boolean": _yes_or_no,
    "integer": _number,
    "number": _number,
    "string": _as_it_is,
    "any": _as_it_is,
}
