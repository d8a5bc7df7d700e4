"""The command line's `deliveries`: in a state folder that nobody serves, and by the server that does."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_framework import AgentResponse, Message

from afactors.cli import main
from afactors.offline import Folder
from afactors.outbox import LETTERS, posted
from afactors.tables import details, moment, table
from afactors.tending import DELIVERIES_OPTIONS
from afactors_channels import ChannelIdentity
from afactors_store import Commit, Dead, LmdbStore, NewDelivery
from tests.runtime.commands import Ended, commanding, is_told_of_a_folder_into_which_nobody_can_look, with_store

NOW = 1_700_000_000.0
ODD = "ödd \x1b[31m\u202e\n"
HOUSE = Path(__file__).parents[2]
ENVIRONMENT = {"PYTHONPATH": ":".join(str(HOUSE / part) for part in ("", "channels", "store"))}


def parcel(text: str, channel: str = "chat", dead: str = "", to: str = "ada", at: float = NOW) -> NewDelivery:
    said: AgentResponse[Any] = AgentResponse(messages=[Message("assistant", [text])])
    identity = ChannelIdentity(channel, to, conversation="c1", verified=True)
    (one,) = posted("message", [identity], said, {}, at=at)
    end = Dead(dead, "said no", died=NOW, expires_at=NOW + 10.0**10) if dead else None
    return NewDelivery(one.lane, one.body, dead=end, attempts=3 if dead else 0)


DELIVERIES = (
    parcel("waits", to=ODD, at=time.time()),
    parcel("one", dead="rejected"),
    parcel("two", dead="expired", to=ODD),
    parcel("three", "mail", dead="rejected"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state folder with one delivery that waits, and three dead letters."""
    path = tmp_path / "state"

    async def fill(store: LmdbStore) -> None:
        await store.commit(await store.claim("ada"), Commit(deliveries=DELIVERIES))

    with_store(path, fill)
    return path


SERVER = """
import sys, trio
from afactors import Runtime
from afactors.demo import create_agent
from afactors_channels import ChannelContribution, PushRejected
from afactors_store import LmdbStore

class Desk:
    name = "chat"
    def contribute(self, context):
        return ChannelContribution(push=self.push)
    async def push(self, push):
        if push.response.text == "waits":
            await trio.sleep_forever()
        if push.response.text == "two":
            raise PushRejected("still no")
        with open(sys.argv[2], "a") as file:
            file.write(push.response.text + "\\n")

async def hold():
    store = LmdbStore(sys.argv[1], sync=False, map_size=1 << 28)
    async with Runtime(create_agent, store=store, channels=[Desk()], control=sys.argv[3] == "on", drain_timeout=0.1):
        print("open", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)

trio.run(hold)
"""


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts a server; it stops when its stdin is closed."""
    running: list[subprocess.Popen[bytes]] = []

    def start(control: str = "on") -> subprocess.Popen[bytes]:
        one = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(folder), str(tmp_path / "got"), control],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        running.append(one)
        assert one.stdout is not None
        assert one.stdout.readline() == b"open\n"
        return one

    yield start
    for one in running:
        with one:
            assert one.stdin is not None
            one.stdin.close()
            assert one.wait(30) == 0


@pytest.fixture
def deliveries(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ended]:
    return commanding("deliveries", folder, capsys, monkeypatch)


@pytest.fixture(params=["alone", "served"])
def either(request: pytest.FixtureRequest, server: Callable[..., Any]) -> str:
    """Whether a server has the folder open; the commands do the same."""
    if request.param == "served":
        server()
    return str(request.param)


# --- the same with a server, and without


def test_list(deliveries: Any, either: str) -> None:
    rows = deliveries("list", "--json").rows
    state = "pending" if either == "alone" else "running"
    told = [(row["state"], row["number"], row["channel"], row["kind"], row["reason"], row["text"]) for row in rows]
    assert told == [
        (state, None, "chat", "message", "", None),
        ("dead", 2, "chat", "message", "rejected", None),
        ("dead", 3, "chat", "message", "expired", None),
        ("dead", 4, "mail", "message", "rejected", None),
    ]
    assert rows[1]["error"] == "said no"
    assert rows[1]["isolation_key"] == "ada"

    def numbers(*arguments: str) -> list[int]:
        return [row["number"] for row in deliveries("list", "--json", *arguments).rows]

    assert numbers("--dead") == [2, 3, 4]
    assert numbers("--pending") == [None]
    assert numbers("--channel", "mail") == [4]
    assert numbers("--reason", "rejected", "--channel", "chat") == [2]
    assert numbers("--dead", "--older-than", "1d") == [2, 3, 4]
    assert numbers("--dead", "--older-than", "99999d") == []
    assert numbers("--key", "bob") == []
    assert numbers("--limit", "4") == [None, 2, 3, 4]
    assert numbers("--dead", "--reason", "rejected", "--limit", "2") == [2, 4]
    told = deliveries("list", "--json", "--dead", "--limit", "2")
    assert [json.loads(line)["number"] for line in told.out.splitlines()] == [2, 3]
    assert told.err == "there are more than 2; --limit has them, or a filter\n"


def test_show(deliveries: Any, either: str) -> None:
    (row,) = deliveries("show", 3, "--json").rows
    assert (row["text"], row["native_id"], row["number"]) == ("two", ODD, 3)
    assert deliveries("show", row["id"], "--json").rows == [row]
    told = deliveries("show", "3").out
    assert told.endswith("\ntwo\n")
    assert "2023-11-1" in told
    assert "\x1b" not in told
    assert "(delivery_not_found)" in deliveries("show", "77").one_line(1)


def test_replay_and_purge(deliveries: Any, either: str, tmp_path: Path) -> None:
    assert deliveries("replay", 2, "3").out == "replayed 2 dead letters\n"
    assert deliveries("purge", "--channel", "mail", "--yes").out == "purged 1 dead letter\n"
    assert "(delivery_not_found)" in deliveries("replay", "2").one_line(1)
    assert deliveries("replay", "--all", "--json").rows[0]["event"] == "replayed"
    if either == "served":
        until(lambda: (tmp_path / "got").exists() and (tmp_path / "got").read_text() == "one\n")
    else:
        assert [row["state"] for row in deliveries("list", "--json").rows] == ["pending"] * 3


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)


@pytest.mark.parametrize("what", ["deliveries list", "deliveries list --json", "actors list"])
def test_a_reader_who_has_enough_is_no_error(folder: Path, either: str, what: str) -> None:
    """As `head` has it; without a buffer each line fails, and with one it may be the process's end."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "afactors", *what.split(), "--state-dir", folder, "--map-size", "256M"]
    environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": "1" if what.startswith("deliveries") else ""}
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


def in_a_shell(folder: Path, what: str, **environment: str) -> tuple[int, str, str]:
    """Exit code and output of a command line as a shell runs it."""
    line = what.replace("afactors", f"exec {sys.executable} -m afactors", 1)
    environment = {**ENVIRONMENT, "AFACTORS_STATE_DIR": str(folder), "AFACTORS_MAP_SIZE": "256M", **environment}
    ended = subprocess.run(["/bin/sh", "-c", line], capture_output=True, env=environment, check=False, text=True)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="it takes a disk that is full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_is_full_is_told_in_one_line(folder: Path, unbuffered: str) -> None:
    told = in_a_shell(folder, "afactors deliveries list --json > /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert told == (1, "", "afactors: [Errno 28] No space left on device\n")


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("deliveries list <&- >&-", (0, "", "")),
        ("actors list 2>&- >&-", (0, "", "")),
        ("actors erase ada <&-", (2, "", "afactors: erasing cannot be undone; say --yes\n")),
        ("deliveries show 77 2>&-", (1, "", "")),
    ],
)
def test_a_stream_that_is_closed_leads_nowhere(folder: Path, what: str, told: tuple[int, str, str]) -> None:
    assert in_a_shell(folder, f"afactors {what}") == told


def test_what_the_terminal_has_no_signs_for_is_escaped(folder: Path) -> None:
    code, out, err = in_a_shell(folder, "afactors deliveries list", PYTHONIOENCODING="ascii")
    assert (code, err) == (0, "")
    assert r"\xf6dd \x1b" in out


@pytest.mark.parametrize("what", ["deliveries list --json", "actors list"])
def test_a_reader_keeps_nobody_waiting(
    folder: Path, either: str, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is printed before the folder is closed, or the server let go: a pager may take it in the next day."""
    do: Callable[..., Any] = Folder.do

    def done(*args: Any, **more: Any) -> Any:
        result = do(*args, **more)
        assert capsys.readouterr().out == ""
        return result

    monkeypatch.setattr(Folder, "do", done)
    assert main([*what.split(), "--state-dir", str(folder), "--map-size", "256M"], {}) == 0
    assert "ada" in capsys.readouterr().out


# --- where nobody serves


def test_what_people_see(deliveries: Any) -> None:
    told = deliveries("list")
    head, *rows = told.out.splitlines()
    assert (told.code, told.err, len(rows)) == (0, "", 4)
    assert head.split() == ["ID", "STATE", "CHANNEL", "TO", "KIND", "KEY", "TRIES", "WHEN", "WHY"]
    assert all(row[head.index("STATE") :].startswith(("dead", "pending")) for row in rows)
    assert all(row[head.index("KIND") :].startswith("message") for row in rows)
    assert "due now" in rows[0]
    assert "\x1b" not in told.out
    assert rows[1].endswith("rejected: said no")
    told = deliveries("list", "--limit", "2")
    assert len(told.out.splitlines()) == 3
    assert "--limit" in told.err
    assert deliveries("list", "--limit", "4").err == "", "that is all"
    assert deliveries("list", "--key", "bob").out == "there are none\n"


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}])
def test_who_wants_no_colours(deliveries: Any, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ("\x1b[31mdead" in deliveries("list").out) == (not environment)


def test_colours_are_for_terminals() -> None:
    row = {
        "id": "x",
        "number": 7,
        "state": "dead",
        "channel": "chat",
        "native_id": "ada",
        "conversation": "",
        "kind": "reply",
        "isolation_key": "k" * 90,
        "attempts": 2,
        "unsure": True,
        "died": 90.0,
        "reason": "expired",
        "error": "",
    }
    coloured, plain = table([row], 100.0, colours=True), table([row], 100.0)
    assert "\x1b[31mdead" in coloured
    assert coloured.replace("\x1b[31m", "").replace("\x1b[0m", "") == plain
    assert "  2?  " in plain
    assert "k" * 41 not in plain
    assert "k" * 90 in details(row, 100.0)


@pytest.mark.parametrize(
    ("at", "told"),
    [(0.0, "now"), (1e9 - 5, "5 s ago"), (1e9 + 5, "in 5 s"), (1e9 - 600, "10 min ago"), (1e9 + 7200, "in 2 h")],
)
def test_times_are_relative_and_absolute(at: float, told: str) -> None:
    shown = moment(at, 1e9)
    assert shown == told if at == 0 else shown.startswith(f"{told} (2001-09-0")


@pytest.mark.parametrize("at", [1e13, 1e18, 1e30, 1e300])
def test_an_age_beyond_the_calendar(at: float) -> None:
    assert "in " in moment(at, NOW)


def test_to_purge_wants_somebody_who_is_sure(deliveries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--yes" in deliveries("purge", "--all").one_line(2)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    asked: list[str] = []
    for answer, code in (("", 1), ("n", 1), ("yes", 0)):
        monkeypatch.setattr("builtins.input", lambda text, answer=answer: asked.append(text) or answer)
        assert deliveries("purge", "--reason", "rejected").code == code
    assert [row["number"] for row in deliveries("list", "--dead", "--json").rows] == [3]
    assert asked == ["Purge all dead letters with reason rejected? It cannot be undone. [y/N] "] * 3


def test_who_ends_the_input_is_not_sure(deliveries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the question is no part of the output, which may go into a file."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    told = deliveries("purge", "--all")
    assert (told.code, told.out) == (1, "")
    assert told.err == "Purge all dead letters? It cannot be undone. [y/N] \nnothing was purged\n"
    assert len(deliveries("list", "--dead", "--json").rows) == 3


@pytest.mark.parametrize("what", [["replay"], ["purge", "--yes"]])
def test_it_has_to_be_said_which(deliveries: Any, what: list[str]) -> None:
    assert "say which" in deliveries(*what).one_line(2)
    assert "say which" in deliveries(*what, "1", "--all").one_line(2)
    assert "say which" in deliveries(*what, "1", "--channel", "chat").one_line(2)
    assert len(deliveries("list", "--dead", "--json").rows) == 3


def test_what_cannot_be_done_is_told_in_one_line(deliveries: Any, tmp_path: Path) -> None:
    assert "no state in" in deliveries("list", state=tmp_path / "nowhere").one_line(1)
    for age in ("x", "5y", "-1d", "inf", "nan", ""):
        assert "--older-than" in deliveries("list", f"--older-than={age}").one_line(2)
    for limit in ("many", "-1", "9" * 5000):
        assert "--limit" in deliveries("list", f"--limit={limit}").one_line(2)
    (waiting,) = deliveries("list", "--pending", "--json").rows
    assert "(not_dead)" in deliveries("replay", waiting["id"]).one_line(1)


def test_a_folder_into_which_nobody_can_look(deliveries: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_told_of_a_folder_into_which_nobody_can_look(deliveries, folder, monkeypatch)


def test_what_cannot_be_run_again_is_told(folder: Path, deliveries: Any) -> None:
    letter = NewDelivery(LETTERS, b"of the future", dead=Dead("attempts_exhausted", died=NOW))

    async def put(store: LmdbStore) -> None:
        await store.commit(await store.claim("bob"), Commit(deliveries=[letter]))

    with_store(folder, put)
    told = deliveries("replay", "--all")
    assert (told.code, told.out) == (1, "replayed 3 dead letters\n")
    assert told.err == "1 letter of a run is left, which this version cannot read; update afactors, or purge\n"
    assert "(unknown_version)" in deliveries("replay", "5").one_line(1)


def test_every_option_has_a_twin_and_a_default() -> None:
    assert [option.twin for option in DELIVERIES_OPTIONS] == [
        "AFACTORS_STATE_DIR",
        "AFACTORS_MAP_SIZE",
        "AFACTORS_JSON",
    ]


@pytest.mark.parametrize("arguments", [[], ["lst"], ["show"], ["show", "1", "2"], ["list", "--dead", "--pending"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["deliveries", *arguments], {})
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("afactors: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("what", ["list", "show"])
def test_a_look_leaves_the_folder_as_it_was(deliveries: Any, folder: Path, clean: bool, what: str) -> None:
    """Whether the last server crashed is for the next one to know."""

    async def leave(_store: LmdbStore) -> None:
        if not clean:
            raise RuntimeError("a crash")

    async def look(store: LmdbStore) -> bool:
        return store.left_cleanly

    try:
        with_store(folder, leave)
    except RuntimeError:
        assert not clean
    for _ in range(2):
        deliveries(*(["list"] if what == "list" else ["show", "77"]))
    assert with_store(folder, look) == clean


# --- where somebody does


def test_a_server_without_a_control_socket(deliveries: Any, server: Any, folder: Path) -> None:
    owner = server("off")
    assert not (folder / "control.sock").exists()
    told = deliveries("list").one_line(1)
    assert f"is owned by process {owner.pid}; no control socket answers there" in told
    assert "Runtime.deliveries" in told


def test_after_a_server_was_killed(deliveries: Any, server: Any, folder: Path) -> None:
    owner = server()
    owner.kill()
    owner.wait()
    assert (folder / "control.sock").exists()
    assert len(deliveries("list", "--json").rows) == 4
    owner.returncode = 0  # it did not stop by itself, and was not meant to


def test_single_actors(folder: Path, server: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line's `actors` by the server: it says the same as without one."""
    monkeypatch.chdir(tmp_path)

    def actors(*arguments: str) -> Ended:
        environment = {"AFACTORS_STATE_DIR": str(folder), "AFACTORS_MAP_SIZE": "256M"}
        return Ended(main(["actors", *arguments], environment), capsys.readouterr())

    server()
    assert actors("list").out == '"ada"\n'
    assert actors("list", "--json").rows == [{"key": "ada"}]
    (told,) = actors("export", "ada", "ada.actor", "--json").rows
    assert (told["key"], told["deliveries"], told["file"]) == ("ada", 4, "ada.actor")
    assert (tmp_path / "ada.actor").stat().st_size == told["size"]
    assert "(key_in_use)" in actors("import", "ada.actor").one_line(1)
    assert actors("import", "ada.actor", "--key", "bob").out.startswith('imported "bob" from ada.actor: 0 rows')
    assert actors("erase", "ada", "--yes").out == 'erased "ada"\n'
    assert 'no actor "ada"' in actors("erase", "ada", "--yes").one_line(1)
    assert "(actor_not_found)" in actors("export", "ada", "x").one_line(1)
    assert "(invalid_key)" in actors("erase", "", "--yes").one_line(1)
    assert "No such file" in actors("import", "nothing").one_line(1)
    assert actors("list").out == '"bob"\n'
