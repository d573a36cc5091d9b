"""Bayes' rule for one token: the posterior over the vocabulary given its levels, and the mean embedding under it.

Knows nothing of segments, of prompts or of what the mean is for.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RANK = 32
# A bound for the worst of tails; what is left out of a language model's embeddings is a tenth of it. At half of it the
# time doubles where little is known of a token (mu 4).
TOLERANCE = 0.05
# One gathered embedding costs as much time as so many in a product with all of them: memory against arithmetic.
GATHERING = 12
# Where tails end is told by a sample: runs of RUN tokens, as long as a cache line, one in each STRIDE tokens, held to a
# SHARE of what is allowed, since a sample can mislead.
RUN, STRIDE, SHARE = 16, 256, 0.7
BISECTIONS = 4
# Weights are raised to it: a CPU takes a hundred times as long to square what float32 holds as a subnormal number.
LEAST_WEIGHT = 1e-18


def posterior(levels: Tensor, evidence: Tensor) -> Tensor:
    """P(token | levels) under a table and a prior, exact, [N, V].

    levels: [N, d] floats 0..u. evidence: [d + 1, V], logits of p, and in the last row u * sum_i log(1 - p) + log prior.
    """
    return torch.softmax(F.pad(levels, (0, 1), value=1.0) @ evidence, dim=-1)


def posterior_mean(levels: Tensor, evidence: Tensor, embeddings: Tensor) -> Tensor:
    """E[embedding | levels], [N, D], the least-squares estimate from one token alone; embeddings: [V, D]."""
    return posterior(levels, evidence).to(embeddings.dtype) @ embeddings


class PosteriorMean:
    """`posterior_mean` for a CPU, where the product of weights [N, V] and embeddings [V, D] is most of its time.

    Tokens with a large weight are gathered and summed as they are. The others, a row's tail, are summed as they look
    along the R = `RANK` leading right singular vectors b of the embeddings, a product of [N, V] and [V, R]. What that
    leaves out is sum_v w_v r_v over the tail, r = E - E b^T b; its norm is at most |w|_2 times the spectral norm of r,
    which is the embeddings' singular value R + 1 (Eckart and Young). Each row's tail is chosen so that this bound is
    at most `TOLERANCE` times the root mean square norm of an embedding; the rest is rounding of float32. Where tails
    would be short, since the posterior is flat, the product is computed in full.
    """

    def __init__(self, embeddings: Tensor) -> None:
        """embeddings: [V, D], D above `RANK`, on the CPU; a float32 copy is kept of other types."""
        self._embeddings = embeddings.float().contiguous()
        squares, directions = torch.linalg.eigh((self._embeddings.T @ self._embeddings).double())
        self._directions = directions[:, -RANK:].T.float().contiguous()
        self._along = self._embeddings @ self._directions.T
        neglected, typical = squares[-RANK - 1].clamp_min(0).sqrt(), (squares.sum() / len(embeddings)).sqrt()
        self._tail_norm = min(1.0, TOLERANCE * float(typical / neglected)) if neglected > 0 else 1.0

    @torch.inference_mode()
    def __call__(self, levels: Tensor, evidence: Tensor) -> Tensor:
        """E[embedding | levels], [N, D]; arguments as of `posterior`."""
        weights = posterior(levels, evidence).clamp_min_(LEAST_WEIGHT)
        likely = _places_above(self._limits(weights), weights)
        if GATHERING * len(likely) > weights.numel():
            return weights @ self._embeddings
        sums = self._gather(weights, likely)
        misled = torch.linalg.vector_norm(weights, dim=1) > self._tail_norm
        if misled.any():
            # Weights add up to one, so |w|_2^2 is at most the largest.
            certain, rest = torch.tensor([[self._tail_norm**2]]), weights[misled]
            sums[misled] += self._gather(rest, _places_above(certain, rest))
            weights[misled] = rest
        return sums.addmm_(weights @ self._along, self._directions)

    def _gather(self, weights: Tensor, places: Tensor) -> Tensor:
        """The sum [N, D] of each row's embeddings at these places of the flat weights, which become zero there."""
        flat, vocabulary = weights.view(-1), weights.shape[1]
        sums = F.embedding_bag(
            places % vocabulary,
            self._embeddings,
            torch.searchsorted(places, torch.arange(0, weights.numel(), vocabulary)),
            mode="sum",
            per_sample_weights=flat[places],
        )
        flat.index_fill_(0, places, 0.0)
        return sums

    def _limits(self, weights: Tensor) -> Tensor:
        """The largest weight [N, 1] in each row's tail, by a sample.

        |min(w, t)|_2, which bounds the norm of a tail up to t, is at most m = `_tail_norm` at t = m^2, since weights
        add up to one, and at least m at t = m, unless no weight is larger. In between t is found by bisection.
        """
        sample = weights.unfold(1, min(RUN, weights.shape[1]), STRIDE).flatten(1)
        allowed = SHARE * self._tail_norm * math.sqrt(sample.shape[1] / weights.shape[1])
        low = torch.full((len(weights), 1), self._tail_norm**2)
        high = torch.full_like(low, self._tail_norm)
        for _ in range(BISECTIONS):
            middle = (low * high).sqrt()
            fits = torch.linalg.vector_norm(torch.minimum(sample, middle), dim=1, keepdim=True) <= allowed
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        return low


def _places_above(limits: Tensor, weights: Tensor) -> Tensor:
    """Where the weights [N, V], taken as one row, are above their own row's limit [N, 1]."""
    return torch.from_numpy(np.flatnonzero(weights.numpy() > limits.numpy()))
