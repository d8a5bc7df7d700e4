"""The hosted workflow: an instance for each session, run and resumed behind the bridge."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from copy import copy
from typing import Any, cast

from agent_framework import (
    AgentSession,
    Content,
    Message,
    ResponseStream,
    Workflow,
    WorkflowCheckpoint,
    WorkflowCheckpointException,
    WorkflowEvent,
    WorkflowRunResult,
)

from afactors_channels import ChannelRequest, Conflicting, TargetFailed
from afactors_channels.workflows import question_content, question_id, question_named, response_of, updates_of

from .bridge import Bridge, BridgeStream
from .checkpoints import Steps, TurnCheckpoints
from .entries import check_entry, entry, fitted, input_types
from .history import Point, ReadLog
from .instances import AnyWorkflow, Instances
from .ledger import WorkflowSession, checkpoints_name
from .questions import Answer, Asked, answering_contents, approval_of, asked, invalid_answer, spoken
from .target import Desk, Outcome, T, declaration, input_messages
from .turn import Turn

logger = logging.getLogger("afactors.target")


class WorkflowTarget:
    """A workflow at work behind the bridge.

    Args:
        bridge: Whose thread it runs in.
        instances: Makes them.
        allowed: Types that a checkpoint may hold beside the framework's own.
        keep: How many checkpoints of a session are kept.
    """

    durable = True
    branches = False

    def __init__(self, bridge: Bridge, instances: Instances, *, allowed: frozenset[str], keep: int) -> None:
        self._bridge = bridge
        self._instances = instances
        self._allowed = allowed
        self._keep = keep
        self._types = input_types(instances.prototype)

    @property
    def hosted(self) -> AnyWorkflow:
        """The workflow itself, for hooks that look at it; it is never run."""
        return self._instances.prototype

    @property
    def name(self) -> str:
        """The workflow's name."""
        return self.hosted.name

    def scope(self, session_id: str) -> str:
        """What the ids of a session's questions are unique in: a workflow may choose them."""
        return session_id

    def check(self, request: ChannelRequest) -> ChannelRequest:
        """Refuse what the workflow cannot take; answers are looked at when it is their turn.

        Raises:
            Unprocessable: The input does not fit what the first executor takes.
        """
        if request.payload is None and answering_contents(request.input):
            return request
        return check_entry(self._types, request)

    def documents(self, session_id: str) -> list[str]:
        """What is read of a session beside its point."""
        return [checkpoints_name(session_id)]

    async def wake(self, point: Point, documents: Mapping[str, bytes], _read: ReadLog) -> WorkflowSession:
        """A session in memory, without an instance."""
        return WorkflowSession.stored(point, documents)

    async def in_trio(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Make a call in trio, from wherever the target runs."""
        return await (self._bridge.call_trio(call, *args) if self._bridge.inside else call(*args))

    async def remember(self, _session: AgentSession, _messages: Sequence[Message]) -> None:
        """A workflow knows its past from its own state.

        Raises:
            Conflicting: Always.
        """
        raise Conflicting("A workflow's conversation cannot be edited.", field="session", code="workflow_session")

    async def perform(self, turn: Turn, live: WorkflowSession | None, desk: Desk) -> Outcome:
        """One turn: a message, answers, or the rest of a turn that was cut off.

        Raises:
            HostError: The turn's input does not fit, or a checkpoint cannot be stored or restored.
        """
        session = live or WorkflowSession(Point(""))
        checkpoints = TurnCheckpoints(
            session.kept,
            turn.steps or Steps(),
            self._allowed,
            self._keep,
            desk.write,
            desk.read,
            self._bridge.call_trio,
            turn.run_id,
            turn.remembered,
            lambda checkpoint: run.goes_on(checkpoint),
        )
        run = _Run(self._instances, self._types, session, turn, checkpoints)
        try:
            stream: BridgeStream[WorkflowEvent[Any], None]
            async with self._bridge.stream(run.events) as stream:
                async for events in stream:
                    updates = [update for event in events for update in updates_of(event)]
                    if updates and turn.request.stream:
                        await desk.publish(updates)
        except WorkflowCheckpointException as exc:
            logger.warning("turn %s: a checkpoint cannot be restored", turn.run_id, exc_info=exc)
            raise TargetFailed("The workflow's checkpoint cannot be restored.", code="checkpoint_refused") from exc
        finally:
            checkpoints.closed = True
            turn.steps = checkpoints.steps
        return self._outcome(turn, session, run, checkpoints)

    def _outcome(self, turn: Turn, session: WorkflowSession, run: _Run, checkpoints: TurnCheckpoints) -> Outcome:
        said = [event for event in run.seen if event.type not in ("started", "status")]
        result = WorkflowRunResult(said, [event for event in run.seen if event.type == "status"])
        response = response_of(result)
        session.said([*turn.messages, *response.messages], checkpoints.adopted())
        questions = [_asked(event) for event in said if event.type == "request_info"]
        if questions:
            session.instance = None  # people take their time, and it is brought back for the answer
        return Outcome(result, response, questions)


def _asked(event: WorkflowEvent[Any]) -> Asked:
    content = question_content(event)
    return asked(content, question_id(content), request_id=event.request_id)


class _Run:
    """One run of a workflow. For the asyncio thread.

    Attributes:
        seen: Every event of the turn, with those of attempts that were cut off.
    """

    def __init__(
        self,
        instances: Instances,
        types: Sequence[Any],
        session: WorkflowSession,
        turn: Turn,
        checkpoints: TurnCheckpoints,
    ) -> None:
        self._instances = instances
        self._types = types
        self._session = session
        self._turn = turn
        self._checkpoints = checkpoints
        self._known: set[str] = set()  # requests that were asked before
        self._names = {one: "" for one in session.point.questions if turn.answers and one not in turn.answers}
        self._begun = False
        self.seen: list[WorkflowEvent[Any]] = []

    def goes_on(self, checkpoint: WorkflowCheckpoint) -> bool:
        """Whether a superstep is behind a checkpoint, and another one before it.

        A functional workflow's checkpoints say nothing about that; there is one for each of its steps.
        """
        return (self._begun and bool(checkpoint.messages)) or "_step_cache" in checkpoint.state

    async def events(self) -> AsyncGenerator[WorkflowEvent[Any], None]:
        """The events of the turn, as they come."""
        messages = input_messages(self._turn)
        for event in await self._checkpoints.told():
            if event.type == "request_info":
                self._known.add(event.request_id)
            yield self._noted(event)
        async for event in self._driven(messages):
            yield self._noted(event)
        for event in self._asked_again():
            yield self._noted(event)

    def _noted(self, event: WorkflowEvent[Any]) -> WorkflowEvent[Any]:
        """An event as it is told. Models of several agents may call their calls the same: each question has a name."""
        if event.type == "request_info" and isinstance(event.data, Content):
            name = question_id(question_content(event))
            if self._names.setdefault(name, event.request_id) != event.request_id:
                event = copy(event)
                event.data = question_named(event.data, event.request_id)
        self.seen.append(event)
        return event

    def _asked_again(self) -> list[WorkflowEvent[Any]]:
        """Requests that were answered and made again by the same name: the framework does not tell of these."""
        ids = [answer.question.request_id for answer in self._turn.answers.values()]
        said = {event.request_id for event in self.seen if event.type == "request_info"}
        return [self._checkpoints.pending[one] for one in ids if one in self._checkpoints.pending and one not in said]

    async def _driven(self, messages: list[Message]) -> AsyncGenerator[WorkflowEvent[Any], None]:
        session = self._session
        cold = session.instance is None
        workflow = session.instance = session.instance or await self._instances.make()
        steps, cursor = self._checkpoints.steps.kept, session.point.checkpoint
        if cursor is not None and session.point.questions and (self._turn.answers or not steps):
            # A message has given them up by its first step, and what it asks may have the same ids.
            self._known |= (await self._checkpoint(cursor)).pending_request_info_events.keys()
        if steps:
            last = await self._checkpoint(steps[-1].checkpoint_id)
            again = {"responses": found} if (found := last.state.get(_RESPONSES)) else {}
            runs: list[AsyncIterator[WorkflowEvent[Any]]] = [
                self._run(workflow, checkpoint_id=last.checkpoint_id, **again)
            ]
        elif self._turn.answers:
            assert cursor is not None  # noqa: S101 - there is a question, so there was a turn
            runs = [self._run(workflow, responses=await self._responses(cursor), checkpoint_id=cursor)]
        else:
            runs = [self._given_up(workflow, cursor, cold), self._run(workflow, entry_of=messages)]
        for run in runs:
            async for event in run:
                yield event

    async def _given_up(
        self, workflow: AnyWorkflow, cursor: str | None, cold: bool
    ) -> AsyncGenerator[WorkflowEvent[Any], None]:
        """Bring the workflow back to where it was, without the questions that it is too late to answer."""
        if cursor is None or not isinstance(workflow, Workflow):
            return
        if self._session.point.questions:
            waiting = set((await self._checkpoint(cursor)).pending_request_info_events)
            result = await workflow.cancel_pending_requests(
                waiting, checkpoint_id=cursor, checkpoint_storage=self._checkpoints
            )
            for event in result:
                if event.type != "request_info" or event.request_id not in self._known:
                    self._checkpoints.note(event)
                    yield event
        elif cold:
            await self._checkpoint(cursor)
            storage = cast("Any", _Restoring(self._checkpoints, cursor))
            async for _ in workflow.run(checkpoint_id=cursor, checkpoint_storage=storage, stream=True):
                pass

    async def _run(
        self, workflow: AnyWorkflow, *, entry_of: list[Message] | None = None, **how: Any
    ) -> AsyncGenerator[WorkflowEvent[Any], None]:
        if entry_of is not None:
            how["message"] = entry(self._types, self._turn.request, entry_of)
            self._known.clear()  # nothing waits any more, and ids may be used again
        if self._turn.request.tools and isinstance(workflow, Workflow):
            how["tools"] = [declaration(tool) for tool in self._turn.request.tools]
        if (checkpoint_id := how.get("checkpoint_id")) is not None:
            await self._checkpoint(checkpoint_id)
        storage: Any = self._checkpoints
        if not isinstance(workflow, Workflow):
            storage = _Answered(self._checkpoints, how.get("responses") or {})
        streaming = self._turn.request.stream
        async for event in _events_of(workflow, stream=streaming, checkpoint_storage=storage, **how):
            self._checkpoints.check(event)
            if event.type == "request_info":
                if event.request_id in self._known:
                    continue
                self._known.add(event.request_id)
            self._begun = self._begun or event.type == "superstep_started"
            if isinstance(workflow, Workflow):  # a functional one says everything again
                self._checkpoints.note(event)
            yield event
        if self._checkpoints.failure is not None:
            raise self._checkpoints.failure

    async def _checkpoint(self, checkpoint_id: str) -> WorkflowCheckpoint:
        """A checkpoint, looked at before the framework does: what it holds may have to be refused."""
        return await self._checkpoints.peek(checkpoint_id)

    async def _responses(self, cursor: str) -> dict[str, Any]:
        checkpoint = await self._checkpoint(cursor)
        pending, responses = checkpoint.pending_request_info_events, dict(checkpoint.state.get(_RESPONSES) or {})
        for answer in self._turn.answers.values():
            request = pending.get(answer.question.request_id)
            if request is None:
                raise Conflicting("This question was answered.", field="input", code="question_answered")
            responses[answer.question.request_id] = _response(answer, request)
        return responses


_RESPONSES = "_afactors_responses"


class _Answered:
    """Storage that keeps with each checkpoint of a functional workflow what was answered: it begins again, and asks."""

    def __init__(self, checkpoints: TurnCheckpoints, responses: Mapping[str, Any]) -> None:
        self._checkpoints = checkpoints
        self._responses = responses

    def __getattr__(self, name: str) -> Any:
        return getattr(self._checkpoints, name)

    async def save(self, checkpoint: WorkflowCheckpoint) -> str:
        """Store a checkpoint."""
        if self._responses:
            checkpoint.state[_RESPONSES] = dict(self._responses)
        return await self._checkpoints.save(checkpoint)


class _Restoring:
    """Storage for bringing a workflow back to a checkpoint: nothing happens then that would have to be stored."""

    def __init__(self, checkpoints: TurnCheckpoints, cursor: str) -> None:
        self._checkpoints = checkpoints
        self._cursor = cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._checkpoints, name)

    async def save(self, _checkpoint: WorkflowCheckpoint) -> str:
        """What is saved is what is there."""
        return self._cursor


async def _events_of(workflow: AnyWorkflow, *, stream: bool, **how: Any) -> AsyncGenerator[WorkflowEvent[Any], None]:
    """A run's events as they come, also those of a run whose agents do not stream."""
    run = cast("Any", workflow.run)
    if not stream and not isinstance(workflow, Workflow):
        for event in await run(include_status_events=True, **how):
            yield event
        return
    made = run(stream=stream, **how)
    events: ResponseStream[WorkflowEvent[Any], WorkflowRunResult] = made
    if not stream:
        # What `run` gives is the end of this stream, which it keeps as the sign that it runs. The events are wanted one
        # by one, because those of a superstep are stored with its checkpoint.
        events = cast("Any", workflow)._active_run()
        made.close()
    try:
        async for event in events:
            yield event
    finally:
        await events.close()


def _response(answer: Answer, request: WorkflowEvent[Any]) -> Any:
    """An answer as the executor wants it.

    Raises:
        Unprocessable: It does not fit.
    """
    wanted, content = request.response_type, answer.content
    if isinstance(request.data, Content) and request.data.type == "function_approval_request":
        return request.data.to_function_approval_response(approval_of(answer))
    if wanted is Content:
        called = request.data.call_id if isinstance(request.data, Content) else None
        return Content.from_dict({**content, "call_id": called} if called and "call_id" in content else dict(content))
    if content["type"] == "function_approval_response":
        return fitted_answer(wanted, bool(content.get("approved")))
    if wanted is str:
        return str(content.get("result") or "")
    return fitted_answer(wanted, spoken(content))


def fitted_answer(wanted: Any, value: Any) -> Any:
    """A value as one of the type that a question asks for.

    Raises:
        Unprocessable: It is none.
    """
    try:
        return fitted(wanted, value)
    except ValueError as exc:
        name = getattr(wanted, "__name__", None) or str(wanted)
        raise invalid_answer(f"The answer is no {name}: {exc}") from exc
