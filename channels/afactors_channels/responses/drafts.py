"""What is not finished yet: text that grows, and the items that hold it."""

from __future__ import annotations

import json
from typing import Any

from .parts import PartKind


class Growing:
    """Text that grows, and that may be repeated as a whole."""

    __slots__ = ("chunks", "settled")

    def __init__(self) -> None:
        self.chunks: list[str] = []
        self.settled = 0  # how many chunks the last repetition covered

    @property
    def text(self) -> str:
        """All of it, so far."""
        return "".join(self.chunks)

    def add(self, text: str, replaces: bool) -> str | None:
        """What is new of a text, or None if it contradicts what is there."""
        new = self._new_of(text) if replaces else text
        if new:
            self.chunks.append(new)
        if replaces and new is not None:
            self.settled = len(self.chunks)
        return new

    def _new_of(self, text: str) -> str | None:
        """A repetition covers everything, or what came since the last one (providers repeat part by part)."""
        whole = self.text
        if whole.endswith(text):
            return ""
        since = "".join(self.chunks[self.settled :])
        for known in (whole, since):
            if known and text.startswith(known):
                return text[len(known) :]
        return None if since else text


class PartDraft(Growing):
    """An open part of a message or reasoning item."""

    __slots__ = ("annotations", "index", "kind", "logprobs")

    def __init__(self, kind: PartKind, index: int) -> None:
        super().__init__()
        self.kind = kind
        self.index = index
        self.annotations: list[dict[str, Any]] = []
        self.logprobs: list[dict[str, Any]] = []


class ItemDraft:
    """An open message or reasoning item."""

    __slots__ = ("encrypted", "id", "lists", "part", "phase", "position", "source", "type")

    def __init__(self, kind_of_item: str, name: str, position: int, source: str | None) -> None:
        self.type = kind_of_item
        self.id = name
        self.position = position
        self.source = source  # the provider's id of this reasoning
        self.part: PartDraft | None = None
        self.lists: dict[str, list[dict[str, Any]]] = {"content": []}
        self.encrypted: str | None = None
        self.phase: str | None = None  # of a message
        if kind_of_item == "reasoning":
            self.lists = {"summary": [], "content": []}

    def wire(self, status: str) -> dict[str, Any]:
        """The item as the protocol has it, with the parts that are closed."""
        head: dict[str, Any] = {"type": self.type, "id": self.id, "status": status}
        if self.type == "message":
            head["role"] = "assistant"
        if self.phase is not None:
            head["phase"] = self.phase
        if self.encrypted is not None:
            head["encrypted_content"] = self.encrypted
        return {**head, **{name: list(parts) for name, parts in self.lists.items()}}


class CallDraft(Growing):
    """A function call, shown to the client or not."""

    __slots__ = ("call_id", "id", "name", "occurrence", "position", "whole")

    def __init__(self, call_id: str, name: str | None, occurrence: str | None) -> None:
        super().__init__()
        self.call_id = call_id
        self.name = name
        self.occurrence = occurrence  # the framework's id of it, stable over all fragments
        self.id = ""  # of its item, once it is shown
        self.position = -1
        self.whole: dict[str, Any] = {}  # arguments that came as values, not as text

    @property
    def complete(self) -> bool:
        """Whether the arguments are a whole JSON object, to which nothing can be added."""
        if self.whole and not self.chunks:
            return True
        try:
            return isinstance(json.loads(self.text), dict)
        except (ValueError, RecursionError):
            return False

    def wire(self, status: str) -> dict[str, Any]:
        """The item as the protocol has it."""
        return {
            "type": "function_call",
            "id": self.id,
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.text,
            "status": status,
        }
