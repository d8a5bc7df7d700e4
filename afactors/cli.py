"""The command line: `serve` (also with no argument), `chat`, `actors` and `deliveries`."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import trio

from afactors_channels import ResponsesChannel
from afactors_store import LmdbStore, StoreError

from . import offline, tending
from .advice import for_newcomers
from .hosting import TargetSource, TargetUnusable
from .loading import CannotLoad, load_target, model_factory
from .offline import ACTORS_OPTIONS, CannotDo
from .options import (
    BadOption,
    Option,
    api_key,
    check_environment,
    class_name,
    one_of,
    port,
    seconds,
    seconds_or_none,
    size,
)
from .reports import DrainReport
from .runtime import DEFAULT_STATE_DIR, Runtime
from .serve import AddressUnavailable, serve
from .tending import DELIVERIES_OPTIONS

PROGRAM = "python -m afactors"

_KEY = Option("api-key", "a bearer token that callers must send; repeatable", (), api_key, "KEY", many=True)
_STATE_DIR = Option("state-dir", "folder that holds all state", DEFAULT_STATE_DIR, metavar="FOLDER")
_LOG_LEVEL = Option(
    "log-level", "debug, info, warning or error", "warning", one_of("debug", "info", "warning", "error"), "LEVEL"
)

SERVE_OPTIONS = (
    Option("host", "address to listen on", "127.0.0.1", metavar="ADDRESS"),
    Option("port", "port to listen on; 0 lets the system choose", 8000, port, "PORT"),
    _STATE_DIR,
    Option("map-size", "most that the state may grow to", "64G", size, "SIZE"),
    Option("wait-lock", "wait for another process to give up the state folder", 0.0, seconds_or_none, "SECONDS"),
    _KEY,
    Option("model", "host a real model instead (openai extra; OPENAI_API_KEY, OPENAI_BASE_URL)", metavar="NAME"),
    Option(
        "overlap",
        "what becomes of a message to a busy conversation: enqueue, reject, interrupt, latest or coalesce",
        "enqueue",
        one_of("enqueue", "reject", "interrupt", "latest", "coalesce"),
        "POLICY",
    ),
    Option("trust-isolation-headers", "believe x-agent-user-isolation-key and x-agent-chat-isolation-key", flag=True),
    Option("idle-timeout", "passivate a conversation that was quiet for so long", 300.0, seconds, "SECONDS"),
    Option("drain-timeout", "how long running turns may finish on shutdown", 10.0, seconds, "SECONDS"),
    Option("turn-timeout", "longest run of the agent for one turn", 600.0, seconds, "SECONDS"),
    Option(
        "checkpoint-type",
        "a class that a workflow's checkpoints may hold; repeatable",
        (),
        class_name,
        "MODULE:CLASS",
        many=True,
    ),
    _LOG_LEVEL,
    Option("json-logs", "log (and announce) in JSON, a line each", flag=True),
)

CHAT_OPTIONS = (
    Option("url", "base URL of the server", "http://127.0.0.1:8000/v1", metavar="URL"),
    Option("api-key", "key to send as a bearer token", metavar="KEY"),
    Option("conversation", "conversation to go on with (default: the last one, or a new one)", metavar="ID"),
    Option("state-dir", "folder that remembers the conversation", DEFAULT_STATE_DIR, metavar="FOLDER"),
)

_OPTIONS: Mapping[str, tuple[Option, ...]] = {
    "serve": SERVE_OPTIONS,
    "chat": CHAT_OPTIONS,
    "actors": ACTORS_OPTIONS,
    "deliveries": DELIVERIES_OPTIONS,
}

_DOING = {"actors": offline.run, "deliveries": tending.run}

_DESCRIPTION = """\
Host an agent for many durable conversations, over the OpenAI Responses API.

  {program}                          serve the built-in demonstration agent (no key, no network)
  {program} serve my_agents:agent    serve an agent or a workflow of yours, or a factory of one
  {program} serve --model gpt-5      serve a real model (needs the openai extra and a key)
  {program} chat                     talk to a running server
  {program} actors list              list, export, import and erase what single conversations hold
  {program} deliveries list          list, show, replay and purge what goes out to people
"""

_SERVE_HELP = """\
Serve one agent or workflow on http://HOST:PORT/v1/responses; any OpenAI SDK can call it.

TARGET is module:attribute: an agent-framework agent or workflow, a builder of one, or a function (sync or async) that
makes any of these. The current folder is importable. Without TARGET the demonstration agent is served.

Every conversation survives a restart and a crash: state is in --state-dir, one process at a time. Ctrl-C (or SIGTERM)
lets running turns finish for --drain-timeout; a second one stops them at once.
"""

_FAILURES = (BadOption, CannotLoad, StoreError, AddressUnavailable, TargetUnusable, CannotDo)


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run the command line; returns the exit code: 0, 1 for a failure that was told, 2 for wrong usage.

    Where nobody reads its output any more (`head` has enough), it ends like others do, with nothing said.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    _prepare_streams()
    try:
        try:
            return _main(given, environment)
        finally:
            sys.stdout.flush()  # here, where it can be told
    except BrokenPipeError:
        _write_no_more()
        return 128 + signal.SIGPIPE
    except OSError as exc:  # where to write is full, most likely
        _write_no_more()
        return _complain(str(exc), 1)


def _main(given: list[str], environment: Mapping[str, str]) -> int:
    if not given or given[0] not in (*_OPTIONS, "-h", "--help", "--version"):
        given.insert(0, "serve")
    parsed = _parser().parse_args(given)
    try:
        return _run(parsed, environment)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BadOption as exc:
        return _complain(str(exc), 2)
    except _FAILURES as exc:
        return _complain(str(exc), 1)
    except BaseExceptionGroup as group:
        known = _only_failure(group)
        if known is None:
            raise
        return _complain(str(known), 1)


def _run(parsed: argparse.Namespace, environment: Mapping[str, str]) -> int:
    options = _OPTIONS[parsed.command]
    check_environment(environment, {option.twin for known in _OPTIONS.values() for option in known})
    values = {option.attribute: option.value(getattr(parsed, option.attribute), environment) for option in options}
    if parsed.command == "chat":
        return _chat(values)
    if parsed.command in _DOING:
        return _DOING[parsed.command](parsed, values, _ask if sys.stdin.isatty() else None)
    return _serve(parsed.target, values)


def _ask(text: str) -> str:
    """Whoever sits there, on stderr, since the output may go elsewhere; who ends the input has nothing to say."""
    try:
        with redirect_stdout(sys.stderr):
            return input(text)
    except EOFError:
        print(file=sys.stderr)
        return ""


def _prepare_streams() -> None:
    """What is closed leads nowhere; what a terminal has no signs for is escaped, as it is on stderr anyway."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lives
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _write_no_more() -> None:
    """What is in the buffer still is not tried once more when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class _Parser(argparse.ArgumentParser):
    """A parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"afactors: {message}; {PROGRAM} {{{','.join(_OPTIONS)}}} --help has the options\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description=_DESCRIPTION.format(program=PROGRAM),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"afactors {version('afactors')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    serving = commands.add_parser(
        "serve",
        help="serve an agent or a workflow (the default)",
        description=_SERVE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serving.add_argument("target", nargs="?", metavar="TARGET", help="module:attribute")
    chatting = commands.add_parser("chat", help="talk to a running server in the terminal")
    for options, command in ((SERVE_OPTIONS, serving), (CHAT_OPTIONS, chatting)):
        for option in options:
            option.add_to(command)
    offline.add_to(commands)
    tending.add_to(commands)
    return parser


def _serve(target: str | None, values: Mapping[str, Any]) -> int:
    _set_up_logging(values["log_level"], as_json=values["json_logs"])
    source, name = _target(target, values["model"])
    checkpoint_types = [_checkpoint_type(one) for one in values["checkpoint_type"]]
    store = LmdbStore(values["state_dir"], map_size=values["map_size"])
    runtime = Runtime(
        source,
        channels=[_channel(values)],
        store=store,
        overlap=values["overlap"],
        wait_lock=values["wait_lock"],
        idle_timeout=values["idle_timeout"],
        drain_timeout=values["drain_timeout"],
        turn_timeout=values["turn_timeout"],
        checkpoint_types=checkpoint_types,
    )

    def announce(base_url: str) -> None:
        try:
            _announce(base_url, name, values, runtime)
        except OSError as exc:  # it serves, whoever hears of it
            logging.getLogger("afactors.cli").warning("what there is to say cannot be written: %s", exc)
            _write_no_more()

    async def run() -> DrainReport:
        return await serve(runtime, values["host"], values["port"], started=announce)

    report = trio.run(run)
    _say(str(report), values["json_logs"], event="stopped", **asdict(report))
    if runtime.broken is not None:
        return _complain(runtime.broken, 1)
    return 0


def _channel(values: Mapping[str, Any]) -> ResponsesChannel:
    return ResponsesChannel(api_keys=values["api_key"], trust_isolation_headers=values["trust_isolation_headers"])


def _target(target: str | None, model: str | None) -> tuple[TargetSource, str]:
    if target is not None and model is not None:
        raise BadOption("give a TARGET or --model, not both")
    if model is not None:
        return model_factory(model), f"the model {model}"
    if target is not None:
        return load_target(target), target
    from .demo import create_agent

    return create_agent, "the demonstration agent"


def _checkpoint_type(name: str) -> type:
    try:
        found = load_target(name)
    except CannotLoad as exc:
        raise CannotLoad(f"--checkpoint-type {name}: {exc}") from exc
    if not isinstance(found, type):
        raise CannotLoad(f"--checkpoint-type {name}: that is no class, but of type {type(found).__name__}")
    return found


def _announce(base_url: str, name: str, values: Mapping[str, Any], runtime: Runtime) -> None:
    folder, conversations = Path(values["state_dir"]).resolve(), runtime.statistics().store.keys
    if values["json_logs"]:
        facts = {"address": f"{base_url}/v1", "state": str(folder), "conversations": conversations}
        _say("", as_json=True, event="started", **facts)
        return
    found = "1 conversation" if conversations == 1 else f"{conversations} conversations"
    print(
        f"afactors {version('afactors')} serves {name}\n"
        f"\n"
        f"  address  {base_url}/v1\n"
        f"  state    {folder} ({found} found)\n"
        f"\n"
        f"{for_newcomers(base_url, runtime._opened_now().target.hosted, with_key=bool(values['api_key']))}\n"
        f"\n"
        f"Ctrl-C stops it; every conversation goes on where it was when it is started again.",
        flush=True,
    )
    if values["host"] not in ("127.0.0.1", "localhost", "::1") and not values["api_key"]:
        print(
            f"\nNote: {values['host']} is reachable from outside and no --api-key is set: anyone can use this agent.",
            file=sys.stderr,
            flush=True,
        )


def _chat(values: Mapping[str, Any]) -> int:
    from .chat import chat

    async def run() -> int:
        path = Path(values["state_dir"]) / "chat.json"
        return await chat(values["url"], api_key=values["api_key"], conversation=values["conversation"], path=path)

    return trio.run(run)


def _say(text: str, as_json: bool, **facts: Any) -> None:
    print(json.dumps({"time": round(time.time(), 3), **facts}) if as_json else text, flush=True)


def _complain(message: str, code: int) -> int:
    print(f"afactors: {' '.join(message.split())}", file=sys.stderr)
    return code


def _only_failure(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The first failure of a group in which there are only failures that we know how to tell."""
    known, other = group.split(_FAILURES)
    if other is not None or known is None:
        return None
    found: BaseException = known
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _set_up_logging(level: str, *, as_json: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(
        _JsonFormatter() if as_json else logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
