"""PromptDecoder: segments to prompt embeddings, one prompt or many. Knows nothing of files, engines or gRPC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from del_codec.attacks import log_odds
from del_codec.errors import InvalidValue
from del_codec.frame import PrivateSegment, PublicSegment, Segment
from del_codec.noise import LATENT_MAX, NoiseSetting
from del_codec.projection import (
    ContextDecoder,
    LinearDecoder,
    NoisyPrompt,
    noise_features,
)
from del_codec.table import LatentTable
from del_server.posterior import RANK, PosteriorMean, posterior_mean

# Positions whose posterior is computed at a time: on a CPU for each thread, so few that their weights stay near it.
_CHUNK, _CPU_CHUNK = 256, 32
# The quick mean is one of embeddings that are wider than what it saves.
LEAST_WIDTH = 4 * RANK


def share_no_threads() -> None:
    """Let torch compute what the calling thread asks for in that thread alone; threads made later are as they would be.

    Two threads that each decode half of a prompt are done sooner than two that meet after every operation.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    # It is also what threads begin with that are made afterwards: the last number that any thread was given.
    (restoring := Thread(target=torch.set_num_threads, args=(before,))).start()
    restoring.join()


# One for each prompt that is decoded at a time; see app.DECODERS.
_HELPERS = ThreadPoolExecutor(2, thread_name_prefix="decode-helper", initializer=share_no_threads)


class PromptDecoder:
    """Decodes the private segments of a prompt together; embeddings of public ids are the model's own.

    embeddings: the LLM's input embeddings as its layers read them, [V, D]; the decoder computes in float32 on their
    device and returns their dtype.
    """

    def __init__(self, table: LatentTable, decoder: LinearDecoder | ContextDecoder, embeddings: Tensor) -> None:
        self.table = table
        self._embeddings = embeddings
        self._device = embeddings.device
        self.network = decoder.to(self._device, torch.float32).eval()
        self._latents = torch.from_numpy(table.latents.astype(np.int32) + LATENT_MAX).to(self._device)
        self._log_prior = torch.from_numpy(np.log(table.prior)).to(self._device, torch.float32)
        quick = embeddings.device.type == "cpu" and embeddings.shape[1] >= LEAST_WIDTH
        self._mean: Callable[[Tensor, Tensor], Tensor] = (
            PosteriorMean(embeddings) if quick else partial(posterior_mean, embeddings=embeddings)
        )
        # A device keeps to a few settings; each costs V * d floats here.
        self._evidence = lru_cache(maxsize=8)(self._build_evidence)

    def __call__(self, segments: Sequence[Segment]) -> Tensor:
        """Embeddings [T, D] of all positions, in order.

        Raises FrameError for a payload that is not canonical, InvalidValue for an id outside of the vocabulary.
        """
        return self.batch([segments])[0][0]

    @torch.inference_mode()
    def batch(self, prompts: Sequence[Sequence[Segment]]) -> tuple[Tensor, Tensor]:
        """Embeddings [B, T, D] of several prompts, right-aligned, and which positions are not padding [B, T].

        Each prompt is decoded by itself, whatever stands beside it. Raises as for one.
        """
        read = [self._positions(segments) for segments in prompts]
        length = max(len(latents) for latents, *_ in read)
        latents, mean, noise, private, present = (
            torch.stack([_right_aligned(part, length) for part in column]) for column in zip(*read, strict=True)
        )
        hidden = any(isinstance(segment, PrivateSegment) for segments in prompts for segment in segments)
        decoded = self.network(NoisyPrompt(latents, mean, noise, private, present)) if hidden else mean
        return torch.where(private.unsqueeze(-1), decoded, mean).to(self._embeddings.dtype), present

    def _positions(self, segments: Sequence[Segment]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """latents [T, d], mean [T, D], noise [T, 3], private [T] and present [T] of one prompt."""
        parts = [
            self._noisy(segment) if isinstance(segment, PrivateSegment) else self._clear(segment)
            for segment in segments
        ]
        latents, mean, noise = (torch.cat(column) for column in zip(*parts, strict=True))
        private = torch.cat([torch.full((s.tokens,), isinstance(s, PrivateSegment)) for s in segments])
        private = private.to(self._device)
        return latents, mean, noise, private, torch.ones_like(private)

    @torch.inference_mode()
    def windows(self, levels: npt.NDArray[Any], setting: NoiseSetting) -> Tensor:
        """Embeddings [B, T, D] of B prompts at once, wholly private at one setting, from levels [B, T, d].

        Levels need not be whole: their means, u * t / 2^32, are what a prompt without any noise would give.
        """
        return self.mixed(levels, [setting], np.zeros(levels.shape[:2], np.int64))

    @torch.inference_mode()
    def mixed(
        self, levels: npt.NDArray[Any], settings: Sequence[NoiseSetting], setting_of: npt.NDArray[np.int64]
    ) -> Tensor:
        """As `windows`, each position at settings[setting_of[b, t]]."""
        places = [np.flatnonzero(setting_of == index) for index in range(len(settings))]
        flat = levels.reshape(-1, levels.shape[-1])
        read = [self._read(flat[here], setting) for here, setting in zip(places, settings, strict=True)]
        order = torch.from_numpy(np.argsort(np.concatenate(places))).to(self._device)
        parts = [torch.cat(column)[order] for column in zip(*read, strict=True)]
        return self.estimates(*(part.reshape(*levels.shape[:2], -1) for part in parts))

    @torch.inference_mode()
    def estimates(self, latents: Tensor, mean: Tensor, noise: Tensor) -> Tensor:
        """Embeddings [B, T, D] of B wholly private prompts, from what is known of each position: unbiased latents
        [B, T, d], posterior means [B, T, D] and noise features [B, T, 3]."""
        everywhere = torch.ones(latents.shape[:2], dtype=torch.bool, device=self._device)
        decoded: Tensor = self.network(NoisyPrompt(latents, mean, noise, everywhere, everywhere))
        return decoded.to(self._embeddings.dtype)

    def _noisy(self, segment: PrivateSegment) -> tuple[Tensor, Tensor, Tensor]:
        return self._read(segment.levels(self.table.spec.dim), segment.setting)

    def _read(self, levels: npt.NDArray[Any], setting: NoiseSetting) -> tuple[Tensor, Tensor, Tensor]:
        """Unbiased latents [N, d], posterior means [N, D] and noise features [N, 3] of levels [N, d]."""
        latents = torch.from_numpy(setting.estimate(levels)).to(self._device)
        features = noise_features(torch.tensor(setting.amplitude), torch.tensor(float(setting.levels)))
        noise = features.to(self._device, torch.float32).expand(len(levels), -1)
        if isinstance(self.network, LinearDecoder):
            mean = torch.zeros(len(levels), self.table.spec.embedding_width, device=self._device)
        else:
            counts = torch.from_numpy(levels).to(self._device, torch.float32)
            mean = self._means(counts, setting).float()
        return latents, mean, noise

    def _means(self, counts: Tensor, setting: NoiseSetting) -> Tensor:
        """Posterior means [N, D] of levels [N, d]: the most of what decoding takes, so two threads share it where
        torch itself has but one."""
        evidence = self._evidence(setting)

        @torch.inference_mode()
        def of(chunks: Sequence[Tensor]) -> list[Tensor]:
            return [self._mean(chunk, evidence) for chunk in chunks]

        if self._device.type != "cpu":
            return torch.cat(of(torch.split(counts, _CHUNK)))
        if (threads := torch.get_num_threads()) > 1:
            return torch.cat(of(torch.split(counts, min(_CHUNK, threads * _CPU_CHUNK))))
        half = -(-len(counts) // 2)
        chunks = torch.split(counts, max(1, min(half, _CPU_CHUNK)))
        if len(chunks) == 1:
            return torch.cat(of(chunks))
        middle = len(chunks) // 2
        others = _HELPERS.submit(of, chunks[middle:])
        return torch.cat([*of(chunks[:middle]), *others.result()])

    def _clear(self, segment: PublicSegment) -> tuple[Tensor, Tensor, Tensor]:
        ids = torch.tensor(segment.token_ids, dtype=torch.long)
        outside = ids[(ids < 0) | (ids >= len(self._embeddings))]
        if len(outside):
            raise InvalidValue("token_ids", int(outside[0]), f"the model knows ids 0 to {len(self._embeddings) - 1}")
        mean = self._embeddings[ids.to(self._device)].float()
        zeros = torch.zeros(segment.tokens, self.table.spec.dim, device=self._device)
        noise = noise_features(torch.ones(1), torch.ones(1)).new_zeros(segment.tokens, 3).to(self._device)
        return zeros, mean, noise

    def _build_evidence(self, setting: NoiseSetting) -> Tensor:
        """`evidence` [d + 1, V] of the exact posterior at one setting."""
        theta, log_complement = (torch.from_numpy(a).to(self._device, torch.float32) for a in log_odds(setting))
        bias = setting.levels * log_complement[self._latents].sum(dim=1) + self._log_prior
        return torch.cat([theta[self._latents].T, bias.unsqueeze(0)])


def _right_aligned(rows: Tensor, length: int) -> Tensor:
    """Rows [T, ...] behind as many zeros (or False) as make them `length`."""
    return torch.cat([rows.new_zeros(length - len(rows), *rows.shape[1:]), rows])
