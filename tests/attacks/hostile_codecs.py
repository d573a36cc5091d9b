"""Codecs as a hostile server would make them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from del_codec.spec import CodecSpec, Measured
from del_codec.table import LatentTable

VOCABULARY = 300


def codec(
    *,
    dim: int = 16,
    latents: npt.NDArray[np.int8] | None = None,
    counts: npt.NDArray[np.uint32] | None = None,
    model: str = "hostile",
    mu_milli_max: int = 1_000_000,
    measured: tuple[Measured, ...] = (),
) -> LatentTable:
    """A table with rows drawn at random unless they are given; every field is the server's to choose."""
    spec = CodecSpec(model, "0" * 64, dim, VOCABULARY, 32, "0" * 64, "", 1000, mu_milli_max, measured)
    if latents is None:
        latents = np.random.default_rng(0).integers(-127, 128, (VOCABULARY, dim)).astype(np.int8)
    if counts is None:
        counts = np.ones(VOCABULARY, dtype=np.uint32)
    return LatentTable.from_bytes(LatentTable.to_bytes(spec, latents, counts))
