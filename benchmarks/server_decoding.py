"""What a server's decoder costs a token, from packed bytes to embeddings, on a CPU, and on a GPU where there is one.

Weights of the network are random: what it costs is the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial

import torch

from benchmarks import smollm2
from benchmarks.codec_ways import IDS, MU, distributions_encoding, table_of, torch_encoding
from benchmarks.random_codec import WIDTH
from benchmarks.report.results import Recorder
from benchmarks.turns import in_turns
from del_codec.encode import encode
from del_codec.noise import NoiseSetting
from del_codec.projection import ContextDecoder, ProjectionConfig
from del_server.codec import input_embeddings
from del_server.decoder import PromptDecoder

TOKENS = 64
DECODE, ENCODE_ON_GPU = "decode to embeddings", "encode on a GPU"
CPU, GPU = "server's decoder, one CPU thread", "server's decoder, GPU"
WITHOUT = "No GPU was found here, so what decoding costs on one, and what torch's binomials do, was not measured."


@cache
def embeddings(device: str) -> torch.Tensor:
    """SmolLM2's: how far a posterior mean may be shortened depends on them, so random ones would not do."""
    with torch.inference_mode():
        return input_embeddings(smollm2.model()).to(device, torch.float32)


@cache
def _decoder(dim: int, device: str) -> PromptDecoder:
    network = ContextDecoder(ProjectionConfig(dim, WIDTH, 1.0))
    return PromptDecoder(table_of(dim), network, embeddings(device))


def decoding(bits: int, dim: int, device: str = "cpu") -> Callable[[], torch.Tensor]:
    """A call that decodes TOKENS tokens; the tables of its setting are made beforehand."""
    segment = encode(table_of(dim), IDS[:TOKENS], NoiseSetting.from_mu(MU, dim, bits))
    decode = _decoder(dim, device)
    decode([segment])
    return partial(decode, [segment])


def cpu_cost(bits: int, dim: int, repeats: int, record: Recorder) -> None:
    """CPU time, of all threads."""
    for turn in in_turns({CPU: decoding(bits, dim)}, repeats)[CPU]:
        record.add(DECODE, turn.seconds / TOKENS, "s", "lower", CPU, _at(bits, dim), beside=turn.unit)


def gpu_cost(bits: int, dim: int, repeats: int, record: Recorder) -> None:
    """Seconds by the clock, from bytes in the host's memory until the GPU has done, and back where bytes go back."""
    works: dict[tuple[str, str], tuple[Callable[[], object], int]] = {
        (DECODE, GPU): (decoding(bits, dim, "cuda"), TOKENS),
        (ENCODE_ON_GPU, "torch.binomial, GPU"): (torch_encoding(bits, dim, "cuda"), len(IDS)),
        (ENCODE_ON_GPU, "torch.distributions, GPU"): (distributions_encoding(bits, dim, "cuda"), len(IDS)),
    }
    for work, _ in works.values():
        work()
    for _ in range(repeats):
        for (name, way), (work, tokens) in works.items():
            record.add(name, _until_done(work) / tokens, "s", "neither", way, _at(bits, dim))


def no_gpu(record: Recorder) -> None:
    """Say so."""
    record.notes.append(WITHOUT)


def _until_done(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def _at(bits: int, dim: int) -> dict[str, float | str]:
    return {"bits": bits, "dim": dim}
