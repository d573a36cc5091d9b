"""ScatteredChannel: some tokens of a prompt sent at weak noise, the others at strong noise. Which ones is public.

A device may set the noise of every token apart. This is what that gives away and keeps where the choice is blind
(`random`: every token is as likely as any other), or where it takes the words that say most (`rare`: those that are
rarest under the codec's own counts). Knows nothing of language models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from del_codec.errors import InvalidValue
from del_server.evaluation.channel import BinomialChannel
from del_server.training.text import Ids

Choice = Literal["random", "rare"]


@dataclass(frozen=True, slots=True, eq=False)
class ScatteredChannel:
    """An observation is levels and a flag, [..., d + 1] of uint8; the flag is 1 where the token was sent at weak noise.

    share: of the tokens that are sent at weak noise; `random` takes each with that chance, `rare` as many in a window.
    Both channels are of one table.
    """

    strong: BinomialChannel
    weak: BinomialChannel
    share: float
    choice: Choice

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InvalidValue("share", self.share, "use a share from 0 to 1")
        if self.choice not in ("random", "rare"):
            raise InvalidValue("choice", self.choice, "use random or rare")

    def chosen(self, ids: Tensor) -> Tensor:
        """Which tokens of ids [B, T] are sent at weak noise, [B, T] bool."""
        chance = torch.rand(ids.shape, device=ids.device)
        if self.choice == "random":
            return chance < self.share
        counts = torch.from_numpy(self.weak.table.unigram_counts.astype("float32")).to(ids.device)
        order = (counts[ids] + chance).argsort(dim=1).argsort(dim=1)
        return order < round(self.share * ids.shape[1])

    def observe(self, ids: Ids) -> Tensor:
        """Levels and flags of a fresh release, [B, T, d + 1]."""
        weak = self.chosen(torch.from_numpy(ids).to(self.weak.device))
        return self._joined(weak, self.weak.observe(ids), self.strong.observe(ids))

    def rehearse(self, ids: Tensor) -> Tensor:
        """As observe, with torch's randomness."""
        return self._joined(self.chosen(ids), self.weak.rehearse(ids), self.strong.rehearse(ids))

    def log_likelihood(self, observed: Tensor) -> Tensor:
        """[N, V] of N observations; what the flag tells of a token is not in it."""
        levels, weak = self.parts(observed)
        scores = self.strong.log_likelihood(levels)
        if bool(weak.any()):
            scores[weak] = self.weak.log_likelihood(levels[weak])
        return scores

    def latents(self, observed: Tensor) -> Tensor:
        """Unbiased latents [..., d]."""
        levels, weak = self.parts(observed)
        return torch.where(weak.unsqueeze(-1), self.weak.latents(levels), self.strong.latents(levels))

    def noise(self, observed: Tensor) -> Tensor:
        """[..., 3]."""
        levels, weak = self.parts(observed)
        return torch.where(weak.unsqueeze(-1), self.weak.noise(levels), self.strong.noise(levels))

    @staticmethod
    def parts(observed: Tensor) -> tuple[Tensor, Tensor]:
        """Levels [..., d] and flags [...] bool."""
        return observed[..., :-1], observed[..., -1].bool()

    @staticmethod
    def _joined(weak: Tensor, of_weak: Tensor, of_strong: Tensor) -> Tensor:
        levels = torch.where(weak.unsqueeze(-1), of_weak, of_strong)
        return torch.cat([levels, weak.unsqueeze(-1).to(levels.dtype)], dim=-1)
