"""Results of a run, as JSON and CSV. The JSON is described in docs/benchmarks.md; SCHEMA changes when it does."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from del_codec.errors import ArtifactError

SCHEMA = "del-benchmarks/1"
Better = Literal["lower", "higher", "neither"]
Place = Mapping[str, float | str]


@dataclass(frozen=True, slots=True)
class Result:
    """One figure of one way to do a thing, measured some times.

    at: where it was measured, e.g. {"streams": 16}. way: who did it. peer: the way that it is compared with, at the
    same place in the same run; "" for none. values: one for each repeat, in the order of the repeats. units: seconds of
    a fixed piece of work beside each repeat (turns.py), for comparing runs; empty for none. rounds: how many of the
    repeats each process made (rounds.py); empty where one made them all.
    """

    group: str
    name: str
    unit: str
    better: Better
    way: str
    at: Place
    values: tuple[float, ...]
    peer: str = ""
    units: tuple[float, ...] = ()
    rounds: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[str, str, str, tuple[tuple[str, float | str], ...]]:
        """What names the figure in any run."""
        return self.group, self.name, self.way, tuple(sorted(self.at.items()))

    @property
    def median(self) -> float:
        """Of the repeats."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """What nine tenths of the repeats lie between; of fewer than four, the least and the greatest."""
        return middle(self.values)


def middle(values: Sequence[float]) -> tuple[float, float]:
    """A twentieth lies below the first, one above the second; of fewer than four, the least and the greatest."""
    if len(values) < 4:
        return min(values), max(values)
    lower, *_, upper = statistics.quantiles(values, n=20, method="inclusive")
    return lower, upper


@dataclass(frozen=True, slots=True)
class Run:
    """All results of one command. notes: by group, what a reader must know of this run."""

    command: str
    started: str
    seconds: float
    quick: bool
    machine: Mapping[str, str]
    results: tuple[Result, ...]
    notes: Mapping[str, str] = field(default_factory=dict)

    def of(self, group: str) -> list[Result]:
        """The results of one group, in order."""
        return [result for result in self.results if result.group == group]

    def peer(self, result: Result) -> Result | None:
        """The result that this one is compared with."""
        key = (result.group, result.name, result.peer, result.key[3])
        return next((other for other in self.results if result.peer and other.key == key), None)

    def ratio(self, result: Result) -> float | None:
        """Of a result to its peer: the median of the repeats' ratios, or the ratio of medians if repeats don't pair."""
        peer = self.peer(result)
        if peer is None or not peer.median:
            return None
        if len(peer.values) != len(result.values):
            return result.median / peer.median
        return statistics.median(mine / theirs for mine, theirs in zip(result.values, peer.values, strict=True))

    def write_json(self, path: Path) -> None:
        """Write it as one document."""
        document = {"schema": SCHEMA, **asdict(self)}
        path.write_text(json.dumps(document, indent=1) + "\n")

    def write_csv(self, path: Path) -> None:
        """A line for each figure."""
        with path.open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["group", "name", "way", "at", "unit", "median", "low", "high", "repeats", "peer", "ratio"])
            for result in self.results:
                at = " ".join(f"{name}={value}" for name, value in result.at.items())
                ratio = self.ratio(result)
                figures = [result.median, *result.spread, len(result.values)]
                lines.writerow([result.group, result.name, result.way, at, result.unit, *figures, result.peer, ratio])

    @classmethod
    def read(cls, path: Path) -> Run:
        """Raises ArtifactError for a file that holds none, or one of another schema."""
        try:
            document: dict[str, Any] = json.loads(path.read_text())
            if (found := document.pop("schema")) != SCHEMA:
                raise ArtifactError(f"{path} is {found}; this reads {SCHEMA}: run the benchmark again")
            document["results"] = tuple(_result(entry) for entry in document["results"])
            return cls(**document)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ArtifactError(f"{path} is not a run of the benchmarks: {error}") from None


def _result(entry: dict[str, Any]) -> Result:
    values = {name: tuple(map(float, entry[name])) for name in ("values", "units")}
    return Result(**{**entry, **values, "rounds": tuple(map(int, entry.get("rounds", ())))})


class Recorder:
    """Collects values of one group as they are measured; repeats of one figure go to one result."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._entries: dict[tuple[object, ...], tuple[dict[str, Any], list[float], list[float]]] = {}
        self.notes: list[str] = []

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        better: Better,
        way: str,
        at: Place,
        peer: str = "",
        beside: float | None = None,
    ) -> None:
        """One repeat of one figure; beside: seconds of the unit of work that was timed with it."""
        key = (name, way, tuple(sorted(at.items())))
        fields = {"name": name, "unit": unit, "better": better, "way": way, "at": dict(at), "peer": peer}
        _, values, units = self._entries.setdefault(key, (fields, [], []))
        values.append(value)
        if beside is not None:
            units.append(beside)

    def results(self) -> Iterable[Result]:
        """In the order of their first repeats."""
        return (
            Result(group=self._group, values=tuple(values), units=tuple(units), **fields)
            for fields, values, units in self._entries.values()
        )
