"""The two engines' transactions behave alike."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import lmdb
import pytest

from afactors_store.kv import Transaction, delete_range, take
from afactors_store.lmdb_store import LmdbEngine
from afactors_store.memory import MemoryEngine

Begin = Callable[[], AbstractContextManager[Transaction]]


@pytest.fixture(params=["lmdb", "memory"])
def begin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Begin]:
    if request.param == "memory":
        yield MemoryEngine().transaction
        return
    with lmdb.Environment(os.fspath(tmp_path), sync=False) as env:
        yield LmdbEngine(env).transaction


def rows(begin: Begin) -> list[tuple[bytes, bytes]]:
    with begin() as txn:
        return list(txn.scan(b"\0", b"\xff"))


def test_scan_is_half_open_in_both_directions(begin: Begin) -> None:
    with begin() as txn:
        for key in (b"c", b"a", b"d", b"b"):
            txn.put(key, key.upper())
        assert list(txn.scan(b"a", b"c")) == [(b"a", b"A"), (b"b", b"B")]
        assert list(txn.scan(b"b", b"d", reverse=True)) == [(b"c", b"C"), (b"b", b"B")]
        assert next(txn.scan(b"aa", b"zz", reverse=True)) == (b"d", b"D")
        for nothing in ((b"e", b"z"), (b"c", b"c"), (b"d", b"a"), (b"0", b"1")):
            assert list(txn.scan(*nothing)) == list(txn.scan(*nothing, reverse=True)) == []


def test_what_raises_is_undone(begin: Begin) -> None:
    with begin() as txn:
        txn.put(b"a", b"1")
        txn.put(b"b", b"2")
    with pytest.raises(ZeroDivisionError), begin() as txn:  # noqa: PT012 - the block's end is what is tested
        txn.put(b"a", b"changed")
        txn.put(b"a", b"twice")
        assert txn.delete(b"b")
        assert not txn.delete(b"c")
        txn.put(b"c", b"new")
        assert txn.writes == 5
        raise ZeroDivisionError
    assert rows(begin) == [(b"a", b"1"), (b"b", b"2")]


def test_delete_range_and_take(begin: Begin) -> None:
    with begin() as txn:
        for n in range(10):
            txn.put(b"%d" % n, bytes(100))
        assert delete_range(txn, b"3", b"5") == 2
        assert len(take(txn.scan(b"0", b":"), 100, 10**6)[0]) == 8
        assert take(txn.scan(b"0", b":"), 0, 10**6) == ([], False)
        some, cut = take(txn.scan(b"0", b":"), 100, 200)
        assert ([key for key, _ in some], cut) == ([b"0", b"1"], True)
        some, cut = take(txn.scan(b"0", b":"), 1, 1)
        assert (len(some), cut) == (1, False)
