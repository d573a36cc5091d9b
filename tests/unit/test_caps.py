"""Caps on attacks: equal to the best of all tests (a linear programme), above every real attack, never too low."""

import math
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from del_codec.accounting import Release
from del_codec.caps import cap_prior, cap_uniform
from del_codec.errors import InvalidValue

HALF, GRID = 2**31, 2**32
Floats = npt.NDArray[np.float64]


def release_of(dim: int, bits: int, mu: float) -> Release:
    """One token at A = sqrt(1 + 4*u*d / mu^2), p+ = (A + 1) / (2A)."""
    levels = 2**bits - 1
    amplitude = math.sqrt(1 + 4 * levels * dim / mu**2)
    return Release(dim * levels, math.floor(GRID * (amplitude + 1) / (2 * amplitude)))


def laws(release: Release) -> tuple[list[Fraction], list[Fraction]]:
    """Probabilities of 0..N ones under fair coins and under p+."""
    n, p = release.n_draws, Fraction(release.threshold_max, GRID)
    ways = [math.comb(n, k) for k in range(n + 1)]
    return [Fraction(w, 2**n) for w in ways], [w * p**k * (1 - p) ** (n - k) for k, w in enumerate(ways)]


def power(release: Release, level: Fraction) -> Fraction:
    """1 - f0(level): spend the level on the outcomes with the highest likelihood ratio first."""
    total, left = Fraction(0), level
    for fair, shifted in zip(*(reversed(law) for law in laws(release)), strict=True):
        share = min(Fraction(1), left / fair)
        total, left = total + share * shifted, left - share * fair
    return total


def best_of_all_tests(release: Release, prior: Floats) -> float:
    """The linear programme over guessing probabilities phi[w, k] with sum_w E_fair[phi_w] <= 1."""
    fair, shifted = (np.array([float(x) for x in law]) for law in laws(release))
    gain = np.outer(prior, shifted).ravel()
    solution = linprog(-gain, A_ub=np.tile(fair, len(prior))[None], b_ub=[1.0], bounds=(0, 1), method="highs")
    return -float(solution.fun)


SMALL = [Release(1, 3 * 2**30), Release(7, HALF + 2**28), Release(18, 3 * 2**30), Release(40, HALF + 2**29)]


class TestAgainstTheBestTest:
    @pytest.mark.parametrize("vocabulary_size", [1, 2, 10, 1000, 2**20])
    @pytest.mark.parametrize("release", SMALL)
    def test_uniform(self, release: Release, vocabulary_size: int) -> None:
        exact = power(release, Fraction(1, vocabulary_size))
        assert exact <= cap_uniform(release, vocabulary_size) <= min(1, exact * Fraction("1.00000001"))

    @pytest.mark.parametrize("prior", [[0.5, 0.3, 0.2], [0.9, 0.1], [0.97, 0.01, 0.01, 0.005, 0.005], [0.25] * 4])
    @pytest.mark.parametrize("release", SMALL)
    def test_prior(self, release: Release, prior: list[float]) -> None:
        exact = best_of_all_tests(release, np.array(prior))
        assert exact * (1 - 1e-10) <= cap_prior(release, prior) <= exact * (1 + 1e-6)

    @settings(max_examples=40)
    @given(
        st.builds(Release, st.integers(1, 30), st.integers(HALF + 1, GRID - 1)),
        st.lists(st.floats(1e-3, 1), min_size=1, max_size=12),
    )
    def test_any_prior(self, release: Release, weights: list[float]) -> None:
        exact = best_of_all_tests(release, np.array(weights) / sum(weights))
        assert exact * (1 - 1e-8) <= cap_prior(release, weights) <= exact * (1 + 1e-6)


class TestAgainstRealAttacks:
    @pytest.mark.parametrize(
        ("draws", "threshold", "words"), [(8, 3 * 2**30, 16), (10, HALF + 2**28, 40), (6, 2**32 - 2**26, 64)]
    )
    def test_the_best_attack_on_a_random_codebook_stays_under_the_cap(
        self, draws: int, threshold: int, words: int
    ) -> None:
        """Success of maximum a posteriori, summed over every output of a codebook of corners."""
        rng = np.random.default_rng(7)
        release, prior = Release(draws, threshold), rng.dirichlet(np.ones(words))
        corners = rng.integers(0, 2, (words, draws))
        outputs = np.array(list(product((0, 1), repeat=draws)))
        agreed = draws - (corners[:, None] != outputs[None]).sum(axis=2)
        likelihood = release.p_plus**agreed * (1 - release.p_plus) ** (draws - agreed)
        assert prior.max() < (prior[:, None] * likelihood).max(axis=0).sum() <= cap_prior(release, prior)
        assert likelihood.max(axis=0).sum() / words <= cap_uniform(release, words)


class TestShape:
    @pytest.mark.parametrize(
        ("mu", "expected"), [(1, ".0002"), (2, ".0008"), (3, ".004"), (5, ".039"), (8, ".31"), (10, ".60"), (20, "1.0")]
    )
    def test_published_figures(self, mu: float, expected: str) -> None:
        """d = 64, n = 1, a vocabulary of 49,152, to a unit in the last digit that was written down."""
        release = release_of(64, 1, mu)
        cap = cap_uniform(release, 49152)
        assert cap == pytest.approx(float(expected), abs=10.0 ** -len(expected.partition(".")[2]))
        assert cap == pytest.approx(float(power(release, Fraction(1, 49152))), rel=1e-8)

    def test_a_uniform_prior_is_the_uniform_cap(self) -> None:
        release = release_of(64, 1, 5)
        assert cap_prior(release, np.ones(1000)) == pytest.approx(cap_uniform(release, 1000), rel=1e-9)

    def test_more_signal_never_lowers_it_and_more_candidates_never_raise_it(self) -> None:
        prior = 1 / np.arange(1, 3000)
        for cap in (lambda r: cap_prior(r, prior), lambda r: cap_uniform(r, 3000)):
            caps = [cap(release_of(64, 1, mu)) for mu in (0.1, 0.5, 1, 2, 5, 10, 20, 50)]
            assert all(low < high or high == 1 for low, high in pairwise(caps))
        release = release_of(64, 1, 5)
        caps = [cap_uniform(release, size) for size in (1, 2, 10, 1000, 50_000, 2**32)]
        assert all(low > high for low, high in pairwise(caps))

    def test_counts_are_normalised_and_impossible_tokens_ignored(self) -> None:
        release = release_of(18, 1, 5)
        counts = np.array([60, 0, 40], dtype=np.uint32)
        assert cap_prior(release, counts) == pytest.approx(cap_prior(release, [0.4, 0.6]), rel=1e-12)

    @pytest.mark.parametrize("release", [Release(64, HALF), Release(1, HALF + 1)])
    def test_without_signal_it_is_the_commonest_token(self, release: Release) -> None:
        assert cap_prior(release, [0.5, 0.3, 0.2]) == pytest.approx(0.5, rel=2e-9)
        assert cap_uniform(release, 10) == pytest.approx(0.1, rel=2e-9)

    @pytest.mark.parametrize("bits", [1, 8])
    def test_a_vocabulary_with_zipf_counts(self, bits: int) -> None:
        """The cap exceeds what always guessing the commonest gives, and is reached within a few draws' worth."""
        counts = np.floor(1e7 / np.arange(1, 50_001) ** 1.07)
        floor, caps = counts.max() / counts.sum(), [cap_prior(release_of(64, bits, mu), counts) for mu in (0.1, 5, 60)]
        assert floor < caps[0] < 1.2 * floor < caps[1] < caps[2] <= 1

    def test_all_draws_of_a_long_secret(self) -> None:
        assert (
            cap_uniform(Release(10**9, HALF + 50_000), 10**6) < cap_uniform(Release(10**9, HALF + 100_000), 10**6) < 1
        )
        assert cap_uniform(Release(10**9, GRID - 1), 10**6) == 1


class TestRefusals:
    @pytest.mark.parametrize("size", [0, -1, 1.5, True, None])
    def test_vocabulary_size(self, size: object) -> None:
        with pytest.raises(InvalidValue, match="vocabulary_size"):
            cap_uniform(Release(64, HALF), size)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "prior", [[], [[0.5, 0.5]], 0.5, [0, 0], [0.5, -0.1], [math.nan, 1], [math.inf, 1], ["a"], [[1], [1, 2]]]
    )
    def test_prior(self, prior: object) -> None:
        with pytest.raises(InvalidValue, match="prior"):
            cap_prior(Release(64, HALF + 2**28), prior)  # type: ignore[arg-type]
