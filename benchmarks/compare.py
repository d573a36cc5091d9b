"""Two runs compared: which figures became worse by more than their noise explains, and which agree.

A figure with a unit beside each repeat counts in units; one with a peer, measured in turns with it, as a ratio to that.
Others count as they are. On logarithms, the noise of a median is 1.253 times the repeats' deviation over the root of
their number: of the repeats, 1.483 times their median absolute deviation, so that outliers don't matter; where several
processes made them, of the processes' medians, which lie farther apart than repeats within one. Both runs' noises add
up in squares. A change counts if it is above TOLERANCE, and so far beyond its noise by Student's t that of all figures
compared none would be by chance, but for one comparison of the same code in fifty (Bonferroni).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from scipy import stats

from benchmarks.report.results import Result, Run

# A little more than halfway to a slow-down of 30 %: there are more ways to be wrong about what didn't change.
TOLERANCE = math.log(1.16)
FALSE_ALARMS = 0.02
# Of fewer repeats, or fewer processes, no deviation can be said.
LEAST_REPEATS, LEAST_ROUNDS = 5, 3
_DEVIATION, _OF_MEDIAN = 1.4826, 1.2533


@dataclass(frozen=True, slots=True)
class Median:
    """The logarithm of a median, its noise, and of how many degrees of freedom that is."""

    log: float
    noise: float
    freedom: int


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in both runs. ratio: of the new to the old, above 1 where the figure grew; noise: of its logarithm;
    least: of its logarithm, what counts as a change."""

    result: Result
    ratio: float
    noise: float
    least: float

    @property
    def verdict(self) -> Literal["worse", "better", "same"]:
        """Judged by whether less or more is better."""
        change = math.log(self.ratio) if self.result.better == "lower" else -math.log(self.ratio)
        if abs(change) < self.least:
            return "same"
        return "worse" if change > 0 else "better"


def changes(old: Run, new: Run) -> list[Change]:
    """Of every figure that both runs have with enough repeats, and of which less or more is better."""
    before = {result.key: result for result in old.results}
    pairs = []
    for result in new.results:
        other = before.get(result.key)
        if other is None or result.better == "neither" or result.unit != other.unit:
            continue
        mine, theirs = _comparable(new, result), _comparable(old, other)
        if min(len(mine), len(theirs)) >= LEAST_REPEATS and min(*mine, *theirs) > 0:
            pairs.append((result, _median(mine, result.rounds), _median(theirs, other.rounds)))
    return [_change(result, mine, theirs, len(pairs)) for result, mine, theirs in pairs]


def apart(old: Run, new: Run) -> tuple[list[tuple[Result, Result]], int]:
    """The figures whose spreads, as each run reports them, have nothing in common, old and new; and of how many."""
    before = {result.key: result for result in old.results}
    both = [(before[result.key], result) for result in new.results if result.key in before]
    found = [pair for pair in both if max(each.spread[0] for each in pair) > min(each.spread[1] for each in pair)]
    return found, len(both)


def _change(result: Result, mine: Median, theirs: Median, figures: int) -> Change:
    noise = math.hypot(mine.noise, theirs.noise)
    least = TOLERANCE
    if noise:
        # Welch and Satterthwaite's.
        freedom = noise**4 / (mine.noise**4 / mine.freedom + theirs.noise**4 / theirs.freedom)
        least = max(least, noise * float(stats.t.ppf(1 - FALSE_ALARMS / figures, freedom)))
    return Change(result, math.exp(mine.log - theirs.log), noise, least)


def _comparable(run: Run, result: Result) -> list[float]:
    """The repeats as what can be compared between runs."""
    if result.units:
        return [value / unit for value, unit in zip(result.values, result.units, strict=True)]
    peer = run.peer(result)
    if peer is not None and len(peer.values) == len(result.values) and min(peer.values) > 0:
        return [value / other for value, other in zip(result.values, peer.values, strict=True)]
    return list(result.values)


def _median(values: Sequence[float], rounds: Sequence[int]) -> Median:
    """rounds: how many of the values each process made."""
    logs = [math.log(value) for value in values]
    middle = statistics.median(logs)
    deviation = _DEVIATION * statistics.median(abs(value - middle) for value in logs)
    within = Median(middle, _OF_MEDIAN * deviation / math.sqrt(len(logs)), len(logs) - 1)
    if len(rounds) < LEAST_ROUNDS:
        return within
    medians = [statistics.median(logs[start:end]) for start, end in pairwise(accumulate(rounds, initial=0))]
    between = _OF_MEDIAN * statistics.stdev(medians) / math.sqrt(len(medians))
    return max(within, Median(middle, between, len(medians) - 1), key=lambda median: median.noise)
