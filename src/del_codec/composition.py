"""Composition of releases: exact where thresholds are equal, else from a dominating privacy-loss distribution.

Settings have to be fixed before any answer is seen (settings chosen in the light of earlier answers need a privacy
filter, for which rho adds up). Supports 64 distinct settings in one composition; time and memory depend little on N.

How an unequal composition is bounded. Each of m releases' losses is put on a grid of step h: the probability of a loss
y between a and a + h is shared between the two such that both P and Q, whose mass is p(y) e^-y, keep theirs. Joining
the two parts again gives the release back, so that the grid dominates it (Doroshenko, Ghazi, Kamath, Kumar and
Manurangsi 2022, "Connect the dots"). For the sum Y' of such losses, delta(eps) <= delta'(eps); and since Y' < Y + m*h,
also delta(eps) >= delta'(eps + m*h). The step is halved until the two ends are within 1 %. The convolution is a product
of Fourier transforms, whose rounding error would swamp a tail; so the distributions are tilted first, p(y) e^(t*y), to
put their mass where the loss is near epsilon, and what transforms and cut-off tails can be off by is added.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal

import numpy as np

from del_codec.binomial import Floats, log_pmf
from del_codec.errors import InvalidValue
from del_codec.filter import filter_epsilon
from del_codec.ladder import LossLadder
from del_codec.moments import best_tilt_for_delta, best_tilt_for_epsilon
from del_codec.release import MAX_DRAWS, Release, check_delta, check_epsilon, precise
from del_codec.tradeoff import delta, epsilon, log_target, pure_epsilon, up_from_log

MAX_SETTINGS = 64
TOLERANCE = 0.01
_CERTAIN = math.log1p(0.99 * TOLERANCE)
_FEWEST_BINS, _MAX_BINS = 1 << 6, 1 << 22
# Hoeffding: a sum of independent terms with ranges r_i leaves its mean by sqrt(20 * sum r_i^2) with probability under
# e^-40 on either side.
_LOG_TAIL = 40.0
_MACHINE = 2.0**-52
# Steps added to each loss, more than float64's rounding error: rounding must not lower a loss.
_NUDGE = 1e-6


def compose(releases: Sequence[Release]) -> tuple[Release, ...]:
    """The same composition with equal thresholds merged (draws add up: exact), fair coins left out, sorted.

    Raises InvalidValue for more than 64 distinct thresholds or more than 2^36 draws at one.
    """
    draws = _draws_by_threshold(releases)
    if len(draws) > MAX_SETTINGS:
        raise InvalidValue("releases", f"{len(draws)} distinct settings", f"compose at most {MAX_SETTINGS}")
    return tuple(Release(n_draws, threshold) for threshold, n_draws in sorted(draws.items()))


def composes_exactly(releases: Sequence[Release]) -> bool:
    """Whether `compose` takes them: at most 64 distinct thresholds, at most 2^36 draws at each."""
    draws = _draws_by_threshold(releases)
    return len(draws) <= MAX_SETTINGS and all(count <= MAX_DRAWS for count in draws.values())


def _draws_by_threshold(releases: Sequence[Release]) -> Counter[int]:
    """Without fair coins, which tell nothing."""
    draws: Counter[int] = Counter()
    for release in releases:
        if not release.is_fair:
            draws[release.threshold_max] += release.n_draws
    return draws


def delta_of(releases: Sequence[Release], epsilon: float) -> float:
    """delta at epsilon of all releases together: never below the truth, exact (to 1e-9) for one threshold, else < 1 %.

    No release costs 0. Raises InvalidValue.
    """
    check_epsilon(epsilon)
    merged = compose(releases)
    if len(merged) == 1:
        return delta(merged[0], epsilon)
    if epsilon >= pure_epsilon_of(merged):
        return 0.0
    tilt = best_tilt_for_delta(merged, epsilon)
    for ladder, error in _ladders(merged, tilt, TOLERANCE / (1.5 * (len(merged) + 2) * tilt)):
        upper = ladder.log_delta_at(epsilon, error)
        # m steps for the grid, one for rung_below and one for the nudges.
        lower = ladder.log_delta(ladder.rung_below(epsilon) + len(merged) + 2, -error)
        if upper - lower <= _CERTAIN or upper == 0:
            break
    return up_from_log(upper)


def epsilon_of(releases: Sequence[Release], delta: float) -> float:
    """epsilon at delta of all releases together: never below the truth, exact (to 1e-9) for one threshold, else < 1 %.

    The 1 % is proven except where epsilon is under about a twentieth of the standard deviation of the loss, where the
    grid's size ends the refinement. No release costs 0. Raises InvalidValue.
    """
    check_delta(delta)
    merged = compose(releases)
    if len(merged) == 1:
        return epsilon(merged[0], delta)
    pure = pure_epsilon_of(merged)
    if delta == 0 or not merged:
        return pure
    target = log_target(delta)
    tilt, guess = best_tilt_for_epsilon(merged, target)
    if guess == 0:
        return 0.0
    for ladder, error in _ladders(merged, tilt, TOLERANCE * guess / (2 * (len(merged) + 2))):
        upper = min(ladder.epsilon(target, error), pure)
        if upper == 0 or _exceeds(ladder, upper * math.exp(-_CERTAIN), upper, target, error, len(merged)):
            break
    return upper


def _exceeds(ladder: LossLadder, low: float, high: float, target: float, error: float, count: int) -> bool:
    """Whether the true epsilon is proven to exceed low: somewhere up to high, log delta'(eps + m*h) is above target.

    The rungs just below high are tried first, where the tilt put the mass and the error counts least.
    """
    least, crossing, back = ladder.rung_below(low) + count + 2, ladder.rung_below(high), 1
    while crossing - back > least:
        if ladder.log_delta(crossing - back, -error) > target:
            return True
        back *= 2
    return ladder.log_delta(least, -error) > target


def epsilon_bound(releases: Sequence[Release], delta: float) -> float:
    """A bound on epsilon_of at delta that takes under a millisecond: some percent above the exact figure.

    By Renyi divergences, which add up for any number of draws (filter.py); of more than 64 distinct settings, all draws
    are taken for the weakest of them.
    """
    check_delta(delta)
    draws = _draws_by_threshold(releases)
    if len(draws) > MAX_SETTINGS:
        draws = Counter({max(draws): draws.total()})
    merged = [part for threshold, count in draws.items() for part in _parts(count, threshold)]
    pure = pure_epsilon_of(merged)
    if not merged or delta == 0:
        return pure
    tilt, _ = best_tilt_for_epsilon(merged, log_target(delta))
    return min(filter_epsilon(merged, delta, tilt), pure)


def _parts(draws: int, threshold: int) -> list[Release]:
    """That many draws in as few releases as hold them."""
    whole, rest = divmod(draws, MAX_DRAWS)
    return [Release(MAX_DRAWS, threshold)] * whole + ([Release(rest, threshold)] if rest else [])


def pure_epsilon_of(releases: Sequence[Release]) -> float:
    """The sum of the releases' pure epsilons."""
    return math.fsum(pure_epsilon(release) for release in releases)


def _ladders(releases: Sequence[Release], tilt: float, step: float) -> Iterator[tuple[LossLadder, float]]:
    """Ladders of ever finer steps with their errors, from that step to the finest that memory allows.

    The tilt is lowered where the step is too coarse for it: the error assumes tilt * m * step <= 1.
    """
    half_range = _half_range(releases)
    least_step = 2 * half_range / (_MAX_BINS - 4 * len(releases) - 8)
    step = max(min(step, half_range / _FEWEST_BINS), least_step)
    while True:
        ladder = _on_grid(releases, min(tilt, 1 / (len(releases) * step)), step)
        yield ladder, _error(ladder, len(releases))
        if step == least_step:
            return
        step = max(step / 2, least_step)


def _half_range(releases: Sequence[Release]) -> float:
    """How far the sum of losses strays from the tilted means, at any tilt, but for a probability of 2 e^-40."""
    ranges = [2 * float(release.log_odds) for release in releases]
    hoeffding = math.sqrt(_LOG_TAIL / 2 * sum(r.n_draws * x * x for r, x in zip(releases, ranges, strict=True)))
    return min(hoeffding, sum(r.n_draws * x for r, x in zip(releases, ranges, strict=True))) + sum(ranges)


def _on_grid(releases: Sequence[Release], tilt: float, step: float) -> LossLadder:
    """The tilted distribution of the sum of losses, each shared between neighbours on its release's grid."""
    bins = 1 << math.ceil(math.log2(2 * _half_range(releases) / step + 4 * len(releases) + 8))
    spectrum = np.ones(bins // 2 + 1, dtype=np.complex128)
    origin, log_scale = Decimal(0), tilt * step * (bins // 2)
    for release in releases:
        centre, masses, log_total = _tilted(release, tilt, step, bins)
        spectrum *= np.fft.rfft(masses)
        log_scale += log_total
        with precise():
            origin += (2 * centre - release.n_draws) * release.log_odds
    with precise():
        origin -= bins // 2 * Decimal(step)
    return LossLadder(np.fft.fftshift(np.fft.irfft(spectrum, bins)), origin, Decimal(step), tilt, log_scale)


def _tilted(release: Release, tilt: float, step: float, bins: int) -> tuple[int, Floats, float]:
    """(centre, masses [bins], log_total): the loss over that of `centre` ones, in steps modulo bins, tilted.

    masses sum to 1; the probability of a loss of i steps is masses[i] * exp(log_total - tilt*step*i).
    """
    log_odds = float(release.log_odds)
    # The tilted law is Binomial(N, 1 / (1 + e^-((2t+1)L))).
    centre = round(release.n_draws / (1 + math.exp(-(2 * tilt + 1) * log_odds)))
    reach = math.ceil(math.sqrt(_LOG_TAIL / 2 * release.n_draws)) + 1
    ones = np.arange(max(centre - reach, 0), min(centre + reach, release.n_draws) + 1)
    losses = (ones - centre) * (2 * log_odds / step) + _NUDGE
    below = np.floor(losses).astype(np.int64)
    raised = np.expm1((below - losses) * step) / math.expm1(-step)
    logs = log_pmf(ones, release.n_draws, release.threshold_max) + tilt * step * below
    top = float(logs.max())
    terms = np.exp(logs - top)
    masses: Floats = np.bincount(below % bins, terms * (1 - raised), bins).astype(np.float64)
    masses += np.bincount((below + 1) % bins, terms * raised * math.exp(tilt * step), bins)
    total = float(masses.sum())
    return centre, masses / total, top + math.log(total)


def _error(ladder: LossLadder, count: int) -> float:
    """What the sums over the ladder's masses can be off by.

    Transforms: each of count + 1 has a relative error in the 2-norm of at most 8 * 2^-52 * log2(bins) (Higham,
    Accuracy and Stability of Numerical Algorithms, theorem 24.2, generously), the masses' norm is at most 1, and by
    Cauchy and Schwarz a weighted sum of errors at most that times the weights' norm. Tails: 2 e^-40 for each release
    and for their sum, which tilting by the grid's losses instead of the true ones may raise e^2-fold.
    """
    transforms = 8 * _MACHINE * math.log2(len(ladder.masses)) * (count + 1) * float(np.linalg.norm(ladder.weights))
    return transforms + 2 * (count + 1) * math.exp(2 - _LOG_TAIL)
