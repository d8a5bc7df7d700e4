"""API keys and the partitions that they stand for."""

import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afactors_channels.credentials import Credentials
from afactors_channels.errors import NotAllowed

ascii_keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


@pytest.mark.parametrize("header", [None, "", "Bearer x", "nonsense"])
def test_without_keys_everybody_may_call(header: str | None):
    for credentials in (Credentials(), Credentials({})):
        assert credentials.check(header) == ""
        assert not credentials.required


def test_a_named_key_stands_for_its_name():
    credentials = Credentials({"acme": "key-1", "mill": "key-2"})
    assert credentials.check("Bearer key-1") == "acme"
    assert credentials.check("Bearer key-2") == "mill"
    assert credentials.required


def test_a_named_key_can_be_exchanged():
    assert Credentials({"acme": "old"}).check("Bearer old") == Credentials({"acme": "new"}).check("Bearer new")


@given(ascii_keys, ascii_keys)
def test_an_unnamed_key_stands_for_a_digest_of_its_own(one: str, other: str):
    partition = Credentials([one]).check(f"Bearer {one}")
    assert partition == Credentials([other, one]).check(f"Bearer {one}"), "it does not depend on its neighbours"
    assert (partition == Credentials([other]).check(f"Bearer {other}")) is (one == other)
    assert len(partition) == 32
    assert ":" not in partition, "it is a prefix of keys, which ends with a colon"


def test_a_partition_does_not_tell_the_key():
    partition = Credentials(["sk-secret"]).check("Bearer sk-secret")
    assert "secret" not in partition
    assert "sk-secret" not in repr(vars(Credentials(["sk-secret"])))


@pytest.mark.parametrize("header", ["bearer key-1", "BEARER key-1", "Bearer  key-1", "Bearer key-1 "])
def test_the_scheme_is_read_as_http_says(header: str):
    assert Credentials({"acme": "key-1"}).check(header) == "acme"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "key-1",
        "Basic key-1",
        "Bearer key-",
        "Bearer key-11",
        "Bearer KEY-1",
        "Bearer key-1, Bearer key-1",
        "Bearer k\xe9y",
        "Bearer \u20ac",
    ],
)
def test_whoever_has_none_of_the_keys_is_refused(header: str | None):
    with pytest.raises(NotAllowed) as error:
        Credentials(["key-1", "key-2"]).check(header)
    assert (error.value.status, error.value.code) == (401, "invalid_api_key")
    assert "key-1" not in str(error.value)


@given(st.lists(ascii_keys, min_size=1, max_size=5, unique=True), ascii_keys)
def test_only_the_keys_themselves_open(keys: list[str], presented: str):
    credentials = Credentials(keys)
    if presented in keys:
        assert credentials.check(f"Bearer {presented}")
    else:
        with pytest.raises(NotAllowed):
            credentials.check(f"Bearer {presented}")


def test_every_key_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch):
    compared = 0
    original = hmac.compare_digest

    def compare(one: Any, other: Any) -> bool:
        nonlocal compared
        compared += 1
        return original(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    credentials = Credentials({name: f"key-{name}" for name in "abcde"})
    for presented in ("key-a", "key-e"):
        compared = 0
        credentials.check(f"Bearer {presented}")
        assert compared == 5
    compared = 0
    with pytest.raises(NotAllowed):
        credentials.check("Bearer nothing")
    assert compared == 5


@pytest.mark.parametrize("key", ["", "ключ", "with\nnewline", "tab\t", "\ud800", "nul\0"])
def test_a_key_that_no_header_can_carry_is_refused(key: str):
    with pytest.raises(ValueError, match="printable ASCII"):
        Credentials([key])
    with pytest.raises(ValueError, match="printable ASCII"):
        Credentials({"name": key})


@pytest.mark.parametrize("name", ["", "a:b", "a~b", "a b", "x" * 65, "é", "a\0"])
def test_a_name_that_no_partition_can_have_is_refused(name: str):
    with pytest.raises(ValueError, match="name of an API key"):
        Credentials({name: "key"})


def test_one_string_is_not_a_sequence_of_keys():
    with pytest.raises(ValueError, match="not one string"):
        Credentials("key-1")
