"""The whole path of a private segment: token ids to packed levels on the device, packed levels to latents on the server.

Encoding imports the randomiser only when it is called, so that the serving path, which decodes alone, never loads it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable


def encode(table: LatentTable, token_ids: npt.ArrayLike, setting: NoiseSetting) -> PrivateSegment:
    """Randomise, quantise and pack token ids [T]: a fresh release, never to be drawn twice for one message."""
    from del_codec.randomize import randomize

    thresholds = setting.thresholds(table.rows(token_ids))
    return PrivateSegment.from_levels(randomize(thresholds, setting.bits), setting)


def decode(segment: PrivateSegment, dim: int) -> npt.NDArray[np.float32]:
    """Unbiased latents v^ = -A + 2*A*K/u in units of the clip bound, [T, dim]; variance (d*A^2 - |v|^2)/u a token.

    Raises FrameError for a payload that is not the canonical encoding of T * dim levels.
    """
    return estimate(segment.levels(dim), segment.setting)


def estimate(levels: npt.NDArray[np.uint8], setting: NoiseSetting) -> npt.NDArray[np.float32]:
    """v^ = -A + 2*A*K/u (DEL, section 4.1), same shape as `levels`."""
    amplitude = np.float32(setting.amplitude)
    return levels.astype(np.float32) * (2 * amplitude / np.float32(setting.levels)) - amplitude
