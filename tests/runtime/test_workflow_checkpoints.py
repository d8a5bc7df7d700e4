"""A workflow's checkpoints: durable step by step, kept apart, kept few, and never more than what they may hold."""

from __future__ import annotations

import base64
import itertools
import json
import os
import pickle
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, ForwardRef, Literal, Optional, Union

import pytest
import trio
from agent_framework import (
    Executor,
    InMemoryCheckpointStorage,
    Workflow,
    WorkflowBuilder,
    WorkflowCheckpoint,
    WorkflowCheckpointException,
    WorkflowContext,
    WorkflowEvent,
    handler,
    register_checkpoint_type,
    response_handler,
)
from pydantic import BaseModel

from afactors.checkpoints import (
    Kept,
    Steps,
    TurnCheckpoints,
    decode_event,
    decode_kept,
    decoded,
    encode_event,
    encode_kept,
    encoded,
    type_names,
)
from afactors.encoding import pack, unpack
from afactors.history import NotStorable, Point
from afactors.naming import document_name
from afactors.pickling import TypeOf, decode, encode
from afactors.rotation import session_name
from afactors_channels import HostError, SessionEdit
from afactors_channels.workflows import question_content
from afactors_store import Append, Claim, Commit, Committed, LmdbStore, MemoryStore, StoreFull
from tests.runtime.flows import (
    CutStore,
    Pipe,
    answering,
    complaint,
    debris,
    documents_of,
    hosting,
    logs_of,
    open_questions,
    refused,
    request,
)

# --- the framework's protocol, beside the framework's own


class Drawer:
    """Logs and documents, as far as a turn's checkpoints need them."""

    def __init__(self) -> None:
        self.logs: dict[int, list[bytes]] = {}
        self.documents: dict[str, bytes] = {}
        self.writes = 0

    async def write(self, commit: Commit) -> None:
        self.writes += 1
        for append in commit.append:
            rows = self.logs.setdefault(append.log, [])
            assert append.start == len(rows)
            rows.extend(append.rows)
        for log in commit.drop_logs:
            self.logs.pop(log, None)
        self.documents.update(commit.put)

    async def read(self, log: int, start: int, stop: int) -> list[bytes]:
        return self.logs.get(log, [])[start:stop]

    async def in_trio(self, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return await call(*args)

    def checkpoints(self, committed: Sequence[Kept] = (), *, limit: int = 100, goes_on: bool = True) -> TurnCheckpoints:
        return TurnCheckpoints(
            committed=committed,
            steps=Steps(),
            allowed=frozenset(),
            limit=limit,
            write=self.write,
            read=self.read,
            in_trio=self.in_trio,
            run_id="run",
            remembered=[],
            goes_on=lambda _checkpoint: goes_on,
        )


def checkpoint(number: int, workflow: str = "flow", **more: Any) -> WorkflowCheckpoint:
    return WorkflowCheckpoint(
        workflow_name=workflow,
        graph_signature_hash="hash",
        checkpoint_id=f"c{number}",
        state={"number": number, "when": datetime(2024, 1, number % 28 + 1, tzinfo=UTC), "of": ("a", 1)},
        iteration_count=number,
        timestamp=f"2024-01-01T00:00:{number:02}",
        **more,
    )


async def told_by(storage: Any) -> dict[str, Any]:
    """Everything that can be asked of a storage."""
    found: dict[str, Any] = {}
    for name in ("flow", "other", "none"):
        listed = await storage.list_checkpoints(workflow_name=name)
        latest = await storage.get_latest(workflow_name=name)
        found[name] = (
            [one.to_dict() for one in listed],
            list(await storage.list_checkpoint_ids(workflow_name=name)),
            latest.to_dict() if latest is not None else None,
        )
    found["loaded"] = [(await storage.load(f"c{number}")).to_dict() for number in range(6)]
    return found


@pytest.mark.parametrize("goes_on", [False, True])
async def test_the_storage_does_what_the_frameworks_own_does(goes_on: bool):
    theirs, ours = InMemoryCheckpointStorage(), Drawer().checkpoints(goes_on=goes_on)
    for number in range(6):
        one = checkpoint(number, "other" if number % 3 == 2 else "flow")
        assert await ours.save(one) == await theirs.save(one) == f"c{number}"
    assert await told_by(ours) == await told_by(theirs)
    for storage in (ours, theirs):
        with pytest.raises(WorkflowCheckpointException):
            await storage.load("nobody")
        assert await storage.delete("nobody") is False


async def test_what_is_loaded_is_nobody_elses():
    ours = Drawer().checkpoints()
    one = checkpoint(1)
    await ours.save(one)
    one.state["number"] = "changed"
    (await ours.load("c1")).state["number"] = "changed"
    assert (await ours.load("c1")).state["number"] == 1


async def test_after_its_turn_the_storage_refuses_everything():
    ours = Drawer().checkpoints()
    await ours.save(checkpoint(1))
    ours.closed = True
    for call in (
        lambda: ours.save(checkpoint(2)),
        lambda: ours.load("c1"),
        lambda: ours.delete("c1"),
        lambda: ours.get_latest(workflow_name="flow"),
        lambda: ours.list_checkpoints(workflow_name="flow"),
        lambda: ours.list_checkpoint_ids(workflow_name="flow"),
    ):
        with pytest.raises(WorkflowCheckpointException, match="has ended"):
            await call()


@pytest.mark.parametrize("limit", [1, 3])
async def test_a_long_turn_keeps_the_newest_few(limit: int):
    drawer = Drawer()
    ours = drawer.checkpoints([Kept("before", 7, "flow")], limit=limit)
    for number in range(100):
        await ours.save(checkpoint(number))
        assert len(drawer.logs) <= limit
    newest = [f"c{100 - at}" for at in range(limit, 0, -1)]
    assert await ours.list_checkpoint_ids(workflow_name="flow") == ["before", *newest]
    adopted = ours.adopted()
    assert [one.checkpoint_id for one in adopted.kept] == ["before", "c99"][-limit:]  # of a turn, where it ended
    assert (7 in adopted.drop) == (limit == 1)


# --- in a conversation


@pytest.fixture
def store() -> CutStore:
    return CutStore()


@dataclass
class Point2:
    x: int
    y: int


class Model(BaseModel):
    x: int


class Secret:
    """Of a type that nobody allows."""

    def __init__(self, text: str) -> None:
        self.text = text


class Registered(Secret):
    pass


register_checkpoint_type(Registered)


class Unpicklable:
    def __deepcopy__(self, _memo: object) -> Any:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("this cannot be pickled")


VALUES: dict[str, Callable[[], Any]] = {
    "point": lambda: Point2(1, 2),
    "secret": lambda: Secret("x"),
    "registered": lambda: Registered("x"),
    "unpicklable": Unpicklable,
    "lambda": lambda: lambda: None,
    "time": lambda: datetime(2024, 1, 1, tzinfo=UTC),
    "set": lambda: {1, 2},
    "marked": lambda: {"__pickled__": "AAAA", "__type__": "os:system"},
}


class Keeper(Executor):
    """Keeps a value where it is told to, and goes on."""

    def __init__(self, place: str, name: str, *, last: bool = False, asks: bool = False) -> None:
        super().__init__(id=name)
        self.place = place
        self.last = last
        self.asks = asks
        self.own: Any = None

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, Any]) -> None:
        made = VALUES.get(text.split()[0])
        if made is not None:
            value = made()
            if self.place == "state":
                ctx.set_state("value", value)
            elif self.place == "output":
                await ctx.yield_output(value)
            elif self.place == "own":
                self.own = value
            elif self.place == "question":
                await ctx.request_info(value, str)
        await ctx.yield_output(f"{self.id}: {text}, {type(ctx.get_state('value')).__name__}")
        if self.asks:
            await ctx.request_info("more?", str)
        elif not self.last:
            await ctx.send_message(text)

    @response_handler
    async def hear(self, asked: object, heard: str, ctx: WorkflowContext[str, Any]) -> None:
        await ctx.yield_output(f"heard {heard}")

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"own": self.own}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.own = state["own"]


def keeping(place: str, *, asks: bool = False, names: Sequence[str] = ("a", "b", "c")) -> Callable[[], Workflow]:
    def make() -> Workflow:
        made = [Keeper(place, name, last=name == names[-1], asks=asks and name == names[-1]) for name in names]
        builder = WorkflowBuilder(start_executor=made[0], name="keeping")
        for one, other in itertools.pairwise(made):
            builder.add_edge(one, other)
        return builder.build()

    return make


async def test_every_superstep_is_durable_when_the_next_begins(store: CutStore):
    """Seen from inside of it: what a crash would leave now."""
    seen: list[tuple[list[str], str | None]] = []

    async def look() -> None:
        ran, session = [], None
        for name, document in (await documents_of(store)).items():
            if name.startswith("steps/"):
                last = Steps.decode(document).kept[-1]
                (row,) = await store.read_log(await store.claim("ada"), last.log, 0, 1)
                states = decoded(row, frozenset()).state["_executor_state"]
                ran = [one for one, state in states.items() if state["runs"]]
            if name.startswith("session/"):
                session = Point.decode(document).checkpoint
        seen.append((ran, session))

    class Looking(Pipe):
        @handler
        async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            await runtime._in_trio(look)
            self.runs += 1
            if not self.last:
                await ctx.send_message(text)

    def make() -> Workflow:
        pipes = [Looking(name, last=name == "d") for name in "abcd"]
        return WorkflowBuilder(start_executor=pipes[0]).add_chain(pipes).build()

    async with hosting(make, store) as runtime:
        await runtime.ask(request("x"))
        (_, cursor) = seen[0]
        assert cursor is None
        assert seen == [([], None), (["a"], None), (["a", "b"], None), (["a", "b", "c"], None)]
        await look()
        assert seen[-1][1] is not None, "the turn's commit moves the cursor"
        assert await debris(store) == (set(), [])


async def test_checkpoints_are_scoped_to_their_session(store: CutStore):
    places = [("ada", "s"), ("ada", "t"), ("bob", "s")]
    for round_ in range(3):
        async with hosting(lambda: _counting(), store) as runtime:
            for key, session in places:
                done = await runtime.ask(request(f"{key} {session}", session, key=key))
                assert done.result.get_outputs() == [f"a#{round_ + 1}<{key} {session}"]
    found = [one.checkpoint_id for key, session in places for one in await _kept(store, key, session)]
    assert len(found) == len(set(found))


def _counting() -> Workflow:
    return WorkflowBuilder(start_executor=Pipe("a", last=True), name="counting").build()


async def _kept(store: MemoryStore, key: str = "ada", session: str = "s") -> list[Kept]:
    async def read() -> list[Kept]:
        name = document_name(session_name(key, session), "checkpoints")
        return decode_kept((await documents_of(store, key)).get(name))

    if store._opened is not None:
        return await read()
    async with store.open():
        return await read()


# --- how many


class Counter(Executor):
    """Goes on to itself, so many times, and carries something of a size."""

    def __init__(self, look: Callable[[int], Awaitable[None]] | None = None) -> None:
        super().__init__(id="counter")
        self.look = look

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        count = int(text)
        if self.look is not None and count % 50 == 0:
            await self.look(count)
        ctx.set_state("page", "x" * 2_000)
        if count:
            await ctx.send_message(str(count - 1))
        else:
            await ctx.yield_output("done")


def counting_down(look: Callable[[int], Awaitable[None]] | None = None) -> Workflow:
    counter = Counter(look)
    return WorkflowBuilder(max_iterations=2_000, start_executor=counter).add_edge(counter, counter).build()


@pytest.mark.parametrize("keep", [1, 5])
async def test_a_thousand_steps_keep_a_few_checkpoints(store: CutStore, keep: int):
    sizes: list[tuple[int, int]] = []

    async def look() -> None:
        sizes.append((len(logs_of(store)), sum(logs_of(store).values())))

    async def count(_left: int) -> None:
        await runtime._in_trio(look)

    async with hosting(lambda: counting_down(count), store, max_checkpoints=keep) as runtime:
        done = await runtime.ask(request("1000"))
        assert done.result.get_outputs() == ["done"]
        assert max(logs for logs, _ in sizes) <= keep + 1
        assert max(size for _, size in sizes) < (keep + 1) * 6_000
        assert len(await _kept(store)) == 1
        assert await debris(store) == (set(), [])
        for _ in range(5):
            await runtime.ask(request("30"))
        assert len(await _kept(store)) == keep
        assert len(logs_of(store)) <= keep + 1


async def test_a_thousand_steps_do_not_make_the_file_grow(tmp_path: Path):
    used: list[int] = []
    store = LmdbStore(tmp_path / "state")
    async with hosting(counting_down, store) as runtime:
        for _ in range(3):
            await runtime.ask(request("150"))
            used.append(runtime.statistics().store.used_bytes)
        assert len(await _kept_in(store)) == 3
    assert used[-1] < 1_000_000
    assert used[-1] < used[0] * 1.5 + 100_000


async def _kept_in(store: Any) -> list[Kept]:
    claim = await store.claim("ada")
    name = document_name(session_name("ada", "s"), "checkpoints")
    return decode_kept((await store.read(claim, [name]))[name])


async def test_what_a_pending_request_needs_stays(store: CutStore):
    async with hosting(keeping("state", asks=True), store, max_checkpoints=1) as runtime:
        (name,) = open_questions(await runtime.ask(request("time")))
        for number in range(5):
            await runtime.ask(request("time", f"other{number}"))
    async with hosting(keeping("state", asks=True), store, max_checkpoints=1) as runtime:
        assert (await runtime.ask(answering({name: "x"}))).result.get_outputs() == ["heard x"]
        assert await debris(store) == (set(), [])


# --- failures leave nothing


class Failing(Pipe):
    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        if "bad" in text and self.id == "c":
            raise RuntimeError("no")
        await ctx.yield_output(f"{self.id}<{text}")
        if self.id == "c" and "round" in text:
            await ctx.send_message(text, target_id="a")
        elif not self.last:
            await ctx.send_message(text)


def failing() -> Workflow:
    pipes = [Failing(name, last=name == "c") for name in "abc"]
    builder = WorkflowBuilder(start_executor=pipes[0], max_iterations=12).add_chain(pipes)
    return builder.add_edge(pipes[2], pipes[0]).build()


@pytest.mark.parametrize("text", ["bad", "round"])
@pytest.mark.parametrize("background", [False, True])
async def test_a_workflow_that_fails_leaves_its_session_as_it_was(store: CutStore, text: str, background: bool):
    """One that raises, and one that never comes to an end."""
    async with hosting(failing, store) as runtime:
        await runtime.ask(request("good"))
        before = await documents_of(store), logs_of(store)
        if background:
            run = await runtime.get_continuation(await runtime.submit(request(text)), wait=True)
            assert (run.state, run.result) == ("failed", None)
        else:
            error = await complaint(runtime.ask(request(text)))
            assert error.status == 500
            assert "no" not in str(error).split(), "what executors raise is not for callers"
        assert (await documents_of(store), logs_of(store)) == before
        assert (await runtime.ask(request("good"))).result.get_outputs()[-1] == "c<good"
        assert await debris(store) == (set(), [])


class Full(CutStore):
    """Has no room for a workflow's steps, when it is told so."""

    full_after: int | None = None

    async def commit(self, claim: Claim, commit: Commit) -> Committed:
        if self.full_after is not None and any(name.startswith("steps/") for name in commit.put):
            self.full_after -= 1
            if self.full_after < 0:
                raise StoreFull("no room")
        return await super().commit(claim, commit)


@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_a_store_that_is_full_in_the_middle_ends_the_turn_and_loses_nothing(steps: int):
    store = Full()

    def make() -> Workflow:
        pipes = [Pipe(name, last=name == "d") for name in "abcd"]
        return WorkflowBuilder(start_executor=pipes[0]).add_chain(pipes).build()

    async with hosting(make, store) as runtime:
        await runtime.ask(request("x"))
        before = await documents_of(store), logs_of(store)
        store.full_after = steps
        assert (await refused(runtime.ask(request("y", name="t"))))[0] == 507
        store.full_after = None
        assert (await runtime.get_continuation("t")).state == "failed"
        assert (await documents_of(store), logs_of(store)) == before
        assert (await runtime.ask(request("z"))).result.get_outputs()[0] == "a#2<z"
        assert await debris(store) == (set(), [])


# --- types


@pytest.mark.parametrize("place", ["state", "own", "question"])
async def test_a_type_that_is_not_allowed_is_refused_by_its_name_when_it_is_saved(store: CutStore, place: str):
    async with hosting(keeping(place), store) as runtime:
        await runtime.ask(request("plain"))
        before = await documents_of(store), logs_of(store)
        for kind, name in (("point", "Point2"), ("secret", "Secret")):
            error = await complaint(runtime.ask(request(kind)))
            assert (error.status, error.code) == (500, "checkpoint_refused")
            assert f"{__name__}:{name}" in str(error)
            assert "checkpoint_types" in str(error)
        assert (await documents_of(store), logs_of(store)) == before
        await runtime.ask(request("plain"))


async def test_what_was_said_before_the_last_superstep_is_stored_and_must_be_allowed_too(store: CutStore):
    """Or a turn that was cut off could not say it again."""
    async with hosting(keeping("output"), store) as runtime:
        assert (await complaint(runtime.ask(request("secret")))).code == "checkpoint_refused"
        done = await runtime.ask(request("time"))
        assert datetime(2024, 1, 1, tzinfo=UTC) in done.result.get_outputs()


@pytest.mark.parametrize("kind", ["secret", "lambda", "unpicklable"])
async def test_what_is_only_said_may_be_anything(store: CutStore, kind: str):
    """Of a workflow with one superstep nothing has to be said again."""
    async with hosting(keeping("output", names=["a"]), store) as runtime:
        done = await runtime.ask(request(kind))
        assert len(done.result.get_outputs()) == 2


@pytest.mark.parametrize("place", ["state", "own", "question", "output"])
@pytest.mark.parametrize("by", ["class", "name"])
async def test_a_type_that_is_allowed_comes_back(store: CutStore, place: str, by: str):
    types: list[Any] = [Point2 if by == "class" else f"{__name__}:Point2"]
    for _ in range(2):
        async with hosting(keeping(place), store, checkpoint_types=types) as runtime:
            done = await runtime.ask(request("point"))
            if place == "state":
                assert done.result.get_outputs()[-1] == "c: point, Point2"
            for name in open_questions(done):
                await runtime.ask(answering({name: "x"}))


@pytest.mark.parametrize("kind", ["registered", "time", "set", "marked"])
async def test_registered_and_common_types_need_no_permission(store: CutStore, kind: str):
    for _ in range(2):
        async with hosting(keeping("state"), store) as runtime:
            expected = type(VALUES[kind]()).__name__
            assert (await runtime.ask(request(kind))).result.get_outputs()[-1] == f"c: {kind}, {expected}"
            assert (await runtime.ask(request("other"))).result.get_outputs()[-1] == f"c: other, {expected}"


@pytest.mark.parametrize("place", ["state", "own", "question"])
@pytest.mark.parametrize("kind", ["unpicklable", "lambda"])
async def test_a_checkpoint_that_cannot_be_pickled_ends_the_turn_and_nothing_else(
    store: CutStore, kind: str, place: str
):
    async with hosting(keeping(place), store) as runtime:
        await runtime.ask(request("plain"))
        before = await documents_of(store), logs_of(store)
        error = await complaint(runtime.ask(request(kind)))
        assert (error.status, error.code) == (500, "session_not_storable")
        assert (await documents_of(store), logs_of(store)) == before
        await runtime.ask(request("plain"))


def test_checkpoint_types_are_classes_or_names():
    assert type_names([Point2, "a.b:C"]) == {f"{__name__}:Point2", "a.b:C"}
    for wrong in ("Point2", "a:b:c", 7, Point2(1, 2)):
        with pytest.raises(TypeError, match="checkpoint_types"):
            type_names([wrong])  # type: ignore[list-item]


# --- hostile rows


class Gadget:
    """What a pickle can do to whoever loads it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


def hostile(target: Path, kind: str) -> Any:
    """A value of an encoded checkpoint."""
    pickled = pickle.dumps(Gadget(target))
    if kind == "builtins":
        pickled = b"cbuiltins\neval\n(Vopen(%r, 'w')\ntR." % str(target).encode()
    elif kind == "framework":  # a name of an allowed module that leads elsewhere
        pickled = b"cagent_framework._workflows._workflow\nlogging.os.system\n(Vtouch %s\ntR." % str(target).encode()
    elif kind == "getattr":
        pickled = b"cbuiltins\ngetattr\n(cbuiltins\ntype\nV__subclasses__\ntR."
    return {"__pickled__": base64.b64encode(pickled).decode(), "__type__": "builtins:int"}


KINDS = ["system", "builtins", "framework", "getattr"]


def poisoned(row: bytes, value: Any, where: str) -> bytes:
    record = dict(unpack(row))
    if where == "whole":
        record["x"] = value
    else:
        record["x"] = {**record["x"], where: {**record["x"].get(where, {}), "evil": value}}
    return pack(record, "test")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["state", "messages", "pending_request_info_events", "whole"])
@pytest.mark.parametrize("pending", [False, True])
async def test_a_hostile_checkpoint_is_refused_and_does_nothing(
    store: CutStore, tmp_path: Path, kind: str, where: str, pending: bool
):
    target = tmp_path / "gadget"
    make = keeping("state", asks=pending)
    async with hosting(make, store) as runtime:
        name = (open_questions(await runtime.ask(request("plain"))) or [None])[0]
        kept = (await _kept(store))[-1]
        claim = await store.claim("ada")
        (row,) = await store.read_log(claim, kept.log, 0, 1)
        evil = poisoned(row, hostile(target, kind), where)
        await store.commit(claim, Commit(drop_logs=[kept.log]))
        await store.commit(claim, Commit(append=[Append(kept.log, 0, [evil])]))
        good = row
    async with hosting(make, store) as runtime:
        asked = request("plain") if name is None else answering({name: "x"})
        error = await complaint(runtime.ask(asked))
        assert (error.status, error.code) == (500, "checkpoint_refused")
        if kind == "system":
            assert f"{os.system.__module__}:system" in str(error)
        assert str(target) not in str(error)
        assert not target.exists()
        claim = await store.claim("ada")
        await store.commit(claim, Commit(drop_logs=[kept.log]))
        await store.commit(claim, Commit(append=[Append(kept.log, 0, [good])]))
        await runtime.ask(asked)  # it was not lost
        assert await debris(store) == (set(), [])


class Made:
    """What a pickle says is made by a call, and then changed."""

    def __init__(self, *made: Any) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return self.made


def typed(*args: Any, origin: Any = "union") -> Made:
    return Made(TypeOf, (origin, args))


HOSTILE_TYPES: dict[str, Callable[[str], Any]] = {
    "text": lambda code: code,
    "list": lambda code: list[code],  # type: ignore[valid-type]
    "made": lambda code: Made(GenericAlias, (list, (code,))),
    "union": lambda code: typed(int, code),
    "nested": lambda code: typed(str, typed(int, typed(code, origin=list), origin=dict)),
    "annotated": lambda code: typed(code, "more", origin=Annotated),
    "reference": lambda code: typed(Made(ForwardRef, (code,)), origin=list),
    "changed": lambda code: Made(TypeOf, ("union", (int, str)), (None, {"__args__": (int, Made(ForwardRef, (code,)))})),
    "class": lambda code: Made(type, ("Row", (tuple,), {"_fields": ("a",), "__annotations__": {"a": code}})),
    "none": lambda _code: None,
}


@pytest.mark.parametrize("kind", HOSTILE_TYPES)
@pytest.mark.parametrize("asked", ["answer", "message"])
async def test_a_hostile_type_of_an_answer_is_refused_and_not_looked_at(
    store: CutStore, tmp_path: Path, kind: str, asked: str
):
    target = tmp_path / "gadget"
    evil = HOSTILE_TYPES[kind](f"__import__('pathlib').Path({str(target)!r}).touch()")
    allowed = ["types:GenericAlias", "typing:Annotated", "typing:ForwardRef"]
    make = keeping("state", names=["a"], asks=True)
    async with hosting(make, store) as runtime:
        (name,) = open_questions(await runtime.ask(request("plain")))
        kept, claim = (await _kept(store))[-1], await store.claim("ada")
        (row,) = await store.read_log(claim, kept.log, 0, 1)
        plain = decode(unpack(row)["x"], frozenset())
        plain["pending_request_info_events"][name]._response_type = evil
        record = pack({**unpack(row), "x": encode(plain)}, "test")
        await store.commit(claim, Commit(drop_logs=[kept.log]))
        await store.commit(claim, Commit(append=[Append(kept.log, 0, [record])]))
    limits = {"question_timeout": 1e-6} if asked == "message" else {}
    async with hosting(make, store, checkpoint_types=allowed, **limits) as runtime:
        error = await complaint(runtime.ask(request("plain") if limits else answering({name: "7"})))
        assert (error.status, error.code) == (500, "checkpoint_refused")
        assert not target.exists()


@pytest.mark.parametrize("kind", HOSTILE_TYPES)
def test_a_hostile_type_of_what_was_asked_is_refused_and_not_looked_at(tmp_path: Path, kind: str):
    target = tmp_path / "gadget"
    evil = HOSTILE_TYPES[kind](f"__import__('pathlib').Path({str(target)!r}).touch()")
    event = WorkflowEvent.request_info("r1", "asker", "x", evil)
    with pytest.raises(HostError) as refusal:
        decode_event(encode_event(event), frozenset({"types:GenericAlias", "typing:Annotated", "typing:ForwardRef"}))
    assert refusal.value.code == "checkpoint_refused"
    assert not target.exists()


def test_a_type_with_text_in_it_is_not_rendered(tmp_path: Path):
    """It may come from a workflow inside a workflow, whose state only the framework knows."""
    target = tmp_path / "gadget"
    event = WorkflowEvent.request_info("r1", "asker", "x", list[f"open({str(target)!r}, 'w')"])  # type: ignore[misc]
    assert "response_schema" not in question_content(event).arguments
    assert not target.exists()


@pytest.mark.parametrize(
    "kind",
    [
        *(str, type(None), Point2, Model, list[str], dict[str, int], tuple[int, str], tuple[()], set[Point2]),
        *(int | None, Optional[Model], Union[int, list[str], None], list[Point2 | None], Literal["a", 1]),  # noqa: UP007, UP045
        *(dict[str, list[Literal["a", None]]], type, type[int]),
    ],
)
def test_the_type_of_an_answer_comes_back(kind: Any):
    event = WorkflowEvent.request_info("r1", "asker", "x", kind)
    back = decode_event(encode_event(event), type_names([Point2, Model]))
    assert back.response_type == kind
    assert question_content(back).arguments == question_content(event).arguments


@pytest.mark.parametrize("kind", KINDS)
async def test_a_hostile_log_of_what_was_said_is_refused_and_does_nothing(store: CutStore, tmp_path: Path, kind: str):
    target = tmp_path / "gadget"
    store.cut = (2, True)
    async with hosting(keeping("state"), store, drain_timeout=0.1) as runtime:
        with trio.CancelScope() as alive:
            store.on_cut = alive.cancel
            await runtime.submit(request("plain", name="t"))
            await runtime.get_continuation("t", wait=True)
    store.process()
    async with store.open():
        claim = await store.claim("ada")
        (document,) = [value for name, value in (await documents_of(store)).items() if name.startswith("steps/")]
        told = Steps.decode(document).told
        assert told is not None
        evil = pack({"v": 1, "x": hostile(target, kind)}, "test")
        await store.commit(claim, Commit(drop_logs=[told[0]]))
        await store.commit(claim, Commit(append=[Append(told[0], 0, [evil] * told[1])]))
    async with hosting(keeping("state"), store) as runtime:
        run = await runtime.get_continuation("t", wait=True)
        assert run.error is not None
        assert (run.state, run.error[0]) == ("failed", "checkpoint_refused")
        assert not target.exists()
        assert await debris(store) == (set(), [])
        await runtime.ask(request("plain"))


@pytest.mark.parametrize("kind", KINDS)
async def test_what_callers_say_is_never_unpickled(store: CutStore, tmp_path: Path, kind: str):
    """A text, an answer, or a payload that looks like an encoded value is what it is: a text, or a map."""
    target = tmp_path / "gadget"
    evil = hostile(target, kind)

    class Echo(Executor):
        @handler
        async def take(self, given: dict, ctx: WorkflowContext[dict, Any]) -> None:
            ctx.set_state("given", given)
            await ctx.send_message(given, target_id="again" if self.id == "echo" else "ask")
            await ctx.yield_output(given)

    class Ask(Executor):
        @handler
        async def take(self, given: dict, ctx: WorkflowContext[dict, Any]) -> None:
            await ctx.request_info(given, dict)

        @response_handler
        async def hear(self, _asked: dict, heard: dict, ctx: WorkflowContext[dict, Any]) -> None:
            await ctx.yield_output(heard)

    def make() -> Workflow:
        one, two, three = Echo("echo"), Echo("again"), Ask("ask")
        return WorkflowBuilder(start_executor=one).add_edge(one, two).add_edge(two, three).build()

    for payload in (evil, {"a": [evil]}):
        async with hosting(make, store) as runtime:
            asked = await runtime.ask(request("x", payload=payload))
            assert asked.result.get_outputs() == [payload, payload]
            (name,) = open_questions(asked)
        async with hosting(make, store) as runtime:
            done = await runtime.ask(answering({name: json.dumps(payload)}))
            assert done.result.get_outputs() == [payload]
    assert not target.exists()


# --- a graph that changed


@pytest.mark.parametrize("pending", [False, True])
async def test_a_workflow_that_changed_does_not_go_on_from_another_ones_checkpoint(store: CutStore, pending: bool):
    old, new = keeping("state", asks=pending), keeping("state", asks=pending, names=["a", "b", "z"])
    async with hosting(old, store) as runtime:
        name = (open_questions(await runtime.ask(request("time"))) or [None])[0]
        before = await documents_of(store), logs_of(store)
    asked = request("more") if name is None else answering({name: "x"})
    async with hosting(new, store) as runtime:
        error = await complaint(runtime.ask(asked))
        assert (error.status, error.code) == (500, "checkpoint_refused")
        assert (await documents_of(store), logs_of(store)) == before
        await runtime.ask(request("more", "another session"))
        await runtime.edit_session(request("", "another session"), SessionEdit(delete=True))
    async with hosting(old, store) as runtime:
        assert (await runtime.ask(asked)).result.get_outputs()[-1] in ("c: more, datetime", "heard x")
        assert await debris(store) == (set(), [])


async def test_a_turn_that_was_cut_off_in_a_workflow_that_changed_since_fails_and_loses_nothing_else(store: CutStore):
    old, new = keeping("state"), keeping("state", names=["a", "b", "z"])
    async with hosting(old, store) as runtime:
        await runtime.ask(request("time"))
        before = await documents_of(store), logs_of(store)
        store.cut = (store.begun + 2, True)
        with trio.CancelScope() as alive:
            store.on_cut = alive.cancel
            await runtime.submit(request("more", name="t"))
            await runtime.get_continuation("t", wait=True)
    store.process()
    async with hosting(new, store) as runtime:
        run = await runtime.get_continuation("t", wait=True)
        assert run.error is not None
        assert (run.state, run.error[0]) == ("failed", "checkpoint_refused")
        assert (await documents_of(store), logs_of(store)) == before
    async with hosting(old, store) as runtime:
        assert (await runtime.ask(request("more"))).result.get_outputs()[-1] == "c: more, datetime"


async def test_a_type_that_is_no_longer_allowed_is_refused_until_it_is_again(store: CutStore):
    async with hosting(keeping("state"), store, checkpoint_types=[Point2]) as runtime:
        await runtime.ask(request("point"))
        before = await documents_of(store), logs_of(store)
    async with hosting(keeping("state"), store) as runtime:
        error = await complaint(runtime.ask(request("plain")))
        assert (error.code, "Point2" in str(error)) == ("checkpoint_refused", True)
        assert (await documents_of(store), logs_of(store)) == before
    async with hosting(keeping("state"), store, checkpoint_types=[Point2]) as runtime:
        assert (await runtime.ask(request("plain"))).result.get_outputs()[-1] == "c: plain, Point2"


async def test_checkpoints_are_kept_as_they_were_written(store: CutStore):
    """Rows of this version: what was written stays readable."""
    one = checkpoint(1)
    assert decoded(encoded(one), frozenset()).to_dict() == one.to_dict()
    kept = [Kept("c1", 2**63, "flow")]
    assert decode_kept(encode_kept(kept)) == kept
    assert decode_kept(None) == []
    steps = Steps(kept, (3, 4))
    assert Steps.decode(steps.encode()) == steps
    with pytest.raises(NotStorable):
        encoded(checkpoint(2, pending_request_info_events={"x": Unpicklable()}))  # type: ignore[dict-item]
    with pytest.raises(HostError):
        decoded(encoded(checkpoint(3, messages={"x": [Secret("x")]})), frozenset())  # type: ignore[list-item]
    with pytest.raises(NotStorable):
        encode_event(WorkflowEvent("data", executor_id="x", data=Unpicklable()))
