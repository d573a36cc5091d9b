"""CPU time of pieces of work, in turns with one another and with a fixed piece of work, the unit.

What else runs on a machine slows both alike: caches, clocks and sibling threads change a time by half, its ratio to the
unit beside it by far less. Runs made on different days are compared by these ratios (compare.py).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

LEAST_SECONDS = 0.004
MOST_UNITS = 8
_BLOCK = bytes(1 << 17)
_NUMBERS = np.random.default_rng(0).random(1 << 14)


@dataclass(frozen=True, slots=True)
class Turn:
    """CPU seconds of one call of the work, and of the unit around it."""

    seconds: float
    unit: float


def unit_seconds() -> float:
    """CPU seconds of the unit: some of an interpreter's work, some of numpy's, some of hashing."""
    started = time.process_time()
    total = 0
    for number in range(12_000):
        total += number & 7
    hashlib.sha256(_BLOCK).digest()
    np.sort(_NUMBERS)
    return time.process_time() - started


def in_turns(
    works: Mapping[str, Callable[[], object]], repeats: int, least_seconds: float = LEAST_SECONDS
) -> dict[str, list[Turn]]:
    """Every work `repeats` times, each time for as many calls as take `least_seconds`, after one turn that warms up."""
    paces = {name: _pace(work, least_seconds) for name, work in works.items()}
    turns: dict[str, list[Turn]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            turns[name].append(timed(work, *paces[name]))
    return turns


def timed(work: Callable[[], object], calls: int, units: int = 1) -> Turn:
    """One turn of so many calls, with so many units before it and after it."""
    before = [unit_seconds() for _ in range(units)]
    started = time.process_time()
    for _ in range(calls):
        work()
    seconds = (time.process_time() - started) / calls
    after = [unit_seconds() for _ in range(units)]
    return Turn(seconds, sum(before + after) / (2 * units))


def _pace(work: Callable[[], object], least_seconds: float) -> tuple[int, int]:
    """Calls that take so long, and units that take a quarter of what they do: a long work needs a long look around."""
    work()
    started = time.process_time()
    work()
    seconds = max(time.process_time() - started, 1e-6)
    calls = max(1, round(least_seconds / seconds))
    return calls, min(MOST_UNITS, max(1, round(calls * seconds / 4 / unit_seconds())))
