"""The trial of `compare`: what it counts, what it leaves behind, and when it says that the rule is not good enough."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import slow_downs
from benchmarks.report.results import Result, Run
from benchmarks.slow_downs import FOUND, QUIET, Works, main

VALUES = (1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes every work take one second, a slowed one 1.3; in the runs of these numbers all works take longer."""

    def of(busy: tuple[int, ...] = ()) -> None:
        runs = []
        slow: Callable[[], object] = lambda: None  # noqa: E731

        def measured(works: Works) -> Run:
            runs.append(works)
            load = 2.0 if len(runs) - 1 in busy else 1.0
            factors = {name: load * (1.3 if work is slow else 1.0) for name, work in works.items()}
            figures = [
                Result("x", name, "s", "lower", "del", {}, tuple(factor * value for value in VALUES))
                for name, factor in factors.items()
            ]
            return Run("", "", 0.0, True, {}, tuple(figures))

        monkeypatch.setattr(slow_downs, "measured", measured)
        monkeypatch.setattr(slow_downs, "encoding", lambda bits: int)
        monkeypatch.setattr(slow_downs, "service_loop", lambda: float)
        monkeypatch.setattr(slow_downs, "slowed", lambda work: slow)

    return of


def test_slow_downs_are_found_and_the_same_code_is_not(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine()
    monkeypatch.setattr(sys, "argv", ["slow_downs", "--trials", "2", "--out", str(tmp_path / "a.json")])
    assert main() == 0
    run = Run.read(tmp_path / "a.json")
    assert {(count.name, count.way): count.values for count in run.results} == {
        (FOUND, "encode"): (2.0,),
        (FOUND, "service loop"): (2.0,),
        (QUIET, "both"): (2.0,),
    }
    assert run.command.startswith("python -m benchmarks.slow_downs --trials 2")


def test_a_false_alarm_counts_against_it(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(busy=(1,))
    monkeypatch.setattr(sys, "argv", ["slow_downs", "--trials", "2"])
    assert main() == 1
    assert "1 of 2 comparisons of the same code found nothing: both" in capsys.readouterr().out
