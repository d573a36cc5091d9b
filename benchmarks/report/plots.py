"""Results as plots: SVG text, a line for each way, bars for the spread of repeats. Drawn by matplotlib."""

from __future__ import annotations

import io
import math

import matplotlib as mpl
from cycler import cycler

from benchmarks.report.fits import lines
from benchmarks.report.results import Result, Run
from benchmarks.section import Plot

# Of a line, in characters; two such stand side by side.
LONG_NAME = 30

mpl.use("svg")
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.family": "sans-serif", "font.size": 9})

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator  # noqa: E402


def svg(run: Run, group: str, plot: Plot) -> str:
    """An <svg> element; "" where fewer than two places were measured."""
    found = lines(run, group, plot)
    if max((len(points) for points in found.values()), default=0) < 2:
        return ""
    columns = 2 if max(map(len, found)) <= LONG_NAME else 1
    height = 3.1 + 0.2 * math.ceil(len(found) / columns)
    figure, axes = plt.subplots(figsize=(5.2, height), layout="constrained")
    # Ten colours, then the same with broken lines.
    axes.set_prop_cycle(cycler(linestyle=["-", "--", ":"]) * cycler(color=mpl.color_sequences["tab10"]))
    for way, points in found.items():
        _draw(axes, way, plot.x, points)
    axes.set(xlabel=plot.x, title=plot.title)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if plot.y == "log":
        _logarithmic(axes, next(iter(found.values()))[0].unit)
    axes.set_xticks(sorted({float(result.at[plot.x]) for points in found.values() for result in points}))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, handlelength=3)
    return drawn(figure)


def _logarithmic(axes: plt.Axes, unit: str) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(EngFormatter(unit))
    axes.yaxis.set_minor_locator(NullLocator())


def drawn(figure: Figure) -> str:
    """A figure, which is closed, as an <svg> element that is the same each time."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def _draw(axes: plt.Axes, way: str, x: str, points: list[Result]) -> None:
    medians = [result.median for result in points]
    spreads = [result.spread for result in points]
    below = [median - low for median, (low, _) in zip(medians, spreads, strict=True)]
    above = [high - median for median, (_, high) in zip(medians, spreads, strict=True)]
    places = [float(result.at[x]) for result in points]
    axes.errorbar(places, medians, yerr=[below, above], marker="o", markersize=3, capsize=2, linewidth=1.2, label=way)
