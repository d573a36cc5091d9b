"""`python -m benchmarks.audit_tables` makes tables from the JSON in benchmarks/results/audit, and leaves them there.

`python -m benchmarks document` puts them into docs/audit.md and docs/timing.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import timing
from del_server.evaluation.markdown import markdown_table

RESULTS = Path(__file__).parent / "results" / "audit"
_NAMES = {"corners": "corners, d = 64", "shipped": "SmolLM2's codec"}


def bounds(facts: dict[str, Any]) -> str:
    """A line for each audit at each delta."""
    rows = [
        (
            _NAMES[one["table"]],
            str(one["bits"]),
            f"{one['mu']:g}",
            str(one["tokens"]),
            f"{bound['delta']:g}",
            f"{bound['certified']:.3f}",
            f"{bound['lower']:.3f}",
            f"{bound['ratio']:.3f}",
        )
        for one in facts["audits"]
        for bound in one["bounds"]
    ]
    columns = ("table", "bits", "mu", "tokens of the unit", "delta", "certified", "proven", "ratio")
    return markdown_table(columns, rows)


def faults(facts: dict[str, Any]) -> str:
    """A line for each planted fault."""
    rows = [
        (one["fault"], str(one["bits"]), ", ".join(f"`{name}`" for name in one["alarms"])) for one in facts["faults"]
    ]
    return markdown_table(("fault", "bits", "alarms"), rows)


def honest(facts: dict[str, Any]) -> str:
    """A line for each number of bits."""
    rows = []
    for one in facts["rows"]:
        alarms = one["alarms"]
        by = ", ".join(f"`{name}` {count}" for name, count in sorted(alarms.items()) if name != "any") or "none"
        rate = f"{alarms.get('any', 0) / one['audits']:.3f} ({one['rate_low']:.3f} to {one['rate_high']:.3f})"
        rows.append((str(one["bits"]), str(one["audits"]), by, rate))
    return markdown_table(("bits", "audits", "alarms", "rate (95 %)"), rows)


TABLES = {"bounds": bounds, "faults": faults, "honest": honest, "timing": timing.table}


def tables() -> dict[str, str]:
    """All of them, by the name of their file."""
    return {name: make(json.loads((RESULTS / f"{name}.json").read_text())) for name, make in TABLES.items()}


def main() -> None:
    """Write them."""
    for name, table in tables().items():
        (RESULTS / f"{name}.md").write_text(table + "\n")


if __name__ == "__main__":
    main()
