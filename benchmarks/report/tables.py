"""Results as rows of text: one row for each way at each place, a cell for each figure, its spread and its ratio."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.report.results import Result, Run
from benchmarks.section import Fact, Table
from del_server.evaluation.markdown import markdown_table

Row = tuple[str, ...]
SMALL = (("s", 1.0, "ms", 1e3), ("ms", 1.0, "µs", 1e3), ("µs", 1.0, "ns", 1e3))
LARGE = (("B", 1e4, "kB", 1e-3), ("kB", 1e4, "MB", 1e-3), ("MB", 1e4, "GB", 1e-3))


def table_rows(run: Run, group: str, table: Table) -> list[Row]:
    """The header, then the rows; nothing but the header where no result fits."""
    found = [result for result in run.of(group) if result.name in table.names and set(result.at) <= set(table.rows)]
    places: dict[Row, dict[str, Result]] = {}
    for result in found:
        place = (*(_place(result.at.get(name, "")) for name in table.rows), result.way)
        places.setdefault(place, {})[result.name] = result
    used = [at for at in range(len(table.rows)) if any(place[at] for place in places)]
    header = (*(table.rows[at] for at in used), "way", *table.names)
    rows = [
        (*(place[at] for at in used), place[-1], *(_cell(run, figures.get(name)) for name in table.names))
        for place, figures in places.items()
    ]
    return [header, *rows]


def told(run: Run, group: str, fact: Fact) -> str:
    """A fact's words and its figure, or nothing where a run has no such figure."""
    found = (each for each in run.of(group) if (each.name, each.way, each.at) == (fact.name, fact.way, fact.at))
    result = next(found, None)
    return f"{fact.words}: {_cell(run, result)}" if result else ""


def markdown(rows: Sequence[Row]) -> str:
    """The header and its rows as Markdown."""
    return markdown_table(rows[0], rows[1:]) + "\n"


def _place(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _cell(run: Run, result: Result | None) -> str:
    if result is None:
        return ""
    text = quantity(result.median, result.unit)
    if len(result.values) > 1:
        low, high = result.spread
        text += f" ({number(low, result)} to {number(high, result)})"
    ratio = run.ratio(result)
    return text if ratio is None else f"{text}; {ratio:.3g} × {result.peer}"


def quantity(value: float, unit: str) -> str:
    """A number with its unit, in three digits, seconds in a unit that suits them."""
    value, unit = _scaled(value, unit)
    return f"{_digits(value, unit)} {unit}".rstrip()


def number(value: float, like: Result) -> str:
    """A number in the unit that a result's median is shown in."""
    return _digits(value * _factor(like.median, like.unit), like.unit)


def _digits(value: float, unit: str) -> str:
    """Three digits, four of what has no unit: shares and ratios lie close together."""
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}" if unit else f"{value:.4g}"


def _scaled(value: float, unit: str) -> tuple[float, str]:
    for have, below, smaller, factor in SMALL:
        if unit == have and 0 < abs(value) < below:
            return _scaled(value * factor, smaller)
    for have, above, larger, factor in LARGE:
        if unit == have and abs(value) >= above:
            return _scaled(value * factor, larger)
    return value, unit


def _factor(median: float, unit: str) -> float:
    scaled, _ = _scaled(median, unit)
    return scaled / median if median else 1.0
