"""Calibration finds the mu of a known curve, says how sure it is, and says when there is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting
from del_server.evaluation.calibration import Calibration, calibrate
from del_server.evaluation.estimate import Estimate

DIM, BITS = 16, 1


def truth(mu: float) -> float:
    """A success that rises with mu, through 0.25 at mu = 10."""
    return mu / (mu + 30)


def run(target: float, *, low: float = 1, high: float = 60, windows: int = 0, seed: int = 0) -> Calibration:
    """windows: of 64 tokens, of which each is recovered or not; 0 for the true share itself."""
    rng = np.random.default_rng(seed)

    def measure(settings: Sequence[NoiseSetting]) -> list[Estimate]:
        shares = [truth(setting.mu(DIM)) for setting in settings]
        if not windows:
            return [Estimate(share, 0.0, share, share) for share in shares]
        return [Estimate.of(rng.binomial(64, share, windows) / 64) for share in shares]

    return calibrate(measure, target, DIM, BITS, low, high)


def test_it_finds_the_mu_of_a_known_curve() -> None:
    found = run(0.25)
    assert found.outcome == "met"
    assert found.mu == pytest.approx(10, rel=0.01)
    assert found.success.mean == pytest.approx(0.25, abs=0.002)
    # What is certified and deployed are the integers, not the mu that was aimed at.
    assert found.mu == found.setting.mu(DIM)
    assert found.setting.bits == BITS


def test_its_interval_holds_the_true_mu_about_as_often_as_it_says() -> None:
    found = [run(0.25, windows=60, seed=seed) for seed in range(60)]
    inside = [result.mu_low <= 10 <= result.mu_high for result in found]
    assert np.mean(inside) > 0.85
    assert all(result.mu_low <= result.mu_high for result in found)
    assert np.median([result.mu for result in found]) == pytest.approx(10, rel=0.05)


def test_more_windows_make_it_surer() -> None:
    few, many = run(0.25, windows=10), run(0.25, windows=1000)
    assert many.mu_high / many.mu_low < few.mu_high / few.mu_low


def test_every_point_is_reported_in_order() -> None:
    points = run(0.25).points
    assert [point.mu for point in points] == sorted(point.mu for point in points)
    assert all(point.success.mean == truth(point.mu) for point in points)


def test_a_target_above_the_whole_range_gives_its_top_and_says_so() -> None:
    found = run(0.9)
    assert found.outcome == "below"
    assert found.mu == pytest.approx(60, rel=1e-3)
    assert found.success.mean < 0.9


def test_a_target_below_the_whole_range_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"from mu 20 up: there the attack still reads 0\.400"):
        run(0.1, low=20)


@pytest.mark.parametrize(
    ("target", "low", "high", "named"),
    [(0.0, 1, 60, "target-asr"), (1.0, 1, 60, "target-asr"), (0.2, 5, 5, "mu"), (0.2, 0, 5, "mu")],
)
def test_bad_input_is_named(target: float, low: float, high: float, named: str) -> None:
    with pytest.raises(InvalidValue, match=named):
        run(target, low=low, high=high)
