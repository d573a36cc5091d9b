"""Comparing two runs: what counts as a change, against which yardstick, and what an exit status says."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.compare import changes
from benchmarks.report.results import Better, Result, Run
from benchmarks.slow_downs import slowed
from benchmarks.turns import in_turns

NOISY = (1.0, 1.02, 0.99, 1.01, 0.98, 1.0, 1.03)


def run_of(*results: Result) -> Run:
    return Run("x", "", 0.0, True, {}, results)


def result(factor: float = 1.0, better: Better = "lower", **fields: object) -> Result:
    values = tuple(factor * value for value in NOISY)
    return replace(Result("x", "time", "s", better, "ours", {"size": 1}, values), **fields)


def verdicts(old: Run, new: Run) -> list[str]:
    return [change.verdict for change in changes(old, new)]


@pytest.mark.parametrize(
    ("factor", "better", "verdict"),
    [
        (1.3, "lower", "worse"),
        (0.7, "lower", "better"),
        (1.05, "lower", "same"),
        (1.3, "higher", "better"),
        (0.7, "higher", "worse"),
    ],
)
def test_a_change_above_noise_and_tolerance_counts(factor: float, better: Better, verdict: str) -> None:
    assert verdicts(run_of(result(1.0, better)), run_of(result(factor, better))) == [verdict]


def test_noise_hides_what_it_could_have_made() -> None:
    wild = result(values=(1.0, 3.0, 0.5, 2.0, 0.7))
    assert verdicts(run_of(wild), run_of(replace(wild, values=tuple(1.3 * value for value in wild.values)))) == ["same"]


def test_one_outlier_changes_nothing() -> None:
    assert verdicts(run_of(result()), run_of(result(values=(*NOISY[:-1], 50.0)))) == ["same"]


def test_a_slower_machine_is_no_regression_where_a_unit_or_a_peer_was_measured_beside() -> None:
    unit = tuple(0.1 * value for value in NOISY)
    slower = tuple(2 * value for value in unit)
    assert verdicts(run_of(result(units=unit)), run_of(result(2.0, units=slower))) == ["same"]
    assert verdicts(run_of(result(units=unit)), run_of(result(2.0, units=unit))) == ["worse"]
    peer, slow_peer = result(way="theirs", values=unit), result(way="theirs", values=slower)
    mine = result(peer="theirs")
    assert verdicts(run_of(mine, peer), run_of(result(2.0, peer="theirs"), slow_peer))[0] == "same"
    assert verdicts(run_of(mine, peer), run_of(result(2.0, peer="theirs"), peer))[0] == "worse"


@pytest.mark.parametrize(
    "other",
    [
        result(2.0, at={"size": 2}),
        result(2.0, unit="ms"),
        result(2.0, better="neither"),
        result(values=(2.0, 2.0, 2.0, 2.0)),
        result(values=(0.0,) * 7),
    ],
)
def test_what_can_not_be_compared_is_left_out(other: Result) -> None:
    assert changes(run_of(result()), run_of(other)) == []


def test_the_exit_status_says_whether_something_became_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(result()).write_json(tmp_path / "a.json")
    run_of(result(1.3)).write_json(tmp_path / "b.json")
    for old, new, status in (("a", "b", 1), ("b", "a", 0), ("a", "a", 0)):
        names = [str(tmp_path / f"{name}.json") for name in (old, new)]
        monkeypatch.setattr(sys, "argv", ["benchmarks", "compare", *names])
        assert main() == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("worse: x time, ours size=1: 1.3 times what it was")
    assert lines[1] == "1 figures compared, 1 worse"
    assert lines[2].startswith("better: ")


def test_turns_time_every_work_beside_a_unit() -> None:
    calls = {"one": 0, "two": 0}

    def count(name: str) -> None:
        calls[name] += 1
        sum(range(20_000))

    turns = in_turns({"one": lambda: count("one"), "two": slowed(lambda: count("two"))}, 3, least_seconds=0.001)
    assert [len(some) for some in turns.values()] == [3, 3]
    assert all(turn.seconds > 0 and turn.unit > 0 for some in turns.values() for turn in some)
    assert min(calls.values()) >= 5
