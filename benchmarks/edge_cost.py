"""What a device pays before it asks anything: disk, memory and time of a fresh install of its package (edge.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.edge import codec_megabytes, install_megabytes, ready_seconds, resident_megabytes
from benchmarks.report.results import Recorder
from benchmarks.section import Fact, Section, Settings, Step, Table

MEASURED: dict[str, tuple[str, Callable[[], float]]] = {
    "installed": ("MB", install_megabytes),
    "codec, tokenizer and chat template": ("MB", codec_megabytes),
    "most memory of a chat": ("MB", resident_megabytes),
    "start to first query": ("s", partial(ready_seconds, 3)),
}
# What is on the disk doesn't change from one look to the next.
REPEATED = ("most memory of a chat", "start to first query")


def measure(name: str, record: Recorder) -> None:
    """One of MEASURED."""
    unit, work = MEASURED[name]
    record.add(name, work(), unit, "lower", "DEL", {})


@contextmanager
def steps(settings: Settings) -> Iterator[list[Step]]:
    """The install is made by the first."""
    repeats = 1 if settings.quick else 5
    yield [Step(name, partial(measure, name)) for name in MEASURED for _ in range(repeats if name in REPEATED else 1)]


SECTION = Section(
    group="edge",
    title="The device",
    about=(
        "A fresh virtual environment with the device's package alone, made by pip with the repository's constraints, "
        "and a chat in it against a server of canned answers. `start to first query` runs from the start of the "
        "process to the query's arrival, the quickest of three starts."
    ),
    facts=(
        Fact("All that a device installs", "installed", "DEL"),
        Fact("From a chat's start to its first question on its way", "start to first query", "DEL"),
    ),
    steps=steps,
    tables=(Table("Footprint", (), tuple(MEASURED)),),
    plots=(),
)
