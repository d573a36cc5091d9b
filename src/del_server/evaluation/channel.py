"""Channel: what a server sees of each token, and how likely every token of the vocabulary makes it, on a torch device.

The channel of DEL is exact: a table at one noise setting. What is evaluated is drawn as a device draws it, by the
operating system's randomness; what an attack is trained on is rehearsed with torch's. Knows nothing of language models.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from del_codec.attacks import log_odds
from del_codec.encode import encode
from del_codec.frame import MAX_SEGMENT_TOKENS
from del_codec.noise import GRID, LATENT_MAX, NoiseSetting
from del_codec.projection import noise_features
from del_codec.table import LatentTable
from del_server.training.text import Ids


class Channel(Protocol):
    """Tokens to observations. An observation of N tokens is a tensor [N, ...]."""

    def observe(self, ids: Ids) -> Tensor:
        """What the server sees of ids [B, T], [B, T, ...] on the channel's device, drawn as a device draws it."""

    def rehearse(self, ids: Tensor) -> Tensor:
        """As `observe`, for ids on the channel's device and with torch's randomness: to train attacks."""

    def log_likelihood(self, observed: Tensor) -> Tensor:
        """log P(observed | w) of N observations and all V tokens, up to a constant of the observation, [N, V]."""


class LatentChannel(Channel, Protocol):
    """A channel of noised latents, as the trained attack reads it."""

    def latents(self, observed: Tensor) -> Tensor:
        """Unbiased latents [..., d] of observations, in units of the clip bound."""

    def noise(self, observed: Tensor) -> Tensor:
        """How noisy each is, as a decoder reads it, [..., 3]."""


class BinomialChannel:
    """A table at one noise setting: an observation is levels [..., d] of uint8, K ~ Binomial(u, t / 2^32)."""

    def __init__(self, table: LatentTable, setting: NoiseSetting, device: torch.device) -> None:
        self.table, self.setting, self.device = table, setting, device
        theta, log_complement = log_odds(setting)
        index = torch.from_numpy(table.latents).to(device).long() + LATENT_MAX
        # About the middle level, <K - u/2, theta> + u * sum(log(1 - p) + theta / 2): the same up to a constant, and
        # float32 keeps its digits at u = 255.
        middle = log_complement + theta / 2 + np.log(2)
        self._theta = torch.from_numpy(theta).to(device, torch.float32)[index]
        self._bias = (setting.levels * torch.from_numpy(middle).to(device)[index].sum(dim=1)).float()
        self._index = index
        features = noise_features(torch.tensor(setting.amplitude), torch.tensor(float(setting.levels)))
        self._features = features.to(device, torch.float32)
        self._probability = 1 / (1 + torch.exp(-torch.from_numpy(theta).to(device, torch.float32)))

    def draw(self, ids: Ids) -> npt.NDArray[np.uint8]:
        """Levels [B, T, d] of ids [B, T]: encoded as a device encodes them, fresh from the operating system."""
        dim, flat = self.table.spec.dim, ids.reshape(-1)
        starts = range(0, len(flat), MAX_SEGMENT_TOKENS)
        parts = [encode(self.table, flat[s : s + MAX_SEGMENT_TOKENS], self.setting).levels(dim) for s in starts]
        return np.concatenate(parts).reshape(*ids.shape, dim)

    def means(self, ids: Ids) -> npt.NDArray[np.float32]:
        """What the levels of ids [B, T] are on average, [B, T, d]: u * t / 2^32, no noise at all."""
        thresholds = self.setting.thresholds(self.table.rows(ids))
        return (thresholds * (self.setting.levels / GRID)).astype(np.float32)

    def observe(self, ids: Ids) -> Tensor:
        """Levels of a fresh release, [B, T, d] uint8."""
        return torch.from_numpy(self.draw(ids)).to(self.device)

    def rehearse(self, ids: Tensor) -> Tensor:
        """Levels of ids [B, T] with torch's randomness, [B, T, d] uint8."""
        p = self._probability[self._index[ids]]
        if self.setting.levels == 1:
            return torch.bernoulli(p).to(torch.uint8)
        return torch.binomial(torch.full_like(p, float(self.setting.levels)), p).to(torch.uint8)

    def log_likelihood(self, observed: Tensor) -> Tensor:
        """[N, V] of levels [N, d]."""
        centred = observed.float() - self.setting.levels / 2
        return torch.addmm(self._bias, centred, self._theta.T)

    def latents(self, observed: Tensor) -> Tensor:
        """Unbiased latents of levels, same shape, in units of the clip bound."""
        return observed.float() * (2 * self.setting.amplitude / self.setting.levels) - self.setting.amplitude

    def noise(self, observed: Tensor) -> Tensor:
        """The same for all levels [..., d]: [..., 3]."""
        return self._features.expand(*observed.shape[:-1], -1)
