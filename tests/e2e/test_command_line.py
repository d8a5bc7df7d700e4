"""What somebody sees who starts it for the first time and gets something wrong: one line that says what to do."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from afactors.cli import main

Run = Callable[..., "Ended"]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    def one_line(self, code: int) -> str:
        """The one line that it said."""
        assert (self.code, self.out) == (code, "")
        line, end, rest = self.err.partition("\n")
        assert (end, rest) == ("\n", ""), self.err
        assert line.startswith("afactors: ")
        return line.removeprefix("afactors: ")


@pytest.fixture
def run(agents_folder: Path, environment: Any, tmp_path: Path) -> Run:
    """Runs the program to its end; `serve` and a free port and folder unless told otherwise."""

    def run(*arguments: str, stdin: str = "", target: str | None = "lab:agent", **variables: str) -> Ended:
        serving = ["serve", *([target] if target else []), "--port", "0", "--state-dir", str(tmp_path / "state")]
        given = list(arguments) if arguments[:1] == ("chat",) else [*serving, *arguments]
        done = subprocess.run(
            [sys.executable, "-m", "afactors", *given],
            cwd=agents_folder,
            env=environment(**variables),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


# -- the target


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere:agent", ["nowhere", "folder"]),
        ("lab", ["'lab'", "module:attribute"]),
        ("lab:", ["'lab:'", "module:attribute"]),
        ("lab:agnet", ["'lab'", "'agnet'", "did you mean 'agent'"]),
        ("lab:number", ["expected an agent", "int"]),
        ("lab:Obedient", ["expected an agent", "Obedient"]),
        ("broken:number_factory", ["expected an agent", "int"]),
        ("broken:workflow_as_agent", ["workflow as an agent", "give the workflow itself"]),
        ("flows_more:locked", ["cannot be copied", "give a function that builds a new one"]),
        ("flows_more:alone", ["an executor is a part of a workflow", "WorkflowBuilder"]),
        ("flows_more:make_nothing", ["WorkflowBuilder expected an Executor"]),
        ("needs_more:agent", ["'surely_not_installed'", "'needs_more'"]),
        ("broken_import:agent", ["'broken_import'", "RuntimeError", "no configuration"]),
        ("broken_at_length:agent", ["'broken_at_length'", "RuntimeError", "no configuration"]),
        ("broken:failing_factory", ["RuntimeError", "no database"]),
    ],
)
def test_a_target_that_cannot_be_hosted(run: Run, target: str, words: list[str]) -> None:
    line = run(target=target).one_line(1)
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flows_more:Unregisterd", ["'flows_more'", "did you mean 'Unregistered'?"]),
        ("flows_more:alone", ["no class", "FunctionExecutor"]),
        ("nowhere:Order", ["no module 'nowhere'"]),
    ],
)
def test_a_checkpoint_type_that_cannot_be_had(run: Run, tmp_path: Path, name: str, words: list[str]) -> None:
    line = run("--checkpoint-type", name, target="flows_more:forgetful").one_line(1)
    assert line.startswith(f"--checkpoint-type {name}: ")
    for word in words:
        assert word in line
    assert not (tmp_path / "state").exists(), "nothing was made for it"


@pytest.mark.parametrize("how", ["option", "variable", "not"])
def test_a_checkpoint_type(servers: Any, how: str) -> None:
    """Without it, the first question fails, and what it says to its caller says what to do."""
    names = "lab:Obedient", "flows_more:Unregistered"
    options = [part for name in names for part in ("--checkpoint-type", name)] if how == "option" else []
    variables = {"AFACTORS_CHECKPOINT_TYPE": ", ".join(names)} if how == "variable" else {}
    client = servers.command(*options, target="flows_more:forgetful", environment=variables).client()
    if how == "not":
        with pytest.raises(openai.InternalServerError) as caught:
            client.responses.create(model="m", input="disk")
        assert caught.value.code == "checkpoint_refused"
        assert "flows_more:Unregistered" in caught.value.message
        assert "checkpoint_types" in caught.value.message
        return
    asked = client.responses.create(model="m", input="disk")
    output = {"type": "function_call_output", "call_id": asked.output[0].call_id, "output": "true"}
    answer = client.responses.create(model="m", input=[output], previous_response_id=asked.id)
    assert answer.output_text == "disk: True"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("flows_more:make_slowly", "Hello!"),
        ("flows_more:make_functional", "heard: Hello!"),
        ("flows_more:typed", "1 of text"),
    ],
)
def test_what_to_try_of_a_workflow(servers: Any, until: Any, tmp_path: Path, target: str, said: str) -> None:
    """The first call that it prints works as it stands, whatever the workflow takes."""
    folder = str(tmp_path / "state")
    types = {"AFACTORS_CHECKPOINT_TYPE": "flows_more:Order"}
    server = servers._start(["-m", "afactors", target, "--port", "0", "--state-dir", folder], types)
    until(lambda: "Ctrl-C" in server.stdout, "it says how to stop it")
    assert server.stdout.startswith(f"afactors 0.1.0 serves {target}\n")
    call = server.stdout[server.stdout.index("curl") : server.stdout.index("python -m afactors chat")].strip()
    reply = json.loads(subprocess.run(["bash", "-c", call], capture_output=True, text=True, timeout=60).stdout)
    assert reply["status"] == "completed"
    assert [item["content"][0]["text"] for item in reply["output"]] == [said]
    assert "request_info" in server.stdout
    server.signal(signal.SIGINT)
    assert server.wait() == 0


def test_a_model_without_what_it_needs(run: Run) -> None:
    line = run("--model", "gpt-5", target=None).one_line(1)
    installed = importlib.util.find_spec("agent_framework_openai") is not None
    assert ("OPENAI_API_KEY" if installed else "pip install 'afactors[openai]'") in line


# -- the machine


def test_a_port_that_is_taken(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        line = run("--port", number).one_line(1)
    assert f"127.0.0.1:{number}" in line
    assert "--port" in line


def test_a_port_that_another_server_has(run: Run, lab: Any) -> None:
    number = lab.root.rpartition(":")[2]
    assert number in run("--port", number).one_line(1)
    assert httpx.get(f"{lab.root}/healthz", trust_env=False).status_code == 200


def test_an_address_that_is_not_ours(run: Run) -> None:
    assert "203.0.113.1" in run("--host", "203.0.113.1").one_line(1)


def test_an_output_that_nobody_reads(environment: Any, tmp_path: Path) -> None:
    """It serves all the same."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command, variables = [sys.executable, "-m", "afactors", "--port", str(port)], environment()
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=writer, stderr=subprocess.PIPE) as server:
        os.close(writer)
        assert server.stderr is not None
        assert b"cannot be written: [Errno 32] Broken pipe" in server.stderr.readline()
        assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        server.send_signal(signal.SIGTERM)
        assert (server.stderr.read(), server.wait(30)) == (b"", 0)


def test_a_state_folder_that_is_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("precious")
    line = run().one_line(1)
    assert str(tmp_path / "state") in line
    assert "--state-dir" in line
    assert (tmp_path / "state").read_text() == "precious"


def test_a_state_folder_that_holds_something_else(run: Run, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "data.mdb").write_bytes(b"precious" * 1000)
    assert str(tmp_path / "state") in run().one_line(1)
    assert (tmp_path / "state" / "data.mdb").read_bytes() == b"precious" * 1000


def test_a_state_folder_that_another_process_owns(run: Run, servers: Any, tmp_path: Path) -> None:
    owner = servers.command(state=tmp_path / "state")
    line = run().one_line(1)
    assert str(owner.process.pid) in line
    assert str(tmp_path / "state") in line
    began = time.monotonic()
    line = run("--wait-lock", "0.7").one_line(1)
    assert time.monotonic() - began > 0.7
    assert str(owner.process.pid) in line
    assert owner.client().responses.create(model="m", input="unharmed").output_text == "1: unharmed"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_waiting_for_the_owner_to_stop(servers: Any, told: Any, tmp_path: Path, end: str) -> None:
    """A rolling restart: the next one takes over, with everything in it."""
    owner = servers.command(state=tmp_path / "state")
    told(owner.client(), "before", conversation="rolling")
    heir = servers.command("--wait-lock", "30", state=tmp_path / "state", ready=False)
    time.sleep(1.0)
    assert heir.process.poll() is None
    assert heir.stdout == ""
    getattr(owner, end)()
    heir.wait_ready(heir.announced)
    assert told(heir.client(), "after", conversation="rolling") == "2: after"


# -- usage


def said(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """What a call of `main` in this process said: a process for each would take its time, and shows no more."""
    out, err = capsys.readouterr()
    return Ended(code, out, err).one_line(2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "99999"], ["--port", "65535"]),
        (["--port", "-1"], ["--port", "'-1'"]),
        (["--idle-timeout", "soon"], ["--idle-timeout", "seconds"]),
        (["--drain-timeout", "0"], ["--drain-timeout", "above 0"]),
        (["--turn-timeout", "nan"], ["--turn-timeout"]),
        (["--map-size", "big"], ["--map-size", "64G"]),
        (["--log-level", "loud"], ["--log-level", "warning"]),
        (["--checkpoint-type", "Order"], ["--checkpoint-type", "module:Class"]),
    ],
)
def test_an_option_that_cannot_be_understood(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    line = said(main(["serve", "lab:agent", *arguments], {}), capsys)
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AFACTORS_STATE_DIRECTORY", "x", ["AFACTORS_STATE_DIRECTORY", "AFACTORS_STATE_DIR"]),
        ("AFACTORS_IDLE_TIMEOUT", "soon", ["AFACTORS_IDLE_TIMEOUT", "'soon'"]),
        ("AFACTORS_JSON_LOGS", "perhaps", ["AFACTORS_JSON_LOGS", "'perhaps'"]),
        ("AFACTORS_PORT", "http", ["AFACTORS_PORT", "'http'"]),
    ],
)
def test_a_variable_that_cannot_be_understood(
    capsys: pytest.CaptureFixture[str], name: str, value: str, words: list[str]
) -> None:
    line = said(main(["serve", "lab:agent"], {name: value}), capsys)
    for word in words:
        assert word in line


def test_usage_in_a_process_of_its_own(run: Run) -> None:
    line = run("--port", "eighty").one_line(2)
    assert "--port" in line
    assert "'eighty'" in line
    line = run(AFACTORS_PROT="8000").one_line(2)
    assert "AFACTORS_PROT" in line
    assert "did you mean AFACTORS_PORT" in line
    line = run("--model", "gpt-5").one_line(2)
    assert "TARGET" in line
    assert "--model" in line


@pytest.mark.parametrize("key", ["", "schlüssel"])
def test_a_key_that_cannot_be_one(run: Run, key: str) -> None:
    assert "--api-key" in run("--api-key", key).one_line(2)


def test_an_unknown_option(run: Run) -> None:
    ended = run("--prot", "80")
    assert ended.code == 2
    assert "--prot" in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err


def test_environment_twins(servers: Any, agents_folder: Path, tmp_path: Path) -> None:
    """Everything by the environment, nothing on the command line."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {
        "AFACTORS_HOST": "127.0.0.1",
        "AFACTORS_PORT": str(port),
        "AFACTORS_STATE_DIR": str(tmp_path / "by-environment"),
        "AFACTORS_API_KEY": "first-key, second-key",
        "AFACTORS_TURN_TIMEOUT": "0.5",
        "AFACTORS_DRAIN_TIMEOUT": "5",
        "AFACTORS_IDLE_TIMEOUT": "60",
        "AFACTORS_LOG_LEVEL": "ERROR",
        "AFACTORS_JSON_LOGS": "yes",
        "AFACTORS_MAP_SIZE": "1G",
        "AFACTORS_WAIT_LOCK": "1",
    }
    server = servers._start(["-m", "afactors", "serve", "lab:agent"], variables)
    server.wait_ready(server.announced)
    first = json.loads(server.stdout.splitlines()[0])
    assert first["address"] == f"http://127.0.0.1:{port}/v1"
    assert first["state"] == str(tmp_path / "by-environment")
    for key in ("first-key", "second-key"):
        assert server.client(api_key=key).responses.create(model="m", input="hi").output_text == "1: hi"
    with pytest.raises(openai.AuthenticationError):
        server.client(api_key="first-key, second-key").responses.create(model="m", input="hi")
    with pytest.raises(openai.InternalServerError) as caught:
        server.client(api_key="first-key").responses.create(model="m", input="forever")
    assert caught.value.status_code == 504


def test_the_command_line_wins_over_the_environment(servers: Any, tmp_path: Path) -> None:
    server = servers.command(state=tmp_path / "right", environment={"AFACTORS_STATE_DIR": str(tmp_path / "wrong")})
    assert (tmp_path / "right").is_dir()
    assert not (tmp_path / "wrong").exists()
    assert server.stop() == 0


# -- the way in


def test_with_no_argument_it_serves_the_demonstration(tmp_path: Path, environment: Any, until: Any) -> None:
    """`python -m afactors` in an empty folder; only the port is not its own choice."""
    out = tmp_path / "out"
    folder = tmp_path / "empty"
    folder.mkdir()
    with out.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "afactors"],
            cwd=folder,
            env=environment(AFACTORS_PORT="0"),
            stdout=sink,
            stderr=subprocess.PIPE,
        )
        try:
            until(lambda: "Ctrl-C" in out.read_text(), "it says how to stop it")
            text = out.read_text()
            address = text.partition("address")[2].split()[0]
            assert f"state    {folder / '.afactors'} (0 conversations found)" in text
            # The first call that it prints works as it stands.
            call = text[text.index("curl") : text.index("python -m afactors chat")].strip()
            reply = subprocess.run(["bash", "-c", call], capture_output=True, text=True, timeout=60)
            assert "Ada" in json.loads(reply.stdout)["output"][0]["content"][0]["text"]
            with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
                response = client.responses.create(model="m", input="What is my name?", conversation="first")
            assert "Ada" in response.output_text
        finally:
            process.terminate()
            _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert out.read_text().splitlines()[-1].startswith("stopped in ")


def test_help_names_every_option_and_its_twin(run: Run) -> None:
    ended = run("--help")
    assert ended.code == 0
    for name in ("host", "port", "state-dir", "api-key", "idle-timeout", "drain-timeout", "log-level", "json-logs"):
        assert f"--{name}" in ended.out
        assert f"AFACTORS_{name.replace('-', '_').upper()}" in ended.out


def test_the_current_folder_is_importable_and_no_other(run: Run, environment: Any, tmp_path: Path) -> None:
    """A module of the same folder is found; from elsewhere it is not."""
    done = subprocess.run(
        [sys.executable, "-m", "afactors", "serve", "lab:agent", "--port", "0"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "'lab'" in done.stderr
    assert os.listdir(tmp_path) == []  # and nothing was made on the way


# -- the chat


def test_chat_goes_on_in_the_next_sitting(run: Run, servers: Any, tmp_path: Path) -> None:
    server = servers.command("--api-key", "sesame")
    chat = ["chat", "--url", server.base_url, "--api-key", "sesame", "--state-dir", str(tmp_path / "mine")]
    first = run(*chat, stdin="hello\nhow are you\n")
    assert (first.code, first.err) == (0, "")
    assert first.out.splitlines() == ["1: hello", "2: how are you"]
    second = run(*chat, stdin="still here\n/new\nanew\n/quit\nunheard\n")
    assert (second.code, second.err) == (0, "")
    assert [line for line in second.out.splitlines() if ":" in line] == ["3: still here", "1: anew"]
    assert server.journal("unheard") == []


@pytest.mark.parametrize("fault", ["nobody there", "wrong key", "failing agent"])
def test_chat_that_goes_wrong(run: Run, servers: Any, tmp_path: Path, fault: str) -> None:
    state = ["--state-dir", str(tmp_path / "mine")]
    if fault == "nobody there":
        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        ended = run("chat", "--url", url, *state, stdin="hello\n")
        expected = "python -m afactors"
    else:
        server = servers.command("--api-key", "sesame")
        key = "sesame" if fault == "failing agent" else "open"
        ended = run("chat", "--url", server.base_url, "--api-key", key, *state, stdin="fail s3cr3t\n")
        expected = "API key" if fault == "wrong key" else "failed"
        assert "s3cr3t" not in ended.out
    assert ended.code == 1
    assert expected in ended.out
    assert "Traceback" not in ended.out + ended.err
