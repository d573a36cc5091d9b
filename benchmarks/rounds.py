"""Rounds: a section measured several times over, each time by a process of its own, and put together.

Within a process repeats share what a process is dealt once: places in memory, a warm server, the minute that it ran in.
Only repeats of several processes show how far the next run may lie from this one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from benchmarks.report.results import Recorder, Result, Run
from benchmarks.section import Section, Settings


def measure(one: Section, settings: Settings, name: str = "") -> Recorder:
    """One round, in this process; name: what the progress bar says before the group."""
    record = Recorder(one.group)
    with (
        one.steps(settings) as steps,
        tqdm(steps, desc=f"{one.group}{name}", unit="step", file=sys.stderr) as bar,
    ):
        for step in bar:
            bar.set_postfix_str(step.label)
            step.run(record)
    return record


def measure_all(one: Section, settings: Settings) -> tuple[list[Result], str]:
    """Results of as many rounds as the settings ask for, else the section, and what a reader must know of them."""
    rounds = settings.rounds or (1 if settings.quick else one.rounds)
    if rounds == 1:
        record = measure(one, settings)
        return list(record.results()), " ".join(record.notes)
    runs = [_in_a_process(one.group, settings, f" {number + 1}/{rounds}") for number in range(rounds)]
    notes = dict.fromkeys(run.notes[one.group] for run in runs if one.group in run.notes)
    return joined([run.results for run in runs]), " ".join(notes)


def joined(rounds: Iterable[Sequence[Result]]) -> list[Result]:
    """One result for each figure, with the repeats of all rounds, in their order."""
    found: dict[tuple[object, ...], list[Result]] = {}
    for result in chain.from_iterable(rounds):
        found.setdefault(result.key, []).append(result)
    return [
        replace(
            parts[0],
            values=tuple(chain.from_iterable(part.values for part in parts)),
            units=tuple(chain.from_iterable(part.units for part in parts)),
            rounds=tuple(len(part.values) for part in parts),
        )
        for parts in found.values()
    ]


def arguments(settings: Settings) -> str:
    """Settings as a command line's word."""
    return json.dumps({**asdict(settings), "rounds": 1}, default=lambda path: {"path": str(path)})


def from_arguments(word: str) -> Settings:
    """The way back."""
    told = json.loads(word, object_hook=lambda found: Path(found["path"]) if set(found) == {"path"} else found)
    return Settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in told.items()})


def _in_a_process(group: str, settings: Settings, name: str) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "round.json"
        module = [sys.executable, "-m", "benchmarks.one_round"]
        with subprocess.Popen([*module, group, str(file), arguments(settings), name]) as process:
            try:
                status = process.wait()
            finally:
                process.terminate()  # and leaving the context waits: it has things to put away
        if status:
            raise SystemExit("a round failed, and said why where it ran")
        return Run.read(file)
