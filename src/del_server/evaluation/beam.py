"""Beam search with a language model as prior: the likeliest whole prompt, not the likeliest token of each place.

BeamClean's recipe with the channel known exactly: the sum over positions of
evidence_t(w_t) + weight * log P_LM(w_t | w_<t). Every token of the vocabulary is a candidate at every step. Windows of
any number of settings, codecs and texts go through the model side by side; keys and values are kept and reordered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from del_codec.errors import InvalidValue
from del_server.evaluation.evidence import Evidence

MAX_ROWS = {"cuda": 8192, "cpu": 256}


@dataclass(frozen=True, slots=True, eq=False)
class LanguagePrior:
    """log P(w_t | w_<t) of a causal model, with a little of the unigram prior mixed in.

    prefix: public ids [P] that every prompt begins with (a start marker, a chat template). log_unigram: [V]; it stands
    alone at the first position, since a window may be cut out of a text, and with the share `smoothing` at all others,
    so that one wrong guess can't make the truth impossible. weight: of the language model's nats against the
    evidence's; below 1 the unigram makes up the rest if the evidence holds none (`remainder`).
    """

    model: Any
    prefix: Tensor
    log_unigram: Tensor
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if self.prefix.ndim != 1 or not len(self.prefix):
            raise InvalidValue("prefix", list(self.prefix.shape), "give at least one id, say the start marker")
        if not 0 < self.smoothing < 1:
            raise InvalidValue("smoothing", self.smoothing, "use a share between 0 and 1")

    def prefill(self, rows: int) -> DynamicCache:
        """Keys and values of the prefix, for `rows` sequences."""
        cache = DynamicCache(config=self.model.config)
        self.model(input_ids=self.prefix.unsqueeze(0), past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(rows)
        return cache

    def log_probabilities(self, tokens: Tensor, cache: DynamicCache) -> Tensor:
        """Of all V tokens after each row's `tokens` [R], [R, V]; the cache grows by a position."""
        out = self.model(input_ids=tokens.unsqueeze(1), past_key_values=cache, use_cache=True, logits_to_keep=1)
        spoken = F.log_softmax(out.logits[:, -1].float(), dim=-1)
        return torch.logaddexp(
            spoken.add_(math.log1p(-self.smoothing)), self.log_unigram + math.log(self.smoothing), out=spoken
        )


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """path: ids [B, T] of the best hypothesis. token: ids [B, T], each the likeliest of its place, summed over the
    hypotheses about what stands before it: better where the noise is so strong that no path is likely."""

    path: Tensor
    token: Tensor


def beam_guess(
    cases: Sequence[Evidence],
    prior: LanguagePrior,
    *,
    width: int = 16,
    weight: float = 1.0,
    max_rows: int | None = None,
) -> list[Found]:
    """What the search finds for the windows of each case; all cases have the same length.

    width: hypotheses kept a window. max_rows: sequences at once through the model (windows times width).
    Raises InvalidValue.
    """
    if width < 1:
        raise InvalidValue("beam", width, "keep at least 1 hypothesis")
    if len({case.length for case in cases}) > 1:
        raise InvalidValue("cases", sorted({case.length for case in cases}), "give windows of one length")
    rows = max_rows or MAX_ROWS.get(prior.prefix.device.type, 256)
    found: list[list[Found]] = [[] for _ in cases]
    for group in _groups([case.windows for case in cases], max(1, rows // width)):
        parts = [cases[index].part(start, stop) for index, start, stop in group]
        guesses = _fitting(parts, prior, width, weight)
        sizes = [part.windows for part in parts]
        for (index, _, _), path, token in zip(
            group, torch.split(guesses.path, sizes), torch.split(guesses.token, sizes), strict=True
        ):
            found[index].append(Found(path, token))
    return [Found(torch.cat([f.path for f in fs]), torch.cat([f.token for f in fs])) for fs in found]


def _groups(sizes: Sequence[int], most: int) -> Iterator[list[tuple[int, int, int]]]:
    """(case, start, stop) in groups of at most `most` windows."""
    group: list[tuple[int, int, int]] = []
    room = most
    for index, size in enumerate(sizes):
        start = 0
        while start < size:
            stop = min(size, start + room)
            group.append((index, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield group
                group, room = [], most
    if group:
        yield group


def _fitting(parts: Sequence[Evidence], prior: LanguagePrior, width: int, weight: float) -> Found:
    """The search, in halves where the device's memory does not hold it at once."""
    try:
        return _search(parts, prior, width, weight)
    except torch.OutOfMemoryError:
        windows = sum(part.windows for part in parts)
        if windows == 1:
            raise InvalidValue("beam", width, "too much memory for a single window: keep fewer hypotheses") from None
    sizes = [part.windows for part in parts]
    halves = []
    for group in _groups(sizes, (windows + 1) // 2):
        halves.append(_fitting([parts[index].part(start, stop) for index, start, stop in group], prior, width, weight))
    return Found(torch.cat([half.path for half in halves]), torch.cat([half.token for half in halves]))


@torch.inference_mode()
def _search(parts: Sequence[Evidence], prior: LanguagePrior, width: int, weight: float) -> Found:
    """The guesses of all windows of all parts, in order."""
    windows = sum(part.windows for part in parts)
    vocabulary = len(prior.log_unigram)
    width = min(width, vocabulary)
    first = torch.cat([part.at(0) for part in parts]) + weight * prior.log_unigram
    scores, tokens = first.topk(width, dim=-1)
    history = tokens.unsqueeze(-1)
    likeliest = [first.argmax(dim=-1)]
    cache = prior.prefill(windows * width)
    offsets = torch.arange(windows, device=tokens.device).unsqueeze(1) * width
    for position in range(1, parts[0].length):
        total = prior.log_probabilities(tokens.flatten(), cache).mul_(weight).view(windows, width, vocabulary)
        total += torch.cat([part.at(position) for part in parts]).unsqueeze(1)
        total += scores.unsqueeze(-1)
        likeliest.append(total.logsumexp(dim=1).argmax(dim=-1))
        best, candidates = total.topk(width, dim=-1)
        best = best.flatten(1)
        scores, chosen = best.topk(width, dim=-1)
        origin = chosen // width
        tokens = candidates.flatten(1).gather(1, chosen)
        history = torch.cat(
            [history.gather(1, origin.unsqueeze(-1).expand(-1, -1, position)), tokens.unsqueeze(-1)], -1
        )
        cache.reorder_cache((origin + offsets).flatten())  # type: ignore[arg-type]
    return Found(history[:, 0], torch.stack(likeliest, dim=1))
