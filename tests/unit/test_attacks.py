"""ML and MAP from one token's levels are exactly Bayes' rule: checked against the binomial law by brute force."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import special
from small_table import bayes, small_table

from del_codec.attacks import log_odds, map_guess, token_scores
from del_codec.noise import GRID, NoiseSetting
from del_codec.randomize import randomize

TABLE = small_table()
# Standard deviations that a correct attack exceeds about once in 10^6 runs.
SIGMAS = 4.9

Prior = npt.NDArray[np.float64] | None


def sent(setting: NoiseSetting, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Tokens drawn from the prior, and their levels."""
    ids = np.random.default_rng(3).choice(TABLE.spec.vocabulary, count, p=TABLE.prior)
    return ids, randomize(TABLE.rows(ids), setting)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("mu", [0.5, 5, 50])
@pytest.mark.parametrize("prior", [None, TABLE.prior], ids=["ML", "MAP"])
def test_the_posterior_is_bayes_rule(bits: int, mu: float, prior: Prior) -> None:
    setting = NoiseSetting.from_mu(mu, TABLE.spec.dim, bits)
    _, levels = sent(setting, 200)
    expected = bayes(TABLE, levels, setting, prior)
    found = special.softmax(token_scores(TABLE, levels, setting, prior).astype(np.float64), axis=1)
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-6)
    guesses, chances = map_guess(TABLE, levels, setting, prior)
    best = expected.max(axis=1)
    assert np.allclose(chances, best, rtol=1e-3)
    assert np.allclose(expected[np.arange(len(levels)), guesses], best, rtol=1e-3)


def test_a_uniform_prior_is_maximum_likelihood() -> None:
    setting = NoiseSetting.from_mu(5, TABLE.spec.dim, 2)
    _, levels = sent(setting, 300)
    uniform = np.full(TABLE.spec.vocabulary, 1 / TABLE.spec.vocabulary)
    ml, ml_chance = map_guess(TABLE, levels, setting, None)
    flat, flat_chance = map_guess(TABLE, levels, setting, uniform)
    assert np.array_equal(ml, flat)
    assert np.allclose(ml_chance, flat_chance, rtol=1e-4)
    informed, _ = map_guess(TABLE, levels, setting, TABLE.prior)
    assert not np.array_equal(ml, informed)


@pytest.mark.parametrize(("mu", "bits"), [(1, 1), (5, 1), (5, 4), (20, 1)])
def test_the_posterior_of_a_guess_is_its_chance_to_be_right(mu: float, bits: int) -> None:
    setting = NoiseSetting.from_mu(mu, TABLE.spec.dim, bits)
    ids, levels = sent(setting, 20_000)
    guesses, chances = map_guess(TABLE, levels, setting, TABLE.prior)
    surplus = (guesses == ids) - chances
    assert abs(surplus.mean()) < SIGMAS * surplus.std() / np.sqrt(len(ids))


@pytest.mark.parametrize(("mu", "bits"), [(3, 1), (5, 2), (10, 1)])
def test_map_beats_guessing_the_commonest_token_and_maximum_likelihood(mu: float, bits: int) -> None:
    setting = NoiseSetting.from_mu(mu, TABLE.spec.dim, bits)
    ids, levels = sent(setting, 20_000)
    right = map_guess(TABLE, levels, setting, TABLE.prior)[0] == ids
    prior_only = ids == TABLE.unigram_counts.argmax()
    likeliest = map_guess(TABLE, levels, setting, None)[0] == ids
    for other in (prior_only, likeliest):
        gain = right.astype(np.float64) - other
        assert gain.mean() > SIGMAS * gain.std() / np.sqrt(len(ids))


def test_almost_no_noise_names_the_tokens() -> None:
    setting = NoiseSetting.from_mu(5000, TABLE.spec.dim, 8)
    ids, levels = sent(setting, 5000)
    guesses, chances = map_guess(TABLE, levels, setting, None)
    assert (guesses == ids).mean() > 0.99
    assert chances.mean() > 0.99


def test_a_long_prompt_is_read_token_by_token() -> None:
    setting = NoiseSetting.from_mu(5, TABLE.spec.dim, 1)
    _, levels = sent(setting, 600)
    guesses, chances = map_guess(TABLE, levels, setting, TABLE.prior)
    alone = [map_guess(TABLE, levels[i : i + 1], setting, TABLE.prior) for i in range(len(levels))]
    assert guesses.tolist() == [int(guess[0]) for guess, _ in alone]
    assert np.allclose(chances, [float(chance[0]) for _, chance in alone], rtol=1e-5)


@pytest.mark.parametrize("scale", [65537, 88898, (1 << 32) - 1])
def test_log_odds_are_those_of_the_255_thresholds(scale: int) -> None:
    setting = NoiseSetting(1, scale)
    theta, log_complement = log_odds(setting)
    p = setting.thresholds(np.arange(-127, 128).astype(np.int8)) / GRID
    assert np.allclose(special.expit(theta), p, rtol=1e-12)
    assert np.allclose(np.exp(log_complement), 1 - p, rtol=1e-9)
    assert np.allclose(theta, -theta[::-1], atol=1e-9)
