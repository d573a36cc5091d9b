"""The binomial law in float64 with close to full relative accuracy, far into its tails and up to 2^36 draws.

Differences of log-gammas lose every digit at such N; Loader's saddle-point form does not (C. Loader, "Fast and accurate
computation of binomial probabilities", 2000). Knows nothing of privacy.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from del_codec.release import GRID

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# Terms this far (in logs) below a sum's largest are left out: e^-50 is 2e-22.
_DROP = 50.0
_CHUNK = 1 << 14
_FAN = 64
_SMALL = 16
_NEAR = 0.1
_DEVIANCE_TERMS = 8


def log_pmf(ones: Ints, n_draws: int, threshold: int) -> Floats:
    """log Pr[K = k] for K ~ Binomial(n_draws, threshold / 2^32), 1 <= threshold < 2^32; k in 0..n_draws, any shape.

    log C(N, k) p^k q^(N-k) = e(N) - e(k) - e(N-k) - D(k, Np) - D(N-k, Nq), with e the factorial excess and D the
    deviance below (Loader 2000, with the factor sqrt(N / (2 pi k (N-k))) taken into e, so that k = 0 and
    k = N are no special cases).
    """
    # k - Np from integers: Np itself needs up to 68 bits.
    whole, part = divmod(n_draws * threshold, GRID)
    deviation: Floats = (ones - whole).astype(np.float64) - part / GRID
    zeros = n_draws - ones
    total = float(_factorial_excess(np.array([n_draws]))[0])
    return (
        total
        - _factorial_excess(ones)
        - _factorial_excess(zeros)
        - _deviance(ones.astype(np.float64), n_draws * threshold / GRID, deviation)
        - _deviance(zeros.astype(np.float64), n_draws * (GRID - threshold) / GRID, -deviation)
    )


_EXCESS_OF_SMALL = np.array([0.0] + [math.lgamma(k + 1) - k * math.log(k) + k for k in range(1, _SMALL)])


def _factorial_excess(k: Ints) -> Floats:
    """e(k) = log k! - (k log k - k), e(0) = 0: Stirling's series from 16 on (its next term is 2e-16 there)."""
    x = np.maximum(k, _SMALL).astype(np.float64)
    inverse = 1 / x
    square = inverse * inverse
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188))))
    large = series + 0.5 * np.log(2 * math.pi * x)
    return np.where(k < _SMALL, _EXCESS_OF_SMALL[np.minimum(k, _SMALL - 1)], large)


def _deviance(x: Floats, mean: float, deviation: Floats) -> Floats:
    """D(x, m) = x log(x/m) + m - x >= 0, given also deviation = x - m; D(0, m) = m.

    Near the mean by Loader's series in v = (x-m)/(x+m): (x-m)v + 2x sum_{j>=1} v^(2j+1)/(2j+1).
    """
    v = deviation / (x + mean)
    square = v * v
    tail = np.zeros_like(v)
    for j in range(_DEVIANCE_TERMS, 0, -1):
        tail = square * (1 / (2 * j + 1) + tail)
    near: Floats = v * (deviation + 2 * x * tail)
    far = np.abs(v) > _NEAR
    if far.any():
        ratio = np.where(x > 0, x / mean, 1.0)
        near = np.where(far, x * np.log(ratio) - deviation, near)
    return near


def window(log_term: Callable[[Ints], Floats], low: int, high: int) -> tuple[int, int, float]:
    """(left, right, top) of a log-concave sequence over low..high: its terms above e^-50 of the largest, e^top.

    What lies outside adds less than 1e-20 of the sum, since terms fall geometrically from there.
    """
    peak = _peak(log_term, low, high)
    top = float(log_term(np.array([peak]))[0])
    return _last_above(log_term, peak, low, top - _DROP), _last_above(log_term, peak, high, top - _DROP), top


def log_sum(log_term: Callable[[Ints], Floats], low: int, high: int) -> float:
    """log of the sum over k = low..high of exp(log_term(k)), for a log-concave sequence of finite terms.

    Only the window is visited: about 20 standard deviations of a binomial. All terms are positive: nothing cancels.
    """
    left, right, top = window(log_term, low, high)
    total = 0.0
    for start in range(left, right + 1, _CHUNK):
        total += float(np.exp(log_term(np.arange(start, min(start + _CHUNK, right + 1))) - top).sum())
    return top + math.log(total)


def _fan(low: int, high: int) -> Ints:
    """At most 65 whole numbers spread evenly from low to high (which may lie below low), both included."""
    if abs(high - low) <= _FAN:
        return np.arange(low, high + 1) if low <= high else np.arange(low, high - 1, -1)
    return low + (high - low) * np.arange(_FAN + 1) // _FAN


def _peak(log_term: Callable[[Ints], Floats], low: int, high: int) -> int:
    while True:
        points = _fan(low, high)
        best = int(np.argmax(log_term(points)))
        if high - low <= _FAN:
            return int(points[best])
        low, high = int(points[max(best - 1, 0)]), int(points[min(best + 1, _FAN)])


def _last_above(log_term: Callable[[Ints], Floats], peak: int, end: int, floor: float) -> int:
    """The last k on the way from the peak to the end whose term is not below the floor."""
    while True:
        points = _fan(peak, end)
        last = int(np.count_nonzero(log_term(points) >= floor)) - 1
        if abs(end - peak) <= _FAN or last == _FAN:
            return int(points[last])
        peak, end = int(points[last]), int(points[last + 1])
