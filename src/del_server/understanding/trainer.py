"""A task's soft prompt, trained through the noise of a codec that stays as it is; and one for clean prompts beside it.

The second says what the model could do with the words themselves: the ceiling, of the same size and trained alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from del_codec.errors import InvalidValue
from del_codec.noise import LATENT_MAX
from del_codec.projection import ProjectionConfig
from del_server.codec import ServedCodec
from del_server.training.curriculum import DIALS_PER_BATCH, draw_dials
from del_server.training.learner import Dial, Learner
from del_server.training.loop import Stage, run
from del_server.training.objective import Judge, nll
from del_server.training.text import Batch, Ids
from del_server.understanding.questions import Questions
from del_server.understanding.ranking import label_scores

SERVED, CLEAN = "served", "clean"
WATCHED_MU = 20.0
HELD_OUT = 128


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """steps: of each soft prompt. batch: examples a step. rate: peak learning rate. mu_low, mu_high: range of noise."""

    mu_low: float
    mu_high: float
    steps: int = 600
    batch: int = 64
    soft_tokens: int = 20
    rate: float = 4e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("soft_tokens", 1)):
            if getattr(self, name) < least:
                raise InvalidValue(name.replace("_", "-"), getattr(self, name), f"use at least {least}")
        if not 0 < self.mu_low <= self.mu_high < 1e4:
            raise InvalidValue("mu", (self.mu_low, self.mu_high), "use LO:HI with 0 < LO <= HI < 10000")


class Baked(nn.Module):
    """An encoder that has been baked: the table's latents in [-1, 1], whatever embeddings it is given."""

    def __init__(self, codec: ServedCodec, device: torch.device) -> None:
        super().__init__()
        self.latents = torch.from_numpy(codec.table.latents.astype(np.float32) / LATENT_MAX).to(device)

    def forward(self, _: Tensor) -> Tensor:
        """[V, d]."""
        return self.latents


class TaskTrainer:
    """words: ids of the task's own text, which soft prompts start as, where the codec's own is not long enough."""

    def __init__(
        self,
        judge: Judge,
        codec: ServedCodec,
        config: ProjectionConfig,
        questions: Questions,
        words: Ids,
        options: TaskOptions,
    ) -> None:
        torch.set_float32_matmul_precision("high")
        # cuDNN's attention plans anew for each prompt length, which takes longer than the step.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self._judge, self._options = judge, options
        # Clean prompts meet the plain model, as public ones do when they are served.
        self._adapters = {SERVED: codec.adapter, CLEAN: None}
        order = np.random.default_rng(options.seed).permutation(len(questions))
        held_out = min(HELD_OUT, len(questions) // 10)
        self._questions = questions
        self._train, self._watched = order[: len(order) - held_out], order[len(order) - held_out :]
        embeddings = judge.embeddings
        log_prior = torch.from_numpy(np.log(codec.table.prior))
        self._learner = Learner(config, embeddings, log_prior, codec.soft_prompt).to(embeddings.device)
        self._learner.encoder = Baked(codec, embeddings.device)
        self._learner.decoder = codec.decoder.network
        self._learner.requires_grad_(False)
        text = embeddings[torch.from_numpy(np.resize(words, options.soft_tokens)).to(embeddings.device)].float()
        own = codec.soft_prompt[: options.soft_tokens].float()
        self.soft = nn.ParameterDict(
            {SERVED: nn.Parameter(torch.cat([own, text[len(own) :]])), CLEAN: nn.Parameter(text.clone())}
        )

    def run(self, checkpoint: Path | None) -> list[float]:
        """Train both; their final losses. Raises TrainingStopped."""
        stages = [
            Stage(title, [([self.soft[name]], self._options.rate)], self._options.steps, loss, report)
            for title, name, loss, report in (
                ("through the noise", SERVED, self._noised_loss, self._report_noised),
                ("clean prompts", CLEAN, self._clean_loss, self._report_clean),
            )
        ]
        return run(stages, self.soft, checkpoint)

    def _lesson(self, stage: int, step: int) -> tuple[Batch, np.random.Generator]:
        rng = np.random.default_rng([self._options.seed, stage, step])
        return self._questions.batch(self._train[rng.integers(0, len(self._train), self._options.batch)]), rng

    def _noised_loss(self, stage: int, step: int) -> Tensor:
        batch, rng = self._lesson(stage, step)
        options = self._options
        dials = draw_dials(rng, options.mu_low, options.mu_high, self._learner.config.dim)
        dial_of = np.broadcast_to(rng.integers(0, DIALS_PER_BATCH, (len(batch.prompt), 1)), batch.prompt.shape)
        torch.manual_seed((options.seed << 32) + (stage << 24) + step)
        prompt = self._noised(batch, dials, dial_of)
        return self._loss(SERVED, prompt, batch)

    def _clean_loss(self, stage: int, step: int) -> Tensor:
        batch, _ = self._lesson(stage, step)
        return self._loss(CLEAN, self._clean(batch), batch)

    @torch.no_grad()
    def _noised(self, batch: Batch, dials: list[Dial], dial_of: Ids) -> Tensor:
        ids, private, present, place = (
            self._tensor(a) for a in (batch.prompt, batch.private, batch.present, np.ascontiguousarray(dial_of))
        )
        prompt, _ = self._learner.prompt(ids, private, present, place, dials)
        return prompt

    def _clean(self, batch: Batch) -> Tensor:
        return self._judge.embeddings[self._tensor(batch.prompt)]

    def _loss(self, name: str, prompt: Tensor, batch: Batch) -> Tensor:
        present, target, scored = (self._tensor(a) for a in (batch.present, batch.target, batch.scored))
        return nll(self._judge.logits(self.soft[name], prompt, present, target, self._adapters[name]), target, scored)

    def _report_noised(self) -> str:
        mu = min(max(WATCHED_MU, self._options.mu_low), self._options.mu_high)
        dial = Dial.from_mu(mu, self._learner.config.dim, 1)
        state = torch.random.get_rng_state()
        share = self._accuracy(SERVED, lambda batch: self._noised(batch, [dial], np.zeros_like(batch.prompt)))
        torch.random.set_rng_state(state)
        return f"mu {dial.mu:g}: {share}"

    def _report_clean(self) -> str:
        return self._accuracy(CLEAN, self._clean)

    def _accuracy(self, name: str, prompts: Callable[[Batch], Tensor]) -> str:
        """In words, on examples that are held out."""
        right = torch.zeros((), device=self._judge.embeddings.device)
        for start in range(0, len(self._watched), self._options.batch):
            chosen = self._watched[start : start + self._options.batch]
            batch = self._questions.batch(chosen)
            scores = label_scores(
                self._judge,
                self.soft[name],
                prompts(batch),
                self._tensor(batch.present),
                self._questions.candidates,
                self._adapters[name],
            )
            right += (scores.argmax(dim=1) == self._tensor(self._questions.answers[chosen])).sum()
        return f"{float(right) / max(1, len(self._watched)):.3f} of {len(self._watched)} held-out examples right"

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._judge.embeddings.device)
