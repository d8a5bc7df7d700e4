"""The bridge: one asyncio thread in which the hosted target runs, driven from trio.

Floor plan, lowest first; each module imports only those above it::

    _types      the typed failures and the statistics
    _threads    daemon worker threads for synchronous tools
    _door       the way from the asyncio thread back into trio
    _crossing   work on its way over: what trio and asyncio both hold of a run, a stream, a held resource
    _loop       the asyncio thread; the only module of the project that imports asyncio
    _watchdog   beats the loop from trio and says when agent code blocks it
    _driver     what trio does with a crossing: begin, wait, stop, give up, count
    _stream     a stream as trio reads it
    _bridge     Bridge, the face

Docstrings mark the methods that run in one thread only: "[trio]" or "[asyncio]".
"""

from ._bridge import Bridge as Bridge
from ._stream import BridgeStream as BridgeStream
from ._types import BridgeClosed as BridgeClosed
from ._types import BridgeStatistics as BridgeStatistics
from ._types import TargetCancelled as TargetCancelled
from ._types import TargetExited as TargetExited
