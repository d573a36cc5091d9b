"""From a model and text to a codec's folder: builds the stages of a recipe, runs them and bakes the result."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from del_codec.errors import InvalidValue
from del_codec.projection import ProjectionConfig
from del_codec.spec import CodecSpec
from del_server.codec import REFERENCES_FILE, model_sha256, save_codec
from del_server.training.curriculum import Curriculum, Lesson
from del_server.training.learner import Learner
from del_server.training.loop import Stage, run
from del_server.training.objective import Judge, distillation, nll
from del_server.training.recipe import Phase, Recipe
from del_server.training.text import ChatSample, Ids

SOFT_PROMPT_RATE = 4.0


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """steps: of the recipe. batch: sequences a step. reference_steps: of the floor's and the ceiling's soft prompts."""

    dim: int = 64
    steps: int = 4000
    reference_steps: int = 500
    batch: int = 96
    prompt: int = 64
    continuation: int = 32
    mu_low: float = 1.0
    mu_high: float = 60.0
    chat_share: float = 0.4
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Subject:
    """What a codec is made for: a loaded model, its tokenizer, and the files that devices will be pinned to."""

    name: str
    model: Any
    tokenizer_file: bytes
    chat_template: str


class Trainer:
    """One run of a recipe. The module that is checkpointed holds the learner and the two reference soft prompts."""

    def __init__(
        self, subject: Subject, recipe: Recipe, options: TrainingOptions, stream: Ids, turns: Sequence[ChatSample]
    ) -> None:
        self.subject, self.recipe, self.options = subject, recipe, options
        torch.set_float32_matmul_precision("high")
        # cuDNN's attention plans anew for each prompt length, which takes longer than the step.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.judge = Judge(subject.model)
        embeddings = self.judge.embeddings.float()
        self.device = embeddings.device
        self.config = ProjectionConfig(
            dim=options.dim,
            embedding_width=embeddings.shape[1],
            embedding_rms=float(embeddings.pow(2).mean().sqrt()),
            encoder=recipe.encoder,
            decoder=recipe.decoder,
            width=recipe.width,
            layers=recipe.layers,
            heads=recipe.heads,
            norm_cap=recipe.norm_cap,
        )
        # What can't be learned or saved is refused before anything is.
        self.curriculum = Curriculum(
            stream=stream,
            turns=turns,
            batch=options.batch,
            prompt=options.prompt,
            continuation=options.continuation,
            dim=options.dim,
            mu_low=options.mu_low,
            mu_high=options.mu_high,
            chat_share=options.chat_share,
            seed=options.seed,
        )
        self.spec = _spec(subject, options, embeddings.shape)
        self.counts = _count(stream, turns, len(embeddings))
        log_prior = np.log((self.counts + 0.5) / (self.counts + 0.5).sum())
        start = self._initial_soft_prompt(embeddings, stream, turns)
        torch.manual_seed(options.seed)
        self.learner = Learner(self.config, embeddings, torch.from_numpy(log_prior), start).to(self.device)
        self.floor = nn.Parameter(start.clone())
        self.ceiling = nn.Parameter(start.clone())
        self.module = nn.Module()
        self.module.learner = self.learner
        self.module.floor = self.floor
        self.module.ceiling = self.ceiling

    def _initial_soft_prompt(self, embeddings: Tensor, stream: Ids, turns: Sequence[ChatSample]) -> Tensor:
        """Embeddings of the first ids of the text: a soft prompt that starts as words is easier to train."""
        source = stream if len(stream) else np.concatenate([t.answer for t in turns])
        ids = np.resize(source, self.recipe.soft_tokens)
        return embeddings[torch.from_numpy(ids).to(embeddings.device)]

    def run(self, checkpoint: Path | None) -> list[float]:
        """Train; returns the final loss of each stage (the recipe's phases, floor, ceiling)."""
        return run(self._stages(), self.module, checkpoint)

    def _stages(self) -> list[Stage]:
        options = self.options
        tokens = options.batch * (options.prompt + options.continuation)
        stages = [
            Stage(
                f"{self.recipe.name} {number}/{len(self.recipe.phases)}",
                self._groups(phase),
                max(1, round(phase.share * options.steps)),
                self._noised_loss if phase.noise else self._noiseless_loss,
                tokens,
            )
            for number, phase in enumerate(self.recipe.phases, 1)
        ]
        rate = SOFT_PROMPT_RATE * self.recipe.phases[-1].lr
        for name, soft, loss in (
            ("floor (no prompt)", self.floor, self._floor_loss),
            ("ceiling (clean prompt)", self.ceiling, self._ceiling_loss),
        ):
            stages.append(Stage(name, [([soft], rate)], options.reference_steps, loss, tokens))
        return stages

    def _groups(self, phase: Phase) -> list[tuple[list[nn.Parameter], float]]:
        groups: list[tuple[list[nn.Parameter], float]] = []
        for part in phase.parts:
            if part == "soft_prompt":
                groups.append(([self.learner.soft_prompt], SOFT_PROMPT_RATE * phase.lr))
            else:
                groups.append((list(getattr(self.learner, part).parameters()), phase.lr))
        return groups

    def _noised_loss(self, stage: int, step: int) -> Tensor:
        lesson = self.curriculum.lesson(stage, step)
        ids, private, present = self._prompt(lesson)
        dial_of = torch.from_numpy(lesson.dial_of).to(self.device)
        torch.manual_seed((self.options.seed << 32) + (stage << 24) + step)
        recipe = self.recipe
        teacher = attacker = None
        if recipe.attack_weight > 0 and recipe.attack_context:
            teacher = self._teacher(lesson, before=ids.shape[1] - 1)
            attacker = self._attacker(teacher, present)
        prompt, leak = self.learner.prompt(ids, private, present, dial_of, lesson.dials, attacker)
        loss = self._loss(self.learner.soft_prompt, prompt, lesson, present, teacher)
        if recipe.attack_weight > 0:
            strong = torch.tensor([dial.mu <= recipe.attack_mu for dial in lesson.dials], device=self.device)
            loss = loss + recipe.attack_weight * (leak * (private & strong[dial_of])).sum() / private.sum()
        return loss

    def _attacker(self, teacher: Tensor, present: Tensor) -> Tensor:
        """Log-prior [B, T, V] of an attacker who knows all tokens before each: the LLM's, and unigram for the first."""
        length = present.shape[1]
        unigram = self.learner.log_prior.expand(len(present), 1, -1)
        prior = torch.cat([unigram, teacher[:, : length - 1]], dim=1)
        first = present & ~F.pad(present, (1, 0))[:, :-1]
        return torch.where(first.unsqueeze(-1), unigram, prior)

    def _noiseless_loss(self, stage: int, step: int) -> Tensor:
        lesson = self.curriculum.lesson(stage, step)
        ids, private, present = self._prompt(lesson)
        return self._loss(None, self.learner.noiseless(ids, private, present), lesson, present)

    def _floor_loss(self, stage: int, step: int) -> Tensor:
        """No private position: what is left of a prompt is its public part (nothing, for plain text)."""
        lesson = self.curriculum.lesson(stage, step)
        ids, private, present = self._prompt(lesson)
        return self._loss(self.floor, self.judge.embeddings[ids], lesson, present & ~private)

    def _ceiling_loss(self, stage: int, step: int) -> Tensor:
        lesson = self.curriculum.lesson(stage, step)
        ids, _, present = self._prompt(lesson)
        return self._loss(self.ceiling, self.judge.embeddings[ids], lesson, present)

    def _prompt(self, lesson: Lesson) -> tuple[Tensor, Tensor, Tensor]:
        batch = lesson.batch
        ids, private, present = (
            torch.from_numpy(a).to(self.device) for a in (batch.prompt, batch.private, batch.present)
        )
        return ids, private, present

    def _teacher(self, lesson: Lesson, before: int = 0) -> Tensor:
        """Log-probabilities [B, before + C, V] of the plain model, of the continuation of the clean prompt and of as
        many of the prompt's last ids."""
        ids, _, present = self._prompt(lesson)
        target = torch.from_numpy(lesson.batch.target).to(self.device)
        return self.judge.teacher(ids, present, target, before + target.shape[1])

    def _loss(
        self, soft: Tensor | None, prompt: Tensor, lesson: Lesson, present: Tensor, teacher: Tensor | None = None
    ) -> Tensor:
        """The recipe's loss on the continuation; teacher: from _teacher, where it is there already."""
        target, scored = (torch.from_numpy(a).to(self.device) for a in (lesson.batch.target, lesson.batch.scored))
        logits = self.judge.logits(soft, prompt, present, target)
        weight = self.recipe.kl_weight
        loss = (1 - weight) * nll(logits, target, scored)
        if weight > 0:
            teacher = self._teacher(lesson) if teacher is None else teacher
            loss = loss + weight * distillation(logits, teacher[:, -target.shape[1] :], scored)
        return loss

    def save(self, folder: Path) -> None:
        """Bake the table and write the codec's folder."""
        save_codec(
            folder=folder,
            spec=self.spec,
            latents=self.learner.baked().numpy(),
            unigram_counts=self.counts.astype(np.uint32),
            config=self.config,
            decoder=self.learner.decoder.state_dict(),
            soft_prompt=self.learner.soft_prompt,
            tokenizer=self.subject.tokenizer_file,
            chat_template=self.subject.chat_template,
        )
        references = {"floor": self.floor, "ceiling": self.ceiling}
        half = {name: soft.detach().to("cpu", torch.float16).contiguous() for name, soft in references.items()}
        safetensors.torch.save_file(half, folder / REFERENCES_FILE)


def _spec(subject: Subject, options: TrainingOptions, shape: torch.Size) -> CodecSpec:
    """What the codec will say of itself; shape: of the model's embeddings [V, D]."""
    template = subject.chat_template
    return CodecSpec(
        model=subject.name,
        model_sha256=model_sha256(subject.model),
        dim=options.dim,
        vocabulary=shape[0],
        embedding_width=shape[1],
        tokenizer_sha256=hashlib.sha256(subject.tokenizer_file).hexdigest(),
        chat_template_sha256=hashlib.sha256(template.encode()).hexdigest() if template else "",
        mu_milli_min=round(1000 * options.mu_low),
        mu_milli_max=round(1000 * options.mu_high),
    )


def _count(stream: Ids, turns: Sequence[ChatSample], vocabulary: int) -> Ids:
    """How often each id stands in the text [V], int64."""
    ids = np.concatenate([stream, *(part for turn in turns for part in (turn.words, turn.answer))])
    if len(ids) and int(ids.max()) >= vocabulary:
        raise InvalidValue("text", int(ids.max()), f"has an id outside of the model's {vocabulary}: another tokenizer?")
    return np.bincount(ids, minlength=vocabulary).astype(np.int64)
