"""NoiseSetting: two integers from which both sides derive the same mechanism, in integer arithmetic.

p = (A + v) / (2A) with A = scale / 2^16 and v = q / 127; a threshold is p on a grid of 2^32, rounded toward 1/2.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from del_codec.errors import InvalidValue
from del_codec.noise import GRID, MAX_SCALE, MIN_SCALE, NoiseSetting
from del_codec.randomize import randomize

LATENTS = np.arange(-127, 128).astype(np.int8)
SCALES = st.integers(MIN_SCALE, MAX_SCALE) | st.integers(MIN_SCALE, MIN_SCALE + 1000) | st.integers(MIN_SCALE, 1 << 20)
# A two-sided normal tail of 1e-7.
SIGMAS = 5.33


def exact_probability(q: int, scale: int) -> Fraction:
    amplitude, latent = Fraction(scale, 1 << 16), Fraction(q, 127)
    return (amplitude + latent) / (2 * amplitude)


def toward_half(value: Fraction) -> int:
    return math.floor(value) if value >= GRID // 2 else math.ceil(value)


@given(SCALES)
def test_thresholds_are_the_exact_probabilities_rounded_toward_a_fair_coin(scale: int) -> None:
    expected = [toward_half(exact_probability(q, scale) * GRID) for q in range(-127, 128)]
    assert NoiseSetting(1, scale).thresholds(LATENTS).tolist() == expected


@given(SCALES)
def test_thresholds_are_symmetric_ordered_and_never_certain(scale: int) -> None:
    thresholds = NoiseSetting(1, scale).thresholds(LATENTS)
    assert (thresholds + thresholds[::-1] == GRID).all()
    assert (np.diff(thresholds) > 0).all()
    assert thresholds.min() >= 1
    assert thresholds.max() <= GRID - 1


@given(SCALES, st.integers(1, 127))
def test_threshold_max_is_the_symmetric_envelope_of_a_table(scale: int, largest: int) -> None:
    setting = NoiseSetting(1, scale)
    lopsided = setting.thresholds(np.arange(-largest, largest // 2 + 1).astype(np.int8))
    assert setting.threshold_max(largest) == max(int(lopsided.max()), GRID - int(lopsided.min()))
    assert setting.threshold_max() == setting.threshold_max(127)


@pytest.mark.parametrize("scale", [MIN_SCALE, 88_898, MAX_SCALE])
def test_thresholds_keep_the_shape_of_the_latents(scale: int) -> None:
    rows = LATENTS.reshape(5, 51)
    assert np.array_equal(
        NoiseSetting(4, scale).thresholds(rows), NoiseSetting(4, scale).thresholds(LATENTS).reshape(5, 51)
    )


@given(st.floats(0.05, 1e4), st.integers(1, 1024), st.integers(1, 8))
def test_a_mu_names_the_weakest_noise_that_keeps_to_it(mu: float, dim: int, bits: int) -> None:
    setting = NoiseSetting.from_mu(mu, dim, bits)
    assert setting.mu(dim) <= mu * (1 + 1e-9)
    if setting.scale > MIN_SCALE:
        assert NoiseSetting(bits, setting.scale - 1).mu(dim) > mu * (1 - 1e-9)


@pytest.mark.parametrize("bits", range(1, 9))
def test_mu_comes_back_from_its_scale(bits: int) -> None:
    for mu in (1, 2.5, 10, 60):
        assert NoiseSetting.from_mu(mu, 64, bits).mu(64) == pytest.approx(mu, rel=2e-3)


@pytest.mark.parametrize("mu", [0, 0.0, -1, -1e-9, math.nan, math.inf, -math.inf, True, "5", None, 5j, [5]])
def test_a_mu_that_is_no_finite_number_above_zero_is_refused(mu: object) -> None:
    with pytest.raises(InvalidValue, match=r"mu is .*: use a finite number above zero"):
        NoiseSetting.from_mu(mu, 64, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("mu", [1e-3, 1e-9, 1e-200, 5e-324])
def test_a_mu_below_the_largest_scale_is_refused_with_the_least_that_works(mu: float) -> None:
    with pytest.raises(InvalidValue, match=r"use at least [0-9.]+ at 1024 dimensions, 8 bits") as refusal:
        NoiseSetting.from_mu(mu, 1024, 8)
    least = float(refusal.value.remedy.split()[3])
    assert NoiseSetting.from_mu(least, 1024, 8).scale <= MAX_SCALE


@pytest.mark.parametrize("mu", [1e9, 1e200, pytest.param(10**400, id="10**400")])
def test_a_huge_mu_is_the_weakest_noise_there_is(mu: float) -> None:
    assert NoiseSetting.from_mu(mu, 16, 1) == NoiseSetting(1, MIN_SCALE)


@pytest.mark.parametrize("scale", [65536, 0, -1, 1 << 32, True, 70000.0, "70000", None])
def test_a_scale_outside_of_its_bounds_is_refused(scale: object) -> None:
    with pytest.raises(InvalidValue, match=r"noise_scale is .*: use a whole number from 65537 to 4294967295"):
        NoiseSetting(1, scale)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [0, 9, -1, True, 1.0, "1", None])
def test_bits_outside_of_one_to_eight_are_refused(bits: object) -> None:
    with pytest.raises(InvalidValue, match=r"bits is .*: use a whole number of bits a coordinate from 1 to 8"):
        NoiseSetting(bits, MIN_SCALE)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="bits is"):
        NoiseSetting.from_mu(5, 64, bits)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("mu", [2, 20])
def test_estimates_are_unbiased_and_vary_as_the_paper_says(bits: int, mu: float) -> None:
    """E v^ = v and E |v^ - v|^2 = (d*A^2 - |v|^2) / u."""
    row = np.array([-127, -90, -33, -1, 0, 40, 101, 127], dtype=np.int8)
    latent = row / 127
    setting = NoiseSetting.from_mu(mu, len(row), bits)
    draws = 200_000 if bits == 1 else 20_000
    levels = randomize(np.broadcast_to(row, (draws, len(row))), setting)
    errors = setting.estimate(levels).astype(np.float64) - latent
    variance = (setting.amplitude**2 - latent**2) / setting.levels
    assert (np.abs(errors.mean(axis=0)) < SIGMAS * np.sqrt(variance / draws)).all()
    squares = (errors**2).sum(axis=1)
    expected = (len(row) * setting.amplitude**2 - (latent**2).sum()) / setting.levels
    assert abs(squares.mean() - expected) < SIGMAS * squares.std() / math.sqrt(draws)
