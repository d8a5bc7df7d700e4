"""What the tests of workflows share: executors that tell what they do, stores that are cut off, what is left in them.

These workflows run as the framework runs them, behind the real bridge: the clock of these tests is the real one, and
nobody sleeps.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Never

import trio
from agent_framework import (
    BaseChatClient,
    ChatMiddlewareLayer,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    Executor,
    FunctionInvocationLayer,
    Message,
    WorkflowCheckpoint,
    WorkflowContext,
    handler,
)

from afactors import Runtime
from afactors.checkpoints import Steps, decode_kept, decoded
from afactors.history import Point
from afactors.naming import document_name
from afactors.rotation import session_name
from afactors.runs import Record, Reference
from afactors_channels import ChannelRequest, ChannelSession, HostError
from afactors_store import Claim, Commit, Committed, MemoryStore, Store, keys

PATIENCE = 30.0

# --- what is asked


def request(contents: Any, session: str | None = "s", *, key: str | None = "ada", **more: Any) -> ChannelRequest:
    """A message, by default of the key "ada" in its session "s": a text, contents, or serialized messages."""
    after = more.pop("after", None)
    role = more.pop("role", "user")
    if isinstance(contents, str):
        contents = [{"type": "text", "text": contents}]
    if contents and contents[0].get("type") != "message":
        contents = [{"type": "message", "role": role, "contents": contents}]
    where = ChannelSession(isolation_key=key, session_id=session, after=after)
    return ChannelRequest(more.pop("channel", "test"), contents, where, **more)


def result(question: str, value: Any) -> dict[str, Any]:
    """What answers a question by the output of a function."""
    return {"type": "function_result", "call_id": question, "result": value}


def approval(question: str, approved: Any = True) -> dict[str, Any]:
    """What answers an approval."""
    return {"type": "function_approval_response", "id": question, "approved": approved}


def answering(values: Mapping[str, Any], session: str | None = "s", **more: Any) -> ChannelRequest:
    """Answers to questions, by their ids."""
    return request([result(name, value) for name, value in values.items()], session, role="tool", **more)


def approving(question: str, approved: Any = True, session: str | None = "s", **more: Any) -> ChannelRequest:
    return request([approval(question, approved)], session, **more)


async def refused(awaitable: Awaitable[Any]) -> tuple[int, str]:
    """Status and code of what it is refused with."""
    return (error := await complaint(awaitable)).status, error.code


async def complaint(awaitable: Awaitable[Any]) -> HostError:
    """What it is refused with."""
    try:
        await awaitable
    except HostError as error:
        return error
    raise AssertionError("it was not refused")


async def maybe(awaitable: Awaitable[Any]) -> HostError | None:
    """What it is refused with, if it is."""
    try:
        await awaitable
    except HostError as error:
        return error
    return None


def open_questions(outcome: Any) -> list[str]:
    """Ids of the questions that a workflow's result asks."""
    return [event.request_id for event in outcome.result.get_request_info_events()]


@asynccontextmanager
async def hosting(target: Any, store: Store | None = None, **options: Any) -> AsyncIterator[Runtime]:
    """A runtime over a store in memory."""
    options = {"tune_gc": False, "on_broken": lambda _reason: None, **options}
    with trio.fail_after(PATIENCE):
        async with Runtime(target, store=store or MemoryStore(), **options) as runtime:
            yield runtime


def told(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What serialized messages say: their texts, and of what is no text the type."""
    return [
        [content.get("text") or content["type"] for content in message["contents"] if content["type"] != "usage"]
        for message in messages
    ]


# --- executors


class Pipe(Executor):
    """Says what it got, and passes it on with its own id; counts how often it ran, across checkpoints."""

    def __init__(self, name: str, *, last: bool = False, act: Callable[[str], None] | None = None) -> None:
        super().__init__(id=name)
        self.last = last
        self.act = act
        self.runs = 0

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.runs += 1
        if self.act is not None:
            self.act(text)
        await ctx.yield_output(f"{self.id}#{self.runs}<{text}")
        if not self.last:
            await ctx.send_message(f"{text}.{self.id}")

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"runs": self.runs}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.runs = state["runs"]


class Once(Executor):
    """Does something with the text that it is given, and ends: `act(text, ctx)`."""

    def __init__(self, act: Callable[[str, Any], Awaitable[None]], name: str = "once") -> None:
        super().__init__(id=name)
        self.act = act

    @handler
    async def take(self, text: str, ctx: WorkflowContext[Never, Any]) -> None:
        await self.act(text, ctx)

    def __deepcopy__(self, memo: dict[int, Any]) -> Once:
        return Once(self.act, self.id)


# --- models


class Scripted(FunctionInvocationLayer, ChatMiddlewareLayer, BaseChatClient):  # type: ignore[misc]
    """A model that answers by `script(messages)`, which gives contents or a text; it keeps what it saw."""

    def __init__(self, script: Callable[[Sequence[Message]], Any]) -> None:
        super().__init__()
        self.script = script
        self.seen: list[list[str]] = []
        self.lock = threading.Lock()  # which nobody can copy

    def _inner_get_response(self, *, messages: Any, stream: bool, options: Any, **_kw: Any) -> Any:
        self.seen.append([message.text for message in messages])
        made = self.script(messages)
        contents = [Content.from_text(made)] if isinstance(made, str) else list(made)

        async def updates() -> Any:
            for content in contents:
                yield ChatResponseUpdate(role="assistant", contents=[content])

        async def whole() -> ChatResponse:
            return ChatResponse(messages=[Message("assistant", contents)])

        return self._build_response_stream(updates()) if stream else whole()


# --- stores


class CutStore(MemoryStore):
    """A store whose process is killed at a commit.

    Attributes:
        cut: (which commit, whether it still became durable); None for no cut.
        alive: Whether what runs now would still run if this were a process.
        durable: Commits that became durable in the present process.
        on_cut: Called when it is cut.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cut: tuple[int, bool] | None = None
        self.alive = True
        self.begun = self.durable = 0
        self.on_cut: Callable[[], object] = lambda: None

    def process(self, cut: tuple[int, bool] | None = None) -> None:
        """A new process, which is cut as it says."""
        self.cut, self.alive, self.begun, self.durable = cut, True, 0, 0

    def crash(self) -> None:
        if self.alive:
            super().crash()
            self.alive = False
            self.on_cut()

    async def commit(self, claim: Claim, commit: Commit) -> Committed:
        number = self.begun
        self.begun += 1
        if self.cut == (number, False):
            self.crash()
        done = await super().commit(claim, commit)
        self.durable += self.alive
        if self.cut == (number, True):
            self.crash()
        return done


def logs_of(store: MemoryStore, key: str = "ada") -> dict[int, int]:
    """Every log of a key that has rows, and how many bytes they are."""
    data = store._engine._data
    number = data.get(keys.DIRECTORY + keys.inline(keys.encode_key(key)))
    if number is None:
        return {}
    prefix = keys.row(number, keys.LOG)
    found: dict[int, int] = {}
    for row in data.irange(prefix, prefix + b"\xff" * 17):
        log = keys.to_u64(row[len(prefix) : len(prefix) + 8])
        found[log] = found.get(log, 0) + len(data[row])
    return found


async def documents_of(store: Store, key: str = "ada") -> dict[str, bytes]:
    """Every document of a key."""
    claim = await store.claim(key)
    return dict(await store.read(claim, await store.list_documents(claim, limit=10_000)))


async def reached_logs(store: Store, key: str = "ada") -> set[int]:
    """The logs of a key that something leads to."""
    claim = await store.claim(key)
    reached: set[int] = set()
    for name, document in (await documents_of(store, key)).items():
        kind = name.split("/")[0].split("#")[0]
        if kind == "session":
            reached |= Point.decode(document).logs()
        elif kind == "checkpoints":
            reached |= {one.log for one in decode_kept(document)}
        elif kind == "steps":
            reached |= Steps.decode(document).logs()
    for name in await store.names(claim):
        found = await store.find(name)
        point = Reference.decode(found.value).point if found is not None else None
        if point is not None:
            reached |= Point.decode(point).logs()
    for run in await store.runs(key):
        transcript = Record.decode(run.body).transcript
        if transcript is not None:
            reached.add(transcript[0])
    return reached


async def debris(store: MemoryStore, key: str = "ada") -> tuple[set[int], list[str]]:
    """Logs that nothing leads to, and the lists of steps of turns; for a store at rest there are none of either."""
    orphans = set(logs_of(store, key)) - await reached_logs(store, key)
    return orphans, [name for name in await documents_of(store, key) if name.startswith("steps")]


async def state_of_session(
    store: Store, session: str = "s", *, key: str = "ada", allowed: frozenset[str] = frozenset()
) -> Mapping[str, Any]:
    """The shared state in the checkpoint of a session's cursor, and what is pending there."""
    documents = await documents_of(store, key)
    name = session_name(key, session)
    point = Point.decode(documents[document_name(name)])
    kept = decode_kept(documents[document_name(name, "checkpoints")])
    assert kept[-1].checkpoint_id == point.checkpoint, "the cursor is not the newest"
    (row,) = await store.read_log(await store.claim(key), kept[-1].log, 0, 1)
    return _looked_at(decoded(row, allowed))


def _looked_at(value: Any) -> Any:
    """A checkpoint without what is different each time; also those of workflows inside of it."""
    if isinstance(value, WorkflowCheckpoint):
        return {
            "state": {name: _looked_at(one) for name, one in value.state.items() if "kwargs" not in name},
            "pending": len(value.pending_request_info_events),
            "messages": value.messages,
        }
    if isinstance(value, dict):
        return {name: _looked_at(one) for name, one in value.items()}
    return value
