"""Durable state for actors: records and transactions, in LMDB or in memory. It knows nothing of agents.

Floor plan, from the ground up; a module imports only from those above it:

* `errors`: what can go wrong, by whose fault. Imports nothing.
* `values`: what crosses the seam: what a store is given, and what it gives. Imports nothing.
* `protocol`: the seam: the `Store` Protocol.
* `keys`: how rows are named and which strings may name anything. Pure; imports `errors`, `values`.
* `records`: what rows hold: versioned msgpack. Pure; imports `errors`.
* `kv`: ordered key-value transactions, over LMDB's and over a sorted dict.
* `prepare`: a commit, checked and encoded by the caller. Pure.
* `actors`: the directory of keys, heads, aliases, counters.
* `letters`, `deliveries`, `dead`: the inbox, the lanes, the dead letters.
* `apply`: a commit. `upkeep`: expiry and erasing. `reads`: claims and listings. `copying`: one key as a whole.
* `engine`: what a store runs on, and how a batch is applied to it.
* `writer`: the task that commits in groups.
* `serving`, `outbox`, `base`: the Protocol's methods over any engine: what they stand on, deliveries, all others.
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
from .protocol import Store as Store
from .values import MAX_KEY_BYTES as MAX_KEY_BYTES
from .values import MAX_NAME_BYTES as MAX_NAME_BYTES
from .values import Append as Append
from .values import Claim as Claim
from .values import Commit as Commit
from .values import Committed as Committed
from .values import Dead as Dead
from .values import DeadLetter as DeadLetter
from .values import Delivered as Delivered
from .values import Delivery as Delivery
from .values import Found as Found
from .values import Letter as Letter
from .values import NewDelivery as NewDelivery
from .values import NewLetter as NewLetter
from .values import Pending as Pending
from .values import Postponed as Postponed
from .values import Retry as Retry
from .values import RunRecord as RunRecord
from .values import Settlement as Settlement
from .values import Slice as Slice
from .values import StoreStatistics as StoreStatistics
from .values import TakeNext as TakeNext
from .values import Timer as Timer
from .values import Work as Work
