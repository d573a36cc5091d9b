"""The exact privacy of one release: the trade-off between Binomial(N, p+) and Binomial(N, 1 - p+).

Every pair of inputs is a post-processing of that pair (docs/privacy.md gives the proof), so what holds for it holds for
all. Figures are rounded up, never down: ARITHMETIC_MARGIN exceeds the error of float64 and is added to delta.
Knows nothing of composition, units or attacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal

import numpy as np

from del_codec.binomial import Floats, Ints, log_pmf, log_sum, window
from del_codec.ladder import LossLadder
from del_codec.moments import best_tilt_for_epsilon
from del_codec.release import Release, check_delta, check_epsilon, precise, up

ARITHMETIC_MARGIN = 1e-9
_LEAST = math.nextafter(0.0, 1.0)


def delta(release: Release, epsilon: float) -> float:
    """The least delta for which the release is (epsilon, delta)-DP, rounded up by 1e-9 of itself.

    delta(eps) = sum_k max(0, P(k) - e^eps Q(k)), P = Bin(N, p+), Q = Bin(N, 1 - p+) (Neyman and Pearson: the set
    where P > e^eps Q is the worst). With the privacy loss of k ones, (2k - N) L, this is the sum of
    P(k) (1 - e^(eps - (2k-N)L)) over the k whose loss exceeds epsilon: positive terms only.
    Zero only from pure_epsilon on. Raises InvalidValue unless epsilon is finite and >= 0.
    """
    check_epsilon(epsilon)
    if release.is_fair:
        return 0.0
    with precise():
        first = (release.n_draws + math.floor(Decimal(epsilon) / release.log_odds)) // 2 + 1
        gap = float((2 * first - release.n_draws) * release.log_odds - Decimal(epsilon))
    if first > release.n_draws:
        return 0.0
    return up_from_log(log_sum(_log_term(release, first, gap), first, release.n_draws))


def epsilon(release: Release, delta: float) -> float:
    """The least epsilon for which the release is (epsilon, delta)-DP, rounded up: delta(release, .) solved for delta.

    Zero where delta(release, 0) <= delta; pure_epsilon for delta = 0. Raises InvalidValue unless 0 <= delta < 1.
    """
    check_delta(delta)
    if delta == 0 or release.is_fair:
        return pure_epsilon(release)
    target = log_target(delta)
    return min(_ladder(release, target).epsilon(target, 0.0), pure_epsilon(release))


def pure_epsilon(release: Release) -> float:
    """N * L = N ln(p+ / (1 - p+)): the largest privacy loss that can occur, hence epsilon at delta = 0."""
    with precise():
        return up(release.n_draws * release.log_odds)


def rho(release: Release) -> float:
    """The least rho for which the release is rho-zCDP: N (2 p+ - 1) L.

    zCDP: D_a(P || Q) <= rho * a for all a > 1 (Bun and Steinke 2016, definition 1.1). One draw has
    (a - 1) D_a = log(cosh((a - 1/2) L) / cosh(L/2)), and log cosh(sqrt(v)) is concave in v, so that
    (a - 1) D_a <= a (a - 1) * KL: the bound is the Kullback-Leibler divergence (2 p+ - 1) L, reached as a -> 1.
    """
    with precise():
        return up(release.n_draws * Decimal(2 * release.p_plus - 1) * release.log_odds)


def log_target(delta: float) -> float:
    """log of a delta in (0, 1), lowered by the arithmetic margin: what rounded-up sums are compared with."""
    return math.log(delta) - ARITHMETIC_MARGIN


def up_from_log(log_delta: float) -> float:
    """A delta from its logarithm, raised by the arithmetic margin; never 0, at most 1."""
    return math.exp(min(log_delta + ARITHMETIC_MARGIN, 0.0)) or _LEAST


def _log_term(release: Release, first: int, gap: float) -> Callable[[Ints], Floats]:
    """log of P(k) (1 - e^-(gap + 2L(k - first))) for k >= first; gap > 0 is the loss of `first` less epsilon."""
    step = float(2 * release.log_odds)

    def log_term(ones: Ints) -> Floats:
        excess = gap + step * (ones - first)
        terms: Floats = log_pmf(ones, release.n_draws, release.threshold_max) + np.log(-np.expm1(-excess))
        return terms

    return log_term


def _log_delta_at(release: Release, ones: int) -> float:
    """log delta at epsilon = the loss of that many ones."""
    if ones == release.n_draws:
        return -math.inf
    return log_sum(_log_term(release, ones + 1, float(2 * release.log_odds)), ones + 1, release.n_draws)


def _bracket(release: Release, target: float) -> tuple[int, int]:
    """Numbers of ones between whose losses log delta falls to the target, a few standard deviations apart.

    The lower one is N // 2 (a loss of zero or less) if log delta is below the target already there.
    """
    base, n_draws = release.n_draws // 2, release.n_draws
    reach = math.isqrt(n_draws) + 1
    _, guess = best_tilt_for_epsilon([release], target)
    high = min(math.ceil((n_draws + guess / float(release.log_odds)) / 2), n_draws)
    while _log_delta_at(release, high) > target:
        high = min(high + reach, n_draws)
    low = max(high - reach, base)
    while low > base and _log_delta_at(release, low) <= target:
        low, high = max(low - reach, base), low
    return low, high


def _ladder(release: Release, target: float) -> LossLadder:
    """The privacy losses from those that decide epsilon on: one rung for each number of ones."""
    low, high = _bracket(release, target)
    last = release.n_draws
    if high < last:
        step = float(2 * release.log_odds)
        _, last, _ = window(_log_term(release, high + 1, step), high + 1, release.n_draws)
    # Halfway to the target in logs, so that neither 1 nor a delta of 1e-300 leaves the range of float64.
    log_scale = target / 2
    masses = np.exp(log_pmf(np.arange(low, last + 1), release.n_draws, release.threshold_max) - log_scale)
    with precise():
        origin, step_exact = (2 * low - release.n_draws) * release.log_odds, 2 * release.log_odds
    return LossLadder(masses, origin, step_exact, tilt=0.0, log_scale=log_scale)
