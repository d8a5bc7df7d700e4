"""Row names: their order is the order of what they name, and none is too long for LMDB."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afactors_store import keys
from afactors_store.errors import BadKey

INSTANTS = st.floats(allow_nan=False)


@given(INSTANTS, INSTANTS)
def test_instants_sort_like_numbers(a: float, b: float) -> None:
    assert (keys.instant(a) < keys.instant(b)) == (a < b)
    assert (keys.instant(a) == keys.instant(b)) == (a == b)


@given(INSTANTS)
def test_instants_come_back(a: float) -> None:
    assert keys.to_instant(keys.instant(a)) == a


def test_not_a_number_has_no_place() -> None:
    with pytest.raises(ValueError, match="NaN"):
        keys.instant(math.nan)


@given(st.integers(0, keys.MAX_U64), st.integers(0, keys.MAX_U64))
def test_numbers_sort_and_come_back(a: int, b: int) -> None:
    assert (keys.u64(a) < keys.u64(b)) == (a < b)
    assert keys.to_u64(keys.u64(a)) == a


@pytest.mark.parametrize("length", [1, 480, 481, 1024])
def test_every_row_fits_in_lmdb(length: int) -> None:
    key, name, number = b"k" * length, b"n" * 256, keys.u64(1)
    rows = [
        keys.DIRECTORY + keys.inline(key),
        keys.row(number, keys.ALIAS, keys.inline(key)),
        keys.row(number, keys.LETTER_ID, name),
        keys.expiry_entry(1.0, number, name),
        keys.expiry_entry(1.0, number, keys.EXPIRING_NAME + name),
        keys.expiry_entry(1.0, number, keys.EXPIRING_DEAD + number),
        keys.timer_entry(1.0, number, name),
        keys.lane_prefix(name) + number,
    ]
    assert max(map(len, rows)) <= 511


@given(st.text(min_size=1, max_size=600), st.text(min_size=1, max_size=600))
def test_different_keys_have_different_rows(a: str, b: str) -> None:
    if "\0" not in a + b:
        assert (keys.inline(keys.encode_key(a)) == keys.inline(keys.encode_key(b))) == (a == b)


def test_limits_count_bytes_and_are_named() -> None:
    assert keys.encode_key("é" * 512) == "é".encode() * 512
    with pytest.raises(BadKey, match=r"an isolation key .* 1024 bytes of UTF-8; this one has 1026"):
        keys.encode_key("é" * 513)
    with pytest.raises(BadKey, match=r"a lane .* 256 bytes of UTF-8; this one has 257"):
        keys.encode_name("l" * 257, "a lane")
