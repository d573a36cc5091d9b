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
    calls = {name: _calls(work, least_seconds) for name, work in works.items()}
    turns: dict[str, list[Turn]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            turns[name].append(timed(work, calls[name]))
    return turns


def timed(work: Callable[[], object], calls: int) -> Turn:
    """One turn of so many calls."""
    before = unit_seconds()
    started = time.process_time()
    for _ in range(calls):
        work()
    seconds = (time.process_time() - started) / calls
    return Turn(seconds, (before + unit_seconds()) / 2)


def _calls(work: Callable[[], object], least_seconds: float) -> int:
    work()
    started = time.process_time()
    work()
    return max(1, round(least_seconds / max(time.process_time() - started, 1e-6)))
