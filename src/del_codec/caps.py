"""Caps on attacks: the largest share of tokens that any attack on one release alone can recover, proven.

Compare the release of a token w with that of fair coins, which depends on no token. If an attack guesses w with
probability q_w on fair coins (sum of q_w = 1), then by Neyman and Pearson it guesses w with probability at most
1 - f0(q_w) when w is what was released, f0 the trade-off function of Bin(N, 1/2) against Bin(N, p+) with randomised
tests. Success is at most the sum over w of prior(w) * (1 - f0(q_w)), maximised over q.

The prior is all that the attacker knows beforehand: with the sentence's context it is sharper than any unigram table,
so these caps are context-free. For a secret of several tokens give all of its draws, and its alphabet as prior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from del_codec.binomial import Floats, log_pmf, window
from del_codec.errors import InvalidValue
from del_codec.release import GRID, HALF, Release, check_int, precise
from del_codec.tradeoff import ARITHMETIC_MARGIN

_BISECTIONS = 80


def cap_uniform(release: Release, vocabulary_size: int) -> float:
    """1 - f0(1/V): no attack on one token of V equally likely ones succeeds more often. Raises InvalidValue."""
    check_int("vocabulary_size", vocabulary_size, 1, 1 << 32)
    return _cap(release, np.array([1 / vocabulary_size]), np.array([float(vocabulary_size)]))


def cap_prior(release: Release, prior: npt.ArrayLike) -> float:
    """max over q (sum q_w = 1) of sum_w prior_w (1 - f0(q_w)): no attack with that prior succeeds more often.

    prior: [V] probabilities or counts, normalised here. Raises InvalidValue unless one-dimensional, finite,
    non-negative and of a positive, finite sum.
    """
    weights = _checked(prior)
    values, counts = np.unique(weights[weights > 0], return_counts=True)
    return _cap(release, values, counts.astype(np.float64))


def cap_commonest(release: Release, share: float) -> float:
    """1 - f0(share): no attack succeeds more often, under any prior whose likeliest token has at most that share.

    With g = 1 - f0, which is concave and rises, sum_w prior_w g(q_w) <= g(sum_w prior_w q_w) <= g(share), since the
    prior sums to one (Jensen) and so does q. For a device that has no prior of its own and trusts nobody's. Raises
    InvalidValue unless 0 < share <= 1.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise InvalidValue("share", share, "use the commonest token's share of a text, above 0, up to 1")
    return _cap(release, np.array([float(share)]), np.array([1 / share]))


def _checked(prior: npt.ArrayLike) -> Floats:
    try:
        weights = np.asarray(prior, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidValue("prior", prior, "use a sequence of numbers, one for each token") from None
    if weights.ndim != 1 or not weights.size:
        raise InvalidValue("prior", f"an array of shape {weights.shape}", "use one number for each token")
    bad = weights[~(np.isfinite(weights) & (weights >= 0))]
    if bad.size:
        raise InvalidValue("prior", float(bad[0]), "use finite numbers, zero or more")
    largest = float(weights.max())
    if largest == 0:
        raise InvalidValue("prior", "all zero", "give at least one token a positive probability or count")
    weights = weights / largest
    shares: Floats = weights / weights.sum()
    return shares


@dataclass(frozen=True, eq=False)
class _PowerCurve:
    """The corners (alpha[i], beta[i]) of 1 - f0, from (about) beta = 1 down to (0, 0), for tests K >= first + i.

    alpha[i]: probability of the test under fair coins, beta[i]: its power. log_ratio: log P1/P0 of `first` ones;
    each further one adds log_odds. Tests outside of the window that matters under P1 are left out in the attacker's
    favour: power is taken as 1 below it, and as free of cost above it.
    """

    alpha: Floats
    beta: Floats
    log_ratio: float
    log_odds: float

    def corner(self, log_slopes: Floats) -> npt.NDArray[np.int64]:
        """The index of the corner at which the curve has that slope: the first i with log P1/P0 above it."""
        steps: Floats = np.floor((log_slopes - self.log_ratio) / self.log_odds) + 1
        return np.clip(steps, 0, len(self.beta) - 1).astype(np.int64, copy=False)


def _power_curve(release: Release) -> _PowerCurve:
    n_draws, threshold = release.n_draws, release.threshold_max
    first, last, _ = window(lambda ones: log_pmf(ones, n_draws, threshold), 0, n_draws)
    ones = np.arange(first, last + 1)
    alpha, beta = (np.append(np.cumsum(np.exp(log_pmf(ones, n_draws, t))[::-1])[::-1], 0.0) for t in (HALF, threshold))
    with precise():
        log_ratio = first * release.log_odds + n_draws * (Decimal(GRID - threshold) / HALF).ln()
    return _PowerCurve(alpha, beta, float(log_ratio), float(release.log_odds))


def _cap(release: Release, values: Floats, counts: Floats) -> float:
    """The cap for a prior with `counts` tokens of each probability in `values`, both [distinct], ascending.

    Lagrange dual: for any price y >= 0 of a unit of q the cap is at most
    y + sum_w max_q (prior_w (1 - f0(q)) - y q), and the inner maximum is the corner of slope y / prior_w. The least of
    these bounds over y is the cap itself (the problem is concave), at some y <= 1 since success with all of q is at
    most 1; rounding can only leave it above.
    """
    if release.is_fair:
        return float(values[-1])
    curve = _power_curve(release)
    log_values = np.log(values)
    low = curve.log_ratio + float(log_values[0]) - curve.log_odds
    high = curve.log_ratio + len(curve.beta) * curve.log_odds + float(log_values[-1])
    best = 1.0
    for _ in range(_BISECTIONS):
        log_price = (low + high) / 2
        corners = curve.corner(log_price - log_values)
        spent = float(counts @ curve.alpha[corners])
        if log_price < 0:
            bound = float((counts * values) @ curve.beta[corners]) + math.exp(log_price) * (1 - spent)
            best = min(best, bound * (1 + ARITHMETIC_MARGIN))
        low, high = (log_price, high) if spent > 1 else (low, log_price)
    return best
