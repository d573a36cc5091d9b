"""Frontier record: what evaluations found, written into a codec as the rows of measurements that it carries.

`python -m benchmarks.frontier_record CODEC RESULT.json...` reads files of `del-server evaluate --json`, those of the
codec itself or of its kind with several seeds. It does what `--record` does, without measuring again, and prints the
rows as a table for the codec's card.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.evaluated import evaluated
from del_codec.spec import Measured
from del_server.commands.evaluate import record
from del_server.evaluation.markdown import markdown_table
from del_server.evaluation.report import Reading, measured


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frontier_record")
    parser.add_argument("codec", type=Path, metavar="CODEC", help="a codec's folder; its fingerprint changes")
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT.json")
    told = parser.parse_args(words)
    rows = rows_in(told.results)
    record(told.codec, rows)
    print(card_table(rows))
    return 0


def rows_in(results: Sequence[Path]) -> tuple[Measured, ...]:
    """The rows that the files' evaluations make, the worst of all texts at each setting."""
    found = [one for path in results for one in evaluated(path)]
    return measured([Reading(one.mu, one.bits, one.read, one.retained) for one in found])


def card_table(rows: Sequence[Measured]) -> str:
    """The rows in Markdown."""
    cells = [
        [f"{row.mu_milli / 1000:g}", str(row.bits), f"{row.retained / 1000:.3f}", f"{row.attack_success / 1000:.3f}"]
        for row in rows
    ]
    return markdown_table(["mu", "bits", "retained, the worse text", "strongest attack, the worse text"], cells)


if __name__ == "__main__":
    sys.exit(main())
