"""Estimate: a mean over seeds and texts with its standard error and a 95 % interval.

Values stand in a grid [S, B]: S codecs that were trained alike with other seeds, B windows of text, the same for all.
Both are samples, so the variance of the grand mean is that of the window means over B plus that of the codec means over
S, and the interval is Student's with the degrees of freedom of Welch and Satterthwaite: with three seeds it is as wide
as three seeds deserve. With one codec the interval is over texts alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """mean; error: its standard error; low, high: the ends of its 95 % interval; nan where there is one value only."""

    mean: float
    error: float
    low: float
    high: float

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Estimate:
        """The mean of values [S, B] or [B]."""
        grid = np.atleast_2d(np.asarray(values, dtype=np.float64))
        parts = [_variance_of_mean(grid.mean(axis=0)), _variance_of_mean(grid.mean(axis=1))]
        known = [(variance, freedom) for variance, freedom in parts if freedom > 0]
        mean, total = float(grid.mean()), sum(variance for variance, _ in known)
        if not known:
            return cls(mean, math.nan, math.nan, math.nan)
        error = math.sqrt(total)
        spread = sum(variance**2 / freedom for variance, freedom in known)
        freedom = total**2 / spread if spread > 0 else math.inf
        margin = error * float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) if error > 0 else 0.0
        return cls(mean, error, mean - margin, mean + margin)

    @classmethod
    def ratio(cls, numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Estimate:
        """mean(numerator) / mean(denominator) of paired values [S, B], linearised: what windows share cancels."""
        top, bottom = (np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in (numerator, denominator))
        scale = float(bottom.mean())
        if scale == 0:
            return cls(math.nan, math.nan, math.nan, math.nan)
        share = float(top.mean()) / scale
        return cls.of(share + (top - share * bottom) / scale)

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}"


def highest(estimates: Mapping[str, Estimate]) -> str:
    """The name of the one with the highest mean; "" for none."""
    return max(estimates, key=lambda name: estimates[name].mean, default="")


def _variance_of_mean(values: npt.NDArray[np.float64]) -> tuple[float, int]:
    """Of the mean of independent values, with its degrees of freedom (0: can't be told)."""
    freedom = len(values) - 1
    return (float(values.var(ddof=1)) / len(values), freedom) if freedom else (0.0, 0)
