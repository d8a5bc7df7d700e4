"""The benchmark's command line runs from end to end, with numbers so small that its figures mean nothing."""

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conversations import main
from benchmarks.report import Figure, Progress, Target, as_table
from benchmarks.sizes import main as sizes_main

HOUSE = Path(__file__).parents[2]
TINY = ["-c", "3", "-t", "2", "--rounds", "1", "--chunks", "3", "--spacing", "0.001"]
TINY += ["--history", "12", "--visited", "20", "--burst", "5", "--runs", "20", "--deliveries", "30"]
SCENARIOS = ["sse", "first-token", "event-log", "runs", "ask", "background", "workflow"]
SCENARIOS += ["group-commit", "history", "sizes", "memory", "burst", "deliveries"]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    chosen = [part for name in SCENARIOS for part in ("--scenario", name)]
    command = [sys.executable, "-m", "benchmarks.conversations", *TINY, *chosen, "--json"]
    done = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_scenario_gives_figures_in_one_shape(report: dict[str, Any]) -> None:
    assert [name for name in SCENARIOS if not any(f["scenario"] == name for f in report["figures"])] == []
    for figure in report["figures"]:
        assert set(figure) == {"scenario", "figure", "value", "unit", "ratio", "target", "verdict", "rounds"}
        assert figure["value"] >= 0 or figure["unit"] == "MB"
    assert report["setting"]["conversations"] == 3


def test_what_is_compared_has_a_ratio(report: dict[str, Any]) -> None:
    for name in ("sse", "ask"):
        rates = [f for f in report["figures"] if f["scenario"] == name and f["figure"].endswith("turns/s")]
        assert [rate["ratio"] is not None for rate in rates] == [True, True, False]


def named(report: dict[str, Any], scenario: str, *parts: str) -> list[dict[str, Any]]:
    figures = [f for f in report["figures"] if f["scenario"] == scenario]
    return [f for f in figures if all(part in f["figure"] for part in parts)]


def test_what_is_promised_of_runs_is_a_figure_of_its_own(report: dict[str, Any]) -> None:
    promised = [named(report, "first-token", "first text p50 ÷ agent alone")]
    promised += [named(report, "event-log", f"{what}: turns/s ÷ log off") for what in ("log on", "log on, followed")]
    promised += [named(report, "runs", "p99 of GET ÷ /healthz")]
    assert [len(figures) for figures in promised] == [3, 2, 2, 2]
    assert all(f["value"] > 0 and f["target"] is None for figures in promised for f in figures)


def test_first_text_comes_before_the_end(report: dict[str, Any]) -> None:
    whole = {f["figure"]: f["value"] for f in named(report, "first-token", ": p99")}
    first = {f["figure"].replace("first text ", ""): f["value"] for f in named(report, "first-token", "first text p99")}
    assert len(whole) == len(first) == 6
    assert all(first[name] <= whole[name] for name in whole)


def test_a_turn_in_the_background_is_two_commits_and_one_that_is_waited_for_is_one(report: dict[str, Any]) -> None:
    for pace in ("1 at once", "3 at once"):
        counts = {f["figure"]: f["value"] for f in named(report, "background", f"{pace}: ", "commits/turn")}
        assert counts[f"{pace}: background: commits/turn"] == 2
        assert counts[f"{pace}: foreground: commits/turn"] == counts[f"{pace}: foreground, streamed: commits/turn"] == 1
        assert counts[f"{pace}: background, streamed and followed: commits/turn"] >= 2


def test_what_a_conversation_takes_is_told_of_both_ways_to_go_on(report: dict[str, Any]) -> None:
    for way in ("conversation", "previous_response_id"):
        (stored,) = named(report, "sizes", f"{way}: keys and values ÷ encoded messages")
        assert 1 < stored["value"] < 5
        (said,) = named(report, "sizes", f"{way}: encoded messages")
        assert said["value"] > 24 * 200
        parts = [f["value"] for f in named(report, "sizes", f"{way}: in ")]
        assert sum(parts) == pytest.approx(stored["value"] * said["value"])


def test_the_sizes_can_be_had_by_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    assert sizes_main(["--turns", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {figure["scenario"] for figure in told["figures"]} == {"sizes"}


def test_a_run_too_small_for_a_promise_judges_none(report: dict[str, Any]) -> None:
    assert {f["verdict"] for f in report["figures"]} == {None}
    assert report["missed"] == 0


def test_nothing_is_refused_or_hangs_in_a_small_burst(report: dict[str, Any]) -> None:
    failures = [f for f in report["figures"] if "refused" in f["figure"] or "hung" in f["figure"]]
    assert len(failures) == 4
    assert sum(f["value"] for f in failures) == 0


def test_the_table_tells_figure_value_spread_and_verdict() -> None:
    target = Target("<=", 1.3)
    figures = [
        Figure("history", "turn 1,000 ÷ turn 10", 1.4, target=target, rounds=(1.2, 1.4, 1.5)),
        Figure("json", "turns/s", 1234.5, ratio=0.5),
    ]
    text = as_table(figures, ["the machine was busy"], {"turns": 5})
    cells = [line.split() for line in text.splitlines()]
    assert ["turn", "1,000", "÷", "turn", "10", "1.4", "1.2…1.5", "≤", "1.3", "miss"] in cells
    assert ["turns/s", "1,234", "0.50", "×"] in cells
    assert text.endswith("note: the machine was busy")


def test_away_from_a_terminal_progress_is_a_line_for_each_scenario() -> None:
    stream = StringIO()
    progress = Progress(stream)
    progress.begin("json", 2)
    progress.step("fsync")
    progress.end()
    assert stream.getvalue() == "json\n"


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert [word for word in ("ratio", "--quick", "127.0.0.1", *SCENARIOS) if word not in told] == []


@pytest.mark.parametrize("wrong", [["--scenario", "nope"], ["-c", "0"], ["--spacing", "60"]])
def test_a_wrong_option_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(wrong)
    assert left.value.code == 2
    assert wrong[0] in capsys.readouterr().err
