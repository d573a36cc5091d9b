"""The randomiser draws K ~ Binomial(u, t / 2^32), independently and from a CSPRNG alone.

That the law is exact is shown in test_laws.py, decision by decision. Here what comes out is checked against the exact
probabilities with a limit at which a correct sampler fails about once in a million runs of this file; samplers that are
wrong on purpose show that the same check would notice.
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
from del_codec.keystream import keystream
from del_codec.laws import LAWS, Binomials, Coins, RandomBytes
from del_codec.noise import GRID, NoiseSetting
from del_codec.randomize import randomize
from del_server.evaluation.audit.goodness import cells

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


def draw(thresholds: npt.ArrayLike, bits: int, random_bytes: RandomBytes = keystream) -> Levels:
    """One level a threshold, of at most 256 different ones, by the laws that `randomize` draws with."""
    values, places = np.unique(np.asarray(thresholds, dtype=np.int64), return_inverse=True)
    padded = np.concatenate([values, np.repeat(values[-1:], LAWS - len(values))])
    laws = Coins(padded) if bits == 1 else Binomials.build(padded, (1 << bits) - 1)
    return laws.draw(places.ravel().astype(np.uint8), random_bytes).reshape(np.shape(thresholds))


def many(threshold: int, bits: int) -> npt.NDArray[np.int64]:
    return np.full(draws_of(bits), threshold, dtype=np.int64)


def p_value(levels: Levels, threshold: int, bits: int) -> float:
    """The smaller p-value of two tests: all ones against their exact binomial, levels against theirs (chi-square)."""
    trials, p = (1 << bits) - 1, threshold / GRID
    ones = stats.binomtest(int(levels.sum(dtype=np.int64)), trials * levels.size, p).pvalue
    expected = levels.size * stats.binom.pmf(np.arange(trials + 1), trials, p)
    cell_of = cells(expected, LEAST_EXPECTED)
    observed = np.bincount(cell_of[levels])
    expected = np.bincount(cell_of, weights=expected)
    if len(expected) == 1:
        return float(ones)
    shape = stats.chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected) - 1)
    return float(min(ones, shape))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_levels_follow_the_exact_binomial_law(threshold: int, bits: int) -> None:
    assert p_value(draw(many(threshold, bits), bits), threshold, bits) > LIMIT


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("threshold", [GRID // 2, 0xB4C3D2E1])
def test_the_check_notices_a_probability_that_is_off_by_2_percent(threshold: int, bits: int) -> None:
    for wrong in (round(threshold * 0.98), round(threshold * 1.02)):
        assert p_value(draw(many(wrong, bits), bits), threshold, bits) < LIMIT


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
    all_or_none = draw(many(GRID // 2, bits), 1) * np.uint8(trials)
    coins_in_pairs = 2 * draw(many(GRID // 2, bits), bits - 1) + draw(many(GRID // 2, bits), 1)
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
    assert correlations(draw(rows, bits)).min() > LIMIT

    def shared(count: int) -> bytes:
        width = max(1, count // rows.size)  # the bytes of one coordinate in the first call
        return np.repeat(
            np.frombuffer(os.urandom(count), "u1").reshape(-1, width)[: count // width // 4 + 1], 4, axis=0
        ).tobytes()[:count]

    assert correlations(draw(rows, bits, shared)).max() < LIMIT


@pytest.mark.parametrize("bits", BITS)
def test_latents_get_the_laws_of_their_thresholds(bits: int) -> None:
    setting = NoiseSetting.from_mu(20, 16, bits)
    for latent in (-127, 0, 90):
        column = np.full(draws_of(bits), latent, dtype=np.int8)
        threshold = int(setting.thresholds(column[:1])[0])
        assert p_value(randomize(column, setting), threshold, bits) > LIMIT


def test_the_shape_is_kept_whatever_the_layout() -> None:
    latents = np.arange(-60, 60, dtype=np.int8).reshape(4, 5, 6)
    setting = NoiseSetting(8, 65537)

    def scripted(rows: npt.NDArray[np.int8]) -> Levels:
        return randomize(rows, setting, random.Random(0).randbytes)

    assert scripted(latents).shape == latents.shape
    assert np.array_equal(scripted(latents), scripted(np.asfortranarray(latents)))
    assert scripted(latents[:0]).shape == (0, 5, 6)


def test_equal_bytes_give_equal_levels() -> None:
    latents = np.full((8, 8), 77, dtype=np.int8)

    def scripted(seed: int) -> Levels:
        return randomize(latents, NoiseSetting(5, 99_999), random.Random(seed).randbytes)

    assert np.array_equal(scripted(1), scripted(1))
    assert not np.array_equal(scripted(1), scripted(2))


def test_the_default_source_is_keyed_by_the_operating_system() -> None:
    assert inspect.signature(randomize).parameters["random_bytes"].default is keystream


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_no_seed_brings_a_draw_back(bits: int) -> None:
    def seeded() -> Levels:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        return randomize(np.zeros(256, dtype=np.int8), NoiseSetting(bits, 99_999))

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
    randomize(np.full(256, 3, dtype=np.int8), NoiseSetting(8, 99_999))
    assert next_numbers() == undisturbed


def test_a_latent_outside_of_the_box_is_refused() -> None:
    with pytest.raises(InvalidValue, match="latent is -128: use -127 to 127"):
        randomize(np.array([0, -128], dtype=np.int8), NoiseSetting(1, 99_999))
