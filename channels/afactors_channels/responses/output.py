"""The framework's updates, as output items and the events that announce them.

The rules:

1. At most one message or reasoning item is open at a time. Text opens a message item, reasoning a reasoning
   item; the other kind, a call, a tool's result, or another message of the framework closes it.
2. Function calls may overlap, as fragments of parallel calls arrive in any order. A call closes when its
   arguments are a complete JSON object and something else begins, when the framework hands it to the caller,
   or at the end.
3. Only calls that the client is to answer appear: calls of functions that it declared, and calls that the
   framework marks as waiting for the caller. A client would try to answer any other. In a stream nobody knows
   in advance whether a call will be executed here, except by its name.
4. What was sent is never taken back. A content that replaces what came before it (the framework's
   `merge_mode`, with which chat clients repeat the whole text at its end) adds what is new at the end; if it
   contradicts what was sent, the item ends as incomplete, and another one has the replacement.
5. A finished item is what its events said, to the letter: deltas put together are the done event's text, and
   that is the item's.
6. Images become `image_generation_call` items (the protocol's only image in an output); any other data or
   address is text, in a part of its own. Contents that the protocol has no word for (hosted tools, approvals)
   are left out.
7. What OpenAI shows only to those who ask for it (`include`), the encrypted content of a reasoning and the log
   probabilities of a text, is shown here only to them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from agent_framework import AgentResponseUpdate, Content, Message, UsageDetails, add_usage_details

from .drafts import CallDraft, ItemDraft, PartDraft
from .ids import item_id
from .parts import (
    TEXT,
    PartKind,
    image_data,
    json_text,
    part_object,
    reasoning_kind,
    text_kind,
    wire_annotations,
    wire_logprobs,
)
from .settings import ENCRYPTED, LOGPROBS

Event = dict[str, Any]

# A target may hand on what others said (a workflow does); a response has only what the assistant says.
_UNSPOKEN = frozenset({"user", "system", "developer", "tool"})


class OutputBuilder:
    """Builds the output of one response. Not for use after `finish`.

    Args:
        response_id: The response's id.
        client_tools: Names of the functions that the client executes; calls of others are not shown.
        first_sequence: Number of the first event.
        include: What else the client wants in the output.
        announce: Whether there are events at all.

    Attributes:
        output: The items so far; those still open are as they were when they opened.
        usage: What the updates said about usage, or None.
        finish_reason: The last that the updates gave, or None.
    """

    def __init__(
        self,
        response_id: str,
        client_tools: Collection[str] = (),
        first_sequence: int = 0,
        *,
        include: Collection[str] = (),
        announce: bool = True,
    ) -> None:
        self.output: list[dict[str, Any]] = []
        self.usage: UsageDetails | None = None
        self.finish_reason: str | None = None
        self._response_id = response_id
        self._client_tools = client_tools
        self._sequence = first_sequence
        self._announces = announce
        self._encrypted = ENCRYPTED in include
        self._logprobs = LOGPROBS in include
        self._events: list[Event] = []
        self._item: ItemDraft | None = None
        self._calls: dict[str, CallDraft] = {}
        self._shown: list[CallDraft] = []  # those that are open
        self._last_call: CallDraft | None = None
        self._message: tuple[str | None, str | None, str | None] = (None, None, None)

    def take_events(self) -> list[Event]:
        """The events since the last time, in order."""
        events, self._events = self._events, []
        return events

    def emit(self, event: Event) -> None:
        """Number an event and add it."""
        if not self._announces:
            return
        event["sequence_number"] = self._sequence
        self._sequence += 1
        self._events.append(event)

    def take_back(self) -> None:
        """Let the next event have the last one's number."""
        self._sequence -= 1

    def feed(self, update: AgentResponseUpdate) -> None:
        """Take in one update."""
        if (source := (update.role, update.author_name, update.message_id)) != self._message:
            self._follow(source)
        self._take(update.contents, update.role, update.merge_mode == "replace")
        if update.finish_reason is not None:
            self.finish_reason = update.finish_reason

    def feed_message(self, message: Message) -> None:
        """Take in one message of a finished response."""
        self._close_item()
        self._message = (message.role, message.author_name, message.message_id)
        self._take(message.contents, message.role, False)

    def finish(self, status: str) -> list[dict[str, Any]]:
        """Close what is open, in the output's order, and return the items.

        Args:
            status: ``completed``, or ``incomplete`` for what was cut off.
        """
        rest: list[ItemDraft | CallDraft] = [*self._shown]
        if self._item is not None:
            rest.append(self._item)
        for draft in sorted(rest, key=lambda draft: draft.position):
            if isinstance(draft, CallDraft):
                self._close_call(draft, status)
            else:
                self._close_item(status)
        return self.output

    def _take(self, contents: Iterable[Content], role: str | None, replaces: bool) -> None:
        if role in _UNSPOKEN:
            contents = [content for content in contents if content.type in ("usage", "function_result")]
        for content in contents:
            handle = _HANDLERS.get(content.type)
            if handle is not None:
                handle(self, content, replaces or content.merge_mode == "replace")
            elif content.type.endswith(("_call", "_result")):
                self._close_item()

    def _follow(self, source: tuple[str | None, str | None, str | None]) -> None:
        """Notice another message, by the framework's rule (`_process_update`): what is not given stays."""
        pairs = list(zip(self._message, source, strict=True))
        if any(old and new and old != new for old, new in pairs):
            self._close_item()
            self._message = source
        else:
            old_role, old_author, old_id = self._message
            self._message = (source[0] or old_role, source[1] or old_author, source[2] or old_id)

    def _on_text(self, content: Content, replaces: bool) -> None:
        properties = content.additional_properties
        logprobs = wire_logprobs(properties) if self._logprobs else []
        self._write(text_kind(properties), content.text or "", replaces, logprobs=logprobs)
        if content.annotations:
            self._annotate(wire_annotations(content.annotations))

    def _on_reasoning(self, content: Content, replaces: bool) -> None:
        kind = reasoning_kind(content.additional_properties)
        item = self._item
        if item is not None and content.id and item.source and item.source != content.id:
            self._close_item()
        self._write(kind, content.text or "", replaces, content.id)
        if content.protected_data:
            if self._item is None or self._item.type != kind.item:
                self._open_item(kind, content.id)
            if self._encrypted:
                self._item.encrypted = content.protected_data  # type: ignore[union-attr]

    def _on_call(self, content: Content, replaces: bool) -> None:
        if content.hosted or content.informational_only:
            self._close_item()
            return
        call = self._call_of(content) or self._new_call(content)
        call.name = call.name or content.name
        waits = bool(content.user_input_request)
        if call.position < 0 and call.name and (waits or call.name in self._client_tools):
            self._show(call)
        self._add_arguments(call, content.arguments, replaces)
        if waits and call in self._shown:
            self._close_call(call, "completed")

    def _on_result(self, content: Content, replaces: bool) -> None:
        self._close_item()
        self._calls.pop(content.call_id or "", None)

    def _on_uri(self, content: Content, replaces: bool) -> None:
        uri = content.uri or ""
        if content.additional_properties.get("is_partial_image") or not uri:
            return
        if (image := image_data(uri)) is not None:
            self._add_image(image)
            return
        if self._item is not None:
            self._close_part(self._item)
        self._write(TEXT, uri, False)
        self._close_part(self._item)  # type: ignore[arg-type]

    def _on_image(self, content: Content, replaces: bool) -> None:
        outputs = content.outputs if isinstance(content.outputs, Sequence) else [content.outputs]
        for output in outputs:
            if isinstance(output, Content) and output.uri:
                self._on_uri(output, replaces)

    def _on_usage(self, content: Content, replaces: bool) -> None:
        details = content.usage_details
        self.usage = details if replaces or self.usage is None else add_usage_details(self.usage, details)

    def _write(
        self,
        kind: PartKind,
        text: str,
        replaces: bool,
        source: str | None = None,
        logprobs: Sequence[dict[str, Any]] = (),
    ) -> None:
        item = self._item
        if item is None or item.type != kind.item:
            if not text:
                return
            item = self._open_item(kind, source)
        part = item.part
        if part is None or part.kind is not kind:
            if not text:
                return
            part = self._open_part(item, kind)
        new = part.add(text, replaces)
        if new is None:
            self._close_item("incomplete")
            item = self._open_item(kind, source)
            part = self._open_part(item, kind)
            new = part.add(text, replaces)
        # A repetition says again how probable everything was.
        if logprobs and (new == text or not part.logprobs):
            part.logprobs += logprobs
        if new:
            rest = (
                {"delta": new, "logprobs": list(logprobs) if new == text else []} if kind.logprobs else {"delta": new}
            )
            self._about_part(kind.delta, item, part, rest)

    def _annotate(self, annotations: list[dict[str, Any]]) -> None:
        item = self._item
        if item is None or item.part is None or item.part.kind is not TEXT:
            return
        known = item.part.annotations
        for annotation in annotations:
            if annotation in known:  # chat clients say them again when the part and the item end
                continue
            self.emit(
                {
                    "type": "response.output_text.annotation.added",
                    "item_id": item.id,
                    "output_index": item.position,
                    "content_index": item.part.index,
                    "annotation_index": len(known),
                    "annotation": annotation,
                }
            )
            known.append(annotation)

    def _open_item(self, kind: PartKind, source: str | None) -> ItemDraft:
        self._close_item()
        self._close_complete_calls()
        item = ItemDraft(kind.item, self._item_name(kind, source), len(self.output), source)
        self._item = item
        self._announce(item.position, item.wire("in_progress"))
        return item

    def _item_name(self, kind: PartKind, source: str | None) -> str:
        """Ours; but a reasoning keeps the provider's id, to which OpenAI ties the encrypted content."""
        if source and source.startswith("rs_") and all(item["id"] != source for item in self.output):
            return source
        return item_id(kind.prefix, self._response_id, len(self.output))

    def _open_part(self, item: ItemDraft, kind: PartKind) -> PartDraft:
        self._close_part(item)
        item.part = PartDraft(kind, len(item.lists[kind.holder]))
        self._about_part(kind.added, item, item.part, {"part": part_object(kind, "", [], [])})
        return item.part

    def _close_part(self, item: ItemDraft) -> None:
        part = item.part
        if part is None:
            return
        kind, text = part.kind, part.text
        wire = part_object(kind, text, part.annotations, part.logprobs)
        item.lists[kind.holder].append(wire)
        item.part = None
        rest = {kind.text: text, "logprobs": part.logprobs} if kind.logprobs else {kind.text: text}
        self._about_part(kind.done, item, part, rest)
        self._about_part(kind.closed, item, part, {"part": wire})

    def _close_item(self, status: str = "completed") -> None:
        item = self._item
        if item is not None:
            self._close_part(item)
            self._item = None
            self._finish_item(item.position, item.wire(status))

    def _about_part(self, event: str, item: ItemDraft, part: PartDraft, rest: Mapping[str, Any]) -> None:
        self.emit(
            {
                "type": event,
                "item_id": item.id,
                "output_index": item.position,
                part.kind.index: part.index,
                **rest,
            }
        )

    def _announce(self, position: int, wire: dict[str, Any]) -> None:
        self.output.append(wire)
        self.emit({"type": "response.output_item.added", "output_index": position, "item": wire})

    def _finish_item(self, position: int, wire: dict[str, Any]) -> None:
        self.output[position] = wire
        self.emit({"type": "response.output_item.done", "output_index": position, "item": wire})

    def _call_of(self, content: Content) -> CallDraft | None:
        """The call that a fragment belongs to; providers may name it on the first fragment only."""
        if not content.call_id:
            known = self._calls.get(content.id or "")
            return known or (None if content.name else self._last_call)
        call = self._calls.get(content.call_id)
        if call is None or not _agree(call.name, content.name) or not _agree(call.occurrence, content.id):
            return None  # some providers count calls per model turn, and use the same call id again
        return call

    def _new_call(self, content: Content) -> CallDraft:
        self._close_item()
        call = CallDraft(content.call_id or "", content.name, content.id)
        for key in (content.call_id, content.id):
            if key:
                self._calls[key] = call
        self._last_call = call
        return call

    def _show(self, call: CallDraft) -> None:
        self._close_item()
        self._close_complete_calls()
        call.position = len(self.output)
        call.id = item_id("fc", self._response_id, call.position)
        self._announce(call.position, {**call.wire("in_progress"), "arguments": ""})
        self._shown.append(call)
        if call.text:
            self._arguments_delta(call, call.text)

    def _add_arguments(self, call: CallDraft, arguments: Any, replaces: bool) -> None:
        if isinstance(arguments, Mapping):
            call.whole.update(arguments)
        elif arguments and (call.position < 0 or call in self._shown):
            # Arguments that contradict those sent are dropped: a client may hold two calls of one id for an
            # error.
            new = call.add(arguments, replaces)
            if new and call.position >= 0:
                self._arguments_delta(call, new)

    def _arguments_delta(self, call: CallDraft, delta: str) -> None:
        self.emit(
            {
                "type": "response.function_call_arguments.delta",
                "item_id": call.id,
                "output_index": call.position,
                "delta": delta,
            }
        )

    def _close_complete_calls(self) -> None:
        for call in [call for call in self._shown if call.complete]:
            self._close_call(call, "completed")

    def _close_call(self, call: CallDraft, status: str) -> None:
        self._shown.remove(call)
        if not call.chunks and (status == "completed" or call.whole):
            # No arguments at all are an empty object: clients parse them.
            whole = json_text(call.whole)
            call.chunks.append(whole)
            self._arguments_delta(call, whole)
        if status != "completed" and call.complete:
            status = "completed"
        self.emit(
            {
                "type": "response.function_call_arguments.done",
                "item_id": call.id,
                "output_index": call.position,
                "name": call.name,
                "arguments": call.text,
            }
        )
        self._finish_item(call.position, call.wire(status))

    def _add_image(self, data: str) -> None:
        self._close_item()
        self._close_complete_calls()
        position = len(self.output)
        name = item_id("ig", self._response_id, position)
        base = {"type": "image_generation_call", "id": name}
        self._announce(position, {**base, "status": "in_progress", "result": None})
        self._finish_item(position, {**base, "status": "completed", "result": data})


def _agree(known: str | None, given: str | None) -> bool:
    return not known or not given or known == given


_HANDLERS: dict[str, Callable[[OutputBuilder, Content, bool], None]] = {
    "text": OutputBuilder._on_text,
    "text_reasoning": OutputBuilder._on_reasoning,
    "function_call": OutputBuilder._on_call,
    "function_result": OutputBuilder._on_result,
    "data": OutputBuilder._on_uri,
    "uri": OutputBuilder._on_uri,
    "image_generation_tool_result": OutputBuilder._on_image,
    "usage": OutputBuilder._on_usage,
}
