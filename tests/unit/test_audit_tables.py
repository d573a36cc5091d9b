"""The audit's tables are those of the results that are kept, and docs/audit.md and docs/timing.md show them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.audit_tables import RESULTS, tables

DOCS = Path(__file__).parents[2] / "docs"


def test_tables_are_made_from_the_results_beside_them_and_shown() -> None:
    pages = (DOCS / "audit.md").read_text() + (DOCS / "timing.md").read_text()
    for name, table in tables().items():
        assert (RESULTS / f"{name}.md").read_text() == table + "\n"
        assert table in pages
