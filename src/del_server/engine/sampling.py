"""Logits to tokens, for all rows of a step at once. Knows nothing of models, caches or queues.

Each draw is a function of (logits, seed, position, tokens before) alone, so an answer is the same whatever runs beside
it, and a resumed answer is the uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from del_codec.errors import EngineError
from del_server.engine.base import Logprobs, Sampling

# The likeliest tokens, of which most draws are made: sorting a whole vocabulary costs as much as a small model's step.
HEAD = 1024

Taken = tuple[int, Logprobs | None]


@dataclass(frozen=True, slots=True)
class Draw:
    """How to choose the token at `position` of an answer, of which tokens `before` came already."""

    sampling: Sampling
    position: int
    before: Sequence[int] = ()


def take(logits: Tensor, draws: Sequence[Draw]) -> list[Taken | EngineError]:
    """The token to take from each row of float32 logits [n, V], and its log-probabilities where asked for.

    A row without a finite maximum has an EngineError in its place.
    """
    penalised = _penalised(logits, draws)
    values, best = penalised.max(dim=-1)
    # On the host, since each of a GPU's small kernels takes longer to launch than this.
    finite, chosen = [math.isfinite(value) for value in values.tolist()], best.tolist()
    drawn = [row for row, draw in enumerate(draws) if finite[row] and draw.sampling.temperature > 0]
    if drawn:
        for row, token in zip(drawn, _sampled(penalised[drawn], [draws[row] for row in drawn]), strict=True):
            chosen[row] = token
    return [
        (token, _reported(logits[row], token, draw.sampling))
        if finite[row]
        else EngineError("the model's logits are not finite")
        for row, (token, draw) in enumerate(zip(chosen, draws, strict=True))
    ]


def choose(logits: Tensor, sampling: Sampling, position: int, before: Sequence[int] = ()) -> int:
    """The token to take from float32 logits [V]; raises EngineError if none of them is finite."""
    (taken,) = take(logits.unsqueeze(0), [Draw(replace(sampling, logprobs=None), position, before)])
    if isinstance(taken, EngineError):
        raise taken
    return taken[0]


def logprobs_of(logits: Tensor, chosen: int, alternatives: int) -> Logprobs:
    """Log-probabilities of the chosen token and of the `alternatives` likeliest, from float32 logits [V]."""
    values = torch.log_softmax(logits, dim=-1)
    top = values.topk(min(alternatives, len(values)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return Logprobs(float(values[chosen]), tuple(pairs))


def _reported(logits: Tensor, token: int, sampling: Sampling) -> Logprobs | None:
    return None if sampling.logprobs is None else logprobs_of(logits, token, sampling.logprobs)


def _penalised(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Logits with those of tokens that came before made smaller (Keskar et al., arXiv 1909.05858): divided by the
    penalty above zero, multiplied with it below."""
    rows = [row for row, draw in enumerate(draws) if draw.sampling.repetition_penalty != 1 and draw.before]
    if not rows:
        return logits
    penalised = logits.clone()
    for row in rows:
        seen = torch.tensor(sorted(set(draws[row].before)), device=logits.device)
        penalty, scores = draws[row].sampling.repetition_penalty, logits[row, seen]
        penalised[row, seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
    return penalised


def _sampled(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """A token of each row [n, V] at its temperature."""
    device = logits.device
    settings = [draw.sampling for draw in draws]
    temperature = torch.tensor([sampling.temperature for sampling in settings], device=device).unsqueeze(1)
    scaled = (logits - logits.max(dim=-1, keepdim=True).values) / temperature
    probabilities = torch.softmax(scaled, dim=-1)
    uniform = [_uniform(draw.sampling.seed, draw.position) for draw in draws]
    chosen = [-1] * len(draws)
    whole = [row for row, sampling in enumerate(settings) if not sampling.top_k and sampling.top_p == 1]
    cut = [row for row in range(len(draws)) if row not in set(whole)]
    if whole:
        cumulative = probabilities[whole].double().cumsum(dim=-1)
        for row, token in zip(whole, _found(cumulative, [uniform[row] for row in whole]), strict=True):
            chosen[row] = token
    if cut:
        inside = _from_head(probabilities[cut], [settings[row] for row in cut], [uniform[row] for row in cut])
        for row, token in zip(cut, inside, strict=True):
            chosen[row] = token
    return chosen


def _from_head(probabilities: Tensor, settings: Sequence[Sampling], uniform: Sequence[float]) -> list[int]:
    """A token of each row [n, V], from its top-k and of these its top-p."""
    head = probabilities.topk(min(HEAD, probabilities.shape[1]), dim=-1)
    wide = [
        row
        for row, (sampling, mass) in enumerate(zip(settings, head.values.double().sum(dim=-1).tolist(), strict=True))
        if sampling.top_k > head.values.shape[1] or (not sampling.top_k and mass < sampling.top_p)
    ]
    order = head.indices.sort(dim=-1)
    values = head.values.gather(1, order.indices)
    tokens, ranked = _ranked(values, order.values)
    chosen = _nucleus(tokens, ranked, settings, uniform)
    if wide:
        everything = torch.arange(probabilities.shape[1], device=probabilities.device).expand(len(wide), -1)
        tokens, ranked = _ranked(probabilities[wide], everything)
        again = _nucleus(tokens, ranked, [settings[row] for row in wide], [uniform[row] for row in wide])
        for row, token in zip(wide, again, strict=True):
            chosen[row] = token
    return chosen


def _ranked(probabilities: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [n, H], which are in the order of their ids, by probability; of equals the first comes first."""
    ranked = probabilities.sort(dim=-1, descending=True, stable=True)
    return tokens.gather(1, ranked.indices), ranked.values


def _nucleus(tokens: Tensor, ranked: Tensor, settings: Sequence[Sampling], uniform: Sequence[float]) -> list[int]:
    """A token of each row [n, H] of the likeliest, best first, cut to top-k and then to top-p."""
    width, device = ranked.shape[1], ranked.device
    count = torch.tensor([sampling.top_k or width for sampling in settings], device=device).unsqueeze(1)
    top_p = torch.tensor([sampling.top_p for sampling in settings], device=device, dtype=torch.double).unsqueeze(1)
    inside = torch.arange(width, device=device) < count
    kept = torch.where(inside, ranked, 0.0).double()
    cumulative = kept.cumsum(dim=-1)
    # Top-p is of what top-k left. A token stays while those before it have less: the smallest set that reaches it.
    limited = torch.tensor([sampling.top_k > 0 for sampling in settings], device=device).unsqueeze(1)
    inside &= (cumulative - kept) < top_p * torch.where(limited, cumulative[:, -1:], 1.0)
    cumulative = torch.where(inside, kept, 0.0).cumsum(dim=-1)
    places = _found(cumulative, uniform)
    return [int(token) for token in tokens.gather(1, torch.tensor(places, device=device).unsqueeze(1))[:, 0].tolist()]


def _found(cumulative: Tensor, uniform: Sequence[float]) -> list[int]:
    """Where in each row [n, H] of summed probabilities a uniform number falls."""
    total = cumulative[:, -1:]
    drawn = torch.tensor(uniform, device=cumulative.device, dtype=torch.double).unsqueeze(1) * total
    places = torch.searchsorted(cumulative, drawn, right=True)
    # Never one without probability, where the last of them is drawn.
    last = (cumulative < total).sum(dim=-1, keepdim=True)
    return [int(place) for place in torch.minimum(places, last)[:, 0].tolist()]


def _uniform(seed: int, position: int) -> float:
    """Uniform on [0, 1), by a counter-based generator (Philox): the same on every device."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())
