"""The sampler realises exactly the binomial law: every decision is that of the exact distribution function.

A draw is a function of the 32u bits of U, read in order. It must give K > k exactly where U >= F(k). So two things are
enough: at each boundary F(k) the draw changes there and not one unit earlier (with as many bits as are in it), and the
tables never decide a stretch of U in which a boundary lies. F is computed here with integers, in another way.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from del_codec.laws import GUIDE_BITS, LAWS, PREFIX_BITS, Binomials, Coins, boundaries, laws_of
from del_codec.noise import GRID, MAX_SCALE, MIN_SCALE, NoiseSetting

EXTREMES = [1, 2, 1 << 20, GRID // 2 - 1, GRID // 2, GRID // 2 + 1, GRID - (1 << 20), GRID - 2, GRID - 1]
BITS = range(1, 9)


def distribution(threshold: int, levels: int) -> list[int]:
    """F(k) * 2^(32u), k < u, term by term from the definition."""
    terms = [math.comb(levels, k) * threshold**k * (GRID - threshold) ** (levels - k) for k in range(levels + 1)]
    assert sum(terms) == GRID**levels
    return np.cumsum(np.array(terms, dtype=object)).tolist()[:-1]


def thresholds_with(first: list[int]) -> npt.NDArray[np.int64]:
    """256 thresholds, these at the front and the last of them repeated."""
    return np.array(first + first[-1:] * (LAWS - len(first)), dtype=np.int64)


def build(first: list[int], levels: int) -> Coins | Binomials:
    thresholds = thresholds_with(first)
    return Coins(thresholds) if levels == 1 else Binomials.build(thresholds, levels)


class Bits:
    """The bytes of one U, most significant first; zeros after its end."""

    def __init__(self, value: int, levels: int) -> None:
        self.left = value.to_bytes(4 * levels, "big") + bytes(8)
        self.taken = 0

    def __call__(self, count: int) -> bytes:
        piece = self.left[self.taken : self.taken + count]
        assert len(piece) == count
        self.taken += count
        return piece


def drawn(laws: Coins | Binomials, law: int, value: int, levels: int) -> int:
    """The level that U = value / 2^(32u) gives."""
    return int(laws.draw(np.array([law], dtype=np.uint8), Bits(value, levels))[0])


@pytest.mark.parametrize("bits", BITS)
def test_the_draw_changes_exactly_at_every_boundary(bits: int) -> None:
    levels = (1 << bits) - 1
    laws = build(EXTREMES, levels)
    for law, threshold in enumerate(EXTREMES):
        exact = distribution(threshold, levels)
        for k in range(0, levels, max(1, levels // 40)):
            at = exact[k]
            assert drawn(laws, law, at, levels) == sum(at >= boundary for boundary in exact) >= k + 1
            assert drawn(laws, law, at - 1, levels) == sum(at - 1 >= boundary for boundary in exact) <= k
        assert drawn(laws, law, 0, levels) == 0
        assert drawn(laws, law, GRID**levels - 1, levels) == levels


@given(st.integers(1, 8), st.integers(1, GRID - 1), st.data())
@example(8, GRID - 1, None)
@settings(max_examples=40)
def test_any_u_gives_the_level_of_the_exact_distribution(bits: int, threshold: int, data: st.DataObject | None) -> None:
    levels = (1 << bits) - 1
    laws, exact = build([threshold], levels), distribution(threshold, levels)
    values = [0] if data is None else data.draw(st.lists(st.integers(0, GRID**levels - 1), min_size=8, max_size=8))
    near = [min(GRID**levels - 1, boundary + step) for boundary in exact[:: max(1, levels // 9)] for step in (-1, 0, 1)]
    for value in values + near:
        assert drawn(laws, 0, value, levels) == sum(value >= boundary for boundary in exact)


@pytest.mark.parametrize("bits", range(2, 9))
def test_tables_decide_no_stretch_in_which_a_boundary_lies(bits: int) -> None:
    levels = (1 << bits) - 1
    laws = build(EXTREMES, levels)
    assert isinstance(laws, Binomials)
    guide = laws.guide.reshape(LAWS, -1)
    prefixes = laws.prefixes.reshape(LAWS, -1) - (np.arange(LAWS)[:, None] << PREFIX_BITS)
    for law, threshold in enumerate(EXTREMES):
        exact = distribution(threshold, levels)
        units = [Fraction(boundary << PREFIX_BITS, GRID**levels) for boundary in exact]
        assert all(c <= unit <= c + 2 for c, unit in zip(prefixes[law].tolist(), units, strict=True))
        cells = [divmod(boundary << GUIDE_BITS, GRID**levels) for boundary in exact]
        inside = {cell for cell, rest in cells if rest}
        at_most = np.searchsorted([cell + (rest > 0) for cell, rest in cells], np.arange(1 << GUIDE_BITS), side="right")
        decided = np.flatnonzero(guide[law] != -1)
        assert np.array_equal(guide[law][decided], at_most[decided])
        assert not inside & set(decided.tolist())


@pytest.mark.parametrize("mu", [0.5, 8, 60])
@pytest.mark.parametrize("bits", range(2, 9))
def test_how_often_a_draw_ties_tells_nothing_of_its_latents(bits: int, mu: float) -> None:
    laws = laws_of(NoiseSetting.from_mu(mu, 64, bits))
    assert isinstance(laws, Binomials)
    ties = (laws.guide.reshape(LAWS, -1) == -1).sum(axis=1)
    assert len(set(ties.tolist())) == 1


def test_at_one_bit_every_latent_ties_at_one_byte_in_256() -> None:
    for scale in (MIN_SCALE, 99_999, MAX_SCALE):
        laws = laws_of(NoiseSetting(1, scale))
        every = np.repeat(np.arange(LAWS, dtype=np.uint8), 256)
        asked: list[int] = []

        def first(count: int, asked: list[int] = asked) -> bytes:
            asked.append(count)
            return (bytes(range(256)) * LAWS)[:count]

        laws.draw(every, first)
        assert asked == [every.size, 4 * LAWS]


@pytest.mark.parametrize("bits", range(1, 5))
def test_the_probabilities_of_the_levels_add_up_to_the_law(bits: int) -> None:
    # The draw is monotone in U, so the stretch of U that gives level k is that between the values at which it changes:
    # found by bisection through the sampler itself, and compared with the binomial probability as a fraction.
    levels = (1 << bits) - 1
    threshold = 0x9ABCDEF1
    laws = build([threshold], levels)
    p = Fraction(threshold, GRID)
    for k in {0, levels // 3, levels // 2, levels - 1, levels}:
        first = _first_value_above(laws, k - 1, levels)
        after = _first_value_above(laws, k, levels)
        mass = math.comb(levels, k) * p**k * (1 - p) ** (levels - k)
        assert Fraction(after - first, GRID**levels) == mass


def _first_value_above(laws: Coins | Binomials, level: int, levels: int) -> int:
    low, high = 0, GRID**levels
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if drawn(laws, 0, middle, levels) > level else (middle + 1, high)
    return low


@pytest.mark.parametrize("bits", BITS)
def test_boundaries_are_those_of_the_definition(bits: int) -> None:
    levels = (1 << bits) - 1
    for threshold in (1, 0x12345679, GRID - 1):
        assert list(boundaries(threshold, levels)) == distribution(threshold, levels)


@pytest.mark.parametrize("bits", range(2, 9))
def test_few_bits_decide_most_draws(bits: int) -> None:
    levels = (1 << bits) - 1
    laws = build([0x90000000], levels)
    rng = np.random.default_rng(0)
    asked: list[int] = []

    def source(count: int) -> bytes:
        asked.append(count)
        return rng.bytes(count)

    laws.draw(np.zeros(20_000, dtype=np.uint8), source)
    assert asked[0] == 40_000
    assert asked[1] < 4 * 20_000 // 20
    assert len(asked) == 2


@pytest.mark.parametrize("scale", [MIN_SCALE, 88898, 1 << 20, MAX_SCALE])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_the_laws_of_a_setting_are_those_of_its_thresholds(scale: int, bits: int) -> None:
    setting = NoiseSetting(bits, scale)
    laws = laws_of(setting)
    for latent in (-127, -64, -1, 0, 1, 63, 127):
        threshold = int(setting.thresholds(np.array([latent], dtype=np.int8))[0])
        exact = distribution(threshold, setting.levels)
        for boundary in exact:
            for value in (boundary - 1, boundary):
                level = drawn(laws, latent & 0xFF, value, setting.levels)
                assert level == sum(value >= other for other in exact)


def test_the_laws_of_the_latest_settings_are_kept() -> None:
    assert laws_of(NoiseSetting(2, 99_999)) is laws_of(NoiseSetting(2, 99_999))


def test_ties_of_coins_are_fetched_together() -> None:
    laws = Coins(thresholds_with([0x80334456]))  # U >= 0x7fccbbaa gives a one
    answers = [bytes.fromhex("7f 7e 80 7f"), bytes.fromhex("ccbbaa00 ccbba9ff")]
    levels = laws.draw(np.zeros(4, dtype=np.uint8), lambda count: answers.pop(0))
    assert levels.tolist() == [1, 0, 1, 0]
    assert not answers
