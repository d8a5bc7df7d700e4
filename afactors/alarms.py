"""What wakes an actor when one of its reminders is due: one task that sleeps until the next one.

It keeps nothing: which reminders there are is in the store, and one that is due is settled by the very commit that
gives its actor the letter. So whatever ends the process, a reminder comes once, and late rather than never.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence

import trio

from afactors_channels import (
    BadRequest,
    ChannelContribution,
    ChannelSession,
    Conflicting,
    HostError,
    NotAllowed,
    ResponseTarget,
)
from afactors_store import Conflict, FormatTooNew, Store, StoreBroken

from .history import Point
from .reception import Reception
from .reminders import GONE, PREFIX, Reminder, settled
from .rotation import current_session
from .sending import Proactive, identities_of
from .supervision import Supervisor
from .turn import Turn

logger = logging.getLogger("afactors.reminders")

_SLICE = 100
_AT_ONCE = 256  # keys whose reminders are being handed over; their commits share transactions
_LOOK_AGAIN = 30.0  # seconds: the wall clock may have been set since it was looked at
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0


class Alarms:
    """The reminders of all actors. Made by the runtime only."""

    def __init__(
        self,
        store: Store,
        supervisor: Supervisor,
        reception: Reception,
        channels: Mapping[str, ChannelContribution],
    ) -> None:
        self._store = store
        self._supervisor = supervisor
        self._reception = reception
        self._channels = channels
        self._news = trio.Event()
        self._places = trio.Semaphore(_AT_ONCE)
        self._ringing: set[str] = set()
        self._missed: set[str] = set()  # of these, those for which more was due meanwhile
        self._unreadable: set[str] = set()  # names that the log has
        self._delays: dict[str, float] = {}  # of keys that could not take theirs
        self._later: dict[str, float] = {}  # key → not before, by trio's clock

    def notice(self) -> None:
        """There may be an earlier one than was known."""
        self._news.set()

    async def run(self) -> None:
        """Hand over what is due, until cancelled; nothing once the runtime stops."""
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    following = await self._look(nursery)
                except StoreBroken as exc:
                    self._supervisor.give_up(exc)
                    raise
                await self._sleep(following)

    async def _sleep(self, following: float | None) -> None:
        waits = [until - trio.current_time() for until in self._later.values()]
        if following is not None:
            waits.append(min(following - time.time(), _LOOK_AGAIN))
        with trio.move_on_after(max(0.0, min(waits, default=math.inf))):
            await self._news.wait()
        self._news = trio.Event()

    async def _look(self, nursery: trio.Nursery) -> float | None:
        """Begin to hand over what is due, the earliest first; when the next one is."""
        now, position = time.time(), b""
        self._later = {key: until for key, until in self._later.items() if until > trio.current_time()}
        while not self._supervisor.draining and (found := await self._store.timers(now, position, _SLICE)):
            position = found[-1].position
            for key in dict.fromkeys(timer.key for timer in found if timer.name.startswith(PREFIX)):
                await self._begin(nursery, key)
        return None if self._supervisor.draining else await self._store.next_timer(now)

    async def _begin(self, nursery: trio.Nursery, key: str) -> None:
        if key in self._ringing:
            self._missed.add(key)
        elif key not in self._later:
            await self._supervisor.room()
            await self._places.acquire()
            self._ringing.add(key)
            nursery.start_soon(self._ring, key)

    async def _ring(self, key: str) -> None:
        """Hand over what is due for one key, in order."""
        try:
            self._missed.add(key)
            while key in self._missed:
                self._missed.discard(key)
                for reminder in await reminders_of(self._store, key, until=time.time(), told=self._unreadable):
                    await self._fire(key, reminder)
            self._delays.pop(key, None)
        except StoreBroken as exc:
            self._supervisor.give_up(exc)
            raise
        except Exception as exc:  # noqa: BLE001 - the operator's policies run in it
            self._put_off(key, exc)
        finally:
            self._missed.discard(key)
            self._ringing.discard(key)
            self._places.release()

    def _put_off(self, key: str, why: Exception) -> None:
        if self._supervisor.draining:
            return  # the next process has it
        delay = self._delays.get(key, _FIRST_DELAY)
        self._delays[key] = min(2 * delay, _LONGEST_DELAY)
        self._later[key] = trio.current_time() + delay
        unexpected = None if isinstance(why, HostError) else why
        logger.warning("a reminder waits for %g s: %s", delay, why, exc_info=unexpected)
        self.notice()

    async def _fire(self, key: str, reminder: Reminder) -> None:
        """Hand a reminder over: durable when it returns."""
        late = reminder.late_by(time.time())
        if reminder.expired(time.time()):
            logger.warning("reminder %s is dropped: it is %.0f s late", reminder.reminder_id, late)
            await self._drop(key, reminder)
            return
        try:
            await self._handed_over(await self._turn(key, reminder, late))
        except Conflicting:
            raise
        except (BadRequest, NotAllowed) as exc:  # and nothing else: what failed or was cut off is tried again
            if exc.code != GONE:
                logger.error("reminder %s is dropped: it was refused: %s", reminder.reminder_id, exc.message)
                await self._drop(key, reminder)

    async def _handed_over(self, turn: Turn) -> None:
        if turn.durable:
            await turn.acceptance()
        else:
            self._places.release()  # it waits for its session, which may be busy for long
            await turn.end()
            await self._places.acquire()
            await turn.outcome()

    async def _turn(self, key: str, reminder: Reminder, late: float) -> Turn:
        session = reminder.session_id or await current_session(self._store, key)
        told = {"reminder": reminder.reminder_id, "due": reminder.due, "late_by": round(late, 3)}
        request = reminder.request.replace(
            session=ChannelSession(isolation_key=key),
            attributes={**reminder.request.attributes, **told},
            response_target=await self._target(key, reminder),
        )
        edit = None if reminder.as_turn else Proactive(message=request.input[0], remember=True)
        at = (key, Point(session, named=True))
        turn = await self._reception.prepare(request, attended=edit is not None, edit=edit, placed=at)
        turn.timer = reminder.name
        return await self._reception.deliver(turn)

    async def _target(self, key: str, reminder: Reminder) -> ResponseTarget:
        """Where it goes: by default to where the user wrote last, or else to wherever they can be reached."""
        if not reminder.anywhere:
            return reminder.request.response_target
        active = (await identities_of(self._store, key)).active(None, time.time())
        channel = self._channels.get(active.channel) if active is not None else None
        return ResponseTarget.active if channel is not None and channel.push is not None else ResponseTarget.all_linked

    async def _drop(self, key: str, reminder: Reminder) -> None:
        await settle(self._supervisor, key, reminder.name)


async def settle(supervisor: Supervisor, key: str, name: str) -> bool:
    """Take a reminder away; False if it is not there, or came meanwhile."""
    try:
        async with supervisor.awake(key) as actor:
            await actor.write(settled(name))
    except Conflict:
        return False
    return True


async def reminders_of(
    store: Store, key: str, *, until: float = math.inf, told: set[str] | None = None
) -> Sequence[Reminder]:
    """A key's reminders that are due by then, the earliest first; without those of a newer afactors.

    Args:
        store: Where they are.
        key: Whose.
        until: The last instant that counts.
        told: Names of those of which the log has been told that they cannot be read.
    """
    claim, names, after = await store.claim(key), list[str](), ""
    while page := await store.list_documents(claim, PREFIX, after, _SLICE):
        names, after = [*names, *page], page[-1]
    documents, told = await store.read(claim, names), set() if told is None else told
    found = [one for name, document in documents.items() if (one := _readable(name, document, told)) is not None]
    return sorted((one for one in found if one.due <= until), key=lambda one: (one.due, one.reminder_id))


def _readable(name: str, document: bytes, told: set[str]) -> Reminder | None:
    try:
        return Reminder.decode(name, document)
    except FormatTooNew as exc:
        if name not in told:
            told.add(name)
            logger.error("reminder %s is left to a newer afactors: %s", name.removeprefix(PREFIX), exc)
        return None
