"""Leak: whether a time depends on its input, by Welch's t-test between one input and others (dudect).

Knows nothing of what is timed.
"""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

WARM_UP = 20
CROPS = (10, 25, 50, 75, 90, 95)  # percentiles above which times are left out
TELLING = 4.5  # |t| from which dudect calls a leak

Input = TypeVar("Input")
Make = Callable[[], tuple[Input, Input]]  # one fixed, one drawn at random
Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Leak:
    """Nanoseconds a prompt. difference: random less fixed, with its standard error; t: at `crop`, where |t| is largest.

    spread: standard deviation of what the crop leaves. observations: of each kind, that t would come to TELLING.
    """

    stage: str
    repeats: int
    t: float
    crop: int
    difference: float
    error: float
    spread: float
    observations: float

    @property
    def tells(self) -> bool:
        """Whether the stage's time depends on what is private."""
        return abs(self.t) >= TELLING

    def observations_within(self, jitter: float) -> float:
        """The same for who sees the stage's time with a jitter of so many nanoseconds on top."""
        return _observations(self.difference, float(np.hypot(self.spread, jitter)))


def compare(stage: str, clock: Callable[[Input], float], make: Make[Input], repeats: int) -> Leak:
    """Have a clock, in ns, run on a fixed and on a random input, in random order.

    Both are made anew before either is timed, or what making leaves in the caches would tell them apart.
    """
    kinds = np.unpackbits(np.frombuffer(os.urandom(-(-repeats // 8)), np.uint8))[:repeats].astype(bool)
    times = np.zeros(repeats)
    for _ in range(WARM_UP):
        for given in make():
            clock(given)
    with _no_collection():
        for at, kind in enumerate(tqdm(kinds.tolist(), desc=stage, mininterval=5)):
            times[at] = clock(make()[kind])
    return welch(stage, times[~kinds], times[kinds])


def timed(work: Callable[[Input], object]) -> Callable[[Input], float]:
    """The clock of a piece of work."""

    def clock(given: Input) -> float:
        start = time.perf_counter_ns()
        work(given)
        return time.perf_counter_ns() - start

    return clock


def in_any_order(fixed: Callable[[], Input], drawn: Callable[[], Input]) -> tuple[Input, Input]:
    """Both, made in random order: what is made last lies elsewhere in memory, and warmer."""
    if random.random() < 0.5:
        first = fixed()
        return first, drawn()
    last = drawn()
    return fixed(), last


def welch(stage: str, fixed: Times, drawn: Times) -> Leak:
    """Welch's t at the crop where it is largest."""
    found = []
    for crop in CROPS:
        most = np.percentile(np.concatenate([fixed, drawn]), crop)
        a, b = fixed[fixed <= most], drawn[drawn <= most]
        if min(len(a), len(b)) < 2:
            continue
        error = float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
        difference, spread = float(b.mean() - a.mean()), float(np.concatenate([a - a.mean(), b - b.mean()]).std())
        t = difference / error if error else 0.0
        needed = _observations(difference, spread)
        found.append(Leak(stage, len(fixed) + len(drawn), t, crop, difference, error, spread, needed))
    return max(found, key=lambda leak: abs(leak.t))


def _observations(difference: float, spread: float) -> float:
    return 2 * (TELLING * spread / difference) ** 2 if difference else float("inf")


@contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
