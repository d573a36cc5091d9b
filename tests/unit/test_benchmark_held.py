"""How fast what a process holds grows, and how sure that is."""

from __future__ import annotations

import math

import pytest

from benchmarks.held import drift


def test_a_line_and_what_scatters_about_it() -> None:
    hours = [number / 30 for number in range(30)]
    straight = drift(hours, [100 + 3 * hour for hour in hours])
    assert straight.slope == pytest.approx(3)
    assert straight.high - straight.low == pytest.approx(0, abs=1e-9)
    level = drift(hours, [100 + (-1) ** number for number in range(30)])
    assert level.low < 0 < level.high


def test_remainders_that_are_alike_widen_the_interval() -> None:
    hours = [number / 60 for number in range(60)]
    quick = drift(hours, [math.sin(2.5 * number) for number in range(60)])
    slow = drift(hours, [math.sin(2.5 * (number // 10)) for number in range(60)])
    assert slow.high - slow.low > 2 * (quick.high - quick.low)
