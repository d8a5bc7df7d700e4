"""Durable letters that a process left behind, as turns again.

After an unclean stop nobody knows which of them ran. The first letter of each session may have; what stood behind it
cannot. So the first ones are suspects: each of them runs alone, and its attempt is counted before it does.
"""

from __future__ import annotations

import contextvars
from collections.abc import Container, Mapping, Sequence
from functools import partial
from typing import Protocol

from afactors_channels import ChannelContribution
from afactors_store import Claim, Letter, Store

from .checkpoints import Steps, steps_name
from .history import new_log
from .journal import Journal
from .limits import Limits
from .runs import LetterBody, Record, unpack_request
from .turn import Turn

_PAGE = 100


class Recovery(Protocol):
    """What recovering needs to know."""

    store: Store
    limits: Limits
    channels: Mapping[str, ChannelContribution]

    def suspicious(self, run_id: str) -> bool:
        """Whether a letter may have been running when something crashed."""
        ...

    def given_up(self, run_id: str) -> str | None:
        """Why a turn had been cancelled when a crash took it along; None if it had not."""
        ...


async def recovered(around: Recovery, claim: Claim, known: Mapping[str, Turn]) -> tuple[Sequence[Turn], Sequence[Turn]]:
    """The letters of a key, in order, as turns; and those of the known turns whose letters are there after all."""
    found = _Found()
    accepted: list[Turn] = []
    heads: set[str | None] = set()
    for letter in await _letters(around, claim):
        turn, body = known.get(letter.message_id), LetterBody.decode(letter.body)
        if turn is None:
            found.add(turn := await _turn(around, claim, letter, body, heads), body)
        elif turn.state == "accepting":
            accepted.append(turn)
        found.superseded.update(body.supersedes)
        heads.add(turn.session_id)
    return found.turns(), accepted


class _Found:
    """Turns that were found, each with those that had joined it."""

    def __init__(self) -> None:
        self.superseded: set[str] = set()
        self._turns: dict[str, Turn] = {}

    def add(self, turn: Turn, body: LetterBody) -> None:
        """One more."""
        turn.overlap = "coalesce" if body.run_id is not None else "enqueue"
        whole = self._turns.get(body.run_id or "")
        if whole is not None:
            whole.join(turn)
        else:
            self._turns[turn.run_id] = turn

    def turns(self) -> list[Turn]:
        """All of them; those whose place was taken will end as soon as they may."""
        for run_id in self.superseded & self._turns.keys():
            turn = self._turns[run_id]
            turn.cancel_reason = turn.cancel_reason or "superseded"
        return list(self._turns.values())


async def _letters(around: Recovery, claim: Claim) -> Sequence[Letter]:
    letters: list[Letter] = []
    while page := await around.store.letters(claim, letters[-1].sequence if letters else -1, _PAGE):
        letters += page
    return letters


async def _turn(around: Recovery, claim: Claim, letter: Letter, body: LetterBody, heads: set[str | None]) -> Turn:
    stored = await around.store.run(claim.key, letter.message_id)
    record = Record.decode(stored) if stored is not None else None
    # Its own context: whoever sent it is long gone.
    turn = contextvars.Context().run(
        partial(Turn, unpack_request(body.request), letter.message_id, claim.key, durable=True, created=body.created)
    )
    turn.start, turn.session_id = body.point, body.session_id
    turn.cancel_reason, turn.token = around.given_up(turn.run_id), body.token
    suspicious = around.suspicious(turn.run_id) or (record is not None and record.suspect)
    turn.suspect = suspicious and (body.session_id is None or body.session_id not in heads)
    if record is not None:
        turn.unmarked = record if turn.suspect and not record.suspect else None
        turn.attempt, turn.token = record.attempt, record.token
        await _resume_transcript(around, claim, turn, record)
    name = steps_name(turn.run_id)
    written = (await around.store.read(claim, [name])).get(name)
    turn.steps = Steps.decode(written) if written is not None else None
    turn.accepted()
    return turn


async def collected(around: Recovery, claim: Claim, run_ids: Container[str]) -> Sequence[Turn]:
    """Letters that were accepted by the commits of other turns, in order, as turns; with what had joined them."""
    found = _Found()
    for letter in await _letters(around, claim):
        body = LetterBody.decode(letter.body)
        if letter.message_id in run_ids or (body.run_id or "") in run_ids:
            found.add(await _turn(around, claim, letter, body, set()), body)
        found.superseded.update(body.supersedes)
    return found.turns()


async def _resume_transcript(around: Recovery, claim: Claim, turn: Turn, record: Record) -> None:
    """Go on with the transcript of a letter that only waited; begin a new one behind one that was begun."""
    if record.transcript is None:
        return
    log, first, _ = record.transcript
    logged = await around.store.log_length(claim, log)
    journal = make_journal(around, turn, log=log, first=first)
    begun = turn.suspect or record.state != "queued"
    if begun or journal is None or len(journal.accepted()) != logged:
        turn.leftover = log
        journal = make_journal(around, turn, log=new_log(), first=first + logged)
    turn.journal = journal


def make_journal(around: Recovery, turn: Turn, *, log: int | None = None, first: int = 0) -> Journal | None:
    """A turn's transcript, if its channel writes one; it goes to the log given, or to a new one if it is kept."""
    request = turn.request
    channel = around.channels.get(request.channel)
    if channel is None or channel.transcriber is None or not request.stream:
        return None
    if log is None and request.retrievable and turn.token is not None:
        log = new_log()

    key = turn.key

    async def read(log: int, start: int, stop: int) -> list[bytes]:
        return await around.store.read_log(await around.store.claim(key), log, start, stop)

    return Journal(
        channel.transcriber(request, created=turn.created, first=first),
        log,
        first=first,
        attended=turn.attended,
        limit=around.limits.max_transcript,
        read=read,
        wanted=lambda: turn.owner.flush_soon(turn) if turn.owner is not None else None,
    )
