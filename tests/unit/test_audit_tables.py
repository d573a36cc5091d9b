"""The audit's tables are those of the results that are kept; the documents' test compares those with the pages."""

from __future__ import annotations

from benchmarks.audit_tables import RESULTS, tables


def test_tables_are_made_from_the_results_beside_them() -> None:
    for name, table in tables().items():
        assert (RESULTS / f"{name}.md").read_text() == table + "\n"
