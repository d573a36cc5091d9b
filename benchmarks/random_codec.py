"""Codecs of any size, filled with random numbers: what they cost is what trained ones cost."""

from __future__ import annotations

import numpy as np
import torch

from del_codec.noise import LATENT_MAX
from del_codec.projection import ContextDecoder, ProjectionConfig
from del_codec.spec import CodecSpec
from del_codec.table import LatentTable
from del_server.decoder import PromptDecoder

# SmolLM2's.
VOCABULARY, WIDTH = 49_152, 576


def table_bytes(vocabulary: int, dim: int) -> bytes:
    """The device's half."""
    spec = CodecSpec("none", "0" * 64, dim, vocabulary, WIDTH, "0" * 64, "", 1000, 60_000)
    draw = np.random.default_rng(0)
    latents = draw.integers(-LATENT_MAX, LATENT_MAX + 1, (vocabulary, dim)).astype(np.int8)
    return LatentTable.to_bytes(spec, latents, draw.integers(1, 1000, vocabulary).astype(np.uint32))


def decoder(table: LatentTable) -> PromptDecoder:
    """The server's half: a network of the shipped codec's shape, and a model's embeddings."""
    network = ContextDecoder(ProjectionConfig(table.spec.dim, WIDTH, 1.0))
    return PromptDecoder(table, network, torch.randn(table.spec.vocabulary, WIDTH))
