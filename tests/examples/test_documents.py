"""What the documents say is so: their programs run, their tables match the code, their links lead somewhere.

A fenced block is marked by the line before it:

* `<!-- run -->`: a Python program. It prints what its comments say: `print(…)  # this`, or `# this` after its end.
* `<!-- run: server -->`: the same, with the demonstration server at the address that it names.
* `<!-- transcript -->`: a terminal. `$ make run` starts a server, `^C` stops it, other commands run in a shell.

Every other Python block is compiled.
"""

from __future__ import annotations

import inspect
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from afactors.cli import CHAT_OPTIONS, SERVE_OPTIONS
from afactors.limits import Limits
from afactors.offline import ACTORS_OPTIONS
from afactors.tending import DELIVERIES_OPTIONS
from afactors_channels.telegram import TelegramChannel
from afactors_channels.webhook import WebhookChannel, WebhookEndpoint, WebhookSource

HOUSE = Path(__file__).parents[2]
DOCUMENTS = [HOUSE / "README.md", *sorted((HOUSE / "docs").glob("*.md"))]
OPERATIONS = HOUSE / "docs" / "operations.md"
RESPONSES = HOUSE / "docs" / "responses.md"
CHANNELS = HOUSE / "docs" / "channels.md"

_BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_PRINTED = re.compile(r"print\(.*\)  # (.*)$", re.M)
_SAMPLE = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Block:
    document: str
    line: int
    mark: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks() -> Iterator[Block]:
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for found in _BLOCK.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            yield Block(path.name, line, found["mark"] or "", found["language"], found["text"])


BLOCKS = list(blocks())
RUN = [block for block in BLOCKS if block.mark.startswith("run")]


# -- programs


def printed(program: str) -> list[str]:
    """What a program's comments say that it prints."""
    lines = program.rstrip().splitlines()
    after = list(takewhile(lambda line: line.startswith("# "), reversed(lines)))
    return [line.removeprefix("# ") for line in reversed(after)] or _PRINTED.findall(program)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_program_prints_what_it_says(block: Block, start: Any, demo: Any, tmp_path: Path) -> None:
    expected = printed(block.text)
    assert expected, "a program that runs says what it prints"
    assert (_SAMPLE in block.text) == (block.mark == "run: server")
    program = tmp_path / "program.py"
    program.write_text(block.text.replace(_SAMPLE, demo.address), encoding="utf-8")
    assert start(str(program), folder=tmp_path).ended().splitlines() == expected


# -- the terminal


class Terminal:
    """Obeys a transcript's commands, and compares what is printed."""

    def __init__(self, start: Any, folder: Path) -> None:
        self._start = start
        self._folder = folder
        self._server: Any = None

    def play(self, transcript: str) -> None:
        step: list[str] = []
        for line in [*transcript.splitlines(), "$ "]:
            if line.startswith(("$ ", "^C")) and step:
                self._step(step[0], step[1:])
                step = []
            step.append(line)

    def _step(self, command: str, expected: list[str]) -> None:
        if command == "$ make run":
            self._server = self._start("-m", "afactors", "--port", "0", folder=self._folder)
            self._server.address  # noqa: B018 - wait for it
            shown = self._server.output.replace(self._server.address, _SAMPLE)
            # What precedes is make's own; what follows is the advice that does not fit the README.
            wanted = "\n".join(line for line in expected if not line.endswith(" ..."))
            assert shown.startswith(wanted.replace("/home/ada/afactors", str(self._folder.resolve())) + "\n")
        elif command == "^C":
            assert _steady(self._server.stop(signal.SIGINT).splitlines()[-1]) == _steady(*expected)
        else:
            assert self._shell(command.removeprefix("$ ")) == expected

    def _shell(self, command: str) -> list[str]:
        chat = f"chat --url {self._server.address}/v1"
        command = command.replace(_SAMPLE, self._server.address).replace(".venv/bin/python", sys.executable)
        command = re.sub(r"\bchat\b", chat, command)
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self._folder,
            env=self._server.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


def _steady(line: str) -> str:
    """A line without its time."""
    return re.sub(r"\d+\.\d s", "? s", line)


def test_the_first_minute(start: Any, tmp_path: Path) -> None:
    terminal = Terminal(start, tmp_path)
    transcripts = [block for block in BLOCKS if block.mark == "transcript"]
    assert len(transcripts) == 4
    for block in transcripts:
        terminal.play(block.text)


# -- tables


def tables(path: Path, heading: str) -> dict[str, list[str]]:
    """The rows under a heading by their first cell, without its quotes."""
    _, found, rest = path.read_text(encoding="utf-8").partition(f"\n{heading}\n")
    assert found, f"{path.name} has no {heading}"
    section = re.split(r"^#", rest, maxsplit=1, flags=re.M)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {row[0].strip("`"): row[1:] for row in rows[2:]}


def test_limits() -> None:
    told = {name: row[0].split()[0].replace(",", "") for name, row in tables(OPERATIONS, "## Limits").items()}
    limits = {limit.name: getattr(Limits(), limit.name) for limit in fields(Limits)}
    assert {name: None if value == "none" else float(value) for name, value in told.items()} == limits


@pytest.mark.parametrize(
    ("heading", "options"),
    [
        ("### `python -m afactors serve [TARGET]`", SERVE_OPTIONS),
        ("### `python -m afactors chat`", CHAT_OPTIONS),
        ("### `python -m afactors actors`", ACTORS_OPTIONS),
        ("### `python -m afactors deliveries`", DELIVERIES_OPTIONS),
    ],
)
def test_options(heading: str, options: Any) -> None:
    rows = tables(OPERATIONS, heading)
    assert list(rows) == [f"--{option.name}" for option in options]
    for option in options:
        twin, default, _ = rows[f"--{option.name}"]
        assert twin == f"`{option.twin}`"
        told = default.strip("`")
        assert (option.parse(told) if told else None) == (option.value(None, {}) or (0.0 if told else None))


@pytest.mark.parametrize("kind", [TelegramChannel, WebhookChannel, WebhookEndpoint, WebhookSource])
def test_options_of_channels(kind: Any) -> None:
    """The tables name what the constructors take, in their order; defaults that are short are told as they are."""
    _, found, rest = CHANNELS.read_text(encoding="utf-8").partition(f"\n`{kind.__name__}(")
    assert found
    table = rest.partition("| option | default | |\n|---|---|---|\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    options = inspect.signature(kind).parameters
    assert [row[0].strip("`") for row in rows] == list(options)
    for name, default, _ in rows:
        given = options[name.strip("`")].default
        if given is inspect.Parameter.empty:
            assert default == "required", name
        elif given is None or len(repr(given)) < 30:
            assert default == f"`{given!r}`" or not isinstance(given, str | float | tuple | None), name


def test_every_error_is_in_the_table() -> None:
    """Every status and code that the source names; and none that it does not."""
    source = [
        path.read_text(encoding="utf-8")
        for folder in ("afactors", "channels")
        for path in (HOUSE / folder).rglob("*.py")
    ]
    table = RESPONSES.read_text(encoding="utf-8").partition("\n## Errors\n")[2]
    rows = [line.split("|")[1:3] for line in table.splitlines() if re.match(r"\| \d{3} ", line)]
    told = {code for _, cell in rows for code in re.findall(r"`([a-z_]+)`", cell)}
    codes = {code for text in source for code in re.findall(r"\bcode ?= ?\"([a-z_]+)\"", text)}
    codes |= {code for text in source for code in re.findall(r"refuse\([^)]*, \"([a-z_]+)\"\)", text)}
    # Points, runs, sessions and messages have other names here; the last is a default that nothing raises as it is.
    ours = {"point_not_found", "run_not_found", "session_busy", "session_not_found", "message_not_found"}
    # These are told to whoever exports and imports actors, and to nobody over HTTP.
    ours |= {"actor_busy", "actor_not_found", "invalid_key", "key_in_use", "unusable_file"}
    ours |= {"export_damaged", "export_too_new", "not_an_export"}
    # These to whoever makes reminders.
    ours |= {"invalid_time", "too_many_reminders"}
    # And these to whoever looks after deliveries.
    ours |= {"delivery_not_found", "invalid_cursor", "not_dead", "unknown_request", "unknown_version", "unusable_path"}
    assert codes - told <= {*ours, "conflict"}
    assert [code for code in told if not any(f'"{code}"' in text for text in source)] == []
    statuses = {status for text in source for status in re.findall(r"\bstatus ?= ?(\d{3})\b", text)}
    assert statuses - {status.strip() for status, _ in rows} <= {"422"}


# -- links


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name) if name else path
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.M)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings], target


def test_no_document_is_longer_than_it_should_be() -> None:
    assert len((HOUSE / "README.md").read_text(encoding="utf-8").splitlines()) <= 210
