"""The Telegram channel: its options, and how its parts work together."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import httpx
import trio

from ..contract import ChannelContext, ChannelContribution, Route
from ..outcomes import ChannelResponseHook, ChannelRunHook
from ..pushes import ChannelCommand, PushPolicy
from ..requests import OverlapPolicy
from .addressing import Scope
from .api import BotApi
from .asking import Asker
from .commands import Menu
from .desk import Desk
from .downloads import Downloads
from .errands import Errands, Speaker
from .phrases import GREETING
from .presence import Presence
from .receiving import Poller, Webhook
from .sending import Pushes
from .settings import API_BASE, DEFAULT_PUSHES, MAX_DOWNLOAD, Allow, ParseMode, Settings, Streaming, bot_id, check_token
from .showing import Shows
from .transcript import TelegramTranscript

logger = logging.getLogger("afactors.channels.telegram")


class TelegramChannel:
    """A Telegram bot.

    Every message is accepted durably before it is acknowledged. Its reply is a delivery: sent at least once, and tried
    again for as long as the policy says. What is shown meanwhile ("typing …", drafts, a message that grows) is
    provisional.

    A bot's name is public: without `allow`, everybody who finds it can use it.

    Args:
        token: The bot's token. It is in no log, no error and no `repr`.
        name: Unique among the runtime's channels.
        api_base: Where the Bot API is: a server of one's own, or a fake.
        webhook_path: Where updates are sent to, on this host.
        webhook_url: The public address of that path. It is registered at the start.
        secret: What the server sends along to show who it is; required for a webhook.
        require_secret: Whether updates are refused that come without it. False is for a fake server that sends none,
            on a machine of one's own: anybody who reaches the webhook could speak as anybody.
        polling: Whether updates are fetched. By default they are, if there is no `webhook_url`. False without one is a
            webhook that somebody else registered. True also deletes a webhook that is in the way.
        allow: Who may use the bot: ids of users and chats and ``@names`` of them (which their owners can change), or a
            callable that decides, sync or async. Others are refused: in private with one sentence, in groups silently.
        mention_only: Whether the bot hears, in groups, only what is said to it: mentions, replies, commands.
        scope: Whose actor a message goes to; by default the user's in private, and the conversation's in groups. Where
            several people share an actor, each of them may answer its questions.
        streaming: ``auto`` shows replies as they grow; ``off`` shows only "typing …".
        edit_interval: Seconds between two previews of a reply; at least 1.
        parse_mode: How replies are marked up. What the server cannot read as that, is sent as plain text.
        commands: What the bot understands besides `/new`, `/cancel`, `/help` and `/start`.
        overlap: What to do with a message to a session that is busy; None leaves it to the runtime.
        run_hook: Rewrites or refuses requests; see `ChannelRunHook`. Its `protocol_request` is the update.
        response_hook: Rewrites results; see `ChannelResponseHook`.
        push_policy: How deliveries are sent, and tried again.
        max_download: Bytes up to which a file that a user sent is fetched.
        greeting: What `/start` answers.
        transport: What carries the calls, for tests; httpx's own by default.

    Raises:
        ValueError: An option cannot be what it is; the message names it.
    """

    def __init__(
        self,
        token: str,
        *,
        name: str = "telegram",
        api_base: str = API_BASE,
        webhook_path: str = "/telegram/webhook",
        webhook_url: str | None = None,
        secret: str | None = None,
        require_secret: bool = True,
        polling: bool | None = None,
        allow: Allow | None = None,
        mention_only: bool = True,
        scope: Scope | None = None,
        streaming: Streaming = "auto",
        edit_interval: float = 1.5,
        parse_mode: ParseMode | None = None,
        commands: Sequence[ChannelCommand] = (),
        overlap: OverlapPolicy | None = None,
        run_hook: ChannelRunHook | None = None,
        response_hook: ChannelResponseHook | None = None,
        push_policy: PushPolicy = DEFAULT_PUSHES,
        max_download: int = MAX_DOWNLOAD,
        greeting: str = GREETING,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = Settings(
            name=name,
            api_base=api_base,
            webhook_path=webhook_path,
            webhook_url=webhook_url,
            secret=secret,
            require_secret=require_secret,
            polling=polling,
            allow=allow,
            mention_only=mention_only,
            scope=scope,
            streaming=streaming,
            edit_interval=edit_interval,
            parse_mode=parse_mode,
            commands=tuple(commands),
            overlap=overlap,
            run_hook=run_hook,
            response_hook=response_hook,
            push_policy=push_policy,
            max_download=max_download,
            greeting=greeting,
        )
        self._api = BotApi(check_token(token), api_base, transport)
        self._bot_id = bot_id(token)

    def __repr__(self) -> str:
        return f"TelegramChannel(name={self.name!r}, {'polling' if self._settings.polls else 'webhook'})"

    @property
    def name(self) -> str:
        """Unique among the runtime's channels."""
        return self._settings.name

    def contribute(self, context: ChannelContext) -> ChannelContribution:
        """The channel's route, its task, and its way of sending deliveries."""
        settings = self._settings
        service = _Service(self._api, self._bot_id, settings, context)
        return ChannelContribution(
            routes=service.routes(),
            task=service.run,
            run_hook=settings.run_hook,
            response_hook=settings.response_hook,
            overlap=settings.overlap,
            transcriber=TelegramTranscript if settings.streaming != "off" else None,
            push=service.pushes.push,
            push_policy=settings.push_policy,
            push_ready=service.ready,
            push_place=lambda identity: identity.conversation or identity.native_id,
            replies_by_push=True,
            commands=service.menu.shown,
        )


class _Service:
    """The channel at work."""

    def __init__(self, api: BotApi, bot_id: str, settings: Settings, context: ChannelContext) -> None:
        self._api = api
        self._settings = settings
        self._errands = Errands()
        speaker = Speaker(api)
        shows = Shows(api, context, speaker, interval=settings.edit_interval, streaming=settings.streaming != "off")
        self.menu = Menu(settings.commands, settings.greeting)
        self.pushes = Pushes(api, shows, settings.parse_mode)
        self._presence = Presence(api, settings, self.menu)
        asker = Asker(
            settings,
            bot_id,
            context,
            downloads=Downloads(api, settings.max_download),
            speaker=speaker,
            shows=shows,
            errands=self._errands,
        )
        self._desk = Desk(
            settings,
            context,
            asker=asker,
            presence=self._presence,
            menu=self.menu,
            speaker=speaker,
            errands=self._errands,
        )
        self._poller = Poller(api, self._desk.take, self._desk.give_up, context, determined=settings.polling is True)

    def routes(self) -> Sequence[Route]:
        """The webhook, if updates are sent to us."""
        settings = self._settings
        if settings.polls:
            return ()
        webhook = Webhook(settings.secret, self._desk.take, required=settings.require_secret)
        return (Route("POST", settings.webhook_path, webhook),)

    async def ready(self) -> None:
        """Wait until deliveries can be sent: the server knows the bot."""
        await self._presence.bot()

    async def run(self) -> None:
        """Work, for as long as the host does."""
        if not self._settings.polls and not self._settings.require_secret:
            logger.warning("require_secret is off: anybody who reaches the webhook can speak as anybody")
        async with self._api.opened(), trio.open_nursery() as nursery:
            nursery.start_soon(self._presence.introduce)
            nursery.start_soon(self._errands.run)
            if self._settings.webhook_url is not None:
                nursery.start_soon(self._presence.register)
            if self._settings.polls:
                nursery.start_soon(self._poll)

    async def _poll(self) -> None:
        await self._presence.bot()  # without its name, nobody can say which messages are for it
        await self._poller.run()
