"""Records made smaller are the same records again."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afactors.encoding import NotStorable, pack, unpack
from afactors.history import Point
from afactors.runs import Record, Reference
from afactors.squeezing import squeezed, whole

HEX = st.text("0123456789abcdef", min_size=20, max_size=60)
TEXTS = st.text(max_size=40) | st.builds("{}{}".format, st.text(max_size=40), HEX)
VALUES: st.SearchStrategy[Any] = st.recursive(
    TEXTS | st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none() | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_packed_short_is_read_as_it_was(value: Any):
    packed = squeezed(pack(value, "test", short_ids=True))
    assert unpack(whole(packed)) == value
    assert len(packed) <= len(pack(value, "test"))


@given(st.binary(max_size=300).filter(lambda data: data[:1] != b"\xc1"))
def test_any_packed_record_is_made_smaller_or_left_alone(record: bytes):
    assert whole(squeezed(record)) == record
    assert len(squeezed(record)) <= len(record)


def test_a_short_id_beside_an_integer_that_msgpack_has_no_form_for():
    value = {"id": "resp_" + "ab" * 24, "n": [10**30]}
    assert unpack(pack(value, "test", short_ids=True)) == value


@pytest.mark.parametrize(
    "text", ["", "ab" * 11, "AB" * 24, "ab" * 11 + "a", "x" * 120 + "ab" * 24, "a\0" + "ab" * 24, "ab" * 24 + "\n"]
)
def test_other_strings_are_left_alone(text: str):
    assert pack(text, "test", short_ids=True) == pack(text, "test")


def test_what_was_written_before_is_still_read():
    record = {"v": 1, "st": "completed", "ch": "test", "c": 1.0, "s": "s", "n": "resp_1"}
    assert Record.decode(pack(record, "run")).token == "resp_1"
    point = Point("s", head="resp_1", pinned=True, tails={"in_memory": 5}, turns=3)
    old = Reference.decode(pack({"v": 1, "r": "run_1", "p": point.encode()}, "name"))
    assert old.reached("resp_1") == point
    assert Reference.decode(point.encode()).reached("resp_1") == point


def test_a_names_value_leaves_out_what_every_name_has():
    name = f"resp_{secrets.token_hex(24)}"
    session = f"thread::conv_{secrets.token_hex(24)}"
    extents = {"in_memory": [(secrets.randbits(64), 0, 2000)]}
    point = Point(session, histories=extents, tails={"in_memory": 7}, head=name, pinned=True, turns=1000, created=1)
    value = Reference(f"run_{secrets.token_hex(12)}", point=point.encode_for_name()).encode()
    found = Reference.decode(value).reached(name)
    assert found == Point(session, histories=extents, head=name, pinned=True, turns=1000, created=1)
    assert len(value) < 110


@pytest.mark.parametrize("depth", [600, 900, 3000])
def test_what_is_nested_too_deeply_is_refused(depth: int):
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    with pytest.raises(NotStorable, match="test holds a value"):
        pack({"a": value}, "test", short_ids=True)
