"""Padding of a message's size to a bucket, so that who watches an encrypted connection learns the bucket alone.

Every padded message of the wire has a `padding` field, number 15, that is never read. Knows nothing else of messages.
"""

from __future__ import annotations

from del_codec.errors import InvalidValue

MAX_BUCKET_BYTES = 1 << 16
_TAG_BYTES = 1


def check_bucket(bucket: int) -> None:
    """Raise InvalidValue unless a bucket is 0 (off) or a whole number of bytes up to MAX_BUCKET_BYTES."""
    if isinstance(bucket, bool) or not isinstance(bucket, int) or not 0 <= bucket <= MAX_BUCKET_BYTES:
        raise InvalidValue("bucket_bytes", bucket, f"use 0 (off) or a whole number of bytes up to {MAX_BUCKET_BYTES}")


def padding(size: int, bucket: int) -> bytes:
    """What the padding field of a message must hold to take it from `size` bytes to a multiple of `bucket` (0: off)."""
    if not bucket or size % bucket == 0:
        return b""
    missing = -size % bucket
    while (held := _held(missing)) is None:
        missing += bucket
    return bytes(held)


def _held(field: int) -> int | None:
    """The bytes held by a padding field that takes `field` bytes with its tag and length; some sizes can't be had."""
    for length_bytes in (1, 2, 3):
        held = field - _TAG_BYTES - length_bytes
        if held >= 1 and (held.bit_length() + 6) // 7 == length_bytes:
            return held
    return None
