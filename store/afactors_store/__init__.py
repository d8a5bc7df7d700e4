"""Durable state for actors: records and transactions, in LMDB or in memory. It knows nothing of agents.

Floor plan, from the ground up; a module imports only from those above it:

* `errors`: what can go wrong, by whose fault. Imports nothing.
* `protocol`: the seam: the `Store` Protocol and the values that cross it. Imports nothing.
* `keys`: how rows are named and which strings may name anything. Pure; imports `errors`, `protocol`.
* `records`: what rows hold: versioned msgpack. Pure; imports `errors`.
* `kv`: ordered key-value transactions, over LMDB's and over a sorted dict.
* `prepare`: a commit, checked and encoded by the caller. Pure.
* `actors`: the directory of keys, heads, aliases, counters.
* `letters`, `deliveries`: the inbox and the lanes.
* `apply`: a commit. `upkeep`: expiry and erasing. `reads`: claims and listings. `copying`: one key as a whole.
* `engine`: what a store runs on, and how a batch is applied to it.
* `writer`: the task that commits in groups.
* `base`: the Protocol's methods over any engine.
* `lock`: who owns a directory.
* `lmdb_store`, `memory`: the two stores.
"""

from __future__ import annotations

from .errors import BadKey as BadKey
from .errors import Conflict as Conflict
from .errors import Fenced as Fenced
from .errors import FormatTooNew as FormatTooNew
from .errors import StoreBroken as StoreBroken
from .errors import StoreError as StoreError
from .errors import StoreFull as StoreFull
from .errors import StoreLocked as StoreLocked
from .errors import StoreUnusable as StoreUnusable
from .keys import check_key as check_key
from .lmdb_store import LmdbStore as LmdbStore
from .memory import MemoryStore as MemoryStore
from .protocol import MAX_KEY_BYTES as MAX_KEY_BYTES
from .protocol import MAX_NAME_BYTES as MAX_NAME_BYTES
from .protocol import Append as Append
from .protocol import Claim as Claim
from .protocol import Commit as Commit
from .protocol import Committed as Committed
from .protocol import Dead as Dead
from .protocol import DeadLetter as DeadLetter
from .protocol import Delivered as Delivered
from .protocol import Delivery as Delivery
from .protocol import Found as Found
from .protocol import Letter as Letter
from .protocol import NewDelivery as NewDelivery
from .protocol import NewLetter as NewLetter
from .protocol import Retry as Retry
from .protocol import RunRecord as RunRecord
from .protocol import Settlement as Settlement
from .protocol import Slice as Slice
from .protocol import Store as Store
from .protocol import StoreStatistics as StoreStatistics
from .protocol import Work as Work
