"""Learner: encoder, decoder and soft prompt as they learn, through the noise that a device will add.

The levels are real binomial draws; the gradient goes straight through them (dK/dp = u). Knows nothing of text or files.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from del_codec.errors import InvalidValue
from del_codec.noise import LATENT_MAX
from del_codec.projection import (
    NOISE_FEATURES,
    Encoder,
    LinearDecoder,
    NoisyPrompt,
    ProjectionConfig,
    build_decoder,
    noise_features,
)

Attacker = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Dial:
    """A noise setting in training: A/c as a float (a device's integers lie within 2^-16 of it), levels u, and mu."""

    amplitude: float
    levels: int
    mu: float

    @classmethod
    def from_mu(cls, mu: float, dim: int, bits: int) -> Dial:
        """A = sqrt(1 + 4*u*d / mu^2) in units of the clip bound."""
        levels = (1 << bits) - 1
        return cls(math.sqrt(1 + 4 * levels * dim / mu**2), levels, mu)


class Learner(nn.Module):
    """Prompt embeddings of noised token ids, differentiable in encoder, decoder and soft prompt."""

    def __init__(self, config: ProjectionConfig, embeddings: Tensor, log_prior: Tensor, soft_prompt: Tensor) -> None:
        super().__init__()
        self.config = config
        self.encoder: nn.Module = Encoder(config)
        self.decoder = build_decoder(config)
        self.soft_prompt = nn.Parameter(soft_prompt.float().clone())
        self.register_buffer("embeddings", embeddings.float(), persistent=False)
        self.register_buffer("log_prior", log_prior.float(), persistent=False)
        self.embeddings: Tensor
        self.log_prior: Tensor

    @torch.no_grad()
    def spread(self, gain: float) -> None:
        """Scale and centre a tanh encoder's linear part: over the vocabulary, each value before tanh has the standard
        deviation `gain`, and under the unigram prior the mean 0."""
        if not isinstance(self.encoder, Encoder) or self.encoder.kind != "tanh":
            raise InvalidValue("encoder", self.config.encoder, "only tanh encoders are spread")
        layer = self.encoder.skip
        values = self.embeddings / self.config.embedding_rms @ layer.weight.T
        scale = gain / values.std(dim=0)
        layer.weight.mul_(scale.unsqueeze(1))
        layer.bias.copy_(-(self.log_prior.exp() @ values) * scale)

    def prompt(
        self,
        ids: Tensor,
        private: Tensor,
        present: Tensor,
        dial_of: Tensor,
        dials: list[Dial],
        attacker: Attacker | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embeddings [B, T, D] of ids [B, T], private ones noised at dials[dial_of] ([B, T]), public ones clear; and
        the chance [B, T] that a guess drawn from the exact posterior names the token (0 where public, and for a linear
        decoder, which has no posterior).

        attacker: gives the log-priors [N, V] of an attacker for the positions of a mask [B, T]; None for the unigram.
        """
        table = self.encoder(self.embeddings)
        clear = self.embeddings[ids]
        latents = torch.zeros(*ids.shape, self.config.dim, device=ids.device)
        noise = torch.zeros(*ids.shape, NOISE_FEATURES, device=ids.device)
        mean = torch.where(private.unsqueeze(-1), torch.zeros_like(clear), clear)
        leak = torch.zeros(ids.shape, device=ids.device)
        for index, dial in enumerate(dials):
            here = private & (dial_of == index)
            if bool(here.any()):
                prior = None if attacker is None else attacker(here)
                latents[here], mean[here], leak[here] = self._noised(table, ids[here], dial, prior)
                amplitude = torch.tensor(dial.amplitude, device=ids.device)
                noise[here] = noise_features(amplitude, torch.tensor(float(dial.levels), device=ids.device))
        decoded = self.decoder(NoisyPrompt(latents, mean, noise, private, present))
        return torch.where(private.unsqueeze(-1), decoded.float(), clear), leak

    def _noised(self, table: Tensor, ids: Tensor, dial: Dial, attacker: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Unbiased latents [N, d] of one real draw, posterior means [N, D] and posteriors of the true ids [N], the
        latter under the attacker's log-prior [N, V]."""
        levels = _draw(table[ids], dial)
        latents = dial.amplitude * (2 * levels / dial.levels - 1)
        if isinstance(self.decoder, LinearDecoder):
            nothing = torch.zeros(len(ids), self.config.embedding_width, device=ids.device)
            return latents, nothing, nothing[:, 0]
        likelihood = _log_likelihood(table, levels, dial)
        weights = torch.softmax(likelihood + self.log_prior, dim=-1)
        values = self.embeddings.to(torch.bfloat16) if ids.is_cuda else self.embeddings
        mean: Tensor = (weights.to(values.dtype) @ values).float()
        if attacker is not None:
            weights = torch.softmax(likelihood + attacker, dim=-1)
        return latents, mean, weights.gather(1, ids.unsqueeze(1)).squeeze(1)

    @torch.no_grad()
    def guess(self, ids: Tensor, dial: Dial) -> Tensor:
        """What per-token MAP with the unigram prior makes of one draw of ids, same shape."""
        table: Tensor = self.encoder(self.embeddings)
        flat = ids.flatten()
        scores = _log_likelihood(table, _draw(table[flat], dial), dial) + self.log_prior
        return scores.argmax(dim=-1).view_as(ids)

    def noiseless(self, ids: Tensor, private: Tensor, present: Tensor) -> Tensor:
        """Embeddings [B, T, D] of ids through encoder and linear decoder without noise: the paper's first phase."""
        latents = self.encoder(self.embeddings[ids])
        nothing = torch.zeros(*ids.shape, NOISE_FEATURES, device=ids.device)
        prompt = NoisyPrompt(latents, torch.zeros_like(self.embeddings[ids]), nothing, private, present)
        decoded: Tensor = self.decoder(prompt)
        return torch.where(private.unsqueeze(-1), decoded.float(), self.embeddings[ids])

    @torch.no_grad()
    def baked(self) -> Tensor:
        """The table: int8 [V, d] on the CPU."""
        latents: Tensor = self.encoder(self.embeddings)
        return (latents * LATENT_MAX).round().clamp(-LATENT_MAX, LATENT_MAX).to("cpu", torch.int8)


def _draw(latents: Tensor, dial: Dial) -> Tensor:
    """Levels of latents [N, d], a real draw; the gradient goes straight through it (dK/dp = u)."""
    p = 0.5 + latents / (2 * dial.amplitude)
    with torch.no_grad():
        counts = torch.full_like(p, float(dial.levels))
        drawn = torch.binomial(counts, p.detach()) if dial.levels > 1 else torch.bernoulli(p.detach())
    return drawn + dial.levels * (p - p.detach())


def _log_likelihood(table: Tensor, levels: Tensor, dial: Dial) -> Tensor:
    """log P(levels | token) of levels [N, d], each token of a table [V, d], up to a constant of the levels: [N, V]."""
    p = 0.5 + table / (2 * dial.amplitude)
    log_complement = torch.log1p(-p)
    return torch.addmm(dial.levels * log_complement.sum(dim=-1), levels, (torch.log(p) - log_complement).T)
