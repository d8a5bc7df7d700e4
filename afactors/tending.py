"""The command line's `deliveries`: what is on its way and what is dead, in a state folder, served or not."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import IO, Any

from afactors_channels import HostError
from afactors_store import Store

from .deliveries import Deliveries
from .errands import Answer, Asked, Errand, answers, failure
from .offline import ACTORS_OPTIONS, Folder, lines, taught, told
from .options import BadOption
from .tables import details, table

DELIVERIES_OPTIONS = ACTORS_OPTIONS

_HELP = """\
List, show, replay and purge deliveries: what is on its way to people, and what is dead (refused, too old, tried too
often; and background runs that were cut off too often). A server that runs does it; where none does, the state folder
is opened.

An ID is as `deliveries list` has it: a delivery's id, or a dead letter's number.
"""
_ERRANDS: Mapping[str, Errand] = {
    "list": "deliveries.list",
    "show": "deliveries.show",
    "replay": "deliveries.replay",
    "purge": "deliveries.purge",
}
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_LISTED = 100
_DIGITS = 18  # of a number that anybody could mean
_INSTEAD = "no control socket answers there: stop that process first, or have it do this itself: Runtime.deliveries"


def add_to(commands: Any) -> None:
    """Teach the command line `deliveries` and what it does."""
    verbs = {
        "list": "print what is on its way, and what is dead",
        "show": "print one delivery, with what it says",
        "replay": "send dead letters after all, and run letters of background runs again",
        "purge": "remove dead letters for good",
    }
    parsers = taught(commands, "deliveries", "list, show, replay, purge deliveries", _HELP, verbs)
    of = parsers["list"].add_mutually_exclusive_group()
    of.add_argument("--dead", action="store_const", const="dead", dest="state", help="dead letters only")
    of.add_argument("--pending", action="store_const", const="pending", dest="state", help="what is not dead only")
    parsers["list"].add_argument("--limit", metavar="N", help=f"the most to print (default {_LISTED}; 0 for all)")
    parsers["show"].add_argument("ids", metavar="ID", nargs=1)
    for name in ("replay", "purge"):
        parsers[name].add_argument("ids", metavar="ID", nargs="*")
        parsers[name].add_argument("--all", action="store_true", help="everything that is dead")
    parsers["purge"].add_argument("--yes", action="store_true", help="do not ask")
    for name in ("list", "replay", "purge"):
        _add_filters(parsers[name])
    for parser in parsers.values():
        for option in DELIVERIES_OPTIONS:
            option.add_to(parser)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--channel", metavar="NAME", help="only those of a channel")
    parser.add_argument("--key", metavar="KEY", help="only those of an isolation key")
    parser.add_argument("--reason", metavar="WORD", help="only those that died for this reason")
    parser.add_argument("--older-than", metavar="AGE", help="only those of that age, such as 90s, 15m, 12h, 30d")


def run(parsed: argparse.Namespace, values: Mapping[str, Any], ask: Callable[[str], str] | None) -> int:
    """Do what the command line says; returns the exit code.

    Args:
        parsed: What was given.
        values: `DELIVERIES_OPTIONS`, by attribute.
        ask: Asks whoever sits there; None if nobody does.

    Raises:
        CannotDo: The folder is not there, or its server does not answer; there is no such delivery.
        StoreError: The store cannot be used.
        BadOption: It does not say which, or nobody said that they are to be purged.
    """
    asked = _asked(parsed)
    if parsed.doing == "purge" and not parsed.yes and not _sure(asked, ask):
        print("nothing was purged", file=sys.stderr)
        return 1
    folder = Folder(Path(values["state_dir"]), values["map_size"], values["json"], _INSTEAD)
    deliveries: list[Mapping[str, Any]] = []
    with lines() as out:
        done = _do(folder, asked, deliveries, out)
    _conclude(asked, done, deliveries, folder)
    return 1 if done.get("left") else 0


def _do(folder: Folder, asked: Asked, deliveries: list[Mapping[str, Any]], out: IO[str]) -> Mapping[str, Any]:
    """The figures; deliveries go out in JSON, or into the list, of which a table is made."""

    def each(answer: Answer) -> None:
        if folder.as_json:
            print(json.dumps(answer["delivery"]), file=out)
        else:
            deliveries.append(answer["delivery"])

    async def work(store: Store) -> Mapping[str, Any]:
        async with aclosing(_caught(asked, Deliveries(store))) as answers:
            return await told(answers, each)

    return folder.do(work, asked, lambda done: done, each=each)


def _asked(parsed: argparse.Namespace) -> Asked:
    age = getattr(parsed, "older_than", None)
    asked = Asked(
        _ERRANDS[parsed.doing],
        ids=getattr(parsed, "ids", ()),
        all=getattr(parsed, "all", False),
        state=getattr(parsed, "state", None),
        limit=_limit(getattr(parsed, "limit", None)),
        channel=getattr(parsed, "channel", None),
        key=getattr(parsed, "key", None),
        reason=getattr(parsed, "reason", None),
        older_than=_age(age) if age is not None else None,
    )
    which = asked.all or any(value is not None for value in asked.which.values())
    if parsed.doing in ("replay", "purge") and bool(asked.ids) == which:
        raise BadOption(f"say which: deliveries {parsed.doing} ID …, or --all, or a filter such as --channel NAME")
    return asked


def _sure(asked: Asked, ask: Callable[[str], str] | None) -> bool:
    if ask is None:
        raise BadOption("purging cannot be undone; say --yes")
    which = ", ".join(asked.ids) or "all dead letters"
    said = [f"{name} {value}" for name, value in asked.which.items() if value is not None]
    which += f" with {', '.join(said)}" if said else ""
    return ask(f"Purge {which}? It cannot be undone. [y/N] ").strip().lower() in ("y", "yes")


async def _caught(asked: Asked, deliveries: Deliveries) -> AsyncGenerator[Answer, None]:
    """The answers, as a server would give them."""
    async with aclosing(answers(asked, deliveries)) as each:
        try:
            async for answer in each:
                yield answer
        except HostError as exc:
            yield failure(exc)


def _conclude(asked: Asked, done: Mapping[str, Any], deliveries: list[Mapping[str, Any]], folder: Folder) -> None:
    for what in ("replayed", "purged"):
        if what in done:
            letters = "1 dead letter" if done[what] == 1 else f"{done[what]} dead letters"
            folder.say(f"{what} {letters}", event=what, count=done[what])
    if left := done.get("left"):
        told = "1 letter of a run is" if left == 1 else f"{left} letters of runs are"
        print(f"{told} left, which this version cannot read; update afactors, or purge", file=sys.stderr)
    if done.get("more"):
        print(f"there are more than {done['listed']}; --limit has them, or a filter", file=sys.stderr)
    if folder.as_json:
        return
    now = time.time()
    if asked.do == "deliveries.show":
        print(details(deliveries[0], now))
    elif deliveries:
        print(table(deliveries, now, colours=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    elif asked.do == "deliveries.list":
        print("there are none")


def _age(text: str) -> float:
    number, unit = (text[:-1], text[-1:].lower()) if text[-1:].isalpha() else (text, "s")
    try:
        age = float(number) * _UNITS[unit]
    except (KeyError, ValueError):
        age = -1.0
    if not 0 <= age < float("inf"):
        raise BadOption(f"--older-than: {text!r} is not an age such as 90s, 15m, 12h or 30d")
    return age


def _limit(text: str | None) -> int | None:
    """A number above 0; 0 is none."""
    if text is None:
        return _LISTED
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS):
        raise BadOption(f"--limit: {text[:40]!r} is not a number such as 20; 0 is for all")
    return int(text) or None
