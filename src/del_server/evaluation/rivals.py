"""Rivals: other ways to send a prompt, as channels, so that the same attacks and the same judge measure them.

Each is a few lines after its source; where a source leaves something open, the choice that helps the rival is taken and
said. Their noise is torch's: they are measured, not deployed. Knows nothing of language models and texts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from scipy.optimize import brentq
from scipy.special import log_ndtr
from torch import Tensor

from del_codec.errors import InvalidValue
from del_codec.noise import LATENT_MAX
from del_codec.projection import noise_features
from del_server.codec import ServedCodec
from del_server.evaluation.channel import Channel
from del_server.evaluation.leakage import DELTA
from del_server.training.text import Ids

_SAMPLE = 2048
_RADII = 8
_CHUNK = 1024


class Rival(Channel, Protocol):
    """A channel with a name, its price on the wire, and its guarantee by its own definition."""

    @property
    def name(self) -> str:
        """For a report."""

    @property
    def bytes_per_token(self) -> float:
        """Of the payload."""

    @property
    def guarantee(self) -> str:
        """By its own definition."""

    def embed(self, observed: Tensor) -> Tensor:
        """What the server gives the language model, [B, T, D], for observations [B, T, ...]."""


class PlainText:
    """Token ids as they are: no privacy, no loss."""

    def __init__(self, embeddings: Tensor) -> None:
        self.name, self.guarantee = "plain ids", "none"
        self.bytes_per_token = float(math.ceil(math.log2(len(embeddings)) / 8))
        self._embeddings = embeddings

    def observe(self, ids: Ids) -> Tensor:
        """The ids, [B, T]."""
        return torch.from_numpy(ids).to(self._embeddings.device)

    def rehearse(self, ids: Tensor) -> Tensor:
        """The ids."""
        return ids

    def log_likelihood(self, observed: Tensor) -> Tensor:
        """0 for the token, -inf for all others, [N, V]."""
        scores = torch.full((len(observed), len(self._embeddings)), -math.inf, device=observed.device)
        return scores.scatter_(1, observed.unsqueeze(1), 0.0)

    def embed(self, observed: Tensor) -> Tensor:
        """[B, T, D]."""
        return self._embeddings[observed]


class RoundedEmbeddings:
    """Embeddings in fewer bits, without privacy: float16, or int8 with one float16 scale a token."""

    def __init__(self, embeddings: Tensor, bits: int) -> None:
        if bits not in (8, 16):
            raise InvalidValue("bits", bits, "use 8 or 16")
        width = embeddings.shape[1]
        self.name, self.guarantee = ("int8" if bits == 8 else "fp16") + " embeddings", "none"
        self.bytes_per_token = float(width + 2 if bits == 8 else 2 * width)
        values = embeddings.float()
        if bits == 16:
            self._rounded = values.half().float()
        else:
            scale = (values.abs().amax(dim=1, keepdim=True) / 127).half().float().clamp_min(1e-7)
            self._rounded = (values / scale).round() * scale
        self._embeddings = embeddings

    def observe(self, ids: Ids) -> Tensor:
        """[B, T, D]."""
        return self._rounded[torch.from_numpy(ids).to(self._rounded.device)]

    def rehearse(self, ids: Tensor) -> Tensor:
        """[B, T, D]."""
        return self._rounded[ids]

    def log_likelihood(self, observed: Tensor) -> Tensor:
        """There is no noise, so any score that falls steeply with the distance will do, [N, V]."""
        return -1e6 * torch.cdist(observed, self._rounded)

    def embed(self, observed: Tensor) -> Tensor:
        """[B, T, D]."""
        return observed.to(self._embeddings.dtype)


class MetricPrivacy:
    """d_chi privacy on embeddings: e + l*s, l ~ Gamma(D, 1/eta), s uniform on the sphere (Feyisetan et al. 2020,
    arXiv 1910.08902; used for split inference by Mai et al., arXiv 2310.09130). The density falls as
    exp(-eta * distance), so the likelihood is exact. snap: the server takes the nearest token's embedding instead of
    the noised one."""

    def __init__(self, embeddings: Tensor, eta: float, *, snap: bool) -> None:
        if not eta > 0:
            raise InvalidValue("eta", eta, "use a number above zero")
        self._embeddings, self._values, self.eta = embeddings, embeddings.float(), eta
        self._snap = snap
        width = embeddings.shape[1]
        self.name = f"metric-DP eta {eta:g}, {'nearest token' if snap else 'as noised'}"
        self.bytes_per_token = 2.0 * width
        furthest = 2 * float((self._values - self._values.mean(dim=0)).norm(dim=1).max())
        self.guarantee = f"eta {eta:g} per unit of distance (pure epsilon at most {eta * furthest:.0f} a token)"

    def observe(self, ids: Ids) -> Tensor:
        """[B, T, D]."""
        return self.rehearse(torch.from_numpy(ids).to(self._values.device))

    def rehearse(self, ids: Tensor) -> Tensor:
        """[B, T, D]."""
        clean = self._values[ids]
        direction = torch.nn.functional.normalize(torch.randn_like(clean), dim=-1)
        length = torch._standard_gamma(torch.full(ids.shape, float(clean.shape[-1]), device=clean.device)) / self.eta
        return clean + length.unsqueeze(-1) * direction

    def log_likelihood(self, observed: Tensor) -> Tensor:
        """[N, V]."""
        return -self.eta * torch.cdist(observed, self._values)

    def embed(self, observed: Tensor) -> Tensor:
        """[B, T, D]."""
        if not self._snap:
            return observed.to(self._embeddings.dtype)
        flat = observed.flatten(0, 1)
        nearest = torch.cat([torch.cdist(some, self._values).argmin(dim=1) for some in torch.split(flat, _CHUNK)])
        return self._embeddings[nearest].view(*observed.shape)


class GaussianLatents:
    """The codec's own latents with Gaussian noise instead of random bits: sigma = 2*sqrt(d)/mu a coordinate in units of
    the clip bound, which is mu-GDP over the box. Read by the same decoder, with the posterior mean that belongs to this
    noise. What quantisation to n bits costs, or doesn't, shows beside it."""

    def __init__(self, codec: ServedCodec, embeddings: Tensor, mu: float) -> None:
        if not mu > 0:
            raise InvalidValue("mu", mu, "use a number above zero")
        table, device = codec.table, embeddings.device
        self.sigma = 2 * math.sqrt(table.spec.dim) / mu
        self.name, self.bytes_per_token = f"Gaussian mu {mu:g}, fp16 latents", 2.0 * table.spec.dim
        self.guarantee = f"mu-GDP {mu:g} (epsilon {gaussian_epsilon(mu):.1f} a token, delta {DELTA:g})"
        self._codec, self._embeddings = codec, embeddings
        self._latents = torch.from_numpy(table.latents.astype("float32") / LATENT_MAX).to(device)
        self._log_prior = torch.from_numpy(table.prior).log().to(device, torch.float32)

    def observe(self, ids: Ids) -> Tensor:
        """[B, T, d]."""
        return self.rehearse(torch.from_numpy(ids).to(self._latents.device))

    def rehearse(self, ids: Tensor) -> Tensor:
        """[B, T, d]."""
        clean = self._latents[ids]
        return clean + self.sigma * torch.randn_like(clean)

    def log_likelihood(self, observed: Tensor) -> Tensor:
        """[N, V]."""
        squares = self._latents.pow(2).sum(dim=1)
        return torch.addmm(-0.5 * squares, observed, self._latents.T) / self.sigma**2

    def embed(self, observed: Tensor) -> Tensor:
        """[B, T, D]."""
        means = []
        for some in torch.split(observed.flatten(0, 1), _CHUNK):
            weights = torch.softmax(self.log_likelihood(some) + self._log_prior, dim=-1)
            means.append(weights.to(self._embeddings.dtype) @ self._embeddings)
        mean = torch.cat(means).float().view(*observed.shape[:2], -1)
        amplitude = torch.tensor(math.sqrt(1 + self.sigma**2))
        noise = noise_features(amplitude, torch.tensor(1.0)).to(observed.device, torch.float32)
        return self._codec.decoder.estimates(observed, mean, noise.expand(*observed.shape[:2], -1))


@dataclass(frozen=True, slots=True, eq=False)
class RandomAdjacency:
    """RANTEXT (Tong et al., InferDPT, arXiv 2310.12214): a token is replaced by one of its neighbours within a random
    radius, the length of Laplace noise on its embedding, by the exponential mechanism with utility 1 - distance/radius.

    Noise scale a coordinate: its range over the vocabulary, over epsilon below 2, else over the constant that the
    authors fitted (their code). The likelihood is a Monte Carlo estimate: 8 radii, 2,048 tokens for each normaliser.
    """

    embeddings: Tensor
    values: Tensor
    epsilon: float
    scale: Tensor
    radii: Tensor
    log_normalisers: Tensor

    @classmethod
    def of(cls, embeddings: Tensor, epsilon: float) -> RandomAdjacency:
        """Over a vocabulary's embeddings [V, D]. Raises InvalidValue."""
        if not epsilon > 0:
            raise InvalidValue("epsilon", epsilon, "use a number above zero")
        values = embeddings.float()
        divisor = epsilon
        if epsilon > 2:
            # The constants that the authors fitted, in func.py of their repository mengtong0110/InferDPT.
            divisor = 9.311083811697406 + 0.01658160142016071 * math.log(19.064721649556482 * (epsilon - 2))
        scale = (values.amax(dim=0) - values.amin(dim=0)) / divisor
        generator = torch.Generator(device=values.device).manual_seed(0)
        radii = _laplace((_RADII, len(scale)), scale, generator).norm(dim=1)
        some = torch.randperm(len(values), generator=generator, device=values.device)[:_SAMPLE]
        # A token stands in its own list always; of the others a sample speaks for all.
        itself = torch.tensor(epsilon / 2, device=values.device)
        normalisers = []
        for rows in torch.split(torch.arange(len(values), device=values.device), _CHUNK):
            scores = _scores(torch.cdist(values[rows], values[some]), radii, epsilon)
            scores[rows.unsqueeze(1) == some] = -math.inf
            others = torch.logsumexp(scores, dim=1) + math.log(len(values) / len(some))
            normalisers.append(torch.logaddexp(others, itself))
        return cls(embeddings, values, epsilon, scale, radii, torch.cat(normalisers))

    @property
    def name(self) -> str:
        """For a report."""
        return f"RANTEXT epsilon {self.epsilon:g}"

    @property
    def bytes_per_token(self) -> float:
        """An id."""
        return float(math.ceil(math.log2(len(self.values)) / 8))

    @property
    def guarantee(self) -> str:
        """As its authors state it."""
        return f"epsilon {self.epsilon:g} a token within a random adjacency list"

    def observe(self, ids: Ids) -> Tensor:
        """[B, T] of replacement ids."""
        return self.rehearse(torch.from_numpy(ids).to(self.values.device))

    def rehearse(self, ids: Tensor) -> Tensor:
        """[B, T]."""
        drawn = []
        for some in torch.split(ids.flatten(), _CHUNK):
            radius = _laplace((len(some), len(self.scale)), self.scale, None).norm(dim=1, keepdim=True)
            distance = torch.cdist(self.values[some], self.values)
            logits = torch.where(distance < radius, self.epsilon / 2 * (1 - distance / radius), -math.inf)
            drawn.append(torch.multinomial(torch.softmax(logits, dim=1), 1).squeeze(1))
        return torch.cat(drawn).view(ids.shape)

    def log_likelihood(self, observed: Tensor) -> Tensor:
        """[N, V]."""
        distance = torch.cdist(self.values[observed], self.values)
        parts = [
            torch.where(distance < radius, self.epsilon / 2 * (1 - distance / radius), -math.inf) - normaliser
            for radius, normaliser in zip(self.radii, self.log_normalisers.T, strict=True)
        ]
        chance = torch.logsumexp(torch.stack(parts), dim=0) - math.log(len(parts))
        return chance.nan_to_num(neginf=-1e4)

    def embed(self, observed: Tensor) -> Tensor:
        """[B, T, D]."""
        return self.embeddings[observed]


def _scores(distance: Tensor, radii: Tensor, epsilon: float) -> Tensor:
    """epsilon/2 * (1 - distance/radius) within the radius, else -inf, [N, M, R] of distances [N, M]."""
    ratio = distance.unsqueeze(-1) / radii
    return torch.where(ratio < 1, epsilon / 2 * (1 - ratio), -math.inf)


def _laplace(shape: tuple[int, int], scale: Tensor, generator: torch.Generator | None) -> Tensor:
    """Laplace noise [N, D] of scale [D]."""
    uniform = torch.rand(shape, generator=generator, device=scale.device) - 0.5
    return -scale * uniform.sign() * torch.log1p(-2 * uniform.abs())


def gaussian_epsilon(mu: float, delta: float = DELTA) -> float:
    """epsilon of mu-GDP at delta: delta = Phi(-eps/mu + mu/2) - e^eps Phi(-eps/mu - mu/2) (Dong, Roth and Su 2022)."""

    def excess(epsilon: float) -> float:
        first, second = log_ndtr(-epsilon / mu + mu / 2), epsilon + log_ndtr(-epsilon / mu - mu / 2)
        return float(math.exp(first) - math.exp(second) - delta)

    return float(brentq(excess, 0.0, mu * mu / 2 + 40 * mu + 1)) if excess(0.0) > 0 else 0.0
