"""What the frontier's evaluations found, for people: docs/results.md and its plots, from the committed result files.

`python -m benchmarks.frontier_report [--results DIR] [--docs DIR]` reads every evaluation in DIR
(benchmarks/results/frontier; each file's name is what its curve is called) and writes DOCS/results.md and
DOCS/images/frontier-*.svg. A test fails when the page and the files drift apart.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from benchmarks import frontier_beside, gpu_report
from benchmarks.report.plots import drawn
from del_server.evaluation.estimate import Estimate
from del_server.evaluation.markdown import markdown_table

HERE = Path(__file__).parent
RESULTS, DOCS = HERE / "results" / "frontier", HERE.parent / "docs"
PAPER, QUARTER = "paper", 0.25
GOALS = {20.0: 0.75, 40.0: 0.85}
KEYS = ("accuracy", "auc", "kept")
INTRODUCTION = """# Results: what a codec keeps and what attacks read

Made by `python -m benchmarks.frontier_report` from `benchmarks/results/frontier`, what
`python -m benchmarks.frontier benchmarks/plans/smollm2.json` leaves behind on one H100 or H200
([evaluation.md](evaluation.md) says what each figure means, [log.md](log.md) what was tried). SmolLM2-135M-Instruct,
{prompt} private tokens and the {continuation} that follow, {count} windows a text, one bit a coordinate (8 bytes a
token).

- *retained*: share of the clean prompt's use for predicting what follows, with its 95 % interval over windows and,
  where there are several, seeds.
- *ASR*: share of the tokens that the strongest attack reads, of {names}. The trained one learned from
  {attack_steps} batches of the kind of text that it attacks.
- *MAP*: the share read from each token's own bits.
- *epsilon*: exact, one token, delta = 1e-5.
"""


@dataclass(frozen=True, slots=True)
class Point:
    """One setting of one curve on one text: estimates as evaluate's JSON has them; asr: of the strongest attack."""

    mu: float
    bits: int
    retained: dict[str, float]
    attack: str
    asr: float
    single: float
    epsilon: float


@dataclass(frozen=True, slots=True)
class Curve:
    """What one file says: how many seeds, how it was measured, points by text."""

    name: str
    seeds: int
    facts: dict[str, Any]
    texts: dict[str, list[Point]]


def main(words: Sequence[str] | None = None) -> int:
    """Write the page and its plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frontier_report")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--docs", type=Path, default=DOCS, metavar="DIR")
    told = parser.parse_args(words)
    found = [json.loads(path.read_text()) | {"name": path.stem} for path in sorted(told.results.glob("*.json"))]
    curves = [_curve(data) for data in found if "texts" in data and "facts" in data]
    tasks = [data for data in found if "task" in data]
    (told.docs / "images").mkdir(parents=True, exist_ok=True)
    for name, drawing in plots(curves).items():
        (told.docs / "images" / name).write_text(drawing)
    (told.docs / "results.md").write_text(page(curves, tasks))
    return 0


def _curve(data: dict[str, Any]) -> Curve:
    texts = {}
    for text in data["texts"]:
        rows = sorted(text["rows"], key=lambda row: (row["bits"], row["mu"]))
        texts[text["text"]] = [
            Point(
                mu=row["mu"],
                bits=row["bits"],
                retained=row["retained"],
                attack=row["strongest"],
                asr=row["attacks"][row["strongest"]]["mean"],
                single=row["attacks"]["map"]["mean"],
                epsilon=row["leakage"]["epsilon"],
            )
            for row in rows
        ]
    return Curve(data["name"], len(data["facts"]["codec"]), data["facts"], texts)


def page(curves: Sequence[Curve], tasks: Sequence[dict[str, Any]]) -> str:
    """The whole page in Markdown."""
    facts = curves[0].facts
    parts = [
        INTRODUCTION.format(**facts, names=facts["attacks"].replace(",", ", ")),
        "![retained against attack success](images/frontier-asr.svg)",
        "",
        "![retained against mu](images/frontier-mu.svg)",
        "",
    ]
    for text in curves[0].texts:
        parts += [f"## {text}", "", _table(curves, text), ""]
    return "\n".join(
        [*parts, *_goals(curves), *_understanding(tasks), *frontier_beside.sections(), *gpu_report.sections()]
    )


def _table(curves: Sequence[Curve], text: str) -> str:
    columns = ["codec", "seeds", "mu", "epsilon", "retained", "95 %", "ASR", "by", "MAP"]
    rows = []
    for curve in curves:
        for point in curve.texts[text]:
            kept = point.retained
            cells = [curve.name, str(curve.seeds), f"{point.mu:g}", f"{point.epsilon:.1f}", f"{kept['mean']:.2f}"]
            cells += [
                f"{kept['low']:.2f} to {kept['high']:.2f}",
                f"{point.asr:.3f}",
                point.attack,
                f"{point.single:.3f}",
            ]
            rows.append(cells)
    return markdown_table(columns, rows)


def _goals(curves: Sequence[Curve]) -> list[str]:
    """What was aimed at, beside what was reached."""
    lines = [
        "## Goals",
        "",
        "Lower end of the 95 % interval of retained, the lower of both texts (goals: .75 at mu 20, .85 at mu 40); how",
        "far the mean lies above the paper's recipe at the mu where that is least; and the most that is retained on",
        "both texts where the strongest attack reads a quarter or less on both (goal: .40).",
        "",
    ]
    paper = next(curve for curve in curves if curve.name == PAPER)
    rows = []
    for curve in curves:
        lows = [min(_at(points, mu).retained["low"] for points in curve.texts.values()) for mu in GOALS]
        cells = [f"{low:.2f}" for low in lows]
        rows.append([curve.name, str(curve.seeds), *cells, _above(curve, paper), _quarter(curve)])
    columns = ["codec", "seeds", "mu 20", "mu 40", "above the paper's, least", "retained at ASR <= .25"]
    return [*lines, markdown_table(columns, rows), ""]


def _at(points: Sequence[Point], mu: float) -> Point:
    return next(point for point in points if point.mu == mu and point.bits == 1)


def _above(curve: Curve, paper: Curve) -> str:
    if curve is paper:
        return "-"
    gaps = [
        (point.retained["mean"] - _at(paper.texts[text], point.mu).retained["mean"], point.mu)
        for text, points in curve.texts.items()
        for point in points
        if any(point.mu == other.mu for other in paper.texts[text])
    ]
    gap, mu = min(gaps)
    return f"{gap:.2f} at mu {mu:g}"


def _quarter(curve: Curve) -> str:
    """At the largest mu of the grid at which both texts are read to a quarter at most."""
    by_mu: dict[float, list[Point]] = {}
    for points in curve.texts.values():
        for point in points:
            by_mu.setdefault(point.mu, []).append(point)
    fitting = [mu for mu, points in by_mu.items() if max(point.asr for point in points) <= QUARTER]
    if not fitting:
        return f"none of the grid (mu {min(by_mu):g}: ASR {max(point.asr for point in by_mu[min(by_mu)]):.2f})"
    best = max(fitting)
    return f"{min(point.retained['mean'] for point in by_mu[best]):.2f} (mu {best:g})"


def _understanding(tasks: Sequence[dict[str, Any]]) -> list[str]:
    """Accuracy of questions about private texts."""
    lines = [
        "## Understanding",
        "",
        "[understanding.md](understanding.md) says how. *kept*: of the clean model's accuracy above always naming the",
        "commonest label (goal: .90 at mu 20), - where the clean model is no better than that.",
        "",
    ]
    rows = []
    for task in tasks:
        for row in task["rows"]:
            setting = f"{row['mu']:g}" if row["bits"] else "-"
            rows.append([task["name"], row["method"], setting, *(_estimate(row[key]) for key in KEYS)])
    return [*lines, markdown_table(["result", "method", "mu", "accuracy", "AUC", "kept"], rows), ""]


def _estimate(value: dict[str, float] | None) -> str:
    return "-" if value is None else str(Estimate(**value))


def plots(curves: Sequence[Curve]) -> dict[str, str]:
    """SVG by file name."""
    return {
        "frontier-asr.svg": _plot(curves, "tokens read by the strongest attack", lambda point: point.asr),
        "frontier-mu.svg": _plot(curves, "mu", lambda point: point.mu),
    }


def _plot(curves: Sequence[Curve], label: str, of: Callable[[Point], float]) -> str:
    """A panel a text, a line a codec, its interval as a band."""
    texts = list(curves[0].texts)
    figure, panels = plt.subplots(1, len(texts), figsize=(4.2 * len(texts), 3.4), sharey=True, layout="constrained")
    for text, axes in zip(texts, panels if len(texts) > 1 else [panels], strict=True):
        for curve in curves:
            points = sorted((p for p in curve.texts[text] if p.bits == 1), key=of)
            where = [of(point) for point in points]
            axes.plot(where, [p.retained["mean"] for p in points], marker="o", markersize=3, label=curve.name)
            axes.fill_between(
                where, [p.retained["low"] for p in points], [p.retained["high"] for p in points], alpha=0.2
            )
        axes.set(xlabel=label, title=text)
        axes.grid(alpha=0.3)
    figure.axes[0].set(ylabel="retained")
    figure.axes[0].legend(frameon=False)
    return drawn(figure)


if __name__ == "__main__":
    sys.exit(main())
