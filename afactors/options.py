"""Command-line options, each with an ``AFACTORS_…`` environment twin."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "AFACTORS_"

_DIGITS = len(str(sys.maxsize))


class BadOption(Exception):
    """An option or its environment twin cannot be understood. The message names it."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        name: With dashes, without the leading ones.
        help: What it does; the default and the twin are added to it.
        default: Its value if nobody says otherwise.
        parse: Text to value; raises ValueError with the rule in its message.
        metavar: How the value is called in the help.
        many: May be given several times (the twin: comma-separated); the value is a tuple.
        flag: Takes no value.
    """

    name: str
    help: str
    default: Any = None
    parse: Callable[[str], Any] = str
    metavar: str | None = None
    many: bool = False
    flag: bool = False

    @property
    def twin(self) -> str:
        """The environment variable of the same meaning; the command line wins."""
        return PREFIX + self.name.replace("-", "_").upper()

    @property
    def attribute(self) -> str:
        """Its name in the parsed options."""
        return self.name.replace("-", "_")

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Teach a parser the option; its value stays None unless it is given."""
        default = f"{self.default:g}" if isinstance(self.default, float) else self.default
        shown = "" if self.flag or self.many or default is None else f"default {default}; "
        text = f"{self.help} [{shown}{self.twin}]"
        if self.flag:
            parser.add_argument(f"--{self.name}", action="store_true", default=None, help=text)
        else:
            action = "append" if self.many else "store"
            parser.add_argument(f"--{self.name}", action=action, metavar=self.metavar, help=text)

    def value(self, given: Any, environment: Mapping[str, str]) -> Any:
        """What was said on the command line, or else in the environment, or else the default.

        Raises:
            BadOption: It cannot be understood.
        """
        if given is not None:
            return self._parsed(given, f"--{self.name}")
        text = environment.get(self.twin)
        if text is None or text == "":
            return self._without()
        return self._parsed(text.split(",") if self.many else text, self.twin)

    def _without(self) -> Any:
        if self.many or self.flag:
            return () if self.many else False
        return self.parse(self.default) if isinstance(self.default, str) else self.default

    def _parsed(self, given: Any, where: str) -> Any:
        try:
            if self.many:
                return tuple(self.parse(one.strip()) for one in given)
            if self.flag:
                return given if isinstance(given, bool) else boolean(given)
            return self.parse(given)
        except ValueError as exc:
            raise BadOption(f"{where}: {exc}") from exc


def seconds(text: str) -> float:
    """A number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is not a number of seconds above 0")
    return value


def seconds_or_none(text: str) -> float:
    """A number of seconds, 0 included."""
    return 0.0 if text.strip() in ("0", "0.0") else seconds(text)


def port(text: str) -> int:
    """A TCP port; 0 lets the system choose."""
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port between 0 and 65535")
    return int(text)


def api_key(text: str) -> str:
    """A key that an HTTP header can carry."""
    if not text or not text.isascii() or not text.isprintable():
        raise ValueError("a key must be printable ASCII, and not empty")
    return text


def size(text: str) -> int:
    """Bytes, or with a suffix K, M, G, T (powers of 1024)."""
    suffix = text[-1:].upper() if text[-1:].isalpha() else ""
    number = text.removesuffix(text[-1:]) if suffix in tuple("KMGT") else text
    if not (number.isascii() and number.isdecimal() and number.strip("0")):
        raise ValueError(f"{text!r} is not a size such as 512M or 64G")
    if len(number) > _DIGITS or (value := int(number) << 10 * " KMGT".index(suffix or " ")) > sys.maxsize:
        raise ValueError(f"{text[:40]!r} is more than a machine has addresses for")
    return value


def boolean(text: str) -> bool:
    """1/true/yes/on or 0/false/no/off."""
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def class_name(text: str) -> str:
    """A class, as ``module:Class``."""
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise ValueError(f"{text!r} is not module:Class, for example my_workflows:Order")
    return text


def one_of(*names: str) -> Callable[[str], str]:
    """One of some words, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in names:
            raise ValueError(f"{text!r} is none of {', '.join(names)}")
        return text.lower()

    return parse


def check_environment(environment: Mapping[str, str], known: set[str]) -> None:
    """Refuse an ``AFACTORS_…`` variable that nothing reads: it is a typing error that would go unnoticed.

    Raises:
        BadOption: There is one; the message has the nearest known name.
    """
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadOption(f"unknown environment variable {name}{hint}")
