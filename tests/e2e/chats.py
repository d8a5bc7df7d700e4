"""The terminal chat as a process, for the tests that type into one."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class Chat:
    """A chat as a process of its own, on a pipe or at a terminal."""

    def __init__(self, arguments: list[str], folder: Path, environment: dict[str, str], *, terminal: bool) -> None:
        command = [sys.executable, "-m", "afactors", "chat", "--state-dir", str(folder), *arguments]
        self._shown = b""
        if terminal:
            self._screen, theirs = os.openpty()
            self._keyboard = self._screen
        else:
            self._screen, theirs = os.pipe()
        given: Any = theirs if terminal else subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=given, stdout=theirs, stderr=subprocess.STDOUT, env=environment)
        os.close(theirs)
        if self.process.stdin is not None:
            self._keyboard = self.process.stdin.fileno()

    @property
    def shown(self) -> str:
        """Everything that it printed so far, and at a terminal also what was typed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._screen, selectors.EVENT_READ)
            while selector.select(0):
                try:
                    data = os.read(self._screen, 65_536)
                except OSError:  # nobody has the terminal any more
                    data = b""
                if not data:
                    break
                self._shown += data
        return self._shown.decode().replace("\r\n", "\n")

    def type(self, text: str) -> None:
        os.write(self._keyboard, text.encode())

    def leave(self) -> int:
        """End its input; its exit status."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        else:
            self.type("\x04")
        return self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        os.close(self._screen)


@contextlib.contextmanager
def chats(environment: Callable[..., dict[str, str]], folder: Path) -> Iterator[Callable[..., Chat]]:
    """Starts chats, and sees to it that none is left."""
    started: list[Chat] = []

    def start(url: str, *arguments: str, terminal: bool = False) -> Chat:
        variables = environment(NO_COLOR="1", PYTHONPATH=os.pathsep.join(sys.path))
        started.append(Chat(["--url", url, *arguments], folder, variables, terminal=terminal))
        return started[-1]

    try:
        yield start
    finally:
        for chat in started:
            chat.close()
