"""Telegram: a bot, by webhook or by polling.

The pure half does no I/O. Each module may import those above it.

* `texts`: UTF-16 units, splitting, marked parts.
* `updates`: updates, as far as they are understood.
* `addressing`: whether a message is for the bot, and whose actor it goes to.
* `phrases`: what the channel itself says.
* `inputs`: messages as the framework's.
* `answers`: questions as buttons, and the answers to them.
* `messages`: replies as calls of the Bot API.
* `transcript`: a run's text as it grows.
* `window`: which updates of a poller can be confirmed.
* `settings`: the channel's options, checked.

The shell, thin:

* `api`: calls of the Bot API, and what came of them; the token goes no further than this.
* `errands`: what is done after an update was acknowledged.
* `showing`: a reply as it grows.
* `sending`: deliveries.
* `commands`: `/new`, `/cancel`, `/help`, `/start`, and the application's own.
* `downloads`: files that come with messages.
* `presence`: the bot makes itself known.
* `asking`: from messages and buttons to requests.
* `desk`: one update at the door.
* `receiving`: webhook and poller.
* `channel`: the channel's options, and how the parts work together.
"""

from .addressing import Scope as Scope
from .channel import TelegramChannel as TelegramChannel
from .settings import Allow as Allow
from .settings import ParseMode as ParseMode
from .settings import Streaming as Streaming
