"""The runtime: it hosts one agent, or one workflow, for many durable conversations.

Floor plan, from the ground up; a module imports only from those above it, or beside it:

* `bridge/`: one owned asyncio thread in which the target runs. The only place that knows asyncio.
* `limits`: every limit by name, and the slots that running turns share fairly.
* `hooks`, `naming`, `reports`, `collector`: calling the user's hooks; how documents are named; what is said at the
  end; the garbage collector meanwhile.
* `http`, `worker`: the ASGI callable; hypercorn's trio worker over one listening socket, with less work for each
  request.
* `encoding`, `squeezing`, `pickling`: messages, small records and a workflow's state as bytes, and back.
* `points`, `sealing`, `history`, `retention`, `remembering`: where a session stands; a session between memory and
  store; how much of its past is kept; histories that stay in the store and are read in parts.
* `journal`: a run's transcript on its way to its readers, and to the store.
* `identities`, `outbox`, `aiming`: whom an actor knows, what a delivery is, where replies go.
* `room`, `steady`, `breaker`, `stranded`, `outlets`, `delivering`: the supervisor of deliveries: a way out for each
  channel.
* `questions`, `runs`, `reminders`, `views`: what is stored of questions, runs and reminders, and shown of deliveries.
* `instances`, `entries`, `checkpoints`, `ledger`: of workflows: fresh ones, what they are run with, where they stand,
  and what was said.
* `host`, `turn`, `current`: what a turn may ask of its runtime; one letter, its run, and whoever waits for it; the
  present turn, for the target's own code.
* `target`, `binding`, `providers`, `agents`, `workflows`, `hosting`: what is hosted: what it does for a turn, and how
  it is opened and closed.
* `commits`, `sending`, `editing`, `forgetting`, `overlap`, `recovering`, `rerunning`: what each step of a turn
  writes; changes by others; what becomes of a message to a busy session, and of letters that a process left behind.
* `sessions`, `asking`, `rotation`, `placing`: what an actor knows of its sessions, and which of them a request
  belongs to.
* `performing`, `actor`, `supervision`: how one turn is carried out; one isolation key; all of them.
* `continuations`, `reception`, `alarms`: runs by their names; how a request becomes a turn; the task that wakes
  actors.
* `portable`, `deliveries`: one actor as a file; what is on its way and what is dead, for whoever looks after it.
* `errands`, `control`, `remote`: commands to a server that runs, over a socket in its state folder.
* `opening`, `embedding`, `serve`: what exists only while a runtime is open; inside another app; stand-alone.
* `operations`, `reaching`, `scheduling`, `runtime`: all of it together, and the public face.
* `demo/`, and `endpoint`, `answers`, `prompts`, `chat`: the demonstration agent, and the terminal chat; they know
  nothing of the runtime.
* `options`, `loading`, `advice`, `offline`, `tending`, `tables`, `cli`: the command line.

Modules that say that they are pure import neither trio nor anything that does; asyncio is in `bridge/` alone.
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
from afactors_channels import ResponseTarget as ResponseTarget
from afactors_channels import RetryPolicy as RetryPolicy
from afactors_channels import SessionEdit as SessionEdit

from .current import CurrentTurn as CurrentTurn
from .current import get_current_turn as get_current_turn
from .deliveries import Deliveries as Deliveries
from .deliveries import DeliveryPage as DeliveryPage
from .delivering import DeliveriesStatistics as DeliveriesStatistics
from .hosting import TargetUnusable as TargetUnusable
from .limits import Limits as Limits
from .portable import ActorExport as ActorExport
from .portable import UnusableFile as UnusableFile
from .providers import StoreHistoryProvider as StoreHistoryProvider
from .reaching import IdentityResolver as IdentityResolver
from .reception import AuthPolicy as AuthPolicy
from .reminders import Reminder as Reminder
from .reports import DrainReport as DrainReport
from .runtime import Runtime as Runtime
from .runtime import RuntimeStatistics as RuntimeStatistics
from .serve import serve as serve
from .turn import get_current_isolation_keys as get_current_isolation_keys
from .turn import get_current_request as get_current_request
from .views import DeliveryView as DeliveryView
