"""Targets of the codec: size of what is shipped, speed of encoding beside that of the tokenizer, the estimate."""

from __future__ import annotations

import os
import statistics
import time
from functools import cache, partial

from tokenizers import Tokenizer

from benchmarks.estimate_error import Error, error_of
from benchmarks.stopwatch import median_seconds
from benchmarks.target import Target
from del_codec.encode import encode
from del_codec.keystream import keystream
from del_codec.noise import NoiseSetting
from del_codec.shipped import DEVICE_FILE, TOKENIZER_FILE, codec_folders
from del_codec.table import LatentTable

TOKENS = 1024
MU = 11.0
REPEATS = 60
ROUNDS = 5
CARD = "README.md"


def shipped_mebibytes() -> float:
    """The largest shipped codec's folder, tokenizer and card included."""
    sizes = [sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) for folder in codec_folders()]
    return max(sizes) / 2**20


def encode_over_tokenize(bits: int) -> float:
    """Seconds to encode TOKENS tokens over seconds to tokenize their text, on one core, in turns of REPEATS each."""
    tokenizer, table, text = _subject()
    setting = NoiseSetting.from_mu(MU, table.spec.dim, bits)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    ratios = []
    for _ in range(ROUNDS):
        tokenizing = median_seconds(lambda: tokenizer.encode(text, add_special_tokens=False).ids, REPEATS)
        ratios.append(median_seconds(lambda: encode(table, ids, setting), REPEATS) / tokenizing)
    return statistics.median(ratios)


def randomness_share(bits: int) -> float:
    """The share of the time to encode that goes into random bytes, ties included."""
    tokenizer, table, text = _subject()
    setting = NoiseSetting.from_mu(MU, table.spec.dim, bits)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    first = TOKENS * table.spec.dim * (1 if bits == 1 else 2)
    ties = TOKENS * table.spec.dim * 4 // 100
    drawing = median_seconds(lambda: (keystream(first), keystream(ties)), REPEATS)
    return drawing / median_seconds(lambda: encode(table, ids, setting), REPEATS)


def first_encode_milliseconds() -> float:
    """The tables of a new setting of eight bits, the costliest: what the first draw at it takes beside the draw."""
    table = _subject()[1]
    times = []
    for step in range(REPEATS // 10):
        setting = NoiseSetting(8, NoiseSetting.from_mu(MU, table.spec.dim, 8).scale + 1 + step)
        start = time.perf_counter()
        encode(table, [0], setting)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def worst_bias() -> float:
    """Of the estimate's mean errors at 1 to 8 bits and some dimensions, the largest in standard errors."""
    return max(abs(error.bias) / error.deviation for error in _errors())


def worst_variance() -> float:
    """Of the estimate's variances there, the farthest from theory's (dA^2 - |v|^2)/u, as a share of that."""
    return max(abs(error.variance - 1) for error in _errors())


@cache
def _errors() -> list[Error]:
    return [error_of(bits, dim) for bits in range(1, 9) for dim in (16, 64, 256)]


@cache
def _subject() -> tuple[Tokenizer, LatentTable, str]:
    """Tokenizer and table of the first shipped codec, and a text of TOKENS tokens: its card, repeated."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    folder = codec_folders()[0]
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    card = (folder / CARD).read_text() * 4
    end = tokenizer.encode(card, add_special_tokens=False).offsets[TOKENS - 1][1]
    return tokenizer, LatentTable.load(folder / DEVICE_FILE), card[:end]


RATIOS = {1: 0.15, 2: 0.4, 4: 0.8, 8: 1.5}
TARGETS = [
    Target("codec.shipped_MiB", 8, "at most", shipped_mebibytes),
    *(
        Target(f"codec.encode_over_tokenize_n{bits}", goal, "at most", partial(encode_over_tokenize, bits))
        for bits, goal in RATIOS.items()
    ),
    *(Target(f"codec.randomness_share_n{bits}", 0.5, "at most", partial(randomness_share, bits)) for bits in RATIOS),
    Target("codec.first_encode_n8_ms", 250, "at most", first_encode_milliseconds),
    # Of 24 places, one in seven hundred runs leaves four standard errors by chance.
    Target("codec.worst_bias_standard_errors", 4, "at most", worst_bias),
    Target("codec.worst_variance_off_theory", 0.01, "at most", worst_variance),
]
