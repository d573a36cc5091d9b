"""Utility: the negative log-likelihood of true continuations after a prompt, and what share of it a codec keeps.

Knows nothing of noise: prompts come as embeddings, with the model and the soft prompt that read them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from del_server.codec import REFERENCES_FOLDER, ServedCodec, load_references
from del_server.evaluation.estimate import Estimate
from del_server.lora import load_once
from del_server.training.objective import Judge, token_nll

Losses = npt.NDArray[np.float64]
_CHUNK = {"cuda": 128, "cpu": 16}


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A way to read prompts: a model, the LoRA that it has meanwhile (None: none), a soft prompt [P, D] before them."""

    judge: Judge
    soft: Tensor | None
    adapter: str | None = None

    @torch.inference_mode()
    def losses(self, prompt: Tensor, target: Tensor) -> Losses:
        """Mean NLL in nats a token of each continuation, [B]; prompt: [B, T, D], T may be 0; target: ids [B, C]."""
        size = _CHUNK.get(target.device.type, 16)
        parts = []
        for some, wanted in zip(torch.split(prompt, size), torch.split(target, size), strict=True):
            present = torch.ones(some.shape[:2], dtype=torch.bool, device=some.device)
            logits = self.judge.logits(self.soft, some, present, wanted, self.adapter)
            parts.append(token_nll(logits, wanted).mean(dim=1))
        losses: Losses = torch.cat(parts).double().cpu().numpy()
        return losses


@dataclass(frozen=True, slots=True, eq=False)
class Readers:
    """Who reads what: served, the noised prompt; floor, no prompt; ceiling, the clean one; plain, the clean one with
    neither soft prompt nor adapter. The first three were trained with the same adapters on the same text."""

    served: Reader
    floor: Reader
    ceiling: Reader
    plain: Reader

    @classmethod
    def load(cls, folder: Path, codec: ServedCodec, judge: Judge) -> Readers:
        """Of a codec and its folder; the references' LoRAs are added to the judge's model.

        Raises ArtifactError without references.
        """
        lowest, highest = (
            Reader(judge, soft.to(judge.embeddings.device), load_once(judge.model, folder / REFERENCES_FOLDER / name))
            for name, soft in load_references(folder).items()
        )
        return cls(Reader(judge, codec.soft_prompt, codec.adapter), lowest, highest, Reader(judge, None))

    def bounds(self, clean: Tensor, noiseless: Tensor, target: Tensor) -> Bounds:
        """Of windows: clean embeddings [B, T, D] of the prompts, and what the codec makes of them without noise."""
        readings = {
            "clean": self.ceiling.losses(clean, target),
            "plain": self.plain.losses(clean, target),
            "noiseless": self.served.losses(noiseless, target),
        }
        best = min(readings, key=lambda name: float(readings[name].mean()))
        return Bounds(self.floor.losses(clean[:, :0], target), readings[best], readings["plain"], best)


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """NLL of each window [B], nats a token. floor: no prompt. ceiling: the best of a clean prompt with the soft prompt
    that was trained for it (`clean`), without (`plain`), and the codec's own reading without noise (`noiseless`);
    `best` says which."""

    floor: Losses
    ceiling: Losses
    plain: Losses
    best: str

    def perplexities(self) -> dict[str, float]:
        """Of floor, ceiling and plain."""
        return {name: math.exp(float(getattr(self, name).mean())) for name in ("floor", "ceiling", "plain")}


def retained(losses: Sequence[Losses], bounds: Sequence[Bounds]) -> Estimate:
    """(floor - x) / (floor - ceiling), of codecs' losses x [B] and their bounds on the same windows."""
    kept = [bound.floor - loss for bound, loss in zip(bounds, losses, strict=True)]
    return Estimate.ratio(kept, [bound.floor - bound.ceiling for bound in bounds])
