"""Two runs of one machine, and a trial of `compare`, as committed: the runs agree, and what was found is enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.compare import apart, changes
from benchmarks.report.results import Run
from benchmarks.slow_downs import LEAST

FOLDER = Path(harness.__file__).parent / "results" / "twice"


@pytest.mark.parametrize("group", ["codec", "wire"])
def test_two_runs_agree_within_the_spreads_that_both_report(group: str) -> None:
    old, new = (Run.read(FOLDER / f"{group}-{number}.json") for number in (1, 2))
    assert old.machine["commit"] == new.machine["commit"]
    assert {result.key for result in old.results} == {result.key for result in new.results}
    lying_apart, figures = apart(old, new)
    assert figures > 100
    assert len(lying_apart) <= 0.05 * figures
    assert [change for change in changes(old, new) if change.verdict == "worse"] == []


def test_slow_downs_were_found_and_the_same_code_was_not() -> None:
    run = Run.read(FOLDER / "slow-downs.json")
    assert len(run.results) == 3
    assert all(count.median >= LEAST * float(count.at["trials"]) == 19 for count in run.results)
