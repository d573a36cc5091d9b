"""The device's path of a private segment: token ids to table rows to levels to packed bytes.

The way back is PrivateSegment.latents. Imports the randomiser, so the serving path never imports this module.
"""

from __future__ import annotations

import numpy.typing as npt

from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.randomize import randomize
from del_codec.table import LatentTable


def encode(table: LatentTable, token_ids: npt.ArrayLike, setting: NoiseSetting) -> PrivateSegment:
    """Randomise, quantise and pack token ids [T]: a fresh release, never to be drawn twice for one message.

    Raises InvalidValue for an id outside of the vocabulary.
    """
    return PrivateSegment.from_levels(randomize(table.rows(token_ids), setting), setting)
