"""What encoding and decoding cost a token, of what that is made, beside others' ways; and how right the estimate is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import torch
from bitarray.util import int2ba

from benchmarks.report.results import Recorder
from benchmarks.section import Plot, Section, Settings, Step, Table
from benchmarks.turns import in_turns
from del_codec.bitpack import pack
from del_codec.encode import encode
from del_codec.frame import PrivateSegment
from del_codec.keystream import keystream
from del_codec.noise import GRID, LATENT_MAX, NoiseSetting
from del_codec.randomize import randomize
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.spec import CodecSpec
from del_codec.table import LatentTable

TOKENS = 256
MU = 8.0
WIDTH = 576
SHIPPED_DIM = 64
BITS = (1, 2, 3, 4, 5, 6, 7, 8)
DIMS = (16, 32, 64, 128, 256)
IDS = np.arange(1000, 1000 + TOKENS)
DEL, NUMPY = "DEL", "numpy binomial, packbits"
ESTIMATES = 1 << 12
Levels = npt.NDArray[np.uint8]


@cache
def table_of(dim: int) -> LatentTable:
    """The shipped codec's, or one of random latents where that has another dimension."""
    if dim == SHIPPED_DIM:
        return LatentTable.load(codec_folders()[0] / DEVICE_FILE)
    spec = CodecSpec("none", "0" * 64, dim, 4096, WIDTH, "0" * 64, "", 1000, 60_000)
    latents = np.random.default_rng(0).integers(-LATENT_MAX, LATENT_MAX + 1, (4096, dim)).astype(np.int8)
    return LatentTable.from_bytes(LatentTable.to_bytes(spec, latents, np.ones(4096, dtype=np.uint32)))


def encoding(bits: int, dim: int = SHIPPED_DIM) -> Callable[[], PrivateSegment]:
    """A call that encodes TOKENS tokens."""
    return partial(encode, table_of(dim), IDS, NoiseSetting.from_mu(MU, dim, bits))


def numpy_encoding(bits: int, dim: int) -> Callable[[], bytes]:
    """The same law by numpy's generator, which is not one for secrets."""
    chances, levels = _chances(bits, dim), (1 << bits) - 1
    generator = np.random.default_rng(0)
    return lambda: numpy_pack(generator.binomial(levels, chances()).astype(np.uint8), bits)


def torch_encoding(bits: int, dim: int) -> Callable[[], bytes]:
    """By torch.binomial."""
    chances, levels = _chances(bits, dim), float((1 << bits) - 1)

    def work() -> bytes:
        chance = torch.from_numpy(chances()).float()
        return numpy_pack(torch.binomial(torch.full_like(chance, levels), chance).to(torch.uint8).numpy(), bits)

    return work


def distributions_encoding(bits: int, dim: int) -> Callable[[], bytes]:
    """By torch.distributions."""
    chances, levels = _chances(bits, dim), (1 << bits) - 1

    def work() -> bytes:
        law = torch.distributions.Binomial(levels, torch.from_numpy(chances()).float())
        return numpy_pack(law.sample().to(torch.uint8).numpy(), bits)

    return work


def _chances(bits: int, dim: int) -> Callable[[], npt.NDArray[np.float64]]:
    table, setting = table_of(dim), NoiseSetting.from_mu(MU, dim, bits)
    every = np.arange(-LATENT_MAX, LATENT_MAX + 1).astype(np.int8)
    chance_of = setting.thresholds(every) / GRID
    return lambda: chance_of[table.rows(IDS).astype(np.int16) + LATENT_MAX]


def numpy_pack(levels: Levels, bits: int) -> bytes:
    """Bit by bit."""
    places = np.arange(bits - 1, -1, -1, dtype=np.uint8)
    return np.packbits((levels.reshape(-1, 1) >> places) & 1).tobytes()


def bitarray_pack(levels: Levels, bits: int) -> bytes:
    """Integer by integer, as bitarray's documentation shows."""
    packed = int2ba(0, 1)[:0]
    for level in levels.ravel().tolist():
        packed += int2ba(level, bits)
    return packed.tobytes()


def numpy_unpack(payload: bytes, count: int, bits: int) -> Levels:
    """The way back."""
    spread = np.unpackbits(np.frombuffer(payload, dtype=np.uint8), count=count * bits).reshape(-1, bits)
    return (spread << np.arange(bits - 1, -1, -1, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)


def encode_cost(bits: int, dim: int, repeats: int, record: Recorder) -> None:
    """All ways, and the parts of ours. Random bytes: a byte a coordinate, two above one bit, before ties."""
    drawn = TOKENS * dim * (1 if bits == 1 else 2)
    segment = encoding(bits, dim)()
    works: dict[str, Callable[[], object]] = {
        DEL: encoding(bits, dim),
        NUMPY: numpy_encoding(bits, dim),
        "torch.binomial": torch_encoding(bits, dim),
        "torch.distributions": distributions_encoding(bits, dim),
        "limit: its random bytes alone": partial(keystream, drawn),
        "limit: a copy of its payload": lambda: bytearray(segment.payload),
    }
    _record(record, "encode", works, {"bits": bits, "dim": dim}, repeats, NUMPY)


def parts_cost(bits: int, repeats: int, record: Recorder) -> None:
    """Shares of one encoding."""
    setting, table = NoiseSetting.from_mu(MU, SHIPPED_DIM, bits), table_of(SHIPPED_DIM)
    rows = table.rows(IDS)
    levels = randomize(rows, setting)
    works: dict[str, Callable[[], object]] = {
        "whole": encoding(bits),
        "randomness": partial(keystream, TOKENS * SHIPPED_DIM * (1 if bits == 1 else 2)),
        "packing": partial(pack, levels, bits),
    }
    turns = in_turns(works, repeats)
    for whole, random, packing in zip(*(turns[name] for name in works), strict=True):
        shares = {"randomness": random.seconds / whole.seconds, "packing": packing.seconds / whole.seconds}
        shares["laws and the rest"] = 1 - sum(shares.values())
        for way, share in shares.items():
            record.add("share of encoding", share, "", "neither", way, {"bits": bits})


def packing_cost(bits: int, repeats: int, record: Recorder) -> None:
    """Packing alone."""
    levels = np.random.default_rng(0).integers(0, 1 << bits, (TOKENS, SHIPPED_DIM)).astype(np.uint8)
    works: dict[str, Callable[[], object]] = {
        DEL: partial(pack, levels, bits),
        "numpy packbits": partial(numpy_pack, levels, bits),
        "bitarray": partial(bitarray_pack, levels, bits),
    }
    _record(record, "pack", works, {"bits": bits}, repeats, "numpy packbits")


def decode_cost(bits: int, dim: int, repeats: int, record: Recorder) -> None:
    """Bytes to unbiased latents; the server's network comes after it."""
    segment = encoding(bits, dim)()
    setting = segment.setting
    works: dict[str, Callable[[], object]] = {
        DEL: partial(segment.latents, dim),
        "numpy unpackbits": lambda: setting.estimate(numpy_unpack(segment.payload, TOKENS * dim, bits)),
    }
    _record(record, "decode to latents", works, {"bits": bits, "dim": dim}, repeats, "numpy unpackbits")


def casting_cost(repeats: int, record: Recorder) -> None:
    """What sending embeddings would cost a device instead of a table of latents, without any privacy."""
    embeddings = np.random.default_rng(0).standard_normal((4096, WIDTH)).astype(np.float32)

    def int8() -> bytes:
        rows = embeddings[IDS]
        scale = np.abs(rows).max(axis=1, keepdims=True) / 127
        return np.rint(rows / scale).astype(np.int8).tobytes() + scale.tobytes()

    works: dict[str, Callable[[], object]] = {
        "float32 embeddings": lambda: embeddings[IDS].tobytes(),
        "float16 embeddings": lambda: embeddings[IDS].astype(np.float16).tobytes(),
        "int8 embeddings": int8,
    }
    _record(record, "cast", works, {"width": WIDTH}, repeats, "float32 embeddings")


def estimate_error(bits: int, record: Recorder) -> None:
    """Bias in standard errors, and variance over its theory (dA^2 - |v|^2)/u, over ESTIMATES tokens."""
    table, setting = table_of(SHIPPED_DIM), NoiseSetting.from_mu(MU, SHIPPED_DIM, bits)
    rows = table.rows(np.arange(ESTIMATES) % table.spec.vocabulary)
    truth = rows / LATENT_MAX
    errors = setting.estimate(randomize(rows, setting)).astype(np.float64) - truth
    theory = (setting.amplitude**2 - truth**2) / setting.levels
    record.add("bias", float(errors.sum() / np.sqrt(theory.sum())), "standard errors", "neither", DEL, {"bits": bits})
    record.add("variance over theory", float((errors**2).sum() / theory.sum()), "", "neither", DEL, {"bits": bits})


def _record(
    record: Recorder, name: str, works: dict[str, Callable[[], object]], at: dict[str, float], repeats: int, peer: str
) -> None:
    for way, turns in in_turns(works, repeats).items():
        for turn in turns:
            against = "" if way == peer or way.startswith("limit") else peer
            record.add(name, turn.seconds / TOKENS, "s", "lower", way, at, against, turn.unit)


@contextmanager
def steps(settings: Settings) -> Iterator[list[Step]]:
    """Every number of bits at the shipped dimension, every dimension at one and four bits."""
    repeats = 7 if settings.quick else 31
    bits = (1, 2, 4, 8) if settings.quick else BITS
    dims = (16, 64, 256) if settings.quick else DIMS
    places = [(n, SHIPPED_DIM) for n in bits] + [(n, dim) for n in (1, 4) for dim in dims if dim != SHIPPED_DIM]
    estimates = 3 if settings.quick else 20
    torch.set_num_threads(1)
    yield [
        *(Step(f"encode, {n} bits, d = {dim}", partial(encode_cost, n, dim, repeats)) for n, dim in places),
        *(Step(f"decode, {n} bits, d = {dim}", partial(decode_cost, n, dim, repeats)) for n, dim in places),
        *(Step(f"parts, {n} bits", partial(parts_cost, n, repeats)) for n in bits),
        *(Step(f"packing, {n} bits", partial(packing_cost, n, repeats)) for n in bits),
        Step("casting", partial(casting_cost, repeats)),
        *(Step(f"estimate, {n} bits", partial(estimate_error, n)) for n in bits for _ in range(estimates)),
    ]


PLACE = ("bits", "dim")
SECTION = Section(
    group="codec",
    title="The codec",
    about=(
        f"CPU time a token, {TOKENS} tokens at once, at mu {MU:g}. `encode` is all of a device's path from ids to "
        "packed bytes; the peers draw the same law from generators that are not made for secrets, and pack bit by bit. "
        "`limit` rows are what no encoder can beat: making as many random bytes, writing as many bytes. `bias` is the "
        "mean error in standard errors (two or three are chance), `variance over theory` should be 1."
    ),
    steps=steps,
    tables=(
        Table("Encoding, a token", PLACE, ("encode",)),
        Table("What encoding is made of", ("bits",), ("share of encoding",)),
        Table("Decoding to latents, a token", PLACE, ("decode to latents",)),
        Table("Packing alone, a token", ("bits",), ("pack",)),
        Table("Casting embeddings instead, a token", ("width",), ("cast",)),
        Table("The estimate against theory", ("bits",), ("bias", "variance over theory")),
    ),
    plots=(
        Plot("Encoding a token, by bits", "encode", "bits", where={"dim": SHIPPED_DIM}),
        Plot("Encoding a token at one bit, by dimension", "encode", "dim", where={"bits": 1}),
        Plot("Decoding a token to latents, by bits", "decode to latents", "bits", where={"dim": SHIPPED_DIM}),
        Plot("Packing a token, by bits", "pack", "bits"),
    ),
)
