"""Runs by their names: as they stand, as they end, what they were told, and their transcripts.

A run that has not ended is a turn in memory; every other is a record in the store. Whoever asks for another one's run
gets the answer of a run that never was.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from agent_framework import AgentResponse, Message

from afactors_channels import (
    ChannelContribution,
    ChannelRequest,
    ContinuationToken,
    HostedRun,
    NotFound,
    Repeated,
    TargetFailed,
    Unprocessable,
)
from afactors_store import BadKey, Claim, Found, Store

from .commits import ATTEMPTS_EXHAUSTED
from .history import read_extents, unpack
from .journal import check_number, too_long
from .rerunning import forget_letter
from .runs import ENDED, Record, Reference, Stored
from .supervision import Supervisor
from .turn import Turn, stopping

_READ_ROWS = 64
_TRIES = 5  # it may end, or be put back, between two looks


@dataclass(frozen=True, slots=True)
class _Stored:
    """A run in the store."""

    claim: Claim
    reference: Reference
    record: Record


class Continuations:
    """The runs of a runtime that is open."""

    def __init__(self, store: Store, supervisor: Supervisor, channels: Mapping[str, ChannelContribution]) -> None:
        self._store = store
        self._supervisor = supervisor
        self._channels = channels

    async def get(self, token: str, partition: str | None, *, wait: bool = False) -> HostedRun:
        """A run as it stands; with `wait`, once it has ended.

        Raises:
            NotFound: There is none, or its record has expired.
            Overloaded: It was to be waited for, and goes on in the next process.
        """
        if not wait:
            turn = self._turn(token, partition)
            if turn is not None:
                return replace(turn.standing, token=ContinuationToken(token))
            return await self._told_of(token, await self._find(token, partition))
        while isinstance(found := await self._located(token, partition), Turn):
            await _end_of(found)
        return await self._told_of(token, found)

    async def input(self, token: str, partition: str | None) -> Sequence[Mapping[str, Any]]:
        """The messages that a run was given, serialized."""
        found = await self._located(token, partition)
        if isinstance(found, Turn):
            return found.request.input
        messages = await self._messages(found.claim, found.record.input or {"is": ()})
        return [_as_sent(message, found.reference.run_id) for message in messages]

    async def cancel(self, token: str, partition: str | None) -> HostedRun:
        """Cancel a run wherever it is; returns it as it ended."""
        while isinstance(found := await self._located(token, partition), Turn):
            found.cancel("cancelled")
            await _end_of(found)
        return await self._told_of(token, found)

    async def forget(self, token: str, partition: str | None) -> None:
        """Remove a run's record, transcript and point; cancels it first if it has not ended."""
        if self._turn(token, partition) is not None:
            await self.cancel(token, partition)
        found, reference = await self._name(token, partition)
        body = await self._store.run(found.key, reference.run_id) if reference.run_id else None
        record = Record.decode(body) if body is not None else None
        if record is not None and record.state not in ENDED:
            await self.cancel(token, partition)
        if record is not None and record.error is not None and record.error[0] == ATTEMPTS_EXHAUSTED:
            await forget_letter(self._store, found.key, reference.run_id)  # or it would hold the key
        await self._supervisor.forget(found.key, token, reference, record)

    async def check_repeat(self, name: str, request: ChannelRequest) -> None:
        """Notice a request that repeats an earlier one.

        Raises:
            Repeated: It does.
            Unprocessable: It has the idempotency key of an earlier one, and says something else.
            HostError: It does, and the earlier one is being refused.
        """
        turn = self._supervisor.repeatable.get(name)
        if turn is not None:
            token, fingerprint = turn.token, turn.request.fingerprint
        else:
            found = await self._store.find(name)
            if found is None:
                return
            reference = Reference.decode(found.value)
            token, fingerprint = reference.token, reference.fingerprint
        if fingerprint != request.fingerprint:
            raise Unprocessable(
                "This idempotency key was used for another request.",
                field="Idempotency-Key",
                code="idempotency_key_reused",
            )
        if turn is not None:
            await turn.acceptance()
        raise Repeated(ContinuationToken(token or ""))

    # -- transcripts

    @asynccontextmanager
    async def subscribe(
        self, token: str, after: int | None, partition: str | None
    ) -> AsyncIterator[AsyncIterator[Sequence[bytes]]]:
        """Follow a run's transcript; see `ChannelContext.subscribe`."""
        found = await self._located(token, partition)
        if not isinstance(found, Turn):
            async with aclosing(await self._kept(token, found, after)) as rows:
                yield rows
            return
        journal = found.journal if found.journal is not None and found.journal.log is not None else None
        follow = journal.follow(after) if journal is not None else self._when_ended(token, after, partition)
        async with found.followed(), aclosing(follow) as rows:
            yield rows

    async def _kept(self, token: str, stored: _Stored, after: int | None) -> AsyncGenerator[Sequence[bytes], None]:
        """The transcript of a run that has ended: as it was logged, or told again."""
        place = stored.record.transcript
        if place is not None and await self._store.log_length(stored.claim, place[0]):
            return self._logged(stored.claim, *place, after)
        if place is not None and after is not None:
            raise NotFound("The events of this run are no longer kept.", code="transcript_expired")
        return _once(self._told(stored.record, await self._told_of(token, stored), after))

    async def _logged(
        self, claim: Claim, log: int, first: int, cut: bool, after: int | None
    ) -> AsyncGenerator[Sequence[bytes], None]:
        at = check_number(after, first) - first
        while rows := await self._store.read_log(claim, log, at, at + _READ_ROWS):
            at += len(rows)
            yield rows
        if cut:
            raise too_long()

    async def _when_ended(
        self, token: str, after: int | None, partition: str | None
    ) -> AsyncGenerator[Sequence[bytes], None]:
        run = await self.get(token, partition, wait=True)
        yield self._told((await self._find(token, partition)).record, run, after)

    def _told(self, record: Record, run: HostedRun, after: int | None) -> Sequence[bytes]:
        """A transcript of a run that wrote none, or whose rows are gone: the same rows every time."""
        channel = self._channels.get(record.channel)
        if channel is None or channel.transcriber is None:
            raise NotFound("This run has no events.", code="no_transcript")
        request = ChannelRequest(record.channel, (), name=run.token, presentation=record.presentation)
        transcript = channel.transcriber(request, created=record.created, first=0)
        rows = [*transcript.started()]
        if run.result is not None:
            rows += transcript.completed(run.result, run.ended or run.created)[0]
        else:
            rows += transcript.failed(run.state, *(run.error or ("server_error", "The run failed.")))[0]
        return rows[0 if after is None else after + 1 :]

    # -- finding

    def _turn(self, token: str, partition: str | None) -> Turn | None:
        """The turn of a run that has not ended, if it is in memory: the one that others have joined."""
        turn = self._supervisor.turns.get(token)
        if turn is None or turn.ended or turn.state == "accepting":
            return None
        if partition not in (None, turn.request.partition):
            return None
        return turn.whole

    async def _located(self, token: str, partition: str | None) -> Turn | _Stored:
        """A run's turn; or its record, if it has ended. A letter that waits in the store is taken up for that.

        Raises:
            Overloaded: It goes on in the next process.
        """
        for _ in range(_TRIES):
            if (turn := self._turn(token, partition)) is not None:
                return turn
            stored = await self._find(token, partition)
            if stored.record.state in ENDED:
                return stored
            await self._supervisor.collect(stored.claim.key, stored.reference.run_id)
        raise stopping()

    async def _name(self, token: str, partition: str | None) -> tuple[Found, Reference]:
        try:
            found = await self._store.find(token)
        except BadKey:
            found = None  # nothing that is called so can be there
        if found is not None:
            reference = Reference.decode(found.value)
            if partition in (None, reference.partition) and reference.token is None:
                return found, reference
        raise NotFound("There is no such run.", code="run_not_found")

    async def _find(self, token: str, partition: str | None) -> _Stored:
        found, reference = await self._name(token, partition)
        body = await self._store.run(found.key, reference.run_id) if reference.run_id else None
        if body is None:
            raise NotFound("The result of this run is no longer kept.", code="result_expired")
        return _Stored(await self._store.claim(found.key), reference, Record.decode(body))

    async def _told_of(self, token: str, stored: _Stored) -> HostedRun:
        record = stored.record
        result = None
        if record.output is not None:
            messages = await self._messages(stored.claim, record.output)
            result = AgentResponse(
                messages=[Message.from_dict(dict(message)) for message in messages],
                response_id=record.outcome.get("id"),
                finish_reason=record.outcome.get("f"),
                usage_details=record.outcome.get("u"),
            )
        return HostedRun(
            token=ContinuationToken(token),
            run_id=stored.reference.run_id,
            isolation_key=stored.claim.key,
            session_id=record.session_id,
            state=record.state,
            created=record.created,
            ended=record.ended,
            attempt=record.attempt,
            durable=record.durable,
            retrievable=record.retrievable,
            streamed=record.transcript is not None,
            presentation=record.presentation,
            metadata=record.metadata,
            error=record.error,
            result=result,
            kept=record.kept,
        )

    async def _messages(self, claim: Claim, where: Stored) -> Sequence[Mapping[str, Any]]:
        if "is" in where:
            here: Sequence[Mapping[str, Any]] = where["is"]
            return here

        async def read(log: int, start: int, stop: int) -> list[bytes]:
            return await self._store.read_log(claim, log, start, stop)

        try:
            rows = await read_extents(read, [(e[0], e[1], e[2]) for e in where["at"]])
        except LookupError:
            raise NotFound("The result of this run is no longer kept.", code="result_expired") from None
        return [unpack(row) for row in rows]


async def _end_of(turn: Turn) -> None:
    """Wait for a turn's end (or that of its attempt).

    Raises:
        StorageFull: It could not be written down.
    """
    async with turn.followed():
        await turn.end()
    if turn.unrecorded is not None:
        raise turn.unrecorded


async def _once(rows: Sequence[bytes]) -> AsyncGenerator[Sequence[bytes], None]:
    yield rows


def _as_sent(message: Mapping[str, Any], run_id: str) -> Mapping[str, Any]:
    """A message without the id that it got for want of one."""
    if not str(message.get("message_id", "")).startswith(f"{run_id}:"):
        return message
    return {name: value for name, value in message.items() if name != "message_id"}


def failure_of(run: HostedRun) -> TargetFailed:
    """What the caller of a repeat hears of a run that did not complete."""
    code, message = run.error or ("server_error", "The run failed.")
    return TargetFailed(message, code=code)
