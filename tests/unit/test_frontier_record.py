"""What the shipped codec carries as measured is what committed result files say, and so does its card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import frontier_record
from benchmarks.frontier_record import card_table, rows_in
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.spec import Measured
from del_codec.table import LatentTable

CODEC = codec_folders()[0]
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
FILES = [RESULTS / "frontier" / "joint-context.json", RESULTS / "shipped" / "strong-noise.json"]


def test_the_shipped_codec_carries_what_was_measured() -> None:
    rows = rows_in(FILES)
    assert LatentTable.load(CODEC / DEVICE_FILE).spec.measured == rows
    assert card_table(rows) in (CODEC / "README.md").read_text()


def test_rows_are_written_into_the_codec_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(CODEC / DEVICE_FILE, tmp_path)
    attacks = {"map": {"mean": 0.2}, "beam": {"mean": 0.3111}}
    rows = [{"mu": 7.5, "bits": 2, "attacks": attacks, "strongest": "beam", "retained": {"mean": 0.5}}]
    (tmp_path / "found.json").write_text(json.dumps({"texts": [{"rows": rows}]}))
    assert frontier_record.main([str(tmp_path), str(tmp_path / "found.json")]) == 0
    assert LatentTable.load(tmp_path / DEVICE_FILE).spec.measured == (Measured(7500, 2, 312, 500),)
    assert capsys.readouterr().out.splitlines()[-1] == "| 7.5 | 2 | 0.500 | 0.312 |"
