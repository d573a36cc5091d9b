"""Lower bounds on epsilon: what the most telling test of two tokens proves about the channel, at a stated confidence.

A test is the log-likelihood ratio of the certified laws above (or below) a threshold: by Neyman and Pearson no other is
better if the laws are those. If it accepts a share a of one token's draws and b of the other's, then
epsilon >= log((a - delta) / b); a is bounded from below and b from above by Clopper and Pearson (1934). Thresholds are
chosen on draws that the bounds don't see. Knows nothing of where draws come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from del_codec.accounting import Release, epsilon
from del_server.evaluation.audit.recording import Floats, Recording

HELD_OUT = 4  # one draw in so many chooses thresholds
_CANDIDATES = 1024
_CHUNK = 1 << 16
# Equal numbers of ones in other places differ by rounding alone.
_DECIMALS = 9


@dataclass(frozen=True, slots=True)
class Bound:
    """At this delta, epsilon is certified to be at most `certified`; the draws prove that it is at least `lower`.

    Both of the same unit. share: of the first kind of units that the test accepted, other: of the second.
    """

    delta: float
    certified: float
    lower: float
    share: float
    other: float

    @property
    def refutes(self) -> bool:
        """Whether the certificate is refuted."""
        return self.lower > self.certified

    @property
    def ratio(self) -> float:
        """How much of the certified epsilon is proven to be spent; 0 where nothing is certified."""
        return self.lower / self.certified if self.certified else 0.0


def lower_bounds(recording: Recording, deltas: Sequence[float], alpha: float, tokens: int = 1) -> list[Bound]:
    """One for each delta; all hold at once with a probability of at least 1 - alpha, for either token as the first.

    tokens: of the unit, say a prompt that is wholly one token or wholly the other; so many draws make one of it.
    """
    each = alpha / (2 * len(deltas))
    first, second = (_ratios(recording, which, tokens) for which in (0, 1))
    unit = Release(recording.release.n_draws * tokens, recording.release.threshold_max)
    bounds = []
    for delta in deltas:
        certified = epsilon(unit, delta)
        there = _bound(first, second, certified, delta, each)
        back = _bound(np.negative(second), np.negative(first), certified, delta, each)
        bounds.append(max(there, back, key=lambda bound: bound.lower))
    return bounds


def lower_bound(
    accepted: npt.ArrayLike, other: npt.ArrayLike, draws: tuple[int, int], delta: float, alpha: float
) -> Floats:
    """log((a - delta) / b), 0 at least, from numbers of accepted draws of both kinds, at confidence 1 - alpha each."""
    accepted, other = np.asarray(accepted, np.float64), np.asarray(other, np.float64)
    a = np.where(accepted > 0, stats.beta.ppf(alpha / 2, accepted, draws[0] - accepted + 1), 0.0)
    b = np.where(other < draws[1], stats.beta.ppf(1 - alpha / 2, other + 1, draws[1] - other), 1.0)
    bounds: Floats = np.log(np.maximum(a - delta, b) / b)
    return bounds


def _ratios(recording: Recording, which: int, tokens: int) -> Floats:
    """log P1(K) / P2(K) of one token's units, up to a constant, [n / tokens]."""
    p = recording.probabilities
    odds = np.log(p) - np.log1p(-p)
    levels = recording.levels[which]
    parts = [levels[at : at + _CHUNK] @ (odds[0] - odds[1]) for at in range(0, len(levels), _CHUNK)]
    draws = np.concatenate([np.zeros(0), *parts])
    units = draws[: len(draws) // tokens * tokens].reshape(-1, tokens).sum(axis=1)
    ratios: Floats = np.round(units, _DECIMALS)
    return ratios


def _bound(first: Floats, second: Floats, certified: float, delta: float, alpha: float) -> Bound:
    cuts = len(first) // HELD_OUT, len(second) // HELD_OUT
    rest = len(first) - cuts[0], len(second) - cuts[1]
    if not min(*cuts, *rest):
        return Bound(delta, certified, 0.0, 0.0, 0.0)
    threshold = _best_threshold(first[: cuts[0]], second[: cuts[1]], rest, delta, alpha)
    accepted, other = (int((some[cut:] >= threshold).sum()) for some, cut in zip((first, second), cuts, strict=True))
    lower = float(lower_bound(accepted, other, rest, delta, alpha))
    return Bound(delta, certified, lower, accepted / rest[0], other / rest[1])


def _best_threshold(first: Floats, second: Floats, rest: tuple[int, int], delta: float, alpha: float) -> float:
    """The one whose bound would be largest if the rest were like these draws."""
    candidates = np.unique(np.concatenate([first, second]))
    step = -(-len(candidates) // _CANDIDATES)
    candidates = candidates[::step]
    above = [len(some) - np.searchsorted(np.sort(some), candidates, side="left") for some in (first, second)]
    accepted, other = above[0] * (rest[0] / len(first)), above[1] * (rest[1] / len(second))
    return float(candidates[lower_bound(accepted, other, rest, delta, alpha).argmax()])
