"""The threat model: every promise names a test that is there, and its tables are what the committed results give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.document import written
from benchmarks.report.results import Recorder, Run
from benchmarks.structure_sheets import sheets

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "threat-model.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
PROMISES = re.findall(r"^\| .+ \| (?:exact|enforced|measured) \| (.*) \|$", TEXT, re.MULTILINE)


def test_every_test_that_is_named_exists() -> None:
    named = NAMED.findall(TEXT)
    assert len(named) > 60
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file() or (name and not re.search(rf"def {name}\(", (ROOT / path).read_text()))
    ]
    assert missing == []


def test_every_promise_names_one() -> None:
    assert len(PROMISES) > 30
    assert [cell for cell in PROMISES if not NAMED.search(cell)] == []


@pytest.mark.parametrize(
    "adversary",
    ["The server", "The network", "Other clients", "A thief of the device", "A malicious app", "A malicious codec"],
)
def test_every_adversary_has_what_is_promised_and_what_is_not(adversary: str) -> None:
    section = re.split(r"^## ", TEXT.split(f"\n## {adversary}", 1)[1], flags=re.MULTILINE)[0]
    assert "| promise | class |" in section
    assert "**Not promised.**" in section


def test_its_tables_are_what_the_results_give() -> None:
    assert written(TEXT) == TEXT, "run python -m benchmarks document"
    assert TEXT.count("<!-- figures: structure/results.json; structure; ") == 6


def test_a_table_says_which_attack_was_the_strongest() -> None:
    record, place = Recorder("structure"), {"mu": "5", "bits": "1", "sendings": 2.0}
    record.add("epsilon", 44.0, "", "neither", "composed", place)
    record.add("cap, prior", 0.6, "", "neither", "composed", place)
    for way, share in (("map", 0.2), ("map, few windows", 0.5), ("beam, few windows", 0.3)):
        record.add("tokens read", share, "", "neither", way, place)
    run = Run("", "", 0.0, False, {}, tuple(record.results()))
    again = next(sheet for sheet in sheets(run) if sheet.title == "The same tokens sent again")
    assert again.rows[-1] == ("5", "1", "2", "44", "0.600", "0.200", "0.300", "beam, few windows")
