"""Stores to test, and the processes that own them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from afactors_store import LmdbStore, MemoryStore, Store

HERE = Path(__file__).parent
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(params=["lmdb", "memory"])
def closed_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of either kind, not open."""
    if request.param == "memory":
        return MemoryStore()
    return LmdbStore(tmp_path / "state", sync=False, map_size=1 << 30)


@pytest.fixture
async def store(closed_store: Store):
    """A store of either kind, open."""
    async with closed_store.open():
        yield closed_store


@pytest.fixture
def start() -> Iterator[Start]:
    """Start one of the programs in `helpers`; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, *args: object, prefix: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
        command = [*prefix, sys.executable, str(HERE / "helpers" / program), *map(str, args)]
        path = str(HERE.parent.parent / "store")
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:  # closes its pipes and reaps it
            process.kill()
