"""The channel contract, and the channels.

Floor plan (arrows point to what may be imported):

* `errors` ← everything: errors by whose fault, each with the HTTP status for its envelope.
* `requests`: what a channel hands over.
* `outcomes` → requests: what becomes of it.
* `workflows`: a workflow's events, as the framework's messages.
* `readers` → workflows: what of a response is for whoever reads it.
* `pushes` → requests: deliveries, and when they are tried again.
* `contract` → all of these: what a channel is, and is given.
* `wire` → errors: JSON from the wire and onto it.
* `asgi` → contract: the few ASGI shells that channels share. Imports trio.
* `credentials` → errors: API keys, and the partitions that they stand for.
* `telegram/`, `webhook/` → all of the above: chats with a Telegram bot; signed webhooks, both ways.
* `responses/` → all of the above: the OpenAI Responses API: a pure half, and a thin shell.

Nothing here imports the runtime or the store.
"""

from .contract import Channel as Channel
from .contract import ChannelContext as ChannelContext
from .contract import ChannelContribution as ChannelContribution
from .contract import Endpoint as Endpoint
from .contract import HostedTurn as HostedTurn
from .contract import Receive as Receive
from .contract import Route as Route
from .contract import Scope as Scope
from .contract import Send as Send
from .errors import BadRequest as BadRequest
from .errors import Conflicting as Conflicting
from .errors import HostError as HostError
from .errors import NotAllowed as NotAllowed
from .errors import NotFound as NotFound
from .errors import Overloaded as Overloaded
from .errors import PushDeferred as PushDeferred
from .errors import PushRejected as PushRejected
from .errors import Restarted as Restarted
from .errors import StorageFull as StorageFull
from .errors import TargetFailed as TargetFailed
from .errors import TooLarge as TooLarge
from .errors import Unprocessable as Unprocessable
from .outcomes import ChannelResponseContext as ChannelResponseContext
from .outcomes import ChannelResponseHook as ChannelResponseHook
from .outcomes import ChannelRunHook as ChannelRunHook
from .outcomes import ContinuationToken as ContinuationToken
from .outcomes import HostedRun as HostedRun
from .outcomes import HostedRunResult as HostedRunResult
from .outcomes import HostedSession as HostedSession
from .outcomes import Question as Question
from .outcomes import QuestionKind as QuestionKind
from .outcomes import Repeated as Repeated
from .outcomes import RunState as RunState
from .outcomes import SessionEdit as SessionEdit
from .outcomes import Transcriber as Transcriber
from .outcomes import Transcript as Transcript
from .pushes import ChannelCommand as ChannelCommand
from .pushes import ChannelCommandContext as ChannelCommandContext
from .pushes import ChannelPush as ChannelPush
from .pushes import ChannelPushCodec as ChannelPushCodec
from .pushes import Push as Push
from .pushes import PushPolicy as PushPolicy
from .pushes import RetryPolicy as RetryPolicy
from .requests import ChannelIdentity as ChannelIdentity
from .requests import ChannelRequest as ChannelRequest
from .requests import ChannelSession as ChannelSession
from .requests import IsolationKeys as IsolationKeys
from .requests import OnDisconnect as OnDisconnect
from .requests import OverlapPolicy as OverlapPolicy
from .requests import ResponseTarget as ResponseTarget
from .requests import SessionMode as SessionMode
from .responses.channel import ResponsesChannel as ResponsesChannel
from .telegram.channel import TelegramChannel as TelegramChannel
from .webhook.channel import WebhookChannel as WebhookChannel
from .webhook.endpoints import WebhookEndpoint as WebhookEndpoint
from .webhook.endpoints import WebhookSource as WebhookSource
