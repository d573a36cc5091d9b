"""The harness: runs sections with a progress bar and writes what they measured, for machines and for people."""

from __future__ import annotations

import datetime
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks.report.machine import describe
from benchmarks.report.page import as_html, as_markdown
from benchmarks.report.results import Recorder, Result, Run
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
# What takes an hour is measured where it is asked for by name.
ALL = tuple(group for group in SECTIONS if group != "soak")


def run(groups: Sequence[str], settings: Settings, folder: Path) -> Run:
    """Measure these groups and leave results.json, results.csv, report.md and report.html in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = [section(group) for group in groups]
    machine, started, began = describe(), datetime.datetime.now(datetime.UTC), time.monotonic()
    results: list[Result] = []
    notes: dict[str, str] = {}
    for one in sections:
        record = _measure(one, settings)
        results += record.results()
        if record.notes:
            notes[one.group] = " ".join(record.notes)
    done = Run(
        command=f"python -m benchmarks {' '.join(sys.argv[1:])}",
        started=started.isoformat(timespec="seconds"),
        seconds=time.monotonic() - began,
        quick=settings.quick,
        machine=machine,
        results=tuple(results),
        notes=notes,
    )
    done.write_json(folder / "results.json")
    report(done, folder)
    return done


def report(done: Run, folder: Path) -> None:
    """Leave a run's results.csv, report.md and report.html in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = [section(group) for group in dict.fromkeys(result.group for result in done.results)]
    done.write_csv(folder / "results.csv")
    (folder / "report.md").write_text(as_markdown(done, sections))
    (folder / "report.html").write_text(as_html(done, sections))


def section(group: str) -> Section:
    """That of a group."""
    found: Section = importlib.import_module(SECTIONS[group]).SECTION
    return found


def _measure(one: Section, settings: Settings) -> Recorder:
    record = Recorder(one.group)
    with one.steps(settings) as steps, tqdm(steps, desc=one.group, unit="step", file=sys.stderr) as bar:
        for step in bar:
            bar.set_postfix_str(step.label)
            step.run(record)
    return record
