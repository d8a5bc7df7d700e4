"""A workflow's session in memory: its instance, its checkpoints, and what was said, which only grows.

A workflow knows its past from its own state; what is written of the conversation is for others to read. So it is
appended to and never loaded.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent_framework import Message

from .checkpoints import Adopted, Kept, decode_kept, encode_kept
from .history import Changes, Point, encode_messages, identify, placed
from .instances import AnyWorkflow
from .naming import document_name

SOURCE = "conversation"


class WorkflowSession:
    """A workflow's session, as it was committed.

    When a turn fails, the whole of it is dropped and read again, with another instance.

    Attributes:
        point: Where it stands.
        kept: Its checkpoints, the newest last.
        instance: The workflow as the last turn left it; None while there is none in memory.
    """

    __slots__ = ("_adopted", "_said", "instance", "kept", "point")

    def __init__(self, point: Point, kept: Sequence[Kept] = ()) -> None:
        self.point = point
        self.kept = kept
        self.instance: AnyWorkflow | None = None
        self._said: Sequence[Message] = ()
        self._adopted: Adopted | None = None

    @classmethod
    def stored(cls, point: Point, documents: Mapping[str, bytes]) -> WorkflowSession:
        """A session from its point and its other documents.

        Raises:
            LookupError: The point's checkpoint is gone.
        """
        kept = decode_kept(documents.get(checkpoints_name(point.session_id)))
        if point.checkpoint is not None and all(one.checkpoint_id != point.checkpoint for one in kept):
            raise LookupError(f"checkpoint {point.checkpoint} is gone")
        return cls(point, kept)

    def own_logs(self) -> set[int]:
        """Its checkpoints."""
        return {one.log for one in self.kept}

    def said(self, messages: Sequence[Message], adopted: Adopted) -> None:
        """A turn is over, with what was said in it, and what becomes of its checkpoints."""
        self._said, self._adopted = messages, adopted

    def told(self, messages: Sequence[Message]) -> None:
        """Something was said beside the workflow: it is in the conversation, and the workflow does not know it."""
        self.said(messages, Adopted(self.kept, (), ()))

    async def changes(self, *, head: str | None, label: str, questions: Sequence[str] | None = None) -> Changes:
        """What the turn adds; see `LiveSession.changes`."""
        adopted = self._adopted or Adopted(self.kept, (), ())
        identify(self._said, f"{label}.")
        rows = encode_messages(self._said, SOURCE)
        before = self.point.histories.get(SOURCE, ())
        first = sum(stop - start for _, start, stop in before)
        extents, tail, append = placed(self.point, SOURCE, first, rows)
        point = replace(
            self.point,
            histories={SOURCE: extents} if extents else {},
            tails={SOURCE: tail} if tail is not None else {},
            turns=self.point.turns + 1,
            pinned=self.point.pinned or head is not None,
            head=head or self.point.head,  # a session without branches is continued from its latest name
            created=self.point.created if self.point.turns or self.point.created else int(time.time()),
            questions=self.point.questions if questions is None else questions,
            checkpoint=adopted.kept[-1].checkpoint_id if adopted.kept else None,
        )
        return Changes(
            point,
            [*append, *adopted.append],
            adopted.drop,
            {SOURCE: (first, first + len(rows))},
            None,
            frozenset(),
            {SOURCE: self._said},
            {checkpoints_name(point.session_id): encode_kept(adopted.kept)},
            adopted=frozenset(one.log for one in adopted.kept),
        )

    def committed(self, changes: Changes) -> None:
        """The changes are durable."""
        self.point = changes.point
        self.kept = self._adopted.kept if self._adopted is not None else self.kept
        self._said, self._adopted = (), None


def checkpoints_name(session_id: str) -> str:
    """The document that lists a session's checkpoints."""
    return document_name(session_id, "checkpoints")
