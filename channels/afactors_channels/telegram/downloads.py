"""Files that come with messages. A message whose file cannot be had goes on without it, and says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio

from .api import ApiFailed, ApiRefused, BotApi
from .errands import log_trouble
from .inputs import Fetched, largest
from .updates import Attachment, Variant

_ATTEMPTS = 2
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

    async def fetch_all(self, attachments: Sequence[Attachment]) -> list[Fetched]:
        """The files of one message."""
        return [await self.fetch(one) for one in attachments]

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
