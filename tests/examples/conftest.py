"""Programs as a reader starts them: real processes on free ports, in a folder of their own.

Their clocks are real: what is tested is that the programs work as they are printed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

HOUSE = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds; only a hang takes so long
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


def eventually(check: Callable[[], Any], what: str) -> Any:
    """The first true value of `check`."""
    deadline = time.monotonic() + PATIENCE
    while not (value := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"this did not happen in {PATIENCE:.0f} s: {what}")
        time.sleep(0.02)
    return value


class Program:
    """A process with its output in a file."""

    def __init__(self, arguments: Sequence[str], folder: Path, output: IO[bytes], **variables: str) -> None:
        # As in an installed environment, and nothing that configures the program or the SDK from outside.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AFACTORS_", "OPENAI_"))}
        path = os.pathsep.join(str(HOUSE / part) for part in ("", "channels", "store"))
        self.folder = folder
        self._output = Path(output.name)
        self.environment = {**kept, "PYTHONPATH": path, "NO_PROXY": "*", **variables}
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def address(self) -> str:
        """Where it serves, as soon as it does."""
        found: str = eventually(self._address, f"it serves:\n{self.output}")
        return found

    def _address(self) -> str | None:
        found = ADDRESS.search(self.output)
        if found is None and self.process.poll() is not None:
            raise AssertionError(f"it ended with {self.process.returncode}:\n{self.output}")
        return found[0] if found else None

    def ended(self) -> str:
        """Its whole output, once it has ended by itself, and well."""
        assert self.process.wait(PATIENCE) == 0, self.output
        return self.output

    def stop(self, number: int = signal.SIGTERM) -> str:
        """Its whole output, once it has obeyed a signal."""
        self.process.send_signal(number)
        return self.ended()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)


Start = Callable[..., Program]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a program (`python ARGUMENTS`); none is left when the module's tests are over."""
    started: list[Program] = []

    def start(*arguments: str, folder: Path | None = None, **variables: str) -> Program:
        folder = folder or tmp_path_factory.mktemp("folder")
        with (tmp_path_factory.mktemp("output") / "output").open("wb") as output:
            program = Program(arguments, folder, output, **variables)
        started.append(program)
        return program

    yield start
    for program in started:
        program.kill()


@pytest.fixture(scope="module")
def demo(start: Start) -> Program:
    """The demonstration server, for whoever does not stop it."""
    return start("-m", "afactors", "--port", "0")
