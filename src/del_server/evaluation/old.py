"""What a codec is worth and what it gives away, measured on the very path that is deployed.

Prompts are encoded as a device encodes them (the baked table, the operating system's randomness), decoded as the server
decodes them, and judged by the frozen LLM: continuation NLL, the share retained between a trained floor and a trained
ceiling, and the share of tokens that attacks recover.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from del_codec.attacks import log_odds
from del_codec.encode import encode
from del_codec.errors import ArtifactError
from del_codec.frame import PrivateSegment
from del_codec.noise import LATENT_MAX, NoiseSetting
from del_server.codec import REFERENCES_FILE, ServedCodec
from del_server.training.objective import Judge, token_nll
from del_server.training.text import Batch, Ids, windows


@dataclass(frozen=True, slots=True)
class Share:
    """A mean over windows with its standard error."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Share:
        """Mean and standard error of the mean."""
        spread = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(float(np.mean(values)), spread)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Continuation NLL, nats a token: floor (no prompt), ceiling (the better of clean prompts with and without the soft
    prompt that was trained for them), plain (a clean prompt alone)."""

    floor: float
    ceiling: float
    plain: float


@dataclass(frozen=True, slots=True)
class Row:
    """One setting on one text. map: per-token MAP with the unigram prior; decoder: nearest embedding of what the
    decoder gives the LLM, which uses the whole prompt; prior: always guessing the commonest token."""

    text: str
    mu: float
    bits: int
    bytes_per_token: float
    nll: Share
    retained: Share
    prior: float
    map: Share
    decoder: Share

    @property
    def attack_success(self) -> float:
        """The strongest attack measured here."""
        return max(self.prior, self.map.mean, self.decoder.mean)


class Evaluation:
    """Evaluates one codec with one model on texts of ids."""

    def __init__(self, codec: ServedCodec, folder: Path, model: Any) -> None:
        self.codec, self.judge = codec, Judge(model)
        self.device = self.judge.embeddings.device
        try:
            references = safetensors.torch.load_file(folder / REFERENCES_FILE)
            self.floor, self.ceiling = (references[k].float().to(self.device) for k in ("floor", "ceiling"))
        except (OSError, KeyError, safetensors.SafetensorError) as error:
            raise ArtifactError(
                f"{folder / REFERENCES_FILE} holds no floor and ceiling: {error}; train again"
            ) from None
        table = codec.table
        self._index = torch.from_numpy(table.latents.astype(np.int64) + LATENT_MAX).to(self.device)
        self._log_prior = torch.from_numpy(np.log(table.prior)).float().to(self.device)
        self._directions = F.normalize(self.judge.embeddings.float(), dim=-1)

    def bounds(self, batches: Sequence[Batch]) -> Bounds:
        """Floor and ceiling on a text."""
        empty = [self._nll(self.floor, None, batch) for batch in batches]
        clean = [self._nll(self.ceiling, self._clean(batch), batch) for batch in batches]
        plain = [self._nll(None, self._clean(batch), batch) for batch in batches]
        floor, ceiling, bare = (float(np.concatenate(values).mean()) for values in (empty, clean, plain))
        return Bounds(floor, min(ceiling, bare), bare)

    def measure(
        self,
        name: str,
        stream: Ids,
        *,
        mus: Sequence[float],
        bits: Sequence[int],
        prompt: int,
        continuation: int,
        count: int,
    ) -> tuple[Bounds, list[Row]]:
        """All settings on `count` windows of a text."""
        batches = list(windows(stream, count, prompt, continuation))
        bounds = self.bounds(batches)
        return bounds, [self._row(name, batches, bounds, mu, n) for n in bits for mu in mus]

    def _row(self, name: str, batches: Sequence[Batch], bounds: Bounds, mu: float, bits: int) -> Row:
        table = self.codec.table
        setting = NoiseSetting.from_mu(mu, table.spec.dim, bits)
        commonest = int(table.unigram_counts.argmax())
        losses: list[float] = []
        read: dict[str, list[float]] = {"prior": [], "map": [], "decoder": []}
        for batch in batches:
            segments = [encode(table, ids, setting) for ids in batch.prompt]
            embedded = torch.stack([self.codec.embed([segment]) for segment in segments])
            losses += self._nll(None, embedded, batch).tolist()
            truth = torch.from_numpy(batch.prompt).to(self.device)
            read["prior"] += (truth == commonest).float().mean(dim=1).tolist()
            read["map"] += (self._map(segments) == truth).float().mean(dim=1).tolist()
            nearest = self._nearest(embedded[:, self.codec.soft_tokens :])
            read["decoder"] += (nearest == truth).float().mean(dim=1).tolist()
        span = bounds.floor - bounds.ceiling
        return Row(
            text=name,
            mu=mu,
            bits=bits,
            bytes_per_token=table.spec.dim * bits / 8,
            nll=Share.of(losses),
            retained=Share.of([(bounds.floor - x) / span for x in losses]),
            prior=float(np.mean(read["prior"])),
            map=Share.of(read["map"]),
            decoder=Share.of(read["decoder"]),
        )

    def _clean(self, batch: Batch) -> Tensor:
        return self.judge.embeddings[torch.from_numpy(batch.prompt).to(self.device)]

    @torch.inference_mode()
    def _nll(self, soft: Tensor | None, prompt: Tensor | None, batch: Batch) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Mean continuation NLL of each window [B]."""
        target = torch.from_numpy(batch.target).to(self.device)
        if prompt is None:
            prompt = self.judge.embeddings.new_zeros(len(target), 0, self.judge.embeddings.shape[1])
        present = torch.ones(prompt.shape[:2], dtype=torch.bool, device=self.device)
        logits = self.judge.logits(soft, prompt, present, target)
        losses = token_nll(logits, target).mean(dim=1)
        return losses.double().cpu().numpy()

    @torch.inference_mode()
    def _map(self, segments: Sequence[PrivateSegment]) -> Tensor:
        """Per-token MAP guesses [B, T]: the attack of del_codec.attacks, on the model's device."""
        setting, dim = segments[0].setting, self.codec.table.spec.dim
        theta, log_complement = (torch.from_numpy(a).float().to(self.device) for a in log_odds(setting))
        bias = setting.levels * log_complement[self._index].sum(dim=1) + self._log_prior
        odds = theta[self._index].T
        guesses = [
            torch.addmm(bias, torch.from_numpy(s.levels(dim)).float().to(self.device), odds).argmax(dim=1)
            for s in segments
        ]
        return torch.stack(guesses)

    @torch.inference_mode()
    def _nearest(self, embedded: Tensor) -> Tensor:
        """Ids [B, T] whose embeddings lie nearest in angle."""
        rows = [(F.normalize(window.float(), dim=-1) @ self._directions.T).argmax(dim=-1) for window in embedded]
        return torch.stack(rows)


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table."""
    lines = [
        "| text | mu | bits | bytes/token | PPL | retained | prior only | MAP | decoder NN |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.text} | {r.mu:g} | {r.bits} | {r.bytes_per_token:g} | {math.exp(r.nll.mean):.1f} "
        f"| {r.retained.mean:.2f} ± {r.retained.error:.2f} | {r.prior:.3f} | {r.map.mean:.3f} ± {r.map.error:.3f} "
        f"| {r.decoder.mean:.3f} ± {r.decoder.error:.3f} |"
        for r in rows
    ]
    return "\n".join(lines)


def to_json(bounds: dict[str, Bounds], rows: Sequence[Row]) -> dict[str, Any]:
    """Everything measured, for machines."""
    return {"bounds": {name: asdict(b) for name, b in bounds.items()}, "rows": [asdict(row) for row in rows]}
