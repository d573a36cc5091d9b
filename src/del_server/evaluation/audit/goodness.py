"""Does what was received follow the laws that the certificate is computed from? p-values against the exact binomial.

Each function tests one hypothesis about all draws and returns one p-value, made for all of its comparisons at once
(Bonferroni). Knows nothing of epsilon.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from del_codec.noise import GRID
from del_server.evaluation.audit.recording import Floats, Recording

LEAST_EXPECTED = 10.0
# Levels in the tails that together expect so many draws; that none of twelve is seen has a probability of e^-12.
TAILS_EXPECTED = (12.0, 24.0, 48.0, 96.0, 192.0)
_CHUNK = 1 << 15


def counts(recording: Recording) -> float:
    """Ones of every coordinate of both tokens, exactly; and all together, for errors that a coordinate alone hides.

    Those move all probabilities one way, or all farther from (nearer to) one half: noise of another scale.
    """
    p = recording.probabilities
    ones = np.stack([levels.sum(axis=0, dtype=np.int64) for levels in recording.levels])
    trials = np.array([[len(levels)] for levels in recording.levels]) * recording.setting.levels
    each = 2 * np.minimum(stats.binom.cdf(ones, trials, p), stats.binom.sf(ones - 1, trials, p))
    found = [float(each.min()) * each.size]
    for direction in (np.ones_like(p), p - 0.5):
        spread = np.sqrt((trials * p * (1 - p) * direction**2).sum())
        if spread:
            found.append(_two_sided(((ones - trials * p) * direction).sum() / spread))
    return float(min(1.0, len(found) * min(found)))


def levels(recording: Recording) -> float:
    """How often each level was seen, all laws together (chi-square); 1 at one bit, where `counts` says it all."""
    if recording.setting.levels == 1:
        return 1.0
    statistic, freedom = 0.0, 0
    for seen, expected in _laws(recording):
        places = cells(expected, LEAST_EXPECTED)
        observed, mean = np.bincount(places, seen), np.bincount(places, expected)
        if len(mean) > 1:
            statistic += float(((observed - mean) ** 2 / mean).sum())
            freedom += len(mean) - 1
    return float(stats.chi2.sf(statistic, freedom)) if freedom else 1.0


def tails(recording: Recording) -> float:
    """Draws of the rarest levels, at both ends of all laws, against the Poisson law; 1 at one bit.

    Where a sampler rounds probabilities these are missing, or come too often.
    """
    if recording.setting.levels == 1:
        return 1.0
    laws = list(_laws(recording))
    ends = [*laws, *((seen[::-1], expected[::-1]) for seen, expected in laws)]
    return min(1.0, len(TAILS_EXPECTED) * min(_tail(ends, wanted) for wanted in TAILS_EXPECTED))


def _tail(ends: Sequence[tuple[Floats, Floats]], wanted: float) -> float:
    """Of as many of the first levels of each as are needed to expect so many draws in all."""
    seen, mean = 0.0, 0.0
    for observed, expected in ends:
        stop = int(np.searchsorted(np.cumsum(expected), wanted / len(ends))) + 1
        seen, mean = seen + float(observed[:stop].sum()), mean + float(expected[:stop].sum())
    return 2 * min(float(stats.poisson.cdf(seen, mean)), float(stats.poisson.sf(seen - 1, mean)))


def coordinates(recording: Recording) -> float:
    """Correlation of each two coordinates of a token's draws: a certificate multiplies their laws."""
    largest, pairs = 0.0, 0
    for which, drawn in enumerate(recording.levels):
        dim = drawn.shape[1]
        products = np.zeros((dim, dim))
        for start in range(0, len(drawn), _CHUNK):
            some = recording.residuals(which, start, start + _CHUNK)
            products += some.T @ some
        upper = np.abs(products[np.triu_indices(dim, 1)]) / np.sqrt(max(len(drawn), 1))
        largest, pairs = max(largest, float(upper.max(initial=0.0))), pairs + upper.size
    return min(1.0, pairs * _two_sided(largest)) if pairs else 1.0


def cells(expected: Floats, least: float) -> npt.NDArray[np.int64]:
    """The cell of each level: neighbours share one until it expects `least` draws, enough for the chi-square law."""
    places, mass, cell = np.zeros(len(expected), dtype=np.int64), 0.0, 0
    for level, mean in enumerate(expected):
        places[level] = cell
        mass += mean
        if mass >= least and expected[level + 1 :].sum() >= least:
            cell, mass = cell + 1, 0.0
    return places


def _laws(recording: Recording) -> Iterator[tuple[Floats, Floats]]:
    """How often each level was seen, and is expected, both [u + 1], for each threshold of either token."""
    top = recording.setting.levels
    seen: dict[int, Floats] = {}
    draws: dict[int, int] = {}
    for thresholds, drawn in zip(recording.thresholds, recording.levels, strict=True):
        for coordinate, threshold in enumerate(thresholds.tolist()):
            found = np.bincount(drawn[:, coordinate], minlength=top + 1).astype(np.float64)
            seen[threshold] = seen.get(threshold, 0.0) + found
            draws[threshold] = draws.get(threshold, 0) + len(drawn)
    for threshold, observed in seen.items():
        yield observed, draws[threshold] * stats.binom.pmf(np.arange(top + 1), top, threshold / GRID)


def _two_sided(z: float) -> float:
    return float(2 * stats.norm.sf(abs(z)))
