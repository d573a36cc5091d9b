"""Comparing two runs: what counts as a change, against which yardstick, and what an exit status says."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.compare import apart, changes
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


def in_rounds(*medians: float) -> Result:
    """Five repeats around each median, by a process each."""
    values = [median * factor for median in medians for factor in NOISY[:5]]
    return result(values=tuple(values), rounds=(5,) * len(medians))


def test_what_differs_from_process_to_process_is_noise_however_alike_repeats_within_one_are() -> None:
    was, slower = (1.0, 1.3, 0.8, 1.1, 0.9), (1.2, 1.5, 1.0, 1.4, 1.1)
    assert verdicts(run_of(in_rounds(*was)), run_of(in_rounds(*slower))) == ["same"]
    steady = (1.0, 1.01, 0.99, 1.0, 1.01)
    assert verdicts(run_of(in_rounds(*steady)), run_of(in_rounds(*(1.3 * each for each in steady)))) == ["worse"]


def test_the_more_figures_are_compared_the_farther_each_must_lie_from_its_noise() -> None:
    noisy = tuple(1 + 0.12 * (value - 1) / 0.02 for value in NOISY)
    old, new = result(values=noisy), result(values=tuple(1.35 * value for value in noisy))
    assert verdicts(run_of(old), run_of(new)) == ["worse"]
    others = [result(at={"size": size}) for size in range(2, 500)]
    assert set(verdicts(run_of(old, *others), run_of(new, *others))) == {"same"}


def test_two_runs_of_the_same_code_stay_quiet_and_agree() -> None:
    draw = np.random.default_rng(0)

    def run() -> Run:
        """200 figures in five rounds: processes differ by 5 %, repeats of one by 3 %."""
        figures = []
        for size in range(200):
            medians = np.exp(draw.normal(0, 0.05, 5))
            values = tuple(float(m * f) for m in medians for f in np.exp(draw.normal(0, 0.03, 7)))
            figures.append(result(at={"size": size}, values=values, rounds=(7,) * 5))
        return run_of(*figures)

    runs = [run() for _ in range(21)]
    worse = sum("worse" in verdicts(old, new) for old, new in pairwise(runs))
    assert worse <= 1
    assert sum(len(apart(old, new)[0]) for old, new in pairwise(runs)) <= 0.001 * 20 * 200


def test_spreads_that_have_nothing_in_common_are_apart() -> None:
    old, near, far = result(), result(1.04), result(1.1)
    assert apart(run_of(old), run_of(near)) == ([], 1)
    assert apart(run_of(old), run_of(far)) == ([(old, far)], 1)
    assert apart(run_of(old), run_of(result(at={"size": 2}))) == ([], 0)


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
    assert lines[0] == "apart: x time, ours size=1: 0.983 to 1.027 and 1.278 to 1.335 s"
    assert lines[1] == "0 of 1 figures agree within the spreads that both runs report"
    assert lines[2].startswith("worse: x time, ours size=1: 1.3 times what it was")
    assert lines[3] == "1 figures compared, 1 worse"
    assert lines[6].startswith("better: ")
    assert lines[8:] == [
        "1 of 1 figures agree within the spreads that both runs report",
        "1 figures compared, 0 worse",
    ]


def test_turns_time_every_work_beside_a_unit() -> None:
    calls = {"one": 0, "two": 0}

    def count(name: str) -> None:
        calls[name] += 1
        sum(range(20_000))

    turns = in_turns({"one": lambda: count("one"), "two": slowed(lambda: count("two"))}, 3, least_seconds=0.001)
    assert [len(some) for some in turns.values()] == [3, 3]
    assert all(turn.seconds > 0 and turn.unit > 0 for some in turns.values() for turn in some)
    assert min(calls.values()) >= 5
