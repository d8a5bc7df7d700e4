"""Deliveries: one push at a time to one place, split where it must be, and what the server's refusals mean."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..errors import PushDeferred, PushRejected
from ..pushes import Push
from .addressing import Place, place_of
from .api import ApiFailed, ApiRefused, BotApi
from .errands import Recent, at
from .messages import Call, plan
from .showing import Show, Shows

_CHAT_MOVED = 5
# What a refused chat is called. Whatever else a 400 says is about the message, not about the chat.
_WORDS = (
    ("blocked by the user", "blocked"),
    ("user is deactivated", "deactivated"),
    ("kicked", "kicked"),
    ("not a member", "kicked"),
    ("group chat was deleted", "deleted"),
    ("chat not found", "chat_not_found"),
    ("peer_id_invalid", "chat_not_found"),
    ("can't initiate conversation", "not_started"),
    ("message thread not found", "topic_not_found"),
    ("topic_deleted", "topic_not_found"),
    ("topic_closed", "topic_closed"),
    ("not enough rights", "no_rights"),
    ("have no rights", "no_rights"),
    ("chat_write_forbidden", "no_rights"),
)
_BY_STATUS = {403: "forbidden", 404: "not_found", 413: "too_large"}


@dataclass
class _Progress:
    """How far a delivery has come: the calls that were made, which no attempt makes again."""

    done: int = 0


class Pushes:
    """Sends deliveries.

    Delivery is at least once. A reply that needs several messages goes on, in the next attempt, behind those that the
    server has taken: that is remembered in memory, so after a crash the whole reply is sent again. The same goes for a
    message whose answer was lost on the way: the Bot API has no way to send a message only once.

    Args:
        api: Where they are sent.
        shows: What was shown of them before.
        parse_mode: How their text is marked up.
    """

    def __init__(self, api: BotApi, shows: Shows, parse_mode: str | None = None) -> None:
        self._api = api
        self._shows = shows
        self._parse_mode = parse_mode
        self._progress = Recent[str, _Progress]()
        self._moved = Recent[int | str, int]()

    async def push(self, push: Push) -> None:
        """Send one delivery.

        Raises:
            PushRejected: The destination will never take it.
            PushDeferred: It wants to wait.
            ApiFailed: It may pass.
        """
        place = place_of(push.identity)
        if place is None:
            raise PushRejected("no_such_place")
        progress = self._progress.get(push.delivery_id) or _Progress()
        self._progress.put(push.delivery_id, progress)
        show = await self._shows.take(push.run_id, place) if push.run_id and push.kind == "reply" else None
        try:
            await self._send(push, place, progress, show)
        except ApiRefused as refused:
            raise _verdict(refused) from None
        self._progress.pop(push.delivery_id)
        if show is not None:
            self._shows.forget(push.run_id)

    async def _send(self, push: Push, place: Place, progress: _Progress, show: Show | None) -> None:
        calls = plan(push.response, push.kind, self._parse_mode, thread=place.thread)
        if show is not None and show.message is not None and progress.done == 0:
            progress.done = await self._replace(show, place, calls)
        for call in calls[progress.done :]:
            await self._call(call, place)
            progress.done += 1

    async def _replace(self, show: Show, place: Place, calls: Sequence[Call]) -> int:
        """Put a reply's first text in the place of what was shown; returns how many calls that was."""
        if not calls or not calls[0].is_text:
            with suppress(ApiRefused, ApiFailed):
                await self._make(Call("deleteMessage", {"message_id": show.message}), place)
            show.message = None
            return 0
        try:
            await self._call(_edited(calls[0], show.message), place)
        except ApiRefused as refused:
            if not _is_about_the_message(refused):
                raise
            show.message = None  # it is gone, so this is a new one
            return 0
        return 1

    async def _call(self, call: Call, place: Place) -> None:
        """Make a call; failing that, the one that stands in for it."""
        found: Call | None = call
        while found is not None:
            try:
                await self._make(found, place)
                return
            except (ApiRefused, ApiFailed) as error:
                if isinstance(error, ApiRefused) and error.unmodified:
                    return
                if found.or_else is None and isinstance(error, ApiRefused) and error.says_nothing:
                    return  # what nobody could see is not missed, and what follows it may be a question
                if found.or_else is None or not _may_be_put_otherwise(found, error):
                    raise
                found = found.or_else

    async def _make(self, call: Call, place: Place) -> Any:
        """Make a call where the chat is now: groups get another id when they grow."""
        for _ in range(_CHAT_MOVED):
            chat = self._moved.get(place.chat) or place.chat
            try:
                return await self._api.call(call.method, {**at(Place(chat, place.thread)), **call.params}, call.upload)
            except ApiRefused as refused:
                if refused.migrated_to is None or refused.migrated_to == chat:
                    raise
                self._moved.put(place.chat, refused.migrated_to)
        raise ApiFailed(f"{call.method}: the chat moves on and on")


def _edited(call: Call, message: int | None) -> Call:
    """The same text, as an edit."""
    or_else = _edited(call.or_else, message) if call.or_else is not None else None
    return Call("editMessageText", {**call.params, "message_id": message}, or_else=or_else)


def _may_be_put_otherwise(call: Call, error: ApiRefused | ApiFailed) -> bool:
    """Whether what stands in for a call might be taken: groups may forbid photos and files, and allow words."""
    if isinstance(error, ApiFailed):
        return error.unknown_method and "text" not in call.params
    no_rights = error.code == 400 and _chat_word(error) == "no_rights"
    return error.unknown_method or no_rights or _is_about_the_message(error)


def _is_about_the_message(refused: ApiRefused) -> bool:
    """Whether another message might be taken in the same place."""
    return refused.code in (400, 413) and refused.migrated_to is None and _chat_word(refused) is None


def _chat_word(refused: ApiRefused) -> str | None:
    words = refused.description.lower()
    return next((word for part, word in _WORDS if part in words), None)


def _verdict(refused: ApiRefused) -> Exception:
    """What a refusal means for a delivery."""
    if refused.code == 429:
        return PushDeferred("too_many_requests", refused.retry_after)
    if refused.code == 401:
        return ApiFailed(str(refused))
    return PushRejected(_chat_word(refused) or _BY_STATUS.get(refused.code, "refused"))
