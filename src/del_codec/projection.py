"""Encoder and decoder: embeddings to latents in the box, noised latents back to embeddings. Torch; never on a device.

The encoder is baked into the table, so only training runs it. The decoder reads, for every position of a prompt, the
unbiased latent, how noisy it is, and the posterior mean: E[embedding | levels] under the table and the unigram prior,
the least-squares estimate from one token alone. A context decoder then looks at all positions at once: the prompt is
known in full, so this is post-processing and costs no privacy. Knows nothing of language models, segments or files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from del_codec.errors import InvalidValue
from del_codec.spec import MAX_DIM

NOISE_FEATURES = 3
MAX_EMBEDDING_WIDTH = 1 << 20


@dataclass(frozen=True, slots=True)
class ProjectionConfig:
    """Shapes and kinds of an encoder and a decoder.

    encoder: `linear` (bias-free, clipped to the box) or `tanh` (one hidden layer, bounded by tanh).
    decoder: `linear` (bias-free, no posterior mean) or `context` (`layers` bidirectional transformer layers over the
    prompt; 0 layers is a decoder of one token alone). embedding_rms: root mean square of the LLM's embeddings, by which
    the decoder scales what it reads and writes. norm_cap: bound on a decoded latent's norm, 0 for none.
    """

    dim: int
    embedding_width: int
    embedding_rms: float
    encoder: Literal["linear", "tanh"] = "tanh"
    decoder: Literal["linear", "context"] = "context"
    width: int = 256
    layers: int = 2
    heads: int = 4
    norm_cap: float = 0.0

    def __post_init__(self) -> None:
        if self.encoder not in ("linear", "tanh"):
            raise InvalidValue("encoder", self.encoder, "use linear or tanh")
        if self.decoder not in ("linear", "context"):
            raise InvalidValue("decoder", self.decoder, "use linear or context")
        shapes = (self.dim, self.embedding_width, self.width, self.layers, self.heads)
        if not all(isinstance(value, int) for value in shapes):
            raise InvalidValue("dim, embedding_width, width, layers, heads", shapes, "use whole numbers")
        for name, most in (("dim", MAX_DIM), ("embedding_width", MAX_EMBEDDING_WIDTH)):
            if not 1 <= getattr(self, name) <= most:
                raise InvalidValue(name, getattr(self, name), f"use 1 to {most}")
        if self.heads < 1 or self.width % (2 * self.heads):
            raise InvalidValue("width", self.width, f"must be a multiple of twice the heads ({self.heads})")
        if not 0 <= self.layers <= 64 or not 0 < self.width <= 1 << 14:
            raise InvalidValue("layers", self.layers, "use 0 to 64 layers of width 1 to 16384")
        if not 0 < self.embedding_rms < math.inf or not 0 <= self.norm_cap < math.inf:
            raise InvalidValue(
                "embedding_rms, norm_cap",
                (self.embedding_rms, self.norm_cap),
                "use a finite number above zero, and a cap of 0 or more",
            )


class Encoder(nn.Module):
    """Embeddings [..., D] to latents [..., d] in [-1, 1], the box in units of the clip bound."""

    def __init__(self, config: ProjectionConfig) -> None:
        super().__init__()
        self.rms = config.embedding_rms
        self.kind = config.encoder
        hidden = 4 * config.dim
        if self.kind == "linear":
            self.project = nn.Linear(config.embedding_width, config.dim, bias=False)
        else:
            self.skip = nn.Linear(config.embedding_width, config.dim)
            self.hidden = nn.Linear(config.embedding_width, hidden)
            self.out = nn.Linear(hidden, config.dim)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Latents in the box."""
        x = embeddings / self.rms
        if self.kind == "linear":
            latents: Tensor = self.project(x)
            return latents.clamp(-1, 1)
        return torch.tanh(self.skip(x) + self.out(F.silu(self.hidden(x))))


@dataclass(frozen=True, slots=True)
class NoisyPrompt:
    """What a decoder reads of B prompts of T positions.

    latents: [B, T, d], unbiased, in units of the clip bound; zero where public. mean: [B, T, D], posterior mean, or the
    embedding itself where public. noise: [B, T, 3] from `noise_features`; zero where public. private: [B, T] bool.
    present: [B, T] bool, False for padding.
    """

    latents: Tensor
    mean: Tensor
    noise: Tensor
    private: Tensor
    present: Tensor


def noise_features(amplitude: Tensor, levels: Tensor) -> Tensor:
    """[..., 3]: log of the latent's variance A^2/u, log(A^2 - 1) (how far from noiseless), log u; all scaled to ~1."""
    variance = torch.log(amplitude**2 / levels)
    excess = torch.log((amplitude**2 - 1).clamp_min(1e-6))
    return torch.stack([variance / 4, excess / 4, torch.log(levels) / 4], dim=-1)


class LinearDecoder(nn.Module):
    """The paper's: one bias-free matrix, with a cap on the norm of the latent."""

    def __init__(self, config: ProjectionConfig) -> None:
        super().__init__()
        self.rms, self.cap = config.embedding_rms, config.norm_cap
        self.project = nn.Linear(config.dim, config.embedding_width, bias=False)

    def forward(self, prompt: NoisyPrompt) -> Tensor:
        """Embeddings [B, T, D] of the private positions; what stands at public ones is not defined."""
        latents = prompt.latents
        if self.cap > 0:
            norm = latents.norm(dim=-1, keepdim=True)
            latents = latents * (self.cap / norm.clamp_min(1e-6)).clamp_max(1.0)
        decoded: Tensor = self.project(latents)
        return decoded * self.rms


class ContextDecoder(nn.Module):
    """Posterior mean, latent and noise level of every position, through bidirectional transformer layers."""

    def __init__(self, config: ProjectionConfig) -> None:
        super().__init__()
        self.rms = config.embedding_rms
        self.read_mean = nn.Linear(config.embedding_width, config.width)
        self.read_latent = nn.Linear(config.dim, config.width)
        self.read_noise = nn.Sequential(
            nn.Linear(NOISE_FEATURES + 1, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
        )
        self.layers = nn.ModuleList(ContextLayer(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.keep = nn.Linear(config.width, 1)
        self.write = nn.Linear(config.width, config.embedding_width)
        for last in (self.keep, self.write):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, prompt: NoisyPrompt) -> Tensor:
        """Embeddings [B, T, D] of the private positions; what stands at public ones is not defined."""
        scale = torch.rsqrt(1 / 3 + prompt.latents.pow(2).mean(-1, keepdim=True))
        conditions = torch.cat([prompt.noise, prompt.private.unsqueeze(-1).to(prompt.noise.dtype)], dim=-1)
        x = self.read_mean(prompt.mean / self.rms) + self.read_latent(prompt.latents * scale)
        x = x + self.read_noise(conditions)
        for layer in self.layers:
            x = layer(x, prompt.present)
        x = self.norm(x)
        # At the start of training the decoder is the posterior mean itself.
        out: Tensor = prompt.mean * (1 + self.keep(x)) + self.rms * self.write(x)
        return out


class ContextLayer(nn.Module):
    """Pre-norm bidirectional self-attention with rotary positions, then a feed-forward of twice the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.norm_feed = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        for last in (self.mix, self.down):
            nn.init.normal_(last.weight, std=0.02)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Same shape as x: [B, T, width]; present: [B, T] bool, False positions are attended by nobody."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        qkv = qkv.permute(2, 0, 3, 1, 4)
        (q, k), v = _rotate(qkv[:2]), qkv[2]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=present[:, None, None, :])
        x = x + self.mix(mixed.transpose(1, 2).reshape(batch, length, width))
        fed: Tensor = x + self.down(F.gelu(self.up(self.norm_feed(x))))
        return fed


def _rotate(x: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., arXiv 2104.09864) of x [..., T, C], C even."""
    cos, sin = (part.to(x.dtype) for part in _turns(x.shape[-2], x.shape[-1] // 2, x.device))
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _turns(length: int, half: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine [T, C/2] of what positions turn by; of use to training, too, whoever asked first."""
    position = torch.arange(length, device=device, dtype=torch.float32)
    frequency = 1000.0 ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
    angle = position[:, None] * frequency
    return angle.cos(), angle.sin()


def build_decoder(config: ProjectionConfig) -> LinearDecoder | ContextDecoder:
    """The decoder that `config` names."""
    return LinearDecoder(config) if config.decoder == "linear" else ContextDecoder(config)
