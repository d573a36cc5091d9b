"""The randomiser: latents to levels, K ~ Binomial(u, t / 2^32) exactly, with bits of a CSPRNG.

The only module with randomness, imported by devices (and by training and evaluation, never by the serving path).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from del_codec.errors import InvalidValue
from del_codec.keystream import keystream
from del_codec.laws import RandomBytes, laws_of
from del_codec.noise import LATENT_MAX, NoiseSetting


def randomize(
    latents: npt.NDArray[np.int8], setting: NoiseSetting, random_bytes: RandomBytes = keystream
) -> npt.NDArray[np.uint8]:
    """Draw one level per latent (-127 to 127), independent: K ~ Binomial(u, t / 2^32), t the latent's threshold.

    Same shape as `latents`. `random_bytes(n)` must give n uniform, independent bytes; privacy rests on it. The first
    draw at a setting of more than one bit builds its tables, and the latest settings' are kept.
    """
    flat = np.ascontiguousarray(latents).ravel()
    if flat.size and flat.min() < -LATENT_MAX:
        raise InvalidValue("latent", int(flat.min()), f"use -{LATENT_MAX} to {LATENT_MAX}")
    return laws_of(setting).draw(flat.view(np.uint8), random_bytes).reshape(latents.shape)
