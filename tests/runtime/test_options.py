"""Options of the command line and their environment twins."""

import argparse
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afactors.options import (
    BadOption,
    Option,
    boolean,
    check_environment,
    one_of,
    port,
    seconds,
    seconds_or_none,
    size,
)

PORT = Option("listen-port", "a port", 8000, port, "PORT")
SIZE = Option("map-size", "a size", "64G", size)
KEYS = Option("api-key", "keys", metavar="KEY", many=True)
FLAG = Option("json-logs", "a flag", flag=True)
PLAIN = Option("model", "a name")


def parsed(option: Option, *arguments: str) -> Any:
    """What argparse makes of it."""
    parser = argparse.ArgumentParser()
    option.add_to(parser)
    return getattr(parser.parse_args(list(arguments)), option.attribute)


def test_the_twin_is_the_name_in_capitals():
    assert PORT.twin == "AFACTORS_LISTEN_PORT"
    assert PORT.attribute == "listen_port"


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ([], {}, 8000),
        ([], {"AFACTORS_LISTEN_PORT": "81"}, 81),
        ([], {"AFACTORS_LISTEN_PORT": ""}, 8000),
        (["--listen-port", "82"], {"AFACTORS_LISTEN_PORT": "81"}, 82),
        (["--listen-port", "82"], {"AFACTORS_LISTEN_PORT": "nonsense"}, 82),
        (["--listen-port", "0"], {"AFACTORS_LISTEN_PORT": "81"}, 0),
    ],
)
def test_the_command_line_wins_over_the_environment_over_the_default(
    arguments: list[str], environment: dict[str, str], expected: int
):
    assert PORT.value(parsed(PORT, *arguments), environment) == expected


def test_a_default_may_be_written_as_text():
    assert SIZE.value(None, {}) == 64 << 30


def test_without_a_default_there_is_none():
    assert PLAIN.value(None, {}) is None


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ([], {}, ()),
        ([], {"AFACTORS_API_KEY": "a"}, ("a",)),
        ([], {"AFACTORS_API_KEY": "a, b"}, ("a", "b")),
        (["--api-key", "a,b", "--api-key", "c"], {"AFACTORS_API_KEY": "d"}, ("a,b", "c")),
    ],
)
def test_an_option_that_may_be_given_several_times(
    arguments: list[str], environment: dict[str, str], expected: tuple[str, ...]
):
    assert KEYS.value(parsed(KEYS, *arguments), environment) == expected


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ([], {}, False),
        (["--json-logs"], {}, True),
        (["--json-logs"], {"AFACTORS_JSON_LOGS": "no"}, True),
        ([], {"AFACTORS_JSON_LOGS": "Yes"}, True),
        ([], {"AFACTORS_JSON_LOGS": "0"}, False),
    ],
)
def test_a_flag(arguments: list[str], environment: dict[str, str], expected: bool):
    assert FLAG.value(parsed(FLAG, *arguments), environment) is expected


@pytest.mark.parametrize(
    ("option", "given", "environment", "told"),
    [
        (PORT, "http", {}, "--listen-port: 'http' is not a port"),
        (PORT, "", {"AFACTORS_LISTEN_PORT": "81"}, "--listen-port: '' is not a port"),
        (PORT, None, {"AFACTORS_LISTEN_PORT": "70000"}, "AFACTORS_LISTEN_PORT: '70000' is not a port"),
        (FLAG, None, {"AFACTORS_JSON_LOGS": "maybe"}, "AFACTORS_JSON_LOGS: 'maybe' is neither true nor false"),
        (SIZE, "much", {}, "--map-size: 'much' is not a size"),
    ],
)
def test_an_error_names_what_was_wrong_and_where(option: Option, given: Any, environment: dict[str, str], told: str):
    with pytest.raises(BadOption, match=told):
        option.value(given, environment)


def test_the_help_says_the_default_and_the_twin():
    parser = argparse.ArgumentParser()
    for option in (PORT, KEYS, FLAG):
        option.add_to(parser)
    text = " ".join(parser.format_help().split())
    assert "[default 8000; AFACTORS_LISTEN_PORT]" in text
    assert "[AFACTORS_API_KEY]" in text
    assert "[AFACTORS_JSON_LOGS]" in text


# --- values


@pytest.mark.parametrize(("text", "value"), [("1", 1.0), ("0.5", 0.5), ("1e3", 1000.0)])
def test_seconds(text: str, value: float):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "-inf", "five", "", "1s"])
def test_what_is_no_number_of_seconds(text: str):
    with pytest.raises(ValueError, match="is not a number of seconds above 0"):
        seconds(text)


def test_seconds_or_none():
    assert seconds_or_none("0") == 0.0
    assert seconds_or_none(" 0.0 ") == 0.0
    assert seconds_or_none("3") == 3.0
    with pytest.raises(ValueError):
        seconds_or_none("-1")


@pytest.mark.parametrize("text", ["0", "80", "65535"])
def test_ports(text: str):
    assert port(text) == int(text)


@pytest.mark.parametrize("text", ["-1", "65536", "http", "", "8e3", "0x50", "80 80"])
def test_what_is_no_port(text: str):
    with pytest.raises(ValueError, match="is not a port between 0 and 65535"):
        port(text)


@given(st.integers(1, 10**6), st.sampled_from(["", "k", "K", "M", "g", "T"]))
def test_sizes(number: int, suffix: str):
    powers = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
    assert size(f"{number}{suffix}") == number * 1024 ** powers[suffix.upper()]


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "0G",
        "-1M",
        "1.5G",
        "G",
        "64GB",
        " 1M",
        "1 M",
        "٠",
        "",
    ],
)
def test_what_is_no_size(text: str):
    with pytest.raises(ValueError, match="is not a size"):
        size(text)


@pytest.mark.parametrize("text", ["99999999999T", "8388608T", str(sys.maxsize + 1), "9" * 5000])
def test_a_size_beyond_all_addresses(text: str):
    with pytest.raises(ValueError, match="more than a machine has addresses for"):
        size(text)
    assert size(str(sys.maxsize)) == sys.maxsize


@pytest.mark.parametrize("text", ["1", "true", "YES", " on "])
def test_true(text: str):
    assert boolean(text) is True


@pytest.mark.parametrize("text", ["0", "False", "no", "off"])
def test_false(text: str):
    assert boolean(text) is False


def test_one_of_some_words():
    level = one_of("debug", "info")
    assert level("DEBUG") == "debug"
    with pytest.raises(ValueError, match="'loud' is none of debug, info"):
        level("loud")


# --- variables that nothing reads

KNOWN = {"AFACTORS_PORT", "AFACTORS_STATE_DIR"}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("AFACTORS_PROT", "unknown environment variable AFACTORS_PROT; did you mean AFACTORS_PORT?"),
        ("AFACTORS_STATEDIR", "did you mean AFACTORS_STATE_DIR?"),
        ("AFACTORS_", "unknown environment variable AFACTORS_"),
    ],
)
def test_a_variable_that_nothing_reads_is_refused(name: str, told: str):
    with pytest.raises(BadOption, match=told.replace("?", r"\?")):
        check_environment({name: "x"}, KNOWN)


def test_other_variables_are_nobodys_business():
    check_environment({"PATH": "/bin", "AFACTORS_PORT": "x", "afactors_prot": "y", "MY_AFACTORS_X": "z"}, KNOWN)
