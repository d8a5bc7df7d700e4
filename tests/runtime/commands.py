"""What the tests of the commands over a folder share: how one is given, how it ended, and the store in the folder."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from afactors.cli import main
from afactors_store import LmdbStore


class Ended:
    """A command that has ended."""

    def __init__(self, code: int, captured: Any) -> None:
        self.code, self.out, self.err = code, captured.out, captured.err

    def one_line(self, code: int) -> str:
        """What it said of an error."""
        assert (self.code, self.out) == (code, "")
        assert self.err.startswith("afactors: ")
        assert self.err.count("\n") == 1
        return self.err.removeprefix("afactors: ")

    @property
    def rows(self) -> list[Any]:
        """What it said as JSON."""
        assert (self.code, self.err) == (0, "")
        return [json.loads(line) for line in self.out.splitlines()]


def commanding(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ended]:
    """A command as somebody gives it who is no terminal."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)

    def given(*arguments: object, state: Path = folder, **environment: str) -> Ended:
        all_of_it = {"AFACTORS_STATE_DIR": str(state), "AFACTORS_MAP_SIZE": "256M", **environment}
        return Ended(main([command, *map(str, arguments)], all_of_it), capsys.readouterr())

    return given


def with_store(path: Path, work: Callable[[LmdbStore], Any]) -> Any:
    """Open the store in a folder for a while."""

    async def opened() -> Any:
        store = LmdbStore(path, sync=False, map_size=1 << 28)
        async with store.open():
            return await work(store)

    return trio.run(opened)


def is_told_of_a_folder_into_which_nobody_can_look(
    given: Callable[..., Ended], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is too long, or this user has no right to it (here root would have)."""
    assert "File name too long; " in given("list", state=folder / ("x" * 300)).one_line(1)

    def stat(*_args: Any, **_more: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", stat)
        told = given("list").one_line(1)
    assert f"'{folder}': Permission denied; " in told
    assert "--state-dir" in told
