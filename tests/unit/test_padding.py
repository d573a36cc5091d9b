"""Padding takes every size of message to a multiple of the bucket, and to the least that can be had."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from del_codec.errors import InvalidValue
from del_codec.padding import MAX_BUCKET_BYTES, check_bucket, padding
from del_codec.v1 import inference_pb2 as pb


@given(st.integers(0, 40_000), st.integers(1, MAX_BUCKET_BYTES))
def test_a_padded_message_has_a_multiple_of_the_bucket(held: int, bucket: int) -> None:
    message = pb.GenerateResponse(query_id=1, delta=pb.TokenDelta(text="a" * held))
    size = message.ByteSize()
    message.padding = padding(size, bucket)
    assert message.ByteSize() % bucket == 0
    # A field has a tag and a length: it can't take one or two bytes, nor 130 or 16387.
    assert message.ByteSize() - size < bucket + 3 * (1 + 3 // bucket)


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
