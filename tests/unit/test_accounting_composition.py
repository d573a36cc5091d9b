"""Several releases: exact where thresholds are equal; else never below the truth and at most 1 % above it."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from del_codec.accounting import (
    Release,
    compose,
    delta,
    delta_of,
    epsilon,
    epsilon_of,
    pure_epsilon,
    pure_epsilon_of,
    rho,
    rho_of,
)
from del_codec.errors import InvalidValue

HALF, GRID = 2**31, 2**32


class Enumerated:
    """Every combination of numbers of ones, with its privacy loss (to 1e-14 of itself) and probability."""

    def __init__(self, releases: Sequence[Release]) -> None:
        losses, masses = np.zeros(1), np.ones(1)
        for r in releases:
            p, odds, n = r.p_plus, 2 * math.atanh((r.threshold_max - HALF) / HALF), r.n_draws
            mass = np.array([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])
            losses = np.add.outer(losses, (2 * np.arange(n + 1) - n) * odds).ravel()
            masses = np.multiply.outer(masses, mass).ravel()
        self.losses, self.masses = losses, masses

    def delta(self, epsilon: float) -> float:
        above = self.losses > epsilon
        return float((self.masses[above] * -np.expm1(epsilon - self.losses[above])).sum())


FEW = [
    [Release(1, 3 * 2**30), Release(1, HALF + 2**28)],
    [Release(6, 3 * 2**30), Release(5, HALF + 2**29), Release(4, HALF + 2**27)],
    [Release(40, HALF + 2**28), Release(60, HALF + 2**27), Release(50, HALF + 2**26)],
    [Release(200, HALF + 2**26), Release(300, HALF + 2**27)],
    [Release(150, GRID - 2**20), Release(30, HALF + 2**20)],
    [Release(3, HALF + 2**22), Release(1, HALF + 2**23), Release(2, HALF + 2**24), Release(5, HALF + 2**25)],
]


class TestAgainstEnumeration:
    @pytest.mark.parametrize("target", [0.1, 1e-2, 1e-5, 1e-12, 1e-30])
    @pytest.mark.parametrize("releases", FEW)
    def test_epsilon(self, releases: list[Release], target: float) -> None:
        exact, found = Enumerated(releases), epsilon_of(releases, target)
        assert exact.delta(found * (1 + 1e-14)) <= target
        assert found == 0 or exact.delta(found / 1.01) > target

    @pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.7, 0.95])
    @pytest.mark.parametrize("releases", FEW)
    def test_delta(self, releases: list[Release], share: float) -> None:
        at = share * pure_epsilon_of(releases)
        exact = Enumerated(releases).delta(at)
        assert exact <= delta_of(releases, at) <= exact * 1.01

    @settings(max_examples=40)
    @given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, HALF - 1)), min_size=2, max_size=4), st.data())
    def test_any_few_releases(self, raw: list[tuple[int, int]], data: st.DataObject) -> None:
        releases = [Release(n, HALF + t) for n, t in raw]
        exact = Enumerated(releases)
        target = data.draw(st.floats(1e-14, 0.9))
        found = epsilon_of(releases, target)
        spread = math.sqrt(float(exact.masses @ exact.losses**2) - float(exact.masses @ exact.losses) ** 2)
        assert exact.delta(found * (1 + 1e-14)) <= target
        assert found < spread / 20 or exact.delta(found / 1.01) > target


class TestLargeReleases:
    @pytest.mark.parametrize("count", [2, 64])
    @pytest.mark.parametrize("target", [1e-2, 1e-9, 1e-100])
    def test_nearly_equal_thresholds_cost_what_equal_ones_do(self, count: int, target: float) -> None:
        releases = [Release(16320 * (1 + i), HALF + 2**23 + i) for i in range(count)]
        total = sum(release.n_draws for release in releases)
        low, high = epsilon(Release(total, HALF + 2**23), target), epsilon(Release(total, HALF + 2**23 + 63), target)
        assert low <= epsilon_of(releases, target) <= 1.01 * high
        if count == 2:
            at = low / 2
            low, high = delta(Release(total, HALF + 2**23), at), delta(Release(total, HALF + 2**23 + 63), at)
            assert low <= delta_of(releases, at) <= 1.01 * high

    def test_a_thousand_million_draws_beside_a_few(self) -> None:
        many, few = Release(10**9, HALF + 2**16), Release(64, HALF + 2**28)
        found = epsilon_of([many, few], 1e-9)
        assert epsilon(many, 1e-9) < found < epsilon(many, 5e-10) + epsilon(few, 5e-10)

    def test_strong_noise_far_from_weak(self) -> None:
        """A part that dwarfs the other sets the cost: epsilon in the hundreds of thousands, delta of 1e-300."""
        weak, strong = Release(10**6, GRID - 2**28), Release(10**6, HALF + 2**12)
        found = epsilon_of([weak, strong], 1e-300)
        assert epsilon(weak, 1e-300) <= found <= 1.01 * (epsilon(weak, 1e-300) + pure_epsilon(strong))


class TestMerging:
    def test_equal_thresholds_merge_exactly(self) -> None:
        one, two, both = Release(64, HALF + 2**26), Release(128, HALF + 2**26), Release(192, HALF + 2**26)
        assert compose([one, two]) == (both,)
        assert epsilon_of([one, two], 1e-5) == epsilon(both, 1e-5)
        assert delta_of([one, two], 1.5) == delta(both, 1.5)

    def test_order_does_not_matter_and_fair_coins_vanish(self) -> None:
        a, b, fair = Release(64, HALF + 2**26), Release(64, HALF + 2**27), Release(64, HALF)
        assert compose([b, fair, a]) == compose([a, b]) == (a, b)

    @pytest.mark.parametrize("releases", [[], [Release(64, HALF)]])
    def test_nothing_released_costs_nothing(self, releases: list[Release]) -> None:
        assert (epsilon_of(releases, 1e-5), epsilon_of(releases, 0), delta_of(releases, 0)) == (0, 0, 0)
        assert (rho_of(releases), pure_epsilon_of(releases)) == (0, 0)

    def test_pure_epsilon_and_rho_add_up(self) -> None:
        a, b = Release(64, HALF + 2**26), Release(32, HALF + 2**28)
        assert epsilon_of([a, b], 0) == pure_epsilon_of([a, b]) == pure_epsilon(a) + pure_epsilon(b)
        assert delta_of([a, b], pure_epsilon_of([a, b])) == 0
        assert rho_of([a, b, a]) == math.fsum([rho(a), rho(b), rho(a)])

    def test_too_many_settings_are_refused(self) -> None:
        with pytest.raises(InvalidValue, match="at most 64"):
            compose([Release(1, HALF + 1 + i) for i in range(65)])

    def test_too_many_draws_are_refused(self) -> None:
        with pytest.raises(InvalidValue, match="n_draws"):
            epsilon_of([Release(2**36, HALF + 1), Release(1, HALF + 1)], 1e-5)

    @pytest.mark.parametrize("target", [1.0, -1e-5, math.nan])
    def test_bad_delta_is_refused(self, target: float) -> None:
        with pytest.raises(InvalidValue, match="delta"):
            epsilon_of([], target)

    @pytest.mark.parametrize("at", [-1.0, math.inf, math.nan])
    def test_bad_epsilon_is_refused(self, at: float) -> None:
        with pytest.raises(InvalidValue, match="epsilon"):
            delta_of([], at)


@settings(max_examples=30)
@given(
    *2 * [st.builds(Release, st.integers(1, 3000), st.integers(HALF + 2**20, HALF + 2**29))],
    st.floats(1e-9, 0.2),
)
def test_composition_lies_between_the_larger_part_and_the_sum(a: Release, b: Release, target: float) -> None:
    assume(a.threshold_max != b.threshold_max)
    found = epsilon_of([a, b], target)
    assert max(epsilon(r, target) for r in (a, b)) <= found * (1 + 1e-9) + 1e-12
    assert found <= 1.01 * (epsilon(a, target / 2) + epsilon(b, target / 2)) + 0.01


@pytest.mark.parametrize("at", [0, 0.01, 1])
def test_where_every_loss_exceeds_epsilon_delta_is_one(at: float) -> None:
    releases = [Release(10**5, HALF + 2**27), Release(10**5, HALF + 2**28)]
    assert delta_of(releases, at) == pytest.approx(1, abs=1e-8)
