"""Answers of other shapes than plain text, by name: what the lab's model says when told `shape NAME`."""

from collections.abc import Mapping, Sequence
from typing import Any

from agent_framework import Annotation, ChatResponseUpdate, Content, UsageDetails

PNG = "data:image/png;base64,iVBORw0KGgo="
REFUSAL = {"core": {"model_output_kind": "refusal"}}
THOUGHT = {"openai": {"reasoning_text": True}}

CITATION: Annotation = {
    "type": "citation",
    "title": "A cat",
    "url": "https://example.org/cat",
    "annotated_regions": [{"type": "text_span", "start_index": 0, "end_index": 3}],
}
FILE: Annotation = {"type": "citation", "file_id": "file_1", "url": "paper.pdf", "additional_properties": {"index": 4}}


def says(*contents: Content, message: str = "m1", **more: Any) -> ChatResponseUpdate:
    """One update."""
    return ChatResponseUpdate(
        contents=list(contents), role="assistant", message_id=message, response_id="r1", model="lab-1", **more
    )


def text(words: str, **more: Any) -> Content:
    """Some text."""
    return Content.from_text(words, **more)


def call(name: str, call_id: str, arguments: str) -> Content:
    """A call, or a fragment of one."""
    return Content.from_function_call(call_id, name, arguments=arguments)


USAGE = says(
    Content.from_usage(
        UsageDetails(
            input_token_count=11,
            output_token_count=13,
            total_token_count=24,
            cache_read_input_token_count=5,
            reasoning_output_token_count=3,
        )
    )
)
REASONING = [
    says(Content.from_text_reasoning(id="rs_lab", text="Let me ")),
    says(Content.from_text_reasoning(id="rs_lab", text="think.")),
    says(Content.from_text_reasoning(id="rs_lab", text="", protected_data="sealed-1")),
]

SHAPES: Mapping[str, Sequence[ChatResponseUpdate]] = {
    "reasoning": [*REASONING, says(text("Forty-")), says(text("two.")), USAGE],
    "thought": [says(Content.from_text_reasoning(text="In full.", additional_properties=THOUGHT)), says(text("So."))],
    "refusal": [
        says(text("I will ", additional_properties=REFUSAL)),
        says(text("not.", additional_properties=REFUSAL)),
        USAGE,
    ],
    "half-refusal": [says(text("Yes, ")), says(text("but no.", additional_properties=REFUSAL))],
    "cited": [says(text("A cat")), says(text(" sat.", annotations=[CITATION, FILE])), USAGE],
    "image": [says(text("Look:")), says(Content.from_uri(PNG)), says(text("Nice."), message="m2"), USAGE],
    "link": [says(text("See ")), says(Content.from_uri("https://example.org/a.pdf", media_type="application/pdf"))],
    "cut": [says(text("It was a dark and")), says(finish_reason="length"), USAGE],
    "filtered": [says(text("It was a")), says(finish_reason="content_filter")],
    "two-messages": [says(text("First.")), says(text("Second."), message="m2"), USAGE],
    "taken-back": [says(text("It is 4")), says(text("No: 5.", merge_mode="replace")), USAGE],
    "repeated": [says(text("It is ")), says(text("4.")), says(text("It is 4.", merge_mode="replace")), USAGE],
    "probable": [says(text("Yes", additional_properties={"openai": {"logprobs": [
        {"token": "Yes", "bytes": [89, 101, 115], "logprob": -0.5, "top_logprobs": []}
    ]}}))],
    "two-calls": [
        says(text("Let me look.")),
        says(call("left", "call_1", '{"ci')),
        says(call("", "call_1", 'ty": "Oslo"}')),
        says(call("right", "call_2", "{}")),
        says(finish_reason="tool_calls"),
        USAGE,
    ],
    "thinking-call": [*REASONING, says(call("left", "call_1", '{"city": "Oslo"}')), USAGE],
    "everything": [
        *REASONING,
        says(text("A cat", annotations=[CITATION])),
        says(Content.from_uri(PNG)),
        says(text("Second."), message="m2"),
        says(text("No more.", additional_properties=REFUSAL), message="m2"),
        says(call("left", "call_1", '{"city": "Oslo"}'), message="m2"),
        USAGE,
    ],
}  # fmt: skip
"""Each is the updates of one model turn."""
