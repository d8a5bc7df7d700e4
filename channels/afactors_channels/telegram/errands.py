"""What is done after an update was acknowledged: a runner of small jobs, and the jobs that only say something.

All of it is best effort: a job that fails is logged, and nothing else comes of it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeAlias, TypeVar

import trio

from .addressing import Place
from .api import ApiFailed, ApiRefused, BotApi
from .texts import clean, split_text

logger = logging.getLogger("afactors.channels.telegram")

Job: TypeAlias = Callable[[], Awaitable[None]]

_MOST = 1000
_LONGEST_WAIT = 30.0

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """What was heard of last; the oldest is forgotten.

    Args:
        most: How many are remembered.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._known: OrderedDict[K, V] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return key in self._known

    def get(self, key: K) -> V | None:
        """What is remembered of a key."""
        return self._known.get(key)

    def put(self, key: K, value: V) -> None:
        """Remember it."""
        self._known[key] = value
        self._known.move_to_end(key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def pop(self, key: K) -> V | None:
        """Forget it."""
        return self._known.pop(key, None)


class Errands:
    """Runs jobs that nobody waits for, in a nursery of its own.

    Jobs may be left before it runs, and while it does not; then they wait. Beyond `most` of them, new ones are
    dropped: what they would do is welcome, not promised. Those that last as long as a run have as much room of their
    own, so that nobody waits for an answer because many wait for theirs.

    Args:
        most: How many of either kind there can be.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._room, self._lasting = trio.Semaphore(most), trio.Semaphore(most)
        self._send, self._receive = trio.open_memory_channel[tuple[Job, trio.Semaphore]](2 * most)

    def leave(self, job: Job, *, lasting: bool = False) -> None:
        """Have something done soon.

        Args:
            job: What.
            lasting: Whether it lasts as long as a run.
        """
        room = self._lasting if lasting else self._room
        try:
            room.acquire_nowait()
        except trio.WouldBlock:
            logger.log(logging.DEBUG if lasting else logging.WARNING, "too much to do after messages; some is left out")
        else:
            self._send.send_nowait((job, room))

    async def run(self) -> None:
        """Do what was left, until cancelled."""
        async with trio.open_nursery() as nursery:
            async for job, room in self._receive:
                nursery.start_soon(self._do, job, room)

    async def _do(self, job: Job, room: trio.Semaphore) -> None:
        try:
            await job()
        except Exception as error:  # noqa: BLE001 - the next one has nothing to do with it
            log_trouble("after a message", error)
        finally:
            room.release()


def log_trouble(what: str, error: BaseException) -> None:
    """Log a failure that nothing comes of; a defect with its trace, the server's ways without."""
    if isinstance(error, ApiRefused | ApiFailed):
        logger.warning("%s: %s", what, error)
    else:
        logger.error("%s: %s", what, type(error).__name__, exc_info=error)


def at(place: Place) -> dict[str, Any]:
    """A place as parameters of a call."""
    return {"chat_id": place.chat, "message_thread_id": place.thread}


class Speaker:
    """Says things that are no deliveries: answers of the channel itself.

    Args:
        api: Where they are said.
    """

    def __init__(self, api: BotApi) -> None:
        self._api = api

    async def say(self, place: Place, text: str) -> None:
        """Say something, with one more attempt if the first failed."""
        for part in split_text(clean(text)):
            await self.try_twice("sendMessage", {**at(place), "text": part})

    async def try_twice(self, method: str, params: Mapping[str, Any]) -> Any:
        """Call a method; once more if it failed in a way that may pass.

        Raises:
            ApiRefused: The server refused.
            ApiFailed: It failed twice.
        """
        try:
            return await self._api.call(method, params)
        except ApiFailed:
            await trio.sleep(1.0)
        except ApiRefused as refused:
            if refused.retry_after is None or refused.retry_after > _LONGEST_WAIT:
                raise
            await trio.sleep(refused.retry_after)
        return await self._api.call(method, params)
