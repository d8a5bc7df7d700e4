"""What every store promises of claims, commits and what they change."""

from dataclasses import replace

import pytest
import trio

from afactors_store import (
    Append,
    BadKey,
    Claim,
    Commit,
    Conflict,
    Fenced,
    Found,
    NewLetter,
    RunRecord,
    Store,
    StoreUnusable,
    Work,
)

NAN = float("nan")


async def test_a_key_that_was_never_written(store: Store) -> None:
    claim = await store.claim("key", ["doc"])
    assert claim == Claim("key", 1, 0, b"", {}, 0)
    assert await store.read(claim, ["doc"]) == {}
    assert await store.read_log(claim, 1, 0, 10) == []
    assert await store.log_length(claim, 1) == 0
    assert await store.list_documents(claim) == []
    assert await store.names(claim) == []
    assert await store.letters(claim) == []
    assert await store.runs("key") == []
    assert await store.run("key", "run") is None
    assert await store.find("name") is None
    assert await store.keys() == []
    assert not await store.erase("key")
    assert store.statistics().keys == 0


async def test_versions_count_commits(store: Store) -> None:
    claim = await store.claim("key")
    assert [(await store.commit(claim, Commit())).version for _ in range(3)] == [1, 2, 3]
    later = await store.claim("key")
    assert later.version == 3
    assert len(later.incarnation) == 16
    assert (await store.commit(later, Commit())).version == 4


async def test_documents(store: Store) -> None:
    claim = await store.claim("key")
    await store.commit(claim, Commit(put={"a": b"1", "b/1": b"2", "b/2": b"", "c": b"4"}))
    await store.commit(claim, Commit(put={"a": b"5"}, delete=["c", "never there"]))
    assert (await store.claim("key", ["a", "b/2", "c"])).documents == {"a": b"5", "b/2": b""}
    assert await store.read(claim, ["a", "nothing"]) == {"a": b"5"}
    assert await store.list_documents(claim) == ["a", "b/1", "b/2"]
    assert await store.list_documents(claim, "b/") == ["b/1", "b/2"]
    assert await store.list_documents(claim, "b/", after="b/1") == ["b/2"]
    assert await store.list_documents(claim, limit=2) == ["a", "b/1"]
    assert await store.list_documents(claim, limit=0) == []


async def test_documents_of_megabytes_and_none_of_a_neighbour(store: Store) -> None:
    large = bytes(range(256)) * 16384
    await store.commit(await store.claim("key"), Commit(put={"large": large}))
    await store.commit(await store.claim("key2"), Commit(put={"large": b"small"}))
    assert (await store.claim("key", ["large"])).documents == {"large": large}
    assert (await store.claim("key2", ["large"])).documents == {"large": b"small"}


async def test_listings_go_beyond_one_slice(store: Store) -> None:
    names = [f"{n:05}" for n in range(3000)]
    await store.commit(await store.claim("key"), Commit(put=dict.fromkeys(names, b"x" * 100)))
    claim = await store.claim("key")
    assert await store.list_documents(claim, limit=5000) == names
    assert await store.list_documents(claim, after="00999", limit=1500) == names[1000:2500]


async def test_logs(store: Store) -> None:
    claim = await store.claim("key")
    await store.commit(claim, Commit(append=[Append(7, 0, [b"0", b"1"]), Append(8, 0, [b"other"])]))
    await store.commit(claim, Commit(append=[Append(7, 2, [b"2"]), Append(7, 3, [b"3", b"4"])]))
    rows = [b"0", b"1", b"2", b"3", b"4"]
    for start in range(7):
        for stop in range(7):
            assert await store.read_log(claim, 7, start, stop) == rows[start:stop]
    assert (await store.log_length(claim, 7), await store.log_length(claim, 8)) == (5, 1)
    await store.commit(claim, Commit(drop_logs=[7, 999]))
    assert await store.log_length(claim, 7) == 0
    assert await store.read_log(claim, 7, 0, 10) == []
    assert await store.read_log(claim, 8, 0, 10) == [b"other"]
    await store.commit(claim, Commit(drop_logs=[8], append=[Append(8, 0, [b"anew"])]))
    assert await store.read_log(claim, 8, 0, 10) == [b"anew"]


@pytest.mark.parametrize("start", [0, 1, 3])
async def test_a_log_has_no_gap_and_no_overlap(store: Store, start: int) -> None:
    claim = await store.claim("key")
    await store.commit(claim, Commit(append=[Append(2**64 - 1, 0, [b"0", b"1"])]))
    with pytest.raises(Conflict, match="2"):
        await store.commit(claim, Commit(put={"a": b"1"}, append=[Append(2**64 - 1, start, [b"x"])]))
    assert (await store.claim("key", ["a"])).documents == {}
    assert (await store.claim("key")).version == 1


async def test_a_long_log_is_read_in_slices(store: Store) -> None:
    rows = [b"%06d" % n * 50 for n in range(20_000)]
    claim = await store.claim("key")
    await store.commit(claim, Commit(append=[Append(1, 0, rows)]))
    assert await store.read_log(claim, 1, 0, 10**9) == rows
    assert await store.read_log(claim, 1, 777, 15_001) == rows[777:15_001]
    assert await store.read_log(claim, 1, 19_999, 20_005) == rows[19_999:]


async def test_rows_larger_than_a_slice(store: Store) -> None:
    rows = [b"a" * 3_000_000, b"b", b"c" * 2_000_000]
    claim = await store.claim("key")
    await store.commit(claim, Commit(append=[Append(1, 0, rows)]))
    assert await store.read_log(claim, 1, 0, 9) == rows
    assert await store.read_log(claim, 1, 2, 9) == rows[2:]
    assert await store.read_log(claim, 1, 3, 9) == []


async def test_names(store: Store) -> None:
    mine, other = await store.claim("mine"), await store.claim("other")
    await store.commit(mine, Commit(names={"resp_1": b"a", "resp_2": b"b"}))
    assert await store.find("resp_1") == Found("mine", b"a")
    await store.commit(mine, Commit(names={"resp_1": b"c"}))
    assert await store.find("resp_1") == Found("mine", b"c")
    with pytest.raises(Conflict):
        await store.commit(other, Commit(put={"a": b""}, names={"new": b"", "resp_1": b"stolen"}))
    assert await store.find("new") is None
    await store.commit(other, Commit(drop_names=["resp_1", "unknown"]))
    assert await store.find("resp_1") == Found("mine", b"c")
    await store.commit(mine, Commit(drop_names=["resp_1"]))
    assert await store.find("resp_1") is None
    await store.commit(other, Commit(names={"resp_1": b"d"}))
    assert await store.find("resp_1") == Found("other", b"d")


async def test_names_are_listed_by_their_holder(store: Store) -> None:
    claim, other = await store.claim("key"), await store.claim("other")
    names = [f"{n:05}" for n in range(3000)]
    await store.commit(claim, Commit(names=dict.fromkeys(names, b"x" * 100)))
    await store.commit(other, Commit(names={"00500a": b""}, drop_names=["00000"]))
    assert await store.names(claim) == names[:1000]
    assert await store.names(claim, after="00999", limit=1500) == names[1000:2500]
    assert await store.names(other) == ["00500a"]
    assert await store.names(claim, limit=0) == []


async def test_runs(store: Store) -> None:
    claim = await store.claim("key")
    await store.commit(claim, Commit(runs=[RunRecord("b", b"1")]))
    await store.commit(claim, Commit(runs=[RunRecord("a", b"2", 5.0)]))
    await store.commit(claim, Commit(runs=[RunRecord("b", b"3", 7.0)]))
    assert await store.run("key", "b") == b"3"
    assert await store.runs("key") == [RunRecord("a", b"2", 5.0), RunRecord("b", b"3", 7.0)]
    assert await store.runs("key", after="a") == [RunRecord("b", b"3", 7.0)]
    assert await store.runs("key", limit=1) == [RunRecord("a", b"2", 5.0)]


async def test_several_runs_in_one_commit(store: Store) -> None:
    claim = await store.claim("key")
    await store.commit(claim, Commit(runs=[RunRecord("a", b"1", 5.0), RunRecord("b", b"2"), RunRecord("a", b"3")]))
    assert await store.runs("key") == [RunRecord("a", b"3"), RunRecord("b", b"2")]
    await store.commit(claim, Commit(drop_runs=["a", "b", "never there"], runs=[RunRecord("b", b"4", 7.0)]))
    assert await store.runs("key") == [RunRecord("b", b"4", 7.0)]
    await store.commit(claim, Commit(drop_runs=["b"]))
    assert await store.runs("key") == []
    assert await store.expire(9.0) == 0


async def test_timers_are_work_when_they_are_due(store: Store) -> None:
    claim = await store.claim("key")
    await store.commit(claim, Commit(timers={"late": 20.0, "early": -1.5}))
    assert await store.work(-2.0) == []
    assert await store.work(-1.5) == [Work("key", 0, -1.5)]
    await store.commit(claim, Commit(timers={"early": None, "unknown": None}))
    assert await store.work(19.0) == []
    await store.commit(claim, Commit(timers={"late": 10.0}))
    assert await store.work(19.0) == [Work("key", 0, 10.0)]


async def test_a_commit_with_another_epoch_is_fenced(store: Store) -> None:
    claim = await store.claim("key")
    await store.commit(claim, Commit())
    stale = Claim("key", 0, claim.version, claim.incarnation, {}, 0)
    with pytest.raises(Fenced, match="epoch"):
        await store.commit(stale, Commit(put={"a": b""}))
    assert (await store.claim("key", ["a"])).documents == {}


async def test_a_claim_from_before_an_erase_is_fenced(store: Store) -> None:
    await store.commit(await store.claim("key"), Commit())
    stale = await store.claim("key")
    assert await store.erase("key")
    with pytest.raises(Fenced, match="erased"):
        await store.commit(stale, Commit())
    fresh = await store.claim("key")
    assert (fresh.version, fresh.incarnation) == (0, b"")
    await store.commit(fresh, Commit())
    with pytest.raises(Fenced, match="erased"):
        await store.commit(stale, Commit())
    assert (await store.claim("key")).incarnation != stale.incarnation


async def test_aliases(store: Store) -> None:
    claim = await store.claim("main")
    await store.commit(claim, Commit(put={"a": b"1"}, aliases={"tg:1": True, "dc:2": True}, runs=[RunRecord("r", b"")]))
    assert (await store.claim("tg:1", ["a"])) == await store.claim("main", ["a"])
    assert await store.run("dc:2", "r") == b""
    await store.enqueue("dc:2", "m", b"to main")
    assert [work.key for work in await store.work(0)] == ["main"]
    await store.commit(claim, Commit(aliases={"tg:1": False, "unknown": False}))
    assert (await store.claim("tg:1")).key == "tg:1"
    assert await store.keys() == ["main"]


async def test_aliases_follow_aliases_and_form_no_ring(store: Store) -> None:
    first, second = await store.claim("first"), await store.claim("second")
    await store.commit(first, Commit(aliases={"zero": True}))
    await store.commit(second, Commit(aliases={"first": True}))
    assert (await store.claim("zero")).key == "second"
    for claim, alias in ((first, "second"), (first, "new"), (second, "zero"), (second, "second")):
        with pytest.raises(Conflict):
            await store.commit(claim, Commit(aliases={alias: True}))


@pytest.mark.parametrize("length", [1, 480, 481, 511, 512, 1024])
async def test_keys_of_every_length(store: Store, length: int) -> None:
    key = "k" * length
    await store.commit(await store.claim(key), Commit(put={"a": b"1"}, aliases={"a" * length: True}, timers={"t": 1.0}))
    await store.enqueue(key, "m", b"")
    assert (await store.claim(key, ["a"])).documents == {"a": b"1"}
    assert (await store.claim("a" * length)).key == key
    assert await store.keys() == [key]
    assert await store.work(2.0) == [Work(key, 1, 1.0)]
    assert await store.work(2.0, after=key) == []


async def test_long_keys_with_an_equal_beginning_are_two(store: Store) -> None:
    one, two = "é" * 511 + "a", "é" * 511 + "b"
    await store.commit(await store.claim(one), Commit(put={"a": b"1"}))
    await store.commit(await store.claim(two), Commit(put={"a": b"2"}))
    assert (await store.claim(one, ["a"])).documents == {"a": b"1"}
    assert (await store.claim(two, ["a"])).documents == {"a": b"2"}
    listed = await store.keys()
    assert sorted(listed) == [one, two]
    assert await store.keys(after=listed[0]) == listed[1:]


@pytest.mark.parametrize(
    ("key", "says"),
    [("", "empty"), ("a\0b", "NUL"), ("k" * 1025, "1024"), ("é" * 513, "1024"), ("\ud800", "surrogate")],
)
async def test_bad_keys(store: Store, key: str, says: str) -> None:
    with pytest.raises(BadKey, match=says):
        await store.claim(key)
    with pytest.raises(BadKey, match=says):
        await store.enqueue(key, "m", b"")
    with pytest.raises(BadKey, match=says):
        await store.erase(key)
    with pytest.raises(BadKey, match=says):
        await store.commit(await store.claim("good"), Commit(aliases={key: True}))


@pytest.mark.parametrize("name", ["", "a\0b", "n" * 257, "\udfff"])
async def test_bad_names(store: Store, name: str) -> None:
    claim = await store.claim("key")
    for bad in (
        Commit(put={name: b""}),
        Commit(names={name: b""}),
        Commit(timers={name: 1.0}),
        Commit(runs=[RunRecord(name, b"")]),
        Commit(drop_runs=[name]),
        Commit(expire_names={name: 1.0}),
        Commit(consume=[name]),
        Commit(letters=[NewLetter(name, b"")]),
    ):
        with pytest.raises(BadKey):
            await store.commit(claim, bad)
    with pytest.raises(BadKey):
        await store.find(name)
    assert await store.keys() == []


async def test_names_of_the_greatest_length(store: Store) -> None:
    name = "n" * 256
    claim = await store.claim("k" * 1024)
    await store.commit(
        claim, Commit(put={name: b""}, names={name: b""}, timers={name: 1.0}, runs=[RunRecord(name, b"", 1.0)])
    )
    assert await store.list_documents(claim) == [name]


@pytest.mark.parametrize("log", [-1, 2**64])
async def test_bad_log_ids(store: Store, log: int) -> None:
    with pytest.raises(BadKey, match="log id"):
        await store.commit(await store.claim("key"), Commit(append=[Append(log, 0, [b""])]))
    with pytest.raises(BadKey, match="log id"):
        await store.commit(await store.claim("key"), Commit(expire_logs={log: 1.0}))


@pytest.mark.parametrize(
    "commit",
    [
        Commit(timers={"t": NAN}),
        Commit(runs=[RunRecord("r", b"", NAN)]),
        Commit(expire_names={"n": NAN}),
        Commit(expire_logs={1: NAN}),
    ],
)
async def test_an_instant_that_is_not_a_number(store: Store, commit: Commit) -> None:
    with pytest.raises(ValueError, match="NaN"):
        await store.commit(await store.claim("key"), commit)


async def test_many_keys(store: Store) -> None:
    expected = [f"user:{n:05}" for n in range(20_000)]

    async def write(part: list[str]) -> None:
        for key in part:
            await store.commit(await store.claim(key), Commit(put={"a": key.encode()}))

    async with trio.open_nursery() as nursery:
        for n in range(500):
            nursery.start_soon(write, expected[n::500])
    assert store.statistics().keys == 20_000
    assert await store.keys(limit=30_000) == expected
    assert await store.keys(after="user:00009", limit=2) == ["user:00010", "user:00011"]
    assert (await store.claim("user:12345", ["a"])).documents == {"a": b"user:12345"}


async def test_a_store_that_is_not_open_says_so(closed_store: Store) -> None:
    with pytest.raises(StoreUnusable, match="not open"):
        await closed_store.claim("key")


async def test_what_was_committed_is_there_after_reopening(closed_store: Store) -> None:
    async with closed_store.open():
        identity = closed_store.store_id, closed_store.secret
        await closed_store.commit(await closed_store.claim("key"), Commit(put={"a": b"1"}))
    async with closed_store.open():
        assert (closed_store.store_id, closed_store.secret) == identity
        claim = await closed_store.claim("key", ["a"])
        assert claim.documents == {"a": b"1"}
        assert (await closed_store.commit(claim, Commit())).version == 2
    assert tuple(map(len, identity)) == (16, 32)


async def test_a_log_is_truncated(store: Store):
    claim = await store.claim("key")
    await store.commit(claim, Commit(append=[Append(1, 0, [b"a", b"b", b"c"]), Append(2, 0, [b"x"])]))
    await store.commit(claim, Commit(append=[Append(1, 3, [b"d", b"e"])]))
    await store.commit(claim, Commit(truncate={1: 2, 2: 5, 3: 0}))
    assert await store.read_log(claim, 1, 0, 9) == [b"a", b"b"]
    assert await store.read_log(claim, 2, 0, 9) == [b"x"]
    assert await store.log_length(claim, 1) == 2
    await store.commit(claim, Commit(append=[Append(1, 2, [b"f"])]))
    assert await store.read_log(claim, 1, 0, 9) == [b"a", b"b", b"f"]
    await store.commit(claim, Commit(truncate={1: 0}))
    assert await store.log_length(claim, 1) == 0
    with pytest.raises(Conflict):
        await store.commit(claim, Commit(truncate={2: 0}, append=[Append(2, 1, [b"y"])]))


async def test_what_is_accepted_for_other_keys_is_in_the_same_transaction(store: Store):
    claim = await store.claim("key")
    for_other = Commit(letters=[NewLetter("m", b"1")], names={"name": b"x"}, runs=[RunRecord("r", b"y")])
    await store.commit(claim, Commit(put={"d": b""}, others=[("other", for_other), ("key", for_other_name("n"))]))
    assert [one.body for one in await store.letters(await store.claim("other"))] == [b"1"]
    assert await store.find("name") == Found("other", b"x")
    assert await store.run("other", "r") == b"y"
    assert [one.body for one in await store.letters(claim)] == [b"2"]
    assert [work.key for work in await store.work(0.0)] == ["key", "other"]


@pytest.mark.parametrize("refused", [Commit(append=[Append(1, 7, [b""])]), Commit(others=[("third", Commit())])])
async def test_nothing_is_accepted_for_other_keys_if_anything_is_refused(store: Store, refused: Commit):
    claim = await store.claim("key")
    await store.commit(await store.claim("third"), Commit(names={"taken": b""}))
    taken = Commit(names={"taken": b""})
    with pytest.raises(Conflict):
        await store.commit(
            claim, replace(refused, put={"d": b""}, others=[("other", for_other_name("n")), ("key", taken)])
        )
    assert await store.keys() == ["third"]


def for_other_name(message_id: str) -> Commit:
    return Commit(letters=[NewLetter(message_id, b"2")])
