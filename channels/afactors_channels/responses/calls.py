"""Function calls, as output items that may overlap, and the approvals that are asked for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from agent_framework import Content

from .drafts import CallDraft
from .emission import Emission
from .parts import json_text


class Calls:
    """The calls of one response.

    Args:
        emission: Where their items and events go.
        client_tools: Names of the functions that the client executes; calls of others are not shown.
        before: What is to be done before a new item opens.

    Attributes:
        shown: Those whose items are open.
    """

    def __init__(self, emission: Emission, client_tools: Collection[str], before: Callable[[], None]) -> None:
        self.shown: list[CallDraft] = []
        self._emission = emission
        self._client_tools = client_tools
        self._before = before
        self._known: dict[str, CallDraft] = {}
        self._last: CallDraft | None = None
        self._approvals: set[str] = set()

    def add(self, content: Content, replaces: bool) -> None:
        """Take in a call, or a fragment of one."""
        call = self._call_of(content) or self._new_call(content)
        call.name = call.name or content.name
        waits = bool(content.user_input_request)
        if call.position < 0 and call.name and (waits or call.name in self._client_tools):
            self._show(call)
        self._add_arguments(call, content.arguments, replaces)
        if waits and call in self.shown:
            self.close(call, "completed")

    def answered(self, call_id: str | None) -> None:
        """A call has its result: the next one of this id is another."""
        self._known.pop(call_id or "", None)

    def ask(self, content: Content, author: str | None) -> None:
        """Take in a call that may be executed only if it is approved; the same request again says nothing."""
        call = content.function_call
        if call is None or (content.id and content.id in self._approvals):
            return
        self._before()
        self.close_complete()
        self.answered(call.call_id)
        asked_by = call.server_name or author or "agent"
        self._emission.whole(approval_item(content.id or self._emission.next_id("mcpr"), call, asked_by))
        self._approvals.add(content.id or "")

    def close_complete(self) -> None:
        """Close those to which nothing can be added."""
        for call in [call for call in self.shown if call.complete]:
            self.close(call, "completed")

    def close(self, call: CallDraft, status: str) -> None:
        """Close one that is shown."""
        self.shown.remove(call)
        if not call.chunks and (status == "completed" or call.whole):
            # No arguments at all are an empty object: clients parse them.
            whole = json_text(call.whole)
            call.chunks.append(whole)
            self._arguments_delta(call, whole)
        if status != "completed" and call.complete:
            status = "completed"
        self._emission.emit(
            {
                "type": "response.function_call_arguments.done",
                "item_id": call.id,
                "output_index": call.position,
                "name": call.name,
                "arguments": call.text,
            }
        )
        self._emission.finish(call.position, call.wire(status))

    def _call_of(self, content: Content) -> CallDraft | None:
        """The call that a fragment belongs to; providers may name it on the first fragment only."""
        if not content.call_id:
            known = self._known.get(content.id or "")
            return known or (None if content.name else self._last)
        call = self._known.get(content.call_id)
        if call is None or not _agree(call.name, content.name) or not _agree(call.occurrence, content.id):
            return None  # some providers count calls per model turn, and use the same call id again
        return call

    def _new_call(self, content: Content) -> CallDraft:
        self._before()
        call = CallDraft(content.call_id or "", content.name, content.id)
        for key in (content.call_id, content.id):
            if key:
                self._known[key] = call
        self._last = call
        return call

    def _show(self, call: CallDraft) -> None:
        self._before()
        self.close_complete()
        call.position = len(self._emission.output)
        call.id = self._emission.next_id("fc")
        self._emission.announce({**call.wire("in_progress"), "arguments": ""})
        self.shown.append(call)
        if call.text:
            self._arguments_delta(call, call.text)

    def _add_arguments(self, call: CallDraft, arguments: Any, replaces: bool) -> None:
        if isinstance(arguments, Mapping):
            call.whole.update(arguments)
        elif arguments and (call.position < 0 or call in self.shown):
            # Arguments that contradict those sent are dropped: a client may hold two calls of one id for an
            # error.
            new = call.add(arguments, replaces)
            if new and call.position >= 0:
                self._arguments_delta(call, new)

    def _arguments_delta(self, call: CallDraft, delta: str) -> None:
        self._emission.emit(
            {
                "type": "response.function_call_arguments.delta",
                "item_id": call.id,
                "output_index": call.position,
                "delta": delta,
            }
        )


def approval_item(name: str, call: Content, asked_by: str) -> dict[str, Any]:
    """A request for approval as the protocol has it, which knows only tools of MCP servers to be approved.

    Args:
        name: Its id, by which it is answered.
        call: What is to be approved.
        asked_by: Whose tool it is.
    """
    return {
        "type": "mcp_approval_request",
        "id": name,
        "server_label": asked_by,
        "name": call.name or "",
        "arguments": json_text({} if call.arguments is None else call.arguments),
    }


def _agree(known: str | None, given: str | None) -> bool:
    return not known or not given or known == given
