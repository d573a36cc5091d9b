"""How a figure grows: the exponent b of y = a * x^b, by least squares on logarithms of medians, with its interval."""

from __future__ import annotations

import math
import statistics
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
class Estimate:
    """A value that a fit gives, between low and high with CONFIDENCE."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Fit:
    """exponent: between low and high with CONFIDENCE, if the points scatter around one power of x at all.

    centre: the means of log x and log y. error: of the points about the line. width: sum of squares of log x about its
    mean.
    """

    exponent: float
    low: float
    high: float
    places: int
    centre: tuple[float, float]
    error: float
    width: float

    def at(self, x: float) -> Estimate:
        """The line's own value at x, which may lie outside of what was measured."""
        across = math.log(x) - self.centre[0]
        middle = self.centre[1] + self.exponent * across
        reach = _quantile(self.places) * self.error * math.sqrt(1 / self.places + across**2 / self.width)
        return Estimate(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach))


def fit(points: Sequence[tuple[float, float]]) -> Fit | None:
    """Of (x, y), all above zero, at LEAST_PLACES different x; None for fewer."""
    usable = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len({x for x, _ in usable}) < LEAST_PLACES:
        return None
    xs, ys = zip(*usable, strict=True)
    line = stats.linregress(xs, ys)
    slope, count = float(line.slope), len(usable)
    reach = _quantile(count) * float(line.stderr)
    left = sum((y - line.intercept - slope * x) ** 2 for x, y in usable)
    centre = (statistics.fmean(xs), statistics.fmean(ys))
    width = sum((x - centre[0]) ** 2 for x in xs)
    return Fit(slope, slope - reach, slope + reach, count, centre, math.sqrt(left / (count - 2)), width)


def _quantile(places: int) -> float:
    """Student's, of the line through so many points."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, places - 2))


def fit_of(results: Sequence[Result], x: str) -> Fit | None:
    """Through the medians of results that lie along x."""
    return fit([(float(result.at[x]), result.median) for result in results])


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
    """The header, then a row for each line of each logarithmic plot that has places enough."""
    rows: list[Row] = [("figure", "against", "way", "exponent", "95 % interval", "places")]
    for plot in plots:
        if plot.y != "log":
            continue
        for way, points in lines(run, group, plot).items():
            found = fit_of(points, plot.x)
            if found is not None:
                interval = f"{found.low:.2f} to {found.high:.2f}"
                rows.append((plot.name, plot.x, way, f"{found.exponent:.2f}", interval, str(found.places)))
    return rows
