"""Calibration: the mu at which an attack reads a wanted share of tokens, on the mechanism that is deployed.

Success grows with mu and is measured with noise, so the range is cut into sections, all points of a round measured side
by side, and the section where the measured curve crosses the target is cut again. Every point is a fresh release of the
table's integers with the operating system's randomness. Knows nothing of codecs and attacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting
from del_server.evaluation.estimate import Estimate

POINTS, ROUNDS = 5, 3

Measure = Callable[[Sequence[NoiseSetting]], Sequence[Estimate]]
Outcome = Literal["met", "below"]


@dataclass(frozen=True, slots=True)
class Point:
    """One measured setting and the success of the attack there."""

    mu: float
    success: Estimate


@dataclass(frozen=True, slots=True)
class Calibration:
    """setting: the integers to deploy, and the mu that they have. success: of the attack there, measured afresh, with
    its 95 % interval. mu_low, mu_high: the mu whose 95 % intervals of success hold the target, by interpolation.

    outcome: `met`, or `below` where even the top of the range stays below the target (the setting is that top).
    """

    target: float
    outcome: Outcome
    setting: NoiseSetting
    mu: float
    success: Estimate
    mu_low: float
    mu_high: float
    points: tuple[Point, ...]


def calibrate(measure: Measure, target: float, dim: int, bits: int, low: float, high: float) -> Calibration:
    """Find the mu in low..high. measure: success of the attack at each of several settings, fresh draws each time.

    Raises InvalidValue for a target or a range out of bounds, or a target that even `low` exceeds.
    """
    if not 0 < target < 1:
        raise InvalidValue("target-asr", target, "use a share of tokens between 0 and 1")
    if not 0 < low < high:
        raise InvalidValue("mu", (low, high), "use LO:HI with 0 < LO < HI")

    def at(mus: Sequence[float]) -> list[Point]:
        settings = [NoiseSetting.from_mu(mu, dim, bits) for mu in mus]
        found = measure(settings)
        return [Point(setting.mu(dim), success) for setting, success in zip(settings, found, strict=True)]

    points = at(_sections(low, high, inside=False))
    if points[0].success.low > target:
        read = points[0].success
        raise InvalidValue(
            "target-asr",
            target,
            f"can't be met from mu {low:g} up: there the attack still reads {read.mean:.3f} ({read.low:.3f} to "
            f"{read.high:.3f}); lower LO of --mu, or aim higher",
        )
    if points[-1].success.mean < target:
        return _finish(at, points, target, high, dim, bits, "below")
    for _ in range(ROUNDS - 1):
        points = sorted([*points, *at(_sections(*_bracket(points, target), inside=True))], key=lambda point: point.mu)
    return _finish(at, points, target, _crossing(points, [point.success.mean for point in points], target), dim, bits)


def _finish(
    at: Callable[[Sequence[float]], list[Point]],
    points: Sequence[Point],
    target: float,
    mu: float,
    dim: int,
    bits: int,
    outcome: Outcome = "met",
) -> Calibration:
    """Measure the result afresh: a point that was chosen for its success would look too good."""
    (result,) = at([mu])
    everything = sorted([*points, result], key=lambda point: point.mu)
    # The upper ends reach the target first, the lower ends last.
    mu_low = _crossing(everything, [point.success.high for point in everything], target)
    mu_high = _crossing(everything, [point.success.low for point in everything], target)
    setting = NoiseSetting.from_mu(mu, dim, bits)
    return Calibration(target, outcome, setting, result.mu, result.success, mu_low, mu_high, tuple(everything))


def _sections(low: float, high: float, *, inside: bool) -> list[float]:
    """Points that cut low..high into equal ratios; the ends are left out if they were measured."""
    cuts = [float(mu) for mu in np.geomspace(low, high, POINTS + 2)]
    return cuts[1:-1] if inside else cuts


def _bracket(points: Sequence[Point], target: float) -> tuple[float, float]:
    """Neighbours between which the curve crosses the target."""
    rising = _monotone([point.success.mean for point in points])
    above = int(np.argmax(rising >= target))
    return (points[max(0, above - 1)].mu, points[max(1, above)].mu)


def _crossing(points: Sequence[Point], values: Sequence[float], target: float) -> float:
    """Where the values, made monotone and joined by lines over log mu, reach the target; an end where they don't."""
    logs = np.log([point.mu for point in points])
    rising = _monotone(values)
    above = int(np.argmax(rising >= target))
    if rising[above] < target:
        return points[-1].mu
    if above == 0:
        return points[0].mu
    share = (target - rising[above - 1]) / (rising[above] - rising[above - 1])
    return float(np.exp(logs[above - 1] + share * (logs[above] - logs[above - 1])))


def _monotone(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """The closest rising curve: neighbours that fall are pooled to their mean (isotonic regression)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (last, many), (before, few) = pools.pop(), pools.pop()
            pools.append(((last * many + before * few) / (many + few), many + few))
    return np.concatenate([np.full(count, mean) for mean, count in pools])
