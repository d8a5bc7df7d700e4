"""Texts in UTF-16 units: splitting loses nothing, and cuts nothing that belongs together."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from afactors_channels.telegram.texts import clean, cut_off, span, split_text, units, without

FAMILY = "👩‍👩‍👧‍👦"
FLAG = "🇩🇪"
PIECES = st.sampled_from(
    [
        "a",
        "word ",
        "Sentence. ",
        "\n",
        "\n\n",
        "  ",
        "😀",
        FAMILY,
        FLAG,
        "e\u0301",
        "👍🏽",
        "```",
        "\r\n",
        "ü",
        "字",
        "。",
        "\t",
    ]
)
TEXTS = st.lists(PIECES, max_size=80).map("".join) | st.text(max_size=200).map(clean)


def solid(text: str) -> str:
    return "".join(text.split())


@settings(deadline=None)
@given(TEXTS, st.integers(12, 60))
@example("a" * 30, 12)
@example(" \u0301" * 20, 12)
def test_parts_fit_and_hold_everything_once(text: str, limit: int):
    parts = split_text(text, limit)
    assert all(0 < units(part) <= limit and part.strip() for part in parts)
    assert solid("".join(parts)) == solid(text)
    place = 0
    for part in parts:
        found = text.index(part, place)
        assert not text[place:found].strip()
        place = found + len(part)
    assert not text[place:].strip()


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([FAMILY, FLAG, "👍🏽", "e\u0301", "😀", "x"]), min_size=1, max_size=60),
    st.integers(12, 40),
)
def test_no_part_begins_or_ends_inside_a_character(characters: list[str], limit: int):
    parts = split_text("".join(characters), limit)
    rest = list(characters)
    for part in parts:
        taken = ""
        while taken != part:
            assert part.startswith(taken)
            taken += rest.pop(0)
    assert rest == []


def test_a_character_longer_than_a_message_is_cut_between_code_points():
    text = "e" + "\u0301" * 100
    parts = split_text(text, 20)
    assert "".join(parts) == text
    assert all(units(part) <= 20 for part in parts)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("one one one.\n\ntwo two two. three\nfour", "one one one."),
        ("one one one\ntwo two. two three four five", "one one one"),
        ("one one. two two three four five six", "one one."),
        ("one two three four five six seven", "one two three four"),
        ("o" * 40, "o" * 20),
    ],
)
def test_the_best_boundary_wins(text: str, first: str):
    assert split_text(text, 20)[0] == first


def test_a_boundary_too_early_does_not_win():
    assert split_text("a\n\n" + "word " * 10, 20)[0] == "a\n\nword word word"


def test_a_code_block_stays_whole_if_it_fits():
    code = "```\nx = 1\n\ny = 2\n```"
    assert split_text(f"Some words first.\n{code}\nend", 30) == ["Some words first.", f"{code}\nend"]


def test_the_indentation_of_a_part_stays():
    assert split_text("if it is so and so:\n\n    do this", 22) == ["if it is so and so:", "    do this"]


@pytest.mark.parametrize("text", ["", " ", "\n \n"])
def test_nothing_has_no_parts(text: str):
    assert split_text(text) == []


def test_a_real_message_is_full():
    parts = split_text("😀" * 3000)
    assert [units(part) for part in parts] == [4096, 1904]


@settings(deadline=None)
@given(st.text(max_size=50))
def test_units_are_those_of_utf_16(text: str):
    assert units(text) == len(text.encode("utf-16-le", "surrogatepass")) // 2


@settings(deadline=None)
@given(st.text(st.characters(), max_size=50))
def test_a_clean_text_can_be_sent(text: str):
    assert (clean(text).encode() and True) or text == ""


def test_halves_are_joined_or_replaced():
    assert clean("a\ud83d\ude00b\ud83d") == "a😀b\ufffd"


@settings(deadline=None)
@given(TEXTS, st.integers(2, 40))
def test_what_is_cut_off_fits(text: str, limit: int):
    assert units(cut_off(text, limit)) <= limit


@settings(deadline=None)
@given(st.text(max_size=20).map(clean), st.text(max_size=20).map(clean), st.text(max_size=20).map(clean))
def test_a_span_is_found_by_its_units(before: str, marked: str, after: str):
    start, end = span(before + marked + after, units(before), units(marked))
    assert (before + marked + after)[start:end] == marked


@settings(deadline=None)
@given(st.text(max_size=10).map(clean), st.integers(0, 100), st.integers(0, 100))
def test_a_span_out_of_range_is_empty_or_short(text: str, offset: int, length: int):
    start, end = span(text, offset, length)
    assert 0 <= start <= end <= len(text)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("@bot hello", "hello"),
        ("@bot, hello", "hello"),
        ("hello @bot", "hello"),
        ("hello @bot there", "hello there"),
        ("is it, @bot?", "is it, ?"),
        ("@bot", ""),
        ("😀 @bot 😀", "😀 😀"),
    ],
)
def test_a_mention_leaves_no_gap(text: str, left: str):
    start = text.index("@bot")
    assert without(text, [(start, start + 4)]) == left
