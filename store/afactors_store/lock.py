"""Who owns a state directory: a POSIX record lock on `owner.lock`, and the owner's pid.

A record lock belongs to the process, not to the descriptor: a child that the owner forked does not hold it,
and does not keep it alive after the owner's death, as it would a `flock`. The price is that closing *any*
descriptor of the file gives the lock up. So whoever may be the owner must not even open the file a second
time: a process remembers which files it has locked, as the kernel does, and looks there first.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from .errors import StoreLocked, StoreUnusable

FILE = "owner.lock"
POLL_SECONDS = 0.1

# The kernel keeps record locks by (process, file); this is our half of that table, for the reason above.
_held: set[tuple[int, int, int]] = set()

_FLOCK = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux


@asynccontextmanager
async def owned(directory: Path, wait: float) -> AsyncIterator[None]:
    """Own a directory for as long as the block lasts.

    Args:
        directory: The state directory, which exists.
        wait: Seconds to wait for another owner to leave.

    Raises:
        StoreLocked: It has another owner still.
        StoreUnusable: The lock file cannot be made.
    """
    deadline = trio.current_time() + wait
    while True:
        try:
            descriptor, identity = _take(directory)
            break
        except StoreLocked:
            left = deadline - trio.current_time()
            if left <= 0:
                raise
            await trio.sleep(min(POLL_SECONDS, left))
    try:
        yield
    finally:
        _held.discard(identity)
        os.close(descriptor)


def _take(directory: Path) -> tuple[int, tuple[int, int, int]]:
    path = directory / FILE
    if _identity(path) in _held:
        raise locked(directory, os.getpid())
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StoreUnusable(
            f"cannot write in the state directory '{directory}': {exc.strerror}; "
            f"give this user the rights or choose another --state-dir"
        ) from None
    try:
        _lock(descriptor, directory)
    except BaseException:
        os.close(descriptor)  # this process does not own it, so nothing is given up
        raise
    identity = _identity(path)
    _held.add(identity)
    return descriptor, identity


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in (errno.EACCES, errno.EAGAIN):
            raise locked(directory, _owner(descriptor)) from None
        raise StoreUnusable(
            f"the file system of the state directory '{directory}' gives no locks: {exc.strerror}; "
            f"choose a --state-dir on a local disk"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)


def _identity(path: Path) -> tuple[int, int, int]:
    """The file as the kernel knows it, for this process; a forked child's is another."""
    try:
        status = path.stat()
    except OSError:
        return os.getpid(), 0, 0
    return os.getpid(), status.st_dev, status.st_ino


def _owner(descriptor: int) -> int | None:
    """The pid of whoever holds the lock: the kernel's word where its layout is known, else the file's."""
    if sys.platform == "linux" and sys.maxsize > 2**32:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        pid: int = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[4]
        return pid if pid > 0 else None  # 0: it lives in another pid namespace
    written = os.pread(descriptor, 32, 0).strip()
    return int(written) if written.isdigit() else None


def locked(directory: Path, pid: int | None) -> StoreLocked:
    """The error that names the owner and what to do."""
    owner = "another process" if pid is None else f"process {pid}"
    if pid == os.getpid():
        owner += " (this one)"
    return StoreLocked(
        f"state directory '{directory}' is owned by {owner}; stop it, choose another --state-dir, "
        f"or wait with --wait-lock SECONDS",
        pid,
    )
