"""A reply as it grows: drafts in private, a message that is edited in groups, and "typing …".

All of it is provisional and best effort. What holds is the delivery: it ends the show, and puts the reply in the place
of what was shown. The shows live in memory: after a crash, the delivery of a reply is a new message, and so it is after
a stop, which takes back what was shown of a run that goes on in the next process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import trio

from ..contract import ChannelContext
from ..errors import HostError, NotFound, Restarted
from ..outcomes import ContinuationToken
from . import phrases
from .addressing import Place
from .api import ApiFailed, ApiRefused, BotApi
from .errands import Recent, Speaker, at, log_trouble
from .transcript import Growing

_TYPING = 4.5  # the server shows it for five seconds
_LOOK = 1.5  # seconds between two looks whether a run has begun
_FIRST = 1.0  # seconds for which a quick answer needs no preview
_TROUBLES = 3
_EAGER = 5
_PAUSE = 5.0
_LAST_WORD = 2.0


@dataclass(eq=False)
class Show:
    """One reply, as it is shown.

    Attributes:
        place: Where.
        to: The message that it answers; 0 if nobody knows.
        private: Whether nobody but its user sees it.
        text: The text as it grows.
        message: Id of the message that is edited, once there is one.
        painted: What can be seen.
        over: The reply is there, or will not come.
        lock: Held while something is painted.
        quiet_until: Nothing is painted before; infinity for never.
        troubles: How often the server refused.
        strokes: How often something was painted.
    """

    place: Place
    to: int
    private: bool
    text: Growing = field(default_factory=Growing)
    message: int | None = None
    painted: str = ""
    over: trio.Event = field(default_factory=trio.Event)
    lock: trio.Lock = field(default_factory=trio.Lock)
    quiet_until: float = -math.inf
    troubles: int = 0
    strokes: int = 0

    def trouble(self, error: ApiRefused | ApiFailed) -> None:
        """Paint less, or nothing more."""
        self.troubles += 1
        asked = error.retry_after if isinstance(error, ApiRefused) else None
        self.quiet_until = trio.current_time() + (_PAUSE if asked is None else asked)
        if self.troubles >= _TROUBLES and asked is None:
            self.quiet_until = math.inf


class Shows:
    """All replies that are being shown.

    Args:
        api: Where they are shown.
        context: Where runs are followed.
        speaker: Takes back what was shown of a run that was cancelled.
        interval: Seconds between two edits.
        streaming: Whether runs write transcripts at all; without them there is only "typing …".
    """

    def __init__(
        self, api: BotApi, context: ChannelContext, speaker: Speaker, *, interval: float, streaming: bool
    ) -> None:
        self._api = api
        self._context = context
        self._speaker = speaker
        self._interval = interval
        self._streaming = streaming
        self._shows = Recent[str, Show]()
        self._delivered = Recent[str, None]()
        self._followed = Recent[str, None]()
        self._typed = Recent[Place, float]()
        self._unknown: set[str] = set()

    async def follow(self, token: ContinuationToken, show: Show) -> None:
        """Show a run until it ends. It is shown once: not for a repeat, nor for what became a part of it."""
        if token in self._followed:
            return
        self._followed.put(token, None)
        run = await self._context.get_continuation(token)
        if run.ended is not None or run.run_id in self._delivered or run.run_id in self._shows:
            return
        self._shows.put(run.run_id, show)
        try:
            await self._perform(token, show)
        finally:
            if not show.text.end:
                await self._take_back(run.run_id, show)
        if show.text.end == "cancelled":
            await self._withdraw(show)
        if show.message is None:
            self.forget(run.run_id)

    async def _perform(self, token: ContinuationToken, show: Show) -> None:
        """Paint and type until a run ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._type, token, show)
            nursery.start_soon(self._paint, show)
            await self._read(token, show)
            show.over.set()  # not cancelled: a message that is being sent must be known

    async def take(self, run_id: str, place: Place) -> Show | None:
        """End a show, because the reply is there; returns it if something was shown in this place."""
        self._delivered.put(run_id, None)
        show = self._shows.get(run_id)
        if show is None or show.place != place:
            return None
        show.over.set()
        async with show.lock:
            return show

    def forget(self, run_id: str) -> None:
        """The reply is where the show was."""
        self._shows.pop(run_id)

    # -- reading

    async def _read(self, token: ContinuationToken, show: Show) -> None:
        """Follow a run to its end, whatever keeps its transcript from being read."""
        while self._streaming and not show.text.end:
            try:
                async with self._context.subscribe(token) as batches:
                    async for rows in batches:
                        for row in rows:
                            show.text.take(row)
                break
            except Restarted:
                show.text.begin_again()
                await trio.sleep(self._interval)
            except HostError:
                break
        if not show.text.end:
            await self._wait(token, show)

    async def _wait(self, token: ContinuationToken, show: Show) -> None:
        try:
            run = await self._context.get_continuation(token, wait=True)
        except NotFound:
            show.text.end = "completed"
        except HostError:
            pass  # the host stops; the next process goes on with the run
        else:
            show.text.end = run.state

    async def _withdraw(self, show: Show) -> None:
        """A run that was cancelled has no reply, so this is all that is left of it."""
        number, show.message = show.message, None
        if number is not None:
            await self._speaker.try_twice("editMessageText", {**_message(show, number), "text": phrases.WITHDRAWN})

    async def _take_back(self, run_id: str, show: Show) -> None:
        """The host stops before the run ends: the next process replies with a new message, so this one goes."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _LAST_WORD):
            async with show.lock:
                number = None if run_id in self._delivered else show.message
                if number is not None:
                    show.message = None
                    with suppress(ApiRefused, ApiFailed):
                        await self._api.call("deleteMessage", _message(show, number))

    # -- typing

    async def _type(self, token: ContinuationToken, show: Show) -> None:
        """Say that somebody types: only once the run has begun, and once for all that run in a place."""
        await self._begin(token, show)
        while not show.over.is_set() and "sendChatAction" not in self._unknown:
            now = trio.current_time()
            until = self._typed.get(show.place) or now
            if until <= now:
                until = now + _TYPING
                self._typed.put(show.place, until)
                if not await self._typing(show.place):
                    return
            await _either(show.over, until - trio.current_time())

    async def _begin(self, token: ContinuationToken, show: Show) -> None:
        """Wait until a run has begun, or is over."""
        with suppress(HostError):
            while not show.over.is_set() and (await self._context.get_continuation(token)).state == "queued":
                await _either(show.over, _LOOK)

    async def _typing(self, place: Place) -> bool:
        """Say it once; returns False if that was refused."""
        try:
            await self._api.call("sendChatAction", {**at(place), "action": "typing"})
        except ApiRefused as refused:
            self._shrug(refused)
            return False
        except ApiFailed as failed:
            self._shrug(failed)
        return True

    # -- painting

    async def _paint(self, show: Show) -> None:
        pause = min(_FIRST, self._interval)
        while not show.over.is_set():
            await _either(show.over, max(pause, show.quiet_until - trio.current_time()))
            # Groups take some twenty messages and edits in a minute, and the reply should find room among them.
            pause = self._interval * (1 if show.private else 1 + show.strokes // _EAGER)
            async with show.lock:
                text = show.text.shown()
                if text and text != show.painted and not show.over.is_set():
                    await self._stroke(show, text)

    async def _stroke(self, show: Show, text: str) -> None:
        try:
            await (self._draft(show, text) if show.private else self._edit(show, text))
            show.painted, show.troubles, show.strokes = text, 0, show.strokes + 1
        except ApiRefused as refused:
            if not refused.unmodified:
                self._shrug(refused)
                show.trouble(refused)
        except ApiFailed as failed:
            self._shrug(failed)
            show.trouble(failed)

    async def _draft(self, show: Show, text: str) -> None:
        if "sendMessageDraft" not in self._unknown:
            # A draft's number must not be 0; no message has that number.
            await self._api.call("sendMessageDraft", {**at(show.place), "draft_id": show.to or 1, "text": text})

    async def _edit(self, show: Show, text: str) -> None:
        if show.message is not None:
            await self._api.call("editMessageText", {**_message(show, show.message), "text": text})
            return
        quoting = {"message_id": show.to, "allow_sending_without_reply": True} if show.to else None
        sent = await self._api.call("sendMessage", {**at(show.place), "text": text, "reply_parameters": quoting})
        show.message = message_id(sent)

    def _shrug(self, error: ApiRefused | ApiFailed) -> None:
        """Never again call what the server does not know."""
        if error.unknown_method and error.method not in self._unknown:
            self._unknown.add(error.method)
            log_trouble("shown without it from now on", error)


def message_id(sent: Any) -> int | None:
    """The number of a message that was sent."""
    found = sent.get("message_id") if isinstance(sent, Mapping) else None
    return found if isinstance(found, int) else None


def _message(show: Show, number: int) -> dict[str, Any]:
    return {"chat_id": show.place.chat, "message_id": number}


async def _either(event: trio.Event, seconds: float) -> None:
    """Wait for an event, but not longer; infinity for as long as it takes."""
    with trio.move_on_after(max(0.0, seconds)):
        await event.wait()
