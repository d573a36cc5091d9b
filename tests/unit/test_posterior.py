"""Bayes' rule on a whole vocabulary, and how near the quick mean stays to the exact one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_table import bayes, small_table
from torch import Tensor

from del_codec.attacks import log_odds
from del_codec.noise import LATENT_MAX, NoiseSetting
from del_codec.randomize import randomize
from del_codec.table import LatentTable
from del_server.posterior import RANK, RUN, STRIDE, TOLERANCE, PosteriorMean, posterior, posterior_mean

TABLE = small_table(vocabulary=375 * RANK, dim=8)
WIDTH = 4 * RANK
# As much as float32 leaves to sums of a few thousand terms.
ROUNDING = 1e-5


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def evidence(table: LatentTable, setting: NoiseSetting) -> Tensor:
    """[d + 1, V] under the unigram prior."""
    theta, log_complement = (torch.from_numpy(a).float() for a in log_odds(setting))
    index = torch.from_numpy(table.latents.astype(np.int64) + LATENT_MAX)
    bias = setting.levels * log_complement[index].sum(dim=1) + torch.from_numpy(np.log(table.prior)).float()
    return torch.cat([theta[index].T, bias[None]])


def question(mu: float = 16, bits: int = 4, tokens: int = 40) -> tuple[Tensor, Tensor]:
    """Levels [N, d] of the first tokens, the same in every run, and the evidence [d + 1, V]."""
    setting = NoiseSetting.from_mu(mu, TABLE.spec.dim, bits)
    levels = randomize(TABLE.latents[:tokens], setting, np.random.default_rng(0).bytes)
    return torch.from_numpy(levels).float(), evidence(TABLE, setting)


def embeddings() -> Tensor:
    """[V, WIDTH], half of them in common, as a language model's are, part of the rest what the latents tell."""
    latents = torch.from_numpy(TABLE.latents).float() / LATENT_MAX
    told = latents @ torch.randn(latents.shape[1], WIDTH)
    return torch.randn(1, WIDTH) + told / 3 + torch.randn(len(latents), WIDTH) / 2


def typical(table: Tensor) -> Tensor:
    """The root mean square norm of an embedding."""
    return table.square().sum(dim=1).mean().sqrt()


@pytest.mark.parametrize(("mu", "bits"), [(1, 1), (5, 3), (20, 8)])
def test_the_posterior_and_its_mean_are_bayes_rule(mu: float, bits: int) -> None:
    table = small_table()
    setting = NoiseSetting.from_mu(mu, table.spec.dim, bits)
    levels = randomize(table.latents, setting, np.random.default_rng(0).bytes)
    values = torch.randn(table.spec.vocabulary, 6)
    expected = torch.from_numpy(bayes(table, levels, setting, table.prior)).float()
    asked = torch.from_numpy(levels).float(), evidence(table, setting)
    assert torch.allclose(posterior(*asked), expected, rtol=1e-3, atol=1e-6)
    # The scores of one token are sums of thousands: float32 leaves their softmax three digits.
    assert torch.allclose(posterior_mean(*asked, values), expected @ values, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("mu", "bits"), [(16, 4), (24, 3), (32, 8)])
def test_the_quick_mean_is_as_near_as_it_promises(mu: float, bits: int) -> None:
    values = embeddings()
    asked = question(mu, bits)
    exact = posterior_mean(*asked, values)
    quick = PosteriorMean(values)(*asked)
    assert (quick - exact).norm(dim=1).max() <= TOLERANCE * typical(values)
    # It left something out, so that this has tested what it is for.
    assert not torch.allclose(quick, exact, rtol=ROUNDING, atol=ROUNDING)


def unseen_first(vocabulary: int) -> Tensor:
    """Every token, those that no sample of weights has first."""
    ids = torch.arange(vocabulary)
    return torch.cat([ids[ids % STRIDE >= RUN], ids[ids % STRIDE < RUN]])


def worst(order: Tensor, likely: int) -> tuple[Tensor, Tensor, Tensor]:
    """Levels, evidence and embeddings [V, WIDTH] of which all but those of the first `likely` tokens of an order lie on
    one neglected line, as far out as they are likely: all of the error adds up."""
    vocabulary = len(order)
    bias = torch.zeros(vocabulary)
    bias[order] = -2 * torch.arange(1, vocabulary + 1).log()
    unlikely = torch.softmax(bias, dim=0)
    unlikely[order[:likely]] = 0
    values = torch.zeros(vocabulary, WIDTH)
    values[:, :RANK] = 1.5 * torch.eye(RANK).repeat(vocabulary // RANK, 1)
    values[:, RANK] = 20 * unlikely / unlikely.norm()
    return torch.zeros(1, 8), torch.cat([torch.zeros(8, vocabulary), bias[None]]), values


def test_the_promise_holds_for_embeddings_that_take_the_most_of_it() -> None:
    *asked, values = worst(torch.randperm(len(TABLE.latents)), likely=40)
    error = (PosteriorMean(values)(*asked) - posterior_mean(*asked, values)).norm()
    assert TOLERANCE * typical(values) / 10 < error <= TOLERANCE * typical(values)


def test_the_promise_holds_where_the_sample_sees_no_likely_token() -> None:
    *asked, values = worst(unseen_first(len(TABLE.latents)), likely=16)
    assert (PosteriorMean(values)(*asked) - posterior_mean(*asked, values)).norm() <= TOLERANCE * typical(values)


def flat(tokens: int) -> tuple[Tensor, Tensor]:
    """Levels and evidence of a posterior that takes all of the first tokens for equally likely."""
    told = torch.zeros(9, len(TABLE.latents))
    told[-1, tokens:] = -1e3
    return torch.zeros(2, 8), told


def test_a_posterior_of_many_likely_tokens_is_averaged_in_full() -> None:
    values, tokens = embeddings(), len(TABLE.latents) // 8
    expected = values[:tokens].mean(dim=0)
    assert torch.allclose(PosteriorMean(values)(*flat(tokens)), expected, rtol=ROUNDING, atol=ROUNDING)


def test_the_promise_holds_where_no_token_is_likely() -> None:
    values = embeddings()
    error = PosteriorMean(values)(*flat(len(values))) - values.mean(dim=0)
    assert error.norm(dim=1).max() <= TOLERANCE * typical(values)


def test_a_certain_posterior_gives_the_tokens_own_embedding() -> None:
    values = embeddings()
    told = torch.zeros(9, len(values))
    told[:8, :8] = 100 * torch.eye(8)
    assert torch.allclose(PosteriorMean(values)(torch.eye(8), told), values[:8], rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("rank", [0, 1, RANK, RANK + 1])
def test_embeddings_of_few_dimensions_lose_nothing(rank: int) -> None:
    values = torch.randn(len(TABLE.latents), rank) @ torch.randn(rank, WIDTH)
    asked = question()
    scale = float(typical(values)) if rank else 1.0
    error = (PosteriorMean(values)(*asked) - posterior_mean(*asked, values)).norm(dim=1).max()
    assert error <= (ROUNDING if rank <= RANK else TOLERANCE) * scale


def test_rows_do_not_depend_on_each_other() -> None:
    levels, told = question(mu=24)
    mean = PosteriorMean(embeddings())
    together = mean(levels, told)
    alone = torch.cat([mean(row, told) for row in levels.split(1)])
    assert torch.allclose(together, alone, rtol=1e-3, atol=1e-3)
    assert mean(levels[:0], told).shape == (0, WIDTH)


def test_a_row_that_would_be_averaged_in_full_alone_keeps_the_promise_among_others() -> None:
    values, tokens = embeddings(), len(TABLE.latents) // 2
    told = torch.zeros(9, len(values))
    told[0, 0] = 100.0
    told[-1] = -0.4 * torch.arange(1, len(values) + 1).log()
    told[-1, tokens:] = -1e3
    # The first one can tell little of its token, the others all.
    levels = torch.zeros(40, 8)
    levels[1:, 0] = 1.0
    mean = PosteriorMean(values)
    alone, among = mean(levels[:1], told), mean(levels, told)[:1]
    exact = posterior_mean(levels[:1], told, values)
    assert torch.allclose(alone, exact, rtol=ROUNDING, atol=ROUNDING)
    assert not torch.allclose(among, exact, rtol=ROUNDING, atol=ROUNDING)
    assert (among - exact).norm() <= TOLERANCE * typical(values)


def test_the_quick_mean_of_bfloat16_embeddings_is_that_of_their_values() -> None:
    values = embeddings().to(torch.bfloat16)
    asked = question()
    error = PosteriorMean(values)(*asked) - posterior_mean(*asked, values.float())
    assert error.norm(dim=1).max() <= TOLERANCE * typical(values.float())
