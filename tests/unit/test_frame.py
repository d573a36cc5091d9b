"""Segments: what a device sends, checked before anything is allocated."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from small_table import small_table

from del_codec.encode import encode
from del_codec.errors import FrameError, InvalidValue
from del_codec.frame import MAX_SEGMENT_TOKENS, PrivateSegment, PublicSegment
from del_codec.noise import NoiseSetting

SETTING = NoiseSetting.from_mu(10, 3, 3)
LEVELS = np.array([[0, 1, 2], [7, 6, 5]], dtype=np.uint8)


def test_levels_come_back_as_they_were_sent() -> None:
    segment = PrivateSegment.from_levels(LEVELS, SETTING)
    assert segment.tokens == 2
    assert np.array_equal(segment.levels(3), LEVELS)


def test_a_server_reads_unbiased_latents() -> None:
    segment = PrivateSegment.from_levels(LEVELS, NoiseSetting(bits=3, scale=2 << 16))
    expected = -2 + 2 * 2 * LEVELS.astype(np.float64) / 7
    assert np.allclose(segment.latents(3), expected, atol=1e-6)


@pytest.mark.parametrize("tokens", [0, -1, MAX_SEGMENT_TOKENS + 1, True])
def test_a_private_segment_has_1_to_65536_tokens(tokens: int) -> None:
    with pytest.raises(FrameError, match="a segment has 1 to 65536"):
        PrivateSegment(SETTING, tokens, b"")


@pytest.mark.parametrize("count", [0, MAX_SEGMENT_TOKENS + 1])
def test_a_public_segment_has_1_to_65536_ids(count: int) -> None:
    with pytest.raises(FrameError, match="a segment has 1 to 65536"):
        PublicSegment((5,) * count)
    assert PublicSegment((5,) * MAX_SEGMENT_TOKENS).tokens == MAX_SEGMENT_TOKENS


@pytest.mark.parametrize("payload", [b"", b"\0\0", b"\0\0\0\0", bytes(1 << 16)])
def test_a_payload_that_does_not_fit_its_claim_is_refused(payload: bytes) -> None:
    with pytest.raises(FrameError, match="2 tokens of 3 coordinates at 3 bits take 3 bytes"):
        PrivateSegment(SETTING, 2, payload).levels(3)


def test_padding_that_carries_something_is_refused() -> None:
    payload = bytearray(PrivateSegment.from_levels(LEVELS, SETTING).payload)
    payload[-1] |= 1
    with pytest.raises(FrameError, match="must be zero"):
        PrivateSegment(SETTING, 2, bytes(payload)).levels(3)


def test_a_large_claim_allocates_nothing() -> None:
    segment = PrivateSegment(NoiseSetting.from_mu(10, 1024, 8), MAX_SEGMENT_TOKENS, b"\0")
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            segment.levels(1024)
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()


def test_encoding_is_fresh_noise_at_every_call() -> None:
    table = small_table()
    setting = NoiseSetting.from_mu(5, table.spec.dim, 2)
    ids = list(range(table.spec.vocabulary))
    first, second = encode(table, ids, setting), encode(table, ids, setting)
    assert first.tokens == second.tokens == len(ids)
    assert len(first.payload) == len(ids) * table.spec.dim * 2 // 8
    assert first.payload != second.payload


def test_encoding_names_an_id_outside_of_the_vocabulary() -> None:
    table = small_table()
    outside = table.spec.vocabulary
    with pytest.raises(InvalidValue, match=f"token_id is {outside}: the codec knows ids 0 to {outside - 1}"):
        encode(table, [0, outside], NoiseSetting.from_mu(5, table.spec.dim, 1))
