"""From what people say and press to what the runtime is asked: one request for each update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..contract import ChannelContext
from ..errors import BadRequest, NotFound
from ..outcomes import ContinuationToken, Question
from ..requests import ChannelIdentity, ChannelRequest, ChannelSession
from . import answers, phrases
from .addressing import Place, Said
from .downloads import Downloads
from .errands import Errands, Speaker
from .inputs import author_of, user_message
from .settings import Settings
from .showing import Show, Shows
from .updates import Incoming, Pressed

_MAX_TOAST = 200


class Asker:
    """Makes requests of messages and buttons, and has shown what becomes of them.

    Args:
        settings: The channel's options.
        bot_id: Whose updates these are: other bots, with other tokens, count theirs by themselves.
        context: Where requests go.
        downloads: Fetches files.
        speaker: Acknowledges buttons.
        shows: Shows what becomes of requests.
        errands: Does what can wait until the update is acknowledged.
    """

    def __init__(
        self,
        settings: Settings,
        bot_id: str,
        context: ChannelContext,
        *,
        downloads: Downloads,
        speaker: Speaker,
        shows: Shows,
        errands: Errands,
    ) -> None:
        self._settings = settings
        self._bot_id = bot_id
        self._context = context
        self._downloads = downloads
        self._speaker = speaker
        self._shows = shows
        self._errands = errands

    def request(self, number: int, event: Incoming | Pressed, identity: ChannelIdentity, key: str) -> ChannelRequest:
        """What an update asks, without its input.

        Args:
            number: The update's: by it the runtime knows a repeat.
            event: What came.
            identity: Who it came from.
            key: Whose actor it goes to.
        """
        return ChannelRequest(
            channel=self._settings.name,
            input=(),
            session=ChannelSession(isolation_key=key),
            identity=identity,
            attributes={"chat_type": event.chat.kind, "message_id": _number(event), "update_id": number},
            stream=self._settings.streaming != "off",
            idempotency_key=f"update:{self._bot_id}:{number}",
            redelivers=True,
        )

    async def say(self, request: ChannelRequest, message: Incoming, said: Said, raw: Any) -> None:
        """Submit a message; as the answer to a question, if that is the only way in which it is taken.

        Raises:
            HostError: The runtime refused it.
        """
        files = await self._downloads.fetch_all(message.attachments)
        spoken = user_message(said.text, files, self._settings.max_download, author_of(message))
        try:
            token = await self._context.submit(request.replace(input=[spoken]), protocol_request=raw)
        except BadRequest:
            # Only looked up for what was refused: a session comes with its whole history.
            question = None if files else answers.meant(_quoted(message), await self._questions(request))
            if question is None:
                raise
            answer = answers.reply(question, said.text)
            token = await self._context.submit(request.replace(input=[answer]), protocol_request=raw)
        self._follow(token, message)

    async def press(self, request: ChannelRequest, pressed: Pressed, raw: Any) -> None:
        """Submit what a button says; what keeps it from being taken is told at the button.

        Raises:
            HostError: The runtime refused it, for no fault of the button's.
        """
        message = await self._meant(pressed, request)
        if message is None:
            self.toast(pressed, phrases.NOT_YOURS)
            return
        try:
            token = await self._context.submit(request.replace(input=[message]), protocol_request=raw)
        except BadRequest as refused:
            self.toast(pressed, phrases.refusal(refused))
            return
        self.toast(pressed)
        if pressed.message and answers.parse_choice(pressed.data) is not None:
            self._errands.leave(partial(self._unbutton, pressed))
        self._follow(token, pressed)

    def toast(self, pressed: Pressed, text: str | None = None) -> None:
        """Acknowledge a button, so that it stops to blink; with words, if there is something to say."""
        told = {"callback_query_id": pressed.id, "text": text[:_MAX_TOAST] if text else None}
        self._errands.leave(partial(self._call, "answerCallbackQuery", told))

    # -- questions

    async def _meant(self, pressed: Pressed, request: ChannelRequest) -> Mapping[str, Any] | None:
        """What a button says; None if it answers a question that nobody asks."""
        choice = answers.parse_choice(pressed.data)
        if choice is None:
            return user_message(pressed.data, (), 0)
        question = answers.chosen(choice, await self._questions(request))
        return answers.verdict(question, yes=choice.yes) if question is not None else None

    async def _questions(self, request: ChannelRequest) -> Sequence[Question]:
        about = ChannelRequest(request.channel, (), request.session, identity=request.identity)
        try:
            return (await self._context.get_session(about)).questions
        except NotFound:
            return ()

    # -- afterwards

    def _follow(self, token: ContinuationToken, event: Incoming | Pressed) -> None:
        show = Show(place_in(event), _number(event), event.chat.private)
        self._errands.leave(partial(self._shows.follow, token, show))

    async def _unbutton(self, pressed: Pressed) -> None:
        await self._call("editMessageReplyMarkup", {"chat_id": pressed.chat.id, "message_id": pressed.message})

    async def _call(self, method: str, params: Mapping[str, Any]) -> None:
        await self._speaker.try_twice(method, params)


def place_in(event: Incoming | Pressed) -> Place:
    """Where something was said or pressed."""
    return Place(event.chat.id, event.thread)


def _number(event: Incoming | Pressed) -> int:
    """The number of the message that is answered; 0 if nobody knows it."""
    return event.id if isinstance(event, Incoming) else event.message


def _quoted(message: Incoming) -> str:
    return message.quoted.text if message.quoted is not None else ""
