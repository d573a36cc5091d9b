"""From a model and text to a codec's folder: builds the stages of a recipe, runs them and bakes the result."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from del_codec.errors import InvalidValue
from del_codec.projection import ProjectionConfig
from del_codec.shipped import DEVICE_FILE
from del_codec.spec import CodecSpec
from del_codec.table import LatentTable
from del_server import lora
from del_server.codec import (
    LORA_FOLDER,
    REFERENCES_FILE,
    REFERENCES_FOLDER,
    load_references,
    model_sha256,
    save_codec,
)
from del_server.training.curriculum import Curriculum
from del_server.training.learner import Learner
from del_server.training.loop import Stage, run
from del_server.training.losses import CEILING, CODEC, FLOOR, Losses
from del_server.training.objective import Judge
from del_server.training.probe import Probe, hold_out
from del_server.training.recipe import Phase, Recipe
from del_server.training.text import Corpus, Ids

SOFT_PROMPT_RATE = 4.0


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """steps: of the recipe. batch: sequences a step, of all processes together. reference_steps: of the floor's and the
    ceiling's soft prompts. lora: rank of a LoRA on the LLM for codec, floor and ceiling each; 0 for none.
    mixed_precision: accelerate's (no, bf16, fp16), for what is trained; the LLM has its own dtype."""

    dim: int = 64
    steps: int = 4000
    reference_steps: int = 500
    batch: int = 96
    prompt: int = 64
    continuation: int = 32
    mu_low: float = 1.0
    mu_high: float = 60.0
    chat_share: float = 0.4
    lora: int = 0
    mixed_precision: str = "no"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Subject:
    """What a codec is made for: a loaded model, its tokenizer, and the files that devices will be pinned to."""

    name: str
    model: Any
    tokenizer_file: bytes
    chat_template: str


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second of prompt and continuation together: of the training, and of the bare model's own forward and
    backward pass over sequences of the longest length, which no training through it can exceed."""

    tokens_per_second: float
    model_tokens_per_second: float


class Trainer:
    """One run of a recipe. The module that is checkpointed holds the learner, the two reference soft prompts and, with
    a LoRA, the adapters of all three."""

    def __init__(
        self, subject: Subject, recipe: Recipe, options: TrainingOptions, corpus: Corpus, references: Path | None = None
    ) -> None:
        """references: the folder of another codec of this model, whose floor and ceiling are taken and not trained."""
        self.subject, self.recipe, self.options = subject, recipe, options
        self.accelerator = Accelerator(mixed_precision=options.mixed_precision)
        torch.set_float32_matmul_precision("high")
        # cuDNN's attention plans anew for each prompt length, which takes longer than the step.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.judge = Judge(subject.model)
        embeddings = self.judge.embeddings.float()
        self.device = embeddings.device
        self.config = _projection(recipe, options.dim, embeddings)
        # What can't be learned or saved is refused before anything is.
        corpus, held_out = hold_out(corpus, options.prompt, options.continuation)
        processes = self.accelerator.num_processes
        if options.batch % processes:
            raise InvalidValue("batch", options.batch, f"must be a multiple of the {processes} processes")
        self.curriculum = Curriculum(
            corpus=corpus,
            batch=options.batch // processes,
            prompt=options.prompt,
            continuation=options.continuation,
            dim=options.dim,
            mu_low=options.mu_low,
            mu_high=options.mu_high,
            chat_share=options.chat_share,
            seed=options.seed,
        )
        self.spec = _spec(subject, options, embeddings.shape)
        self.counts = _count(corpus, len(embeddings))
        log_prior = np.log((self.counts + 0.5) / (self.counts + 0.5).sum())
        start = _initial_soft_prompt(recipe.soft_tokens, embeddings, corpus)
        torch.manual_seed(options.seed)
        self.learner = Learner(self.config, embeddings, torch.from_numpy(log_prior), start).to(self.device)
        if recipe.gain:
            self.learner.spread(recipe.gain)
        taken = _taken(references, self.spec, options) if references else {}
        self.references = {name: nn.Parameter(taken.get(name, start).clone()) for name in (FLOOR, CEILING)}
        self._trains_references = not taken
        self._adapters = {
            name: lora.add_lora(subject.model, name, options.lora)
            for name in ((CODEC, FLOOR, CEILING) if options.lora else ())
        }
        self.module = nn.Module()
        self.module.learner = self.learner
        self.module.floor, self.module.ceiling = self.references[FLOOR], self.references[CEILING]
        self.module.adapters = nn.ModuleDict({n: nn.ParameterList(ps) for n, ps in self._adapters.items()})
        self._losses = Losses(
            recipe,
            self.curriculum,
            self.judge,
            self.learner,
            dict(self.references),
            adapters=bool(options.lora),
            share=(self.accelerator.process_index, processes),
        )
        self._probe = Probe(held_out, self.judge, self.learner, options.mu_low, options.mu_high) if held_out else None

    def run(self, checkpoint: Path | None) -> tuple[list[float], Speed]:
        """Train; the final loss of each stage (the recipe's phases, floor, ceiling), and how fast it went."""
        started = time.monotonic()
        losses = run(self._stages(), self.module, checkpoint, self.accelerator)
        seconds = time.monotonic() - started
        own = self._losses.tokens * self.accelerator.num_processes
        return losses, Speed(own / seconds, self._model_speed())

    def _stages(self) -> list[Stage]:
        options, losses = self.options, self._losses
        stages = []
        for number, phase in enumerate(self.recipe.phases, 1):
            steps = max(1, round(phase.share * options.steps))
            stages.append(
                Stage(
                    f"{self.recipe.name} {number}/{len(self.recipe.phases)}",
                    self._groups(phase),
                    steps,
                    partial(losses.noised, steps=steps) if phase.noise else losses.noiseless,
                    self._probe.report if self._probe and phase.noise else None,
                )
            )
        if not self._trains_references:
            return stages
        rate = self.recipe.phases[-1].lr
        for title, name, loss in (
            ("floor (no prompt)", FLOOR, losses.floor),
            ("ceiling (clean prompt)", CEILING, losses.ceiling),
        ):
            groups = [([self.references[name]], SOFT_PROMPT_RATE * rate), *self._lora_group(name, rate)]
            stages.append(Stage(title, groups, options.reference_steps, loss))
        return stages

    def _groups(self, phase: Phase) -> list[tuple[list[nn.Parameter], float]]:
        groups: list[tuple[list[nn.Parameter], float]] = []
        for part in phase.parts:
            if part == "soft_prompt":
                groups.append(([self.learner.soft_prompt], SOFT_PROMPT_RATE * phase.lr))
            else:
                groups.append((list(getattr(self.learner, part).parameters()), phase.lr))
        return groups + self._lora_group(CODEC, phase.lr)

    def _lora_group(self, name: str, rate: float) -> list[tuple[list[nn.Parameter], float]]:
        return [(self._adapters[name], rate)] if name in self._adapters else []

    def _model_speed(self, repeats: int = 5) -> float:
        """Tokens a second of forward and backward through the bare model."""
        options, width = self.options, self.config.embedding_width
        length = options.prompt + options.continuation
        processes = int(self.accelerator.num_processes)
        batch = options.batch // processes
        target = torch.zeros(batch, options.continuation, dtype=torch.long, device=self.device)
        present = torch.ones(batch, options.prompt, dtype=torch.bool, device=self.device)
        prompt = torch.zeros(batch, options.prompt, width, device=self.device, requires_grad=True)
        seconds = []
        for _ in range(repeats):
            started = time.monotonic()
            self.judge.logits(None, prompt, present, target).sum().backward()  # type: ignore[no-untyped-call]
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds.append(time.monotonic() - started)
        return batch * length * processes / min(seconds)

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
        half = {name: soft.detach().to("cpu", torch.float16).contiguous() for name, soft in self.references.items()}
        safetensors.torch.save_file(half, folder / REFERENCES_FILE)
        for name in self._adapters:
            where = folder / LORA_FOLDER if name == CODEC else folder / REFERENCES_FOLDER / name
            lora.save_lora(self.subject.model, name, where)


def _taken(folder: Path, spec: CodecSpec, options: TrainingOptions) -> dict[str, Tensor]:
    """Floor and ceiling of another codec. Raises InvalidValue where they say nothing of this one."""
    if options.lora:
        raise InvalidValue("references", str(folder), "can't be taken with --lora: they need LoRAs of that rank, too")
    made_for = LatentTable.load(folder / DEVICE_FILE).spec.model_sha256
    if made_for != spec.model_sha256:
        raise InvalidValue("references", str(folder), f"belong to another model than {spec.model}; leave them out")
    return load_references(folder)


def _projection(recipe: Recipe, dim: int, embeddings: Tensor) -> ProjectionConfig:
    return ProjectionConfig(
        dim=dim,
        embedding_width=embeddings.shape[1],
        embedding_rms=float(embeddings.pow(2).mean().sqrt()),
        encoder=recipe.encoder,
        decoder=recipe.decoder,
        width=recipe.width,
        layers=recipe.layers,
        heads=recipe.heads,
        norm_cap=recipe.norm_cap,
    )


def _initial_soft_prompt(count: int, embeddings: Tensor, corpus: Corpus) -> Tensor:
    """Embeddings of the first ids of the text: a soft prompt that starts as words is easier to train."""
    source = corpus.stream if len(corpus.stream) else np.concatenate([turn.answer for turn in corpus.turns])
    return embeddings[torch.from_numpy(np.resize(source, count)).to(embeddings.device)]


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


def _count(corpus: Corpus, vocabulary: int) -> Ids:
    """How often each id stands in the text [V], int64."""
    ids = np.concatenate([corpus.stream, *(part for turn in corpus.turns for part in (turn.words, turn.answer))])
    if len(ids) and int(ids.max()) >= vocabulary:
        raise InvalidValue("text", int(ids.max()), f"has an id outside of the model's {vocabulary}: another tokenizer?")
    return np.bincount(ids, minlength=vocabulary).astype(np.int64)
