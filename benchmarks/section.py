"""Section: one group of benchmarks, as the harness runs it and the report shows it. Knows not what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from benchmarks.report.results import Recorder


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line asks for. first_token_bound: seconds; answers that begin later are no goodput."""

    quick: bool = False
    engine: str = "transformers"
    first_token_bound: float = 2.0


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of the work, with the line that a progress bar shows."""

    label: str
    run: Callable[[Recorder], None]


@dataclass(frozen=True, slots=True)
class Table:
    """Figures `names` by the places `rows`; a line for each way at each place that has one of them."""

    title: str
    rows: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """Figure `name` over `x` where the rest of the place is `where`, a line for each way; both axes logarithmic."""

    title: str
    name: str
    x: str
    where: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Section:
    """steps: opens what the work needs (servers, say) and gives the work."""

    group: str
    title: str
    about: str
    steps: Callable[[Settings], AbstractContextManager[list[Step]]]
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]
