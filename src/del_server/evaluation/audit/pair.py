"""Pair: the two tokens that an audit tells apart, and the table that it tries first, whose tokens lie in corners.

Knows nothing of frames or tests.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from del_codec.noise import LATENT_MAX
from del_codec.spec import CodecSpec
from del_codec.table import LatentTable

Pair = tuple[int, int]

_STARTS = 16
_SIGNS = 24


def corner_table(dim: int) -> LatentTable:
    """A table of no model whose tokens 0 and 1, and 2 and 3, lie in opposite corners of the box."""
    spec = CodecSpec(
        model="none",
        model_sha256="0" * 64,
        dim=dim,
        vocabulary=4,
        embedding_width=1,
        tokenizer_sha256="0" * 64,
        chat_template_sha256="",
        mu_milli_min=1,
        mu_milli_max=10**7,
    )
    mixed = np.random.default_rng(_SIGNS).choice([-1, 1], dim)
    signs = np.stack([np.ones(dim, dtype=np.int64), -np.ones(dim, dtype=np.int64), mixed, -mixed])
    latents = (LATENT_MAX * signs).astype(np.int8)
    return LatentTable.from_bytes(LatentTable.to_bytes(spec, latents, np.ones(4, dtype=np.uint32)))


def farthest_pair(table: LatentTable) -> Pair:
    """Two tokens whose rows are far apart: the farthest, in squares, that walks from token to farthest token find.

    It need not be the worst pair of the table. Squares, since the divergence of two coordinates grows with the square
    of their difference where the noise is strong.
    """
    rows = table.latents.astype(np.float32)
    norms = np.square(rows).sum(axis=1)
    starts = np.argsort(-norms, kind="stable")[:_STARTS]
    found = [_walk(rows, norms, int(start)) for start in starts]
    _, first, second = max(found)
    return first, second


def _walk(rows: npt.NDArray[np.float32], norms: npt.NDArray[np.float32], at: int) -> tuple[float, int, int]:
    """(distance, token, token) where going from a token to the farthest one no longer leads farther."""
    best, before = -1.0, at
    while True:
        distances = norms + norms[at] - 2 * (rows @ rows[at])
        farthest = int(distances.argmax())
        if distances[farthest] <= best:
            return best, min(before, at), max(before, at)
        best, before, at = float(distances[farthest]), at, farthest
