"""The filter's epsilon: above the exact one, tight near its limit, and never dependent on what comes later."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from del_codec.accounting import epsilon_of, pure_epsilon_of, rho_of
from del_codec.errors import InvalidValue
from del_codec.filter import filter_epsilon, filter_tilt
from del_codec.release import HALF, Release

RELEASES = st.builds(Release, st.integers(1, 5000), st.integers(HALF + 1, 2**32 - 2))


@given(st.lists(RELEASES, min_size=1, max_size=3), st.floats(0.01, 1e4), st.floats(1e-12, 0.01))
@settings(max_examples=40)
def test_it_is_never_below_the_exact_epsilon(releases, limit, delta):
    tilt = filter_tilt(releases[:1], limit, delta)
    assert filter_epsilon(releases, delta, tilt) >= epsilon_of(releases, delta) * 0.99


@given(RELEASES, st.integers(1, 50), st.floats(1e-9, 1e-3))
@settings(max_examples=40)
def test_what_zcdp_would_admit_the_filter_admits(one, times, delta):
    many = [Release(one.n_draws * times, one.threshold_max)]
    rho = rho_of(many)
    limit = min(rho + 2 * math.sqrt(rho * math.log(1 / delta)), pure_epsilon_of(many)) * (1 + 1e-6)
    assert filter_epsilon(many, delta, filter_tilt([one], limit, delta)) <= limit


@pytest.mark.parametrize(("draws", "threshold", "times"), [(64, 3_362_000_000, 15), (64, 3_362_000_000, 2560)])
def test_it_is_within_two_percent_where_it_matters(draws, threshold, times):
    many = [Release(draws * times, threshold)]
    exact = epsilon_of(many, 1e-5)
    assert filter_epsilon(many, 1e-5, filter_tilt([Release(draws, threshold)], exact, 1e-5)) <= 1.02 * exact


def test_fair_coins_and_nothing_cost_nothing():
    fair = [Release(100, HALF)]
    assert filter_epsilon(fair, 1e-5, filter_tilt(fair, 1.0, 1e-5)) == 0
    assert filter_epsilon([], 1e-5, filter_tilt([], 1.0, 1e-5)) == 0


@pytest.mark.parametrize(("delta", "tilt"), [(0.0, 1.0), (1.0, 1.0), (1e-5, 0.0), (1e-5, math.inf), (1e-5, math.nan)])
def test_what_makes_no_filter_is_refused(delta, tilt):
    with pytest.raises(InvalidValue):
        filter_epsilon([Release(1, HALF + 1)], delta, tilt)
