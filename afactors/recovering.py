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
    found: list[Turn] = []
    accepted: list[Turn] = []
    heads: set[str | None] = set()
    after = -1
    while letters := await around.store.letters(claim, after, _PAGE):
        after = letters[-1].sequence
        for letter in letters:
            turn = known.get(letter.message_id)
            if turn is None:
                found.append(turn := await _turn(around, claim, letter, heads))
            elif turn.state == "accepting":
                accepted.append(turn)
            heads.add(turn.session_id)
    return found, accepted


async def _turn(around: Recovery, claim: Claim, letter: Letter, heads: set[str | None]) -> Turn:
    body = LetterBody.decode(letter.body)
    stored = await around.store.run(claim.key, letter.message_id)
    record = Record.decode(stored) if stored is not None else None
    # Its own context: whoever sent it is long gone.
    turn = contextvars.Context().run(
        partial(Turn, unpack_request(body.request), letter.message_id, claim.key, durable=True, created=body.created)
    )
    turn.start, turn.session_id = body.point, body.session_id
    turn.cancel_reason = around.given_up(turn.run_id)
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
    """Letters that were accepted by the commits of other turns, in order, as turns."""
    found: list[Turn] = []
    after = -1
    while letters := await around.store.letters(claim, after, _PAGE):
        after = letters[-1].sequence
        found += [await _turn(around, claim, letter, set()) for letter in letters if letter.message_id in run_ids]
    return found


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
