"""The randomiser draws K ~ Binomial(u, t / 2^32), exactly and from the operating system's randomness alone.

The law is checked against the exact probabilities with a limit at which a correct sampler fails about once in a million
runs of this file; samplers that are wrong on purpose show that the same check would notice.
"""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats

from del_codec.errors import InvalidValue
from del_codec.noise import GRID
from del_codec.randomize import randomize

Levels = npt.NDArray[np.uint8]

THRESHOLDS = [
    pytest.param(1, id="least"),
    pytest.param(0x00C00000, id="ones-only-by-ties"),
    pytest.param(0x4B3C2D1E, id="below-half"),
    pytest.param(GRID // 2, id="fair"),
    pytest.param(0xB4C3D2E1, id="above-half"),
    pytest.param(0xFF400000, id="zeros-only-by-ties"),
    pytest.param(GRID - 1, id="greatest"),
]
BITS = range(1, 9)
# Two statistics at each threshold and number of bits, and the independence of six pairs of coordinates.
LIMIT = 1e-6 / (2 * len(THRESHOLDS) * len(BITS) + 6 * len(BITS))
LEAST_EXPECTED = 50


def draws_of(bits: int) -> int:
    """Enough to see a probability that is off by 2 %: 400,000 coin flips, and 20,000 levels for their distribution."""
    return max(20_000, 400_000 // ((1 << bits) - 1))


def many(threshold: int, bits: int) -> npt.NDArray[np.int64]:
    return np.full(draws_of(bits), threshold, dtype=np.int64)


def p_value(levels: Levels, threshold: int, bits: int) -> float:
    """The smaller p-value of two tests: all ones against their exact binomial, levels against theirs (chi-square)."""
    trials, p = (1 << bits) - 1, threshold / GRID
    ones = stats.binomtest(int(levels.sum(dtype=np.int64)), trials * levels.size, p).pvalue
    expected = levels.size * stats.binom.pmf(np.arange(trials + 1), trials, p)
    cell_of = _cells(expected)
    observed = np.bincount(cell_of[levels])
    expected = np.bincount(cell_of, weights=expected)
    if len(expected) == 1:
        return float(ones)
    shape = stats.chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected) - 1)
    return float(min(ones, shape))


def _cells(expected: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Cell of each level: neighbours share one until it expects enough draws for the chi-square law."""
    cells, mass, cell = np.zeros(len(expected), dtype=np.int64), 0.0, 0
    for level, mean in enumerate(expected):
        cells[level] = cell
        mass += mean
        if mass >= LEAST_EXPECTED and expected[level + 1 :].sum() >= LEAST_EXPECTED:
            cell, mass = cell + 1, 0.0
    return cells


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_levels_follow_the_exact_binomial_law(threshold: int, bits: int) -> None:
    assert p_value(randomize(many(threshold, bits), bits), threshold, bits) > LIMIT


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("threshold", [GRID // 2, 0xB4C3D2E1])
def test_the_check_notices_a_probability_that_is_off_by_2_percent(threshold: int, bits: int) -> None:
    for wrong in (round(threshold * 0.98), round(threshold * 1.02)):
        assert p_value(randomize(many(wrong, bits), bits), threshold, bits) < LIMIT


def coin_by_coin(wins: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.bool_]], bits: int) -> Levels:
    coins = np.frombuffer(os.urandom(((1 << bits) - 1) * draws_of(bits)), dtype=np.uint8)
    return wins(coins).reshape(-1, draws_of(bits)).sum(axis=0, dtype=np.uint8)


@pytest.mark.parametrize("bits", BITS)
def test_the_check_notices_ties_that_are_always_lost_or_won(bits: int) -> None:
    for wins in (lambda coins: coins < 0, lambda coins: coins <= 0):
        assert p_value(coin_by_coin(wins, bits), 0x00C00000, bits) < LIMIT


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_check_notices_levels_of_the_right_mean_and_the_wrong_law(bits: int) -> None:
    trials = (1 << bits) - 1
    all_or_none = randomize(many(GRID // 2, bits), 1) * np.uint8(trials)
    coins_in_pairs = 2 * randomize(many(GRID // 2, bits), bits - 1) + randomize(many(GRID // 2, bits), 1)
    for levels in (all_or_none, coins_in_pairs):
        assert p_value(levels, GRID // 2, bits) < LIMIT


def correlations(levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """p-values of all pairs of columns being uncorrelated."""
    table = np.corrcoef(levels, rowvar=False)
    pairs = table[np.triu_indices(len(table), 1)]
    return 2 * stats.norm.sf(np.abs(pairs) * np.sqrt(len(levels)))


@pytest.mark.parametrize("bits", BITS)
def test_coordinates_are_drawn_independently(bits: int) -> None:
    thresholds = np.array([0x70000000, 0x80000000, 0x88000001, 0xB4C3D2E1], dtype=np.int64)
    rows = np.broadcast_to(thresholds, (20_000, 4))
    assert correlations(randomize(rows, bits)).min() > LIMIT
    shared = randomize(rows, bits, lambda count: np.repeat(np.frombuffer(os.urandom(count // 4), "u1"), 4).tobytes())
    assert correlations(shared).max() < LIMIT


class Script:
    """A source of bytes that gives what it was told, and takes note of what was asked for."""

    def __init__(self, *answers: str) -> None:
        self.answers = [bytes.fromhex(answer) for answer in answers]

    def __call__(self, count: int) -> bytes:
        answer = self.answers.pop(0)
        assert len(answer) == count
        return answer


@pytest.mark.parametrize(
    ("coin", "level"),
    [
        (["7f"], 1),  # below the threshold's top byte: no more bits are fetched
        (["81"], 0),  # above it
        (["80", "55443300"], 1),  # a tie: 0x334455 < 0x334456
        (["80", "56443300"], 0),  # 0x334456 is not
        (["80", "57443300"], 0),
        (["80", "55443399"], 1),  # only 24 bits decide
        (["80", "56443399"], 0),
    ],
)
def test_a_tie_with_the_top_byte_is_decided_by_24_more_bits(coin: list[str], level: int) -> None:
    script = Script(*coin)
    assert randomize(np.array([0x80334456]), 1, script).tolist() == [level]
    assert not script.answers


def test_a_level_is_the_sum_of_its_coins_and_ties_are_fetched_together() -> None:
    thresholds = np.array([[0x80000001, 0x10000000], [0x80000001, 0xFFFFFFFF]])
    script = Script(
        "80 0f 80 00",  # two ties, two ones
        "00000000 01000000",  # the first is won, the second lost
        "00 10 00 ff",  # two ones, two ties
        "00000000 feffff00",  # lost against 0, won against 0xffffff
        "ff ff ff fe",  # only the last is below
    )
    assert randomize(thresholds, 2, script).tolist() == [[2, 1], [1, 3]]
    assert not script.answers


def test_equal_bytes_give_equal_levels() -> None:
    thresholds = np.full((8, 8), 0xB4C3D2E1)

    def scripted(seed: int) -> Levels:
        return randomize(thresholds, 5, random.Random(seed).randbytes)

    assert np.array_equal(scripted(1), scripted(1))
    assert not np.array_equal(scripted(1), scripted(2))


def test_the_default_source_is_the_operating_system() -> None:
    assert inspect.signature(randomize).parameters["random_bytes"].default is os.urandom


def test_no_seed_brings_a_draw_back() -> None:
    def seeded() -> Levels:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        return randomize(np.full(256, GRID // 2), 1)

    assert not np.array_equal(seeded(), seeded())


def test_drawing_leaves_the_seeded_generators_alone() -> None:
    def next_numbers() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    undisturbed = next_numbers()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    randomize(np.full(256, 0x80800000), 8)
    assert next_numbers() == undisturbed


@pytest.mark.parametrize("threshold", [0, -1, GRID, GRID + 1])
def test_a_threshold_off_the_grid_is_refused(threshold: int) -> None:
    with pytest.raises(ValueError, match="thresholds must lie in 1"):
        randomize(np.array([GRID // 2, threshold]), 1)


@pytest.mark.parametrize("bits", [0, 9, True, 1.0])
def test_bits_outside_of_one_to_eight_are_refused(bits: int) -> None:
    with pytest.raises(InvalidValue, match="bits is"):
        randomize(np.array([GRID // 2]), bits)
