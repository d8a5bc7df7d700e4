"""Lanes by group: whoever serves one group never looks at another's."""

from __future__ import annotations

from afactors_store import Commit, Delivered, NewDelivery, Store, TakeNext


async def filled(store: Store) -> None:
    lanes = ["mail\x1fada\x1f1", "mail\x1fada\x1f2", "chat\x1fada\x1f", "mailbox", "alone"]
    deliveries = [NewDelivery(lane, lane.encode(), due=float(at)) for at, lane in enumerate(lanes)]
    await store.commit(await store.claim("k"), Commit(deliveries=deliveries))


async def test_a_group_is_what_comes_before_the_first_separator(store: Store):
    await filled(store)
    assert [one.body for one in await store.due(100.0, 10, 30.0, "mail")] == [b"mail\x1fada\x1f1", b"mail\x1fada\x1f2"]
    assert [one.body for one in await store.due(100.0, 10, 30.0, "")] == [b"mailbox", b"alone"]
    assert await store.due(100.0, 10, 30.0, "nobody") == []


async def test_the_next_one_of_a_group_and_of_all(store: Store):
    await filled(store)
    assert await store.next_due("chat") == 2.0
    assert await store.next_due("") == 3.0
    assert await store.next_due("alone") is None
    assert await store.next_due("nobody") is None
    assert await store.next_due() == 0.0
    (taken,) = await store.due(0.5, 10, 30.0)
    assert taken.lane == "mail\x1fada\x1f1"
    assert await store.next_due() == 1.0
    assert await store.next_due("mail") == 1.0


async def test_which_groups_there_are(store: Store):
    assert await store.groups() == []
    await filled(store)
    assert await store.groups() == ["", "chat", "mail"]
    for taken in await store.due(100.0, 10, 30.0, "chat"):
        await store.settle(taken, Delivered())
    assert await store.groups() == ["", "mail"]


async def test_all_groups_together_keep_the_order_of_waiting(store: Store):
    await filled(store)
    taken = await store.due(100.0, 4, 30.0)
    assert [one.lane for one in taken] == ["mail\x1fada\x1f1", "mail\x1fada\x1f2", "chat\x1fada\x1f", "mailbox"]


async def test_a_lane_goes_on_in_its_group(store: Store):
    claim = await store.claim("k")
    await store.commit(claim, Commit(deliveries=[NewDelivery("mail\x1fada", b"1"), NewDelivery("mail\x1fada", b"2")]))
    (first,) = await store.due(1.0, 10, 30.0, "mail")
    second = await store.settle(first, Delivered(), TakeNext(2.0, 30.0))
    assert second is not None
    assert second.body == b"2"
    assert await store.next_due("mail") == 32.0
