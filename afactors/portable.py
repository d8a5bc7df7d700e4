"""One actor as a file: written from any store, read into any other.

A file is `MAGIC`, and then a stream of msgpack values that any library can read:

1. a map, the header: `format`, `afactors` (the version that wrote it), `exported_at`, `key`;
2. maps, each a slice of what the actor holds: the fields of a `Commit` that adds, those that say something (see
   `Store.snapshot`);
3. an array, the trailer: ``b"end"``, how many slices there are (8 bytes), and the SHA-256 of all that comes before it.

A file gets its name when it is whole and on the disk. One that is cut off or was changed is refused before anything is
written. The digest keeps accidents out, not forgers: a file is as trustworthy as where it comes from.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import msgpack
import msgspec
import trio

from afactors_channels import BadRequest, Conflicting, NotFound, Overloaded
from afactors_store import BadKey, Claim, Commit, Conflict, Store, check_key

MAGIC = b"\x89AFACTOR\r\n"
FORMAT = 1

T = TypeVar("T")

_COUNT = struct.Struct(">Q")
_TRAILER_BYTES = 50
_READ_BYTES = 1024 * 1024
_LONGEST_HEADER = 64 * 1024
_FIELDS = frozenset(field.name for field in fields(Commit))
_TRIES = 3  # a letter may be accepted by another actor's commit while the picture is taken


class UnusableFile(BadRequest):
    """The file is no exported actor, or not a whole one, or one of a newer format."""

    code = "unusable_file"


@dataclass(frozen=True, slots=True)
class ActorExport:
    """What a file has of an actor, in figures.

    Attributes:
        key: The isolation key; of an import, the one that it got.
        exported_at: When the file was written, in seconds since the epoch.
        documents: Sessions, and what else is stored by name.
        rows: Rows of logs: messages, states, transcripts.
        names: Names that lead to it: of responses, runs and idempotency keys.
        runs: Records of runs.
        letters: Messages that wait to be taken up.
        deliveries: Deliveries that wait, or are dead.
        size: Bytes of the file.
    """

    key: str
    exported_at: float
    documents: int = 0
    rows: int = 0
    names: int = 0
    runs: int = 0
    letters: int = 0
    deliveries: int = 0
    size: int = 0

    def counting(self, commit: Commit) -> ActorExport:
        """The same, and one slice more."""
        return replace(
            self,
            documents=self.documents + len(commit.put),
            rows=self.rows + sum(len(append.rows) for append in commit.append),
            names=self.names + len(commit.names),
            runs=self.runs + len(commit.runs),
            letters=self.letters + len(commit.letters),
            deliveries=self.deliveries + len(commit.deliveries),
        )


# -- out


async def write_actor(store: Store, key: str, path: Path) -> ActorExport:
    """Write all that a key holds to a file, which replaces one of that name.

    The caller sees to it that the key's own actor writes nothing meanwhile.

    Raises:
        NotFound: The key has no state.
        Overloaded: Others kept writing to it.
        OSError: The file cannot be written, or something that is no file has its name.
    """
    await trio.to_thread.run_sync(_check_replaceable, path)
    unfinished = path.with_name(f".afactors-{secrets.token_hex(8)}.partial")
    try:
        for _ in range(_TRIES):
            claim = await store.claim(key)
            if not claim.incarnation:
                raise NotFound("There is no such actor.", code="actor_not_found")
            written = await _write(store, claim, unfinished)
            if _same(claim, await store.claim(key)):
                await trio.to_thread.run_sync(_name, unfinished, path)
                return written
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_remove, unfinished)
    raise Overloaded("This actor is written to all the time; try again later.", code="actor_busy", retry_after=1.0)


def _same(before: Claim, after: Claim) -> bool:
    return (before.incarnation, before.version, before.letters) == (after.incarnation, after.version, after.letters)


async def _write(store: Store, claim: Claim, path: Path) -> ActorExport:
    told = ActorExport(claim.key, time.time())
    out = await trio.to_thread.run_sync(_Out, path)
    try:
        await out.put(_header(told))
        after: bytes | None = b""
        while after is not None:
            piece = await store.snapshot(claim, after)
            told, after = told.counting(piece.commit), piece.after
            await out.put(_encoded(piece.commit))
        return replace(told, size=await trio.to_thread.run_sync(out.end))
    finally:
        out.close()


def _header(told: ActorExport) -> bytes:
    header = {"format": FORMAT, "afactors": version("afactors"), "exported_at": told.exported_at, "key": told.key}
    return MAGIC + _packed(header)


def _encoded(commit: Commit) -> bytes:
    plain = msgspec.to_builtins(commit, builtin_types=(bytes,))
    return _packed({name: value for name, value in plain.items() if value})


def _packed(value: Any) -> bytes:
    return cast("bytes", msgpack.packb(value))


def _trailer(slices: int, digest: bytes) -> bytes:
    return _packed([b"end", _COUNT.pack(slices), digest])


class _Out:
    """A file that is being written, readable by its owner alone."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb", opener=_private)  # noqa: SIM115 - `close` closes it
        self._digest = hashlib.sha256()
        self._parts = 0

    async def put(self, part: bytes) -> None:
        """Write the header, or a slice."""
        await trio.to_thread.run_sync(self._put, part)

    def _put(self, part: bytes) -> None:
        self._file.write(part)
        self._digest.update(part)
        self._parts += 1

    def end(self) -> int:
        """Write the trailer, and all of it to the disk; the file's size."""
        self._file.write(_trailer(self._parts - 1, self._digest.digest()))
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _check_replaceable(path: Path) -> None:
    """Neither a device nor a link goes for a file."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "something that is no regular file has this name", str(path))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _name(unfinished: Path, path: Path) -> None:
    """Give a file its name, durably."""
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


# -- in


async def read_actor(store: Store, path: Path, key: str | None = None) -> ActorExport:
    """Make an actor of a file: all of it, or nothing.

    Args:
        store: Where to.
        path: What `write_actor` wrote.
        key: The isolation key that it gets; by default the one that it had. Session ids stay as they are.

    Raises:
        UnusableFile: `not_an_export`, `export_damaged` or `export_too_new`.
        Conflicting: `key_in_use`: the key has state, or leads elsewhere; `name_taken`: one of its names, or a key that
            leads to it, is another's.
        BadRequest: `invalid_key`.
        OSError: The file cannot be read.
    """
    async with _opened(path) as source:
        name = source.key if key is None else checked_key(key)
        claim = await store.claim(name)
        if claim.incarnation or claim.key != name:
            raise Conflicting("This isolation key is in use.", code="key_in_use")
        told = ActorExport(name, source.exported_at, size=source.size)
        async with aclosing(source.slices()) as slices:
            async for commit in slices:
                await _check_free(store, commit)
                told = told.counting(commit)
        async with aclosing(source.slices()) as slices:
            try:
                await store.restore(name, slices)
            except Conflict as exc:
                raise Conflicting(f"The actor cannot be imported: {exc}.") from exc
            except BadKey as exc:
                raise damaged() from exc
    return told


async def exported_key(path: Path) -> str:
    """The isolation key of the actor in a file.

    Raises:
        UnusableFile: It is none that could be read.
        OSError: The file cannot be read.
    """
    async with _opened(path) as source:
        return source.key


def checked_key(key: str) -> str:
    """An isolation key.

    Raises:
        BadRequest: It is none.
    """
    try:
        check_key(key)
    except BadKey as exc:
        raise BadRequest(f"{str(exc).capitalize()}.", field="isolation_key", code="invalid_key") from exc
    return key


async def _check_free(store: Store, commit: Commit) -> None:
    try:
        held = [name for name in commit.names if await store.find(name) is not None]
        led = [alias for alias in commit.aliases if (await store.claim(alias)).key != alias]
    except BadKey as exc:
        raise damaged() from exc
    if held or led:
        raise Conflicting("One of the actor's names belongs to another actor.", code="name_taken")


def damaged() -> UnusableFile:
    """The file is not as it was written."""
    return UnusableFile("The file is damaged, or not all of it is there.", code="export_damaged")


@asynccontextmanager
async def _opened(path: Path) -> AsyncIterator[_In]:
    source = await trio.to_thread.run_sync(_In, path)
    try:
        await trio.to_thread.run_sync(source.check)
        yield source
    finally:
        source.close()


class _In:
    """A file that is read, more than once."""

    def __init__(self, path: Path) -> None:
        if not stat.S_ISREG(path.stat().st_mode):  # at a pipe one might wait for ever
            raise OSError(errno.EINVAL, "this is no regular file", str(path))
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 - `close` closes it
        self.size = 0
        self.key = ""
        self.exported_at = 0.0
        self._first = 0  # where the slices begin
        self._slices = 0

    def check(self) -> None:
        """Read the header, and see whether all is as it was written."""
        self.size = os.fstat(self._file.fileno()).st_size
        self._file.seek(0)
        if self._file.read(len(MAGIC)) != MAGIC:
            raise UnusableFile("The file is no exported actor.", code="not_an_export")
        self._read_header()
        self._check_digest()

    def _read_header(self) -> None:
        unpacker = _unpacker(self._file, _LONGEST_HEADER)
        header = _told(unpacker.unpack)
        if not isinstance(header, dict) or not isinstance(header.get("format"), int):
            raise damaged()
        if header["format"] > FORMAT:
            raise UnusableFile(
                f"A newer afactors ({str(header.get('afactors'))[:40]!r}) wrote the file, in format {header['format']};"
                f" this one knows formats up to {FORMAT}.",
                code="export_too_new",
            )
        try:
            self.key, self.exported_at = checked_key(header["key"]), float(header["exported_at"])
        except (KeyError, TypeError, ValueError, AttributeError, BadRequest) as exc:
            raise damaged() from exc
        self._first = len(MAGIC) + unpacker.tell()

    def _check_digest(self) -> None:
        left = self.size - _TRAILER_BYTES
        if left < self._first:
            raise damaged()
        digest = hashlib.sha256()
        self._file.seek(0)
        while left and (part := self._file.read(min(left, _READ_BYTES))):
            digest.update(part)
            left -= len(part)
        trailer = self._file.read()
        if len(trailer) != _TRAILER_BYTES:
            raise damaged()
        self._slices = _COUNT.unpack(trailer[8:16])[0]
        if trailer != _trailer(self._slices, digest.digest()):
            raise damaged()

    async def slices(self) -> AsyncGenerator[Commit, None]:
        """All slices, from the first.

        Raises:
            UnusableFile: They are none, or not as many as there were.
        """
        self._file.seek(self._first)
        unpacker, count = _unpacker(self._file, max(self.size, 1)), 0
        while isinstance(plain := await trio.to_thread.run_sync(_told, unpacker.unpack), dict):
            yield _decoded(plain)
            count += 1
        if count != self._slices:
            raise damaged()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _unpacker(file: BinaryIO, longest: int) -> Any:
    return msgpack.Unpacker(
        file, read_size=min(longest, _READ_BYTES), max_buffer_size=longest, raw=False, strict_map_key=False
    )


def _told(unpack: Callable[[], T]) -> T:
    try:
        return unpack()
    # msgpack's own errors are of the first two kinds; the third is that of a map as the key of a map.
    except (ValueError, msgpack.UnpackException, TypeError) as exc:
        raise damaged() from exc


def _decoded(plain: dict[Any, Any]) -> Commit:
    if not plain.keys() <= _FIELDS:
        raise damaged()
    try:
        return msgspec.convert(plain, Commit, builtin_types=(bytes,))
    except msgspec.ValidationError as exc:
        raise damaged() from exc
