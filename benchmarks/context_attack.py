"""A language model guesses what stands in a gap: candidates ranked by the likelihood of the whole text around them.

The text before the gap and a few tokens behind it are in the clear, so is everything else of the prompt: the most that
context can give. A guess without context knows how likely the model finds each value by itself. How far the model's
nats are to be trusted is fitted on half of the spots and used on the others, so that a gain is one on texts not seen.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from benchmarks.spots import Spot
from del_codec.attacks import log_odds
from del_codec.encode import encode
from del_codec.noise import LATENT_MAX, NoiseSetting
from del_codec.table import LatentTable

Floats = npt.NDArray[np.float64]
WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
DOUBT = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Gap:
    """A spot and its candidates, the true one first, as the model finds them; all in nats, [candidates].

    around: of the candidate and what follows it, given what stands before. alone: of the candidate at a text's start.
    """

    spot: Spot
    ids: tuple[tuple[int, ...], ...]
    around: Floats
    alone: Floats

    def of_one_length(self) -> Gap:
        """Among the candidates with as many tokens as the true value, for a server that sees how many there are."""
        kept = [at for at, ids in enumerate(self.ids) if len(ids) == len(self.ids[0])]
        return Gap(self.spot, tuple(self.ids[at] for at in kept), self.around[kept], self.alone[kept])


class GapReader:
    """A causal language model that scores candidates; start: the id that stands before a text."""

    def __init__(self, model: Any, start: int) -> None:
        self._model, self._start = model, start
        self._alone: dict[tuple[int, ...], float] = {}

    def read(self, spot: Spot, candidates: Sequence[tuple[int, ...]]) -> Gap:
        """The candidates' ids, the true ones first, in the spot's place."""
        around = self._score((self._start, *spot.before), [(*ids, *spot.after) for ids in candidates])
        new = [ids for ids in dict.fromkeys(candidates) if ids not in self._alone]
        if new:
            self._alone |= dict(zip(new, self._score((self._start,), new).tolist(), strict=True))
        return Gap(spot, tuple(candidates), around, np.array([self._alone[ids] for ids in candidates]))

    @torch.inference_mode()
    def _score(self, before: tuple[int, ...], endings: Sequence[tuple[int, ...]]) -> Floats:
        """log P(ending | before) of each. Endings are padded behind, where causal attention never looks."""
        cache = DynamicCache(config=self._model.config)
        first = self._model(torch.tensor([before]), past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        cache.batch_repeat_interleave(len(endings))
        longest = max(map(len, endings))
        batch = torch.zeros(len(endings), longest, dtype=torch.long)
        for row, ids in enumerate(endings):
            batch[row, : len(ids)] = torch.tensor(ids)
        later = self._model(batch, past_key_values=cache, use_cache=True).logits[:, :-1]
        logits = torch.cat([first.expand(len(endings), -1, -1), later], dim=1)
        spoken = logits.gather(-1, batch.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(dim=-1)
        present = torch.arange(longest) < torch.tensor([len(ids) for ids in endings]).unsqueeze(1)
        return (spoken * present).sum(dim=1).double().numpy()


@dataclass(frozen=True, slots=True)
class Guess:
    """What one guess at one spot came to: the bits it gave the true value, and whether (shared among equals) it won."""

    bits: float
    right: float


def noise_evidence(table: LatentTable, gap: Gap, setting: NoiseSetting) -> Floats:
    """log P(bits sent | candidate) of one fresh release of the true value, exact, for candidates of its length."""
    levels = encode(table, gap.ids[0], setting).levels(table.spec.dim).astype(np.float64)
    theta, log_complement = log_odds(setting)
    found = []
    for ids in gap.ids:
        index = table.rows(ids).astype(np.int16) + LATENT_MAX
        found.append(float((levels * theta[index] + setting.levels * log_complement[index]).sum()))
    return np.array(found)


def guesses(gaps: Sequence[Gap], extra: Sequence[Floats] | None = None, *, context: bool = True) -> list[Guess]:
    """One for each gap. extra: evidence that is exact, added in full; context: whether the model reads what is around.

    The model's score is a * around - b * alone, with a and b fitted on the documents of the other parity.
    """
    added = extra if extra is not None else [np.zeros(len(gap.ids)) for gap in gaps]
    pairs = list(itertools.product(WEIGHTS, WEIGHTS)) if context else [(0.0, -weight) for weight in WEIGHTS]
    tried = {pair: [_guess(gap, pair, more) for gap, more in zip(gaps, added, strict=True)] for pair in pairs}
    plain = tried if extra is None else {p: [_guess(gap, p, np.zeros(len(gap.ids))) for gap in gaps] for p in pairs}
    best = {fold: _best(plain, [gap.spot.document % 2 != fold for gap in gaps]) for fold in (0, 1)}
    return [tried[best[gap.spot.document % 2]][at] for at, gap in enumerate(gaps)]


def _best(tried: dict[tuple[float, float], list[Guess]], used: Sequence[bool]) -> tuple[float, float]:
    """The weights that give the used gaps' true values most bits; none of them where there is no gap to fit on."""
    if not any(used):
        return (0.0, 0.0)
    return max(tried, key=lambda pair: sum(one.bits for one, use in zip(tried[pair], used, strict=True) if use))


def _guess(gap: Gap, pair: tuple[float, float], extra: Floats) -> Guess:
    """What the model makes likely, with the share DOUBT of no preference at all, times what the extra evidence says."""
    told = _normal(pair[0] * gap.around - pair[1] * gap.alone)
    scores = np.log((1 - DOUBT) * told + DOUBT / len(told)) + extra
    first = scores >= scores.max() - 1e-9
    return Guess(math.log2(_normal(scores)[0] + sys.float_info.min), float(first[0]) / int(first.sum()))


def _normal(scores: Floats) -> Floats:
    weights = np.exp(scores - scores.max())
    shares: Floats = weights / weights.sum()
    return shares
