"""Random histories: LMDB and memory agree on everything, and every index row follows from its record."""

import tempfile
from dataclasses import replace

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from afactors_store import (
    Append,
    Commit,
    Dead,
    Delivered,
    LmdbStore,
    MemoryStore,
    NewDelivery,
    NewLetter,
    Postponed,
    Retry,
    RunRecord,
    Store,
    StoreError,
    TakeNext,
    keys,
    records,
)
from afactors_store.records import Attempt

KEYS = st.sampled_from(["a", "b", "é" * 300])
NAMES = st.sampled_from(["x", "y", "z"])
LANES = st.sampled_from(["x", "g\x1fx", "g\x1fy", "h\x1f"])
GROUPS = st.sampled_from([None, None, "", "g", "h", "x"])
BODIES = st.binary(max_size=3)
TIMES = st.integers(0, 20).map(float)
EXPIRIES = st.none() | TIMES

DEAD = st.builds(Dead, st.just("why"), BODIES.map(str), TIMES, EXPIRIES)
NO_DEAD = st.none() | st.none() | DEAD
OUTCOMES = st.sampled_from([Delivered(), Retry(8.0), Postponed(4.0)]) | DEAD

COMMITS = st.builds(
    Commit,
    put=st.dictionaries(NAMES, BODIES, max_size=2),
    delete=st.lists(NAMES, max_size=1),
    append=st.lists(st.builds(Append, st.just(1), st.integers(0, 3), st.lists(BODIES, max_size=3)), max_size=2),
    drop_logs=st.lists(st.just(1), max_size=1),
    trim=st.dictionaries(st.just(1), st.integers(0, 4), max_size=1),
    expire_logs=st.dictionaries(st.just(1), EXPIRIES, max_size=1),
    consume=st.lists(NAMES, max_size=1),
    letters=st.lists(st.builds(NewLetter, NAMES, BODIES), max_size=2),
    names=st.dictionaries(NAMES, BODIES, max_size=1),
    drop_names=st.lists(NAMES, max_size=1),
    expire_names=st.dictionaries(NAMES, EXPIRIES, max_size=2),
    runs=st.lists(st.builds(RunRecord, NAMES, BODIES, EXPIRIES), max_size=2),
    drop_runs=st.lists(NAMES, max_size=1),
    timers=st.dictionaries(NAMES, EXPIRIES, max_size=2),
    fire=st.lists(NAMES, max_size=1),
    deliveries=st.lists(
        st.builds(NewDelivery, LANES, BODIES, TIMES, st.integers(0, 2), NO_DEAD, st.booleans()), max_size=3
    ),
    aliases=st.dictionaries(KEYS, st.booleans(), max_size=1),
)
STEPS = st.one_of(
    st.tuples(st.just("commit"), KEYS, COMMITS),
    st.tuples(st.just("commit"), KEYS, COMMITS),
    st.tuples(st.just("enqueue"), KEYS, NAMES),
    st.tuples(st.just("due"), TIMES, st.integers(0, 3), GROUPS),
    st.tuples(st.just("due"), TIMES, st.integers(0, 3), GROUPS),
    st.tuples(st.just("settle"), OUTCOMES, st.integers(0, 5), st.none() | st.builds(TakeNext, TIMES, st.just(5.0))),
    st.tuples(st.just("settle_all"), st.lists(st.tuples(st.integers(0, 5), OUTCOMES), max_size=3)),
    st.tuples(st.just("reclaim"), TIMES),
    st.tuples(st.just("revive"), st.integers(1, 8), TIMES),
    st.tuples(st.just("purge"), st.lists(st.integers(1, 8), max_size=2)),
    st.tuples(st.just("expire"), TIMES, st.integers(1, 3)),
    st.tuples(st.just("erase"), KEYS),
)


class History:
    """A store, driven step by step; deliveries are told by the order of their takes, for ids are random."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.taken = []

    async def step(self, what, *args) -> object:
        try:
            return await getattr(self, what)(*args)
        except StoreError as exc:
            return type(exc), str(exc)

    async def commit(self, key, commit):
        done = await self.store.commit(await self.store.claim(key), commit)
        return done.version, len(done.delivery_ids)

    async def enqueue(self, key, message_id):
        return await self.store.enqueue(key, message_id, message_id.encode())

    async def due(self, now, limit, group):
        earliest = await self.store.next_due(group)
        taken = await self.store.due(now, limit, 5.0, group)
        assert bool(taken) == (limit > 0 and earliest is not None and earliest <= now)
        assert all(group in (None, "".join(d.lane.split("\x1f")[:-1])) for d in taken)
        self.taken += taken
        return [told(delivery) for delivery in self.taken]

    async def settle(self, outcome, n, then):
        if n < len(self.taken) and (delivery := await self.store.settle(self.taken[n], outcome, then)) is not None:
            assert type(outcome) in (Delivered, Dead)
            self.taken.append(delivery)
            return told(delivery)
        return None

    async def settle_all(self, settlements):
        await self.store.settle_all([(self.taken[n], outcome) for n, outcome in settlements if n < len(self.taken)])

    async def reclaim(self, now):
        running = sum(delivery.running for delivery in await self.store.deliveries())
        assert await self.store.reclaim(now) == running
        return running

    async def revive(self, position, due):
        return (await self.store.revive(position, due)) is not None

    async def purge(self, positions):
        return await self.store.purge(positions)

    async def expire(self, now, limit):
        deleted = await self.store.expire(now, limit)
        assert deleted <= limit
        return deleted

    async def erase(self, key):
        return await self.store.erase(key)

    async def observe(self) -> list[object]:
        store = self.store
        seen: list[object] = [await store.keys(), await store.work(10.0), await store.next_due()]
        seen += [await store.find(name) for name in "xyz"]
        dead, pending = await store.dead_letters(), await store.deliveries()
        seen += map(told, [*dead, *pending])
        assert [await store.dead_letter(letter.position) for letter in dead] == dead
        statistics = store.statistics()
        assert (statistics.pending, statistics.dead) == (len(pending), len(dead))
        seen.append((statistics.keys, statistics.refused))
        for key in ("a", "b", "é" * 300):
            claim = await store.claim(key, "xyz")
            seen += [claim.key, claim.version, claim.documents, claim.letters, len(claim.incarnation)]
            seen += [await store.letters(claim), await store.runs(key), await store.list_documents(claim)]
            seen += [await store.names(claim), await store.log_length(claim, 1), await store.read_log(claim, 1, 0, 99)]
            seen += [await store.read_log(claim, 1, 2, 99)]
        return seen


def told(thing) -> object:
    """A delivery or dead letter without its id, which is random."""
    return replace(thing, delivery_id="")


def attempt_of(rows: dict[bytes, bytes], number: bytes, serial: bytes) -> Attempt:
    """How a delivery goes: as it came, unless there is a record."""
    raw = rows.get(keys.row(number, keys.ATTEMPT, serial))
    if raw is not None:
        return records.decode_attempt(raw)
    return Attempt(records.decode_delivery(rows[keys.row(number, keys.DELIVERY, serial)]).due)


def expected_index(rows: dict[bytes, bytes]) -> set[bytes]:  # noqa: C901 - a table, in effect
    """The names of the index rows that the actors' own rows call for."""
    expected, lanes = set(), {}
    for row, value in rows.items():
        if row[:1] != keys.ROWS:
            continue
        number, table, rest = row[1:9], row[9:10], row[10:]
        if table == keys.HEAD:
            head = records.decode_head(value)
            expected.add(keys.DIRECTORY + keys.inline(head.key))
            if head.letters:
                expected.add(keys.WITH_LETTERS + keys.inline(head.key))
        elif table == keys.NAME:
            expected.add(keys.NAMES + rest)
        elif table == keys.ALIAS:
            expected.add(keys.ALIASES + rest)
        elif table == keys.TIMER:
            expected.add(keys.timer_entry(keys.to_instant(value), number, rest))
        elif table == keys.EXPIRES:
            expected.add(keys.expiry_entry(keys.to_instant(value), number, rest))
        elif table == keys.RUN:
            expires_at = records.decode_run(value).expires_at
            if expires_at is not None:
                expected.add(keys.expiry_entry(expires_at, number, rest))
        elif table == keys.DELIVERY:
            lane = records.decode_delivery(value).lane
            expected.add(keys.lane_prefix(lane) + rest)
            lanes[lane] = min(lanes.get(lane, (rest, number)), (rest, number))
            if attempt_of(rows, number, rest).running:
                expected.add(keys.RUNNING + rest)
        elif table == keys.DEAD_LETTER:
            expected.add(keys.DEAD + rest)
            expires_at = records.decode_dead_letter(value).expires_at
            if expires_at is not None:
                expected.add(keys.expiry_entry(expires_at, number, keys.EXPIRING_DEAD + rest))
    for lane, (serial, number) in lanes.items():
        expected.add(keys.head_entry(lane, attempt_of(rows, number, serial).due, serial))
    return expected


def belongs_to_something(row: bytes, rows: dict[bytes, bytes]) -> bool:
    """Whether an actor's row is not about a name, log or delivery that is gone."""
    number, table, rest = row[1:9], row[9:10], row[10:]
    if table == keys.ATTEMPT:
        return keys.row(number, keys.DELIVERY, rest) in rows
    if row[:1] != keys.ROWS or table != keys.EXPIRES:
        return True
    assert rest[:2] in (keys.EXPIRING_LOG, keys.EXPIRING_NAME)
    return any(other.startswith(keys.row(number, rest[1:])) for other in rows)


def rows_of(store: Store) -> dict[bytes, bytes]:
    return store._opened.engine.read(lambda kv: dict(kv.scan(b"\0", b"\xff" * 9)))


async def compare(steps: list[tuple], path: str) -> None:
    durable, memory = LmdbStore(path, sync=False, map_size=1 << 24), MemoryStore()
    async with durable.open(), memory.open():
        one, two = History(durable), History(memory)
        for step in steps:
            assert await one.step(*step) == await two.step(*step), step
            assert await one.observe() == await two.observe(), step
            rows = rows_of(memory)
            index = {row for row in rows if row[:1] not in (keys.ROWS, keys.COUNTERS)}
            assert index == expected_index(rows), step
            assert all(belongs_to_something(row, rows) for row in rows), step
        assert set(map(len, rows_of(durable))) >= set(map(len, rows_of(memory)))


@settings(deadline=None, max_examples=150)
@given(st.lists(STEPS, max_size=25))
def test_random_histories(steps: list[tuple]) -> None:
    with tempfile.TemporaryDirectory() as path:
        trio.run(compare, steps, path)
