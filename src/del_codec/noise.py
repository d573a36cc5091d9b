"""NoiseSetting: the dial of one segment, as the two integers that cross the wire.

From bits n and noise scale s both sides derive, without any rounding that could differ, the scale of the mechanism
A/c = s / 2^16 and each coordinate's threshold t on a grid of 2^32: a coordinate's level is K ~ Binomial(u, t / 2^32)
with u = 2^n - 1. Latents are int8, v/c = q / 127. Knows nothing of tables, randomness or bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from del_codec.errors import InvalidValue

GRID_BITS = 32
GRID = 1 << GRID_BITS
LATENT_MAX = 127
SCALE_ONE = 1 << 16
MIN_SCALE = SCALE_ONE + 1
MAX_SCALE = (1 << 32) - 1
MIN_BITS, MAX_BITS = 1, 8


def check_bits(bits: int, field: str = "bits") -> None:
    """Raise InvalidValue unless bits is a whole number from 1 to 8."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise InvalidValue(field, bits, f"use a whole number of bits a coordinate from {MIN_BITS} to {MAX_BITS}")


@dataclass(frozen=True, slots=True)
class NoiseSetting:
    """Bits a coordinate (1 to 8) and noise scale (A/c in units of 2^-16, 65537 to 2^32 - 1)."""

    bits: int
    scale: int

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if isinstance(self.scale, bool) or not isinstance(self.scale, int) or not MIN_SCALE <= self.scale <= MAX_SCALE:
            raise InvalidValue("noise_scale", self.scale, f"use a whole number from {MIN_SCALE} to {MAX_SCALE}")

    @classmethod
    def from_mu(cls, mu: float, dim: int, bits: int) -> NoiseSetting:
        """The setting whose nominal Gaussian-DP parameter for one token is at most mu.

        A = c * sqrt(1 + 4*u*d / mu^2) (DEL, section 4.1), rounded up. mu only names the dial: certificates are
        computed from the thresholds, never from mu.
        """
        check_bits(bits)
        if not isinstance(mu, (int, float)) or isinstance(mu, bool) or not 0 < mu < math.inf:
            raise InvalidValue("mu", mu, "use a finite number above zero (1 is strong, 60 is weak)")
        levels = (1 << bits) - 1
        least = math.sqrt(4 * levels * dim / ((MAX_SCALE / SCALE_ONE) ** 2 - 1))
        if mu < least:
            raise InvalidValue(
                "mu", mu, f"use at least {math.ceil(least * 1e4) / 1e4} at {dim} dimensions, {bits} bits"
            )
        scale = math.ceil(SCALE_ONE * math.sqrt(1 + 4 * levels * dim / (mu * mu)))
        return cls(bits, min(max(scale, MIN_SCALE), MAX_SCALE))

    @property
    def levels(self) -> int:
        """u = 2^n - 1, the number of levels above zero."""
        return (1 << self.bits) - 1

    @property
    def amplitude(self) -> float:
        """A/c, the scale of the mechanism in units of the clip bound."""
        return self.scale / SCALE_ONE

    def mu(self, dim: int) -> float:
        """The nominal Gaussian-DP parameter of one token of `dim` coordinates: 2*sqrt(u*d) / sqrt((A/c)^2 - 1)."""
        return 2 * math.sqrt(self.levels * dim / (self.amplitude**2 - 1))

    def thresholds(self, latents: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
        """Thresholds t of int8 latents, same shape, 1 <= t <= 2^32 - 1, rounded toward 2^31 (a fair coin)."""
        # 127 * 2^47 < 2^54, so int64 holds every product; the division truncates toward zero by hand because
        # numpy's floors.
        offset = (np.abs(latents.astype(np.int64)) << (GRID_BITS - 1 + 16)) // (LATENT_MAX * self.scale)
        return (GRID >> 1) + np.where(latents < 0, -offset, offset)

    def estimate(self, levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Unbiased latents v^ = -A + 2*A*K/u in units of the clip bound (DEL, section 4.1), same shape as `levels`."""
        amplitude = np.float32(self.amplitude)
        return levels.astype(np.float32) * (2 * amplitude / np.float32(self.levels)) - amplitude

    def threshold_max(self, largest_latent: int = LATENT_MAX) -> int:
        """The symmetric envelope of the thresholds of a table whose |q| reaches `largest_latent`.

        max(t_max, 2^32 - t_min); p+ = threshold_max / 2^32 is what certificates are computed from.
        """
        return int(self.thresholds(np.array([largest_latent], dtype=np.int8))[0])
