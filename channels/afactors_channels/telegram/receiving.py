"""How updates come: sent to a webhook, or fetched by a poller. Neither acknowledges what was not taken."""

from __future__ import annotations

import hmac
import json
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import trio

from ..asgi import ClientGone, header, read_body, send_whole
from ..contract import ChannelContext, Receive, Scope, Send
from ..errors import HostError, Overloaded, StorageFull
from .api import ApiFailed, ApiRefused, BotApi
from .errands import log_trouble
from .presence import pause
from .updates import ALLOWED_UPDATES, Update, parse_update
from .window import Window

logger = logging.getLogger("afactors.channels.telegram")

Take: TypeAlias = Callable[[Update, Any], Awaitable[None]]
"""Takes an update, and returns once it may be acknowledged; see `Desk.take`."""

GiveUp: TypeAlias = Callable[[Update, HostError | None], None]
"""Tells whoever sent an update that it will not be taken; see `Desk.give_up`."""

_SECRET_HEADER = b"x-telegram-bot-api-secret-token"
_RETRY_AFTER = 5.0

_LONG_POLL = 50
_MOST = 100
_PATIENCE = 1.0  # seconds that a new fetch waits for updates that are being taken
_BREATH = 0.2  # seconds, for servers that do not hold an empty answer back
_ATTEMPTS = 10  # after which an update that breaks something is given up, so that it does not stop all others
_LAST_WORD = 2.0
_CONFLICT = 409
_OF_ONE = frozenset({"mailbox_full", "quarantined"})  # refusals that say nothing of other conversations


class Webhook:
    """The endpoint that updates are sent to.

    Args:
        secret: What the server sends along; None if it sends nothing.
        take: Takes updates.
        required: Whether an update without any secret is refused.
    """

    def __init__(self, secret: str | None, take: Take, *, required: bool = True) -> None:
        self._secret = secret.encode() if secret is not None else None
        self._take = take
        self._required = required

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one update; 200 only once it is durable."""
        if not self._is_known(header(scope, _SECRET_HEADER)):
            await send_whole(send, 401, b"{}")
            return
        try:
            raw = _decoded(await read_body(receive))
            await self._take(parse_update(raw), raw)
        except ClientGone:
            return
        except HostError as refused:
            await _refuse(send, refused)
        except Exception:
            logger.exception("an update could not be taken")
            await _refuse(send, HostError("The update could not be taken."))
        else:
            await send_whole(send, 200, b"{}")

    def _is_known(self, presented: str | None) -> bool:
        if presented is None or self._secret is None:
            return not self._required
        return hmac.compare_digest(presented.encode("latin-1"), self._secret)


async def _refuse(send: Send, refused: HostError) -> None:
    """Have an update sent again."""
    wait = _RETRY_AFTER if refused.retry_after is None else refused.retry_after
    status = 503 if isinstance(refused, StorageFull) else refused.status
    await send_whole(send, status, b"{}", [(b"retry-after", b"%d" % math.ceil(wait))])


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


class Poller:
    """Fetches updates.

    The offset of a fetch confirms everything before it; so it stays at the first update that was not taken yet, while
    those behind it are taken. Each chat has a line of its own. What the runtime refuses for now is offered again, in
    its place in the line.

    Args:
        api: Where from.
        take: Takes updates.
        give_up: Is told of those that are confirmed although nobody took them.
        context: Says when to stop.
        determined: Whether the operator said that this bot polls: then a webhook that is in the way is deleted.
    """

    def __init__(self, api: BotApi, take: Take, give_up: GiveUp, context: ChannelContext, *, determined: bool) -> None:
        self._api = api
        self._take = take
        self._give_up = give_up
        self._context = context
        self._may_delete = determined

    async def run(self) -> None:
        """Fetch until the host begins to stop."""
        self._window, self._lines = Window(), dict[int, deque[tuple[Update, Any]]]()
        self._stopping, self._progress = trio.Event(), trio.Event()
        self._asked: int | None = None
        async with trio.open_nursery() as self._nursery:
            with trio.CancelScope() as fetching:
                self._nursery.start_soon(self._watch, fetching)
                await self._fetch_for_ever()
        await self._confirm()

    async def _watch(self, fetching: trio.CancelScope) -> None:
        await self._context.stopping()
        self._stopping.set()
        fetching.cancel(reason="the host stops")

    # -- fetching

    async def _fetch_for_ever(self) -> None:
        failures = 0
        while True:
            try:
                fresh = self._sort(await self._fetch(_LONG_POLL if self._window.idle else 0))
            except (ApiRefused, ApiFailed) as error:
                await self._trouble(error, failures)
                failures += 1
                continue
            failures = 0
            await self._pause(fresh)

    async def _fetch(self, seconds: int) -> Any:
        self._asked = self._window.offset
        asked = {"offset": self._asked, "timeout": seconds, "limit": _MOST, "allowed_updates": ALLOWED_UPDATES}
        return await self._api.call("getUpdates", asked, wait=seconds)

    async def _pause(self, fresh: bool) -> None:
        """Give what came a moment to be taken, so that the next fetch confirms it."""
        with trio.move_on_after(_PATIENCE):
            while not self._window.idle:
                await self._progress.wait()
        if not fresh:
            await trio.sleep(_BREATH)

    async def _trouble(self, error: ApiRefused | ApiFailed, failures: int) -> None:
        if isinstance(error, ApiRefused) and error.code == _CONFLICT:
            await self._conflict(error)
        else:
            log_trouble("updates cannot be fetched", error)
        await trio.sleep(pause(failures, error))

    async def _conflict(self, error: ApiRefused) -> None:
        if self._may_delete and "webhook" in error.description.lower():
            self._may_delete = False
            logger.warning("a webhook is set for this bot, and polling was asked for: the webhook is deleted")
            with suppress(ApiRefused, ApiFailed):
                await self._api.call("deleteWebhook", {"drop_pending_updates": False})
            return
        logger.warning(
            "updates go elsewhere: stop the other process that polls with this token, "
            "or delete its webhook (polling=True does), or give webhook_url (%s)",
            error.description,
        )

    # -- taking

    def _sort(self, raws: Any) -> bool:
        """Put the updates that are new into the lines of their chats; returns whether there are any."""
        pairs = [(parse_update(raw), raw) for raw in raws] if isinstance(raws, Sequence) else []
        fresh = self._window.take(update.id for update, _ in pairs if update.id is not None)
        for update, raw in pairs:
            if update.id in fresh:
                self._put(update, raw)
        return bool(fresh)

    def _put(self, update: Update, raw: Any) -> None:
        chat = update.lane or 0
        if chat in self._lines:
            self._lines[chat].append((update, raw))
        else:
            self._lines[chat] = deque([(update, raw)])
            self._nursery.start_soon(self._serve, chat)

    async def _serve(self, chat: int) -> None:
        """Take what is in a chat's line, one after the other, until it is empty or the host stops."""
        line = self._lines[chat]
        while line:
            update, raw = line[0]
            if not await self._offer(update, raw):
                return
            line.popleft()
            self._finish(update)
        del self._lines[chat]

    def _finish(self, update: Update) -> None:
        if update.id is not None:
            self._window.finish(update.id)
        progress, self._progress = self._progress, trio.Event()
        progress.set()

    async def _offer(self, update: Update, raw: Any) -> bool:
        """Offer an update until it is taken; returns False if the host stops before."""
        failures = 0
        while not self._stopping.is_set():
            try:
                await self._take(update, raw)
            except (Overloaded, StorageFull) as refused:
                if refused.code in _OF_ONE and self._window.pending >= _MOST:
                    self._give_up(update, refused)  # the server shows nothing of anybody else until it is confirmed
                    return True
                wait = _RETRY_AFTER if refused.retry_after is None else refused.retry_after
            except Exception:
                logger.exception("an update could not be taken")
                failures += 1
                if failures >= _ATTEMPTS:
                    logger.error("update %s is given up after %d attempts", update.id, failures)
                    self._give_up(update, None)
                    return True
                wait = pause(failures)
            else:
                return True
            with trio.move_on_after(wait):
                await self._stopping.wait()
        return False

    async def _confirm(self) -> None:
        """Confirm what was taken since the last fetch, so that it does not come again."""
        if self._window.offset == self._asked:
            return
        with trio.move_on_after(_LAST_WORD), suppress(ApiRefused, ApiFailed):
            await self._api.call("getUpdates", {"offset": self._window.offset, "timeout": 0, "limit": 1})
