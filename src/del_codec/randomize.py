"""The randomiser: thresholds to levels, K ~ Binomial(u, t / 2^32) exactly, with bits of the operating system's CSPRNG.

The only module with randomness, imported by devices (and by training and evaluation, never by the serving path).
A level is the sum of u Bernoulli draws, each decided by one random byte and, on a tie with the threshold's top byte,
by 24 more bits: no probability is rounded and no tail is cut, as an inverse CDF on a finite grid would do.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from del_codec.noise import GRID, check_bits

RandomBytes = Callable[[int], bytes]


def randomize(
    thresholds: npt.NDArray[np.int64], bits: int, random_bytes: RandomBytes = os.urandom
) -> npt.NDArray[np.uint8]:
    """Draw one level per threshold (1 <= t <= 2^32 - 1): K ~ Binomial(2^bits - 1, t / 2^32), independent.

    Same shape as `thresholds`. `random_bytes(n)` must give n uniform, independent bytes; privacy rests on it.
    """
    check_bits(bits)
    if thresholds.size and (thresholds.min() < 1 or thresholds.max() >= GRID):
        raise ValueError("thresholds must lie in 1 .. 2^32 - 1")
    high = (thresholds >> 24).astype(np.uint8)
    low = (thresholds & 0xFFFFFF).astype(np.uint32)
    levels = np.zeros(thresholds.shape, dtype=np.uint8)
    for _ in range((1 << bits) - 1):
        levels += _bernoulli(high, low, random_bytes)
    return levels


def _bernoulli(
    high: npt.NDArray[np.uint8], low: npt.NDArray[np.uint32], random_bytes: RandomBytes
) -> npt.NDArray[np.bool_]:
    """One draw a coordinate: a uniform 32-bit integer below the threshold, its low 24 bits fetched only on a tie."""
    drawn = np.frombuffer(random_bytes(high.size), dtype=np.uint8).reshape(high.shape)
    ones = drawn < high
    ties = drawn == high
    count = int(ties.sum())
    if count:
        more = np.frombuffer(random_bytes(4 * count), dtype="<u4") & 0xFFFFFF
        ones[ties] = more < low[ties]
    return ones
