"""The store as a history provider of the framework's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from agent_framework import HistoryProvider, Message

from .remembering import Memory
from .retention import begins_at, reaches
from .turn import ancestry


class StoreHistoryProvider(HistoryProvider):
    """Keeps a history in the runtime's store, and reads no more of it than is asked for.

    The framework's default history is kept in the store, too, and in memory besides. This one is for long histories,
    and for agents inside a workflow, each of which has its own. What it saves is written by the turn's one commit, and
    not at all if the turn fails; a branch goes on from what was said up to its point.

    It works inside turns of a runtime only. At most 32 sessions inside one conversation are remembered.

    Args:
        source_id: Names this history beside others of the same session.
        max_messages: How many of the newest messages are loaded at most; None for all. They begin with a message of
            the user's, where there is one. A turn that answers a question loads as many as go back to its call.
        load_messages: As for every `HistoryProvider`.
        store_inputs: As for every `HistoryProvider`.
        store_context_messages: As for every `HistoryProvider`.
        store_context_from: As for every `HistoryProvider`.
        store_outputs: As for every `HistoryProvider`.
    """

    DEFAULT_SOURCE_ID: ClassVar[str] = "afactors"

    def __init__(
        self,
        source_id: str = DEFAULT_SOURCE_ID,
        *,
        max_messages: int | None = None,
        load_messages: bool = True,
        store_inputs: bool = True,
        store_context_messages: bool = False,
        store_context_from: set[str] | None = None,
        store_outputs: bool = True,
    ) -> None:
        if max_messages is not None and (not isinstance(max_messages, int) or max_messages < 1):
            raise ValueError(f"max_messages must be a whole number above 0, not {max_messages!r}")
        if not source_id or "\0" in source_id:
            raise ValueError("source_id must not be empty, nor hold a NUL")
        super().__init__(
            source_id,
            load_messages=load_messages,
            store_inputs=store_inputs,
            store_context_messages=store_context_messages,
            store_context_from=store_context_from,
            store_outputs=store_outputs,
        )
        self.max_messages = max_messages

    async def get_messages(
        self, session_id: str | None, *, state: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Message]:
        """The newest messages of the session, with those that the present turn has saved.

        Raises:
            RuntimeError: Called outside a turn of a runtime, or after it.
        """
        memory, name, most = _memory(), session_id or "", self.max_messages
        messages = await memory.newest(self.source_id, name, most)
        if most is None or len(messages) < most:
            return messages
        count = most
        while len(messages) == count and not reaches(messages, memory.answered):
            count *= 2
            messages = await memory.newest(self.source_id, name, count)
        return messages[begins_at(messages, len(messages) - most, memory.answered) :]

    async def save_messages(
        self,
        session_id: str | None,
        messages: Sequence[Message],
        *,
        state: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add messages to the session; the present turn's commit writes them.

        Raises:
            RuntimeError: Called outside a turn of a runtime, or after it.
        """
        if messages:
            await _memory().add(self.source_id, session_id or "", messages)


def _memory() -> Memory:
    inside = ancestry.get()
    memory = inside[-1].memory if inside else None
    if memory is None:
        raise RuntimeError("a StoreHistoryProvider works inside a turn of a Runtime; run the agent by one")
    return memory
