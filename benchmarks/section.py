"""Section: one group of benchmarks, as the harness runs it and the report shows it. Knows not what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.report.results import Recorder, Run
from del_codec.errors import InvalidValue


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line asks for. first_token_bound: seconds; answers that begin later are no goodput.

    text: what attacks are tried on; none for the sample that comes with the benchmarks. attack_text: what attacks that
    learn learn from; none leaves them out. rounds: processes that measure each section, one after another; 0 for as
    many as it says itself, or one where quick.

    minutes, model, codec, rate: of the soak: how long it lasts, what is served (codec: a folder; None: the shipped
    one) and how many visits a second there are.
    """

    quick: bool = False
    engine: str = "transformers"
    first_token_bound: float = 2.0
    text: tuple[Path, ...] = ()
    attack_text: tuple[Path, ...] = ()
    rounds: int = 0
    minutes: float = 60.0
    model: str = "smollm2"
    codec: Path | None = None
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise InvalidValue("rounds", self.rounds, "use a whole number of processes, or 0 for each section's own")


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
    about: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """Figure `name` over `x`, which is on a logarithmic axis, where the rest of the place is `where`.

    A line for each way, and for each value of the places in `by`, which are no part of `where`.
    """

    title: str
    name: str
    x: str
    where: Mapping[str, float | str] = field(default_factory=dict)
    by: tuple[str, ...] = ()
    y: Literal["log", "linear"] = "log"


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure at a place for who reads nothing else, and what it is in words."""

    words: str
    name: str
    way: str
    at: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table that is worked out from a run's figures: its header and its rows."""

    title: str
    about: str
    rows: Sequence[tuple[str, ...]]


def no_sheets(run: Run) -> Sequence[Sheet]:  # noqa: ARG001
    """Of a section that says all in tables and plots."""
    return ()


@dataclass(frozen=True, slots=True)
class Section:
    """steps: opens what the work needs (servers, say) and gives the work. sheets: what follows from what was found.

    words: what a reader may not know, and what it means here. rounds: processes that measure it in a run that is not
    quick. refused: why this machine can't measure it; "" where it can. facts: what is told of it
    before all else.
    """

    group: str
    title: str
    about: str
    steps: Callable[[Settings], AbstractContextManager[list[Step]]]
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]
    sheets: Callable[[Run], Sequence[Sheet]] = no_sheets
    words: Mapping[str, str] = field(default_factory=dict)
    rounds: int = 1
    refused: Callable[[], str] = str
    facts: tuple[Fact, ...] = ()
