"""What every store promises of one key as a whole: told in slices, made of them again, and gone without a trace."""

import tempfile
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import fields, replace

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from afactors_store import (
    Append,
    BadKey,
    Commit,
    Committed,
    Conflict,
    Dead,
    Delivered,
    LmdbStore,
    MemoryStore,
    NewDelivery,
    NewLetter,
    RunRecord,
    Store,
    StoreFull,
    Work,
    base,
)

SECRET = b"a secret that was said"
LONG = "é" * 300


async def slices(commits: Iterable[Commit]) -> AsyncGenerator[Commit, None]:
    for commit in commits:
        await trio.lowlevel.checkpoint()
        yield commit


async def restore(store: Store, key: str, commits: Iterable[Commit]) -> Committed:
    """Make a key of slices that are there already."""
    async with aclosing(slices(commits)) as given:
        return await store.restore(key, given)


async def told(store: Store, key: str) -> list[Commit]:
    """All slices of a key."""
    claim, found, after = await store.claim(key), [], b""
    while after is not None:
        piece = await store.snapshot(claim, after)
        found.append(piece.commit)
        after = piece.after
    return found


def whole(commits: Iterable[Commit]) -> dict[str, object]:
    """What slices say together; rows of a log in one piece, however they were cut."""
    found: dict[str, object] = {}
    logs: dict[int, list[bytes]] = {}
    for commit in commits:
        for append in commit.append:
            rows = logs.setdefault(append.log, [b"gone"] * commit.trim.get(append.log, 0))
            assert append.start == len(rows)
            rows += append.rows
        for field in fields(commit):
            value = getattr(commit, field.name)
            if value and field.name != "append":
                found[field.name] = (
                    value | found.get(field.name, {})
                    if isinstance(value, dict)
                    else [
                        *found.get(field.name, []),
                        *value,
                    ]
                )
    return found | ({"append": logs} if logs else {})


async def fill(store: Store, key: str = "one") -> None:
    """A key that has something of everything, said in two commits with a consumed letter between them."""
    claim = await store.claim(key)
    await store.commit(claim, Commit(letters=[NewLetter("consumed", b""), NewLetter("z", b"first")]))
    await store.commit(
        claim,
        Commit(
            put={"d": SECRET, "e": b""},
            append=[Append(7, 0, [b"one", SECRET]), Append(3, 0, [b"x"] * 2000), Append(5, 0, [b"0", b"1", b"2"])],
            expire_logs={3: 900.0, 5: 900.0},
            consume=["consumed"],
            letters=[NewLetter("a", SECRET)],
            names={"n": SECRET, "o": b""},
            expire_names={"o": 800.0},
            runs=[RunRecord("r", SECRET, 700.0), RunRecord("s", b"")],
            timers={"t": 50.0},
            deliveries=[
                NewDelivery("lane", b"dies"),
                NewDelivery("lane", b"runs"),
                NewDelivery("lane", b"waits", 5.0),
                NewDelivery("else", SECRET, 9.0, attempts=2),
            ],
            aliases={"alias": True, LONG: True},
        ),
    )
    await store.commit(claim, Commit(append=[Append(7, 2, [b"three"]), Append(5, 3, [b"3"])], trim={5: 2}))
    (first,) = await store.due(0.0, 1, 10.0)
    await store.settle(first, Dead("why", "said", 1.0, 600.0))
    await store.due(0.0, 1, 10.0)


WHOLE = {
    "put": {"d": SECRET, "e": b""},
    "append": {7: [b"one", SECRET, b"three"], 3: [b"x"] * 2000, 5: [b"gone", b"gone", b"2", b"3"]},
    "trim": {5: 2},
    "expire_logs": {3: 900.0, 5: 900.0},
    "letters": [NewLetter("z", b"first"), NewLetter("a", SECRET)],
    "names": {"n": SECRET, "o": b""},
    "expire_names": {"o": 800.0},
    "runs": [RunRecord("r", SECRET, 700.0), RunRecord("s", b"")],
    "timers": {"t": 50.0},
    "deliveries": [
        NewDelivery("lane", b"runs", 0.0, 1, unsure=True),
        NewDelivery("lane", b"waits", 5.0),
        NewDelivery("else", SECRET, 9.0, 2),
        NewDelivery("lane", b"dies", 0.0, 1, Dead("why", "said", 1.0, 600.0)),
    ],
    "aliases": {"alias": True, LONG: True},
}


async def nothing_of(store: Store, *texts: bytes) -> None:
    """No row of the store, key or value, holds any of these."""
    rows = store._open_here().engine.read(lambda kv: list(kv.scan(b"\0", b"\xff" * 9)))
    for text in texts:
        assert [row for row in rows if text in row[0] or text in row[1]] == []


async def test_a_key_is_told_whole(store: Store) -> None:
    await fill(store)
    assert whole(await told(store, "one")) == WHOLE
    assert whole(await told(store, "alias")) == WHOLE  # a claim follows it
    assert whole(await told(store, "nobody")) == {}


@pytest.mark.parametrize("budget", [1, 200, 1000])
async def test_slices_of_any_size_say_the_same(store: Store, monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    await fill(store)
    monkeypatch.setattr(base, "SLICE_BYTES", budget)
    found = await told(store, "one")
    assert len(found) > 3
    assert whole(found) == WHOLE


@pytest.mark.parametrize("key", ["one", "other", "ß" * 400])
async def test_a_key_is_made_of_slices(store: Store, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    await fill(store)
    monkeypatch.setattr(base, "SLICE_BYTES", 300)
    found = await told(store, "one")
    old = await store.claim("one")
    await store.erase("one")
    done = await restore(store, key, found)
    assert whole(await told(store, key)) == WHOLE
    claim = await store.claim(key, ["d"])
    assert (claim.letters, claim.documents, claim.version) == (2, {"d": SECRET}, done.version)
    assert claim.incarnation not in (b"", old.incarnation)
    assert (await store.claim("alias")).key == key
    assert await store.keys() == [key]
    assert store.statistics().keys == 1
    assert await store.work(60.0) == [Work(key, 2, 50.0)]
    assert await store.expire(850.0) == 3  # the dead letter, the run and the name that stood in the index
    await store.commit(claim, Commit(append=[Append(7, 3, [b"four"])], consume=["z", "a"]))
    assert await store.work(0.0) == []


async def test_deliveries_go_on_with_ids_of_their_own(store: Store) -> None:
    await fill(store)
    before = {letter.delivery_id for letter in await store.dead_letters()}
    found = await told(store, "one")
    await store.erase("one")
    await store.commit(await store.claim("two"), Commit(deliveries=[NewDelivery("lane", b"two")]))
    done = await restore(store, "one", found)
    assert len(set(done.delivery_ids)) == 4
    (dead,) = await store.dead_letters()
    assert (dead.body, dead.attempt, dead.reason, dead.error) == (b"dies", 1, "why", "said")
    assert (dead.died, dead.expires_at) == (1.0, 600.0)
    assert dead.delivery_id not in before
    seen = []
    while taken := await store.due(100.0, 1, 900.0):
        seen.append((taken[0].body, taken[0].attempt))
        assert taken[0].unsure == (taken[0].body == b"runs")
        await store.settle(taken[0], Delivered())
    assert [one for one in seen if one[0] != SECRET] == [(b"two", 1), (b"runs", 2), (b"waits", 1)]
    assert (SECRET, 3) in seen


async def refused(store: Store, key: str, commits: Iterable[Commit], why: str) -> None:
    before = store._open_here().engine.read(lambda kv: dict(kv.scan(b"d", b"\xff" * 9)))
    with pytest.raises(Conflict, match=why):
        await restore(store, key, commits)
    assert store._open_here().engine.read(lambda kv: dict(kv.scan(b"d", b"\xff" * 9))) == before


async def test_what_contradicts_the_store_leaves_it_as_it_was(store: Store) -> None:
    await fill(store)
    first = Commit(put={"new": b"x" * 9000}, names={"free": b""})
    await refused(store, "one", [first], "this key has state")
    await refused(store, "alias", [first], "leads to another")
    await refused(store, "new", [first, Commit(names={"n": b""})], "held by another key")
    await refused(store, "new", [first, Commit(aliases={"alias": True})], "already leads")
    await refused(store, "new", [first, Commit(append=[Append(1, 5, [b"x"])])], "position 5")
    await refused(store, "new", [first, Commit(letters=[NewLetter("l", b"")] * 2)], "comes twice")
    for name in ("delete", "drop_logs", "truncate", "consume", "others", "drop_names", "drop_runs"):
        more = {"truncate": {1: 1}, "others": [("one", Commit())], "drop_logs": [1]}.get(name, ["x"])
        await refused(store, "new", [first, Commit(**{name: more})], name)
    await refused(store, "new", [first, Commit(aliases={"x": False})], "alias")
    assert whole(await told(store, "one")) == WHOLE


async def test_names_that_no_store_may_hold_leave_it_as_it_was(store: Store) -> None:
    for commit in (Commit(put={"a\0b": b""}), Commit(aliases={"": True})):
        with pytest.raises(BadKey):
            await restore(store, "one", [Commit(put={"first": SECRET}), commit])
    with pytest.raises(BadKey):
        await restore(store, "", [])
    assert await store.keys() == []
    await nothing_of(store, SECRET)


async def test_nobody_sees_a_key_before_it_is_whole(store: Store) -> None:
    await fill(store)
    found = await told(store, "one")
    await store.erase("one")

    async def watched() -> AsyncGenerator[Commit, None]:
        for commit in [*found, Commit(put={"last": b""})]:
            yield commit
            assert await store.keys() == []
            assert (await store.claim("one", ["d"])).documents == {}
            assert await store.find("n") is None
            assert await store.run("one", "r") is None
            assert (await store.claim("alias")).key == "alias"
            assert (await store.work(1000.0), await store.due(1000.0, 9, 1.0), await store.next_due()) == ([], [], None)
            assert await store.dead_letters() == []
            assert await store.expire(0.0) == 0  # and the sweep spares it

    async with aclosing(watched()) as given:
        await store.restore("one", given)
    assert await store.read(await store.claim("one"), ["d", "last"]) == {"d": SECRET, "last": b""}


@pytest.mark.parametrize(
    ("race", "why"),
    [
        (Commit(put={"x": b""}), "has state"),
        (Commit(names={"n": b"theirs"}), "held by another key"),
        (Commit(aliases={"alias": True}), "already leads"),
        (Commit(aliases={"one": True}), "leads to another"),
    ],
)
async def test_what_was_free_at_first_and_is_taken_at_the_end(store: Store, race: Commit, why: str) -> None:
    await fill(store)
    found = await told(store, "one")
    await store.erase("one")
    key = "one" if race.put else "two"

    async def taken() -> AsyncGenerator[Commit, None]:
        for commit in found:
            yield commit
        await store.commit(await store.claim(key), race)

    with pytest.raises(Conflict, match=why):
        async with aclosing(taken()) as given:
            await store.restore("one", given)
    assert await store.keys() == [key]
    await nothing_of(store, SECRET)
    if race.names:
        theirs = await store.find("n")
        assert theirs is not None
        assert theirs.value == b"theirs"


async def cut_short(store: Store, found: list[Commit]) -> None:
    """Begin to make a key, and be cancelled before its last slice."""
    with trio.CancelScope() as scope:

        async def cut() -> AsyncGenerator[Commit, None]:
            for commit in found:
                yield commit
            scope.cancel()
            await trio.lowlevel.checkpoint()

        async with aclosing(cut()) as given:
            await store.restore("one", given)
    assert scope.cancelled_caught


async def test_what_is_cut_short_is_swept_away_and_can_be_begun_again(closed_store: Store) -> None:
    async with closed_store.open() as _:
        await fill(closed_store)
        found = await told(closed_store, "one")
        await closed_store.erase("one")
        await cut_short(closed_store, found)
    async with closed_store.open():
        assert await closed_store.keys() == []
        await restore(closed_store, "one", found)
        while await closed_store.expire(0.0):
            pass
        assert whole(await told(closed_store, "one")) == WHOLE
        await closed_store.erase("one")
        await nothing_of(closed_store, SECRET, b"one")


async def test_a_crash_in_the_middle_leaves_nothing_that_is_seen() -> None:
    store = MemoryStore()
    async with store.open():
        await fill(store)
        found = await told(store, "one")
        await store.erase("one")

        async def crash() -> AsyncGenerator[Commit, None]:
            for commit in found:
                yield commit
            store.crash()  # what is written after this is lost

        async with aclosing(crash()) as given:
            await store.restore("one", given)
    async with store.open():
        assert not store.left_cleanly
        assert await store.keys() == []
        await restore(store, "one", found)
        assert whole(await told(store, "one")) == WHOLE
        while await store.expire(0.0):
            pass
        assert whole(await told(store, "one")) == WHOLE


async def test_what_its_source_raises_goes_on_as_it_is(store: Store) -> None:
    async def failing() -> AsyncGenerator[Commit, None]:
        yield Commit(put={"d": SECRET})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with aclosing(failing()) as given:
            await store.restore("one", given)
    await nothing_of(store, SECRET)


async def test_a_full_store_takes_no_new_key(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store._open_here().engine, "reserved", True)
    with pytest.raises(StoreFull):
        await restore(store, "one", [Commit(put={"d": SECRET})])
    await nothing_of(store, SECRET)


async def test_an_erased_key_leaves_no_row(store: Store) -> None:
    await store.commit(await store.claim("before"), Commit(put={"d": b"stays"}))
    await fill(store, "one-key-and-no-other")
    await store.erase("one-key-and-no-other")
    await nothing_of(store, SECRET, b"one-key-and-no-other", b"alias", LONG.encode(), b"lane")
    rows = store._open_here().engine.read(lambda kv: [key for key, _ in kv.scan(b"r", b"s")])
    assert len({key[1:9] for key in rows}) == 1  # of the other actor


NAMES = st.sampled_from(["x", "y", "z", "é" * 90])
BODIES = st.binary(max_size=5)
TIMES = st.integers(0, 20).map(float)
DEAD = st.builds(Dead, st.text(max_size=3), st.text(max_size=3), TIMES, st.none() | TIMES)


def as_told(new: NewDelivery) -> NewDelivery:
    """What is dead is neither due nor unsure any more."""
    return new if new.dead is None else replace(new, due=0.0, unsure=False)


STATES = st.builds(
    Commit,
    put=st.dictionaries(NAMES, BODIES),
    append=st.lists(BODIES, max_size=9).map(lambda rows: [Append(1, 0, rows), Append(2**64 - 1, 0, rows)]),
    trim=st.dictionaries(st.just(1), st.integers(0, 9)),
    expire_logs=st.dictionaries(st.sampled_from([1, 2**64 - 1]), TIMES | st.none()),
    letters=st.lists(st.builds(NewLetter, NAMES, BODIES), unique_by=lambda letter: letter.message_id),
    names=st.dictionaries(NAMES, BODIES),
    expire_names=st.dictionaries(NAMES, TIMES | st.none()),
    runs=st.lists(st.builds(RunRecord, NAMES, BODIES, TIMES | st.none()), unique_by=lambda run: run.run_id),
    timers=st.dictionaries(NAMES, TIMES),
    deliveries=st.lists(
        st.builds(NewDelivery, NAMES, BODIES, TIMES, st.integers(0, 3), st.none() | DEAD, st.booleans()).map(as_told),
        max_size=4,
    ),
    aliases=st.dictionaries(st.sampled_from(["a", LONG]), st.just(True)),
)


async def copy_twice(state: Commit, path: str) -> None:
    durable, memory = LmdbStore(path, sync=False, map_size=1 << 24), MemoryStore()
    async with durable.open(), memory.open():
        await memory.commit(await memory.claim("key"), state)
        first = await told(memory, "key")
        await restore(durable, "other", first)
        second = await told(durable, "other")
        assert whole(second) == whole(first)
        await memory.erase("key")
        await restore(memory, "key", second)
        assert whole(await told(memory, "key")) == whole(first)


@settings(deadline=None, max_examples=60)
@given(STATES)
def test_a_copy_of_a_copy_is_the_same(state: Commit) -> None:
    with tempfile.TemporaryDirectory() as path:
        trio.run(copy_twice, state, path)
