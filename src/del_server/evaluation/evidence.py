"""Evidence: for each position of each window, a score of every token; and the guesses that need nothing but the scores.

Scores of a whole prompt over a whole vocabulary don't fit in memory for many prompts, so they are given a position at a
time, for all windows at once. Knows nothing of what the scores come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from del_server.evaluation.channel import Channel


class Evidence(Protocol):
    """Scores of windows of equal length."""

    @property
    def windows(self) -> int:
        """B."""

    @property
    def length(self) -> int:
        """T, positions of a window."""

    def at(self, position: int) -> Tensor:
        """Natural-log scores [B, V] of one position, up to a constant of the window."""

    def part(self, start: int, stop: int) -> Evidence:
        """The evidence of some of the windows."""


@dataclass(frozen=True, slots=True)
class TokenEvidence:
    """What each token's own observation tells: its exact log-likelihood, and a log prior [V] where one is given."""

    channel: Channel
    observed: Tensor
    log_prior: Tensor | None = None

    @property
    def windows(self) -> int:
        """B."""
        return len(self.observed)

    @property
    def length(self) -> int:
        """T."""
        return self.observed.shape[1]

    def at(self, position: int) -> Tensor:
        """[B, V]."""
        likelihood = self.channel.log_likelihood(self.observed[:, position])
        return likelihood if self.log_prior is None else likelihood + self.log_prior

    def part(self, start: int, stop: int) -> TokenEvidence:
        """Some of the windows."""
        return TokenEvidence(self.channel, self.observed[start:stop], self.log_prior)


@torch.inference_mode()
def best_guess(evidence: Evidence) -> Tensor:
    """The highest score at each position, ids [B, T]: maximum likelihood, or MAP where the evidence holds a prior."""
    return torch.stack([evidence.at(position).argmax(dim=-1) for position in range(evidence.length)], dim=1)
