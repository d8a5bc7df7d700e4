"""Texts as Telegram counts them: in UTF-16 units, and never more than 4,096 of them in a message. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

MAX_TEXT = 4096
MAX_CAPTION = 1024

_ZWJ = "\u200d"
_BASIC_PLANE = 0xFFFF
_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
# Where a text may be cut, the best places first; the cut comes after the match.
_BOUNDARIES = tuple(re.compile(rule) for rule in (r"\n[ \t]*\n", r"\n", r"[.!?…。！？][\"'”’)\]]*\s+|[。！？]", r"\s+"))


def units(text: str) -> int:
    """How many UTF-16 units a text has."""
    return len(text) + sum(ord(char) > _BASIC_PLANE for char in text)


def clean(text: str) -> str:
    """A text that can be sent: models may write halves of a surrogate pair, which no encoding takes."""
    if not any("\ud800" <= char <= "\udfff" for char in text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def cut_off(text: str, limit: int) -> str:
    """A text, or its beginning and an ellipsis."""
    if units(text) <= limit:
        return text
    return text[: _whole(text, _fitting(text, 0, limit - 1))] + "…"


# --- marked parts ------------------------------------------------------------------------------------------


def span(text: str, offset: int, length: int) -> tuple[int, int]:
    """Where in a string an entity is: from, to. One that begins or ends inside a character has all of it."""
    start = _fitting(text, 0, offset)
    end = _fitting(text, start, length)
    if end < len(text) and units(text[start:end]) < length:
        end += 1
    return start, end


def without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """A text without some of its parts, and without the gaps that they leave."""
    for start, end in sorted(spans, reverse=True):
        before, after = text[:start], text[end:]
        if not before.strip():
            after = after.lstrip(" \t,:;–—-")  # "@bot, tell me" is said to the bot, "tell me" is what it is told
        elif before[-1].isspace() and (not after or after[0].isspace()):
            before = before[:-1]
        text = before + after
    return text.strip()


# --- splitting ---------------------------------------------------------------------------------------------


def split_text(text: str, limit: int = MAX_TEXT) -> list[str]:
    """A text in parts, none longer than `limit` units.

    Parts end with a paragraph if there is one that ends late enough, else with a line, a sentence, a word; failing
    that, between two characters as they are seen. A code block is kept whole if it fits. Nothing is lost but the white
    space around the cuts; what has nothing else in it, has no parts.

    Args:
        text: Without lone surrogates.
        limit: At least 2.
    """
    return list(_parts(text.strip(), limit))


def _parts(text: str, limit: int) -> Iterator[str]:
    while text:
        fits = _fitting(text, 0, limit)
        if fits == len(text):
            yield text
            return
        cut = _cut(text, fits)
        if part := text[:cut].rstrip():
            yield part
        text = _rest(text[cut:])


def _rest(text: str) -> str:
    """What follows a cut, without empty lines, but with the indentation of its first line."""
    blank = re.match(r"(?:[^\S\n]*\n)*", text)
    text = text[blank.end() :] if blank else text
    return text if text.strip() else ""


def _fitting(text: str, start: int, limit: int) -> int:
    """Up to where a text has no more than `limit` units, from `start` on."""
    end = min(len(text), start + limit)
    excess = units(text[start:end]) - limit
    while excess > 0:
        end -= 1
        excess -= 1 + (ord(text[end]) > _BASIC_PLANE)
    return end


def _cut(text: str, fits: int) -> int:
    """Where the first part of a text ends, which may have `fits` characters."""
    window = text[: fits + 1]  # white space just behind what fits is a boundary, too
    enough = fits // 4
    fence = _open_fence(window[:fits])
    if fence is not None and fence > enough:
        return fence
    for rule in _BOUNDARIES:
        ends = (found.end() for found in rule.finditer(window))
        fine = [
            end for end in ends if end > enough and (end <= fits or window[-1].isspace()) and not _inside(text, end)
        ]
        if fine:
            return fine[-1]
    return _whole(text, fits)


def _open_fence(text: str) -> int | None:
    """Where the code block begins that a text ends in; None if it ends in none."""
    fences = [found.start() for found in _FENCE.finditer(text)]
    return fences[-1] if len(fences) % 2 else None


def _whole(text: str, cut: int) -> int:
    """The last place up to `cut` that is between two characters as they are seen; `cut` itself if there is none."""
    best = cut
    while best > 0 and _inside(text, best):
        best -= 1
    return best or cut


def _inside(text: str, place: int) -> bool:
    """Whether two characters that belong together meet here."""
    if place <= 0 or place >= len(text):
        return False
    before, after = text[place - 1], text[place]
    return (
        _ZWJ in (before, after)
        or unicodedata.category(after) in ("Mn", "Me", "Mc")
        or "\U0001f3fb" <= after <= "\U0001f3ff"  # skin tones
        or "\U000e0020" <= after <= "\U000e007f"  # the tags that make a region's flag
        or (before, after) == ("\r", "\n")
        or (_is_regional(before) and _is_regional(after) and _regionals_before(text, place) % 2 == 1)
    )


def _is_regional(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def _regionals_before(text: str, place: int) -> int:
    """How many halves of flags stand before a place: flags are pairs of them."""
    start = place
    while start > 0 and _is_regional(text[start - 1]):
        start -= 1
    return place - start
