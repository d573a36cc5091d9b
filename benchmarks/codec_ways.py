"""Ways to encode and to pack: the codec's, straightforward ones in numpy and torch, bitarray's, and plain casts.

All that encode draw the same law and leave the same bytes; only the codec's draws from a generator made for secrets.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import torch
from bitarray import bitarray
from bitarray.util import int2ba

from benchmarks.random_codec import VOCABULARY, WIDTH, table_bytes
from del_codec.encode import encode
from del_codec.frame import PrivateSegment
from del_codec.keystream import keystream
from del_codec.noise import GRID, LATENT_MAX, NoiseSetting
from del_codec.randomize import randomize
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable

TOKENS = 256
MU = 8.0
SHIPPED_DIM = 64
IDS = np.arange(1000, 1000 + TOKENS)
Levels = npt.NDArray[np.uint8]


@cache
def table_of(dim: int) -> LatentTable:
    """The shipped codec's, or one of random latents where that has another dimension."""
    if dim == SHIPPED_DIM:
        return LatentTable.load(codec_folders()[0] / DEVICE_FILE)
    return LatentTable.from_bytes(table_bytes(VOCABULARY, dim))


def encoding(bits: int, dim: int = SHIPPED_DIM) -> Callable[[], PrivateSegment]:
    """A call that encodes TOKENS tokens."""
    return partial(encode, table_of(dim), IDS, NoiseSetting.from_mu(MU, dim, bits))


def numpy_encoding(bits: int, dim: int) -> Callable[[], bytes]:
    """The same law by numpy's generator, which is not one for secrets."""
    chances, levels = _chances(bits, dim), (1 << bits) - 1
    generator = np.random.default_rng(0)
    return lambda: numpy_pack(generator.binomial(levels, chances()).astype(np.uint8), bits)


def torch_encoding(bits: int, dim: int, device: str = "cpu") -> Callable[[], bytes]:
    """By torch.binomial, drawn on a device of torch's."""
    chances, levels = _chances(bits, dim), float((1 << bits) - 1)

    def work() -> bytes:
        chance = torch.from_numpy(chances()).to(device, torch.float32)
        drawn = torch.binomial(torch.full_like(chance, levels), chance)
        return numpy_pack(drawn.to(torch.uint8).cpu().numpy(), bits)

    return work


def distributions_encoding(bits: int, dim: int, device: str = "cpu") -> Callable[[], bytes]:
    """By torch.distributions, drawn on a device of torch's."""
    chances, levels = _chances(bits, dim), (1 << bits) - 1

    def work() -> bytes:
        law = torch.distributions.Binomial(levels, torch.from_numpy(chances()).to(device, torch.float32))
        return numpy_pack(law.sample().to(torch.uint8).cpu().numpy(), bits)

    return work


def drawing(bits: int, dim: int) -> Callable[[], list[bytes]]:
    """The random bytes of one encoding alone, in as many calls, ties included."""
    counts: list[int] = []

    def counted(count: int) -> bytes:
        counts.append(count)
        return keystream(count)

    randomize(table_of(dim).rows(IDS), NoiseSetting.from_mu(MU, dim, bits), counted)
    return lambda: [keystream(count) for count in counts]


def moving(bits: int, dim: int) -> Callable[[], tuple[bytes, bytes]]:
    """What an encoding can't do without moving: its rows in, its payload out."""
    rows, payload = table_of(dim).rows(IDS).tobytes(), encoding(bits, dim)().payload
    return lambda: (bytes(memoryview(rows)), bytes(memoryview(payload)))


def _chances(bits: int, dim: int) -> Callable[[], npt.NDArray[np.float64]]:
    table, setting = table_of(dim), NoiseSetting.from_mu(MU, dim, bits)
    every = np.arange(-LATENT_MAX, LATENT_MAX + 1).astype(np.int8)
    chance_of = setting.thresholds(every) / GRID
    return lambda: chance_of[table.rows(IDS).astype(np.int16) + LATENT_MAX]


def numpy_pack(levels: Levels, bits: int) -> bytes:
    """Bit by bit."""
    places = np.arange(bits - 1, -1, -1, dtype=np.uint8)
    return np.packbits((levels.reshape(-1, 1) >> places) & 1).tobytes()


@cache
def _codes(bits: int) -> dict[int, bitarray]:
    return {level: int2ba(level, bits) for level in range(1 << bits)}


def bitarray_pack(levels: Levels, bits: int) -> bytes:
    """By bitarray's own encoding of symbols, each with its bits for a code."""
    packed = bitarray()
    packed.encode(_codes(bits), levels.ravel().tolist())
    return packed.tobytes()


def numpy_unpack(payload: bytes, count: int, bits: int) -> Levels:
    """The way back."""
    spread = np.unpackbits(np.frombuffer(payload, dtype=np.uint8), count=count * bits).reshape(-1, bits)
    return (spread << np.arange(bits - 1, -1, -1, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)


def casts() -> dict[str, Callable[[], bytes]]:
    """TOKENS embeddings, WIDTH wide, as a device would send them that has their matrix."""
    embeddings = np.random.default_rng(0).standard_normal((VOCABULARY // 8, WIDTH), dtype=np.float32)

    def int8() -> bytes:
        rows = embeddings[IDS]
        scale = np.abs(rows).max(axis=1, keepdims=True) / 127
        return np.rint(rows / scale).astype(np.int8).tobytes() + scale.tobytes()

    return {
        "float32 embeddings": lambda: embeddings[IDS].tobytes(),
        "float16 embeddings": lambda: embeddings[IDS].astype(np.float16).tobytes(),
        "int8 embeddings": int8,
    }
