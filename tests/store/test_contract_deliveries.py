"""What every store promises of deliveries and their lanes."""

import pytest

from afactors_store import Commit, Dead, Delivered, Delivery, NewDelivery, Retry, Store


async def deliver(store: Store, key: str, *deliveries: tuple[str, bytes], due: float = 0.0) -> list[str]:
    new = [NewDelivery(lane, body, due) for lane, body in deliveries]
    return list((await store.commit(await store.claim(key), Commit(deliveries=new))).delivery_ids)


async def bodies(store: Store, now: float, limit: int = 100) -> list[bytes]:
    return [delivery.body for delivery in await store.due(now, limit, 10.0)]


async def test_a_delivery_is_taken_and_delivered(store: Store) -> None:
    (delivery_id,) = await deliver(store, "key", ("lane", b"hello"))
    assert await store.next_due() == 0.0
    (taken,) = await store.due(5.0, 10, 30.0)
    assert taken == Delivery(delivery_id, "key", "lane", b"hello", 1)
    assert await store.next_due() == 35.0
    assert await store.due(34.9, 10, 30.0) == []
    await store.settle(taken, Delivered())
    assert await store.next_due() is None
    assert await store.due(1e9, 10, 30.0) == []


async def test_ids_differ_and_come_in_order(store: Store) -> None:
    ids = await deliver(store, "key", ("lane", b"a"), ("lane", b"b"))
    ids += await deliver(store, "key", ("lane", b"a"))
    ids += await deliver(store, "other", ("lane", b"a"))
    await store.erase("key")
    ids += await deliver(store, "key", ("lane", b"a"), ("lane", b"b"))
    assert len(set(ids)) == 6
    assert all(len(delivery_id) == 32 for delivery_id in ids)


async def test_only_the_head_of_a_lane_is_due(store: Store) -> None:
    await deliver(store, "b", ("lane", b"1"), ("lane", b"2"))
    await deliver(store, "a", ("lane", b"3"), ("else", b"4"))
    first, other = await store.due(0.0, 10, 10.0)
    assert (first.body, other.body) == (b"1", b"4")
    assert await bodies(store, 1.0) == []
    await store.settle(first, Delivered())
    assert await bodies(store, 1.0) == [b"2"]


async def test_a_retry_keeps_the_lane_waiting(store: Store) -> None:
    await deliver(store, "key", ("lane", b"1"), ("lane", b"2"))
    (first,) = await store.due(0.0, 10, 10.0)
    await store.settle(first, Retry(50.0))
    assert await store.next_due() == 50.0
    assert await bodies(store, 49.0) == []
    (again,) = await store.due(50.0, 10, 10.0)
    assert again == Delivery(first.delivery_id, "key", "lane", b"1", 2, take=2)


async def test_an_attempt_that_nobody_ends_is_made_again(store: Store) -> None:
    await deliver(store, "key", ("lane", b"1"))
    (first,) = await store.due(0.0, 10, 10.0)
    (second,) = await store.due(10.0, 10, 10.0)
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.delivery_id == second.delivery_id
    await store.settle(first, Delivered())  # too late: it is no longer this attempt's
    assert await store.next_due() == 20.0
    await store.settle(second, Delivered())
    assert await store.next_due() is None


async def test_an_attempt_ends_once(store: Store) -> None:
    await deliver(store, "key", ("lane", b"1"), ("lane", b"2"))
    (first,) = await store.due(0.0, 10, 10.0)
    await store.settle(first, Retry(50.0))
    await store.settle(first, Dead("late"))
    assert await store.next_due() == 50.0
    (again,) = await store.due(50.0, 10, 10.0)
    await store.settle(again, Delivered())
    await store.settle(again, Delivered())  # must not settle the lane's next
    assert await bodies(store, 99.0) == [b"2"]


async def test_a_dead_letter_frees_its_lane_and_is_kept(store: Store) -> None:
    ids = await deliver(store, "key", ("lane", b"1"), ("lane", b"2"), ("lane", b"3"))
    for reason in ("gone", "broken \ud800"):
        (head,) = await store.due(0.0, 10, 0.0)
        await store.settle(head, Dead(reason))
    assert await bodies(store, 0.0) == [b"3"]
    one, two = await store.dead_letters()
    assert (one.delivery_id, one.key, one.lane, one.body, one.attempt) == (ids[0], "key", "lane", b"1", 1)
    assert (one.reason, two.reason) == ("gone", "broken ?")
    assert await store.dead_letters(after=one.position) == [two]
    assert await store.dead_letters(limit=1) == [one]
    await store.erase("key")
    assert await store.dead_letters() == []


async def test_the_limit_and_the_order_of_due_times(store: Store) -> None:
    for lane, due in (("c", 3.0), ("a", 2.0), ("b", 1.0), ("d", 9.0)):
        await deliver(store, "key", (lane, lane.encode()), due=due)
    assert await bodies(store, 5.0, limit=0) == []
    assert await bodies(store, 5.0, limit=2) == [b"b", b"a"]
    assert await bodies(store, 5.0, limit=2) == [b"c"]


async def test_a_long_lane_does_not_starve_the_others(store: Store) -> None:
    await deliver(store, "key", *[("long", b"L")] * 5)
    for lane in "abc":
        await deliver(store, "key", (lane, lane.encode()), (lane, lane.encode()))
    served = []
    for now in range(1, 12):
        (head,) = await store.due(float(now), 1, 100.0)
        served.append(head.body)
        await store.settle(head, Delivered())
    assert b"".join(served) == b"LabcLabcLLL"


async def test_taken_deliveries_survive_reopening(closed_store: Store) -> None:
    async with closed_store.open():
        await deliver(closed_store, "key", ("lane", b"1"))
        (taken,) = await closed_store.due(0.0, 1, 10.0)
    async with closed_store.open():
        assert await closed_store.due(9.0, 1, 10.0) == []
        (again,) = await closed_store.due(10.0, 1, 10.0)
    assert (again.delivery_id, again.attempt) == (taken.delivery_id, 2)


@pytest.mark.parametrize("lanes", [2000])
async def test_many_lanes(store: Store, lanes: int) -> None:
    await deliver(store, "key", *[(f"lane-{n}", b"x") for n in range(lanes)])
    taken = await store.due(0.0, lanes + 1, 10.0)
    assert [delivery.lane for delivery in taken] == [f"lane-{n}" for n in range(lanes)]
