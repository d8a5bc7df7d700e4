"""Histories wherever an agent keeps them: by default, by providers of the user's, by the service, and in the store."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from agent_framework import (
    Agent,
    AgentExecutor,
    AgentSession,
    BaseChatClient,
    ChatMiddlewareLayer,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    ContextProvider,
    FileHistoryProvider,
    FunctionInvocationLayer,
    HistoryProvider,
    InMemoryHistoryProvider,
    Message,
    ResponseStream,
    Workflow,
    WorkflowBuilder,
    tool,
)

from afactors import ChannelRequest, ChannelSession, IsolationKeys, Runtime, StoreHistoryProvider
from afactors.encoding import encode_messages
from afactors.remembering import Remembered
from afactors.runs import Reference
from afactors.turn import ancestry
from afactors_channels import NotFound, SessionEdit, TargetFailed
from afactors_store import MemoryStore

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


class Echo(FunctionInvocationLayer, ChatMiddlewareLayer, BaseChatClient):
    """Answers with what it was shown: who said what."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[list[str]] = []

    def _inner_get_response(self, *, messages: Sequence[Message], stream: bool, options: Any, **_: Any) -> Any:
        self.shown.append([message.text for message in messages if message.text])
        text = " ".join(message.text for message in messages if message.role == "user")
        if "fail" in text.split()[-1:]:
            raise RuntimeError("the model is down")
        if text.endswith("look") and messages[-1].role == "user":
            answer = Message("assistant", [Content.from_function_call("c1", "look", arguments={})])
        else:
            answer = Message("assistant", [text])
        # A service that keeps the history itself says so by the id that it gives.
        kept = options.get("conversation_id") or ("thread_1" if options.get("store") else None)

        async def respond() -> ChatResponse[Any]:
            return ChatResponse(messages=[answer], conversation_id=kept)

        async def updates() -> AsyncIterable[ChatResponseUpdate]:
            yield ChatResponseUpdate(contents=answer.contents, role="assistant")

        return ResponseStream(updates(), finalizer=ChatResponse.from_updates) if stream else respond()


class Diary(HistoryProvider):
    """A user's own, over a dict that outlives the process: a database."""

    def __init__(self, pages: dict[str, list[Message]], source_id: str = "diary", **options: Any) -> None:
        super().__init__(source_id, **options)
        self.pages = pages

    async def get_messages(self, session_id: str | None, **_: Any) -> list[Message]:
        return list(self.pages.get(session_id or "", []))

    async def save_messages(self, session_id: str | None, messages: Sequence[Message], **_: Any) -> None:
        self.pages.setdefault(session_id or "", []).extend(messages)


class Counter(ContextProvider):
    """Keeps a number in the session's state, and tells it."""

    async def before_run(self, *, context: Any, state: dict[str, Any], **_: Any) -> None:
        state["runs"] = state.get("runs", 0) + 1
        context.extend_messages(self, [Message("user", [f"{self.source_id}={state['runs']}"])])


class World:
    """An agent of a new process each time, over the same store."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.client = Echo()
        self.runtime: Runtime
        self.providers: Callable[[], Sequence[ContextProvider]] = lambda: ()
        self.options: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def open(self, *, crash: bool = False, **limits: Any) -> AsyncIterator[None]:
        self.client = Echo()
        agent = Agent(self.client, context_providers=list(self.providers()), **self.options)
        self.runtime = Runtime(agent, store=self.store, tune_gc=False, **limits)
        with trio.fail_after(60):
            async with self.runtime:
                yield
                if crash:
                    self.store.crash()

    async def ask(self, text: str, session: str | None = None, *, after: str | None = None, **more: Any) -> str:
        request = ChannelRequest(
            "test",
            [Message("user", [text]).to_dict()],
            ChannelSession("ada", session, after),
            **more,
        )
        return (await self.runtime.ask(request)).result.text

    async def told(self, session: str) -> list[str]:
        request = ChannelRequest("test", [], ChannelSession("ada", session))
        messages = (await self.runtime.get_session(request)).messages
        return [Message.from_dict(dict(message)).text for message in messages]


@pytest.fixture
def world() -> World:
    return World()


def in_memory(_world: World, _folder: Path) -> Callable[[], Sequence[ContextProvider]]:
    return lambda: ()


def in_a_diary(_world: World, _folder: Path) -> Callable[[], Sequence[ContextProvider]]:
    pages: dict[str, list[Message]] = {}
    return lambda: [Diary(pages)]


def in_files(_world: World, folder: Path) -> Callable[[], Sequence[ContextProvider]]:
    return lambda: [FileHistoryProvider(folder)]


def in_the_store(_world: World, _folder: Path) -> Callable[[], Sequence[ContextProvider]]:
    return lambda: [StoreHistoryProvider()]


def in_several(_world: World, _folder: Path) -> Callable[[], Sequence[ContextProvider]]:
    pages: dict[str, list[Message]] = {}
    return lambda: [Diary(pages, "audit", load_messages=False), StoreHistoryProvider(), Counter("n"), Counter("m")]


KINDS = [in_memory, in_a_diary, in_files, in_the_store, in_several]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("crash", [False, True], ids=["closed", "killed"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_every_process_goes_on_where_the_last_one_was(
    world: World, tmp_path: Path, kind: Callable[..., Any], crash: bool, stream: bool
):
    world.providers = kind(world, tmp_path)
    for turn in ("one", "two", "three"):
        async with world.open(crash=crash):
            await world.ask(turn, "s", stream=stream)
    own = [text for text in world.client.shown[-1] if "=" not in text and " " not in text]
    assert own == (["one", "one", "two", "three"] if kind is not in_several else ["one", "two", "three"])
    assert ({"n=3", "m=3"} <= set(world.client.shown[-1])) == (kind is in_several)


@pytest.mark.parametrize("kind", [in_memory, in_the_store], ids=lambda kind: kind.__name__)
async def test_branches_share_what_came_before_them(world: World, tmp_path: Path, kind: Callable[..., Any]):
    world.providers = kind(world, tmp_path)
    async with world.open():
        await world.ask("a", name="r1")
        assert await world.ask("b", after="r1", name="r2") == "a b"
        assert await world.ask("x", after="r1", name="x1") == "a x"
    async with world.open():
        assert await world.ask("c", after="r2", name="r3") == "a b c"
        assert await world.ask("y", after="x1", name="x2") == "a x y"
        assert await world.ask("z", after="r1", name="z1") == "a z"


async def test_one_that_only_stores_beside_one_that_loads(world: World):
    pages: dict[str, list[Message]] = {}
    world.providers = lambda: [Diary(pages, load_messages=False), InMemoryHistoryProvider()]
    async with world.open():
        await world.ask("one", "s")
        assert await world.ask("two", "s") == "one two"
    assert [message.text for message in pages["ada:s"]] == ["one", "one", "two", "one two"]


async def test_state_of_context_providers_is_each_ones_own(world: World):
    world.providers = lambda: [Counter("a"), Counter("b")]
    for _ in range(2):
        async with world.open():
            await world.ask("hi", "s")
    assert {"a=2", "b=2"} <= set(world.client.shown[-1])
    async with world.open():
        await world.ask("hi", "other")
    assert {"a=1", "b=1"} <= set(world.client.shown[-1])


async def test_a_service_that_keeps_the_history(world: World):
    world.options = {"default_options": {"store": True}}
    for turn in ("one", "two"):
        async with world.open(crash=turn == "one"):
            await world.ask(turn, name=turn, after="one" if turn == "two" else None)
    assert world.client.shown == [["two"]], "the service has the rest"
    found = await _point(world, "two")
    assert found.service == "thread_1"
    async with world.open():
        await world.ask("other", after="one", name="branch")
    assert (await _point(world, "branch")).service == "thread_1"


async def _point(world: World, name: str) -> Any:
    async with world.store.open():
        found = await world.store.find(name)
        assert found is not None
        return Reference.decode(found.value).reached(name)


# -- in the store


async def test_a_history_in_the_store_is_not_in_memory(world: World):
    world.providers = lambda: [StoreHistoryProvider()]
    async with world.open():
        await world.ask("one", "s")
        supervisor = world.runtime._opened_now().supervisor
        live = supervisor._actors["ada"]._sessions.get("ada:s").live
        assert live.session.state.get("afactors") in (None, {})
        assert await world.told("s") == ["one", "one"]


async def test_only_the_newest_messages_are_loaded(world: World, monkeypatch: pytest.MonkeyPatch):
    world.providers = lambda: [StoreHistoryProvider(max_messages=4)]
    read = 0
    original = world.store.read_log

    async def counted(claim: Any, log: int, start: int, stop: int) -> list[bytes]:
        nonlocal read
        rows = await original(claim, log, start, stop)
        read += len(rows)
        return rows

    monkeypatch.setattr(world.store, "read_log", counted)
    async with world.open():
        for turn in range(20):
            read = 0
            await world.ask(f"t{turn}", "s")
        assert read <= 8, "what is loaded, and what a save looks at"
        assert world.client.shown[-1] == ["t17", "t15 t16 t17", "t18", "t16 t17 t18", "t19"]
        assert len(await world.told("s")) == 40


async def test_what_is_loaded_begins_with_no_orphan(world: World):
    @tool
    def look() -> str:
        """Look."""
        return "nothing"

    world.options = {"tools": [look]}
    world.providers = lambda: [StoreHistoryProvider(max_messages=3)]
    async with world.open():
        await world.ask("look", "s")
        await world.ask("then", "s")
    assert world.client.shown[-1] == ["look", "then"], "the call and its result are not shown without each other"


async def test_a_turn_that_fails_leaves_nothing(world: World):
    world.providers = lambda: [StoreHistoryProvider(store_outputs=True)]
    async with world.open():
        await world.ask("one", "s")
        with pytest.raises(TargetFailed):
            await world.ask("fail", "s")
        assert await world.told("s") == ["one", "one"]


async def test_each_turn_is_one_commit(world: World):
    world.providers = lambda: [StoreHistoryProvider("a"), StoreHistoryProvider("b", load_messages=False)]
    async with world.open():
        await world.ask("one", "s")
        before = world.store.statistics().commits
        await world.ask("two", "s")
        assert world.store.statistics().commits == before + 1


async def test_run_records_refer_to_what_is_in_the_store(world: World):
    world.providers = lambda: [StoreHistoryProvider()]
    async with world.open():
        await world.ask("one", name="r1")
        run = await world.runtime.get_continuation("r1")
        assert run.result is not None
        assert run.result.text == "one"
        (stored,) = await world.store.runs("ada")
        assert b"one" not in stored.body


@pytest.mark.parametrize("inner", ["other", "x" * 300])
async def test_sessions_inside_a_turn_have_histories_of_their_own(world: World, inner: str):
    provider = StoreHistoryProvider()
    client = Echo()
    helper = Agent(client, context_providers=[provider])

    @tool
    async def look() -> str:
        """Ask the helper, twice."""
        session = AgentSession(session_id=inner)
        await helper.run("first", session=session)
        return (await helper.run("second", session=session)).text

    world.options = {"tools": [look]}
    for _ in range(2):
        async with world.open(crash=True):
            await world.ask("look", "s")
    assert client.shown[1][0] == "first", "it sees what the turn has saved before its commit"
    assert [text for text in client.shown[-1] if " " not in text] == ["first", "first", "second", "first", "second"]
    async with world.open():
        await world.ask("look", "t")
    assert client.shown[-2] == ["first"], "another conversation's is another"


async def test_no_more_than_32_sessions_inside_a_conversation_are_remembered(world: World):
    helper = Agent(Echo(), context_providers=[StoreHistoryProvider()])
    numbers: Iterator[int] = iter(range(100))

    @tool
    async def look() -> str:
        """Ask a helper that is new each time."""
        return (await helper.run("hi", session=AgentSession(session_id=f"h{next(numbers)}"))).text

    world.options = {"tools": [look]}
    async with world.open():
        for _ in range(40):
            await world.ask("look", "s")
        supervisor = world.runtime._opened_now().supervisor
        point = supervisor._actors["ada"]._sessions.get("ada:s").live.point
        asides = [name.rpartition("\0")[2] for name in point.histories if name.startswith("\0")]
        assert asides == [f"h{number}" for number in range(8, 40)]
        claim = await world.store.claim("ada")
        told = (await world.store.snapshot(claim)).commit
        assert {append.log for append in told.append} == point.logs(), "and the rest is gone from the store"


async def test_limits_apply_to_it(world: World):
    world.providers = lambda: [StoreHistoryProvider()]
    async with world.open(max_history_messages=4):
        for turn in "abcde":
            await world.ask(turn, "s")
        assert await world.told("s") == ["d", "b c d", "e", "c d e"]
    async with world.open(max_history_messages=4):
        assert await world.ask("f", "s") == "d e f"


async def test_items_can_be_added_to_it(world: World):
    world.providers = lambda: [StoreHistoryProvider()]
    async with world.open():
        request = ChannelRequest("test", [], ChannelSession("ada", "s"))
        edit = SessionEdit(create=True, append=[Message("user", ["before"]).to_dict()])
        await world.runtime.edit_session(request, edit)
        assert await world.ask("now", "s") == "before now"


async def test_what_is_there_already_is_not_saved_again(world: World):
    provider = StoreHistoryProvider()
    seen: list[list[str]] = []

    @tool
    async def look() -> str:
        """Save the whole past again, and then its end, each with something new."""
        await provider.save_messages("x", [Message("user", [text]) for text in "ab"])
        past = await provider.get_messages("x")
        await provider.save_messages("x", [*past, Message("user", ["c"])])
        await provider.save_messages("x", [*(await provider.get_messages("x"))[-2:], Message("user", ["d"])])
        seen.append([message.text for message in await provider.get_messages("x")])
        return "done"

    world.options = {"tools": [look]}
    async with world.open():
        await world.ask("look", "s")
    assert seen == [["a", "b", "c", "d"]]


async def test_outside_a_turn_it_says_what_is_wrong(world: World):
    provider = StoreHistoryProvider()
    with pytest.raises(RuntimeError, match="inside a turn of a Runtime"):
        await provider.get_messages("s")
    with pytest.raises(RuntimeError, match="inside a turn of a Runtime"):
        await provider.save_messages("s", [Message("user", ["x"])])


async def test_after_the_turn_it_refuses(world: World):
    kept: list[Any] = []

    class Nosy(ContextProvider):
        async def before_run(self, **_: Any) -> None:
            kept.append(ancestry.get())

    world.providers = lambda: [Nosy("nosy"), StoreHistoryProvider()]
    async with world.open():
        await world.ask("one", "s")
        ancestry.set(kept[0])
        with pytest.raises(RuntimeError, match="has ended"):
            await StoreHistoryProvider().save_messages("s", [Message("user", ["x"])])
        ancestry.set(())
        assert await world.told("s") == ["one", "one"]


def test_what_was_remembered_can_be_put_down_and_taken_up():
    one = Remembered("a", "", [b"x"], [Message("user", ["x"])])
    assert Remembered.decode(one.encode()) == one


async def test_a_turn_that_goes_on_elsewhere_has_what_it_remembered(world: World):
    class Resumed(ContextProvider):
        async def before_run(self, **_: Any) -> None:
            turn = ancestry.get()[-1]
            if turn.messages[0].text == "now":
                rows = encode_messages([Message("user", ["before"], message_id="m1")])
                turn.remembered.append(Remembered.decode(Remembered("afactors", "", rows).encode()))

    world.providers = lambda: [Resumed("resumed"), StoreHistoryProvider()]
    async with world.open():
        assert await world.ask("now", name="r1") == "before now"
        run = await world.runtime.get_continuation("r1")
        assert run.result is not None
        assert run.result.text == "before now", "its record refers to the right messages"
        assert await world.ask("next", after="r1") == "before now next"


async def test_the_agents_of_a_workflow_have_histories_of_their_own(world: World):
    def make() -> Workflow:
        agents = [
            AgentExecutor(Agent(world.client, name=name, context_providers=[StoreHistoryProvider()]), id=name)
            for name in "ab"
        ]
        return WorkflowBuilder(start_executor=agents[0]).add_edge(*agents).build()

    request = ChannelRequest("test", [Message("user", ["hi"]).to_dict()], ChannelSession("ada", "s"))
    shown: list[list[list[str]]] = []
    for _ in range(3):
        world.client = Echo()
        async with Runtime(make, store=world.store, tune_gc=False) as runtime:
            await runtime.ask(request)
            world.store.crash()
        shown.append(world.client.shown)
    assert [[len(seen) for seen in turn] for turn in shown] == [[1, 2], [3, 5], [5, 8]]
    assert all(seen[0] == "hi" for turn in shown for seen in turn)


@pytest.mark.parametrize(("source", "most"), [("", None), ("a\0b", None), ("a", 0), ("a", 2.5)])
def test_what_makes_no_provider(source: str, most: Any):
    with pytest.raises(ValueError, match=r"source_id|max_messages"):
        StoreHistoryProvider(source, max_messages=most)


# -- what providers are told of a request


class Bound(ContextProvider):
    def __init__(self, log: list[Any]) -> None:
        super().__init__("bound")
        self.log = log

    async def before_run(self, **_: Any) -> None:
        self.log.append("runs")

    async def after_run(self, **_: Any) -> None:
        self.log.append("ran")


class Sync(Bound):
    @contextlib.contextmanager
    def bind_request_context(
        self, *, response_id: str | None, previous_response_id: str | None, isolation: Any = None
    ) -> Iterator[None]:
        self.log.append((response_id, previous_response_id, isolation))
        try:
            yield
        finally:
            self.log.append("left")


class Async(Bound):
    @contextlib.asynccontextmanager
    async def bind_request_context(self, **told: Any) -> AsyncIterator[None]:
        self.log.append(told)
        try:
            yield
        finally:
            self.log.append("left")


class Terse(Bound):
    @contextlib.contextmanager
    def bind_request_context(self, response_id: str, previous_response_id: str | None) -> Iterator[None]:
        self.log.append((response_id, previous_response_id))
        yield


WHO = IsolationKeys("u", "c")
SAYS: list[tuple[type[Bound], Any]] = [
    (Sync, ("r2", "r1", WHO)),
    (
        Async,
        {
            "response_id": "r2",
            "previous_response_id": "r1",
            "isolation": WHO,
            "user_isolation_key": "u",
            "chat_isolation_key": "c",
        },
    ),
    (Terse, ("r2", "r1")),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("kind", "told"), SAYS, ids=["sync", "async", "terse"])
async def test_providers_are_told_around_the_whole_run(world: World, kind: type[Bound], told: Any, stream: bool):
    log: list[Any] = []
    world.providers = lambda: [kind(log), InMemoryHistoryProvider()]
    async with world.open():
        await world.ask("one", name="r1")
        log.clear()
        assert await world.ask("two", after="r1", name="r2", isolation=WHO, stream=stream) == "one two"
    assert log == [told, "runs", "ran", *(["left"] if kind is not Terse else [])]


@pytest.mark.parametrize("stream", [False, True])
async def test_they_are_left_when_the_run_fails(world: World, stream: bool):
    log: list[Any] = []
    world.providers = lambda: [Sync(log)]
    async with world.open():
        with pytest.raises(TargetFailed):
            await world.ask("fail", "s", stream=stream)
    assert log == [(None, None, None), "runs", "left"]


async def test_a_point_that_is_gone_is_not_found(world: World):
    world.providers = lambda: [StoreHistoryProvider()]
    async with world.open():
        with pytest.raises(NotFound):
            await world.ask("x", after="nothing")
