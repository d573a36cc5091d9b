"""How a figure grows: the exponent b of y = a * x^b, by least squares on logarithms of medians, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from benchmarks.report.results import Result, Run
from benchmarks.report.tables import Row
from benchmarks.section import Plot

CONFIDENCE = 0.95
# Two points fit any line exactly.
LEAST_PLACES = 3


@dataclass(frozen=True, slots=True)
class Fit:
    """exponent: between low and high with CONFIDENCE, if the points scatter around one power of x at all."""

    exponent: float
    low: float
    high: float
    places: int


def fit(points: Sequence[tuple[float, float]]) -> Fit | None:
    """Of (x, y), all above zero, at LEAST_PLACES different x; None for fewer."""
    usable = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len({x for x, _ in usable}) < LEAST_PLACES:
        return None
    line = stats.linregress(*zip(*usable, strict=True))
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(usable) - 2) * line.stderr
    return Fit(float(line.slope), float(line.slope - reach), float(line.slope + reach), len(usable))


def lines(run: Run, group: str, plot: Plot) -> dict[str, list[Result]]:
    """By what each line is called, the results of a plot in the order of its x."""
    found: dict[str, list[Result]] = {}
    for result in run.of(group):
        rest = {name: value for name, value in result.at.items() if name != plot.x and name not in plot.by}
        if result.name == plot.name and {plot.x, *plot.by} <= set(result.at) and rest == dict(plot.where):
            line = ", ".join([result.way, *(f"{name} {result.at[name]}" for name in plot.by)])
            found.setdefault(line, []).append(result)
    return {way: sorted(points, key=lambda result: float(result.at[plot.x])) for way, points in found.items()}


def growth_rows(run: Run, group: str, plots: Sequence[Plot]) -> list[Row]:
    """The header, then a row for each line of each plot that has places enough."""
    rows: list[Row] = [("figure", "against", "way", "exponent", "95 % interval", "places")]
    for plot in plots:
        for way, points in lines(run, group, plot).items():
            found = fit([(float(result.at[plot.x]), result.median) for result in points])
            if found is not None:
                interval = f"{found.low:.2f} to {found.high:.2f}"
                rows.append((plot.name, plot.x, way, f"{found.exponent:.2f}", interval, str(found.places)))
    return rows
