"""What docs/results.md says of GPUs is what the committed files say, and a fault among them is not left out."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from benchmarks.gpu_report import GPU, sections
from benchmarks.steps import heard


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


def test_answers_that_compiling_changes_are_named(results: Path) -> None:
    outcome = {"compiled": "answers [1] differ from generate's", "launched": "identical to generate"}
    (results / "parity-8b.json").write_text(json.dumps({"model": "8b", "layers": 4, "parity": outcome}))
    assert "4 layers of 8b, compiled: answers [1] differ from generate's; launched" in "\n".join(sections(results))


def test_steps_are_shown_as_measured(results: Path) -> None:
    steps = json.loads((results / "steps-8b.json").read_text())
    for way, seconds, share in (("recorded", 0.004, 0.75), ("compiled", 0.0032, 0.9375)):
        one = {"batch": 1, "way": way, "seconds": seconds, "limit_seconds": 0.003, "share": share}
        steps["steps"] = [steps["steps"][0] | one]
        (results / f"steps-8b{'-compiled' * (way == 'compiled')}.json").write_text(json.dumps(steps))
    page = "\n".join(sections(results))
    rows = [line for line in page.splitlines() if line.startswith("| 8b |")]
    assert len(rows) == 2  # beside one another, the quicker one first
    assert "| 8b | 1 | compiled | 3.20 | 3.00 | 0.938 |" in rows[0]
    assert "| 8b | 1 | recorded | 4.00 | 3.00 | 0.750 |" in rows[1]


def test_an_engine_that_went_on_uncompiled_is_named(results: Path) -> None:
    steps = json.loads((results / "steps-8b-compiled.json").read_text())
    steps["steps"][1]["engine_said"] = ["steps go on without"]
    (results / "steps-8b-compiled.json").write_text(json.dumps(steps))
    assert "The engine of 8b, 16 rows, compiled: steps go on without." in "\n".join(sections(results))


def test_what_an_engine_warns_of_is_heard() -> None:
    compiled = logging.getLogger("del_server.engine.compiled")
    with heard() as said:
        compiled.warning("moved by %.1f", 0.2)
        compiled.info("all is well")
    compiled.warning("later")
    assert said == ["moved by 0.2"]
