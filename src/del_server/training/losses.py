"""Losses: what each stage of a recipe minimises at each step, from the curriculum through the frozen LLM.

Knows nothing of optimisers, schedules or files.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from del_server.training.curriculum import Curriculum, Lesson
from del_server.training.learner import Attacker, Learner
from del_server.training.objective import Judge, distillation, nll
from del_server.training.recipe import Recipe

CODEC, FLOOR, CEILING = "codec", "floor", "ceiling"


class Losses:
    """Losses of (stage index, step) for a learner and for the references: soft prompts without a prompt (floor) and
    with a clean one (ceiling). adapters: the three have a LoRA of that name in the judge's model.

    share: (index, count) of the batch that this process computes.
    """

    def __init__(
        self,
        recipe: Recipe,
        curriculum: Curriculum,
        judge: Judge,
        learner: Learner,
        references: dict[str, Tensor],
        *,
        adapters: bool,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self._recipe, self._curriculum, self._judge, self._learner = recipe, curriculum, judge, learner
        self._references, self._adapters, self._share = references, adapters, share
        self._device = judge.embeddings.device
        self.tokens = 0

    def noised(self, stage: int, step: int, *, steps: int) -> Tensor:
        """Encoder, decoder and soft prompt through the noise; steps: of the stage.

        The price on certainty rises from a third of the stage to two thirds: from the start it would be cheapest to
        send nothing, before the decoder has learned to make anything of what is sent.
        """
        lesson = self._lesson(stage, step)
        ids, private, present = self._prompt(lesson)
        dial_of = torch.from_numpy(lesson.dial_of).to(self._device)
        torch.manual_seed((self._curriculum.seed << 32) + (stage << 24) + step * self._share[1] + self._share[0])
        recipe = self._recipe
        teacher = attacker = None
        if recipe.attack_weight > 0 and recipe.attack_context:
            teacher = self._teacher(lesson, before=ids.shape[1] - 1)
            attacker = self._attacker(teacher, present)
        prompt, leak = self._learner.prompt(ids, private, present, dial_of, lesson.dials, attacker)
        loss = self._loss(self._learner.soft_prompt, prompt, lesson, present, CODEC, teacher)
        if recipe.attack_weight > 0:
            strong = torch.tensor([dial.mu <= recipe.attack_mu for dial in lesson.dials], device=self._device)
            risen = min(1.0, max(0.0, 3 * step / steps - 1))
            price = risen * recipe.attack_weight
            loss = loss + price * (leak * (private & strong[dial_of])).sum() / private.sum()
        return loss

    def noiseless(self, stage: int, step: int) -> Tensor:
        """Encoder and linear decoder without noise and without a soft prompt: the paper's first phase."""
        lesson = self._lesson(stage, step)
        ids, private, present = self._prompt(lesson)
        return self._loss(None, self._learner.noiseless(ids, private, present), lesson, present, CODEC)

    def floor(self, stage: int, step: int) -> Tensor:
        """No private position: what is left of a prompt is its public part (nothing, for plain text)."""
        lesson = self._lesson(stage, step)
        ids, private, present = self._prompt(lesson)
        soft = self._references[FLOOR]
        return self._loss(soft, self._judge.embeddings[ids], lesson, present & ~private, FLOOR)

    def ceiling(self, stage: int, step: int) -> Tensor:
        """The clean prompt."""
        lesson = self._lesson(stage, step)
        ids, _, present = self._prompt(lesson)
        return self._loss(self._references[CEILING], self._judge.embeddings[ids], lesson, present, CEILING)

    def _lesson(self, stage: int, step: int) -> Lesson:
        index, count = self._share
        lesson = self._curriculum.lesson(stage, step * count + index)
        self.tokens += lesson.batch.prompt.size + lesson.batch.target.size
        return lesson

    def _attacker(self, teacher: Tensor, present: Tensor) -> Attacker:
        """An attacker who knows all tokens before each: its prior is the LLM's, and the unigram for the first."""
        first = present & ~F.pad(present, (1, 0))[:, :-1]

        def prior(here: Tensor) -> Tensor:
            row, place = here.nonzero(as_tuple=True)
            informed = teacher[row, (place - 1).clamp_min(0)]
            return torch.where(first[row, place].unsqueeze(-1), self._learner.log_prior, informed)

        return prior

    def _prompt(self, lesson: Lesson) -> tuple[Tensor, Tensor, Tensor]:
        batch = lesson.batch
        ids, private, present = (
            torch.from_numpy(a).to(self._device) for a in (batch.prompt, batch.private, batch.present)
        )
        return ids, private, present

    def _teacher(self, lesson: Lesson, before: int = 0) -> Tensor:
        """Log-probabilities [B, before + C, V] of the plain model, of the continuation of the clean prompt and of as
        many of the prompt's last ids."""
        ids, _, present = self._prompt(lesson)
        target = torch.from_numpy(lesson.batch.target).to(self._device)
        return self._judge.teacher(ids, present, target, before + target.shape[1])

    def _loss(
        self,
        soft: Tensor | None,
        prompt: Tensor,
        lesson: Lesson,
        present: Tensor,
        adapter: str,
        teacher: Tensor | None = None,
    ) -> Tensor:
        """The recipe's loss on the continuation; teacher: from _teacher, where it is there already."""
        target, scored = (torch.from_numpy(a).to(self._device) for a in (lesson.batch.target, lesson.batch.scored))
        weight = self._recipe.kl_weight
        if weight > 0 and teacher is None:
            teacher = self._teacher(lesson)
        # After the teacher, which runs without an adapter: this one has to be in use when the gradient is taken.
        logits = self._judge.logits(soft, prompt, present, target, adapter if self._adapters else None)
        loss = (1 - weight) * nll(logits, target, scored)
        if teacher is not None and weight > 0:
            loss = loss + weight * distillation(logits, teacher[:, -target.shape[1] :], scored)
        return loss
