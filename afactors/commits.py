"""What each step of a turn writes: one `Commit` a step, and nothing is written otherwise. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agent_framework import AgentResponse, Message

from afactors_channels import ChannelRequest, HostError, RunState
from afactors_store import Append, Commit, Dead, NewDelivery, NewLetter, RunRecord

from .checkpoints import Steps, steps_name
from .history import Changes, encode_messages, pack, unpack
from .limits import Limits
from .naming import document_name
from .outbox import LETTERS
from .reminders import changed, settled
from .runs import ENDED, LetterBody, Record, Reference, Stored, pack_request, stored_at, stored_here
from .turn import Turn

ATTEMPTS_EXHAUSTED = "attempts_exhausted"
"""Code of a durable run's failure that leaves a dead letter."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a turn sends, and what its actor has learnt of whom it knows."""

    deliveries: Sequence[tuple[str, NewDelivery]] = ()
    put: Mapping[str, bytes] = field(default_factory=dict)


_NOTHING_SENT = Sent()


def accepted(turn: Turn, limits: Limits) -> Commit:
    """A durable letter: with its idempotency key, its record and the first rows of its transcript."""
    start = turn.start.encode() if turn.start is not None else None
    letter = LetterBody(
        turn.packed,
        turn.created,
        turn.session_id,
        start,
        turn.whole.run_id if turn.overlap == "coalesce" else None,
        turn.token if turn.into is not None else None,
        [other.run_id for other in turn.supersedes],
    )
    repeats = _repeats(turn)
    names = {**_names(turn, None), **repeats}
    expire = dict.fromkeys(repeats, turn.created + limits.idempotency_window)
    if turn.into is not None:
        return Commit(letters=[NewLetter(turn.run_id, letter.encode())], names=names, expire_names=expire)
    # Whoever waits for it is told that it began, and not that it is queued.
    rows = turn.journal.accepted() if turn.journal is not None and not turn.attended else ()
    log = turn.journal.log if turn.journal is not None else None
    return Commit(
        letters=[NewLetter(turn.run_id, letter.encode())],
        names=names,
        expire_names=expire,
        runs=[_run(turn, limits, record(turn, "queued"))],
        append=[Append(log, 0, rows)] if rows and log is not None else (),
        **fired(turn),
    )


def dealt_with(repeatable: str, request: ChannelRequest, until: float) -> Commit:
    """A request that left nothing but its idempotency key."""
    reference = Reference("", request.partition, fingerprint=request.fingerprint)
    return Commit(names={repeatable: reference.encode()}, expire_names={repeatable: until})


def fired(turn: Turn) -> dict[str, Any]:
    """What settles the reminder that a turn is, as fields of a commit; nothing, if it is none."""
    over = settled(turn.timer) if turn.timer is not None else Commit()
    return {"fire": over.fire, "delete": over.delete}


def suspected(turns: Sequence[Turn]) -> Commit:
    """Letters that may have been running in a crash are marked: a clean stop does not clear them."""
    marked = {turn.run_id: turn.unmarked for turn in turns if turn.unmarked is not None}
    return Commit(runs=[RunRecord(run_id, replace(found, suspect=True).encode()) for run_id, found in marked.items()])


def begun_again(turn: Turn, limits: Limits) -> Commit:
    """Another attempt at a durable letter is counted, and what the one before had shown is dropped."""
    return Commit(
        runs=[_run(turn, limits, record(turn, "running"))],
        drop_logs=_leftover(turn),
    )


def completed(
    turn: Turn,
    limits: Limits,
    *,
    at: float,
    state: RunState,
    changes: Changes | None,
    result: AgentResponse[Any],
    kept: Any,
    sent: Sent = _NOTHING_SENT,
) -> Commit:
    """The one commit of a turn that completed: everything that it changed.

    Raises:
        NotStorable: Something of it cannot be written down.
    """
    body = record(
        turn,
        state,
        ended=at,
        input=_placed(turn.messages, changes) or stored_here(turn.request.input),
        output=_placed(result.messages, changes) or stored_here(_serialized(result.messages)),
        outcome=_outcome(result),
        kept=kept,
    )
    point = changes.point.encode() if changes is not None else None
    named = None
    if changes is not None and turn.request.name is not None:
        named = changes.point.encode_for_name()
    names, repeats = _names(turn, named), _repeats(turn)
    run = _run(turn, limits, body)
    expire = {name: run.expires_at for name in names if named is None}
    expire.update(dict.fromkeys(repeats, turn.created + limits.idempotency_window))
    steps = set(turn.steps.logs()) if turn.steps is not None else set()
    put, append, drop, delete = {}, _transcript(turn), steps, _steps(turn)
    if changes is not None and point is not None:
        put = {document_name(changes.point.session_id): point, **changes.put}
        append = [*changes.append, *append]
        drop = {*changes.drop, *(steps - changes.adopted)}
        delete = [*changes.delete, *delete]
    reminders = _reminders(turn)
    own = reminders.pop(turn.key, Commit())
    return Commit(
        put={**put, **sent.put, **own.put},
        delete=[*delete, *own.delete],
        timers=own.timers,
        append=append,
        drop_logs=sorted(drop),
        names={**names, **repeats},
        expire_names=expire,
        runs=[run],
        others=[
            *((other.key, accepted(other, limits)) for other in turn.outgoing),
            *_elsewhere(turn, sent),
            *reminders.items(),
        ],
        trim=changes.trim if changes is not None else {},
        deliveries=[delivery for key, delivery in sent.deliveries if key == turn.key],
        **_settled(turn, limits, at, changes.expire if changes is not None else {}),
    )


def failed(
    turn: Turn, limits: Limits, error: HostError, *, at: float, kept: Any, deliveries: Sequence[NewDelivery] = ()
) -> Commit:
    """A turn that failed or was cancelled: nothing but its record, which keeps what it was told, and what was shown.

    Its idempotency key is free again, and so are those of the turns that have joined it: who asks again means it. A
    redelivery means nothing but that nobody heard of the acceptance, and must not run again; nor must a message come
    back as the newest, after a newer one took its place.
    """
    settings = {"o": dict(turn.request.options), "tl": [dict(tool) for tool in turn.request.tools]}
    more: Mapping[str, Any] = {
        "ended": at,
        "reason": turn.cancel_reason,
        "error": (error.code, error.message),
        "kept": kept,
        "settings": {name: value for name, value in settings.items() if value},
        "input": stored_here(turn.request.input),
    }
    run = _run(turn, limits, record(turn, turn.failure, **more))
    return replace(_over(turn, limits, run, at), deliveries=[*deliveries, *_buried(turn, limits, error, at)])


def unstorable(turn: Turn, limits: Limits, error: HostError, *, at: float) -> Commit:
    """As `failed`, of a turn whose request cannot be written down."""
    told = {"error": (error.code, error.message), "reason": turn.cancel_reason}
    bare = record(turn, turn.failure, ended=at, presentation={}, metadata={}, identity=None, **told)
    return _over(turn, limits, _run(turn, limits, bare), at)


def _over(turn: Turn, limits: Limits, run: RunRecord, at: float) -> Commit:
    """A turn that has no result is over, whatever its record can say of it."""
    names = _names(turn, None)
    return Commit(
        append=_transcript(turn),
        names=names,
        expire_names=dict.fromkeys(names, run.expires_at),
        drop_names=_freed(turn),
        drop_logs=[*_leftover(turn), *(turn.steps.logs() if turn.steps is not None else ())],
        delete=_steps(turn),
        runs=[run],
        **_settled(turn, limits, at),
    )


def edited(session_id: str, changes: Changes | None, labels: Mapping[str, str] | None) -> Commit:
    """A session was changed by somebody else than a turn."""
    put = {}
    if changes is not None:
        put[document_name(session_id)] = changes.point.encode()
    if labels is not None:
        put[document_name(session_id, "labels")] = pack({"v": 1, "l": dict(labels)}, "labels")
    return Commit(
        put=put,
        append=changes.append if changes is not None else (),
        drop_logs=changes.drop if changes is not None else (),
        trim=changes.trim if changes is not None else {},
        expire_logs=changes.expire if changes is not None else {},
    )


def record(turn: Turn, state: RunState, **more: Any) -> Record:
    """A turn's record, as far as the turn itself knows."""
    request, journal = turn.request, turn.journal
    known: dict[str, Any] = {
        "session_id": turn.session_id,
        "attempt": turn.attempt,
        "durable": turn.durable,
        "token": turn.token,
        "retrievable": request.retrievable,
        "streamed": request.stream,
        "metadata": request.metadata,
        "identity": request.identity.native_id if request.identity else None,
        "presentation": request.presentation,
        "transcript": journal.place if journal is not None else None,
    }
    return Record(state, request.channel, created=turn.created, **{**known, **more})


def _run(turn: Turn, limits: Limits, body: Record) -> RunRecord:
    expires_at = (body.ended or turn.created) + limits.run_retention if body.state in ENDED else None
    return RunRecord(turn.run_id, body.encode(), expires_at=expires_at)


def _names(turn: Turn, point: bytes | None) -> dict[str, bytes]:
    """Its name, and the names of those that have joined it: they lead to one run."""
    reference = Reference(turn.whole.run_id, turn.request.partition, point).encode()
    return {one.token: reference for one in turn.parts if one.token is not None}


def _repeats(turn: Turn) -> dict[str, bytes]:
    """Their idempotency keys; by each, a repeat gets its own name."""
    run_id, partition = turn.whole.run_id, turn.request.partition
    return {
        one.idempotency: Reference(run_id, partition, token=one.token, fingerprint=one.request.fingerprint).encode()
        for one in turn.parts
        if one.idempotency is not None
    }


def _freed(turn: Turn) -> list[str]:
    """Idempotency keys of a turn without a result by which it may be asked for again."""
    held = not turn.durable or turn.request.redelivers or turn.cancel_reason == "superseded"
    return [] if held else list(_repeats(turn))


def _elsewhere(turn: Turn, sent: Sent) -> list[tuple[str, Commit]]:
    """Deliveries that the turn's code sent for other keys."""
    return [(key, Commit(deliveries=[delivery])) for key, delivery in sent.deliveries if key != turn.key]


def _reminders(turn: Turn) -> dict[str, Commit]:
    """Reminders that the turn's code made or cancelled, by key."""
    keys = dict.fromkeys(key for key, _ in turn.reminding)
    return {key: changed({one: new for (of, one), new in turn.reminding.items() if of == key}) for key in keys}


def _steps(turn: Turn) -> list[str]:
    """What a workflow's progress is listed in; after the end nobody asks for it."""
    return [steps_name(turn.run_id)] if turn.steps is not None and turn.steps != Steps() else []


def _buried(turn: Turn, limits: Limits, error: HostError, at: float) -> list[NewDelivery]:
    """A letter that used up its attempts, as a dead letter: everything to run it again, also of whoever joined it."""
    if not turn.durable or error.code != ATTEMPTS_EXHAUSTED:
        return []
    start = turn.start.encode() if turn.start is not None else None
    body = LetterBody(pack_request(turn.request), turn.created, turn.session_id, start, turn.run_id, turn.token)
    dead = Dead(error.code, error.message, died=at, expires_at=at + limits.dead_letter_retention)
    return [NewDelivery(LETTERS, body.encode(), attempts=turn.attempt, dead=dead)]


def _leftover(turn: Turn) -> Sequence[int]:
    return [turn.leftover] if turn.leftover is not None else ()


def _transcript(turn: Turn) -> list[Append]:
    return turn.journal.append() if turn.journal is not None else []


def _settled(turn: Turn, limits: Limits, at: float, expire: Mapping[int, float] | None = None) -> dict[str, Any]:
    """The letter is consumed, and the transcript will be forgotten, as will what else expires."""
    log = turn.journal.log if turn.journal is not None else None
    return {
        "consume": [one.run_id for one in turn.parts] if turn.durable else (),
        "expire_logs": {**(expire or {}), **({log: at + limits.transcript_retention} if log is not None else {})},
    }


def _placed(messages: Sequence[Message], changes: Changes | None) -> Stored | None:
    if not messages or changes is None:
        return None
    extents = changes.extents_of(messages)
    return stored_at(extents) if extents is not None else None


def _serialized(messages: Sequence[Message]) -> list[Mapping[str, Any]]:
    return [unpack(row) for row in encode_messages(messages, "response")]


def _outcome(result: AgentResponse[Any]) -> dict[str, Any]:
    usage = {name: count for name, count in (result.usage_details or {}).items() if count}
    outcome = {"f": result.finish_reason, "u": usage, "id": result.response_id}
    return {name: value for name, value in outcome.items() if value}
