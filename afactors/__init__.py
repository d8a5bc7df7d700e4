"""The runtime: it hosts one agent for many durable conversations.

Floor plan, from the ground up; a module imports only from those above it:

* `bridge/`: one owned asyncio thread in which the agent runs. The only place that knows asyncio.
* `limits`: every limit by name, and the slots that running turns share fairly.
* `sealing`: notices that a committed message was changed in place.
* `history`: a session between memory and store: points, extents, what a turn adds.
* `target`: the hosted agent, opened, run and closed behind the bridge.
* `turn`: one letter, its run, and whoever waits for it.
* `runs`: the record of a turn.
* `actor`: one isolation key: mailbox, sessions, turns, commits.
* `supervision`: starts, restarts, quarantines and passivates actors.
* `http`: the ASGI callable: routes, health, the body limit.
* `worker`: hypercorn's trio worker over one listening socket, with less work for each request.
* `reports`, `collector`: what is said at the end; the garbage collector meanwhile.
* `placing`: which actor a request belongs to, and where in which session it goes on.
* `embedding`: a runtime around the lifespan of an app that it is embedded in.
* `serve`: stand-alone HTTP: the address, the signals, the way down.
* `runtime`: all of it together, and the public face.
* `demo/`, `chat`: the demonstration agent and the terminal chat; they know nothing of the runtime.
* `options`, `loading`, `cli`: the command line.

trio is everywhere but in `limits.Limits`, `sealing`, `history` and `runs`; asyncio is in `bridge/` alone.
"""

from afactors_channels import ChannelIdentity as ChannelIdentity
from afactors_channels import ChannelRequest as ChannelRequest
from afactors_channels import ChannelSession as ChannelSession
from afactors_channels import HostedRunResult as HostedRunResult

from .limits import Limits as Limits
from .reports import DrainReport as DrainReport
from .runtime import AuthPolicy as AuthPolicy
from .runtime import Runtime as Runtime
from .runtime import RuntimeStatistics as RuntimeStatistics
from .serve import serve as serve
from .target import TargetUnusable as TargetUnusable
