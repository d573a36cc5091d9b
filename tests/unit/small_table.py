"""A table small enough for arithmetic by brute force, and Bayes' rule on it straight from the binomial law."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from del_codec.noise import GRID, NoiseSetting
from del_codec.spec import CodecSpec
from del_codec.table import LatentTable


def small_spec(vocabulary: int = 24, dim: int = 4, embedding_width: int = 6) -> CodecSpec:
    """The spec of a codec that was made for no model."""
    return CodecSpec(
        model="none",
        model_sha256="0" * 64,
        dim=dim,
        vocabulary=vocabulary,
        embedding_width=embedding_width,
        tokenizer_sha256="0" * 64,
        chat_template_sha256="",
        mu_milli_min=1000,
        mu_milli_max=60_000,
    )


def small_table(vocabulary: int = 24, dim: int = 4, embedding_width: int = 6) -> LatentTable:
    """Random latents that reach the box's corners, and counts from 0 to 2000: a prior with a clear favourite."""
    rng = np.random.default_rng(7)
    latents = rng.integers(-127, 128, (vocabulary, dim)).astype(np.int8)
    latents[0, 0], latents[1, 0] = -127, 127
    counts = np.floor(2000 / np.arange(1, vocabulary + 1) ** 1.5).astype(np.uint32)
    counts[-1] = 0
    spec = small_spec(vocabulary, dim, embedding_width)
    return LatentTable.from_bytes(LatentTable.to_bytes(spec, latents, counts))


def bayes(
    table: LatentTable, levels: npt.NDArray[np.uint8], setting: NoiseSetting, prior: npt.NDArray[np.float64] | None
) -> npt.NDArray[np.float64]:
    """P(token | levels) [T, V], every coordinate by the binomial law itself, in float64; prior None is uniform."""
    p = setting.thresholds(table.latents) / GRID
    log_likelihood = stats.binom.logpmf(levels[:, None, :], setting.levels, p[None]).sum(axis=2)
    log_prior = np.zeros(table.spec.vocabulary) if prior is None else np.log(prior)
    posterior: npt.NDArray[np.float64] = special.softmax(log_likelihood + log_prior, axis=1)
    return posterior
