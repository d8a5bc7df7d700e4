"""The command line of the benchmark: ``python -m benchmarks.conversations``."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import trio

from .background import background_turns
from .burst import connection_burst
from .commits import group_commit
from .deliveries import deliveries
from .history import late_turns
from .in_process import asked_turns, spaced_turns, streamed_turns
from .load import WrongAnswer
from .measure import file_system, pin
from .memory import memory
from .over_http import json_turns, spaced_sse_turns, sse_turns
from .plan import Plan, Scenario
from .processes import ProcessFailed
from .report import Figure, Progress, as_json, as_table
from .rounds import TookTooLong
from .sizes import sizes
from .stored_runs import fetched_runs
from .streams import event_log, first_token
from .workflows import workflow_turns

SCENARIOS: Mapping[str, tuple[Scenario, str]] = {
    "json": (json_turns, "over HTTP, replies in one piece; compared with bare quart-trio"),
    "sse": (sse_turns, "over HTTP, replies as events, all chunks at once; compared with bare quart-trio"),
    "sse-spaced": (spaced_sse_turns, "the same, with time between the chunks"),
    "first-token": (first_token, "over HTTP, the first text of a stream; compared with the agent alone"),
    "event-log": (event_log, "over HTTP, streams whose events are logged; compared with streams that are not"),
    "runs": (fetched_runs, "over HTTP, one of 10,000 stored runs by its id; compared with /healthz"),
    "ask": (asked_turns, "in process, Runtime.ask; compared with the agent alone"),
    "stream": (streamed_turns, "in process, Runtime.stream, all chunks at once; compared with the agent alone"),
    "stream-spaced": (spaced_turns, "the same, with time between the chunks"),
    "background": (background_turns, "in process, from submission to end; compared with turns that are waited for"),
    "workflow": (workflow_turns, "in process, a workflow of ten supersteps, and its answer after a restart"),
    "group-commit": (group_commit, "many callers at once against one alone: commits, and whole turns"),
    "history": (late_turns, "turn 1,000 against turn 10, without the agent's own time"),
    "sizes": (sizes, "what a conversation of 1,000 turns takes in the store, against its messages"),
    "memory": (memory, "what 20,000 visited conversations leave behind, and what an idle one takes"),
    "deliveries": (deliveries, "10,000 to an HTTP receiver, against the same client without a store; and more of them"),
    "burst": (connection_burst, "1,000 connections at the same moment; compared with bare quart-trio"),
}

QUICK = Plan(conversations=20, turns=3, rounds=2, history=200, visited=2000, burst=200, runs=500, deliveries=1000)

_COUNTS = ("conversations", "turns", "rounds", "chunks", "history", "visited", "runs", "burst", "deliveries")

_FAILURES = (WrongAnswer, ProcessFailed, TookTooLong, trio.TooSlowError, OSError)

_DESCRIPTION = """\
Measure what hosting conversations costs, and compare it with what it must cost.

  python -m benchmarks.conversations                       everything (a quarter of an hour)
  python -m benchmarks.conversations --quick               everything, smaller (about two minutes)
  python -m benchmarks.conversations --scenario json -c 1000
  python -m benchmarks.conversations --json > figures.json

Trust the ratios, not the rates: a ratio is the median over rounds in which both sides ran one right after the other,
so that a slow machine and a noisy neighbour fall on both. With two cores or more, servers run on the first and the
load generator on the last. All load stays on 127.0.0.1 and ends by itself. benchmarks/README.md explains every number.

scenarios:
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code: 0 when it ran (figures may have missed), 1 when it could not."""
    given = _parser().parse_args(arguments)
    plan = _plan(given)
    progress = Progress()
    try:
        figures = trio.run(_run, given.scenario or list(SCENARIOS), plan, progress)
    except BaseException as exc:
        progress.end()
        found = _first(exc)
        if isinstance(found, KeyboardInterrupt):
            return 130
        if not isinstance(found, _FAILURES):
            raise
        print(f"benchmarks: {str(found) or 'a step took too long'}", file=sys.stderr)
        return 1
    progress.end()
    write = as_json if given.json else as_table
    print(write(figures, progress.notes, _setting(plan)))
    return 0


async def _run(names: Sequence[str], plan: Plan, progress: Progress) -> list[Figure]:
    pin(plan.cores.load)
    if plan.cores.server is None:
        progress.note("there is one core: the load generator takes its share of it")
    figures: list[Figure] = []
    for name in names:
        scenario, _ = SCENARIOS[name]
        figures += await scenario(name, plan, progress)
    return figures


def _parser() -> argparse.ArgumentParser:
    listing = "".join(f"  {name:14} {what}\n" for name, (_, what) in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.conversations",
        description=_DESCRIPTION + listing,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole = Plan()
    add = partial(_add_count, parser, whole)
    add("-c", "--conversations", "conversations at once")
    add("-t", "--turns", "turns of each conversation in a round")
    add("--rounds", what="interleaved rounds; the medians of their ratios are told")
    add("--chunks", what="chunks of a streamed reply")
    add("--history", what="the turn that is compared with turn 10")
    add("--visited", what="conversations that the memory scenario visits")
    add("--runs", what="runs that the runs scenario stores")
    add("--burst", what="connections that the burst scenario opens")
    add("--deliveries", what="deliveries that wait in the deliveries scenario")
    parser.add_argument(
        "--spacing",
        type=_seconds,
        metavar="SECONDS",
        help=f"time between two chunks in the spaced scenarios (default {whole.spacing})",
    )
    parser.add_argument(
        "--scenario",
        action="append",
        choices=list(SCENARIOS),
        metavar="NAME",
        help="only this one; may be given several times (default: all)",
    )
    parser.add_argument("--quick", action="store_true", help="smaller numbers wherever you give none")
    parser.add_argument("--json", action="store_true", help="the report as JSON, and nothing else on standard output")
    parser.add_argument(
        "--state-dir", metavar="FOLDER", help="where the stores are made and deleted (default: the system's own)"
    )
    return parser


def _add_count(parser: argparse.ArgumentParser, whole: Plan, *names: str, what: str = "") -> None:
    flags = [name for name in names if name.startswith("-")]
    text = what or names[-1]
    default, quick = (getattr(plan, flags[-1].removeprefix("--")) for plan in (whole, QUICK))
    smaller = f", quick {quick:,}" if quick != default else ""
    parser.add_argument(*flags, type=_count, metavar="N", help=f"{text} (default {default:,}{smaller})")


def _plan(given: argparse.Namespace) -> Plan:
    names = (*_COUNTS, "spacing", "state_dir")
    values: dict[str, Any] = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    return replace(QUICK if given.quick else Plan(), **values)


def _setting(plan: Plan) -> dict[str, Any]:
    cores = plan.cores
    return {
        "conversations": plan.conversations,
        "turns": plan.turns,
        "rounds": plan.rounds,
        "chunks": plan.chunks,
        "spacing": plan.spacing,
        "cores": f"{cores.server} (server) {cores.load} (load)" if cores.server is not None else "1, shared",
        "disk": file_system(plan.state_dir or tempfile.gettempdir()),
        "python": platform.python_version(),
        **{name: version(name) for name in ("afactors", "agent-framework-core", "trio", "hypercorn")},
    }


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 10:
        raise argparse.ArgumentTypeError("must be above 0 and at most 10 seconds")
    return value


def _first(group: BaseException) -> BaseException:
    """What failed first, out of the nurseries that it happened in."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


if __name__ == "__main__":
    sys.exit(main())
