"""What becomes of questions, and of the answers to them.

A question is a document of its actor. It is written by the commit of the turn that asked, and closed by the commit of
the turn that answered: a turn that fails has answered nothing. While a turn answers it, no other may; so it is answered
once, whatever branch asks. A session's point tells which questions were open there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from afactors_channels import BadRequest, ChannelRequest, Conflicting, Question, Unprocessable
from afactors_store import Claim, Store

from .history import Changes, Point
from .naming import document_name
from .questions import Answer, Asked, answering_contents, check_answers, question_name
from .sessions import not_the_head
from .target import Target
from .turn import Turn

_PAGE = 100  # questions that a commit which asks looks at


class Questions:
    """The questions of one actor."""

    def __init__(self, store: Store, timeout: float) -> None:
        self._store = store
        self._timeout = timeout
        self._answering: dict[str, Turn] = {}
        self._seen: str | None = None  # the last one that was looked at

    async def answers(self, claim: Claim, turn: Turn, scope: str, *, strict: bool, at: float) -> dict[str, Answer]:
        """The answers in a turn's input, as `answers_to`. Until the turn ends, nobody else may give them.

        Raises:
            Conflicting: Somebody else is giving them.
        """
        given = await answers_to(
            self._store, claim, turn.request, scope, strict=strict, at=min(at, turn.created), timeout=self._timeout
        )
        names = [question_name(scope, one) for one in given]
        if any(self._answering.get(name, turn) is not turn for name in names):
            raise _answered()
        self._answering.update(dict.fromkeys(names, turn))
        return given

    def release(self, turn: Turn) -> None:
        """A turn has ended: what it did not answer may be answered by others."""
        for name in [name for name, other in self._answering.items() if other is turn]:
            del self._answering[name]

    async def open_in(self, claim: Claim, point: Point, scope: str, at: float) -> list[Asked]:
        """The questions of a point that can be answered, in the order in which they were asked."""
        return [one for one in await read_questions(self._store, claim, point, scope) if one.open_at(at, self._timeout)]

    async def written(
        self, claim: Claim, scope: str, new: Sequence[Asked], answered: Mapping[str, Answer], at: float
    ) -> tuple[dict[str, bytes], list[str]]:
        """Documents to put, and to delete, at the end of a turn."""
        put = {question_name(scope, one.question_id): replace(one, asked=at).encode() for one in new}
        for question_id, answer in answered.items():
            name = question_name(scope, question_id)
            put.setdefault(name, replace(answer.question, closed=at).encode())
        delete = await self._stale(claim, next(iter(put)), at) if new else []
        return put, [name for name in delete if name not in put]

    async def lapsed(self, claim: Claim, changes: Changes, left: Changes, scope: str, at: float) -> Changes:
        """What a turn changes, and the questions that `left`, which tells what leaves the session with it, lacks."""
        names = [question_name(scope, one) for one in changes.point.questions if one not in left.point.questions]
        if not names:
            return left
        stored = await self._store.read(claim, names)
        gone = [(name, question) for name in stored if (question := Asked.decode(stored[name])).closed is None]
        put = {name: replace(question, closed=at, lapsed=True).encode() for name, question in gone}
        return replace(left, put={**left.put, **put})

    async def _stale(self, claim: Claim, new: str, at: float) -> list[str]:
        """Questions that nobody will ask about any more, of those that follow the last one that was looked at.

        An actor that was just begun looks at those behind its new one, whose name is mostly random.
        """
        after = self._seen or new
        names = await self._store.list_documents(claim, "question", after, limit=_PAGE)
        if len(names) < _PAGE:  # over again
            first = await self._store.list_documents(claim, "question", limit=_PAGE - len(names))
            names += [name for name in first if name <= after]
        self._seen = names[-1] if names else None
        stored = await self._store.read(claim, names)
        return [name for name, document in stored.items() if Asked.decode(document).asked + 2 * self._timeout < at]


async def answers_to(
    store: Store, claim: Claim, request: ChannelRequest, scope: str, *, strict: bool, at: float, timeout: float
) -> dict[str, Answer]:
    """The answers in a request's input, by what they answer.

    Args:
        store: Where the questions are.
        claim: The actor's.
        request: What came.
        scope: Of the questions.
        strict: Whether what answers nothing is refused; otherwise it is the result of a call that the client made.
        at: Now, in seconds since the epoch.
        timeout: How long questions can be answered.

    Raises:
        BadRequest: There is no such question.
        Conflicting: It was answered, or has expired.
        Unprocessable: It is answered twice.
    """
    given = answering_contents(request.input)
    names = {one: question_name(scope, one) for one in given}
    stored = await store.read(claim, list(names.values())) if names else {}
    found: dict[str, Answer] = {}
    for question_id, (contents, told) in given.items():
        document = stored.get(names[question_id])
        question = Asked.decode(document) if document is not None else None
        if told and (question is None or not question.open_at(at, timeout)):
            continue  # part of a story
        if question is not None:
            if len(contents) > 1:
                raise Unprocessable("Answer each question once.", field="input", code="mixed_input")
            found[question_id] = Answer(question, contents[0])
        elif strict or contents[-1]["type"] == "function_approval_response":
            raise BadRequest("There is no such question.", field="input", code="question_not_found")
    for answer in found.values():
        if answer.question.closed is not None and not answer.question.lapsed:
            raise _answered()
        if not answer.question.open_at(at, timeout):
            raise Conflicting("It is too late to answer this question.", field="input", code="question_expired")
    return found


def _answered() -> Conflicting:
    return Conflicting("This question was answered.", field="input", code="question_answered")


async def forewarn(store: Store, turn: Turn, target: Target, timeout: float) -> None:
    """Refuse at once what its session would refuse when the turn comes; only if no turn is ahead of it.

    Raises:
        BadRequest: As `Questions.answers`, `check_answers` and `Sessions.wake`.
    """
    assert turn.session_id is not None  # noqa: S101 - the caller has looked
    claim, scope, at = await store.claim(turn.key), target.scope(turn.session_id), time.time()
    strict = not target.branches
    answers = await answers_to(store, claim, turn.request, scope, strict=strict, at=at, timeout=timeout)
    if target.branches:
        return
    name, after = document_name(turn.session_id), turn.request.session.after
    document = (await store.read(claim, [name])).get(name)
    point = Point.decode(document) if document is not None else Point(turn.session_id)
    if after is not None and point.head != after:
        raise not_the_head()
    waiting = await read_questions(store, claim, point, scope)
    check_answers(turn.request, answers, [one.question_id for one in waiting if one.open_at(at, timeout)])


async def read_questions(store: Store, claim: Claim, point: Point, scope: str) -> list[Asked]:
    """The questions that were open at a point, as they are now."""
    names = [question_name(scope, one) for one in point.questions]
    stored = await store.read(claim, names) if names else {}
    return [Asked.decode(stored[name]) for name in names if name in stored]


async def waiting_for(store: Store, key: str, session_id: str, target: Target, timeout: float) -> Sequence[Question]:
    """What a session waits for."""
    claim = await store.claim(key)
    name = document_name(session_id)
    document = (await store.read(claim, [name])).get(name)
    if document is None:
        return ()
    found = await read_questions(store, claim, Point.decode(document), target.scope(session_id))
    now = time.time()
    return [one.told(timeout) for one in found if one.open_at(now, timeout)]
