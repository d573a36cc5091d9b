"""`python -m benchmarks.one_round GROUP FILE SETTINGS NAME`: one round of rounds.py, its results left in a file."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from benchmarks.harness import section
from benchmarks.report.results import Run
from benchmarks.rounds import from_arguments, measure


def main(group: str, file: str, settings: str, name: str) -> None:
    """Measure and write."""
    record = measure(section(group), from_arguments(settings), name)
    notes = {group: " ".join(record.notes)} if record.notes else {}
    Run("", "", 0.0, from_arguments(settings).quick, {}, tuple(record.results()), notes).write_json(Path(file))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is open is put away
    main(*sys.argv[1:])
