"""Curriculum: which text, which noise and which spans the training sees at each step.

Everything is drawn from (seed, stage, step), so that a resumed run goes on exactly where it stopped.
Training's randomness protects nobody's words; it is numpy's and torch's, not the operating system's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from del_codec.errors import InvalidValue
from del_server.training.learner import Dial
from del_server.training.text import Batch, Corpus, chat_batch, text_batch

DIALS_PER_BATCH = 4
PLACEHOLDER_SHARE = 0.125


@dataclass(frozen=True, slots=True)
class Lesson:
    """One step: a batch, its noise settings, and which of them each position is sent at ([B, T])."""

    batch: Batch
    dials: list[Dial]
    dial_of: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Curriculum:
    """batch: sequences a step; mu_low, mu_high: the range of noise.

    The prompt's length is drawn from 16 to `prompt` tokens, so that short prompts are learned too.
    """

    corpus: Corpus
    batch: int
    prompt: int
    continuation: int
    dim: int
    mu_low: float
    mu_high: float
    chat_share: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.mu_low <= self.mu_high < 1e4:
            raise InvalidValue("mu", (self.mu_low, self.mu_high), "use LO:HI with 0 < LO <= HI < 10000")
        if self.batch < 1 or self.prompt < 16 or self.continuation < 1:
            raise InvalidValue(
                "batch, prompt", (self.batch, self.prompt), "use a batch of 1 and a prompt of 16 or more"
            )
        if not 0 <= self.chat_share <= 1:
            raise InvalidValue("chat_share", self.chat_share, "use a share from 0 to 1")
        if not 0 <= self.seed < 1 << 31:
            raise InvalidValue("seed", self.seed, "use a whole number from 0 to 2147483647")
        if not len(self.corpus.stream) and not self.corpus.turns:
            raise InvalidValue("text", "nothing", "give text files or samples of the model's own")
        window = self.prompt + self.continuation
        if 0 < len(self.corpus.stream) < window:
            raise InvalidValue("text", f"{len(self.corpus.stream)} tokens", f"give at least {window} tokens of text")

    def lesson(self, stage: int, step: int) -> Lesson:
        """The lesson of a step."""
        rng = np.random.default_rng([self.seed, stage, step])
        text = self.corpus
        if text.turns and (not len(text.stream) or rng.random() < self.chat_share):
            batch = chat_batch(text.turns, text.between, rng, self.batch, self.continuation)
        else:
            length = int(rng.integers(16, self.prompt + 1))
            batch = text_batch(text.stream, rng, self.batch, length, self.continuation)
            batch = _with_public_spans(batch, rng)
            batch = self._with_placeholders(batch, rng)
        dials = draw_dials(rng, self.mu_low, self.mu_high, self.dim)
        return Lesson(batch, dials, _segments(batch.prompt.shape, rng))

    def _with_placeholders(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """One sequence in eight has a placeholder, in the clear, where some of its words were."""
        prompt, private = batch.prompt.copy(), batch.private.copy()
        fitting = [ids for ids in self.corpus.placeholders if len(ids) < prompt.shape[1] // 2]
        for row in np.flatnonzero(rng.random(len(prompt)) < PLACEHOLDER_SHARE) if fitting else ():
            ids = fitting[rng.integers(len(fitting))]
            start = rng.integers(0, prompt.shape[1] - len(ids) + 1)
            prompt[row, start : start + len(ids)] = ids
            private[row, start : start + len(ids)] = False
        return Batch(prompt, private, batch.present, batch.target, batch.scored)


def draw_dials(rng: np.random.Generator, mu_low: float, mu_high: float, dim: int) -> list[Dial]:
    """mu is uniform in its square root (weak noise teaches more, strong noise matters more); half are at 1 bit."""
    roots = rng.uniform(mu_low**0.5, mu_high**0.5, DIALS_PER_BATCH)
    bits = np.where(rng.random(DIALS_PER_BATCH) < 0.5, 1, rng.integers(2, 9, DIALS_PER_BATCH))
    return [Dial.from_mu(float(root**2), dim, int(n)) for root, n in zip(roots, bits, strict=True)]


def _with_public_spans(batch: Batch, rng: np.random.Generator) -> Batch:
    """One sequence in eight has a span of its prompt in the clear."""
    count, length = batch.prompt.shape
    start = rng.integers(0, length, (count, 1))
    end = start + rng.integers(1, max(2, length // 4), (count, 1))
    place = np.arange(length)
    public = (place >= start) & (place < end) & (rng.random((count, 1)) < 0.125)
    return Batch(batch.prompt, batch.private & ~public, batch.present, batch.target, batch.scored)


def _segments(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Dial of each position [B, T]: one a sequence, or another one from some place on (one sequence in four), or two
    that are scattered over it, token by token (one in four)."""
    count, length = shape
    place = np.arange(length)[None, :]
    kind = rng.random((count, 1))
    border = rng.integers(0, length, (count, 1)) + length * (kind >= 0.25)
    scattered = (kind >= 0.75) & (rng.random(shape) < rng.random((count, 1)))
    dials = rng.integers(0, DIALS_PER_BATCH, (2, count, 1), dtype=np.int64)
    segments: npt.NDArray[np.int64] = np.where((place < border) & ~scattered, dials[:1], dials[1:])[0]
    return segments
