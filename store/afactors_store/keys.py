"""Ordered keys: how every row of the store is named, and which strings may name anything. Pure.

Layout (one B-tree; the first byte says which table, `#` is the actor's 8-byte number):

| row                     | value              | what it is |
|---|---|---|
| `m` format              | meta record        | format, store id, secret |
| `m` clean               | empty              | the last owner left in order; gone while there is one |
| `c`                     | counters           | next actor and delivery number; keys, deliveries, dead letters |
| `k` key                 | #                  | directory: isolation key to actor number |
| `a` key                 | alias record       | another key that leads to an actor |
| `n` name                | name record        | global name to its owner |
| `w` key                 | #                  | index: keys with letters |
| `t` instant # name      | empty              | index: timers by instant |
| `e` instant # run id    | empty              | index: runs by expiry |
| `e` instant # NUL `l` log | empty            | index: logs by expiry, in the same order of instants |
| `e` instant # NUL `n` name | empty           | index: names by expiry, likewise |
| `e` instant # NUL `z` delivery | empty       | index: dead letters by expiry, likewise |
| `l` lane NUL delivery   | #                  | index: a lane's deliveries, oldest first |
| `h` group NUL instant delivery | #           | index: heads of lanes by group and due time |
| `u` delivery            | #                  | index: attempts under way |
| `z` delivery            | #                  | index: dead letters |
| `x` #                   | empty, or a token  | index: erasures, and restorings, that are not finished |
| `r` # NUL               | head record        | the actor: key, incarnation, version, counts |
| `r` # `a` key           | the whole key      | aliases that lead here |
| `r` # `d` name          | the caller's bytes | document |
| `r` # `e` NUL `l` log   | instant            | when a log expires |
| `r` # `e` NUL `n` name  | instant            | when a name expires |
| `r` # `i` letter id     | sequence           | letter by id |
| `r` # `l` log position  | rows               | log, from that position on |
| `r` # `m` sequence      | letter record      | letter |
| `r` # `n` name          | empty              | global names of this actor |
| `r` # `q` delivery      | delivery record    | what to deliver and when first, never rewritten |
| `r` # `r` run id        | run record         | run |
| `r` # `s` delivery      | attempt record     | how its delivery goes, once that differs from how it came |
| `r` # `t` name          | instant            | timer |
| `r` # `z` delivery      | dead-letter record | a delivery that ended badly |

A run id has no NUL, so the index of expiry tells what kind of thing an entry is about.

LMDB takes keys of at most 511 bytes, so an isolation key that is too long for a row's name is replaced there
by a marker and its digest; the whole key stands in the record, and is compared on reading.
"""

from __future__ import annotations

import hashlib
import math
import struct

from .errors import BadKey
from .values import MAX_KEY_BYTES, MAX_NAME_BYTES

MAX_U64 = 2**64 - 1
LONGEST_INLINE = 480
"""Longest isolation key that a row's name spells out; with every prefix it stays below LMDB's 511 bytes."""

META = b"mformat"
CLEAN = b"mclean"
COUNTERS = b"c"
DIRECTORY = b"k"
ALIASES = b"a"
NAMES = b"n"
WITH_LETTERS = b"w"
TIMERS = b"t"
EXPIRY = b"e"
LANES = b"l"
HEADS = b"h"
RUNNING = b"u"
DEAD = b"z"
ERASING = b"x"
ROWS = b"r"

HEAD = b"\0"
ALIAS = b"a"
DOCUMENT = b"d"
EXPIRES = b"e"
LETTER_ID = b"i"
LOG = b"l"
LETTER = b"m"
NAME = b"n"
DELIVERY = b"q"
RUN = b"r"
ATTEMPT = b"s"
TIMER = b"t"
DEAD_LETTER = b"z"

EXPIRING_LOG = b"\0l"
EXPIRING_NAME = b"\0n"
EXPIRING_DEAD = b"\0z"
"""What comes before the id of a log, a name, or a dead letter's number, where its expiry is named."""

GROUP_END = b"\x1f"
"""What ends the part of a lane's name that its group is called by."""

END = b"\xff"
"""Sorts after every UTF-8 byte; appended to a prefix of text it bounds that prefix's rows."""

_DIGEST_MARK = b"\xff"  # no UTF-8 text begins with it
_U64 = struct.Struct(">Q")
_DOUBLE = struct.Struct(">d")
_SIGN = 1 << 63


def encode_key(key: str) -> bytes:
    """An isolation key in UTF-8, or `BadKey`."""
    return _text(key, "an isolation key", MAX_KEY_BYTES)


def check_key(key: str) -> None:
    """Refuse what is no isolation key, as `BadKey`."""
    encode_key(key)


def encode_name(name: str, what: str = "a name") -> bytes:
    """A name or id in UTF-8, or `BadKey`, which calls it `what`."""
    return _text(name, what, MAX_NAME_BYTES)


def encode_prefix(prefix: str, what: str = "a prefix") -> bytes:
    """A name's beginning (or a name to go on after), which may be empty."""
    return encode_name(prefix, what) if prefix else b""


def _text(text: str, what: str, limit: int) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError as exc:
        raise BadKey(f"{what} must be valid Unicode; this one has a lone surrogate at {exc.start}") from None
    if not encoded:
        raise BadKey(f"{what} must have 1 to {limit} bytes of UTF-8; this one is empty")
    if len(encoded) > limit:
        raise BadKey(f"{what} may have at most {limit} bytes of UTF-8; this one has {len(encoded)}")
    if b"\0" in encoded:
        raise BadKey(f"{what} must have no NUL")
    return encoded


def check_u64(number: int, what: str) -> int:
    """A number that fits in 64 bits, or `BadKey`."""
    if not 0 <= number <= MAX_U64:
        raise BadKey(f"{what} must be between 0 and {MAX_U64}; this one is {number}")
    return number


def u64(number: int) -> bytes:
    """8 bytes that sort like the number."""
    return _U64.pack(number)


def to_u64(encoded: bytes) -> int:
    """The number back from its 8 bytes."""
    number: int = _U64.unpack(encoded)[0]
    return number


def instant(seconds: float) -> bytes:
    """8 bytes that sort like the instant.

    Raises:
        ValueError: It is not a number; such an instant would have no place in an order.
    """
    if math.isnan(seconds):
        raise ValueError("an instant must be a number, not NaN")
    bits: int = _U64.unpack(_DOUBLE.pack(seconds + 0.0))[0]  # + 0.0: minus zero is zero
    return _U64.pack(bits ^ MAX_U64 if bits & _SIGN else bits | _SIGN)


def to_instant(encoded: bytes) -> float:
    """The instant back from its 8 bytes."""
    bits: int = _U64.unpack(encoded)[0]
    bits = bits ^ _SIGN if bits & _SIGN else bits ^ MAX_U64
    seconds: float = _DOUBLE.unpack(_U64.pack(bits))[0]
    return seconds


def inline(key: bytes) -> bytes:
    """An isolation key as part of a row's name: itself, or marker and digest."""
    if len(key) <= LONGEST_INLINE:
        return key
    return _DIGEST_MARK + hashlib.blake2b(key, digest_size=32).digest()


def is_digest(part: bytes) -> bool:
    """Whether that part of a row's name stands for a longer key."""
    return part.startswith(_DIGEST_MARK)


def row(number: bytes, table: bytes, *parts: bytes) -> bytes:
    """A row of one actor."""
    return b"".join((ROWS, number, table, *parts))


def rows_of(number: bytes) -> tuple[bytes, bytes]:
    """Where an actor's rows begin and end."""
    return ROWS + number, ROWS + number + END


def after(prefix: bytes, name: bytes) -> bytes:
    """Where the rows under `prefix` that sort after `name` begin."""
    return prefix + name + b"\0" if name else prefix


def up_to(index: bytes, now: float) -> bytes:
    """Where an index by instant ends if only what is due at `now` counts."""
    return index + instant(now) + END * 9


def timer_entry(at: float, number: bytes, name: bytes) -> bytes:
    """A timer's row in the index of timers."""
    return TIMERS + instant(at) + number + name


def timer_of(entry: bytes) -> tuple[float, bytes, bytes]:
    """The instant, the actor's number and the name that a timer's row in the index tells."""
    return to_instant(entry[1:9]), entry[9:17], entry[17:]


def expiry_entry(at: float, number: bytes, what: bytes) -> bytes:
    """The row in the index of expiry of a run (its id), or of something else (marked as such)."""
    return EXPIRY + instant(at) + number + what


def lane_prefix(lane: bytes) -> bytes:
    """The beginning of a lane's rows; lanes have no NUL, so that none is another's beginning."""
    return LANES + lane + b"\0"


def group_of(lane: bytes) -> bytes:
    """A lane's group: what comes before its first unit separator; nothing, if it has none."""
    group, end, _ = lane.partition(GROUP_END)
    return group if end else b""


def heads_of(group: bytes) -> bytes:
    """The beginning of the rows of a group's heads."""
    return HEADS + group + b"\0"


def head_entry(lane: bytes, due: float, delivery: bytes) -> bytes:
    """A lane head's row in the index by group and due time."""
    return heads_of(group_of(lane)) + instant(due) + delivery


def delivery_id(store_id: bytes, incarnation: bytes, version: int, n: int) -> str:
    """A delivery's id: the same on every attempt, new after an erase, and it tells a destination nothing."""
    digest = hashlib.blake2b(store_id + incarnation + u64(version) + u64(n), digest_size=16)
    return digest.hexdigest()
