"""What a store runs on, and how a batch of operations is applied to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import outcome
import trio

from .errors import StoreBroken, StoreError
from .kv import Reader, Transaction

T = TypeVar("T")


class Engine(Protocol):
    """A B-tree with transactions.

    Attributes:
        full: Whether new work must be refused.
        reserved: Whether what is left is the reserve, which is for commits and for what deletes.
        used_bytes: Bytes in use.
        map_bytes: Most bytes that there can be; 0 where there is no limit.
    """

    @property
    def full(self) -> bool: ...  # noqa: D102
    @property
    def reserved(self) -> bool: ...  # noqa: D102
    @property
    def used_bytes(self) -> int: ...  # noqa: D102
    @property
    def map_bytes(self) -> int: ...  # noqa: D102

    def read(self, work: Callable[[Reader], T]) -> T:
        """Read in place, in one consistent view."""
        ...

    async def read_aside(self, work: Callable[[Reader], T]) -> T:
        """Read where it holds nobody up."""
        ...

    def transaction(self) -> AbstractContextManager[Transaction]:
        """A write transaction: durable when the block ends, undone if it raises.

        Raises:
            StoreFull: There is no room; nothing was written.
            StoreBroken: The machine failed.
        """
        ...

    async def apply(self, batch: Sequence[Operation]) -> int:
        """Apply a batch by `apply_batch`, where it holds nobody up; how many transactions it took."""
        ...

    async def note_clean(self) -> None:
        """Note, durably, that the owner leaves in order. It is not cancelled.

        Raises:
            StoreFull: There is no room for it.
            StoreBroken: The machine failed.
        """
        ...

    def take_note(self) -> bool:
        """Take that note away, durably; whether it was there."""
        ...


class Operation:
    """A change that waits for the writer, with the task that waits for it."""

    __slots__ = ("outcome", "size", "task", "work")

    def __init__(self, work: Callable[[Transaction], Any], size: int, task: trio.lowlevel.Task) -> None:
        self.work = work
        self.size = size
        self.task = task
        self.outcome: outcome.Value[Any] | outcome.Error | None = None

    def attempt(self, txn: Transaction) -> None:
        """Do the work in this transaction. A refusal is this operation's own; anything else spoils all."""
        before = txn.writes
        try:
            self.outcome = outcome.Value(self.work(txn))
        except StoreBroken:
            raise
        except StoreError as exc:
            if txn.writes != before:  # refused in the middle: half of it must not stay
                raise
            self.outcome = outcome.Error(exc)


def apply_batch(engine: Engine, batch: Sequence[Operation]) -> int:
    """Apply a batch in one transaction, and give every operation its outcome; how many transactions it took.

    If something spoils the transaction, nothing of it stays, and each operation is tried in one of its own,
    so that only the culprit fails.

    Raises:
        StoreBroken: The machine failed; operations without an outcome were not applied.
    """
    together = outcome.capture(_in_one, engine, batch)
    if isinstance(together, outcome.Value):
        return 1
    for operation in batch:
        operation.outcome = None
    if isinstance(together.error, StoreBroken):
        raise together.error
    if len(batch) == 1:
        batch[0].outcome = together
        return 1
    return sum(apply_batch(engine, [operation]) for operation in batch)


def _in_one(engine: Engine, batch: Sequence[Operation]) -> None:
    with engine.transaction() as txn:
        for operation in batch:
            operation.attempt(txn)
