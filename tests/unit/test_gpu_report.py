"""What docs/results.md says of GPUs is what the committed files say, and a fault among them is not left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.gpu_report import GPU, sections


@pytest.fixture
def results(tmp_path: Path) -> Path:
    shutil.copytree(GPU, tmp_path / "gpu")
    return tmp_path / "gpu"


def test_answers_that_differ_are_named(results: Path) -> None:
    gpus = json.loads((results / "gpus.json").read_text())
    gpus["sections"]["spread"]["answers"]["engine_identical"] = False
    gpus["sections"]["tensor_parallel"] |= {"answers_identical": False, "answers_that_differ": 2}
    gpus["sections"]["replicas"]["kill"]["other_errors"] = 3
    (results / "gpus.json").write_text(json.dumps(gpus))
    page = "\n".join(sections(results))
    assert "not identical to those of `generate`" in page
    assert "Tensor parallel against one card: 2 differ" in page
    assert "3 failed otherwise" in page


def test_steps_are_shown_as_measured(results: Path) -> None:
    steps = json.loads((results / "steps-8b.json").read_text())
    steps["steps"] = [steps["steps"][0] | {"seconds": 0.004, "limit_seconds": 0.003, "share": 0.75}]
    (results / "steps-8b.json").write_text(json.dumps(steps))
    rows = [line for line in sections(results) if "| 8b |" in line]
    assert len(rows) == 1
    assert "| 8b | 1 | recorded | 4.00 | 3.00 | 0.750 |" in rows[0]
