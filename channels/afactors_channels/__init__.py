"""The channel contract, and the channels.

Floor plan (arrows point to what may be imported):

* `errors` ← everything: errors by whose fault, each with the HTTP status for its envelope.
* `contract` → errors: what a channel is, hands over and is given.
* `asgi` → contract: the few ASGI shells that channels share. Imports trio.
* `credentials` → errors: API keys, and the partitions that they stand for.
* `responses/` → all of the above: the OpenAI Responses API: a pure half, and a thin shell.

Nothing here imports the runtime or the store.
"""

from .contract import Channel as Channel
from .contract import ChannelContext as ChannelContext
from .contract import ChannelContribution as ChannelContribution
from .contract import ChannelIdentity as ChannelIdentity
from .contract import ChannelRequest as ChannelRequest
from .contract import ChannelResponseContext as ChannelResponseContext
from .contract import ChannelResponseHook as ChannelResponseHook
from .contract import ChannelRunHook as ChannelRunHook
from .contract import ChannelSession as ChannelSession
from .contract import ContinuationToken as ContinuationToken
from .contract import Endpoint as Endpoint
from .contract import HostedRun as HostedRun
from .contract import HostedRunResult as HostedRunResult
from .contract import HostedSession as HostedSession
from .contract import HostedTurn as HostedTurn
from .contract import IsolationKeys as IsolationKeys
from .contract import OnDisconnect as OnDisconnect
from .contract import OverlapPolicy as OverlapPolicy
from .contract import Receive as Receive
from .contract import Repeated as Repeated
from .contract import Route as Route
from .contract import RunState as RunState
from .contract import Scope as Scope
from .contract import Send as Send
from .contract import SessionEdit as SessionEdit
from .contract import SessionMode as SessionMode
from .contract import Transcriber as Transcriber
from .contract import Transcript as Transcript
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
from .responses.channel import ResponsesChannel as ResponsesChannel
