"""What is on its way, and what is dead: listed, shown, replayed, purged. Works on a store alone, too.

Nothing here looks at all deliveries at once: the store is read in slices, and a page ends after so many at which it
looked, whether they were wanted or not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypedDict, TypeVar, Unpack

import trio

from afactors_channels import BadRequest, Conflicting, NotFound, StorageFull
from afactors_store import DeadLetter, Fenced, NewDelivery, Pending, Store, StoreFull

from .delivering import DeliveriesStatistics
from .outbox import LETTERS, UnknownVersion, renewed
from .rerunning import read, run_again
from .turn import Turn
from .views import DeliveryView, shown

logger = logging.getLogger("afactors.deliveries")

T = TypeVar("T")

_SLICE = 100
_LOOKS = 10_000  # at deliveries, for one page
_NUMBERS = 1 << 64
_DIGITS = len(str(_NUMBERS))

Found: TypeAlias = tuple[str, Pending | DeadLetter]
"""A cursor, and what stands before it."""


class DeliveryFilter(TypedDict, total=False):
    """Which deliveries are meant; of all that is said here, all must be so.

    Attributes:
        channel: Name of the channel that they go by, or that a letter came by.
        key: Whose.
        reason: Why they died.
        older_than: Seconds since they died, or, of those that are not dead, since they were committed.
    """

    channel: str | None
    key: str | None
    reason: str | None
    older_than: float | None


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Some deliveries.

    Attributes:
        deliveries: In their order: what is not dead lane by lane, then dead letters by their numbers.
        after: Where the next page begins; None at the end. A page may have fewer than were asked for, or none, with
            more to come.
    """

    deliveries: Sequence[DeliveryView]
    after: str | None


class Replayed(NamedTuple):
    """What became of dead letters.

    Attributes:
        done: How many were replayed.
        left: How many letters of runs cannot be read, and so were left where they are.
    """

    done: int
    left: int


class Post(Protocol):
    """Who sends deliveries, where a runtime is open."""

    def statistics(self) -> DeliveriesStatistics:
        """All deliveries in figures, now."""
        ...

    def notice(self, deliveries: Sequence[NewDelivery]) -> None:
        """There are new ones."""
        ...


async def _here(call: Callable[..., Awaitable[T]], *args: Any) -> T:
    return await call(*args)


class Deliveries:
    """The deliveries of a store, for whoever looks after them: `Runtime.deliveries` has one.

    Args:
        store: An open store.
        post: Who sends them; None where nobody does.
        collect: Has an actor take up a run that was accepted; None where there are no actors.
        in_trio: Makes a call where the store lives.
    """

    def __init__(
        self,
        store: Store,
        *,
        post: Post | None = None,
        collect: Callable[[Turn], None] | None = None,
        in_trio: Callable[..., Awaitable[Any]] = _here,
    ) -> None:
        self._store = store
        self._post = post
        self._collect = collect
        self._in_trio = in_trio

    def statistics(self) -> DeliveriesStatistics:
        """All deliveries in figures, now."""
        if self._post is not None:
            return self._post.statistics()
        counts = self._store.statistics()
        return DeliveriesStatistics(counts.pending, counts.dead, ())

    async def list(
        self,
        *,
        state: Literal["pending", "dead"] | None = None,
        limit: int = 100,
        after: str | None = None,
        **which: Unpack[DeliveryFilter],
    ) -> DeliveryPage:
        """A page of deliveries, without what they say.

        Args:
            state: pending: also those of which an attempt runs; dead: dead letters; None for both.
            limit: The most that a page has.
            after: `DeliveryPage.after` of the page before.
            **which: See `DeliveryFilter`.

        Raises:
            BadRequest: `invalid_cursor`.
        """
        page: DeliveryPage = await self._in_trio(self._list, state, limit, after, which)
        return page

    async def show(self, delivery_id: str) -> DeliveryView:
        """One delivery, with what it says.

        Args:
            delivery_id: Its id, or a dead letter's number.

        Raises:
            NotFound: `delivery_not_found`: it was delivered, replayed or purged, or never was.
        """
        (found,) = await self._in_trio(self._located, [delivery_id])
        return shown(found, whole=True)

    async def replay(self, *delivery_ids: str, all: bool = False, **which: Unpack[DeliveryFilter]) -> int:  # noqa: A002
        """Send dead letters after all, each behind what waits for its destination; letters of runs are run again.

        Each has a new id, no attempts, and its full time. The run of a letter is a new one; the old one stays failed.

        Args:
            *delivery_ids: Ids, or numbers of dead letters.
            all: All that are dead now, as far as `which` says; to be said if nothing else is.
            **which: See `DeliveryFilter`.

        Returns:
            How many.

        Raises:
            ValueError: It does not say which.
            NotFound: `delivery_not_found`: there is none of such an id. Nothing was done then.
            Conflicting: `not_dead`: one is on its way by itself; `unknown_version`: a letter cannot be read, a newer
                afactors may have written it. Nothing was done then. Without ids such letters are left where they are.
            StorageFull: There is no room.
        """
        return (await self.replayed(*delivery_ids, all=all, **which)).done

    async def replayed(self, *delivery_ids: str, all: bool = False, **which: Unpack[DeliveryFilter]) -> Replayed:  # noqa: A002
        """As `replay`; it tells what could not be run again, too."""
        _check_said(delivery_ids, all, which)
        replayed: Replayed = await self._in_trio(self._replay, delivery_ids, which)
        return replayed

    async def purge(self, *delivery_ids: str, all: bool = False, **which: Unpack[DeliveryFilter]) -> int:  # noqa: A002
        """Remove dead letters for good. What is not dead is left alone.

        Args and errors are those of `replay`; returns how many were removed.
        """
        _check_said(delivery_ids, all, which)
        done: int = await self._in_trio(self._purge, delivery_ids, which)
        return done

    # -- looking

    async def _list(self, state: str | None, limit: int, after: str | None, which: DeliveryFilter) -> DeliveryPage:
        wanted, now, looks = list[DeliveryView](), time.time(), 0
        async with aclosing(_each(self._store, state, after)) as each:
            async for cursor, stored in each:
                view, looks = shown(stored), looks + 1
                if _meant(view, which, now):
                    wanted.append(view)
                if len(wanted) >= limit or looks >= _LOOKS:
                    return DeliveryPage(wanted, cursor)
        return DeliveryPage(wanted, None)

    async def _located(self, delivery_ids: Sequence[str]) -> Sequence[Pending | DeadLetter]:
        """Deliveries by their ids; those that have numbers without looking at the others."""
        found = dict[str, Pending | DeadLetter]()
        for one in delivery_ids:
            if (letter := await self._numbered(one)) is not None:
                found[one] = letter
        missing = set(delivery_ids) - found.keys()
        if missing:
            async with aclosing(_each(self._store, None, "d")) as dead, aclosing(_each(self._store, "pending")) as rest:
                for each in (dead, rest):
                    found.update({one.delivery_id: one async for one in _of(each, missing)})
        for one in delivery_ids:
            if one not in found:
                raise NotFound(f"There is no delivery {one}.", field="id", code="delivery_not_found")
        return [found[one] for one in delivery_ids]

    async def _numbered(self, delivery_id: str) -> DeadLetter | None:
        number = delivery_id.isascii() and delivery_id.isdecimal() and len(delivery_id) <= _DIGITS
        if not number or int(delivery_id) >= _NUMBERS:
            return None
        return await self._store.dead_letter(int(delivery_id))

    async def _dead(
        self,
        delivery_ids: Sequence[str],
        which: DeliveryFilter,
        check: Callable[[DeadLetter], None] = lambda _letter: None,
    ) -> AsyncGenerator[DeadLetter, None]:
        """Dead letters by their ids, all of them checked before the first; or those that were dead when this began."""
        began = time.time()
        if not delivery_ids:
            async with aclosing(_each(self._store, "dead")) as each:
                async for _, one in each:
                    if isinstance(one, DeadLetter) and one.died <= began and _meant(shown(one), which, began):
                        yield one
            return
        found = await self._located(list(dict.fromkeys(delivery_ids)))
        letters = list(map(_dead_one, found))
        for letter in letters:
            check(letter)
        for letter in letters:
            yield letter

    # -- deciding

    async def _replay(self, delivery_ids: Sequence[str], which: DeliveryFilter) -> Replayed:
        done = left = 0
        try:
            async with aclosing(self._dead(delivery_ids, which, _check_readable)) as letters:
                async for letter in letters:
                    again = self._run_again if letter.lane == LETTERS else self._send_again
                    try:
                        done += await again(letter)
                    except UnknownVersion as exc:
                        left += 1
                        logger.error("dead letter %d is left where it is: %s", letter.position, exc)
        except StoreFull as exc:
            raise StorageFull(f"The server has room for no more; {done} were replayed.") from exc
        finally:
            logger.info("%d dead letters were replayed", done)
        return Replayed(done, left)

    async def _send_again(self, letter: DeadLetter) -> bool:
        now = time.time()
        try:
            body = renewed(letter.body, now)
        except UnknownVersion:
            body = letter.body  # whoever sends it may know more
        if await self._store.revive(letter.position, now, body) is None:
            return False
        if self._post is not None:
            self._post.notice([NewDelivery(letter.lane, b"")])
        return True

    async def _run_again(self, letter: DeadLetter) -> bool:
        try:
            turn = await run_again(self._store, letter)
        except Fenced:
            return False  # its key was erased, and the letter with it
        if turn is not None and self._collect is not None:
            self._collect(turn)
        return bool(await self._store.purge([letter.position]))

    async def _purge(self, delivery_ids: Sequence[str], which: DeliveryFilter) -> int:
        done, positions = 0, list[int]()
        async with aclosing(self._dead(delivery_ids, which)) as letters:
            async for letter in letters:
                positions.append(letter.position)
                if len(positions) == _SLICE:
                    done, positions = done + await self._store.purge(positions), []
        done += await self._store.purge(positions)
        logger.info("%d dead letters were purged", done)
        return done


def _check_said(delivery_ids: Collection[str], all_: bool, which: DeliveryFilter) -> None:
    said = [bool(delivery_ids), all_ or any(value is not None for value in which.values())]
    if said.count(True) != 1:
        raise ValueError("say which: ids; or a filter, or all=True")


def _dead_one(found: Pending | DeadLetter) -> DeadLetter:
    if isinstance(found, DeadLetter):
        return found
    told = f"Delivery {found.delivery_id} is not dead, it is sent by itself; nothing was done."
    raise Conflicting(told, field="id", code="not_dead")


def _check_readable(letter: DeadLetter) -> None:
    try:
        if letter.lane == LETTERS:
            read(letter)
    except UnknownVersion as exc:
        told = f"Letter {letter.position}: {exc}; nothing was done."
        raise Conflicting(told, field="id", code="unknown_version") from exc


def _meant(view: DeliveryView, which: Mapping[str, Any], now: float) -> bool:
    since = view.died if view.died is not None else view.created
    seen = {"channel": view.channel, "key": view.isolation_key, "reason": view.reason}
    age = which.get("older_than")
    if age is not None and (since is None or now - since < age):
        return False
    return all(which.get(name) in (None, value) for name, value in seen.items())


async def _of(each: AsyncIterator[Found], missing: set[str]) -> AsyncIterator[Pending | DeadLetter]:
    """Those of some ids, which are taken away from `missing`; looks no further than it must."""
    if missing:
        async for _, one in each:
            if one.delivery_id in missing:
                missing.remove(one.delivery_id)
                yield one
                if not missing:
                    return


async def _each(store: Store, state: str | None, after: str | None = None) -> AsyncGenerator[Found, None]:
    """Deliveries with their cursors, slice by slice: what is not dead, then dead letters."""
    dead, position, number = _cursor(after)
    if state != "dead" and not dead:
        while slice_ := await store.deliveries(position, _SLICE):
            for one in slice_:
                yield f"p{one.position.hex()}", one
            position = slice_[-1].position
            await trio.lowlevel.checkpoint()
    if state != "pending":
        while letters := await store.dead_letters(number, _SLICE):
            for letter in letters:
                yield f"d{letter.position}", letter
            number = letters[-1].position
            await trio.lowlevel.checkpoint()


def _cursor(after: str | None) -> tuple[bool, bytes, int]:
    """Whether a cursor is among the dead letters; the position after which it is there, or the number."""
    kind, place = (after or "p")[:1], (after or "p")[1:]
    try:
        number = int(place) if kind == "d" and place else -1
        if kind in ("p", "d") and -1 <= number < _NUMBERS - 1:
            return kind == "d", bytes.fromhex(place) if kind == "p" else b"", number
    except ValueError:
        pass
    raise BadRequest("This is no cursor.", field="after", code="invalid_cursor")
