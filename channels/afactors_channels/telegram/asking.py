"""From what people say and press to what the runtime is asked: one request for each update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..contract import ChannelContext
from ..errors import BadRequest, HostError, NotAllowed, NotFound, Overloaded, StorageFull
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
_COMMITTED = ("completed", "incomplete")
_GONE = ("question_answered", "question_expired")  # nobody can answer it any more


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
        async with self._downloads.held(message.attachments) as files:
            spoken = user_message(said.text, files, self._settings.max_download, author_of(message))
            try:
                token = await self._context.submit(request.replace(input=[spoken]), protocol_request=raw)
            except BadRequest:
                # Only looked up for what was refused: a session comes with its whole history.
                question = None if files else answers.meant(_quoted(message), await self._questions(request))
                if question is None:
                    raise
                token = await self._answer(request, answers.reply(question, said.text), raw)
        self._follow(token, message)

    async def press(self, request: ChannelRequest, pressed: Pressed, raw: Any) -> None:
        """Submit what a button says; what keeps it from being taken is told at the button.

        Raises:
            Overloaded: Not now; it is to come again.
            StorageFull: As above.
        """
        choice = answers.parse_choice(pressed.data)
        try:
            if choice is None:
                said = user_message(pressed.data, (), 0)
                token = await self._context.submit(request.replace(input=[said]), protocol_request=raw)
            else:
                token = await self._choose(request, choice, raw)
        except (Overloaded, StorageFull):
            raise
        except HostError as refused:
            await self._refused(request, pressed, refused)
            return
        self.toast(pressed)
        if choice is not None and pressed.message and token:
            self._errands.leave(partial(self._settle, token, pressed), lasting=True)
        self._follow(token, pressed)

    def toast(self, pressed: Pressed, text: str | None = None) -> None:
        """Acknowledge a button, so that it stops to blink; with words, if there is something to say."""
        told = {"callback_query_id": pressed.id, "text": text[:_MAX_TOAST] if text else None}
        self._errands.leave(partial(self._call, "answerCallbackQuery", told))

    # -- questions

    async def _choose(self, request: ChannelRequest, choice: answers.Choice, raw: Any) -> ContinuationToken:
        """Submit the answer to the question that a button belongs to.

        Raises:
            HostError: The runtime refused it, or nobody asks that.
        """
        question = answers.chosen(choice, await self._questions(request))
        if question is not None:
            return await self._answer(request, answers.verdict(question, yes=choice.yes), raw)
        if await self._context.admit(request):
            raise BadRequest("There is no such question.", code="question_not_found")
        return await self._context.submit(request)  # the answer was taken before; a repeat is never run

    async def _answer(self, request: ChannelRequest, answer: Mapping[str, Any], raw: Any) -> ContinuationToken:
        """Submit an answer: it takes nobody's place, whatever messages do to those before them."""
        return await self._context.submit(request.replace(input=[answer], overlap="enqueue"), protocol_request=raw)

    async def _questions(self, request: ChannelRequest) -> Sequence[Question]:
        about = ChannelRequest(request.channel, (), request.session, identity=request.identity)
        try:
            return (await self._context.get_session(about)).questions
        except NotFound:
            return ()

    # -- afterwards

    def _follow(self, token: ContinuationToken, event: Incoming | Pressed) -> None:
        if token:  # else the update was dealt with before, without a run
            show = Show(place_in(event), _number(event), event.chat.private)
            self._errands.leave(partial(self._shows.follow, token, show), lasting=True)

    async def _refused(self, request: ChannelRequest, pressed: Pressed, refused: HostError) -> None:
        """Tell it at the button; what somebody was told is not done when the update comes again."""
        if not isinstance(refused, NotAllowed) and refused.code != "question_not_found":
            await self._context.dealt(request)
        self.toast(pressed, phrases.refusal(refused))
        if pressed.message and refused.code in _GONE:
            self._errands.leave(partial(self._unbutton, pressed))

    async def _settle(self, token: ContinuationToken, pressed: Pressed) -> None:
        """Once a question is answered its buttons go; after a run that answered nothing they can be pressed again."""
        try:
            run = await self._context.get_continuation(token, wait=True)
        except NotFound:
            answered = True  # its result is no longer kept
        except HostError:
            return  # the host stops; buttons that stay then are told that their question is not open
        else:
            answered = run.state in _COMMITTED or (run.error is not None and run.error[0] in _GONE)
        if answered:
            await self._unbutton(pressed)

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
