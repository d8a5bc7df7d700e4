"""Sessions by name: looked at, and changed otherwise than by a turn."""

from typing import Any

import pytest
import trio
import trio.testing
from agent_framework import Content, Message

from afactors.editing import remove
from afactors_channels import (
    BadRequest,
    ChannelSession,
    Conflicting,
    HostedSession,
    NotAllowed,
    NotFound,
    SessionEdit,
    TargetFailed,
)
from afactors_store import StoreFull
from tests.runtime.outcomes import caught

blocked = trio.testing.wait_all_tasks_blocked
House = Any  # of conftest
Clock = trio.abc.Clock


def said(text: str, role: Any = "user") -> dict[str, Any]:
    return Message(role, [text]).to_dict()


async def edit(house: House, session: str = "s", *, key: str | None = "ada", **change: Any) -> HostedSession:
    return await house.runtime.edit_session(house.request("", session, key=key), SessionEdit(**change))


async def get(house: House, session: str = "s", **more: Any) -> HostedSession:
    return await house.runtime.get_session(house.request("", session, **more))


# --- one after the other


async def test_beginning_a_session(autojump_clock: Clock, house: House):
    async with house.open():
        made = await edit(house, create=True, labels={"topic": "x"}, append=[said("hello")])
        assert made == await get(house)
        assert (made.labels, house.said(made.messages)) == ({"topic": "x"}, ["hello"])
        assert made.created > 0
        assert await house.ask("more", "s") == "hello more"
        assert (await get(house)).created == made.created
    async with house.open():
        assert (await get(house)).labels == {"topic": "x"}
        assert await house.ask("again", "s") == "hello more again"


async def test_beginning_an_empty_session(autojump_clock: Clock, house: House):
    async with house.open():
        made = await edit(house, create=True)
        assert (made.labels, made.messages) == ({}, [])
        assert await get(house) == made
        assert await house.ask("one", "s") == "one"


@pytest.mark.parametrize("how", ["edit", "turn"])
async def test_a_session_that_is_there_cannot_be_begun(autojump_clock: Clock, house: House, how: str):
    async with house.open():
        if how == "edit":
            await edit(house, create=True)
        else:
            await house.ask("one", "s")
        error = await caught(edit(house, create=True, append=[said("x")]))
        assert isinstance(error, Conflicting)
        assert error.code == "session_exists"
        assert "x" not in house.said((await get(house)).messages)


@pytest.mark.parametrize("change", [{"labels": {}}, {"append": [said("x")]}, {"remove": [("m", ())]}, {"delete": True}])
async def test_a_session_that_is_not_there_cannot_be_changed(autojump_clock: Clock, house: House, change: Any):
    async with house.open():
        error = await caught(edit(house, **change))
        assert isinstance(error, NotFound)
        assert error.code == "session_not_found"
        assert isinstance(await caught(get(house)), NotFound)
        assert await house.store.keys() == []
        assert house.actors.restarts == 0


async def test_adding_messages(autojump_clock: Clock, house: House):
    async with house.open():
        await house.ask("one", "s")
        added = await edit(house, append=[said("system says", "system"), said("two"), said("so", "assistant")])
        assert house.said(added.messages) == ["one", "one", "system says", "two", "so"]
        ids = [message["message_id"] for message in added.messages]
        assert len(set(ids)) == 5, "each of them can be named"
        assert await house.ask("three", "s") == "one two three"
        again = await edit(house, append=[said("two")])
        assert house.said(again.messages)[-1] == "two", "the same text again is another message"


async def test_taking_messages_out(autojump_clock: Clock, house: House):
    async with house.open():
        for text in ("one", "two", "three"):
            await house.ask(text, "s")
        messages = (await get(house)).messages
        assert house.said(messages)[2:4] == ["two", "one two"]
        left = await edit(house, remove=[(messages[2]["message_id"], ()), (messages[3]["message_id"], ())])
        assert house.said(left.messages) == ["one", "one", "three", "one two three"]
        assert await house.ask("four", "s") == "one three four"
    async with house.open():
        assert house.said((await get(house)).messages)[:3] == ["one", "one", "three"]
        assert await house.ask("five", "s") == "one three four five"


async def test_taking_a_part_of_a_message_out(autojump_clock: Clock, house: House):
    parts = Message("user", [Content.from_text(text) for text in ("a", "b", "c")]).to_dict()
    async with house.open():
        made = await edit(house, create=True, append=[parts])
        name = made.messages[0]["message_id"]
        left = await edit(house, remove=[(name, (0, 2))])
        assert [content["text"] for content in left.messages[0]["contents"]] == ["b"]
        assert left.messages[0]["message_id"] == name
        assert (await edit(house, remove=[(name, (0,))])).messages == [], "nothing is left of it"


async def test_taking_out_what_is_not_there_changes_nothing(autojump_clock: Clock, house: House):
    async with house.open():
        await house.ask("one", "s")
        before = await get(house)
        name = before.messages[0]["message_id"]
        error = await caught(edit(house, remove=[(name, ()), ("never", ())], labels={"a": "b"}))
        assert isinstance(error, NotFound)
        assert error.code == "message_not_found"
        assert await get(house) == before
        assert await house.ask("two", "s") == "one two", "also in memory"


async def test_labels_are_replaced_or_left(autojump_clock: Clock, house: House):
    async with house.open():
        await edit(house, create=True, labels={"a": "1", "b": "2"})
        assert (await edit(house, append=[said("x")])).labels == {"a": "1", "b": "2"}
        assert (await edit(house, labels={"c": "3"})).labels == {"c": "3"}
        assert (await edit(house, labels={})).labels == {}
        assert house.said((await get(house)).messages) == ["x"]


async def test_deleting_a_session(autojump_clock: Clock, house: House):
    async with house.open():
        await edit(house, create=True, labels={"a": "b"}, append=[said("one")])
        await house.ask("two", "s")
        await edit(house, delete=True)
        for call in (get(house), edit(house, delete=True), edit(house, labels={})):
            assert isinstance(await caught(call), NotFound)
        claim = await house.store.claim("ada")
        assert await house.store.list_documents(claim) == []
        assert await house.ask("new", "s") == "new", "it begins anew"
        assert (await get(house)).labels == {}
    async with house.open():
        assert await house.ask("more", "s") == "new more"


async def test_a_response_of_a_deleted_session_can_be_continued(autojump_clock: Clock, house: House):
    async with house.open() as runtime:
        await house.ask("one", "s", name="p1")
        await edit(house, delete=True)
        assert (await runtime.get_continuation("p1")).result.text == "one"
        assert await house.ask("two", after="p1") == "one two"


async def test_a_session_of_a_point_is_what_it_continues(autojump_clock: Clock, house: House):
    async with house.open() as runtime:
        await house.ask("one", name="p1")
        await house.ask("two", after="p1", name="p2")
        session = await runtime.get_session(house.request("", after="p2"))
        assert house.said(session.messages) == ["one", "one", "two", "one two"]


async def test_nobody_else_s_session(autojump_clock: Clock, house: House):
    async with house.open():
        await edit(house, create=True, append=[said("mine")])
        await edit(house, "t", key=None, create=True, append=[said("nobody's")])
        assert isinstance(await caught(get(house, key="bob")), NotFound)
        assert isinstance(await caught(get(house, key=None)), NotFound)
        assert isinstance(await caught(get(house, "t", key=None, partition="acme")), NotFound)
        assert isinstance(await caught(edit(house, key="bob", delete=True)), NotFound)


async def test_the_policy_is_asked(autojump_clock: Clock, house: House):
    async with house.open(authorize=lambda _request: "denied"):
        assert isinstance(await caught(get(house)), NotAllowed)
        assert isinstance(await caught(edit(house, create=True)), NotAllowed)
        assert await house.store.keys() == []


@pytest.mark.parametrize("session", ["", "a\0b", "\ud800"])
async def test_a_name_that_no_session_has(autojump_clock: Clock, house: House, session: str):
    async with house.open():
        assert isinstance(await caught(get(house, session)), BadRequest)
        assert isinstance(await caught(edit(house, session, create=True)), BadRequest)


async def test_where_sessions_are_disabled_there_are_none(autojump_clock: Clock, house: House):
    async with house.open() as runtime:
        request = house.request("", "s", session_mode="disabled")
        assert isinstance(await caught(runtime.get_session(request)), NotFound)
        assert isinstance(await caught(runtime.edit_session(request, SessionEdit(labels={}))), NotFound)
        assert house.actors.restarts == 0


# --- among turns


async def test_an_edit_waits_in_line(autojump_clock: Clock, house: House):
    house.target.hold("one")
    done: list[str] = []
    async with house.open(), trio.open_nursery() as nursery:
        await house.post("one", "s")
        await blocked()

        async def change() -> None:
            await edit(house, append=[said("edited")])
            done.append("edit")

        async def ask() -> None:
            done.append(await house.ask("two", "s"))

        nursery.start_soon(change)
        await blocked()
        nursery.start_soon(ask)
        await blocked()
        assert done == []
        house.target.hold("one").set()
        await blocked()
        assert done == ["edit", "one edited two"]


async def test_a_turn_waits_for_an_edit(autojump_clock: Clock, house: House):
    gate = trio.Event()

    async def before(method: str, _key: str) -> None:
        if method == "commit":
            await gate.wait()

    async with house.open(), trio.open_nursery() as nursery:
        house.store.before = before
        nursery.start_soon(lambda: edit(house, create=True, append=[said("edited")]))
        await blocked()
        turn = await house.post("one", "s")
        await blocked()
        assert house.target.started == []
        gate.set()
        assert (await turn.outcome()).result.text == "edited one"


async def test_an_edit_neither_rejects_nor_interrupts(autojump_clock: Clock, house: House):
    for policy in ("reject", "interrupt"):
        house.target.hold(policy)
        async with house.open(overlap=policy), trio.open_nursery() as nursery:
            turn = await house.post(policy, "s")
            await blocked()
            nursery.start_soon(lambda: edit(house, labels={"a": "b"}))
            await blocked()
            house.target.hold(policy).set()
            assert policy in (await turn.outcome()).result.text


async def test_an_edit_while_letters_are_in_the_store(autojump_clock: Clock, house: House):
    house.target.hold("one")
    async with house.open(crash=True):
        await house.submit("one", "s")
        await house.submit("two", "s")
        await blocked()
    house.target.hold("one").set()
    async with house.open():
        changed = await edit(house, append=[said("edited")])
        assert house.said(changed.messages)[-1] == "edited"
        assert await house.ask("three", "s") == "one two edited three"


async def test_many_at_once(autojump_clock: Clock, house: House):
    async with house.open():
        await edit(house, create=True)
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(lambda n=number: edit(house, append=[said(f"edit{n}")]))
                nursery.start_soon(house.ask, f"word{number}", "s")
                nursery.start_soon(house.submit, f"letter{number}", "s")
        last = await house.ask("last", "s")
    expected = [f"{what}{number}" for what in ("edit", "word", "letter") for number in range(20)]
    assert sorted(last.split()) == sorted([*expected, "last"])


async def test_a_turn_cannot_edit_its_own_session(autojump_clock: Clock, house: House):
    async def behave(*_: object) -> str:
        await edit(house, labels={"a": "b"})
        return "never"

    errors = []

    async def try_it(*args: object) -> str:
        errors.append(await caught(behave(*args)))
        return "x"

    house.target.on["outer"] = try_it
    async with house.open():
        await house.ask("outer", "s")
    assert getattr(errors[0], "code", None) == "would_deadlock"


async def test_an_edit_of_an_agent_that_fails(autojump_clock: Clock, house: House, monkeypatch: pytest.MonkeyPatch):
    """Where the agent keeps its history is code of the user's own."""

    async def remember(*_: object) -> None:
        raise ValueError("the secret is swordfish")

    async with house.open():
        await house.ask("one", "s")
        monkeypatch.setattr(house.target, "remember", remember)
        error = await caught(edit(house, append=[said("x")]))
        assert isinstance(error, TargetFailed)
        assert "swordfish" not in str(error)
        assert await house.ask("two", "s") == "one two"
        assert house.actors.restarts == 0


@pytest.mark.parametrize("message", [{}, {"role": 5, "contents": [7]}])
async def test_messages_that_are_none(autojump_clock: Clock, house: House, message: Any):
    async with house.open():
        await house.ask("one", "s")
        error = await caught(edit(house, append=[message]))
        assert isinstance(error, BadRequest)
        assert error.code == "invalid_message"
        assert await house.ask("two", "s") == "one two"
        assert house.actors.restarts == 0


async def test_an_edit_that_cannot_be_stored(autojump_clock: Clock, house: House):
    async with house.open():
        await house.ask("one", "s")
        error = await caught(edit(house, append=[said("x")], labels={"a": {1}}))
        assert isinstance(error, BadRequest)
        assert error.code == "not_storable"
        assert await house.ask("two", "s") == "one two"
        assert house.actors.restarts == 0


async def test_an_edit_without_room(autojump_clock: Clock, house: House):
    async def before(method: str, _key: str) -> None:
        if method == "commit":
            raise StoreFull("the map is full")

    async with house.open():
        await house.ask("one", "s")
        house.store.before = before
        error = await caught(edit(house, append=[said("x")]))
        assert getattr(error, "code", None) == "storage_full"
        house.store.before = None
        assert await house.ask("two", "s") == "one two"


async def test_an_edit_that_its_caller_gives_up_is_done_all_the_same(autojump_clock: Clock, house: House):
    house.target.hold("one")
    async with house.open():
        turn = await house.post("one", "s")
        await blocked()
        with trio.move_on_after(1):
            await edit(house, append=[said("edited")])
        house.target.hold("one").set()
        await turn.outcome()
        assert await house.ask("two", "s") == "one edited two"


async def test_an_edit_leaves_no_run(autojump_clock: Clock, house: House):
    async with house.open():
        await edit(house, create=True)
        await caught(edit(house, create=True))
        assert await house.records() == []
        assert await house.store.names(await house.store.claim("ada")) == []


async def test_an_edit_whose_actor_crashes(autojump_clock: Clock, house: House):
    async def before(method: str, _key: str) -> None:
        if method == "commit":
            house.store.before = None
            raise RuntimeError("a defect")

    async with house.open():
        await house.ask("one", "s")
        house.store.before = before
        assert isinstance(await caught(edit(house, append=[said("x")])), TargetFailed)
        assert await house.ask("two", "s") == "one two"


# --- taking out, by itself


def test_a_place_that_is_not_there():
    from agent_framework import AgentSession

    session = AgentSession()
    session.state["in_memory"] = {"messages": [Message("user", ["a"], message_id="m1")]}
    with pytest.raises(NotFound):
        remove(session, [("m2", ())])
    remove(session, [("m1", (7,))])
    assert [message.text for message in session.state["in_memory"]["messages"]] == ["a"], "no such part"
    remove(session, [("m1", ())])
    assert session.state["in_memory"]["messages"] == []
    assert ChannelSession() == ChannelSession()
