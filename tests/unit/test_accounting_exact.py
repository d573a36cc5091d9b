"""One release: delta, epsilon, pure epsilon and rho against the definitions computed in 80 digits."""

import math
from itertools import cycle, product

import binomial_reference as reference
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from del_codec.accounting import Release, delta, epsilon, pure_epsilon, rho
from del_codec.binomial import log_pmf
from del_codec.errors import InvalidValue

HALF, GRID = 2**31, 2**32


def release_of(dim: int, bits: int, mu: float, tokens: int) -> Release:
    """The release of `tokens` tokens at A = sqrt(1 + 4*u*d / mu^2), p+ = (A + 1) / (2A)."""
    levels = 2**bits - 1
    amplitude = math.sqrt(1 + 4 * levels * dim / mu**2)
    return Release(dim * levels * tokens, math.floor(GRID * (amplitude + 1) / (2 * amplitude)))


SPREAD = [
    (release_of(*setting), target)
    for setting, target in zip(
        product((18, 64, 128), (1, 2, 4, 8), (0.5, 1, 5, 20, 40), (1, 8, 32)),
        cycle((1e-2, 1e-3, 1e-5, 1e-7, 1e-9, 1e-30, 1e-5)),
        strict=False,
    )
]
ODD_ONES = [
    (Release(1, HALF + 1), 1e-12),
    (Release(1, GRID - 1), 1e-5),
    (Release(1, 2929017932), 2e-10),
    (Release(2, 3 * 2**30), 0.3),
    (Release(3, 2305077481), 3e-12),
    (Release(7, HALF + 2**24), 1e-6),
    (Release(1000, GRID - 1), 1e-9),
    (Release(1000, GRID - 2**20), 1e-200),
    (Release(5000, HALF + 2**26), 0.999),
    (Release(16320, HALF + 2**22), 1e-300),
    (Release(10**6, HALF + 1), 1e-9),
]


class TestAgainstEightyDigits:
    @pytest.mark.parametrize(("release", "target"), SPREAD + ODD_ONES)
    def test_epsilon_is_the_least_within_a_millionth_and_never_below(self, release: Release, target: float) -> None:
        found = epsilon(release, target)
        assert reference.delta(release, found) <= target
        assert found == 0 or reference.delta(release, found * (1 - 1e-6)) > target

    @pytest.mark.parametrize(("release", "target"), SPREAD[::3] + ODD_ONES)
    def test_delta_is_right_within_a_millionth_and_never_below(self, release: Release, target: float) -> None:
        largest = epsilon(release, target)
        for at in (0.0, 0.6 * largest, 0.999 * largest):
            assert 0 <= delta(release, at) / reference.delta(release, at) - 1 < 1e-6

    @pytest.mark.parametrize("threshold", [HALF + 5_000_000, pytest.param(HALF + 50_000, marks=pytest.mark.slow)])
    def test_a_thousand_million_draws(self, threshold: int) -> None:
        release = Release(10**9, threshold)
        found = epsilon(release, 1e-9)
        exact = reference.delta(release, found)
        assert exact <= 1e-9 < reference.delta(release, found * (1 - 1e-6))
        assert delta(release, found) == pytest.approx(float(exact), rel=1e-6)

    @pytest.mark.parametrize(("n_draws", "threshold"), [(1, GRID - 1), (18, 3 * 2**30), (10**6, HALF + 9), (2**36, 7)])
    def test_the_probability_of_any_number_of_ones(self, n_draws: int, threshold: int) -> None:
        mean = n_draws * threshold // GRID
        ones = sorted({0, 1, min(15, n_draws), min(16, n_draws), mean, min(mean + 999, n_draws), n_draws // 2, n_draws})
        found = log_pmf(np.array(ones), n_draws, threshold)
        exact = [reference.log_pmf(k, Release(n_draws, max(threshold, GRID - threshold))) for k in ones]
        if threshold < HALF:
            exact = [reference.log_pmf(n_draws - k, Release(n_draws, GRID - threshold)) for k in ones]
        assert found == pytest.approx([float(x) for x in exact], rel=1e-13, abs=1e-12)

    @pytest.mark.parametrize("release", [Release(18, 3 * 2**30), Release(10**9, HALF + 12345), Release(64, GRID - 1)])
    def test_pure_epsilon_and_rho(self, release: Release) -> None:
        odds = reference.log_odds(release)
        with mpmath.workdps(60):
            advantage = mpmath.mpf(release.threshold_max - HALF) / HALF
            assert 0 <= pure_epsilon(release) / (release.n_draws * odds) - 1 < 1e-12
            exact_rho = 2 * release.n_draws * advantage * mpmath.atanh(advantage)
            assert 0 <= rho(release) / exact_rho - 1 < 1e-12


class TestPublishedFigures:
    """Exact epsilon at delta = 1e-5 for a few settings, to the digits they were written down with."""

    @pytest.mark.parametrize(
        ("dim", "bits", "mu", "tokens", "expected"),
        [
            (18, 1, 1, 1, "3.79"),
            (18, 1, 5, 1, "20.14"),
            (18, 1, 20, 1, "57.3"),
            (18, 1, 40, 1, "81.2"),
            (64, 1, 1, 1, "4.23"),
            (64, 1, 5, 1, "29.47"),
            (64, 1, 20, 1, "134.1"),
            (64, 1, 40, 1, "210.8"),
            (64, 4, 1, 1, "4.37"),
            (64, 4, 5, 1, "32.85"),
            (64, 4, 20, 1, "264.9"),
            (64, 4, 5, 32, "517.4"),
            (128, 4, 1, 1, "4.37"),
            (128, 4, 5, 1, "32.98"),
            (128, 4, 20, 1, "274.2"),
            (128, 4, 40, 1, "851.7"),
            (128, 4, 5, 32, "518.5"),
        ],
    )
    def test_epsilon(self, dim: int, bits: int, mu: float, tokens: int, expected: str) -> None:
        decimals = len(expected.partition(".")[2])
        assert f"{epsilon(release_of(dim, bits, mu, tokens), 1e-5):.{decimals}f}" == expected

    def test_the_gaussian_formula_is_not_a_bound(self) -> None:
        """delta of mu-GDP, Phi(-eps/mu + mu/2) - e^eps Phi(-eps/mu - mu/2), falls short of the exact delta."""
        release, at = release_of(18, 1, 1, 1), 0.24
        gaussian = norm.cdf(-at + 0.5) - math.exp(at) * norm.cdf(-at - 0.5)
        assert delta(release, at) - gaussian == pytest.approx(0.004, abs=0.001)


class TestExtremes:
    def test_fair_coins_cost_nothing(self) -> None:
        fair = Release(10**9, HALF)
        assert (delta(fair, 0), epsilon(fair, 1e-9), epsilon(fair, 0), pure_epsilon(fair), rho(fair)) == (0, 0, 0, 0, 0)

    def test_delta_zero_gives_the_pure_epsilon_and_nothing_remains_beyond_it(self) -> None:
        release = Release(64, HALF + 2**28)
        assert epsilon(release, 0) == pure_epsilon(release)
        assert delta(release, pure_epsilon(release)) == 0
        assert delta(release, 1e300) == 0
        assert delta(release, pure_epsilon(release) * (1 - 1e-9)) > 0

    def test_epsilon_is_zero_where_delta_at_zero_suffices(self) -> None:
        release = Release(64, HALF + 2**20)
        at_zero = delta(release, 0)
        assert epsilon(release, at_zero * 1.001) == 0
        assert epsilon(release, at_zero * 0.999) > 0

    def test_a_delta_too_small_for_a_float_is_not_called_zero(self) -> None:
        release = Release(10**5, HALF + 2**20)
        assert 0 < delta(release, 0.99 * pure_epsilon(release)) < 1e-300

    def test_the_smallest_delta_is_accepted(self) -> None:
        release = Release(10**5, HALF + 2**24)
        assert epsilon(release, 1e-300) < epsilon(release, 5e-324) < pure_epsilon(release)


@st.composite
def releases(draw: st.DrawFn) -> Release:
    return Release(draw(st.integers(1, 5000)), HALF + draw(st.integers(1, HALF - 1)))


class TestProperties:
    @settings(max_examples=60)
    @given(releases(), st.floats(1e-12, 0.9))
    def test_delta_undoes_epsilon(self, release: Release, target: float) -> None:
        found = epsilon(release, target)
        if found > 0:
            step = 4 * math.ulp(found)
            low, high = delta(release, found + step), delta(release, max(found - step, 0))
            assert low * (1 - 1e-8) <= target <= high * (1 + 1e-8)

    @settings(max_examples=60)
    @given(releases(), st.integers(1, 500), st.floats(1e-12, 0.5))
    def test_more_draws_or_a_larger_threshold_never_cost_less(self, release: Release, more: int, target: float) -> None:
        found = epsilon(release, target) * (1 - 1e-8)
        assert epsilon(Release(release.n_draws + more, release.threshold_max), target) >= found
        higher = min(release.threshold_max + more * 10**6, GRID - 1)
        assert epsilon(Release(release.n_draws, higher), target) >= found

    @settings(max_examples=60)
    @given(releases(), st.floats(1.001, 200))
    def test_renyi_divergences_stay_under_rho(self, release: Release, order: float) -> None:
        """Of one draw: divergences add up over draws."""
        p = release.p_plus
        q = (GRID - release.threshold_max) / GRID
        logs = np.array([order * math.log(a) + (1 - order) * math.log(b) for a, b in ((p, q), (q, p))])
        divergence = np.logaddexp(*logs) / (order - 1)
        assert divergence <= rho(Release(1, release.threshold_max)) * order * (1 + 1e-9) + 1e-12


class TestRefusals:
    @pytest.mark.parametrize("n_draws", [0, -1, 2**36 + 1, 1.0, True, "64", None])
    def test_draws(self, n_draws: object) -> None:
        with pytest.raises(InvalidValue, match="n_draws"):
            Release(n_draws, HALF)  # type: ignore[arg-type]

    @pytest.mark.parametrize("threshold", [HALF - 1, GRID, 0.75, math.nan, None])
    def test_threshold(self, threshold: object) -> None:
        with pytest.raises(InvalidValue, match="threshold_max"):
            Release(64, threshold)  # type: ignore[arg-type]

    @pytest.mark.parametrize("target", [1, 1.5, -1e-9, math.nan, math.inf, "1e-5", True, None])
    def test_delta(self, target: object) -> None:
        with pytest.raises(InvalidValue, match="delta"):
            epsilon(Release(64, HALF), target)  # type: ignore[arg-type]

    @pytest.mark.parametrize("at", [-1e-9, math.nan, math.inf, "1", True, None])
    def test_epsilon(self, at: object) -> None:
        with pytest.raises(InvalidValue, match="epsilon"):
            delta(Release(64, HALF), at)  # type: ignore[arg-type]
