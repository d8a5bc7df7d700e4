"""A workflow's checkpoints in the actor's store: a log for each, and a list of those that are kept.

Checkpoints belong to a session; "the latest" is never another one's. What a turn saves is provisional: it is listed
under the turn's run, adopted by the turn's commit, and dropped if the turn fails. The outputs and questions of a turn's
earlier supersteps are in no checkpoint of the framework's; they are kept beside them, so that a turn that was cut off
says all of it when it goes on.
"""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

from agent_framework import WorkflowCheckpoint, WorkflowCheckpointException, WorkflowEvent

from afactors_channels import HostError, TargetFailed
from afactors_store import Append, Commit

from .encoding import NotStorable, pack, unpack
from .history import ReadLog
from .pickling import checked_type, decode, encode
from .points import new_log
from .remembering import Remembered

logger = logging.getLogger("afactors.checkpoints")

VERSION = 1

Write: TypeAlias = Callable[[Commit], Awaitable[object]]

# What is told again if the turn goes on elsewhere, and what only tells where an executor began and ended.
_TOLD = frozenset({"output", "intermediate", "data", "request_info"})
_RAN = frozenset({"executor_invoked", "executor_completed"})

_TYPE_NAME = re.compile(r"'([\w.]+:[\w.<>]+)'")


class Kept(NamedTuple):
    """A checkpoint that is in the store."""

    checkpoint_id: str
    log: int
    workflow: str


@dataclass(frozen=True, slots=True)
class Steps:
    """What a turn has written of its progress.

    Attributes:
        kept: Its checkpoints that are still there, the newest last.
        told: (log, rows) of what it has said so far; None if nothing was written.
    """

    kept: Sequence[Kept] = ()
    told: tuple[int, int] | None = None

    def encode(self) -> bytes:
        """As a versioned msgpack map."""
        return pack({"v": VERSION, "c": [list(one) for one in self.kept], "e": self.told}, "steps")

    @classmethod
    def decode(cls, data: bytes) -> Steps:
        """Read what `encode` wrote."""
        record = unpack(data)
        told = record["e"]
        return cls([Kept(*one) for one in record["c"]], (told[0], told[1]) if told else None)

    def logs(self) -> set[int]:
        """Every log of it."""
        logs = {one.log for one in self.kept}
        return logs | {self.told[0]} if self.told else logs


def steps_name(run_id: str) -> str:
    """The document that holds a run's `Steps`."""
    return f"steps/{run_id}"


def encode_kept(kept: Iterable[Kept]) -> bytes:
    """The list of a session's checkpoints, as its document has it."""
    return pack({"v": VERSION, "c": [list(one) for one in kept]}, "checkpoints")


def decode_kept(document: bytes | None) -> list[Kept]:
    """What `encode_kept` wrote."""
    return [Kept(*one) for one in unpack(document)["c"]] if document is not None else []


@dataclass(frozen=True, slots=True)
class Adopted:
    """What a turn's commit does with its checkpoints."""

    kept: Sequence[Kept]
    append: Sequence[Append]
    drop: Sequence[int]


@dataclass(slots=True)
class TurnCheckpoints:
    """The framework's `CheckpointStorage` for one turn. For the asyncio thread.

    A save is durable when it returns, but for one before the first superstep and one after the last: they go with the
    next one, or with the turn's commit, and there is nothing yet, or nothing any more, that would have to be repeated.

    Attributes:
        committed: The session's checkpoints before the turn.
        steps: What the turn has written.
        allowed: Types that may be restored beside the framework's own: ``module:qualname``.
        limit: How many checkpoints are kept.
        write: Makes a change durable; called in trio, with `in_trio`.
        read: Reads a log's rows; likewise.
        in_trio: Calls something in trio.
        run_id: The turn's.
        remembered: What the turn has added to histories in the store; that belongs to its progress, too.
        goes_on: Whether the workflow has done something by such a checkpoint, and goes on from it.
        failure: What went wrong with a save. The framework only logs it, and goes on; the turn must not.
        pending: The requests that waited at the newest checkpoint.
    """

    committed: Sequence[Kept]
    steps: Steps
    allowed: frozenset[str]
    limit: int
    write: Write
    read: ReadLog
    in_trio: Callable[..., Awaitable[Any]]
    run_id: str
    remembered: list[Remembered]
    goes_on: Callable[[WorkflowCheckpoint], bool]
    failure: Exception | None = None
    pending: Mapping[str, WorkflowEvent[Any]] = field(default_factory=dict)
    closed: bool = False
    _unwritten: list[Append] = field(default_factory=list)
    _untold: list[bytes | WorkflowEvent[Any]] = field(default_factory=list)
    _missing: bool = False
    _spoke: set[str | None] = field(default_factory=set)
    _noted: int = 0
    _ready: dict[str, WorkflowCheckpoint] = field(default_factory=dict)

    # -- the framework's protocol

    async def save(self, checkpoint: WorkflowCheckpoint) -> str:
        """Store a checkpoint."""
        self._check_open()
        try:
            await self._save(checkpoint)
        except Exception as exc:
            self.failure = exc
            raise
        return checkpoint.checkpoint_id

    async def load(self, checkpoint_id: str) -> WorkflowCheckpoint:
        """A checkpoint of this session.

        Raises:
            TargetFailed: It holds something of a type that is not allowed.
            WorkflowCheckpointException: There is none of that id.
        """
        self._check_open()
        if (ready := self._ready.pop(checkpoint_id, None)) is not None:
            return ready
        kept = next((one for one in self._all() if one.checkpoint_id == checkpoint_id), None)
        if kept is None:
            raise WorkflowCheckpointException(f"there is no checkpoint {checkpoint_id}")
        unwritten = next((append.rows for append in self._unwritten if append.log == kept.log), None)
        rows = unwritten or await self.in_trio(self.read, kept.log, 0, 1)
        if not rows:
            raise WorkflowCheckpointException(f"checkpoint {checkpoint_id} is no longer kept")
        return decoded(rows[0], self.allowed)

    async def list_checkpoints(self, *, workflow_name: str) -> list[WorkflowCheckpoint]:
        """Those of this session that are kept, the oldest first."""
        return [await self.load(one) for one in await self.list_checkpoint_ids(workflow_name=workflow_name)]

    async def list_checkpoint_ids(self, *, workflow_name: str) -> list[str]:
        """Their ids."""
        self._check_open()
        return [one.checkpoint_id for one in self._all() if one.workflow == workflow_name]

    async def get_latest(self, *, workflow_name: str) -> WorkflowCheckpoint | None:
        """The newest of this session."""
        ids = await self.list_checkpoint_ids(workflow_name=workflow_name)
        return await self.load(ids[-1]) if ids else None

    async def delete(self, checkpoint_id: str) -> bool:
        """Nothing is deleted before its time: retention sees to that."""
        self._check_open()
        return False

    # -- what the runtime asks

    async def peek(self, checkpoint_id: str) -> WorkflowCheckpoint:
        """A checkpoint; the framework's next look at it gets the very same object."""
        checkpoint = await self.load(checkpoint_id)
        self._ready[checkpoint_id] = checkpoint
        return checkpoint

    def check(self, event: WorkflowEvent[Any]) -> None:
        """Look at an event for what the framework only logs: that a checkpoint was not saved.

        Raises:
            Exception: What went wrong.
            NotStorable: An executor did not give its state.
        """
        if self.failure is not None:
            raise self.failure
        if event.type == "superstep_started":
            self._missing = True
        elif event.type == "superstep_completed" and self._missing:
            raise NotStorable("an executor's state could not be saved")

    def note(self, event: WorkflowEvent[Any]) -> None:
        """Something was said; it is stored with the next checkpoint."""
        if event.type in _TOLD:
            self._spoke.add(event.executor_id)
            self._untold.append(event)
        elif event.type in _RAN and event.executor_id in self._spoke:
            self._untold.append(pack({"v": VERSION, "r": [event.type, event.executor_id]}, "steps"))

    async def told(self) -> list[WorkflowEvent[Any]]:
        """What the turn had said when it was cut off; what it had remembered is remembered again."""
        if self.steps.told is None:
            return []
        log, length = self.steps.told
        events: list[WorkflowEvent[Any]] = []
        for row in await self.in_trio(self.read, log, 0, length):
            record = unpack(row)
            if "m" in record:
                self.remembered.append(Remembered.decode(record["m"]))
            elif "r" in record:
                kind, executor_id = record["r"]
                events.append(WorkflowEvent(kind, executor_id=executor_id))
            else:
                events.append(decode_event(row, self.allowed))
                self._spoke.add(events[-1].executor_id)
        self._noted = len(self.remembered)
        return events

    def adopted(self) -> Adopted:
        """What becomes of everything at the end of a turn that completed: of each turn, where it ended is kept."""
        kept = [*self.committed, *self.steps.kept[-1:]][-self.limit :]
        needed = {one.log for one in kept}
        append = [one for one in self._unwritten if one.log in needed]
        return Adopted(kept, append, sorted({one.log for one in self.committed} - needed))

    def _all(self) -> list[Kept]:
        return [*self.committed, *self.steps.kept]

    def _check_open(self) -> None:
        if self.closed:
            raise WorkflowCheckpointException("the turn that these checkpoints belong to has ended")

    async def _save(self, checkpoint: WorkflowCheckpoint) -> None:
        row = encoded(checkpoint)
        decoded(row, self.allowed)  # what could not be restored is to be known now, and not after a crash
        kept = Kept(checkpoint.checkpoint_id, new_log(), checkpoint.workflow_name)
        self._unwritten.append(Append(kept.log, 0, [row]))
        self.steps = replace(self.steps, kept=[*self.steps.kept, kept])
        self.pending = checkpoint.pending_request_info_events
        self._missing = False
        if self.goes_on(checkpoint):
            await self._write_steps()

    async def _write_steps(self) -> None:
        old = {one.log for one in self.steps.kept[: -self.limit]}
        self.steps = replace(self.steps, kept=self.steps.kept[-self.limit :])
        append = [one for one in self._unwritten if one.log not in old]
        for one in self.remembered[self._noted :]:
            self._untold.append(pack({"v": VERSION, "m": one.encode()}, "steps"))
        self._noted = len(self.remembered)
        if self._untold:
            log, length = self.steps.told or (new_log(), 0)
            append.append(Append(log, length, [self._row(one) for one in self._untold]))
            self.steps = replace(self.steps, told=(log, length + len(self._untold)))
        self._unwritten.clear()
        self._untold.clear()
        put = {steps_name(self.run_id): self.steps.encode()}
        await self.in_trio(self.write, Commit(put=put, append=append, drop_logs=sorted(old)))

    def _row(self, told: bytes | WorkflowEvent[Any]) -> bytes:
        if isinstance(told, bytes):
            return told
        row = encode_event(told)
        decode_event(row, self.allowed)  # as for checkpoints
        return row


def encoded(checkpoint: WorkflowCheckpoint) -> bytes:
    """A checkpoint as a row.

    Raises:
        NotStorable: Something in it cannot be pickled.
    """
    return _encoded(checkpoint.to_dict(), "the workflow's state")


def decoded(row: bytes, allowed: frozenset[str]) -> WorkflowCheckpoint:
    """What `encoded` wrote.

    Raises:
        TargetFailed: It holds something of a type that is not allowed.
    """
    checkpoint = WorkflowCheckpoint.from_dict(_decoded(row, allowed))
    for request in checkpoint.pending_request_info_events.values():
        _check_request(request)
    return checkpoint


def encode_event(event: WorkflowEvent[Any]) -> bytes:
    """An event as a row."""
    return _encoded(event, "what the workflow said")


def decode_event(row: bytes, allowed: frozenset[str]) -> WorkflowEvent[Any]:
    """What `encode_event` wrote."""
    event: WorkflowEvent[Any] = _decoded(row, allowed)
    if event.type == "request_info":
        _check_request(event)
    return event


def _check_request(request: WorkflowEvent[Any]) -> None:
    """The type of an answer is looked at, which a hostile one must never be."""
    try:
        checked_type(request.response_type)
    except (pickle.UnpicklingError, RuntimeError) as exc:  # which the framework raises where there is none
        raise refused(exc) from exc


def _encoded(value: Any, place: str) -> bytes:
    try:
        plain = encode(value)
    except Exception as exc:  # pickling runs the user's code
        raise NotStorable(f"{place} holds a value that cannot be stored: {type(exc).__name__}: {exc}") from exc
    return pack({"v": VERSION, "x": plain}, place)


def _decoded(row: bytes, allowed: frozenset[str]) -> Any:
    try:
        return decode(unpack(row)["x"], allowed)
    except WorkflowCheckpointException as exc:
        raise refused(exc) from exc


def refused(exc: Exception) -> HostError:
    """For a checkpoint that must not be restored: the type's name, and nothing else of the exception's."""
    found = _TYPE_NAME.search(str(exc))
    logger.error("a checkpoint is refused: %s", exc)
    what = (
        f"a {found[1]}, which is no allowed type (checkpoint_types, --checkpoint-type)"
        if found
        else "what cannot be restored"
    )
    return TargetFailed(f"The workflow's checkpoint holds {what}.", code="checkpoint_refused")


def type_names(types: Iterable[type | str]) -> frozenset[str]:
    """Types as the framework names them: ``module:qualname``.

    Raises:
        TypeError: Something is neither a class nor such a name.
    """
    names = set()
    for one in types:
        if isinstance(one, type):
            names.add(f"{one.__module__}:{one.__qualname__}")
        elif isinstance(one, str) and one.count(":") == 1:
            names.add(one)
        else:
            raise TypeError(f"checkpoint_types takes classes, or names as in 'module:Class', not {one!r}")
    return frozenset(names)
