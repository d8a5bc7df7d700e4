"""What every store promises of letters and of the index of work."""

import pytest

from afactors_store import Commit, Conflict, Letter, NewLetter, Store, Work


async def test_letters_wait_in_order_until_they_are_consumed(store: Store) -> None:
    for n in range(3):
        assert await store.enqueue("key", f"m{n}", b"%d" % n)
    claim = await store.claim("key")
    assert (claim.letters, claim.version, len(claim.incarnation)) == (3, 0, 16)
    assert await store.letters(claim) == [Letter(f"m{n}", n, b"%d" % n) for n in range(3)]
    assert await store.letters(claim, after=0, limit=1) == [Letter("m1", 1, b"1")]
    await store.commit(claim, Commit(consume=["m1", "m0"]))
    assert await store.letters(claim) == [Letter("m2", 2, b"2")]
    assert (await store.claim("key")).letters == 1


async def test_a_letter_is_accepted_once_while_it_waits(store: Store) -> None:
    assert await store.enqueue("key", "m", b"first")
    assert not await store.enqueue("key", "m", b"again")
    claim = await store.claim("key")
    assert await store.letters(claim) == [Letter("m", 0, b"first")]
    await store.commit(claim, Commit(consume=["m"]))
    assert await store.enqueue("key", "m", b"third")
    assert await store.letters(claim) == [Letter("m", 1, b"third")]  # a sequence is never used again


@pytest.mark.parametrize("consume", [["absent"], ["m", "absent"], ["m", "m"]])
async def test_what_does_not_wait_cannot_be_consumed(store: Store, consume: list[str]) -> None:
    await store.enqueue("key", "m", b"")
    claim = await store.claim("key")
    with pytest.raises(Conflict):
        await store.commit(claim, Commit(put={"a": b""}, consume=consume))
    assert (await store.claim("key", ["a"])).documents == {}
    assert len(await store.letters(claim)) == 1


async def test_a_commit_accepts_letters_behind_those_that_wait(store: Store) -> None:
    await store.enqueue("key", "m0", b"0")
    claim = await store.claim("key")
    await store.commit(claim, Commit(letters=[NewLetter("m1", b"1"), NewLetter("m2", b"2")]))
    waiting = [Letter(f"m{n}", n, b"%d" % n) for n in range(3)]
    assert await store.letters(claim) == waiting
    assert not await store.enqueue("key", "m2", b"again")
    await store.commit(claim, Commit(consume=["m0", "m1", "m2"], letters=[NewLetter("m1", b"anew")]))
    assert await store.letters(claim) == [Letter("m1", 3, b"anew")]
    assert await store.work(0.0) == [Work("key", 1, None)]
    await store.commit(claim, Commit(consume=["m1"]))
    assert await store.work(0.0) == []


async def test_the_first_commit_of_a_key_may_accept_letters(store: Store) -> None:
    claim = await store.claim("key")
    assert (await store.commit(claim, Commit(letters=[NewLetter("m", b"")]))).version == 1
    assert await store.work(0.0) == [Work("key", 1, None)]


@pytest.mark.parametrize("ids", [["m"], ["new", "m"], ["new", "new"], ["c", "c"]])
async def test_an_id_waits_once(store: Store, ids: list[str]) -> None:
    await store.enqueue("key", "m", b"")
    await store.enqueue("key", "c", b"")
    claim = await store.claim("key")
    with pytest.raises(Conflict, match="letter"):
        await store.commit(claim, Commit(put={"a": b""}, consume=["c"], letters=[NewLetter(id_, b"") for id_ in ids]))
    assert (await store.claim("key", ["a"])).documents == {}
    assert [letter.message_id for letter in await store.letters(claim)] == ["m", "c"]


async def test_letters_beyond_one_slice(store: Store) -> None:
    bodies = [bytes([n]) * 30_000 for n in range(60)]
    for n, body in enumerate(bodies):
        await store.enqueue("key", str(n), body)
    letters = await store.letters(await store.claim("key"))
    assert [letter.body for letter in letters] == bodies


async def test_work_lists_letters_and_timers_in_the_order_of_keys(store: Store) -> None:
    await store.enqueue("d", "m", b"")
    await store.enqueue("b", "m", b"")
    await store.commit(await store.claim("a"), Commit(timers={"t": 3.0, "u": 2.0}))
    await store.commit(await store.claim("b"), Commit(timers={"t": 9.0}))
    await store.commit(await store.claim("c"), Commit(timers={"t": 9.0}))
    await store.commit(await store.claim("e"), Commit(timers={"t": 1.0}))
    everything = [Work("a", 0, 2.0), Work("b", 1, 9.0), Work("d", 1, None), Work("e", 0, 1.0)]
    assert await store.work(5.0) == everything
    for n, item in enumerate(everything):
        assert await store.work(5.0, after=item.key) == everything[n + 1 :]
        assert await store.work(5.0, limit=n) == everything[:n]
    await store.commit(await store.claim("d"), Commit(consume=["m"]))
    assert [work.key for work in await store.work(5.0)] == ["a", "b", "e"]
