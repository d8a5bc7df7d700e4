"""How each kind of text in the output is spelt: in its item, in its part, and in the events about it.

Sources: Open Responses 2026-04-24 (the streaming events and `ItemField`) and openai-python 3.52. Where the
    two differ (`response.reasoning.*` there, `response.reasoning_text.*` here) the name is the one that
    OpenAI's SDKs parse.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from agent_framework import Annotation, get_namespaced_value

Properties: TypeAlias = Mapping[str, Any] | None
"""The additional properties of one of the framework's contents."""


@dataclass(frozen=True, slots=True, eq=False)
class PartKind:
    """One kind of text.

    Attributes:
        item: Type of the item that holds it.
        prefix: What the item's id begins with.
        holder: The item's field that lists the parts.
        part: Type of the part.
        text: The part's field, and the done event's, that has the text.
        index: The events' field that says which part.
        added: The event that opens the part.
        delta: The event that adds to it.
        done: The event that has all of its text.
        closed: The event that has all of it.
        logprobs: Whether delta and done events have log probabilities.
    """

    item: str
    prefix: str
    holder: str
    part: str
    text: str
    index: str
    added: str
    delta: str
    done: str
    closed: str
    logprobs: bool = False


TEXT = PartKind(
    item="message",
    prefix="msg",
    holder="content",
    part="output_text",
    text="text",
    index="content_index",
    added="response.content_part.added",
    delta="response.output_text.delta",
    done="response.output_text.done",
    closed="response.content_part.done",
    logprobs=True,
)
REFUSAL = PartKind(
    item="message",
    prefix="msg",
    holder="content",
    part="refusal",
    text="refusal",
    index="content_index",
    added="response.content_part.added",
    delta="response.refusal.delta",
    done="response.refusal.done",
    closed="response.content_part.done",
)
SUMMARY = PartKind(
    item="reasoning",
    prefix="rs",
    holder="summary",
    part="summary_text",
    text="text",
    index="summary_index",
    added="response.reasoning_summary_part.added",
    delta="response.reasoning_summary_text.delta",
    done="response.reasoning_summary_text.done",
    closed="response.reasoning_summary_part.done",
)
REASONING = PartKind(
    item="reasoning",
    prefix="rs",
    holder="content",
    part="reasoning_text",
    text="text",
    index="content_index",
    added="response.content_part.added",
    delta="response.reasoning_text.delta",
    done="response.reasoning_text.done",
    closed="response.content_part.done",
)


def text_kind(properties: Properties) -> PartKind:
    """Whether a text is an answer or a refusal, by the framework's mark."""
    return REFUSAL if _marked(properties, "core", "model_output_kind") == "refusal" else TEXT


def reasoning_kind(properties: Properties) -> PartKind:
    """Whether a reasoning is its full text, by the framework's mark, or a summary."""
    return REASONING if _marked(properties, "openai", "reasoning_text") else SUMMARY


def _marked(properties: Properties, namespace: str, name: str) -> Any:
    return get_namespaced_value(properties, namespace, name, properties.get(name)) if properties else None


def part_object(
    kind: PartKind, text: str, annotations: list[dict[str, Any]], logprobs: list[dict[str, Any]]
) -> dict[str, Any]:
    """A part as the protocol has it."""
    if kind is TEXT:
        return {"type": kind.part, "text": text, "annotations": annotations, "logprobs": logprobs}
    return {"type": kind.part, kind.text: text}


def wire_logprobs(properties: Properties) -> list[dict[str, Any]]:
    """How probable a text's tokens were, if the chat client says (OpenAI's does, in the protocol's own form)."""
    found = _marked(properties, "openai", "logprobs")
    return [dict(each) for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def wire_annotations(annotations: Iterable[Annotation]) -> list[dict[str, Any]]:
    """The framework's citations, in the protocol's forms; one that fits none of them is left out."""
    return [found for annotation in annotations for found in _wire_annotation(annotation)]


def _wire_annotation(annotation: Annotation) -> list[dict[str, Any]]:
    file_id, url = annotation.get("file_id"), annotation.get("url")
    properties = annotation.get("additional_properties") or {}
    spans = [_span(region) for region in annotation.get("annotated_regions") or ()]
    if file_id and (container := properties.get("container_id")):
        base = {"container_id": container, "file_id": file_id, "filename": url or ""}
        return [{"type": "container_file_citation", **base, **span} for span in spans if span]
    if file_id:
        # The framework keeps a cited file's name where it keeps an address.
        named = {"type": "file_citation", "filename": url} if url else {"type": "file_path"}
        return [{**named, "file_id": file_id, "index": properties.get("index") or 0}]
    if url:
        base = {"url": url, "title": annotation.get("title") or ""}
        nowhere = {"start_index": 0, "end_index": 0}
        return [{"type": "url_citation", **base, **span} for span in spans if span] or [
            {"type": "url_citation", **base, **nowhere}
        ]
    return []


def _span(region: Mapping[str, Any]) -> dict[str, int] | None:
    start, end = region.get("start_index"), region.get("end_index")
    if isinstance(start, int) and isinstance(end, int):
        return {"start_index": start, "end_index": end}
    return None


def json_text(value: Any) -> str:
    """Text as it is, and anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def image_data(uri: str) -> str | None:
    """The base64 data of an image's data URI, or None for any other URI."""
    head, comma, data = uri.partition(",")
    return data if comma and head.startswith("data:image/") and head.endswith(";base64") else None
