"""Who watches a device's encrypted connection sees sizes: those of the public structure, whatever is private."""

from __future__ import annotations

import numpy as np
import pytest

from del_client.query import GenerationOptions, Query, Shaping
from del_client.transport.messages import requests
from del_codec.encode import encode
from del_codec.frame import PublicSegment
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable
from del_server.evaluation.audit.pair import corner_table

LENGTHS = (1, 7, 300)
ROOM = 512  # bytes of a message: prompts leave in several


def sizes(table: LatentTable, ids: list[list[int]], setting: NoiseSetting, bucket: int) -> list[int]:
    """Bytes of each message of a prompt with so many private segments."""
    segments = [part for some in ids for part in (PublicSegment((5, 6)), encode(table, some, setting))]
    query = Query(table.fingerprint, tuple(segments), GenerationOptions(), shaping=Shaping(bucket_bytes=bucket))
    return [len(message.SerializeToString()) for message in requests(1, query, ROOM)]


@pytest.mark.parametrize("bucket", [0, 64])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_sizes_of_messages_tell_nothing_of_private_tokens(bits: int, bucket: int) -> None:
    table, rng = corner_table(20), np.random.default_rng(bits)
    for mu in (0.5, 20):
        setting = NoiseSetting.from_mu(mu, 20, bits)
        fixed = sizes(table, [[0] * length for length in LENGTHS], setting, bucket)
        assert len(fixed) > 1
        for _ in range(20):
            drawn = [rng.integers(0, 4, length).tolist() for length in LENGTHS]
            assert sizes(table, drawn, setting, bucket) == fixed
