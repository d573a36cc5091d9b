"""Does the randomiser decide by the exact distribution function? It is handed chosen bytes in place of random ones.

No number of draws shows that a level of probability 2^-40 never comes. But a draw of this mechanism is a function of
one uniform number U of 32u bits, read in order: the level must be above k exactly where U >= F(k). So U is set to F(k),
and to one unit below. Only for randomisers that can be handed their bytes, and read them so.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from math import comb

import numpy as np
import numpy.typing as npt

from del_codec.laws import RandomBytes
from del_codec.noise import GRID, NoiseSetting
from del_server.evaluation.audit.recording import Levels

Randomizer = Callable[[npt.NDArray[np.int8], NoiseSetting, RandomBytes], Levels]

_LAWS = 6
_BOUNDARIES = 24


def wrong_decisions(randomizer: Randomizer, latents: npt.NDArray[np.int8], setting: NoiseSetting) -> list[str]:
    """What was decided wrongly for some of these latents; nothing for the exact mechanism."""
    distinct = np.unique(latents)
    chosen = distinct[np.unique(np.linspace(0, len(distinct) - 1, _LAWS).round().astype(int))]
    return [wrong for latent in chosen.tolist() for wrong in _wrong_of(randomizer, latent, setting)]


def _wrong_of(randomizer: Randomizer, latent: int, setting: NoiseSetting) -> list[str]:
    row, top = np.array([latent], dtype=np.int8), setting.levels
    threshold = int(setting.thresholds(row)[0])
    terms = (comb(top, k) * threshold**k * (GRID - threshold) ** (top - k) for k in range(top))
    exact = list(accumulate(terms))  # F(k) * 2^(32u)
    found = []
    for k in sorted({round(at) for at in np.linspace(0, top - 1, _BOUNDARIES)}):
        for value in (exact[k] - 1, exact[k]):
            wanted = sum(value >= boundary for boundary in exact)
            drawn = int(randomizer(row, setting, _bytes_of(value, top))[0])
            if drawn != wanted:
                found.append(
                    f"latent {latent}, U {'at' if value == exact[k] else 'below'} F({k}): {drawn}, not {wanted}"
                )
    return found


def _bytes_of(value: int, levels: int) -> RandomBytes:
    """The bytes of U = value / 2^(32u), most significant first, and zeros from there on."""
    left, taken = value.to_bytes(4 * levels, "big"), 0

    def take(count: int) -> bytes:
        nonlocal taken
        piece = left[taken : taken + count]
        taken += count
        return piece.ljust(count, b"\0")

    return take
