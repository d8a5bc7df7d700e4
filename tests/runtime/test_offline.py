"""The command line's `actors`: single actors in a state folder that nobody serves."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trio

from afactors import offline
from afactors.cli import main
from afactors.offline import ACTORS_OPTIONS
from afactors.options import BadOption
from afactors_store import Append, Commit, LmdbStore, NewLetter
from tests.runtime.commands import Ended, commanding, is_told_of_a_folder_into_which_nobody_can_look, with_store

SECRET = "my-secret-word"
ODD = "odd \x1b[31m\u202e 'ключ' \"\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state folder with two actors."""
    path = tmp_path / "state"

    async def fill(store: LmdbStore) -> None:
        for key in ("ada", ODD):
            state = Commit(
                put={"session/talk": b"point"},
                append=[Append(1, 0, [SECRET.encode()])],
                letters=[NewLetter("m", b"waits")],
                names={f"name of {key}": b"x"},
            )
            await store.commit(await store.claim(key), state)

    with_store(path, fill)
    return path


def rows(path: Path) -> bytes:
    """All rows of a folder's store, in one."""

    async def scan(store: LmdbStore) -> bytes:
        return store._open_here().engine.read(lambda kv: b"".join(b"".join(row) for row in kv.scan(b"\0", b"\xff" * 9)))

    return with_store(path, scan)


@pytest.fixture
def actors(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    return commanding("actors", folder, capsys, monkeypatch)


def test_keys_are_listed_in_quotes(actors: Any) -> None:
    told = actors("list")
    assert told.code == 0
    assert told.out.isascii()
    assert list(map(json.loads, told.out.splitlines())) == ["ada", ODD]
    told = actors("list", "--json")
    assert [json.loads(line) for line in told.out.splitlines()] == [{"key": "ada"}, {"key": ODD}]
    assert actors("list", AFACTORS_JSON="1").out == told.out


@pytest.mark.parametrize("key", ["ada", ODD])
def test_there_and_back(actors: Any, folder: Path, tmp_path: Path, key: str) -> None:
    file, other = tmp_path / "one.actor", tmp_path / "other"
    told = actors("export", key, file)
    assert told.code == 0
    assert told.out.startswith(
        f"exported {offline.shown(key)} to {file}: 1 rows of 1 documents, 0 runs, 1 waiting letters"
    )
    assert json.loads(actors("export", key, file, "--json").out)["key"] == key
    assert actors("erase", key, "--yes").out == f"erased {offline.shown(key)}\n"
    assert key.encode() not in rows(folder)
    assert SECRET.encode() in rows(folder)  # the other one's
    for state in (folder, other):
        told = actors("import", file, "--json", state=state)
        assert json.loads(told.out) == {
            "event": "imported",
            "key": key,
            "exported_at": pytest.approx(json.loads(told.out)["exported_at"]),
            "documents": 1,
            "rows": 1,
            "names": 1,
            "runs": 0,
            "letters": 1,
            "deliveries": 0,
            "size": file.stat().st_size,
            "file": str(file),
        }
        assert key.encode() in rows(state)


def test_nothing_is_left_of_the_last_one(actors: Any, folder: Path) -> None:
    actors("erase", "ada", "--yes")
    actors("erase", ODD, "--yes")
    left = rows(folder)
    for text in (SECRET, "ada", "odd", "session", "waits"):
        assert text.encode() not in left


def test_under_another_key(actors: Any, tmp_path: Path) -> None:
    file = tmp_path / "one.actor"
    actors("export", "ada", file)
    assert "(name_taken)" in actors("import", file, "--key", "bob").one_line(1)
    actors("erase", "ada", "--yes")
    assert actors("import", file, "--key", "bob").out.startswith('imported "bob" from ')
    assert json.loads(actors("list").out.splitlines()[0]) == "bob"


def test_what_cannot_be_done_is_told_in_one_line(actors: Any, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "one.actor"
    assert "no state in" in actors("list", state=tmp_path / "nowhere").one_line(1)
    assert not (tmp_path / "nowhere").exists()
    assert "(actor_not_found)" in actors("export", "nobody", file).one_line(1)
    assert "(invalid_key)" in actors("export", "", file).one_line(1)
    assert "(invalid_key)" in actors("erase", "", "--yes").one_line(1)
    assert actors("export", "ada", tmp_path / "no" / "file").one_line(1) == (
        f"{tmp_path / 'no' / 'file'}: No such file or directory\n"
    )
    assert "No such file" in actors("import", file, state=tmp_path / "nowhere").one_line(1)
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "pipe")
    for name in ("", "/", "pipe", "link"):
        told = actors("export", "ada", tmp_path / name if name else "").one_line(1)
        assert "something that is no regular file has this name" in told
    for name in ("", "/", "pipe"):
        assert "this is no regular file" in actors("import", tmp_path / name if name else "").one_line(1)
    assert 'no actor "nobody"' in actors("erase", "nobody", "--yes").one_line(1)
    actors("export", "ada", file)
    assert "(key_in_use)" in actors("import", file).one_line(1)
    file.write_bytes(file.read_bytes()[:-1])
    assert "(export_damaged)" in actors("import", file).one_line(1)


def test_a_folder_into_which_nobody_can_look(actors: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_told_of_a_folder_into_which_nobody_can_look(actors, folder, monkeypatch)


def test_to_erase_wants_somebody_who_is_sure(actors: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--yes" in actors("erase", "ada").one_line(2)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    asked: list[str] = []
    for answer, code in (("", 1), ("n", 1), ("yes", 0)):
        monkeypatch.setattr("builtins.input", lambda text, answer=answer: asked.append(text) or answer)
        assert b"kada" in rows(folder)
        assert actors("erase", "ada").code == code
    assert b"ada" not in rows(folder)
    assert asked == ['Erase everything of "ada"? It cannot be undone. [y/N] '] * 3


def test_a_folder_that_is_served_is_left_alone(actors: Any, folder: Path, tmp_path: Path) -> None:
    program = (
        "import sys, trio\nfrom afactors_store import LmdbStore\n"
        "async def hold():\n"
        "    async with LmdbStore(sys.argv[1]).open():\n"
        "        print('open', flush=True)\n"
        "        await trio.to_thread.run_sync(sys.stdin.read)\n"
        "trio.run(hold)\n"
    )
    house = Path(__file__).parents[2]
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(house / "store")},
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"open\n"
        for what in (["list"], ["erase", "ada", "--yes"], ["export", "ada", tmp_path / "file"]):
            told = actors(*what).one_line(1)
            assert f"is owned by process {owner.pid}; stop that server first" in told
            assert "Runtime.export_actor" in told
        assert owner.stdin is not None
        owner.stdin.close()
    assert actors("list").code == 0


@pytest.mark.parametrize("arguments", [[], ["lst"], ["export", "ada"], ["erase"], ["import"], ["list", "--port", "1"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["actors", *arguments], {})
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("afactors: ")
    assert told.count("\n") == 1


def test_every_option_has_a_twin_and_a_default() -> None:
    assert [option.twin for option in ACTORS_OPTIONS] == ["AFACTORS_STATE_DIR", "AFACTORS_MAP_SIZE", "AFACTORS_JSON"]
    assert [option.value(None, {}) for option in ACTORS_OPTIONS] == [".afactors", 64 << 30, False]
    with pytest.raises(BadOption):
        ACTORS_OPTIONS[1].value("huge", {})


async def test_a_sweep_finishes_what_was_cut_short(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, sync=False, map_size=1 << 28)
    async with store.open():
        with trio.CancelScope() as scope:

            async def cut() -> Any:
                yield Commit(put={"d": SECRET.encode()})
                scope.cancel()
                await trio.lowlevel.checkpoint()

            async with aclosing(cut()) as slices:
                await store.restore("ada", slices)
        await offline._sweep(store)
        left = store._open_here().engine.read(lambda kv: list(kv.scan(b"n", b"\xff")))
        assert left == []
