"""The laws of a noise setting: for each latent q, K ~ Binomial(u, t(q) / 2^32), drawn exactly.

A draw is that of the inverse distribution function at a uniform number U of 32u bits, of which as many are fetched as
decide: K is the number of k < u with F(k) <= U, where F(k) * 2^(32u) is an integer, F being the distribution function.
No probability is rounded and no tail is cut. Knows nothing of tables, tokens or where random bytes come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_FLOOR, Context, Decimal, localcontext
from functools import lru_cache
from itertools import accumulate, repeat
from math import comb
from operator import mul

import numpy as np
import numpy.typing as npt

from del_codec.noise import GRID, LATENT_MAX, NoiseSetting

RandomBytes = Callable[[int], bytes]
Bytes = npt.NDArray[np.uint8]

LAWS = 256
GUIDE_BITS = 11
PREFIX_BITS = 48
SETTINGS_KEPT = 8
_TIED = -1
_FIRST_BYTES = 2
# At most 3u + 4 roundings of a relative 10^-39 each stay far below one unit of the prefix.
_DIGITS = 40


@lru_cache(SETTINGS_KEPT)
def laws_of(setting: NoiseSetting) -> Coins | Binomials:
    """The laws of all latents at one setting, indexed by the latent's byte (-1 is 255)."""
    latents = np.arange(LAWS, dtype=np.uint8).view(np.int8)
    # -128 is no latent; its entry repeats that of -127, so that every byte has a law.
    thresholds = setting.thresholds(np.maximum(latents, -LATENT_MAX))
    return Coins(thresholds) if setting.levels == 1 else Binomials.build(thresholds, setting.levels)


class Coins:
    """u = 1. thresholds: int64 [256], 1 <= t <= 2^32 - 1."""

    def __init__(self, thresholds: npt.NDArray[np.int64]) -> None:
        zeros = (GRID - thresholds).astype(np.uint32)  # of the 2^32 values of U that many give a zero
        self._high = (zeros >> 24).astype(np.uint8).tobytes()
        self._rest = zeros << 8

    def draw(self, laws: Bytes, random_bytes: RandomBytes) -> Bytes:
        """One level a law, both [N]: by U's first byte, and on a tie with the threshold's by four more."""
        first = np.frombuffer(random_bytes(laws.size), dtype=np.uint8)
        high = np.frombuffer(laws.tobytes().translate(self._high), dtype=np.uint8)
        levels: Bytes = (first > high).view(np.uint8)
        ties = np.flatnonzero(first == high)
        if ties.size:
            more = np.frombuffer(random_bytes(4 * ties.size), dtype=">u4")
            levels[ties] = more >= self._rest[laws[ties]]
        return levels


@dataclass(frozen=True, slots=True, eq=False)
class Binomials:
    """u > 1.

    guide: int16 [256 * 2^11], the level that the first 11 bits of U decide, or -1; of each law equally many are -1.
    prefixes: int64 [256 * u], ascending: law * 2^48 + c with c <= 2^48 * F(k) <= c + 2.
    """

    levels: int
    thresholds: npt.NDArray[np.int64]
    guide: npt.NDArray[np.int16]
    prefixes: npt.NDArray[np.int64]

    @classmethod
    def build(cls, thresholds: npt.NDArray[np.int64], levels: int) -> Binomials:
        """thresholds: int64 [256], 1 <= t <= 2^32 - 1; levels: u, 3 to 255."""
        prefixes = _prefixes(thresholds.tolist(), levels)
        keys = (np.arange(LAWS, dtype=np.int64)[:, None] << PREFIX_BITS) + prefixes
        return cls(levels, thresholds, _guide(prefixes).ravel(), keys.ravel())

    def draw(self, laws: Bytes, random_bytes: RandomBytes) -> Bytes:
        """One level a law, both [N]: by U's first 11 bits, on a tie by 48, and at last by all."""
        first = np.frombuffer(random_bytes(_FIRST_BYTES * laws.size), dtype=">u2")
        cells = laws.astype(np.intp)
        cells <<= GUIDE_BITS
        cells |= first >> np.uint16(8 * _FIRST_BYTES - GUIDE_BITS)
        guided = self.guide.take(cells, mode="wrap")
        levels: Bytes = guided.astype(np.uint8)
        ties = np.flatnonzero(guided == _TIED)
        if ties.size:
            levels[ties] = self._by_prefix(laws[ties], first[ties], random_bytes)
        return levels

    def _by_prefix(self, laws: Bytes, first: npt.NDArray[np.uint16], random_bytes: RandomBytes) -> Bytes:
        more = np.frombuffer(random_bytes(4 * laws.size), dtype=">u4")
        prefixes = (first.astype(np.int64) << 32) | more
        keys = (laws.astype(np.int64) << PREFIX_BITS) + prefixes
        below = laws.astype(np.int64) * self.levels
        # U * 2^48 lies in [w, w + 1): F(k) <= U for sure where c + 2 <= w, and F(k) > U for sure where w < c.
        least = np.searchsorted(self.prefixes, keys - 1, side="left") - below
        most = np.searchsorted(self.prefixes, keys, side="right") - below
        levels: Bytes = most.astype(np.uint8)
        for index in np.flatnonzero(least != most).tolist():
            levels[index] = self._by_all(int(laws[index]), int(prefixes[index]), random_bytes)
        return levels

    def _by_all(self, law: int, prefix: int, random_bytes: RandomBytes) -> int:
        rest = 4 * self.levels - PREFIX_BITS // 8
        drawn = (prefix << 8 * rest) | int.from_bytes(random_bytes(rest), "big")
        return sum(drawn >= boundary for boundary in boundaries(int(self.thresholds[law]), self.levels))


def boundaries(threshold: int, levels: int) -> Iterator[int]:
    """F(k) * 2^(32u) for k = 0 .. u - 1: the sums of C(u, j) t^j (2^32 - t)^(u - j) over j <= k, exactly."""
    other = GRID - threshold
    term = other**levels
    total = term
    for k in range(levels):
        yield total
        term = term * threshold * (levels - k) // (other * (k + 1))
        total += term


def _prefixes(thresholds: list[int], levels: int) -> npt.NDArray[np.int64]:
    """c [256, u] with c <= 2^48 * F(k) <= c + 2."""
    found: dict[int, npt.NDArray[np.int64]] = {}
    with localcontext(Context(prec=_DIGITS, rounding=ROUND_FLOOR, Emin=MIN_EMIN, Emax=MAX_EMAX)):
        unit = Decimal(1 << PREFIX_BITS) / Decimal(GRID**levels)
        scaled = [comb(levels, k) * unit for k in range(levels)]
        for threshold in set(thresholds):
            mirrored = found.get(GRID - threshold)
            if mirrored is None:
                found[threshold] = np.array(list(_rounded_down(threshold, scaled)), dtype=np.int64)
            else:
                # K(t) and u - K(2^32 - t) have one law: F(k) = 1 - F'(u - 1 - k).
                found[threshold] = np.maximum((1 << PREFIX_BITS) - 2 - mirrored[::-1], 0)
    return np.stack([found[threshold] for threshold in thresholds])


def _rounded_down(threshold: int, scaled: list[Decimal]) -> Iterator[int]:
    """floor(2^48 * F(k)), or one less, for k < u = len(scaled): every rounding is down, and every term positive."""
    t, other = Decimal(threshold), Decimal(GRID - threshold)
    rising = accumulate(repeat(t, len(scaled) - 1), mul, initial=Decimal(1))
    falling = list(accumulate(repeat(other, len(scaled) - 1), mul, initial=other))
    terms = map(mul, map(mul, scaled, rising), reversed(falling))
    return map(int, accumulate(terms))


def _guide(prefixes: npt.NDArray[np.int64]) -> npt.NDArray[np.int16]:
    """[256, 2^11] of c [256, u]: boundaries below a cell, or -1, as it must be where one may lie in it."""
    shift = PREFIX_BITS - GUIDE_BITS
    cells = LAWS << GUIDE_BITS
    starts = np.arange(LAWS, dtype=np.int64)[:, None] << GUIDE_BITS
    lowest, highest = starts + (prefixes >> shift), starts + ((prefixes + 2) >> shift)
    held = np.bincount(lowest.ravel(), minlength=cells)
    guide = np.cumsum(held.reshape(LAWS, -1), axis=1).astype(np.int16).ravel()
    guide[lowest] = _TIED
    guide[np.minimum(highest, starts + (1 << GUIDE_BITS) - 1)] = _TIED
    return _tied_alike(guide.reshape(LAWS, -1))


def _tied_alike(guide: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """Every law with as many ties as the law with the most, or the time of a draw would tell of its latents."""
    free = guide != _TIED
    of_each = free.sum(axis=1)
    spare = of_each - of_each.min()
    return np.where(free & (free.cumsum(axis=1, dtype=np.int16) <= spare[:, None]), np.int16(_TIED), guide)
