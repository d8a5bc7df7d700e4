"""What is on its way and what is dead: listed, shown, replayed, purged, with a runtime and on a store alone."""

import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from agent_framework import AgentResponse, Content, Message

from afactors import deliveries as module
from afactors.deliveries import Deliveries, DeliveryPage
from afactors.delivering import DeliveriesStatistics
from afactors.encoding import pack
from afactors.outbox import LETTERS, Parcel, posted
from afactors.runs import LetterBody
from afactors_channels import (
    BadRequest,
    ChannelIdentity,
    Conflicting,
    NotFound,
    Push,
    PushPolicy,
    PushRejected,
    StorageFull,
)
from afactors_store import Commit, Dead, MemoryStore, NewDelivery, Retry, StoreFull

blocked = trio.testing.wait_all_tasks_blocked
House = Any  # of conftest
Clock = trio.abc.Clock

NOW = 1_700_000_000.0
DAY = 86_400.0


def identity(who: str = "ada", channel: str = "chat") -> ChannelIdentity:
    return ChannelIdentity(channel, who, conversation="c1", verified=True)


def parcel(text: str = "hello", to: ChannelIdentity | None = None, **more: Any) -> NewDelivery:
    said: AgentResponse[Any] = AgentResponse(messages=[Message("assistant", [text])])
    (one,) = posted("reply", [to or identity()], said, {}, **{"at": NOW, "run_id": "run_1", **more})
    return one


def died(delivery: NewDelivery, reason: str = "rejected", at: float = NOW, **more: Any) -> NewDelivery:
    return replace(delivery, attempts=3, dead=Dead(reason, "403 no", died=at, expires_at=at + DAY), **more)


@pytest.fixture
async def alone() -> AsyncIterator[MemoryStore]:
    """A store that no runtime has."""
    store = MemoryStore()
    async with store.open():
        yield store


async def put(store: MemoryStore, *deliveries: NewDelivery, key: str = "ada") -> list[str]:
    return list((await store.commit(await store.claim(key), Commit(deliveries=deliveries))).delivery_ids)


async def everything(deliveries: Deliveries, **which: Any) -> list[Any]:
    found, after = [], None
    while True:
        page: DeliveryPage = await deliveries.list(after=after, **which)
        found += page.deliveries
        if (after := page.after) is None:
            return found


# --- looking


async def test_what_is_on_its_way_is_listed_as_it_stands(alone: MemoryStore) -> None:
    first, second = await put(alone, parcel(), parcel("2"))
    (taken,) = await alone.due(NOW, 1, 60.0)
    one, two = await everything(Deliveries(alone))
    assert (one.id, one.state, one.attempts, one.due) == (first, "running", 1, None)
    assert (two.id, two.state, two.attempts, two.due, two.number) == (second, "pending", 0, NOW, None)
    assert (one.channel, one.native_id, one.conversation, one.kind) == ("chat", "ada", "c1", "reply")
    assert (one.isolation_key, one.run_id, one.created, one.expires) == ("ada", "run_1", NOW, NOW + DAY)
    assert (one.died, one.kept_until, one.reason, one.error, one.unsure) == (None, None, "", "", False)
    assert one.text is None, "a listing does not tell what was said"
    await alone.reclaim(NOW)
    assert [view.unsure for view in await everything(Deliveries(alone))] == [True, False]
    await alone.settle(taken, Retry(0.0))  # of an attempt that was given up


async def test_a_dead_letter_tells_why(alone: MemoryStore) -> None:
    (delivery_id,) = await put(alone, died(parcel()))
    (one,) = await everything(Deliveries(alone))
    assert (one.id, one.state, one.attempts, one.due) == (delivery_id, "dead", 3, None)
    assert (one.reason, one.error, one.died, one.kept_until) == ("rejected", "403 no", NOW, NOW + DAY)
    for name in (delivery_id, str(one.number)):
        assert await Deliveries(alone).show(name) == replace(one, text="hello")


async def test_never_is_no_moment(alone: MemoryStore) -> None:
    """Neither a calendar nor JSON has it."""
    forever = Dead("rejected", died=NOW, expires_at=math.inf)
    one = parcel()
    one = replace(one, body=replace(Parcel.decode(one.body), expires=math.inf).encode())
    await put(alone, one, replace(one, dead=forever))
    for view in await everything(Deliveries(alone)):
        assert (view.expires, view.kept_until) == (None, None)


async def test_one_that_waits_is_shown_too(alone: MemoryStore) -> None:
    await put(alone, died(parcel()), parcel("1"))
    (delivery_id,) = await put(alone, parcel("2"))
    assert (await Deliveries(alone).show(delivery_id)).text == "2"


@pytest.mark.parametrize("name", ["", "7", "x" * 32, "9" * 5000, str(1 << 64), str((1 << 64) - 1), "٣", "-1"])
async def test_what_is_not_there_is_not_found(alone: MemoryStore, name: str) -> None:
    await put(alone, died(parcel()))
    with pytest.raises(NotFound) as caught:
        await Deliveries(alone).show(name)
    assert caught.value.code == "delivery_not_found"


async def test_what_is_no_text_is_told_by_its_type(alone: MemoryStore) -> None:
    said: AgentResponse[Any] = AgentResponse(
        messages=[Message("assistant", ["see", Content.from_uri("https://x/y.png", media_type="image/png")])]
    )
    (delivery_id,) = await put(alone, *posted("message", [identity()], said, {}, at=NOW))
    assert (await Deliveries(alone).show(delivery_id)).text == "see\n[uri]"


@pytest.mark.parametrize("body", [b"", b"\xff", b"nonsense", b"\x90", b"\xc0", b"\x81\xa1v\x02", b"\x81\xa1v\x01"])
@pytest.mark.parametrize("lane", ["chat\x1fada\x1fc1", LETTERS])
async def test_what_cannot_be_read_is_shown_as_such(alone: MemoryStore, body: bytes, lane: str) -> None:
    ids = await put(alone, NewDelivery(lane, body, dead=Dead("unknown_version", "format 2", died=NOW)))
    (one,) = await everything(Deliveries(alone))
    assert (one.id, one.kind, one.reason, one.error) == (ids[0], "unknown", "unknown_version", "format 2")
    assert (one.channel, one.native_id) == (("chat", "ada") if lane != LETTERS else (LETTERS, ""))
    assert (await Deliveries(alone).show(ids[0])).text is None


async def test_filters_all_count(alone: MemoryStore) -> None:
    await put(alone, died(parcel("1")), died(parcel("2", identity(channel="mail")), "expired"), parcel("3"))
    await put(alone, died(parcel("4"), "expired", NOW - DAY), key="bob")
    deliveries = Deliveries(alone)

    async def texts(**which: Any) -> str:
        return "".join([(await deliveries.show(one.id)).text or "" for one in await everything(deliveries, **which)])

    assert await texts() == "3124"
    assert await texts(state="pending") == "3"
    assert await texts(state="dead") == "124"
    assert await texts(channel="chat") == "314"
    assert await texts(channel="chat", reason="expired") == "4"
    assert await texts(key="bob") == "4"
    assert await texts(reason="expired", channel=None) == "24"
    age = time.time() - NOW
    assert await texts(older_than=age - 60) == "3124"
    assert await texts(older_than=age + 60) == "4"
    assert await texts(older_than=age + 2 * DAY) == ""


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_pages_have_everything_once(alone: MemoryStore, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLICE", 2)
    ids = await put(alone, *(parcel(str(n)) for n in range(5)), *(died(parcel(str(n))) for n in range(5)))
    assert [one.id for one in await everything(Deliveries(alone), limit=limit)] == ids
    assert [one.id for one in await everything(Deliveries(alone), limit=limit, state="dead")] == ids[5:]


async def test_a_page_looks_only_so_far(alone: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOKS", 3)
    await put(alone, *(died(parcel(str(n))) for n in range(5)), died(parcel("x", identity(channel="mail"))))
    page = await Deliveries(alone).list(channel="mail")
    assert (page.deliveries, page.after is None) == ([], False)
    assert len((await Deliveries(alone).list(channel="mail", after=page.after)).deliveries) == 1


@pytest.mark.parametrize("cursor", ["x", "pxy", "dd", f"d{1 << 64}", "d-5", "12"])
async def test_a_cursor_of_somebody_elses(alone: MemoryStore, cursor: str) -> None:
    with pytest.raises(BadRequest) as caught:
        await Deliveries(alone).list(after=cursor)
    assert caught.value.code == "invalid_cursor"


async def test_figures_without_a_runtime(alone: MemoryStore) -> None:
    await put(alone, parcel(), died(parcel()), died(parcel()))
    assert Deliveries(alone).statistics() == DeliveriesStatistics(1, 2, ())


# --- deciding


async def test_a_replay_has_a_new_id_no_attempts_and_its_full_time(alone: MemoryStore) -> None:
    (old,) = await put(alone, died(parcel()))
    before = time.time()
    assert await Deliveries(alone).replay(old) == 1
    (one,) = await everything(Deliveries(alone))
    assert one.state == "pending"
    assert one.id != old
    assert one.attempts == 0
    assert (one.created, one.due) == pytest.approx((before, before), abs=60)  # the store keeps whole milliseconds
    assert one.expires == pytest.approx(one.created + DAY, abs=0.01)
    assert (await Deliveries(alone).show(one.id)).text == "hello"
    with pytest.raises(NotFound):
        await Deliveries(alone).replay(old)


async def test_what_this_version_cannot_read_goes_as_it_is(alone: MemoryStore) -> None:
    await put(alone, NewDelivery("chat\x1fada\x1f", b"of the future", dead=Dead("unknown_version", died=NOW)))
    assert await Deliveries(alone).replay(all=True) == 1
    assert [one.body for one in await alone.deliveries()] == [b"of the future"]


async def test_a_letter_of_the_future_stays(alone: MemoryStore) -> None:
    letter = NewDelivery(LETTERS, b"\x81\xa1v\x02", dead=Dead("attempts_exhausted", died=NOW))
    (delivery_id, _) = await put(alone, letter, died(parcel()))
    with pytest.raises(Conflicting) as caught:
        await Deliveries(alone).replay(delivery_id)
    assert caught.value.code == "unknown_version"
    assert await Deliveries(alone).replay(all=True) == 1, "the others go"
    assert alone.statistics().dead == 1


@pytest.mark.parametrize("asked", [[1], {"input": 7}, {}], ids=str)
async def test_a_damaged_letter_is_in_nobodys_way(alone: MemoryStore, asked: Any) -> None:
    body = LetterBody(pack(asked, "request"), NOW, "s", None).encode()
    first, damaged, _ = await put(
        alone, died(parcel()), NewDelivery(LETTERS, body, dead=Dead("attempts_exhausted", died=NOW)), died(parcel("2"))
    )
    with pytest.raises(Conflicting, match="nothing was done") as caught:
        await Deliveries(alone).replay(first, damaged)
    assert caught.value.code == "unknown_version"
    assert alone.statistics().dead == 3
    assert await Deliveries(alone).replayed(all=True) == (2, 1)
    assert [one.delivery_id for one in await alone.dead_letters()] == [damaged]


@pytest.mark.parametrize("what", ["replay", "purge"])
async def test_some_of_the_dead(alone: MemoryStore, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLICE", 2)
    mail = identity(channel="mail")
    ids = await put(alone, *(died(parcel(str(n), mail if n % 2 else None)) for n in range(9)), parcel("pending"))
    decide: Callable[..., Any] = getattr(Deliveries(alone), what)
    assert await decide(ids[0], ids[2], ids[2]) == 2
    assert await decide(channel="mail") == 4
    assert [one.id for one in await everything(Deliveries(alone), state="dead")] == [ids[4], ids[6], ids[8]]
    assert await decide(reason="nothing like it") == 0
    assert await decide(all=True) == 3
    assert await decide(all=True) == 0
    assert alone.statistics().pending == (10 if what == "replay" else 1)


@pytest.mark.parametrize("what", ["replay", "purge"])
async def test_it_has_to_be_said_which(alone: MemoryStore, what: str) -> None:
    ids = await put(alone, died(parcel()), parcel())
    decide: Callable[..., Any] = getattr(Deliveries(alone), what)
    for said in ({}, {"channel": None}):
        with pytest.raises(ValueError, match="say which"):
            await decide(**said)
    with pytest.raises(ValueError, match="say which"):
        await decide(ids[0], all=True)
    with pytest.raises(Conflicting) as caught:
        await decide(ids[1])
    assert caught.value.code == "not_dead"
    with pytest.raises(Conflicting, match=ids[1]):
        await decide(*ids)
    with pytest.raises(NotFound):
        await decide(ids[0], "nobody")
    assert alone.statistics().dead == 1, "nothing was done"


async def test_no_room(alone: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await put(alone, died(parcel()))

    async def revive(*_args: Any, **_more: Any) -> None:
        raise StoreFull("full")

    monkeypatch.setattr(alone, "revive", revive)
    with pytest.raises(StorageFull):
        await Deliveries(alone).replay(all=True)


# --- with a runtime


class Desk:
    """A channel that takes what it is told to take."""

    def __init__(self) -> None:
        self.got: list[Push] = []
        self.refuses = True

    async def push(self, push: Push) -> None:
        await trio.lowlevel.checkpoint()
        if self.refuses:
            raise PushRejected("no such chat")
        self.got.append(push)


@pytest.fixture
def desk(house: House) -> Desk:
    desk = Desk()
    house.channel("chat", push=desk.push, push_policy=PushPolicy())
    return desk


async def test_a_replay_is_sent_at_once(autojump_clock: Clock, house: House, desk: Desk) -> None:
    async with house.open() as runtime:
        await house.ask("hello", channel="chat", identity=identity())
        await runtime.send("ada", "ping")
        await blocked()
        (dead,) = (await runtime.deliveries.list()).deliveries
        assert (dead.state, dead.reason, dead.error, dead.kind) == ("dead", "rejected", "no such chat", "message")
        assert dead.kept_until - dead.died == runtime.limits.dead_letter_retention
        desk.refuses = False
        assert await runtime.deliveries.replay(dead.id) == 1
        await blocked()
        (push,) = desk.got
        assert (push.response.text, push.attempt) == ("ping", 1)
        assert push.delivery_id != dead.id
        statistics = runtime.deliveries.statistics()
        assert (statistics.pending, statistics.dead, statistics.outlets[0].delivered) == (0, 0, 1)


async def test_what_dies_again_meanwhile_is_not_replayed_for_ever(
    autojump_clock: Clock, house: House, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SLICE", 1)
    async with house.open() as runtime:
        await house.ask("hello", channel="chat", identity=identity())
        for number in range(5):
            await runtime.send("ada", str(number))
        await blocked()
        assert await runtime.deliveries.replay(all=True) == 5
        await blocked()
        assert runtime.deliveries.statistics().dead == 5


# --- letters


async def exhausted(house: House, **more: Any) -> None:
    """A durable run that ended the process too often."""
    house.target.hold("poison")
    for attempt in range(3):
        async with house.open(crash=True, max_attempts=3):
            if attempt == 0:
                await house.submit("poison", "s", **more)
            await blocked()
    async with house.open():
        await blocked()
    house.target.hold("poison").set()


async def test_a_letter_that_used_up_its_attempts_is_dead(autojump_clock: Clock, house: House) -> None:
    await exhausted(house, name="resp_1", channel="chat", identity=identity())
    async with house.open() as runtime:
        run = await runtime.get_continuation("resp_1")
        assert (run.state, run.error[0]) == ("failed", "attempts_exhausted")
        (dead,) = (await runtime.deliveries.list()).deliveries
        assert (dead.state, dead.kind, dead.reason) == ("dead", "letter", "attempts_exhausted")
        assert (dead.channel, dead.native_id, dead.isolation_key) == ("chat", "ada", "ada")
        assert (dead.run_id, dead.attempts) == (run.run_id, 3)
        assert dead.kept_until == pytest.approx(dead.died + runtime.limits.dead_letter_retention)
        assert (await runtime.deliveries.show(dead.id)).text == "poison"
        assert await runtime.deliveries.purge(channel="chat") == 1
        assert (await runtime.deliveries.list()).deliveries == []


async def test_no_other_failure_leaves_a_dead_letter(autojump_clock: Clock, house: House) -> None:
    async def fail(*_args: Any) -> str:
        raise RuntimeError("a defect")

    house.target.on["bad"] = fail
    async with house.open() as runtime:
        run = await runtime.get_continuation(await house.submit("bad", "s"), wait=True)
        assert run.state == "failed"
        assert runtime.deliveries.statistics().dead == 0


async def test_its_replay_is_a_new_run(autojump_clock: Clock, house: House) -> None:
    hooked: list[str] = []

    def hook(request: Any, **_more: Any) -> Any:
        hooked.append(request.channel)
        return request

    house.channel("chat", run_hook=hook)
    await exhausted(house, name="resp_1", channel="chat", idempotency_key="k")
    async with house.open() as runtime:
        assert await runtime.deliveries.replay(reason="attempts_exhausted") == 1
        await blocked()
        assert runtime.deliveries.statistics().dead == 0
        old, new = await house.records()
        assert (old.state, new.state, new.attempt) == ("failed", "completed", 1)
        assert new.token.startswith("resp_")
        run = await runtime.get_continuation(new.token)
        assert run.result.text == "poison"
        assert (run.session_id, run.durable) == ("s", True) or run.session_id.endswith("s")
        assert (await runtime.get_continuation("resp_1")).state == "failed"
        assert await house.ask("next", "s") == "poison next", "it is in the conversation"
        assert (await house.store.claim("ada")).letters == 0
    assert hooked == ["chat"], "the hook saw it when it came"


async def test_without_a_runtime_it_waits_for_the_next_one(autojump_clock: Clock, house: House) -> None:
    await exhausted(house, name="resp_1")
    async with house.store.open():
        assert await Deliveries(house.store).replay(all=True) == 1
        assert (await house.store.claim("ada")).letters == 1
        assert house.store.statistics().dead == 0
    async with house.open():
        await blocked()
        assert [record.state for record in await house.records()] == ["failed", "completed"]


async def test_a_replay_that_was_cut_short_does_not_run_twice(
    autojump_clock: Clock, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await exhausted(house)

    async def cut(_positions: Any) -> int:
        raise OSError("the process ended here")

    async with house.open() as runtime:
        with monkeypatch.context() as patch:
            patch.setattr(house.store, "purge", cut)
            with pytest.raises(OSError):
                await runtime.deliveries.replay(all=True)
        assert await runtime.deliveries.replay(all=True) == 1
        await blocked()
    async with house.open():
        await blocked()
        assert runtime.store.statistics().dead == 0
        assert [record.state for record in await house.records()] == ["failed", "completed"]


async def test_two_who_replay_at_once_make_one_run(autojump_clock: Clock, house: House) -> None:
    await exhausted(house)
    done: list[int] = []

    async def replay() -> None:
        done.append(await house.runtime.deliveries.replay(all=True))

    async with house.open():
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(replay)
        await blocked()
        assert sorted(done) == [0, 0, 1]
        assert [record.state for record in await house.records()] == ["failed", "completed"]
    assert house.target.started.count("poison") == 4


async def test_to_delete_the_run_is_to_delete_its_letter(autojump_clock: Clock, house: House) -> None:
    await exhausted(house, name="resp_1")
    async with house.open() as runtime:
        assert runtime.deliveries.statistics().dead == 1
        await house.ask("so that something stays", "t")
        await put(runtime.store, NewDelivery(LETTERS, b"of the future", dead=Dead("attempts_exhausted")))
        await runtime.forget("resp_1")
        assert [one.kind for one in (await runtime.deliveries.list()).deliveries] == ["unknown"]


async def test_what_had_joined_it_is_in_it(autojump_clock: Clock, house: House) -> None:
    house.target.hold("b")
    for attempt in range(3):
        async with house.open(crash=True):
            if attempt == 0:
                first = house.target.hold("first")
                await house.submit("first", "s")
                await house.target.began("first").wait()
                for text in ("a", "b"):
                    await house.submit(text, "s", overlap="coalesce", name=f"resp_{text}")
                first.set()
            await blocked()
            assert house.target.running == ["b"]
    house.target.hold("b").set()
    async with house.open() as runtime:
        await blocked()
        (dead,) = (await runtime.deliveries.list()).deliveries
        assert (await runtime.deliveries.show(dead.id)).text == "a\nb"
        assert await runtime.deliveries.replay(dead.id) == 1
        await blocked()
        *_, again = await house.records()
        assert (await runtime.get_continuation(again.token)).result.text == "first a b"
        assert [(await runtime.get_continuation(f"resp_{text}")).state for text in "ab"] == ["failed"] * 2


async def test_an_erased_key_has_no_dead_letter_any_more(autojump_clock: Clock, house: House) -> None:
    await exhausted(house)
    async with house.open() as runtime:
        assert runtime.deliveries.statistics().dead == 1
        await runtime.erase_actor("ada")
        assert runtime.deliveries.statistics().dead == 0
