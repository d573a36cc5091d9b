"""Two runs compared: which figures became worse by more than their noise explains.

A figure with a unit beside each repeat counts in units; one with a peer, measured in turns with it, as a ratio to that.
Others count as they are. On logarithms, the noise of a median is 1.253 times the repeats' deviation (1.483 times their
median absolute deviation from it, so that outliers don't matter) over the root of their number; both runs' add up in
squares. A change counts if it is above TOLERANCE and above NOISES times that noise.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Literal

from benchmarks.report.results import Result, Run

TOLERANCE = math.log(1.14)
NOISES = 3.0
# Of fewer repeats no deviation can be said.
LEAST_REPEATS = 5
_DEVIATION, _OF_MEDIAN = 1.4826, 1.2533


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in both runs. ratio: of the new to the old, above 1 where the figure grew; noise: of its logarithm."""

    result: Result
    ratio: float
    noise: float

    @property
    def verdict(self) -> Literal["worse", "better", "same"]:
        """Judged by whether less or more is better."""
        change = math.log(self.ratio) if self.result.better == "lower" else -math.log(self.ratio)
        if abs(change) < max(TOLERANCE, NOISES * self.noise):
            return "same"
        return "worse" if change > 0 else "better"


def changes(old: Run, new: Run) -> list[Change]:
    """Of every figure that both runs have with enough repeats, and of which less or more is better."""
    before = {result.key: result for result in old.results}
    found = []
    for result in new.results:
        other = before.get(result.key)
        if other is None or result.better == "neither" or result.unit != other.unit:
            continue
        mine, theirs = _comparable(new, result), _comparable(old, other)
        if min(len(mine), len(theirs)) >= LEAST_REPEATS and min(*mine, *theirs) > 0:
            middle, noise = _middle(mine)
            was, noise_before = _middle(theirs)
            found.append(Change(result, math.exp(middle - was), math.hypot(noise, noise_before)))
    return found


def _comparable(run: Run, result: Result) -> list[float]:
    """The repeats as what can be compared between runs."""
    if result.units:
        return [value / unit for value, unit in zip(result.values, result.units, strict=True)]
    peer = run.peer(result)
    if peer is not None and len(peer.values) == len(result.values) and min(peer.values) > 0:
        return [value / other for value, other in zip(result.values, peer.values, strict=True)]
    return list(result.values)


def _middle(values: list[float]) -> tuple[float, float]:
    """The median's logarithm, and its noise."""
    logs = [math.log(value) for value in values]
    middle = statistics.median(logs)
    deviation = _DEVIATION * statistics.median(abs(value - middle) for value in logs)
    return middle, _OF_MEDIAN * deviation / math.sqrt(len(logs))
