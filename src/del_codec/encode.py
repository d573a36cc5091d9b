"""The device's path of a private segment: token ids to table rows to thresholds to levels to packed bytes.

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
    thresholds = setting.thresholds(table.rows(token_ids))
    return PrivateSegment.from_levels(randomize(thresholds, setting.bits), setting)
