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
6. A call that needs an approval first is shown as the request for it and as nothing else: a client would execute the
   call.
7. Messages that are only intermediate are commentary (`phase`). Once there was commentary, the other messages are the
   final answer; one that was announced before has no phase, as nobody knew then.
8. Images become `image_generation_call` items (the protocol's only image in an output); any other data or
   address is text, in a part of its own. Contents that the protocol has no word for (hosted tools) are left
   out.
9. What OpenAI shows only to those who ask for it (`include`), the encrypted content of a reasoning and the log
   probabilities of a text, is shown here only to them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from agent_framework import AgentResponseUpdate, Content, Message, UsageDetails, add_usage_details

from afactors_channels.workflows import INTERMEDIATE

from .calls import Calls
from .drafts import CallDraft, ItemDraft, PartDraft
from .emission import Emission, Event
from .parts import (
    TEXT,
    PartKind,
    image_data,
    part_object,
    reasoning_kind,
    text_kind,
    wire_annotations,
    wire_logprobs,
)
from .settings import ENCRYPTED, LOGPROBS

# A target may hand on what others said (a workflow does); a response has only what the assistant says.
_UNSPOKEN = frozenset({"user", "system", "developer", "tool"})


class _Source(NamedTuple):
    """Which message of the framework something is from."""

    role: str | None = None
    author: str | None = None
    message_id: str | None = None
    intermediate: bool = False


class OutputBuilder:
    """Builds the output of one response. Not for use after `finish`.

    Args:
        response_id: The response's id.
        client_tools: Names of the functions that the client executes; calls of others are not shown.
        first_sequence: Number of the first event.
        include: What else the client wants in the output.
        announce: Whether there are events at all.

    Attributes:
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
        self.usage: UsageDetails | None = None
        self.finish_reason: str | None = None
        self._emission = Emission(response_id, first_sequence, announces=announce)
        self._calls = Calls(self._emission, client_tools, self._close_item)
        self._encrypted = ENCRYPTED in include
        self._logprobs = LOGPROBS in include
        self._item: ItemDraft | None = None
        self._source = _Source()
        self._commented = False  # whether there was commentary

    @property
    def output(self) -> list[dict[str, Any]]:
        """The items so far; those still open are as they were when they opened."""
        return self._emission.output

    def take_events(self) -> list[Event]:
        """The events since the last time, in order."""
        return self._emission.take_events()

    def emit(self, event: Event) -> None:
        """Number an event and add it."""
        self._emission.emit(event)

    def take_back(self) -> None:
        """Let the next event have the last one's number."""
        self._emission.take_back()

    def feed(self, update: AgentResponseUpdate) -> None:
        """Take in one update."""
        source = _Source(update.role, update.author_name, update.message_id, _is_intermediate(update))
        if source != self._source and any(source[:3]):
            self._follow(source)
        self._take(update.contents, update.role, update.merge_mode == "replace")
        if update.finish_reason is not None:
            self.finish_reason = update.finish_reason

    def feed_message(self, message: Message) -> None:
        """Take in one message of a finished response."""
        self._close_item()
        self._source = _Source(message.role, message.author_name, message.message_id, _is_intermediate(message))
        self._take(message.contents, message.role, False)

    def finish(self, status: str) -> list[dict[str, Any]]:
        """Close what is open, in the output's order, and return the items.

        Args:
            status: ``completed``, or ``incomplete`` for what was cut off.
        """
        rest: list[ItemDraft | CallDraft] = [*self._calls.shown]
        if self._item is not None:
            rest.append(self._item)
        for draft in sorted(rest, key=lambda draft: draft.position):
            if isinstance(draft, CallDraft):
                self._calls.close(draft, status)
            else:
                self._close_item(status)
        return self.output

    def _take(self, contents: Iterable[Content], role: str | None, replaces: bool) -> None:
        if role in _UNSPOKEN:
            contents = [content for content in contents if content.type in ("usage", "function_result")]
        for content in _without_approved(contents):
            handle = _HANDLERS.get(content.type)
            if handle is not None:
                handle(self, content, replaces or content.merge_mode == "replace")
            elif content.type.endswith(("_call", "_result")):
                self._close_item()

    def _follow(self, source: _Source) -> None:
        """Notice another message, by the framework's rule (`_process_update`): what is not given stays."""
        known = self._source
        pairs = zip(known[:3], source[:3], strict=True)
        if known.intermediate != source.intermediate or any(old and new and old != new for old, new in pairs):
            self._close_item()
            self._source = source
        else:
            self._source = _Source(
                source.role or known.role,
                source.author or known.author,
                source.message_id or known.message_id,
                source.intermediate,
            )

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
        self._calls.add(content, replaces)

    def _on_approval(self, content: Content, replaces: bool) -> None:
        self._calls.ask(content, self._source.author)

    def _on_result(self, content: Content, replaces: bool) -> None:
        self._close_item()
        self._calls.answered(content.call_id)

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
        self._calls.close_complete()
        item = ItemDraft(kind.item, self._item_name(kind, source), len(self.output), source)
        item.phase = self._phase(kind.item)
        self._item = item
        self._emission.announce(item.wire("in_progress"))
        return item

    def _phase(self, kind_of_item: str) -> str | None:
        if kind_of_item != "message":
            return None
        self._commented = self._commented or self._source.intermediate
        if self._source.intermediate:
            return "commentary"
        return "final_answer" if self._commented else None

    def _item_name(self, kind: PartKind, source: str | None) -> str:
        """Ours; but a reasoning keeps the provider's id, to which OpenAI ties the encrypted content."""
        if source and source.startswith("rs_") and all(item["id"] != source for item in self.output):
            return source
        return self._emission.next_id(kind.prefix)

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
            self._emission.finish(item.position, item.wire(status))

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

    def _add_image(self, data: str) -> None:
        self._close_item()
        self._calls.close_complete()
        wire = {"type": "image_generation_call", "id": self._emission.next_id("ig"), "status": "completed"}
        self._emission.whole({**wire, "result": data}, status="in_progress", result=None)


def _is_intermediate(said: AgentResponseUpdate | Message) -> bool:
    return bool(said.additional_properties and said.additional_properties.get(INTERMEDIATE))


def _without_approved(contents: Iterable[Content]) -> list[Content]:
    """Without the calls that need an approval first: the framework puts them before the request for it."""
    contents = list(contents)
    asked = {
        content.function_call.call_id
        for content in contents
        if content.type == "function_approval_request" and content.function_call is not None
    }
    if not asked:
        return contents
    return [each for each in contents if each.type != "function_call" or each.call_id not in asked]


_HANDLERS: dict[str, Callable[[OutputBuilder, Content, bool], None]] = {
    "text": OutputBuilder._on_text,
    "text_reasoning": OutputBuilder._on_reasoning,
    "function_call": OutputBuilder._on_call,
    "function_approval_request": OutputBuilder._on_approval,
    "function_result": OutputBuilder._on_result,
    "data": OutputBuilder._on_uri,
    "uri": OutputBuilder._on_uri,
    "image_generation_tool_result": OutputBuilder._on_image,
    "usage": OutputBuilder._on_usage,
}
