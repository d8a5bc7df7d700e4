"""The openai SDK's own ways of using runs: in the background, by their ids, resumed, cancelled, deleted, listed."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pydantic
import pytest


class Steps:
    """Says when the agent's next word comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = f"steps {path}"

    def go(self, words: int = 1) -> None:
        with self.path.open("ab") as signals:
            signals.write(b"." * words)

    def end(self) -> None:
        with self.path.open("ab") as signals:
            signals.write(b"\n")


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path / "steps")


@pytest.fixture(scope="module")
def ended(sdk: openai.OpenAI, until: Any) -> Callable[[str], Any]:
    """Polls until a response has ended."""

    def end(response_id: str) -> Any:
        def look() -> Any:
            found = sdk.responses.retrieve(response_id)
            assert found.id == response_id
            return found if found.status not in ("queued", "in_progress") else None

        return until(look, f"{response_id} ends")

    return end


def gone(sdk: openai.OpenAI, response_id: str) -> None:
    """Nothing knows this response any more."""
    ways: list[Callable[[], Any]] = [
        lambda: sdk.responses.retrieve(response_id),
        lambda: sdk.responses.retrieve(response_id, stream=True),
        lambda: sdk.responses.cancel(response_id),
        lambda: sdk.responses.delete(response_id),
        lambda: sdk.responses.input_items.list(response_id),
    ]
    for way in ways:
        with pytest.raises(openai.NotFoundError) as caught:
            way()
        assert (caught.value.code, caught.value.param) == ("response_not_found", "response_id")
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.responses.create(model="m", input="go on", previous_response_id=response_id)
    assert refused.value.code == "previous_response_not_found"


# -- structured output


class Format(pydantic.BaseModel):
    """What `text_format` becomes on its way to the agent."""

    class Schema(pydantic.BaseModel):
        name: str
        strict: bool

    type: str
    json_schema: Schema


class Options(pydantic.BaseModel):
    """Of the options that the agent gets, the one that matters here."""

    response_format: Format


def test_parse(sdk: openai.OpenAI) -> None:
    """The agent answers with the options that it got, in JSON: its `response_format` says what was wanted."""
    response = sdk.responses.parse(model="m", input="options", text_format=Options)
    assert response.output_parsed == Options(
        response_format=Format(type="json_schema", json_schema=Format.Schema(name="Options", strict=True))
    )
    schema = json.loads(response.output_text)["response_format"]["json_schema"]["schema"]
    assert (schema["title"], schema["required"]) == ("Options", ["response_format"])
    assert sdk.responses.retrieve(response.id).text == response.text


def test_parse_a_stream(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(model="m", input="options", text_format=Options, background=True) as stream:
        response = stream.get_final_response()
    assert response.output_parsed is not None
    assert response.output_parsed.response_format.type == "json_schema"


# -- in the background


def test_polling(sdk: openai.OpenAI, lab: Any, ended: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = sdk.responses.create(model="m", input=f"gate {gate}", background=True, conversation="polling")
    second = sdk.responses.create(model="m", input="second", background=True, conversation="polling")
    assert (first.background, first.status in ("queued", "in_progress"), first.output) == (True, True, [])
    lab.happened("start", f"gate {gate}")
    assert sdk.responses.retrieve(first.id).status == "in_progress"
    assert sdk.responses.retrieve(second.id).status == "queued"
    gate.touch()
    assert ended(first.id).output_text == f"1: gate {gate}"
    assert ended(second.id).output_text == "2: second"


def test_a_background_stream(sdk: openai.OpenAI, steps: Steps) -> None:
    with sdk.responses.create(model="m", input=steps.text, background=True, stream=True) as stream:
        kinds, words = [], 0
        for number, event in enumerate(stream):
            assert event.sequence_number == number
            kinds.append(event.type)
            if event.type == "response.in_progress":
                steps.go()
            if event.type == "response.output_text.delta" and words < 3:
                words += 1
                steps.go() if words < 3 else steps.end()  # each word is here before the next one is said
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert kinds.count("response.output_text.delta") == 4
    assert kinds[-1] == "response.completed"


def test_resuming_a_stream_that_goes_on(sdk: openai.OpenAI, steps: Steps) -> None:
    with sdk.responses.create(model="m", input=steps.text, background=True, stream=True) as stream:
        response_id = next(iter(stream)).response.id
    steps.go(2)
    seen = []
    # Each word is read over a connection of its own, which is dropped after it.
    for word in range(2, 6):
        after = {"starting_after": seen[-1].sequence_number} if seen else {}
        with sdk.responses.retrieve(response_id, stream=True, **after) as resumed:
            for event in resumed:
                seen.append(event)
                if event.type == "response.output_text.delta" and sum(e.type == event.type for e in seen) == word:
                    break
        steps.go()
    steps.end()
    with sdk.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number) as resumed:
        seen += resumed
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    text = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    assert [word.partition("-")[2] for word in text.split()] == ["0", "1", "2", "3", "4", "5", ""]
    assert seen[-1].response.output_text == text


def test_resuming_a_stream_that_has_ended(sdk: openai.OpenAI) -> None:
    with sdk.responses.create(model="m", input="some words to resume", stream=True) as stream:
        events = list(stream)
    response_id = events[0].response.id
    for after in range(len(events)):
        with sdk.responses.retrieve(response_id, stream=True, starting_after=after) as resumed:
            assert list(resumed) == events[after + 1 :]
    with sdk.responses.retrieve(response_id, stream=True, starting_after=10_000) as resumed:
        assert list(resumed) == []


@pytest.mark.parametrize("streamed", [True, False])
def test_a_quiet_run_is_followed_at_once(sdk: openai.OpenAI, lab: Any, streamed: bool) -> None:
    """Whoever has heard everything there is so far is answered, and not kept waiting for the next event."""
    text = f"forever quiet {streamed}"
    run = sdk.responses.create(model="m", input=text, background=True, stream=streamed)
    response_id = next(iter(run)).response.id if streamed else run.id
    lab.happened("start", text)
    impatient = sdk.with_options(timeout=httpx2.Timeout(60, read=2))
    with impatient.responses.retrieve(response_id, stream=True, starting_after=2 if streamed else 0) as stream:
        assert stream.response.status_code == 200
        sdk.responses.cancel(response_id)
        *_, last = stream
    assert last.response.status == "cancelled"


def test_events_of_a_response_that_was_not_streamed(sdk: openai.OpenAI, ended: Any) -> None:
    whole = sdk.responses.create(model="m", input="in one piece")
    polled = ended(sdk.responses.create(model="m", input="polled", background=True).id)
    for response in (whole, polled):
        with sdk.responses.retrieve(response.id, stream=True) as stream:
            events = list(stream)
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[0].type == "response.created"
        assert events[-1].response == response
        with sdk.responses.retrieve(response.id, stream=True, starting_after=2) as stream:
            assert list(stream) == events[3:]


def test_the_stream_helper_resumes(sdk: openai.OpenAI, steps: Steps) -> None:
    with sdk.responses.stream(model="m", input=steps.text, background=True) as stream:
        response_id = next(iter(stream)).response.id
    steps.go(3)
    with sdk.responses.stream(response_id=response_id) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                break
    steps.end()
    with sdk.responses.stream(response_id=response_id, starting_after=event.sequence_number) as stream:
        rest = list(stream)
        final = stream.get_final_response()
    assert rest[0].sequence_number == event.sequence_number + 1
    said = event.delta + "".join(each.delta for each in rest if each.type == "response.output_text.delta")
    assert said == final.output_text == sdk.responses.retrieve(response_id).output_text
    # The helper puts together what it shows; a gap or a repetition would be seen here.
    snapshots = [each.snapshot for each in rest if each.type == "response.output_text.delta"]
    assert snapshots[-1] == final.output_text


# -- cancelled, deleted


def test_cancel(sdk: openai.OpenAI, lab: Any, told: Any) -> None:
    told(sdk, "before", conversation="cancelled")
    running = sdk.responses.create(model="m", input="forever cancel me", background=True, conversation="cancelled")
    waiting = sdk.responses.create(model="m", input="never begun", background=True, conversation="cancelled")
    lab.happened("start", "forever cancel me")
    assert sdk.responses.cancel(waiting.id).status == "cancelled"
    first = sdk.responses.cancel(running.id)
    assert (first.status, first.id, first.background) == ("cancelled", running.id, True)
    assert lab.happened("cancelled", "forever cancel me")
    assert sdk.responses.cancel(running.id) == first == sdk.responses.retrieve(running.id)
    assert lab.journal("never begun") == []
    # Nothing of it is in the conversation, and what was said is not lost.
    assert told(sdk, "history", conversation="cancelled") == [["user", "before"], ["assistant", "1: before"]]
    for response, text in ((running, "forever cancel me"), (waiting, "never begun")):
        (item,) = sdk.responses.input_items.list(response.id)
        assert item.content[0].text == text


def test_cancel_while_it_streams(sdk: openai.OpenAI, steps: Steps) -> None:
    steps.go(2)
    with sdk.responses.create(model="m", input=steps.text, background=True, stream=True) as stream:
        events, cancelled = [], None
        for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta" and cancelled is None:
                cancelled = sdk.responses.cancel(events[0].response.id)
    assert events[-1].type == "response.failed"
    assert events[-1].response.status == "cancelled"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    with sdk.responses.retrieve(events[0].response.id, stream=True) as stream:
        assert list(stream) == events


def test_cancel_what_is_over(sdk: openai.OpenAI, ended: Any) -> None:
    done = ended(sdk.responses.create(model="m", input="quick", background=True).id)
    assert sdk.responses.cancel(done.id) == done
    failed = ended(sdk.responses.create(model="m", input="fail now", background=True).id)
    assert sdk.responses.cancel(failed.id) == failed
    plain = sdk.responses.create(model="m", input="in the foreground")
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.cancel(plain.id)
    assert caught.value.code == "not_in_background"


def test_delete(sdk: openai.OpenAI, told: Any, lab: Any) -> None:
    first = sdk.responses.create(model="m", input="first", conversation="deleted")
    second = sdk.responses.create(model="m", input="second", conversation="deleted")
    alone = sdk.responses.create(model="m", input="alone")
    for response in (first, alone):
        assert sdk.responses.delete(response.id) is None
        gone(sdk, response.id)
    with lab.http() as http:
        answer = http.delete(f"/v1/responses/{second.id}").json()
    assert answer == {"id": second.id, "object": "response", "deleted": True}
    # A response is deleted, not what its conversation remembers.
    assert len(told(sdk, "history", conversation="deleted")) == 4


def test_delete_what_runs(sdk: openai.OpenAI, lab: Any) -> None:
    running = sdk.responses.create(model="m", input="forever delete me", background=True)
    lab.happened("start", "forever delete me")
    sdk.responses.delete(running.id)
    lab.happened("cancelled", "forever delete me")
    gone(sdk, running.id)


def test_delete_a_branching_point(sdk: openai.OpenAI, told: Any) -> None:
    root = sdk.responses.create(model="m", input="root")
    left = sdk.responses.create(model="m", input="left", previous_response_id=root.id)
    right = sdk.responses.create(model="m", input="right", previous_response_id=root.id)
    sdk.responses.delete(root.id)
    sdk.responses.delete(left.id)
    gone(sdk, left.id)
    assert told(sdk, "history", previous_response_id=right.id)[0] == ["user", "root"]
    assert sdk.responses.retrieve(right.id) == right


# -- what a response was given


def test_input_items_page_by_page(sdk: openai.OpenAI) -> None:
    texts = [f"part {number}" for number in range(45)]
    items: Any = [{"role": "user" if number % 2 == 0 else "assistant", "content": t} for number, t in enumerate(texts)]
    response = sdk.responses.create(model="m", input=items)
    first = sdk.responses.input_items.list(response.id)
    assert (len(first.data), first.has_more) == (20, True)
    listed = list(first)  # the SDK turns the pages
    assert [item.content[0].text for item in listed] == texts[::-1]
    assert [item.role for item in listed] == ["user" if number % 2 == 0 else "assistant" for number in range(45)][::-1]
    assert len({item.id for item in listed}) == 45
    forward = list(sdk.responses.input_items.list(response.id, order="asc", limit=7))
    assert forward == listed[::-1]
    assert list(sdk.responses.input_items.list(response.id, order="asc", after=forward[40].id)) == forward[41:]
    assert list(sdk.responses.input_items.list(response.id, limit=100, after=forward[4].id)) == listed[41:]


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "msg_unknown"}])
def test_input_items_asked_wrongly(sdk: openai.OpenAI, query: Any) -> None:
    response = sdk.responses.create(model="m", input="hi")
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.input_items.list(response.id, **query)
    assert caught.value.param == next(iter(query))


def test_input_items_of_every_kind(sdk: openai.OpenAI) -> None:
    given: Any = [
        {
            "type": "message",
            "id": "msg_mine",
            "role": "developer",
            "content": [{"type": "input_text", "text": "Obey."}],
        },
        {"type": "reasoning", "id": "rs_mine", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "id": "fc_mine", "call_id": "call_1", "name": "left", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "id": "fco_mine", "call_id": "call_1", "output": "done"},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "hi"},
                {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "high"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
            ],
        },
    ]
    response = sdk.responses.create(model="m", input=given)
    listed = [item.to_dict() for item in sdk.responses.input_items.list(response.id, order="asc")]
    for sent, shown in zip(given, listed, strict=True):
        assert {name: shown[name] for name in sent} == sent


def test_input_of_a_turn_is_its_own(sdk: openai.OpenAI) -> None:
    """Not what came before it in the conversation."""
    first = sdk.responses.create(model="m", input="one", instructions="Be brief.")
    second = sdk.responses.create(model="m", input="two", previous_response_id=first.id)
    (item,) = sdk.responses.input_items.list(second.id)
    assert item.content[0].text == "two"


# -- conversations


def test_conversations(sdk: openai.OpenAI, told: Any) -> None:
    hello: Any = {"type": "message", "role": "user", "content": "hello"}
    made = sdk.conversations.create(metadata={"topic": "demo"}, items=[hello])
    assert (made.object, made.metadata) == ("conversation", {"topic": "demo"})
    assert sdk.conversations.retrieve(made.id) == made
    assert sdk.conversations.update(made.id, metadata={"topic": "other"}).metadata == {"topic": "other"}
    assert sdk.conversations.retrieve(made.id).metadata == {"topic": "other"}
    assert sdk.conversations.retrieve(made.id).created_at == made.created_at
    assert told(sdk, "say two", conversation=made.id) == "2: say two"
    assert told(sdk, "history", conversation={"id": made.id})[0] == ["user", "hello"]
    gone_now = sdk.conversations.delete(made.id)
    assert (gone_now.id, gone_now.deleted, gone_now.object) == (made.id, True, "conversation.deleted")
    ways: list[Callable[[], Any]] = [
        lambda: sdk.conversations.retrieve(made.id),
        lambda: sdk.conversations.update(made.id, metadata={}),
        lambda: sdk.conversations.delete(made.id),
        lambda: sdk.conversations.items.list(made.id),
        lambda: sdk.conversations.items.create(made.id, items=[hello]),
        lambda: sdk.conversations.items.retrieve("msg_1", conversation_id=made.id),
        lambda: sdk.conversations.items.delete("msg_1", conversation_id=made.id),
    ]
    for way in ways:
        with pytest.raises(openai.NotFoundError) as caught:
            way()
        assert caught.value.code == "conversation_not_found"


def test_items_of_a_conversation(sdk: openai.OpenAI, told: Any) -> None:
    made = sdk.conversations.create()
    for start in (0, 20):
        more: Any = [{"role": "user", "content": f"note {number}"} for number in range(start, start + 20)]
        added = sdk.conversations.items.create(made.id, items=more)
        assert [item.content[0].text for item in added.data] == [item["content"] for item in more]
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.conversations.items.create(made.id, items=[{"role": "user", "content": "x"}] * 21)  # type: ignore[list-item]
    assert caught.value.param == "items"
    said = sdk.responses.create(model="m", input="and a turn", conversation=made.id)
    assert said.output_text == "41: and a turn"

    listed = list(sdk.conversations.items.list(made.id))
    assert [item.content[0].text for item in listed[:3]] == ["41: and a turn", "and a turn", "note 39"]
    assert len(listed) == len({item.id for item in listed}) == 42
    assert list(sdk.conversations.items.list(made.id, order="asc", limit=9)) == listed[::-1]
    assert sdk.conversations.items.retrieve(listed[5].id, conversation_id=made.id) == listed[5]

    assert sdk.conversations.items.delete(listed[5].id, conversation_id=made.id) == made
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.conversations.items.retrieve(listed[5].id, conversation_id=made.id)
    assert missing.value.code == "item_not_found"
    assert list(sdk.conversations.items.list(made.id)) == listed[:5] + listed[6:]
    history = told(sdk, "history", conversation=made.id)
    assert ["user", listed[5].content[0].text] not in history
    assert len(history) == 41


def test_a_conversation_that_a_response_began(sdk: openai.OpenAI, told: Any) -> None:
    """Whoever names a conversation in a request can look at it, too."""
    told(sdk, "hi there", conversation="began-by-name")
    assert sdk.conversations.retrieve("began-by-name").id == "began-by-name"
    texts = [item.content[0].text for item in sdk.conversations.items.list("began-by-name", order="asc")]
    assert texts == ["hi there", "1: hi there"]
    sdk.conversations.delete("began-by-name")
    assert told(sdk, "history", conversation="began-by-name") == []


def test_a_deleted_conversation_leaves_its_responses(sdk: openai.OpenAI, told: Any) -> None:
    """So the documentation has it: they stay, and can be continued."""
    response = sdk.responses.create(model="m", input="kept", conversation="left-behind")
    sdk.conversations.delete("left-behind")
    assert sdk.responses.retrieve(response.id) == response
    assert told(sdk, "more", previous_response_id=response.id) == "2: more"


# -- the rest of the surface


def test_request_ids(sdk: openai.OpenAI) -> None:
    raw, given = sdk.responses.with_raw_response, {"x-request-id": "mine-1"}
    created = raw.create(model="m", input="hi", extra_headers=given)
    response = created.parse()
    answers = [
        created,
        raw.create(model="m", input="hi", stream=True, extra_headers=given),
        raw.create(model="m", input="hi", background=True, extra_headers=given),
        raw.retrieve(response.id, extra_headers=given),
        raw.retrieve(response.id, stream=True, extra_headers=given),
        raw.input_items.list(response.id, extra_headers=given),
        raw.delete(response.id, extra_headers=given),
        sdk.conversations.with_raw_response.create(extra_headers=given),
    ]
    for answer in answers:
        assert answer.headers["x-request-id"] == "mine-1"
        if "event-stream" in answer.headers["content-type"]:
            list(answer.parse())
    for refused in (raw.retrieve, raw.cancel, raw.delete, raw.input_items.list):
        with pytest.raises(openai.NotFoundError) as caught:
            refused(response.id, extra_headers=given)
        assert caught.value.request_id == "mine-1"
    assert sdk.conversations.create()._request_id != sdk.conversations.create()._request_id


def test_counting_tokens_is_not_there(lab: Any) -> None:
    """A clean refusal, and the SDK does not ask again."""
    asked: list[Any] = []
    hooks = {"request": [asked.append]}
    client = lab.client(max_retries=2, http_client=openai.DefaultHttpxClient(event_hooks=hooks))
    with pytest.raises(openai.InternalServerError) as caught:
        client.responses.input_tokens.count(model="m", input="hello there")
    assert (caught.value.status_code, caught.value.code) == (501, "not_implemented")
    assert "count tokens" in caught.value.message
    assert len(asked) == 1


TWO_ITEMS: Any = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]


def test_compact(sdk: openai.OpenAI) -> None:
    compacted = sdk.responses.compact(model="gpt-5", input=TWO_ITEMS)
    assert (compacted.object, compacted.usage.total_tokens) == ("response.compaction", 0)
    assert [item.content[0].text for item in compacted.output] == ["one", "two"]  # type: ignore[union-attr]


def test_compact_what_a_response_had_behind_it(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(model="m", input="before")
    raw = sdk.responses.with_raw_response.compact(model="gpt-5", input=TWO_ITEMS, previous_response_id=first.id)
    texts = [item.content[0].text for item in raw.parse().output]  # type: ignore[union-attr]
    assert texts == ["before", "1: before", "one", "two"]
    # What comes out goes in again.
    again: Any = [*json.loads(raw.text)["output"], {"role": "user", "content": "go on"}]
    assert sdk.responses.create(model="m", input=again).output_text == "3: go on"
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.compact(model="gpt-5", previous_response_id="resp_" + "0" * 48)
    assert caught.value.code == "previous_response_not_found"


def test_the_document_of_it_all(lab: Any) -> None:
    document = httpx.get(f"{lab.base_url}/openapi.json", trust_env=False).json()
    assert document["openapi"].startswith("3.")
    assert {"/responses", "/responses/{response_id}", "/conversations"} <= set(document["paths"])


# -- the asynchronous SDK


async def use_everything(base_url: str, steps: Steps) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        responses = client.responses
        whole = await responses.create(model="m", input="in asyncio", metadata={"a": "b"})
        assert await responses.retrieve(whole.id) == whole

        async with await responses.create(model="m", input="streamed", stream=True) as stream:
            events = [event async for event in stream]
        assert (await responses.retrieve(events[0].response.id)) == events[-1].response

        async with responses.stream(model="m", input=steps.text, background=True) as stream:
            async for event in stream:
                if event.type == "response.created":
                    created = event.response
                    steps.go(2)
                elif event.type == "response.output_text.delta":
                    break
        steps.end()
        async with await responses.retrieve(created.id, stream=True, starting_after=event.sequence_number) as stream:
            rest = [event async for event in stream]
        assert rest[0].sequence_number == event.sequence_number + 1
        async with responses.stream(response_id=created.id, starting_after=3) as stream:
            final = await stream.get_final_response()
        assert final.output_text == rest[-1].response.output_text

        parsed = await responses.parse(model="m", input="options", text_format=Options)
        assert parsed.output_parsed is not None

        polled = await responses.create(model="m", input="polled", background=True)
        while polled.status in ("queued", "in_progress"):
            await asyncio.sleep(0.01)
            polled = await responses.retrieve(polled.id)
        assert polled.output_text == "1: polled"

        running = await responses.create(model="m", input="forever async", background=True)
        assert await responses.cancel(running.id) == await responses.cancel(running.id)
        assert (await responses.retrieve(running.id)).status == "cancelled"
        await responses.delete(running.id)

        many: Any = [{"role": "user", "content": str(number)} for number in range(25)]
        long = await responses.create(model="m", input=many)
        listed = [item.content[0].text async for item in responses.input_items.list(long.id, order="asc")]
        assert listed == [str(number) for number in range(25)]

        conversation = await client.conversations.create(items=many[:20])
        await client.conversations.items.create(conversation.id, items=many[20:])
        listed = [item.content[0].text async for item in client.conversations.items.list(conversation.id, order="asc")]
        assert listed == [str(number) for number in range(25)]
        assert (await client.conversations.delete(conversation.id)).deleted


def test_the_asynchronous_sdk(lab: Any, steps: Steps) -> None:
    asyncio.run(use_everything(lab.base_url, steps))
