"""What every store promises whoever delivers: attempts given back or up, the lane's next, listings, dead letters."""

import math
from collections.abc import Iterator

import pytest
import trio

from afactors_store import (
    BadKey,
    Commit,
    Dead,
    DeadLetter,
    Delivered,
    Delivery,
    NewDelivery,
    Postponed,
    Retry,
    Store,
    TakeNext,
    keys,
    serving,
    upkeep,
)
from afactors_store.values import MAX_REASON


async def deliver(store: Store, key: str, *new: tuple[str, bytes], due: float = 0.0) -> list[str]:
    commit = Commit(deliveries=[NewDelivery(lane, body, due) for lane, body in new])
    return list((await store.commit(await store.claim(key), commit)).delivery_ids)


async def take(store: Store, now: float = 0.0, visibility: float = 10.0) -> Delivery:
    (taken,) = await store.due(now, 1, visibility)
    return taken


async def die(store: Store, *ends: Dead) -> list[DeadLetter]:
    """A dead letter of each of these ends; the first of a lane of its own."""
    for end in ends:
        await deliver(store, "key", (f"lane of {end.reason}", end.reason.encode()))
        await store.settle(await take(store), end)
    return await store.dead_letters()


async def hide(store: Store, key: str) -> None:
    """Begin to erase a key, and no more."""
    await store._open_here().writer.submit(lambda txn: upkeep.begin_erase(txn, key.encode()), 1)


# -- attempts


async def test_an_attempt_that_is_postponed_does_not_count(store: Store) -> None:
    (delivery_id,) = await deliver(store, "key", ("lane", b"1"))
    first = await take(store)
    await store.settle(first, Postponed(50.0))
    assert await store.next_due() == 50.0
    assert await store.due(49.0, 1, 10.0) == []
    second = await take(store, 50.0)
    assert second == Delivery(delivery_id, "key", "lane", b"1", 1, False, 2)
    await store.settle(second, Retry(60.0))
    third = await take(store, 60.0)
    assert (third.attempt, third.unsure) == (2, False)
    await store.settle(third, Postponed(70.0))
    assert (await take(store, 70.0)).attempt == 2


async def test_attempts_that_were_deferred_are_told_apart(store: Store) -> None:
    await deliver(store, "key", ("lane", b"1"))
    for end in (Retry(1.0, deferred=True), Retry(2.0), Postponed(3.0), Retry(4.0, deferred=True)):
        await store.settle(await take(store, 10.0), end)
    taken = await take(store, 10.0)
    assert (taken.attempt, taken.deferred, taken.unsure) == (4, 2, False)
    await store.reclaim(20.0)
    taken = await take(store, 20.0)
    assert (taken.attempt, taken.deferred, taken.unsure) == (5, 2, True)
    (exported,) = (await store.snapshot(await store.claim("key"))).commit.deliveries
    assert exported.attempts == 3


async def test_a_taking_ends_once_though_its_attempt_comes_again(store: Store) -> None:
    await deliver(store, "key", ("lane", b"1"))
    first = await take(store)
    await store.settle(first, Postponed(0.0))
    second = await take(store)
    assert first.attempt == second.attempt
    await store.settle(first, Delivered())
    assert store.statistics().pending == 1
    await store.settle(second, Delivered())
    assert store.statistics().pending == 0


async def test_after_an_attempt_that_nobody_settled_it_is_unsure(store: Store) -> None:
    await deliver(store, "key", ("lane", b"1"), ("lane", b"2"))
    assert not (await take(store)).unsure
    again = await take(store, 10.0)
    assert (again.attempt, again.unsure) == (2, True)
    await store.settle(again, Postponed(20.0))
    again = await take(store, 20.0)
    assert (again.attempt, again.unsure) == (2, True)
    await store.settle(again, Retry(30.0))  # which says nothing of the first attempt
    again = await take(store, 30.0)
    assert (again.attempt, again.unsure) == (3, True)
    await store.settle(again, Delivered())
    assert not (await take(store, 30.0)).unsure  # the lane's next


async def test_reclaiming_makes_what_ran_due_at_once(closed_store: Store) -> None:
    store = closed_store
    async with store.open():
        await deliver(store, "key", ("a", b"1"), ("a", b"2"), ("b", b"3"), ("c", b"4"), ("d", b"5"))
        *running, settled = sorted(await store.due(0.0, 3, 1000.0), key=lambda one: one.body)
        await store.settle(settled, Retry(500.0))
    async with store.open():
        assert await store.reclaim(5.0) == 2
        assert [(one.body, one.due, one.running, one.unsure) for one in await store.deliveries()] == [
            (b"1", 5.0, False, True),
            (b"2", 0.0, False, False),
            (b"3", 5.0, False, True),
            (b"4", 500.0, False, False),
            (b"5", 0.0, False, False),
        ]
        before = store.statistics().batches
        assert await store.reclaim(6.0) == 0
        assert store.statistics().batches == before  # nothing to do writes nothing
        for late in running:
            await store.settle(late, Delivered())
        assert store.statistics().pending == 5
        again = await store.due(5.0, 10, 10.0)
        assert [(one.body, one.attempt, one.unsure) for one in again] == [
            (b"5", 1, False),
            (b"1", 2, True),
            (b"3", 2, True),
        ]
        for one in again:
            await store.settle(one, Delivered())
    async with store.open():
        assert await store.reclaim(9.0) == 0


async def test_many_end_in_one_transaction(store: Store) -> None:
    await deliver(store, "key", *[(lane, lane.encode()) for lane in "abcde"])
    taken = {one.lane: one for one in await store.due(0.0, 5, 10.0)}
    before = store.statistics().batches
    outcomes = [("a", Delivered()), ("b", Retry(20.0)), ("c", Postponed(30.0)), ("d", Dead("why")), ("a", Retry(1.0))]
    await store.settle_all([(taken[lane], outcome) for lane, outcome in outcomes])
    assert store.statistics().batches == before + 1
    left = {one.lane: (one.due, one.attempts, one.running) for one in await store.deliveries()}
    assert left == {"b": (20.0, 1, False), "c": (30.0, 0, False), "e": (10.0, 1, True)}
    assert [letter.body for letter in await store.dead_letters()] == [b"d"]
    await store.settle_all([])
    assert store.statistics().batches == before + 1


# -- the lane's next


@pytest.mark.parametrize("outcome", [Delivered(), Dead("why")])
async def test_the_lanes_next_head_is_taken_in_the_same_transaction(store: Store, outcome: Delivered | Dead) -> None:
    ids = await deliver(store, "key", ("lane", b"1"), ("lane", b"2"))
    ids += await deliver(store, "other", ("lane", b"3"))
    head = await take(store)
    before = store.statistics().batches
    second = await store.settle(head, outcome, TakeNext(5.0, 30.0))
    assert second == Delivery(ids[1], "key", "lane", b"2", 1)
    assert store.statistics().batches == before + 1
    assert await store.next_due() == 35.0
    assert await store.reclaim(6.0) == 1  # it runs as any that was taken
    third = await store.settle(await take(store, 6.0), outcome, TakeNext(7.0, 30.0))
    assert third == Delivery(ids[2], "other", "lane", b"3", 1)
    assert await store.settle(third, outcome, TakeNext(8.0, 30.0)) is None
    assert await store.next_due() is None


@pytest.mark.parametrize("outcome", [Retry(0.0), Postponed(0.0)])
async def test_a_delivery_that_goes_on_waiting_is_not_overtaken(store: Store, outcome: Retry | Postponed) -> None:
    await deliver(store, "key", ("lane", b"1"), ("lane", b"2"))
    assert await store.settle(await take(store), outcome, TakeNext(5.0, 30.0)) is None
    assert (await take(store, 5.0)).body == b"1"


async def test_a_next_head_that_is_not_due_is_not_taken(store: Store) -> None:
    await deliver(store, "key", ("lane", b"1"))
    await deliver(store, "key", ("lane", b"2"), due=9.0)
    head = await take(store)
    assert await store.settle(head, Delivered(), TakeNext(8.0, 30.0)) is None
    assert await store.next_due() == 9.0
    assert await store.settle(head, Delivered(), TakeNext(9.0, 30.0)) is None  # too late: it was settled
    assert (await take(store, 9.0)).body == b"2"


async def test_a_next_head_of_a_key_that_is_being_erased_is_not_taken(store: Store) -> None:
    await deliver(store, "stays", ("lane", b"1"))
    await deliver(store, "goes", ("lane", b"2"))
    await deliver(store, "stays", ("lane", b"3"))
    head = await take(store)
    await hide(store, "goes")
    assert [one.body for one in await store.deliveries()] == [b"1", b"3"]
    assert await store.settle(head, Delivered(), TakeNext(0.0, 30.0)) is None
    assert (await take(store)).body == b"3"


# -- listing


async def test_deliveries_are_listed_lane_by_lane(store: Store) -> None:
    ids = await deliver(store, "one", ("b", b"1"), ("ab", b"2"), ("a", b"3"), due=7.0)
    ids += await deliver(store, "two", ("a", b"4"), ("é" * 128, b"5"))
    await store.due(7.0, 1, 3.0)
    await store.due(10.0, 1, 3.0)
    listed = await store.deliveries()
    assert [(one.lane, one.body) for one in listed] == [
        ("a", b"3"),
        ("a", b"4"),
        ("ab", b"2"),
        ("b", b"1"),
        ("é" * 128, b"5"),
    ]
    assert [one.delivery_id for one in listed] == [ids[n] for n in (2, 3, 1, 0, 4)]
    assert [one.key for one in listed] == ["one", "two", "one", "one", "two"]
    assert sorted((one.attempts, one.due, one.running, one.unsure) for one in listed) == [
        (0, 0.0, False, False),
        (0, 7.0, False, False),
        (0, 7.0, False, False),
        (1, 10.0, True, False),
        (1, 13.0, True, False),
    ]


@pytest.mark.parametrize("limit", [1, 3, 100])
@pytest.mark.parametrize("budget", [1, 1000, 64 * 1024])
async def test_pages_say_the_same(store: Store, monkeypatch: pytest.MonkeyPatch, limit: int, budget: int) -> None:
    monkeypatch.setattr(serving, "IN_PLACE_BYTES", budget)
    monkeypatch.setattr(serving, "SLICE_BYTES", budget)
    await deliver(store, "key", *[(f"lane {n % 5}", b"%d" % n) for n in range(20)])
    await deliver(store, "hidden", *[(f"lane {n % 5}", b"hidden") for n in range(20)])
    await hide(store, "hidden")
    bodies: list[bytes] = []
    page = await store.deliveries(limit=limit)
    while page:
        assert len(page) == min(limit, 20 - len(bodies))
        bodies += [one.body for one in page]
        page = await store.deliveries(page[-1].position, limit)
    assert bodies == [b"%d" % n for lane in range(5) for n in range(lane, 20, 5)]
    assert await store.deliveries(limit=0) == []


async def test_a_page_goes_on_after_what_is_gone(store: Store) -> None:
    await deliver(store, "key", ("a", b"1"), ("b", b"2"), ("c", b"3"))
    first, *_ = await store.deliveries(limit=1)
    await store.settle(await take(store), Delivered())
    assert [one.body for one in await store.deliveries(first.position)] == [b"2", b"3"]


async def test_deliveries_and_dead_letters_are_counted(store: Store) -> None:
    async def counted(pending: int, dead: int) -> None:
        assert (store.statistics().pending, store.statistics().dead) == (pending, dead)
        assert (len(await store.deliveries()), len(await store.dead_letters())) == (pending, dead)

    await counted(0, 0)
    await deliver(store, "key", *[(f"lane {n}", b"") for n in range(5)])
    await deliver(store, "other", ("lane 0", b""))
    await counted(6, 0)
    one, two, three, *_ = await store.due(0.0, 5, 10.0)
    await store.settle(one, Delivered())
    await counted(5, 0)
    await store.settle(two, Dead("why"))
    await store.settle(three, Dead("why", expires_at=1.0))
    await counted(3, 2)
    await store.settle(three, Dead("why"))
    await counted(3, 2)
    await store.revive((await store.dead_letters())[0].position)
    await counted(4, 1)
    await store.expire(1.0)
    await counted(4, 0)
    new = [NewDelivery("lane", b"", dead=Dead("why")), NewDelivery("lane", b"")]
    await store.commit(await store.claim("key"), Commit(deliveries=new))
    await counted(5, 1)
    await store.erase("key")
    await counted(1, 0)


class Reads:
    """A view that counts what is read through it."""

    def __init__(self, kv, rows: list[int]) -> None:
        self.kv, self.rows = kv, rows

    def get(self, key: bytes) -> bytes | None:
        self.rows[0] += 1
        return self.kv.get(key)

    def scan(self, *args: bytes, **kwargs: bool) -> Iterator[tuple[bytes, bytes]]:
        for row in self.kv.scan(*args, **kwargs):
            self.rows[0] += 1
            yield row


@pytest.mark.parametrize("lanes", [1, 5000])
async def test_a_look_at_many_deliveries_costs_no_more_than_at_few(
    store: Store, monkeypatch: pytest.MonkeyPatch, lanes: int
) -> None:
    await deliver(store, "key", *[(f"lane {n % lanes:04}", b"") for n in range(5000)], due=9.0)
    engine, rows = store._open_here().engine, [0]
    read = engine.read
    monkeypatch.setattr(engine, "read", lambda work: read(lambda kv: work(Reads(kv, rows))))

    async def cost(most: int) -> None:
        assert 0 < rows[0] <= most
        rows[0] = 0

    assert store.statistics().pending == 5000
    await cost(1)
    assert await store.next_due() == 9.0
    await cost(2)  # which groups there are, and the first of each
    assert await store.next_due("") == 9.0
    await cost(1)
    assert await store.due(8.0, 100, 10.0) == []
    await cost(2)
    assert await store.due(8.0, 100, 10.0, "") == []
    await cost(1)
    assert await store.reclaim(8.0) == 0
    rows[0] += 1
    await cost(2)
    page = await store.deliveries(limit=10)
    await cost(32)
    assert len(await store.deliveries(page[-1].position, limit=10)) == 10
    await cost(32)


# -- dead letters


async def test_a_dead_letter_tells_how_it_ended(store: Store) -> None:
    (letter,) = await die(store, Dead("rejected", "400 Bad Request", 12.5, 99.0))
    assert letter == DeadLetter(
        letter.position,
        letter.delivery_id,
        "key",
        "lane of rejected",
        b"rejected",
        1,
        "rejected",
        "400 Bad Request",
        12.5,
        99.0,
    )
    assert await store.dead_letter(letter.position) == letter
    assert await store.dead_letter(letter.position + 1) is None
    with pytest.raises(BadKey):
        await store.dead_letter(-1)


async def test_what_is_said_of_a_dead_letter_is_bounded_and_unicode(store: Store) -> None:
    await deliver(store, "key", ("lane", b"x"))
    await store.settle(await take(store), Dead("r" * 5000, "\ud800" + "é" * 5000))
    new = NewDelivery("lane", b"y", dead=Dead("r" * 5000, "\ud800" + "é" * 5000))
    await store.commit(await store.claim("key"), Commit(deliveries=[new]))
    for letter in await store.dead_letters():
        assert letter.reason == "r" * MAX_REASON
        assert letter.error == "?" + "é" * (MAX_REASON - 1)


@pytest.mark.parametrize("end", [Dead("why", died=math.nan), Dead("why", expires_at=math.nan)])
async def test_an_instant_is_a_number(store: Store, end: Dead) -> None:
    await deliver(store, "key", ("lane", b"x"))
    head = await take(store)
    for outcome in (end, Postponed(math.nan)):
        with pytest.raises(ValueError, match="NaN"):
            await store.settle(head, outcome)
        with pytest.raises(ValueError, match="NaN"):
            await store.settle_all([(head, Delivered()), (head, outcome)])
    with pytest.raises(ValueError, match="NaN"):
        await store.settle(head, Delivered(), TakeNext(math.nan, 1.0))
    with pytest.raises(ValueError, match="NaN"):
        await store.commit(await store.claim("key"), Commit(deliveries=[NewDelivery("lane", b"", dead=end)]))
    with pytest.raises(ValueError, match="NaN"):
        await store.reclaim(math.nan)
    with pytest.raises(ValueError, match="NaN"):
        await store.revive(1, math.nan)
    assert store.statistics().pending == 1


async def test_a_dead_letter_expires(store: Store) -> None:
    await die(store, Dead("late", expires_at=5.0), Dead("early", expires_at=2.0), Dead("kept"))
    assert await store.expire(1.9) == 0
    assert await store.expire(9.0, limit=1) == 1
    assert [letter.reason for letter in await store.dead_letters()] == ["late", "kept"]
    assert await store.expire(9.0) == 1
    assert await store.expire(9.0) == 0
    assert [letter.reason for letter in await store.dead_letters()] == ["kept"]


async def test_what_was_purged_or_revived_leaves_no_expiry(store: Store) -> None:
    one, two, three = await die(store, *[Dead(reason, expires_at=5.0) for reason in "123"])
    assert await store.purge([one.position, one.position, 999]) == 1
    assert await store.revive(two.position) is not None
    assert await store.dead_letters() == [three]
    assert await store.expire(9.0) == 1
    assert await store.expire(9.0) == 0
    assert store.statistics().pending == 1


async def test_a_dead_letter_is_revived_at_the_end_of_its_lane(store: Store) -> None:
    old, *_ = await deliver(store, "key", ("lane", b"1"), ("lane", b"2"))
    await store.settle(await take(store), Retry(0.0))
    await store.settle(await take(store), Dead("why"))
    (letter,) = await store.dead_letters()
    assert letter.attempt == 2
    before = (await store.claim("key")).version
    new = await store.revive(letter.position, 30.0)
    assert new not in (None, old)
    assert await store.dead_letters() == []
    assert await store.revive(letter.position) is None
    assert (await store.claim("key")).version == before + 1
    assert [(one.body, one.attempts, one.due) for one in await store.deliveries()] == [
        (b"2", 0, 0.0),
        (b"1", 0, 30.0),
    ]
    await store.settle(await take(store), Delivered())
    assert await store.due(29.0, 1, 10.0) == []
    assert await take(store, 30.0) == Delivery(new, "key", "lane", b"1", 1)


async def test_a_dead_letter_is_revived_with_another_body(store: Store) -> None:
    await deliver(store, "key", ("lane", b"old"), ("lane", b"kept"))
    for _ in range(2):
        await store.settle(await take(store), Dead("why"))
    one, two = await store.dead_letters()
    await store.revive(one.position, body=b"a new one")
    await store.revive(two.position, body=None)
    assert [pending.body for pending in await store.deliveries()] == [b"a new one", b"kept"]


async def test_what_dies_again_and_again_has_a_new_id_and_position_each_time(store: Store) -> None:
    ids = await deliver(store, "key", ("lane", b"1"))
    positions = []
    for _ in range(5):
        await store.settle(await take(store), Dead("why"))
        (letter,) = await store.dead_letters()
        positions.append(letter.position)
        ids.append(await store.revive(letter.position))
        ids += await deliver(store, "key", ("else", b""))
    assert len(set(ids)) == len(ids)
    assert positions == sorted(set(positions))


async def test_a_dead_letter_of_a_key_that_is_being_erased_is_not_there(store: Store) -> None:
    (letter,) = await die(store, Dead("why", expires_at=5.0))
    await hide(store, "key")
    assert await store.dead_letters() == []
    assert await store.dead_letter(letter.position) is None
    assert await store.revive(letter.position) is None
    assert await store.purge([letter.position]) == 0
    while await store.expire(0.0):
        pass
    assert store.statistics().dead == 0
    assert await store.expire(9.0) == 0


async def test_erasing_takes_what_runs_and_what_expires(store: Store) -> None:
    await die(store, Dead("why", expires_at=5.0))
    await deliver(store, "key", ("lane", b"1"), ("lane", b"2"))
    await take(store)
    await store.erase("key")
    assert await store.reclaim(0.0) == 0
    assert await store.expire(9.0) == 0
    assert await store.deliveries() == []
    rows = store._open_here().engine.read(lambda kv: {key for key, _ in kv.scan(b"\0", b"\xff")})
    assert rows <= {keys.META, keys.COUNTERS}


async def test_reading_dead_letters_goes_in_slices(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    letters = await die(store, *[Dead(f"{n}") for n in range(9)])
    monkeypatch.setattr(serving, "IN_PLACE_BYTES", 1)
    monkeypatch.setattr(serving, "SLICE_BYTES", 600)
    assert await store.dead_letters() == letters
    assert await store.dead_letters(letters[2].position, 4) == letters[3:7]


async def test_deliverers_at_once_take_each_delivery_once(store: Store) -> None:
    await deliver(store, "key", *[(f"lane {n % 7}", b"%d" % n) for n in range(140)])
    seen: list[bytes] = []

    async def drain() -> None:
        while taken := await store.due(1.0, 3, 10.0):
            for one in taken:
                head: Delivery | None = one
                for _ in range(3):
                    if head is not None:
                        seen.append(head.body)
                        head = await store.settle(head, Delivered(), TakeNext(1.0, 10.0))
                if head is not None:
                    await store.settle(head, Postponed(1.0))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(drain)
    assert len(seen) == len(set(seen)) == 140
    for lane in range(7):
        assert [int(body) for body in seen if int(body) % 7 == lane] == list(range(lane, 140, 7))
    assert store.statistics().pending == 0
