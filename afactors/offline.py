"""The command line's `actors`: what is done to single actors in a state folder, by its server if there is one."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, TypeVar

import trio

from afactors_channels import HostError
from afactors_store import LmdbStore, Store, StoreLocked

from .errands import Answer, Asked
from .options import BadOption, Option, size
from .portable import ActorExport, checked_key, read_actor, write_actor
from .remote import Unanswered, Unreachable, remote_answers
from .runtime import DEFAULT_STATE_DIR

T = TypeVar("T")

_PAGE = 1000
_IN_MEMORY = 1024 * 1024  # bytes of what will be printed

ACTORS_OPTIONS = (
    Option("state-dir", "folder that holds all state", DEFAULT_STATE_DIR, metavar="FOLDER"),
    Option("map-size", "most that the state may grow to", "64G", size, "SIZE"),
    Option("json", "tell in JSON, a line each", flag=True),
)

_HELP = """\
List, export, import and erase single actors. A server that runs does it; where none does, the state folder is opened.

An exported file has everything that was said, and is not encrypted: treat it as a secret.
"""


_INSTEAD = "stop that server first, or have it do this itself: Runtime.export_actor, import_actor, erase_actor"


class CannotDo(Exception):
    """The state folder, the file or the actor does not allow it. The message says why, and what to do."""


class Owned(CannotDo):
    """A server has the state folder open."""

    def __init__(self, path: Path, pid: int | None, instead: str) -> None:
        self.owner = f"process {pid}" if pid is not None else "another process"
        super().__init__(f"state directory '{path}' is owned by {self.owner}; {instead}")


class _AsItWas(Exception):
    """The store is left as it was found: in disorder. Whoever serves it next is to see that."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A state folder, and how to tell what was done there."""

    path: Path
    map_size: int
    as_json: bool
    instead: str = _INSTEAD

    def do(
        self,
        work: Callable[[Store], Awaitable[T]],
        asked: Asked,
        read: Callable[[Mapping[str, Any]], T],
        *,
        each: Callable[[Answer], None] | None = None,
        make: bool = False,
    ) -> T:
        """Do the work here; or, where a server runs, have that do it.

        Args:
            work: The work.
            asked: The same in words.
            read: What a server's last answer says.
            each: Is told its other answers.
            make: Whether a folder is made.

        Raises:
            CannotDo: As of `run`, or the server says so.
            StoreError: The store cannot be used.
        """
        try:
            return self.run(work, make=make)
        except Owned as owned:
            return read(_by_server(self.path, asked, owned, each))

    def run(self, work: Callable[[Store], Awaitable[T]], *, make: bool = False) -> T:
        """Open the store, do the work, and close it.

        Raises:
            CannotDo: There is none (and none is to be made), or this user may not look.
            Owned: A server has it open.
            StoreError: It cannot be used.
        """
        if not make:
            _check_there(self.path)
        store = LmdbStore(self.path, map_size=self.map_size)

        try:
            return trio.run(self._opened, store, work)
        except StoreLocked as exc:
            raise Owned(self.path, exc.pid, self.instead) from exc

    async def _opened(self, store: LmdbStore, work: Callable[[Store], Awaitable[T]]) -> T:
        """Work in the open store; what only the work could not do leaves that in order."""
        done, failed = list[T](), None
        with suppress(_AsItWas):
            async with store.open():
                try:
                    done.append(await work(store))
                except (HostError, CannotDo, OSError) as exc:
                    failed = exc
                if not store.left_cleanly:
                    raise _AsItWas
        if failed is not None:
            raise failed
        return done[0]

    def say(self, text: str, **facts: Any) -> None:
        """A line on stdout, in either form."""
        print(json.dumps(facts) if self.as_json else text)


def _check_there(path: Path) -> None:
    try:
        if (path / "data.mdb").exists():
            return
    except OSError as exc:
        told = f"cannot look into the state folder '{path}': {exc.strerror}"
        raise CannotDo(f"{told}; give this user the rights or choose another --state-dir") from exc
    raise CannotDo(f"there is no state in '{path}'; --state-dir names the folder")


def _by_server(path: Path, asked: Asked, owned: Owned, each: Callable[[Answer], None] | None) -> Mapping[str, Any]:
    async def tell() -> Mapping[str, Any]:
        async with aclosing(remote_answers(path, asked)) as answers:
            return await told(answers, each)

    try:
        return trio.run(tell)
    except Unanswered as exc:
        raise CannotDo(str(exc)) from exc
    except Unreachable as exc:
        raise owned from exc


async def told(answers: AsyncIterator[Answer], each: Callable[[Answer], None] | None) -> Mapping[str, Any]:
    """The last answer; the others are handed on as they come.

    Raises:
        CannotDo: It is an error.
    """
    done: Mapping[str, Any] = {}
    async for answer in answers:
        if "error" in answer:
            raise CannotDo(f"{answer['error']['message'].removesuffix('.')} ({answer['error']['code']})")
        if "done" in answer:
            done = answer["done"]
        elif each is not None:
            each(answer)
    return done


@contextmanager
def lines() -> Iterator[IO[str]]:
    """What is written here is printed at the end, if it comes to that, however much it is.

    A reader who takes his time, as a pager does, keeps nobody waiting then: neither the server, nor whoever wants the
    folder.
    """
    with SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8", errors="surrogatepass") as spool:
        yield spool
        spool.seek(0)
        for one in spool:
            print(one, end="")


def add_to(commands: Any) -> None:
    """Teach the command line `actors` and what it does."""
    verbs = {
        "list": "print every isolation key that has state",
        "export": "write an actor to a file",
        "import": "make an actor of a file: all of it, or nothing",
        "erase": "erase an actor: every record, index and log",
    }
    parsers = taught(commands, "actors", "list, export, import, erase single actors", _HELP, verbs)
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


def taught(
    commands: Any, name: str, brief: str, description: str, verbs: Mapping[str, str]
) -> Mapping[str, argparse.ArgumentParser]:
    """Teach the command line a command that says what to do by a second word; the parsers, by that.

    Args:
        commands: The command line's.
        name: The command.
        brief: What it does, in a line.
        description: The same at length.
        verbs: The second words, and what each does.
    """
    parser = commands.add_parser(
        name, help=brief, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    doing = parser.add_subparsers(dest="doing", metavar="WHAT", required=True)
    return {name: doing.add_parser(name, help=text, description=f"{text}.") for name, text in verbs.items()}


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
    with lines() as out:
        _list(folder, out)
    return 0


def _list(folder: Folder, out: IO[str]) -> None:
    def say(answer: Answer) -> None:
        print(json.dumps({"key": answer["key"]}) if folder.as_json else shown(answer["key"]), file=out)

    async def each(store: Store) -> None:
        after = None
        while found := await store.keys(after, _PAGE):
            after = found[-1]
            for key in found:
                say({"key": key})

    folder.do(each, Asked("actors.list"), lambda _done: None, each=say)


@contextmanager
def _using(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise CannotDo(f"{file}: {exc.strerror or exc}") from exc


def export_actor(folder: Folder, key: str, path: Path) -> int:
    """Write an actor to a file."""
    asked = Asked("actors.export", key=key, file=str(path.absolute()))
    with _using(path):
        made = folder.do(
            lambda store: write_actor(store, checked_key(key), path), asked, lambda done: ActorExport(**done)
        )
    folder.say(f"exported {shown(made.key)} to {path}: {_figures(made)}", event="exported", **_facts(made, path))
    return 0


def import_actor(folder: Folder, path: Path, key: str | None) -> int:
    """Make an actor of a file."""
    asked = Asked("actors.import", key=key, file=str(path.absolute()))
    with _using(path):
        path.stat()  # before a folder is made for nothing
        made = folder.do(lambda store: _imported(store, path, key), asked, lambda done: ActorExport(**done), make=True)
    folder.say(f"imported {shown(made.key)} from {path}: {_figures(made)}", event="imported", **_facts(made, path))
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
    asked = Asked("actors.erase", key=key)
    existed = folder.do(lambda store: _erased(store, key), asked, lambda done: bool(done["existed"]))
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
