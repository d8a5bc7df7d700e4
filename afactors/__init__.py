"""The runtime: it hosts one agent for many durable conversations.

Floor plan, from the ground up; a module imports only from those above it:

* `bridge/`: one owned asyncio thread in which the agent runs. The only place that knows asyncio.
* `limits`: every limit by name, and the slots that running turns share fairly.
* `sealing`: notices that a committed message was changed in place.
* `encoding`: messages and state as rows of bytes, and back.
* `points`: where a session stands: extents of logs.
* `history`: a session between memory and store: points, extents, what a turn adds.
* `retention`: how much of a session's past is kept.
* `remembering`: histories that stay in the store, and are read in parts.
* `journal`: a run's transcript on its way to its readers, and to the store.
* `turn`: one letter, its run, and whoever waits for it.
* `target`: the hosted agent, opened, run and closed behind the bridge.
* `squeezing`: small records made smaller.
* `runs`: what is stored of a run: its letter, its record, and what its names lead to.
* `binding`: telling an agent's context providers which request they work for.
* `providers`: the store as a history provider of the framework's.
* `overlap`: what becomes of a message to a busy session.
* `sessions`: what an actor knows of its sessions.
* `commits`: what each step of a turn writes.
* `editing`: changing a session otherwise than by a turn.
* `hooks`: calling the user's hooks.
* `performing`: how one turn is carried out.
* `recovering`: durable letters that a process left behind, as turns again.
* `actor`: one isolation key: mailbox, life, and which turn is next.
* `portable`: one actor as a file, written from any store, read into any other.
* `supervision`: starts, restarts, quarantines and passivates actors.
* `continuations`: runs by their names: polled, cancelled, followed, forgotten.
* `http`: the ASGI callable: routes, health, the body limit.
* `worker`: hypercorn's trio worker over one listening socket, with less work for each request.
* `reports`, `collector`: what is said at the end; the garbage collector meanwhile.
* `rotation`: the sessions of a key, and which of them it is in.
* `placing`: which actor a request belongs to, and where in which session it goes on.
* `reception`: how a request becomes a turn.
* `opening`: what exists only while a runtime is open.
* `operations`: what an operator does to one actor: export, import, erase.
* `embedding`: a runtime around the lifespan of an app that it is embedded in.
* `serve`: stand-alone HTTP: the address, the signals, the way down.
* `runtime`: all of it together, and the public face.
* `demo/`, `answers`, `chat`: the demonstration agent and the terminal chat; they know nothing of the runtime.
* `options`, `loading`, `advice`, `offline`, `cli`: the command line; `advice` is what it tells who starts a server, and
  `offline` what it does where no server runs.

trio is everywhere but in `limits.Limits`, `sealing`, `encoding`, `points`, `history`, `retention`,
`remembering`, `squeezing`, `runs`, `overlap` and `commits`; asyncio is in
`bridge/` alone.
"""

from afactors_channels import ChannelIdentity as ChannelIdentity
from afactors_channels import ChannelRequest as ChannelRequest
from afactors_channels import ChannelSession as ChannelSession
from afactors_channels import ContinuationToken as ContinuationToken
from afactors_channels import HostedRun as HostedRun
from afactors_channels import HostedRunResult as HostedRunResult
from afactors_channels import HostedSession as HostedSession
from afactors_channels import IsolationKeys as IsolationKeys
from afactors_channels import Question as Question
from afactors_channels import SessionEdit as SessionEdit

from .hosting import TargetUnusable as TargetUnusable
from .limits import Limits as Limits
from .portable import ActorExport as ActorExport
from .portable import UnusableFile as UnusableFile
from .providers import StoreHistoryProvider as StoreHistoryProvider
from .reception import AuthPolicy as AuthPolicy
from .reports import DrainReport as DrainReport
from .runtime import Runtime as Runtime
from .runtime import RuntimeStatistics as RuntimeStatistics
from .serve import serve as serve
from .turn import get_current_isolation_keys as get_current_isolation_keys
from .turn import get_current_request as get_current_request
