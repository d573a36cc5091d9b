"""What encoding and decoding cost a token, of what that is made, beside others' ways; and how right the estimate is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch

from benchmarks.codec_ways import (
    IDS,
    MU,
    SHIPPED_DIM,
    TOKENS,
    bitarray_pack,
    casts,
    distributions_encoding,
    drawing,
    encoding,
    moving,
    numpy_encoding,
    numpy_pack,
    numpy_unpack,
    table_of,
    torch_encoding,
)
from benchmarks.estimate_error import estimate_error
from benchmarks.random_codec import WIDTH
from benchmarks.report.results import Recorder
from benchmarks.section import Fact, Plot, Section, Settings, Step, Table
from benchmarks.server_decoding import CPU, DECODE, ENCODE_ON_GPU, cpu_cost, gpu_cost, no_gpu
from benchmarks.server_decoding import TOKENS as DECODED
from benchmarks.turns import in_turns
from del_codec.bitpack import pack
from del_codec.noise import NoiseSetting
from del_codec.randomize import randomize

BITS = (1, 2, 3, 4, 5, 6, 7, 8)
DIMS = (16, 32, 64, 128, 256)
# In one round.
REPEATS, SLOW_REPEATS, ESTIMATES = 7, 3, 3
DEL, NUMPY, UNPACKBITS = "DEL", "numpy binomial, packbits", "numpy unpackbits"
RANDOM_LIMIT, MEMORY_LIMIT = "limit: its random bytes alone", "limit: a copy of rows and payload"
Works = Mapping[str, Callable[[], object]]
Way = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Scale:
    """Where encoding and decoding, and where the server's decoder are looked at, as (bits, dim)."""

    places: tuple[Way, ...]
    decoded: tuple[Way, ...]


FULL = Scale(
    places=tuple(product(BITS, DIMS)),
    decoded=(*((bits, SHIPPED_DIM) for bits in BITS), *((1, dim) for dim in DIMS if dim != SHIPPED_DIM)),
)
QUICK = Scale(
    places=(*((bits, SHIPPED_DIM) for bits in (1, 2, 4, 8)), (1, 16), (1, 256)),
    decoded=((1, 16), (1, SHIPPED_DIM), (8, SHIPPED_DIM)),
)


def encode_cost(bits: int, dim: int, repeats: int, record: Recorder) -> None:
    """All ways, and what no encoder can do without."""
    works: Works = {
        DEL: encoding(bits, dim),
        NUMPY: numpy_encoding(bits, dim),
        "torch.binomial": torch_encoding(bits, dim),
        "torch.distributions": distributions_encoding(bits, dim),
        RANDOM_LIMIT: drawing(bits, dim),
        MEMORY_LIMIT: moving(bits, dim),
    }
    peers = {**dict.fromkeys(works, NUMPY), RANDOM_LIMIT: DEL, MEMORY_LIMIT: DEL}
    _record(record, "encode", works, {"bits": bits, "dim": dim}, repeats, peers)


def parts_cost(bits: int, dim: int, repeats: int, record: Recorder) -> None:
    """Shares of one encoding."""
    rows = table_of(dim).rows(IDS)
    levels = randomize(rows, NoiseSetting.from_mu(MU, dim, bits))
    works: Works = {
        "whole": encoding(bits, dim),
        "randomness": drawing(bits, dim),
        "packing": partial(pack, levels, bits),
        "looking rows up": partial(table_of(dim).rows, IDS),
    }
    turns = in_turns(works, repeats)
    for whole, *parts in zip(*(turns[name] for name in works), strict=True):
        shares = {name: part.seconds / whole.seconds for name, part in zip(list(works)[1:], parts, strict=True)}
        shares["laws and the rest"] = 1 - sum(shares.values())
        for way, share in shares.items():
            record.add("share of encoding", share, "", "neither", way, {"bits": bits, "dim": dim})


def packing_cost(bits: int, repeats: int, record: Recorder) -> None:
    """Packing alone."""
    levels = np.random.default_rng(0).integers(0, 1 << bits, (TOKENS, SHIPPED_DIM)).astype(np.uint8)
    works: Works = {
        DEL: partial(pack, levels, bits),
        "numpy packbits": partial(numpy_pack, levels, bits),
        "bitarray": partial(bitarray_pack, levels, bits),
    }
    _record(record, "pack", works, {"bits": bits}, repeats, dict.fromkeys(works, "numpy packbits"))


def decode_cost(bits: int, dim: int, repeats: int, record: Recorder) -> None:
    """Bytes to unbiased latents; the server's network comes after it."""
    segment = encoding(bits, dim)()
    setting = segment.setting
    works: Works = {
        DEL: partial(segment.latents, dim),
        UNPACKBITS: lambda: setting.estimate(numpy_unpack(segment.payload, TOKENS * dim, bits)),
    }
    _record(record, "decode to latents", works, {"bits": bits, "dim": dim}, repeats, dict.fromkeys(works, UNPACKBITS))


def casting_cost(repeats: int, record: Recorder) -> None:
    """What sending embeddings would cost a device instead of a table of latents, without any privacy."""
    works = casts()
    _record(record, "cast", works, {"width": WIDTH}, repeats, dict.fromkeys(works, "float32 embeddings"))


def _record(
    record: Recorder, name: str, works: Works, at: dict[str, float], repeats: int, peers: Mapping[str, str]
) -> None:
    """What others' ways cost is no matter of better or worse."""
    for way, turns in in_turns(works, repeats).items():
        peer = "" if peers[way] == way else peers[way]
        for turn in turns:
            record.add(name, turn.seconds / TOKENS, "s", "lower" if way == DEL else "neither", way, at, peer, turn.unit)


@contextmanager
def steps(settings: Settings) -> Iterator[list[Step]]:
    """Every number of bits at every dimension; quick: some of them."""
    scale = QUICK if settings.quick else FULL
    torch.set_num_threads(1)
    bits = sorted({bits for bits, _ in scale.places})
    works = [("encode", encode_cost), ("decode", decode_cost), ("parts", parts_cost)]
    timed = [
        Step(f"{name}, {n} bits, d = {dim}", partial(work, n, dim, REPEATS))
        for name, work in works
        for n, dim in scale.places
    ]
    timed += [Step(f"packing, {n} bits", partial(packing_cost, n, REPEATS)) for n in bits]
    timed += [Step("casting", partial(casting_cost, REPEATS))]
    decoders = [("CPU", cpu_cost), *([("GPU", gpu_cost)] if torch.cuda.is_available() else [])]
    timed += [
        Step(f"server's decoder on a {name}, {n} bits, d = {dim}", partial(work, n, dim, SLOW_REPEATS))
        for name, work in decoders
        for n, dim in scale.decoded
    ]
    if not torch.cuda.is_available():
        timed.append(Step("GPU", no_gpu))
    errors = [Step(f"estimate, {n} bits, d = {dim}", partial(estimate_error, n, dim)) for n, dim in scale.places]
    yield timed + errors * ESTIMATES


PLACE = ("bits", "dim")
SECTION = Section(
    group="codec",
    title="The codec",
    about=(
        f"CPU time a token, {TOKENS} tokens at once, at mu {MU:g}. `encode` is all of a device's path from ids to "
        "packed bytes; the peers draw the same law from generators that are not made for secrets, and pack bit by bit. "
        "`limit` rows are what no encoder can beat: drawing as many random bytes, moving as many bytes of rows and "
        f"payload. `{DECODE}` is what the server adds: the posterior mean over the vocabulary and a network, "
        f"{DECODED} tokens at once, with SmolLM2's embeddings. Tables of other dimensions than {SHIPPED_DIM} are "
        "random. `bias` is the estimate's mean error in standard errors (two or three are chance) and in clip bounds "
        "with its 95 % interval; `variance over theory` should be 1."
    ),
    words={
        "bits": "how many each coordinate of a token is sent with, 1 to 8; more say more.",
        "dim": "how many coordinates a token has; the shipped codec's have 64.",
        "mu": "the strength of the noise: small is private (1 hides almost all, 40 almost nothing).",
        "DEL": "what this repository does; the other rows are others' ways to do the same.",
    },
    facts=(
        Fact("A device's CPU time for encoding a token at one bit", "encode", DEL, {"bits": 1, "dim": SHIPPED_DIM}),
        Fact("A server's for decoding it to what its model reads", DECODE, CPU, {"bits": 1, "dim": SHIPPED_DIM}),
    ),
    steps=steps,
    rounds=5,
    tables=(
        Table("Encoding, a token", PLACE, ("encode",)),
        Table("What encoding is made of", PLACE, ("share of encoding",)),
        Table("Decoding to latents, a token", PLACE, ("decode to latents",)),
        Table("The server's decoder, a token", PLACE, (DECODE,)),
        Table("Encoding by torch on a GPU, a token, by the clock", PLACE, (ENCODE_ON_GPU,)),
        Table("Packing alone, a token", ("bits",), ("pack",)),
        Table("Casting embeddings instead, a token", ("width",), ("cast",)),
        Table(
            "The estimate against theory",
            PLACE,
            ("bias", "bias, clip bounds", "half of its 95 % interval", "variance over theory"),
        ),
    ),
    plots=(
        Plot("Encoding a token, by bits", "encode", "bits", where={"dim": SHIPPED_DIM}),
        Plot("Encoding a token at one bit, by dimension", "encode", "dim", where={"bits": 1}),
        Plot("Decoding a token to latents, by bits", "decode to latents", "bits", where={"dim": SHIPPED_DIM}),
        Plot("The server's decoder, a token at one bit, by dimension", DECODE, "dim", where={"bits": 1}),
        Plot("Packing a token, by bits", "pack", "bits"),
    ),
)
