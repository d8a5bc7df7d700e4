"""What to say or which tool to call, decided from the conversation and the request's options alone.

Where other agents have a model, this one has a table of phrases. Nothing here waits, draws lots or looks at a
clock: the same conversation gets the same answer.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_framework import Content, FunctionTool, Message

ABILITIES = """\
This is what I can do, all of it offline:
- remember: say 'my name is Ada', then ask 'what is my name?' or 'what did I say first?'
- tell the time: 'what time is it in Tokyo?'
- do sums: 'what is 12 * (3 + 4)?'
- keep notes: 'note: buy milk', 'show my notes', 'delete note 1'
- remind you: 'remind me in 5 minutes to stretch', 'my reminders', 'cancel reminder 1'
- talk for a while: 'count to 20'"""
ATTENTION = 1_000
"""Characters of a message that are read; the phrases' cost grows faster than the text they look at."""


@dataclass(frozen=True)
class Say:
    """Answer with this text."""

    text: str


@dataclass(frozen=True)
class Call:
    """Call this tool."""

    name: str
    arguments: dict[str, Any]


def think(messages: Sequence[Message], options: Mapping[str, Any]) -> Say | Call:
    """Decide what to do next: report what tools found, call a tool of the client's, or follow a phrase."""
    results = [content for content in _since_the_user_spoke(messages) if content.type == "function_result"]
    if results:
        return Say(_report(results, messages, client_tools(options)))
    said = [message.text[:ATTENTION] for message in messages if message.role == "user"]
    if not said or not said[-1].strip():
        return Say("I can only read text, and there was none.")
    choice = _ToolChoice.of(options)
    if call := _client_call(said[-1], client_tools(options), choice):
        return call
    decided = _follow_phrase(said)
    if choice.mode == "none" and isinstance(decided, Call):
        return Say(f"My tool {decided.name} would know, but this request allows no tools.")
    return decided


# --- phrases -------------------------------------------------------------------------------------------

_WHO = re.compile(r"\bwhat(?:'s| is| was) my name\b|\bwhat my name is\b|\bwho am i\b", re.I)
_MY_NAME = re.compile(r"\b(?:my name is|call me|i am called)\s+([\w'-]+)", re.I)


def _name(said: Sequence[str]) -> str | None:
    """The name that the user gave last."""
    given = (_MY_NAME.search(text) for text in reversed(said) if not _WHO.search(text))
    return next((found[1] for found in given if found), None)


def _who(_: re.Match[str], said: Sequence[str]) -> Say:
    name = _name(said)
    return Say(f"Your name is {name}." if name else "You have not told me your name yet.")


def _first(_: re.Match[str], said: Sequence[str]) -> Say:
    if len(said) == 1:
        return Say("This is the first thing you have said to me.")
    return Say(f"The first thing you said was: {said[0]!r}.")


def _previous(_: re.Match[str], said: Sequence[str]) -> Say:
    if len(said) == 1:
        return Say("You had not said anything before this.")
    return Say(f"Just before this you said: {said[-2]!r}.")


def _how_many(_: re.Match[str], said: Sequence[str]) -> Say:
    return Say(f"With this one, you have sent me {len(said)} message{'s' * (len(said) != 1)}.")


def _count(found: re.Match[str], _: Sequence[str]) -> Say:
    last = min(int(found[1][:4]), 1_000)
    return Say(" ".join(str(n) for n in range(1, last + 1)) or "That is not far.")


def _hello(_: re.Match[str], said: Sequence[str]) -> Say:
    name = _name(said)
    return Say(f"Hello{', ' + name if name else ''}.\n{ABILITIES}")


def _sum(found: re.Match[str], _: Sequence[str]) -> Call:
    return Call("calculate", {"expression": found[1].strip().rstrip(".").replace("^", "**")})


def _note(found: re.Match[str], _: Sequence[str]) -> Call:
    return Call("add_note", {"text": found[1].strip()})


_SPAN = r"(an?|one|\d{1,6}(?:\.\d{1,3})?) ((?:second|minute|hour|day)s?)"
_SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}


def _remind(found: re.Match[str], _: Sequence[str]) -> Call:
    count = 1.0 if found[1].lower() in {"a", "an", "one"} else float(found[1])
    seconds = next(value for unit, value in _SECONDS.items() if found[2].lower().startswith(unit))
    return Call("remind_me", {"minutes": count * seconds / 60, "what": found[3].strip()})


def _reminded(found: re.Match[str], _: Sequence[str]) -> Say:
    return Say(f"It is time: {found[1].strip()}")


def _delete(found: re.Match[str], _: Sequence[str]) -> Call:
    return Call("delete_note", {"number": int(found[1])})


def _time(found: re.Match[str], _: Sequence[str]) -> Call:
    return Call("current_time", {"zone": found[1].strip()})


# The first phrase found decides.
_PHRASES: list[tuple[re.Pattern[str], Callable[[re.Match[str], Sequence[str]], Say | Call]]] = [
    (re.compile(pattern, re.I), answer)
    for pattern, answer in (
        (r"^Reminder: (.+)", _reminded),
        (rf"\bremind me in {_SPAN} (?:to |that |about )?(.+)", _remind),
        (
            r"\b(?:cancel|delete|remove|forget) reminder (\d{1,9})\b",
            lambda m, _: Call("cancel_reminder", {"number": int(m[1])}),
        ),
        (r"\b(?:my|list|show|the) reminders\b", lambda _, __: Call("my_reminders", {})),
        (r"^\s*note(?:\s+that\b|\s*:)\s*(.+)", _note),
        (r"\b(?:add|take|make) a note\b:?\s+(?:that\s+)?(.+)", _note),
        (
            r"\b(?:delete|remove|forget) note (\d{1,9})\b",
            lambda m, _: Call("delete_note", {"number": int(m[1])}),
        ),
        (r"\b(?:my|list|show|the) notes\b", lambda _, __: Call("list_notes", {})),
        (_WHO.pattern, _who),
        (_MY_NAME.pattern, lambda m, _: Say(f"Nice to meet you, {m[1]}. I will remember your name.")),
        (r"\bwhat did i (?:say|tell you) first\b|\bmy first (?:message|words)\b", _first),
        (r"\bwhat did i (?:just )?(?:say|tell you)\b|\bmy last message\b", _previous),
        (r"\bhow (?:many|often)\b.*\b(?:messages|turns|times|said|sent)\b", _how_many),
        (r"\bcount to (\d+)", _count),
        (r"\btime\b.*?\bin\s+([\w/+ -]+?)\s*(?:now|please|today)?\s*(?:[^\w/+ -]|$)", _time),
        (r"\b(?:what time|the (?:time|date))\b", lambda _, __: Call("current_time", {"zone": "UTC"})),
        (r"([-+(]*\d[\d.\s()]*[-+*/%^][-+*/%^\d.\s()]*)", _sum),
        (r"^\W*(?:hello|hi|hey|good (?:morning|evening|day))\b", _hello),
        (r"\b(?:help|what can you do)\b", lambda _, __: Say(ABILITIES)),
    )
]


def _follow_phrase(said: Sequence[str]) -> Say | Call:
    for pattern, answer in _PHRASES:
        if found := pattern.search(said[-1]):
            return answer(found, said)
    return Say(f"You said: {said[-1]!r}. I am only a demonstration: ask me for 'help' to see what I can do.")


# --- tools ---------------------------------------------------------------------------------------------


def client_tools(options: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The tools that the caller declared and will run itself: their parameters' schemas, by name."""
    tools = options.get("tools") or ()
    return {
        each.name: each.parameters()
        for each in (tools if isinstance(tools, Sequence) else (tools,))
        if isinstance(each, FunctionTool) and each.declaration_only
    }


def _since_the_user_spoke(messages: Sequence[Message]) -> list[Content]:
    contents: list[Content] = []
    for message in reversed(messages):
        if message.role == "user":
            break
        contents[:0] = message.contents
    return contents


def _report(results: Sequence[Content], messages: Sequence[Message], theirs: Mapping[str, Any]) -> str:
    """Put what tools found into words. Ours speak for themselves; a client's tool is named."""
    names = {
        content.call_id: content.name
        for message in messages
        for content in message.contents
        if content.type == "function_call"
    }
    lines = []
    for content in results:
        name = names.get(content.call_id)
        lines.append(f"{name} says: {content.result}" if name in theirs else str(content.result))
    return "\n".join(lines)


@dataclass(frozen=True)
class _ToolChoice:
    """What the caller wants called: a mode, the one function asked for, and the only ones allowed."""

    mode: str = "auto"
    wanted: str | None = None
    allowed: Sequence[str] | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "_ToolChoice":
        choice = options.get("tool_choice") or "auto"
        if isinstance(choice, str):
            return cls(choice)
        return cls(choice.get("mode", "auto"), choice.get("required_function_name"), choice.get("allowed_tools"))

    def permits(self, name: str) -> bool:
        if self.mode == "none" or (self.wanted is not None and name != self.wanted):
            return False
        return self.allowed is None or name in self.allowed


def _client_call(text: str, tools: Mapping[str, Mapping[str, Any]], choice: _ToolChoice) -> Call | None:
    """Call the permitted tool that the text names by a telling word; if one is required, the first."""
    permitted = {name: schema for name, schema in tools.items() if choice.permits(name)}
    words = set(re.findall(r"\w+", text.casefold()))
    for name, schema in permitted.items():
        telling = {name, *re.findall(r"[A-Z]?[a-z]{3,}", name)} - {"get", "set"}
        if words & {word.casefold() for word in telling}:
            return Call(name, _arguments(schema, text))
    if choice.mode == "required" and permitted:
        name, schema = next(iter(permitted.items()))
        return Call(name, _arguments(schema, text))
    return None


def _arguments(schema: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Fill a schema's required properties with what the text offers."""
    properties = schema.get("properties") or {}
    return {name: _argument(properties.get(name) or {}, text) for name in schema.get("required") or ()}


def _argument(rules: Mapping[str, Any], text: str) -> Any:
    """Something that fits a property: of several values one that is named, the first number, 'in (Paris)'."""
    if values := rules.get("enum"):
        return next((value for value in values if str(value).casefold() in text.casefold()), values[0])
    kinds = rules.get("type", "string")
    kind = kinds if isinstance(kinds, str) else next(iter(kinds), "string")
    number = re.search(r"-?\d{1,15}(?:\.\d{1,15})?", text)
    phrase = re.search(r"\b(?:in|at|for|of|to|about|named)\s+([^?!.,]+)", text, re.I)
    fitting: dict[str, Any] = {
        "integer": int(float(number[0])) if number else 1,
        "number": float(number[0]) if number else 1.0,
        "boolean": True,
        "array": [],
        "object": {},
        "null": None,
    }
    return fitting.get(kind, (phrase[1] if phrase else text).strip())
