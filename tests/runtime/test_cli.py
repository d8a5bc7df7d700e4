"""The command line's pure part: arguments, what is hosted, and failures that are told in one line."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_framework import Agent

from afactors import cli
from afactors.cli import CHAT_OPTIONS, SERVE_OPTIONS, main
from afactors.limits import Limits
from afactors.loading import CannotLoad, load_target, model_factory
from afactors.options import Option


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, dict[str, Any]]]:
    """What `serve` was asked to do, instead of doing it."""
    calls: list[tuple[str | None, dict[str, Any]]] = []

    def serve(target: str | None, values: Any) -> int:
        calls.append((target, dict(values)))
        return 0

    monkeypatch.setattr(cli, "_serve", serve)
    return calls


@pytest.fixture
def chatted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(cli, "_chat", lambda values: calls.append(dict(values)) or 0)
    return calls


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder of one's own, from which modules can be imported."""
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


# --- arguments


@pytest.mark.parametrize(
    ("arguments", "target", "port"),
    [
        ([], None, 8000),
        (["serve"], None, 8000),
        (["mine:agent"], "mine:agent", 8000),
        (["--port", "81"], None, 81),
        (["serve", "mine:agent"], "mine:agent", 8000),
        (["serve", "--port", "81", "mine:agent"], "mine:agent", 81),
        (["serve", "mine:agent", "--port=81"], "mine:agent", 81),
    ],
)
def test_to_serve_is_the_default(served: Any, arguments: list[str], target: str | None, port: int):
    assert main(arguments, {}) == 0
    assert (served[0][0], served[0][1]["port"]) == (target, port)


def test_every_option_has_a_twin(served: Any):
    environment = {
        "AFACTORS_HOST": "0.0.0.0",  # noqa: S104 - nothing listens
        "AFACTORS_PORT": "81",
        "AFACTORS_STATE_DIR": "here",
        "AFACTORS_MAP_SIZE": "1G",
        "AFACTORS_WAIT_LOCK": "2",
        "AFACTORS_API_KEY": "a,b",
        "AFACTORS_MODEL": "m",
        "AFACTORS_OVERLAP": "Reject",
        "AFACTORS_TRUST_ISOLATION_HEADERS": "yes",
        "AFACTORS_IDLE_TIMEOUT": "3",
        "AFACTORS_DRAIN_TIMEOUT": "4",
        "AFACTORS_TURN_TIMEOUT": "5",
        "AFACTORS_CHECKPOINT_TYPE": "a:B, c:D",
        "AFACTORS_LOG_LEVEL": "INFO",
        "AFACTORS_JSON_LOGS": "1",
    }
    assert set(environment) == {option.twin for option in SERVE_OPTIONS}
    assert main([], environment) == 0
    ((_, values),) = served
    assert values == {
        "host": "0.0.0.0",  # noqa: S104 - nothing listens
        "port": 81,
        "state_dir": "here",
        "map_size": 1 << 30,
        "wait_lock": 2.0,
        "api_key": ("a", "b"),
        "model": "m",
        "overlap": "reject",
        "trust_isolation_headers": True,
        "idle_timeout": 3.0,
        "drain_timeout": 4.0,
        "turn_timeout": 5.0,
        "checkpoint_type": ("a:B", "c:D"),
        "log_level": "info",
        "json_logs": True,
    }


def test_the_defaults_are_those_of_the_runtime(served: Any):
    main([], {})
    ((_, values),) = served
    limits = Limits()
    for name in ("idle_timeout", "drain_timeout", "turn_timeout"):
        assert values[name] == getattr(limits, name)


def test_chat(chatted: Any):
    assert main(["chat", "--url", "http://x/v1", "--conversation", "c"], {"AFACTORS_API_KEY": "k"}) == 0
    assert chatted == [{"url": "http://x/v1", "api_key": "k", "conversation": "c", "state_dir": ".afactors"}]


@pytest.mark.parametrize("options", [SERVE_OPTIONS, CHAT_OPTIONS])
def test_every_default_can_be_parsed(options: tuple[Option, ...]):
    for option in options:
        option.value(None, {})


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (["--port", "http"], {}, "--port: 'http' is not a port between 0 and 65535"),
        ([], {"AFACTORS_PORT": "http"}, "AFACTORS_PORT: 'http' is not a port"),
        ([], {"AFACTORS_PROT": "81"}, "unknown environment variable AFACTORS_PROT; did you mean AFACTORS_PORT?"),
        (["chat"], {"AFACTORS_URI": "x"}, "did you mean AFACTORS_URL?"),
        (["--log-level", "loud"], {}, "--log-level: 'loud' is none of debug, info, warning, error"),
        (["--checkpoint-type", "Order"], {}, "--checkpoint-type: 'Order' is not module:Class, for example"),
        ([], {"AFACTORS_CHECKPOINT_TYPE": "a:B,"}, "AFACTORS_CHECKPOINT_TYPE: '' is not module:Class"),
        (["serve", "a:b", "--model", "m"], {}, "give a TARGET or --model, not both"),
    ],
)
def test_wrong_usage_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], environment: dict[str, str], told: str
):
    assert main(arguments, environment) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("afactors: ")
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "place"),
    [
        (["--api-key", ""], {}, "--api-key"),
        (["--api-key", "ключ"], {}, "--api-key"),
        ([], {"AFACTORS_API_KEY": "a,"}, "AFACTORS_API_KEY"),
    ],
)
def test_an_api_key_that_cannot_be_is_wrong_usage(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], environment: dict[str, str], place: str
):
    assert main(arguments, environment) == 2
    assert place in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["a:b", "c:d"], ["--unknown"], ["chat", "--port", "1"], ["serve", "a:b", "c:d"]])
def test_unknown_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str]):
    with pytest.raises(SystemExit) as left:
        main(arguments, {})
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("afactors: unrecognized arguments: ")
    assert "--help" in told
    assert told.count("\n") == 1


def test_help_and_version(capsys: pytest.CaptureFixture[str]):
    for argument, told in (("--help", "serve the built-in demonstration agent"), ("--version", "afactors ")):
        with pytest.raises(SystemExit) as left:
            main([argument], {})
        assert left.value.code == 0
        assert told in capsys.readouterr().out


def test_a_target_that_cannot_be_had_is_told_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["serve", "no_such_module:agent"], {}) == 1
    err = capsys.readouterr().err
    assert err.startswith("afactors: there is no module 'no_such_module'")
    assert err.count("\n") == 1
    assert not (folder / ".afactors").exists(), "nothing was made for it"


# --- what is hosted


def test_a_module_of_the_current_folder(folder: Path):
    (folder / "cli_mine.py").write_text("class box:\n    agent = 'found'\n")
    assert load_target("cli_mine:box") is not None
    assert load_target("cli_mine:box.agent") == "found"


@pytest.mark.parametrize("spec", ["", "agent", "mine:", ":agent", ":"])
def test_what_is_no_target(spec: str):
    with pytest.raises(CannotLoad, match="is not module:attribute, for example my_agents:agent"):
        load_target(spec)


def test_a_module_that_is_not_there(folder: Path):
    with pytest.raises(CannotLoad, match=r"there is no module 'cli_missing'; run from the folder that holds it"):
        load_target("cli_missing:agent")


def test_a_module_that_imports_one_that_is_not_there(folder: Path):
    (folder / "cli_importing.py").write_text("import cli_absent\n")
    with pytest.raises(CannotLoad, match=r"there is no module 'cli_absent' \(imported by 'cli_importing'\)"):
        load_target("cli_importing:agent")


def test_a_module_that_fails(folder: Path):
    (folder / "cli_failing.py").write_text("raise ValueError('no key')\n")
    with pytest.raises(CannotLoad, match="importing 'cli_failing' failed: ValueError: no key"):
        load_target("cli_failing:agent")


def test_a_module_that_is_no_python(folder: Path):
    (folder / "cli_broken.py").write_text("agent = (\n")
    with pytest.raises(CannotLoad, match="importing 'cli_broken' failed: SyntaxError"):
        load_target("cli_broken:agent")


def test_an_attribute_that_is_not_there(folder: Path):
    (folder / "cli_other.py").write_text("my_agent = 1\n")
    with pytest.raises(CannotLoad, match=r"module 'cli_other' has no 'my_agnet'; did you mean 'my_agent'\?"):
        load_target("cli_other:my_agnet")
    with pytest.raises(CannotLoad, match=r"module 'cli_other' has no 'zzz'$"):
        load_target("cli_other:zzz")


def test_a_model_needs_a_key_or_a_server():
    pytest.importorskip("agent_framework_openai")
    with pytest.raises(CannotLoad, match="OPENAI_API_KEY, or OPENAI_BASE_URL"):
        model_factory("gpt-5", {})


@pytest.mark.parametrize(
    "environment", [{"OPENAI_API_KEY": "k"}, {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}], ids=["key", "local server"]
)
def test_a_model(environment: dict[str, str]):
    pytest.importorskip("agent_framework_openai")
    agent = model_factory("some-model", environment)()
    assert isinstance(agent, Agent)
    assert agent.name == "assistant"
