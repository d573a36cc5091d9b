"""Logits to a token. Knows nothing of models, caches or queues.

Each draw is a function of (logits, seed, position) alone, so an answer is the same whatever runs beside it, and a
resumed answer is the uninterrupted one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from del_codec.errors import EngineError
from del_server.engine.base import Logprobs, Sampling


def choose(logits: Tensor, sampling: Sampling, position: int) -> int:
    """The token to take from float32 logits [V] at `position` of the answer.

    Raises EngineError if the model gave no finite maximum.
    """
    best = int(logits.argmax())
    if not bool(logits[best].isfinite()):
        raise EngineError("the model's logits are not finite")
    if sampling.temperature == 0:
        return best
    scaled = (logits - logits[best]) / sampling.temperature
    probabilities, tokens = torch.softmax(scaled, dim=-1).sort(descending=True, stable=True)
    if sampling.top_k:
        probabilities = probabilities[: sampling.top_k]
    cumulative = probabilities.double().cumsum(dim=-1)
    if sampling.top_p < 1:
        # The smallest set whose probability reaches top_p: a token stays while those before it have less.
        before = cumulative - probabilities
        cumulative = cumulative[before < sampling.top_p * cumulative[-1]]
    drawn = _uniform(sampling.seed, position) * float(cumulative[-1])
    index = int(torch.searchsorted(cumulative, drawn, right=True))
    return int(tokens[min(index, len(cumulative) - 1)])


def logprobs_of(logits: Tensor, chosen: int, alternatives: int) -> Logprobs:
    """Log-probabilities of the chosen token and of the `alternatives` likeliest, from float32 logits [V]."""
    values = torch.log_softmax(logits, dim=-1)
    top = values.topk(min(alternatives, len(values)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return Logprobs(float(values[chosen]), tuple(pairs))


def _uniform(seed: int, position: int) -> float:
    """Uniform on [0, 1), by a counter-based generator (Philox): the same on every device."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())
