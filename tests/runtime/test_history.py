"""A session between memory and store: what a turn writes, what is read back, and that the two are the same."""

import copy
from collections.abc import Coroutine
from typing import Any

import pytest
from agent_framework import (
    Agent,
    AgentSession,
    BaseChatClient,
    ChatMiddlewareLayer,
    ChatResponse,
    CompactionProvider,
    Content,
    FunctionInvocationLayer,
    InMemoryHistoryProvider,
    Message,
    SlidingWindowStrategy,
    SummarizationStrategy,
    TruncationStrategy,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, precondition, rule

from afactors.history import (
    POINT_VERSION,
    Changes,
    LiveSession,
    NotStorable,
    Point,
    cut,
    decode_messages,
    encode_messages,
    length,
    load,
    pack,
    unpack,
)
from afactors_store import FormatTooNew

SOURCE = "in_memory"


class Logs:
    """One key's logs, as strict as a store."""

    def __init__(self) -> None:
        self.rows: dict[int, list[bytes]] = {}
        self.written: list[bytes] = []  # by the last commit
        self.reads = 0

    async def read(self, log: int, start: int, stop: int) -> list[bytes]:
        self.reads += 1
        return self.rows.get(log, [])[start:stop]

    def apply(self, changes: Changes) -> Point:
        self.written = []
        for append in changes.append:
            rows = self.rows.setdefault(append.log, [])
            assert len(rows) == append.start, "a gap in a log, or an overwritten row"
            rows.extend(append.rows)
            self.written += append.rows
        for log in changes.drop:
            del self.rows[log]  # it must be there
        point = Point.decode(changes.point.encode())
        assert point == changes.point
        return point

    async def commit(self, live: LiveSession, head: str | None = None) -> Point:
        changes = await changes_of(live, head)
        point = self.apply(changes)
        live.committed(changes)
        return point

    async def load(self, point: Point) -> LiveSession:
        return await load(point, self.read, make=make)


def deep(levels: int) -> Any:
    """Lists in lists."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def changes_of(live: LiveSession, head: str | None = None) -> Coroutine[Any, Any, Changes]:
    return live.changes(head=head, label=f"run_{live.point.turns:08}")


async def make(session_id: str) -> AgentSession:
    return AgentSession(session_id=session_id)


def history(session: AgentSession, source: str = SOURCE) -> list[Message]:
    return session.state.setdefault(source, {}).setdefault("messages", [])


def say(live: LiveSession, *texts: str, source: str = SOURCE) -> None:
    history(live.session, source).extend(Message("user", [text]) for text in texts)


def texts(live: LiveSession, source: str = SOURCE) -> list[str]:
    return [message.text for message in live.session.state.get(source, {}).get("messages", [])]


@pytest.fixture
def logs() -> Logs:
    return Logs()


@pytest.fixture
async def live(logs: Logs) -> LiveSession:
    return await logs.load(Point("s"))


# --- append


async def test_a_turn_writes_its_own_messages_and_nothing_else(logs: Logs, live: LiveSession):
    say(live, "one", "two")
    point = await logs.commit(live, "p1")
    assert [unpack(row)["contents"][0]["text"] for row in logs.written] == ["one", "two"]
    say(live, "three")
    later = await logs.commit(live, "p2")
    assert [unpack(row)["contents"][0]["text"] for row in logs.written] == ["three"]
    assert (later.turns, later.head, later.session_id) == (2, "p2", "s")
    assert texts(await logs.load(later)) == ["one", "two", "three"]
    assert texts(await logs.load(point)) == ["one", "two"]


async def test_turn_1000_writes_as_much_as_turn_1(logs: Logs, live: LiveSession):
    written, points = [], []
    for turn in range(1000):
        say(live, f"question {turn:4}", f"answer {turn:4}")
        point = await logs.commit(live, f"resp_{turn:4}")
        written.append(sum(map(len, logs.written)))
        points.append(len(point.encode()))
    assert set(written) == {written[0]}
    assert max(points) <= points[0] + 12, "the point itself must not grow, but for its numbers"
    assert logs.reads == 0, "nothing is read back to write"
    again = await logs.load(point)
    assert len(history(again.session)) == 2000


async def test_new_messages_get_an_id_that_stays(logs: Logs, live: LiveSession):
    say(live, "one", "two")
    history(live.session).append(Message("user", ["mine"], message_id="m1"))
    await logs.commit(live, "p1")
    ids = [message.message_id for message in history(live.session)]
    assert len(set(ids)) == 3
    assert None not in ids
    assert ids[2] == "m1"
    say(live, "three")
    again = await logs.load(await logs.commit(live, "p2"))
    later = [message.message_id for message in history(again.session)]
    assert later[:3] == ids
    assert later[3] not in ids


async def test_what_changes_claims_is_the_committed_state_only_once_it_is(logs: Logs, live: LiveSession):
    say(live, "one")
    first = await changes_of(live)
    second = await changes_of(live)  # a commit that was refused, tried again
    assert [append.rows for append in first.append] == [append.rows for append in second.append]
    assert first.span == second.span == {SOURCE: (0, 1)}
    logs.apply(second)
    live.committed(second)
    assert (await changes_of(live)).append == []


async def test_several_histories_and_the_rest_of_the_state(logs: Logs, live: LiveSession):
    say(live, "here")
    say(live, "there", "again", source="audit")
    live.session.state[SOURCE]["cursor"] = 7
    live.session.state["profile"] = {"name": "Ada", "langs": ["en", "fr"], 5: "five"}
    live.session.service_session_id = "thread_1"
    point = await logs.commit(live)
    again = await logs.load(point)
    assert again.session.service_session_id == "thread_1"
    assert again.session.session_id == "s"
    assert texts(again) == ["here"]
    assert texts(again, "audit") == ["there", "again"]
    assert again.session.state[SOURCE]["cursor"] == 7
    assert again.session.state["profile"] == {"name": "Ada", "langs": ["en", "fr"], "5": "five"}
    say(again, "more", source="audit")
    await logs.commit(again)
    assert len(logs.written) == 1


async def test_the_rest_of_the_state_is_written_only_when_it_changed(logs: Logs, live: LiveSession):
    live.session.state["profile"] = {"name": "Ada", "visits": 1}
    say(live, "one")
    first = await logs.commit(live, "p1")
    say(live, "two")
    second = await logs.commit(live, "p2")
    assert len(logs.written) == 1
    assert second.state == first.state
    live = await logs.load(second)
    say(live, "three")
    third = await logs.commit(live, "p3")
    assert len(logs.written) == 1, "also after it was read back"
    live.session.state["profile"]["visits"] = 2
    fourth = await logs.commit(live, "p4")
    assert [unpack(row) for row in logs.written] == [{"profile": {"name": "Ada", "visits": 2}}]
    assert (await logs.load(fourth)).session.state["profile"]["visits"] == 2
    assert (await logs.load(third)).session.state["profile"]["visits"] == 1


async def test_state_that_is_gone_stays_gone(logs: Logs, live: LiveSession):
    live.session.state["profile"] = {"name": "Ada"}
    live.session.service_session_id = "thread_1"
    await logs.commit(live)
    del live.session.state["profile"]
    live.session.service_session_id = None
    point = await logs.commit(live)
    assert point.state is None
    again = (await logs.load(point)).session
    assert again.state == {}
    assert again.service_session_id is None


@pytest.mark.parametrize("state", [{"count": 0}, {"asked": False}, {"note": ""}, {"cart": []}])
async def test_falsy_state_is_kept(logs: Logs, live: LiveSession, state: dict[str, Any]):
    live.session.state.update(state)
    say(live, "one")
    again = await logs.load(await logs.commit(live))
    del again.session.state[SOURCE]
    assert again.session.state == state


async def test_an_empty_history_list_comes_back(logs: Logs, live: LiveSession):
    live.session.state[SOURCE] = {"messages": []}
    again = await logs.load(await logs.commit(live))
    assert again.session.state == {SOURCE: {"messages": []}}
    say(again, "one")
    assert texts(await logs.load(await logs.commit(again))) == ["one"]


# --- branches


async def test_a_branch_shares_what_came_before_it(logs: Logs, live: LiveSession):
    say(live, "one", "two")
    fork = await logs.commit(live, "p1")
    say(live, "three")
    end = await logs.commit(live, "p2")
    before = copy.deepcopy(logs.rows)
    branch = await logs.load(fork.branch("b"))
    assert branch.session.session_id == "b"
    say(branch, "other")
    point = await logs.commit(branch, "p3")
    assert len(logs.written) == 1
    assert {log: logs.rows[log] for log in before} == before, "nothing was added to the parent's logs"
    assert texts(await logs.load(point)) == ["one", "two", "other"]
    assert texts(await logs.load(end)) == ["one", "two", "three"]
    assert not point.named
    assert point.logs() > fork.logs()


async def test_a_branch_of_a_branch_and_siblings(logs: Logs, live: LiveSession):
    say(live, "root")
    points = {"root": await logs.commit(live, "root")}
    family = {"a": "root", "b": "root", "aa": "a", "ab": "a", "aaa": "aa", "bb": "b"}
    for child, parent in family.items():
        branch = await logs.load(points[parent].branch(child))
        say(branch, child)
        points[child] = await logs.commit(branch, child)
    assert texts(await logs.load(points["aaa"])) == ["root", "a", "aa", "aaa"]
    assert texts(await logs.load(points["ab"])) == ["root", "a", "ab"]
    assert texts(await logs.load(points["bb"])) == ["root", "b", "bb"]
    assert texts(await logs.load(points["root"])) == ["root"]


async def test_a_branch_that_rewrites_leaves_its_parent_alone(logs: Logs, live: LiveSession):
    say(live, "one", "two", "three")
    live.session.state["profile"] = {"n": 1}
    fork = await logs.commit(live, "p1")
    branch = await logs.load(fork.branch("b"))
    history(branch.session)[1].contents[0].text = "changed"
    branch.session.state["profile"]["n"] = 2
    point = await logs.commit(branch, "p2")
    assert texts(await logs.load(point)) == ["one", "changed", "three"]
    old = await logs.load(fork)
    assert texts(old) == ["one", "two", "three"]
    assert old.session.state["profile"] == {"n": 1}


async def test_two_branches_from_one_point_that_add_nothing(logs: Logs, live: LiveSession):
    say(live, "one")
    fork = await logs.commit(live, "p1")
    for name in ("a", "b"):
        branch = await logs.load(fork.branch(name))
        point = await logs.commit(branch, name)
        assert logs.written == []
        branch = await logs.load(point)  # its document, as it was stored: it still owns no log
        say(branch, name)
        assert texts(await logs.load(await logs.commit(branch, name + "2"))) == ["one", name]
    assert texts(await logs.load(fork)) == ["one"]


# --- rewrites


@pytest.mark.parametrize(("at", "rewritten"), [(0, 5), (2, 3), (4, 1)])
async def test_a_rewrite_keeps_what_stands_before_it(logs: Logs, live: LiveSession, at: int, rewritten: int):
    say(live, *"abcde")
    old = await logs.commit(live, "p1")
    history(live.session)[at].additional_properties["_excluded"] = True
    say(live, "f")
    changes = await changes_of(live, "p2")
    assert changes.rewritten == {SOURCE}
    assert changes.span == {SOURCE: (at, 6)}
    point = logs.apply(changes)
    live.committed(changes)
    assert len(logs.written) == rewritten + 1
    again = await logs.load(point)
    assert texts(again) == [*"abcdef"]
    assert [bool(message.additional_properties) for message in history(again.session)] == [i == at for i in range(6)]
    assert not any(message.additional_properties for message in history((await logs.load(old)).session))
    reads = logs.reads
    say(live, "g")
    await logs.commit(live, "p3")
    assert len(logs.written) == 1, "after a rewrite, turns append again"
    assert logs.reads == reads, "and need not look"


@pytest.mark.parametrize("kept", [0, 1, 3])
async def test_a_truncated_history(logs: Logs, live: LiveSession, kept: int):
    say(live, *"abcd")
    old = await logs.commit(live, "p1")
    del history(live.session)[kept:]
    short = await logs.commit(live, "p2")
    assert logs.written == [] if kept else True
    assert texts(await logs.load(short)) == [*"abcd"][:kept]
    say(live, "x")
    assert texts(await logs.load(await logs.commit(live, "p3"))) == [*"abcd"[:kept], "x"]
    assert texts(await logs.load(short)) == [*"abcd"][:kept]
    assert texts(await logs.load(old)) == [*"abcd"]


async def test_a_history_whose_front_is_cut_off(logs: Logs, live: LiveSession):
    say(live, *"abcd")
    await logs.commit(live, "p1")
    del history(live.session)[:2]
    point = await logs.commit(live, "p2")
    assert texts(await logs.load(point)) == ["c", "d"]
    assert length(point.histories[SOURCE]) == 2


async def test_equal_messages_in_other_objects_are_not_written_again(logs: Logs, live: LiveSession):
    say(live, *"abc")
    await logs.commit(live, "p1")
    live.session.state[SOURCE]["messages"] = copy.deepcopy(history(live.session))
    say(live, "d")
    await logs.commit(live, "p2")
    assert len(logs.written) == 1


async def test_a_removed_source_is_gone(logs: Logs, live: LiveSession):
    say(live, "one")
    say(live, "kept", source="other")
    await logs.commit(live)
    del live.session.state[SOURCE]
    point = await logs.commit(live)
    assert set(point.histories) == {"other"}
    assert (await logs.load(point)).session.state.keys() == {"other"}


async def test_a_message_that_was_edited_before_its_first_commit_is_written_as_it_is_then(
    logs: Logs, live: LiveSession
):
    say(live, "draft")
    history(live.session)[0].contents[0].text = "final"
    assert texts(await logs.load(await logs.commit(live))) == ["final"]
    history(live.session)[0].contents[0].text = "changed after all"
    assert texts(await logs.load(await logs.commit(live))) == ["changed after all"]


async def test_a_rewrite_of_what_was_rewritten(logs: Logs, live: LiveSession):
    say(live, *"abcd")
    points = [await logs.commit(live, "p0")]
    expected = [[*"abcd"]]
    for turn in range(1, 6):
        history(live.session)[turn % 4].contents[0].text += str(turn)
        say(live, str(turn))
        expected.append(texts(live))
        points.append(await logs.commit(live, f"p{turn}"))
        if turn % 2:
            live = await logs.load(points[-1])
    for point, words in zip(points, expected, strict=True):
        assert texts(await logs.load(point)) == words


# --- what is dropped


async def test_an_unpinned_session_drops_what_nothing_refers_to(logs: Logs, live: LiveSession):
    say(live, *"abc")
    live.session.state["n"] = 1
    await logs.commit(live)
    for turn in range(20):
        history(live.session)[0].contents[0].text = f"a{turn}"
        live.session.state["n"] = turn + 2
        point = await logs.commit(live)
        assert set(logs.rows) == point.logs()
        assert len(logs.rows) <= 2
    history(live.session)[2].contents[0].text = "c2"  # keeps the log of the others
    point = await logs.commit(live)
    assert texts(await logs.load(point)) == ["a19", "b", "c2"]
    assert set(logs.rows) == point.logs()


async def test_a_pinned_session_keeps_every_log(logs: Logs, live: LiveSession):
    say(live, "a")
    pinned = await logs.commit(live, "p1")
    history(live.session)[0].contents[0].text = "b"
    await logs.commit(live)  # a turn without a name: the session stays pinned
    history(live.session)[0].contents[0].text = "c"
    last = await logs.commit(live)
    assert last.pinned
    assert len(logs.rows) == 3
    assert texts(await logs.load(pinned)) == ["a"]


async def test_a_session_that_becomes_pinned_drops_only_what_was_before(logs: Logs, live: LiveSession):
    say(live, "a")
    await logs.commit(live)
    history(live.session)[0].contents[0].text = "b"
    pinned = await logs.commit(live, "p1")
    assert set(logs.rows) == pinned.logs()
    history(live.session)[0].contents[0].text = "c"
    await logs.commit(live)
    assert texts(await logs.load(pinned)) == ["b"]


# --- what cannot be stored


async def test_what_cannot_be_stored_in_a_history_is_named(live: LiveSession):
    say(live, "fine", "not fine", source="audit")
    history(live.session, "audit")[1].additional_properties["n"] = [2**64, deep(2000)]
    with pytest.raises(NotStorable, match=r"state\.audit\.messages holds a value that cannot be stored"):
        await changes_of(live)


async def test_what_is_no_message_is_named(live: LiveSession):
    say(live, "fine")
    history(live.session).append("a string")  # type: ignore[arg-type]
    with pytest.raises(NotStorable, match=r"state\.in_memory\.messages holds a str"):
        await changes_of(live)


async def test_what_is_no_message_is_named_in_a_rewrite_too(logs: Logs, live: LiveSession):
    say(live, "fine")
    await logs.commit(live)
    history(live.session)[:] = [Message("user", ["other"]), "a string"]  # type: ignore[list-item]
    with pytest.raises(NotStorable, match=r"state\.in_memory\.messages holds a str"):
        await changes_of(live)


@pytest.mark.filterwarnings("ignore:AgentSession state value")
@pytest.mark.parametrize("value", [object(), {1, 2}, {"deep": [object()]}])
async def test_what_cannot_be_stored_in_the_state_is_refused(live: LiveSession, value: Any):
    live.session.state["cart"] = value
    with pytest.raises(NotStorable, match="state"):
        await changes_of(live)


@pytest.mark.parametrize("where", ["message", "state"])
async def test_a_circular_value_is_refused(live: LiveSession, where: str):
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    if where == "message":
        say(live, "one")
        history(live.session)[0].additional_properties["loop"] = loop
    else:
        live.session.state["loop"] = loop
    with pytest.raises(NotStorable, match="state"):
        await changes_of(live)


def test_a_service_session_id_that_cannot_be_stored_is_named():
    with pytest.raises(NotStorable, match=r"session\.service_session_id"):
        Point("s", service=object()).encode()


async def test_lone_surrogates_come_back(logs: Logs, live: LiveSession):
    say(live, "half \ud83d a face")
    live.session.state["note\udc00"] = {"text": "\udfff"}
    again = await logs.load(await logs.commit(live))
    assert texts(again) == ["half \ud83d a face"]
    assert again.session.state["note\udc00"] == {"text": "\udfff"}


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**1000])
async def test_integers_of_any_length_come_back(logs: Logs, live: LiveSession, number: int):
    """JSON has no limit for them, so they arrive: in a client's tool, for one."""
    say(live, "one")
    history(live.session)[0].additional_properties["n"] = [number, {"deep": number}, True, 5]
    live.session.state["n"] = {"n": (number,)}
    again = await logs.load(await logs.commit(live))
    assert history(again.session)[0].additional_properties["n"] == [number, {"deep": number}, True, 5]
    assert again.session.state["n"] == {"n": [number]}


async def test_every_kind_of_content_comes_back(logs: Logs, live: LiveSession):
    call = Content.from_function_call("c", "add", arguments={"a": [1, 2.5, None, True]})
    history(live.session).extend(
        [
            Message("user", [Content.from_data(b"\x00\xff", "application/octet-stream"), "text"], author_name="Ada"),
            Message("assistant", [call, Content.from_text_reasoning(text="hm", protected_data="sealed")]),
            Message("tool", [Content.from_function_result("c", result=[Content.from_text("3")])]),
            Message("assistant", [Content.from_function_approval_request("r", call)], message_id="m"),
            Message("assistant", [Content.from_error(message="no", error_code="x"), Content.from_usage({"total": 3})]),
        ]
    )
    point = await logs.commit(live)
    before = [message.to_dict() for message in history(live.session)]
    again = await logs.load(point)
    assert [message.to_dict() for message in history(again.session)] == before


async def test_a_log_that_lost_rows_is_noticed(logs: Logs, live: LiveSession):
    say(live, "one", "two")
    point = await logs.commit(live)
    logs.rows[next(iter(point.logs()))].pop()
    with pytest.raises(LookupError, match="nothing is left"):
        await logs.load(point)


# --- points

ids = st.text(min_size=1, max_size=20)
u64 = st.integers(0, 2**64 - 1)
extents = st.lists(st.tuples(u64, st.integers(0, 2**40), st.integers(0, 2**40)), min_size=1, max_size=4)
points = st.builds(
    Point,
    session_id=ids,
    named=st.booleans(),
    histories=st.dictionaries(ids, extents, max_size=3),
    tails=st.dictionaries(ids, u64, max_size=3),
    state=st.none() | st.tuples(u64, st.integers(0, 2**40)),
    service=st.none() | ids | st.dictionaries(ids, ids, min_size=1, max_size=2),
    turns=st.integers(0, 2**40),
    pinned=st.booleans(),
    head=st.none() | ids,
)


@given(points)
def test_a_point_is_read_as_it_was_written(point: Point):
    data = point.encode()
    assert Point.decode(data) == point
    assert Point.decode(data).encode() == data


def test_a_newer_point_is_refused():
    record = unpack(Point("s").encode())
    with pytest.raises(FormatTooNew, match=f"format {POINT_VERSION + 1}"):
        Point.decode(pack({**record, "v": POINT_VERSION + 1}, "test"))


@given(extents, st.integers(0, 2**42))
def test_cutting_extents_is_slicing_rows(pieces: list[tuple[int, int, int]], rows: int):
    pieces = [(log, start % 50, start % 50 + stop % 50 + 1) for log, start, stop in pieces]
    rows %= length(pieces) + 3
    spelt = [(log, at) for log, start, stop in pieces for at in range(start, stop)]
    kept = cut(pieces, rows)
    assert [(log, at) for log, start, stop in kept for at in range(start, stop)] == spelt[:rows]
    assert length(kept) == min(rows, len(spelt))


@given(st.lists(st.text(), max_size=5))
def test_messages_are_read_as_they_were_written(words: list[str]):
    messages = [Message("user", [word]) for word in words]
    again = decode_messages(encode_messages(messages))
    assert [message.to_dict() for message in again] == [message.to_dict() for message in messages]


# --- the framework's own compaction


class Clerk(FunctionInvocationLayer, ChatMiddlewareLayer, BaseChatClient):
    """Answers with the number of messages that it was shown."""

    def _inner_get_response(self, *, messages: Any, stream: bool, options: Any, **_: Any) -> Any:
        async def respond() -> ChatResponse[Any]:
            return ChatResponse(messages=[Message("assistant", [f"I saw {len(messages)} messages"])])

        return respond()


async def rewording(messages: list[Message]) -> bool:
    """A strategy that changes the words of an old message in place."""
    for message in messages[:-2]:
        if message.contents and not message.contents[0].text.startswith("short"):
            message.contents[0].text = f"short: {message.contents[0].text[:6]}"
            return True
    return False


async def removing(messages: list[Message]) -> bool:
    """A strategy that takes messages out of the list."""
    del messages[:-3]
    return True


STRATEGIES = {
    "sliding window": lambda: SlidingWindowStrategy(keep_last_groups=2),
    "truncation": lambda: TruncationStrategy(max_n=4, compact_to=2),
    "summaries": lambda: SummarizationStrategy(client=Clerk(), target_count=2, threshold=1),
    "rewording": lambda: rewording,
    "removing": lambda: removing,
}


@pytest.mark.parametrize("reload", [False, True], ids=["kept in memory", "reloaded each turn"])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_compaction_by_the_framework(logs: Logs, live: LiveSession, strategy: str, reload: bool):
    provider = InMemoryHistoryProvider(skip_excluded=True)
    compaction = CompactionProvider(after_strategy=STRATEGIES[strategy](), history_source_id=provider.source_id)
    agent = Agent(Clerk(), context_providers=[provider, compaction])
    past: list[tuple[Point, list[dict[str, Any]]]] = []
    rewritten = 0
    for turn in range(8):
        await agent.run(f"question {turn}", session=live.session)
        changes = await changes_of(live, f"p{turn}")
        rewritten += bool(changes.rewritten)
        point = logs.apply(changes)
        live.committed(changes)
        now = [message.to_dict() for message in history(live.session, provider.source_id)]
        past.append((point, now))
        again = await logs.load(point)
        assert [message.to_dict() for message in history(again.session, provider.source_id)] == now
        if reload:
            live = again
    assert rewritten, "the strategy must have changed something"
    for point, then in past:
        found = await logs.load(point)
        assert [message.to_dict() for message in history(found.session, provider.source_id)] == then


# --- at random


def done(work: Coroutine[Any, Any, Any]) -> Any:
    """Run what never really waits."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


words = st.text("abc", min_size=1, max_size=3)
sources = st.sampled_from(["in_memory", "audit"])
Model = dict[str, Any]


class Sessions(RuleBasedStateMachine):
    """Any sequence of edits, commits, failures, branches and reloads, beside a model of plain values."""

    named = Bundle("named")

    def __init__(self) -> None:
        super().__init__()
        self.logs = Logs()
        self.documents: dict[str, tuple[Point, Model]] = {}
        self.past: list[tuple[Point, Model]] = []
        self.names = 0
        self._begin(Point("s0"))

    def _begin(self, point: Point) -> None:
        self.live = done(self.logs.load(point))

    def _list(self, source: str) -> list[Message]:
        return history(self.live.session, source)

    def _model(self, live: LiveSession) -> Model:
        state = live.session.state
        lists = {
            source: [message.to_dict() for message in value["messages"]]
            for source, value in state.items()
            if isinstance(value, dict) and value.get("messages")
        }
        return {
            "lists": lists,
            "rest": copy.deepcopy(state.get("rest")),
            "service": live.session.service_session_id,
        }

    @rule(source=sources, new=st.lists(words, min_size=1, max_size=3))
    def append(self, source: str, new: list[str]) -> None:
        self._list(source).extend(Message("user", [word], additional_properties={"k": [word]}) for word in new)

    @rule(source=sources, at=st.integers(0, 9), word=words, how=st.integers(0, 4))
    def edit_in_place(self, source: str, at: int, word: str, how: int) -> None:
        messages = self._list(source)
        if not messages:
            return
        message = messages[at % len(messages)]
        if how == 0:
            message.contents[0].text = word
        elif how == 1:
            message.additional_properties["k"].append(word)
        elif how == 2:
            message.contents.append(Content.from_text(word))
        elif how == 3:
            message.author_name = word
        else:
            messages[at % len(messages)] = copy.deepcopy(message)

    @rule(source=sources, start=st.integers(0, 9), stop=st.integers(0, 9))
    def cut_out(self, source: str, start: int, stop: int) -> None:
        del self._list(source)[start:stop]

    @rule(source=sources, word=words)
    def insert(self, source: str, word: str) -> None:
        self._list(source).insert(0, Message("system", [word], additional_properties={"k": []}))

    @rule(source=sources, how=st.sampled_from(["same", "copies", "shuffled"]))
    def replace_the_list(self, source: str, how: str) -> None:
        messages = list(self._list(source))
        if how == "copies":
            messages = copy.deepcopy(messages)
        elif how == "shuffled":
            messages.reverse()
        self.live.session.state[source]["messages"] = messages

    @rule(rest=st.none() | st.dictionaries(words, words, min_size=1, max_size=2), service=st.none() | words)
    def other_state(self, rest: dict[str, str] | None, service: str | None) -> None:
        self.live.session.service_session_id = service
        if rest is None:
            self.live.session.state.pop("rest", None)
        else:
            self.live.session.state["rest"] = rest

    @rule(pin=st.booleans())
    def commit(self, pin: bool) -> None:
        self.names += 1
        head = f"p{self.names}" if pin else None
        point = done(self.logs.commit(self.live, head))
        model = self._model(self.live)
        self.documents[point.session_id] = point, model
        if pin:
            self.past.append((point, model))

    @precondition(lambda self: self.documents)
    @rule(pick=st.integers(0, 9))
    def reload_or_fail(self, pick: int) -> None:
        """A turn failed, or its session was passivated: what was not committed never was."""
        point, model = list(self.documents.values())[pick % len(self.documents)]
        self._begin(point)
        assert self._model(self.live) == model

    @precondition(lambda self: self.past)
    @rule(pick=st.integers(0, 99))
    def branch(self, pick: int) -> None:
        point, model = self.past[pick % len(self.past)]
        self.names += 1
        self._begin(point.branch(f"b{self.names}"))
        assert self._model(self.live) == model

    def teardown(self) -> None:
        for point, model in [*self.past, *self.documents.values()]:
            assert self._model(done(self.logs.load(point))) == model


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
