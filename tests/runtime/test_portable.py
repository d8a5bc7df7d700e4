"""One actor as a whole: exported while others talk, erased without a trace, imported, and the conversation goes on."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio
import trio.testing
from trio.abc import Clock

from afactors import portable
from afactors.portable import MAGIC, UnusableFile, read_actor, write_actor
from afactors_channels import BadRequest, Conflicting, HostError, NotFound, Overloaded, StorageFull, TargetFailed
from afactors_channels.pushes import PushPolicy, RetryPolicy
from afactors_store import Append, Commit, Dead, LmdbStore, MemoryStore, NewDelivery, NewLetter, StoreFull
from tests.runtime.outgoing import Taker, down, one_clock, who

SECRET = "my-secret-word"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ada.actor"


@pytest.fixture(params=["memory", "lmdb"])
def home(request: pytest.FixtureRequest, house: Any, tmp_path: Path) -> Any:
    """The house, over either store."""
    if request.param == "lmdb":
        house.store = LmdbStore(tmp_path / "state", sync=False, map_size=1 << 28)
    return house


def read(file: Path) -> bytes:
    return file.read_bytes()


def write(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def beside(file: Path) -> list[str]:
    """Names of the files in its folder, with its own."""
    return sorted(path.name for path in file.parent.iterdir())


def rows(store: Any) -> list[tuple[bytes, bytes]]:
    """Everything that a store holds."""
    return store._open_here().engine.read(lambda kv: list(kv.scan(b"\0", b"\xff" * 9)))


def holding(store: Any, *texts: str) -> list[bytes]:
    """Keys of the rows in which one of these stands."""
    return [key for key, value in rows(store) for text in texts if text.encode() in key or text.encode() in value]


async def talk(house: Any) -> None:
    """A key with a named conversation, a thread, a branch of it, and a run that failed."""

    async def fail(*_: Any) -> str:
        raise RuntimeError

    house.target.on["fails"] = fail
    await house.ask("one", "talk", name="r1")
    await house.ask(SECRET, "talk", name="r2", idempotency_key="again")
    await house.ask("side", after="r1", name="b1")
    with pytest.raises(TargetFailed):
        await house.ask("fails", "talk", name="f1")
    await house.runtime.get_continuation(await house.submit("durable", "other", name="d1"), wait=True)


async def goes_on(house: Any, key: str = "ada") -> None:
    """The key of `talk` is as it was, by every name."""
    runtime = house.runtime
    assert await house.ask("three", after="r2", key=key) == f"one {SECRET} three"
    assert await house.ask("more", after="b1", key=key) == "one side more"
    assert (await runtime.get_continuation("d1")).result.text == "durable"
    assert (await runtime.get_continuation("f1")).state == "failed"
    assert house.said(await runtime.get_input("f1")) == ["fails"]
    assert (await runtime.get_continuation("r2", partition="")).isolation_key == key


# -- there and back


async def test_exported_erased_and_imported(autojump_clock: Clock, home: Any, file: Path):
    async with home.open() as runtime:
        await home.ask("theirs", "talk", key="bob")
        await talk(home)
        exported = await runtime.export_actor("ada", file)
        before = await home.records()
        number = home.store._open_here().engine.read(lambda kv: kv.get(b"kada"))
        assert holding(home.store, "ada", SECRET) != []

        assert await runtime.erase_actor("ada")
        assert holding(home.store, "ada", SECRET, "durable", "side") == []
        assert [key for key, value in rows(home.store) if number in (key[1:9], key[9:17], value)] == []
        assert await home.store.keys() == ["bob"]
        with pytest.raises(NotFound):
            await runtime.get_continuation("r2")
        assert not await runtime.erase_actor("ada")

        imported = await runtime.import_actor(file)
        assert imported == exported
        assert (exported.key, exported.runs, exported.letters) == ("ada", 5, 0)
        assert exported.size == len(read(file))
        assert await home.records() == before
        await goes_on(home)
        assert await home.ask("four", "talk") == f"one {SECRET} four"
        assert await home.ask("mine", "talk", key="bob") == "theirs mine"
    async with home.open():
        assert await home.ask("five", "talk") == f"one {SECRET} four five"


async def test_into_another_runtime(autojump_clock: Clock, house: Any, file: Path):
    async with house.open() as runtime:
        await talk(house)
        await runtime.export_actor("ada", file)
    house.renew()
    async with house.open() as runtime:
        await runtime.import_actor(file)
        await goes_on(house)
        assert await house.ask("four", "talk") == f"one {SECRET} four"


async def test_under_another_key(autojump_clock: Clock, house: Any, file: Path):
    async with house.open() as runtime:
        await talk(house)
        await runtime.export_actor("ada", file)
        await runtime.erase_actor("ada")
        told = await runtime.import_actor(file, isolation_key="eve")
        assert told.key == "eve"
        assert await house.store.keys() == ["eve"]
        await goes_on(house, "eve")
        with pytest.raises(NotFound):
            await house.ask("five", after="r2", key="ada")


async def test_what_waits_is_in_the_file_and_runs_where_it_is_imported(autojump_clock: Clock, house: Any, file: Path):
    async with house.open(crash=True) as runtime:
        gate = house.target.hold("first")
        await house.submit("first", "talk", name="d1")
        await house.target.began("first").wait()
        await house.submit("second", "talk", name="d2")
        async with trio.open_nursery() as nursery:
            house.target.hold("second")  # the copy that stays here never runs
            nursery.start_soon(runtime.export_actor, "ada", file)
            await trio.testing.wait_all_tasks_blocked()
            assert beside(file) == []
            gate.set()
        assert house.target.ended == ["first"]
    house.renew()
    async with house.open() as runtime:
        assert (await runtime.import_actor(file)).letters == 1
        run = await runtime.get_continuation("d2", wait=True)
        assert run.result.text == "first second"
        assert (await house.store.claim("ada")).letters == 0


async def test_deliveries_timers_and_aliases_come_along(autojump_clock: Clock, house: Any, file: Path):
    async with house.open() as runtime:
        await house.ask("one", "talk")
        more = Commit(
            deliveries=[NewDelivery("lane", b"dies"), NewDelivery("lane", b"waits", 7.0)],
            timers={"t": 5.0},
            aliases={"ada-elsewhere": True},
        )
        await house.store.commit(await house.store.claim("ada"), more)
        (taken,) = await house.store.due(0.0, 1, 1.0)
        await house.store.settle(taken, Dead("gone"))
        told = await runtime.export_actor("ada-elsewhere", file)
        assert (told.key, told.deliveries) == ("ada", 2)
        await runtime.erase_actor("ada")
        assert await house.store.next_due() is None
        await runtime.import_actor(file)
        assert [(dead.body, dead.reason) for dead in await house.store.dead_letters()] == [(b"dies", "gone")]
        assert await house.store.next_due() == 7.0
        assert [work.timer for work in await house.store.work(6.0)] == [5.0]
        assert (await house.store.claim("ada-elsewhere")).key == "ada"


async def test_deliveries_that_are_due_are_sent_where_they_are_imported(
    autojump_clock: Clock, house: Any, file: Path, monkeypatch: pytest.MonkeyPatch
):
    one_clock(monkeypatch)
    # The clock jumps while a thread writes: however many attempts that makes, the next one is never far.
    often = RetryPolicy(first=1.0, longest=1.0, jitter=0.0, max_attempts=10**9, max_age=10 * 365 * 86_400.0)
    chat = Taker(policy=PushPolicy(retry=often))
    house.channels += [chat]
    chat.always = down()
    async with house.open() as runtime:
        await house.ask("hi", channel="chat", identity=who())
        await runtime.send("ada", "ping")
        await trio.sleep(0.5)
        await runtime.export_actor("ada", file)
        await runtime.erase_actor("ada")
        chat.always = None
        await trio.sleep(1)
        await runtime.import_actor(file)
        imported = trio.current_time()
        while not chat.said():  # noqa: ASYNC110 - there is nothing to wait for but time
            await trio.sleep(0.1)
        assert chat.times()[-1] < imported + 1.5


async def test_a_large_actor_in_bounded_slices(tmp_path: Path, file: Path):
    one, two = MemoryStore(), LmdbStore(tmp_path / "two", sync=False, map_size=1 << 28)
    async with one.open(), two.open():
        claim = await one.claim("big")
        for n in range(40):
            await one.commit(claim, Commit(append=[Append(1, n * 4, [bytes([n]) * 50_000] * 4)], put={f"d{n}": b"x"}))
        assert (await write_actor(one, "big", file)).rows == 160
        unpacker = msgpack.Unpacker(strict_map_key=False)
        unpacker.feed(read(file)[len(MAGIC) :])
        sizes = [len(msgpack.packb(value)) for value in unpacker]
        assert len(sizes) > 7
        assert max(sizes) < 2 << 20
        await read_actor(two, file)
        assert len(await two.read_log(await two.claim("big"), 1, 0, 999)) == 160


# -- others, meanwhile


async def test_what_comes_during_an_export_waits_for_its_end(autojump_clock: Clock, house: Any, file: Path):
    snapped = trio.Event()
    release = trio.Event()

    async with house.open() as runtime:
        await house.ask("one", "talk")
        real = house.store.snapshot

        async def snapshot(*args: Any) -> Any:
            snapped.set()
            await release.wait()
            return await real(*args)

        house.store.snapshot = snapshot
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.export_actor, "ada", file)
            await snapped.wait()
            turn = await house.post("two", "talk")
            nursery.start_soon(partial(house.submit, "three", "other", name="d3"))
            await trio.testing.wait_all_tasks_blocked()
            assert house.target.started == ["one"]
            assert await house.ask("other", key="bob") == "other"
            release.set()
        assert (await turn.outcome()).result.text == "one two"
        assert (await runtime.get_continuation("d3", wait=True)).result.text == "three"
    house.renew()
    async with house.open() as runtime:
        await runtime.import_actor(file)
        assert await house.ask("new", "talk") == "one new"


async def test_a_turn_that_waits_for_another_one_of_its_key_does_not_hold_an_export_up(
    autojump_clock: Clock, house: Any, file: Path
):
    asks = trio.Event()

    async def ask(*_: Any) -> str:
        await asks.wait()
        return await house.ask("inner", "other")

    house.target.on["outer"] = ask
    async with house.open() as runtime:
        outer = await house.post("outer", "talk")
        await house.target.began("outer").wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.export_actor, "ada", file)
            await trio.testing.wait_all_tasks_blocked()
            asks.set()
        assert outer.result.result.text == "inner"
    assert beside(file) == [file.name]


async def test_a_letter_that_others_commit_meanwhile_makes_the_picture_anew(
    autojump_clock: Clock, house: Any, file: Path
):
    async with house.open() as runtime:
        await house.ask("one", "talk")
        real, times = house.store.snapshot, 0

        async def snapshot(claim: Any, after: bytes = b"") -> Any:
            nonlocal times
            found = await real(claim, after)
            times += 1
            if times <= late:
                letter = Commit(put={f"late{times}": b""})
                await house.store.commit(await house.store.claim("eve"), Commit(others=[("ada", letter)]))
            return found

        house.store.snapshot = snapshot
        late = 2
        exported = await runtime.export_actor("ada", file)
        assert (times, exported.documents) == (3, 3)
        late = 9
        before = read(file)
        with pytest.raises(Overloaded) as refused:
            await runtime.export_actor("ada", file)
        assert refused.value.code == "actor_busy"
        assert read(file) == before
        assert beside(file) == [file.name]


async def test_from_inside_a_turn(autojump_clock: Clock, house: Any, file: Path, tmp_path: Path):
    async def operate(*_: Any) -> str:
        runtime = house.runtime
        for call in (
            partial(runtime.export_actor, "ada", file),
            partial(runtime.erase_actor, "ada"),
            partial(runtime.import_actor, tmp_path / "eve.actor", isolation_key="ada"),
        ):
            with pytest.raises(Conflicting) as refused:
                await call()
            assert refused.value.code == "would_deadlock"
        return str(await runtime.erase_actor("bob"))

    house.target.on["operate"] = operate
    async with house.open() as runtime:
        for key in ("eve", "bob"):
            await house.ask("hello", "talk", key=key)
        await runtime.export_actor("eve", tmp_path / "eve.actor")
        assert await house.ask("operate", "talk") == "True"
        assert await house.store.keys() == ["ada", "eve"]


@pytest.mark.parametrize("key", ["", "a\0b", "x" * 2000])
async def test_what_is_no_key(autojump_clock: Clock, house: Any, file: Path, key: str):
    async with house.open() as runtime:
        await house.ask("one")
        await runtime.export_actor("ada", file)
        for call in (
            partial(runtime.export_actor, key, file),
            partial(runtime.erase_actor, key),
            partial(runtime.import_actor, file, isolation_key=key),
        ):
            with pytest.raises(BadRequest) as refused:
                await call()
            assert refused.value.code == "invalid_key"


async def test_nobody_there(autojump_clock: Clock, house: Any, file: Path):
    async with house.open() as runtime:
        with pytest.raises(NotFound):
            await runtime.export_actor("nobody", file)
        assert beside(file) == []
        assert not await runtime.erase_actor("nobody")
        with pytest.raises(FileNotFoundError):
            await runtime.import_actor(file)
        await runtime.drain()
        for call in (partial(runtime.export_actor, "ada", file), partial(runtime.erase_actor, "ada")):
            with pytest.raises(Overloaded):
                await call()


async def test_a_file_cannot_be_written(autojump_clock: Clock, house: Any, tmp_path: Path):
    async with house.open() as runtime:
        await house.ask("one")
        with pytest.raises(OSError):
            await runtime.export_actor("ada", tmp_path / "no-such-folder" / "file")
        (tmp_path / "folder").mkdir()
        with pytest.raises(OSError):
            await runtime.export_actor("ada", tmp_path / "folder")
        assert beside(tmp_path / "folder") == ["folder"]
        assert await house.ask("two") == "one two"


# -- erasing what is busy


async def test_erasing_ends_what_runs_and_what_waits(autojump_clock: Clock, house: Any):
    async with house.open() as runtime:
        await house.ask("old", "talk")
        house.target.hold("runs")
        turns = [await house.post("runs", "talk"), await house.post("waits", "talk")]
        await house.target.began("runs").wait()
        tokens = [await house.submit("durable", "talk"), await house.submit("runs", "more")]
        assert await runtime.erase_actor("ada")
        for turn in turns:
            with pytest.raises(TargetFailed) as ended:
                await turn.outcome()
            assert ended.value.code == "cancelled"
        for token in tokens:
            with pytest.raises(NotFound):
                await runtime.get_continuation(token, wait=True)
        assert await house.store.keys() == []
        assert holding(house.store, "ada", "old", "runs", "durable") == []
        assert house.target.ended.count("durable") == 0
        assert await house.ask("new", "talk") == "new"  # nothing of it is in memory, either
        assert house.actors.restarts == 0


async def test_who_comes_while_it_is_erased_is_refused_and_then_begins_anew(autojump_clock: Clock, house: Any):
    leaves = trio.Event()

    async def linger(*_: Any) -> str:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await leaves.wait()

    house.target.on["lingers"] = linger
    async with house.open() as runtime:
        await house.ask("old", "talk")
        await house.post("lingers", "talk")
        await house.target.began("lingers").wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.erase_actor, "ada")
            await trio.testing.wait_all_tasks_blocked()
            for refused in (house.ask("new", "talk"), house.submit("new", "talk")):
                with pytest.raises(Overloaded) as told:
                    await refused
                assert (told.value.code, told.value.status, told.value.retry_after) == ("being_erased", 503, 1.0)
            leaves.set()
        assert await house.ask("new", "talk") == "new"


async def test_erasing_does_not_wait_for_an_export(autojump_clock: Clock, house: Any, file: Path):
    async with house.open() as runtime:
        await house.ask("old", "talk")
        house.target.hold("runs")
        turn = await house.post("runs", "talk")
        await house.target.began("runs").wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.export_actor, "ada", file)
            await trio.testing.wait_all_tasks_blocked()
            assert await runtime.erase_actor("ada")
        assert turn.ended
        assert await house.store.keys() == []
        assert beside(file) == [file.name]


async def test_a_letter_that_another_key_sends_while_it_is_erased_begins_anew_or_goes_with_it(
    autojump_clock: Clock, house: Any
):
    async def send(*_: Any) -> str:
        return await house.submit("sent", "talk", key="ada", name="sent")

    house.target.on["send"] = send
    async with house.open() as runtime:
        await house.ask("old", "talk")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(house.ask, "send", key="bob"))
            nursery.start_soon(runtime.erase_actor, "ada")
        try:
            assert (await runtime.get_continuation("sent", wait=True)).result.text == "sent"
        except NotFound:
            assert await house.store.keys() == ["bob"]
        assert house.actors.restarts == 0
        assert await house.ask("later", "else") == "later"


async def test_a_key_in_quarantine_can_be_erased_and_leaves_it(autojump_clock: Clock, house: Any):
    async def crash(method: str, key: str) -> None:
        if method == "claim" and key == "ada":
            raise ZeroDivisionError

    async with house.open(max_restarts=1) as runtime:
        await house.ask("old", "talk")
        await trio.sleep(1000)  # it is passivated
        house.store.before = crash
        with pytest.raises(Overloaded):
            await house.ask("more", "talk")
        house.store.before = None
        assert house.actors.quarantined == ("ada",)
        assert await runtime.erase_actor("ada")
        assert house.actors.quarantined == ()
        assert await house.ask("new", "talk") == "new"


async def test_an_erase_that_is_cancelled_leaves_a_key_that_works(autojump_clock: Clock, house: Any):
    async with house.open() as runtime:
        await house.ask("old", "talk")
        claim = await house.store.claim("ada")
        await house.store.commit(claim, Commit(put={f"d{n}": b"x" for n in range(2000)}))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(runtime.erase_actor, "ada")
                while await house.store.keys():
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        assert await house.ask("new", "talk") == "new"
        while await house.store.expire(0.0):
            pass
        assert holding(house.store, "old") == []
        assert await house.ask("newer", "talk") == "new newer"


# -- files that are not as they were written


async def exported(house: Any, file: Path) -> bytes:
    async with house.open() as runtime:
        await talk(house)
        await runtime.export_actor("ada", file)
    house.renew()
    return read(file)


async def refusal(store: Any, file: Path, data: bytes) -> str:
    """The code with which a file is refused; nothing was written but the number of the last actor."""
    write(file, data)
    before = rows(store)
    with pytest.raises(UnusableFile) as refused:
        await read_actor(store, file)
    assert [row for row in rows(store) if row[0] != b"c"] == [row for row in before if row[0] != b"c"]
    assert SECRET not in str(refused.value)
    return refused.value.code


async def test_a_file_that_was_cut_off(house: Any, file: Path):
    data = await exported(house, file)
    async with house.store.open():
        for length in range(len(data)):
            told = await refusal(house.store, file, data[:length])
            assert told == ("not_an_export" if length < len(MAGIC) else "export_damaged")
        assert await refusal(house.store, file, data + b"\0") == "export_damaged"
        write(file, data)
        await read_actor(house.store, file)


async def test_a_file_in_which_a_byte_was_changed(house: Any, file: Path):
    data = await exported(house, file)
    async with house.store.open():
        for at in range(len(data)):
            changed = data[:at] + bytes([data[at] ^ 0x15]) + data[at + 1 :]
            told = await refusal(house.store, file, changed)
            assert told in {"not_an_export", "export_damaged", "export_too_new"}


def written(header: Any, *slices: Any, count: int | None = None) -> bytes:
    """A file with a digest that is right."""
    data = MAGIC + b"".join(map(msgpack.packb, (header, *slices)))
    end = (len(slices) if count is None else count).to_bytes(8, "big")
    return data + msgpack.packb([b"end", end, hashlib.sha256(data).digest()])


HEADER = {"format": 1, "afactors": "0.1.0", "exported_at": 5.0, "key": "ada"}


async def test_a_file_of_a_newer_format_is_refused_by_its_name(house: Any, file: Path):
    async with house.store.open():
        newer = {**HEADER, "format": 2, "afactors": "9.9"}
        assert await refusal(house.store, file, written(newer)) == "export_too_new"
        with pytest.raises(UnusableFile, match=r"newer afactors \('9.9'\) wrote the file, in format 2"):
            await read_actor(house.store, file)
        assert (
            await refusal(house.store, file, MAGIC + msgpack.packb(newer) + b"whatever comes in it") == "export_too_new"
        )


@pytest.mark.parametrize(
    "data",
    [
        written([]),
        written({}),
        written({**HEADER, "format": "1"}),
        written({**HEADER, "key": ""}),
        written({**HEADER, "key": 5}),
        written({**HEADER, "exported_at": "now"}),
        written(HEADER, count=1),
        written(HEADER, 5),
        written(HEADER, {"put": 5}),
        written(HEADER, {"puts": {}}),
        written(HEADER, {5: {}}),
        written(HEADER, {"append": [{"log": 1, "start": 0, "rows": ["text"]}]}),
        written(HEADER, {"put": {"a\0b": b""}}),
        written(HEADER, {"names": {"": b""}}),
        written(HEADER, {"names": {"x" * 999: b""}}),
        written(HEADER, {"aliases": {"": True}}),
        written(HEADER)[:-50] + b"\xc1" * 50,
    ],
)
async def test_a_file_that_says_what_no_file_says(house: Any, file: Path, data: bytes):
    async with house.store.open():
        assert await refusal(house.store, file, data) == "export_damaged"
        assert await house.store.keys() == []


@pytest.mark.parametrize(
    "piece",
    [
        {"others": [["bob", {"put": {"d": b"forged"}}]]},
        {"consume": ["letter"]},
        {"append": [{"log": 1, "start": 5, "rows": [b""]}]},
        {"names": {"n": b""}, "drop_names": ["bobs"]},
    ],
)
async def test_a_file_that_does_more_than_it_may(autojump_clock: Clock, house: Any, file: Path, piece: Any):
    async with house.open() as runtime:
        await house.ask("hello", key="bob", name="bobs")
        before = rows(house.store)
        write(file, written(HEADER, {"put": {"first": b""}}, piece))
        with pytest.raises(HostError):
            await runtime.import_actor(file)
        assert {key for key, _ in rows(house.store)} == {key for key, _ in before}
        assert await house.ask("later", "talk") == "later"


async def test_a_file_of_format_1_is_understood_for_good(tmp_path: Path, file: Path):
    """The bytes of format 1, spelled out: a change here is a new format."""
    write(
        file,
        written(
            HEADER,
            {"put": {"session/talk": b"point"}, "expire_logs": {2**64 - 1: 9.0}, "trim": {2**64 - 1: 3}}
            | {"append": [{"log": 2**64 - 1, "start": 3, "rows": [b"one"]}]},
            {"names": {"r1": b"ref"}, "expire_names": {"r1": 8.0}, "timers": {"t": 7.0}, "aliases": {"a": True}}
            | {"runs": [{"run_id": "run", "body": b"record", "expires_at": 6.0}]}
            | {"letters": [{"message_id": "m", "body": b"letter"}]}
            | {"deliveries": [{"lane": "l", "body": b"out", "due": 5.0, "attempts": 2, "dead": None}]},
        ),
    )
    store = MemoryStore()
    async with store.open():
        await read_actor(store, file)
        piece = await store.snapshot(await store.claim("ada"))
        assert piece.commit == Commit(
            put={"session/talk": b"point"},
            append=[Append(2**64 - 1, 3, [b"one"])],
            trim={2**64 - 1: 3},
            expire_logs={2**64 - 1: 9.0},
            letters=[NewLetter("m", b"letter")],
            names={"r1": b"ref"},
            expire_names={"r1": 8.0},
            runs=piece.commit.runs,
            timers={"t": 7.0},
            deliveries=[NewDelivery("l", b"out", 5.0, 2)],
            aliases={"a": True},
        )
        assert [(run.run_id, run.body, run.expires_at) for run in piece.commit.runs] == [("run", b"record", 6.0)]
        again = tmp_path / "again"
        await write_actor(store, "ada", again)
        values = msgpack.Unpacker(strict_map_key=False)
        values.feed(read(again)[len(MAGIC) :])
        header, slice_, end = values
        assert header.keys() == HEADER.keys()
        assert slice_.keys() == {field for field in Commit.__slots__ if getattr(piece.commit, field)}
        assert end[0] == b"end"


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


async def test_a_file_is_its_owners_alone(autojump_clock: Clock, house: Any, file: Path):
    await exported(house, file)
    assert mode(file) == 0o600


# -- places that are taken


async def test_a_key_in_use_is_left_as_it_is(autojump_clock: Clock, house: Any, file: Path):
    async with house.open() as runtime:
        await talk(house)
        await runtime.export_actor("ada", file)
        await house.ask("theirs", "talk", key="bob")
        before = rows(house.store)
        for key in ("ada", "bob"):
            with pytest.raises(Conflicting) as refused:
                await runtime.import_actor(file, isolation_key=key)
            assert refused.value.code == "key_in_use"
        with pytest.raises(Conflicting) as refused:
            await runtime.import_actor(file, isolation_key="eve")
        assert refused.value.code == "name_taken"
        assert rows(house.store) == before
        await goes_on(house)
        assert await house.ask("new", "talk", key="eve") == "new"


async def test_an_alias_is_no_key_to_import_into(autojump_clock: Clock, house: Any, file: Path):
    async with house.open() as runtime:
        await house.ask("one")
        await runtime.export_actor("ada", file)
        await runtime.erase_actor("ada")
        await house.store.commit(await house.store.claim("bob"), Commit(aliases={"ada": True}))
        with pytest.raises(Conflicting) as refused:
            await runtime.import_actor(file)
        assert refused.value.code == "key_in_use"


# -- cut short


@pytest.mark.parametrize("fault", [StoreFull("no room"), ZeroDivisionError()])
async def test_an_import_that_fails_in_the_middle_leaves_nothing(
    autojump_clock: Clock, house: Any, file: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
):
    monkeypatch.setattr("afactors_store.base.SLICE_BYTES", 500)
    data = await exported(house, file)
    assert data.count(b"append") == 3
    async with house.open() as runtime:
        before = rows(house.store)
        real = house.store.restore

        async def restore(key: str, slices: Any) -> Any:
            async def cut() -> AsyncIterator[Commit]:
                async for commit in slices:
                    yield commit
                    if commit.append:
                        raise fault

            given = cut()
            try:
                return await real(key, given)
            finally:
                await given.aclose()

        house.store.restore = restore
        with pytest.raises(StorageFull if isinstance(fault, StoreFull) else type(fault)):
            await runtime.import_actor(file)
        after = rows(house.store)
        assert {key for key, _ in after} - {key for key, _ in before} <= {b"c"}  # the counters
        assert await house.store.keys() == []
        house.store.restore = real
        await runtime.import_actor(file)
        await goes_on(house)


async def test_a_process_that_dies_in_the_middle_of_an_import(
    autojump_clock: Clock, house: Any, file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("afactors_store.base.SLICE_BYTES", 500)
    await exported(house, file)
    house.build()
    async with house.store.open():
        real = portable._In.slices
        passes = 0

        async def dying(self: Any) -> AsyncIterator[Commit]:
            nonlocal passes
            passes += 1
            async for commit in real(self):
                yield commit
            if passes == 2:
                house.store.crash()  # what is written after this is lost

        monkeypatch.setattr(portable._In, "slices", dying)
        await read_actor(house.store, file)
        monkeypatch.setattr(portable._In, "slices", real)
    async with house.open() as runtime:
        assert not house.store.left_cleanly
        assert holding(house.store, SECRET) != []  # it did get that far
        assert await house.store.keys() == []
        with pytest.raises(NotFound):
            await runtime.get_continuation("r2")
        await runtime.import_actor(file)
        await goes_on(house)
        await trio.sleep(200)  # the sweep
        assert await house.ask("four", "talk") == f"one {SECRET} four"
        await runtime.erase_actor("ada")
        assert holding(house.store, "ada", SECRET) == []


async def test_an_export_that_is_cancelled_leaves_no_file(autojump_clock: Clock, house: Any, file: Path):
    async with house.open() as runtime:
        await house.ask("one", "talk")
        real = house.store.snapshot

        async def snapshot(*_: Any) -> Any:
            assert [Path(name).suffix for name in beside(file)] == [".partial"]
            scope.cancel()
            await trio.lowlevel.checkpoint()

        house.store.snapshot = snapshot
        with trio.CancelScope() as scope:
            await runtime.export_actor("ada", file)
        assert scope.cancelled_caught
        assert beside(file) == []
        house.store.snapshot = real
        assert await house.ask("two", "talk") == "one two"
