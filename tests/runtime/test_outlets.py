"""The supervisor of deliveries: lanes, retries, breakers, rates, readiness, crashes and the end; in virtual time."""

import itertools
import time
from collections import Counter
from copy import deepcopy
from typing import Any

import pytest
import trio
from agent_framework import Message
from hypothesis import given
from hypothesis import strategies as st

from afactors.breaker import Breaker, Pace
from afactors.deliveries import Deliveries
from afactors.outbox import lane_of
from afactors_channels import PushDeferred, PushRejected, TargetFailed
from afactors_channels.pushes import Push, PushPolicy, RetryPolicy
from afactors_store import Commit, MemoryStore, NewDelivery, StoreFull
from tests.runtime.outgoing import RETRY, START, Outside, Taker, down, one_clock, takes, who

Clock = trio.abc.Clock
HOUR = 3600.0


@pytest.fixture(autouse=True)
def _calendar(monkeypatch: pytest.MonkeyPatch) -> None:
    one_clock(monkeypatch)


def numbered(count: int, name: str = "m") -> list[str]:
    return [f"{name}{number}" for number in range(count)]


# --- lanes


async def test_what_is_committed_is_delivered_once_and_in_order(autojump_clock: Clock):
    chat = Taker()
    outside = Outside(chat)
    async with outside.open() as deliverer:
        ids = await outside.send(*numbered(40))
        await outside.emptied()
        assert chat.said() == numbered(40)
        assert [push.delivery_id for push in chat.taken] == list(ids)
        assert {(push.attempt, push.unsure, push.kind, push.created) for push in chat.taken} == {
            (1, False, "message", START)
        }
        found = deliverer.statistics()
    (counts,) = found.outlets
    assert (found.pending, found.dead, counts.delivered, counts.failed, counts.in_flight) == (0, 0, 40, 0, 0)
    assert (counts.channel, counts.unsure, counts.dead, counts.paused_for) == ("chat", 0, {}, 0.0)


async def test_pushes_to_one_destination_come_one_after_the_other(autojump_clock: Clock):
    chat = Taker()
    chat.always = takes(1.0)
    outside = Outside(chat)
    async with outside.open():
        await outside.send(*numbered(5))
        await outside.emptied()
    assert chat.peak == 1
    assert chat.times() == pytest.approx([0, 1, 2, 3, 4], abs=0.01)


async def test_an_attempt_that_cannot_be_cut_off_is_not_made_again_beside_itself(autojump_clock: Clock):
    chat = Taker()

    async def in_a_thread(_push: Push) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(600.0)

    chat.on["ada"] = in_a_thread
    outside = Outside(chat)
    async with outside.open():
        await outside.send("a", "b")
        for _ in range(100):  # what wakes the outlet
            await trio.sleep(10)
            await outside.send("x", to=who("bob"))
        assert (await Deliveries(outside.store).list()).deliveries[0].due is None
        await outside.emptied()
    assert [one for one in chat.tell() if one[0] != "x"] == [("a", 1, False), ("b", 1, False)]


async def test_no_more_are_sent_at_once_than_the_channel_wants(autojump_clock: Clock):
    chat, mail = Taker(policy=PushPolicy(concurrency=3)), Taker("mail", PushPolicy(concurrency=2))
    chat.always = mail.always = takes(1.0)
    outside = Outside(chat, mail)
    async with outside.open():
        for number in range(9):
            await outside.send("m", to=who(f"user-{number}"))
            await outside.send("m", to=who(f"user-{number}", "mail"))
        await outside.emptied()
    assert (chat.peak, mail.peak) == (3, 2)
    assert max(chat.times()) == pytest.approx(2.0, abs=0.01)
    assert max(mail.times()) == pytest.approx(4.0, abs=0.01)


async def test_a_destination_that_is_down_for_an_hour_holds_nobody_up(autojump_clock: Clock):
    chat, mail = Taker(), Taker("mail")

    async def until_an_hour_is_over(_push: Push) -> None:
        if trio.current_time() < HOUR:
            raise OSError("down")

    chat.on["eve"] = until_an_hour_is_over
    outside = Outside(chat, mail)
    async with outside.open():
        await outside.send(*numbered(20, "e"), to=who("eve"))
        for number in range(60):
            for name, channel in (("ada", "chat"), ("bob", "chat"), ("ada", "mail")):
                await outside.send(f"{name}{number}", to=who(name, channel))
            await trio.sleep(60)
        assert chat.said("eve") == []
        await outside.emptied()
    assert chat.said("ada") == numbered(60, "ada")
    assert chat.said("bob") == numbered(60, "bob")
    assert mail.said() == numbered(60, "ada")
    # They got each as soon as it was committed; the other one was left alone more and more.
    assert chat.times("ada") == pytest.approx([60.0 * number for number in range(60)], abs=0.1)
    assert chat.said("eve") == numbered(20, "e")
    tries = [at for at in chat.times("eve") if at < HOUR]
    assert tries[:6] == pytest.approx([0, 1, 3, 7, 15, 31], abs=0.1)
    assert len(tries) < 20
    assert chat.taken[-20].attempt == len(tries) + 1
    assert {push.delivery_id for at, push in chat.attempts if push.response.text == "e0"} == {
        chat.taken[-20].delivery_id
    }


async def test_an_echo_that_is_dead_does_not_hold_up_its_reply(autojump_clock: Clock):
    chat = Taker()
    outside = Outside(chat)

    async def wants_no_echo(push: Push) -> None:
        if push.kind == "echo":
            raise PushRejected("no echoes")

    chat.on["ada"] = wants_no_echo
    async with outside.open():
        await outside.commit([*outside.made("asked", kind="echo"), *outside.made("answered", kind="reply")])
        await outside.emptied()
        (dead,) = await outside.dead()
    assert chat.said() == ["answered"]
    assert [push.response.text for _, push in chat.attempts] == ["asked", "answered"]
    assert (dead.reason, dead.error, dead.attempt) == ("rejected", "no echoes", 1)


async def test_a_long_lane_does_not_starve_the_short_ones(autojump_clock: Clock):
    chat = Taker(policy=PushPolicy(concurrency=1))
    chat.always = takes(1.0)
    outside = Outside(chat)
    async with outside.open():
        await outside.send(*numbered(200), to=who("long"))
        for number in range(30):
            await outside.send("short", to=who(f"user-{number}"))
        await outside.emptied()
    order = [push.identity.native_id == "long" for push in chat.taken]
    before_the_last_short = order[: len(order) - order[::-1].index(False)]
    # At most so many of the long one come in a row, and then all that wait have their turn.
    assert sum(before_the_last_short) <= 32
    assert chat.said("long") == numbered(200)


async def test_what_waits_longest_comes_before_newcomers(autojump_clock: Clock):
    chat = Taker(policy=PushPolicy(retry=RETRY, rate=2.0))
    outside = Outside(chat)

    async def once(push: Push) -> None:
        if push.attempt == 1 and push.response.text == "first":
            raise OSError("down")

    chat.on["bob"] = once
    async with outside.open():
        await outside.send("first", "second", to=who("bob"))
        for number in range(100):  # as many as the channel allows, each for somebody else
            await outside.send("m", to=who(f"user-{number}"))
            await trio.sleep(0.5)
    assert chat.said("bob") == ["first", "second"]
    assert max(chat.times("bob")) < 10


async def test_many_lanes_share_what_there_is(autojump_clock: Clock):
    chat = Taker(policy=PushPolicy(concurrency=4))
    chat.always = takes(1.0)
    outside = Outside(chat)
    async with outside.open():
        for number in range(20):
            await outside.send(*numbered(50), to=who(f"user-{number}"))
        await trio.sleep(129.5)
        taken = Counter(push.identity.native_id for push in chat.taken)
    assert len(taken) == 20
    assert max(taken.values()) - min(taken.values()) <= 32


# --- what comes of an attempt


async def test_what_is_refused_is_dead_at_once_and_the_lane_goes_on(autojump_clock: Clock):
    chat = Taker()
    outside = Outside(chat)

    async def refuse(push: Push) -> None:
        if push.response.text == "m1":
            raise PushRejected("blocked by the user")

    chat.on["ada"] = refuse
    async with outside.open() as deliverer:
        ids = await outside.send(*numbered(3))
        await outside.emptied()
        (dead,) = await outside.dead()
        assert trio.current_time() < 1
        found = deliverer.statistics()
    assert chat.said() == ["m0", "m2"]
    assert (dead.delivery_id, dead.reason, dead.error) == (ids[1], "rejected", "blocked by the user")
    assert (dead.died, dead.expires_at) == pytest.approx((START, START + 86_400), abs=1)
    assert (found.dead, found.outlets[0].dead) == (1, {"rejected": 1})


@pytest.mark.parametrize(("asked", "waits"), [(17.0, [17.0, 17.0]), (0.25, [0.25, 0.25]), (None, [1.0, 2.0])])
async def test_what_is_deferred_waits_as_told(autojump_clock: Clock, asked: float | None, waits: list[float]):
    chat = Taker()
    outside = Outside(chat)

    async def later(push: Push) -> None:
        if push.attempt <= 2:
            raise PushDeferred("slow down", retry_after=asked)

    chat.on["ada"] = later
    async with outside.open() as deliverer:
        await outside.send("m")
        await outside.emptied()
        assert deliverer.statistics().outlets[0].failed == 2
    first, second, third = chat.times()
    assert [second - first, third - second] == pytest.approx(waits, abs=0.01)


async def test_who_says_when_to_come_again_has_more_than_the_attempts(autojump_clock: Clock):
    chat = Taker(policy=PushPolicy(retry=RetryPolicy(max_attempts=3, jitter=0.0)))
    outside = Outside(chat)

    async def busy(push: Push) -> None:
        if push.attempt <= 20:
            raise PushDeferred("slow down", retry_after=1.0)

    chat.on["ada"] = busy
    async with outside.open():
        await outside.send("m")
        await outside.emptied()
        assert await outside.dead() == []
    assert [push.attempt for push in chat.taken] == [21]
    assert chat.times() == pytest.approx(range(21), abs=0.1)


async def test_what_was_deferred_is_not_held_against_a_delivery(autojump_clock: Clock):
    chat = Taker(policy=PushPolicy(retry=RetryPolicy(max_attempts=4, jitter=0.0)))
    outside, ends = Outside(chat), [takes(10.0), *[down(PushDeferred("busy", retry_after=60.0))] * 12]

    async def in_turn(push: Push) -> None:
        if push.attempt <= len(ends):
            await ends[push.attempt - 1](push)

    chat.always = in_turn
    ends += [down(), takes(10.0)]
    async with outside.open() as deliverer:
        await outside.send("m")
        await trio.sleep(5)
        await deliverer.stop()  # cut off in its first attempt
    async with outside.open() as deliverer:
        await trio.sleep(12 * 60 + 5)
        assert (chat.running, len(chat.attempts)) == (1, 15)
        await deliverer.stop()  # and in the one after the failure
    async with outside.open():
        await outside.emptied()
        assert await outside.dead() == []
    assert chat.tell()[-1] == ("m", 16, True)


async def test_who_is_deferred_again_and_again_comes_to_an_end(autojump_clock: Clock):
    chat = Taker(policy=PushPolicy(retry=RetryPolicy(max_attempts=3, jitter=0.0)))
    chat.always = down(PushDeferred("busy", retry_after=1.0))
    outside = Outside(chat)
    async with outside.open():
        await outside.send("m")
        await outside.emptied()
        (dead,) = await outside.dead()
    assert (dead.reason, dead.attempt, len(chat.attempts)) == ("attempts", 30, 30)


async def test_what_follows_one_that_cannot_wait_so_long_waits(autojump_clock: Clock):
    chat = Taker(policy=PushPolicy(retry=RetryPolicy(max_age=24 * HOUR, jitter=0.0)))
    chat.always = down(PushDeferred("come back tomorrow", retry_after=25 * HOUR))
    outside = Outside(chat)
    async with outside.open():
        await outside.send(*numbered(50))
        await outside.send("m", to=who("bob"))
        await trio.sleep(23 * HOUR)
        assert (len(chat.attempts), len(await outside.dead())) == (2, 2)
        chat.always = None
        await outside.send("late")
        await outside.emptied()
        assert Counter(letter.reason for letter in await outside.dead()) == {"expired": 51}
    # No longer than anything is welcome, whatever was said.
    assert chat.tell()[2:] == [("late", 1, False)]
    assert chat.times()[2] == pytest.approx(24 * HOUR, abs=1)


async def test_what_is_too_old_dies_and_is_not_sent(autojump_clock: Clock):
    retry = RetryPolicy(max_age=100.0, longest=10.0, jitter=0.0)
    chat = Taker(policy=PushPolicy(retry=retry, breaker=1000, timeout=200.0))
    outside = Outside(chat)
    chat.on["ada"] = takes(99.0)
    chat.on["eve"] = down()
    async with outside.open():
        slow, next_, late = await outside.send("slow", "next", "late", to=who())
        never = await outside.send("never", to=who("eve"))
        await trio.sleep(150.0)
        await outside.send("in time", to=who())
        await outside.emptied()
        dead = {letter.delivery_id: letter for letter in await outside.dead()}
    # One waited behind others for too long; to the other one, no attempt would come in time any more.
    assert {name: letter.reason for name, letter in dead.items()} == {late: "expired", never[0]: "expired"}
    assert [push.delivery_id for push in chat.taken][:2] == [slow, next_]
    assert chat.said() == ["slow", "next", "in time"]
    assert 90 < max(chat.times("eve")) <= 100
    assert late not in [push.delivery_id for _, push in chat.attempts]


async def test_what_grew_old_while_nobody_was_there_is_not_sent(autojump_clock: Clock):
    chat = Taker(policy=PushPolicy(retry=RetryPolicy(max_age=100.0, longest=10.0)))
    outside = Outside(chat)
    async with outside.open(delivering=False):
        await outside.send("old")
    await trio.sleep(100)
    async with outside.open():
        await outside.send("new")
        await outside.emptied()
        (dead,) = await outside.dead()
    assert (dead.reason, dead.error) == ("expired", "")
    assert chat.said() == ["new"]
    assert len(chat.attempts) == 1


async def test_attempts_come_to_an_end(autojump_clock: Clock):
    chat = Taker(policy=PushPolicy(retry=RetryPolicy(max_attempts=4, jitter=0.0)))
    chat.on["ada"] = down(OSError("https://token@secret.example"))
    outside = Outside(chat)
    async with outside.open():
        await outside.send("m0", "m1")
        await trio.sleep(7.5)
        (dead,) = await outside.dead()
        assert (dead.reason, dead.error, dead.attempt) == ("attempts", "OSError", 4)
        del chat.on["ada"]
        await outside.emptied()
    assert chat.said() == ["m1"]


async def test_an_attempt_has_its_time(autojump_clock: Clock):
    chat = Taker(policy=PushPolicy(timeout=5.0, retry=RETRY))
    outside = Outside(chat)

    async def hangs_once(push: Push) -> None:
        if push.attempt == 1:
            await trio.sleep_forever()

    chat.on["ada"] = hangs_once
    async with outside.open():
        await outside.send("m")
        await outside.emptied()
    assert chat.times() == pytest.approx([0, 6], abs=0.01)


# --- the breaker


async def test_one_outage_is_not_a_thousand_retries(autojump_clock: Clock):
    chat, mail = Taker(), Taker("mail")
    chat.always = down()
    outside = Outside(chat, mail)
    async with outside.open() as deliverer:
        for number in range(1000):
            await outside.send("m", to=who(f"user-{number}"))
        for number in range(60):
            await trio.sleep(60)
            await outside.send(f"m{number}", to=who(channel="mail"))
        assert deliverer.statistics().outlets[0].paused_for > 0
        in_the_hour = len(chat.attempts)
        chat.always = None
        await outside.emptied()
        assert deliverer.statistics().outlets[0].paused_for == 0
    assert in_the_hour < 60
    assert chat.said() == ["m"] * 1000
    # The other channel never heard of it.
    assert mail.times() == pytest.approx([60.0 * number for number in range(1, 61)], abs=0.1)
    # Each pause is longer than the one before, and one at a time finds out whether it is over.
    probes = chat.times()[:in_the_hour]
    gaps = [two - one for one, two in itertools.pairwise(probes) if two - one > 1]
    assert gaps[:6] == pytest.approx([5, 10, 20, 40, 80, 160], abs=0.1)
    assert {round(gap) for gap in gaps[6:]} == {300}
    assert Counter(round(at) for at in probes if at > 1).most_common(1)[0][1] == 1


async def test_one_destination_that_fails_trips_nothing(autojump_clock: Clock):
    chat = Taker()
    chat.on["eve"] = down()
    outside = Outside(chat)
    async with outside.open() as deliverer:
        for number in range(30):
            await outside.send("m", to=who("eve", conversation=f"c{number}"))
        await trio.sleep(10)
        assert deliverer.statistics().outlets[0].paused_for == 0
        await outside.send("m", to=who("ada"))
        await trio.sleep(0.1)
        assert chat.said() == ["m"]


@pytest.mark.parametrize("error", [PushDeferred(retry_after=60.0), PushRejected("no")])
async def test_who_answers_is_there(autojump_clock: Clock, error: Exception):
    chat = Taker()
    chat.always = down(error)
    outside = Outside(chat)
    async with outside.open() as deliverer:
        for number in range(50):
            await outside.send("m", to=who(f"user-{number}"))
        await trio.sleep(1)
        assert len(chat.attempts) == 50
        assert deliverer.statistics().outlets[0].paused_for == 0


events = st.lists(st.tuples(st.sampled_from(["well", "a", "b", "c"]), st.floats(0, 60)), max_size=60)


@given(events, st.integers(1, 6))
def test_a_breaker_is_shut_after_failures_of_several_in_a_row(events: list[tuple[str, float]], least: int):
    breaker, now, row = Breaker(PushPolicy(breaker=least, pause=5.0, longest_pause=40.0)), 0.0, list[str]()
    for what, later in events:
        now += later
        shut, trying = breaker.shut_for(now), breaker.trying
        if what == "well":
            breaker.went_well()
            row.clear()
            assert not breaker.trying
            continue
        row.append(what)
        pause = breaker.failed(what, now)
        if pause is None:
            assert shut or not (trying or (len(row) >= least and len(set(row)) > 1))
        else:
            assert not shut
            assert trying or (len(row) >= least and len(set(row)) > 1)
            assert breaker.shut_for(now) == pytest.approx(pause)
            assert breaker.shut_for(now + pause) == 0
            assert 5 <= pause <= 40
            row.clear()


# --- rates


@pytest.mark.parametrize("rate", [0.5, 1.0, 2.5, 30.0])
async def test_no_more_are_begun_in_a_second_than_the_channel_allows(autojump_clock: Clock, rate: float):
    chat = Taker(policy=PushPolicy(rate=rate, retry=RETRY, concurrency=1000))
    outside = Outside(chat)
    count = int(rate * 20) or 1
    async with outside.open():
        for number in range(count):
            await outside.send("m0", "m1", to=who(f"user-{number % 7}"))
        await outside.emptied()
    begun = chat.times()
    assert len(begun) == 2 * count
    most = max(1, -(-rate // 1))
    for place, at in enumerate(begun):
        assert sum(at <= other < at + most / rate - 0.001 for other in begun[place:]) <= most
    assert begun[-1] < 2 * count / rate + 2


@given(st.floats(0.01, 100), st.lists(st.tuples(st.floats(0, 3), st.integers(0, 50)), max_size=40))
def test_a_pace_is_kept_however_it_is_asked(rate: float, asked: list[tuple[float, int]]):
    pace, now, begun = Pace(rate), 100.0, list[float]()
    most = max(1, -(-rate // 1))
    for later, wanted in asked:
        now += later
        count = min(wanted, pace.room(now))
        pace.began(count, now)
        begun += [now] * count
        assert (pace.wait(now) == 0) == (pace.room(now) > 0)
        assert deepcopy(pace).room(now + pace.wait(now) + 1e-6) > 0
    for at in begun:
        assert sum(at <= other < at + most / rate * (1 - 1e-9) for other in begun) <= most


# --- readiness


async def test_a_channel_that_is_not_ready_is_waited_for(autojump_clock: Clock):
    ready = trio.Event()
    chat, mail = Taker(push_ready=ready.wait), Taker("mail")
    outside = Outside(chat, mail)
    async with outside.open() as deliverer:
        await outside.send("m")
        await outside.send("m", to=who(channel="mail"))
        await trio.sleep(HOUR)
        assert (chat.attempts, mail.said(), outside.pending) == ([], ["m"], 1)
        with trio.fail_after(1):
            await deliverer.drain()  # nobody waits at the end for what was never ready
        ready.set()
        await outside.emptied()
    assert chat.tell() == [("m", 1, False)]


async def test_a_channel_that_fails_to_become_ready_is_asked_again(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
):
    asked: list[float] = []

    async def ready() -> None:
        asked.append(trio.current_time())
        if len(asked) <= 3:
            raise OSError("no route to host")

    chat, mail = Taker(push_ready=ready), Taker("mail")
    outside = Outside(chat, mail)
    async with outside.open():
        await outside.send("m")
        await outside.send("m", to=who(channel="mail"))
        await trio.sleep(1)
        assert (chat.said(), mail.said()) == ([], ["m"])
        await outside.emptied()
    assert asked == pytest.approx([0, 5, 15, 35])
    assert chat.tell() == [("m", 1, False)]
    assert caplog.text.count("channel chat is not ready: OSError") == 3


DAYS = PushPolicy(retry=RetryPolicy(jitter=0.0, max_age=48 * HOUR))


async def test_what_waits_for_a_channel_that_is_never_ready_expires(autojump_clock: Clock):
    ready = trio.Event()
    chat = Taker(policy=DAYS, push_ready=ready.wait)
    outside = Outside(chat)
    async with outside.open() as deliverer:
        await outside.send("one", "two")
        await outside.send("one", to=who("eve"))
        await trio.sleep(24 * HOUR)
        await outside.send("three")
        await trio.sleep(25 * HOUR)
        dead = await outside.dead()
        assert [(letter.reason, letter.error) for letter in dead] == [("expired", "")] * 3
        assert deliverer.statistics().outlets[0].dead == {"expired": 3}
        ready.set()
        await outside.emptied()
    assert chat.tell() == [("three", 1, False)]


async def test_what_waits_for_a_channel_that_is_not_configured_expires(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
):
    chat, mail = Taker(), Taker("mail", policy=DAYS)
    outside, without = Outside(chat, mail), Outside(chat)
    without.store = outside.store
    async with outside.open(delivering=False):
        many = [f"user{number}" for number in range(250)]
        for name in many:
            await outside.send("old", to=who(name, "mail"))
        await outside.store.commit(
            await outside.store.claim("ada"), Commit(deliveries=[NewDelivery("mail\x1fada\x1f", b"of the future")])
        )
        await trio.sleep(HOUR)
        await outside.send("new", to=who(channel="mail"))
    async with without.open():
        await without.send("hello")
        await trio.sleep(47.5 * HOUR)
        dead = await without.store.dead_letters(limit=1000)
        assert Counter(letter.reason for letter in dead) == {"expired": 250, "unknown_version": 1}
        assert (chat.said(), without.pending) == (["hello"], 1)
    assert caplog.text.count("'mail', which is not configured") == 1
    async with outside.open():
        await outside.emptied()
    assert mail.tell() == [("new", 1, False)]


# --- a wall clock that is set


@pytest.mark.parametrize("hours", [-5000, -2, 0.5])
async def test_a_clock_that_is_set_holds_nobody(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, hours: float):
    chat, wall = Taker(), time.time
    outside = Outside(chat)

    async def slow(push: Push) -> None:
        await trio.sleep(20)
        if push.response.text == "b" and push.attempt == 1:
            raise OSError("down")

    chat.always = slow
    async with outside.open():
        await outside.send("a", "b", "c")
        for name, at in (("bob", 5), ("eve", 40.5)):  # an attempt is under way, and then one is waited for
            await trio.sleep(at - trio.current_time())
            monkeypatch.setattr("time.time", lambda at=at: wall() + hours * HOUR * at)
            await outside.send("new", to=who(name))
        await outside.emptied()
    again = 41 if hours < 0 else 40.5
    assert chat.times("ada") == pytest.approx([0, 20, again, again + 20], abs=0.1)
    assert chat.times("bob") + chat.times("eve") == pytest.approx([5, 40.5], abs=0.1)


# --- what is handed to the channel


class Codec:
    """Payloads of version 1."""

    def encode(self, response: Any, identity: Any) -> dict[str, Any]:
        return {"v": 1, "text": response.text.upper(), "to": identity.native_id}

    def check(self, payload: Any) -> None:
        if payload["v"] != 1:
            raise PushRejected(f"payload of version {payload['v']}")


async def test_a_codec_gets_its_payload_back(autojump_clock: Clock):
    chat = Taker(push_codec=Codec())
    outside = Outside(chat)
    async with outside.open():
        await outside.send("m")
        await outside.emptied()
    assert chat.taken[0].payload == {"v": 1, "text": "M", "to": "ada"}


async def test_what_a_newer_version_wrote_is_put_aside(autojump_clock: Clock):
    codec = Codec()
    chat = Taker(push_codec=codec)
    outside = Outside(chat)
    async with outside.open():
        codec.encode = lambda response, identity: {"v": 2}  # type: ignore[method-assign]
        newer = outside.made("m0")
        del codec.encode
        nobodys = [NewDelivery(lane_of(who()), body) for body in (b"", b"\xc1", b"\x81\xa1v\x07")]
        await outside.commit([*newer, *nobodys, *outside.made("m1")])
        await outside.emptied()
        dead = await outside.dead()
    assert chat.said() == ["m1"]
    assert [letter.reason for letter in dead] == ["unknown_version"] * 4
    assert dead[0].error == "payload of version 2"
    assert dead[3].error == "format 7"


async def test_a_payload_that_its_codec_stumbles_over_is_put_aside(autojump_clock: Clock):
    class Sloppy(Codec):
        def check(self, payload: Any) -> None:
            if payload["version"] != 1:
                raise PushRejected("never reached")

    chat, mail = Taker(push_codec=Sloppy()), Taker("mail")
    outside = Outside(chat, mail)
    async with outside.open():
        await outside.send("m")
        await outside.send("m", to=who(channel="mail"))
        await outside.emptied()
        assert [(letter.reason, letter.error) for letter in await outside.dead()] == [("unknown_version", "KeyError")]
    assert (chat.attempts, mail.said()) == ([], ["m"])


async def test_the_response_hook_gets_a_copy_for_each_destination(autojump_clock: Clock):
    seen: list[Any] = []

    async def hook(result: Any, *, context: Any) -> Any:
        await trio.lowlevel.checkpoint()
        seen.append(context)
        result.result.messages.append(Message("assistant", [f" for {context.destination_identity.native_id}"]))
        return result

    chat = Taker(response_hook=hook)
    outside = Outside(chat)
    async with outside.open():
        both = outside.made("m", to=who("ada"), kind="reply") + outside.made("m", to=who("eve"), kind="echo")
        await outside.commit(both)
        await outside.emptied()
    assert {push.identity.native_id: len(push.response.messages) for push in chat.taken} == {"ada": 2, "eve": 2}
    assert {one.destination_identity.native_id: one.is_echo for one in seen} == {"ada": False, "eve": True}


async def test_a_hook_that_fails_is_no_outage(autojump_clock: Clock):
    failing = True

    def hook(result: Any, *, context: Any) -> Any:
        if failing and context.destination_identity.native_id != "eve":
            raise TargetFailed("not now")
        return result

    chat = Taker(response_hook=hook)
    outside = Outside(chat)
    async with outside.open() as deliverer:
        for number in range(20):
            await outside.send("m", to=who(f"user-{number}"))
        await outside.send("m", to=who("eve"))
        await trio.sleep(0.5)
        assert chat.said() == ["m"]
        assert deliverer.statistics().outlets[0].paused_for == 0
        failing = False
        await outside.emptied()
    assert len(chat.taken) == 21


async def test_an_actor_that_is_erased_takes_its_deliveries_along(autojump_clock: Clock):
    chat = Taker()
    chat.on["ada"] = down()
    outside = Outside(chat)
    async with outside.open():
        await outside.send(*numbered(10), key="ada")
        await outside.send("other's", key="eve")  # to the same destination, behind them
        await trio.sleep(2)
        assert await outside.store.erase("ada")
        del chat.on["ada"]
        await outside.emptied()
    assert chat.said() == ["other's"]


# --- the end


async def test_what_is_due_is_sent_until_the_deadline_and_what_runs_then_is_unsure(autojump_clock: Clock):
    chat = Taker(policy=PushPolicy(concurrency=2, retry=RETRY))
    chat.always = takes(2.0)
    outside = Outside(chat)
    async with outside.open() as deliverer:
        for number in range(10):
            await outside.send("m", to=who(f"user-{number}"))
        with trio.move_on_after(5.0):
            await deliverer.drain()
        await deliverer.stop()
        assert trio.current_time() == pytest.approx(5.0, abs=0.01)
        assert (deliverer.delivered, deliverer.cut_off, outside.pending) == (4, 2, 6)
        await trio.sleep(10)
        assert len(chat.attempts) == 6  # nothing more was begun
    before = [push.delivery_id for push in chat.taken]
    async with outside.open():
        await outside.emptied()
    again = chat.attempts[6:]
    assert sorted((push.attempt, push.unsure) for _, push in again) == [(1, False)] * 4 + [(2, True)] * 2
    assert len({push.delivery_id for push in chat.taken}) == 10
    assert {push.delivery_id for _, push in again}.isdisjoint(before)


async def test_a_drain_does_not_wait_for_what_is_not_due(autojump_clock: Clock):
    chat = Taker()
    chat.on["eve"] = down()
    outside = Outside(chat)
    async with outside.open() as deliverer:
        await outside.send("m", to=who("eve"))
        await outside.send(*numbered(20))
        await trio.sleep(1.5)
        with trio.fail_after(0.5):
            await deliverer.drain()
        await deliverer.stop()
        assert (deliverer.delivered, deliverer.cut_off, outside.pending) == (20, 0, 1)


async def test_what_was_taken_is_recorded_although_all_is_cancelled(autojump_clock: Clock):
    chat = Taker()
    outside = Outside(chat)

    async def at_the_last_moment(_push: Push) -> None:
        outside.deliverer._scope.cancel()

    chat.on["ada"] = at_the_last_moment
    async with outside.open() as deliverer:
        await outside.send("m0", "m1")
        await deliverer._over.wait()
        assert (chat.said(), deliverer.delivered, deliverer.cut_off, outside.pending) == (["m0"], 1, 1, 1)
    del chat.on["ada"]
    async with outside.open():
        await outside.emptied()
    assert [one for one in chat.tell() if one[0] == "m0"] == [("m0", 1, False)]


# --- a full disk


class StuffedStore(MemoryStore):
    """A store that has no room for one of its methods, while a test says so."""

    stuffed = ""

    async def _unless(self, name: str, call: Any, *given: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if self.stuffed == name:
            raise StoreFull("no room in the store: ENOSPC")
        return await call(*given)

    async def due(self, *given: Any) -> Any:
        return await self._unless("due", super().due, *given)

    async def settle(self, *given: Any) -> Any:
        return await self._unless("settle", super().settle, *given)

    async def settle_all(self, *given: Any) -> Any:
        return await self._unless("settle_all", super().settle_all, *given)


@pytest.mark.parametrize("method", ["due", "settle"])
async def test_while_the_store_is_full_deliveries_wait(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture, method: str
):
    chat, store = Taker(), StuffedStore()
    outside = Outside(chat, store=store)
    store.stuffed = method
    async with outside.open() as deliverer:
        await outside.send("one", "two")
        await trio.sleep(HOUR)
        assert (outside.pending, caplog.text.count("ENOSPC")) == (2, 1)
        store.stuffed = ""
        await outside.emptied()
        assert deliverer.delivered == 2
    assert chat.tell() == [("one", 1, False), ("two", 1, False)]


async def test_an_end_does_not_wait_for_room(autojump_clock: Clock):
    chat, store = Taker(), StuffedStore()
    outside = Outside(chat, store=store)
    store.stuffed = "settle"
    async with outside.open() as deliverer:
        await outside.send("m")
        await trio.sleep(7)
        with trio.fail_after(1):
            await deliverer.stop()
        assert deliverer.cut_off == 1
    store.stuffed = ""
    async with outside.open():
        await outside.emptied()
    assert chat.tell() == [("m", 1, False), ("m", 2, True)]


@pytest.mark.parametrize("method", ["due", "settle_all"])
async def test_what_expires_while_the_store_is_full_expires_afterwards(autojump_clock: Clock, method: str):
    chat, store = Taker(policy=DAYS, push_ready=trio.Event().wait), StuffedStore()
    outside = Outside(chat, store=store)
    async with outside.open():
        await outside.send("old")
        await trio.sleep(47.5 * HOUR)
        store.stuffed = method
        await trio.sleep(10 * HOUR)
        assert outside.pending == 1
        store.stuffed = ""
        await outside.emptied()
        assert [letter.reason for letter in await outside.dead()] == ["expired"]


# --- crashes


class Killed(BaseException):
    """The process is gone."""


class MortalStore(MemoryStore):
    """A store whose process dies at the point that a test chose: before or after what is written, or in a push."""

    fatal = -1
    points = 0

    def reach(self) -> None:
        self.points += 1
        if self.points == self.fatal:
            self.crash()
        if self.points >= self.fatal >= 0:
            raise Killed

    async def due(self, *given: Any, **more: Any) -> Any:
        self.reach()
        found = await super().due(*given, **more)
        self.reach()
        return found

    async def settle(self, *given: Any, **more: Any) -> Any:
        self.reach()
        found = await super().settle(*given, **more)
        self.reach()
        return found


async def killed_at(fatal: int) -> bool:
    """Deliver four lanes, and die at that point; whether it was reached."""
    store, chat = MortalStore(), Taker(policy=PushPolicy(concurrency=3, retry=RETRY))

    async def pushed(push: Push) -> None:
        store.reach()
        await trio.sleep(0.1)
        if push.attempt == 1 and push.response.text == "m1" and push.identity.native_id == "user-2":
            raise OSError("once")

    chat.always = pushed
    outside = Outside(chat, store=store)
    async with outside.open(delivering=False):
        ids = [await outside.send(*numbered(3), to=who(f"user-{lane}"), key=f"k{lane}") for lane in range(4)]
    died = False
    try:
        store.fatal = fatal
        async with outside.open():
            await outside.emptied()
    except* Killed:
        died = True
    store.fatal = -1
    async with outside.open():
        await outside.emptied()
    for lane in range(4):
        name = f"user-{lane}"
        taken = [push.delivery_id for push in chat.taken if push.identity.native_id == name]
        tried = [(push.delivery_id, push.attempt) for _, push in chat.attempts if push.identity.native_id == name]
        assert list(dict.fromkeys(taken)) == list(ids[lane]), fatal  # all of them, and in order
        assert [one for one, _ in itertools.groupby(taken)] == list(ids[lane]), fatal  # repeats come at once
        assert [one for one, _ in itertools.groupby(tried)] == tried, fatal  # no attempt has another's number
    repeated = [push for _, push in chat.attempts if push.attempt > 1 and push.response.text != "m1"]
    assert all(push.unsure for push in repeated)
    assert len(chat.taken) <= 12 + 3  # what was under way, and not more
    return died


async def test_killed_at_any_point_everything_arrives_in_order(autojump_clock: Clock):
    fatal = 1
    while await killed_at(fatal):
        fatal += 1
    assert fatal > 40


async def test_attempts_that_were_used_up_before_a_crash_stay_used_up(autojump_clock: Clock):
    chat = Taker(policy=PushPolicy(retry=RetryPolicy(max_attempts=3, jitter=0.0)))
    outside = Outside(chat)
    chat.on["ada"] = takes(10.0)
    for _ in range(5):  # a message that is the death of every process
        async with outside.open():
            if not outside.pending and not await outside.dead():
                await outside.send("m0", "m1")
            await trio.sleep(5)
            outside.store.crash()
    del chat.on["ada"]
    async with outside.open() as deliverer:
        await outside.emptied()
        (dead,) = await outside.dead()
        assert deliverer.statistics().outlets[0].unsure == 1
    assert (dead.reason, dead.attempt) == ("attempts", 4)
    assert [push.attempt for _, push in chat.attempts if push.response.text == "m0"] == [1, 2, 3]
    assert chat.said() == ["m1"]
    assert [push.attempt for _, push in chat.attempts if push.response.text == "m1"][-1] <= 3
