"""Encoders stay in the box that certificates are computed for; decoders start as the best estimate and read context."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from del_codec.errors import InvalidValue
from del_codec.noise import MAX_SCALE, MIN_SCALE, NoiseSetting
from del_codec.projection import (
    ContextDecoder,
    Encoder,
    LinearDecoder,
    NoisyPrompt,
    ProjectionConfig,
    build_decoder,
    noise_features,
)

CONFIG = ProjectionConfig(dim=4, embedding_width=6, embedding_rms=0.5, width=16, layers=2, heads=2)
LINEAR = replace(CONFIG, encoder="linear", decoder="linear")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def noisy(batch: int, length: int) -> NoisyPrompt:
    """Prompts of random latents and means, all positions private and present."""
    everywhere = torch.ones(batch, length, dtype=torch.bool)
    latents, mean = torch.randn(batch, length, CONFIG.dim), torch.randn(batch, length, CONFIG.embedding_width)
    noise = noise_features(torch.tensor(3.0), torch.tensor(1.0)).expand(batch, length, -1)
    return NoisyPrompt(latents, mean, noise, everywhere, everywhere)


def trained(config: ProjectionConfig = CONFIG) -> ContextDecoder:
    """A context decoder whose last layers are not zero any more."""
    decoder = ContextDecoder(config).eval()
    for last in (decoder.keep, decoder.write):
        nn.init.normal_(last.weight)
    return decoder


def cut(prompt: NoisyPrompt, positions: Any) -> NoisyPrompt:
    return NoisyPrompt(
        prompt.latents[:, positions],
        prompt.mean[:, positions],
        prompt.noise[:, positions],
        prompt.private[:, positions],
        prompt.present[:, positions],
    )


@pytest.mark.parametrize("kind", ["tanh", "linear"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_no_embedding_leaves_the_box(kind: Any, scale: float) -> None:
    latents = Encoder(replace(CONFIG, encoder=kind))(scale * torch.randn(1000, CONFIG.embedding_width))
    assert latents.shape == (1000, CONFIG.dim)
    assert latents.abs().max() <= 1


def test_the_linear_encoder_is_one_bias_free_matrix_inside_of_the_box() -> None:
    encoder = Encoder(LINEAR)
    x = 1e-2 * torch.randn(5, CONFIG.embedding_width)
    assert torch.equal(encoder(torch.zeros_like(x)), torch.zeros(5, CONFIG.dim))
    assert torch.allclose(encoder(x), x / CONFIG.embedding_rms @ encoder.project.weight.T, atol=1e-5)


@pytest.mark.parametrize("scale", [MIN_SCALE, 88_898, MAX_SCALE])
@pytest.mark.parametrize("bits", [1, 8])
def test_noise_features_are_finite_at_every_setting(scale: int, bits: int) -> None:
    setting = NoiseSetting(bits, scale)
    features = noise_features(torch.tensor(setting.amplitude), torch.tensor(float(setting.levels)))
    assert features.shape == (3,)
    assert features.isfinite().all()
    assert features.abs().max() < 8


def test_noise_features_are_logarithms_of_the_noise() -> None:
    features = noise_features(torch.tensor([3.0, 3.0]), torch.tensor([1.0, 15.0]))
    expected = [[math.log(9), math.log(8), 0], [math.log(9 / 15), math.log(8), math.log(15)]]
    assert torch.allclose(features, torch.tensor(expected) / 4)


def test_the_linear_decoder_is_one_bias_free_matrix() -> None:
    decoder, prompt = LinearDecoder(LINEAR), noisy(2, 5)
    expected = prompt.latents @ decoder.project.weight.T * LINEAR.embedding_rms
    assert torch.allclose(decoder(prompt), expected, atol=1e-5)


def test_the_linear_decoder_caps_a_latents_norm_and_keeps_its_direction() -> None:
    free, capped = LinearDecoder(LINEAR), LinearDecoder(replace(LINEAR, norm_cap=2.0))
    capped.load_state_dict(free.state_dict())
    prompt = noisy(1, 200)
    norm = prompt.latents.norm(dim=-1, keepdim=True)
    small = (norm <= 2).squeeze(-1)
    assert 0 < small.sum() < 200
    assert torch.allclose(capped(prompt)[small], free(prompt)[small])
    assert torch.allclose(capped(prompt)[~small], (free(prompt) * 2 / norm)[~small], atol=1e-6)
    zero = replace(prompt, latents=torch.zeros_like(prompt.latents))
    assert torch.equal(capped(zero), torch.zeros_like(prompt.mean))


@pytest.mark.parametrize("layers", [0, 2])
def test_a_context_decoder_starts_as_the_posterior_mean(layers: int) -> None:
    prompt = noisy(2, 7)
    assert torch.equal(ContextDecoder(replace(CONFIG, layers=layers))(prompt), prompt.mean)


def changed_at(decoder: nn.Module, prompt: NoisyPrompt, position: int) -> Tensor:
    """Which positions of the output [T] follow a change of one position's latent and mean."""
    latents, mean = prompt.latents.clone(), prompt.mean.clone()
    latents[:, position] += 1
    mean[:, position] += 1
    difference = decoder(replace(prompt, latents=latents, mean=mean)) - decoder(prompt)
    return difference.abs().amax(dim=(0, 2)) > 1e-6


def test_a_context_decoder_reads_the_whole_prompt_in_both_directions() -> None:
    for position in (0, 3, 6):
        assert changed_at(trained(), noisy(2, 7), position).all()


def test_a_context_decoder_without_layers_reads_one_token_alone() -> None:
    for position in (0, 3, 6):
        changed = changed_at(trained(replace(CONFIG, layers=0)), noisy(2, 7), position)
        assert changed.nonzero().flatten().tolist() == [position]


def test_the_order_of_tokens_matters() -> None:
    decoder, prompt = trained(), noisy(1, 7)
    swapped = cut(prompt, [0, 2, 1, 3, 4, 5, 6])
    assert not torch.allclose(decoder(prompt)[:, 0], decoder(swapped)[:, 0], atol=1e-4)


def test_padding_does_not_influence_what_is_there() -> None:
    decoder, prompt = trained(), noisy(2, 9)
    present = torch.ones(2, 9, dtype=torch.bool)
    present[:, :3] = False
    padded = replace(prompt, private=present, present=present)
    alone = decoder(cut(prompt, slice(3, None)))
    assert torch.allclose(decoder(padded)[:, 3:], alone, atol=1e-5)
    other = replace(padded, latents=padded.latents.clone(), mean=padded.mean.clone())
    other.latents[:, :3] = 100
    other.mean[:, :3] = 100
    assert torch.equal(decoder(other)[:, 3:], decoder(padded)[:, 3:])


def test_a_decoder_knows_the_noise_and_what_is_private() -> None:
    decoder, prompt = trained(), noisy(1, 5)
    louder = replace(prompt, noise=noise_features(torch.tensor(30.0), torch.tensor(1.0)).expand(1, 5, -1))
    assert not torch.allclose(decoder(prompt), decoder(louder), atol=1e-4)
    public = replace(prompt, private=torch.zeros_like(prompt.private))
    assert not torch.allclose(decoder(prompt), decoder(public), atol=1e-4)


@pytest.mark.parametrize(("config", "kind"), [(CONFIG, ContextDecoder), (LINEAR, LinearDecoder)])
def test_the_configuration_names_the_decoder(config: ProjectionConfig, kind: type) -> None:
    assert type(build_decoder(config)) is kind


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("encoder", "mlp"),
        ("decoder", "tanh"),
        ("decoder", None),
        ("heads", 0),
        ("heads", 3),
        ("width", 18),
        ("width", 0),
        ("width", 1 << 15),
        ("width", 16.0),
        ("layers", -1),
        ("layers", 65),
        ("layers", 2.0),
        ("embedding_rms", 0.0),
        ("embedding_rms", math.nan),
        ("embedding_rms", math.inf),
        ("norm_cap", -1.0),
        ("norm_cap", math.nan),
    ],
)
def test_a_configuration_that_makes_no_network_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidValue):
        replace(CONFIG, **{field: value})
