"""Owns a directory, says so, and leaves when its standard input ends. With "fork", a forked child outlives it."""

import os
import sys

import trio

from afactors_store import LmdbStore


def say_pid() -> None:
    os.write(sys.stdout.fileno(), b"%d\n" % os.getpid())  # in one piece: two processes share the pipe


async def main(path: str, fork: bool) -> None:
    async with LmdbStore(path, map_size=1 << 24).open():
        if fork and os.fork() == 0:
            say_pid()
            sys.stdin.read()
            os._exit(0)
        say_pid()
        await trio.to_thread.run_sync(sys.stdin.read)


trio.run(main, sys.argv[1], "fork" in sys.argv[2:])
