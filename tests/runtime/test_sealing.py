"""Sealing: every way to change a committed message in place is noticed, and nobody else can tell a sealed one."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from agent_framework import AgentSession, Content, Message
from hypothesis import given
from hypothesis import strategies as st

from afactors.sealing import Seal, SealedContent, SealedMessage

Edit = Callable[[list[Message]], object]


def conversation() -> list[Message]:
    call = Content.from_function_call("call_1", "add", arguments={"terms": [1, {"two": 2}]})
    image = Content.from_uri("https://example.com/a.png", media_type="image/png")
    cited = Content.from_text("cited", annotations=[{"type": "citation", "title": "a book", "url": "https://b"}])
    return [
        Message(
            "user",
            [Content.from_text("hello", additional_properties={"mood": {"level": [5]}}), image],
            author_name="Ada",
            message_id="m0",
            additional_properties={"deep": {"list": [10, {"inner": "x"}]}, "flag": False},
        ),
        Message("assistant", [call, cited]),
        Message("tool", [Content.from_function_result("call_1", result=[Content.from_text("3"), image])]),
        Message("assistant", [Content.from_function_approval_request("approve_1", copy.deepcopy(call))]),
        Message(
            "assistant",
            [
                Content.from_code_interpreter_tool_call(call_id="c", inputs=[Content.from_text("print(1)")]),
                Content.from_code_interpreter_tool_result(call_id="c", outputs=[Content.from_text("1")]),
                Content.from_usage({"total_token_count": 12}),
            ],
        ),
        Message("user", []),
    ]


def encoded(history: list[Message]) -> list[dict[str, Any]]:
    return [message.to_dict() for message in history]


EDITS: dict[str, Edit] = {
    "role": lambda h: setattr(h[0], "role", "system"),
    "author_name": lambda h: setattr(h[0], "author_name", "Bob"),
    "message_id": lambda h: setattr(h[0], "message_id", "m9"),
    "message id where there was none": lambda h: setattr(h[5], "message_id", "m5"),
    "contents replaced": lambda h: setattr(h[0], "contents", [Content.from_text("new")]),
    "contents appended to": lambda h: h[0].contents.append(Content.from_text("more")),
    "contents appended to where there were none": lambda h: h[5].contents.append(Content.from_text("more")),
    "contents popped": lambda h: h[0].contents.pop(),
    "contents reordered": lambda h: h[0].contents.reverse(),
    "a content replaced": lambda h: h[0].contents.__setitem__(0, Content.from_text("new")),
    "properties replaced": lambda h: setattr(h[0], "additional_properties", {"new": 2}),
    "properties: a key set": lambda h: h[0].additional_properties.__setitem__("flag", True),
    "properties: a key added": lambda h: h[0].additional_properties.__setitem__("new", "x"),
    "properties: a key added where there was none": lambda h: h[1].additional_properties.update(new="x"),
    "properties: a key deleted": lambda h: h[0].additional_properties.pop("flag"),
    "properties: deep inside": lambda h: h[0].additional_properties["deep"]["list"][1].update(inner="y"),
    "properties: a list inside": lambda h: h[0].additional_properties["deep"]["list"].append(11),
    "text": lambda h: setattr(h[0].contents[0], "text", "bye"),
    "uri": lambda h: setattr(h[0].contents[1], "uri", "https://example.com/b.png"),
    "a content's properties": lambda h: h[0].contents[0].additional_properties["mood"]["level"].append(6),
    "a content's empty properties": lambda h: h[0].contents[1].additional_properties.update(new="x"),
    "a call's arguments": lambda h: h[1].contents[0].arguments["terms"][1].update(two=3),
    "a call's arguments replaced": lambda h: setattr(h[1].contents[0], "arguments", "{}"),
    "an annotation": lambda h: h[1].contents[1].annotations[0].update(title="another"),
    "a result's items": lambda h: h[2].contents[0].items.append(Content.from_text("4")),
    "a result's item": lambda h: setattr(h[2].contents[0].items[0], "text", "4"),
    "a result": lambda h: setattr(h[2].contents[0], "result", "4"),
    "an approval's call": lambda h: setattr(h[3].contents[0].function_call, "name", "subtract"),
    "an approval's call's arguments": lambda h: h[3].contents[0].function_call.arguments["terms"].append(9),
    "an approval's call replaced": lambda h: setattr(h[3].contents[0], "function_call", None),
    "inputs": lambda h: setattr(h[4].contents[0].inputs[0], "text", "print(2)"),
    "outputs": lambda h: h[4].contents[1].outputs.clear(),
    "usage": lambda h: h[4].contents[2].usage_details.update(total_token_count=13),
    "a message replaced": lambda h: h.__setitem__(2, Message("tool", ["3"])),
    "a message replaced by its copy": lambda h: h.__setitem__(2, copy.deepcopy(h[2])),
    "a message inserted": lambda h: h.insert(0, Message("system", ["be brief"])),
    "the first removed": lambda h: h.pop(0),
    "the last removed": lambda h: h.pop(),
    "all removed": lambda h: h.clear(),
    "reordered": lambda h: h.reverse(),
}


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_is_noticed(name: str):
    history = conversation()
    seal = Seal(history)
    before = encoded(history)
    assert seal.intact(history)
    EDITS[name](history)
    assert encoded(history) != before or name == "a message replaced by its copy", "the edit itself must bite"
    assert not seal.intact(history)


def test_what_is_only_read_or_continued_is_intact():
    history = conversation()
    seal = Seal(history)
    for message in history:
        assert (message.text, message.to_dict(), message.to_json(), str(message), repr(message)) is not None
        for content in message.contents:
            assert (str(content), content.to_dict(), content == content, copy.copy(content)) is not None
    history.append(Message("user", ["and then"]))
    assert seal.intact(history)
    seal.extend(history[6:])
    assert seal.intact(history)
    history[6].contents[0].text = "changed"
    assert not seal.intact(history)


@pytest.mark.parametrize("touch", ["container", "attribute"])
def test_what_was_touched_and_put_back_is_only_looked_at_again(touch: str):
    history = conversation()
    seal = Seal(history)
    if touch == "container":
        history[0].additional_properties["flag"] = True
        history[0].additional_properties["flag"] = False
    else:
        history[0].role = history[0].role
    assert not seal.intact(history)  # never wrong, only slower: the rows are compared then
    assert Seal(history).intact(history)


def test_an_edit_in_a_content_that_took_an_equal_ones_place_is_noticed():
    history = conversation()
    seal = Seal(history)
    history[0].contents[0] = copy.deepcopy(history[0].contents[0])
    history[0].contents[0].text = "bye"
    assert not seal.intact(history)


def test_one_content_in_two_messages_and_one_message_twice():
    shared = Content.from_text("shared")
    first = Message("user", [shared])
    history = [first, Message("user", [shared]), first]
    seal = Seal(history)
    assert seal.intact(history)
    shared.text = "changed"
    assert not seal.intact(history)


def test_messages_of_other_classes_are_always_looked_at_again():
    class Mine(Message):
        pass

    history: list[Message] = [Mine("user", ["hello"])]
    seal = Seal(history)
    assert type(history[0]) is Mine
    assert not seal.intact(history)


def test_a_value_that_cannot_be_copied_is_always_looked_at_again():
    class Stubborn:
        def __deepcopy__(self, _memo: Any) -> "Stubborn":
            raise TypeError("not me")

    history = [Message("user", ["hello"])]
    history[0].additional_properties["it"] = Stubborn()
    assert not Seal(history).intact(history)


def test_raw_representations_are_neither_stored_nor_compared():
    history = [Message("user", [Content.from_text("hello", raw_representation={"big": [1]})], raw_representation=[1])]
    seal = Seal(history)
    history[0].contents[0].raw_representation["big"].append(2)
    history[0].raw_representation.append(2)
    assert seal.intact(history)


@pytest.mark.parametrize(("old", "new"), [(1, True), (0, False), (1, 1.0)])
def test_a_value_that_only_compares_equal_is_noticed(old: Any, new: Any):
    history = [Message("user", ["hello"], additional_properties={"n": old})]
    seal = Seal(history)
    history[0].additional_properties["n"] = new
    assert not seal.intact(history)


def test_a_deleted_attribute_is_noticed():
    history = [Message("user", ["hello"])]
    seal = Seal(history)
    del history[0].contents[0].text
    assert not seal.intact(history)


# --- a sealed message behaves as a plain one


@pytest.fixture
def pair() -> tuple[list[Message], list[Message]]:
    """The same conversation, plain and sealed."""
    sealed = conversation()
    Seal(sealed)
    assert {type(message) for message in sealed} == {SealedMessage}
    assert {type(content) for message in sealed for content in message.contents} == {SealedContent}
    return conversation(), sealed


def test_its_serialized_form_is_the_same(pair: tuple[list[Message], list[Message]]):
    plain, sealed = pair
    assert encoded(sealed) == encoded(plain)
    assert {message.to_dict()["type"] for message in sealed} == {"message"}
    assert [message.to_json() for message in sealed] == [message.to_json() for message in plain]
    assert [type(Message.from_dict(message.to_dict())) for message in sealed] == [Message] * 6


def test_its_session_serializes_the_same(pair: tuple[list[Message], list[Message]]):
    sessions = [AgentSession(session_id="s") for _ in pair]
    for session, history in zip(sessions, pair, strict=True):
        session.state["in_memory"] = {"messages": history}
    plain, sealed = (session.to_dict() for session in sessions)
    assert sealed == plain
    restored = AgentSession.from_dict(sealed).state["in_memory"]["messages"]
    assert encoded(restored) == encoded(pair[0])
    assert {type(message) for message in restored} == {Message}


def test_it_is_equal_and_an_instance(pair: tuple[list[Message], list[Message]]):
    plain, sealed = pair
    for one, other in zip(plain, sealed, strict=True):
        assert isinstance(other, Message)
        assert other.text == one.text
        assert other.contents == one.contents
        assert one.contents == other.contents
        assert other == other
        assert all(isinstance(content, Content) for content in other.contents)


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickled])
def test_its_copies_are_as_a_plain_ones(pair: tuple[list[Message], list[Message]], way: Callable[[Any], Any]):
    _, sealed = pair
    seal = Seal(sealed)
    for message in sealed:
        twin = way(message)
        assert twin.to_dict() == message.to_dict()
        twin.role = "system"
        assert type(twin) is Message
        for content in message.contents:
            other = way(content)
            other.id = "new"
            assert type(other) is Content
    assert seal.intact(sealed), "an edited copy must not touch the original"


def test_pickling_gives_plain_classes(pair: tuple[list[Message], list[Message]]):
    _, sealed = pair
    data = pickle.dumps(sealed)
    assert b"Sealed" not in data
    again = pickle.loads(data)  # noqa: S301 - our own
    assert {type(message) for message in again} == {Message}
    assert {type(content) for message in again for content in message.contents} == {Content}
    assert encoded(again) == encoded(sealed)


def test_a_copy_that_is_sealed_in_its_turn_is_watched_like_any_other(pair: tuple[list[Message], list[Message]]):
    _, sealed = pair
    for way in (copy.copy, copy.deepcopy):
        twins = [way(message) for message in sealed]
        seal = Seal(twins)
        assert seal.intact(twins)
        twins[0].author_name = "Eve"
        assert not seal.intact(twins)


def test_an_edited_message_can_be_sealed_again():
    history = conversation()
    Seal(history)
    history[0].role = "system"
    history[0].contents[0].text = "bye"
    seal = Seal(history)
    assert seal.intact(history)
    history[0].contents[0].text = "hello"
    assert not seal.intact(history)


# --- at random


@st.composite
def edits(draw: st.DrawFn) -> Edit:
    """One change somewhere: an attribute, a container, the list itself; or a mere look."""
    kind = draw(st.sampled_from(["message", "content", "property", "contents", "nested", "list", "look"]))
    at = draw(st.integers(0, 5))
    value = draw(st.text(max_size=3))

    def content(history: list[Message]) -> Content | None:
        contents = history[at].contents if at < len(history) else []
        return contents[len(value) % len(contents)] if contents else None

    def edit(history: list[Message]) -> None:
        if at >= len(history):
            return
        message, part = history[at], content(history)
        if kind == "message":
            setattr(message, draw(st.sampled_from(["role", "author_name", "message_id"])), value)
        elif kind == "content" and part is not None:
            setattr(part, draw(st.sampled_from(["text", "name", "arguments", "result", "uri", "id", "status"])), value)
        elif kind == "property":
            holder = draw(st.sampled_from([message, part or message]))
            holder.additional_properties[draw(st.sampled_from(["deep", "flag", "mood", "new"]))] = value
        elif kind == "contents":
            add = lambda: message.contents.append(Content.from_text(value))  # noqa: E731
            draw(st.sampled_from([add, message.contents.reverse, message.contents.clear]))()
        elif kind == "nested" and part is not None and part.function_call is not None:
            part.function_call.arguments = value
        elif kind == "list":
            insert = lambda: history.insert(at, Message("user", [value]))  # noqa: E731
            draw(st.sampled_from([history.pop, history.reverse, insert]))()
        else:
            assert message.to_dict()

    return edit


@given(st.lists(edits(), max_size=6))
def test_a_change_of_the_stored_form_is_never_missed(changes: list[Edit]):
    history = conversation()
    seal = Seal(history)
    before, identities = encoded(history), [id(message) for message in history]
    for change in changes:
        change(history)
    changed = encoded(history[:6]) != before
    moved = [id(message) for message in history[:6]] != identities
    if changed or moved:
        assert not seal.intact(history)
    elif not changes:
        assert seal.intact(history)


def test_what_was_sealed_does_not_wait_for_the_collector():
    """A passivated session's memory goes with its last reference: cycles would keep it for long."""
    history = conversation()
    seal = Seal(history)
    gone = weakref.ref(seal)
    gc.collect()
    gc.disable()
    try:
        del seal
        assert gone() is None
        last = weakref.ref(history[0])
        history[0].role = "system"  # nobody to tell any more
        history.clear()
        assert last() is None
    finally:
        gc.enable()
