"""The learner trains through the very noise that a device adds and decodes as the server will decode."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_table import small_table
from torch import Tensor, nn

from del_codec.errors import InvalidValue
from del_codec.frame import PrivateSegment, PublicSegment
from del_codec.noise import GRID, NoiseSetting
from del_codec.projection import Encoder, ProjectionConfig
from del_server.decoder import PromptDecoder
from del_server.training.learner import Dial, Learner

DIM, WIDTH, VOCABULARY = 4, 6, 24
# A two-sided normal tail of 1e-6.
SIGMAS = 4.9


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def learner(decoder: Any, embedding_width: int = WIDTH, embeddings: Tensor | None = None, **changes: Any) -> Learner:
    config = ProjectionConfig(
        dim=DIM, embedding_width=embedding_width, embedding_rms=1.0, decoder=decoder, width=16, layers=1, heads=2
    )
    table = torch.randn(VOCABULARY, embedding_width) if embeddings is None else embeddings
    log_prior = torch.from_numpy(np.log(small_table().prior))
    return Learner(replace(config, **changes), table, log_prior, torch.zeros(3, embedding_width))


def transparent() -> Learner:
    """A learner whose linear decoder shows the noised latents in its first columns."""
    made = learner("linear")
    with torch.no_grad():
        made.decoder.project.weight.copy_(torch.eye(WIDTH, DIM))
    return made


def released(made: Learner, ids: Tensor, dial: Dial) -> tuple[Tensor, Tensor]:
    """All ids private at one dial: embeddings [B, T, D] and leak [B, T]."""
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    return made.prompt(ids, everywhere, everywhere, torch.zeros_like(ids), [dial])


def levels_of(latents: Tensor, dial: Dial) -> Tensor:
    return (latents / dial.amplitude + 1) * dial.levels / 2


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_levels_are_real_draws_of_the_binomial_law(bits: int) -> None:
    made, dial = transparent(), Dial.from_mu(4, DIM, bits)
    ids = torch.arange(VOCABULARY).repeat(400, 1)
    with torch.no_grad():
        levels = levels_of(released(made, ids, dial)[0][..., :DIM], dial)
        p = 0.5 + made.encoder(made.embeddings) / (2 * dial.amplitude)
    assert torch.allclose(levels, levels.round(), atol=1e-2)
    assert levels.min() > -0.5
    assert levels.max() < dial.levels + 0.5
    surplus = levels - dial.levels * p
    variance = dial.levels * p * (1 - p)
    assert (surplus.mean(dim=0).abs() < SIGMAS * (variance / len(ids)).sqrt()).all()
    squares = (surplus**2 / variance).flatten()
    assert abs(squares.mean() - 1) < SIGMAS * squares.std() / math.sqrt(len(squares))


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_the_gradient_of_the_levels_is_that_of_their_expectation(bits: int) -> None:
    """E[K] = u*p with p = 1/2 + v / (2A): a draw has no gradient, its expectation has."""
    made, dial = transparent(), Dial.from_mu(4, DIM, bits)
    ids = torch.tensor([[3, 0, 7, 7, 23]])
    weight = torch.randn(1, 5, DIM)
    drawn = levels_of(released(made, ids, dial)[0][..., :DIM], dial)
    expected = dial.levels * (0.5 + made.encoder(made.embeddings[ids]) / (2 * dial.amplitude))
    assert not torch.allclose(drawn, expected)
    parameters = list(made.encoder.parameters())
    found = torch.autograd.grad((drawn * weight).sum(), parameters)
    wanted = torch.autograd.grad((expected * weight).sum(), parameters)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
        assert other.abs().max() > 0


def test_every_part_is_reached_by_the_gradient_of_a_noised_prompt() -> None:
    made = learner("context")
    nn.init.normal_(made.decoder.write.weight)
    released(made, torch.tensor([[3, 0, 7]]), Dial.from_mu(10, DIM, 1))[0].pow(2).sum().backward()
    for part in (made.encoder, made.decoder):
        reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in part.parameters()]
        assert sum(reached) > len(reached) / 2


def test_public_positions_are_the_models_own_and_leak_nothing() -> None:
    made = learner("context")
    nn.init.normal_(made.decoder.write.weight)
    ids, private = torch.tensor([[3, 0, 7, 9]]), torch.tensor([[False, True, True, False]])
    dial_of = torch.tensor([[0, 0, 1, 1]])
    dials = [Dial.from_mu(10, DIM, 1), Dial.from_mu(2, DIM, 3)]
    found, leak = made.prompt(ids, private, torch.ones_like(private), dial_of, dials)
    clear = made.embeddings[ids]
    assert torch.equal(found[~private], clear[~private])
    assert not torch.isclose(found[private], clear[private]).all(dim=-1).any()
    assert torch.equal(leak[~private], torch.zeros(2))
    assert (leak[private] > 0).all()


def test_the_leak_is_the_exact_posterior_of_the_true_token() -> None:
    # With one-hot embeddings an untrained decoder, which gives the posterior mean, shows the posterior itself.
    made = learner("context", embedding_width=VOCABULARY, embeddings=torch.eye(VOCABULARY))
    prior = torch.from_numpy(small_table().prior)
    ids = torch.multinomial(prior, 8000, replacement=True).view(10, 800)
    with torch.no_grad():
        posterior, leak = released(made, ids, Dial.from_mu(6, DIM, 2))
    assert torch.allclose(posterior.sum(dim=-1), torch.ones(10, 800), atol=1e-4)
    assert torch.allclose(leak, posterior.gather(-1, ids.unsqueeze(-1)).squeeze(-1), atol=1e-5)
    # Bayes: the token is right as often as the posterior says, and a guess drawn from it as often as the leak.
    best, guess = posterior.max(dim=-1)
    drawn = posterior.pow(2).sum(dim=-1)
    for surplus in ((guess == ids).float() - best, leak - drawn):
        assert abs(surplus.mean()) < SIGMAS * surplus.std() / math.sqrt(ids.numel())


def test_a_linear_decoder_has_no_posterior_to_leak() -> None:
    assert released(learner("linear"), torch.tensor([[3, 0]]), Dial.from_mu(10, DIM, 1))[1].tolist() == [[0, 0]]


def test_the_papers_first_phase_decodes_clean_latents() -> None:
    made = learner("linear", encoder="linear")
    ids, private = torch.tensor([[3, 0, 7]]), torch.tensor([[True, True, False]])
    found = made.noiseless(ids, private, torch.ones_like(private))
    latents = made.encoder(made.embeddings[ids])
    assert torch.allclose(found[private], made.decoder.project(latents)[private], atol=1e-5)
    assert torch.equal(found[~private], made.embeddings[ids][~private])


def test_the_baked_table_is_the_encoder_in_127ths() -> None:
    made = learner("context")
    baked = made.baked()
    assert baked.dtype == torch.int8
    assert baked.shape == (VOCABULARY, DIM)
    assert (baked.float() / 127 - made.encoder(made.embeddings)).abs().max() <= 0.5 / 127 + 1e-6
    with torch.no_grad():
        for parameter in made.encoder.parameters():
            parameter.mul_(1000)
    assert made.baked().abs().max() == 127


def test_what_is_trained_is_what_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same levels through the learner and through the server's decoder are the same embeddings."""
    # One-hot embeddings and a linear encoder let the learner's table be the integers of the baked one.
    table = small_table(VOCABULARY, DIM, VOCABULARY)
    made = learner("context", embedding_width=VOCABULARY, embeddings=torch.eye(VOCABULARY), encoder="linear")
    with torch.no_grad():
        made.encoder.project.weight.copy_(torch.from_numpy(table.latents.astype(np.float32)).T / 127)
    for last in (made.decoder.keep, made.decoder.write):
        nn.init.normal_(last.weight)
    assert np.array_equal(made.baked().numpy(), table.latents)

    # No luck: every level is its expectation, rounded.
    monkeypatch.setattr(torch, "bernoulli", torch.round)
    monkeypatch.setattr(torch, "binomial", lambda counts, p: (counts * p).round())

    def segment(ids: list[int], setting: NoiseSetting) -> PrivateSegment:
        p = setting.thresholds(table.rows(ids)) / GRID
        return PrivateSegment.from_levels(np.round(setting.levels * p).astype(np.uint8), setting)

    strong, weak = NoiseSetting.from_mu(3, DIM, 1), NoiseSetting.from_mu(20, DIM, 3)
    served = PromptDecoder(table, made.decoder, torch.eye(VOCABULARY))(
        [PublicSegment((5, 1)), segment([2, 9, 23], strong), segment([0, 7], weak), PublicSegment((4,))]
    )
    ids = torch.tensor([[5, 1, 2, 9, 23, 0, 7, 4]])
    private = torch.tensor([[False, False, True, True, True, True, True, False]])
    dials = [Dial(s.amplitude, s.levels, s.mu(DIM)) for s in (strong, weak)]
    dial_of = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]])
    trained, _ = made.prompt(ids, private, torch.ones_like(private), dial_of, dials)
    assert torch.allclose(served, trained[0], atol=1e-3)


def test_a_spread_encoder_starts_centred_and_near_the_corners() -> None:
    made = learner("context", 64, torch.randn(VOCABULARY, 64) + 3, encoder="tanh")
    made.spread(5.0)
    encoder = made.encoder
    assert isinstance(encoder, Encoder)
    values = encoder.skip(made.embeddings)
    torch.testing.assert_close(values.std(dim=0), torch.full((DIM,), 5.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(made.log_prior.exp() @ values, torch.zeros(DIM), atol=1e-4, rtol=0)
    assert made.baked().float().abs().mean() > 100


def test_a_linear_encoder_is_not_spread() -> None:
    with pytest.raises(InvalidValue, match="encoder"):
        learner("linear", encoder="linear").spread(5.0)
