"""The t-test of times: a small difference is seen through long times that are the machine's, and none where none is."""

from __future__ import annotations

import numpy as np

from benchmarks.leak import TELLING, compare, welch

REPEATS = 4_000
RNG = np.random.default_rng(0)


def times(mean: float) -> np.ndarray:
    """Nanoseconds around a mean; one in fifty is long."""
    return RNG.normal(mean, 100, REPEATS) + np.where(RNG.random(REPEATS) < 0.02, RNG.exponential(1e6, REPEATS), 0)


def test_a_tenth_of_the_spread_is_seen_through_outliers() -> None:
    leak = welch("slow", times(1_000), times(1_020))
    assert leak.tells
    assert abs(leak.difference - 20) < 5 * leak.error < 20


def test_equal_times_tell_nothing() -> None:
    assert not welch("same", times(1_000), times(1_000)).tells


def test_as_many_observations_as_are_said_to_be_needed_are() -> None:
    leak = welch("slow", times(1_000), times(1_020))
    needed = 2 * (TELLING * leak.spread / leak.difference) ** 2
    assert leak.observations == needed
    assert leak.observations_within(leak.spread) > 1.9 * needed


def test_a_clock_runs_on_inputs_of_both_kinds_in_random_order() -> None:
    seen: list[int] = []

    def clock(given: int) -> float:
        seen.append(given)
        return float(len(seen) % 7 + 50 * given)

    assert compare("kinds", clock, lambda: (0, 1), 400).tells
    timed = seen[-400:]
    assert 100 < sum(timed) < 300
    assert timed != sorted(timed)
