"""Records: what is written comes back, what is newer is refused, what is older is upgraded."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afactors_store import records
from afactors_store.errors import FormatTooNew, StoreBroken

DEAD = records.StoredDeadLetter("id", b"l", b"b", 3, "r", "e", 1.5, 2.5)
KINDS = [
    (records.encode_meta, records.decode_meta, records.Meta(1, b"i" * 16, b"s" * 32, 1.5)),
    (records.encode_head, records.decode_head, records.Head(b"k", 1, 2, b"i", 3, 4)),
    (records.encode_head, records.decode_head, records.Head(b"k", 1, 2, b"i", 3, 4, True)),
    (records.encode_name, records.decode_name, records.NameRecord(b"o", b"v")),
    (records.encode_alias, records.decode_alias, records.AliasRecord(b"k", b"t")),
    (records.encode_run, records.decode_run, records.StoredRun(b"b", None)),
    (records.encode_run, records.decode_run, records.StoredRun(b"b", 2.5)),
    (records.encode_delivery, records.decode_delivery, records.StoredDelivery("id", b"l", b"b")),
    (records.encode_delivery, records.decode_delivery, records.StoredDelivery("id", b"l", b"b", 1.5, 2, True)),
    (records.encode_attempt, records.decode_attempt, records.Attempt(1.0, 2, 3.0, True, True, 4)),
    (records.encode_dead_letter, records.decode_dead_letter, records.StoredDeadLetter("id", b"l", b"b", 3, "r")),
    (records.encode_dead_letter, records.decode_dead_letter, DEAD),
]


@pytest.mark.parametrize(("encode", "decode", "record"), KINDS)
def test_every_kind_comes_back_and_a_newer_one_is_refused(encode, decode, record) -> None:
    raw = encode(record)
    assert decode(raw) == record
    plain = msgpack.unpackb(raw)
    version = records.VERSION + 1
    newer = {**plain, "v": version} if isinstance(plain, dict) else [version, *plain[1:]]
    with pytest.raises(FormatTooNew):
        decode(msgpack.packb(newer))
    with pytest.raises(StoreBroken):
        decode(raw[:-1])


def test_an_older_record_is_upgraded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(records.UPGRADES, ("name", 0), lambda old: {"v": 1, "o": old["owner"], "b": b""})
    assert records.decode_name(msgpack.packb({"v": 0, "owner": b"x"})) == records.NameRecord(b"x", b"")


def test_records_from_before_something_was_noted_are_read_without_it() -> None:
    delivery = msgpack.packb({"v": 1, "id": "id", "l": b"l", "b": b"b"})
    assert records.decode_delivery(delivery) == records.StoredDelivery("id", b"l", b"b")
    assert records.decode_attempt(msgpack.packb([1, 1.0, 2, 3.0, True])) == records.Attempt(1.0, 2, 3.0, True)
    dead = msgpack.packb({"v": 1, "id": "id", "l": b"l", "b": b"b", "n": 3, "r": "r"})
    assert records.decode_dead_letter(dead) == records.StoredDeadLetter("id", b"l", b"b", 3, "r")
    counters = records.encode_counters(records.Counters(4, 5, 6))[:24]
    assert records.decode_counters(counters) == records.Counters(4, 5, 6)
    assert records.lacks_counters(counters)
    assert not records.lacks_counters(None)


@given(st.integers(0, 2**40), st.lists(st.binary(max_size=40), max_size=1500))
def test_rows_come_back_in_bounded_values(start: int, rows: list[bytes]) -> None:
    values = records.encode_rows(start, rows)
    back: list[bytes] = []
    for at, raw in values:
        assert at == start + len(back)
        assert records.count_rows(raw) == len(records.decode_rows(raw)) <= records.CHUNK_ROWS
        back += records.decode_rows(raw)
    assert back == rows


def test_values_are_bounded_in_bytes_and_a_larger_row_stands_alone() -> None:
    rows = [b"x" * 50_000] * 5 + [b"y" * 300_000] + [b"z"]
    values = records.encode_rows(0, rows)
    assert [start for start, _ in values] == [0, 2, 4, 5, 6]
    assert [row for _, raw in values for row in records.decode_rows(raw)] == rows


def test_a_long_conversation_stays_near_the_bytes_of_its_messages() -> None:
    turns = [[b"u" * 120, b"a" * 600] for _ in range(1000)]
    stored = sum(len(raw) for n, rows in enumerate(turns) for _, raw in records.encode_rows(2 * n, rows))
    assert stored < 1.02 * sum(len(row) for rows in turns for row in rows)
