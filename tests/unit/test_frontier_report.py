"""docs/results.md says what the committed result files say."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import frontier_report
from benchmarks.frontier_report import DOCS, RESULTS


def test_the_page_is_that_of_the_committed_results(tmp_path: Path) -> None:
    assert frontier_report.main(["--docs", str(tmp_path)]) == 0
    assert (tmp_path / "results.md").read_text() == (DOCS / "results.md").read_text()
    for plot in (tmp_path / "images").iterdir():
        assert (DOCS / "images" / plot.name).exists()


def test_goals_are_judged_by_the_worse_text(tmp_path: Path) -> None:
    for name in ("paper", "joint-guarded"):
        data = json.loads((RESULTS / f"{name}.json").read_text())
        for text in data["texts"]:
            for row in text["rows"]:
                row["retained"] |= {"low": 0.9 if text is data["texts"][0] else 0.3}
                row["attacks"][row["strongest"]]["mean"] = row["mu"] / 50
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    assert frontier_report.main(["--results", str(tmp_path), "--docs", str(tmp_path)]) == 0
    lines = (tmp_path / "results.md").read_text().splitlines()
    goals = lines[lines.index("## Goals") :]
    guarded = next(line for line in goals if line.startswith("| joint-guarded |"))
    assert guarded.split(" | ")[2:4] == ["0.30", "0.30"]
    assert guarded.endswith("(mu 12) |")
