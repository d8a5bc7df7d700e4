"""The command line's `actors`: what is done to single actors in a state folder that nobody serves."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import trio

from afactors_channels import HostError
from afactors_store import LmdbStore, Store, StoreLocked

from .options import BadOption, Option, size
from .portable import ActorExport, checked_key, read_actor, write_actor
from .runtime import DEFAULT_STATE_DIR

T = TypeVar("T")

_PAGE = 1000

ACTORS_OPTIONS = (
    Option("state-dir", "folder that holds all state", DEFAULT_STATE_DIR, metavar="FOLDER"),
    Option("map-size", "most that the state may grow to", "64G", size, "SIZE"),
    Option("json", "tell in JSON, a line each", flag=True),
)

_HELP = """\
List, export, import and erase single actors in a state folder that no server has open. (Inside a running server the
same is done by Runtime.export_actor, import_actor and erase_actor.)

An exported file has everything that was said, and is not encrypted: treat it as a secret.
"""


class CannotDo(Exception):
    """The state folder, the file or the actor does not allow it. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A state folder, and how to tell what was done there."""

    path: Path
    map_size: int
    as_json: bool

    def run(self, work: Callable[[Store], Awaitable[T]], *, make: bool = False) -> T:
        """Open the store, do the work, and close it.

        Raises:
            CannotDo: There is none (and none is to be made), or it is owned.
            StoreError: It cannot be used.
        """
        if not make and not (self.path / "data.mdb").exists():
            raise CannotDo(f"there is no state in '{self.path}'; --state-dir names the folder")
        store = LmdbStore(self.path, map_size=self.map_size)

        async def opened() -> T:
            async with store.open():
                return await work(store)

        try:
            return trio.run(opened)
        except StoreLocked as exc:
            owner = f"process {exc.pid}" if exc.pid is not None else "another process"
            raise CannotDo(
                f"state directory '{self.path}' is owned by {owner}; stop that server first, or have it do this itself:"
                " Runtime.export_actor, import_actor, erase_actor"
            ) from exc

    def say(self, text: str, **facts: Any) -> None:
        """A line on stdout, in either form."""
        print(json.dumps(facts) if self.as_json else text)


def add_to(commands: Any) -> None:
    """Teach the command line `actors` and what it does."""
    formatter = argparse.RawDescriptionHelpFormatter
    actors = commands.add_parser(
        "actors", help="list, export, import, erase single actors", description=_HELP, formatter_class=formatter
    )
    doing = actors.add_subparsers(dest="doing", metavar="WHAT", required=True)
    told = {
        "list": "print every isolation key that has state",
        "export": "write an actor to a file",
        "import": "make an actor of a file: all of it, or nothing",
        "erase": "erase an actor: every record, index and log",
    }
    parsers = {name: doing.add_parser(name, help=text, description=f"{text}.") for name, text in told.items()}
    for name in ("export", "erase"):
        parsers[name].add_argument(
            "key", metavar="KEY", help="isolation key, as `actors list` has it between the quotes"
        )
    for name in ("export", "import"):
        parsers[name].add_argument("file", metavar="FILE", type=Path)
    parsers["import"].add_argument("--key", metavar="KEY", help="isolation key that it gets (default: the one it had)")
    parsers["erase"].add_argument("--yes", action="store_true", help="do not ask")
    for parser in parsers.values():
        for option in ACTORS_OPTIONS:
            option.add_to(parser)


def run(parsed: argparse.Namespace, values: Mapping[str, Any], ask: Callable[[str], str] | None) -> int:
    """Do what the command line says; returns the exit code.

    Args:
        parsed: What was given.
        values: `ACTORS_OPTIONS`, by attribute.
        ask: Asks whoever sits there; None if nobody does.

    Raises:
        CannotDo: The folder is not there, or owned; there is no such actor; the file cannot be used.
        StoreError: The store cannot be used.
        BadOption: Nobody said that it is to be erased.
    """
    try:
        return _run(parsed, values, ask)
    except HostError as exc:
        raise CannotDo(f"{exc.message.removesuffix('.')} ({exc.code})") from exc
    except OSError as exc:
        raise CannotDo(f"{parsed.file}: {exc.strerror or exc}") from exc


def _run(parsed: argparse.Namespace, values: Mapping[str, Any], ask: Callable[[str], str] | None) -> int:
    folder = Folder(Path(values["state_dir"]), values["map_size"], values["json"])
    if parsed.doing == "list":
        return list_actors(folder)
    if parsed.doing == "export":
        return export_actor(folder, parsed.key, parsed.file)
    if parsed.doing == "import":
        return import_actor(folder, parsed.file, parsed.key)
    return erase_actor(folder, parsed.key, sure=parsed.yes, ask=ask)


def shown(key: str) -> str:
    """An isolation key in quotes; what could confuse a terminal is escaped."""
    return json.dumps(key, ensure_ascii=not key.isprintable())


def list_actors(folder: Folder) -> int:
    """Print the keys that have state, a line each."""

    async def each(store: Store) -> None:
        after = None
        while found := await store.keys(after, _PAGE):
            after = found[-1]
            for key in found:
                folder.say(shown(key), key=key)

    folder.run(each)
    return 0


def export_actor(folder: Folder, key: str, path: Path) -> int:
    """Write an actor to a file."""
    told = folder.run(lambda store: write_actor(store, checked_key(key), path))
    folder.say(f"exported {shown(told.key)} to {path}: {_figures(told)}", event="exported", **_facts(told, path))
    return 0


def import_actor(folder: Folder, path: Path, key: str | None) -> int:
    """Make an actor of a file."""
    told = folder.run(lambda store: _imported(store, path, key), make=True)
    folder.say(f"imported {shown(told.key)} from {path}: {_figures(told)}", event="imported", **_facts(told, path))
    return 0


async def _imported(store: Store, path: Path, key: str | None) -> ActorExport:
    await _sweep(store)  # what an import left behind that was cut short
    return await read_actor(store, path, key)


def erase_actor(folder: Folder, key: str, *, sure: bool, ask: Callable[[str], str] | None) -> int:
    """Erase an actor, if somebody is sure.

    Args:
        folder: Where.
        key: Which.
        sure: Whether it was said on the command line.
        ask: Asks whoever sits there; None if nobody does.
    """
    checked_key(key)
    if not sure:
        if ask is None:
            raise BadOption("erasing cannot be undone; say --yes")
        if ask(f"Erase everything of {shown(key)}? It cannot be undone. [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was erased", file=sys.stderr)
            return 1
    existed = folder.run(lambda store: _erased(store, key))
    if not existed:
        raise CannotDo(f"there is no actor {shown(key)} in '{folder.path}'")
    folder.say(f"erased {shown(key)}", event="erased", key=key)
    return 0


async def _erased(store: Store, key: str) -> bool:
    existed = await store.erase(key)
    await _sweep(store)
    return existed


async def _sweep(store: Store) -> None:
    """Finish what was cut short; what has expired goes, too, as it would at any start."""
    while await store.expire(time.time()):
        await trio.lowlevel.checkpoint()


def _figures(told: ActorExport) -> str:
    return (
        f"{told.rows} rows of {told.documents} documents, {told.runs} runs, {told.letters} waiting letters,"
        f" {told.deliveries} deliveries, {told.size} bytes"
    )


def _facts(told: ActorExport, path: Path) -> Mapping[str, Any]:
    return {**asdict(told), "file": str(path)}
