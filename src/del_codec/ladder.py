"""LossLadder: a privacy-loss distribution on equally spaced losses, and the delta and epsilon that follow from it.

Knows nothing of releases: binomials give an exact ladder (tradeoff.py), compositions a dominating one
(composition.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

import numpy as np

from del_codec.binomial import Floats
from del_codec.release import precise, up

_ROUNDING = 2.0**-50


@dataclass(frozen=True, eq=False)
class LossLadder:
    """Losses origin + i*step with probabilities masses[i] * exp(log_scale - tilt*step*i) under P, i = 0..n-1.

    The exponential tilt keeps masses within float64 wherever the losses that decide are improbable.
    """

    masses: Floats
    origin: Decimal
    step: Decimal
    tilt: float
    log_scale: float

    @cached_property
    def weights(self) -> Floats:
        """[n - 1]: exp(-tilt*u) * (1 - exp(-u)) for u = step, 2*step, ...: what mass counts, u above epsilon."""
        above = float(self.step) * np.arange(1, len(self.masses))
        weights: Floats = np.exp(-self.tilt * above) * -np.expm1(-above)
        return weights

    def loss(self, rung: int) -> Decimal:
        """The loss of that index, to 60 digits."""
        with precise():
            return self.origin + rung * self.step

    def rung_below(self, epsilon: float) -> int:
        """The last index whose loss does not exceed epsilon, at least 0."""
        with precise():
            return max(0, math.floor((Decimal(epsilon) - self.origin) / self.step))

    def log_delta(self, rung: int, error: float) -> float:
        """log delta at epsilon = loss(rung), with the (signed) error added to the sum of tilted masses."""
        last = len(self.masses) - 1
        above = float(self.masses[rung + 1 :] @ self.weights[: last - rung]) if rung < last else 0.0
        if above + error <= 0:
            return -math.inf
        return self.log_scale - self.tilt * float(self.step) * rung + math.log(above + error)

    def log_delta_at(self, epsilon: float, error: float) -> float:
        """log delta at any epsilon: linear in e^epsilon between neighbouring losses; 0 below the first."""
        if epsilon < self.origin:
            return 0.0
        rung, width = self.rung_below(epsilon), float(self.step)
        left, right = self.log_delta(rung, error), self.log_delta(rung + 1, error)
        with precise():
            past = float(Decimal(epsilon) - self.loss(rung))
        part = math.exp(past - width) * math.expm1(-past) / math.expm1(-width)
        fallen = part * math.expm1(right - left)
        return left + math.log1p(fallen) if fallen > -1 else right

    def epsilon(self, log_target: float, error: float) -> float:
        """The epsilon at which log delta falls to the target, at least 0; infinite if it doesn't on this ladder.

        error >= 0 as in log_delta.
        """
        low, high = self.rung_below(0.0), len(self.masses) - 1
        left, right = self.log_delta(low, error), self.log_delta(high, error)
        if left <= log_target:
            return max(0.0, up(self.loss(low)))
        if right > log_target:
            return math.inf
        while high - low > 1:
            middle = (low + high) // 2
            log_delta = self.log_delta(middle, error)
            if log_delta > log_target:
                low, left = middle, log_delta
            else:
                high, right = middle, log_delta
        with precise():
            return max(0.0, up(self.loss(high) - Decimal(self._back(left, right, log_target))))

    def _back(self, left: float, right: float, log_target: float) -> float:
        """How far before its right end the interval with those log deltas at its ends meets the target."""
        width = float(self.step)
        above = math.exp(log_target - left) * -math.expm1(right - log_target)
        share = above * math.expm1(-width) / -math.expm1(right - left) if left > right else 0.0
        # Rounded down: where delta is about to vanish it halves within a few units in epsilon's last place.
        return (1 - _ROUNDING) * (min(-math.log1p(share), width) if share > -1 else width)
