"""Questions: what workflows ask their users, what agents' tools want approved, and every way to answer wrongly."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import trio
import trio.testing
from agent_framework import (
    Content,
    Executor,
    RunContext,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowRunState,
    handler,
    response_handler,
)
from pydantic import BaseModel

from afactors import Runtime, get_current_turn
from afactors.questions import Asked
from afactors_channels import NotFound, SessionEdit
from afactors_store import Commit, MemoryStore
from tests.runtime.flows import (
    CutStore,
    Once,
    answering,
    approving,
    complaint,
    debris,
    documents_of,
    hosting,
    logs_of,
    maybe,
    open_questions,
    refused,
    request,
    result,
    state_of_session,
    told,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*is experimental")  # functional workflows

LIFETIME = 1000.0


@dataclass
class Plan:
    steps: list[str]
    cost: int = 0


class Ticket(BaseModel):
    title: str
    urgent: bool = False


WANTED: dict[str, Any] = {
    "bool": bool, "int": int, "float": float, "str": str, "dict": dict, "plan": Plan, "ticket": Ticket,
    "list": list[int], "content": Content,
}  # fmt: skip


class Asker(Executor):
    """Asks for what the text names, each thing by a question of its own: "bool int". A word as in "str@q1" names it."""

    def __init__(self) -> None:
        super().__init__(id="asker")
        self.heard: list[str] = []

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        if text.startswith("say"):
            await ctx.yield_output(f"said {text} after {len(self.heard)}")
            return
        for word in text.split():
            kind, _, name = word.partition("@")
            await ctx.request_info(word, WANTED[kind], request_id=name or None)

    @response_handler
    async def hear_bool(self, word: str, heard: bool, ctx: WorkflowContext[str, str]) -> None:
        await self._hear(word, heard, ctx)

    @response_handler
    async def hear_int(self, word: str, heard: int, ctx: WorkflowContext[str, str]) -> None:
        await self._hear(word, heard, ctx)

    @response_handler
    async def hear_float(self, word: str, heard: float, ctx: WorkflowContext[str, str]) -> None:
        await self._hear(word, heard, ctx)

    @response_handler
    async def hear_str(self, word: str, heard: str, ctx: WorkflowContext[str, str]) -> None:
        await self._hear(word, heard, ctx)

    @response_handler
    async def hear_dict(self, word: str, heard: dict, ctx: WorkflowContext[str, str]) -> None:
        await self._hear(word, heard, ctx)

    @response_handler
    async def hear_list(self, word: str, heard: list[int], ctx: WorkflowContext[str, str]) -> None:
        await self._hear(word, heard, ctx)

    @response_handler
    async def hear_plan(self, word: str, heard: Plan, ctx: WorkflowContext[str, str]) -> None:
        await self._hear(word, heard, ctx)

    @response_handler
    async def hear_ticket(self, word: str, heard: Ticket, ctx: WorkflowContext[str, str]) -> None:
        await self._hear(word, heard, ctx)

    @response_handler
    async def hear_content(self, word: str, heard: Content, ctx: WorkflowContext[str, str]) -> None:
        await self._hear(word, heard.type, ctx)

    async def _hear(self, word: str, heard: Any, ctx: WorkflowContext[str, str]) -> None:
        HEARD.append((word, heard))
        self.heard.append(word)
        if heard == "fail":
            raise RuntimeError("it did not like the answer")
        if heard == "again":
            await ctx.request_info(word, str, request_id=word.partition("@")[2] or None)
            return
        await ctx.yield_output(f"{word}={heard!r}")

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"heard": list(self.heard)}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.heard = list(state["heard"])


HEARD: list[tuple[str, Any]] = []


@pytest.fixture(autouse=True)
def _nothing_heard() -> None:
    HEARD.clear()


def make() -> Workflow:
    return WorkflowBuilder(start_executor=Asker(), name="asker").build()


def asking(store: MemoryStore | None = None, **options: Any) -> Any:
    return hosting(
        make,
        store,
        **{"checkpoint_types": [Plan, Ticket, "types:GenericAlias"], "question_timeout": LIFETIME, **options},
    )


@dataclass
class Clock:
    """The time of day, which a test moves on."""

    late: float = 0.0

    def pass_by(self, seconds: float) -> None:
        self.late += seconds


@pytest.fixture
def calendar(monkeypatch: pytest.MonkeyPatch) -> Clock:
    calendar, real = Clock(), time.time
    monkeypatch.setattr(time, "time", lambda: real() + calendar.late)
    return calendar


async def waiting_for(runtime: Runtime, session: str | None = "s") -> list[str]:
    return [question.question_id for question in (await runtime.get_session(request("", session))).questions]


# --- one question


async def test_a_workflow_that_asks_ends_its_turn_and_its_session_waits():
    async with asking() as runtime:
        asked = await runtime.ask(request("bool", name="t"))
        assert asked.result.get_final_state() == WorkflowRunState.IDLE_WITH_PENDING_REQUESTS
        (name,) = open_questions(asked)
        assert (await runtime.get_continuation("t")).state == "completed", "waiting is the session's, not the run's"
        session = await runtime.get_session(request(""))
        assert session.waiting
        (question,) = session.questions
        assert (question.question_id, question.kind) == (name, "input")
        assert question.expires - question.asked == LIFETIME
        assert told(session.messages) == [["bool"], ["function_call"]]
        answered = await runtime.ask(answering({name: "true"}))
        assert answered.result.get_outputs() == ["bool=True"]
        assert answered.result.get_final_state() == WorkflowRunState.IDLE
        session = await runtime.get_session(request(""))
        assert not session.waiting
        assert told(session.messages) == [["bool"], ["function_call"], ["function_result"], ["bool=True"]]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_question_survives_a_restart(stream: bool):
    store = MemoryStore()
    async with asking(store) as runtime:
        (name,) = open_questions(await runtime.ask(request("int", stream=False)))
    async with asking(store) as runtime:
        assert await waiting_for(runtime) == [name]
    async with asking(store) as runtime:
        async with runtime.turn(answering({name: "7"}, stream=stream)) as turn:
            answered = await turn.outcome()
        assert answered.result.get_outputs() == ["int=7"]
        assert await debris(store) == (set(), [])


async def test_a_question_survives_passivation():
    async with asking(idle_timeout=0.01, max_idle_actors=1) as runtime:
        (name,) = open_questions(await runtime.ask(request("int")))
        await runtime.ask(request("say hi", key="other"))
        await runtime.ask(request("say hi", key="another"))
        while runtime.statistics().actors.live > 1:  # noqa: ASYNC110 - nothing tells of it
            await trio.sleep(0.01)
        answered = await runtime.ask(answering({name: "7"}))
        assert answered.result.get_outputs() == ["int=7"]


@pytest.mark.parametrize("commit", range(4))
@pytest.mark.parametrize("durable", [False, True])
async def test_a_crash_between_question_and_answer_loses_neither(commit: int, durable: bool):
    store = CutStore()
    async with asking(store) as runtime:
        store.process()
        (name,) = open_questions(await runtime.ask(request("str@q1")))
        store.cut = (store.begun + commit, durable)
        with trio.CancelScope() as alive:
            store.on_cut = alive.cancel
            await runtime.ask(answering({name: "yes"}, name="t"))
    store.process()
    async with asking(store, max_attempts=9) as runtime:
        try:
            run = await runtime.get_continuation("t", wait=True)
        except NotFound:
            assert await waiting_for(runtime) == ["q1"]
            await runtime.ask(answering({name: "yes"}, name="t"))
            run = await runtime.get_continuation("t")
        assert run.result is not None, run.error
        assert run.result.text == "str@q1='yes'"
        assert await waiting_for(runtime) == []
        assert await refused(runtime.ask(answering({name: "yes"}))) == (409, "question_answered")
        assert await debris(store) == (set(), [])


# --- answers that do not fit


GOOD = [
    ("bool", "true", "True"),
    ("bool", "false", "False"),
    ("int", "7", "7"),
    ("float", "0.5", "0.5"),
    ("str", "just words", "'just words'"),
    ("str", "7", "'7'"),
    ("str", "", "''"),
    ("dict", '{"a": 1}', "{'a': 1}"),
    ("list", "[1, 2]", "[1, 2]"),
    ("plan", '{"steps": ["a"], "cost": 3}', "Plan(steps=['a'], cost=3)"),
    ("ticket", '{"title": "x"}', "Ticket(title='x', urgent=False)"),
]
BAD = [
    ("bool", "maybe"),
    ("bool", "12"),
    ("bool", "null"),
    ("int", "seven"),
    ("int", "1.5"),
    ("int", "{}"),
    ("int", ""),
    ("float", "much"),
    ("dict", "[1]"),
    ("dict", "words"),
    ("list", '["a"]'),
    ("list", "1"),
    ("plan", '{"cost": 3}'),
    ("plan", "[]"),
    ("ticket", '{"title": 1}'),
    ("ticket", "title"),
]


@pytest.mark.parametrize(("kind", "value", "heard"), GOOD)
async def test_an_answer_is_made_what_the_question_asks_for(kind: str, value: str, heard: str):
    async with asking() as runtime:
        (name,) = open_questions(await runtime.ask(request(kind)))
        assert (await runtime.ask(answering({name: value}))).result.get_outputs() == [f"{kind}={heard}"]


async def test_an_answer_that_does_not_fit_is_refused_and_the_question_stays():
    async with asking() as runtime:
        for number, (kind, value) in enumerate(BAD):
            session = f"s{number}"
            (name,) = open_questions(await runtime.ask(request(kind, session)))
            error = await complaint(runtime.ask(answering({name: value}, session)))
            assert (error.status, error.code, error.field) == (422, "invalid_answer", "input"), (kind, value)
            assert await waiting_for(runtime, session) == [name]
            good = next(value for one, value, _ in GOOD if one == kind)
            assert (await runtime.ask(answering({name: good}, session))).result.get_outputs()
    assert len(HEARD) == len(BAD), "nobody heard what did not fit"


async def test_an_answer_that_does_not_fit_names_what_is_wrong():
    async with asking() as runtime:
        (name,) = open_questions(await runtime.ask(request("plan")))
        error = await complaint(runtime.ask(answering({name: '{"cost": 3}'})))
        assert "Plan" in str(error)
        assert "steps" in str(error)


@pytest.mark.parametrize("value", ["[" * 100_000, '{"a":' * 100_000, '{"a":' * 500 + "1" + "}" * 500, "\ud800"])
async def test_an_answer_that_cannot_be_read_is_text(value: str):
    async with asking() as runtime:
        (name,) = open_questions(await runtime.ask(request("dict")))
        assert await refused(runtime.ask(answering({name: value}))) == (422, "invalid_answer")
        assert await waiting_for(runtime) == [name]


async def test_an_executor_may_want_the_content_itself():
    async with asking() as runtime:
        (name,) = open_questions(await runtime.ask(request("content")))
        assert (await runtime.ask(answering({name: "x"}))).result.get_outputs() == ["content='function_result'"]


async def test_a_yes_or_no_question_may_be_answered_by_an_approval():
    async with asking() as runtime:
        for approved in (True, False):
            (name,) = open_questions(await runtime.ask(request("bool")))
            assert (await runtime.ask(approving(name, approved))).result.get_outputs() == [f"bool={approved}"]


# --- two questions at once


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("restart", [False, True])
async def test_two_questions_are_answered_one_by_one_in_any_order(order: Sequence[int], restart: bool):
    store = MemoryStore()
    async with asking(store) as runtime:
        names = open_questions(await runtime.ask(request("int str")))
        assert await waiting_for(runtime) == names
        if not restart:
            await _one_by_one(runtime, names, order)
    if restart:
        async with asking(store) as runtime:
            await _one_by_one(runtime, names, order)
            assert await debris(store) == (set(), [])


async def _one_by_one(runtime: Runtime, names: Sequence[str], order: Sequence[int]) -> None:
    values, outputs = ("1", "b"), ("int=1", "str='b'")
    first, last = order
    half = await runtime.ask(answering({names[first]: values[first]}))
    assert half.result.get_outputs() == [outputs[first]]
    assert half.result.get_final_state() == WorkflowRunState.IDLE_WITH_PENDING_REQUESTS
    assert open_questions(half) == [], "it does not ask again"
    assert await waiting_for(runtime) == [names[last]]
    assert await refused(runtime.ask(answering({names[first]: values[first]}))) == (409, "question_answered")
    assert await refused(runtime.ask(request("say hi"))) == (409, "question_open")
    whole = await runtime.ask(answering({names[last]: values[last]}))
    assert whole.result.get_outputs() == [outputs[last]]
    assert whole.result.get_final_state() == WorkflowRunState.IDLE
    assert await waiting_for(runtime) == []
    assert (await runtime.ask(request("say hi"))).result.get_outputs() == ["said say hi after 2"]


async def test_two_questions_are_answered_together():
    async with asking() as runtime:
        one, two = open_questions(await runtime.ask(request("int str")))
        answered = await runtime.ask(answering({two: "b", one: "1"}))
        assert sorted(answered.result.get_outputs()) == ["int=1", "str='b'"]
        assert await waiting_for(runtime) == []


async def test_of_two_answers_one_that_is_wrong_spoils_both():
    async with asking() as runtime:
        one, two = open_questions(await runtime.ask(request("int str")))
        assert await refused(runtime.ask(answering({one: "x", two: "b"}))) == (422, "invalid_answer")
        assert await refused(runtime.ask(answering({one: "1", "nobody": "b"}))) == (400, "question_not_found")
        assert HEARD == []
        assert await waiting_for(runtime) == [one, two]
        await runtime.ask(answering({one: "1", two: "b"}))


async def test_an_answer_may_be_followed_by_another_question():
    async with asking() as runtime:
        (one,) = open_questions(await runtime.ask(request("str")))
        (two,) = open_questions(await runtime.ask(answering({one: "again"})))
        assert two != one
        assert await waiting_for(runtime) == [two]
        assert (await runtime.ask(answering({two: "done"}))).result.get_outputs() == ["str='done'"]


# --- answers to nothing, or twice


async def test_an_answer_to_nothing_is_refused():
    async with asking() as runtime:
        assert await refused(runtime.ask(answering({"nobody": "x"}))) == (400, "question_not_found")
        assert await refused(runtime.ask(approving("nobody"))) == (400, "question_not_found")
        (name,) = open_questions(await runtime.ask(request("str")))
        assert await refused(runtime.ask(answering({"nobody": "x"}))) == (400, "question_not_found")
        assert await refused(runtime.ask(answering({name: "x"}, "t"))) == (400, "question_not_found"), "not its session"
        assert await refused(runtime.ask(answering({name: "x"}, key="eve"))) == (400, "question_not_found")
        assert await waiting_for(runtime) == [name]


async def test_an_answer_twice_is_refused_also_after_a_restart():
    store = MemoryStore()
    async with asking(store) as runtime:
        (name,) = open_questions(await runtime.ask(request("str")))
        await runtime.ask(answering({name: "x"}))
        assert await refused(runtime.ask(answering({name: "x"}))) == (409, "question_answered")
    async with asking(store) as runtime:
        assert await refused(runtime.ask(answering({name: "y"}))) == (409, "question_answered")
    assert HEARD == [("str", "x")]


async def test_of_answers_at_once_one_is_heard():
    outcomes: list[Any] = []
    async with asking() as runtime:
        (name,) = open_questions(await runtime.ask(request("int")))

        async def answer(number: int) -> None:
            try:
                outcomes.append((await runtime.ask(answering({name: str(number)}))).result.get_outputs())
            except Exception as exc:  # noqa: BLE001 - looked at below
                outcomes.append(getattr(exc, "code", exc))

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(answer, number)
    assert outcomes.count("question_answered") == 7
    assert len(HEARD) == 1


async def test_two_questions_may_be_answered_at_once_by_two():
    async with asking() as runtime:
        names = open_questions(await runtime.ask(request("int str")))
        async with trio.open_nursery() as nursery:
            for name, value in zip(names, ("1", "b"), strict=True):
                nursery.start_soon(runtime.ask, answering({name: value}))
        assert await waiting_for(runtime) == []
    assert sorted(word for word, _ in HEARD) == ["int", "str"]


async def test_an_answer_in_the_background_may_be_refused_as_a_failed_run():
    async with asking() as runtime:
        (name,) = open_questions(await runtime.ask(request("int")))
        tokens = [await runtime.submit(answering({name: value})) for value in ("1", "2")]
        runs = [await runtime.get_continuation(token, wait=True) for token in tokens]
        assert [run.state for run in runs] == ["completed", "failed"]
        assert runs[1].error is not None
        assert runs[1].error[0] == "question_answered"


# --- ordinary messages


async def test_an_ordinary_message_while_a_question_waits_is_refused_with_what_waits():
    async with asking() as runtime:
        (name,) = open_questions(await runtime.ask(request("str")))
        error = await complaint(runtime.ask(request("say hi")))
        assert (error.status, error.code) == (409, "question_open")
        assert name in str(error)
        assert await waiting_for(runtime) == [name]
        assert (await runtime.ask(request("say hi", "t"))).result.get_outputs() == ["said say hi after 0"]
        assert (await runtime.ask(answering({name: "x"}))).result.get_outputs() == ["str='x'"]


async def test_an_answer_and_a_message_together_are_refused():
    async with asking() as runtime:
        (name,) = open_questions(await runtime.ask(request("str")))
        text = {"type": "message", "role": "user", "contents": [{"type": "text", "text": "and hello"}]}
        answer = {"type": "message", "role": "tool", "contents": [result(name, "x")]}
        for messages in ([answer, text], [text, answer]):
            assert await refused(runtime.ask(request(messages))) == (422, "mixed_input")
        both = request([result(name, "x"), {"type": "text", "text": "hello"}])
        assert await refused(runtime.ask(both)) == (422, "mixed_input")
        assert await waiting_for(runtime) == [name]
        assert HEARD == []


async def test_a_call_with_its_own_result_is_a_story_and_no_answer():
    async with asking() as runtime:
        call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
        story = [
            {"type": "message", "role": "assistant", "contents": [call]},
            {"type": "message", "role": "tool", "contents": [result("c1", "x")]},
            {"type": "message", "role": "user", "contents": [{"type": "text", "text": "say hi"}]},
        ]
        assert (await runtime.ask(request(story))).result.get_outputs() == ["said say hi after 0"]


# --- expiry


@pytest.mark.parametrize("restart", [False, True])
async def test_a_question_that_expired_cannot_be_answered_and_the_conversation_goes_on(calendar: Clock, restart: bool):
    store = MemoryStore()
    async with asking(store) as runtime:
        (old,) = open_questions(await runtime.ask(request("str")))
        await runtime.ask(answering({old: "x"}))
        (name,) = open_questions(await runtime.ask(request("str@q")))
        calendar.pass_by(LIFETIME - 1)
        assert await waiting_for(runtime) == [name]
        assert await refused(runtime.ask(request("say hi"))) == (409, "question_open")
        calendar.pass_by(2)
        if not restart:
            await _after_expiry(runtime, name)
    async with asking(store) as runtime:
        if restart:
            await _after_expiry(runtime, name)
        assert await debris(store) == (set(), [])


async def _after_expiry(runtime: Runtime, name: str) -> None:
    assert await waiting_for(runtime) == []
    assert await refused(runtime.ask(answering({name: "x"}))) == (409, "question_expired")
    went_on = await runtime.ask(request("say hi"))
    assert went_on.result.get_outputs() == ["said say hi after 1"]
    assert went_on.result.get_final_state() == WorkflowRunState.IDLE, "nothing is pending in it, either"
    assert await refused(runtime.ask(answering({name: "x"}))) == (409, "question_expired")
    again = await runtime.ask(request("str@q"))
    assert open_questions(again) == ["q"], "its name can be used again"
    assert await waiting_for(runtime) == ["q"]
    assert (await runtime.ask(answering({"q": "y"}))).result.get_outputs() == ["str@q='y'"]


async def test_a_message_that_asks_by_the_name_of_an_expired_question_asks(calendar: Clock):
    async with asking() as runtime:
        await runtime.ask(request("str@q"))
        calendar.pass_by(LIFETIME + 1)
        assert open_questions(await runtime.ask(request("int@q"))) == ["q"]
        assert await waiting_for(runtime) == ["q"]
        assert (await runtime.ask(answering({"q": "5"}))).result.get_outputs() == ["int@q=5"]


async def test_of_two_questions_one_may_be_answered_before_both_expire(calendar: Clock):
    async with asking() as runtime:
        one, two = open_questions(await runtime.ask(request("int str")))
        await runtime.ask(answering({one: "1"}))
        calendar.pass_by(LIFETIME + 1)
        assert await refused(runtime.ask(answering({two: "b"}))) == (409, "question_expired")
        assert (await runtime.ask(request("say hi"))).result.get_outputs() == ["said say hi after 1"]


@pytest.mark.parametrize("commit", [None, 0, 1])
async def test_a_question_that_expired_before_another_was_answered_is_given_up(calendar: Clock, commit: int | None):
    """Or else the workflow would still wait for it, and would ask it anew after a crash."""
    store = CutStore()
    async with asking(store) as runtime:
        store.process()
        one, two = open_questions(await runtime.ask(request("str str")))
        calendar.pass_by(LIFETIME / 2)
        (again,) = open_questions(await runtime.ask(answering({one: "again"})))
        calendar.pass_by(LIFETIME / 2 + 1)
        assert await waiting_for(runtime) == [again]
        await runtime.ask(answering({again: "fine"}))
        assert await refused(runtime.ask(answering({two: "x"}))) == (409, "question_expired")
        if commit is not None:
            store.cut = (store.begun + commit, True)
        with trio.CancelScope() as alive:
            store.on_cut = alive.cancel
            await runtime.ask(request("say hi", name="t"))
    store.process()
    async with asking(store) as runtime:
        run = await runtime.get_continuation("t", wait=True)
        assert run.result is not None
        assert told([message.to_dict() for message in run.result.messages]) == [["said say hi after 2"]]
        assert await waiting_for(runtime) == []
        assert (await state_of_session(store))["pending"] == 0
        assert await refused(runtime.ask(answering({two: "x"}))) == (409, "question_expired")
        questions = [one for name, one in (await documents_of(store)).items() if name.startswith("question")]
        assert len(questions) == 3
        assert not any(Asked.decode(one).content for one in questions), "what it asked is gone"


async def test_questions_that_nobody_will_ask_about_are_forgotten(calendar: Clock):
    store = MemoryStore()
    async with asking(store) as runtime:
        for _ in range(5):
            await runtime.ask(request("str"))
            calendar.pass_by(LIFETIME + 1)
        calendar.pass_by(LIFETIME * 2)
    async with asking(store) as runtime:
        await runtime.ask(request("str"))
        names = [name for name in await documents_of(store) if name.startswith("question")]
        assert len(names) == 1


async def questions_of(store: MemoryStore) -> list[str]:
    return [name for name in await documents_of(store) if name.startswith("question")]


async def test_questions_do_not_become_more_and_more_of_an_actor_that_never_rests(calendar: Clock):
    store = MemoryStore()
    async with asking(store) as runtime:
        for _ in range(20):
            (name,) = open_questions(await runtime.ask(request("str")))
            await runtime.ask(answering({name: "x"}))
            calendar.pass_by(LIFETIME)
        assert len(await questions_of(store)) <= 4


async def test_questions_are_forgotten_also_where_they_are_not_among_the_first(calendar: Clock):
    store = MemoryStore()
    async with asking(store) as runtime:
        await runtime.ask(request("say hi"))
        claim, now = await store.claim("ada"), time.time()
        for page in range(14):
            asked = {f"question/q{page:02}{at:02}": now if page < 11 else 0.0 for at in range(100)}
            put = {name: Asked("q", "input", "", at).encode() for name, at in asked.items()}
            await store.commit(claim, Commit(put=put))
        for _ in range(16):
            (name,) = open_questions(await runtime.ask(request("str")))
            await runtime.ask(answering({name: "x"}))
        assert len(await questions_of(store)) == 1100 + 16


# --- names that executors choose


async def test_a_name_may_be_used_in_every_session():
    async with asking() as runtime:
        for session in ("s", "t"):
            assert open_questions(await runtime.ask(request("int@q", session))) == ["q"]
        assert (await runtime.ask(answering({"q": "1"}, "s"))).result.get_outputs() == ["int@q=1"]
        assert await waiting_for(runtime, "t") == ["q"]
        assert (await runtime.ask(answering({"q": "2"}, "t"))).result.get_outputs() == ["int@q=2"]
        assert (await refused(runtime.ask(answering({"q": "2"}, "s"))))[1] == "question_answered"


async def test_a_name_may_be_used_in_a_later_turn():
    async with asking() as runtime:
        for value in ("1", "2", "3"):
            assert open_questions(await runtime.ask(request("int@q"))) == ["q"]
            assert (await runtime.ask(answering({"q": value}))).result.get_outputs() == [f"int@q={value}"]


async def test_a_name_may_be_used_again_by_the_turn_that_its_answer_begins():
    """As of "shall I change it again?"."""
    store = MemoryStore()
    async with asking(store) as runtime:
        await runtime.ask(request("str@q"))
        for _ in range(3):
            assert open_questions(await runtime.ask(answering({"q": "again"}))) == ["q"]
            assert await waiting_for(runtime) == ["q"]
        assert (await runtime.ask(answering({"q": "done"}))).result.get_outputs() == ["str@q='done'"]
        assert await waiting_for(runtime) == []


# --- the head


async def test_a_workflow_goes_on_only_from_its_head():
    async with asking() as runtime:
        await runtime.ask(request("say one", None, name="r1"))
        await runtime.ask(request("say two", None, after="r1", name="r2"))
        assert await refused(runtime.ask(request("say no", None, after="r1"))) == (409, "not_the_head")
        asked = await runtime.ask(request("int", None, after="r2", name="r3"))
        (name,) = open_questions(asked)
        for point in ("r1", "r2"):
            assert await refused(runtime.ask(answering({name: "1"}, None, after=point))) == (409, "not_the_head")
        answered = await runtime.ask(answering({name: "1"}, None, after="r3", name="r4"))
        assert answered.result.get_outputs() == ["int=1"]
        assert answered.session_id == asked.session_id
        assert await refused(runtime.ask(answering({name: "1"}, None, after="r3"))) == (409, "question_answered")
        assert await refused(runtime.ask(request("say no", None, after="r3"))) == (409, "not_the_head")


@pytest.mark.parametrize("how", ["turn", "reminder", "reminded turn"])
async def test_what_has_no_name_leaves_the_head_where_it_is(how: str):
    """Who knows the latest name sees what came after it, and answers what it asks."""

    async def act(text: str, ctx: Any) -> None:
        if text == "remind me" and how != "turn":
            turn = get_current_turn()
            assert turn is not None
            await turn.schedule(timedelta(0), "say later", as_turn=how == "reminded turn")
        await ctx.yield_output(f"said {text}")

    async with hosting(lambda: WorkflowBuilder(start_executor=Once(act), name="once").build()) as runtime:
        first = await runtime.ask(request("remind me", None, name="r1"))
        if how == "turn":
            await runtime.ask(request("say later", None, after="r1"))
        while await runtime.list_reminders("ada"):
            await trio.lowlevel.checkpoint()
        second = await runtime.ask(request("thanks", None, after="r1", name="r2"))
        assert second.session_id == first.session_id
        assert await refused(runtime.ask(request("no", None, after="r1"))) == (409, "not_the_head")
        later = [["say later"]] if how == "reminder" else [["say later"], ["said say later"]]
        session = await runtime.get_session(request("", None, after="r2"))
        assert told(session.messages) == [["remind me"], ["said remind me"], *later, ["thanks"], ["said thanks"]]


async def test_a_turn_without_a_name_may_ask_who_continues_from_the_latest_name():
    async with asking() as runtime:
        await runtime.ask(request("say one", None, name="r1"))
        (name,) = open_questions(await runtime.ask(request("int", None, after="r1")))
        assert await refused(runtime.ask(request("say two", None, after="r1"))) == (409, "question_open")
        answered = await runtime.ask(answering({name: "1"}, None, after="r1", name="r2"))
        assert answered.result.get_outputs() == ["int=1"]


# --- an answer whose turn fails


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_whose_turn_fails_leaves_the_question_open(stream: bool):
    store = MemoryStore()
    async with asking(store) as runtime:
        (name,) = open_questions(await runtime.ask(request("str")))
        before = await documents_of(store)
        assert (await refused(runtime.ask(answering({name: "fail"}, stream=stream))))[0] == 500
        assert await documents_of(store) == before
        assert await debris(store) == (set(), [])
        assert await waiting_for(runtime) == [name]
        assert (await runtime.ask(answering({name: "fine"}))).result.get_outputs() == ["str='fine'"]


# --- sessions that go


async def test_deleting_a_session_takes_its_questions_and_checkpoints():
    store = MemoryStore()
    async with asking(store) as runtime:
        await runtime.ask(request("say hi", "other"))
        left = set(await documents_of(store)), set(logs_of(store))
        for answered in (False, True):
            (name,) = open_questions(await runtime.ask(request("str")))
            if answered:
                await runtime.ask(answering({name: "x"}))
            await runtime.edit_session(request(""), SessionEdit(delete=True))
            assert (await refused(runtime.ask(answering({name: "x"}))))[1] in (
                ("question_not_found", "question_answered") if answered else ("question_not_found",)
            )
            documents = {name for name in await documents_of(store) if not (answered and name.startswith("question"))}
            assert (documents, set(logs_of(store))) == left
        assert (await runtime.ask(request("say hi"))).result.get_outputs() == ["said say hi after 0"]


async def test_forgetting_the_response_that_asks_takes_its_question_and_checkpoints():
    store = MemoryStore()
    async with asking(store) as runtime:
        await runtime.ask(request("say hi", None, name="other"))
        left = set(await documents_of(store)), set(logs_of(store))
        asked = await runtime.ask(request("str", None, name="r1"))
        assert asked.isolation_key == "ada"
        await runtime.forget("r1")
        assert (set(await documents_of(store)), set(logs_of(store))) == left


async def test_forgetting_the_latest_response_does_not_lose_the_conversation():
    """What the session goes back to must be there, or be refused; the actor does not crash over it."""
    store = MemoryStore()
    async with asking(store, max_checkpoints=2) as runtime:
        names = [f"r{number}" for number in range(4)]
        for after, name in zip([None, *names], names, strict=False):
            await runtime.ask(request(f"say {name}", None, after=after, name=name))
        await runtime.forget("r3")
        error = await maybe(runtime.ask(request("say on", None, after="r2", name="on")))
        assert error is None or error.status in (404, 409), error
        assert (await runtime.ask(request("say fresh", "fresh"))).result.get_outputs()
        assert runtime.statistics().actors.restarts == 0


# --- functional workflows


def functional() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is experimental")
        from agent_framework import workflow

        @workflow
        async def survey(text: str, ctx: RunContext) -> str:
            name = await ctx.request_info("your name?", str)
            age = await ctx.request_info("your age?", int)
            return f"{text}: {name} is {age}"

    return survey


async def test_a_functional_workflow_may_ask_one_question_after_the_other():
    store = MemoryStore()
    for _ in range(2):
        async with hosting(functional(), store) as runtime:
            (name,) = open_questions(await runtime.ask(request("hello")))
        async with hosting(functional(), store) as runtime:
            (age,) = open_questions(await runtime.ask(answering({name: "Ada"})))
            assert await waiting_for(runtime) == [age]
            assert await refused(runtime.ask(answering({age: "old"}))) == (422, "invalid_answer")
        async with hosting(functional(), store) as runtime:
            assert (await runtime.ask(answering({age: "36"}))).result.get_outputs() == ["hello: Ada is 36"]
            assert await waiting_for(runtime) == []
            assert await debris(store) == (set(), [])


async def test_a_functional_workflow_forgets_an_expired_question(calendar: Clock):
    async with hosting(functional(), question_timeout=LIFETIME) as runtime:
        (name,) = open_questions(await runtime.ask(request("hello")))
        calendar.pass_by(LIFETIME + 1)
        assert await refused(runtime.ask(answering({name: "Ada"}))) == (409, "question_expired")
        (name,) = open_questions(await runtime.ask(request("again")))
        (age,) = open_questions(await runtime.ask(answering({name: "Eve"})))
        assert (await runtime.ask(answering({age: "1"}))).result.get_outputs() == ["again: Eve is 1"]


async def test_without_a_session_nobody_could_answer():
    store = MemoryStore()
    async with asking(store) as runtime:
        done = await runtime.ask(request("say hi", None, session_mode="disabled"))
        assert done.result.get_outputs() == ["said say hi after 0"]
        asked = await runtime.ask(request("str", None, session_mode="disabled"))
        assert await refused(runtime.ask(answering({open_questions(asked)[0]: "x"}))) == (400, "question_not_found")
        assert await debris(store) == (set(), [])
        assert [name for name in await documents_of(store) if name.startswith("question")] == []


async def test_a_functional_workflow_that_changed_cannot_be_answered_and_loses_nothing():
    store = MemoryStore()

    def changed() -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is experimental")
            from agent_framework import step, workflow

            @step
            async def loud(text: str) -> str:
                return text.upper()

            @workflow(name="survey")
            async def survey(text: str, ctx: RunContext) -> str:
                return await loud(await ctx.request_info("your name?", str))

        return survey

    async with hosting(functional(), store) as runtime:
        (name,) = open_questions(await runtime.ask(request("hello")))
    async with hosting(changed(), store) as runtime:
        assert (await refused(runtime.ask(answering({name: "Ada"}))))[0] == 500
        assert await waiting_for(runtime) == [name]
        assert await debris(store) == (set(), [])
    async with hosting(functional(), store) as runtime:
        (age,) = open_questions(await runtime.ask(answering({name: "Ada"})))
        assert (await runtime.ask(answering({age: "36"}))).result.get_outputs() == ["hello: Ada is 36"]
