"""Settings of a request that are more than one plain value: checked, and put into the framework's form.

A `check_…` function returns the value as the response repeats it. A `shape_…` function writes what follows
from the value into the chat options and into the response's echo.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .fields import (
    array,
    boolean,
    choice,
    conversation_name,
    function_name,
    mapping,
    members,
    refuse,
    required,
    string,
)

MAX_TOOLS = 128
MAX_PAIRS = 16
MAX_PAIR_KEY = 64
MAX_PAIR_VALUE = 512

_label = string()
_includable = string(128)
_stop_word = string(256)
_stop_words = array(_stop_word, 4)


def check_conversation(value: Any, path: str) -> str:
    """A conversation's id, or an object that holds it."""
    if isinstance(value, Mapping):
        return conversation_name(required(value, "id", path), f"{path}.id")
    return conversation_name(value, path)


def shape_conversation(value: str, options: dict[str, Any], echo: dict[str, Any]) -> None:
    """The response has an object that holds the id."""
    echo["conversation"] = {"id": value}


def check_background(background: bool, store: bool) -> None:
    """A response in the background can only be fetched later, so it must be stored."""
    if background and not store:
        refuse("background", "needs 'store', which must not be false", "unsupported_value")


ENCRYPTED = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = (
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    LOGPROBS,
    ENCRYPTED,
    "web_search_call.action.sources",
    "web_search_call.results",
)
"""What a client may want in the output. Of tools that this host does not have there is nothing to include."""


def check_include(value: Any, path: str) -> str:
    """One thing that the client wants in the output."""
    if _includable(value, path) not in INCLUDABLE:
        refuse(path, f"must not be {value!r}, but one of: {', '.join(INCLUDABLE)}", "unsupported_value")
    return str(value)


def check_metadata(value: Any, path: str) -> dict[str, str]:
    """Labels: the names and values are text, few and short."""
    pairs = dict(mapping(value, path))
    if len(pairs) > MAX_PAIRS:
        refuse(path, f"must have at most {MAX_PAIRS} pairs")
    for name, label in pairs.items():
        if not isinstance(name, str) or len(name) > MAX_PAIR_KEY:
            refuse(path, f"must have keys of at most {MAX_PAIR_KEY} characters")
        if not isinstance(label, str) or len(label) > MAX_PAIR_VALUE:
            refuse(path, f"must have values that are strings of at most {MAX_PAIR_VALUE} characters")
        _label(name, path)
        _label(label, path)
    return pairs


def check_stop(value: Any, path: str) -> Any:
    """A word at which the model stops, or a few."""
    return _stop_word(value, path) if isinstance(value, str) else _stop_words(value, path)


_tool_members = members({"description": string(), "parameters": mapping, "strict": boolean})


def _check_tool(value: Any, path: str) -> dict[str, Any]:
    tool: dict[str, Any] = _tool_members(value, path)
    if tool.get("type") != "function":
        refuse(f"{path}.type", "must be 'function': other tools are the host's", "unsupported_value")
    function_name(required(tool, "name", path), f"{path}.name")
    return {name: tool.get(name) for name in ("type", "name", "description", "parameters", "strict")}


_all_tools = array(_check_tool, MAX_TOOLS)


def check_tools(value: Any, path: str) -> list[dict[str, Any]]:
    """Functions that the client executes, no two of the same name."""
    tools: list[dict[str, Any]] = _all_tools(value, path)
    names = set()
    for index, tool in enumerate(tools):
        if tool["name"] in names:
            refuse(f"{path}[{index}].name", "must not name a tool a second time")
        names.add(tool["name"])
    return tools


def plain_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as the host hands it to the target."""
    plain = {
        "type": "function",
        "name": tool["name"],
        "description": tool["description"] or "",
        "parameters": tool["parameters"] or {"type": "object", "properties": {}},
    }
    if tool["strict"] is not None:
        plain["strict"] = tool["strict"]
    return plain


_mode = choice("auto", "none", "required")


def check_tool_choice(value: Any, path: str) -> Any:
    """A mode, one function, or the functions that may be called."""
    if isinstance(value, str):
        return _mode(value, path)
    kind = mapping(value, path).get("type")
    if kind == "function":
        return _named_function(value, path)
    if kind == "allowed_tools":
        tools = _named_functions(required(value, "tools", path), f"{path}.tools")
        mode = value.get("mode")
        return {"type": kind, "mode": "auto" if mode is None else _mode(mode, f"{path}.mode"), "tools": tools}
    return refuse(f"{path}.type", "must be one of: function, allowed_tools", "unsupported_value")


def _named_function(value: Any, path: str) -> dict[str, Any]:
    if mapping(value, path).get("type") != "function":
        refuse(f"{path}.type", "must be 'function'", "unsupported_value")
    return {"type": "function", "name": function_name(required(value, "name", path), f"{path}.name")}


_named_functions = array(_named_function, MAX_TOOLS)


def check_chosen(tool_choice: Any, tools: list[dict[str, Any]]) -> None:
    """A tool choice may name only functions of the same request, as at OpenAI."""
    if not isinstance(tool_choice, dict):
        return
    names = {tool["name"] for tool in tools}
    chosen = tool_choice.get("tools", [tool_choice])
    for index, tool in enumerate(chosen):
        if tool["name"] not in names:
            path = f"tool_choice.tools[{index}].name" if "tools" in tool_choice else "tool_choice.name"
            refuse(path, "must name one of the request's own tools")


def shape_tool_choice(value: Any, options: dict[str, Any], echo: dict[str, Any]) -> None:
    """The framework's `ToolMode`, which takes `allowed_tools` only with the modes that may call."""
    if isinstance(value, str):
        options["tool_choice"] = value
    elif "tools" not in value:
        options["tool_choice"] = {"mode": "required", "required_function_name": value["name"]}
    elif value["mode"] == "none":
        options["tool_choice"] = "none"
    else:
        names = [tool["name"] for tool in value["tools"]]
        options["tool_choice"] = {"mode": value["mode"], "allowed_tools": names}


check_reasoning = members(
    {
        "effort": choice("none", "minimal", "low", "medium", "high", "xhigh", "max"),
        "summary": choice("auto", "concise", "detailed"),
    }
)


def shape_reasoning(value: Mapping[str, Any], options: dict[str, Any], echo: dict[str, Any]) -> None:
    """Passed on as it is; the response repeats the two settings that every version of the protocol has."""
    if wanted := {name: member for name, member in value.items() if member is not None}:
        options["reasoning"] = wanted
    echo["reasoning"] = {"effort": value.get("effort"), "summary": value.get("summary")}


_format_type = choice("text", "json_object", "json_schema")
_format_members = members(
    {
        "name": function_name,
        "description": string(),
        "schema": mapping,
        "strict": boolean,
    }
)


def _check_format(value: Any, path: str) -> dict[str, Any]:
    kind = _format_type(required(mapping(value, path), "type", path), f"{path}.type")
    if kind != "json_schema":
        return {"type": kind}
    checked = _format_members(value, path)
    return {
        "type": kind,
        "name": required(checked, "name", path),
        "description": checked.get("description"),
        "schema": required(checked, "schema", path),
        "strict": checked.get("strict") or False,
    }


check_text = members({"format": _check_format, "verbosity": choice("low", "medium", "high")})


def shape_text(value: Mapping[str, Any], options: dict[str, Any], echo: dict[str, Any]) -> None:
    """The response format in the form of chat completions, the one that the framework's clients all take."""
    wanted = value.get("format") or {"type": "text"}
    if wanted["type"] == "json_schema":
        schema = {name: wanted[name] for name in ("name", "schema", "strict")}
        if wanted["description"] is not None:
            schema["description"] = wanted["description"]
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif wanted["type"] == "json_object":
        options["response_format"] = {"type": "json_object"}
    echo["text"] = {"format": wanted}
    if (verbosity := value.get("verbosity")) is not None:
        options["verbosity"] = echo["text"]["verbosity"] = verbosity


def shape_store(value: bool, options: dict[str, Any], echo: dict[str, Any]) -> None:
    """Only a refusal goes on to the chat client.

    To the framework `store=True` means that the service keeps the history: it then neither loads nor saves
    its own (`Agent._prepare_run_context`), and the conversation would be lost to the host. `store=False` is
    the opposite: the service keeps nothing, and local history is used, which is what the host relies on.
    """
    if not value:
        options["store"] = False
