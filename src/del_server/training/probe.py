"""Probe: how far a training is, on text that it holds out: retained usefulness and tokens recovered, at a few mu.

Rough figures to watch, from few windows and with bounds that are not trained (no prompt at all, the clean prompt);
`del-server evaluate` measures what was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from del_server.training.learner import Dial, Learner
from del_server.training.objective import Judge, token_nll
from del_server.training.text import Batch, Corpus, windows

WINDOWS = 32
MUS = (5.0, 10.0, 20.0, 40.0)
LEAST_SHARE = 20


def hold_out(corpus: Corpus, prompt: int, continuation: int) -> tuple[Corpus, list[Batch]]:
    """The corpus without the end of its stream, and windows of that end; none where that were over a twentieth."""
    size = WINDOWS * (prompt + continuation)
    if len(corpus.stream) < LEAST_SHARE * size:
        return corpus, []
    kept, end = corpus.stream[:-size], corpus.stream[-size:]
    return replace(corpus, stream=kept), list(windows(end, WINDOWS, prompt, continuation))


class Probe:
    """Measures a learner on held-out windows, one bit a coordinate."""

    def __init__(self, batches: Sequence[Batch], judge: Judge, learner: Learner, mu_low: float, mu_high: float) -> None:
        self._batches, self._judge, self._learner = batches, judge, learner
        self._mus = [mu for mu in MUS if mu_low <= mu <= mu_high]

    @torch.no_grad()
    def report(self) -> str:
        """A line for people. Draws as it likes: each step of a training seeds its own."""
        device = self._judge.embeddings.device
        parts = []
        for mu in self._mus:
            dial = Dial.from_mu(mu, self._learner.config.dim, 1)
            retained, recovered = zip(*(self._measure(batch, dial, device) for batch in self._batches), strict=True)
            parts.append(f"mu {mu:g} retained {_mean(retained):.2f} MAP {_mean(recovered):.2f}")
        return ", ".join(parts)

    def _measure(self, batch: Batch, dial: Dial, device: torch.device) -> tuple[float, float]:
        ids, target = (torch.from_numpy(a).to(device) for a in (batch.prompt, batch.target))
        everywhere = torch.ones_like(ids, dtype=torch.bool)
        prompt, _ = self._learner.prompt(ids, everywhere, everywhere, torch.zeros_like(ids), [dial])
        clean = self._judge.embeddings[ids]
        here = self._loss(self._learner.soft_prompt, prompt, target)
        floor, ceiling = self._loss(None, clean[:, :1], target), self._loss(None, clean, target)
        recovered = (self._learner.guess(ids, dial) == ids).float().mean()
        return (floor - here) / (floor - ceiling), float(recovered)

    def _loss(self, soft: Tensor | None, prompt: Tensor, target: Tensor) -> float:
        present = torch.ones(prompt.shape[:2], dtype=torch.bool, device=prompt.device)
        return float(token_nll(self._judge.logits(soft, prompt, present, target), target).mean())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
