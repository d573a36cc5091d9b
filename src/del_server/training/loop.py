"""The training loop: stages of AdamW steps, checkpoints that resume, and a clean stop on Ctrl-C or NaN.

A stage is a set of parameters and a loss of (stage, step); this module knows nothing of what they mean.
Checkpoints are safetensors, as everything else: nothing is unpickled.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from del_codec.errors import ArtifactError, DelError
from del_server.training.writing import writing

logger = logging.getLogger(__name__)

WARMUP_SHARE = 0.03
WARMUP_STEPS = 30
CHECKPOINT_SECONDS = 60.0
REPORTS = 5


class TrainingStopped(DelError):
    """Training ended early (Ctrl-C, or a loss that is not finite); the last good checkpoint is kept."""


@dataclass(frozen=True, slots=True)
class Stage:
    """name: for the progress bar. groups: (parameters, peak learning rate). loss: of (stage index, step).
    report: a line on how it goes, asked for REPORTS times on the way."""

    name: str
    groups: Sequence[tuple[list[nn.Parameter], float]]
    steps: int
    loss: Callable[[int, int], Tensor]
    report: Callable[[], str] | None = None


@dataclass(slots=True)
class Progress:
    """Where a run is: stage and step to do next, and the loss of each finished stage."""

    stage: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)


def run(
    stages: Sequence[Stage], module: nn.Module, checkpoint: Path | None, accelerator: Accelerator | None = None
) -> list[float]:
    """Run all stages, from the checkpoint where there is one; returns each stage's mean loss over its last tenth.

    module: what a checkpoint holds beside the optimiser. Under an accelerator of several processes each computes the
    loss of its own share and gradients are averaged. A checkpoint that can't be written is told, and training goes on.
    Raises TrainingStopped on Ctrl-C, a loss that is not finite or memory that doesn't suffice, ArtifactError for a
    checkpoint of another run, or one that can't be written after Ctrl-C.
    """
    accelerator = accelerator or Accelerator()
    progress = Progress()
    saved = _load(checkpoint, module, progress, _plan(stages)) if checkpoint else {}
    with _ctrl_c() as asked:
        for index in range(progress.stage, len(stages)):
            optimiser = torch.optim.AdamW(
                [{"params": parameters, "lr": rate} for parameters, rate in stages[index].groups],
                betas=(0.9, 0.98),
                weight_decay=0.0,
            )
            _restore(optimiser, saved)
            saved = {}

            def keep(optimiser: torch.optim.AdamW = optimiser) -> None:
                if checkpoint and accelerator.is_main_process:
                    _save(checkpoint, module, optimiser, progress, _plan(stages))

            step = _Step(stages[index], index, optimiser, accelerator)
            progress.losses.append(_run_stage(step, progress, keep, asked))
            progress.stage, progress.step = index + 1, 0
    return progress.losses


class _Step:
    """One update of a stage's parameters at a time."""

    def __init__(self, stage: Stage, index: int, optimiser: torch.optim.AdamW, accelerator: Accelerator) -> None:
        self.stage, self._index, self._accelerator = stage, index, accelerator
        self._peaks = [group["lr"] for group in optimiser.param_groups]
        self._parameters = [p for group in optimiser.param_groups for p in group["params"]]
        self._optimiser = accelerator.prepare(optimiser)

    def __call__(self, step: int) -> float:
        """Take the step; its loss. Raises TrainingStopped where it can't be taken."""
        for group, peak in zip(self._optimiser.param_groups, self._peaks, strict=True):
            group["lr"] = peak * _schedule(step, self.stage.steps)
        try:
            value, norm = self._update(step)
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            raise TrainingStopped(
                f"{self.stage.name}: not enough memory at step {step} ({str(error).splitlines()[0]}); lower --batch, "
                "or take a smaller model"
            ) from None
        if not math.isfinite(value) or not math.isfinite(norm):
            raise TrainingStopped(
                f"{self.stage.name}: loss {value}, gradient norm {norm} at step {step}; the last good checkpoint "
                f"is kept: lower the learning rate, or raise LO of --mu, and start again"
            )
        self._optimiser.step()
        return value

    def _update(self, step: int) -> tuple[float, float]:
        """Loss and gradient norm; gradients are averaged over processes."""
        self._optimiser.zero_grad(set_to_none=True)
        loss = self.stage.loss(self._index, step)
        self._accelerator.backward(loss)
        if self._accelerator.num_processes > 1:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad = self._accelerator.reduce(parameter.grad, "mean")
        norm = self._accelerator.clip_grad_norm_(self._parameters, 1.0)
        return float(loss.detach()), float(norm)


def _run_stage(take: _Step, progress: Progress, keep: Callable[[], None], asked: threading.Event) -> float:
    stage = take.stage
    recent: list[float] = []
    last_save = time.monotonic()
    first = progress.step
    bar = tqdm(range(first, stage.steps), desc=stage.name, initial=first, total=stage.steps, mininterval=2.0)
    for step in bar:
        progress.step = step
        if asked.is_set():
            keep()
            raise TrainingStopped(f"stopped in {stage.name} at step {step}; --resume goes on from there")
        if time.monotonic() - last_save > CHECKPOINT_SECONDS:
            try:
                keep()
            except ArtifactError as error:
                logger.warning("%s", error)
            last_save = time.monotonic()
        recent = [*recent[-max(1, stage.steps // 10) :], take(step)]
        bar.set_postfix(loss=f"{sum(recent[-50:]) / len(recent[-50:]):.3f}", refresh=False)
        if stage.report and (step + 1) % max(1, stage.steps // REPORTS) == 0:
            bar.write(f"{stage.name}, step {step + 1}: {stage.report()}")
    return sum(recent) / len(recent)


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, to be obeyed between steps: no checkpoint must hold half of an update.

    A second Ctrl-C ends at once.
    """
    asked = threading.Event()

    def note(*_: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to a twentieth."""
    warmup = max(round(steps * WARMUP_SHARE), min(WARMUP_STEPS, steps // 4), 1)
    if step < warmup:
        return (step + 1) / warmup
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _plan(stages: Sequence[Stage]) -> str:
    """What a checkpoint's run was going to do; its steps set the schedule, so another number is another run."""
    return json.dumps([[stage.name, stage.steps] for stage in stages])


def _save(path: Path, module: nn.Module, optimiser: torch.optim.AdamW, progress: Progress, plan: str) -> None:
    tensors = {f"module.{name}": tensor.contiguous() for name, tensor in module.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": torch.as_tensor(value).contiguous() for name, value in state.items()}
    metadata = {"plan": plan} | {name: json.dumps(value) for name, value in asdict(progress).items()}
    scratch = path.with_suffix(".tmp")
    try:
        with writing(path, "the checkpoint before it, if there is one, stands; free some space"):
            safetensors.torch.save_file(tensors, scratch, metadata=metadata)
            os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _load(path: Path, module: nn.Module, progress: Progress, plan: str) -> dict[str, Tensor]:
    """Fill module and progress; returns the optimiser's tensors ({} where there is no checkpoint yet)."""
    if not path.exists():
        return {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if metadata["plan"] != plan:
            raise ValueError(f"it was going to do {metadata['plan']}, this run would do {plan}")
        progress.stage, progress.step, progress.losses = (
            json.loads(metadata[name]) for name in ("stage", "step", "losses")
        )
        module.load_state_dict({n.removeprefix("module."): t for n, t in tensors.items() if n.startswith("module.")})
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{path} is not a checkpoint of this recipe and model: {error}") from None
    return {n.removeprefix("optimiser."): t for n, t in tensors.items() if n.startswith("optimiser.")}


def _restore(optimiser: torch.optim.AdamW, saved: dict[str, Tensor]) -> None:
    if not saved:
        return
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in saved.items():
        number, _, key = name.partition(".")
        states.setdefault(int(number), {})[key] = tensor
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
