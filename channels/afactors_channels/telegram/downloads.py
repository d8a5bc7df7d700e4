"""Files that come with messages. A message whose file cannot be had goes on without it, and says so.

Few are in memory at once: the others wait, and so do their chats.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

from ..errors import Overloaded, StorageFull
from .api import ApiFailed, ApiRefused, BotApi
from .errands import log_trouble
from .inputs import Fetched, largest
from .updates import Attachment, Variant

_ATTEMPTS = 2
_AT_ONCE = 4
_KEPT = 4  # times the largest file
_OVERHEAD = 1000  # bytes
_PATIENCE = 30.0  # seconds for one file: the servers send an update again that is not acknowledged within a minute


class Downloads:
    """Fetches files.

    Args:
        api: From where.
        limit: In bytes.
    """

    def __init__(self, api: BotApi, limit: int) -> None:
        self._api = api
        self._limit = limit
        self._room = trio.Semaphore(_AT_ONCE)
        self._kept: dict[Attachment, Fetched] = {}

    @asynccontextmanager
    async def held(self, attachments: Sequence[Attachment]) -> AsyncIterator[list[Fetched]]:
        """The files of one message, for as long as the block. They are kept for a while if it ends with "not now".

        Raises:
            Overloaded: There were too many files of others, for too long.
        """
        if not attachments:
            yield []
            return
        with trio.move_on_after(_PATIENCE) as waiting:
            await self._room.acquire()
        if waiting.cancelled_caught:
            raise Overloaded("Too many files come at once.", status=503, retry_after=5.0)
        try:
            files = [self._kept.pop(one) if one in self._kept else await self.fetch(one) for one in attachments]
            try:
                yield files
            except (Overloaded, StorageFull):
                self._keep(files)
                raise
        finally:
            self._room.release()

    def _keep(self, files: Sequence[Fetched]) -> None:
        """Have files at hand when their message comes again; the oldest are given up for them."""
        self._kept.update((one.attachment, one) for one in files)
        while sum(map(_weight, self._kept.values())) > _KEPT * self._limit:
            del self._kept[next(iter(self._kept))]

    async def fetch(self, attachment: Attachment) -> Fetched:
        """One file; without its data if it is too large, or cannot be had."""
        variant = largest(attachment, self._limit)
        if variant is None:
            return Fetched(attachment, large=True)
        with trio.move_on_after(_PATIENCE):
            for _ in range(_ATTEMPTS):
                try:
                    data = await self._attempt(variant)
                except ApiFailed as failed:
                    log_trouble("a file could not be fetched", failed)
                    await trio.sleep(1.0)
                except ApiRefused as refused:
                    log_trouble("a file could not be fetched", refused)
                    return Fetched(attachment, large="too big" in refused.description.lower())
                else:
                    return Fetched(attachment, data, large=data is None)
        return Fetched(attachment)

    async def _attempt(self, variant: Variant) -> bytes | None:
        told = await self._api.call("getFile", {"file_id": variant.file_id})
        path = told.get("file_path") if isinstance(told, Mapping) else None
        if not isinstance(path, str) or not path:
            raise ApiFailed("getFile: no path was given")
        return await self._api.fetch(path, self._limit)


def _weight(fetched: Fetched) -> int:
    return _OVERHEAD + len(fetched.data or b"")
