"""The control socket: real sockets in a real state folder, so the clock is the real one."""

import json
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from afactors import control
from afactors.control import FILE, LONGEST_PATH
from afactors.deliveries import Deliveries
from afactors.errands import VERSION, Asked
from afactors.remote import Unanswered, Unreachable, remote_answers
from afactors_channels import BadRequest
from afactors_store import Commit, Dead, LmdbStore, NewDelivery

House = Any  # of conftest
SECRET = "my-secret-word"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir()
    return path


@asynccontextmanager
async def serving(house: House, folder: Path, **options: Any) -> AsyncIterator[Any]:
    """The house's runtime over a store in a folder."""
    house.store = LmdbStore(folder, sync=False, map_size=1 << 26)
    async with house.open(**options) as runtime:
        yield runtime


async def say(folder: Path, data: bytes) -> list[Any]:
    """Send bytes; the answers."""
    async with await control.connected(folder) as stream:
        await stream.send_all(data)
        received = b"".join([one async for one in stream])
    return [json.loads(line) for line in received.splitlines()]


async def bury(store: LmdbStore, number: int = 3) -> None:
    dead = [NewDelivery("chat\x1fada\x1f", b"x", dead=Dead("rejected")) for _ in range(number)]
    await store.commit(await store.claim("ada"), Commit(deliveries=dead))


async def test_it_is_its_owners_alone_and_gone_afterwards(house: House, folder: Path) -> None:
    old = os.umask(0)
    try:
        async with serving(house, folder):
            status = (folder / FILE).lstat()
            assert stat.S_ISSOCK(status.st_mode)
            assert stat.S_IMODE(status.st_mode) == 0o600
    finally:
        os.umask(old)
    assert not (folder / FILE).exists()


async def test_what_the_server_does_is_done(house: House, folder: Path) -> None:
    async with serving(house, folder) as runtime:
        await bury(runtime.store, 150)

        async def answers(**asked: Any) -> list[Any]:
            return [one async for one in remote_answers(folder, Asked(**asked))]

        *listed, done = await answers(do="deliveries.list")
        assert (len(listed), done) == (150, {"done": {"listed": 150, "more": False}})
        *listed, done = await answers(do="deliveries.list", limit=120)
        assert (len(listed), done) == (120, {"done": {"listed": 120, "more": True}})
        number = str(listed[0]["delivery"]["number"])
        shown, done = await answers(do="deliveries.show", ids=[number])
        assert (shown["delivery"], done) == (listed[0]["delivery"], {"done": {}})
        assert await answers(do="deliveries.purge", ids=[number]) == [{"done": {"purged": 1}}]
        assert await answers(do="deliveries.replay", reason="rejected") == [{"done": {"replayed": 149, "left": 0}}]
        assert await answers(do="deliveries.statistics") == [{"done": {"pending": 149, "dead": 0, "outlets": []}}]
        (error,) = await answers(do="deliveries.show", ids=["nobody"])
        assert error["error"]["code"] == "delivery_not_found"
        (error,) = await answers(do="deliveries.purge")
        assert error["error"] == {"code": "invalid_request", "message": "Say which: ids; or a filter, or all=true."}
        assert await answers(do="deliveries.purge", channel="\ud800") == [{"done": {"purged": 0}}]


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"nonsense\n",
        b"[]\n",
        b"{}\n",
        b'{"do": "runtime.stop"}\n',
        b'{"do": "deliveries.list", "v": 2}\n',
        b'{"do": "deliveries.purge", "all": true, "newer_filter": 1}\n',
        b'{"do": "deliveries.list", "limit": "x"}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b"x" * (1024 * 1024 + 1),
    ],
    ids=lambda data: data[:20],
)
async def test_what_it_does_not_know_is_refused(house: House, folder: Path, data: bytes) -> None:
    async with serving(house, folder) as runtime:
        await bury(runtime.store)
        (answer,) = await say(folder, data)
        assert answer["error"]["code"] == "unknown_request"
        assert runtime.store.statistics().dead == 3
        assert (await say(folder, Asked("deliveries.statistics").encode()))[0]["done"]["dead"] == 3


def test_a_request_comes_as_it_was_sent() -> None:
    asked = Asked("deliveries.purge", ids=("a", "b"), channel="ö\ud800", older_than=1.5)
    assert Asked.decode(asked.encode()) == Asked("deliveries.purge", ids=["a", "b"], channel="ö\ud800", older_than=1.5)
    assert json.loads(asked.encode())["v"] == VERSION
    assert asked.encode().count(b"\n") == 1
    with pytest.raises(BadRequest):
        Asked.decode(b'{"do": "deliveries.list", "v": 99}')


async def test_a_dead_ones_socket_is_replaced(house: House, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(os.fspath(folder / FILE))
    async with serving(house, folder):
        assert await say(folder, Asked("deliveries.list").encode()) == [{"done": {"listed": 0, "more": False}}]


async def test_a_file_of_its_name_is_left_alone(house: House, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / FILE).write_text("precious")
    async with serving(house, folder):
        assert "something that is no socket has its name" in caplog.text
    assert (folder / FILE).read_text() == "precious"


async def test_a_path_that_is_too_long(house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    left = LONGEST_PATH - len(os.fsencode(tmp_path)) - len(FILE) - 2
    async with serving(house, tmp_path / ("x" * left)):
        assert (tmp_path / ("x" * left) / FILE).exists()
    async with serving(house, tmp_path / ("x" * (left + 1))):
        assert not (tmp_path / ("x" * (left + 1)) / FILE).exists()
        assert await house.ask("hello") == "hello"
    (record,) = [one for one in caplog.records if one.name == "afactors.control" and one.levelno >= logging.WARNING]
    assert "longer than the 107 bytes" in record.getMessage()


async def test_it_can_be_switched_off(house: House, folder: Path) -> None:
    async with serving(house, folder, control=False):
        assert not (folder / FILE).exists()
        with pytest.raises(Unreachable):
            await anext(remote_answers(folder, Asked("deliveries.list")))


async def test_nobody_elses(house: House, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(house, folder):
        real = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: real + 1)
        monkeypatch.setattr(control, "_ROOT", real + 2)
        assert await say(folder, b"") == []


async def test_a_failure_is_the_commands_alone(
    house: House, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_args: Any, **_more: Any) -> None:
        raise RuntimeError(SECRET)

    async with serving(house, folder):
        monkeypatch.setattr(Deliveries, "show", fail)
        (answer,) = await say(folder, Asked("deliveries.show", ids=["x"]).encode())
        assert answer["error"]["code"] == "internal_error"
        assert SECRET not in str(answer)
        assert "a command failed" in caplog.text
        assert await house.ask("hello") == "hello"


async def test_who_says_nothing_is_let_go(house: House, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_PATIENCE", 0.05)
    async with serving(house, folder):
        assert await say(folder, b'{"do": ') == []
        assert len(await say(folder, Asked("deliveries.list").encode())) == 1


async def test_who_leaves_in_the_middle_is_no_trouble(house: House, folder: Path) -> None:
    async with serving(house, folder) as runtime:
        await bury(runtime.store, 3000)
        for _ in range(3):
            async with await control.connected(folder) as stream:
                await stream.send_all(Asked("deliveries.list").encode())
                await stream.receive_some(10)
        assert await house.ask("hello") == "hello"


async def test_a_server_that_leaves_in_the_middle_is_told(
    house: House, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = trio.Event()

    async def wait(*_args: Any, **_more: Any) -> int:
        stuck.set()
        await trio.sleep_forever()
        return 0

    monkeypatch.setattr(Deliveries, "purge", wait)
    async with trio.open_nursery() as nursery, serving(house, folder):

        async def ask() -> None:
            with pytest.raises(Unanswered):
                [one async for one in remote_answers(folder, Asked("deliveries.purge", all=True))]

        nursery.start_soon(ask)
        await stuck.wait()


async def test_more_than_can_be_said_at_once(house: House, folder: Path) -> None:
    async with serving(house, folder):
        with pytest.raises(Unanswered, match="in parts"):
            await anext(remote_answers(folder, Asked("deliveries.purge", ids=["x" * 32] * 40_000)))


async def test_a_store_in_memory_has_none(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with house.open():
        assert os.listdir(tmp_path) == []


async def test_it_is_removed_from_where_it_was_made(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with serving(house, Path("state")):
        assert (tmp_path / "state" / FILE).exists()
        (tmp_path / "else").mkdir()
        monkeypatch.chdir(tmp_path / "else")
    assert not (tmp_path / "state" / FILE).exists()
