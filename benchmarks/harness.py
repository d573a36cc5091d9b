"""The harness: runs sections with a progress bar and writes what they measured, for machines and for people."""

from __future__ import annotations

import datetime
import importlib
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.machine import describe
from benchmarks.report.page import as_html, as_markdown
from benchmarks.report.results import Result, Run
from benchmarks.rounds import measure_all
from benchmarks.section import Section, Settings

SECTIONS = {
    "codec": "benchmarks.codec_cost",
    "wire": "benchmarks.wire_cost",
    "privacy": "benchmarks.privacy_grid",
    "edge": "benchmarks.edge_cost",
    "serving": "benchmarks.serving_load",
    "growth": "benchmarks.growth",
    "soak": "benchmarks.soak",
    "structure": "benchmarks.structure",
}
# What takes an hour, or studies attacks at length, is measured where it is asked for by name.
ALL = tuple(group for group in SECTIONS if group not in ("soak", "structure"))


def run(asked: Sequence[str], settings: Settings, folder: Path) -> Run:
    """Measure these groups and leave results.json, results.csv, report.md and report.html in a folder.

    A group that this machine refuses, or that fails, is left out, and a note says why. Raises SystemExit, when the
    others are done, where one failed, and where nothing was measured.
    """
    sections = [section(group) for group in asked]
    machine, started, began = describe(), datetime.datetime.now(datetime.UTC), time.monotonic()
    results: list[Result] = []
    notes: dict[str, str] = {}
    failures = []
    for one in sections:
        try:
            found, note = _measured(one, settings)
        except (SystemExit, Exception) as failure:
            why = str(failure)
            if isinstance(failure, Exception):  # a fault: what it says is not for a report
                traceback.print_exc()
                why = type(failure).__name__
            found, note = [], f"Failed: {why}."
            failures.append(f"{one.group} failed: {why}")
        results += found
        if note:
            notes[one.group] = note
    if not results:
        raise SystemExit("\n".join(failures or notes.values()))
    done = Run(
        command=f"python -m benchmarks {' '.join(map(_short, sys.argv[1:]))}",
        started=started.isoformat(timespec="seconds"),
        seconds=time.monotonic() - began,
        quick=settings.quick,
        machine=machine,
        results=tuple(results),
        notes=notes,
    )
    folder.mkdir(parents=True, exist_ok=True)
    done.write_json(folder / "results.json")
    report(done, folder)
    if failures:
        raise SystemExit("\n".join(failures))
    return done


def _measured(one: Section, settings: Settings) -> tuple[list[Result], str]:
    """Its results, and what a reader must know of them."""
    if why := one.refused():
        return [], f"Not measured: {why}."
    return measure_all(one, settings)


def report(done: Run, folder: Path) -> None:
    """Leave a run's results.csv, report.md and report.html in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = [section(group) for group in groups(done)]
    done.write_csv(folder / "results.csv")
    (folder / "report.md").write_text(as_markdown(done, sections))
    (folder / "report.html").write_text(as_html(done, sections))


def groups(done: Run) -> list[str]:
    """Those that a run has results or notes of, in order."""
    return list(dict.fromkeys([*(result.group for result in done.results), *done.notes]))


def _short(word: str) -> str:
    """A whole path by its folder and name: where files lie on a machine is nobody's business."""
    return "/".join(Path(word).parts[-2:]) if Path(word).is_absolute() else word


def section(group: str) -> Section:
    """That of a group."""
    found: Section = importlib.import_module(SECTIONS[group]).SECTION
    return found
