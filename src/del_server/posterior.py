"""Bayes' rule for one token: the posterior over the vocabulary given its levels, and the mean embedding under it.

Knows nothing of segments, of prompts or of what the mean is for.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RANK = 32
TOLERANCE = 0.01
BISECTIONS = 3
# One gathered embedding costs as much time as so many in a product with all of them: memory against arithmetic.
GATHERING = 8


def posterior(levels: Tensor, theta: Tensor, bias: Tensor) -> Tensor:
    """P(token | levels) under a table and a prior, exact, [N, V].

    levels: [N, d] floats 0..u. theta: [V, d] logits of p. bias: [V], u * sum_i log(1 - p) + log prior.
    """
    return torch.softmax(torch.addmm(bias, levels, theta.T), dim=-1)


def posterior_mean(levels: Tensor, theta: Tensor, bias: Tensor, embeddings: Tensor) -> Tensor:
    """E[embedding | levels], [N, D], the least-squares estimate from one token alone; embeddings: [V, D]."""
    return posterior(levels, theta, bias).to(embeddings.dtype) @ embeddings


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
    def __call__(self, levels: Tensor, theta: Tensor, bias: Tensor) -> Tensor:
        """E[embedding | levels], [N, D]; arguments as of `posterior`."""
        weights = posterior(levels, theta, bias)
        places = np.flatnonzero(weights.numpy() > self._limits(weights).numpy())
        if GATHERING * len(places) > weights.numel():
            return weights @ self._embeddings
        heavy = torch.from_numpy(places)
        flat, vocabulary = weights.view(-1), weights.shape[1]
        sums = F.embedding_bag(
            heavy % vocabulary,
            self._embeddings,
            torch.searchsorted(heavy, torch.arange(0, weights.numel(), vocabulary)),
            mode="sum",
            per_sample_weights=flat[heavy],
        )
        flat.index_fill_(0, heavy, 0.0)
        return sums.addmm_(weights @ self._along, self._directions)

    def _limits(self, weights: Tensor) -> Tensor:
        """The largest weight [N, 1] in each row's tail.

        |min(w, t)|_2, which bounds the norm of a tail up to t, is at most m = `_tail_norm` at t = m^2, since weights
        add up to one, and at least m at t = m, unless no weight is larger. In between t is found by bisection.
        """
        low = torch.full((len(weights), 1), self._tail_norm**2)
        high = torch.full_like(low, self._tail_norm)
        clipped = torch.empty_like(weights)
        for _ in range(BISECTIONS):
            middle = (low * high).sqrt()
            torch.minimum(weights, middle, out=clipped)
            fits = torch.linalg.vector_norm(clipped, dim=1, keepdim=True) <= self._tail_norm
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        return low
