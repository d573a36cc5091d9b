"""Can the random bits be guessed? Frames are drawn again under seeds that a hurried programmer would take.

Tried are the clock at the time of receipt and shortly before, in whole seconds, milliseconds and microseconds, and
small numbers, as seeds of Python's and numpy's generators and as ChaCha20 keys. A seed that is none of these is not
found.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from scipy import stats

from del_codec.errors import FrameError
from del_codec.frame import MAX_SEGMENT_TOKENS
from del_codec.laws import RandomBytes
from del_codec.noise import GRID, NoiseSetting
from del_codec.randomize import randomize
from del_codec.table import LatentTable
from del_server.evaluation.audit.recording import Frame

# Ticks a second, and how many of them before the receipt are tried.
CLOCKS = ((1, 3), (1_000, 60), (1_000_000, 500))
SMALL = 100
# A clock is read before its frame is received, but two clocks may differ by a tick.
_AHEAD = 1
# The chance of repeating a frame by luck is to be this small, 2^-96.
_LUCK_BITS = 96.0


def guessed(frames: Sequence[tuple[int, Frame]], table: LatentTable) -> float:
    """A p-value for frames, each of one token: if a guess repeats a frame, the number of guesses times its luck."""
    luck, hit = 0.0, False
    for token, frame in frames:
        setting, rows = frame.segment.setting, table.rows([token] * frame.segment.tokens)
        try:
            seen = frame.segment.levels(table.spec.dim)
        except FrameError:
            continue
        of_one = 2.0 ** -(_bits_of_luck(rows[0], setting) * len(rows))
        for source in _sources(frame.at):
            luck += of_one
            hit = hit or bool(np.array_equal(randomize(rows, setting, source), seen))
    return min(1.0, luck) if hit else 1.0


def enough_tokens(table: LatentTable, token: int, setting: NoiseSetting) -> int:
    """Of a frame of one token: as few as make a lucky guess unlikely. Short frames are guessed quickly."""
    bits = _bits_of_luck(table.rows([token])[0], setting)
    return math.ceil(_LUCK_BITS / max(bits, _LUCK_BITS / MAX_SEGMENT_TOKENS))


def _bits_of_luck(row: npt.NDArray[np.int8], setting: NoiseSetting) -> float:
    """-log2 of the probability of a token's likeliest draw."""
    p = setting.thresholds(row) / GRID
    likeliest = stats.binom.pmf(np.floor((setting.levels + 1) * p), setting.levels, p)
    return float(-np.log2(likeliest).sum())


def _sources(at: float) -> Iterator[RandomBytes]:
    seeds = list(range(SMALL))
    for ticks, before in CLOCKS:
        now = int(at * ticks)
        seeds += range(now + _AHEAD, now - before, -1)
    for seed in seeds:
        for make in GENERATORS.values():
            yield make(seed)


def _chacha20(seed: int) -> RandomBytes:
    stream = Cipher(algorithms.ChaCha20(seed.to_bytes(32, "little"), bytes(16)), mode=None).encryptor()
    return lambda count: stream.update(bytes(count))


GENERATORS: dict[str, Callable[[int], RandomBytes]] = {
    "Python's": lambda seed: random.Random(seed).randbytes,
    "numpy's": lambda seed: np.random.default_rng(seed).bytes,
    "numpy's of old": lambda seed: np.random.RandomState(seed & 0xFFFFFFFF).bytes,
    "ChaCha20": _chacha20,
}
