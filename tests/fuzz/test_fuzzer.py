"""`python -m tests.fuzz` itself: it counts, adds up, and ends where something broke. Needs the extra "fuzz"."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .target import NAMES

pytest.importorskip("atheris", reason="pip install '.[fuzz]'")
ROOT = Path(__file__).parents[2]


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
def test_a_target_holds_for_many_executions(name: str, tmp_path: Path) -> None:
    done = fuzz(name, "--executions", "5000", "--work", str(tmp_path), "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert found["executions"] >= 5000
    assert found["broke"] == 0
    assert found["edges"] > 20


@pytest.mark.slow
def test_a_result_adds_up(tmp_path: Path) -> None:
    for executions in ("2000", "5000"):
        assert (
            fuzz("table", "--executions", executions, "--work", str(tmp_path), "--out", str(tmp_path)).returncode == 0
        )
    assert 5000 <= json.loads((tmp_path / "table.json").read_text())["executions"] < 6000
