"""The trade-off between Bin(N, p) and Bin(N, 1 - p) by definition, in 80 digits: sum of max(0, P(k) - e^eps Q(k))."""

import mpmath
from mpmath import mpf

from del_codec.accounting import Release

DIGITS = 80
GRID = 2**32


def log_pmf(ones: int, release: Release) -> mpf:
    """log Pr[K = ones] for K ~ Bin(N, p)."""
    with mpmath.workdps(DIGITS):
        p = mpf(release.threshold_max) / GRID
        n = release.n_draws
        ways = mpmath.loggamma(n + 1) - mpmath.loggamma(ones + 1) - mpmath.loggamma(n - ones + 1)
        return ways + ones * mpmath.log(p) + (n - ones) * mpmath.log(1 - p)


def log_odds(release: Release) -> mpf:
    """The privacy loss of one draw."""
    with mpmath.workdps(DIGITS):
        return mpmath.log(mpf(release.threshold_max) / (GRID - release.threshold_max))


def delta(release: Release, epsilon: float) -> mpf:
    """delta at epsilon >= 0; every k whose term could matter in the 30th digit is visited."""
    with mpmath.workdps(DIGITS):
        n, threshold = release.n_draws, release.threshold_max
        mean = mpf(n * threshold) / GRID
        loss_of_one = log_odds(release)
        # By Hoeffding less than e^-160 of P's mass lies below the second bound.
        start = max(0, int((n + mpf(epsilon) / loss_of_one) / 2), int(mean - 9 * mpmath.sqrt(n)) - 1)
        if start > n:
            return mpf(0)
        p = mpmath.exp(log_pmf(start, release))
        q = mpmath.exp(mpf(epsilon) - (2 * start - n) * loss_of_one) * p
        total = mpf(0)
        for k in range(start, n + 1):
            total += max(p - q, 0)
            if k > mean and 0 < p < total * mpf(10) ** -32:
                break
            p, q = (
                p * (n - k) * threshold / ((k + 1) * (GRID - threshold)),
                q * (n - k) * (GRID - threshold) / ((k + 1) * threshold),
            )
        return total
