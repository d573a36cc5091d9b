"""Padding takes every size of message to a multiple of the bucket, and to the least that can be had."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from del_codec.errors import InvalidValue
from del_codec.padding import MAX_BUCKET_BYTES, check_bucket, padding
from del_codec.v1 import inference_pb2 as pb


def fits(extra: int) -> bool:
    """Whether one field can take so many bytes: its tag, the varint of its length, and at least one byte."""
    varint = ((held, 1 + (held >= 1 << 7) + (held >= 1 << 14)) for held in (extra - 2, extra - 3, extra - 4))
    return extra == 0 or any(held > 0 and 1 + length + held == extra for held, length in varint)


@given(st.integers(0, 40_000), st.integers(1, MAX_BUCKET_BYTES))
@example(held=1, bucket=137)  # no field takes 130 bytes
@example(held=0, bucket=1)
def test_a_padded_message_has_the_least_multiple_of_the_bucket_that_can_be_had(held: int, bucket: int) -> None:
    message = pb.GenerateResponse(query_id=1, delta=pb.TokenDelta(text="a" * held))
    size = message.ByteSize()
    message.padding = padding(size, bucket)
    least = next(extra for extra in itertools.count(-size % bucket, bucket) if fits(extra))
    assert message.ByteSize() == size + least


@pytest.mark.parametrize(
    "message", [pb.GenerateRequest(), pb.GenerateResponse(), pb.ScoreRequest(), pb.ScoreResponse()]
)
def test_it_is_the_same_field_everywhere(message: pb.GenerateRequest) -> None:
    message.padding = padding(0, 256) or padding(1, 256)
    assert message.SerializeToString()[:1] == bytes([15 << 3 | 2])


def test_without_a_bucket_nothing_is_padded() -> None:
    assert padding(77, 0) == padding(64, 64) == b""


@pytest.mark.parametrize("bucket", [-1, MAX_BUCKET_BYTES + 1, 1.0, True])
def test_a_bucket_out_of_bounds_is_refused(bucket: int) -> None:
    with pytest.raises(InvalidValue, match="bucket_bytes is"):
        check_bucket(bucket)
