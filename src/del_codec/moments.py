"""Cumulants of the privacy loss in closed form, and the bound on delta that they give.

Used to find where the exact sums have to look; the one figure taken from here is an epsilon that is proven to be 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from del_codec.binomial import Floats
from del_codec.release import Release

_FAN = 65
_ROUNDS = 6
_LEAST_TILT, _LARGEST_TILT = 1e-10, 1e13
_LARGE = 300.0


def log_delta_bound(releases: Sequence[Release], tilts: Floats) -> Floats:
    """B(t) with delta(eps) <= exp(B(t) - t*eps) for every tilt t > 0; same shape as `tilts`.

    B(t) = K(t) + t log t - (t+1) log(t+1), K(t) = log E_P[e^(t*loss)] (the conversion from Renyi divergences
    of Canonne, Kamath and Steinke 2020, with t = alpha - 1).
    """
    total: Floats = -tilts * np.log1p(1 / tilts) - np.log1p(tilts)
    for release in releases:
        total = total + release.n_draws * _cumulant(float(release.log_odds), tilts)
    return total


def _cumulant(log_odds: float, tilts: Floats) -> Floats:
    """log(cosh((t + 1/2) L) / cosh(L/2)), the cumulant function of one draw's loss, without cancellation."""
    a, b = (np.minimum(x * log_odds / 2, _LARGE) for x in (tilts + 1, tilts))
    near = np.log1p(2 * np.sinh(a) * np.sinh(b) / math.cosh(log_odds / 2))
    far = tilts * log_odds + np.log1p(np.exp(-(2 * tilts + 1) * log_odds)) - math.log1p(math.exp(-log_odds))
    return np.where(a < _LARGE, near, far)


def best_tilt_for_delta(releases: Sequence[Release], epsilon: float) -> float:
    """The tilt that makes the bound on delta at that epsilon smallest."""
    return _argmin(lambda tilts: log_delta_bound(releases, tilts) - tilts * epsilon)


def best_tilt_for_epsilon(releases: Sequence[Release], log_delta: float) -> tuple[float, float]:
    """The tilt that makes the bound on epsilon at that delta smallest, and the bound."""

    def bound(tilts: Floats) -> Floats:
        bounds: Floats = (log_delta_bound(releases, tilts) - log_delta) / tilts
        return bounds

    tilt = _argmin(bound)
    return tilt, max(0.0, float(bound(np.array([tilt]))[0]))


def most_admitting_tilt(releases: Sequence[Release], epsilon: float, log_delta: float) -> float:
    """The tilt at which the bound on epsilon admits the most repetitions of releases of which one is not fair."""

    def repetitions_lost(tilts: Floats) -> Floats:
        cumulants = sum(one.n_draws * _cumulant(float(one.log_odds), tilts) for one in releases)
        lost: Floats = (log_delta_bound((), tilts) - log_delta - tilts * epsilon) / cumulants
        return lost

    return _argmin(repetitions_lost)


def _argmin(objective: Callable[[Floats], Floats]) -> float:
    low, high = _LEAST_TILT, _LARGEST_TILT
    for _ in range(_ROUNDS):
        tilts = np.geomspace(low, high, _FAN)
        best = int(np.argmin(objective(tilts)))
        low, high = float(tilts[max(best - 1, 0)]), float(tilts[min(best + 1, _FAN - 1)])
    return float(tilts[best])
